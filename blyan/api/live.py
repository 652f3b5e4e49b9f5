"""Live slots: what the landing's head says, told to every client the moment that it changes.

Belongs here: watching the head, what changed between two of them, and clients that are slow. Does not belong here: HTTP and WebSocket
(`blyan.api.routes.live`), the head itself (`blyan.solana.landing`).

One task a process looks at `head.json`, while somebody listens and a minute longer. Clients get events in the order of heads, each at least once; a
client that comes back names the newest generation that it knows, and gets what came since, or everything that may still change where
that is not remembered. A client that reads too slowly is told so and let go: nothing is left out silently.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from blyan.errors import BlyanError
from blyan.lake import Lake
from blyan.solana.commitment import Commitment
from blyan.solana.landing import HEAD, Head, read_head

LOOK_S = 0.05
"""Seconds between two looks at a head on a disk, which cost a `stat` each."""

REMOTE_LOOK_S = 0.5
"""The same in a bucket, where a look is a request."""

QUEUE = 512
"""Events that wait for a client; with more it is let go."""

REMEMBERED = 1_024
"""Events that a client which comes back can be given."""

LINGER_S = 60.0
"""Seconds for which the head is watched once nobody listens: a client that lost its connection comes back, and wants what it missed."""

END_S = 0.25
"""Seconds in which a stream notices that the process ends."""

log = logging.getLogger("blyan.api")


class Event(Struct, frozen=True):
    """Something that happened.

    Attributes:
        event: `head` (the first of every stream), `slot`, `gone` (a fork died), `final`, or `slow` (the last of a stream).
        id: the generation of the head that told it.
        data: of it.
    """

    event: str
    id: int
    data: dict[str, Any]


def changes(before: Head, after: Head) -> list[Event]:
    """What one head has and the one before it had not."""
    old, new = before.slots(), after.slots()
    events = [
        Event("slot", after.generation, described(after, slot, block_hash))
        for slot, block_hash in new.items()
        if slot not in old or old[slot] != block_hash
    ]
    # Merged segments no longer list their slots, and those are final.
    gone = [slot for slot in old if slot not in new and slot >= after.checkpoint]
    events[:0] = [Event("gone", after.generation, {"slot": slot, "block_hash": old[slot]}) for slot in gone]
    if after.checkpoint > before.checkpoint:
        events.append(Event("final", after.generation, {"finalized_to": after.checkpoint - 1}))
    return events


def described(head: Head, slot: int, block_hash: str | None) -> dict[str, Any]:
    """A slot as clients are told of it."""
    sure = Commitment.FINALIZED if slot < head.checkpoint else Commitment.CONFIRMED
    state = "skipped" if block_hash is None else "landed"
    return {"slot": slot, "block_hash": block_hash, "state": state, "commitment": sure.label, "tip": head.processed}


def whole(head: Head) -> Event:
    """Everything that may still change: what a client begins with."""
    slots = [described(head, slot, block_hash) for slot, block_hash in head.slots().items() if slot >= head.checkpoint]
    return Event("head", head.generation, {"finalized_to": head.checkpoint - 1, "tip": head.processed, "slots": slots})


class Hub:
    """Tells clients what happens. For one event loop.

    Args:
        lake: whose head is watched.
        ending: set when the process ends.
        count: told how many clients there are.
    """

    def __init__(self, lake: Lake, ending: asyncio.Event, count: Callable[[int], None] = lambda _: None) -> None:
        self._lake, self._ending, self._count = lake, ending, count
        self._clients: dict[int, asyncio.Queue[Event]] = {}
        self._slow: set[int] = set()
        self._past: deque[Event] = deque(maxlen=REMEMBERED)
        self._since: int | None = None
        self._head: Head | None = None
        self._mark: object = None
        self._watching: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def events(self, after: int | None = None) -> AsyncIterator[Event]:
        """Events from now on, until the process ends or the client is too slow.

        Args:
            after: the newest generation that the client knows.

        Raises:
            BlyanError: the head cannot be read.
        """
        await self._begin()
        queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE)
        me = id(queue)
        # Nothing is awaited between these two: what comes after the first events comes through the queue.
        first = self._missed(after)
        self._clients[me] = queue
        self._count(len(self._clients))
        try:
            for event in first:
                yield event
            while not self._ending.is_set():
                try:
                    event = await asyncio.wait_for(queue.get(), END_S)
                except TimeoutError:
                    continue
                yield event
                if me in self._slow and queue.empty():
                    remedy = "read faster, and come back with the id of the event before this one"
                    yield Event("slow", self._generation, {"remedy": remedy})
                    return
        finally:
            self._clients.pop(me, None)
            self._slow.discard(me)
            self._count(len(self._clients))

    async def close(self) -> None:
        """Stop watching."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    @property
    def _generation(self) -> int:
        return self._head.generation if self._head else 0

    def _missed(self, after: int | None) -> list[Event]:
        """What a client is told first."""
        complete = len(self._past) < REMEMBERED or (after is not None and self._past[0].id <= after)
        if after is not None and self._since is not None and self._since <= after <= self._generation and complete:
            return [event for event in self._past if event.id > after]
        return [whole(self._head or Head())]

    async def _begin(self) -> None:
        """Watch, where nobody does."""
        async with self._turn:
            if self._watching is None or self._watching.done():
                self._past.clear()
                await self._look()
                self._since = self._generation
                self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Look at the head while anybody listens."""
        pause, alone = LOOK_S if self._lake.store.is_local else REMOTE_LOOK_S, 0.0
        while not self._ending.is_set():
            await asyncio.sleep(pause)
            alone = 0.0 if self._clients else alone + pause
            if alone >= LINGER_S:
                return
            try:
                for event in await self._look():
                    self._tell(event)
            except BlyanError as error:
                log.warning("the head cannot be read: %s", error)

    async def _look(self) -> list[Event]:
        """What changed since the last look."""
        mark = self._stamp()
        if mark is not None and mark == self._mark:
            return []
        head = await asyncio.to_thread(read_head, self._lake)
        before, self._head, self._mark = self._head, head, mark
        if head is None or before is None or head.generation == before.generation:
            return []
        return changes(before, head)

    def _stamp(self) -> object:
        """Tells one head from another without reading it; None where that cannot be."""
        if not self._lake.store.is_local:
            return None
        try:
            found = Path(self._lake.store.path(HEAD)).stat()
        except FileNotFoundError:
            return "none"
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _tell(self, event: Event) -> None:
        self._past.append(event)
        for me, queue in self._clients.items():
            if me in self._slow:
                continue
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._slow.add(me)
