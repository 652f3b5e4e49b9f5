"""Tokens of recorded mainnet blocks: exact, short, and with near-duplicates on one side of a split."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from recorded_files import manifest

from blyan import schemas
from blyan.corpus.documents import documents_of
from blyan.corpus.registry import load_registry
from blyan.corpus.splits import SplitRule
from blyan.corpus.tokenizer import Tokenizer, own_names, train

pytestmark = pytest.mark.skipif(not manifest(), reason="the recorded mainnet data is not at ../shared/data")

BLOCKS = ["blocks/110130000-jsonParsed", "blocks/254170887", "blocks/285000037", "blocks/332254855"]
REGISTRY = load_registry()


@pytest.fixture(scope="module")
def documents(recorded):
    parts = []
    for start in BLOCKS:
        tables = {table.name: recorded(start).table(table) for table in schemas.NORMALISED}
        parts.append(documents_of(tables, REGISTRY, vote_share=0.01).rows.cast(schemas.DOCUMENTS.arrow_schema()))
    return pa.concat_tables(parts).combine_chunks()


def rows_of(documents):
    return documents.select(["text", "accounts", "structural_key", "family_key", "tx_signature"]).to_pylist()


@pytest.fixture(scope="module")
def halves(documents):
    """Documents to train on, and documents of other families."""
    other = SplitRule(bytes(32), 0.25, 0.0).split_of(documents["family_key"].to_pylist()) > 0
    return documents.filter(pa.array(~other)), documents.filter(pa.array(other))


@pytest.fixture(scope="module")
def tokenizer(halves):
    return Tokenizer(train(halves[0]["text"].to_pylist(), own_names(REGISTRY), size=8_192))


def test_every_document_comes_back_and_is_encoded_as_the_stock_library_does_it(documents, tokenizer):
    from tokenizers import Tokenizer as Library

    texts = documents["text"].combine_chunks()
    made = tokenizer.encode(texts)
    assert tokenizer.bytes_of(made.tokens)[0].tobytes().decode() == "".join(texts.to_pylist())
    stock = Library.from_str(tokenizer.definition.decode()).encode_batch(texts.to_pylist(), add_special_tokens=False)
    assert made.tokens.tolist() == [token for each in stock for token in each.ids]
    assert len(texts) > 1_500


def test_aliases_make_texts_of_unseen_families_three_times_shorter(halves, tokenizer):
    """Against a tokenizer of the same size that was trained on the same text with accounts in the place of aliases."""

    def raw(rows):
        return [re.sub(r"@(\d+)", lambda found, row=row: row["accounts"][int(found[1])], row["text"]) for row in rows]

    seen, unseen = ([row for row in rows_of(half) if '"' not in row["text"]] for half in halves)
    other = Tokenizer(train(raw(seen), own_names(REGISTRY), size=8_192))
    with_aliases = len(tokenizer.encode(pa.array([row["text"] for row in unseen])).tokens)
    with_accounts = len(other.encode(pa.array(raw(unseen))).tokens)
    assert len(unseen) > 100
    assert with_accounts > 2.5 * with_aliases, (with_aliases / len(unseen), with_accounts / len(unseen))


def test_a_template_is_of_one_family(documents):
    families = defaultdict(set)
    for row in rows_of(documents):
        families[row["structural_key"]].add(row["family_key"])
    assert all(len(found) == 1 for found in families.values())
    assert len({family for found in families.values() for family in found}) < 0.8 * len(families)


def grams(text):
    words = re.sub(r"[\d.]+", "#", text).split()
    return frozenset(zip(*(words[at:] for at in range(5)), strict=False)) or frozenset([tuple(words)])


def near(rows, keys):
    """Of the documents that are held out by these keys, the shares that one for training is like: 0.75 by Jaccard, and wholly."""
    splits = SplitRule(bytes(31) + b"\x05", 0.1, 0.1).split_of(keys)
    sets = [grams(row["text"]) for row in rows]
    training = {each for each, split in zip(sets, splits, strict=True) if split == 0}
    held_out = Counter(each for each, split in zip(sets, splits, strict=True) if split)
    likeness = {each: max(len(each & other) / len(each | other) for other in training) for each in held_out}
    total = sum(held_out.values())
    return tuple(sum(count for each, count in held_out.items() if likeness[each] >= least) / total for least in (0.75, 1.0))


def test_near_duplicates_do_not_straddle_a_split(documents):
    """By runs of five words with numbers masked, which is another measure than the key's: none is alike but for numbers."""
    rows = rows_of(documents.filter(pc.invert(pc.fill_null(documents["is_vote"], False))))
    by_family = near(rows, [row["family_key"] for row in rows])
    by_template = near(rows, [row["structural_key"] for row in rows])
    by_signature = near(rows, [row["tx_signature"] for row in rows])
    assert by_family[1] == 0
    assert by_family[0] < 0.3
    assert by_template[1] > 0
    assert by_signature[1] > 0.5
    assert by_family[0] < by_template[0] < by_signature[0]
