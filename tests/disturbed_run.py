"""A run of a range in a process of its own that dies, or finds its disk full, at a named point.

Belongs here: the points, which wrap a source and a lake from outside. Does not belong here: what must hold afterwards.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from blyan.errors import StoreFullError
from blyan.lake import Commit, Lake, Stage
from blyan.schemas import Table
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources import RawRecord
from blyan.solana.sources.archive import ArchiveSource

Strike = Callable[[str], None]


class StruckSource(ArchiveSource):
    """An archive that passes points."""

    strike: Strike

    def read(self, slots: SlotRange) -> Iterator[RawRecord]:
        for record in super().read(slots):
            self.strike(f"before record {record.slot}")
            yield record
        self.strike("after the last record")


class StruckLake(Lake):
    """A lake that passes points."""

    strike: Strike

    def stage(self, table: Table, key: str, **options: Any) -> Stage:
        stage = super().stage(table, key, **options)
        write, close = stage.write, stage.close

        def struck_write(unit: str, rows: pa.Table) -> None:
            self.strike(f"before writing unit {unit} of {table.name}")
            write(unit, rows)

        def struck_close() -> Any:
            self.strike(f"before closing {table.name}")
            return close()

        stage.write, stage.close = struck_write, struck_close  # type: ignore[method-assign]
        return stage

    def commit(self, table: Table, key: str, staged: Any, **options: Any) -> Commit:
        self.strike(f"before committing {table.name}")
        commit = super().commit(table, key, staged, **options)
        self.strike(f"after committing {table.name}")
        return commit

    def read(self, table: Table, **options: Any) -> Iterator[pa.RecordBatch]:
        self.strike(f"before reading slot {options.get('first_slot')} of {table.name}")
        return super().read(table, **options)

    def _sync_log(self, table: Table, version: int) -> None:
        # The version is in the log, and whether the disk has it is not known yet.
        self.strike(f"in the log of {table.name}")
        super()._sync_log(table, version)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fill_disk() -> None:
    # A limit on the size of files needs no privileges, and makes writes fail where a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))


def disturbed(archive: str, lake: str, slots: SlotRange, point: str, action: str, report: str) -> None:
    """Run the range; at the point, act. The last line of the report says how it ended."""

    def strike(name: str) -> None:
        if name == point:
            {"kill": _kill, "fill": _fill_disk}[action]()

    source, store = StruckSource(archive), StruckLake(lake)
    source.strike = store.strike = strike
    try:
        land(store, source, slots)
        strike("before normalising")
        normalise_range(store, slots, workers=1)
        ending = "ended well"
    except StoreFullError as error:
        ending = str(error)
    Path(report).write_text(ending)
