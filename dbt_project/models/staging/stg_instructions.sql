select
    block_slot,
    tx_index,
    {{ day_of('block_timestamp') }} as day,
    program_id,
    program,
    parent_index is null as is_outer
from {{ source('solana', 'instructions') }}
