"""What every store must do for the lake. A test module imports these functions and brings the fixture `store`."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.fs as fs
import pytest
from lake_rows import LEDGER, REWARDS, rewards
from object_stores import ObjectStore

from blyan.digest import unit_of
from blyan.errors import MissingObjectError
from blyan.lake import Lake

KEY = "000000000000"


@pytest.fixture
def lake(store: ObjectStore) -> Lake:
    """A lake of its own for each test."""
    return store.lake()


def names(lake: Lake) -> set[str]:
    """The data files that are in the store, whether a version names them or not."""
    base = lake._store.path(REWARDS.name)
    found = lake._store.files.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(f"{base}/") for info in found if info.is_file and "_delta_log" not in info.path}


def test_a_partition_is_written_read_replaced_and_recognised(lake: Lake) -> None:
    first = lake.write_partition(REWARDS, KEY, [rewards(range(40))])
    assert pa.Table.from_batches(lake.read(REWARDS, key=KEY)).equals(rewards(range(40)).cast(REWARDS.arrow_schema()))
    assert not lake.write_partition(REWARDS, KEY, [rewards(range(40))]).changed
    second = lake.write_partition(REWARDS, KEY, [rewards(range(50))])
    assert (second.changed, second.version) == (True, first.version + 1)
    assert lake.digest(REWARDS, KEY) == second.digest == lake.partitions(REWARDS)[KEY].digest
    assert pickle.loads(pickle.dumps(lake)).version(REWARDS) == second.version
    assert all(file.path.startswith(lake.root) for file in lake.files(REWARDS))


def test_maintenance_keeps_the_rows(lake: Lake) -> None:
    staged = []
    for first in (0, 16, 32):
        with lake.stage(REWARDS, KEY) as stage:
            stage.write(unit_of(first), rewards(range(first, first + 16)))
        staged.append(stage.close())
    commit = lake.commit(REWARDS, KEY, staged)
    lake.compact(REWARDS)
    assert lake.partitions(REWARDS)[KEY].files == 1
    lake.z_order(REWARDS, ["pubkey"])
    lake.checkpoint(REWARDS)
    lake.restore(REWARDS, commit.version)
    removed = set(lake.vacuum(REWARDS, retention_hours=0))
    assert len(removed) == 2
    assert names(lake) == {file.name for file in lake.files(REWARDS)}
    assert lake.digest(REWARDS, KEY) == commit.digest


def test_writers_of_one_partition_leave_one_and_writers_of_others_do_not_mind(lake: Lake) -> None:
    def write(index: int) -> tuple[str, int, str]:
        key = KEY if index < 3 else unit_of(16 * index)
        commit = lake.write_partition(REWARDS, key, [rewards(range(10 + index), lamports=index)])
        return key, commit.version, commit.digest

    with ThreadPoolExecutor(5) as pool:
        commits = list(pool.map(write, range(5)))
    assert len({version for _, version, _ in commits}) == 5
    last = {key: digest for key, _, digest in sorted(commits, key=lambda commit: commit[1])}
    assert {key: partition.digest for key, partition in lake.partitions(REWARDS).items()} == last
    assert {key: lake.digest(REWARDS, key) for key in last} == last


def test_a_stage_that_fails_leaves_nothing_and_a_vacuum_spares_what_is_staged(lake: Lake) -> None:
    def fail() -> None:
        with lake.stage(REWARDS, KEY) as stage:
            stage.write(unit_of(0), rewards(range(16)))
            raise ZeroDivisionError

    lake.write_partition(REWARDS, "a", [])
    before = names(lake)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(lake) == before
    with lake.stage(REWARDS, KEY) as stage:
        stage.write(unit_of(0), rewards(range(16)))
    assert lake.vacuum(REWARDS, retention_hours=0) == []
    assert lake.commit(REWARDS, KEY, [stage.close()]).changed


def test_a_file_that_is_gone_is_named(lake: Lake) -> None:
    lake.write_partition(REWARDS, KEY, [rewards(range(16))])
    lake._store.delete([f"{REWARDS.name}/{lake.files(REWARDS)[0].name}"])
    with pytest.raises(MissingObjectError, match=r"names is not in the store.*part-"):
        list(lake.read(REWARDS, key=KEY))
    with pytest.raises(MissingObjectError, match="there is no table"):
        lake.compact(LEDGER)


def test_blobs_pins_and_logs(lake: Lake) -> None:
    digest = lake.put_blob(b"weights")
    assert (lake.get_blob(digest), lake.put_blob(b"weights"), lake.has_blob("00" * 32)) == (b"weights", digest, False)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda index: lake.pin("genesis_hash", str(index)), range(4)))) == 1
    for heights in ([0, 1], [1, 2]):
        lake.append(LEDGER, pa.table({"height": heights, "body": [str(height) for height in heights]}), logical_key=["height"])
    assert sorted(height for batch in lake.read(LEDGER) for height in batch["height"].to_pylist()) == [0, 1, 2]
