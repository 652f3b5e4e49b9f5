"""What a statement reads: one version of each table and one head of the landing, as a small text that reads the same again.

Belongs here: which files that is, which ranges they are of, how sure and how late they are, and the pin that is kept of it.
Does not belong here: statements (`blyan.query.gate`), reading files (`blyan.query.sandbox`), the rule of the hand-over (`blyan.solana.landing`).

A **pin** names versions and segments, not rows. It is canonical JSON, so its SHA-256 names it. It reads the same rows for as long as
the log has the version and the store has the files: a file that is gone is an error that names it, never fewer rows.

The head is read first and the logs after it. A log is opened again only where a newer version stands in it, which two looks for names tell.
"""

from __future__ import annotations

import copy
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import Any

import msgspec
from msgspec import Struct

from blyan.errors import MissingObjectError, PermanentError
from blyan.lake import DataFile, Lake
from blyan.query.engine import all_tables
from blyan.schemas import COMPLETENESS, RANGE_COLUMN, VIEWS, Table
from blyan.solana.commitment import Commitment
from blyan.solana.landing import Head, read_head
from blyan.solana.segments import FOLDER, LANDED
from blyan.stage import slot_column

FORMAT = 1
"""Version of a pin. A newer one is refused."""

SLOT_MS = 400
"""Milliseconds of a slot, as Solana aims at: what `behind_ms` counts for a slot that is not here."""

KEPT_VERSIONS = 64
"""Tables of which the files of the newest version are remembered, so that a statement need not open the log."""

KEPT_SNAPSHOTS = 256
"""Snapshots that are remembered, by what they are of, for as long as nothing moves: a hot statement takes one for each request."""

TIME_SLACK = timedelta(milliseconds=1)
"""The log has timestamps to the millisecond, and rounds the largest down."""


class Bounds(Struct, frozen=True, omit_defaults=True):
    """What rows of a table can matter to a statement; absent means no bound.

    Attributes:
        first, last: slots, both included.
        keys: ranges.
        since, until: of the table's first timestamp column, both included.
    """

    first: int | None = None
    last: int | None = None
    keys: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def may_hold(self, key: str | None, low: int | None, high: int | None, start: datetime | None = None, end: datetime | None = None) -> bool:
        """Whether a file of a range, with these bounds of its own, may hold such rows. Unknown bounds may."""
        return not (
            (self.keys is not None and key is not None and key not in self.keys)
            or (self.first is not None and high is not None and high < self.first)
            or (self.last is not None and low is not None and low > self.last)
            or (self.since is not None and end is not None and end + TIME_SLACK < self.since)
            or (self.until is not None and start is not None and start > self.until)
        )

    def or_else(self, other: Bounds) -> Bounds:
        """Bounds of the rows that either allows."""

        def hull(choose: Any, one: Any, two: Any) -> Any:
            return None if one is None or two is None else choose(one, two)

        return Bounds(
            hull(min, self.first, other.first),
            hull(max, self.last, other.last),
            hull(lambda one, two: tuple(sorted({*one, *two})), self.keys, other.keys),
            hull(min, self.since, other.since),
            hull(max, self.until, other.until),
        )


EVERYTHING = Bounds()


class LandedFile(Struct, frozen=True, array_like=True):
    """A segment's rows of a table: its range, its name, and the bounds of its slots."""

    key: str
    segment: str
    first: int
    last: int


class TableAt(Struct, frozen=True):
    """A table as it is read: its version, None where only the landing has it, and the segments."""

    version: int | None
    landed: list[LandedFile] = []


class Tip(Struct, frozen=True):
    """What the head said when it was read; see `Head`."""

    generation: int
    written_at: float
    processed: int
    finalized: int
    checkpoint: int
    announced: list[tuple[int, str]]
    ranges: list[str]


class Pin(Struct, frozen=True):
    """A snapshot as it is kept.

    Attributes:
        tables: by name in the lake.
        tip: None where nothing was ever landed, and where a version was asked for.
        bounds: of the tables that have any.
        slot: only rows up to this slot are read.
        taken_at: Unix seconds.
    """

    tables: dict[str, TableAt]
    tip: Tip | None
    bounds: dict[str, Bounds] = {}
    slot: int | None = None
    taken_at: float = 0.0
    format: int = FORMAT

    def text(self) -> bytes:
        """Canonical JSON: the same pin, the same bytes."""
        return msgspec.json.encode(self, order="deterministic")


class ReadFile(Struct, frozen=True):
    """A file to read: its path under the root of the lake, and its range."""

    path: str
    key: str | None


class Reading(Struct, frozen=True):
    """What every answer says of what it read.

    Attributes:
        versions: of each table; None where only the landing has it.
        ranges: the digest of what was read of each range, by table: a cache's key is made of it.
        up_to_slot: newest slot that every table read has rows of, or windows that begin with it; None where they have none.
        finality: `finalized` or `confirmed`, of the newest slot.
        finalized_to: newest slot that is final, of those; -1 where none is.
        behind_slots: slots that the node had announced beyond `up_to_slot`; None where nobody follows the chain.
        behind_ms: `behind_slots` at 400 ms each, and the age of the head; None likewise.
        generation: of the landing's head; None likewise.
        as_of_slot: rows of later slots were left out because that was asked for.
    """

    versions: dict[str, int | None]
    ranges: dict[str, dict[str, str]]
    up_to_slot: int | None
    finality: str | None
    finalized_to: int | None
    behind_slots: int | None
    behind_ms: int | None
    generation: int | None
    as_of_slot: int | None = None


class Snapshot:
    """The files of a pin.

    Attributes:
        pin: what is kept of it.
        files: of each table, by its name, in a fixed order.
        reading: what answers say of it.
    """

    def __init__(self, pin: Pin, standing: Mapping[str, list[DataFile]]) -> None:
        self.pin = pin
        self.files: dict[str, list[ReadFile]] = {}
        ranges: dict[str, dict[str, str]] = {}
        tops: list[tuple[int, int]] = []
        landed_keys = set(pin.tip.ranges) if pin.tip else set()
        for name, at in pin.tables.items():
            bounds = pin.bounds.get(name, EVERYTHING)
            left_out = landed_keys if name in _LANDED else set()
            whole = [file for file in standing.get(name, []) if file.key not in left_out]
            read = [
                file
                for file in whole
                if bounds.may_hold(file.key, file.slot_min, file.slot_max, file.time_min, file.time_max)
                and (pin.slot is None or file.slot_min is None or file.slot_min <= pin.slot)
            ]
            landed = [file for file in at.landed if bounds.may_hold(file.key, file.first, file.last) and (pin.slot is None or file.first <= pin.slot)]
            self.files[name] = [ReadFile(f"{name}/{file.name}", file.key) for file in read]
            self.files[name] += [ReadFile(f"{FOLDER}/{RANGE_COLUMN}={file.key}/{file.segment}/{_short(name)}.parquet", file.key) for file in landed]
            ranges[name] = {file.key or "": file.digest or file.name for file in read} | _landed_digests(landed)
            sure = max((file.slot_max for file in whole if file.slot_max is not None), default=-1)
            newest = max([sure, *(file.last for file in at.landed)])
            # All that the lake has is final, and of the landing what lies before its checkpoint.
            final = max(sure, min(newest, pin.tip.checkpoint - 1 if pin.tip else newest))
            if newest >= 0 and tables_by_name()[name].partition_by:
                tops.append((newest, final) if pin.slot is None else (min(newest, pin.slot), min(final, pin.slot)))
        up_to, finalized_to = (min(top) for top in zip(*tops, strict=True)) if tops else (None, None)
        self.reading = _reading(pin, ranges, up_to, finalized_to)

    def retaken(self, now: float) -> Snapshot:
        """The same snapshot where another look found that nothing has moved: only the time is another."""
        found = copy.copy(self)
        found.pin = msgspec.structs.replace(self.pin, taken_at=now)
        reading = self.reading
        found.reading = _reading(found.pin, reading.ranges, reading.up_to_slot, reading.finalized_to)
        return found

    @cached_property
    def layout(self) -> str:
        """SHA-256 over the files: what the order of rows that have no other depends on, besides what `cache_key` covers."""
        return hashlib.sha256(msgspec.json.encode([[name, [file.path for file in files]] for name, files in self.files.items()])).hexdigest()

    @property
    def is_settled(self) -> bool:
        """Whether all of it is from the lake, and stays until a range is made again: nothing is of the tail."""
        of_tail = any(file.path.startswith(f"{FOLDER}/") for files in self.files.values() for file in files)
        return not of_tail and not (COMPLETENESS.name in self.pin.tables and self.pin.tip is not None)

    @cached_property
    def cache_key(self) -> str:
        """SHA-256 over all that the answer to a statement depends on besides its text and parameters."""
        tip = self.pin.tip
        parts: list[Any] = [sorted((name, sorted(found.items())) for name, found in self.reading.ranges.items()), self.pin.slot]
        if COMPLETENESS.name in self.pin.tables and tip is not None:
            parts.append([tip.checkpoint, tip.announced, tip.ranges])
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


class Snapshots:
    """Takes snapshots of one lake. May be used by several threads.

    Args:
        lake: the lake.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._newest: dict[str, tuple[int, list[DataFile]]] = {}
        self._taken: OrderedDict[Any, tuple[Head | None, list[Any], Snapshot]] = OrderedDict()
        self._turn = threading.Lock()

    def forget(self) -> None:
        """Look into every log again."""
        with self._turn:
            self._newest.clear()
            self._taken.clear()

    def take(self, tables: Iterable[str], bounds: Mapping[str, Bounds] | None = None, *, slot: int | None = None) -> Snapshot:
        """What stands now.

        Args:
            tables: names in the lake, of views too.
            bounds: what rows of them matter.
            slot: leave out what belongs to later slots, as if the chain had ended there.

        Raises:
            MissingObjectError: there is no such table in the lake.
            PermanentError: a table is made of all slots, so it cannot be had as of one.
        """
        head, read = read_head(self._lake), _with_sources(tables)
        newest = {table.name: self._newest_of(table) for table in read}
        now, place, stands = round(time.time(), 3), (tuple(newest), _frozen(bounds), slot), [each and each[1] for each in newest.values()]
        with self._turn:
            known = self._taken.get(place)
        # Compared as objects: the same bytes of the head are the same object, and so are the files of a version.
        if known is not None and known[0] is head and all(one is other for one, other in zip(known[1], stands, strict=True)):
            return known[2].retaken(now)
        found, standing = {}, {}
        for table in read:
            if slot is not None:
                _check_slots(table)
            landed, there = _landed(head, table), newest[table.name]
            if there is None and landed is None:
                raise MissingObjectError(f"{table.group}.{table.short_name} has not been made yet", remedy="ask `show tables` for those that were")
            version, standing[table.name] = there or (None, [])
            found[table.name] = TableAt(version, landed or [])
        snapshot = Snapshot(Pin(found, _tip(head), _of(found, bounds), slot, now), standing)
        with self._turn:
            self._taken[place] = (head, stands, snapshot)
            while len(self._taken) > KEPT_SNAPSHOTS:
                self._taken.popitem(last=False)
        return snapshot

    def at(self, tables: Iterable[str], versions: Mapping[str, int] | int, bounds: Mapping[str, Bounds] | None = None) -> Snapshot:
        """Versions of the tables, without the landing, which has none.

        Args:
            tables: names in the lake, of views too.
            versions: of each table by name, or one for all.
            bounds: what rows of them matter.

        Raises:
            MissingObjectError: a table has no such version, or no longer.
            PermanentError: no version was named for a table.
        """
        found, standing = {}, {}
        named = versions if isinstance(versions, int) else {name.replace(".", "/"): version for name, version in versions.items()}
        for table in _with_sources(tables):
            version = named if isinstance(named, int) else named.get(table.name)
            if version is None:
                raise PermanentError(f"no version of {table.group}.{table.short_name} was named", remedy="name one for every table that is read")
            standing[table.name] = self._files(table, version)
            found[table.name] = TableAt(version)
        return Snapshot(Pin(found, None, _of(found, bounds), None, round(time.time(), 3)), standing)

    def again(self, pin: bytes) -> Snapshot:
        """The snapshot of a pin.

        Raises:
            PermanentError: it cannot be read, or a newer release made it.
            MissingObjectError: the log no longer has a version.
        """
        try:
            kept = msgspec.json.decode(pin, type=Pin)
        except msgspec.DecodeError as error:
            raise PermanentError("the pin cannot be read", where="pin", remedy="use it as it was given") from error
        if kept.format > FORMAT:
            raise PermanentError(f"the pin has format {kept.format}, this release reads up to {FORMAT}", where="pin", remedy="update blyan")
        said = [part for at in kept.tables.values() for file in at.landed for part in (file.key, file.segment)]
        said += [*kept.tip.ranges, *(key for _, key in kept.tip.announced)] if kept.tip else []
        if not all(name in tables_by_name() for name in kept.tables) or not all(_PLAIN.issuperset(part) for part in said):
            raise PermanentError("the pin names what is no table or no segment", where="pin", remedy="use it as it was given")
        standing = {name: self._files(tables_by_name()[name], at.version) for name, at in kept.tables.items() if at.version is not None}
        return Snapshot(kept, standing)

    def _newest_of(self, table: Table) -> tuple[int, list[DataFile]] | None:
        with self._turn:
            known = self._newest.get(table.name)
        if known is not None and self._lake.is_newest(table, known[0]):
            return known
        found = self._lake.files_at(table)
        with self._turn:
            self._newest.pop(table.name, None)
            if found is not None:
                self._newest[table.name] = found
            while len(self._newest) > KEPT_VERSIONS:
                self._newest.pop(next(iter(self._newest)))
        return found

    def _files(self, table: Table, version: int) -> list[DataFile]:
        with self._turn:
            known = self._newest.get(table.name)
        if known is not None and known[0] == version:
            return known[1]
        found = self._lake.files_at(table, version)
        if found is None:
            raise MissingObjectError(f"{table.group}.{table.short_name} is not in the lake", remedy="ask `show tables` for what there is")
        return found[1]


_LANDED = {table.name for table in LANDED}

_PLAIN = set("0123456789abcdefghijklmnopqrstuvwxyz-")
"""Characters of a range's key and a segment's name: a pin that comes from outside can name nothing else."""


@cache
def tables_by_name() -> dict[str, Table]:
    """Every table that the lake may have, by its name there."""
    return {table.name: table for table in all_tables()}


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _with_sources(names: Iterable[str]) -> list[Table]:
    """The tables, those that views are made of among them, each once and in a fixed order."""
    stored = {COMPLETENESS.name if name in VIEWS else name for name in names}
    return [tables_by_name()[name] for name in sorted(stored)]


def _frozen(bounds: Mapping[str, Bounds] | None) -> tuple[tuple[str, Bounds], ...]:
    return tuple(sorted((bounds or {}).items(), key=lambda item: item[0]))


def _of(found: Mapping[str, TableAt], bounds: Mapping[str, Bounds] | None) -> dict[str, Bounds]:
    return {name: bound for name, bound in sorted((bounds or {}).items()) if name in found and bound != EVERYTHING}


def _check_slots(table: Table) -> None:
    if table.partition_by != (RANGE_COLUMN,) or slot_column(table) is None:
        raise PermanentError(
            f"{table.group}.{table.short_name} is made of all slots, so there is none as of a slot", remedy="ask for one of its versions instead"
        )


def _landed(head: Head | None, table: Table) -> list[LandedFile] | None:
    if head is None or table.name not in _LANDED:
        return None
    found = [
        LandedFile(landed.key, segment.name, segment.first, segment.last)
        for landed in head.ranges
        for segment in landed.segments
        if segment.rows.get(table.name)
    ]
    return sorted(found, key=lambda file: (file.key, file.first, file.segment))


def _tip(head: Head | None) -> Tip | None:
    if head is None:
        return None
    keys = sorted(head.range_keys())
    return Tip(head.generation, head.written_at, head.processed, head.finalized, head.checkpoint, list(head.announced), keys)


def _landed_digests(landed: Iterable[LandedFile]) -> dict[str, str]:
    """Of what was read of each range of the landing: a segment never changes, and its name is never used twice."""
    names: dict[str, list[str]] = {}
    for file in landed:
        names.setdefault(file.key, []).append(file.segment)
    return {key: hashlib.sha256("\n".join(found).encode()).hexdigest() for key, found in names.items()}


def _reading(pin: Pin, ranges: dict[str, dict[str, str]], up_to: int | None, finalized_to: int | None) -> Reading:
    tip = pin.tip
    versions = {name: at.version for name, at in pin.tables.items()}
    generation = tip.generation if tip else None
    if up_to is None or finalized_to is None:
        return Reading(versions, ranges, None, None, None, None, None, generation, pin.slot)
    finality = (Commitment.FINALIZED if finalized_to >= up_to else Commitment.CONFIRMED).label
    behind = behind_ms = None
    if tip is not None:
        behind = max(0, tip.processed - up_to)
        behind_ms = behind * SLOT_MS + max(0, round((pin.taken_at - tip.written_at) * 1000))
    return Reading(versions, ranges, up_to, finality, finalized_to, behind, behind_ms, generation, pin.slot)


def utc(moment: datetime) -> datetime:
    """A moment in UTC; one without a zone is in UTC already, as in the sessions that run statements."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
