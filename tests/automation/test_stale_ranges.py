"""The sensor that finds what automation lost: its decision alone, then evaluated on real records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from blyan.settings import load_settings
from blyan_sensors.stale_ranges import stale
from tests.automation.test_conditions import FIRST, RAW, SECOND, Harness


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    settings = load_settings(lake=str(tmp_path / "lake"), horizon_slot=12, slots_per_range=4, embedded_transactions_per_slot=2)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Harness(settings, instance)


def test_a_range_is_stale_where_its_tables_were_made_from_another_version() -> None:
    assert stale({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "1"}) == {"b": "2"}


def requests(harness: Harness) -> list[tuple[str | None, str | None]]:
    sensor = harness.definitions.resolve_sensor_def("stale_ranges")
    context = dg.build_sensor_context(instance=harness.instance, repository_def=harness.definitions.get_repository_def())
    return [(request.partition_key, request.run_key) for request in sensor.evaluate_tick(context).run_requests]


def test_tables_made_before_their_raw_blocks_changed_are_asked_for_once_per_change(harness: Harness) -> None:
    harness.source.unknown = {2}
    harness.run("ingest_range", FIRST)
    harness.run("ingest_range", SECOND)
    assert requests(harness) == []
    harness.source.unknown = set()
    assert harness.run("ingest_range", FIRST, [RAW])

    ((partition, run_key),) = requests(harness)
    assert partition == FIRST
    assert requests(harness) == [(FIRST, run_key)]
    assert harness.run("normalise_range", FIRST)
    assert requests(harness) == []
