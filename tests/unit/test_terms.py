"""Texts as terms, and BM25 as the textbook has it."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.corpus.terms import bm25, joined, query_terms, terms_of

KEY = "7M3jYU9pDM4fdraQ2E1GoNHyQyxoRsseNGFDMTtk1rzU"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Swap failed; @0 paid 0.00001451 SOL.", ["swap", "fail", "paid", "0.00001451", "sol"]),
        ("System: AccountAlreadyInUse (error 0x0)", ["system", "account", "already", "in", "use", "error", "0x0"]),
        ("pump.fun v4, Token-2022; getAccountDataSize", ["pump", "fun", "v4", "token", "2022", "get", "account", "data", "size"]),
        (f"by {KEY} of @12", ["by", KEY, "of"]),
        ("ПРИВЕТ naïve\u200b", ["привет", "naïve"]),
        ("a@b @x ... - \x00", ["a", "b"]),
        ("", []),
        (None, []),
    ],
)
def test_a_text_has_these_terms(text: str | None, terms: list[str]) -> None:
    assert terms_of(pa.array([None, text, "x"], pa.string())).to_pylist() == [[], terms, ["x"]]


@pytest.mark.parametrize(
    "forms",
    ["swap swaps swapped swapping", "fail fails failed failing", "transfer transfers transferred", "stake stakes staked staking", "close closes closed",
     "sandwich sandwiches", "library libraries", "need needs needed", "class classes", "agree agreed"],
)  # fmt: skip
def test_forms_of_a_word_are_one_term(forms: str) -> None:
    assert len(query_terms(forms)) == 1


@given(st.lists(st.text(max_size=40), max_size=8))
@settings(deadline=None)
def test_terms_of_a_text_do_not_depend_on_its_company(texts: list[str]) -> None:
    together = terms_of(pa.array(texts, pa.string()))
    assert together.to_pylist() == [terms_of(pa.array([text])).to_pylist()[0] for text in texts]
    assert [text.split() for text in joined(together).to_pylist()] == together.to_pylist(), "a term has no space in it"


def test_bm25_is_that_of_the_textbook() -> None:
    texts = [["swap", "fail", "swap"], ["swap"], [], ["fail", "x", "y", "z"]]
    scores, has = bm25(pa.array(texts, pa.list_(pa.string())), ["swap", "fail", "never"], {"swap": 2, "fail": 2}, 4, 2.0)
    weight = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))

    def part(often: int, length: int) -> float:
        return weight * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * length / 2))

    assert scores == pytest.approx([part(2, 3) + part(1, 3), part(1, 1), 0, part(1, 4)])
    assert has.tolist() == [[True, True, False], [True, False, False], [False] * 3, [False, True, False]]
