{{ config(meta={'dagster': {'ref': {'name': 'program_activity'}}}) }}

with mart as (
    select
        program_id,
        sum(instructions) as instructions,
        sum(outer_instructions) as outer_instructions,
        sum(transactions) as transactions
    from {{ ref('program_activity') }}
    group by program_id
),

lake as (
    select
        program_id,
        count(*) as instructions,
        count(*) - count(parent_index) as outer_instructions,
        count(distinct (block_slot, tx_index)) as transactions
    from {{ source('solana', 'instructions') }}
    group by program_id
)

(select 'missing from the mart' as difference, * from (select * from lake except select * from mart))
union all
(select 'not in the lake' as difference, * from (select * from mart except select * from lake))
