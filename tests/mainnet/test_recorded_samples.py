"""Samples of recorded mainnet blocks: their answers are those of plain Python over the rows."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from recorded_files import manifest

from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.corpus.sample_checks import check_samples
from blyan.corpus.samples import write_samples
from blyan.corpus.splits import SplitRule
from blyan.schemas import SAMPLES
from tests.sample_oracles import ORACLES, Question, Rows

pytestmark = pytest.mark.skipif(not manifest(), reason="the recorded mainnet data is not at ../shared/data")

RULE = SplitRule(bytes(32), 0.1, 0.1)

BLOCKS = ["blocks/110130000-jsonParsed", "blocks/254170887", "blocks/285000037"]
LITTLE = ["blocks/138802069", "blocks/195545750-jsonParsed-coinbase_chainstorage-internal__utils__fixtures__parser__solana__block_no_preBalances"]
"""Blocks of which little was recorded: signatures alone; no metadata."""


@pytest.fixture(scope="session")
def sampled(recorded):
    known = {}

    def find(start, per_family=3):
        if start not in known:
            one = recorded(start)
            write_corpus(one.lake, one.slots, load_registry(), vote_share=0.05)
            write_samples(one.lake, one.slots, load_registry(), RULE, per_family=per_family)
            known[start] = one
        return known[start]

    return find


@pytest.mark.parametrize("start", BLOCKS)
def test_answers_are_those_of_plain_python_over_the_rows(sampled, start):
    one = sampled(start)
    rows, compared = Rows(one.lake, one.slots), Counter()
    for sample in one.rows(SAMPLES):
        if sample["sql"] is not None:
            wanted = ORACLES[sample["family"]](Question(rows, sample))
            assert json.loads(sample["answer"])["rows"] == wanted, (sample["family"], sample["question"])
            compared[sample["family"]] += 1
    assert len(compared) >= 70
    assert compared.total() >= 150


@pytest.mark.parametrize("start", [BLOCKS[1], *LITTLE])
def test_samples_of_a_recorded_block_hold(sampled, start):
    one = sampled(start)
    findings = check_samples(one.lake, one.slots, RULE)
    assert [(finding.name, finding.examples) for finding in findings if not finding.passed] == []
    assert all(finding.checked > 15 for finding in findings)


def test_an_oracle_would_notice_a_wrong_answer(sampled):
    """The comparison above can tell: with another parameter, nearly every oracle gives other rows."""
    one = sampled(BLOCKS[1])
    rows, others, noticed, tried = Rows(one.lake, one.slots), {}, set(), set()
    for sample in one.rows(SAMPLES):
        if sample["sql"] is not None and sample["scope"] in ("transaction", "account", "token", "program"):
            before = others.get(sample["family"])
            others[sample["family"]] = sample
            if before is not None:
                tried.add(sample["family"])
                if ORACLES[sample["family"]](Question(rows, before)) != json.loads(sample["answer"])["rows"]:
                    noticed.add(sample["family"])
    assert len(tried) > 45
    assert len(noticed) > 0.85 * len(tried), tried - noticed


@pytest.mark.slow
@pytest.mark.parametrize("file", [row["file"] for row in manifest()])
def test_samples_of_every_recorded_file_hold_and_are_those_of_plain_python(recorded, file):
    """Blocks and loose transactions, of every age and encoding, however little of them was recorded."""
    one = recorded(file)
    write_corpus(one.lake, one.slots, load_registry(), vote_share=0.05)
    write_samples(one.lake, one.slots, load_registry(), RULE, per_family=2)
    assert [(finding.name, finding.examples) for finding in check_samples(one.lake, one.slots, RULE) if not finding.passed] == []
    rows = Rows(one.lake, one.slots)
    for sample in one.rows(SAMPLES):
        if sample["sql"] is not None:
            assert json.loads(sample["answer"])["rows"] == ORACLES[sample["family"]](Question(rows, sample)), sample["question"]
