"""Drift found, repaired and found gone: the decision alone, then inventory, sensor and runs on real records and a real lake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from blyan.corpus.search_index import POINTER, ranges_held
from blyan.errors import SourceUnreachableError
from blyan.lake import Lake, Partition
from blyan.schemas import BLOCKS, COMPLETENESS, DOCUMENTS, EMBEDDINGS, RANGE_COLUMN, RAW_BLOCKS, SAMPLES, SUMMARIES, TOKENS, Table
from blyan.settings import Settings, load_settings
from blyan.solana.audit import AGAIN, NEWEST, ROTATING, to_audit
from blyan.solana.inventory import (
    CHAIN_HAS_ANOTHER,
    CHAIN_HAS_LESS,
    CHAIN_HAS_MORE,
    CORPUS_DRIFTS,
    LOST,
    OTHER_CONTENT,
    SEARCH_INDEX,
    UNRECORDED,
    Inventory,
)
from blyan.solana.repair import FORMAT, Plan, plan_repairs, read_plan
from blyan.solana.slots import Grid, SlotRange
from blyan.solana.sources import SlotState
from blyan_assets.reconciliation import INVENTORY, REPAIRS
from blyan_sensors import repairs
from blyan_sensors.cursors import read_cursor
from resources.lake import LakeResource
from tests.automation.test_conditions import FIRST, QUIET, RAW, Harness

GRID = Grid(0, 400, 10)
KEYS = GRID.keys()


# Which ranges are compared with the chain


def test_the_newest_ranges_are_looked_at_every_day_and_every_other_one_in_turn() -> None:
    days = [to_audit(KEYS, [], day=day) for day in range(5)]

    assert all(set(KEYS[-NEWEST:]) <= set(day) and len(day) == NEWEST + ROTATING for day in days)
    assert {key for day in days for key in day} == set(KEYS)
    assert to_audit(reversed(KEYS), [], day=3) == days[3]


def test_what_was_repaired_is_looked_at_again_and_few_ranges_are_looked_at_once() -> None:
    assert to_audit([], [], day=7) == []
    assert to_audit(KEYS[:2], [], day=7) == KEYS[:2]
    assert len(to_audit(KEYS, KEYS[10:30], day=0)) == NEWEST + ROTATING + AGAIN


# What is repaired


def plan(drift, *, before=None, ran=(), busy=(), unseen=(), unreadable=(), limit=8, raw=None, recorded=None) -> Plan:
    held = {key: Partition(1, 1, digest, 1, 1) for key, digest in (raw or {}).items()}
    return plan_repairs(
        drift,
        Inventory(GRID, {RAW_BLOCKS.name: held, COMPLETENESS.name: {}}),
        recorded=recorded or {},
        before=before or Plan(),
        ran=ran,
        busy=busy,
        unseen=lambda key: key in unseen,
        readable=lambda key: key not in unreadable,
        limit=limit,
    )


A, B, C = KEYS[:3]


def test_tables_are_made_from_their_raw_blocks_where_those_agree_and_read_again_where_not() -> None:
    agree = {"raw": {A: "1", B: "1"}, "recorded": {A: "1", B: "2"}}

    assert plan({LOST: [A, B, C]}, **agree) == Plan(ingest=[B, C], normalise=[A])
    assert plan({CHAIN_HAS_MORE: [A]}, **agree) == Plan(ingest=[A])


TEXT, VECTORS, TOKENS_DRIFT = (CORPUS_DRIFTS[table.name] for table in (SUMMARIES, EMBEDDINGS, TOKENS))
BOTH = [DOCUMENTS.name, SUMMARIES.name]


def test_a_corpus_alone_is_made_again_and_waits_for_its_tables_where_they_drift_too() -> None:
    assert plan({TEXT: [A, B], LOST: [B]}) == Plan(ingest=[B], corpus={A: BOTH})
    assert plan({TEXT: [A]}, before=Plan(corpus={A: BOTH}), ran=[A]) == Plan(failed=[A])
    assert plan({TEXT: [A]}, before=Plan(ingest=[A]), ran=[A]) == Plan(corpus={A: BOTH})
    assert plan({TEXT: [A], LOST: [A]}, before=Plan(ingest=[A]), ran=[A]) == Plan(failed=[A])


def test_only_the_tables_of_the_corpus_that_drifted_are_made_again() -> None:
    assert plan({VECTORS: [A], TOKENS_DRIFT: [A, B]}) == Plan(corpus={A: [EMBEDDINGS.name, TOKENS.name], B: [TOKENS.name]})
    assert plan({VECTORS: [A], TEXT: [A]}) == Plan(corpus={A: [*BOTH, EMBEDDINGS.name]})


def test_no_more_than_the_bound_are_repaired_and_the_others_are_named() -> None:
    assert plan({LOST: KEYS[:5]}, limit=2) == Plan(ingest=[A, B], later=KEYS[2:5])


def test_a_range_that_drifts_after_its_repair_is_listed_until_it_agrees() -> None:
    asked = Plan(ingest=[A, B])
    once = plan({LOST: [A]}, before=asked, ran=[A, B])

    assert once == Plan(failed=[A])
    assert plan({LOST: [A]}, before=once) == once
    assert plan({}, before=once) == Plan()


def test_a_range_that_was_asked_for_and_never_ran_is_asked_for_again() -> None:
    assert plan({LOST: [A]}, before=Plan(ingest=[A])) == Plan(ingest=[A])


def test_a_repair_is_remembered_while_nothing_can_be_said_of_the_range() -> None:
    assert plan({}, before=Plan(failed=[A, B]), busy=[A], unseen=[B]) == Plan(failed=[A, B])


def test_what_the_source_cannot_give_again_is_not_asked_for_and_stands_before_no_other() -> None:
    first = plan({LOST: [A, B]}, unreadable=[A], limit=1)

    assert first == Plan(unreadable=[A], later=[B])
    assert plan({LOST: [A, B]}, before=first, unreadable=[A], limit=1) == Plan(ingest=[B], later=[A])


def test_a_range_that_is_not_on_the_grid_cannot_be_repaired() -> None:
    assert plan({UNRECORDED: ["000000000005"]}) == Plan()


@pytest.mark.parametrize("value", [None, "x", {"ingest": 5}, {"ingest": [A], "format": FORMAT + 1}])
def test_a_plan_that_cannot_be_used_is_an_empty_one(value: object) -> None:
    assert read_plan(value) == Plan()


@pytest.mark.parametrize("text", [None, "", "{", '{"inventory": "x"}', f'{{"inventory": 5, "format": {repairs.FORMAT + 1}}}'])
def test_a_cursor_that_cannot_be_used_is_an_empty_one(text: str | None) -> None:
    assert read_cursor(text, repairs.Cursor) == repairs.Cursor()


def test_a_plan_is_carried_out_once() -> None:
    made = Plan(ingest=[A], normalise=[B], later=[C], corpus={KEYS[3]: BOTH})

    assert repairs.due(made, 5, repairs.Cursor(4)) == [("ingest_range", A, []), ("normalise_range", B, []), ("build_corpus", KEYS[3], BOTH)]
    assert repairs.due(made, 5, repairs.Cursor(5)) == []


# On real records


class Keeper(Harness):
    """The graph with its inventory, and the sensor with the cursor it leaves behind."""

    position: str | None = None

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        super().__init__(settings, instance)
        job = dg.define_asset_job("reconcile", dg.AssetSelection.assets(INVENTORY))
        self.definitions = dg.Definitions.merge(self.definitions, dg.Definitions(jobs=[job]))

    @property
    def lake(self) -> Lake:
        return LakeResource.of(self.settings).open()

    def inventory(self) -> tuple[dict[str, object], bool]:
        """Figures of a new inventory, and whether its check passed."""
        result = self.definitions.resolve_job_def("reconcile").execute_in_process(instance=self.instance, run_config=QUIET)
        (event,) = result.get_asset_materialization_events()
        (check,) = result.get_asset_check_evaluations()
        return {name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()}, check.passed

    def requests(self) -> list[dg.RunRequest]:
        """What the sensor asks for now."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.position, repository_def=self.definitions.get_repository_def())
        data = self.definitions.resolve_sensor_def("repairs").evaluate_tick(context)
        self.position = data.cursor
        return data.run_requests

    def repair(self) -> list[tuple[str | None, str | None, bool]]:
        """Carry out what the sensor asks for: the job, the range, and whether it succeeded."""
        return [
            (
                request.job_name,
                request.partition_key,
                self.run(
                    request.job_name, request.partition_key, list(request.asset_selection or []) or None, tags={"dagster/run_key": request.run_key}
                ),
            )
            for request in self.requests()
        ]


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    settings = load_settings(
        lake=str(tmp_path / "lake"),
        split_key_file=str(tmp_path / "key"),
        horizon_slot=24,
        slots_per_range=4,
        embedded_transactions_per_slot=1,
        corpus_samples_per_family=1,
    )
    with dg.DagsterInstance.ephemeral() as instance:
        made = Keeper(settings, instance)
        assert made.run("ingest_range", FIRST)
        yield made


def test_drift_of_every_kind_is_found_and_repaired_and_then_gone(keeper: Keeper) -> None:
    figures, passed = keeper.inventory()
    assert (figures["drift"], figures["ranges compared with the chain"], figures["the chain"], passed) == (0, 1, "compared", True)
    assert keeper.requests() == []

    lake, (no_table, no_raw, changed, recorded, more, less) = keeper.lake, keeper.settings.grid.keys()
    assert no_table == FIRST
    versions = {}
    keeper.source.skipped = {19}  # the last slot of its range, so that no block of it links to the one left out
    for key in (changed, recorded, more, less, no_raw):
        versions[key] = lake.version(RAW_BLOCKS)
        assert keeper.run("ingest_range", key)
    keeper.source.skipped = {23}
    before = {table: lake.partitions(table) for table in (RAW_BLOCKS, BLOCKS)}
    lake.restore(RAW_BLOCKS, versions[no_raw])
    _delete(lake, BLOCKS, no_table)
    lake.write_partition(BLOCKS, changed, [pa.Table.from_batches(list(lake.read(BLOCKS, key=changed))).slice(1)])
    keeper.instance.report_runless_asset_event(dg.AssetMaterialization(RAW, partition=recorded, tags={"dagster/data_version": "of nothing there is"}))

    figures, passed = keeper.inventory()
    named = {kind: figures[kind]["first"] for kind in (LOST, OTHER_CONTENT, CHAIN_HAS_MORE, CHAIN_HAS_LESS)}
    assert named == {LOST: [no_table, no_raw], OTHER_CONTENT: [changed, recorded], CHAIN_HAS_MORE: [more], CHAIN_HAS_LESS: [less]}
    assert not passed
    assert sorted(keeper.repair()) == [
        *(("ingest_range", key, True) for key in (no_raw, recorded, more, less)),
        *(("normalise_range", key, True) for key in (no_table, changed)),
    ]
    for table, of_table in before.items():
        for key in (no_table, no_raw, changed, recorded):
            assert lake.partitions(table)[key].digest == of_table[key].digest
    assert clean(keeper)


def test_documents_that_are_lost_or_others_than_recorded_are_rendered_again(keeper: Keeper) -> None:
    second = keeper.settings.grid.keys()[1]
    assert keeper.run("ingest_range", second)
    assert all(keeper.run("render_range", key) for key in (FIRST, second))
    assert clean(keeper)
    lake = keeper.lake
    before = lake.partitions(DOCUMENTS)
    _delete(lake, DOCUMENTS, FIRST)
    lake.write_partition(DOCUMENTS, second, [pa.Table.from_batches(list(lake.read(DOCUMENTS, key=second))).slice(1)])

    assert keeper.inventory()[0][CORPUS_DRIFTS[DOCUMENTS.name]] == {"ranges": 2, "first": [FIRST, second]}
    assert keeper.repair() == [("build_corpus", FIRST, True), ("build_corpus", second, True)]
    assert {key: part.digest for key, part in lake.partitions(DOCUMENTS).items()} == {key: part.digest for key, part in before.items()}
    assert clean(keeper)


def test_what_is_made_of_texts_and_is_lost_or_other_than_recorded_is_made_again_alone(keeper: Keeper) -> None:
    assert keeper.run("build_corpus", FIRST)
    assert clean(keeper)
    lake, rests = keeper.lake, (EMBEDDINGS, SAMPLES, TOKENS)
    before = {table: lake.partitions(table)[FIRST].digest for table in rests}
    _delete(lake, EMBEDDINGS, FIRST)
    _delete(lake, TOKENS, FIRST)
    lake.store.delete([POINTER])
    lake.write_partition(SAMPLES, FIRST, [pa.Table.from_batches(list(lake.read(SAMPLES, key=FIRST))).slice(1)])

    found = keeper.inventory()[0]
    names = {*(table.name for table in rests), SEARCH_INDEX}
    assert names == {name for name, kind in CORPUS_DRIFTS.items() if kind in found}
    (request,) = keeper.requests()
    assert {key.to_user_string() for key in request.asset_selection or ()} == names
    assert keeper.run("build_corpus", FIRST, list(request.asset_selection or ()), tags={"dagster/run_key": request.run_key or ""})
    assert {table: lake.partitions(table)[FIRST].digest for table in rests} == before
    assert set(ranges_held(lake) or ()) == {FIRST}
    assert clean(keeper)


def test_a_damaged_search_index_is_told_and_the_rest_is_compared_all_the_same(keeper: Keeper) -> None:
    assert keeper.run("build_corpus", FIRST)
    keeper.lake.store.put(POINTER, b"{")
    _delete(keeper.lake, SAMPLES, FIRST)

    figures, passed = keeper.inventory()
    assert (figures["drift"], passed) == (1, False)
    assert CORPUS_DRIFTS[SAMPLES.name] in figures


def _delete(lake: Lake, table: Table, key: str) -> None:
    DeltaTable(lake.store.uri(table.name)).delete(f"{RANGE_COLUMN} = '{key}'")


def clean(keeper: Keeper) -> bool:
    figures, passed = keeper.inventory()
    return figures["drift"] == 0 and passed and keeper.requests() == []


def test_another_block_than_the_chains_is_found_and_repaired_once(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    read = type(keeper.source).read

    def another(source, slots: SlotRange):
        for record in read(source, slots):
            # The block says its own hash, so reading it again changes nothing: the repair does not help.
            hashed = {name: getattr(record, name) for name in record.__slots__} | {"block_hash": "of another chain"}
            yield type(record)(**hashed) if record.state is SlotState.PRESENT else record

    monkeypatch.setattr(type(keeper.source), "read", another)

    assert keeper.inventory()[0][CHAIN_HAS_ANOTHER] == {"ranges": 1, "first": [FIRST]}
    assert [key for _, key, _ in keeper.repair()] == [FIRST]
    for _ in range(2):
        figures, passed = keeper.inventory()
        assert (figures[REPAIRS]["failed"], passed, keeper.requests()) == ([FIRST], False, [])


def test_a_repair_that_fails_is_not_asked_for_again(keeper: Keeper) -> None:
    keeper.lake.restore(BLOCKS, 0)
    files = [f"{RAW_BLOCKS.name}/{file.name}" for file in keeper.lake.files(RAW_BLOCKS)]
    keeper.inventory()
    kept = {name: keeper.lake.store.get(name) for name in files}
    keeper.lake.store.delete(files)
    assert keeper.repair() == [("normalise_range", FIRST, False)]

    figures, passed = keeper.inventory()
    assert (figures[REPAIRS]["failed"], passed, keeper.repair()) == ([FIRST], False, [])

    # What a person then sets right is forgotten, and may be repaired another time.
    for name, content in kept.items():
        keeper.lake.store.put(name, content)
    assert keeper.run("normalise_range", FIRST)
    assert clean(keeper)
    keeper.lake.restore(BLOCKS, 0)
    keeper.inventory()
    (request,) = keeper.requests()
    assert request.job_name == "normalise_range"

    # A lost cursor asks again, by the key that Dagster makes no second run of.
    assert keeper.requests() == []
    keeper.position = None
    (again,) = keeper.requests()
    assert again.run_key == request.run_key


def test_a_range_that_the_source_no_longer_has_is_left_as_it_is(keeper: Keeper) -> None:
    keeper.source.unknown = {1}
    keeper.instance.report_runless_asset_event(dg.AssetMaterialization(RAW, partition=FIRST, tags={"dagster/data_version": "another"}))

    figures, _ = keeper.inventory()
    assert (figures[REPAIRS]["unreadable"], figures["slots that the source no longer tells"], keeper.requests()) == ([FIRST], 1, [])


def test_a_source_that_does_not_answer_leaves_the_rest_of_the_inventory(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_source: object, _slots: SlotRange) -> list[SlotState]:
        raise SourceUnreachableError("no answer", where="the node", remedy="wait")

    monkeypatch.setattr(type(keeper.source), "states", silent)
    keeper.lake.restore(BLOCKS, 0)

    figures, passed = keeper.inventory()
    assert (figures[LOST], passed) == ({"ranges": 1, "first": [FIRST]}, False)
    keeper.lake.restore(BLOCKS, 1)
    figures, passed = keeper.inventory()
    assert (figures["drift"], passed) == (0, False)
    assert "no answer" in figures["the chain"]
