{{ config(meta={'dagster': {'ref': {'name': 'wallet_activity'}}}) }}

with mart as (
    select
        coalesce(sum(paid_transactions), 0) as transactions,
        coalesce(sum(fees_paid_lamports), 0) as fee_lamports,
        coalesce(sum(signed_transactions), 0) as signers,
        coalesce(sum(sol_in_lamports - sol_out_lamports - sol_net_lamports), 0) as unexplained_lamports
    from {{ ref('wallet_activity') }}
),

lake as (
    select
        count(*) as transactions,
        coalesce(sum(fee), 0) as fee_lamports,
        coalesce(sum(len(list_filter(accounts, lambda account: account.signer))), 0) as signers,
        0 as unexplained_lamports
    from {{ source('solana', 'transactions') }}
    where len(accounts) > 0
)

(select 'missing from the mart' as difference, * from (select * from lake except select * from mart))
union all
(select 'not in the lake' as difference, * from (select * from mart except select * from lake))
