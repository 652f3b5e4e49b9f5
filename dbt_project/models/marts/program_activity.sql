with calls as (
    select
        program_id,
        day,
        block_slot,
        tx_index,
        max(program) as program,
        count(*) as instructions,
        count(*) filter (where is_outer) as outer_instructions
    from {{ ref('stg_instructions') }}
    group by program_id, day, block_slot, tx_index
),

called as (
    select
        calls.*,
        transactions.outcome,
        transactions.fee_payer,
        transactions.signers,
        transactions.compute_units
    from calls
    inner join {{ ref('stg_transactions') }} as transactions using (block_slot, tx_index)
),

signers as (
    select
        program_id,
        day,
        count(distinct signer) as signers
    from (select program_id, day, unnest(signers) as signer from called)
    group by program_id, day
),

activity as (
    select
        min(block_slot) as first_slot,
        max(block_slot) as last_slot,
        program_id,
        day,
        max(program) as program,
        cast(sum(instructions) as bigint) as instructions,
        cast(sum(outer_instructions) as bigint) as outer_instructions,
        count(*) as transactions,
        count(*) filter (where outcome = 'Fail') as failed_transactions,
        count(*) filter (where outcome = 'Unknown') as unknown_transactions,
        count(distinct fee_payer) as fee_payers,
        cast(sum(compute_units) as bigint) as transaction_compute_units
    from called
    group by program_id, day
)

select
    activity.first_slot,
    activity.last_slot,
    activity.day,
    activity.program_id,
    activity.program,
    activity.instructions,
    activity.outer_instructions,
    activity.transactions,
    activity.failed_transactions,
    activity.unknown_transactions,
    activity.fee_payers,
    coalesce(signers.signers, 0) as signers,
    activity.transaction_compute_units
from activity
left join signers
    on activity.program_id is not distinct from signers.program_id
    and activity.day is not distinct from signers.day
