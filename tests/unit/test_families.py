"""Families: what may differ between two documents of one, and what may not."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from blyan.corpus.families import family_of

FIRST = "Swap at Jupiter v6 succeeded; @0 paid # SOL in fees, # compute units."
LINES = ["Jupiter v6 route with 18 accounts", "> @1 sent # USDC to @2 by @0", "> @3 sent # wSOL to @4", "SPL Token closeAccount account @7", "Memo #"]


@given(st.lists(st.sampled_from(LINES), min_size=1), st.randoms(use_true_random=False))
def test_order_depth_number_and_outcome_do_not_matter(lines: list[str], draw: random.Random) -> None:
    other = [line.removeprefix("> ") for line in [*lines, *draw.choices(lines, k=3)]]
    draw.shuffle(other)
    assert family_of("\n".join([FIRST, *lines])) == family_of("\n".join([FIRST.replace("succeeded", "failed"), *other]))


def test_aliases_and_counts_do_not_matter_and_names_do() -> None:
    one = f"{FIRST}\nJupiter v6 route with 18 accounts\n> @1 sent # USDC to @2"
    assert family_of(one) == family_of(f"{FIRST}\nJupiter v6 route with 4 accounts\n> @12 sent # USDC to @255")
    for other in (one.replace("Jupiter v6 r", "Jupiter v4 r"), one.replace("USDC", "BONK"), one.replace("route", "swap"), f"{one}\nMemo #"):
        assert family_of(other) != family_of(one)


def test_a_text_of_one_line_is_its_family() -> None:
    assert family_of("Transaction succeeded; @0 paid # SOL in fees.") == "Transaction succeeded; # paid # SOL in fees."
    assert family_of("NFT operation succeeded.") != family_of("Transaction succeeded.")
    assert family_of("") == ""
