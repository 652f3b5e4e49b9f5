"""A lake of millions of transactions from the embedded chain, for benchmarks of what reads it. Prints one JSON line: what making it took.

    python benchmarks/large_lake.py FOLDER [--rows 2000000] [--per-slot 500]

Belongs here: making it, on every core, and taking it up where an earlier run left. Does not belong here: what is measured on it.

The chain executes every transaction, at some 5,000 a CPU-second, and rows are made of them at some 25,000 a CPU-second: two million take
eight CPU-minutes and 2 GB. A folder that has ranges of the same chain already keeps them, so a second run costs nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from blyan.lake import Lake
from blyan.schemas import TRANSACTIONS
from blyan.settings import Settings, load_settings
from blyan.solana.ingest import land, normalise_range
from blyan.solana.segments import cores
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from blyan.workers import pool

PRESENT = 0.98
"""Share of the slots of the embedded chain that have a block."""


def main() -> None:
    """Make one, and print what it took."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--rows", type=int, default=2_000_000)
    arguments.add_argument("--per-slot", type=int, default=500)
    given = arguments.parse_args()
    started = time.perf_counter()
    lake = made(given.folder, rows=given.rows, per_slot=given.per_slot)
    rows = sum(file.rows for file in lake.files(TRANSACTIONS))
    print(json.dumps({"kind": "measured", "figure": "large_lake_s", "value": round(time.perf_counter() - started, 1), "transactions": rows}))


def settings_of(folder: Path, *, rows: int, per_slot: int) -> Settings:
    """The chain of a lake of at least so many transactions, in ranges of the default width."""
    settings = load_settings(lake=str(folder), embedded_transactions_per_slot=per_slot)
    width = settings.slots_per_range
    ranges = -(-rows // int(width * per_slot * PRESENT))
    return settings.model_copy(update={"horizon_slot": ranges * width})


def made(folder: Path, *, rows: int, per_slot: int = 500) -> Lake:
    """A lake of at least so many transactions.

    Args:
        folder: where; made where it is not there, completed where it has some of the ranges.
        rows: transactions at least.
        per_slot: of a block.
    """
    settings = settings_of(folder, rows=rows, per_slot=per_slot)
    lake = Lake(str(folder))
    there = lake.partitions(TRANSACTIONS)
    keys = settings.grid.keys()
    missing = [settings.grid.range_of(key) for key in keys if key not in there]
    with pool(cores()) as workers:
        list(workers.map(_make, [settings] * len(missing), missing))
    return lake


def _make(settings: Settings, slots: SlotRange) -> None:
    lake = Lake.from_settings(settings)
    land(lake, open_source(settings), slots)
    normalise_range(lake, slots)


if __name__ == "__main__":
    main()
