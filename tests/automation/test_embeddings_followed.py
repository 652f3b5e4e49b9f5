"""Embeddings follow the content of documents and summaries, by real ticks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from blyan.settings import load_settings
from blyan_assets.build import build_defs
from tests.assets.conftest import QUIET, Small

KEY = dg.AssetKey(["corpus", "embeddings"])
TEXTS = [dg.AssetKey(["corpus", name]) for name in ("documents", "summaries")]
FIRST = "000000000000"


def test_a_range_is_embedded_once_for_each_change_of_its_texts(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lake": str(tmp_path / "lake"), "horizon_slot": 12, "slots_per_range": 4, "embedded_transactions_per_slot": 4}
    with dg.DagsterInstance.ephemeral() as instance:
        made = definitions(options)
        cursor = None

        def tick() -> set[str]:
            nonlocal cursor
            result = dg.evaluate_automation_conditions(made, instance, asset_selection=dg.AssetSelection.all(), cursor=cursor)
            cursor = result.cursor
            return set(result.get_requested_partitions(KEY))

        def run(job: str, selection: list[dg.AssetKey] | None = None) -> None:
            done = made.resolve_job_def(job).execute_in_process(
                instance=instance, partition_key=FIRST, asset_selection=selection, run_config=QUIET, raise_on_error=False
            )
            assert done.success

        assert tick() == set()
        run("ingest_range")
        run("build_corpus", TEXTS)
        assert tick() == {FIRST}
        run("build_corpus", [KEY])
        assert [tick(), tick()] == [set(), set()]
        run("build_corpus", TEXTS)
        assert tick() == set(), "the same texts again"
        made = definitions({**options, "corpus_vote_share": 1.0})
        run("build_corpus", TEXTS)
        assert tick() == {FIRST}


def definitions(options: dict[str, Any]) -> dg.Definitions:
    return build_defs(settings=load_settings(**options), resources={"embedder": Small()}, with_marts=False)
