"""What it costs to ask through the SQL engine, against bare DuckDB over the same files. Prints one JSON line a figure.

    python benchmarks/sql.py [--slots 128] [--transactions 500] [--times 40] [--lake PATH]

`*_ms` is the median of wall time and only means something where nothing else runs; `*_cpu_ms` is CPU time of all processes a call. `bare_*` is
DuckDB in this process over the same files, on as many cores as `cores` says: one connection that has run the statement before and remembers
the files' footers, or with `fresh` a new one each time. The engine, on one core, takes a new snapshot, a new database and new links each time,
and makes the database before it is needed where a second process is free meanwhile; `overhead_*` is a statement that reads nothing. `first_row_ms` is until the first batch of a
result of many rows is here. A lake is made from the embedded chain where none is given; `large_lake.py` makes one of millions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from blyan.lake import Lake
from blyan.query.engine import connect
from blyan.query.sandbox import Limits
from blyan.query.sql import SqlEngine
from blyan.schemas import TRANSACTIONS
from blyan.settings import load_settings
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source

WIDTH = 16
"""Slots of a range."""


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--slots", type=int, default=128)
    arguments.add_argument("--transactions", type=int, default=500)
    arguments.add_argument("--times", type=int, default=40)
    arguments.add_argument("--lake")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(given.lake) if given.lake else made(folder, given.slots, given.transactions)
        asyncio.run(measured(lake, given.times))


def made(folder: str, slots: int, transactions: int) -> Lake:
    """A lake of so many slots."""
    settings = load_settings(lake=folder, horizon_slot=slots, slots_per_range=WIDTH, embedded_transactions_per_slot=transactions)
    lake, source = Lake(folder), open_source(settings)
    for first in range(0, slots, WIDTH):
        land(lake, source, SlotRange(first, first + WIDTH - 1))
        normalise_range(lake, SlotRange(first, first + WIDTH - 1))
    return lake


async def measured(lake: Lake, times: int) -> None:
    """Every figure."""
    files = lake.files(TRANSACTIONS)
    report: dict[str, object] = {"kind": "measured", "transactions": sum(file.rows for file in files), "files": len(files), "times": times}
    top = max(file.slot_max or 0 for file in files)
    signature = next(iter(lake.read(TRANSACTIONS, key=files[len(files) // 2].key)))["signature"][0].as_py()
    slots = f"block_slot between {top // 2} and {top // 2 + top // 10}"
    asked = {
        "aggregate": f"select status, count(*), sum(fee), max(compute_units_consumed) from solana.transactions where {slots} group by status order by 1",
        "whole_aggregate": "select is_vote, count(*), sum(fee), count(distinct recent_block_hash) from solana.transactions group by 1 order by 1",
        "lookup_in_slots": f"select * from solana.transactions where {slots} and signature = '{signature}'",
        "lookup": f"select * from solana.transactions where signature = '{signature}'",
        "overhead": "select 1",
    }
    started = time.perf_counter()
    async with SqlEngine(lake, processes=2, limits=Limits()) as engine:
        show("start_s", time.perf_counter() - started, {**report, "layers": list(engine.confinement.active)})
        pids = [process.pid for process in engine._sandbox._all]

        async def ask(sql: str) -> None:
            async with await engine.query(sql) as answer:
                await answer.table()

        for name, sql in asked.items():
            mine = await timed(lambda sql=sql: ask(sql), times, pids)
            show(f"{name}_ms", mine[0], report)
            show(f"{name}_cpu_ms", mine[1], report)
            for cores, fresh in ((1, False), (2, False), (2, True)):
                peer = await timed(bare(lake, sql, cores, fresh=fresh), times, [])
                about = {**report, "cores": cores, "fresh": fresh}
                show(f"bare_{name}_ms", peer[0], about)
                show(f"bare_{name}_cpu_ms", peer[1], about)
                show(f"{name}_times_bare", mine[0] / peer[0], about)

        async def first() -> None:
            async with await engine.query("select * from solana.transactions") as answer:
                await anext(answer.batches)

        show("first_row_ms", (await timed(first, max(3, times // 4), pids))[0], report)


def bare(lake: Lake, sql: str, cores: int, *, fresh: bool) -> Callable[[], Awaitable[None]]:
    """The same statement in this process: on a connection that has run it before, or on a new one each time."""
    warm = connect(lake, tables=[TRANSACTIONS])

    async def ask() -> None:
        connection = connect(lake, tables=[TRANSACTIONS]) if fresh else warm
        connection.execute(f"set threads = {cores}")
        connection.execute(sql).fetchall()
        if fresh:
            connection.close()

    return ask


async def timed(call: Callable[[], Awaitable[None]], times: int, pids: list[int]) -> tuple[float, float]:
    """Median wall, and mean CPU, of a call in milliseconds; the first three do not count."""
    for _ in range(3):
        await call()
    walls, before = [], cpu_s(pids)
    for _ in range(times):
        started = time.perf_counter()
        await call()
        walls.append(time.perf_counter() - started)
    await asyncio.sleep(0.2)  # what a process tidies after a call is part of its price
    return statistics.median(walls) * 1000, (cpu_s(pids) - before) / times * 1000


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of this process and of others."""
    ticks = [int(field) for pid in pids for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]]
    return time.process_time() + sum(ticks) / 100


def show(figure: str, value: float, report: dict[str, object]) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, "value": round(value, 3), **report}), flush=True)


if __name__ == "__main__":
    main()
