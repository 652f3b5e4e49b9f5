"""The maintenance oracle: nothing but a write or a restore changes what a partition holds, whoever else is at work."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from lake_rows import LEDGER, REWARDS, rewards
from small_disk import small_disk

from blyan.digest import unit_of
from blyan.errors import MissingObjectError, PermanentError, StoreFullError, TransientError
from blyan.lake import STAGED_HOURS, Lake

TESTS = Path(__file__).parents[1]
KEYS = ("000000000000", "000000000064", "000000000128")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def data_files(lake: Lake) -> set[Path]:
    return {path for path in (Path(lake.root) / REWARDS.name).rglob("*") if path.is_file() and "_delta_log" not in path.parts}


def stage(lake: Lake, key: str, slots: range, lamports: int = 5) -> list[object]:
    """One file a unit, so that there is something to compact."""
    staged = []
    for first in range(slots.start - slots.start % 16, slots.stop, 16):
        with lake.stage(REWARDS, key) as writer:
            writer.write(unit_of(first), rewards(range(max(first, slots.start), min(first + 16, slots.stop)), lamports=lamports))
        staged.append(writer.close())
    return staged


def holds(lake: Lake) -> dict[str, tuple[int, str]]:
    """What the log says every partition holds; the rows must agree."""
    found = {key: (partition.rows, partition.digest) for key, partition in lake.partitions(REWARDS).items()}
    for key, (rows, digest) in found.items():
        assert sum(batch.num_rows for batch in lake.read(REWARDS, key=key, columns=["index"])) == rows
        assert lake.digest(REWARDS, key) == digest
    return found


@pytest.mark.parametrize("seed", range(4))
def test_maintenance_in_any_order_and_repeated_changes_no_rows(lake: Lake, seed: int) -> None:
    choose = random.Random(seed)
    expected: dict[str, tuple[int, str]] = {}
    history: dict[int, dict[str, tuple[int, str]]] = {}
    restored = 0
    for _ in range(14):
        operation = choose.choice(["write", "write", "compact", "compact one", "z-order", "vacuum", "checkpoint", "restore"]) if expected else "write"
        key = choose.choice(KEYS)
        for _ in range(choose.choice([1, 2])):
            match operation:
                case "write":
                    slots = range(int(key), int(key) + choose.choice([0, 5, 64]))
                    staged = stage(lake, key, slots, choose.choice([1, 2])) or [lake.stage(REWARDS, key).close()]
                    commit = lake.commit(REWARDS, key, staged)
                    expected[key] = (2 * len(slots), commit.digest)
                case "compact":
                    lake.compact(REWARDS)
                case "compact one":
                    lake.compact(REWARDS, key)
                case "z-order":
                    lake.z_order(REWARDS, ["pubkey", "lamports"], choose.choice([None, key]))
                case "vacuum":
                    lake.vacuum(REWARDS, retention_hours=0)
                case "checkpoint":
                    lake.checkpoint(REWARDS)
                case "restore":
                    version = choose.choice(sorted(history))
                    try:
                        lake.restore(REWARDS, version)
                    except MissingObjectError:
                        continue
                    expected = dict(history[version])
                    restored += 1
        assert holds(lake) == expected, operation
        history[lake.version(REWARDS) or 0] = dict(expected)
    assert not [file for file in lake.vacuum(REWARDS, retention_hours=0) if file in {current.name for current in lake.files(REWARDS)}]
    assert holds(lake) == expected


def test_compacting_joins_files_and_a_write_after_it_is_still_recognised(lake: Lake) -> None:
    commit = lake.commit(REWARDS, KEYS[0], stage(lake, KEYS[0], range(64)))
    other = lake.commit(REWARDS, KEYS[1], stage(lake, KEYS[1], range(64, 128)))
    lake.compact(REWARDS, KEYS[0])
    assert {key: partition.files for key, partition in lake.partitions(REWARDS).items()} == {KEYS[0]: 1, KEYS[1]: 4}
    assert lake.partitions(REWARDS)[KEYS[0]].digest == commit.digest
    version = lake.version(REWARDS)
    again = lake.commit(REWARDS, KEYS[0], stage(lake, KEYS[0], range(64)))
    assert (again.changed, again.version) == (False, version)
    assert len(lake.files(REWARDS)) == 5
    assert lake.partitions(REWARDS)[KEYS[1]].digest == other.digest


def test_a_restore_brings_back_the_rows_and_their_digest(lake: Lake) -> None:
    old = lake.commit(REWARDS, KEYS[0], stage(lake, KEYS[0], range(64)))
    new = lake.commit(REWARDS, KEYS[0], stage(lake, KEYS[0], range(64), lamports=9))
    lake.compact(REWARDS)
    lake.restore(REWARDS, old.version)
    assert holds(lake) == {KEYS[0]: (128, old.digest)}
    assert not lake.commit(REWARDS, KEYS[0], stage(lake, KEYS[0], range(64))).changed
    lake.restore(REWARDS, new.version)
    assert holds(lake) == {KEYS[0]: (128, new.digest)}
    assert lake.commit(REWARDS, KEYS[0], stage(lake, KEYS[0], range(64))).changed
    lake.vacuum(REWARDS, retention_hours=0)
    with pytest.raises(MissingObjectError):
        lake.restore(REWARDS, new.version)


def test_an_empty_partition_survives_maintenance(lake: Lake) -> None:
    empty = lake.write_partition(REWARDS, KEYS[0], [])
    lake.commit(REWARDS, KEYS[1], stage(lake, KEYS[1], range(64, 128)))
    lake.compact(REWARDS)
    lake.z_order(REWARDS, ["pubkey"])
    lake.z_order(REWARDS, ["pubkey"], KEYS[0])
    lake.vacuum(REWARDS, retention_hours=0)
    assert holds(lake)[KEYS[0]] == (0, empty.digest)


def test_digests_outlive_the_log_that_recorded_them(lake: Lake) -> None:
    commit = lake.write_partition(REWARDS, KEYS[0], [rewards(range(20))])
    lake.write_partition(REWARDS, KEYS[1], [rewards(range(64, 70))])
    lake.checkpoint(REWARDS)
    log = Path(lake.root) / REWARDS.name / "_delta_log"
    for version in range(lake.version(REWARDS) or 0):
        (log / f"{version:020}.json").unlink()
    assert holds(lake)[KEYS[0]] == (40, commit.digest)
    assert not lake.write_partition(REWARDS, KEYS[0], [rewards(range(20))]).changed


# Vacuum


def test_vacuum_never_takes_what_another_writer_has_staged(lake: Lake) -> None:
    lake.write_partition(REWARDS, KEYS[0], [rewards(range(20))])
    lake.write_partition(REWARDS, KEYS[0], [rewards(range(30))])
    staged = stage(lake, KEYS[1], range(64, 128))
    assert len(lake.vacuum(REWARDS, retention_hours=0)) == 1
    assert lake.vacuum(REWARDS, retention_hours=0) == []
    commit = lake.commit(REWARDS, KEYS[1], staged)
    assert lake.digest(REWARDS, KEYS[1]) == commit.digest


def test_vacuum_takes_what_a_killed_writer_left_once_it_is_old(lake: Lake) -> None:
    lake.write_partition(REWARDS, KEYS[0], [rewards(range(20))])
    kept = data_files(lake)
    stage(lake, KEYS[1], range(64, 80))
    unfinished = Path(lake.root) / REWARDS.name / "slot_range=x" / "part-0.parquet.abc.unfinished"
    unfinished.parent.mkdir()
    unfinished.write_bytes(b"half")
    left = data_files(lake) - kept
    assert len(left) == 2
    assert lake.vacuum(REWARDS, retention_hours=0) == []
    old = time.time() - (STAGED_HOURS + 1) * 3600
    for path in left:
        os.utime(path, (old, old))
    assert len(lake.vacuum(REWARDS, retention_hours=0, dry_run=True)) == 2
    assert data_files(lake) == kept | left
    assert len(lake.vacuum(REWARDS, retention_hours=168)) == 0
    assert len(lake.vacuum(REWARDS, retention_hours=1)) == 2
    assert data_files(lake) == kept
    with pytest.raises(PermanentError, match="give 0 or more"):
        lake.vacuum(REWARDS, retention_hours=-1)


def test_a_reader_whose_version_is_vacuumed_under_it_is_told_to_read_again(lake: Lake) -> None:
    lake.commit(REWARDS, KEYS[0], stage(lake, KEYS[0], range(64)))
    reader = lake.read(REWARDS, key=KEYS[0])
    next(reader)
    lake.write_partition(REWARDS, KEYS[0], [rewards(range(3))])
    lake.vacuum(REWARDS, retention_hours=0)
    with pytest.raises(TransientError, match="the version being read was replaced and vacuumed"):
        list(reader)


# Writers and readers side by side


@contextmanager
def beside(work: Callable[[threading.Event], None], threads: int = 1) -> Iterator[None]:
    """Run `work` in threads until the block ends; its errors are ours."""
    stop = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, stop) for _ in range(threads)]
        try:
            yield
        finally:
            stop.set()
        for future in futures:
            future.result()


def test_maintenance_beside_a_writer_and_a_reader_loses_and_doubles_nothing(lake: Lake) -> None:
    still = lake.commit(REWARDS, KEYS[0], stage(lake, KEYS[0], range(64)))
    contents = [lake.commit(REWARDS, KEYS[1], stage(lake, KEYS[1], range(64, 128), lamports)).digest for lamports in (1, 2)]
    seen: list[str] = []

    def write(stop: threading.Event) -> None:
        for lamports in (1, 2) * 1000:
            if stop.is_set():
                return
            assert lake.commit(REWARDS, KEYS[1], stage(lake, KEYS[1], range(64, 128), lamports)).changed

    def read(stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                seen.append(lake.digest(REWARDS, KEYS[1]))
                assert lake.digest(REWARDS, KEYS[0]) == still.digest
            except TransientError:  # vacuum without any retention takes files from under a reader
                continue

    with beside(write), beside(read):
        for _ in range(6):
            lake.compact(REWARDS)
            lake.z_order(REWARDS, ["pubkey"], KEYS[0])
            lake.vacuum(REWARDS, retention_hours=0)
            lake.checkpoint(REWARDS)
    assert seen
    assert set(seen) <= set(contents)
    assert holds(lake)[KEYS[0]] == (128, still.digest)


class Writer:
    """A `lake_writer.py` process that has staged and waits for the word."""

    def __init__(self, lake: Lake, key: str, first: int, last: int, lamports: int) -> None:
        command = [sys.executable, str(TESTS / "lake_writer.py"), lake.root, key, str(first), str(last), str(lamports)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> dict[str, object]:
        output, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return json.loads(output.splitlines()[-1])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def race(writers: list[Writer]) -> list[dict[str, object]]:
    """Let every writer commit at the same moment."""
    assert {writer.says() for writer in writers} == {"staged"}
    for writer in writers:
        writer.go()
    return [writer.end() for writer in writers]


def test_processes_that_write_different_partitions_of_a_new_table_all_succeed(lake: Lake) -> None:
    commits = race([Writer(lake, unit_of(first), first, first + 15, 5) for first in range(0, 96, 16)])
    assert all(commit["changed"] for commit in commits)
    assert len({commit["version"] for commit in commits}) == 6
    assert holds(lake) == {unit_of(16 * index): (32, commit["digest"]) for index, commit in enumerate(commits)}


@pytest.mark.parametrize("standing", [False, True], ids=["new partition", "standing partition"])
def test_processes_that_write_the_same_partition_leave_exactly_one_of_theirs(lake: Lake, standing: bool) -> None:
    if standing:
        lake.write_partition(REWARDS, KEYS[0], [rewards(range(10))])
    commits = race([Writer(lake, KEYS[0], 0, 20 + lamports, lamports) for lamports in (1, 2, 3, 4)])
    last = max(commits, key=lambda commit: commit["version"])  # type: ignore[arg-type, return-value]
    assert holds(lake) == {KEYS[0]: (last["rows"], last["digest"])}
    assert len(lake.files(REWARDS)) == 1


def test_processes_that_write_the_same_content_commit_it_once(lake: Lake) -> None:
    commits = race([Writer(lake, KEYS[0], 0, 40, 5) for _ in range(3)])
    assert sorted(commit["changed"] for commit in commits) == [False, False, True]  # type: ignore[type-var]
    assert len(data_files(lake)) == 1


def test_a_killed_writer_leaves_the_old_rows_and_only_orphans(lake: Lake) -> None:
    commit = lake.write_partition(REWARDS, KEYS[0], [rewards(range(30))])
    before = data_files(lake)
    for lamports, said in ((-1, "staging"), (6, "staged")):
        writer = Writer(lake, KEYS[0], 0, 200, lamports)
        assert writer.says() == said
        writer.kill()
        assert holds(lake) == {KEYS[0]: (60, commit.digest)}
    assert len(data_files(lake) - before) == 2
    assert lake.write_partition(REWARDS, KEYS[0], [rewards(range(40))]).changed


def test_threads_that_append_the_same_rows_append_them_once(lake: Lake) -> None:
    def append(offset: int) -> None:
        for first in range(offset, 12):
            lake.append(LEDGER, pa.table({"height": [first, first + 1], "body": [str(first), str(first + 1)]}), logical_key=["height"])

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(append, offset) for offset in range(3)]:
            done.result()
    assert sorted(height for batch in lake.read(LEDGER) for height in batch["height"].to_pylist()) == list(range(13))


def test_threads_that_pin_one_fact_agree_on_it(lake: Lake) -> None:
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(lambda index: lake.pin("genesis_hash", str(index)), range(6)))) == 1


# A full disk


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB, where the tests may mount one."""
    with small_disk(tmp_path / "tiny", "256k") as folder:
        yield folder


def test_a_disk_that_fills_up_keeps_every_committed_partition(tiny_disk: Path) -> None:
    lake = Lake(str(tiny_disk / "lake"))
    committed: dict[str, tuple[int, str]] = {}
    remedies = set()
    for step in range(60):
        try:
            key = unit_of(16 * step)
            commit = lake.write_partition(REWARDS, key, [rewards(range(16 * step, 16 * step + 16), each=20, pubkey=str(step))])
            committed[key] = (commit.rows, commit.digest)
        except StoreFullError as error:
            remedies.add(error.remedy)
            assert not list(tiny_disk.rglob("*.unfinished"))
            named = {Path(file.path) for file in lake.files(REWARDS)}
            assert data_files(lake) == named
    assert remedies == {"free space or move BLYAN_LAKE, then run it again"}
    assert len(committed) > 3
    assert holds(lake) == committed
