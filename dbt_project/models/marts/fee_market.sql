with transactions as (
    select
        *,
        block_slot // {{ var('fee_bucket_slots') }} * {{ var('fee_bucket_slots') }} as bucket_slot,
        -- What was bid: no compute budget instruction is a bid of nothing. Unknown only where the instructions are.
        case when is_vote is not null then coalesce(compute_unit_price_micro_lamports, 0) end as bid
    from {{ ref('stg_transactions') }}
),

buckets as (
    select
        bucket_slot,
        is_vote,
        min(block_timestamp) as first_block_timestamp,
        count(*) as transactions,
        count(*) filter (where outcome = 'Fail') as failed_transactions,
        count(*) filter (where outcome = 'Unknown') as unknown_transactions,
        count(priority_fee_lamports) as known_priority_transactions,
        count(*) filter (where priority_fee_lamports > 0) as priority_transactions,
        cast(sum(compute_units) as bigint) as compute_units,
        -- A failed transaction pays like any other.
        sum(fee_lamports) as fee_lamports,
        sum(fee_lamports - priority_fee_lamports) as base_fee_lamports,
        sum(priority_fee_lamports) as priority_fee_lamports,
        -- Fees per unit need both, so a transaction counts in these three or in none.
        sum(fee_lamports - priority_fee_lamports) filter (where compute_units is not null) as base_fee_with_units,
        sum(priority_fee_lamports) filter (where compute_units is not null) as priority_fee_with_units,
        sum(compute_units) filter (where priority_fee_lamports is not null) as units_with_fee,
        quantile_disc(bid, [0.1, 0.25, 0.5, 0.75, 0.9, 0.99]) as bids
    from transactions
    group by bucket_slot, is_vote
)

select
    bucket_slot,
    is_vote,
    first_block_timestamp,
    transactions,
    failed_transactions,
    unknown_transactions,
    priority_transactions,
    priority_transactions / nullif(known_priority_transactions, 0) as priority_share,
    compute_units,
    fee_lamports,
    base_fee_lamports,
    priority_fee_lamports,
    {{ micro_lamports_per_unit('base_fee_with_units', 'units_with_fee') }} as base_fee_micro_lamports_per_unit,
    {{ micro_lamports_per_unit('priority_fee_with_units', 'units_with_fee') }} as priority_fee_micro_lamports_per_unit,
    bids[1] as price_p10_micro_lamports,
    bids[2] as price_p25_micro_lamports,
    bids[3] as price_p50_micro_lamports,
    bids[4] as price_p75_micro_lamports,
    bids[5] as price_p90_micro_lamports,
    bids[6] as price_p99_micro_lamports
from buckets
