"""What the lake holds of the grid of ranges.

Belongs here: which ranges are complete, partial or missing, as the tables' logs tell. Does not
belong here: what is inside a range (`blyan.solana.ingest.statement_of`), or what Dagster remembers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from blyan.lake import Lake, Partition
from blyan.schemas import COMPLETENESS, RAW_BLOCKS
from blyan.solana.ingest import DERIVED
from blyan.solana.slots import Grid, SlotRange

COMPLETE, PARTIAL, MISSING = "complete", "partial", "missing"


@dataclass(frozen=True, slots=True)
class Inventory:
    """Partitions of every table of a range, by table and key."""

    grid: Grid
    partitions: Mapping[str, Mapping[str, Partition]]

    def state_of(self, key: str) -> str:
        """`complete` if every table has the range, `missing` if none has, `partial` between: a run that was cut short."""
        held = sum(key in of_table for of_table in self.partitions.values())
        return COMPLETE if held == len(self.partitions) else PARTIAL if held else MISSING

    def complete(self) -> set[str]:
        """Keys of the grid that every table has."""
        return {key for key in self.partitions[COMPLETENESS.name] if self.state_of(key) == COMPLETE}

    def runs(self) -> list[tuple[str, SlotRange, int]]:
        """The grid as neighbouring ranges of the same state: the state, the slots from first to last, and how many ranges."""
        return [_run(self.grid, state, keys) for state, keys in groupby(self.grid.keys(), key=self.state_of)]

    def off_grid(self) -> list[str]:
        """Keys in the lake that the grid does not have: it was filled with other settings."""
        known = set(self.grid.keys())
        return sorted({key for of_table in self.partitions.values() for key in of_table} - known)


def _run(grid: Grid, state: str, keys: Iterable[str]) -> tuple[str, SlotRange, int]:
    ranges = [grid.range_of(key) for key in keys]
    return state, SlotRange(ranges[0].first, ranges[-1].last), len(ranges)


def take_inventory(lake: Lake, grid: Grid) -> Inventory:
    """Read the log of every table."""
    return Inventory(grid, {table.name: lake.partitions(table) for table in (RAW_BLOCKS, *DERIVED)})
