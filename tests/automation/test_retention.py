"""Old runs deleted from real records in SQLite: what stays, what goes, and that nobody can tell."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from blyan.lake import Lake
from blyan.schemas import RAW_BLOCKS
from blyan.settings import Settings, load_settings
from blyan.solana.slots import SlotRange
from blyan_assets import retention
from blyan_assets.checks import LANDING
from blyan_assets.records import kept_connections
from blyan_assets.retention import forget, forgettable, rewrite_index
from blyan_sensors.versions import last_versions
from tests.automation.test_conditions import FIRST, QUIET, RAW, SECOND, Harness
from tests.automation.test_landing_followed import tick
from tests.landed import land_slots

THIRD = "000000000008"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(lake=str(tmp_path / "lake"), horizon_slot=12, slots_per_range=4, embedded_transactions_per_slot=1)


@pytest.fixture
def harness(settings: Settings, tmp_path: Path) -> Iterator[Harness]:
    (tmp_path / "dagster").mkdir()
    with kept_connections(), dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield Harness(settings, instance)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def known(harness: Harness) -> dict[str, object]:
    """What the UI and automation read of the assets."""
    instance, graph = harness.instance, harness.definitions.resolve_asset_graph()
    keys = sorted(graph.materializable_asset_keys | {LANDING})
    partitions = graph.get(RAW).partitions_def
    assert partitions is not None
    found: dict[str, object] = {}
    for key in keys:
        status = instance.get_status_by_partition(key, partitions.get_partition_keys(), partitions) if graph.get(key).is_partitioned else None
        latest = instance.get_latest_materialization_event(key)
        found[key.to_user_string()] = (status, last_versions(instance, key), latest and latest.run_id)
    for check in sorted(graph.asset_check_keys):
        for record in reversed(instance.event_log_storage.get_asset_check_execution_history(check, limit=50)):
            found[f"{check} {record.partition}"] = (record.status, record.run_id)
    return found


def test_what_was_made_again_goes_and_nobody_can_tell(harness: Harness, tmp_path: Path) -> None:
    instance = harness.instance
    harness.tick()
    land_slots(harness.settings, SlotRange(8, 11))
    tick(harness)
    assert harness.run("ingest_range", FIRST)
    since = datetime.now(UTC)
    for _ in range(3):
        assert harness.run("ingest_range", FIRST)
    assert harness.run("ingest_range", SECOND)
    assert harness.run("ingest_range", THIRD)
    lake = Lake.from_settings(harness.settings)
    lake.restore(RAW_BLOCKS, 0)
    assert not harness.run("normalise_range", SECOND)  # the newest attempt of its range, and it failed
    assert harness.run("ingest_range", THIRD, [RAW])  # the tables of the range are still of its first run
    assert [harness.tick() for _ in range(2)][1] == set()
    before, size, runs = known(harness), size_of(tmp_path / "dagster"), {record.dagster_run.run_id for record in instance.get_run_records()}

    assert len(list(forgettable(instance, since))) == 1  # no run goes before its time
    gone = list(forgettable(instance, datetime.now(UTC)))
    for run_id in gone:
        forget(instance, run_id)

    assert len(gone) == 3  # all of the first range but the newest
    assert {record.dagster_run.run_id for record in instance.get_run_records()} == runs - set(gone)
    assert known(harness) == before
    assert [harness.tick() for _ in range(3)] == [set()] * 3
    assert not [file for file in (tmp_path / "dagster").rglob("*") if any(run_id in file.name for run_id in gone)]
    assert size_of(tmp_path / "dagster") < 0.75 * size
    assert list(forgettable(instance, datetime.now(UTC))) == []


def test_a_run_that_was_the_newest_is_missed(harness: Harness) -> None:
    # The negative control: without the rule, its range would look as if it were never made.
    harness.run("ingest_range", FIRST)
    before = known(harness)
    (record,) = harness.instance.get_run_records()
    forget(harness.instance, record.dagster_run.run_id)

    assert known(harness) != before


def test_the_index_gives_its_free_pages_back_when_they_are_most_of_it(harness: Harness, tmp_path: Path) -> None:
    index = tmp_path / "dagster" / "history" / "runs" / "index.db"
    harness.run("ingest_range", FIRST)
    assert rewrite_index(harness.instance).endswith("are free")
    (record,) = harness.instance.get_run_records()
    forget(harness.instance, record.dagster_run.run_id)
    for _ in range(60):
        harness.instance.report_runless_asset_event(dg.AssetMaterialization("wiped", metadata={"text": "x" * 20_000}))
    harness.instance.wipe_assets([dg.AssetKey("wiped")])
    size = index.stat().st_size + Path(f"{index}-wal").stat().st_size

    assert rewrite_index(harness.instance).endswith("were given back")
    assert index.stat().st_size + Path(f"{index}-wal").stat().st_size < 0.5 * size


def test_the_job_deletes_a_bounded_number_and_goes_on_the_next_day(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "RUNS_A_DAY", 1)
    monkeypatch.setattr(retention, "timedelta", lambda **_days: datetime.now(UTC) - datetime.now(UTC))
    for _ in range(3):
        assert harness.run("ingest_range", FIRST)
    job = harness.definitions.resolve_job_def("forget_runs")

    left = []
    for _ in range(3):
        assert job.execute_in_process(instance=harness.instance, run_config=QUIET).success
        left.append(len(harness.instance.get_run_records(dg.RunsFilter(job_name="ingest_range"))))
    assert left == [2, 1, 1]
