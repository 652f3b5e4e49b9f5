"""A reader of landing and lake as one, under which the world goes on.

Belongs here: a world in which somebody commits sealed ranges to the lake, and a reader between whose looks it moves. Does not
belong here: the world itself (`tests.simulated_world`).

A reader looks at the head, then at the log of each table, then at the files. Between any two of these looks the world goes on
by as many steps as the seed says: slots arrive and die, segments merge, ranges seal, are committed to the lake and let go of,
the follower crashes and begins again.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from blyan import schemas
from blyan.lake import Lake
from blyan.query import engine
from blyan.solana.ingest import normalise_range
from blyan.solana.landing import land_sealed, read_head
from blyan.solana.slots import Grid
from tests.simulated_chain import Faults
from tests.simulated_disk import Crash
from tests.simulated_world import NONE, Troubles, World, laboratory

LOOKS = 20


class Busy(World):
    """A world in which somebody commits sealed ranges to the lake too."""

    def __init__(self, seed: int, folder: Path, *, faults: Faults | None = None, troubles: Troubles | None = None) -> None:
        # A loss of power takes the reader with it, and a clock that jumps the time that it has: so neither is here.
        super().__init__(seed, folder, faults=faults or Faults(fork=0.2), troubles=troubles or replace(NONE, crash=0.001, wall=0.05))
        self.grid = Grid(0, 100_000, 8)
        self.committed: set[str] = set()

    def go_on(self, most: int) -> None:
        """Some steps of whatever there is to do."""
        for _ in range(self.random.randrange(most + 1)):
            if self.random.random() < 0.6:
                self.node.tick()
                self.follow()
                self.time -= 59.0
            else:
                self.commit()

    def follow(self) -> None:
        """One step, and what is fetched ahead: every step has an event loop of its own."""

        async def step() -> None:
            await self.step()
            coming = self.follower and self.follower._coming
            if coming and not coming.done():
                await asyncio.wait([coming])

        asyncio.run(step())

    def commit(self) -> None:
        """One table, or several, of one sealed range that the lake does not have yet, as a run would that may be killed half-way."""
        head = read_head(self.lake)
        waiting = [landed for landed in head.ranges if landed.sealed] if head else []
        if not waiting:
            return
        slots = self.grid.range_of(waiting[0].key)
        before, self.operation = self.operation, "run"
        try:
            if self.random.random() < 0.5:
                land_sealed(self.lake, slots)
            elif self.lake.partitions(schemas.RAW_BLOCKS).get(slots.key):
                normalise_range(self.lake, slots, workers=1)
                self.committed.add(slots.key)
        except Crash:
            self._died()
        self.operation = before


def read(world: Busy) -> tuple[int, list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The checkpoint of the head that a reader saw, and the rows it found of two tables, the world going on under it."""
    seen = 0
    plain_head, plain_files = engine.read_head, Lake.files

    def head_then_world(lake: Lake) -> Any:
        nonlocal seen
        head = plain_head(lake)
        seen = head.checkpoint if head else 0
        world.go_on(3)
        return head

    def files_then_world(lake: Lake, *arguments: Any, **options: Any) -> Any:
        files = plain_files(lake, *arguments, **options)
        world.go_on(1)
        return files

    with ExitStack() as going_on:
        going_on.enter_context(patch.object(engine, "read_head", head_then_world))
        going_on.enter_context(patch.object(Lake, "files", files_then_world))
        with engine.connect(world.lake, tables=[schemas.COMPLETENESS, schemas.BLOCKS]) as connection:
            going_on.close()
            world.go_on(2)
            slots = connection.execute("select slot, state, block_hash from solana.completeness order by slot").fetchall()
            blocks = connection.execute("select slot, block_hash from solana.blocks order by slot").fetchall()
    return seen, slots, blocks


def read_while_handed_over(seed: int, folder: Path) -> None:
    """A reader that looks again and again: each row is there once."""
    world = Busy(seed, folder)
    handed_over = 0
    with laboratory(seed):
        for _ in range(LOOKS):
            world.go_on(4)
            if read_head(world.lake) is None:
                continue
            checkpoint, slots, blocks = read(world)
            numbers = [slot for slot, _, _ in slots]
            assert len(numbers) == len(set(numbers)), "a slot is read twice"
            assert numbers[:checkpoint] == list(range(checkpoint)), "a final slot is not read"
            assert [(slot, block_hash) for slot, state, block_hash in slots if state == "landed"] == blocks, "the tables differ"
            chain = {slot: link.block_hash for slot, link in world.node.main.items() if slot < checkpoint}
            assert {slot: block_hash for slot, block_hash in blocks if slot < checkpoint} == chain
            head = read_head(world.lake)
            handed_over = max(handed_over, len(world.committed - head.range_keys()) if head else 0)
    assert handed_over, "nothing was handed over, so nothing was tested"


def sealed(seed: int, folder: Path) -> Busy:
    """A world with a sealed range in the landing, at rest."""
    world = Busy(seed, folder, troubles=NONE)
    with laboratory(seed):
        while not ((head := read_head(world.lake)) and any(landed.sealed for landed in head.ranges)):
            world.node.tick()
            world.follow()
    return world
