"""The search index of recorded mainnet blocks: complete, and it answers as brute force does."""

from __future__ import annotations

import pyarrow as pa
import pytest
from recorded_files import manifest
from search_lake import BruteForce, embed, write_vectors

from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.corpus.search_index import account_of, open_index, write_range
from blyan.query.search import Filters, search
from blyan.query.understanding import programs_named
from blyan.schemas import DOCUMENTS, SUMMARIES, TRANSACTIONS

pytestmark = pytest.mark.skipif(not manifest(), reason="the recorded mainnet data is not at ../shared/data")

QUESTIONS = ("failed swaps on Raydium", "slippage exceeded", "Jupiter route USDC", "largest fee payers")


def test_recorded_transactions_are_indexed_and_found_with_citations(recorded):
    block = recorded("blocks/285000037")
    write_corpus(block.lake, block.slots, load_registry(), vote_share=0.05)
    tables = [pa.Table.from_batches(block.lake.read(table, key=block.slots.key), table.arrow_schema()) for table in (DOCUMENTS, SUMMARIES)]
    write_vectors(block.lake, block.slots, *tables)
    written = write_range(block.lake, block.slots)
    account = account_of(block.lake, block.slots)
    assert account.is_exact
    assert (account.held, account.without_vector, account.lost_vectors) == (written.documents + written.summaries, 0, 0)
    assert written.documents == len(tables[0]) > 400
    assert not write_range(block.lake, block.slots).changed

    index, brute = open_index(block.lake), BruteForce(block.lake, [block.slots.key])
    raydium = Filters(programs=programs_named("Raydium", load_registry()))
    for question in QUESTIONS:
        for mode in ("text", "vector", "hybrid"):
            for filters in (Filters(), raydium, Filters(statuses=("Fail",))):
                answer = search(index, question, embed=lambda text: embed([text]), mode=mode, filters=filters)
                names = [tuple(hit.row[name] for name in ("slot", "tx_index", "scope", "subject", "signature")) for hit in answer.hits]
                found = [(name, hit.score, hit.alike) for name, hit in zip(names, answer.hits, strict=True)]
                assert found == brute.search(question, mode, filters), (question, mode)
    hits = search(index, QUESTIONS[0], mode="text", filters=raydium).hits
    assert hits
    assert all(set(raydium.programs) & set(hit.row["programs"]) for hit in hits)
    signatures = {row["signature"] for row in block.rows(TRANSACTIONS)}
    assert {hit.row["signature"] for hit in hits if hit.row["scope"] == "transaction"} <= signatures
