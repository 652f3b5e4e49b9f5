"""Readers see every row once, whatever happens between the landing and the lake while they read.

A reader looks at the head, then at the log of each table, then at the files. Between any two of these looks the world goes on
by as many steps as the seed says: slots arrive and die, segments merge, ranges seal, are committed to the lake and let go of,
the follower crashes and begins again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from blyan import schemas, store
from blyan.lake import Lake
from blyan.query import engine
from blyan.solana.ingest import DERIVED, normalise_range
from blyan.solana.landing import land_sealed, read_head
from blyan.solana.segments import LANDED
from blyan.solana.slots import Grid, SlotRange
from tests.integration.test_follower_simulation import SEEDS, World
from tests.simulated_chain import Faults


@pytest.fixture(autouse=True)
def _without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_fsync", lambda _: None)


class Busy(World):
    """A world in which somebody commits sealed ranges to the lake too."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder, faults=Faults(fork=0.2), crash=0.004, full=0.0)
        self.grid = Grid(0, 100_000, 8)
        self.committed: set[str] = set()
        self.loop = asyncio.new_event_loop()

    def go_on(self, most: int) -> None:
        """Some steps of whatever there is to do."""
        for _ in range(self.random.randrange(most + 1)):
            if self.random.random() < 0.6:
                self.node.tick()
                self.loop.run_until_complete(self.step())
                self.time -= 59.0
            else:
                self.commit()

    def commit(self) -> None:
        """One table, or several, of one sealed range that the lake does not have yet, as a run would that may be killed half-way."""
        head = read_head(self.lake)
        waiting = [landed for landed in head.ranges if landed.sealed] if head else []
        if not waiting:
            return
        slots = self.grid.range_of(waiting[0].key)
        if self.random.random() < 0.5:
            land_sealed(self.lake, slots)
        elif self.lake.partitions(schemas.RAW_BLOCKS).get(slots.key):
            normalise_range(self.lake, slots)
            self.committed.add(slots.key)


def read(world: Busy, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[tuple[Any, ...]], list[tuple[Any, ...]]]:
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

    with monkeypatch.context() as patch:
        patch.setattr(engine, "read_head", head_then_world)
        patch.setattr(Lake, "files", files_then_world)
        with engine.connect(world.lake, tables=[schemas.COMPLETENESS, schemas.BLOCKS]) as connection:
            patch.undo()
            world.go_on(2)
            slots = connection.execute("select slot, state, block_hash from solana.completeness order by slot").fetchall()
            blocks = connection.execute("select slot, block_hash from solana.blocks order by slot").fetchall()
    return seen, slots, blocks


@pytest.mark.parametrize("seed", range(max(4, SEEDS // 25)))
def test_no_row_is_missing_or_doubled_at_any_moment_of_the_hand_over(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Busy(seed, tmp_path)
    handed_over = 0
    for _ in range(30):
        world.go_on(4)
        if read_head(world.lake) is None:
            continue
        checkpoint, slots, blocks = read(world, monkeypatch)
        numbers = [slot for slot, _, _ in slots]
        assert len(numbers) == len(set(numbers)), "a slot is read twice"
        assert numbers[:checkpoint] == list(range(checkpoint)), "a final slot is not read"
        assert [(slot, block_hash) for slot, state, block_hash in slots if state == "landed"] == blocks, "the tables differ"
        chain = {slot: link.block_hash for slot, link in world.node.main.items()}
        assert {slot: block_hash for slot, block_hash in blocks if slot < checkpoint} == {slot: h for slot, h in chain.items() if slot < checkpoint}
        head = read_head(world.lake)
        handed_over = max(handed_over, len(world.committed - head.range_keys()) if head else 0)
    world.loop.close()
    assert handed_over, "nothing was handed over, so nothing was tested"


def test_a_reader_that_looks_at_the_lake_first_would_lose_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the order of the two looks is what the rule rests on."""
    world = Busy(3, tmp_path)
    head = None
    while head is None or not any(landed.sealed for landed in head.ranges):
        world.go_on(4)
        head = read_head(world.lake)
    key = next(landed.key for landed in head.ranges if landed.sealed)
    slots = world.grid.range_of(key)
    before = {table.name: world.lake.files(table) for table in LANDED}
    world.crash = 0.0
    while key in (read_head(world.lake) or head).range_keys():
        land_sealed(world.lake, slots)
        normalise_range(world.lake, slots)
        world.node.tick()
        world.loop.run_until_complete(world.step())
    monkeypatch.setattr(Lake, "files", lambda _, table, **__: before[table.name])
    with engine.connect(world.lake, tables=[schemas.COMPLETENESS]) as connection:
        found = {slot for (slot,) in connection.execute("select slot from solana.completeness").fetchall()}
    world.loop.close()
    assert not found & set(slots)


@pytest.mark.parametrize("seed", range(2))
def test_what_the_lake_gets_is_what_the_landing_had(seed: int, tmp_path: Path) -> None:
    world = Busy(seed, tmp_path)
    while not (read_head(world.lake) and any(landed.sealed for landed in read_head(world.lake).ranges)):  # type: ignore[union-attr]
        world.go_on(4)
    world.loop.close()
    head = read_head(world.lake)
    assert head is not None
    sealed = next(landed for landed in head.ranges if landed.sealed)
    slots = world.grid.range_of(sealed.key)
    inside = SlotRange(slots.first, slots.last)

    def rows(table: schemas.Table) -> list[Any]:
        with engine.connect(world.lake, tables=[table], slots=inside) as connection:
            names = ", ".join(table.column_names)
            order = ", ".join(table.key)
            query = (
                f"select {names} from {table.group}.{table.short_name} where {table.key[0]} between {slots.first} and {slots.last} order by {order}"
            )
            return connection.execute(query).fetchall()

    before = {table.name: rows(table) for table in LANDED}
    commit = land_sealed(world.lake, slots)
    assert commit is not None
    assert commit.digest == sealed.digest
    normalise_range(world.lake, slots)
    world.lake.store.delete(["landing/head.json"])
    assert {table.name: rows(table) for table in LANDED} == before
    assert all(world.lake.digest(table, slots.key) for table in DERIVED)
