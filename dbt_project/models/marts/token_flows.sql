with movements as (
    select
        *,
        outcome = 'Success' and movement = 'transfer' as is_transfer,
        outcome = 'Success' and movement = 'mint' as is_mint,
        outcome = 'Success' and movement = 'burn' as is_burn
    from {{ ref('stg_token_transfers') }}
)

select
    min(block_slot) as first_slot,
    max(block_slot) as last_slot,
    day,
    asset,
    mint,
    max(decimals) as decimals,
    count(*) filter (where is_transfer) as transfers,
    coalesce(sum(amount) filter (where is_transfer), 0) as volume,
    count(distinct sender) filter (where is_transfer) as senders,
    count(distinct receiver) filter (where is_transfer) as receivers,
    coalesce(sum(fee_amount) filter (where is_transfer), 0) as fees,
    count(*) filter (where is_mint) as mints,
    coalesce(sum(amount) filter (where is_mint), 0) as minted,
    count(*) filter (where is_burn) as burns,
    coalesce(sum(amount) filter (where is_burn), 0) as burned,
    count(*) filter (where outcome = 'Fail') as failed_movements,
    count(*) filter (where outcome = 'Unknown') as unknown_movements
from movements
group by day, asset, mint
