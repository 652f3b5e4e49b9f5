"""SQL for strangers: a statement in, rows out, with what they were read from; the same rows again from a pin; long queries in the background.

Belongs here: the order of the steps, who may have how many, pages, pins. Does not belong here: what a statement may be
(`blyan.query.gate`), what it reads (`blyan.query.snapshot`), where it runs (`blyan.query.sandbox`), how rows are written
(`blyan.query.formats`), where results of long queries lie (`blyan.query.spool`).

**The same rows, in the same order.** A statement runs on one core, over files in one fixed order, in the order of insertion where it
states none. So rows without ORDER BY, ties, `list(…)`, `first(…)` and sums of floats come out alike each time, from the same files
and the same DuckDB. That is what pages rest on, which are cut from the same run again, and pins. A statement with a function that
gives another value each time (`now()`, `random()`, a sample) has a first page and no pin, and says so.

**Nothing is cut silently.** A result that has more rows or bytes than its limits says so at its end, with a cursor for the rest.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import zlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from msgspec import Struct

from blyan.digest import feed_rows
from blyan.errors import MissingObjectError, PermanentError, TransientError
from blyan.lake import Lake
from blyan.query import gate
from blyan.query.cache import ENTRY_BYTES, Answers, Content, Looks, key_of, rows_in_bytes
from blyan.query.confine import Confinement
from blyan.query.engine import all_tables, rows_of, status_rows
from blyan.query.gate import Checked, RefusedError
from blyan.query.sandbox import BusyError, Limits, ProcessDiedError, Running, Sandbox, StatementError, Task
from blyan.query.snapshot import Pin, Reading, Snapshot, Snapshots, tables_by_name
from blyan.query.spool import Job, Spool
from blyan.query.worker import View, packed, unpacked
from blyan.schemas import COMPLETENESS, RANGE_COLUMN, SLOT_STATUS, Table
from blyan.settings import Settings
from blyan.solana.segments import cores
from blyan.stage import slot_column

FORMAT = 1
"""Version of a kept query and of a cursor. Newer ones are refused."""

DIGEST_ROWS = 4_096
"""Rows that are digested together, so that a digest does not depend on how they came."""

CHECKED, CHECKED_BYTES = 1_024, 16 << 10
"""Statements whose check is remembered, with their parameters, and how long they may be: parsing one takes milliseconds."""

TAKES = 3
"""Snapshots that are taken for one statement, where files of one are gone before it is read."""

CURSOR_BYTES = 1 << 20
"""A cursor that unpacks to more is none."""

LONG = Limits(seconds=900.0, rows=50_000_000, bytes=4 << 30, memory=1 << 30, waiting_s=3_600.0)
"""What a submitted query may take, by default."""


class At(Struct, frozen=True):
    """Another time than now: versions of the tables (by name, or one for all), or the chain up to a slot."""

    versions: dict[str, int] | int | None = None
    slot: int | None = None


class Column(Struct, frozen=True):
    """Name and DuckDB's type of a column."""

    name: str
    type: str


class Kept(Struct, frozen=True):
    """A query that runs again: what `pin` keeps, under the SHA-256 of its canonical JSON."""

    sql: str
    params: Any
    snapshot: Pin
    skip: int
    rows: int
    digest: str
    duckdb: str
    format: int = FORMAT


class _Cursor(Struct, frozen=True, array_like=True):
    asked: str
    skip: int
    snapshot: Pin
    format: int = FORMAT


class Answer:
    """The answer to one statement. Close it, or use it as an async context manager; reading all its batches closes it too.

    Attributes:
        columns: names and types.
        schema: of the batches, in Arrow.
        reading: what it was read from.
        normalised: the statement's text, for a cache's key.
        cache_key: SHA-256 of all that the rows depend on: text, parameters, limits, and every range that can matter.
        volatile: functions in it that give another value each time; such an answer has no pin, and no cursor.
        source: where its rows came from: `memory`, a room's name, `joined`, `computed`; empty where it is not of the kind that is remembered.
        content: its rows, where they are remembered.
    """

    def __init__(
        self,
        columns: list[Column],
        schema: pa.Schema,
        reading: Reading,
        source: AsyncIterator[pa.RecordBatch],
        done: Callable[[], Any],
        asked: Asked,
    ) -> None:
        self.columns, self.schema, self.reading = columns, schema, reading
        self.normalised, self.volatile = asked.checked.normalised, asked.checked.volatile
        self.cache_key = asked.cache_key()
        self.asked = asked
        self._source, self._done = source, done
        self._digest = _Digest(columns, schema)
        self._more: bool | None = None
        self._closed = False
        self._count = 0
        self.expected: str | None = None
        self.source = ""
        self.content: Content | None = None

    @property
    def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """The rows, once. A reader that is slow makes the statement wait, until its time is over; one that goes away ends it."""
        return self._batches()

    @property
    def rows_count(self) -> int:
        """Rows so far."""
        return self._count

    @property
    def truncated(self) -> bool:
        """Whether there are more rows than these.

        Raises:
            PermanentError: the rows were not all read, so it is not known.
        """
        if self._more is None:
            raise PermanentError("an answer is known to be whole once its last row was read", remedy="read its batches first")
        return self._more

    @property
    def cursor(self) -> str | None:
        """For the rows after these; None where there are none, or the statement is volatile."""
        return self.asked.cursor(self._count) if self.truncated and not self.volatile else None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of columns and rows, whatever batches they came in."""
        _ = self.truncated
        return self._digest.text() if self.content is None else self.content.digest

    async def table(self) -> pa.Table:
        """All rows at once."""
        return pa.Table.from_batches([batch async for batch in self.batches], self.schema)

    async def gathered(self, most_bytes: int) -> Content | None:
        """All rows, if they have no more than these bytes; None where they have more, and then they can still be read from the first on."""
        batches, size = list[pa.RecordBatch](), 0
        source = self._source
        try:
            async for batch in source:
                batches.append(batch)
                size += batch.nbytes
                if size > most_bytes:
                    self._source = _both(batches, source)
                    return None
            for batch in batches:
                self._digest.add(batch)
            more, digest = bool(self.asked.more()), self._digest.text()
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()
        columns = [(column.name, column.type) for column in self.columns]
        return Content(rows_in_bytes(batches, self.schema), sum(batch.num_rows for batch in batches), digest, more, columns)

    async def aclose(self) -> None:
        """Stop the statement, if it still runs."""
        if not self._closed:
            self._closed = True
            await self._done()

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def _batches(self) -> AsyncIterator[pa.RecordBatch]:
        try:
            async for batch in self._source:
                if self.content is None:
                    self._digest.add(batch)
                self._count += batch.num_rows
                yield batch
            self._more = bool(self.asked.more())
        finally:
            await self.aclose()
        if self.expected is not None and self.digest != self.expected:
            raise PermanentError(
                "the same statement over the same files gave other rows",
                where=f"digest {self.digest}, kept {self.expected}",
                remedy="another release of DuckDB may order or add otherwise; pin it again",
            )


class Asked:
    """What an answer is to."""

    def __init__(self, sql: str, params: Any, checked: Checked, snapshot: Snapshot | None, skip: int, limits: Limits) -> None:
        self.sql, self.params, self.checked, self.snapshot, self.skip, self.limits = sql, params, checked, snapshot, skip, limits
        self.running: Running | None = None

    def of(self, snapshot: Snapshot | None) -> Asked:
        """The same of another snapshot, or of whichever there will be."""
        return Asked(self.sql, self.params, self.checked, snapshot, self.skip, self.limits)

    def more(self) -> bool:
        """Whether there are more rows than were given."""
        return self.running is not None and self.running.end is not None and self.running.end.more

    def cursor(self, rows: int) -> str | None:
        """For the rows after these; None where there is no snapshot to go on in."""
        if self.snapshot is None:
            return None
        cursor = _Cursor(_asked(self.checked, self.params), self.skip + rows, self.snapshot.pin)
        return base64.urlsafe_b64encode(zlib.compress(msgspec.json.encode(cursor))).decode().rstrip("=")

    def cache_key(self) -> str:
        """As `Answer.cache_key`."""
        snapshot = self.snapshot.cache_key if self.snapshot is not None else ""
        return _sha([_asked(self.checked, self.params), snapshot, self.skip, self.limits.rows, self.limits.bytes, _duckdb()])

    def is_remembered(self) -> bool:
        """Whether the same rows come again, in the same order, from the same files."""
        return self.checked.kind == "rows" and not self.checked.volatile and self.limits.threads == 1 and self.snapshot is not None

    def content_key(self) -> str:
        """Of the rows and their order.

        The files are part of it: a page goes on where the one before ended, and without ORDER BY that is a matter of files.
        """
        assert self.snapshot is not None
        return key_of(self.cache_key(), self.snapshot.layout)

    def answer(self, content: Content, source: str) -> Answer:
        """The answer with rows that are remembered, and what is said of them now."""
        assert self.snapshot is not None
        table = content.table()

        async def given() -> AsyncIterator[pa.RecordBatch]:
            for batch in table.to_batches():
                yield batch

        async def done() -> None:
            return

        self.more = lambda: content.truncated  # type: ignore[method-assign]
        answer = Answer([Column(*each) for each in content.columns], table.schema, self.snapshot.reading, given(), done, self)
        answer.content, answer.source = content, source
        return answer


class Recalled(NamedTuple):
    """Rows that are remembered, and what is said of them now: as of an `Answer`, by the same names."""

    content: Content
    reading: Reading
    rows_count: int
    truncated: bool
    cursor: str | None
    digest: str


class SqlEngine:
    """Answers statements of strangers over one lake. An async context manager.

    Args:
        lake: the lake.
        folder: for its processes and for results of long queries; on the file system of the lake. In the lake by default.
        processes: statements that run at once.
        memory, spill: bytes that one of them may have at most, whatever its limits say.
        limits: of statements that come without.
        spool_bytes, spool_s: of results of long queries together, and for how long they are kept.
        gated: False lets statements through unread, for tests of what holds then.
        answers: that are remembered; None: every statement runs.
        noted: told of each statement that is asked as of now and is of the kind that is remembered.
    """

    def __init__(
        self,
        lake: Lake,
        *,
        folder: Path | None = None,
        processes: int = 2,
        memory: int = 1 << 30,
        spill: int = 4 << 30,
        limits: Limits | None = None,
        spool_bytes: int = 10 << 30,
        spool_s: float = 86_400.0,
        gated: bool = True,
        answers: Answers | None = None,
        noted: Callable[[Asked], None] | None = None,
    ) -> None:
        self._lake, self._gated, self._answers = lake, gated, answers
        self._noted = noted or (lambda _: None)
        self._checks: OrderedDict[tuple[str, bytes], Checked] = OrderedDict()
        self._looks = Looks(side_by_side=not lake.store.is_local)
        self.folder = folder or (Path(lake.store.path("query")) if lake.store.is_local else Path(".blyan/query").absolute())
        self._snapshots = Snapshots(lake)
        self._sandbox = Sandbox(lake, self.folder, processes=processes, memory=memory, spill=spill)
        self._spool = Spool(self.folder / "jobs", max_bytes=spool_bytes, keep_s=spool_s)
        self._limits = limits or Limits()
        self._running: Counter[str] = Counter()
        self._long = asyncio.Semaphore(max(1, processes - 1))
        self._jobs: dict[str, asyncio.Task[None]] = {}

    @classmethod
    def from_settings(cls, settings: Settings, answers: Answers | None = None, noted: Callable[[Asked], None] | None = None) -> SqlEngine:
        """The engine that the settings describe."""
        return cls(
            Lake.from_settings(settings),
            answers=answers,
            noted=noted,
            folder=Path(settings.query_folder).absolute() if settings.query_folder else None,
            processes=settings.query_processes or cores(),
            memory=settings.query_memory_mb << 20,
            spill=settings.query_spill_mb << 20,
            spool_bytes=settings.query_spool_mb << 20,
            spool_s=settings.query_spool_hours * 3_600,
        )

    async def __aenter__(self) -> SqlEngine:
        await asyncio.to_thread(gate.tables)
        await asyncio.to_thread(self._spool.open)
        await self._sandbox.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._jobs.values():
            task.cancel()
        await asyncio.gather(*self._jobs.values(), return_exceptions=True)
        await self._sandbox.__aexit__(None, None, None)
        self._looks.close()

    @property
    def confinement(self) -> Confinement:
        """What the kernel holds the processes to."""
        return self._sandbox.confinement

    @property
    def free(self) -> int:
        """Processes that wait for a statement."""
        return self._sandbox.free

    async def query(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        limits: Limits | None = None,
        caller: str = "",
        at: At | None = None,
        cursor: str | None = None,
        rows: int | None = None,
        fresh: bool = False,
    ) -> Answer:
        """Answer one statement; returns once its columns are known. An answer that is remembered takes no process, and none of `concurrency`.

        Args:
            sql: the statement, perhaps with EXPLAIN or DESCRIBE before it, or SHOW TABLES.
            params: values of `$1` and `?`, or of `$name`: numbers, text, booleans, None, `Decimal`, `date`, `datetime`, bytes, lists.
            limits: what it may take.
            caller: who asks; statements at once are counted by it.
            at: another time than now.
            cursor: of an answer to the same statement, for the rows after it.
            rows: of this page, at most; `limits.rows` at most.
            fresh: run it even where its answer is remembered.

        Raises:
            RefusedError: the statement may not run.
            StatementError: DuckDB refuses it.
            BusyError: the caller has too many, or no process was free in time.
            MissingObjectError: a table, version or file is not there.
            TooLargeError, DeadlineError, ProcessDiedError: it ended before its first row.
        """
        limits = limits or self._limits
        limits = msgspec.structs.replace(limits, rows=min(limits.rows, rows)) if rows is not None else limits
        if limits.rows < 1:
            raise RefusedError(f"a page of {limits.rows} rows", remedy="ask for 1 or more")
        if self._answers is None or fresh:
            with self._admitted(caller, limits) as release:
                checked, skip, pin = await self._read(sql, params, cursor)
                if checked.kind == "tables":
                    return await self._tables(checked, limits)
                answer = await self._answer(sql, params, checked, limits, at, pin, skip, release)
                release.kept = True
                return answer
        checked, skip, pin = await self._read(sql, params, cursor)
        if checked.kind == "tables":
            return await self._tables(checked, limits)
        for take in range(1, TAKES + 1):
            asked = Asked(sql, params, checked, await self._look(checked, at, pin), skip, limits)
            try:
                if not asked.is_remembered():
                    return await self._once(asked, caller)
                if take == 1 and at is None and cursor is None:
                    self._noted(asked)
                return await self._remembered(self._answers, asked, caller)
            except MissingObjectError:
                # As in `_answer`: maintenance was between the look at the log and the first look at the file.
                self._snapshots.forget()
                if pin is not None or take == TAKES:
                    raise
            except ProcessDiedError:
                if take > 1:
                    raise
        raise AssertionError("a loop that returns or raises")

    async def recalled(self, asked: Asked) -> Recalled | None:
        """The answer to what was asked before, if this process remembers one that holds now: nothing is parsed, and nothing runs.

        Args:
            asked: `Answer.asked` of an answer without a cursor and of no other time than now.

        Raises:
            MissingObjectError: a table is gone.
        """
        if self._answers is None:
            return None
        snapshot = await self._look(asked.checked, None, None)
        asked = asked.of(snapshot)
        content = self._answers.peek(asked.content_key())
        if content is None:
            return None
        self._noted(asked)
        cursor = asked.cursor(content.count) if content.truncated else None
        return Recalled(content, snapshot.reading, content.count, content.truncated, cursor, content.digest)

    async def pin(self, answer: Answer) -> str:
        """Keep an answer's statement, versions and digest; returns the SHA-256 that `again` takes.

        Raises:
            PermanentError: it cannot give the same rows again, or was not read to its end.
        """
        asked = answer.asked
        if answer.volatile:
            raise PermanentError(f"{', '.join(answer.volatile)} gives another value each time", remedy="put the value in as a parameter, then pin it")
        if asked.snapshot is None or asked.limits.threads != 1:
            raise PermanentError("this answer cannot be given again row for row", remedy="ask for it on one core, of tables of the lake")
        kept = Kept(asked.sql, packed_params(asked.params), asked.snapshot.pin, asked.skip, answer.rows_count, answer.digest, _duckdb())
        return await asyncio.to_thread(self._lake.put_blob, msgspec.json.encode(kept, order="deterministic"))

    async def again(self, pin: str, *, limits: Limits | None = None, caller: str = "") -> Answer:
        """The rows of a pinned answer, read again from the same versions; at the last row they are compared with its digest.

        Raises:
            PermanentError: it is no pin; while reading: the rows are not the same.
            MissingObjectError: nobody kept that pin, or a version or file of it is gone, which it names.
        """
        if len(pin) != 64 or not set(pin) <= set("0123456789abcdef"):
            raise PermanentError("it is no pin", where=pin[:100], remedy="give the 64 hex digits that pinning gave")
        content = await asyncio.to_thread(self._lake.get_blob, pin)
        try:
            kept = msgspec.json.decode(content, type=Kept)
        except msgspec.DecodeError as error:
            raise PermanentError("it is no pin", where=pin, remedy="give the 64 hex digits that pinning gave") from error
        if kept.format > FORMAT:
            raise PermanentError(f"the pin has format {kept.format}, this release reads up to {FORMAT}", where=pin, remedy="update blyan")
        params = (
            {name: unpacked(value) for name, value in kept.params.items()}
            if isinstance(kept.params, dict)
            else [unpacked(each) for each in kept.params]
        )
        limits = limits or self._limits
        # As many rows as it had: where bytes cut them, they are cut there again.
        limits = msgspec.structs.replace(limits, rows=max(1, kept.rows), bytes=max(limits.bytes, self._limits.bytes) * 2, threads=1)
        with self._admitted(caller, limits) as release:
            checked = await self._checked(kept.sql, params)
            answer = await self._answer(kept.sql, params, checked, limits, None, kept.snapshot, kept.skip, release)
            release.kept = True
        answer.expected = kept.digest
        return answer

    # Long queries

    async def submit(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None, *, limits: Limits = LONG, caller: str = "", at: At | None = None
    ) -> str:
        """Run a statement in the background, into a file; returns the job's name. What cannot run is refused at once.

        Raises:
            RefusedError: the statement may not run.
            BusyError: the caller has as many waiting as it may.
        """
        checked = await self._checked(sql, params)
        mine = sum(1 for job in await asyncio.to_thread(self._spool.jobs, caller) if job.state in ("waiting", "running"))
        if mine >= limits.concurrency:
            raise BusyError(f"{mine} submitted queries are not done yet", remedy="wait for one, or cancel one")
        job = await asyncio.to_thread(self._spool.begin, caller, checked.normalised)
        task = asyncio.create_task(self._work(job, sql, params, limits, at))
        self._jobs[job.name] = task
        task.add_done_callback(lambda _: self._jobs.pop(job.name, None))
        return job.name

    async def poll(self, name: str, *, caller: str = "") -> Job:
        """How a submitted query is doing.

        Raises:
            MissingObjectError: the caller has none of that name, or its result is no longer kept.
        """
        return await asyncio.to_thread(self._spool.job, name, caller)

    async def cancel(self, name: str, *, caller: str = "") -> Job:
        """End a submitted query, or drop its result.

        Raises:
            MissingObjectError: the caller has none of that name.
        """
        job = await asyncio.to_thread(self._spool.cancel, name, caller)
        task = self._jobs.get(name)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            job = await self.poll(name, caller=caller)
        return job

    async def fetch(self, name: str, *, caller: str = "") -> Answer:
        """The rows of a submitted query that is done.

        Raises:
            MissingObjectError: the caller has none of that name, or its result is no longer kept.
            TransientError: it is not done yet.
            PermanentError: it failed, or was cancelled; the message says why.
        """
        job = await self.poll(name, caller=caller)
        if job.state in ("waiting", "running"):
            raise TransientError(f"the query is {job.state}", where=name, remedy="ask again later")
        if job.state != "done" or job.reading is None:
            raise PermanentError(job.error or f"the query was {job.state}", where=name, remedy="submit it again")
        file = await asyncio.to_thread(self._spool.open_result, name)
        asked = Asked(job.sql, None, Checked("", "rows", (), {}, job.sql, ()), None, 0, self._limits)
        asked.more = lambda: job.truncated  # type: ignore[method-assign]
        asked.cursor = lambda rows: job.cursor  # type: ignore[method-assign]  # noqa: ARG005
        columns = [Column(*each) for each in job.columns]

        async def source() -> AsyncIterator[pa.RecordBatch]:
            batches = iter(file.iter_batches(8_192))
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                yield batch

        async def done() -> None:
            file.close()

        answer = Answer(columns, file.schema_arrow, job.reading, source(), done, asked)
        answer.expected = job.digest
        return answer

    async def _work(self, job: Job, sql: str, params: Any, limits: Limits, at: At | None) -> None:
        try:
            async with self._long, self._spool.watched(job.name):
                await asyncio.to_thread(self._spool.running, job.name)
                checked = await self._checked(sql, params)
                release = _Admission()
                async with await self._answer(sql, params, checked, limits, at, None, 0, release) as answer:
                    await self._spool.write(job.name, answer)
        except asyncio.CancelledError:
            await asyncio.to_thread(self._spool.over, job.name, "cancelled", "it was cancelled")
        except (PermanentError, TransientError) as error:
            await asyncio.to_thread(self._spool.over, job.name, "failed", str(error))

    # Steps

    @contextlib.contextmanager
    def _admitted(self, caller: str, limits: Limits) -> Any:
        if self._running[caller] >= limits.concurrency:
            raise BusyError(f"{self._running[caller]} statements of this caller are running", remedy="wait for one of them to end")
        self._running[caller] += 1
        release = _Admission(lambda: self._left(caller))
        try:
            yield release
        finally:
            if not release.kept:
                release()

    def _left(self, caller: str) -> None:
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]

    async def _read(self, sql: str, params: Any, cursor: str | None) -> tuple[Checked, int, Pin | None]:
        """A statement, and where its cursor goes on."""
        checked = await self._checked(sql, params)
        if cursor is None or checked.kind == "tables":
            return checked, 0, None
        found = _read_cursor(cursor, checked, params)
        return checked, found.skip, found.snapshot

    async def _look(self, checked: Checked, at: At | None, pin: Pin | None) -> Snapshot:
        """What a statement reads; statements that come together share the look."""
        if pin is not None or (at is not None and at.versions is not None):
            return await asyncio.to_thread(self._snapshot, checked, at, pin)
        place = (checked.tables, tuple(sorted(checked.bounds.items(), key=lambda item: item[0])), at and at.slot)
        return await self._looks.take(place, partial(self._snapshot, checked, at, None))

    async def _remembered(self, answers: Answers, asked: Asked, caller: str) -> Answer:
        """The answer that is remembered, or one that will be."""
        streamed, gone = list[Answer](), False
        assert asked.snapshot is not None

        async def compute() -> Content | None:
            answer = await self._once(asked, caller)
            content = await answer.gathered(ENTRY_BYTES)
            if content is None:
                if gone:
                    await answer.aclose()
                streamed.append(answer)
            return content

        try:
            content, source = await answers.get(asked.content_key(), compute, settled=asked.snapshot.is_settled)
        except BaseException:
            gone = True
            for answer in streamed:
                await answer.aclose()
            raise
        if content is not None:
            return asked.answer(content, source)
        # Too many rows to be kept: they are streamed to who computed them, and the others run it for themselves.
        answer = streamed[0] if streamed else await self._once(asked, caller)
        answer.source = "streamed"
        return answer

    async def _once(self, asked: Asked, caller: str) -> Answer:
        """Run a statement over its snapshot."""
        with self._admitted(caller, asked.limits) as release:
            assert asked.snapshot is not None
            views, links = await asyncio.to_thread(_views, self._lake, asked.snapshot, asked.checked.tables)
            answer = await self._started(asked, views, links, release)
            release.kept = True
            return answer

    async def _checked(self, sql: str, params: Any) -> Checked:
        if not isinstance(sql, str):
            raise RefusedError("a statement is text", remedy="give one SELECT")
        if self._gated:
            place = (sql, msgspec.json.encode(packed_params(params))) if len(sql) <= CHECKED_BYTES else None
            if place is not None and place in self._checks:
                self._checks.move_to_end(place)
                return self._checks[place]
            checked = await asyncio.to_thread(gate.check, sql, params)
            if place is not None and len(place[1]) <= CHECKED_BYTES:
                self._checks[place] = checked
                while len(self._checks) > CHECKED:
                    self._checks.popitem(last=False)
            return checked
        return Checked(sql, "rows", tuple(table.name for name, table in gate.tables().items() if name in sql), {}, sql, ())

    async def _answer(
        self, sql: str, params: Any, checked: Checked, limits: Limits, at: At | None, pin: Pin | None, skip: int, release: _Admission
    ) -> Answer:
        for take in range(1, TAKES + 1):
            snapshot, views, links = await asyncio.to_thread(self._files, checked, at, pin)
            try:
                return await self._started(Asked(sql, params, checked, snapshot, skip, limits), views, links, release)
            except MissingObjectError:
                # Maintenance deleted a file between the look at the log and the first look at the file; nothing was sent yet.
                self._snapshots.forget()
                if pin is not None or take == TAKES:
                    raise
            except ProcessDiedError:
                # Whoever killed it, or whatever in DuckDB: once more cannot double anything, and twice more would help nobody.
                if take > 1:
                    raise
        raise AssertionError("a loop that returns or raises")

    async def _started(self, asked: Asked, views: list[View], links: list[tuple[str, str]], release: _Admission) -> Answer:
        """Hand a statement to a process with the views and files of its snapshot, and wait for its columns."""
        checked, snapshot = asked.checked, asked.snapshot
        assert snapshot is not None
        prefix = {"explain": "explain", "analyze": "explain analyze", "describe": "describe"}.get(checked.kind, "")
        names = tuple(name.replace("/", ".") for name in checked.tables)
        task = Task(checked.sql, prefix, asked.params or [], views, links, asked.skip, names if self._gated else None, checked.begins)
        running = await self._sandbox.run(task, asked.limits, release.over)
        release.begun(running)
        asked.running = running
        given = running.columns
        columns = [Column(name, kind) for name, kind in zip(given.names, given.types, strict=True)] if given is not None else []

        async def done() -> None:
            await running.close()

        return Answer(columns, running.schema, snapshot.reading, running.batches(), done, asked)

    def _files(self, checked: Checked, at: At | None, pin: Pin | None) -> tuple[Snapshot, list[View], list[tuple[str, str]]]:
        snapshot = self._snapshot(checked, at, pin)
        return (snapshot, *_views(self._lake, snapshot, checked.tables))

    def _snapshot(self, checked: Checked, at: At | None, pin: Pin | None) -> Snapshot:
        if pin is not None:
            return self._snapshots.again(pin.text())
        at = at or At()
        if at.versions is not None:
            if at.slot is not None:
                raise RefusedError("both versions and a slot are asked for", remedy="ask for one of them")
            return self._snapshots.at(checked.tables, at.versions, checked.bounds)
        return self._snapshots.take(checked.tables, checked.bounds, slot=at.slot)

    async def _tables(self, checked: Checked, limits: Limits) -> Answer:
        """What there is to read."""

        def look() -> tuple[list[dict[str, Any]], Reading]:
            there = []
            for name in tables_by_name():
                with contextlib.suppress(MissingObjectError):
                    self._snapshots.take([name])
                    there.append(name)
            names = [*there, *([SLOT_STATUS.name] if COMPLETENESS.name in there else [])]
            prose = {table.name: table.prose for table in [*all_tables(), SLOT_STATUS]}
            rows = [{"schema": name.partition("/")[0], "name": name.partition("/")[2], "what": prose[name]} for name in sorted(names)]
            return rows, self._snapshots.take(there).reading

        rows, reading = await asyncio.to_thread(look)
        schema = pa.schema([("schema", pa.string()), ("name", pa.string()), ("what", pa.string())])

        async def source() -> AsyncIterator[pa.RecordBatch]:
            yield pa.RecordBatch.from_pylist(rows, schema)

        async def done() -> None:
            return

        return Answer([Column(name, "VARCHAR") for name in schema.names], schema, reading, source(), done, Asked("", None, checked, None, 0, limits))


async def _both(first: list[pa.RecordBatch], rest: AsyncIterator[pa.RecordBatch]) -> AsyncIterator[pa.RecordBatch]:
    for batch in first:
        yield batch
    async for batch in rest:
        yield batch


class _Admission:
    """One of the statements that a caller may have at once, given back once."""

    def __init__(self, give_back: Callable[[], None] | None = None) -> None:
        self._give_back = give_back
        self._begun = False
        self.kept = False

    def begun(self, running: Running) -> None:
        """A try has begun, and is the last: what it takes is given back when it is over, if it is not already."""
        self._begun = True
        if running.over:
            self()

    def over(self) -> None:
        """A try is over; one that never began may be followed by another, under the same admission."""
        if self._begun:
            self()

    def __call__(self) -> None:
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class _Digest:
    """SHA-256 of columns and rows, in blocks of `DIGEST_ROWS`."""

    def __init__(self, columns: Sequence[Column], schema: pa.Schema) -> None:
        self._sha = hashlib.sha256(msgspec.json.encode([[column.name, column.type] for column in columns]))
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows in."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        while self._rows >= DIGEST_ROWS:
            whole = self._joined()
            self._feed(whole.slice(0, DIGEST_ROWS))
            self._waiting, self._rows = [whole.slice(DIGEST_ROWS)], whole.num_rows - DIGEST_ROWS

    def text(self) -> str:
        """In hex; of all that was taken in so far."""
        last = self._sha.copy()
        if self._rows:
            feed_rows(last.update, self._joined())
        return last.hexdigest()

    def _feed(self, rows: pa.RecordBatch) -> None:
        feed_rows(self._sha.update, rows)

    def _joined(self) -> pa.RecordBatch:
        whole = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
        return whole.to_batches()[0] if whole.num_rows else pa.RecordBatch.from_pylist([], schema=self._schema)


def _views(lake: Lake, snapshot: Snapshot, names: Sequence[str]) -> tuple[list[View], list[tuple[str, str]]]:
    """The views of a snapshot, and the files that they need: the path under `@/` in a view's text, and the one in the store."""
    views, links = [], []
    for name, files in snapshot.files.items():
        table = tables_by_name()[name]
        where = _until(table, snapshot.pin.slot)
        if not files:
            views.append(View(table.group, table.short_name, empty=table.delta_schema().serialize().to_pybytes(), where=where))
        elif not lake.store.is_local:
            by_range = table.partition_by == (RANGE_COLUMN,)
            schema = table.delta_schema() if by_range else table.arrow_schema()
            paths = [(lake.store.path(file.path), file.key if by_range else None) for file in files]
            views.append(View(table.group, table.short_name, empty=schema.serialize().to_pybytes(), paths=paths, where=where))
        else:
            inside = [f"{table.group}.{table.short_name}/{RANGE_COLUMN}={file.key}/{place}.parquet" for place, file in enumerate(files)]
            links += [(path, file.path) for path, file in zip(inside, files, strict=True)]
            views.append(View(table.group, table.short_name, sql=rows_of(table, [f"@/{path}" for path in inside]), where=where))
    if SLOT_STATUS.name in names:
        tip, until = snapshot.pin.tip, snapshot.pin.slot
        held = {file.key for file in snapshot.files[COMPLETENESS.name]}
        announced = [
            (slot, key)
            for slot, key in (tip.announced if tip else [])
            if (until is None or slot <= until) and (key in tip.ranges or key not in held)  # type: ignore[union-attr]
        ]
        rows = status_rows(tip.checkpoint if tip else 0, tip.ranges if tip else [], announced)
        views.append(View(SLOT_STATUS.group, SLOT_STATUS.short_name, sql=rows))
    return views, links


def _until(table: Table, slot: int | None) -> str:
    """The condition of rows that belong to slots up to one; those without a slot belong to none."""
    if slot is None:
        return ""
    column = "last_slot" if "last_slot" in table.column_names else slot_column(table)
    return f"where {column} <= {slot}"


def _asked(checked: Checked, params: Any) -> str:
    return _sha([checked.normalised, packed_params(params)])


def packed_params(params: Any) -> Any:
    """Parameters as JSON has them; `blyan.query.worker.unpacked` undoes it, value by value.

    Raises:
        StatementError: one is of a type that no parameter may have.
    """
    try:
        return _each_packed(params)
    except TypeError as error:
        raise StatementError(str(error), remedy="give numbers, text, booleans, moments, bytes or lists of them") from error


def _each_packed(params: Any) -> Any:
    return {name: packed(value) for name, value in params.items()} if isinstance(params, Mapping) else [packed(each) for each in params or []]


def _sha(parts: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


@cache
def _duckdb() -> str:
    import duckdb

    return str(duckdb.__version__)


def _read_cursor(cursor: str, checked: Checked, params: Any) -> _Cursor:
    remedy = "give the cursor of an answer to the same statement and parameters, as it was"
    try:
        # Bounded: a short text may unpack to gigabytes.
        content = zlib.decompressobj().decompress(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), CURSOR_BYTES)
        found = msgspec.json.decode(content, type=_Cursor)
    except (ValueError, zlib.error, msgspec.DecodeError) as error:
        raise RefusedError("the cursor cannot be read", remedy=remedy) from error
    if found.format > FORMAT or found.skip < 0 or found.asked != _asked(checked, params):
        raise RefusedError("the cursor is of another statement", remedy=remedy)
    if not {COMPLETENESS.name if name == SLOT_STATUS.name else name for name in checked.tables} <= set(found.snapshot.tables):
        raise RefusedError("the cursor is of other tables", remedy=remedy)
    return found
