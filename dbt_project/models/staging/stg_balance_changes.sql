select
    block_slot,
    account,
    owner,
    mint,
    change
from {{ source('solana', 'balance_changes') }}
