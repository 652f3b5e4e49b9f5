"""The asset `corpus/samples`, run for real on a temporary lake."""

from __future__ import annotations

import dagster as dg
import pytest

from blyan.corpus.sample_checks import CHECKS, Finding
from blyan.lake import Lake
from blyan.schemas import DOCUMENTS, SAMPLES, SUMMARIES, TRANSACTIONS
from blyan.settings import Settings
from blyan_assets import samples as samples_module
from blyan_assets.build import build_defs
from blyan_assets.checks import asset_key
from tests.assets.conftest import Run

FIRST = "000000000000"
KEY = asset_key(SAMPLES)


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations() if check.asset_key == KEY}


def materialisation(result: dg.ExecuteInProcessResult) -> dg.AssetMaterialization:
    (event,) = [event for event in result.get_asset_materialization_events() if event.asset_key == KEY]
    return event.step_materialization_data.materialization


def test_a_range_gets_samples_that_are_checked_and_versioned_by_their_content(run: Run, lake: Lake) -> None:
    assert run("ingest_range", FIRST).success
    result = run("build_corpus", FIRST)

    assert result.success
    made = materialisation(result)
    assert made.tags["dagster/data_version"] == lake.partitions(SAMPLES)[FIRST].digest
    assert made.metadata["rows"].value > 70
    assert made.metadata["families"].value > 70
    assert made.metadata["windows"].value == "0-7"
    found = evaluations(result)
    assert found.keys() == {"schema", *CHECKS}
    assert all(check.passed and check.partition == FIRST for check in found.values())
    assert found["reexecutes_to_its_answer"].metadata["samples checked"].value > 60
    assert not materialisation(run("build_corpus", FIRST)).metadata["content changed"].value


def test_a_check_that_fails_is_told_with_what_is_wrong_and_stops_what_follows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("ingest_range", FIRST).success
    findings = [Finding(name, checked=1, violations=int(name == "citations_exist"), examples=["odd"]) for name in CHECKS]
    monkeypatch.setattr(samples_module, "check_samples", lambda lake, slots, rule: findings)

    found = evaluations(run("build_corpus", FIRST))

    assert {name for name, check in found.items() if not check.passed} == {"citations_exist"}
    assert (found["citations_exist"].description, found["citations_exist"].blocking) == ("odd", True)
    assert found["citations_exist"].metadata["violations"].value == 1


def test_samples_follow_the_documents_of_their_range_and_no_other(run: Run, settings: Settings, instance: dg.DagsterInstance) -> None:
    definitions, cursor = build_defs(settings=settings, with_marts=False), None

    def asked() -> set[str]:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(definitions, instance, asset_selection=dg.AssetSelection.assets(KEY), cursor=cursor)
        cursor = result.cursor
        return set(result.get_requested_partitions(KEY))

    def make(*keys: dg.AssetKey) -> None:
        job = definitions.resolve_job_def("build_corpus")
        assert job.execute_in_process(instance=instance, partition_key=FIRST, asset_selection=list(keys)).success

    corpus = [asset_key(DOCUMENTS), asset_key(SUMMARIES)]
    assert asked() == set()
    assert run("ingest_range", FIRST).success
    assert asked() == set(), "there is nothing to ask about before there are documents"
    make(*corpus)
    assert asked() == {FIRST}
    make(KEY)
    assert asked() == set()
    make(*corpus)
    assert asked() == set(), "the same documents again ask for nothing"


def test_samples_depend_on_every_table_they_ask_about(settings: Settings) -> None:
    node = build_defs(settings=settings, with_marts=False).resolve_asset_graph().get(KEY)

    assert {asset_key(TRANSACTIONS), asset_key(DOCUMENTS), asset_key(SUMMARIES)} < node.parent_keys
    assert len(node.parent_keys) == 9
