{{ config(meta={'dagster': {'ref': {'name': 'token_flows'}}}) }}

with mart as (
    select
        mint,
        sum(volume + minted + burned) as amount,
        sum(fees) as fees,
        sum(transfers + mints + burns + failed_movements + unknown_movements) as movements
    from {{ ref('token_flows') }}
    group by mint
),

lake as (
    select
        mint,
        coalesce(sum(value) filter (where status = 'Success'), 0) as amount,
        coalesce(sum(fee) filter (where status = 'Success'), 0) as fees,
        count(*) as movements
    from {{ source('solana', 'token_transfers') }}
    group by mint
)

(select 'missing from the mart' as difference, * from (select * from lake except select * from mart))
union all
(select 'not in the lake' as difference, * from (select * from mart except select * from lake))
