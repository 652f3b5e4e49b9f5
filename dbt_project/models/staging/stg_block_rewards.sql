select
    block_slot,
    pubkey,
    coalesce(reward_type, 'Unknown') as reward_type,
    lamports
from {{ source('solana', 'block_rewards') }}
