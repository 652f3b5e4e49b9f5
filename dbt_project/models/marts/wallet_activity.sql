with signed as (
    select
        *,
        unnest(signers) as wallet
    from {{ ref('stg_transactions') }}
),

activity as (
    select
        wallet,
        min(block_slot) as first_slot,
        max(block_slot) as last_slot,
        min(block_timestamp) as first_seen,
        max(block_timestamp) as last_seen,
        count(*) as signed_transactions,
        count(*) filter (where outcome = 'Fail') as failed_transactions,
        count(*) filter (where outcome = 'Unknown') as unknown_transactions,
        count(*) filter (where wallet = fee_payer) as paid_transactions,
        coalesce(sum(fee_lamports) filter (where wallet = fee_payer), 0) as fees_paid_lamports
    from signed
    group by wallet
),

sol as (
    select
        account as wallet,
        coalesce(sum(change) filter (where change > 0), 0) as sol_in_lamports,
        coalesce(-sum(change) filter (where change < 0), 0) as sol_out_lamports,
        sum(change) as sol_net_lamports
    from {{ ref('stg_balance_changes') }}
    where mint is null
    group by account
),

tokens as (
    select
        owner as wallet,
        count(distinct mint) as tokens_touched
    from {{ ref('stg_balance_changes') }}
    where mint is not null
    group by owner
)

select
    activity.first_slot,
    activity.last_slot,
    activity.wallet,
    activity.first_seen,
    activity.last_seen,
    activity.signed_transactions,
    activity.paid_transactions,
    activity.failed_transactions,
    activity.unknown_transactions,
    activity.fees_paid_lamports,
    coalesce(sol.sol_in_lamports, 0) as sol_in_lamports,
    coalesce(sol.sol_out_lamports, 0) as sol_out_lamports,
    coalesce(sol.sol_net_lamports, 0) as sol_net_lamports,
    coalesce(tokens.tokens_touched, 0) as tokens_touched
from activity
left join sol using (wallet)
left join tokens using (wallet)
