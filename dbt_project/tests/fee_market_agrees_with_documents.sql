{{ config(severity='warn', meta={'dagster': {'ref': {'name': 'fee_market'}}}) }}

-- Buckets with slots of a range that has no documents cannot be compared.
with market as (
    select * from {{ ref('fee_market') }} as bucket
    where not exists (
        select 1 from corpus.untold
        where untold.first_slot < bucket.bucket_slot + {{ var('fee_bucket_slots') }} and untold.last_slot >= bucket.bucket_slot
    )
),

told as (
    select
        block_slot // {{ var('fee_bucket_slots') }} * {{ var('fee_bucket_slots') }} as bucket_slot,
        is_vote,
        count(*) as transactions,
        count(*) filter (where status = 'Fail') as failed_transactions
    from {{ source('corpus', 'documents') }}
    group by all
),

mart as (
    select bucket_slot, is_vote, transactions, failed_transactions from market where is_vote is distinct from true
    union all
    -- Which votes are left out is known of a range alone, so votes are compared as a whole.
    select 0, true, (select coalesce(sum(transactions), 0) from {{ ref('fee_market') }} where is_vote)::bigint, null
    where not exists (select 1 from corpus.untold)
),

corpus as (
    select bucket_slot, is_vote, transactions, failed_transactions from told
    where is_vote is distinct from true
        and (
            bucket_slot in (select bucket_slot from market)
            or bucket_slot not in (select bucket_slot from {{ ref('fee_market') }})
        )
    union all
    select
        0, true,
        (select coalesce(sum(transactions), 0) from told where is_vote)::bigint
        + (select coalesce(sum(votes_left_out), 0) from {{ source('corpus', 'summaries') }} where scope = 'range')::bigint,
        null
    where not exists (select 1 from corpus.untold)
)

(select 'missing from the documents' as difference, * from (select * from mart except select * from corpus))
union all
(select 'not in the mart' as difference, * from (select * from corpus except select * from mart))
