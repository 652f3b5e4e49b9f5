select
    slot as block_slot,
    block_timestamp,
    leader
from {{ source('solana', 'blocks') }}
