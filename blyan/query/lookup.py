"""Lookup: in which slots a signature, an account, a program or a mint occurs, without opening the tables.

Belongs here: the index, how it is made and asked. Does not belong here: the rows themselves (`blyan.query.records`).

A **run** is a Parquet file of (key, slot), sorted, for some ranges of one table; the key is half of the value's MD5, so keys
are uniform whatever the values are, and a collision only costs a look at a slot too many. Row groups have bounds of their keys, so one
look at a run reads one row group. A range adds a run; `MERGE` runs of about the same size become one, so that n ranges are O(log n) files.

The manifest says which ranges a run covers, each with the content digest that its table's partition had. A range whose digest in the
snapshot is another, or that no run covers, is simply not answered from the index, and is scanned: so an index that is behind, damaged
or deleted costs time and never rows. It can be deleted and made again at any moment.

The landing is not in runs: its files are small, never change, and are gone in minutes. A process that looks things up keeps the (key, slot) of
each of them in memory (`Tail`), for as long as the head names it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from blyan.errors import MissingObjectError
from blyan.lake import DataFile, Lake
from blyan.schemas import BALANCE_CHANGES, INSTRUCTIONS, TOKEN_TRANSFERS, TRANSACTIONS, Table
from blyan.store import errors_of

FOLDER = "serving/lookup"

FORMAT = 1
"""Version of a manifest. A reader takes a newer one for none."""

MERGE = 4
"""Runs of one size class that become one. Each costs a look-up 0.4 ms, which counts more than a row written a few times more often."""

MERGED_ROWS = 1 << 31
"""A run of so many rows is merged no further: its file has 20 GB."""

GROUP_ROWS = 4_096
"""Rows of a row group, at least: what one look reads of a run, in 0.2 ms."""

GROUPS = 16_384
"""Row groups of a run, about, at most: their bounds are read when it is opened, and kept."""

OPEN = 256
"""Runs that a process keeps open."""

KNOWN_S = 2.0
"""Seconds for which a manifest is relied on."""

READ_ROWS = 1 << 20

TAIL_PAIRS = 8 << 20
"""(key, slot) of the landing that a process keeps, 16 bytes each: four thousand mainnet slots of signatures. What is beyond is scanned."""

ORPHAN_S = 3_600.0
"""Seconds after which a file that the manifest does not name is deleted: longer than making a run, and than any query."""

SCHEMA = pa.schema([pa.field("key", pa.uint64(), nullable=False), pa.field("slot", pa.int64(), nullable=False)])


@dataclass(frozen=True, slots=True)
class Dimension:
    """What is looked up in a table: `values` is SQL that gives the values of a row, one or a list unnested."""

    name: str
    table: Table
    values: str


SIGNATURE = Dimension("signature", TRANSACTIONS, "signature")
ACCOUNT = Dimension("account", TRANSACTIONS, "unnest(accounts).pubkey")
PROGRAM = Dimension("program", INSTRUCTIONS, "program_id")
MINT = Dimension("mint", TOKEN_TRANSFERS, "mint")
PARTY = Dimension("party", TOKEN_TRANSFERS, "unnest([source, destination, authority])")
HOLDER = Dimension("holder", BALANCE_CHANGES, "account")

DIMENSIONS = (SIGNATURE, ACCOUNT, PROGRAM, MINT, PARTY, HOLDER)
"""Everything that is indexed."""


class Run(Struct, frozen=True):
    """One file. `ranges` are the digests of the ranges that it covers, by key."""

    name: str
    rows: int
    size: int
    ranges: dict[str, str]


class Manifest(Struct, frozen=True):
    """The runs of one dimension."""

    runs: list[Run] = []
    format: int = FORMAT

    def covering(self, digests: Mapping[str, str]) -> tuple[list[Run], set[str]]:
        """The runs that hold some of these ranges as they stand, and the ranges that they hold."""
        runs, covered = list[Run](), set[str]()
        for run in self.runs:
            held = {key for key, digest in run.ranges.items() if digests.get(key) == digest}
            if held - covered:
                runs.append(run)
                covered |= held
        return runs, covered


def read_manifest(lake: Lake, dimension: Dimension) -> Manifest:
    """The manifest as it stands; an empty one where there is none that this release reads."""
    try:
        manifest = msgspec.json.decode(lake.store.get(_manifest(dimension)), type=Manifest)
    except (MissingObjectError, msgspec.DecodeError):
        return Manifest()
    return manifest if manifest.format == FORMAT else Manifest()


def path_of(dimension: Dimension, run: Run) -> str:
    """Where a run is, under the lake's root."""
    return f"{FOLDER}/{dimension.name}/{run.name}.parquet"


@dataclass(frozen=True, slots=True)
class Updated:
    """What an update did: ranges that were indexed, runs that there are now, their rows and bytes."""

    dimension: str
    ranges: int
    runs: int
    rows: int
    bytes: int


def update(lake: Lake, dimensions: Iterable[Dimension] = DIMENSIONS, *, now: Callable[[], float] = time.time) -> Iterator[Updated]:
    """Index the ranges that the lake has and the index has not, then merge. For one process at a time; two cost only work.

    Raises:
        TransientError: the store failed; what was indexed before stands.
    """
    for dimension in dimensions:
        yield _update(lake, dimension, now)


def _update(lake: Lake, dimension: Dimension, now: Callable[[], float]) -> Updated:
    manifest = read_manifest(lake, dimension)
    files: dict[str, list[DataFile]] = {}
    for file in lake.files(dimension.table):
        files.setdefault(file.key or "", []).append(file)
    digests = {key: parts[0].digest or "" for key, parts in files.items()}
    # A run of which nothing counts any more goes; one that is partly old stays until it is merged.
    manifest = Manifest([run for run in manifest.runs if any(digests.get(key) == digest for key, digest in run.ranges.items())])
    _, covered = manifest.covering(digests)
    missing = sorted(digests.keys() - covered)
    for key in missing:
        run = _indexed(lake, dimension, key, digests[key], files[key])
        manifest = Manifest([*manifest.runs, run])
        while group := _mergeable(manifest.runs):
            merged = _merged(lake, dimension, group, digests)
            names = {part.name for part in group}
            manifest = Manifest([merged, *(part for part in manifest.runs if part.name not in names)])
        lake.store.put(_manifest(dimension), msgspec.json.encode(manifest))
    _sweep(lake, dimension, manifest, now())
    runs = manifest.runs
    return Updated(dimension.name, len(missing), len(runs), sum(run.rows for run in runs), sum(run.size for run in runs))


def _indexed(lake: Lake, dimension: Dimension, key: str, digest: str, files: Sequence[DataFile]) -> Run:
    """A run of one range."""
    return _write(
        lake,
        dimension,
        {key: digest},
        [f"{dimension.table.name}/{file.name}" for file in files],
        sum(file.rows for file in files),
        _pairs(dimension),
    )


def _pairs(dimension: Dimension) -> str:
    """The query of (key, slot) over `files`, sorted."""
    slot = dimension.table.key[0]
    return (
        f"select distinct md5_number_lower(value) as key, {slot} as slot from (select {dimension.values} as value, {slot} from files) "  # noqa: S608
        "where value is not null order by all"
    )


def _merged(lake: Lake, dimension: Dimension, group: Sequence[Run], digests: Mapping[str, str]) -> Run:
    """One run of several; what is known to be old is not claimed any more."""
    ranges = {key: digest for run in group for key, digest in run.ranges.items() if digests.get(key) == digest}
    paths, rows = [path_of(dimension, run) for run in group], sum(run.rows for run in group)
    return _write(lake, dimension, ranges, paths, rows, "select distinct key, slot from files order by all")


def _write(lake: Lake, dimension: Dimension, ranges: dict[str, str], paths: Sequence[str], about: int, query: str) -> Run:
    """A run of what a query makes of some files, of `about` so many rows."""
    from blyan.query.files import relation

    name = f"{min(ranges)}-{uuid4().hex[:12]}"
    run = Run(name, 0, 0, ranges)
    import duckdb

    with duckdb.connect() as connection, errors_of(lake.store.uri(FOLDER)):
        source = relation(connection, lake, paths, SCHEMA if paths[0].startswith(FOLDER) else dimension.table.arrow_schema())
        reader = connection.sql(f"with files as (select * from {source}) {query}").to_arrow_reader(READ_ROWS)  # noqa: S608
        rows = 0
        with lake.store.create(path_of(dimension, run)) as upload:
            with pq.ParquetWriter(upload.stream, SCHEMA, compression="zstd", compression_level=1, use_dictionary=False, store_schema=False) as writer:
                for batch in reader:
                    writer.write_batch(batch.cast(SCHEMA), row_group_size=max(GROUP_ROWS, about // GROUPS))
                    rows += batch.num_rows
            size = upload.stream.tell()
    return msgspec.structs.replace(run, rows=rows, size=size)


def _mergeable(runs: Sequence[Run]) -> list[Run]:
    """`MERGE` runs of one size class; none where there are not so many. A size class is the power of `MERGE` that the rows reach."""
    classes: dict[int, list[Run]] = {}
    for run in runs:
        if run.rows < MERGED_ROWS:
            classes.setdefault(_level(run), []).append(run)
    return next((group[:MERGE] for group in classes.values() if len(group) >= MERGE), [])


def _level(run: Run) -> int:
    # By ranges and not by rows alone: ranges of a quiet chain would never be merged with those of a busy one.
    level, size = 0, len(run.ranges)
    while size >= MERGE:
        level, size = level + 1, size // MERGE
    return level


def _sweep(lake: Lake, dimension: Dimension, manifest: Manifest, now: float) -> None:
    """Delete files that the manifest stopped naming long ago."""
    folder = f"{FOLDER}/{dimension.name}"
    named = {f"{run.name}.parquet" for run in manifest.runs}
    lake.store.delete(f"{folder}/{name}" for name, changed in lake.store.changed(folder).items() if name not in named and changed < now - ORPHAN_S)


def _manifest(dimension: Dimension) -> str:
    return f"{FOLDER}/{dimension.name}.json"


class Index:
    """Asks runs, and remembers where in them keys are. For several threads at once.

    Args:
        lake: where the runs are.
        clock: seconds that never go back.
    """

    def __init__(self, lake: Lake, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lake, self._clock = lake, clock
        self._manifests: dict[str, tuple[float, Manifest]] = {}
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self._turn = threading.Lock()

    def manifest(self, dimension: Dimension) -> Manifest:
        """The manifest, as it stood `KNOWN_S` ago at the earliest: an old one is only behind."""
        known = self._manifests.get(dimension.name)
        if known is None or self._clock() - known[0] >= KNOWN_S:
            known = self._manifests[dimension.name] = (self._clock(), read_manifest(self._lake, dimension))
        return known[1]

    def candidates(
        self, dimension: Dimension, runs: Sequence[Run], value: str, *, first: int, last: int, descending: bool, most: int
    ) -> tuple[list[int], bool]:
        """Slots in which a value may occur, in order, and whether there are more.

        Args:
            dimension: of which the runs are.
            runs: to ask.
            value: to find.
            first: of the slots.
            last: of them, itself included.
            descending: the newest first.
            most: slots to give.

        Raises:
            PermanentError: a run is damaged: delete the folder of the index.
            MissingObjectError: a run is gone: the manifest has others now.
        """
        key = key_of(value)
        found: set[int] = set()
        for run in runs:
            found.update(self._opened(dimension, run).slots(key, first, last, descending=descending, most=most + 1))
        slots = sorted(found, reverse=descending)
        return slots[:most], len(slots) > most

    def _opened(self, dimension: Dimension, run: Run) -> _Opened:
        with self._turn:
            opened = self._open.get(run.name)
            if opened is not None:
                self._open.move_to_end(run.name)
                return opened
        path = path_of(dimension, run)
        with errors_of(self._lake.store.uri(path)):
            opened = _Opened(self._lake.store.open(path), self._lake.store.uri(path))
        with self._turn:
            self._open[run.name] = opened
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
        return opened


class _Opened:
    """An open run, and the bounds of its row groups."""

    def __init__(self, source: Any, where: str) -> None:
        self._file, self._where, self._turn = pq.ParquetFile(source), where, threading.Lock()
        groups = [self._file.metadata.row_group(number) for number in range(self._file.num_row_groups)]
        bounds = [(group.column(0).statistics, group.column(1).statistics) for group in groups]
        self._lows = np.array([keys.min for keys, _ in bounds], np.uint64)
        self._highs = np.array([keys.max for keys, _ in bounds], np.uint64)
        self._slots = [(slots.min, slots.max) for _, slots in bounds]

    def slots(self, key: int, first: int, last: int, *, descending: bool, most: int) -> list[int]:
        """The first slots of a key within bounds, or the last ones; a key's slots lie in order, so no more groups are read than hold them."""
        begin, end = int(np.searchsorted(self._highs, np.uint64(key))), int(np.searchsorted(self._lows, np.uint64(key), "right"))
        found: list[int] = []
        for number in reversed(range(begin, end)) if descending else range(begin, end):
            low, high = self._slots[number]
            if high < first or low > last:
                continue
            with self._turn, errors_of(self._where):
                rows = self._file.read_row_group(number)
            keys, slots = rows["key"].to_numpy(), rows["slot"].to_numpy()
            some = slots[(keys == key) & (slots >= first) & (slots <= last)]
            found += (some[::-1] if descending else some).tolist()
            if len(found) >= most:
                break
        return found[:most]


class Tail:
    """Where values are in files that never change: those of the landing. For several threads at once.

    Args:
        lake: where the files are.
        most: (key, slot) to keep.
    """

    def __init__(self, lake: Lake, *, most: int = TAIL_PAIRS) -> None:
        self._lake, self._most = lake, most
        self._kept: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        self._turn = threading.Lock()

    @property
    def files(self) -> int:
        """Files that are kept, counted for each dimension."""
        return len(self._kept)

    def slots(self, connection: Any, dimension: Dimension, path: str, value: str, live: Collection[str]) -> list[int] | None:
        """Slots in which a value may occur in a file, in order; None where that is not kept, and the file has to be read.

        Args:
            connection: of DuckDB, that reads the file the first time it is asked for.
            dimension: of the value.
            path: of the file, under the lake's root.
            value: to find.
            live: paths of all files of this table that there are; others are let go of.
        """
        pairs = self._kept.get((dimension.name, path))
        if pairs is None:
            pairs = self._read(connection, dimension, path)
            with self._turn:
                for old in [(name, kept) for name, kept in self._kept if name == dimension.name and kept not in live]:
                    del self._kept[old]
                if sum(len(keys) for keys, _ in self._kept.values()) + len(pairs[0]) <= self._most:
                    self._kept[dimension.name, path] = pairs
                else:
                    # Nothing, so that it is not read for this again.
                    self._kept[dimension.name, path] = _NOT_KEPT
        keys, slots = pairs
        if pairs is _NOT_KEPT:
            return None
        key = np.uint64(key_of(value))
        found: list[int] = slots[int(np.searchsorted(keys, key)) : int(np.searchsorted(keys, key, "right"))].tolist()
        return found

    def _read(self, connection: Any, dimension: Dimension, path: str) -> tuple[np.ndarray, np.ndarray]:
        from blyan.query.files import relation

        source = relation(connection, self._lake, [path], dimension.table.arrow_schema())
        rows = connection.sql(f"with files as (select * from {source}) {_pairs(dimension)}").to_arrow_table().cast(SCHEMA)  # noqa: S608
        return rows["key"].to_numpy(), rows["slot"].to_numpy()


_NOT_KEPT = (np.empty(0, np.uint64), np.empty(0, np.int64))


def key_of(value: str) -> int:
    """The key of a value: the last eight bytes of its MD5, as DuckDB's `md5_number_lower` has them."""
    return int.from_bytes(hashlib.md5(value.encode(), usedforsecurity=False).digest()[8:], "little")
