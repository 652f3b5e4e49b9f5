select
    block_slot,
    "index" as tx_index,
    block_timestamp,
    {{ day_of('block_timestamp') }} as day,
    -- Without metadata the outcome was not recorded: neither success nor failure.
    coalesce(status, 'Unknown') as outcome,
    is_vote,
    accounts[1].pubkey as fee_payer,
    [account.pubkey for account in accounts if account.signer] as signers,
    fee as fee_lamports,
    priority_fee_lamports,
    compute_units_consumed as compute_units,
    compute_unit_price_micro_lamports
from {{ source('solana', 'transactions') }}
