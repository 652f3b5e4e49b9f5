"""The lake against the chain itself, as the block source tells it now.

Belongs here: how a range that the lake has stands to the chain's own list of slots, and which ranges to look at on a day. Does
not belong here: what the lake, the landing and the records say of each other (`blyan.solana.inventory`), or setting anything
right (`blyan.solana.repair`).

No block is read but the last of a range: blocks name their parents by hash, and the invariants of the lake hold them to it, so a
last block that is the chain's own makes all before it so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from blyan.lake import Lake
from blyan.schemas import COMPLETENESS
from blyan.solana.slots import SlotRange
from blyan.solana.sources import BlockSource, SlotState

NEWEST = 4
"""Ranges at the end of what the lake has that are looked at every day: a day of mainnet in production's width."""

ROTATING = 8
"""Older ranges that are looked at on a day, in turn: 8,000 ranges within three years, 240 within a month."""

AGAIN = 8
"""Ranges that the last look had repaired, or could not, that are looked at once more."""


class Audit(NamedTuple):
    """How a range stands to the chain, in slots.

    Attributes:
        more: the chain has a block where the lake has none.
        less: the lake has a block where the chain has none.
        other: the lake's last block has another hash than the chain's.
        untold: slots that the lake knows and the source can no longer tell of; nothing is held against them.
        told: slots that the source can tell of.
    """

    more: int
    less: int
    other: int
    untold: int
    told: int

    @property
    def readable(self) -> bool:
        """Reading the range from the source again loses nothing that the lake has."""
        return bool(self.told) and not self.untold


def audit(lake: Lake, source: BlockSource, slots: SlotRange) -> Audit:
    """Compare a range with the chain; a range that the lake lacks has nothing to compare, only what the source can tell.

    Raises:
        PermanentError, TransientError: as the source and the lake do.
    """
    held = _held(lake, slots)
    states = dict(zip(slots, source.states(slots), strict=True))
    present = {slot for slot, state in states.items() if state is SlotState.PRESENT}
    skipped = {slot for slot, state in states.items() if state is SlotState.SKIPPED}
    told = present | skipped
    landed = [slot for slot, (state, _) in held.items() if state == "landed"]
    last = max((slot for slot in landed if slot in present), default=None)
    return Audit(
        more=sum(state != "landed" and slot in present for slot, (state, _) in held.items()),
        less=sum(slot in skipped for slot in landed),
        other=0 if last is None else int(_hash_of(source, last) not in (None, held[last][1])),
        untold=sum(state in ("landed", "skipped") and slot not in told for slot, (state, _) in held.items()),
        told=len(told),
    )


def to_audit(keys: Iterable[str], again: Sequence[str], *, day: int) -> list[str]:
    """The ranges to look at on a day, in order: the newest, older ones in turn, and those looked at for a reason.

    Args:
        keys: ranges that the lake has whole.
        again: ranges that were repaired last, of which the first `AGAIN` are taken.
        day: number of the day; the same day gives the same ranges.
    """
    known = sorted(keys)
    older = known[:-NEWEST]
    turn = [older[(day * ROTATING + at) % len(older)] for at in range(min(ROTATING, len(older)))]
    return sorted({*known[-NEWEST:], *turn, *again[:AGAIN]})


def _held(lake: Lake, slots: SlotRange) -> dict[int, tuple[str, str | None]]:
    """State and block hash of each slot, as the completeness statement has them."""
    if not lake.files(COMPLETENESS, keys=[slots.key]):
        return {}
    batches = lake.read(COMPLETENESS, key=slots.key, columns=["slot", "state", "block_hash"])
    return {row["slot"]: (row["state"], row["block_hash"]) for batch in batches for row in batch.to_pylist()}


def _hash_of(source: BlockSource, slot: int) -> str | None:
    """Hash of the block of a slot; None where the source gives no block after all, or one that does not tell."""
    found = [record.block_hash for record in source.read(SlotRange(slot, slot)) if record.state is SlotState.PRESENT]
    return found[0] if found else None
