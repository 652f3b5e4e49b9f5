select
    block_slot,
    {{ day_of('block_timestamp') }} as day,
    case
        when transfer_type = 'transfer' then 'sol'
        when mint is not null then 'token'
        else 'unknown'
    end as asset,
    mint,
    case transfer_type
        when 'mintTo' then 'mint'
        when 'burn' then 'burn'
        else 'transfer'
    end as movement,
    -- A failed transaction moved nothing, and without metadata nobody knows.
    coalesce(status, 'Unknown') as outcome,
    source as sender,
    destination as receiver,
    value as amount,
    fee as fee_amount,
    decimals
from {{ source('solana', 'token_transfers') }}
