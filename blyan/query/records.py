"""Records: rows of one table, by slot, time, account, program, mint or signature, a page at a time.

Belongs here: which files a question has to open, the order of rows, cursors, and what an answer says of its source. Does not belong
here: HTTP (`blyan.api`), SQL of others (`blyan.query`), how the index is made (`blyan.query.lookup`).

**A page** is read from a snapshot: the version of the table that stood when the first page was asked for, and the landing's head. The
cursor pins both, and the newest slot that was there, so that all pages together are what one page would have been. Rows of the landing
that were final stay what they are, wherever they move; where a fork took a slot away that was not final, the cursor is refused.

**What is opened.** Rows come in the order of the table's key, so ranges are walked in the order of their slots until the page is full.
Where the question names a value that is indexed, only the slots in which it occurs are opened, in the landing too; ranges that the index does
not cover are walked as without it.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec
import pyarrow as pa
from msgspec import Struct

from blyan.errors import BlyanError, MissingObjectError, PermanentError, TransientError
from blyan.lake import DataFile, Lake
from blyan.query.cache import ENTRY_BYTES, Content, key_of, rows_in_bytes
from blyan.query.files import relation
from blyan.query.lookup import Dimension, Index, Manifest, Run, Tail
from blyan.schemas import BLOCKS, Table
from blyan.solana.commitment import Commitment
from blyan.solana.landing import Head, read_head
from blyan.solana.segments import LANDED, path_of

SLOTS_AT_ONCE = 64
"""Slots of an index that are opened at once, at first; twice as many each time that they do not fill the page."""

RANGES_AT_ONCE = 1
"""Ranges that are opened at once, at first; likewise."""

MOST_AT_ONCE = 512

MOST_UNSURE = 100_000
"""Slots that are not final at once: half a day of them, which no chain that lives has."""

SLOT_MS = 400
"""Milliseconds that a slot of Solana is meant to take."""

NEVER = 1 << 62
"""Beyond every slot."""

log = logging.getLogger("blyan.query")


class SnapshotGoneError(PermanentError):
    """What a cursor was pinned to is not there any more; the question has to be asked again from the beginning."""


class CursorError(PermanentError):
    """A cursor cannot be read, or is of another question."""


class StoppedError(PermanentError):
    """A question was stopped."""


@dataclass(frozen=True, slots=True)
class Match:
    """A condition: SQL with `?` for each value."""

    sql: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """Rows of one table.

    Attributes:
        table: of the lake, with the slot as the first column of its key.
        matches: conditions, all of which hold.
        lookup: a dimension and the value in it, which the conditions ask for too.
        first_slot, last_slot: both included.
        from_time, to_time: of the block; the first included, the last not.
        descending: the newest first.
        alone: no two rows match, so that nothing has to be ordered, a third of the time of a look-up, and nothing is looked for behind it.
        within: slots outside of which no block is of that time, where that was looked up; it tells no questions apart.
    """

    table: Table
    matches: tuple[Match, ...] = ()
    lookup: tuple[Dimension, str] | None = None
    first_slot: int | None = None
    last_slot: int | None = None
    from_time: dt.datetime | None = None
    to_time: dt.datetime | None = None
    descending: bool = False
    alone: bool = False
    within: tuple[int, int] = (0, NEVER)

    def digest(self) -> str:
        """Tells questions apart, for cursors."""
        matches = [(match.sql, match.values) for match in self.matches]
        parts = [self.table.name, matches, self.first_slot, self.last_slot, self.from_time, self.to_time, self.descending]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


class Cursor(Struct, frozen=True, array_like=True):
    """Where a page ended, and what it was read from."""

    question: str
    after: list[Any]
    version: int | None
    newest: int
    landed: list[str]
    checkpoint: int
    forks: str

    def text(self) -> str:
        """As callers carry it."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str, question: Question) -> Cursor:
        """Read a cursor.

        Raises:
            CursorError: it is no cursor, or of another question.
        """
        try:
            cursor = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
        except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
            raise CursorError("it is not a cursor", where="cursor", remedy="give the `next` of a page as it came") from error
        kinds = [question.table.arrow_schema().field(name).type for name in question.table.key]
        good = len(cursor.after) == len(kinds) and all(_is(value, kind) for value, kind in zip(cursor.after, kinds, strict=False))
        if cursor.question != question.digest() or not good:
            raise CursorError("it is the cursor of another question", where="cursor", remedy="ask with the parameters of the first page")
        return cursor


def _is(value: Any, kind: pa.DataType) -> bool:
    if value is None:
        return True
    return isinstance(value, str) if pa.types.is_string(kind) else isinstance(value, int) and abs(value) < NEVER


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer was read from.

    Attributes:
        versions: of the table in the lake, by its name; None where it has none yet.
        up_to_slot: the newest slot that could be in the answer; None where there is none.
        finality: how sure that slot is, `finalized` or `confirmed`.
        finalized_to: every slot up to it is final.
        behind_slots: from there to the tip, as the follower last heard; None where nobody follows.
        behind_ms: the same as a time, and the age of what it heard; None likewise.
        generation: of the landing's head; None likewise.
    """

    versions: dict[str, int | None]
    up_to_slot: int | None = None
    finality: str | None = None
    finalized_to: int | None = None
    behind_slots: int | None = None
    behind_ms: int | None = None
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in order, the cursor of the next page (None: there is none), what they were read from, and the rows as they are remembered."""

    rows: pa.Table
    next: str | None
    reading: Reading
    content: Content | None = None


class Look:
    """What stands for a question: all that its page depends on, and what is said of that now.

    Args:
        question: what to read.
        snapshot: what there is.
        pinned: the cursor, if there is one.
    """

    def __init__(self, question: Question, snapshot: _Snapshot, pinned: Cursor | None) -> None:
        self.question, self.snapshot, self.pinned = question, snapshot, pinned
        self._first, self._last = _bounds(question, snapshot.newest, pinned.after[0] if pinned else None)
        self._walk = snapshot.walk(self._first, self._last, descending=question.descending)

    @property
    def is_settled(self) -> bool:
        """Whether every range that can matter is of the lake."""
        return all(key in self.snapshot.digests for key in self._walk)

    def key(self, rows: int) -> str:
        """Of the rows of a page: they are ordered by the table's key, so contents of ranges decide them, and files do not."""
        snapshot, question = self.snapshot, self.question
        ranges = [[key, snapshot.digests.get(key) or [file.path for file in snapshot.files[key]]] for key in self._walk]
        after = self.pinned.after if self.pinned else None
        return key_of("records", question.digest(), question.alone, self._first, self._last, after, rows, ranges)

    def content(self, page: Page) -> Content | None:
        """The rows of a page, to be remembered; None where they are too many."""
        if page.rows.nbytes > ENTRY_BYTES:
            return None
        after = list(page.rows.slice(page.rows.num_rows - 1).select(list(self.question.table.key)).to_pylist()[0].values()) if page.next else None
        rows = rows_in_bytes(page.rows.combine_chunks().to_batches(), page.rows.schema)
        return Content(rows, page.rows.num_rows, hashlib.sha256(rows).hexdigest(), page.next is not None, after=after)

    def page(self, content: Content) -> Page:
        """The page with rows that are remembered."""
        return Page(content.table(), self.following(content), self.snapshot.reading(), content)

    def following(self, content: Content) -> str | None:
        """The cursor of the page behind rows that are remembered."""
        return None if content.after is None else self.snapshot.cursor(self.question, content.after).text()

    def reading(self) -> Reading:
        """What is said of the source now."""
        return self.snapshot.reading()


@dataclass(slots=True)
class Opened:
    """What was opened for a question, for those who want to know what it cost."""

    files: int = 0
    runs: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class _Step:
    """Files to read at once, of slots that follow those of the step before. `slots` None: all of them."""

    paths: tuple[str, ...]
    slots: tuple[int, ...] | None = None


class Stop:
    """Ends a question from another thread, when its time is over or nobody waits for it any more."""

    def __init__(self) -> None:
        self.stopped = False
        self._connection: Any = None
        self._lock = threading.Lock()

    def watch(self, connection: Any) -> None:
        """What runs for the question from now on; None: nothing."""
        with self._lock:
            self._connection = connection

    def __call__(self) -> None:
        """End it."""
        with self._lock:
            self.stopped = True
            if self._connection is not None:
                self._connection.interrupt()


class Records:
    """Rows of a lake's tables. For several threads at once.

    Args:
        lake: where they are.
        threads: that DuckDB uses, for all questions together.
        memory: that it uses, as `1GB`.
    """

    def __init__(self, lake: Lake, *, threads: int = 2, memory: str = "1GB") -> None:
        import duckdb

        self._lake, self._index, self._tail = lake, Index(lake), Tail(lake)
        self._database = duckdb.connect(config={"threads": threads, "memory_limit": memory, "autoinstall_known_extensions": False})
        # A Parquet file of the lake is never changed, so its footer is read once.
        self._database.execute("set timezone = 'UTC'; set parquet_metadata_cache = true")
        self._standing: dict[str, _Held] = {}
        self._turn = threading.Lock()

    def look(self, question: Question, cursor: str | None = None) -> Look:
        """What stands for a question; `page` reads it.

        Raises:
            CursorError: the cursor is of another question.
            SnapshotGoneError: what it was pinned to is gone.
        """
        pinned = Cursor.parse(cursor, question) if cursor else None
        return Look(question, self._snapshot(question, pinned), pinned)

    def page(
        self,
        question: Question,
        *,
        rows: int,
        cursor: str | None = None,
        stop: Stop | None = None,
        opened: Opened | None = None,
        look: Look | None = None,
    ) -> Page:
        """One page.

        Args:
            question: what to read.
            rows: at most.
            cursor: `Page.next` of the page before.
            stop: ends it.
            opened: gets what was opened.
            look: at what stands, with this cursor, where somebody has one already.

        Raises:
            CursorError: the cursor is of another question.
            SnapshotGoneError: what it was pinned to is gone.
            StoppedError: it was stopped.
            TransientError: a file was deleted while it was read; ask again.
        """
        import duckdb

        stop, opened = stop or Stop(), opened if opened is not None else Opened()
        look = look or self.look(question, cursor)
        snapshot, pinned = look.snapshot, look.pinned
        connection = self._connection()
        stop.watch(connection)
        try:
            # One more than asked for tells whether there is a next page; of what is alone there is none, and the walk ends with it.
            found = self._collect(connection, question, snapshot, pinned, 1 if question.alone else rows + 1, opened, stop)
        except duckdb.InterruptException as error:
            raise StoppedError("it was stopped", where=question.table.name, remedy="ask for fewer slots, or with a filter") from error
        except duckdb.IOException as error:
            remedy = "ask again: the table was compacted, or the landing tidied, under the question"
            raise TransientError(f"a file is gone: {error}", where=question.table.name, remedy=remedy) from error
        finally:
            stop.watch(None)
            connection.close()
        following = None
        if found.num_rows > rows:
            found = found.slice(0, rows)
            last = found.slice(rows - 1, 1).select(list(question.table.key)).to_pylist()[0]
            following = snapshot.cursor(question, list(last.values())).text()
        return Page(found, following, snapshot.reading())

    def slots_of_time(self, start: dt.datetime | None, end: dt.datetime | None, *, stop: Stop | None = None) -> tuple[int, int] | None:
        """The first and the last slot whose blocks were made from one moment on and before another; None where there are none."""
        snapshot = self._snapshot(Question(BLOCKS), None)
        paths = [file.path for files in snapshot.files.values() for file in files]
        if not paths:
            return None
        connection, stop = self._connection(), stop or Stop()
        stop.watch(connection)
        try:
            matches = _times(start, end)
            query = f"select min(slot), max(slot) from {relation(connection, self._lake, paths, BLOCKS.arrow_schema())} where "  # noqa: S608
            query += " and ".join(match.sql for match in matches) or "true"
            ((first, last),) = connection.execute(query, [value for match in matches for value in match.values]).fetchall()
        finally:
            stop.watch(None)
            connection.close()
        return None if first is None else (first, last)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _connection(self) -> Any:
        with self._turn:
            return self._database.cursor()

    # Snapshots

    def _snapshot(self, question: Question, pinned: Cursor | None) -> _Snapshot:
        """What is there, or what a cursor pinned. The head is read first, as by every reader."""
        table = question.table
        head = read_head(self._lake) if table in LANDED else None
        if pinned is None:
            return _Snapshot.now(table, self._held(table), head)
        if pinned.forks and _forks(self._blocks(head, pinned.checkpoint, pinned.newest)) != pinned.forks:
            raise _gone("slots that were not final have become others")
        held = _Held.of(table, None, []) if pinned.version is None else self._held(table, pinned.version)
        return _Snapshot.again(table, pinned, held, head, lambda: self._held(table))

    def _blocks(self, head: Head | None, first: int, last: int) -> list[tuple[int, str | None]]:
        """Slot and hash of the blocks of some slots: from the head, or from their rows where it no longer lists them."""
        listed = head.slots() if head else {}
        if last - first > MOST_UNSURE:
            raise CursorError("it is not a cursor", where="cursor", remedy="give the `next` of a page as it came")
        if all(slot in listed for slot in range(first, last + 1)):
            return [(slot, listed[slot]) for slot in range(first, last + 1)]
        rows = self.page(Question(BLOCKS, first_slot=first, last_slot=last), rows=last - first + 1).rows
        return list(zip(rows["slot"].to_pylist(), rows["block_hash"].to_pylist(), strict=True))

    def _held(self, table: Table, version: int | None = None) -> _Held:
        """A version of a table; the newest where none is given."""
        known = self._standing.get(table.name)
        if known and known.version is not None and (version == known.version or (version is None and self._lake.is_newest(table, known.version))):
            return known
        try:
            found = self._lake.files_at(table, version)
        except MissingObjectError as error:
            raise _gone(error.what) from error
        held = _Held.of(table, *(found or (None, [])))
        if version is None:
            self._standing[table.name] = held
        return held

    # Reading

    def _collect(
        self, connection: Any, question: Question, snapshot: _Snapshot, pinned: Cursor | None, wanted: int, opened: Opened, stop: Stop
    ) -> pa.Table:
        """Rows, walking over the slots until there are enough."""
        schema, parts, count = question.table.arrow_schema(), [], 0
        direction = "desc nulls last" if question.descending else "asc nulls first"
        order = "" if question.alone else "order by " + ", ".join(f'"{name}" {direction}' for name in question.table.key)
        names = ", ".join(f'"{name}"' for name in schema.names)
        for step in self._steps(connection, question, snapshot, pinned, opened):
            if stop.stopped:
                raise StoppedError("it was stopped", where=question.table.name, remedy="ask for fewer slots, or with a filter")
            opened.files += len(step.paths)
            opened.steps += 1
            source = relation(connection, self._lake, step.paths, schema)
            condition, values = _conditions(question, snapshot.newest, pinned.after if pinned else None, step.slots)
            query = f"select {names} from {source} where {condition} {order} limit {wanted - count}"  # noqa: S608
            parts.append(connection.sql(query, params=values).to_arrow_table().cast(schema))
            count += parts[-1].num_rows
            if count >= wanted:
                break
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def _steps(self, connection: Any, question: Question, snapshot: _Snapshot, pinned: Cursor | None, opened: Opened) -> Iterator[_Step]:
        """What to open, in the order of slots."""
        first, last = _bounds(question, snapshot.newest, pinned.after[0] if pinned else None)
        walk = snapshot.walk(first, last, descending=question.descending)
        manifest = Manifest()
        kept: frozenset[str] = frozenset()
        if question.lookup and question.lookup[0].table == question.table:
            manifest, kept = self._index.manifest(question.lookup[0]), snapshot.tail()
        runs, covered = manifest.covering({key: snapshot.digests[key] for key in walk if key in snapshot.digests})
        opened.runs += len(runs)
        at_once = RANGES_AT_ONCE
        for (indexed, landed), group in groupby(walk, key=lambda key: (key in covered, key in kept)):
            keys = list(group)
            if indexed:
                yield from self._looked_up(question, runs, [file for key in keys for file in snapshot.files[key]], first, last)
                continue
            if landed:
                live = {file.path for key in kept for file in snapshot.files.get(key, [])}
                yield from self._in_tail(connection, question, [snapshot.files[key] for key in keys], live, first, last)
                continue
            while keys:
                paths = tuple(file.path for key in keys[:at_once] for file in snapshot.files[key] if file.may_hold(first, last))
                keys, at_once = keys[at_once:], min(MOST_AT_ONCE, at_once * 2)
                if paths:
                    yield _Step(paths)

    def _in_tail(
        self, connection: Any, question: Question, ranges: Sequence[Sequence[_File]], live: set[str], first: int, last: int
    ) -> Iterator[_Step]:
        """Steps of the slots of the landing in which the value is, a range after the other; `live` are the paths of all its files."""
        assert question.lookup is not None
        dimension, value = question.lookup
        for files in ranges:
            paths, slots = list[str](), set[int]()
            for file in files:
                found = self._tail.slots(connection, dimension, file.path, value, live) if file.may_hold(first, last) else []
                # What is not kept is read, as all slots that it may have.
                within = range(file.first, file.last + 1) if found is None else [slot for slot in found if first <= slot <= last]
                if within:
                    paths.append(file.path)
                    slots.update(within)
            if paths:
                yield _Step(tuple(paths), tuple(sorted(slots)) if len(slots) <= MOST_AT_ONCE else None)

    def _looked_up(self, question: Question, runs: Sequence[Run], files: Sequence[_File], first: int, last: int) -> Iterator[_Step]:
        """Steps of the slots that the index names, within files of ranges that follow each other."""
        assert question.lookup is not None
        dimension, value = question.lookup
        low, high = max(first, min(file.first for file in files)), min(last, max(file.last for file in files))
        most = SLOTS_AT_ONCE
        while low <= high:
            try:
                slots, more = self._index.candidates(dimension, runs, value, first=low, last=high, descending=question.descending, most=most)
            except BlyanError as error:
                # An index may be damaged or deleted at any moment: that costs time, and never rows.
                log.warning("the index of %s cannot be read, its ranges are walked: %s", dimension.name, error)
                yield _Step(tuple(file.path for file in files if file.may_hold(low, high)))
                return
            paths = tuple(file.path for file in files if any(file.may_hold(slot, slot) for slot in slots))
            if paths:
                yield _Step(paths, tuple(slots))
            if not more:
                return
            low, high = (low, slots[-1] - 1) if question.descending else (slots[-1] + 1, high)
            most = min(MOST_AT_ONCE, most * 2)


@dataclass(frozen=True, slots=True)
class _File:
    """A Parquet file, and the slots of its rows; all there are, where they are not known."""

    path: str
    first: int
    last: int

    def may_hold(self, first: int, last: int) -> bool:
        """Whether it may hold rows of these slots."""
        return self.first <= last and self.last >= first


@dataclass(frozen=True, slots=True)
class _Held:
    """What a version of a table has: files and digests by range, those without rows left out, and the newest slot of them; -1: none."""

    version: int | None
    files: dict[str, list[_File]]
    digests: dict[str, str]
    newest: int

    @classmethod
    def of(cls, table: Table, version: int | None, files: Sequence[DataFile]) -> _Held:
        """From the files that the log names."""
        found: dict[str, list[_File]] = {}
        for file in files:
            if file.rows:
                last = NEVER if file.slot_max is None else file.slot_max
                found.setdefault(file.key or "", []).append(_File(f"{table.name}/{file.name}", file.slot_min or 0, last))
        digests = {file.key or "": file.digest or "" for file in files if file.rows}
        return cls(version, found, digests, _newest(found))

    def without(self, keys: frozenset[str]) -> _Held:
        """The same without some ranges."""
        if keys.isdisjoint(self.files):
            return self
        files = {key: parts for key, parts in self.files.items() if key not in keys}
        return _Held(self.version, files, {key: digest for key, digest in self.digests.items() if key not in keys}, _newest(files))


def _newest(files: dict[str, list[_File]]) -> int:
    return max((file.last for parts in files.values() for file in parts if file.last < NEVER), default=-1)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Files by range, and what is pinned of them.

    Attributes:
        files: by range, those without rows left out.
        digests: of the ranges that are read from the lake.
        newest: slot that may be in an answer; -1 where there is none.
        checkpoint: every slot before it was final.
        landed: the ranges that were read from the landing, then.
        forks: digest of the slots that were not final.
    """

    table: Table
    version: int | None
    head: Head | None
    files: dict[str, list[_File]]
    digests: dict[str, str]
    newest: int
    checkpoint: int
    landed: frozenset[str]
    forks: str

    @classmethod
    def now(cls, table: Table, held: _Held, head: Head | None) -> _Snapshot:
        """What stands."""
        landed = frozenset(head.range_keys()) if head else frozenset[str]()
        held = held.without(landed)
        # A slot of the landing without rows of this table is known all the same.
        newest = max([held.newest, *(segment.last for part in (head.ranges if head else []) for segment in part.segments)])
        checkpoint = head.checkpoint if head else NEVER
        forks = _forks([pair for pair in head.slots().items() if checkpoint <= pair[0] <= newest]) if head else ""
        files = {**held.files, **_of_landing(table, head, landed)}
        return cls(table, held.version, head, files, held.digests, newest, checkpoint, landed, forks)

    @classmethod
    def again(cls, table: Table, pinned: Cursor, held: _Held, head: Head | None, newest: Callable[[], _Held]) -> _Snapshot:
        """What a cursor pinned.

        Args:
            table: of the question.
            pinned: the cursor.
            held: the version that it names.
            head: that stands now.
            newest: gives the version that stands now.
        """
        landed = frozenset(pinned.landed)
        held = held.without(landed)
        files, digests = {**held.files, **_of_landing(table, head, landed)}, held.digests
        if moved := landed - (head.range_keys() if head else set()):
            # What was in the landing and is in the lake by now has the same rows there: they were made from the same raw blocks.
            there = newest()
            files |= {key: there.files[key] for key in moved if key in there.files}
            digests = digests | {key: there.digests[key] for key in moved if key in there.digests}
        return cls(table, pinned.version, head, files, digests, pinned.newest, pinned.checkpoint, landed, pinned.forks)

    def cursor(self, question: Question, after: list[Any]) -> Cursor:
        """The cursor behind the row with this key."""
        return Cursor(question.digest(), after, self.version, self.newest, sorted(self.landed), min(self.checkpoint, self.newest + 1), self.forks)

    def walk(self, first: int, last: int, *, descending: bool) -> list[str]:
        """Ranges that may hold rows of these slots, in order: keys sort as slots do."""
        return sorted((key for key, files in self.files.items() if any(file.may_hold(first, last) for file in files)), reverse=descending)

    def tail(self) -> frozenset[str]:
        """The ranges that are read from the landing, and not, by a cursor that was pinned before, from where they moved to."""
        return frozenset(self.landed - self.digests.keys())

    def reading(self) -> Reading:
        """What an answer says of its source."""
        versions, head = {self.table.name: self.version}, self.head
        if self.newest < 0:
            return Reading(versions, generation=head.generation if head else None)
        final = min(self.newest, self.checkpoint - 1)
        sure = (Commitment.FINALIZED if final == self.newest else Commitment.CONFIRMED).label
        if head is None:
            return Reading(versions, self.newest, sure, final)
        behind = max(0, head.processed - self.newest)
        age_ms = max(0, round((time.time() - head.written_at) * 1e3))
        return Reading(versions, self.newest, sure, final, behind, behind * SLOT_MS + age_ms, head.generation)


def _of_landing(table: Table, head: Head | None, keys: frozenset[str]) -> dict[str, list[_File]]:
    """Files of the landing in these ranges, by range."""
    found: dict[str, list[_File]] = {}
    for landed in head.ranges if head and table in LANDED else ():
        for segment in landed.segments:
            if landed.key in keys and segment.rows.get(table.name):
                found.setdefault(landed.key, []).append(_File(path_of(landed.key, segment.name, table), segment.first, segment.last))
    return found


def _forks(blocks: Sequence[tuple[int, str | None]]) -> str:
    """Digest of slots whose blocks may still become others; empty where there are none."""
    landed = [pair for pair in blocks if pair[1] is not None]
    return hashlib.sha256(msgspec.json.encode(landed)).hexdigest()[:16] if landed else ""


def _bounds(question: Question, newest: int, after: int | None) -> tuple[int, int]:
    """Slots that may have rows of a page."""
    first = max(question.first_slot or 0, question.within[0])
    last = min(newest, question.within[1], NEVER if question.last_slot is None else question.last_slot)
    if after is not None:
        first, last = (first, min(last, after)) if question.descending else (max(first, after), last)
    return first, last


def _conditions(question: Question, newest: int, after: Sequence[Any] | None, slots: Sequence[int] | None) -> tuple[str, list[Any]]:
    """What rows of a page have in common."""
    slot = question.table.key[0]
    first, last = _bounds(question, newest, after[0] if after else None)
    found = [Match(f'"{slot}" between ? and ?', (first, last)), *question.matches, *_times(question.from_time, question.to_time)]
    if slots is not None:
        # Written out: bounds of row groups are compared with constants alone.
        found.append(Match(f'"{slot}" in ({", ".join(map(str, slots))})', ()))
    if after is not None:
        found.append(_behind(question, after))
    return " and ".join(f"({match.sql})" for match in found), [value for match in found for value in match.values]


def _behind(question: Question, after: Sequence[Any]) -> Match:
    """Rows behind the one with this key, in the order of the question; a null comes before every value."""
    sign = "<" if question.descending else ">"
    terms, values, same, matched = [], list[Any](), "true", list[Any]()
    for name, value in zip(question.table.key, after, strict=True):
        column = f'"{name}"'
        if value is None:
            behind, needed = ("false", []) if question.descending else (f"{column} is not null", [])
            equal, needs = f"{column} is null", []
        else:
            absent = f" or {column} is null" if question.descending else ""
            behind, needed = f"({column} {sign} ?{absent})", [value]
            equal, needs = f"{column} = ?", [value]
        terms.append(f"({same} and {behind})")
        values += [*matched, *needed]
        same, matched = f"{same} and {equal}", [*matched, *needs]
    return Match(" or ".join(terms), tuple(values))


def _times(start: dt.datetime | None, end: dt.datetime | None) -> list[Match]:
    found = [Match("block_timestamp >= ?", (start,))] if start else []
    return found + ([Match("block_timestamp < ?", (end,))] if end else [])


def _gone(why: str) -> SnapshotGoneError:
    return SnapshotGoneError(f"what the cursor was pinned to is gone: {why}", where="cursor", remedy="ask again without the cursor")
