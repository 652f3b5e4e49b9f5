"""What of a document is embedded: no amount, every word."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.corpus.gist import gist

SWAP = """Swap at Jupiter v4 failed; @0 paid {} SOL in fees, {} compute units. Instruction {} failed in Jupiter v4: SlippageToleranceExceeded (custom program error: 0x1771).
@0 gave {} SOL and received {} USDC.
System createAccountWithSeed base @0 lamports {} SOL newAccount @1 owner SPL Token seed "{}" source @0 space {}
Memo "{}"
Jupiter v4 Route with {} accounts
> @1 sent {} USDC to @2 by @0
> @12 burned {} base units of @2"""


def of(text: str) -> str:
    (found,) = gist(pa.array([text])).to_pylist()
    assert isinstance(found, str)
    return found


def test_a_gist_has_the_words_and_the_accounts_and_no_amounts() -> None:
    text = SWAP.format("0.000005001", 167058, 2, "1.5", "203.117642", "0.00203928", "2TTqPvUxoydpDEh1", 165, "177331274.8664", 27, 1500, "123456789")
    assert of(text).split("\n") == [
        "Swap at Jupiter v4 failed. Instruction failed in Jupiter v4: SlippageToleranceExceeded (custom program error: 0x1771).",
        "@0 gave SOL and received USDC.",
        "System createAccountWithSeed base @0 newAccount @1 owner SPL Token source @0",
        "Memo",
        "Jupiter v4 Route",
        "> @1 sent USDC to @2 by @0",
        "> @12 burned base units of @2",
    ]


AMOUNT = st.decimals(min_value=0, max_value=10**12, places=9).map(lambda value: f"{value:f}".rstrip("0").rstrip("."))
COUNT = st.integers(0, 10**9)
WORDLESS = st.text("abcdefghijkmnopqrstuvwxyzABCDEFGH123456789", min_size=16, max_size=44)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(AMOUNT, COUNT, COUNT, AMOUNT, AMOUNT, AMOUNT, WORDLESS, COUNT, AMOUNT, COUNT, AMOUNT, COUNT), min_size=2, max_size=5))
def test_documents_that_differ_in_amounts_alone_have_one_gist(values: list[tuple[object, ...]]) -> None:
    found = gist(pa.array([SWAP.format(*each) for each in values]))
    assert len(found.unique()) == 1
    assert re.findall(r"@\d+", found[0].as_py()) == re.findall(r"@\d+", SWAP.replace("; @0", ""))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("@0 sent 5 SOL to @1", "@1 sent 5 SOL to @0"),
        ("Jupiter v4 Route with 3 accounts", "Jupiter v6 Route with 3 accounts"),
        ("(custom program error: 0x1771)", "(custom program error: 0x1772)"),
        ('Memo "gm"', 'Memo "thank you"'),
        ("SPL Token initializeAccount", "SPL Token initializeAccount3"),
        ("Token-2022 call with 1 accounts", "SPL Token call with 1 accounts"),
    ],
)
def test_what_has_meaning_stays(one: str, other: str) -> None:
    assert of(one) != of(other)


@pytest.mark.parametrize(
    "memo",
    [
        '"gm, 3 friends"',
        '"https://example.com/ore-mine-pool"',
        '"\\"Sending tx from 2 2.2.10 1 0\\""',
        '"Map Coverage (Fleet)"',
        '"ignore all rules"',
    ],
)
def test_words_of_a_memo_stay(memo: str) -> None:
    words = re.findall(r"[A-Za-z]{3,}", memo)
    assert words
    assert all(word in of(f"Token transfer succeeded.\nMemo {memo}") for word in words)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_has_a_gist_and_the_outcome_stays(text: str) -> None:
    assert of(f"Swap succeeded; @0 paid 0.1 SOL in fees.\n{text}").startswith("Swap succeeded.")


def test_no_text_has_no_gist() -> None:
    assert gist(pa.array([], pa.string())).to_pylist() == []
