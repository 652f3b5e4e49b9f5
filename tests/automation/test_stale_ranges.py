"""The sensor that finds what automation lost: its decision alone, then evaluated on real records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from blyan.schemas import COMPLETENESS, DOCUMENTS, EMBEDDINGS, SAMPLES, TOKENIZER, TOKENS, TRANSACTIONS
from blyan.settings import load_settings
from blyan.solana.slots import SlotRange
from blyan.solana.sources import RawRecord
from blyan_assets.checks import LANDING, asset_key
from blyan_assets.search import SEARCH_INDEX
from blyan_sensors import stale_ranges
from blyan_sensors.cursors import read_cursor
from blyan_sensors.stale_ranges import FORMAT, LINKS, OVERLAP, TRIES, Cursor, Request, sort_out, stale, to_examine
from resources.lake import LakeResource
from tests.automation.test_conditions import FIRST, RAW, SECOND, Harness, Source, every_table_of
from tests.automation.test_landing_followed import tick
from tests.landed import land_slots

TABLE, TEXT, FEES = asset_key(COMPLETENESS), asset_key(DOCUMENTS), asset_key(TRANSACTIONS)
UPSTREAM = {LANDING: set(), RAW: {LANDING}, TABLE: {RAW, LANDING}, TEXT: {FEES, TABLE, RAW, LANDING}}
UPSTREAM |= {asset_key(table): UPSTREAM[TEXT] | {TEXT} for table in (EMBEDDINGS, SAMPLES, TOKENS)}


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


def test_a_range_is_stale_where_it_was_made_from_another_version_or_not_at_all() -> None:
    assert stale({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "1"}) == {"b": "2", "c": "3"}


def test_what_is_in_flight_is_left_alone_and_what_failed_twice_is_listed() -> None:
    wanted = [Request(key, TABLE, RAW, "1", failed) for key, failed in (("c", TRIES), ("b", 0), ("a", TRIES - 1))]

    assert sort_out(wanted, in_flight={"b"}, upstream=UPSTREAM.__getitem__) == ([wanted[2]], [wanted[0]])


def test_what_hangs_on_a_stale_asset_waits_for_it_and_what_does_not_is_asked_for_beside_it() -> None:
    whole, tables = Request("a", RAW, LANDING, "2"), Request("a", TABLE, RAW, "1")
    text, vectors, tokens = (
        Request("a", asset_key(table), parent, "3") for table, parent in ((DOCUMENTS, TABLE), (EMBEDDINGS, TEXT), (TOKENS, TEXT))
    )

    def asked(*wanted: Request) -> tuple[list[Request], list[Request]]:
        return sort_out(wanted, in_flight=(), upstream=UPSTREAM.__getitem__)

    assert asked(tokens, vectors, text, tables, whole) == ([whole], [])
    assert asked(vectors, text, tables) == ([tables], [])
    assert asked(vectors, tokens) == ([vectors, tokens], [])
    failed = vectors._replace(failed=TRIES)
    assert asked(failed, tokens) == ([tokens], [failed]), "one that fails holds up only what hangs on it"
    assert asked(vectors, text._replace(failed=TRIES)) == ([], [text._replace(failed=TRIES)])
    assert asked(vectors, vectors._replace(version="4")) == ([vectors], [])


def test_each_event_is_looked_at_once_and_what_was_stale_again() -> None:
    far = OVERLAP + 100

    def look(examined: int = -1, stale: tuple[str, ...] = (), limit: int = 10) -> tuple[list[str], int]:
        return to_examine(
            {"a": 5, "b": far + 2}, [{"a": 1, "b": far, "c": far + 1, "d": 7}, {"a": 2, "b": 3, "c": 4}], examined=examined, stale=stale, limit=limit
        )

    assert look() == (["a", "c", "b"], far + 2), "what lacks a parent cannot be made"
    assert look(limit=2) == (["a", "c"], far + 1)
    assert look(examined=far + 1) == (["c", "b"], far + 2), "the last events are looked at once more"
    assert look(examined=far + 1, stale=("a", "d", "gone")) == (["a", "c", "b"], far + 2)
    assert look(examined=2 * far) == ([], 2 * far)


@pytest.mark.parametrize("text", [None, "", "{", '{"examined": 5}', f'{{"format": {FORMAT + 1}}}'])
def test_a_cursor_that_cannot_be_used_is_an_empty_one(text: str | None) -> None:
    assert read_cursor(text, Cursor) == Cursor()


def test_every_range_of_the_graph_that_is_made_of_others_is_found(harness: Harness) -> None:
    """What has ranges and parents has a link, or is made by the step of one that has."""
    graph = harness.definitions.resolve_asset_graph()
    followed = {key for key in graph.materializable_asset_keys if graph.get(key).is_partitioned and graph.get(key).parent_keys}
    linked = {key for link in LINKS for key in graph.get(link.child).execution_set_asset_keys | {link.child}}
    assert followed == linked
    for link in LINKS:
        assert link.child in harness.definitions.get_repository_def().get_job(link.job).asset_layer.selected_asset_keys


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every change were ten minutes old."""
    monkeypatch.setattr(stale_ranges, "AFTER_S", 0)


def requests(harness: Harness) -> list[tuple[str | None, str | None]]:
    """Of raw blocks and tables; those of the corpus: `test_corpus_followed`."""
    return [(request.partition_key, request.run_key) for request in evaluated(harness).run_requests if request.job_name != "render_range"]


def evaluated(harness: Harness, cursor: str | None = None) -> dg.SensorExecutionData:
    sensor = harness.definitions.resolve_sensor_def("stale_ranges")
    context = dg.build_sensor_context(instance=harness.instance, repository_def=harness.definitions.get_repository_def(), cursor=cursor)
    return sensor.evaluate_tick(context)


@pytest.mark.usefixtures("settled")
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


@pytest.mark.usefixtures("settled")
def test_raw_blocks_whose_tables_were_never_made_are_asked_for(harness: Harness) -> None:
    assert harness.run("ingest_range", FIRST, [RAW])

    assert [partition for partition, _ in requests(harness)] == [FIRST]


def test_a_change_is_left_to_automation_first(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harness.run("ingest_range", FIRST, [RAW])

    assert requests(harness) == []
    monkeypatch.setattr(stale_ranges, "AFTER_S", 0)
    assert [partition for partition, _ in requests(harness)] == [FIRST]


def break_tables(harness: Harness) -> str:
    """Make one of the tables unreadable, so that normalising fails for good; the file to delete to mend it."""
    name = f"{COMPLETENESS.name}/_delta_log/00000000000000000000.json"
    LakeResource.of(harness.settings).open().store.put(name, b"{")
    return name


def follow(harness: Harness) -> int:
    """Let automation tick and the sensor look, and run whatever they ask for, until they ask for nothing; how many runs that were."""
    runs = 0
    for _ in range(8):
        asked = harness.tick()
        if asked:
            assert asked in (every_table_of(FIRST), every_table_of(FIRST) | {(RAW, FIRST)})
            harness.run("ingest_range" if (RAW, FIRST) in asked else "normalise_range", FIRST)
        data = evaluated(harness)
        for request in data.run_requests:
            harness.run(request.job_name or "", request.partition_key or "", tags={"dagster/run_key": request.run_key or ""})
        runs += bool(asked) + len(data.run_requests)
    return runs


@pytest.mark.usefixtures("settled")
def test_a_range_whose_tables_cannot_be_made_has_two_runs_and_is_listed_until_its_raw_blocks_change(harness: Harness) -> None:
    harness.tick()
    harness.source.unknown = {2}
    broken = break_tables(harness)
    assert harness.run("ingest_range", FIRST, [RAW])

    assert follow(harness) == 2
    assert evaluated(harness).skip_message == f"failed twice and not asked for again: {FIRST} solana/completeness"

    harness.source.unknown = set()
    assert harness.run("ingest_range", FIRST, [RAW])
    assert follow(harness) == 2

    LakeResource.of(harness.settings).open().store.delete([broken])
    assert follow(harness) == 0  # nobody asks a third time
    assert harness.run("normalise_range", FIRST)
    assert [request.job_name for request in evaluated(harness).run_requests] == ["render_range"]
    assert harness.run("render_range", FIRST)
    assert {request.job_name for request in evaluated(harness).run_requests} == {"build_corpus"}
    assert harness.run("build_corpus", FIRST, [*(asset_key(table) for table in (EMBEDDINGS, SAMPLES, TOKENIZER, TOKENS)), SEARCH_INDEX])
    assert evaluated(harness).skip_message == "every range was made from what stands"


@pytest.mark.usefixtures("settled")
def test_the_run_that_landed_the_raw_blocks_and_failed_after_that_is_one_of_the_two(harness: Harness) -> None:
    harness.tick()
    break_tables(harness)
    land_slots(harness.settings, SlotRange(0, 3))
    tick(harness)

    assert follow(harness) == 2
    assert len(harness.instance.get_run_records()) == 2


@pytest.mark.usefixtures("settled")
def test_rows_that_break_a_blocking_check_are_made_once_and_stand_as_failed(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    read = type(harness.source).read

    def nonsense(source: Source, slots: SlotRange) -> Iterator[RawRecord]:
        for record in read(source, slots):
            payload = record.payload.replace(b'"lamports":', b'"lamports":1') if record.payload else b""
            yield replace(record, payload=payload)

    monkeypatch.setattr(type(harness.source), "read", nonsense)
    harness.tick()

    assert not harness.run("ingest_range", FIRST)
    # Made from what stands: another run would make the same rows, so there is none but that of the text, which says nothing of rewards.
    assert [request.job_name for request in evaluated(harness).run_requests] == ["render_range"]
    # After the text its vectors, and no samples, which ask about rewards too.
    assert follow(harness) == 2
