"""The schedule that fills the history: its decision alone, then evaluated on real records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from blyan.settings import Settings, load_settings
from blyan.solana.slots import Grid, SlotRange
from blyan_assets.build import build_defs
from blyan_sensors.top_up import next_ranges
from tests.automation.test_conditions import QUIET
from tests.landed import land_slots

GRID = Grid(0, 50, 10)
KEYS = GRID.keys()
NOTHING = {"complete": set(), "in_flight": set(), "failed": set(), "last_slot": None}


def test_the_oldest_missing_ranges_are_asked_for_first() -> None:
    assert next_ranges(GRID, **NOTHING, limit=2) == KEYS[:2]
    assert next_ranges(GRID, **NOTHING | {"complete": {KEYS[0], KEYS[2]}}, limit=2) == [KEYS[1], KEYS[3]]


def test_ranges_in_flight_are_not_asked_for_again_and_count_against_the_limit() -> None:
    assert next_ranges(GRID, **NOTHING | {"in_flight": {KEYS[0]}}, limit=2) == [KEYS[1]]
    assert next_ranges(GRID, **NOTHING | {"in_flight": set(KEYS[:3])}, limit=2) == []


def test_a_range_that_failed_lately_does_not_hold_up_the_others() -> None:
    assert next_ranges(GRID, **NOTHING | {"failed": {KEYS[0]}}, limit=1) == [KEYS[1]]


def test_a_range_that_is_not_over_yet_at_the_source_is_not_asked_for() -> None:
    assert next_ranges(GRID, **NOTHING | {"last_slot": 28}) == KEYS[:2]
    assert next_ranges(GRID, **NOTHING | {"last_slot": 29}) == KEYS[:3]


def test_a_range_that_is_being_followed_is_left_to_the_follower() -> None:
    assert next_ranges(GRID, **NOTHING | {"followed": {KEYS[0]}}, limit=1) == [KEYS[1]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(lake=str(tmp_path / "lake"), horizon_slot=12, slots_per_range=4, embedded_transactions_per_slot=1)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


def asked_for(definitions: dg.Definitions, instance: dg.DagsterInstance) -> list[str]:
    """Partitions that the real schedule requests now."""
    schedule = definitions.resolve_schedule_def("top_up_history")
    with dg.build_schedule_context(
        instance=instance,
        repository_def=definitions.get_repository_def(),
        resources={name: definitions.resources[name] for name in ("lake", "source")},
    ) as context:
        data = schedule.evaluate_tick(context)
    return [request.tags["dagster/partition"] for request in data.run_requests]


def test_the_schedule_asks_for_what_the_lake_lacks(settings: Settings, instance: dg.DagsterInstance) -> None:
    definitions = build_defs(settings=settings, with_marts=False)
    assert asked_for(definitions, instance) == settings.grid.keys()

    job = definitions.resolve_job_def("ingest_range")
    job.execute_in_process(instance=instance, partition_key="000000000004", run_config=QUIET)

    assert asked_for(definitions, instance) == ["000000000000", "000000000008"]


def test_the_schedule_leaves_a_range_that_is_not_sealed_to_the_follower(settings: Settings, instance: dg.DagsterInstance) -> None:
    land_slots(settings, SlotRange(0, 5))

    assert asked_for(build_defs(settings=settings, with_marts=False), instance) == ["000000000000", "000000000008"]


def test_the_schedule_believes_the_store_and_not_the_records(settings: Settings, instance: dg.DagsterInstance) -> None:
    definitions = build_defs(settings=settings, with_marts=False)
    instance.report_runless_asset_event(dg.AssetMaterialization(["solana", "completeness"], partition="000000000000"))

    assert "000000000000" in asked_for(definitions, instance)


def test_the_schedule_leaves_a_failed_range_alone_for_a_while(settings: Settings, instance: dg.DagsterInstance) -> None:
    wrong = build_defs(settings=settings.model_copy(update={"genesis_hash": "another chain"}), with_marts=False).resolve_job_def("ingest_range")
    assert not wrong.execute_in_process(instance=instance, partition_key="000000000000", run_config=QUIET, raise_on_error=False).success

    assert asked_for(build_defs(settings=settings, with_marts=False), instance) == ["000000000004", "000000000008"]
