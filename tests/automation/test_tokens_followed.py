"""Tokens follow documents and the tokenizer by themselves, by real ticks; the tokenizer follows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from blyan.schemas import DOCUMENTS, SUMMARIES, TOKENIZER, TOKENS
from blyan.settings import load_settings
from blyan_assets.build import build_defs
from blyan_assets.checks import asset_key

FIRST, SECOND = "000000000000", "000000000004"
DOCUMENTS_KEY, TOKENS_KEY, TOKENIZER_KEY = (asset_key(table) for table in (DOCUMENTS, TOKENS, TOKENIZER))
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Harness:
    """The graph, Dagster's records, and the cursor that ticks leave behind."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder, self.instance, self.cursor = folder, instance, None
        self.configure()

    def configure(self, **settings: object) -> None:
        made = load_settings(
            lake=str(self.folder / "lake"),
            split_key_file=str(self.folder / "key"),
            horizon_slot=12,
            slots_per_range=4,
            embedded_transactions_per_slot=4,
            **settings,
        )
        self.definitions = build_defs(settings=made, with_marts=False)

    def tick(self) -> set[str]:
        """The ranges whose tokens automation asks for now; the tokenizer it never asks for."""
        result = dg.evaluate_automation_conditions(self.definitions, self.instance, asset_selection=dg.AssetSelection.all(), cursor=self.cursor)
        self.cursor = result.cursor
        assert not result.get_requested_partitions(TOKENIZER_KEY)
        return set(result.get_requested_partitions(TOKENS_KEY))

    def run(self, job: str, key: str | None, *selection: dg.AssetKey) -> None:
        made = self.definitions.resolve_job_def(job)
        assert made.execute_in_process(instance=self.instance, partition_key=key, asset_selection=list(selection) or None, run_config=QUIET).success


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Harness(tmp_path, instance)


def test_tokens_wait_for_a_tokenizer_and_then_follow(harness: Harness) -> None:
    harness.tick()
    for key in (FIRST, SECOND):
        harness.run("ingest_range", key)
        harness.run("build_corpus", key, DOCUMENTS_KEY, asset_key(SUMMARIES))
    assert [harness.tick(), harness.tick()] == [set(), set()], "without a tokenizer there is nothing that could be made"

    harness.run("train_tokenizer", None)
    assert harness.tick() == {FIRST, SECOND}
    for key in (FIRST, SECOND):
        harness.run("build_corpus", key, TOKENS_KEY)
    assert [harness.tick(), harness.tick()] == [set(), set()]

    harness.run("train_tokenizer", None)
    assert harness.tick() == set(), "the same tokenizer again"
    harness.configure(corpus_vote_share=1.0)
    harness.run("build_corpus", FIRST, DOCUMENTS_KEY, asset_key(SUMMARIES))
    assert harness.tick() == {FIRST}
    harness.run("build_corpus", FIRST, TOKENS_KEY)
    assert harness.tick() == set()

    harness.run("train_tokenizer", None)
    assert harness.tick() == {FIRST, SECOND}, "another tokenizer is for every range"


def test_a_whole_corpus_leaves_nothing_to_follow(harness: Harness) -> None:
    harness.tick()
    for key in (FIRST, SECOND):
        harness.run("ingest_range", key)
        harness.run("build_corpus", key, DOCUMENTS_KEY, asset_key(SUMMARIES), TOKENIZER_KEY, TOKENS_KEY)
        assert [harness.tick(), harness.tick()] == [set(), set()]
