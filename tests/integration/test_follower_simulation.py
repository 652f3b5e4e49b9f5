"""The follower over simulated worlds with forks, faults, jumping clocks, full disks and crashes, against the chain's own count.

`make simulate` lives through ten thousand of them; a seed that fails is kept, and is the first of every run from then on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from blyan import schemas, store
from blyan.errors import PermanentError, StoreFullError
from blyan.solana import landing as landing_module
from blyan.solana.follower.follow import Follower
from blyan.solana.follower.links import Links
from blyan.solana.landing import Landing, read_head
from blyan.solana.segments import LANDED
from blyan.store import Store, Upload
from tests.simulate import FAILED_SEEDS, failed_seeds, seeds_of, simulate
from tests.simulated_chain import QUIET, Faults, SimulatedNode
from tests.simulated_world import NONE, Troubles, World, live

SEEDS = 100


@pytest.mark.parametrize("seed", seeds_of("follower", range(SEEDS)))
def test_every_slot_ends_landed_or_skipped_whatever_happens(seed: int, tmp_path: Path) -> None:
    simulate("follower", seed, tmp_path)


def test_every_trouble_befalls_the_simulated_worlds(tmp_path: Path) -> None:
    met: Counter[str] = Counter()
    for seed in range(4):
        world = World(seed, tmp_path / str(seed))
        live(world)
        met += world.troubles_met
    assert set(met) == {"crash", "power", "full", "slow", "wall", "suspended", "failing"}


def test_a_seed_is_the_same_life_again(tmp_path: Path) -> None:
    lives = []
    for folder in ("one", "other"):
        world = World(9, tmp_path / folder)
        live(world)
        lives.append((world.points, world.troubles_met, world.time, read_head(world.lake)))
    assert lives[0] == lives[1]
    assert lives[0][0]


def test_a_seed_that_fails_is_kept_and_says_how_to_live_through_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "failed_seeds.txt"
    kept.write_text("# what failed\nfollower 78 # once\n")
    monkeypatch.setattr(Store, "sync", lambda *_: None)
    again = []
    for attempt in range(2):
        with pytest.raises(PermanentError) as failure:
            simulate("follower", 0, tmp_path / str(attempt), kept_in=kept)
        again += failure.value.__notes__
    assert again == 2 * ["Again: python -m tests.simulate follower 0"]
    assert failed_seeds(kept) == [("follower", 78), ("follower", 0)]


def test_seeds_that_failed_come_first() -> None:
    assert ("follower", 78) in failed_seeds(FAILED_SEEDS)
    kept = [seed for simulation, seed in failed_seeds() if simulation == "follower"]
    assert seeds_of("follower", range(100))[: len(kept)] == kept
    assert sorted(seeds_of("follower", range(100))) == sorted({*range(100), *kept})


# Negative controls: defects that the simulation must find


@dataclass(frozen=True)
class Defect:
    """A defect, and the trouble that shows it.

    Attributes:
        make: puts it into the code.
        troubles: what befalls the world; the defect shows in it within `SEEDS_OF_A_DEFECT` seeds.
    """

    make: Callable[[pytest.MonkeyPatch], None]
    troubles: Troubles


SEEDS_OF_A_DEFECT = 12


def _instead(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Replace a method by what `make` makes of it."""
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def _landing_goes_by_the_wall(plain: Any) -> Any:
    def built(self: Landing, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **(options | {"clock": options["now"]}))

    return built


def _loop_goes_by_the_wall(plain: Any) -> Any:
    def built(self: Follower, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **(options | {"clock": options["landing"]._now}))

    return built


def _full_is_taken_for_done(plain: Any) -> Any:
    def publish(self: Landing, change: Any = lambda _: None, **marks: Any) -> Any:
        try:
            return plain(self, change, **marks)
        except StoreFullError:
            ranges = {landed.key: landed for landed in self.head.ranges}
            change(ranges)
            marks |= {"ranges": [ranges[key] for key in sorted(ranges)], "generation": self.head.generation + 1}
            self.head = landing_module.msgspec.structs.replace(self.head, **marks)
            return self.head

    return publish


def _pending_is_forgotten(plain: Any) -> Any:
    async def land(self: Follower, **marks: int) -> None:
        try:
            await plain(self, **marks)
        except StoreFullError:
            self._pending.clear()
            raise

    return land


def _files_of_an_uncertain_head_are_deleted(plain: Any) -> Any:
    def sweep(self: Landing) -> int:
        self._uncertain = False
        return int(plain(self))

    return sweep


def _grace_begins_before_the_write(plain: Any) -> Any:
    def publish(self: Landing, *change: Any, **marks: Any) -> Any:
        began, count = self._clock(), len(self._retired)
        head = plain(self, *change, **marks)
        self._retired[count:] = [(began, names) for _, names in self._retired[count:]]
        return head

    return publish


def _in_place(_: Any) -> Any:
    def put(self: Store, name: str, data: bytes) -> None:
        path = Path(self.path(name))
        with store.errors_of(name), self.disk.create(path) as stream:
            stream.write(data)
        self.disk.sync([path])

    return put


def _renamed_before_it_is_synced(_: Any) -> Any:
    def publish(self: Upload) -> None:
        with store.errors_of(self.name):
            self.stream.close()
            self._store.disk.rename(self._path, self._final)
            if self._durable:
                self._store.settle([self._final], content=True)

    return publish


def _names_are_not_synced(plain: Any) -> Any:
    def settle(self: Store, paths: Any, *, content: bool) -> None:
        if content:
            plain(self, paths, content=True)

    return settle


def _only_the_nearest_folder_is_synced(_: Any) -> Any:
    def settle(self: Store, paths: Any, *, content: bool) -> None:
        self.disk.sync([*(paths if content else []), *sorted({path.parent for path in paths})])

    return settle


DEFECTS = {
    "the landing goes by the wall clock": Defect(_instead(Landing, "__init__", _landing_goes_by_the_wall), replace(NONE, wall=0.4)),
    "the loop goes by the wall clock": Defect(_instead(Follower, "__init__", _loop_goes_by_the_wall), replace(NONE, wall=0.4)),
    "a full disk is taken for done": Defect(_instead(Landing, "_publish", _full_is_taken_for_done), replace(NONE, crash=0.02, full=0.5)),
    "what is pending is forgotten on a full disk": Defect(_instead(Follower, "_land", _pending_is_forgotten), replace(NONE, full=0.3)),
    "files of an uncertain head are deleted": Defect(_instead(Landing, "sweep", _files_of_an_uncertain_head_are_deleted), replace(NONE, failing=0.6)),
    "the grace begins before the write": Defect(_instead(Landing, "_publish", _grace_begins_before_the_write), replace(NONE, slow=0.8)),
    "no grace": Defect(lambda patch: patch.setattr(landing_module, "GRACE_S", 0.0), NONE),
    "the head is written in place": Defect(_instead(Store, "put", _in_place), replace(NONE, crash=0.02)),
    "segments are not synced": Defect(_instead(Store, "sync", lambda _: lambda *_: None), replace(NONE, crash=0.01, power=1)),
    "the head is renamed before it is synced": Defect(_instead(Upload, "publish", _renamed_before_it_is_synced), replace(NONE, crash=0.01, power=1)),
    "the name of the head is not synced": Defect(_instead(Store, "settle", _names_are_not_synced), replace(NONE, crash=0.01, power=1)),
    "folders above a segment are not synced": Defect(
        _instead(Store, "settle", _only_the_nearest_folder_is_synced), replace(NONE, crash=0.01, power=1)
    ),
    "the checkpoint passes what is missing": Defect(_instead(Links, "_reaches", lambda _: lambda *_: True), NONE),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defect = DEFECTS[name]
    defect.make(monkeypatch)
    with pytest.raises((AssertionError, PermanentError, OSError)):
        live_through(range(SEEDS_OF_A_DEFECT), tmp_path, defect.troubles)


def live_through(seeds: range, folder: Path, troubles: Troubles) -> None:
    for seed in seeds:
        live(World(seed, folder / str(seed), troubles=troubles))


# What is asked of the follower alone


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_a_fork_disappear_as_soon_as_the_chain_passes_it_by(seed: int, tmp_path: Path) -> None:
    async def follow() -> int:
        faults = Faults(skip=0.1, fork=0.4, fail=0, lag=0, leave_out=0, null=0)
        world, seen = World(seed, tmp_path, faults=faults, troubles=NONE), set()
        for _ in range(40):
            world.node.tick()
            # The second step fetches what the first found missing.
            await world.step()
            await world.step()
            head = read_head(world.lake)
            assert head is not None
            blocks = {row[0]: row for row in world.rows(head, schemas.BLOCKS, "slot", "block_hash", "parent_slot", "previous_block_hash")}
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
        world = World(3, tmp_path, faults=QUIET, troubles=NONE)
        for _ in range(20):
            world.node.tick()
            await world.step()
        before = read_head(world.lake)
        other = SimulatedNode(4, QUIET)
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
        world = World(5, tmp_path, troubles=Troubles(crash=0.01))
        for _ in range(30):
            world.node.tick()
            await world.step()
        head = await world.settle()
        for _ in range(5):
            await world.step()
        head = read_head(world.lake) or head
        named = {path for table in LANDED for _, path in head.files(table)}
        assert set(world.lake.store.walk("landing")) == {*named, "landing/head.json"}
        assert world.troubles_met["crash"]

    asyncio.run(follow())
