"""The follower over a simulated chain with forks, faults and crashes, all drawn from a seed, against the chain's own count.

`BLYAN_SEEDS=10000` and `BLYAN_FIRST_SEED=N` in the environment make it longer (`make simulate`); a seed that fails is in the
test's name and fails again alone.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from blyan import schemas, store
from blyan.errors import PermanentError, StoreFullError, TransientError
from blyan.lake import Lake
from blyan.solana.follower.follow import Follower
from blyan.solana.landing import Head, Landing, read_head
from blyan.solana.segments import LANDED
from blyan.solana.slots import Grid
from tests.simulated_chain import Faults, SimulatedNode

SEEDS = int(os.environ.get("BLYAN_SEEDS", "100"))
FIRST_SEED = int(os.environ.get("BLYAN_FIRST_SEED", "0"))
TICKS = 36
WIDTH = 16


@pytest.fixture(autouse=True)
def _no_settings_from_outside() -> None:
    """The seeds are read above, before the settings are cleared; nothing else is set here."""


@pytest.fixture(autouse=True)
def _without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    # A crash here is an exception, which loses nothing that was written: fsync would only cost time.
    monkeypatch.setattr(store, "_fsync", lambda _: None)


class Crash(BaseException):
    """The process died here."""


class Silence:
    """A stream that announces nothing: the test calls `step` itself."""

    reconnects = 0

    async def slots(self):
        await asyncio.Event().wait()
        yield 0


class World:
    """A chain, a lake, and followers that die."""

    def __init__(self, seed: int, folder: Path, *, faults: Faults | None = None, crash: float = 0.02, full: float = 0.02) -> None:
        self.node = SimulatedNode(seed, faults or Faults())
        self.lake = Lake(str(folder))
        self.grid = Grid(0, 100_000, WIDTH)
        self.random = random.Random(seed + 2)
        self.crash, self.full = crash, full
        self.points: Counter[str] = Counter()
        self.crashes = 0
        self.time = 0.0
        self.follower: Follower | None = None

    def reached(self, point: str) -> None:
        self.points[point] += 1
        draw = self.random.random()
        if draw < self.crash:
            self.crashes += 1
            raise Crash(point)
        if draw < self.crash + self.full and point.startswith("before"):
            raise StoreFullError("no space", where=point, remedy="none")

    async def step(self) -> None:
        """One step of a follower; of a new one where the last died."""
        self.time += 60.0
        try:
            if self.follower is None:
                landing = Landing(self.lake, self.grid, clock=lambda: self.time, reached=self.reached)
                self.follower = Follower(self.node, Silence(), self.lake, self.grid, landing=landing, clock=lambda: self.time)
                self.begun = False
            if not self.begun:
                await self.follower.begin()
                self.begun = True
            if self.random.random() < 0.7:
                self.follower.measures.announced = max(self.follower.measures.announced, self.node.now)
            await self.follower.step()
        except (TransientError, StoreFullError):
            pass
        except Crash:
            self.follower = None

    async def settle(self) -> Head:
        """Without faults, until everything final is here."""
        self.node.faults = Faults(skip=0, fork=0, fail=0, lag=0, leave_out=0, null=0)
        self.crash = self.full = 0.0
        for _ in range(400):
            await self.step()
            head = read_head(self.lake)
            if head is not None and head.checkpoint > self.node.tip(self.node.now - 6):
                return head
        raise AssertionError(f"the checkpoint stays at {head.checkpoint if head else None}, the chain is at {self.node.now}")


def rows(lake: Lake, head: Head, table: schemas.Table, columns: list[str]) -> list[tuple[object, ...]]:
    """What a reader of the head finds in its files."""
    found: list[tuple[object, ...]] = []
    for _, path in head.files(table):
        part = pq.read_table(Path(lake.root) / path, columns=columns).to_pylist()
        found += [tuple(row[name] for name in columns) for row in part]
    return found


def check_readable(world: World) -> None:
    """What every reader may rely on at any moment, even between a crash and the next start."""
    head = read_head(world.lake)
    if head is None:
        return
    named = rows(world.lake, head, schemas.COMPLETENESS, ["slot", "state", "block_hash"])
    slots = [slot for slot, _, _ in named]
    assert len(slots) == len(set(slots)), "a slot is there twice"
    blocks = dict(rows(world.lake, head, schemas.BLOCKS, ["slot", "block_hash"]))
    assert blocks == {slot: block_hash for slot, state, block_hash in named if state == "landed"}, "the tables tell different blocks"
    followed = {slot for slot in slots if slot < head.checkpoint}
    assert followed == set(range(head.checkpoint)), "the checkpoint passed a slot that is neither landed nor skipped"
    final = {slot: world.node.main[slot].block_hash if slot in world.node.main else None for slot in followed}
    assert {slot: block_hash for slot, _, block_hash in named if slot < head.checkpoint} == final, "what was called final is not the chain"


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_every_slot_ends_landed_or_skipped_whatever_happens(seed: int, tmp_path: Path) -> None:
    async def simulate() -> None:
        world = World(seed, tmp_path)
        for _ in range(TICKS):
            for _ in range(world.random.choice((0, 1, 1, 1, 5))):
                world.node.tick()
            if world.node.now >= 0:
                await world.step()
                if world.random.random() < 0.2:
                    check_readable(world)
        check_readable(world)
        head = await world.settle()
        check_readable(world)
        expected = world.node.final()
        found = {slot: block_hash for slot, _, block_hash in rows(world.lake, head, schemas.COMPLETENESS, ["slot", "state", "block_hash"])}
        assert {slot: found[slot] for slot in expected} == expected
        sealed = [landed for landed in head.ranges if landed.sealed]
        assert [landed.key for landed in sealed] == [f"{first:012d}" for first in range(0, head.checkpoint - head.checkpoint % WIDTH, WIDTH)]

    asyncio.run(simulate())


def test_a_crash_at_every_point_of_a_write_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Crash at the first, second, third… point that is reached, one run each, until a run reaches its end alive."""

    async def die_at(point: int) -> bool:
        world = World(7, tmp_path / str(point), faults=Faults(fail=0, lag=0, leave_out=0, null=0), crash=0, full=0)
        reached = 0

        def count(name: str) -> None:
            nonlocal reached
            world.points[name] += 1
            reached += 1
            if reached == point:
                raise Crash(name)

        world.reached = count  # type: ignore[method-assign]
        for _ in range(28):
            world.node.tick()
            await world.step()
            if world.follower is None:
                check_readable(world)
        await world.settle()
        check_readable(world)
        return reached >= point

    stride = 1 if SEEDS > 100 else 13
    points = next(point for point in range(1, 10_000, stride) if not asyncio.run(die_at(point)))
    assert points > 200


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_a_fork_disappear_as_soon_as_the_chain_passes_it_by(seed: int, tmp_path: Path) -> None:
    async def follow() -> int:
        faults = Faults(skip=0.1, fork=0.4, fail=0, lag=0, leave_out=0, null=0)
        world, seen = World(seed, tmp_path, faults=faults, crash=0, full=0), set()
        for _ in range(40):
            world.node.tick()
            # The second step fetches what the first found missing.
            await world.step()
            await world.step()
            head = read_head(world.lake)
            assert head is not None
            blocks = {row[0]: row for row in rows(world.lake, head, schemas.BLOCKS, ["slot", "block_hash", "parent_slot", "previous_block_hash"])}
            slots = sorted(blocks)
            if not slots:
                continue
            on_chain, place = [], blocks[slots[-1]]
            while place is not None and place[0] not in on_chain:
                on_chain.append(place[0])
                parent = blocks.get(place[2])
                place = parent if parent is not None and parent[1] == place[3] else None
            assert [slot for slot in slots if slot >= on_chain[-1]] == on_chain[::-1], f"a block beside the chain, at {world.node.now}"
            seen |= {slot for slot in slots if slot in world.node.forks and blocks[slot][1] == world.node.forks[slot][0].block_hash}
        return len(seen)

    assert asyncio.run(follow()) > 2


def test_a_node_that_contradicts_what_was_final_is_refused(tmp_path: Path) -> None:
    async def contradict() -> None:
        quiet = Faults(skip=0, fork=0, fail=0, lag=0, leave_out=0, null=0)
        world = World(3, tmp_path, faults=quiet, crash=0, full=0)
        for _ in range(20):
            world.node.tick()
            await world.step()
        before = read_head(world.lake)
        other = SimulatedNode(4, quiet)
        for _ in range(40):
            other.tick()
        other.genesis_hash = world.node.genesis_hash  # type: ignore[method-assign]
        world.node, world.follower = other, None
        with pytest.raises(PermanentError, match="was final"):
            await world.settle()
        after = read_head(world.lake)
        assert before is not None
        assert after is not None
        assert after.checkpoint == before.checkpoint

    asyncio.run(contradict())


def test_files_that_no_head_names_are_deleted_after_their_grace(tmp_path: Path) -> None:
    async def follow() -> None:
        world = World(5, tmp_path, crash=0.05)
        for _ in range(30):
            world.node.tick()
            await world.step()
        head = await world.settle()
        for _ in range(5):
            await world.step()
        head = read_head(world.lake) or head
        named = {path for table in LANDED for _, path in head.files(table)}
        assert set(world.lake.store.walk("landing")) == {*named, "landing/head.json"}
        assert world.crashes

    asyncio.run(follow())
