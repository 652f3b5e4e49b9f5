"""Readers see every row once, whatever happens between the landing and the lake while they read (`tests.simulated_hand_over`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blyan import schemas
from blyan.errors import PermanentError
from blyan.lake import Lake
from blyan.query import engine
from blyan.solana.ingest import DERIVED, normalise_range
from blyan.solana.landing import land_sealed, read_head
from blyan.solana.segments import LANDED
from blyan.solana.slots import Grid, SlotRange
from tests.simulate import seeds_of, simulate
from tests.simulated_hand_over import sealed


@pytest.mark.parametrize("seed", seeds_of("hand_over", range(4)))
def test_no_row_is_missing_or_doubled_at_any_moment_of_the_hand_over(seed: int, tmp_path: Path) -> None:
    simulate("hand_over", seed, tmp_path)


def test_a_reader_that_looks_at_the_lake_first_would_lose_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the order of the two looks is what the rule rests on."""
    world = sealed(3, tmp_path)
    head = read_head(world.lake)
    assert head is not None
    key = next(landed.key for landed in head.ranges if landed.sealed)
    slots = world.grid.range_of(key)
    before = {table.name: world.lake.files(table) for table in LANDED}
    while key in (read_head(world.lake) or head).range_keys():
        land_sealed(world.lake, slots)
        normalise_range(world.lake, slots)
        world.node.tick()
        world.follow()
    monkeypatch.setattr(Lake, "files", lambda _, table, **__: before[table.name])
    with engine.connect(world.lake, tables=[schemas.COMPLETENESS]) as connection:
        found = {slot for (slot,) in connection.execute("select slot from solana.completeness").fetchall()}
    assert not found & set(slots)


@pytest.mark.parametrize("seed", range(2))
def test_what_the_lake_gets_is_what_the_landing_had(seed: int, tmp_path: Path) -> None:
    world = sealed(seed, tmp_path)
    head = read_head(world.lake)
    assert head is not None
    landed = next(landed for landed in head.ranges if landed.sealed)
    slots = world.grid.range_of(landed.key)
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
    assert commit.digest == landed.digest
    normalise_range(world.lake, slots)
    world.lake.store.delete(["landing/head.json"])
    assert {table.name: rows(table) for table in LANDED} == before
    assert all(world.lake.digest(table, slots.key) for table in DERIVED)


@pytest.mark.parametrize("grid", [Grid(0, 100_000, 4), Grid(0, 100_000, 16), Grid(0, 7, 8)], ids=str)
def test_a_range_that_was_sealed_under_another_grid_is_refused(grid: Grid, tmp_path: Path) -> None:
    world = sealed(1, tmp_path)
    with pytest.raises(PermanentError, match=r"has slots 0-7, the grid says .* Remedy: give the follower and Dagster the same"):
        land_sealed(world.lake, grid.range_of(f"{0:012d}"))
    assert not world.lake.partitions(schemas.RAW_BLOCKS)
    assert land_sealed(world.lake, world.grid.range_of(f"{0:012d}")) is not None
