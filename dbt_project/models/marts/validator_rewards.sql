with led as (
    select
        leader as pubkey,
        min(block_slot) as first_slot,
        max(block_slot) as last_slot,
        count(*) as blocks
    from {{ ref('stg_blocks') }}
    where leader is not null
    group by leader
),

paid as (
    select
        pubkey,
        min(block_slot) as first_slot,
        max(block_slot) as last_slot,
        count(*) as rewards,
        coalesce(sum(lamports) filter (where reward_type = 'Fee'), 0) as fee_lamports,
        coalesce(sum(lamports) filter (where reward_type = 'Voting'), 0) as voting_lamports,
        coalesce(sum(lamports) filter (where reward_type = 'Staking'), 0) as staking_lamports,
        coalesce(sum(lamports) filter (where reward_type = 'Rent'), 0) as rent_lamports,
        coalesce(sum(lamports) filter (where reward_type not in ('Fee', 'Voting', 'Staking', 'Rent')), 0) as other_lamports,
        bool_or(reward_type = 'Fee') as has_fee,
        bool_or(reward_type = 'Voting') as has_voting,
        bool_or(reward_type = 'Staking') as has_staking
    from {{ ref('stg_block_rewards') }}
    group by pubkey
)

select
    least(led.first_slot, paid.first_slot) as first_slot,
    greatest(led.last_slot, paid.last_slot) as last_slot,
    pubkey,
    case
        when led.blocks > 0 or paid.has_fee then 'leader'
        when paid.has_voting then 'vote'
        when paid.has_staking then 'stake'
        else 'other'
    end as role,
    coalesce(led.blocks, 0) as blocks,
    coalesce(paid.rewards, 0) as rewards,
    coalesce(paid.fee_lamports, 0) as fee_lamports,
    coalesce(paid.voting_lamports, 0) as voting_lamports,
    coalesce(paid.staking_lamports, 0) as staking_lamports,
    coalesce(paid.rent_lamports, 0) as rent_lamports,
    coalesce(paid.other_lamports, 0) as other_lamports
from led
full outer join paid using (pubkey)
