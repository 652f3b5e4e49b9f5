"""How sure a node is of a block.

Belongs here: the three levels, their order and their names. Does not belong here: what follows from them
(`blyan.solana.follower`), or when a block reaches them (`blyan.solana.localnet.ledger`).
"""

from __future__ import annotations

from enum import IntEnum


class Commitment(IntEnum):
    """In the order of growing certainty. Blocks are served from `CONFIRMED` on."""

    PROCESSED = 0
    CONFIRMED = 1
    FINALIZED = 2

    @property
    def label(self) -> str:
        """Solana's name for it."""
        return self.name.lower()
