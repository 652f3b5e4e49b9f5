"""Answers that are remembered: found by a digest of all that they depend on, made once for all who wait.

Belongs here: what an answer's rows are once they are whole, the room in memory, the order in which rooms are asked, who computes.
Does not belong here: what an answer depends on (`blyan.query.sql`, `blyan.query.records`), the rooms outside the process
(`blyan.query.shared_answers`, `blyan.query.kept_answers`), HTTP.

**A key is a digest of everything that decides the rows**: the statement or question, its parameters, what the caller's role may have, the
digest of each range that can matter, and the release of DuckDB. So an entry never becomes wrong and is never invalidated; what it was made
from is no longer asked for, and it is let go of in time. What an answer says of *now* (versions, up to which slot, how far behind, the
cursor) is no part of an entry: it is made anew for every reader, from the snapshot that gave the key.

**A room may fail in any way**: be slow, dead, full, or hold bytes that are not what was put. That is a miss, and is counted; a room that
failed is not asked for `PAUSE_S`. Nothing of it reaches who asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
import pyarrow as pa
from msgspec import Struct

from blyan.errors import BlyanError, TransientError

FORMAT = 1
"""Version of an entry outside the process. Others are misses."""

ENTRY_BYTES = 2 << 20
"""Rows of a larger answer are streamed and not kept: they would push many smaller ones out."""

PAUSE_S = 5.0
"""Seconds for which a room that failed is not asked."""

WRITES = 32
"""Entries on their way to rooms outside the process at once; beyond, they are not put there."""

OVERHEAD = 1_024
"""Bytes that an entry takes in memory besides its rows, about."""

_HEAVIER = "heavier"
"""Name under which an entry knows whom to tell that it takes more memory."""

Result = TypeVar("Result")

log = logging.getLogger("blyan.query")


class Content(Struct, frozen=True, dict=True):
    """The rows of an answer, whole.

    Attributes:
        rows: an Arrow IPC stream.
        count: of rows.
        digest: SHA-256 (hex) of columns and rows, whatever batches they came in.
        truncated: there are more rows than these.
        columns: names and types, as DuckDB writes them; none where the table's own are meant.
        after: key of the last row of a page of records, if there are more.
    """

    rows: bytes
    count: int
    digest: str
    truncated: bool
    columns: list[tuple[str, str]] = []
    after: list[Any] | None = None
    format: int = FORMAT

    def written(self, form: str) -> bytes | None:
        """Its rows in a form, if this process has written them so: that is no part of what is packed."""
        found: bytes | None = self.__dict__.get(form)
        return found

    def keep_written(self, form: str, rows: bytes) -> bytes:
        """Remember its rows in a form, for as long as the entry is remembered."""
        if form not in self.__dict__:
            self.__dict__[form] = rows
            self.__dict__.get(_HEAVIER, len)(rows)
        return rows

    def table(self) -> pa.Table:
        """The rows."""
        return pa.ipc.open_stream(self.rows).read_all()

    def packed(self) -> bytes:
        """As it goes to another process."""
        return msgspec.msgpack.encode(self)


def unpacked(packed: bytes) -> Content | None:
    """An entry from another process; None where it is none, or of another release's format."""
    try:
        found = msgspec.msgpack.decode(packed, type=Content)
    except msgspec.DecodeError:
        return None
    return found if found.format == FORMAT else None


def rows_in_bytes(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> bytes:
    """Rows as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def key_of(*parts: Any) -> str:
    """SHA-256 (hex) of parts, in canonical JSON."""
    return hashlib.sha256(msgspec.json.encode([FORMAT, *parts], order="deterministic")).hexdigest()


class Room(Protocol):
    """Where entries are besides the process' own memory. What it gives, it has compared with a digest.

    Attributes:
        name: for metrics, and for those who ask where an answer came from.
        lasting: whether it keeps entries for good, so that those of the tail are not put there: they are of use for a second.
        wait_s: seconds for it to give an entry; beyond, it has failed.
    """

    name: str
    lasting: bool
    wait_s: float

    async def get(self, key: str) -> bytes | None:
        """An entry; None where there is none, or what is there is not what was put.

        Raises:
            TransientError: the room cannot be asked.
        """

    async def put(self, key: str, entry: bytes) -> None:
        """Keep an entry.

        Raises:
            TransientError: it is not kept.
        """

    async def close(self) -> None:
        """Let go of it."""


class Breaker:
    """Whether something that may fail is asked; once it failed, one asks again after a pause, and the others when that one succeeded.

    Args:
        pause_s: seconds.
        clock: seconds that never go back.
    """

    def __init__(self, pause_s: float = PAUSE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause_s, self._clock = pause_s, clock
        self._until = 0.0
        self.closed = True

    def admits(self) -> bool:
        """Whether to ask now; who is let through after a pause keeps the others out meanwhile."""
        if self.closed:
            return True
        if self._clock() < self._until:
            return False
        self._until = self._clock() + self._pause_s
        return True

    def failed(self) -> None:
        """It failed."""
        self.closed, self._until = False, self._clock() + self._pause_s

    def succeeded(self) -> None:
        """It answered."""
        self.closed = True


@dataclass(slots=True)
class _Flight:
    """One computation, and how many wait for it."""

    task: asyncio.Task[tuple[Content | None, str]]
    waiting: int = 0


class Answers:
    """Remembered answers of one process, and of the rooms that it shares with others. For one event loop.

    Args:
        most_bytes: that its own memory holds.
        rooms: asked in this order, after the memory.
        tell: called with the name of each thing that happens: `hit memory`, `miss`, `wait`, `evicted`, `redis silent`…
    """

    def __init__(self, most_bytes: int, rooms: Iterable[Room] = (), *, tell: Callable[[str], None] = lambda _: None) -> None:
        self._most, self._tell = most_bytes, tell
        self._rooms = [(room, Breaker(), Breaker()) for room in rooms]
        self._held: OrderedDict[str, tuple[Content, int]] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self.bytes = 0

    def peek(self, key: str) -> Content | None:
        """What this process itself remembers."""
        found = self._held.get(key)
        if found is None:
            return None
        self._held.move_to_end(key)
        self._tell("hit memory")
        return found[0]

    async def get(self, key: str, compute: Callable[[], Coroutine[Any, Any, Content | None]], *, settled: bool) -> tuple[Content | None, str]:
        """An answer, and where it came from: `memory`, the name of a room, `computed`, or `joined` where another computed it.

        Whoever is first computes, and goes on for the others if it goes away. Where it fails for a reason that may pass, one of the others
        computes; an error that would come again is everybody's.

        Args:
            key: of all that the rows depend on.
            compute: makes the rows; None where they are too many to be kept.
            settled: whether everything it was made from stays, so that it is worth keeping for good.

        Raises:
            BlyanError: what `compute` raises.
        """
        if (found := self.peek(key)) is not None:
            return found, "memory"
        while True:
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight(asyncio.create_task(self._fetched(key, compute, settled)))
                flight.task.add_done_callback(partial(self._landed, key, flight))
            else:
                self._tell("wait")
            flight.waiting += 1
            try:
                content, source = await asyncio.shield(flight.task)
            except TransientError:
                if mine:
                    raise
                continue
            finally:
                flight.waiting -= 1
                if not flight.waiting and not flight.task.done():
                    flight.task.cancel()
                    self._forget(key, flight)  # it takes a moment to end, and who comes meanwhile computes
            return content, source if mine else "joined"

    async def put(self, key: str, content: Content, *, settled: bool) -> None:
        """Remember an answer that was computed, and wait until the rooms have it."""
        self._hold(key, content)
        await self._spread(key, content, [room for room, _, _ in self._rooms if settled or not room.lasting])

    async def close(self) -> None:
        """Let go of the rooms, once they have what is on its way."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        for room, _, _ in self._rooms:
            await room.close()

    @property
    def state(self) -> dict[str, str]:
        """Of each room: `ready`, or `paused`."""
        return {room.name: "ready" if reading.closed and writing.closed else "paused" for room, reading, writing in self._rooms}

    # Steps

    def _landed(self, key: str, flight: _Flight, task: asyncio.Task[Any]) -> None:
        self._forget(key, flight)
        if not task.cancelled():
            task.exception()  # looked at, so that nobody is warned where all who waited went away

    def _forget(self, key: str, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _fetched(self, key: str, compute: Callable[[], Awaitable[Content | None]], settled: bool) -> tuple[Content | None, str]:
        lacking: list[Room] = []
        for room, reading, _ in self._rooms:
            if room.lasting and not settled:
                continue
            packed = await self._asked(room, reading, key)
            content = unpacked(packed) if packed is not None else None
            if content is not None:
                self._tell(f"hit {room.name}")
                self._hold(key, content)
                self._send(key, content, lacking)
                return content, room.name
            lacking.append(room)
        self._tell("miss")
        content = await compute()
        if content is None:
            self._tell("too large")
            return None, "computed"
        self._hold(key, content)
        self._send(key, content, lacking)
        return content, "computed"

    async def _asked(self, room: Room, breaker: Breaker, key: str) -> bytes | None:
        if not breaker.admits():
            return None
        try:
            async with asyncio.timeout(room.wait_s):
                found = await room.get(key)
        except (BlyanError, TimeoutError) as error:
            self._failed(room, breaker, error)
            return None
        self._succeeded(room, breaker)
        return found

    def _send(self, key: str, content: Content, rooms: list[Room]) -> None:
        """Put an entry into rooms, while nobody waits for it."""
        if not rooms:
            return
        if len(self._writes) >= WRITES:
            self._tell("not spread")
            return
        task = asyncio.create_task(self._spread(key, content, rooms))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _spread(self, key: str, content: Content, rooms: list[Room]) -> None:
        packed = content.packed()
        for room, reading, writing in self._rooms:
            if room not in rooms or not reading.closed or not writing.admits():
                continue
            try:
                await room.put(key, packed)
            except BlyanError as error:
                self._failed(room, writing, error)
            else:
                self._succeeded(room, writing)
                self._tell(f"put {room.name}")

    def _failed(self, room: Room, breaker: Breaker, error: Exception) -> None:
        if breaker.closed:
            log.warning("answers are not remembered in %s for now", room.name, extra={"error": f"{type(error).__name__}: {error}"})
        breaker.failed()
        self._tell(f"{room.name} failed")

    def _succeeded(self, room: Room, breaker: Breaker) -> None:
        paused = not breaker.closed
        breaker.succeeded()
        if paused:
            self._tell(f"{room.name} answers again")

    def _hold(self, key: str, content: Content) -> None:
        weight = len(content.rows) + OVERHEAD
        if weight > self._most:
            return
        _, before = self._held.pop(key, (content, 0))
        self._held[key] = (content, weight)
        content.__dict__[_HEAVIER] = partial(self._heavier, key, content)
        self.bytes += weight - before
        self._shrink()

    def _heavier(self, key: str, content: Content, more: bytes) -> None:
        held, weight = self._held.get(key, (None, 0))
        if held is content:
            self._held[key] = (content, weight + len(more))
            self.bytes += len(more)
            self._shrink()

    def _shrink(self) -> None:
        while self.bytes > self._most:
            _, (_, weight) = self._held.popitem(last=False)
            self.bytes -= weight
            self._tell("evicted")


class Looks:
    """Looks at what stands, shared by all who wait for one: each gets what a look saw that began after it asked.

    Args:
        side_by_side: whether each look has a thread of its own, as where it waits for a network; else they follow each other in one.
    """

    def __init__(self, *, side_by_side: bool) -> None:
        self._side_by_side = side_by_side
        self._pool = ThreadPoolExecutor(16 if side_by_side else 1, "look")
        self._waiting: dict[Hashable, tuple[Callable[[], Any], asyncio.Future[Any]]] = {}
        self._working: asyncio.Task[None] | None = None

    async def take(self, key: Hashable, look: Callable[[], Result]) -> Result:
        """What a look sees; those with the same key that wait together share one.

        Raises:
            BlyanError: what the look raises.
        """
        if key not in self._waiting:
            self._waiting[key] = (look, asyncio.get_running_loop().create_future())
        future: asyncio.Future[Result] = self._waiting[key][1]
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await asyncio.shield(future)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = list(self._waiting.values()), {}
                groups = [[each] for each in batch] if self._side_by_side else [batch]
                looks = [[look for look, _ in group] for group in groups]
                seen = await asyncio.gather(*(loop.run_in_executor(self._pool, _seen, group) for group in looks))
                for group, results in zip(groups, seen, strict=True):
                    for (_, future), (value, error) in zip(group, results, strict=True):
                        if error is None:
                            future.set_result(value)
                        else:
                            future.set_exception(error)
                            future.exception()  # who asked may be gone
        finally:
            self._working = None


def _seen(looks: list[Callable[[], Any]]) -> list[tuple[Any, Exception | None]]:
    found: list[tuple[Any, Exception | None]] = []
    for look in looks:
        try:
            found.append((look(), None))
        except Exception as error:  # noqa: BLE001 - each goes to who asked for that look, and the others have theirs
            found.append((None, error))
    return found
