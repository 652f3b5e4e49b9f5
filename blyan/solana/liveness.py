"""Whether the landing keeps up with its chain, as its head tells.

Belongs here: verdicts over a head, and the bounds they hold it to. Does not belong here: what must hold of stored rows
(`blyan.solana.invariants`), figures to watch by the second (the follower's metrics), or doing anything about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from blyan.solana.landing import Head, LandedRange
from blyan.solana.slots import Grid, SlotRange

FRESH_S = 60.0
"""Seconds without a new head from which the follower counts as stopped: it writes several a second while slots arrive."""

BEHIND_SLOTS = 150
"""Final slots that may wait to be followed: about a minute of mainnet."""

FINAL_SLOTS = 150
"""Slots that the newest final one may be behind the newest: a healthy chain has 32, and one whose finality stands goes past any bound."""

CONTINUOUS, CAUGHT_UP, FRESH, FINAL = "continuous", "caught_up", "fresh", "final"

VERDICTS = {
    CONTINUOUS: "Every slot before the checkpoint, in every range that the landing has, is there once: landed or proven skipped.",
    CAUGHT_UP: f"The checkpoint is at most {BEHIND_SLOTS} slots behind what the node calls finalized.",
    FRESH: f"The follower wrote a head within the last {FRESH_S:.0f} seconds.",
    FINAL: f"What is final moves with the tip, at most {FINAL_SLOTS} slots behind it, and nothing counts as final that the node does not call so.",
}


class Verdict(NamedTuple):
    """One judgement: by name, in words, and the figures behind it."""

    name: str
    passed: bool
    statement: str
    figures: dict[str, float]


def judge(head: Head, grid: Grid, *, now: float) -> list[Verdict]:
    """Every verdict over a head; `now` in Unix seconds."""
    due = {landed.key: _slots_before(head.checkpoint, grid.range_of(landed.key)) for landed in head.ranges}
    held = {landed.key: _final_slots(landed, head.checkpoint) for landed in head.ranges}
    wrong = [key for key in due if due[key] != held[key]]
    behind = max(0, head.finalized + 1 - head.checkpoint)
    age = max(0.0, now - head.written_at)
    contradictions = list(_not_final(head, grid))
    return [
        Verdict(
            CONTINUOUS,
            not wrong,
            f"range {wrong[0]} has {held[wrong[0]]} of {due[wrong[0]]} final slots" if wrong else f"every slot before {head.checkpoint} is there",
            {"ranges": len(due), "ranges with holes": len(wrong)},
        ),
        Verdict(CAUGHT_UP, behind <= BEHIND_SLOTS, f"{behind} final slots are not followed yet", {"slots behind": behind}),
        Verdict(FRESH, age <= FRESH_S, f"the newest head is {age:.0f} s old", {"seconds": round(age, 1)}),
        Verdict(
            FINAL,
            not contradictions,
            "; ".join(contradictions) or f"slot {head.finalized} is final, {max(0, head.processed - head.finalized)} behind the tip",
            {"slots to the tip": max(0, head.processed - head.finalized)},
        ),
    ]


def _not_final(head: Head, grid: Grid) -> Iterator[str]:
    # A head before the first answer of the node has -1 for what it was not told.
    if min(head.processed, head.finalized) >= 0 and head.processed - head.finalized > FINAL_SLOTS:
        yield f"slot {head.finalized} is the newest final one, {head.processed - head.finalized} behind the tip"
    told = [slot for slot in (head.finalized, head.confirmed, head.processed) if slot >= 0]
    if told != sorted(told):
        yield f"finalized {head.finalized}, confirmed {head.confirmed} and processed {head.processed} are not in that order"
    if head.finalized >= 0 and head.checkpoint > head.finalized + 1:
        yield f"the checkpoint {head.checkpoint} is past the newest final slot, {head.finalized}"
    above = [landed.key for landed in head.ranges if landed.sealed and grid.range_of(landed.key).last > head.finalized]
    if above:
        yield f"range {above[0]} is sealed, and its last slot is past the newest final one, {head.finalized}"


def _slots_before(checkpoint: int, slots: SlotRange) -> int:
    return max(0, min(checkpoint, slots.last + 1) - slots.first)


def _final_slots(landed: LandedRange, checkpoint: int) -> int:
    # A merged segment has only final slots, and no longer names them.
    return sum(sum(slot < checkpoint for slot, _ in segment.slots) if segment.slots else segment.count for segment in landed.segments)
