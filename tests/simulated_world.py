"""A follower's whole world, drawn from a seed: a chain, a node, a disk, two clocks, and processes that die.

Belongs here: what goes wrong and when, the names of the instants at which a process may die, and what must hold whatever
happened. Does not belong here: how bad a node is (`tests.simulated_chain`) or a disk (`tests.simulated_disk`); which worlds are
lived through, which the tests and `tests.simulate` say.

Only the disk survives a process, so the instants that differ are those between two changes of the disk. Each has a name, such as
`advance/transactions before rename`: what was being done, to which file, and before which change.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pyarrow.parquet as pq

from blyan import schemas
from blyan.errors import TransientError
from blyan.lake import Lake
from blyan.solana import segments as segments_module
from blyan.solana.follower import follow as follow_module
from blyan.solana.follower.follow import Follower
from blyan.solana.landing import GRACE_S, HEAD, Head, Landing, read_head
from blyan.solana.segments import LANDED
from blyan.solana.slots import Grid
from tests.simulated_chain import QUIET, Faults, SimulatedNode, block_of, signatures_of
from tests.simulated_disk import Crash, SimulatedDisk

TICKS = 36
WIDTH = 16
DAY_S = 86_400.0
SETTLES_WITHIN = 80
"""Steps without troubles after which everything final must be here."""

LOSSES = ("all", "bytes", "some")
"""What of the unsynced a loss of power takes (`SimulatedDisk.lose_power`)."""

OPERATIONS = ("open", "advance", "merge", "seal", "hand_over", "sweep")
"""What a landing does to the disk."""


@dataclass
class Troubles:
    """How often, of 1.

    Attributes:
        crash: at each instant between two changes of the disk.
        power: of the crashes, those that take with them what was not synced.
        full: of the steps, those at which the disk begins to be full, for up to six steps.
        failing: of the steps, those in which one in ten changes of the disk fails for a passing reason.
        slow: of the steps, those in which every change of the disk takes up to a minute.
        wall: of the steps, those before which the wall clock jumps: a day back, a year ahead, or anywhere between.
        suspended: of the steps, those before which the monotonic clock jumps ten days ahead, or stands still for up to six steps.
    """

    crash: float = 0.005
    power: float = 0.5
    full: float = 0.04
    failing: float = 0.02
    slow: float = 0.04
    wall: float = 0.05
    suspended: float = 0.04


NONE = Troubles(crash=0, power=0, full=0, failing=0, slow=0, wall=0, suspended=0)


class Inline(Executor):
    """Does the work at once, so that what the loop does meanwhile is the same in every life of a seed."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments, **options))
        except BaseException as error:  # noqa: BLE001 - whoever waits for it is told, a crash included
            done.set_exception(error)
        return done


class Silence:
    """A stream that announces nothing: the world calls `step` itself."""

    reconnects = 0

    async def slots(self) -> Any:
        await asyncio.Event().wait()
        yield 0


class World:
    """A chain, a lake, and followers that die.

    Attributes:
        time: what the monotonic clock shows, seconds.
        points: how often each instant was reached.
        troubles_met: how often each kind of trouble befell it.
    """

    def __init__(self, seed: int, folder: Path, *, faults: Faults | None = None, troubles: Troubles | None = None) -> None:
        self.seed = seed
        self.node = SimulatedNode(seed, faults or Faults())
        self.troubles = troubles or Troubles()
        self.grid = Grid(0, 100_000, WIDTH)
        self.random = random.Random(seed + 2)
        self.points: Counter[str] = Counter()
        self.troubles_met: Counter[str] = Counter()
        self.time, self.wall = 0.0, 1_700_000_000.0
        self.operation = "begin"
        self.disk = SimulatedDisk(folder, self.reached)
        self.full_steps = self.still_steps = 0
        self.slow_s, self.failing = 0.0, False
        self._read: dict[tuple[str, ...], list[tuple[object, ...]]] = {}
        self.restart()

    def restart(self) -> None:
        """What a process finds that begins now."""
        self.disk.dead = False
        self.lake = Lake(str(self.disk.root))
        self.lake.store.disk = self.disk
        self.follower: Follower | None = None
        self.named = self._named()
        self.left: list[tuple[float, set[str]]] = []

    def crashed_copy(self, folder: Path, *, lost: str) -> World:
        """The world as it would be if the process had died at this instant: with "nothing" lost, or one of `LOSSES`."""
        world = World(self.seed, folder, troubles=NONE)
        world.node, world.random, world.time, world.wall, world.grid = (
            copy.deepcopy(self.node),
            random.Random(self.seed),
            self.time,
            self.wall,
            self.grid,
        )
        world.disk = self.disk.copied(folder, world.reached)
        if lost != "nothing":
            world.disk.lose_power(world.random, lost)
        world.restart()
        return world

    # Instants

    def reached(self, point: str, path: Path) -> None:
        """The process is about to change the disk, or has."""
        self.time += self.random.random() * self.slow_s
        name = f"{self.operation}/{_kind(path)} {point}"
        self.points[name] += 1
        if str(path) == HEAD and point == "after rename":
            before, self.named = self.named, self._named()
            self.left.append((self.time, before - self.named))
        elif point == "before delete":
            self._may_delete(str(path))
        self.instant(name)
        if self.failing and point.startswith("before") and self.random.random() < 0.1:
            raise OSError(errno.EIO, "Input/output error", str(path))

    def instant(self, name: str) -> None:
        """Die here, or not."""
        if self.random.random() < self.troubles.crash:
            raise Crash(name)

    def _named(self) -> set[str]:
        head = read_head(self.lake)
        return {path for table in LANDED for _, path in head.files(table)} if head else set()

    def _may_delete(self, path: str) -> None:
        assert path not in self.named, f"{path} is deleted while the head names it"
        self.left = [(since, names) for since, names in self.left if self.time - since < GRACE_S]
        for since, names in self.left:
            assert path not in names, f"{path} is deleted {self.time - since:.0f} s after the head stopped naming it"

    # Steps

    async def step(self) -> None:
        """One step of a follower; of a new one where the last died."""
        self._weather()
        try:
            if self.follower is None:
                self.follower = self._begun()
                self.begun = False
            if not self.begun:
                await self.follower.begin()
                self.begun = True
            if self.random.random() < 0.7:
                self.follower.measures.announced = max(self.follower.measures.announced, self.node.now)
            await self.follower.step()
            await self.follower.tidied()
            assert read_head(self.lake) == self.follower.landing.head, "the head on the disk is not the one the follower goes on from"
        except TransientError:
            pass
        except Crash:
            self._died()

    def _begun(self) -> Follower:
        self.operation = "begin"
        landing = Landing(self.lake, self.grid, clock=lambda: self.time, now=lambda: self.wall)
        for name in OPERATIONS:
            setattr(landing, name, partial(self._within, name, getattr(landing, name)))
        return Follower(self.node, Silence(), self.lake, self.grid, landing=landing, disk=Inline(), beside=Inline(), clock=lambda: self.time)

    def _within(self, operation: str, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        before, self.operation = self.operation, operation
        try:
            return work(*arguments, **options)
        finally:
            self.operation = before

    def _died(self) -> None:
        self.troubles_met["crash"] += 1
        # One that was read at the start and not written since may have been renamed by a process that died before it was synced.
        known = self.follower.landing.head.generation if self.follower and not self.follower.landing._uncertain else 0
        if self.random.random() < self.troubles.power:
            self.troubles_met["power"] += 1
            self.disk.lose_power(self.random, self.random.choice(LOSSES))
            self._read.clear()
        self.restart()
        head = read_head(self.lake)
        assert (head.generation if head else 0) >= known, "a head that readers saw is gone"

    def _weather(self) -> None:
        """What befalls the machine before a step."""
        troubles, draw = self.troubles, self.random
        self.wall += 60.0
        self.time += 0.0 if self.still_steps else 60.0
        self.still_steps = max(0, self.still_steps - 1)
        self.full_steps = max(0, self.full_steps - 1)
        self.slow_s = 0.0
        if not self.full_steps:
            self.disk.free = None
        if draw.random() < troubles.full:
            self.troubles_met["full"] += 1
            self.full_steps, self.disk.free = draw.randint(1, 6), draw.choice((0, draw.randint(0, 60_000)))
        self.failing = draw.random() < troubles.failing
        self.troubles_met["failing"] += self.failing
        if draw.random() < troubles.slow:
            self.troubles_met["slow"] += 1
            self.slow_s = draw.uniform(1.0, 60.0)
        if draw.random() < troubles.wall:
            self.troubles_met["wall"] += 1
            self.wall += draw.choice((-DAY_S, 365 * DAY_S, draw.uniform(-DAY_S, DAY_S)))
        if draw.random() < troubles.suspended:
            self.troubles_met["suspended"] += 1
            if draw.random() < 0.5:
                self.time += 10 * DAY_S
            else:
                self.still_steps = draw.randint(1, 6)

    async def settle(self) -> Head:
        """Without troubles, until everything final is here."""
        self.node.faults, self.troubles = QUIET, NONE
        self.full_steps = self.still_steps = 0
        head = None
        for _ in range(SETTLES_WITHIN):
            await self.step()
            head = read_head(self.lake)
            if head is not None and head.checkpoint > self.node.tip(self.node.now - 6):
                return head
        raise AssertionError(f"the checkpoint stays at {head.checkpoint if head else None}, the chain is at {self.node.now}")

    # What must hold

    def rows(self, head: Head, table: schemas.Table, *columns: str) -> list[tuple[object, ...]]:
        """What a reader of the head finds: in its files, and in the lake's of every range that it does not name."""
        kept = head.range_keys()
        paths = [path for _, path in head.files(table)]
        paths += [f"{table.name}/{file.name}" for file in self.lake.files(table) if file.key not in kept]
        found: list[tuple[object, ...]] = []
        for path in paths:
            key = (path, *columns)
            if key not in self._read:
                part = pq.ParquetFile(self.disk.root / path).read(columns=list(columns), use_threads=False).to_pydict()
                self._read[key] = list(zip(*(part[name] for name in columns), strict=True))
            found += self._read[key]
        return found

    def check_readable(self) -> None:
        """What every reader may rely on at any moment, even between a crash and the next start."""
        head = read_head(self.lake)
        if head is None:
            return
        named = self.rows(head, schemas.COMPLETENESS, "slot", "state", "block_hash")
        slots = [slot for slot, _, _ in named]
        assert len(slots) == len(set(slots)), "a slot is there twice"
        blocks = dict(self.rows(head, schemas.BLOCKS, "slot", "block_hash"))  # type: ignore[arg-type]
        assert blocks == {slot: block_hash for slot, state, block_hash in named if state == "landed"}, "the tables tell different blocks"
        followed = {slot for slot in slots if slot < head.checkpoint}
        assert followed == set(range(head.checkpoint)), "the checkpoint passed a slot that is neither landed nor skipped"
        main = self.node.main
        final = {slot: main[slot].block_hash if slot in main else None for slot in followed}
        assert {slot: block_hash for slot, _, block_hash in named if slot < head.checkpoint} == final, "what was called final is not the chain"

    def check_whole(self, head: Head) -> None:
        """That every row of what is final is there once, by the chain's own count."""
        chain = {slot: link for slot, link in self.node.main.items() if slot < head.checkpoint}
        assert self.node.tip(self.node.now - 6) < head.checkpoint
        for table, columns, expected in (
            (
                schemas.COMPLETENESS,
                ("slot", "state", "block_hash"),
                [(s, "landed", chain[s].block_hash) if s in chain else (s, "skipped", None) for s in range(head.checkpoint)],
            ),
            (
                schemas.RAW_BLOCKS,
                ("block_slot", "payload_sha256"),
                [(s, hashlib.sha256(block_of(chain[s])).hexdigest() if s in chain else None) for s in range(head.checkpoint)],
            ),
            (schemas.TRANSACTIONS, ("block_slot", "signature"), [(slot, name) for slot, link in chain.items() for name in signatures_of(link)]),
            (schemas.BLOCK_REWARDS, ("block_slot", "lamports"), [(slot, slot) for slot in chain]),
            (schemas.QUARANTINE, ("block_slot",), [(slot,) for slot in chain if slot % 20 == 7]),
        ):
            found = sorted((row for row in self.rows(head, table, *columns) if row[0] < head.checkpoint), key=lambda row: row[0])  # type: ignore[operator,arg-type,return-value]
            assert found == expected, f"{table.name} is not what the chain has"
        over = [f"{first:012d}" for first in range(0, head.checkpoint - head.checkpoint % self.grid.slots_per_range, self.grid.slots_per_range)]
        held = {landed.key for landed in head.ranges if landed.sealed} | set(self.lake.partitions(schemas.RAW_BLOCKS))
        assert not set(over) - held, "a range whose every slot is final is neither sealed nor in the lake"


def _kind(path: Path) -> str:
    """What a path of the lake is of: a table, a folder of the landing, or the head."""
    parts = path.parts
    if not parts or parts[0] != "landing":
        return "/".join(parts[:2]) or "root"
    if len(parts) == 4:
        return parts[3].split(".")[0]
    return ("landing", "head" if path.name.startswith("head.json") else "range", "segment")[len(parts) - 1]


@contextmanager
def laboratory(seed: int) -> Iterator[None]:
    """Names of segments are drawn from the seed too, so that nothing differs when it is lived through again; and nothing is
    compressed, which took a fifth of the time."""
    draw = random.Random(seed + 3)
    with (
        patch.object(follow_module, "PER_STEP", draw.choice((2, 4, 32))),
        patch.object(follow_module, "BESIDE", draw.choice((1, 4))),
        patch.object(segments_module, "uuid4", lambda: UUID(int=draw.getrandbits(128))),
        patch.object(segments_module, "compression_of", lambda _: ("none", None)),
    ):
        yield


def live(world: World) -> None:
    """A life with troubles, a settling without, and the count."""

    async def ticks() -> None:
        for _ in range(TICKS):
            for _ in range(world.random.choice((0, 1, 1, 1, 5))):
                world.node.tick()
            if world.node.now >= 0:
                await world.step()
                if world.random.random() < 0.2:
                    world.check_readable()
        world.check_readable()
        head = await world.settle()
        world.check_readable()
        world.check_whole(head)

    with laboratory(world.seed):
        asyncio.run(ticks())
