"""Segments written by several processes: the same rows, and nothing visible where one of them dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from blyan.digest import digest_unit
from blyan.errors import StoreFullError, TransientError
from blyan.lake import Lake
from blyan.schemas import COMPLETENESS, TRANSACTIONS
from blyan.settings import load_settings
from blyan.solana import ingest, segments
from blyan.solana import landing as landing_module
from blyan.solana.follower.follow import BESIDE, PER_STEP, Follower
from blyan.solana.landing import Landing, read_head
from blyan.solana.segments import LANDED, read_rows
from blyan.solana.slots import Grid, SlotRange
from blyan.solana.sources import RawRecord, open_source
from tests.simulated_chain import Faults, SimulatedNode

GRID = Grid(0, 1_000, 20)


@pytest.fixture(scope="module")
def records() -> list[RawRecord]:
    """Twenty slots of the embedded chain."""
    return list(open_source(load_settings(embedded_transactions_per_slot=6)).read(SlotRange(0, 19)))


def landed(lake: Lake, records: list[RawRecord], processes: int) -> Landing:
    landing = Landing(lake, GRID, processes=processes)
    landing.open(0)
    landing.advance(records)
    return landing


def test_processes_write_the_rows_that_one_writes(records: list[RawRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SHARED_BYTES", 1)
    alone, shared = landed(Lake(str(tmp_path / "one")), records, 1), landed(Lake(str(tmp_path / "two")), records, 2)
    shared.close()
    (whole,), (first, second) = alone.head.ranges[0].segments, shared.head.ranges[0].segments
    assert first.last + 1 == second.first
    assert first.count + second.count == whole.count == 20
    assert first.slots + second.slots == whole.slots
    for table in LANDED:
        ours = [read_rows(Lake(str(tmp_path / "two")), "000000000000", part, table).to_pylist() for part in (first, second)]
        assert ours[0] + ours[1] == read_rows(Lake(str(tmp_path / "one")), "000000000000", whole, table).to_pylist(), table.name
    assert shared.transactions == alone.transactions > 0
    for landing in (alone, shared):
        landing.advance([], checkpoint=20, finalized=19)
        landing.seal()
    assert shared.head.ranges[0].digest == alone.head.ranges[0].digest


def test_batches_of_any_size_make_the_same_rows(records: list[RawRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last batch is full and nothing is left over."""
    found = []
    for size in (1, 40_000, 1 << 30):
        monkeypatch.setattr(ingest, "BATCH_BYTES", size)
        lake = Lake(str(tmp_path / str(size)))
        (segment,) = landed(lake, records, 1).head.ranges[0].segments
        found.append({table.name: digest_unit(table, read_rows(lake, "000000000000", segment, table)) for table in LANDED})
    assert found[0] == found[1] == found[2]
    assert found[0][TRANSACTIONS.name].rows == sum(len(json.loads(record.payload)["transactions"]) for record in records if record.payload)


def test_little_work_is_not_shared(records: list[RawRecord], tmp_path: Path) -> None:
    landing = landed(Lake(str(tmp_path)), records, 2)
    assert len(landing.head.ranges[0].segments) == 1
    assert _children(os.getpid()) == []


def test_a_process_that_is_killed_costs_a_retry(records: list[RawRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SHARED_BYTES", 1)
    lake = Lake(str(tmp_path))
    landing = landed(lake, records[:8], 2)
    before = read_head(lake)
    for child in _children(os.getpid()):
        os.kill(child, signal.SIGKILL)
    with pytest.raises(TransientError, match="worker process died"):
        landing.advance(records[8:])
    assert read_head(lake) == before
    landing.advance(records[8:])
    landing.close()
    assert [slot for slot, _ in sorted(landing.head.slots().items())] == list(range(20))


def test_processes_end_with_the_one_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import time; from blyan.workers import pool; p = pool(2); [p.submit(time.sleep, 0.2).result() for _ in range(2)]; print('up', flush=True); "
    )
    script += "[p.submit(time.sleep, 60) for _ in range(2)]; time.sleep(60)"
    main = tmp_path / "main.py"
    main.write_text(f"if __name__ == '__main__':\n    {script}\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, str(main)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        workers = _children(process.pid)
        assert workers
        process.kill()
    until = time.monotonic() + 30
    while any(_is_alive(worker) for worker in workers):
        assert time.monotonic() < until, "workers outlive the process that started them"
        time.sleep(0.05)


@pytest.mark.parametrize("work", ["merge", "seal"])
def test_slots_land_while_final_ones_are_tidied(work: str, records: list[RawRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that are made meanwhile stay as they were but for what was tidied."""
    lake, grid = Lake(str(tmp_path)), Grid(0, 1_000, 16)
    landing = Landing(lake, grid)
    landing.open(0)
    for record in records[:16]:
        landing.advance([record])
    landing.advance([], checkpoint=16, finalized=15)
    read, landed = landing_module.read_rows, threading.Event()

    def slowly(*arguments: Any, **options: Any) -> Any:
        reading.set()
        assert landed.wait(30)
        return read(*arguments, **options)

    reading = threading.Event()
    monkeypatch.setattr(landing_module, "read_rows", slowly)
    with ThreadPoolExecutor(1) as beside:
        tidied = beside.submit(getattr(landing, work))
        assert reading.wait(30)
        for record in records[16:]:
            landing.advance([record], processed=segments.slot_of(record))
        landed.set()
        assert tidied.result(30)
    head = read_head(lake)
    assert head == landing.head
    assert (head.processed, head.checkpoint, len(head.ranges)) == (19, 16, 2)
    first, second = head.ranges
    assert (len(first.segments), first.sealed) == ((1, False) if work == "merge" else (16, True))
    assert [segment.first for segment in second.segments] == [16, 17, 18, 19]
    monkeypatch.undo()
    slots = [row for each in head.ranges for part in each.segments for row in read_rows(lake, each.key, part, COMPLETENESS)["slot"].to_pylist()]
    assert sorted(slots) == list(range(20))


def test_what_cannot_be_written_is_not_piled_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk for many steps, far behind the tip: blocks wait in memory up to the bound, and land once there is space."""

    async def follow() -> None:
        node, lake = SimulatedNode(1, Faults(skip=0, fork=0, fail=0, lag=0, leave_out=0, null=0)), Lake(str(tmp_path))
        grid, minutes = Grid(0, 100_000, 16), count()
        landing = Landing(lake, grid)
        follower = Follower(node, _Silence(), lake, grid, landing=landing, clock=lambda: 60.0 * next(minutes))
        await follower.begin()
        for _ in range(300):
            node.tick()
        follower.measures.announced = node.now
        full, waiting = _full(landing), []
        for _ in range(12):
            with pytest.raises(StoreFullError):
                await follower.step()
            waiting.append(len(follower._pending))
        assert PER_STEP <= max(waiting) <= 2 * (PER_STEP + BESIDE)
        full.undo()
        while await follower.step():
            pass
        assert landing.head.checkpoint > 250

    asyncio.run(follow())


def _full(landing: Landing) -> pytest.MonkeyPatch:
    def fail(*_: object, **__: object) -> None:
        raise StoreFullError("no space", where="test", remedy="none")

    patch = pytest.MonkeyPatch()
    patch.setattr(landing, "advance", fail)
    return patch


class _Silence:
    reconnects = 0

    async def slots(self):
        await asyncio.Event().wait()
        yield 0


def _children(parent: int) -> list[int]:
    """Processes that `parent` spawned to work for it."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found += [int(folder.name)] if b"spawn_main" in (folder / "cmdline").read_bytes() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _is_alive(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
