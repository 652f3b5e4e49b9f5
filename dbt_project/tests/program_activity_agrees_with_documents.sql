{{ config(severity='warn', meta={'dagster': {'ref': {'name': 'program_activity'}}}) }}

-- Rows with slots of a range that has no documents cannot be compared.
with mart as (
    select program_id, day, transactions, failed_transactions
    from {{ ref('program_activity') }} as activity
    where not exists (
        select 1 from corpus.untold where untold.first_slot <= activity.last_slot and untold.last_slot >= activity.first_slot
    )
),

called as (
    select
        unnest(programs) as program_id,
        {{ day_of('block_timestamp') }} as day,
        status
    from {{ source('corpus', 'documents') }}
    where is_vote is distinct from true
),

corpus as (
    select
        program_id,
        day,
        count(*) as transactions,
        count(*) filter (where status = 'Fail') as failed_transactions
    from called
    where exists (select 1 from mart where mart.program_id = called.program_id and mart.day is not distinct from called.day)
        or not exists (
            select 1 from {{ ref('program_activity') }} as any_row
            where any_row.program_id = called.program_id and any_row.day is not distinct from called.day
        )
    group by program_id, day
)

(select 'missing from the documents' as difference, * from (
    -- Votes are a sample; a vote calls the vote program alone.
    select * from mart where program_id <> 'Vote111111111111111111111111111111111111111'
    except select * from corpus
))
union all
(select 'not in the mart' as difference, * from (
    select * from corpus where program_id <> 'Vote111111111111111111111111111111111111111'
    except select * from mart
))
