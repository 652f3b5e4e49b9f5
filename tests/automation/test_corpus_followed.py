"""Documents and summaries follow their tables: by real ticks, and by the sensor that finds what automation lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from blyan.corpus.activity import READ
from blyan.schemas import INSTRUCTIONS, TEXTS, TRANSACTIONS
from blyan.settings import load_settings
from blyan.solana.slots import SlotRange
from blyan.solana.sources import RawRecord
from blyan_assets.checks import asset_key
from blyan_sensors import stale_ranges
from blyan_sensors.stale_ranges import AT_ONCE
from resources.lake import LakeResource
from tests.automation.test_conditions import FIRST, QUIET, RANGE, RAW, SECOND, TABLES, Harness, Source
from tests.automation.test_landing_followed import tick as landing_ticks
from tests.automation.test_stale_ranges import evaluated
from tests.landed import land_slots

TEXT = frozenset(asset_key(table) for table in TEXTS)
EVERYTHING = RANGE | TEXT

Asked = set[tuple[dg.AssetKey, str]]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    settings = load_settings(
        lake=str(tmp_path / "lake"),
        split_key_file=str(tmp_path / "key"),
        horizon_slot=12,
        slots_per_range=4,
        embedded_transactions_per_slot=2,
        corpus_samples_per_family=1,
    )
    with dg.DagsterInstance.ephemeral() as instance:
        yield Harness(settings, instance)


def text_of(key: str) -> Asked:
    return {(asset, key) for asset in TEXT}


def run_as_asked(harness: Harness, asked: Asked) -> dg.ExecuteInProcessResult:
    """One run of all that was asked for, as the daemon makes it."""
    (partition,) = {key for _, key in asked}
    job = dg.define_asset_job("asked", dg.AssetSelection.assets(*(asset for asset, _ in asked)))
    made = dg.Definitions.merge(harness.definitions, dg.Definitions(jobs=[job])).resolve_job_def("asked")
    return made.execute_in_process(instance=harness.instance, partition_key=partition, run_config=QUIET, raise_on_error=False)


def nonsense(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source gives balances from now on that conserve nothing."""
    read = type(harness.source).read

    def wrong(source: Source, slots: SlotRange) -> Iterator[RawRecord]:
        for record in read(source, slots):
            payload = record.payload.replace(b'"postBalances":[', b'"postBalances":[7') if record.payload else b""
            yield replace(record, payload=payload)

    monkeypatch.setattr(type(harness.source), "read", wrong)


def test_a_sealed_range_becomes_tables_and_text_in_one_run(harness: Harness) -> None:
    harness.tick()
    land_slots(harness.settings, SlotRange(0, 5))
    landing_ticks(harness)

    asked = harness.tick(EVERYTHING)
    assert asked == {(asset, FIRST) for asset in EVERYTHING}
    assert run_as_asked(harness, asked).success
    assert [harness.tick(EVERYTHING), harness.tick(EVERYTHING)] == [set(), set()]
    lake = LakeResource.of(harness.settings).open()
    assert all(FIRST in lake.partitions(table) for table in TEXTS)


def test_tables_that_were_made_without_text_are_followed_by_it_and_by_no_other_range(harness: Harness) -> None:
    harness.tick()
    assert harness.run("ingest_range", FIRST)

    assert harness.tick(EVERYTHING) == text_of(FIRST)
    assert harness.run("render_range", FIRST)
    assert [harness.tick(EVERYTHING), harness.tick(EVERYTHING)] == [set(), set()]
    assert harness.run("ingest_range", FIRST)  # the same content again
    assert harness.tick(EVERYTHING) == set()


def test_text_follows_tables_that_changed_once(harness: Harness) -> None:
    harness.source.unknown = {2}
    for key in (FIRST, SECOND):
        harness.run("ingest_range", key)
        assert harness.run("render_range", key)
    harness.tick()
    harness.source.unknown = set()
    assert harness.run("ingest_range", FIRST)

    assert harness.tick(EVERYTHING) == text_of(FIRST)
    assert harness.run("render_range", FIRST)
    assert [harness.tick(EVERYTHING), harness.tick(EVERYTHING)] == [set(), set()]


def test_a_run_stops_behind_a_failed_blocking_check(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.tick()
    nonsense(harness, monkeypatch)

    result = run_as_asked(harness, {(asset, FIRST) for asset in EVERYTHING})
    assert not result.success
    assert {event.asset_key for event in result.get_asset_materialization_events()} == {RAW, *TABLES}
    lake = LakeResource.of(harness.settings).open()
    assert not any(lake.exists(table) for table in TEXTS)


@pytest.mark.usefixtures("settled")
def test_nothing_is_made_of_rows_that_broke_a_blocking_check_until_they_are_made_right(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.tick()
    with monkeypatch.context() as wrong:
        nonsense(harness, wrong)
        assert not harness.run("ingest_range", FIRST)
    assert [harness.tick(EVERYTHING), harness.tick(EVERYTHING)] == [set(), set()]
    assert evaluated(harness).run_requests == []

    assert harness.run("ingest_range", FIRST)
    assert harness.tick(EVERYTHING) == text_of(FIRST)


# What automation lost


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every change were ten minutes old."""
    monkeypatch.setattr(stale_ranges, "AFTER_S", 0)


def asked_again(harness: Harness) -> list[tuple[str | None, str | None]]:
    """Of documents and summaries; what follows them: `test_corpus_lost`."""
    return [(request.job_name, request.partition_key) for request in evaluated(harness).run_requests if request.job_name != "build_corpus"]


@pytest.mark.usefixtures("settled")
def test_tables_that_were_never_rendered_are_found_and_each_of_the_four_counts(harness: Harness) -> None:
    for key in (FIRST, SECOND):
        assert harness.run("ingest_range", key)
    assert asked_again(harness) == [("render_range", FIRST), ("render_range", SECOND)]
    for key in (FIRST, SECOND):
        assert harness.run("render_range", key)
    assert asked_again(harness) == []
    for table in READ:
        other = dg.AssetMaterialization(asset_key(table), partition=SECOND, tags={"dagster/data_version": f"other {table.short_name}"})
        harness.instance.report_runless_asset_event(other)
        assert asked_again(harness) == [("render_range", SECOND)], table.name
        assert harness.run("render_range", SECOND)
        assert asked_again(harness) == []


@pytest.mark.usefixtures("settled")
def test_a_range_that_cannot_be_rendered_has_two_runs_and_is_listed(harness: Harness) -> None:
    harness.tick()
    assert harness.run("ingest_range", FIRST)
    assert harness.tick(EVERYTHING) == text_of(FIRST)
    lake = LakeResource.of(harness.settings).open()
    (lost,) = lake.files(INSTRUCTIONS)
    lake.store.delete([f"{INSTRUCTIONS.name}/{lost.name}"])

    assert not harness.run("render_range", FIRST)
    assert harness.tick(EVERYTHING) == set()
    (request,) = evaluated(harness).run_requests
    assert (request.job_name, request.partition_key) == ("render_range", FIRST)
    assert not harness.run("render_range", FIRST, tags={"dagster/run_key": request.run_key or ""})
    given_up = evaluated(harness)
    assert (given_up.run_requests, given_up.skip_message) == ([], f"failed twice and not asked for again: {FIRST} corpus/documents")
    assert TRANSACTIONS.name in {table.name for table in READ}


@pytest.mark.usefixtures("settled")
def test_a_lake_without_text_is_rendered_a_few_ranges_at_a_time(tmp_path: Path) -> None:
    settings = load_settings(lake=str(tmp_path / "lake"), horizon_slot=AT_ONCE + 3, slots_per_range=1, embedded_transactions_per_slot=1)
    with dg.DagsterInstance.ephemeral() as instance:
        harness = Harness(settings, instance)
        version, keys = {"dagster/data_version": "1"}, settings.grid.keys()
        for key in keys:
            for table in READ:
                instance.report_runless_asset_event(dg.AssetMaterialization(asset_key(table), partition=key, tags=version))
        assert asked_again(harness) == [("render_range", key) for key in keys[:AT_ONCE]]
