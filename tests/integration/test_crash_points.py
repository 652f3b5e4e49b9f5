"""The process dies at every instant between two changes of the disk, one at a time, with and without what was not synced.

The instants have names (`tests.simulated_world`). Every name is died at once in the default run, each at another occurrence and
with another loss; `make simulate` dies at every occurrence of every name, with every loss.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree

import pytest

from blyan.solana.segments import LANDED
from blyan.solana.slots import Grid
from tests.simulated_chain import DEPTH, QUIET, Faults
from tests.simulated_hand_over import Busy
from tests.simulated_world import LOSSES, NONE, OPERATIONS, World, laboratory

LOST = ("nothing", *LOSSES)


@dataclass(frozen=True)
class Scenario:
    """A life without troubles.

    Attributes:
        faults: of the node.
        slots_per_range: of the grid.
        live: what happens in it.
    """

    faults: Faults
    slots_per_range: int
    live: Callable[[Busy], None]


def _at_the_tip(world: Busy) -> None:
    for _ in range(30):
        world.node.tick()
        world.follow()


def _catching_up(world: Busy) -> None:
    for ticks in (1, 40, 0, 0, 0):
        for _ in range(ticks):
            world.node.tick()
        world.follow()


def _handing_over(world: Busy) -> None:
    for _ in range(20):
        world.node.tick()
        world.follow()
        world.commit()


SCENARIOS = {
    "at the tip": Scenario(replace(QUIET, fork=0.1), 20, _at_the_tip),
    "catching up": Scenario(QUIET, 32, _catching_up),
    "handing over": Scenario(replace(QUIET, skip=0.1, fork=0.1), 8, _handing_over),
}


def lived(name: str, folder: Path, instant: Callable[[Busy, str, int], None]) -> Counter[str]:
    """How often each instant of a scenario was reached; `instant` is told of each, and which occurrence it is."""
    scenario, world = SCENARIOS[name], Busy(7, folder, faults=SCENARIOS[name].faults, troubles=NONE)
    world.grid = Grid(0, 100_000, scenario.slots_per_range)
    world.instant = lambda point: instant(world, point, world.points[point])  # type: ignore[method-assign]
    with laboratory(7):
        scenario.live(world)
    return world.points


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counter[str]]:
    """Every named instant of each scenario, and how often it is reached."""
    return {name: lived(name, tmp_path_factory.mktemp("points"), lambda *_: None) for name in SCENARIOS}


def die(name: str, at: Mapping[tuple[str, int], str], folder: Path) -> set[str]:
    """Live through a scenario and go on from each of these instants with what was left; the names of those that were reached.

    Args:
        name: of the scenario.
        at: what is lost of the unsynced, by name and occurrence of the instant.
        folder: where.
    """
    copies: list[tuple[str, int, World]] = []

    def keep(world: Busy, point: str, occurrence: int) -> None:
        if (point, occurrence) in at:
            copies.append((point, occurrence, world.crashed_copy(folder / str(len(copies)), lost=at[point, occurrence])))

    lived(name, folder / "whole", keep)
    for point, occurrence, world in copies:
        try:
            survived(world)
        except Exception as error:
            error.add_note(f"died at {name}: {point}, occurrence {occurrence}, {at[point, occurrence]} lost")
            raise
        rmtree(world.disk.root)
    return {point for point, _, _ in copies}


def survived(world: World) -> None:
    """After a crash: what readers see holds, a new follower goes on, and in the end all is there once."""
    world.check_readable()
    for _ in range(DEPTH + 2):
        world.node.tick()
    head = asyncio.run(world.settle())
    world.check_whole(head)


def test_there_are_two_hundred_named_instants_and_they_are_always_the_same(points: dict[str, Counter[str]], tmp_path: Path) -> None:
    assert sum(len(of_scenario) for of_scenario in points.values()) >= 200
    names = set().union(*points.values())
    assert {name.split("/")[0] for name in names} == {"begin", "run", *OPERATIONS}
    for table in LANDED:
        for operation in ("advance", "merge"):
            assert {f"{operation}/{table.short_name} {point}" for point in POINTS_OF_A_FILE} <= names
    assert {f"seal/head {point}" for point in (*POINTS_OF_A_FILE, "after rename")} <= names
    assert lived("handing over", tmp_path, lambda *_: None) == points["handing over"]


POINTS_OF_A_FILE = ("before create", "half written", "before sync", "before rename", "after rename")


def test_a_crash_at_each_named_instant_loses_and_doubles_nothing(points: dict[str, Counter[str]], tmp_path: Path) -> None:
    names = sorted(set().union(*points.values()))
    at: dict[str, dict[tuple[str, int], str]] = {name: {} for name in SCENARIOS}
    for number, name in enumerate(names):
        scenarios = [scenario for scenario in SCENARIOS if name in points[scenario]]
        scenario = scenarios[number % len(scenarios)]
        at[scenario][name, 1 + number % points[scenario][name]] = LOST[number % len(LOST)]
    assert set().union(*(die(scenario, at[scenario], tmp_path / scenario) for scenario in SCENARIOS)) == set(names)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_every_occurrence_loses_and_doubles_nothing(scenario: str, lost: str, points: dict[str, Counter[str]], tmp_path: Path) -> None:
    occurrences = {(name, occurrence): lost for name, often in points[scenario].items() for occurrence in range(1, often + 1)}
    assert die(scenario, occurrences, tmp_path) == set(points[scenario])
