"""The sensor that finds what automation lost: its decision alone, then evaluated on real records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from blyan.settings import load_settings
from blyan_assets.checks import LANDING
from blyan_sensors.stale_ranges import Request, sort_out, stale
from tests.automation.test_conditions import FIRST, RAW, SECOND, Harness


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    settings = load_settings(lake=str(tmp_path / "lake"), horizon_slot=12, slots_per_range=4, embedded_transactions_per_slot=2)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Harness(settings, instance)


def test_a_range_is_stale_where_it_was_made_from_another_version_or_not_at_all() -> None:
    assert stale({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "1"}) == {"b": "2", "c": "3"}


def test_what_is_in_flight_is_left_alone_and_what_had_its_run_is_listed() -> None:
    wanted = [Request(key, RAW, "1") for key in ("c", "b", "a")]

    assert sort_out(wanted, in_flight={"b"}, tried={"c raw_blocks 1"}) == ([wanted[2]], [wanted[0]])


def test_a_range_whose_raw_blocks_are_stale_too_is_asked_for_as_a_whole() -> None:
    tables, whole = Request("a", RAW, "1"), Request("a", LANDING, "2")

    assert sort_out([tables, whole], in_flight=(), tried=()) == ([whole], [])


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


def test_raw_blocks_whose_tables_were_never_made_are_asked_for(harness: Harness) -> None:
    assert harness.run("ingest_range", FIRST, [RAW])

    assert [partition for partition, _ in requests(harness)] == [FIRST]
