"""What must be true of every range of the lake, and how that is checked.

Belongs here: the invariants, as SQL over the stored tables, and their evaluation for one range. Does not belong here:
who runs them (an orchestrator's checks do), or repairing what they find.

An invariant selects one row per thing that does not add up, with the reason that excuses it where the stored data itself
proves one. Rows without an excuse are violations. Large ranges are checked a window of slots at a time, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from blyan import schemas
from blyan.errors import MissingObjectError
from blyan.lake import DataFile, Lake
from blyan.schemas import Table
from blyan.solana.slots import SlotRange

if TYPE_CHECKING:
    import duckdb

MAINNET_GENESIS_HASH = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"
"""Genesis hash of mainnet (Solana documentation, clusters)."""

FULL_PRIORITY_FEE_SLOT = 743 * 432_000
"""First slot of mainnet from which no leader gets half of the fees any more: SIMD-0096, active from epoch 743 at the latest.

Sources differ between epochs 741 and 743 (February 2025); the later one is safe, because the full priority fee is accepted
at every slot. Recorded blocks agree: 110130000 and 254170887 paid half of all fees, 332254855 the fees less 2,500 a signature.
"""

NO_HASH = "1" * 32
"""What a node gives for the hash of a block that it no longer has: 32 zero bytes in base58 (RPC reference, getBlock)."""

EXAMPLES = 5
"""Violations shown of each invariant."""

WINDOW_BYTES = 64 << 20
"""Stored bytes checked at once; DuckDB holds about ten times this."""

MEMORY_LIMIT = "1GB"
THREADS = 2

_NATIVE_MINTS = "('So11111111111111111111111111111111111111112', '9pan9bMn5HatX4EJdBwg9VgCp7Uz5HL8N1m5D3NdXej9')"
_TOKEN_2022 = "'TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb'"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Invariant:
    """Something that must be true of a range.

    Attributes:
        name: what holds, as a name.
        table: the table that is wrong where it does not hold.
        prose: what is checked, and which exceptions are legitimate and why.
        blocking: whether data that breaks it is wrong; otherwise it is a warning.
        sql: selects a row per thing that does not add up: `explained` (the reason, or null for a violation), then what
            identifies the thing.
        remedy: what to do about a violation.
        windowed: whether it looks at each slot alone, so that a large range can be checked in windows.
    """

    name: str
    table: Table
    prose: str
    sql: str
    remedy: str = "normalise the range again; if it still fails, fetch its raw blocks again, then report the block as a defect"
    blocking: bool = True
    windowed: bool = True


@dataclass(slots=True)
class Finding:
    """What checking one invariant on one range found.

    Attributes:
        passed: no violation was found.
        violations: things that break it.
        examples: a few of them.
        explained: by reason, how many things broke it legitimately.
        checked: rows of the invariant's table in the range.
        statement: one sentence for people.
    """

    invariant: Invariant
    passed: bool = True
    violations: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    explained: dict[str, int] = field(default_factory=dict)
    checked: int = 0

    @property
    def statement(self) -> str:
        """What was checked, how much, what failed, and the remedy."""
        what = f"{self.invariant.name}: {self.checked:,} rows of {self.invariant.table.name} checked, "
        excused = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.explained.items()))
        what += f"{self.violations:,} violations" if self.violations else "no violation"
        if excused:
            what += f", and legitimately: {excused}"
        if not self.violations:
            return what + "."
        first = ", ".join(f"{name} {value}" for name, value in self.examples[0].items() if value is not None)
        return f"{what}. The first: {first}. Remedy: {self.invariant.remedy}."


def _refers_to_transactions(table: Table) -> Invariant:
    return Invariant(
        f"{table.short_name}_refer_to_transactions",
        table,
        f"Every row of `{table.short_name}` names a transaction of its block that exists, by position, signature and block hash.",
        f"""select null as explained, * from (
            select distinct block_slot, tx_index, tx_signature, block_hash from {table.short_name}
        ) as row where not exists (
            select 1 from tx where tx.block_slot = row.block_slot and tx.tx_index = row.tx_index and tx.signature = row.tx_signature
            and tx.block_hash is not distinct from row.block_hash
        )""",  # noqa: S608 - a name of ours
    )


def _refers_to_blocks(table: Table, rows: str) -> Invariant:
    return Invariant(
        f"{table.short_name}_refer_to_blocks",
        table,
        f"Every row of `{table.short_name}` names a block that exists, by slot and hash. A transaction recorded without its block has no"
        " block hash, and there is no block of its slot.",
        f"""select case when row.block_hash is null and block.slot is null then 'recorded without their block' end as explained,
            row.block_slot, row.block_hash, block.block_hash as stored_block_hash, count(*) as rows
        from {rows} as row left join blocks as block on block.slot = row.block_slot
        where block.block_hash is distinct from row.block_hash or block.slot is null
        group by all""",  # noqa: S608 - a name of ours
    )


INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "slots_add_up",
        schemas.COMPLETENESS,
        "Every slot of the range is in the completeness statement exactly once, as landed, skipped or unknown; a landed slot has its block"
        " with the same hash, and no other slot has a block.",
        """with slots as (select range as slot from range((select first from bounds), (select last + 1 from bounds))),
        stated as (select slot, count(*) as rows, min(state) as state, min(block_hash) as hash from completeness group by slot)
        select null as explained, slot, stated.rows, stated.state, stated.hash, blocks.block_hash,
            case when slots.slot is null then 'outside the range' when stated.slot is null then 'not stated' when stated.rows > 1 then 'stated twice'
                 when stated.state = 'landed' then 'landed without its block' else 'a block that did not land' end as problem
        from slots full join stated using (slot) full join blocks using (slot)
        where slots.slot is null or stated.slot is null or stated.rows > 1 or stated.state not in ('landed', 'skipped', 'unknown')
            or (stated.state = 'landed') <> (blocks.slot is not null) or stated.hash is distinct from blocks.block_hash""",
        windowed=False,
    ),
    Invariant(
        "no_unknown_slots",
        schemas.COMPLETENESS,
        "Every slot of the range either landed or is proven to be skipped. A warning: the source may not have the others yet, or ever.",
        """select null as explained, slot, proof, transactions from completeness where state = 'unknown'""",
        remedy="fetch the range again, or from a source that has these slots",
        blocking=False,
        windowed=False,
    ),
    Invariant(
        "nothing_quarantined",
        schemas.QUARANTINE,
        "No record of the range is in quarantine. A warning: the records around it landed.",
        """select null as explained, block_slot as slot, tx_index, reason, detail from quarantine""",
        remedy="read solana/quarantine, which has the reason and the raw bytes of each, and fetch those slots again",
        blocking=False,
        windowed=False,
    ),
    Invariant(
        "parent_hash_links",
        schemas.BLOCKS,
        "A block's previous hash is the hash of its parent, and no block lies between the two. The range before is looked at too, where it is"
        " stored. A parent that is not stored cannot be compared: it lies before the stored ranges, or its slot is unknown. A node that"
        " no longer has the parent gives 32 zero bytes for its hash, and the first block of a chain has no parent.",
        f"""with linked as (
            select slot, block_hash, parent_slot, previous_block_hash, lag(slot) over by_slot as before_slot, lag(block_hash) over by_slot as before_hash
            from (select slot, block_hash, parent_slot, previous_block_hash from blocks union all select slot, block_hash, parent_slot, previous_block_hash from earlier_blocks)
            window by_slot as (order by slot)
        )
        select case when linked.slot = 0 then 'first block of the chain'
                when before_slot > parent_slot then null
                when parent_slot is null or coalesce(previous_block_hash, '{NO_HASH}') = '{NO_HASH}' then 'recorded without their parent'
                when before_slot = parent_slot then null
                when parent_slot < (select first from bounds) then 'whose parent is not stored'
                when parent.state = 'unknown' then 'whose parent is unknown' end as explained,
            linked.slot, linked.block_hash, parent_slot, previous_block_hash, before_slot, before_hash, parent.state as parent_state
        from linked left join completeness as parent on parent.slot = linked.parent_slot
        where linked.slot >= (select first from bounds) and (before_slot = parent_slot and before_hash = previous_block_hash) is not true""",  # noqa: S608 - a constant
        windowed=False,
        remedy="fetch the raw blocks of this range and of the one before again: one of them holds a block that is not on the chain",
    ),
    _refers_to_blocks(schemas.TRANSACTIONS, "tx"),
    _refers_to_blocks(schemas.BLOCK_REWARDS, "block_rewards"),
    Invariant(
        "transaction_count_matches",
        schemas.TRANSACTIONS,
        "A block has as many transactions, stored and quarantined, as its source says; the completeness statement says the same. A source"
        " asked for no transactions states none.",
        """with stored as (select block_slot as slot, count(*) as transactions from tx group by block_slot),
        bad as (select block_slot as slot, count(distinct tx_index) as quarantined from quarantine where tx_index is not null group by block_slot)
        select case when transaction_count is null and transaction_detail = 'none' and stored.transactions is null
                then 'blocks recorded without transactions' end as explained,
            slot, transaction_count, coalesce(stored.transactions, 0) as transactions, coalesce(bad.quarantined, 0) as quarantined,
            statement.transactions as transactions_in_statement
        from blocks left join stored using (slot) left join bad using (slot) left join completeness as statement using (slot)
        where transaction_count is distinct from coalesce(stored.transactions, 0) + coalesce(bad.quarantined, 0)
            or statement.transactions is distinct from coalesce(stored.transactions, 0)
            or statement.transactions_stated is distinct from transaction_count""",
        remedy="fetch the raw blocks of these slots again: transactions are missing",
    ),
    Invariant(
        "transaction_indexes_contiguous",
        schemas.TRANSACTIONS,
        "The positions of a block's transactions, stored and quarantined, are 0, 1, 2… without a gap or a repetition.",
        """with every as (select block_slot, tx_index from tx union all
            select block_slot, tx_index from (select distinct block_slot, tx_index from quarantine where tx_index is not null and block_slot is not null))
        select null as explained, block_slot, count(*) as transactions, count(distinct tx_index) as positions, min(tx_index) as first, max(tx_index) as last
        from every group by block_slot having first <> 0 or last <> transactions - 1 or positions <> transactions""",
    ),
    Invariant(
        "signatures_unique_in_block",
        schemas.TRANSACTIONS,
        "No two transactions of a block have the same signature.",
        """select null as explained, block_slot, signature, count(*) as transactions from tx group by block_slot, signature having count(*) > 1""",
    ),
    Invariant(
        "lamports_conserved",
        schemas.TRANSACTIONS,
        "Lamports before less lamports after, over all accounts of a transaction, are its fee; failed transactions included. Those recorded"
        " without metadata have no balances.",
        """select null as explained, block_slot, tx_index, signature, fee, charged as balances_fell_by from tx
        where charged is not null and charged is distinct from fee""",
    ),
    Invariant(
        "leader_fee_reconciles",
        schemas.BLOCK_REWARDS,
        "The leader's `Fee` reward follows from the fees, so that a missing transaction shows: block metadata alone does not prove that all"
        " arrived. The reward is the fees less 2,500 lamports for each signature charged, precompile signatures included; on mainnet before"
        f" slot {FULL_PRIORITY_FEE_SLOT:,} half of the fees. Blocks that paid no `Fee` reward (recorded without rewards, or whose leader"
        " could not receive it, so that it was burned) and blocks recorded without their transactions' metadata cannot be reconciled.",
        """with fees as (
            select block_slot as slot, count(*) as transactions, sum(fee) as fees, sum(signatures_charged) as signatures, count(fee) as with_fee,
                count(signatures_charged) as with_signatures
            from tx group by block_slot
        ),
        paid as (select block_slot as slot, sum(lamports) as reward from block_rewards where reward_type = 'Fee' group by block_slot),
        bad as (select distinct block_slot as slot, true as quarantined from quarantine where tx_index is not null),
        every as (
            select slot, transaction_detail, reward, quarantined, coalesce(fees, 0) as fees, signatures,
                coalesce(with_fee = transactions, true) as complete,
                case when coalesce(with_signatures = transactions, true) then coalesce(fees - 2500 * signatures, 0) end as full_priority_fee,
                case when slot < (select half_fee_before from bounds) then coalesce(fees, 0)::hugeint - coalesce(fees, 0)::hugeint // 2 end as half_fee
            from blocks left join fees using (slot) left join paid using (slot) left join bad using (slot)
        )
        select case when transaction_detail <> 'full' then 'blocks recorded without full transactions'
                when quarantined then 'blocks with transactions in quarantine'
                when reward is null and fees > 0 then 'blocks without a recorded fee reward'
                when not complete then 'blocks with transactions recorded without metadata' end as explained,
            slot, reward, fees, signatures, full_priority_fee as reward_with_full_priority_fee, half_fee as reward_of_half_the_fees
        from every
        where coalesce(reward, 0) is distinct from full_priority_fee and coalesce(reward, 0) is distinct from half_fee
            or transaction_detail <> 'full' or quarantined or not complete""",
        remedy="fetch the raw blocks of these slots again, from another source: transactions are missing, or were recorded twice",
    ),
    Invariant(
        "inner_instructions_have_parents",
        schemas.INSTRUCTIONS,
        "An inner instruction's parent is an outer instruction of its transaction, and ordinals and outer indexes count up from 0.",
        """select null as explained, *, case when parents_first < 0 or parents_last >= outers then 'an inner instruction without its parent'
                when outers_last <> outers - 1 or outers_distinct <> outers then 'outer indexes not contiguous' else 'ordinals not contiguous' end as problem
        from (
            select block_slot, tx_index, count(*) as instructions, min(ordinal) as first, max(ordinal) as last, count(distinct ordinal) as ordinals,
                count(*) filter (parent_index is null) as outers, coalesce(max(index) filter (parent_index is null), -1) as outers_last,
                count(distinct index) filter (parent_index is null) as outers_distinct,
                coalesce(min(parent_index), 0) as parents_first, coalesce(max(parent_index), -1) as parents_last
            from instructions group by block_slot, tx_index
        ) where first <> 0 or last <> instructions - 1 or ordinals <> instructions or outers_last <> outers - 1 or outers_distinct <> outers
            or parents_first < 0 or parents_last >= outers""",
    ),
    _refers_to_transactions(schemas.INSTRUCTIONS),
    _refers_to_transactions(schemas.TOKEN_TRANSFERS),
    _refers_to_transactions(schemas.BALANCE_CHANGES),
    Invariant(
        "balance_changes_agree",
        schemas.BALANCE_CHANGES,
        "The SOL rows of `balance_changes` are exactly the balances in `transactions.balance_changes` that changed.",
        """select null as explained, block_slot, tx_index, account_index, flat.account, nested.account as account_in_transactions,
            flat.before, flat.after, flat.change, nested.before as before_in_transactions, nested.after as after_in_transactions
        from (select * from balance_changes where mint is null) as flat
        full join (
            select block_slot, tx_index, place as account_index, item.account as account, item.before as before, item.after as after from (
                select block_slot, index as tx_index, unnest(balance_changes) as item, generate_subscripts(balance_changes, 1) - 1 as place from transactions
            ) where item.before <> item.after
        ) as nested using (block_slot, tx_index, account_index)
        where flat.account is distinct from nested.account or flat.before is distinct from nested.before or flat.after is distinct from nested.after
            or flat.change is distinct from nested.after - nested.before""",
    ),
    Invariant(
        "tokens_conserved",
        schemas.BALANCE_CHANGES,
        "Per transaction and mint, token balances change by what was minted less what was burned less the transfer fees withheld; a failed"
        " transaction changes none. Legitimate exceptions: wrapped SOL, because wrapping, unwrapping and `syncNative` are no mint or burn;"
        " a Token-2022 mint with a transfer fee, moved by an instruction that does not name the fee (at most what was moved can be withheld),"
        " or whose withheld fees were paid out; a Token-2022 instruction on the mint that is not decoded, such as a confidential deposit;"
        " transactions recorded without logs, because nodes that kept no logs kept no inner instructions either; and transactions of blocks"
        " from before token balances were recorded.",
        f"""with suspect as (select * from moved where mint not in {_NATIVE_MINTS}),
        of_suspects as (
            select i.block_slot, i.tx_index, i.ordinal, i.program, i.instruction_type, i.accounts, i.params
            from instructions as i semi join suspect using (block_slot, tx_index) where i.program_id = {_TOKEN_2022}
        ),
        withheld as (
            select s.block_slot, s.tx_index, s.mint, sum(t.value) as movable from suspect as s
            join token_transfers as t on t.block_slot = s.block_slot and t.tx_index = s.tx_index and t.mint = s.mint and t.fee is null
                and t.transfer_type = 'spl-transfer'
            join of_suspects as i on i.block_slot = t.block_slot and i.tx_index = t.tx_index and i.ordinal = t.ordinal
            group by all
        ),
        touched as (
            select s.block_slot, s.tx_index, s.mint,
                bool_or(i.instruction_type like 'withdrawWithheldTokens%'
                    and list_contains(list_transform(i.params, lambda p: p.value), '"' || s.mint || '"')) as paid_out,
                bool_or(i.program is null and list_contains(i.accounts, s.mint)) as undecoded
            from suspect as s join of_suspects as i using (block_slot, tx_index) group by all
        ),
        logless as (
            select t.block_slot, t.index as tx_index from transactions as t semi join suspect on suspect.block_slot = t.block_slot and suspect.tx_index = t.index
            where t.log_messages is null
        )
        select case when status = 'Fail' then null
                when mint in {_NATIVE_MINTS} then 'of wrapped SOL'
                when excess < 0 and -excess <= movable then 'with a transfer fee withheld by Token-2022'
                when excess > 0 and paid_out then 'with withheld transfer fees paid out'
                when undecoded then 'with a Token-2022 instruction that is not decoded'
                when logless.block_slot is not null then 'recorded without inner instructions'
                when token_balances = 0 and not in_block then 'recorded before token balances were' end as explained,
            block_slot, tx_index, mint, status, change, minted, burned, withheld as fees, excess
        from moved left join withheld using (block_slot, tx_index, mint) left join touched using (block_slot, tx_index, mint)
        left join logless using (block_slot, tx_index)""",  # noqa: S608 - constants
    ),
)  # fmt: skip
"""Every invariant, in the order in which a range is checked."""

_TX = """create or replace temp table tx as
select block_slot, index as tx_index, signature, block_hash, status, fee, (fee - priority_fee_lamports)::hugeint // 5000 as signatures_charged,
    list_sum(list_transform(balance_changes, lambda item: item.before)) - list_sum(list_transform(balance_changes, lambda item: item.after)) as charged,
    len(pre_token_balances) + len(post_token_balances) as token_balances
from transactions"""

# One row per transaction and mint that does not add up, before any excuse.
_MOVED = """create or replace temp table moved as
with changes as (select block_slot, tx_index, mint, sum(change) as change from balance_changes where mint is not null group by all),
supply as (
    select block_slot, tx_index, mint, coalesce(sum(value) filter (transfer_type = 'mintTo'), 0) as minted,
        coalesce(sum(value) filter (transfer_type = 'burn'), 0) as burned, coalesce(sum(fee), 0) as withheld
    from token_transfers where mint is not null and status = 'Success' group by all
),
with_balances as (select distinct block_slot, true as in_block from tx where token_balances > 0)
select block_slot, tx_index, mint, status, coalesce(change, 0) as change, coalesce(minted, 0) as minted, coalesce(burned, 0) as burned,
    coalesce(withheld, 0) as withheld, token_balances, coalesce(in_block, false) as in_block,
    coalesce(change, 0) - (coalesce(minted, 0) - coalesce(burned, 0) - coalesce(withheld, 0)) as excess
from changes full join supply using (block_slot, tx_index, mint) join tx using (block_slot, tx_index) left join with_balances using (block_slot)
where excess <> 0 and token_balances is not null"""

_WINDOWED = (schemas.TRANSACTIONS, schemas.INSTRUCTIONS, schemas.TOKEN_TRANSFERS, schemas.BALANCE_CHANGES, schemas.BLOCK_REWARDS)
_WHOLE = (schemas.BLOCKS, schemas.COMPLETENESS, schemas.QUARANTINE)


def check_range(
    lake: Lake,
    slots: SlotRange,
    *,
    genesis_hash: str | None = None,
    invariants: Sequence[Invariant] = INVARIANTS,
    window_bytes: int = WINDOW_BYTES,
) -> list[Finding]:
    """Check a materialised range.

    Args:
        lake: where it is.
        slots: the range.
        genesis_hash: the chain, where it is known: on any other than mainnet either rule of the leader's reward is accepted at every
            slot. Unknown is taken for mainnet.
        invariants: those to check.
        window_bytes: stored bytes to check at once.

    Returns:
        A finding for each invariant, in their order.

    Raises:
        MissingObjectError: the range is not materialised.
    """
    import duckdb

    files = {table.name: lake.files(table, keys=[slots.key]) for table in (*_WHOLE, *_WINDOWED)}
    missing = [name for name, of_table in files.items() if not of_table]
    if missing:
        raise MissingObjectError(f"range {slots.key} is not materialised", where=", ".join(missing), remedy=f"run `blyan ingest --slots {slots}`")
    findings = [Finding(item, checked=sum(file.rows for file in files[item.table.name])) for item in invariants]
    with duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "threads": THREADS}) as connection:
        for table in _WHOLE:
            _expose(connection, lake, table, files[table.name], None)
        half_fee_before = FULL_PRIORITY_FEE_SLOT if genesis_hash in (None, MAINNET_GENESIS_HASH) else slots.last + 1
        connection.execute(
            "create temp table bounds as select ?::bigint as first, ?::bigint as last, ?::bigint as half_fee_before",
            [slots.first, slots.last, half_fee_before],
        )
        _expose_parent(connection, lake, slots)
        for finding in findings:
            if not finding.invariant.windowed:
                _examine(connection, finding)
        for window in _windows(slots, sum(file.size for table in _WINDOWED for file in files[table.name]) // window_bytes + 1):
            for table in (*_WHOLE, *_WINDOWED):
                _expose(connection, lake, table, files[table.name], window)
            connection.execute(_TX)
            connection.execute(_MOVED)
            for finding in findings:
                if finding.invariant.windowed:
                    _examine(connection, finding)
    for finding in findings:
        finding.passed = not finding.violations
    return findings


def _windows(slots: SlotRange, count: int) -> Iterator[SlotRange]:
    """The range in `count` parts, or in as many as it has slots."""
    count = min(count, len(slots))
    edges = [slots.first + len(slots) * index // count for index in range(count + 1)]
    return (SlotRange(first, end - 1) for first, end in pairwise(edges))


def _expose(
    connection: duckdb.DuckDBPyConnection, lake: Lake, table: Table, files: Sequence[DataFile], slots: SlotRange | None, *, name: str | None = None
) -> None:
    """Make the rows of some slots, or all of them, a view named as the table is."""
    name = name or table.short_name
    near = [file for file in files if slots is None or _may_hold(file, slots)]
    if "://" in lake.root or not near:
        # DuckDB reaches a bucket only through an extension that must be downloaded, and does not take a list of no files.
        first, last = (None, None) if slots is None else (slots.first, slots.last)
        keys = sorted({file.key for file in near if file.key})
        batches = [batch for key in keys for batch in lake.read(table, key=key, first_slot=first, last_slot=last)]
        connection.register(name, pa.Table.from_batches(batches, table.arrow_schema()))
        return
    paths = ", ".join("'" + file.path.replace("'", "''") + "'" for file in near)
    where = "" if slots is None else f" where {table.key[0]} between {slots.first} and {slots.last}"
    connection.execute(f"create or replace temp view {name} as select * from read_parquet([{paths}], hive_partitioning = false){where}")  # noqa: S608


def _may_hold(file: DataFile, slots: SlotRange) -> bool:
    return file.slot_min is None or file.slot_max is None or (file.slot_min <= slots.last and file.slot_max >= slots.first)


def _expose_parent(connection: duckdb.DuckDBPyConnection, lake: Lake, slots: SlotRange) -> None:
    """Make the blocks from the parent of this range's first one up to the range a view: `earlier_blocks`."""
    parent = connection.execute("select max(parent_slot) from blocks where parent_slot < ?", [slots.first]).fetchall()[0][0]
    earlier = slots if parent is None else SlotRange(parent, slots.first - 1)
    files = [] if parent is None else lake.files(schemas.BLOCKS, first_slot=earlier.first, last_slot=earlier.last)
    _expose(connection, lake, schemas.BLOCKS, [file for file in files if file.rows and file.key != slots.key], earlier, name="earlier_blocks")


def _examine(connection: duckdb.DuckDBPyConnection, finding: Finding) -> None:
    """Add what an invariant finds among the rows exposed."""
    sql = finding.invariant.sql
    counts = connection.execute(f"select explained, count(*) from ({sql}) group by explained").fetchall()  # noqa: S608
    for reason, count in counts:
        if reason is not None:
            finding.explained[reason] = finding.explained.get(reason, 0) + count
            continue
        finding.violations += count
        if wanted := EXAMPLES - len(finding.examples):
            result = connection.execute(f"select * exclude (explained) from ({sql}) where explained is null order by all limit {wanted}")  # noqa: S608
            names = [column[0] for column in result.description]
            finding.examples += [dict(zip(names, row, strict=True)) for row in result.fetchall()]
