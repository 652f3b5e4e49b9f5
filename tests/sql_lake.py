"""A small lake for tests of SQL, and an event loop that outlives one test.

Belongs here: what several of those tests stand on. Does not belong here: what they ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blyan.lake import Lake
from blyan.query.sandbox import Limits
from blyan.query.sql import Answer, SqlEngine
from blyan.settings import Settings, load_settings
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from tests.landed import land_slots

BLOCKS = 10
"""Slots 0 to 7 are in the lake, in two ranges, 8 and 9 in the landing."""

SMALL = Limits(seconds=20, memory=256 << 20, rows=10_000, bytes=8 << 20)


def settings_of(root: Path) -> Settings:
    """The chain of this lake."""
    return load_settings(lake=str(root), horizon_slot=40, slots_per_range=4, embedded_transactions_per_slot=4)


def make_lake(root: Path) -> Lake:
    """Fill a lake."""
    settings = settings_of(root)
    lake = Lake(str(root), delta_options={"AWS_SECRET_ACCESS_KEY": "SECRET-OPTION"})
    for slots in (SlotRange(0, 3), SlotRange(4, 7)):
        land(lake, open_source(settings), slots)
        normalise_range(lake, slots)
    land_slots(settings, SlotRange(8, 9), final=False)
    return lake


class Asker:
    """An engine, and a loop to ask it in."""

    def __init__(self, runner: asyncio.Runner, engine: SqlEngine) -> None:
        self.run, self.engine = runner.run, engine

    def rows(self, sql: str, params: Any = None, **options: Any) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        return self.ask(sql, params, **options)[0]

    def ask(self, sql: str, params: Any = None, **options: Any) -> tuple[list[tuple[Any, ...]], Answer]:
        """The rows of a statement, and its answer."""

        async def ask() -> tuple[list[tuple[Any, ...]], Answer]:
            async with await self.engine.query(sql, params, **options) as answer:
                table = await answer.table()
            return list(zip(*(column.to_pylist() for column in table.columns), strict=True)), answer

        return self.run(ask())


@contextmanager
def asking(lake: Lake, **options: Any) -> Iterator[Asker]:
    """An engine over a lake, open."""
    with asyncio.Runner() as runner:
        engine = SqlEngine(lake, **{"processes": 1, "limits": SMALL, **options})
        runner.run(engine.__aenter__())
        try:
            yield Asker(runner, engine)
        finally:
            runner.run(engine.__aexit__(None, None, None))
