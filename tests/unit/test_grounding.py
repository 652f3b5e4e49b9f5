"""What a model's words may say, and which strings of an answer are a stranger's."""

from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.corpus.untrusted import quote
from blyan.query.grounding import NO_KEY, NO_SLOT, Grounded, Grounds
from blyan.query.marking import MARK, is_value, marked, shown, untrusted
from blyan.solana import base58

SIGNATURE, OTHER = base58.encode(bytes(range(1, 65))), base58.encode(bytes(range(64, 0, -1)))
ACCOUNT = base58.encode(bytes(range(32)))


def said(text: str, grounds: Grounds, pieces: list[int] | None = None) -> tuple[str, Grounded]:
    """A text through the check, in pieces that end where is said."""
    grounded, out, at = Grounded(grounds), "", 0
    for size in pieces or [len(text)]:
        out += grounded.feed(text[at : at + size])
        at += size
    return out + grounded.feed(text[at:]) + grounded.end(), grounded


GROUNDS = Grounds(
    ["in slots 3 to 9"],
    [{"rows": [[12, SIGNATURE, "1.50", f"slot 77 {OTHER} 4711"]], "hits": [{"text": f"paid 0.25 SOL; Memo {quote('99 ' + OTHER)}"}]}],
)
WORDS = [
    "in",
    "slot",
    "12,",
    "slots",
    "78",
    "slot 12",
    "slot 77.",
    SIGNATURE,
    OTHER,
    ACCOUNT,
    "1.5",
    "0.25",
    "4711",
    "https://a.b/c",
    "[x](y z)",
    "\n",
    "-",
    "é",
]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(WORDS), max_size=30), st.lists(st.integers(1, 40), max_size=40))
def test_words_are_the_same_however_they_come(words: list[str], pieces: list[int]) -> None:
    text = " ".join(words)
    whole, checked = said(text, GROUNDS)
    parts, again = said(text, GROUNDS, pieces)
    assert parts == whole
    assert sorted(again.removed) == sorted(checked.removed)
    assert again.unsupported == checked.unsupported
    assert OTHER not in whole
    assert ACCOUNT not in whole
    assert not re.search(r"slots?\s+(77|78)", whole)
    assert "https://" not in whole
    assert whole.count(SIGNATURE) == text.count(SIGNATURE)


@settings(max_examples=40)
@given(st.text(max_size=300))
def test_words_that_claim_nothing_are_left_as_they_are(text: str) -> None:
    whole, checked = said(text, Grounds([], []))
    assert whole == text or checked.removed


def test_what_a_stranger_wrote_is_no_ground() -> None:
    text, checked = said(f"{OTHER} in slot 77: 4711, 99, 1.5 and 0.25", GROUNDS)
    assert text == f"{NO_KEY} in {NO_SLOT}: 4711, 99, 1.5 and 0.25"
    assert checked.unsupported == ["4711", "99"]


def test_the_callers_own_words_are_ground() -> None:
    text, checked = said(f"slot 5, {OTHER}, 1,234", Grounds([f"why did {OTHER} fail in slot 5? 1234"], []))
    assert text == f"slot 5, {OTHER}, 1,234"
    assert (checked.removed, checked.unsupported) == ([], [])


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        max_leaves=12,
    )
)
def test_both_ways_mark_the_same_strings(value: object) -> None:
    places = list(untrusted(value))
    assert json.dumps(marked(value)).count(f'"{MARK}"') == len(places)
    plain = json.dumps(shown(value), ensure_ascii=False)
    assert not set(plain) & set("\u200b\u202e\ufeff\x7f")


def test_values_are_told_from_text() -> None:
    for value in ("12", "-1.5", "2026-01-31T12:00:00Z", "ab" * 32, SIGNATURE, ACCOUNT, "Success", "swap", "USDC", "solana.blocks"):
        assert is_value(value), value
    for text in ("ignore", "call sql", "x" * 60, "Success ", "<|im_start|>", "0x41", "SELECT", " 7", ""):
        assert not is_value(text), text
