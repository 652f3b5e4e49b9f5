"""The corpus of a range goes from the lake into the lake: complete, the same again, and no other range is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.errors import MissingObjectError
from blyan.lake import Lake
from blyan.schemas import DOCUMENTS, SUMMARIES, TRANSACTIONS
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources.embedded import EmbeddedSource

RANGES = [SlotRange(0, 49), SlotRange(50, 99)]
REGISTRY = load_registry()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake, source = Lake(str(tmp_path / "lake")), EmbeddedSource(seed=2, transactions_per_slot=20, horizon_slot=100)
    for slots in RANGES:
        land(lake, source, slots)
        normalise_range(lake, slots, workers=1)
    return lake


def rows(lake, table, slots):
    return [row for batch in lake.read(table, key=slots.key) for row in batch.to_pylist()]


def test_a_range_becomes_documents_and_summaries_that_account_for_every_transaction(lake):
    corpora = [write_corpus(lake, slots, REGISTRY, vote_share=0.2) for slots in RANGES]
    for slots, corpus in zip(RANGES, corpora, strict=True):
        transactions, documents, summaries = (rows(lake, table, slots) for table in (TRANSACTIONS, DOCUMENTS, SUMMARIES))
        (whole,) = [row for row in summaries if row["scope"] == "range"]
        assert len(transactions) == corpus.transactions == whole["transactions"] == len(documents) + whole["votes_left_out"]
        assert corpus.votes - corpus.votes_kept == whole["votes_left_out"] > 0
        wanted = {row["signature"] for row in transactions if not row["is_vote"]}
        assert wanted <= {row["tx_signature"] for row in documents} <= {row["signature"] for row in transactions}
        assert (corpus.documents.rows, corpus.summaries.rows) == (len(documents), len(summaries))
        assert whole["text"].startswith(f"Slots {slots.first} to {slots.last}: {len(transactions)} transactions")


def test_a_second_run_commits_nothing_and_a_changed_one_touches_its_range_alone(lake):
    first = [write_corpus(lake, slots, REGISTRY, vote_share=0.2) for slots in RANGES]
    again = write_corpus(lake, RANGES[0], REGISTRY, vote_share=0.2)
    assert (again.documents.changed, again.summaries.changed) == (False, False)
    assert (again.documents.digest, again.summaries.digest) == (first[0].documents.digest, first[0].summaries.digest)
    more = write_corpus(lake, RANGES[0], REGISTRY, vote_share=0.9)
    assert more.documents.changed
    assert more.summaries.changed
    assert lake.partitions(DOCUMENTS)[RANGES[1].key].digest == first[1].documents.digest
    assert len(rows(lake, DOCUMENTS, RANGES[1])) == first[1].documents.rows


def test_a_range_that_is_not_there_is_refused_and_leaves_nothing(lake):
    with pytest.raises(MissingObjectError):
        write_corpus(lake, SlotRange(100, 149), REGISTRY, vote_share=0.2)
    assert not lake.exists(DOCUMENTS)
