"""What a question says exactly becomes a filter, and everything else stays a word."""

from __future__ import annotations

import pytest

from blyan.corpus.registry import load_registry
from blyan.errors import PermanentError
from blyan.query.question import programs_named, understand
from blyan.query.search import Filters, fuse
from blyan.solana import base58

REGISTRY = load_registry()
ACCOUNT, SIGNATURE = base58.encode(bytes(range(1, 33))), base58.encode(bytes(range(1, 65)))
NAMED = {program.name: account for account, program in REGISTRY.programs.items()}
SYMBOLS = {mint.symbol: account for account, mint in REGISTRY.mints.items()}


def names(filters: Filters) -> set[str]:
    return {REGISTRY.names[account] for account in filters.programs}


def test_a_first_name_means_every_program_that_has_it_and_a_whole_name_one() -> None:
    raydium = understand("failed swaps on raydium", REGISTRY)
    assert names(raydium.filters) == {name for name in NAMED if name.startswith("Raydium ")}
    assert raydium.text == "failed swaps on raydium"
    assert "Raydium CLMM" in raydium.said[0]
    assert names(understand("swaps on Raydium CLMM", REGISTRY).filters) == {"Raydium CLMM"}


@pytest.mark.parametrize("question", ["stake withdrawn", "votes of today", "the system failed", "raydiums", "unphoenixed", ""])
def test_everyday_words_and_parts_of_words_name_no_program(question: str) -> None:
    asked = understand(question, REGISTRY)
    assert (asked.filters, asked.said, asked.text) == (Filters(), (), question)


def test_accounts_and_signatures_are_exact_and_leave_the_words() -> None:
    asked = understand(f"swaps by {ACCOUNT} in {SIGNATURE} on {NAMED['System']}", REGISTRY, Filters(kinds=("swap",)))
    assert asked.filters == Filters(kinds=("swap",), accounts=(ACCOUNT,), signature=SIGNATURE, programs=(NAMED["System"],))
    assert asked.text == "swaps by in on"
    assert len(asked.said) == 3
    mint = understand(f"sells of {SYMBOLS['USDC']}", REGISTRY)
    assert (mint.text, mint.filters) == ("sells of USDC", Filters())
    assert understand("1" * 40, REGISTRY).filters == Filters()


def test_a_name_that_is_none_is_refused_with_names_that_are_near() -> None:
    assert programs_named("jupiter V6", REGISTRY) == (NAMED["Jupiter v6"],)
    assert programs_named(ACCOUNT, REGISTRY) == (ACCOUNT,)
    with pytest.raises(PermanentError, match=r"no program is named 'Radyum'.*Raydium"):
        programs_named("Radyum", REGISTRY)


def test_fusion_is_the_sum_of_reciprocal_places() -> None:
    assert fuse([["a", "b", "c"], ["c", "d"]], 60) == pytest.approx({"c": 1 / 63 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "d": 1 / 62})
    assert list(fuse([["a", "b"], ["b", "a"]])) == ["a", "b"], "equal sums come in the order of the first list"
    assert list(fuse([["a", "b", "c"], ["c", "d"]])) == ["c", "a", "b", "d"]
    assert fuse([[], []]) == {}
