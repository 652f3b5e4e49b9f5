"""Simulated lives by the thousand: `python -m tests.simulate --seeds 10000`.

Belongs here: which simulations there are, the seeds that failed once, and running many on every core. Does not belong here:
what is simulated (`tests.simulated_world`) or asked of it.

A seed that fails is written to `failed_seeds.txt` and lived through again first in every run, for good: in the tests and here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.simulated_hand_over import read_while_handed_over
from tests.simulated_world import World, live

FAILED_SEEDS = Path(__file__).with_name("failed_seeds.txt")

SAY_EVERY_S = 5.0


def _follow(seed: int, folder: Path) -> None:
    live(World(seed, folder))


SIMULATIONS: dict[str, Callable[[int, Path], None]] = {"follower": _follow, "hand_over": read_while_handed_over}

SHARE = {"follower": 1, "hand_over": 25}
"""One seed of so many is lived through: a hand-over takes ten times as long."""


def failed_seeds(path: Path = FAILED_SEEDS) -> list[tuple[str, int]]:
    """(simulation, seed) of those that failed once, in the order in which they did."""
    lines = [line.partition("#")[0].split() for line in path.read_text().splitlines()]
    return list(dict.fromkeys((simulation, int(seed)) for simulation, seed in filter(None, lines)))


def seeds_of(simulation: str, seeds: Iterable[int]) -> list[int]:
    """The seeds of a simulation, those that failed once before all others."""
    return list(dict.fromkeys([*(seed for name, seed in failed_seeds() if name == simulation), *seeds]))


def simulate(simulation: str, seed: int, folder: Path, *, kept_in: Path = FAILED_SEEDS) -> None:
    """Live through a seed; one that fails is kept, and its error says how to live through it again."""
    try:
        SIMULATIONS[simulation](seed, folder)
    except Exception as error:
        if (simulation, seed) not in failed_seeds(kept_in):
            with kept_in.open("a") as file:
                file.write(f"{simulation} {seed}\n")
        error.add_note(f"Again: python -m tests.simulate {simulation} {seed}")
        raise


def _outcome(task: tuple[str, int]) -> tuple[str, int, str]:
    folder = Path(tempfile.mkdtemp(prefix="blyan-simulated-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        simulate(*task, folder)
    except Exception:  # noqa: BLE001 - whatever failed is told, and the others go on
        return (*task, traceback.format_exc())
    finally:
        shutil.rmtree(folder)
    return (*task, "")


def _tasks(first: int, count: int) -> Iterator[tuple[str, int]]:
    known = failed_seeds()
    yield from known
    for seed in range(first, first + count):
        yield from ((name, seed) for name, share in SHARE.items() if seed % share == 0 and (name, seed) not in known)


def _run(tasks: list[tuple[str, int]], workers: int) -> list[tuple[str, int]]:
    """Those that failed."""
    began = said = time.monotonic()
    failed: list[tuple[str, int]] = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done, (name, seed, failure) in enumerate(pool.imap_unordered(_outcome, tasks), 1):
            if failure:
                failed.append((name, seed))
                print(f"\n{failure}", flush=True)
            now = time.monotonic()
            if failure or now - said >= SAY_EVERY_S or done == len(tasks):
                said, rate = now, done / (now - began)
                left = (len(tasks) - done) / rate / 60
                print(f"{done:,} of {len(tasks):,} seeds, {len(failed)} failed, {rate:.2f} seeds/s, {left:.0f} min left", flush=True)
    return failed


def main() -> None:
    """Many seeds, or the one that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__.partition("\n")[0])
    parser.add_argument("simulation", nargs="?", choices=SIMULATIONS, help="with SEED: live through this one alone")
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    if chosen.seed is not None:
        with tempfile.TemporaryDirectory() as folder:
            simulate(chosen.simulation, chosen.seed, Path(folder))
        print(f"{chosen.simulation} {chosen.seed}: nothing was lost and nothing doubled")
        return
    failed = _run(list(_tasks(chosen.first, chosen.seeds)), chosen.workers)
    for name, seed in failed:
        print(f"failed: python -m tests.simulate {name} {seed}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
