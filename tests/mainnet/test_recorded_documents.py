"""Documents of recorded mainnet blocks: they say what the rows say, and no more of them are alike than they must be."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest
from document_reader import Reader, moves_of, net_of
from documents_page import PAGE, page
from recorded_files import manifest

from blyan import schemas
from blyan.corpus.documents import documents_of
from blyan.corpus.labels import KIND_RULES
from blyan.corpus.registry import load_registry
from blyan.corpus.templates import Cap, Templates
from blyan.solana.normalise import NATIVE_MINT

pytestmark = pytest.mark.skipif(not manifest(), reason="the recorded mainnet data is not at ../shared/data")

BLOCKS = ["blocks/110130000-jsonParsed", "blocks/254170887", "blocks/285000037", "blocks/332254855"]


@pytest.fixture(scope="session")
def documents(recorded):
    known = {}

    def find(start):
        if start not in known:
            tables = {table.name: recorded(start).table(table) for table in schemas.NORMALISED}
            known[start] = documents_of(tables, load_registry(), vote_share=1.0).rows
        return known[start]

    return find


@pytest.mark.parametrize("start", BLOCKS)
def test_amounts_and_accounts_of_a_text_are_those_of_its_rows(recorded, documents, start):
    reader, transfers, changes = Reader(load_registry()), defaultdict(list), defaultdict(list)
    for row in recorded(start).rows(schemas.TOKEN_TRANSFERS):
        transfers[row["tx_index"]].append(row)
    for row in recorded(start).rows(schemas.BALANCE_CHANGES):
        changes[row["tx_index"]].append(row)
    transactions = recorded(start).rows(schemas.TRANSACTIONS)
    rows = documents(start).to_pylist()
    assert [row["tx_index"] for row in rows] == [row["index"] for row in transactions]
    for document, transaction in zip(rows, transactions, strict=True):
        text, accounts = document["text"], document["accounts"]
        assert reader.moves(text, accounts) == moves_of(transfers[document["tx_index"]]), text
        assert reader.net(text, accounts) == net_of(transaction, changes[document["tx_index"]]), text
        assert reader.account(re.search(r"; (@0|[A-Z][\w .]*) paid ", text)[1], accounts) == transaction["accounts"][0]["pubkey"]
        assert max([-1, *(int(alias) for alias in re.findall(r"@(\d+)", re.sub(r'"(?:[^"\\]|\\.)*"', "", text)))]) == len(accounts) - 1
        assert len(set(accounts)) == len(accounts)
    assert sum(map(len, transfers.values())) > 300


@pytest.mark.parametrize("file", [row["file"] for row in manifest() if row["file"].startswith("blocks/")])
def test_every_recorded_block_has_a_document_for_each_transaction(recorded, documents, file):
    """However little was recorded: signatures alone, no metadata, no logs."""
    reader, transfers = Reader(load_registry()), defaultdict(list)
    for row in recorded(file).rows(schemas.TOKEN_TRANSFERS):
        transfers[row["block_slot"], row["tx_index"]].append(row)
    rows = documents(file).to_pylist()
    assert len(rows) == recorded(file).table(schemas.TRANSACTIONS).num_rows
    for row in rows:
        assert reader.moves(row["text"], row["accounts"]) == moves_of(transfers[row["block_slot"], row["tx_index"]]), row["text"]


def test_a_wrong_amount_or_account_is_noticed(recorded, documents):
    """The readers of the test above can tell: a digit or an alias changed in the text, and they disagree."""
    reader = Reader(load_registry())
    document = next(row for row in documents(BLOCKS[1]).to_pylist() if row["kind"] == "swap" and " sent " in row["text"])
    text, accounts = document["text"], document["accounts"]
    moves = reader.moves(text, accounts)
    assert reader.moves(re.sub(r"sent (\d)", r"sent 7\1", text, count=1), accounts) != moves
    assert reader.moves(re.sub(r" to @(\d+)", r" to @0", text), accounts) != moves
    assert reader.moves(text, accounts[::-1]) != moves


@pytest.mark.parametrize("start", BLOCKS)
def test_every_label_names_its_rule(documents, start):
    kinds = defaultdict(set)
    for rule in KIND_RULES:
        kinds[rule.name].add(rule.kind)
    for row in documents(start).to_pylist():
        rules = {entry["label"]: entry["rule"] for entry in row["rules"]}
        assert row["kind"] in kinds[rules["kind"]]
        assert (row["error_class"] is not None) == (row["status"] == "Fail") == ("error_class" in rules)
        assert (row["value_bucket"] is not None) == ("value_bucket" in rules)
        assert row["is_sandwich"] == ("is_sandwich" in rules)
        assert row["is_vote"] == (row["kind"] == "vote")
        assert len(row["programs"]) == len(set(row["programs"])) > 0


def test_sandwiches_are_found_where_they_were_recorded_and_nowhere_in_a_block_of_votes(documents):
    found = {start: sum(documents(start)["is_sandwich"].to_pylist()) for start in BLOCKS}
    assert found[BLOCKS[2]] >= 3
    assert found[BLOCKS[0]] == 0


def test_documents_with_one_structural_key_differ_in_masked_values_alone(documents):
    by_key = defaultdict(set)
    for row in documents(BLOCKS[3]).to_pylist():
        # Anything that holds a digit is masked here, aliases included: coarser than the key, apart from the renderer's own masking.
        by_key[row["structural_key"]].add(re.sub(r'"(?:[^"\\]|\\.)*"|[^\s@]*\d\S*', "#", row["text"]))
    assert all(len(shapes) == 1 for shapes in by_key.values())
    assert len(by_key) > 100


def grams(text):
    words = re.sub(r"[\d.]+", "#", text).split()
    return frozenset(zip(*(words[at:] for at in range(5)), strict=False)) or frozenset([tuple(words)])


def alike(texts):
    """The share of texts that some other is 0.75 like, by Jaccard over five words with numbers masked."""
    sets = Counter(map(grams, texts))
    distinct = list(sets)
    near = sum(
        count
        for one, count in sets.items()
        if count > 1 or any(other is not one and 4 * len(one & other) >= 3 * len(one | other) for other in distinct)
    )
    return near / len(texts)


def test_a_cap_per_template_takes_the_near_duplicates_out(documents):
    """Near-duplicates by five words in a row: 93 % of these three blocks without votes, and 64 % with one document of each template."""
    every, capped = [], []
    for start in BLOCKS[1:]:
        rows = documents(start)
        keys = rows["structural_key"].combine_chunks()
        kept, _ = Cap(Templates([keys]), 1).choose(keys)
        other = [row for row in zip(rows["text"].to_pylist(), kept.tolist(), rows["is_vote"].to_pylist(), strict=True) if not row[2]]
        every += [text for text, _, _ in other]
        capped += [text for text, is_kept, _ in other if is_kept]
    before, after = alike(every), alike(capped)
    assert before > 0.8
    assert len(capped) < 0.4 * len(every)
    assert after < before - 0.2, (before, after)


def test_the_page_of_examples_says_what_the_renderer_says(documents):
    assert PAGE.read_text() == page(lambda block: documents(block).to_pylist()), "run python -m tests.mainnet.documents_page, and read what changed"


def test_what_was_swapped_is_what_the_first_line_says(recorded, documents):
    reader, swaps = Reader(load_registry()), 0
    for start in BLOCKS:
        for row in documents(start).to_pylist():
            sides = [(row[name] is None, row[f"{name}_amount"] is None, row[f"{name}_decimals"] is None) for name in ("sold", "bought")]
            assert sides in ([(False,) * 3] * 2, [(True,) * 3] * 2)
            if row["sold"] is None:
                continue
            swaps += 1
            assert (row["kind"], row["status"]) == ("swap", "Success")
            net = reader.net(row["text"], row["accounts"])
            for name, sign in (("sold", -1), ("bought", 1)):
                amount = sign * row[f"{name}_amount"].scaleb(-row[f"{name}_decimals"])
                of = [None, NATIVE_MINT] if row[name] == "SOL" else [row[name]]
                assert amount in [net.get(mint) for mint in of], row["text"]
    assert swaps > 50


def test_anything_swapped_that_the_text_does_not_say_is_noticed(documents):
    reader = Reader(load_registry())
    row = next(row for row in documents(BLOCKS[2]).to_pylist() if row["sold"] is not None)
    other = re.sub(r"swapped (\d)", r"swapped 7\1", row["text"], count=1)
    assert reader.net(other, row["accounts"]) != reader.net(row["text"], row["accounts"])
