"""Slot arithmetic: ranges, the aligned grid of ranges, epochs.

Belongs here: pure functions over slot numbers. Does not belong here: what a slot contains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blyan.errors import SettingError, UnknownRangeError

SLOTS_PER_EPOCH = 432_000
"""Slots in an epoch of mainnet after warm-up (Solana documentation, cluster constants)."""

KEY_DIGITS = 12
"""Width of a range key. Twelve digits hold 12,000 years of 400 ms slots and sort as text."""


def epoch_of(slot: int) -> int:
    """The epoch a slot belongs to, on a chain without warm-up epochs (mainnet)."""
    return slot // SLOTS_PER_EPOCH


@dataclass(frozen=True, slots=True, order=True)
class SlotRange:
    """The slots `first` to `last`, both included."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if self.first < 0 or self.last < self.first:
            raise UnknownRangeError(
                f"{self.first}-{self.last} is not a range of slots",
                remedy="give FIRST-LAST with 0 <= FIRST <= LAST",
            )

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))

    def __contains__(self, slot: object) -> bool:
        return isinstance(slot, int) and self.first <= slot <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    @property
    def key(self) -> str:
        """The partition key: the first slot, zero-padded so that keys sort as numbers do."""
        return f"{self.first:0{KEY_DIGITS}d}"

    @classmethod
    def parse(cls, text: str) -> SlotRange:
        """Read `A-B` or a single slot `A`.

        Raises:
            UnknownRangeError: the text is neither.
        """
        first, _, last = text.replace("_", "").replace(",", "").partition("-")
        try:
            return cls(int(first), int(last or first))
        except ValueError as error:
            raise UnknownRangeError(f"{text!r} is not a range of slots", remedy="write it as FIRST-LAST, for example 0-99") from error


@dataclass(frozen=True, slots=True)
class Grid:
    """The static grid of ranges: `[first_slot, horizon_slot)` in steps of `slots_per_range`.

    A range's existence on the grid says nothing of its readiness.
    """

    first_slot: int
    horizon_slot: int
    slots_per_range: int

    def __post_init__(self) -> None:
        if self.slots_per_range < 1:
            raise SettingError(
                f"a range of {self.slots_per_range} slots is empty",
                where="BLYAN_SLOTS_PER_RANGE",
                remedy="set it to 1 or more; production uses 54000",
            )
        if self.first_slot < 0 or self.horizon_slot <= self.first_slot:
            raise SettingError(
                f"the grid from slot {self.first_slot} to {self.horizon_slot} is empty",
                where="BLYAN_FIRST_SLOT, BLYAN_HORIZON_SLOT",
                remedy="set 0 <= BLYAN_FIRST_SLOT < BLYAN_HORIZON_SLOT",
            )

    def __len__(self) -> int:
        return -(-(self.horizon_slot - self.first_slot) // self.slots_per_range)

    def keys(self) -> list[str]:
        """Every key of the grid, in order."""
        starts = range(self.first_slot, self.horizon_slot, self.slots_per_range)
        return [f"{start:0{KEY_DIGITS}d}" for start in starts]

    def range_of(self, key: str) -> SlotRange:
        """The range a key names.

        Raises:
            UnknownRangeError: the key is not on this grid.
        """
        first = int(key) if key.isascii() and key.isdecimal() else -1
        offset = first - self.first_slot
        if len(key) != KEY_DIGITS or offset % self.slots_per_range or first not in range(self.first_slot, self.horizon_slot):
            raise UnknownRangeError(
                f"{key!r} is not a range of the grid {self}",
                remedy="list the ranges with `blyan ranges`",
            )
        return SlotRange(first, min(first + self.slots_per_range, self.horizon_slot) - 1)

    def covering(self, slots: SlotRange) -> list[SlotRange]:
        """The ranges of the grid that hold these slots, in order, whole even where `slots` is not.

        Raises:
            UnknownRangeError: a slot lies outside the grid.
        """
        if slots.first < self.first_slot or slots.last >= self.horizon_slot:
            raise UnknownRangeError(
                f"slots {slots} reach outside the grid {self}",
                where="BLYAN_FIRST_SLOT, BLYAN_HORIZON_SLOT",
                remedy="ask for slots inside the grid, or move its bounds",
            )
        width = self.slots_per_range
        start = slots.first - (slots.first - self.first_slot) % width
        return [SlotRange(first, min(first + width, self.horizon_slot) - 1) for first in range(start, slots.last + 1, width)]

    def __str__(self) -> str:
        return f"[{self.first_slot}, {self.horizon_slot}) by {self.slots_per_range}"
