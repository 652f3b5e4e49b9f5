"""The landing followed: the sensor's decision alone, the sensor on real records, and real ticks of automation after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import msgspec
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from blyan.errors import PermanentError, UnknownRangeError
from blyan.schemas import RAW_BLOCKS
from blyan.settings import Settings, load_settings
from blyan.solana import landing
from blyan.solana.landing import Head, LandedRange, Landing, read_head
from blyan.solana.liveness import CAUGHT_UP, CONTINUOUS, FINAL, FRESH, VERDICTS
from blyan.solana.slots import SlotRange
from blyan_assets.build import build_defs
from blyan_assets.checks import LANDING
from blyan_sensors import stale_ranges
from blyan_sensors.cursors import read_cursor
from blyan_sensors.landing import FORMAT, Cursor, newly_sealed
from resources.lake import LakeResource
from tests.automation.test_conditions import FIRST, RAW, SECOND, Harness, Source, every_table_of
from tests.landed import land_slots

SEALED = Head(ranges=[LandedRange("a", [], sealed=True, digest="1"), LandedRange("b", [], sealed=True, digest="2"), LandedRange("c", [])])


def nothing(_key: str) -> str:
    return ""


def test_sealed_ranges_are_reported_with_their_digest_and_others_are_not() -> None:
    assert newly_sealed(SEALED, Cursor(), nothing) == ([("a", "1"), ("b", "2")], Cursor({"a": "1", "b": "2"}))


def test_what_the_cursor_remembers_is_not_even_asked_about() -> None:
    asked: list[str] = []

    def known(key: str) -> str:
        asked.append(key)
        return ""

    assert newly_sealed(SEALED, Cursor({"a": "1"}), known)[0] == [("b", "2")]
    assert asked == ["b"]


def test_a_lost_cursor_reports_nothing_that_dagster_knows() -> None:
    assert newly_sealed(SEALED, Cursor(), {"a": "1", "b": "an older one"}.__getitem__)[0] == [("b", "2")]


def test_a_range_that_left_the_head_is_forgotten() -> None:
    assert newly_sealed(Head(), Cursor({"a": "1"}), nothing) == ([], Cursor())


@pytest.mark.parametrize("text", [None, "", "{", '{"reported": 5}', f'{{"reported": {{"a": "1"}}, "format": {FORMAT + 1}}}'])
def test_a_cursor_that_cannot_be_used_is_an_empty_one(text: str | None) -> None:
    assert read_cursor(text, Cursor) == Cursor()


# On real records


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(lake=str(tmp_path / "lake"), horizon_slot=12, slots_per_range=4, embedded_transactions_per_slot=2)


@pytest.fixture
def harness(settings: Settings) -> Iterator[Harness]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Harness(settings, instance)


def tick(harness: Harness, cursor: str | None = None, settings: Settings | None = None) -> dg.SensorExecutionData:
    """One tick of the real sensor, and what the daemon does after it: store the events."""
    definitions = build_defs(settings=settings, with_marts=False) if settings else harness.definitions
    with dg.build_sensor_context(
        instance=harness.instance, cursor=cursor, repository_def=definitions.get_repository_def(), resources={"lake": definitions.resources["lake"]}
    ) as context:
        data = definitions.resolve_sensor_def("landing").evaluate_tick(context)
    for event in data.asset_events:
        harness.instance.report_runless_asset_event(event)
    return data


def reported(data: dg.SensorExecutionData) -> list[tuple[str | None, str]]:
    return [(event.partition, (event.tags or {})["dagster/data_version"]) for event in sealed(data)]


def sealed(data: dg.SensorExecutionData) -> list[dg.AssetMaterialization]:
    return [event for event in data.asset_events if isinstance(event, dg.AssetMaterialization)]


def verdicts(data: dg.SensorExecutionData) -> dict[str, bool]:
    return {event.check_name: event.passed for event in data.asset_events if isinstance(event, dg.AssetCheckEvaluation)}


def test_a_sealed_range_is_reported_once_and_launches_nothing(harness: Harness) -> None:
    head = land_slots(harness.settings, SlotRange(0, 5))

    first = tick(harness)
    again = tick(harness, first.cursor)

    assert reported(first) == [(FIRST, head.ranges[0].digest)]
    assert sealed(first)[0].metadata["rows"].value[RAW_BLOCKS.name] == 4
    assert (first.run_requests, again.run_requests) == ([], [])
    assert reported(again) == []
    assert "every slot before 6" in again.skip_message


def test_a_lost_cursor_finds_what_was_reported_in_the_records(harness: Harness) -> None:
    land_slots(harness.settings, SlotRange(0, 5))
    assert reported(tick(harness))

    lost = tick(harness, "not what it was")

    assert reported(lost) == []
    assert set(read_cursor(lost.cursor, Cursor).reported) == {FIRST}


def test_no_head_is_told_apart_from_nothing_new(harness: Harness) -> None:
    assert "nothing was ever landed" in tick(harness).skip_message


def test_a_head_that_cannot_be_read_fails_the_tick(harness: Harness) -> None:
    LakeResource.of(harness.settings).open().store.put(landing.HEAD, b"{")

    with pytest.raises(PermanentError, match="cannot be read"):
        tick(harness)


@pytest.mark.parametrize(("other", "error"), [({"slots_per_range": 2}, PermanentError), ({"first_slot": 1}, UnknownRangeError)])
def test_a_follower_with_another_grid_fails_the_tick(harness: Harness, other: dict[str, int], error: type[Exception]) -> None:
    land_slots(harness.settings, SlotRange(0, 3))

    with pytest.raises(error):
        tick(harness, settings=harness.settings.model_copy(update=other))


# Its checks


def test_a_verdict_is_reported_when_it_turns_and_not_again(harness: Harness) -> None:
    land_slots(harness.settings, SlotRange(0, 5))
    first = tick(harness)
    second = tick(harness, first.cursor)
    lake = LakeResource.of(harness.settings).open()
    stopped = msgspec.structs.replace(read_head(lake) or Head(), written_at=0.0, finalized=900)
    lake.store.put(landing.HEAD, msgspec.json.encode(stopped))
    third = tick(harness, second.cursor)
    fourth = tick(harness, third.cursor)

    assert [verdicts(each) for each in (first, second, third, fourth)] == [
        dict.fromkeys(VERDICTS, True),
        {},
        {CAUGHT_UP: False, FRESH: False},
        {},
    ]
    (record,) = harness.instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(LANDING, FRESH), limit=1)
    assert record.status is AssetCheckExecutionRecordStatus.FAILED


def test_a_run_evaluates_the_same_checks(harness: Harness) -> None:
    head = land_slots(harness.settings, SlotRange(0, 5))
    holes = [msgspec.structs.replace(head.ranges[0], segments=[]), *head.ranges[1:]]
    LakeResource.of(harness.settings).open().store.put(landing.HEAD, msgspec.json.encode(msgspec.structs.replace(head, ranges=holes)))
    job = dg.define_asset_job("checks", dg.AssetSelection.checks_for_assets(LANDING))
    definitions = dg.Definitions.merge(harness.definitions, dg.Definitions(jobs=[job]))

    result = definitions.resolve_job_def("checks").execute_in_process(instance=harness.instance)

    assert {each.check_name: each.passed for each in result.get_asset_check_evaluations()} == {
        CONTINUOUS: False,
        CAUGHT_UP: True,
        FRESH: True,
        FINAL: True,
    }


# Automation after it


def test_a_sealed_range_is_made_from_the_landing_with_its_tables_and_no_other(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Source, "open", None)
    harness.tick()
    head = land_slots(harness.settings, SlotRange(0, 5))
    cursor = tick(harness).cursor

    assert harness.tick() == {(RAW, FIRST)} | every_table_of(FIRST)
    assert harness.run("ingest_range", FIRST)

    assert [harness.tick(), harness.tick()] == [set(), set()]
    assert reported(tick(harness, cursor)) == []
    lake = LakeResource.of(harness.settings).open()
    assert lake.partitions(RAW_BLOCKS)[FIRST].digest == head.ranges[0].digest
    assert Landing(lake, harness.settings.grid).hand_over() == [FIRST]


def test_the_landing_takes_the_place_of_the_source_only_for_what_it_sealed(harness: Harness) -> None:
    land_slots(harness.settings, SlotRange(0, 5))

    assert harness.run("ingest_range", FIRST)
    assert harness.run("ingest_range", SECOND)

    assert [origin(harness, key) for key in (FIRST, SECOND)] == ["landing", "embedded"]


def origin(harness: Harness, key: str) -> object:
    (record,) = harness.instance.fetch_materializations(dg.AssetRecordsFilter(RAW, asset_partitions=[key]), limit=1).records
    return record.asset_materialization.metadata["source"].value


def test_the_same_digest_again_is_not_followed(harness: Harness) -> None:
    land_slots(harness.settings, SlotRange(0, 3))
    (event,) = sealed(tick(harness))
    harness.tick()
    assert harness.run("ingest_range", FIRST)
    harness.tick()
    harness.instance.report_runless_asset_event(event)

    assert [harness.tick(), harness.tick()] == [set(), set()]


def test_two_ranges_sealed_at_once_are_both_made(harness: Harness) -> None:
    harness.tick()
    land_slots(harness.settings, SlotRange(0, 7))
    tick(harness)

    assert {key for _, key in harness.tick()} == {FIRST, SECOND}


def test_history_that_was_never_landed_is_neither_asked_for_nor_held_up(harness: Harness) -> None:
    harness.tick()
    land_slots(harness.settings, SlotRange(4, 7))
    tick(harness)
    assert {key for _, key in harness.tick()} == {SECOND}
    assert harness.run("ingest_range", SECOND)

    assert harness.run("ingest_range", FIRST, [RAW])
    assert harness.tick() == every_table_of(FIRST)


def test_a_sealed_range_that_fails_is_asked_for_twice_and_then_listed(harness: Harness) -> None:
    harness.tick()
    land_slots(harness.settings, SlotRange(0, 3))
    tick(harness)
    assert {key for _, key in harness.tick()} == {FIRST}
    lake = LakeResource.of(harness.settings).open()
    head = read_head(lake)
    assert head is not None
    lake.store.delete([path for _, path in head.files(RAW_BLOCKS)])

    assert not harness.run("ingest_range", FIRST)
    assert [harness.tick(), harness.tick()] == [set(), set()]
    (request,) = stale(harness).run_requests
    assert (request.partition_key, request.job_name) == (FIRST, "ingest_range")
    assert not harness.run("ingest_range", FIRST, tags={"dagster/run_key": request.run_key})

    given_up = stale(harness)
    assert (given_up.run_requests, given_up.skip_message) == ([], f"failed twice and not asked for again: {FIRST} solana/raw_blocks")
    assert [harness.tick(), harness.tick()] == [set(), set()]


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every change were ten minutes old for the sensor that finds what automation lost."""
    monkeypatch.setattr(stale_ranges, "AFTER_S", 0)


def stale(harness: Harness) -> dg.SensorExecutionData:
    context = dg.build_sensor_context(instance=harness.instance, repository_def=harness.definitions.get_repository_def())
    return harness.definitions.resolve_sensor_def("stale_ranges").evaluate_tick(context)


def test_a_range_reported_before_automation_first_ticked_is_found(harness: Harness) -> None:
    land_slots(harness.settings, SlotRange(0, 3))
    tick(harness)

    assert [harness.tick(), harness.tick()] == [set(), set()]
    assert [(each.partition_key, each.job_name) for each in stale(harness).run_requests] == [(FIRST, "ingest_range")]


def test_the_cursor_is_a_versioned_json_object(harness: Harness) -> None:
    head = land_slots(harness.settings, SlotRange(0, 3))

    assert msgspec.json.decode(tick(harness).cursor or "") == {
        "reported": {FIRST: head.ranges[0].digest},
        "passed": dict.fromkeys(VERDICTS, True),
        "format": FORMAT,
    }
