"""A range of slots through the lake: from a source to raw blocks, from raw blocks to the tables.

Belongs here: the order of work for one range, in one process or several. Does not belong here: any orchestrator, what
a source is (`blyan.solana.sources`), what a row is (`blyan.solana.normalise`), or how rows are stored (`blyan.lake`).
"""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any
from uuid import uuid4

import pyarrow as pa

from blyan import schemas
from blyan.digest import UNIT_SLOTS, unit_of
from blyan.errors import BadRecordError, BlyanError, MissingObjectError, SettingError, TransientError, WrongChainError
from blyan.lake import Commit, Lake
from blyan.schemas import RAW_BLOCKS
from blyan.solana.decode import BadTransaction, Block, decode, raw_transactions
from blyan.solana.normalise import normalise
from blyan.solana.slots import SlotRange
from blyan.solana.sources import BlockSource, Format, RawRecord, SlotState
from blyan.stage import Staged
from blyan.workers import may_start, pool

Progress = Callable[[int, int], None]
"""Called with slots done and slots in all."""

DERIVED = (*schemas.NORMALISED, schemas.COMPLETENESS, schemas.QUARANTINE)
"""The tables that one pass over the raw blocks of a range makes."""

PARALLEL_BYTES = 64 << 20
"""Raw bytes from which starting worker processes (about a second each) pays."""

BATCH_BYTES = 48 << 20
"""Raw bytes normalised at once: larger batches share more, and hold more memory (about four times this)."""

WINDOW_BYTES = 16 << 20
"""Compressed raw blocks read at once."""

_CODEC = "zstd"
_LEVEL = 1


def no_progress(_done: int, _all: int) -> None:
    """Say nothing."""


def pin_chain(lake: Lake, source: BlockSource, expected: str | None) -> None:
    """Refuse to mix chains: the source must serve the chain that the settings and the lake name.

    Raises:
        WrongChainError: it serves another.
    """
    served = source.genesis_hash()
    if served is not None:
        pin_genesis(lake, served, expected)


def pin_genesis(lake: Lake, served: str, expected: str | None) -> None:
    """As `pin_chain`, where the genesis hash of what serves the blocks is known already.

    Raises:
        WrongChainError: it is not the one that the settings and the lake name.
    """
    if expected is not None and served != expected:
        raise WrongChainError(
            f"the source serves the chain with genesis hash {served}, the settings ask for {expected}",
            where="BLYAN_GENESIS_HASH",
            remedy="point BLYAN_SOURCE or BLYAN_RPC_URL at that chain, or correct BLYAN_GENESIS_HASH",
        )
    pinned = lake.pin("genesis_hash", served)
    if pinned != served:
        raise WrongChainError(
            f"the source serves the chain with genesis hash {served}, the lake holds {pinned}",
            where="BLYAN_LAKE",
            remedy="use another BLYAN_LAKE for another chain",
        )


def land(lake: Lake, source: BlockSource, slots: SlotRange, *, progress: Progress = no_progress) -> Commit:
    """Read a range from the source and keep it verbatim in `raw_blocks`.

    Raises:
        TransientError: the source failed; nothing was committed, and reading the range again is safe.
    """
    unplaced: list[RawRecord] = []
    with ExitStack() as stages:
        stage = stages.enter_context(lake.stage(RAW_BLOCKS, slots.key))
        placed = _placed(source.read(slots), slots, unplaced, progress)
        for unit, records in groupby(placed, key=lambda record: unit_of(record.slot)):
            stage.write(unit, raw_rows(records, source.name))
        staged = [stage.close()]
        if unplaced:
            rest = stages.enter_context(lake.stage(RAW_BLOCKS, slots.key))
            rest.write(unit_of(None), raw_rows(unplaced, source.name))
            staged.append(rest.close())
    # Outside: a stage deletes its files on any exception, and an interrupt may come just after the version that names them.
    return lake.commit(RAW_BLOCKS, slots.key, staged)


def _placed(records: Iterable[RawRecord], slots: SlotRange, unplaced: list[RawRecord], progress: Progress) -> Iterator[RawRecord]:
    """Records with a slot, checked to be one per slot in order beside the rejected ones, which follow their slot's own."""
    expected = slots.first
    held: list[RawRecord] = []
    for record in records:
        if record.state is SlotState.REJECTED:
            (unplaced if record.slot is None or record.slot not in slots else held).append(record)
            continue
        if record.slot != expected:
            raise SettingError(
                f"the source gave slot {record.slot} where {expected} was due", where="BLYAN_SOURCE", remedy="report this as a defect of the source"
            )
        yield from _due(held, before=expected)
        yield record
        expected += 1
        progress(expected - slots.first, len(slots))
    yield from _due(held, before=slots.last + 1)
    if expected != slots.last + 1:
        raise SettingError(f"the source ended at slot {expected} of {slots}", where="BLYAN_SOURCE", remedy="report this as a defect of the source")


def _due(held: list[RawRecord], *, before: int) -> Iterator[RawRecord]:
    due = [record for record in held if record.slot is not None and record.slot < before]
    held[:] = [record for record in held if record not in due]
    yield from sorted(due, key=lambda record: record.slot or 0)


def raw_rows(records: Iterable[RawRecord], source: str) -> pa.Table:
    """Records as rows of `raw_blocks`, payloads compressed."""
    rows: dict[str, list[Any]] = {name: [] for name in RAW_BLOCKS.column_names}
    numbers: dict[int | None, int] = {}
    for record in records:
        rejected = record.state is SlotState.REJECTED
        number = numbers[record.slot] = numbers.get(record.slot, 0) + 1 if rejected else 0
        payload = record.payload
        values = (
            record.slot,
            number,
            record.state.value,
            record.proof,
            record.detail or None,
            record.block_hash,
            record.parent_slot,
            source,
            record.format.value,
            len(payload),
            hashlib.sha256(payload).hexdigest() if payload else None,
            pa.Codec(_CODEC, _LEVEL).compress(payload, asbytes=True) if payload else None,
            record.origin or None,
        )
        for column, value in zip(rows.values(), values, strict=True):
            column.append(value)
    return pa.table(rows, schema=RAW_BLOCKS.arrow_schema())


@dataclass(frozen=True, slots=True)
class Normalised:
    """What normalising a range made.

    Attributes:
        commits: by name of table.
        landed, skipped, unknown: slots of the range.
        transactions: rows of `transactions`.
        quarantined: rows of `quarantine`.
    """

    commits: Mapping[str, Commit]
    landed: int
    skipped: int
    unknown: int
    transactions: int
    quarantined: int


@dataclass(slots=True)
class _Tally:
    """What one worker made."""

    staged: dict[str, Staged] = field(default_factory=dict)
    landed: int = 0
    skipped: int = 0
    unknown: int = 0
    transactions: int = 0
    quarantined: int = 0


def normalise_range(lake: Lake, slots: SlotRange, *, workers: int = 0, progress: Progress = no_progress) -> Normalised:
    """Make every derived table of a range from its raw blocks, without the source.

    Args:
        lake: where the raw blocks are and the tables go.
        slots: a range of the grid.
        workers: processes for a large range; 0 means one per core.
        progress: told of every unit of 16 slots.

    Raises:
        MissingObjectError: the range has no raw blocks.
        TransientError: a worker process died; nothing was committed.
    """
    files = lake.files(RAW_BLOCKS, keys=[slots.key])
    if not files:
        raise MissingObjectError(f"range {slots.key} has no raw blocks", where=RAW_BLOCKS.name, remedy=f"materialise {RAW_BLOCKS.name} for it first")
    units = sorted({unit_of(slot) for slot in range(slots.first, slots.last + 1, UNIT_SLOTS)} | {unit_of(slots.last)})
    size = sum(file.size for file in files)
    processes = min(workers or os.cpu_count() or 1, len(units))
    # Opening a table costs milliseconds however little is read, so a sparse range is read in long windows.
    window = max(1, int(WINDOW_BYTES * len(slots) / (UNIT_SLOTS * max(size, 1))))
    writer = uuid4().hex
    commits = {}
    try:
        if processes > 1 and size * 6 > PARALLEL_BYTES and may_start():
            tallies = _in_processes(lake, slots, _spans(units, processes), window, writer, progress)
        else:
            tallies = [_work(lake, slots, units, window, writer, lambda done: progress(done, len(slots)))]
        for table in DERIVED:
            commits[table.name] = lake.commit(table, slots.key, [tally.staged[table.name] for tally in tallies])
    except BaseException:
        with suppress(BlyanError):  # the error that led here is the one worth raising, and vacuum deletes what stays
            for table in DERIVED:
                lake.sweep(table, slots.key, writer)
        raise
    return Normalised(
        commits=commits,
        landed=sum(tally.landed for tally in tallies),
        skipped=sum(tally.skipped for tally in tallies),
        unknown=sum(tally.unknown for tally in tallies),
        transactions=sum(tally.transactions for tally in tallies),
        quarantined=sum(tally.quarantined for tally in tallies),
    )


_done_slots: Any = None


def _share(counter: Any) -> None:
    # A worker process has one counter, given when it starts.
    global _done_slots
    _done_slots = counter


def _spans(units: Sequence[str], count: int) -> list[Sequence[str]]:
    """The units cut into so many runs of about equal length."""
    edges = [len(units) * at // count for at in range(count + 1)]
    return [units[first:end] for first, end in pairwise(edges)]


def _in_processes(lake: Lake, slots: SlotRange, spans: Sequence[Sequence[str]], window: int, writer: str, progress: Progress) -> list[_Tally]:
    counter = multiprocessing.get_context("spawn").Value("q", 0)
    with pool(len(spans), _share, counter) as executor:
        futures = [executor.submit(_work_in_process, lake, slots, units, window, writer) for units in spans]
        try:
            while pending := [future for future in futures if not future.done()]:
                progress(counter.value, len(slots))
                _wait(pending)
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise TransientError(
                "a worker process died, most often for want of memory; nothing was committed",
                where=f"normalising range {slots.key}",
                remedy="run it again; if it happens again, lower BLYAN_WORKERS or give the machine more memory",
            ) from error
        finally:
            progress(counter.value, len(slots))


def _wait(futures: Iterable[Any]) -> None:
    from concurrent.futures import FIRST_COMPLETED, wait

    wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)


def _work_in_process(lake: Lake, slots: SlotRange, units: Sequence[str], window: int, writer: str) -> _Tally:
    before = 0

    def count(done: int) -> None:
        nonlocal before
        with _done_slots.get_lock():
            _done_slots.value += done - before
        before = done

    return _work(lake, slots, units, window, writer, count)


def _work(lake: Lake, slots: SlotRange, units: Sequence[str], window: int, writer: str, done: Callable[[int], None]) -> _Tally:
    """Normalise some units of a range into staged files."""
    tally = _Tally()
    finished = 0
    with ExitStack() as stack:
        stages = {table.name: stack.enter_context(lake.stage(table, slots.key, writer=writer)) for table in DERIVED}
        if units and units[0] == unit_of(slots.first):
            # Rejected records without a slot belong to the range's first worker.
            unplaced = _quarantine_of(_raw(lake, slots, None))
            if unplaced.num_rows:
                stages[schemas.QUARANTINE.name].write(unit_of(None), unplaced)
                tally.quarantined += unplaced.num_rows
        for at in range(0, len(units), window):
            for unit, rows in _by_unit(lake, slots, units[at : at + window]):
                with collector_paused():
                    tables = normalise_unit(rows)
                for name, made in tables.items():
                    stages[name].write(unit, made)
                _count(tally, tables)
                finished += sum(row["record"] == 0 for row in rows)
                done(finished)
        tally.staged = {name: stage.close() for name, stage in stages.items()}
    return tally


@contextmanager
def collector_paused() -> Iterator[None]:
    """No cyclic garbage collection meanwhile.

    A batch is a million objects without a cycle, and looking through them again and again took a fifth of the time
    (measured: 49,000 against 61,000 transactions per CPU-second).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _count(tally: _Tally, tables: Mapping[str, pa.Table]) -> None:
    states = tables[schemas.COMPLETENESS.name]["state"].to_pylist()
    tally.landed += states.count("landed")
    tally.skipped += states.count("skipped")
    tally.unknown += states.count("unknown")
    tally.transactions += tables[schemas.TRANSACTIONS.name].num_rows
    tally.quarantined += tables[schemas.QUARANTINE.name].num_rows


def _by_unit(lake: Lake, slots: SlotRange, units: Sequence[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Raw rows of consecutive units, one unit after the other, whatever the layout of the files."""
    part = SlotRange(max(int(units[0]), slots.first), min(int(units[-1]) + UNIT_SLOTS - 1, slots.last))
    rows = sorted(_raw(lake, slots, part), key=lambda row: (row["block_slot"], row["record"]))
    for unit, group in groupby(rows, key=lambda row: unit_of(row["block_slot"])):
        yield unit, list(group)


def _raw(lake: Lake, slots: SlotRange, part: SlotRange | None) -> list[dict[str, Any]]:
    """Raw rows of some slots, or the rejected ones without a slot."""
    first, last = (part.first, part.last) if part else (-1, -1)
    batches = lake.read(RAW_BLOCKS, key=slots.key, first_slot=first, last_slot=last, absent=part is None)
    return [row for batch in batches for row in batch.to_pylist()]


def normalise_unit(rows: list[dict[str, Any]]) -> dict[str, pa.Table]:
    """Every derived table of some raw rows."""
    parts: list[dict[str, pa.Table]] = []
    blocks: list[Block] = []
    statement: list[dict[str, Any]] = []
    batch: list[Block] = []
    failures: list[dict[str, Any]] = []
    pending = 0
    for row in rows:
        if row["state"] == SlotState.REJECTED:
            continue
        state, proof = row["state"], row["proof"]
        if row["payload"] is not None:
            try:
                block = decode(row["block_slot"], _payload(row), Format(row["format"]))
                _check_place(block)
            except BadRecordError as error:
                state, proof = SlotState.UNKNOWN, error.reason
                failures.append(_bad_row(row["block_slot"], None, error.reason, str(error), _payload(row), row["origin"]))
            else:
                batch.append(block)
                pending += row["payload_bytes"]
        statement.append({"slot": row["block_slot"], "state": "landed" if state == SlotState.PRESENT else state, "proof": proof})
        if pending > BATCH_BYTES:
            parts.append(normalise(batch))
            blocks += batch
            batch, pending = [], 0
    if batch or not parts:
        # Not of an empty rest: its columns are plain where those of blocks are dictionaries, and do not join them.
        parts.append(normalise(batch))
    blocks += batch
    tables = {table.name: pa.concat_tables([part[table.name] for part in parts], promote_options="permissive") for table in schemas.NORMALISED}
    of_slot = {row["block_slot"]: row for row in rows if row["state"] != SlotState.REJECTED}
    bad = failures + [row for block in blocks if block.bad for row in _bad_parts(block, of_slot[block.slot])]
    rejected = _quarantine_rows([row for row in rows if row["state"] == SlotState.REJECTED])
    tables[schemas.QUARANTINE.name] = _numbered(bad + rejected)
    tables[schemas.COMPLETENESS.name] = _completeness(statement, blocks, tables[schemas.QUARANTINE.name])
    return tables


def _payload(row: Mapping[str, Any]) -> bytes:
    content: bytes = pa.Codec(_CODEC).decompress(row["payload"], row["payload_bytes"], asbytes=True)
    return content


def _check_place(block: Block) -> None:
    if block.parent_slot is not None and block.parent_slot >= block.slot and block.slot > 0:
        raise BadRecordError(
            f"the block given for slot {block.slot} has parent slot {block.parent_slot}, so it is of another slot",
            reason="wrong_slot",
            where=f"slot {block.slot}",
            remedy="fetch the block again, or correct the name of its file",
        )


def _bad_row(slot: int | None, index: int | None, reason: str, detail: str, raw: bytes | None, origin: str | None) -> dict[str, Any]:
    return {"block_slot": slot, "tx_index": index, "reason": reason, "detail": detail, "raw": raw, "origin": origin}


def _bad_parts(block: Block, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Parts of a block that did not fit, with the bytes that the source gave for them."""
    raws = raw_transactions(_payload(row), Format(row["format"]))
    for item in block.bad:
        where = f"slot {block.slot}" if item.index is None else f"slot {block.slot}, transaction {item.index}"
        detail = str(BadRecordError(item.detail, where=where, remedy=_remedy_of(item)))
        raw = item.raw if item.index is None else raws.get(item.index, item.raw)
        yield _bad_row(block.slot, item.index, item.reason, detail, raw, row["origin"])


def _remedy_of(item: BadTransaction) -> str:
    if item.reason == "unknown_version":
        return f"update Blyan, then materialise {schemas.TRANSACTIONS.name} again: {RAW_BLOCKS.name} has the block"
    return f"materialise {RAW_BLOCKS.name} again, from another node or recording if this one gives the same"


def _quarantine_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records that the source rejected."""
    return [
        _bad_row(row["block_slot"], None, row["proof"], row["detail"] or "", _payload(row) if row["payload"] else None, row["origin"]) for row in rows
    ]


def _quarantine_of(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    return _numbered(_quarantine_rows(rows))


def _numbered(bad: list[dict[str, Any]]) -> pa.Table:
    counts: dict[int | None, int] = {}
    for row in bad:
        row["item"] = counts[row["block_slot"]] = counts.get(row["block_slot"], -1) + 1
    return pa.Table.from_pylist(bad, schema=schemas.QUARANTINE.arrow_schema())


def _completeness(statement: list[dict[str, Any]], blocks: Sequence[Block], quarantine: pa.Table) -> pa.Table:
    by_slot = {block.slot: block for block in blocks}
    quarantined: dict[int, int] = {}
    for slot in quarantine["block_slot"].to_pylist():
        quarantined[slot] = quarantined.get(slot, 0) + 1
    for row in statement:
        block = by_slot.get(row["slot"])
        row["block_hash"] = block.block_hash if block else None
        row["transactions"] = (len(block.transactions) or sum(map(bool, block.signatures))) if block else None
        row["transactions_stated"] = block.stated if block else None
        row["quarantined"] = quarantined.get(row["slot"], 0)
    return pa.Table.from_pylist(statement, schema=schemas.COMPLETENESS.arrow_schema())


def statement_of(lake: Lake, slots: SlotRange) -> dict[str, Any]:
    """The completeness statement of a materialised range, in brief; the table `solana/completeness` has it slot by slot.

    Everything in it follows from the stored rows, so anyone can make it again and compare.

    Raises:
        MissingObjectError: the range is not materialised.
    """
    partitions = {table.name: lake.partitions(table).get(slots.key) for table in (RAW_BLOCKS, *DERIVED)}
    missing = [name for name, partition in partitions.items() if partition is None]
    if missing:
        raise MissingObjectError(f"range {slots.key} is not materialised", where=", ".join(missing), remedy=f"run `blyan ingest --slots {slots}`")
    rows = [row for batch in lake.read(schemas.COMPLETENESS, key=slots.key, columns=["state", "quarantined"]) for row in batch.to_pylist()]
    states = [row["state"] for row in rows]
    return {
        "range": slots.key,
        "first_slot": slots.first,
        "last_slot": slots.last,
        "slots": {state: states.count(state) for state in ("landed", "skipped", "unknown")},
        "quarantined": partitions[schemas.QUARANTINE.name].rows,  # type: ignore[union-attr]
        "tables": {name: {"rows": partition.rows, "digest": partition.digest} for name, partition in partitions.items() if partition},
    }
