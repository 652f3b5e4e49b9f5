{{ config(meta={'dagster': {'ref': {'name': 'fee_market'}}}) }}

with mart as (
    select
        coalesce(sum(transactions), 0) as transactions,
        sum(fee_lamports) as fee_lamports,
        sum(priority_fee_lamports) as priority_fee_lamports,
        sum(base_fee_lamports) as base_fee_lamports
    from {{ ref('fee_market') }}
),

lake as (
    select
        count(*) as transactions,
        sum(fee) as fee_lamports,
        sum(priority_fee_lamports) as priority_fee_lamports,
        sum(fee) filter (where priority_fee_lamports is not null) - sum(priority_fee_lamports) as base_fee_lamports
    from {{ source('solana', 'transactions') }}
)

(select 'missing from the mart' as difference, * from (select * from lake except select * from mart))
union all
(select 'not in the lake' as difference, * from (select * from mart except select * from lake))
