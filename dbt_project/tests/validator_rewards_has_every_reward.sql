{{ config(meta={'dagster': {'ref': {'name': 'validator_rewards'}}}) }}

with mart as (
    select
        coalesce(sum(blocks), 0) as blocks,
        coalesce(sum(rewards), 0) as rewards,
        coalesce(sum(fee_lamports), 0) as fee_lamports,
        coalesce(sum(fee_lamports + voting_lamports + staking_lamports + rent_lamports + other_lamports), 0) as lamports
    from {{ ref('validator_rewards') }}
),

lake as (
    select
        (select count(leader) from {{ source('solana', 'blocks') }}) as blocks,
        count(*) as rewards,
        coalesce(sum(lamports) filter (where reward_type = 'Fee'), 0) as fee_lamports,
        coalesce(sum(lamports), 0) as lamports
    from {{ source('solana', 'block_rewards') }}
)

(select 'missing from the mart' as difference, * from (select * from lake except select * from mart))
union all
(select 'not in the lake' as difference, * from (select * from mart except select * from lake))
