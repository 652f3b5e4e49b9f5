"""Embeddings, samples, tokens and the search index of a range that automation lost are found, asked for, and given up after two runs that failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from blyan.schemas import DOCUMENTS, EMBEDDINGS, SAMPLES, SUMMARIES, TOKENIZER, TOKENS, TRANSACTIONS
from blyan.settings import load_settings
from blyan_assets.build import build_defs
from blyan_assets.checks import asset_key
from blyan_sensors import stale_ranges
from blyan_sensors.versions import last_record
from tests.assets.conftest import Small
from tests.automation.test_conditions import FIRST, SECOND, Harness
from tests.automation.test_stale_ranges import evaluated
from tests.unit.test_embedding_cache import Hashed

INDEX = "corpus/search_index"
TOKENIZER_KEY = asset_key(TOKENIZER)


class Broken(Hashed):
    """An embedder that is not there."""

    def embed(self, *_: object, **__: object) -> object:
        raise OSError("no embedder")


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """Two ranges with their texts; every change is as if it were ten minutes old."""
    monkeypatch.setattr(stale_ranges, "AFTER_S", 0)
    settings = load_settings(
        lake=str(tmp_path / "lake"),
        split_key_file=str(tmp_path / "key"),
        horizon_slot=12,
        slots_per_range=4,
        embedded_transactions_per_slot=2,
        corpus_samples_per_family=1,
    )
    with dg.DagsterInstance.ephemeral() as instance:
        made = Harness(settings, instance)
        for key in (FIRST, SECOND):
            assert made.run("ingest_range", key)
            assert made.run("render_range", key)
        yield made


def asked(harness: Harness, cursor: str | None = None) -> dict[str, list[str]]:
    """The tables that are asked for, each with its ranges."""
    found: dict[str, list[str]] = {}
    for request in evaluated(harness, cursor).run_requests:
        (key,) = request.asset_selection or ()
        assert request.job_name == "build_corpus"
        found.setdefault(key.to_user_string(), []).append(request.partition_key or "")
    return found


def carry_out(harness: Harness) -> list[bool]:
    """Run what is asked for."""
    return [
        harness.run(each.job_name or "", each.partition_key or "", list(each.asset_selection or ()), tags={"dagster/run_key": each.run_key or ""})
        for each in evaluated(harness).run_requests
    ]


def report(harness: Harness, key: dg.AssetKey, version: str, partition: str | None = None) -> None:
    """A materialisation that automation did not see: as the last one, but for the version of its content."""
    record = last_record(harness.instance, key, partition)
    assert record is not None
    assert record.asset_materialization is not None
    tags = {**(record.asset_materialization.tags or {}), "dagster/data_version": version}
    harness.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, tags=tags))


def test_what_follows_texts_is_found_and_tokens_wait_for_a_tokenizer(harness: Harness) -> None:
    both = [FIRST, SECOND]
    assert asked(harness) == {EMBEDDINGS.name: both, SAMPLES.name: both}
    assert all(carry_out(harness))
    assert asked(harness) == {INDEX: both}, "after the vectors"
    assert all(carry_out(harness))
    assert asked(harness) == {}
    assert harness.run("build_corpus", FIRST, [TOKENIZER_KEY])
    assert asked(harness) == {TOKENS.name: both}
    assert all(carry_out(harness))
    assert asked(harness) == {}

    # The same content again is no change, though its events are newer.
    assert harness.run("ingest_range", FIRST)
    assert harness.run("render_range", FIRST)
    assert harness.run("build_corpus", FIRST, [TOKENIZER_KEY])
    assert evaluated(harness).run_requests == []

    report(harness, TOKENIZER_KEY, "another tokenizer")
    assert asked(harness) == {TOKENS.name: both}, "it is for every range"
    report(harness, asset_key(SUMMARIES), "other summaries", SECOND)
    assert asked(harness) == {TOKENS.name: both, EMBEDDINGS.name: [SECOND], SAMPLES.name: [SECOND]}
    report(harness, asset_key(TRANSACTIONS), "other transactions", SECOND)
    assert [(each.job_name, each.partition_key) for each in evaluated(harness).run_requests] == [("render_range", SECOND), ("build_corpus", FIRST)]


def test_what_changed_while_it_was_used_is_found_by_the_cursor_too(harness: Harness) -> None:
    """A change is lost to automation where what is made from it ends after it, and began before."""
    assert all(carry_out(harness) + carry_out(harness))
    cursor = evaluated(harness).cursor
    assert asked(harness, cursor) == {}
    report(harness, asset_key(DOCUMENTS), "other documents", FIRST)
    report(harness, asset_key(EMBEDDINGS), "of the documents before", FIRST)
    assert asked(harness, cursor)[EMBEDDINGS.name] == [FIRST]
    again = evaluated(harness, cursor).cursor
    assert asked(harness, again)[EMBEDDINGS.name] == [FIRST], "until it is made"


def test_embeddings_that_cannot_be_made_have_two_runs_and_hold_up_nothing_else(harness: Harness) -> None:
    good = harness.definitions
    harness.definitions = build_defs(settings=harness.settings, resources={"embedder": Small(Broken())}, with_marts=False)
    (first, _, *_) = evaluated(harness).run_requests
    for _ in range(2):
        assert not harness.run("build_corpus", FIRST, list(first.asset_selection or ()))
    assert asked(harness) == {EMBEDDINGS.name: [SECOND], SAMPLES.name: [FIRST, SECOND]}, "runs that were not of samples are none of theirs"
    for _ in range(2):
        assert not harness.run("build_corpus", SECOND, list(first.asset_selection or ()))
    assert all(carry_out(harness))
    given_up = evaluated(harness)
    listed = f"failed twice and not asked for again: {FIRST} {EMBEDDINGS.name}, {SECOND} {EMBEDDINGS.name}"
    assert (given_up.run_requests, given_up.skip_message) == ([], listed)

    report(harness, asset_key(DOCUMENTS), "other documents", FIRST)
    assert asked(harness) == {EMBEDDINGS.name: [FIRST], SAMPLES.name: [FIRST]}, "a change is another try"
    harness.definitions = good
    assert all(carry_out(harness))
    assert asked(harness) == {INDEX: [FIRST]}


def test_nothing_is_made_of_texts_that_broke_a_blocking_check(harness: Harness) -> None:
    check = dg.AssetCheckEvaluation(
        check_name="every_vote_accounted_for", asset_key=asset_key(DOCUMENTS), passed=False, metadata={}, blocking=True, partition=FIRST
    )
    harness.instance.report_runless_asset_event(check)
    assert asked(harness) == {EMBEDDINGS.name: [SECOND], SAMPLES.name: [SECOND]}
