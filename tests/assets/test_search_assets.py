"""The asset `corpus/search_index`, run for real on a temporary lake."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import lance
import pytest

from blyan.corpus.search_index import account_of, maintain, open_index, read_pointer
from blyan.lake import Lake
from blyan.query.search import search
from blyan.schemas import DOCUMENTS, EMBEDDINGS
from blyan.settings import Settings
from blyan.solana.slots import SlotRange
from blyan_assets.build import build_defs
from blyan_assets.maintenance import compact_and_vacuum
from blyan_assets.search import CHECKS, SEARCH_INDEX, check_results
from resources.lake import LakeResource
from tests.assets.conftest import QUIET, Run, Small

FIRST, SECOND = SlotRange(0, 7), SlotRange(8, 15)


Index = Callable[[SlotRange], dg.ExecuteInProcessResult]


@pytest.fixture
def index(settings: Settings, instance: dg.DagsterInstance, run: Run, lake: Lake) -> Index:
    """Run the asset for a range, after all that it is made of."""
    small = Small()

    def run_asset(slots: SlotRange) -> dg.ExecuteInProcessResult:
        if slots.key not in lake.partitions(EMBEDDINGS):
            assert run("ingest_range", slots.key).success
            assert run("build_corpus", slots.key, embedder=small).success
        return alone(settings, instance, slots)

    return run_asset


def alone(settings: Settings, instance: dg.DagsterInstance, slots: SlotRange) -> dg.ExecuteInProcessResult:
    job = build_defs(settings=settings, with_marts=False).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, asset_selection=[SEARCH_INDEX], partition_key=slots.key, run_config=QUIET, raise_on_error=False)


def found(lake: Lake) -> list[tuple[str, float]]:
    answer = search(open_index(lake), "failed transfers", embed=lambda text: Small().model.embed([text]))
    return [(hit.row["signature"], hit.score) for hit in answer.hits]


def test_a_range_is_indexed_checked_and_versioned_by_what_it_is_made_from(index: Index, lake: Lake) -> None:
    result = index(FIRST)
    (made,) = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    record = open_index(lake).records[FIRST.key]
    evaluated = {check.check_name: check for check in result.get_asset_check_evaluations()}

    assert result.success
    assert made.tags["dagster/data_version"] == record.made_from
    assert made.metadata["documents"].value == lake.partitions(DOCUMENTS)[FIRST.key].rows
    assert made.metadata["rows"].value == record.rows
    assert evaluated.keys() == CHECKS.keys()
    assert all(check.passed and check.partition == FIRST.key for check in evaluated.values())


def test_running_it_again_writes_nothing_and_another_range_leaves_the_first_alone(index: Index, lake: Lake) -> None:
    index(FIRST)
    before = open_index(lake)
    again = index(FIRST)
    assert open_index(lake).documents.version == before.documents.version
    assert again.get_asset_materialization_events()[0].step_materialization_data.materialization.metadata["content changed"].value is False
    assert index(SECOND).success
    after = open_index(lake)
    assert after.records.keys() == {FIRST.key, SECOND.key}
    assert after.records[FIRST.key] == before.records[FIRST.key]


def test_each_check_fails_on_what_it_is_for(index: Index, lake: Lake) -> None:
    index(FIRST)
    dataset = open_index(lake)
    uri, gists = dataset.documents.uri, dataset.gists.uri

    def failed() -> set[str]:
        return {result.check_name for result in check_results(account_of(lake, FIRST)) if not result.passed}

    assert failed() == set()
    version = lance.dataset(uri).version
    for harm in (
        lambda documents: documents.delete("scope = 'transaction' and tx_index = 0"),
        lambda documents: documents.insert(documents.to_table(filter="scope = 'transaction' and tx_index = 0")),
        lambda documents: documents.update({"text": "'another'"}, where="scope = 'transaction' and tx_index = 0"),
        lambda documents: documents.update({"slot": "slot + 100"}, where="scope = 'transaction' and tx_index = 0"),
    ):
        harm(lance.dataset(uri))
        assert failed() == {"exactly_the_documents"}
        lance.dataset(uri, version=version).restore()
    assert failed() == set()
    lance.dataset(uri).update({"gist": "null"}, where="scope = 'transaction' and tx_index = 0")
    assert failed() == {"every_text_has_a_vector"}
    lance.dataset(uri, version=version).restore()
    lance.dataset(gists).delete("gist < '8'")
    assert failed() == {"every_vector_there"}


def test_a_range_without_embeddings_fails_and_says_what_is_missing(settings: Settings, instance: dg.DagsterInstance) -> None:
    result = alone(settings, instance, FIRST)

    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "MissingObjectError" in str(failure.step_failure_data.error)


def test_the_weekly_upkeep_takes_the_index_along_and_changes_no_answer(index: Index, lake: Lake, settings: Settings) -> None:
    for slots in (FIRST, SECOND):
        index(slots)
    before = found(lake)
    result = compact_and_vacuum.execute_in_process(resources={"lake": LakeResource.of(settings)}, run_config=QUIET)

    assert result.success
    assert open_index(lake).documents.get_fragments()[1:] == []
    assert found(lake) == before != []
    assert read_pointer(lake).current is not None
    assert maintain(Lake(f"{lake.root}/nothing"), retention_hours=1) == []
