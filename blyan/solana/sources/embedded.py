"""The embedded chain as a block source: any range of slots, alone and in any order.

Belongs here: how a chain that can only run forward serves random access. Does not belong here: the chain
(`blyan.solana.embedded`).
"""

from __future__ import annotations

from collections.abc import Iterator

from blyan.settings import Settings
from blyan.solana.embedded import EmbeddedChain, Schedule
from blyan.solana.slots import SlotRange
from blyan.solana.sources import RawRecord, SlotState, SourceReport

SLOTS_PER_SEGMENT = 50
"""Slots after which the state of accounts starts again from genesis.

Any slot is then at most 49 slots of execution away, and ranges that overlap agree. 50 divides the widths of ranges
that settings have by default (100) and in production (54,000), so that an aligned range executes nothing it does
not return. Links, heights and hashes run on across segments; balances do not.
"""


class EmbeddedSource:
    """Blocks executed in this process, the same for the same settings."""

    name = "embedded"

    def __init__(self, seed: int, transactions_per_slot: int, horizon_slot: int) -> None:
        self.schedule = Schedule(seed, transactions_per_slot)
        self.horizon_slot = horizon_slot

    @classmethod
    def from_settings(cls, settings: Settings) -> EmbeddedSource:
        """The source that the settings describe."""
        return cls(settings.embedded_seed, settings.embedded_transactions_per_slot, settings.horizon_slot)

    @property
    def _where(self) -> str:
        return f"seed {self.schedule.seed}, {self.schedule.transactions_per_slot} transactions a slot"

    def check(self) -> SourceReport:
        """What the chain has; it is always there."""
        return SourceReport(self.name, self._where, self.genesis_hash(), 0, self.horizon_slot - 1, "executed on demand")

    def genesis_hash(self) -> str:
        """Derived from the seed and the number of transactions a slot."""
        return self.schedule.genesis_hash()

    def states(self, slots: SlotRange) -> list[SlotState]:
        """PRESENT or SKIPPED for each slot, from the schedule alone."""
        return [SlotState.SKIPPED if self.schedule.is_skipped(slot) else SlotState.PRESENT for slot in slots]

    def read(self, slots: SlotRange) -> Iterator[RawRecord]:
        """One record per slot, in order.

        Raises:
            PermanentError: the installed runtime refuses the chain's genesis.
        """
        start = slots.first - slots.first % SLOTS_PER_SEGMENT
        for first in range(start, slots.last + 1, SLOTS_PER_SEGMENT):
            chain = EmbeddedChain(self.schedule.seed, self.schedule.transactions_per_slot)
            for slot in range(first, min(first + SLOTS_PER_SEGMENT, slots.last + 1)):
                payload = chain.produce(slot)
                if slot in slots:
                    yield self._record(slot, payload)

    def _record(self, slot: int, payload: bytes | None) -> RawRecord:
        if payload is None:
            return RawRecord(slot, SlotState.SKIPPED, "embedded schedule", origin=self._where)
        return RawRecord(
            slot,
            SlotState.PRESENT,
            "embedded",
            payload,
            block_hash=str(self.schedule.block_hash(slot)),
            parent_slot=self.schedule.parent(slot),
            origin=self._where,
        )
