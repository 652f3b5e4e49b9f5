-- What is known of each document from the rows of the tables: relevance is a predicate over this, and never over texts.
-- Programs and tokens stand by name and by account, so that a predicate holds whatever the registry learns to name.
-- One row for each document (id: its signature) and each summary (id: scope, subject and slot).

create table called as
select i.tx_signature as id, coalesce(n.name, i.program_id) as program, i.program_id as account, i.instruction_type as instruction
from instructions i left join names n on n.account = i.program_id;

create table moved as
select t.tx_signature as id, t.transfer_type, t.mint,
    case when t.transfer_type = 'transfer' then 'SOL' else coalesce(n.name, t.mint, 'unknown') end as unit,
    case when t.transfer_type = 'transfer' then t.value::double / 1e9 when t.decimals is not null then t.value::double / pow(10, t.decimals) end as amount
from token_transfers t left join names n on n.account = t.mint;

create table netted as
select b.tx_signature as id, coalesce(n.name, b.mint, 'SOL') as unit, sum(b.change::double / pow(10, coalesce(b.decimals, 9))) as change
from balance_changes b
join transactions t on t.signature = b.tx_signature
left join names n on n.account = b.mint
where coalesce(b.owner, b.account) = t.accounts[1].pubkey
group by all;

create table facts as
with calls as (
    select id, list_distinct(list(program) || list(account)) as programs, list(distinct instruction) filter (instruction is not null) as instructions from called group by 1
), movements as (
    select id, list_distinct(list(unit) || list(mint)) as units,
        list(distinct unit) filter (transfer_type = 'mintTo') as minted, list(distinct unit) filter (transfer_type = 'burn') as burned,
        max(amount) filter (unit in ('SOL', 'wSOL')) as sol, max(amount) filter (unit = 'SOL') as native_sol,
        max(amount) filter (unit = 'USDC') as usdc, max(amount) filter (unit = 'USDT') as usdt, max(amount) filter (unit in ('USDC', 'USDT')) as dollars,
        count(*) filter (transfer_type = 'transfer') as sol_transfers, count(*) filter (transfer_type like 'spl%') as token_transfers
    from moved group by 1
), nets as (
    select id, list(unit) filter (change > 0) as gained, list(unit) filter (change < 0 and unit <> 'SOL') as lost from netted group by 1
), memos as (
    select tx_signature as id, string_agg(parsed, ' | ') as memo from instructions where parsed is not null group by 1
)
select d.tx_signature as id, 'transaction' as scope, d.block_slot as slot, '' as subject, d.kind, d.status, d.status = 'Fail' as failed,
    d.status = 'Success' as worked, d.error_class, d.is_sandwich, coalesce(d.is_vote, false) as is_vote,
    coalesce(c.programs, []) as programs, coalesce(c.instructions, []) as instructions,
    [regexp_extract(line, 'Instruction: (\w+)', 1) for line in coalesce(t.log_messages, []) if line like 'Program log: Instruction: %'] as logged,
    coalesce(m.units, []) as units, coalesce(m.minted, []) as minted, coalesce(m.burned, []) as burned,
    m.sol, m.native_sol, m.usdc, m.usdt, m.dollars, coalesce(m.sol_transfers, 0) as sol_transfers, coalesce(m.token_transfers, 0) as token_transfers,
    coalesce(n.gained, []) as gained, coalesce(n.lost, []) as lost, e.memo,
    t.fee::double / 1e9 as fee, t.compute_units_consumed as units_used, t.accounts[1].pubkey as payer,
    [account.pubkey for account in t.accounts] as accounts, array_to_string(coalesce(t.log_messages, []), chr(10)) as logs, t.err,
    null::bigint as total, null::bigint as swaps, null::bigint as failures, null::double as fees
from documents d
join transactions t on t.signature = d.tx_signature
left join calls c on c.id = d.tx_signature
left join movements m on m.id = d.tx_signature
left join nets n on n.id = d.tx_signature
left join memos e on e.id = d.tx_signature;

-- A summary is judged by sums over the same facts, of its block and subject.
insert into facts by name
select s.scope || ' ' || s.subject || ' ' || s.first_slot as id, s.scope, s.first_slot as slot, coalesce(n.name, s.subject) as subject, s.transactions as total,
    (select count(*) filter (f.kind = 'swap') from facts f where f.slot = s.first_slot and not f.is_vote and of_subject(s.scope, s.subject, n.name, f)) as swaps,
    (select count(*) filter (f.failed) from facts f where f.slot = s.first_slot and not f.is_vote and of_subject(s.scope, s.subject, n.name, f)) as failures,
    (select sum(f.fee) from facts f where f.slot = s.first_slot and not f.is_vote and of_subject(s.scope, s.subject, n.name, f)) as fees
from summaries s left join names n on n.account = s.subject;
