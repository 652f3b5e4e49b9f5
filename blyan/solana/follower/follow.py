"""The follower's loop: at every announced slot, ask, fetch, settle, land.

Belongs here: the order of these, and how much at once. Does not belong here: what links prove (`links`), files
(`blyan.solana.landing`), or the process around it (`blyan.cli`).

One coroutine decides and one thread writes, in the order of the decisions; while it writes much, the next blocks come, and
another thread tidies what is final. A step that fails for a passing reason is made again; nothing is remembered of it but what
arrived. So the checkpoint never passes a slot that is neither landed nor proven skipped, and a follower that is killed at any
instant goes on from the head it left.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from blyan.errors import TransientError
from blyan.lake import Lake
from blyan.solana.commitment import Commitment
from blyan.solana.follower.links import Link, Links, Settled
from blyan.solana.follower.node import Fetched, Node, Unfetched
from blyan.solana.follower.stream import SlotStream
from blyan.solana.ingest import pin_genesis
from blyan.solana.landing import Landing
from blyan.solana.slots import Grid, SlotRange
from blyan.solana.sources import RawRecord, SlotState

WINDOW = 256
"""Slots from the checkpoint that are looked at in one step; the tip is always looked at."""

ANNOUNCED = 64
"""Announced slots that the head names at most; at the tip there are two or three."""

PER_STEP = 32
"""Blocks fetched in one step at most, half of them the newest, half the oldest: a reader at the tip does not wait for a gap.
As many again are fetched ahead while those are written, and no more: this bounds what is in memory."""

BESIDE = 4
"""Blocks fetched beside those that were fetched ahead: what was announced meanwhile."""

UNMERGED = 256
"""Segments of the landing from which they are merged even while there is more to fetch: merging waits until it is caught up."""

FINALITY_S = 1.0
"""Seconds between two questions for what is final: the public endpoints answer 40 requests of a kind in 10 s."""

IDLE_S = 1.0
"""A step is made after so many seconds even where no slot is announced."""

HAND_OVER_S = 5.0
"""Seconds between two looks into the lake's logs for ranges that can be let go of."""

RETRY_S = 0.5

Result = TypeVar("Result")


@dataclass(slots=True)
class Measures:
    """What happened since the process began."""

    announced: int = -1
    blocks: int = 0
    skipped: int = 0
    payload_bytes: int = 0
    forks: int = 0
    steps: int = 0
    retries: int = 0
    behind_slots: int = 0
    newest: int = -1
    """The newest landed block; before there is one, the slot before the first that is followed."""
    gap_slots: int = 0
    gaps_filled: int = 0
    last_failure: str = ""
    unfetched: dict[int, str] = field(default_factory=dict)
    sealed: int = 0
    handed_over: int = 0
    write_s: float = 0.0
    lags_s: deque[float] = field(default_factory=lambda: deque(maxlen=1_000))
    """Seconds from the announcement of a slot until its rows could be read, of the last blocks."""


class Follower:
    """One chain into one landing.

    Args:
        node: where content comes from.
        stream: when to ask.
        lake: what the landing belongs to.
        grid: its ranges.
        genesis_hash: the chain that the node must serve; None where the lake alone says.
        landing: the landing; opened from the lake by default.
        disk: the one thread that writes; its own by default.
        beside: the one thread that tidies what is final; its own by default.
        clock: seconds that never go back.
        told: called after every step.
    """

    def __init__(
        self,
        node: Node,
        stream: SlotStream,
        lake: Lake,
        grid: Grid,
        *,
        genesis_hash: str | None = None,
        landing: Landing | None = None,
        disk: Executor | None = None,
        beside: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        told: Callable[[Follower], None] = lambda _: None,
    ) -> None:
        self._node, self._stream, self._lake, self._grid = node, stream, lake, grid
        self._clock, self._told, self._genesis_hash = clock, told, genesis_hash
        self.landing = landing or Landing(lake, grid)
        self.measures = Measures()
        self.links = Links(0)
        self._pending: dict[int, RawRecord] = {}
        self._dead: set[int] = set()
        self._announced_at: dict[int, float] = {}
        self._announced = asyncio.Event()
        self._confirmed_behind = 1
        self._finality_at = self._hand_over_at = float("-inf")
        self._coming: asyncio.Task[tuple[list[Fetched], dict[int, str]]] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._disk = disk or ThreadPoolExecutor(1, thread_name_prefix="landing")
        self._beside = beside or ThreadPoolExecutor(1, thread_name_prefix="tidying")

    @property
    def reconnects(self) -> int:
        """Times the stream was connected again."""
        return self._stream.reconnects

    @property
    def lag_slots(self) -> int:
        """Slots from the newest landed block to the tip."""
        return max(0, max(self.measures.announced, self.landing.head.processed) - self.measures.newest)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop` is set.

        Raises:
            WrongChainError: the node serves another chain than the lake holds, or than the settings ask for.
            PermanentError: the node contradicts what it called final, or has nothing to begin with.
        """
        clock = asyncio.create_task(self._listen())
        try:
            await self._until_it_works(self.begin, stop)
            while not stop.is_set():
                more = await self._until_it_works(self.step, stop)
                self._told(self)
                if not more:
                    await self._wait(stop)
        finally:
            for task in (clock, self._coming):
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
            with suppress(TransientError):
                await self.tidied()
            self._disk.shutdown()
            self._beside.shutdown()
            self.landing.close()

    async def _listen(self) -> None:
        async for slot in self._stream.slots():
            if slot > self.measures.announced:
                self.measures.announced = slot
                self._announced_at[slot] = self._clock()
                self._announced_at.pop(slot - WINDOW, None)
            self._announced.set()

    async def _wait(self, stop: asyncio.Event) -> None:
        """Until the next slot is announced, `stop` is set, or `IDLE_S` have passed."""
        waits = [asyncio.create_task(event.wait()) for event in (self._announced, stop)]
        await asyncio.wait(waits, timeout=IDLE_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _until_it_works(self, work: Callable[[], Awaitable[bool | None]], stop: asyncio.Event) -> bool:
        while not stop.is_set():
            try:
                return bool(await work())
            except TransientError as error:
                self.measures.retries += 1
                self.measures.last_failure = str(error)
                self._told(self)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RETRY_S)
        return False

    # Beginning

    async def begin(self) -> None:
        """Go on from the head that is there; without one, begin with the range of the finalized tip."""
        genesis = await self._node.genesis_hash()
        pin_genesis(self._lake, genesis, self._genesis_hash)
        head = self.landing.head
        if not head.generation:
            first = await self._first()
            await self._on_disk(lambda: self.landing.open(first))
            await self._on_disk(lambda: self.landing.advance([], checkpoint=first, genesis_hash=genesis))
            self.links = Links(first)
            self._look_back()
            return
        before = None if head.anchor is None else Link(head.anchor[0], head.anchor[1], None, None)
        self.links = Links(head.checkpoint, before)
        for place in await self._on_disk(self.landing.places):
            self.links.add(Link(*place))
        self._look_back()

    async def _first(self) -> int:
        """The first slot of the range of the finalized tip, or of the next where the node no longer has that one."""
        tips, available = await self._node.tips(), await self._node.first_available()
        current = self._grid.covering(SlotRange(tips.finalized, tips.finalized))[0]
        return current.first if available <= current.first else current.last + 1

    # A step

    async def step(self) -> bool:
        """Land what is new; whether there is more to do at once.

        Whatever arrived or was proven is pending until it is in a head, so a step that fails half-way loses nothing.
        """
        self._announced.clear()
        links, measures, head = self.links, self.measures, self.landing.head
        measures.steps += 1
        processed, finalized = max(head.processed, measures.announced), head.finalized
        due = self._clock() - self._finality_at >= FINALITY_S
        if processed < 0:
            processed = (await self._node.tips()).processed
        listed, guessed = await asyncio.gather(self._listed(processed), self._guess(processed))
        self._arrived(guessed)
        confirmed = max([head.confirmed, *listed[-1:]])
        self._confirmed_behind = processed - confirmed
        fetched = await self._fetched(listed)
        more = max(len(fetched), self._waiting()) >= PER_STEP
        if more and self._waiting() <= PER_STEP + BESIDE:
            self._coming = asyncio.create_task(self._fetch_ahead(links.wanted(listed)))
        newest = max((slot for slot in links.blocks if slot <= confirmed), default=None)
        if newest is not None:
            self._proven(links.settle(links.blocks[newest], final=False))
        if self._pending or self._dead:
            await self._land(processed=processed, confirmed=confirmed, finalized=finalized)
        if due:
            # After landing: nobody who waits for a new slot waits for what is final.
            tips = await self._node.tips()
            self._finality_at = self._clock()
            processed, finalized = max(processed, tips.processed), max(finalized, tips.finalized)
        if finalized >= links.checkpoint and (due or more):
            await self._settle_final(finalized)
        await self._land(processed=processed, confirmed=confirmed, finalized=finalized)
        if self._tidying is None or self._tidying.done():
            await self.tidied()
            self._tidying = asyncio.create_task(self._tidy_beside(merge=not more))
        measures.behind_slots = max(0, processed - links.checkpoint)
        return more

    def _look_back(self) -> None:
        links, measures = self.links, self.measures
        measures.newest = max(links.blocks, default=links.checkpoint - 1)
        missing = sum(last - first + 1 for first, last in links.gaps())
        measures.gaps_filled += missing == 0 and measures.gap_slots > 0
        measures.gap_slots = missing

    def _waiting(self) -> int:
        """Blocks in memory that are not in a head."""
        return sum(record.state is SlotState.PRESENT for record in self._pending.values())

    def _arrived(self, fetched: list[Fetched]) -> None:
        for item in fetched:
            if self.links.add(item.link):
                self._pending[item.link.slot] = item.record
                self._dead.discard(item.link.slot)

    def _proven(self, settled: Settled) -> None:
        for slot in settled.dead:
            self._pending.pop(slot, None)
            self._dead.add(slot)
        for slot, later in settled.skipped:
            self._pending[slot] = RawRecord(slot, SlotState.SKIPPED, f"parent link of {later}", origin=self._node.where)
        self.measures.forks += len(settled.dead)

    async def _listed(self, processed: int) -> list[int]:
        """The slots with a block at the checkpoint and at the tip, as far as the node calls them confirmed."""
        low = self.links.checkpoint
        spans = [(low, min(low + WINDOW, processed))]
        if processed - low > 2 * WINDOW:
            spans.append((processed - WINDOW, processed))
        elif processed > low + WINDOW:
            spans = [(low, processed)]
        answers = [await self._node.listed(first, last, Commitment.CONFIRMED) for first, last in spans if first <= last]
        return sorted({slot for answer in answers for slot in answer})

    async def _guess(self, processed: int) -> list[Fetched]:
        """The block that is probably confirmed now, asked for while the node is asked which ones are: one round trip less.

        That is the announced slot as far behind the tip as the newest confirmed one was at the step before.
        """
        slot = processed - self._confirmed_behind
        if slot not in self._announced_at or slot in self.links.blocks or self._waiting() > PER_STEP:
            return []
        try:
            return (await self._fetch([slot], 2))[0]
        except TransientError:
            return []

    async def _fetched(self, listed: list[int]) -> list[Fetched]:
        """What is new: what comes already, and of the slots that are listed what is still wanted."""
        coming, self._coming = self._coming, None
        fetched, unfetched = ([], {}) if coming is None else await coming
        self._arrived(fetched)
        wanted = [slot for slot in self.links.wanted(listed) if slot not in unfetched]
        # None where what came before could not be written yet.
        room = max(0, PER_STEP + BESIDE - self._waiting())
        beside, failed = await self._fetch(wanted, min(room, max(PER_STEP - len(fetched), BESIDE)))
        self._arrived(beside)
        self.measures.unfetched = unfetched | failed
        return [*fetched, *beside]

    async def _fetch_ahead(self, wanted: list[int]) -> tuple[list[Fetched], dict[int, str]]:
        try:
            return await self._fetch(wanted, PER_STEP)
        except TransientError:
            # The next step asks again, and says so if it fails again.
            return [], {}

    async def _fetch(self, wanted: list[int], most: int) -> tuple[list[Fetched], dict[int, str]]:
        half = most // 2
        chosen = wanted if len(wanted) <= most else [*wanted[:half], *wanted[len(wanted) - half :]]
        answers = await asyncio.gather(*(self._node.block(slot, Commitment.CONFIRMED) for slot in chosen))
        return (
            sorted((answer for answer in answers if isinstance(answer, Fetched)), key=lambda answer: answer.link.slot),
            {answer.slot: answer.why for answer in answers if isinstance(answer, Unfetched)},
        )

    async def _settle_final(self, finalized: int) -> None:
        """Move the checkpoint as far as the links of a final block allow."""
        links = self.links
        final = await self._node.listed(links.checkpoint, min(finalized, links.checkpoint + WINDOW), Commitment.FINALIZED)
        # The newest that is here: one that is still missing proves nothing yet.
        here = [slot for slot in final if slot in links.blocks]
        if not here:
            return
        anchor = await self._node.link(here[-1], Commitment.FINALIZED)
        if isinstance(anchor, Unfetched):
            self.measures.last_failure = f"slot {anchor.slot}: {anchor.why}"
            return
        self._proven(links.settle(anchor, final=True))

    def _ahead(self, processed: int) -> list[tuple[int, str]]:
        """The newest announced slots that are neither landed nor passed over, with their ranges."""
        links, grid = self.links, self._grid
        newest, gaps = max(links.blocks, default=links.checkpoint - 1), links.gaps()
        slots = [slot for slot in {processed, *self._announced_at} if slot > newest or any(first <= slot <= last for first, last in gaps)]
        slots = [slot for slot in sorted(slots)[-ANNOUNCED:] if grid.first_slot <= slot < grid.horizon_slot]
        return [(slot, grid.covering(SlotRange(slot, slot))[0].key) for slot in slots]

    async def _land(self, **marks: Any) -> None:
        links, measures, records, head = self.links, self.measures, list(self._pending.values()), self.landing.head
        anchor = None if links.before is None else (links.before.slot, links.before.block_hash)
        marks |= {"checkpoint": links.checkpoint, "announced": self._ahead(marks["processed"])}
        if not records and not self._dead and all(getattr(head, name) == value for name, value in marks.items()):
            return
        began = time.perf_counter()
        await self._on_disk(lambda: self.landing.advance(records, self._dead, anchor=anchor, **marks))
        readable = self._clock()
        measures.lags_s.extend(readable - self._announced_at.pop(slot) for slot in self._pending if slot in self._announced_at)
        self._look_back()
        self._pending.clear()
        self._dead.clear()
        measures.write_s += time.perf_counter() - began
        measures.blocks += sum(record.state is SlotState.PRESENT for record in records)
        measures.skipped += sum(record.state is SlotState.SKIPPED for record in records)
        measures.payload_bytes += sum(len(record.payload) for record in records)

    async def tidied(self) -> None:
        """Wait for what is tidied beside the loop, and raise what ended it."""
        tidying, self._tidying = self._tidying, None
        if tidying is not None:
            await tidying

    async def _tidy_beside(self, *, merge: bool) -> None:
        # Merging sixteen blocks of mainnet takes a second, which no slot waits for.
        await asyncio.get_running_loop().run_in_executor(self._beside, lambda: self._tidy(merge=merge))

    def _tidy(self, *, merge: bool) -> None:
        landing = self.landing
        if merge or sum(len(landed.segments) for landed in landing.head.ranges) > UNMERGED:
            landing.merge()
        self.measures.sealed += len(landing.seal())
        if self._clock() - self._hand_over_at >= HAND_OVER_S:
            self._hand_over_at = self._clock()
            self.measures.handed_over += len(landing.hand_over())
            landing.sweep()

    async def _on_disk(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)
