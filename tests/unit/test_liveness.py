"""The verdicts over a head."""

from __future__ import annotations

import pytest

from blyan.solana.landing import Head, LandedRange
from blyan.solana.liveness import BEHIND_SLOTS, CAUGHT_UP, CONTINUOUS, FINAL, FINAL_SLOTS, FRESH, FRESH_S, judge
from blyan.solana.segments import Segment
from blyan.solana.slots import Grid

GRID = Grid(0, 100, 10)


def segment(first: int, last: int, *, merged: bool = False) -> Segment:
    slots = [] if merged else [(slot, None) for slot in range(first, last + 1)]
    return Segment(f"{first}", first, last, last - first + 1, slots, {}, 0)


def passed(head: Head, now: float = 0.0) -> dict[str, bool]:
    return {verdict.name: verdict.passed for verdict in judge(head, GRID, now=now)}


def test_a_landing_that_has_every_final_slot_is_continuous_whatever_comes_after() -> None:
    ranges = [LandedRange("000000000000", [segment(0, 7, merged=True), segment(8, 9)]), LandedRange("000000000010", [segment(10, 14)])]

    assert passed(Head(ranges=ranges, checkpoint=12))[CONTINUOUS]


def test_a_missing_slot_and_one_that_is_there_twice_are_not_continuous() -> None:
    for segments in ([segment(0, 3), segment(5, 9)], [segment(0, 9), segment(9, 9)], []):
        assert not passed(Head(ranges=[LandedRange("000000000000", segments)], checkpoint=12))[CONTINUOUS]


def test_a_range_that_was_only_opened_has_no_hole() -> None:
    assert passed(Head(ranges=[LandedRange("000000000010", [])], checkpoint=10))[CONTINUOUS]


def test_the_checkpoint_may_be_behind_by_so_many_slots_and_no_more() -> None:
    assert passed(Head(checkpoint=1, finalized=BEHIND_SLOTS))[CAUGHT_UP]
    assert not passed(Head(checkpoint=0, finalized=BEHIND_SLOTS))[CAUGHT_UP]


def test_a_head_may_be_so_old_and_no_older() -> None:
    assert passed(Head(written_at=100.0), now=100.0 + FRESH_S)[FRESH]
    assert not passed(Head(written_at=100.0), now=101.0 + FRESH_S)[FRESH]


SEALED = [LandedRange("000000000000", [segment(0, 9)], sealed=True, digest="1")]
AS_IT_SHOULD = {"processed": 50, "confirmed": 48, "finalized": 18, "checkpoint": 19, "ranges": SEALED}


def test_a_chain_whose_finality_moves_is_final_and_so_is_a_head_before_the_first_answer() -> None:
    assert passed(Head(**AS_IT_SHOULD))[FINAL]
    assert passed(Head(**AS_IT_SHOULD | {"processed": 18 + FINAL_SLOTS}))[FINAL]
    assert passed(Head(checkpoint=40))[FINAL]


@pytest.mark.parametrize(
    "wrong",
    [
        {"processed": 19 + FINAL_SLOTS},
        {"confirmed": 51},
        {"finalized": 49},
        {"checkpoint": 20},
        {"finalized": 8, "checkpoint": 9},
        {"finalized": -1},
    ],
    ids=["it stands", "confirmed past processed", "final past confirmed", "checkpoint past final", "sealed past final", "sealed and nothing final"],
)
def test_what_contradicts_finality_is_found(wrong: dict[str, int]) -> None:
    assert not passed(Head(**AS_IT_SHOULD | wrong))[FINAL]
