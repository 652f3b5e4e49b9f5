"""Segments: some slots' rows of every table, one Parquet file each, of the same columns as the lake's.

Belongs here: writing and reading the files of a segment, on one core or on all of them. Does not belong here: which segments
count, and for how long (`blyan.solana.landing`).

Nobody sees a segment before a head names it, so its files may be written in any order and by any process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, groupby, pairwise
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from blyan import schemas
from blyan.digest import in_key_order
from blyan.errors import PermanentError, TransientError
from blyan.lake import Lake
from blyan.schemas import RAW_BLOCKS, Table
from blyan.solana.ingest import DERIVED, collector_paused, normalise_unit, raw_rows
from blyan.solana.sources import RawRecord, SlotState
from blyan.stage import compression_of, conform, stats_columns
from blyan.store import errors_of
from blyan.workers import may_start, pool, without_interrupts

FOLDER = "landing"

LANDED = (RAW_BLOCKS, *DERIVED)
"""Every table of a segment."""

SHARED_BYTES = 16 << 20
"""Payload from which the cores share the work: a third of a second of it, to a hundredth for handing it over."""

POOL_IDLE_S = 60.0
"""Processes that had no work for so long are ended: catching up is over."""


class Segment(Struct, frozen=True):
    """Some slots of a range.

    Attributes:
        name: folder of its files, never used twice.
        first, last: bounds of its slots.
        count: how many slots.
        slots: (slot, block hash; None where skipped), in order; left out once they are final and merged.
        rows: rows of each table, by name of table; a table without rows has no file.
        size: bytes of its files.
    """

    name: str
    first: int
    last: int
    count: int
    slots: list[tuple[int, str | None]]
    rows: dict[str, int]
    size: int


def path_of(key: str, segment: str, table: Table) -> str:
    """Where a segment has its rows of a table, under the lake's root."""
    return f"{FOLDER}/{schemas.RANGE_COLUMN}={key}/{segment}/{table.short_name}.parquet"


def read_rows(lake: Lake, key: str, segment: Segment, table: Table, columns: list[str] | None = None) -> pa.Table:
    """A segment's rows of a table, or some columns of them."""
    schema = table.arrow_schema() if columns is None else pa.schema([table.arrow_schema().field(name) for name in columns])
    if not segment.rows.get(table.name):
        return schema.empty_table()
    path = path_of(key, segment.name, table)
    with errors_of(lake.store.uri(path)), lake.store.open(path) as file:
        return pq.read_table(file, columns=columns).cast(schema)


def slot_of(record: RawRecord) -> int:
    """The slot of a record that is to be landed.

    Raises:
        PermanentError: it has none.
    """
    if record.slot is None:
        raise PermanentError("a record without a slot cannot be landed", where=record.origin, remedy="report this as a defect of the source")
    return record.slot


class SegmentWriter:
    """Writes the segments of one lake. Not for several threads at once.

    Args:
        lake: where they go.
        source: name of the source in `raw_blocks`.
        processes: that share large work; 1 does all of it here.
        clock: seconds that never go back.
    """

    def __init__(self, lake: Lake, source: str, *, processes: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._lake, self._source, self._clock = lake, source, clock
        self._processes = processes if may_start() else 1
        self._pool: ProcessPoolExecutor | None = None
        self._used = clock()

    def write(self, key: str, records: Sequence[RawRecord], written: list[str]) -> list[Segment]:
        """Normalise and write the records of some slots of a range, in the order of slots; one segment, or one for each process.

        Args:
            key: the range.
            records: of whole slots.
            written: gets the paths of the files before they are there.

        Raises:
            TransientError: a process died.
        """
        parts = [(_name_of(part), part) for part in self._parts(records)]
        written += [path_of(key, name, table) for name, _ in parts for table in LANDED]
        if len(parts) == 1:
            self._rest()
            return [_write(self._lake, self._source, key, name, part) for name, part in parts]
        self._pool = self._pool or pool(self._processes, without_interrupts)
        futures = [self._pool.submit(_write, self._lake, self._source, key, name, part) for name, part in parts]
        try:
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            self.close()
            raise TransientError(
                "a worker process died, most often for want of memory; nothing of the segment is visible",
                where=f"{FOLDER} {key}",
                remedy="it is tried again; if it happens again, lower BLYAN_WORKERS or give the machine more memory",
            ) from error
        finally:
            self._used = self._clock()

    def rewrite(self, key: str, slots: list[tuple[int, str | None]], parts: Mapping[str, Iterable[pa.Table]], written: list[str]) -> Segment:
        """Write rows that are there already as a new segment; the parts of a table follow each other in the order of its key."""
        name = f"{slots[0][0]:012d}-{uuid4().hex[:12]}"
        written += [path_of(key, name, table) for table in LANDED]
        return _write_tables(self._lake, key, name, slots, parts)

    def close(self) -> None:
        """End the processes. They are started again when there is work for them."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _rest(self) -> None:
        if self._pool is not None and self._clock() - self._used >= POOL_IDLE_S:
            self.close()

    def _parts(self, records: Sequence[RawRecord]) -> list[list[RawRecord]]:
        """The records, cut into parts of about equal length, each of whole slots."""
        slots = [list(group) for _, group in groupby(records, key=slot_of)]
        count = min(self._processes, len(slots)) if sum(len(record.payload) for record in records) >= SHARED_BYTES else 1
        edges = [len(slots) * at // count for at in range(count + 1)]
        return [list(chain.from_iterable(slots[first:end])) for first, end in pairwise(edges)]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _name_of(records: Sequence[RawRecord]) -> str:
    return f"{slot_of(records[0]):012d}-{uuid4().hex[:12]}"


def _write(lake: Lake, source: str, key: str, name: str, records: list[RawRecord]) -> Segment:
    raw = raw_rows(records, source)
    with collector_paused():
        tables = {RAW_BLOCKS.name: raw, **normalise_unit(raw.to_pylist())}
    slots = [(slot_of(record), record.block_hash) for record in records if record.state is not SlotState.REJECTED]
    return _write_tables(lake, key, name, slots, {name: [rows] for name, rows in tables.items()})


def _write_tables(lake: Lake, key: str, name: str, slots: list[tuple[int, str | None]], parts: Mapping[str, Iterable[pa.Table]]) -> Segment:
    rows, size = {}, 0
    for table in LANDED:
        made, octets = _write_file(lake, table, path_of(key, name, table), parts[table.name])
        if made:
            rows[table.name] = made
            size += octets
    # All at once: two waits for the disk a file, one after the other, took longer than writing them.
    lake.store.sync(path_of(key, name, table) for table in LANDED if table.name in rows)
    return Segment(name, slots[0][0], slots[-1][0], len(slots), slots, rows, size)


def _write_file(lake: Lake, table: Table, path: str, parts: Iterable[pa.Table]) -> tuple[int, int]:
    """Rows and bytes of a file, a row group for each part; no file where there are no rows."""
    full = (in_key_order(table, conform(table, part, where=path), where=path) for part in parts if part.num_rows)
    first = next(full, None)
    if first is None:
        return 0, 0
    compression, level = compression_of(table)
    with lake.store.create(path, durable=False) as upload:
        rows = 0
        with pq.ParquetWriter(
            upload.stream,
            first.schema,
            compression=compression,
            compression_level=level,
            store_schema=False,
            write_statistics=stats_columns(table),
        ) as writer:
            for part in chain([first], full):
                writer.write_table(part if part.schema == first.schema else part.cast(first.schema))
                rows += part.num_rows
        size = upload.stream.tell()
    return rows, size
