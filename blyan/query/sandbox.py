"""Processes in which strangers' statements run, seen from outside: started warm, bounded, and replaced when they are not what they should be.

Belongs here: starting and ending them, handing one a statement and its files, bringing its rows home, deadlines. Does not belong
here: what happens inside (`blyan.query.worker`), what the kernel grants (`blyan.query.confine`), which statements may run.

A process sees the files of one statement as hard links in a folder of its own, made before it is asked and deleted after it: it can
open no other, it learns no path of the lake, and a file that maintenance deletes meanwhile is still there for it. Nothing that a
process says is believed beyond its form: rows are checked before they are used, and what is not a message ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import fcntl
import itertools
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
from msgspec import Struct

from blyan.errors import MissingObjectError, PermanentError, TransientError
from blyan.lake import Lake
from blyan.query.confine import Confinement
from blyan.query.position import START, Position
from blyan.query.worker import FILES, HEADER, SPILL, Columns, End, Failure, Ready, Request, Start, View, packed

AHEAD_BYTES = 4 << 20
"""Bytes of rows that wait for a reader, at most and about; a process that has more waits in turn."""

FRAME_BYTES = 512 << 20
"""A message that says it is longer is not a message."""

GRACE_S = 0.5
"""Seconds from an interrupt to the end of the process: DuckDB does not look for interrupts everywhere (sorting one list of 10^8
numbers took 94 s)."""

WATCH_S = 0.05
"""Seconds between two looks at the memory of a busy process."""

BASE_BYTES = 256 << 20
"""Memory of a process besides what DuckDB is given: its libraries, a few batches of rows on their way."""

START_S = 60.0
"""Seconds for a process to be ready: it takes one, on a machine with nothing else to do."""

PREFIX, LOCK = "sandbox-", "lock"
"""Of the folder of an engine, and the file in it that is locked while the engine lives."""

OPEN_FILES = 65_536
"""Files that a process may have open at once."""


class Limits(Struct, frozen=True, kw_only=True):
    """What one statement may take.

    Attributes:
        seconds: from when it is handed to a process until its last row is read, a slow reader included.
        memory: bytes that DuckDB may hold; its process may hold `BASE_BYTES` and half as much again more.
        spill: bytes that it may write to disk meanwhile.
        rows, bytes: of one result; there is a cursor for what is beyond.
        concurrency: statements of one caller at once.
        waiting_s: seconds to wait for a process.
        threads: cores. With more than one, rows without an order come in any, and sums of floats differ: results cannot be pinned.
    """

    seconds: float = 30.0
    memory: int = 512 << 20
    spill: int = 1 << 30
    rows: int = 1_000_000
    bytes: int = 256 << 20
    concurrency: int = 4
    waiting_s: float = 10.0
    threads: int = 1


class BusyError(TransientError):
    """All processes are taken, or all that one caller may have."""


FIRST_LINES, FIRST_CHARACTERS = 3, 400
"""What is told of DuckDB's words; the rest lists whatever else there is."""

LISTED = 5
"""Names or functions of a remedy."""


class DeadlineError(TransientError):
    """A statement was not done in its time."""


class CancelledStatementError(TransientError):
    """A statement was cancelled by its caller."""


class TooLargeError(PermanentError):
    """A statement needs more memory or disk than it may have."""


class StatementError(PermanentError):
    """DuckDB refused a statement.

    Attributes:
        position: of what is wrong in it, where DuckDB says that.
    """

    position: Position | None = None


class ProcessDiedError(TransientError):
    """The process of a statement ended under it."""


class Task(Struct, frozen=True):
    """A statement with all that it needs.

    Attributes:
        sql, prefix: see `Request`.
        params: positions or names to values.
        views: what it may read, of the paths in `links`.
        links: (path inside the folder of a process, path in the store).
        skip: rows of the result to leave out.
        tables: what DuckDB's own parser may find in it; None switches that look off.
        begins: where `sql` begins in what the caller wrote.
    """

    sql: str
    prefix: str
    params: Sequence[Any] | Mapping[str, Any]
    views: list[View]
    links: list[tuple[str, str]]
    skip: int = 0
    tables: tuple[str, ...] | None = ()
    begins: Position = START


class Sandbox:
    """A pool of confined processes over one lake.

    Args:
        lake: what they read.
        folder: for their own folders; on the file system of the lake, where that is a folder.
        processes: statements that run at once.
        memory: bytes that one may give to DuckDB.
        spill: bytes that one may write.
    """

    def __init__(self, lake: Lake, folder: Path, *, processes: int = 2, memory: int = 1 << 30, spill: int = 4 << 30) -> None:
        self._lake, self._parent, self._count = lake, folder, processes
        self._memory, self._spill = memory, spill
        self._folder: Path | None = None
        self._lock: BinaryIO | None = None
        self._numbers = itertools.count(1)
        self._names = itertools.count()
        self._idle: deque[_Process] = deque()
        self._all: set[_Process] = set()
        self._waiting: deque[asyncio.Future[_Process]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.confinement = Confinement((), ())
        self.started = 0

    async def __aenter__(self) -> Sandbox:
        await asyncio.to_thread(self._open)
        started = await asyncio.gather(*(self._start() for _ in range(self._count)), return_exceptions=True)
        failed = next((result for result in started if isinstance(result, BaseException)), None)
        if failed is not None:
            await self.__aexit__(None, None, None)
            raise failed
        return self

    def _open(self) -> None:
        """Make the folder, and delete those of engines that were killed: their links would keep deleted files on the disk."""
        self._parent.mkdir(parents=True, exist_ok=True)
        for left in self._parent.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError), (left / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._parent))
        self._lock = (self._folder / LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for future in self._waiting:
            if not future.done():
                future.set_exception(TransientError("the engine is closing", remedy="ask again"))
        await asyncio.gather(*(process.end() for process in list(self._all)))
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, True)
        if self._lock is not None:
            self._lock.close()

    @property
    def free(self) -> int:
        """Processes that wait for a statement."""
        return len(self._idle)

    async def run(self, task: Task, limits: Limits, when_over: Callable[[], None] = lambda: None) -> Running:
        """Hand a statement to a process, and wait for its columns; `when_over` is called once, when it runs no more.

        Raises:
            BusyError: no process was free in time.
            MissingObjectError: a file is not in the store.
            StatementError: DuckDB refuses the statement.
            TooLargeError, DeadlineError, ProcessDiedError: it ended otherwise before its first row.
        """
        process = await self._taken(limits.waiting_s)
        running = Running(self, process, next(self._numbers), limits, when_over)
        try:
            await running.begin(task)
        except BaseException:
            await running.close()
            raise
        return running

    def store_path(self, path: str) -> str:
        """Where a file of the lake is, as the file system wants it."""
        return self._lake.store.path(path)

    @property
    def bounds(self) -> tuple[int, int]:
        """Memory and spill that one statement may be given."""
        return self._memory, self._spill

    async def _taken(self, waiting_s: float) -> _Process:
        if self._closed:
            raise TransientError("the engine is closing", remedy="ask again")
        if self._idle:
            return self._idle.popleft()
        future: asyncio.Future[_Process] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await asyncio.wait_for(future, waiting_s)
        except TimeoutError as error:
            raise BusyError("every process is at work on another statement", remedy="ask again in a moment, or submit the query") from error
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.back(future.result())
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(future)

    def back(self, process: _Process) -> None:
        """Take a process back that is ready for another statement."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(process)
                return
        self._idle.append(process)

    def lost(self, process: _Process) -> None:
        """Replace a process."""
        self._all.discard(process)
        self.later(process.end())
        if not self._closed:
            self.later(self._start())

    def later(self, work: Any) -> None:
        """Do something beside what runs."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> None:
        if self._folder is None:
            raise PermanentError("the sandbox is not open", remedy="use it as an async context manager")
        process = _Process(self._folder / f"{next(self._names)}")
        self._all.add(process)
        store = self._lake.store
        bucket = None if store.is_local else (store.scheme, dict(store.options))
        try:
            self.confinement = await process.start(self._memory, self._spill, bucket)
        except BaseException:
            self._all.discard(process)
            await process.end()
            raise
        self.started += 1
        self.back(process)


class _Process:
    """One process, and the folder that it sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._child: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int:
        """Its number."""
        return self._child.pid if self._child is not None else 0

    async def start(self, memory: int, spill: int, bucket: tuple[str, dict[str, str]] | None) -> Confinement:
        """Start it and wait until it is shut in and warm."""
        for name in (FILES, SPILL):
            (self.folder / name).mkdir(parents=True)
        ours, theirs = socket.socketpair()
        with theirs:
            data = BASE_BYTES * 2 + memory + memory // 2
            start = Start(str(self.folder), data, spill, OPEN_FILES, bucket)
            code = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from blyan.query.worker import main; main(int(sys.argv[2]), sys.argv[3])"
            # Nothing of this process's environment; what is here keeps libraries from starting threads and from taking memory for them.
            environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "TZ": "UTC", "PYTHONUTF8": "1"}
            environment |= {"ARROW_DEFAULT_MEMORY_POOL": "system", "PYTHONDONTWRITEBYTECODE": "1"}
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "ignore", "-c", code, json.dumps([str(Path(place).absolute()) for place in sys.path]), str(theirs.fileno()), msgspec.json.encode(start).decode(),
                env=environment, pass_fds=[theirs.fileno()], cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
        try:
            kind, body = await asyncio.wait_for(self.receive(), START_S)
        except (TimeoutError, ProcessDiedError) as error:
            raise TransientError(
                "a process for statements did not start", where=str(self.folder), remedy="try again; see the memory of the machine"
            ) from error
        if kind != b"R":
            raise PermanentError(
                f"a process for statements cannot start: {msgspec.msgpack.decode(body, type=Failure).text}",
                remedy="`blyan doctor` checks the machine",
            )
        ready = msgspec.msgpack.decode(body, type=Ready)
        return Confinement(tuple(ready.active), tuple(ready.refused))

    async def receive(self) -> tuple[bytes, bytes]:
        """The next message.

        Raises:
            ProcessDiedError: there is none any more, or it is none.
        """
        if self._reader is None:
            raise ProcessDiedError("it was not started")
        try:
            kind, length = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            if kind not in b"RCBEF" or length > FRAME_BYTES:
                raise ProcessDiedError("it said what is no message")
            return kind, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ProcessDiedError("the process of the statement ended under it", remedy="ask again; if it ends again, ask in parts") from error

    def send(self, kind: bytes, body: bytes) -> None:
        """Send a message; one that cannot be taken is noticed by who waits for the answer."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.write(HEADER.pack(kind, len(body)) + body)

    def held(self) -> int:
        """Bytes of memory that it holds, 0 where there is no such process."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError, ValueError):
            return 0

    def kill(self) -> None:
        """End it at once."""
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    async def end(self) -> None:
        """End it, and delete its folder."""
        self.kill()
        if self._child is not None:
            await self._child.wait()
        if self._writer is not None:
            self._writer.close()
        await asyncio.to_thread(shutil.rmtree, self.folder, True)


_PAGE = os.sysconf("SC_PAGE_SIZE")


class Running:
    """A statement in a process: its columns, then its rows as Arrow batches, then its end. Closing it stops it; its deadline does too.

    Attributes:
        columns: names and types, once `begin` returned.
        schema: of the batches.
        end: once all batches were read.
    """

    def __init__(self, sandbox: Sandbox, process: _Process, number: int, limits: Limits, when_over: Callable[[], None]) -> None:
        self._sandbox, self._process, self._number, self._limits = sandbox, process, number, limits
        self._waiting: deque[pa.RecordBatch] = deque()
        self._size = 0
        self._changed = asyncio.Condition()
        self._error: BaseException | None = None
        self._reading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._why: BaseException | None = None
        self._folder = f"{FILES}/{number}"
        self._when_over = when_over
        self._gone = asyncio.Event()
        self._died = self._over = self._closed = False
        self._task: Task | None = None
        self.columns: Columns | None = None
        self.schema: pa.Schema = pa.schema([])
        self.end: End | None = None

    @property
    def over(self) -> bool:
        """Whether it runs no more."""
        return self._over

    async def begin(self, task: Task) -> None:
        """Give it to the process, and wait for its columns."""
        self._task = task
        limits, (memory, spill) = self._limits, self._sandbox.bounds
        try:
            params: Any = (
                {name: packed(value) for name, value in task.params.items()}
                if isinstance(task.params, Mapping)
                else [packed(each) for each in task.params]
            )
        except TypeError as error:
            raise StatementError(str(error), remedy="give numbers, text, booleans, dates, moments, bytes, or lists of them") from error
        views = [_moved(view, self._folder) for view in task.views]
        files = [f"{self._folder}/{inside}" for inside, _ in task.links]
        await asyncio.to_thread(self._link, task.links)
        request = Request(
            self._number, task.sql, task.prefix, params, views, files, task.skip, limits.rows, limits.bytes, min(limits.memory, memory),
            min(limits.spill, spill), limits.threads, None if task.tables is None else list(task.tables),
        )  # fmt: skip
        self._process.send(b"Q", msgspec.msgpack.encode(request))
        self._reading = asyncio.create_task(self._read())
        self._watching = asyncio.create_task(self._watch(time.monotonic() + limits.seconds))
        async with self._changed:
            await self._changed.wait_for(lambda: self.columns is not None or self._over)
        if self.columns is None and self._error is not None:
            raise self._error

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """The rows, as they come.

        Raises:
            StatementError, TooLargeError, DeadlineError, ProcessDiedError: it ended otherwise, after the rows that came.
        """
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting or self._over)
                if not self._waiting:
                    if self._error is not None:
                        raise self._error
                    return
                batch = self._waiting.popleft()
                self._size -= batch.nbytes
                self._changed.notify_all()
            yield batch

    async def close(self) -> None:
        """Stop it where it still runs, and wait until its process is given back."""
        if self._reading is None:
            await self._let_go()
            return
        self._closed = True
        if not self._over:
            await self._stop(CancelledStatementError("it was cancelled", remedy="ask again"))
        await self._gone.wait()

    def _link(self, links: Sequence[tuple[str, str]]) -> None:
        """Give the process the files. Under their own names they may be gone the next moment."""
        made: set[Path] = set()
        for inside, path in links:
            target = self._process.folder / self._folder / inside
            if target.parent not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            try:
                os.link(self._sandbox.store_path(path), target)
            except FileNotFoundError as error:
                raise MissingObjectError(
                    "a file that the statement reads is not in the store", where=path, remedy="ask again for what stands now"
                ) from error
            except OSError as error:
                remedy = "put BLYAN_QUERY_FOLDER on the file system of the lake, writable and of the same user"
                raise PermanentError(f"a file of the lake cannot be linked: {error.strerror}", where="BLYAN_QUERY_FOLDER", remedy=remedy) from error

    async def _read(self) -> None:
        """Take what the process says, until it is done."""
        try:
            while not self._over:
                kind, body = await self._process.receive()
                await self._take(kind, body)
        except (ProcessDiedError, msgspec.DecodeError, pa.ArrowException) as error:
            self._died = True
            self._process.kill()
            died = (
                error
                if isinstance(error, ProcessDiedError)
                else ProcessDiedError("the process of the statement said what is no result", remedy="ask again")
            )
            await self._finish(self._why or died)

    async def _take(self, kind: bytes, body: bytes) -> None:
        if kind == b"C":
            columns = msgspec.msgpack.decode(body, type=Columns)
            self.schema = pa.ipc.read_schema(pa.py_buffer(columns.schema))
            async with self._changed:
                self.columns = columns
                self._changed.notify_all()
        elif kind == b"B":
            batch = pa.ipc.read_record_batch(pa.py_buffer(body), self.schema)
            batch.validate(full=True)
            if self._closed or self._why is not None:
                return
            async with self._changed:
                await self._changed.wait_for(lambda: self._size < AHEAD_BYTES or self._closed or self._why is not None)
                self._waiting.append(batch)
                self._size += batch.nbytes
                self._changed.notify_all()
        elif kind == b"E":
            self.end = msgspec.msgpack.decode(body, type=End)
            await self._finish(self._why)
        else:
            error = _error_of(msgspec.msgpack.decode(body, type=Failure), self._task)
            # After a failure of DuckDB itself the process is not what it was.
            self._died = isinstance(error, ProcessDiedError)
            await self._finish(self._why or error)

    async def _finish(self, error: BaseException | None) -> None:
        """It is over: what came can still be read, and its process may run another, whether or not anybody reads."""
        async with self._changed:
            if self._over:
                return
            self._over = True
            self._sandbox.later(self._let_go())
            self._error = error
            if error is not None and self._why is not None:
                self._waiting.clear()
            self._changed.notify_all()

    async def _let_go(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.to_thread(shutil.rmtree, self._process.folder / self._folder, True)
        if self._died or (self.end is not None and self.end.retire):
            self._sandbox.lost(self._process)
        else:
            self._sandbox.back(self._process)
        self._when_over()
        self._gone.set()

    async def _watch(self, deadline: float) -> None:
        """Stop it at its deadline, when it is cancelled, and before it takes more memory than there is for it."""
        most = BASE_BYTES + min(self._limits.memory, self._sandbox.bounds[0]) * 3 // 2
        while not self._over:
            if self._why is None and time.monotonic() > deadline:
                self._why = DeadlineError(
                    f"it was not done in {self._limits.seconds:g} s", remedy="ask for less, filter by slot, or submit the query"
                )
            if self._why is not None:
                await self._stop(self._why)
                return
            if self._process.held() > most:
                self._why = _too_large()
                self._died = True
                self._process.kill()
                return
            await asyncio.sleep(min(WATCH_S, max(0.001, deadline - time.monotonic())))

    async def _stop(self, why: BaseException) -> None:
        """Interrupt it, and end its process where that does not help soon."""
        self._why = self._why or why
        self._process.send(b"X", str(self._number).encode())
        async with self._changed:
            self._changed.notify_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._over), GRACE_S)
                return
        self._died = True
        self._process.kill()
        await self._finish(self._why)


def _moved(view: View, folder: str) -> View:
    """A view whose files are in the folder of one statement."""
    return view if view.sql is None else msgspec.structs.replace(view, sql=view.sql.replace("@/", f"{folder}/"))


def _wrong(failure: Failure, task: Task | None) -> StatementError:
    """What is wrong in a statement: DuckDB's first words of it, the place, and of the names or functions that DuckDB lists what to do."""
    what, _, listed = failure.text.partition("Candidate ")
    lines = what.strip().partition("\n\n")[0].splitlines()
    names = re.findall(r'"([^"\n]+)"', listed)
    wrong = re.findall(r'"([^"\n]+)"', lines[0]) if lines else []
    if names:
        near = difflib.get_close_matches(wrong[-1], names, 1) if wrong else []
        remedy = f"did you mean {near[0]}?" if near else f"name one that there is: {', '.join(names[:LISTED])}"
    elif listed.startswith("functions:"):
        remedy = f"cast what it is given; there is {'; '.join(each.strip() for each in listed.splitlines()[1 : 1 + LISTED])}"
    elif len(lines) > 1 and lines[1].startswith("Either "):
        either = lines.pop(1)
        remedy = either[0].lower() + either[1:].rstrip(".")
    else:
        remedy = "correct the statement"
    text = "\n".join(lines[:FIRST_LINES])
    error = StatementError(text if len(text) <= FIRST_CHARACTERS else f"{text[:FIRST_CHARACTERS]}…", remedy=remedy)
    if task is not None and failure.at is not None:
        error.position = task.begins.after(task.sql[: max(0, failure.at)])
    return error


def _too_large() -> TooLargeError:
    return TooLargeError("it needs more memory than a statement may have", remedy="select fewer columns, filter by slot, or aggregate in steps")


def _error_of(failure: Failure, task: Task | None) -> BaseException:
    match failure.kind:
        case "wrong":
            return _wrong(failure, task)
        case "memory":
            return TooLargeError(failure.text, remedy="select fewer columns, filter by slot, or aggregate in steps")
        case "missing":
            return MissingObjectError("a file that the statement reads is not in the store", remedy="ask again for what stands now")
        case "interrupted":
            return CancelledStatementError("it was interrupted", remedy="ask again")
        case _:
            return ProcessDiedError(failure.text, remedy="ask again; if it fails again, write it in another way")
