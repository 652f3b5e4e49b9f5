"""The assets `corpus/tokenizer` and `corpus/tokens`, run for real on a temporary lake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from blyan.corpus.token_stream import TokenStream
from blyan.corpus.tokenizer_versions import version_of, versions
from blyan.corpus.tokens import shards_of, write_tokens
from blyan.lake import Lake
from blyan.schemas import DOCUMENTS, SUMMARIES, TOKENIZER, TOKENS
from blyan.settings import Settings
from blyan.solana.slots import SlotRange
from blyan_assets.build import build_defs
from blyan_assets.checks import asset_key
from blyan_assets.tokens import CHECKS
from tests.assets.conftest import QUIET, Run

FIRST, SECOND = "000000000000", "000000000008"
TEXT = [asset_key(table) for table in (DOCUMENTS, SUMMARIES)]
MADE = [*TEXT, asset_key(TOKENIZER), asset_key(TOKENS)]


@pytest.fixture
def build(settings: Settings, instance: dg.DagsterInstance) -> Any:
    """Run `build_corpus` for a range, without its embeddings."""
    job = build_defs(settings=settings, with_marts=False).resolve_job_def("build_corpus")

    def run_job(key: str, selection: list[dg.AssetKey] = MADE) -> dg.ExecuteInProcessResult:
        return job.execute_in_process(instance=instance, partition_key=key, asset_selection=selection, run_config=QUIET, raise_on_error=False)

    return run_job


@pytest.fixture
def train(settings: Settings, instance: dg.DagsterInstance) -> Any:
    """Run the job that trains, which is of no range."""
    job = build_defs(settings=settings, with_marts=False).resolve_job_def("train_tokenizer")
    return lambda: job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)


def made(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    events = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.path[-1]: event for event in events}


def value(event: Any, name: str) -> Any:
    return event.metadata[name].value


def test_the_corpus_of_a_first_range_trains_a_tokenizer_and_makes_its_tokens(
    run: Run, build: Any, train: Any, lake: Lake, settings: Settings
) -> None:
    assert run("ingest_range", FIRST).success
    result = build(FIRST)
    assert result.success
    tokenizer, tokens = made(result)["tokenizer"], made(result)["tokens"]
    version = version_of(lake)
    assert tokenizer.tags["dagster/data_version"] == f"1.0-{version.tokenizer_sha256}"
    assert (tokenizer.partition, value(tokenizer, "new"), value(tokenizer, "version")) == (None, True, "1.0")
    assert tokens.tags["dagster/data_version"] == lake.partitions(TOKENS)[FIRST].digest
    evaluated = {check.check_name: check for check in result.get_asset_check_evaluations() if check.asset_key.path[-1] == "tokens"}
    assert evaluated.keys() == {"schema", *CHECKS}
    assert all(check.passed and check.partition == FIRST for check in evaluated.values())
    splits = value(tokens, "splits")
    assert sum(split["tokens"] for split in splits.values()) == value(tokens, "tokens") == sum(row["tokens"] for row in shards_of(lake))
    assert value(tokens, "tokens per transaction") > 10
    assert value(tokens, "bytes per token") > 2
    assert set(splits) == {"train", "validation", "hidden"}
    assert (Path(settings.split_key_file)).is_file()
    assert TokenStream(lake, context=64).contexts > 1

    # Another range is no reason for another tokenizer; being asked is.
    assert run("ingest_range", SECOND).success
    result = build(SECOND)
    assert result.success
    assert value(made(result)["tokenizer"], "new") is False
    assert made(result)["tokenizer"].tags["dagster/data_version"] == tokenizer.tags["dagster/data_version"]
    assert [each.version for each in versions(lake)] == ["1.0"]
    assert value(made(train())["tokenizer"], "version") == "2.0"
    again = train()
    assert (value(made(again)["tokenizer"], "version"), value(made(again)["tokenizer"], "new")) == ("2.0", False)
    assert {row["tokenizer"] for row in shards_of(lake)} == {"1.0"}


def test_shards_that_are_not_what_they_should_be_fail_the_blocking_checks(run: Run, build: Any, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the four checks, by a count and a split that are written wrong."""
    assert run("ingest_range", FIRST).success

    def harmed(store: Lake, slots: SlotRange, *arguments: Any, **options: Any) -> Any:
        result = write_tokens(store, slots, *arguments, **options)
        rows = shards_of(store, slots.key)
        rows[0] |= {"capped_documents": rows[0]["capped_documents"] + 1, "split_rule": "0" * 32}
        store.write_partition(TOKENS, slots.key, [pa.Table.from_pylist(rows, TOKENS.arrow_schema())])
        return result

    monkeypatch.setattr("blyan_assets.tokens.write_tokens", harmed)
    result = build(FIRST)
    evaluated = {check.check_name: check.passed for check in result.get_asset_check_evaluations() if check.asset_key.path[-1] == "tokens"}
    assert {name for name, passed in evaluated.items() if not passed} == {"every_document_accounted_for", "no_family_in_two_splits"}
    assert evaluated.keys() == {"schema", *CHECKS}
    assert not result.success


def failure(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    (event,) = [event for event in result.all_events if event.is_step_failure]
    return str(event.step_failure_data.error)


def test_without_documents_nothing_is_trained_and_another_key_is_refused(run: Run, build: Any, train: Any, lake: Lake, settings: Settings) -> None:
    assert "build_corpus" in failure(train())
    assert run("ingest_range", FIRST).success
    assert build(FIRST).success
    Path(settings.split_key_file).write_text("ab" * 32)
    assert "BLYAN_SPLIT_KEY" in failure(build(FIRST))


def test_tokens_asked_for_before_there_is_a_tokenizer_say_what_to_do(run: Run, build: Any) -> None:
    assert run("ingest_range", FIRST).success
    assert "train_tokenizer" in failure(build(FIRST, [*TEXT, asset_key(TOKENS)]))
