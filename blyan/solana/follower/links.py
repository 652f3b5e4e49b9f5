"""What is known of the slots at the tip, and what follows from the links of blocks to their parents.

Belongs here: the pure state of the follower: no clock, no network, no disk. Does not belong here: how blocks are fetched.

Every block names its parent by slot and by hash. So one block whose place in the chain is certain proves all before it: the
blocks its links lead to have landed, the slots the links pass over were skipped, and a block beside them is of a fork that
died. What a node calls final is certain for good; the newest confirmed block is certain as far as anyone knows, so what is
not on its chain is taken away, and comes back if the node changes its mind. A link to a block that is not here, or is here
with another hash, is a block to fetch: nothing is proven past it, and the checkpoint waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from blyan.errors import PermanentError


@dataclass(frozen=True, slots=True)
class Link:
    """A block's place: its slot and hash, and its parent's. The parent is None where the block does not tell."""

    slot: int
    block_hash: str
    parent_slot: int | None
    parent_hash: str | None


@dataclass(frozen=True, slots=True)
class Settled:
    """What an anchor proved.

    Attributes:
        dead: slots whose blocks are not on its chain.
        skipped: (slot, slot of the block whose link passes over it), in order; only of final anchors.
    """

    dead: list[int] = field(default_factory=list)
    skipped: list[tuple[int, int]] = field(default_factory=list)


class Links:
    """Slots from `checkpoint` on.

    Attributes:
        checkpoint: every slot before it, from where following began, is final.
        before: the block that the one after the checkpoint must link to; None where following begins.
        blocks: the blocks that are here, by slot.
        missing: slots that links lead to and that are not here, or are here with another hash.
    """

    def __init__(self, checkpoint: int, before: Link | None = None) -> None:
        self.checkpoint = checkpoint
        self.before = before
        self.blocks: dict[int, Link] = {}
        self.missing: set[int] = set()

    def add(self, link: Link) -> bool:
        """A block that arrived, in place of one that was here with another hash; False before the checkpoint, where all is final."""
        if link.slot < self.checkpoint:
            return False
        self.blocks[link.slot] = link
        self.missing.discard(link.slot)
        return True

    def wanted(self, listed: Iterable[int]) -> list[int]:
        """Slots to fetch, the newest first: those a node lists, and those that links lead to."""
        return sorted({slot for slot in listed if slot >= self.checkpoint and slot not in self.blocks} | self.missing, reverse=True)

    def gaps(self) -> list[tuple[int, int]]:
        """(first, last) of each stretch of slots before the newest block that are neither here nor passed over by the link of a block."""
        found, known = [], self.checkpoint
        for slot in sorted(self.blocks):
            parent = self.blocks[slot].parent_slot
            first = slot if parent is None else min(parent + 1, slot)
            if first > known:
                found.append((known, first - 1))
            known = max(known, slot + 1)
        return found

    def settle(self, anchor: Link, *, final: bool) -> Settled:
        """Walk the links from a block that is certain.

        Args:
            anchor: the block; what is here in its slot under another hash is dead.
            final: the node calls it final: the checkpoint moves past it if the links reach the checkpoint.

        Raises:
            PermanentError: the final chain does not hold what was final before.
        """
        if anchor.slot < self.checkpoint:
            return Settled()
        chain = self._walk(anchor)
        on_chain = {link.slot: link for link in chain}
        # From the last block that the links name to the anchor, whatever is not on the chain is of a fork.
        low = min(chain[-1].slot, chain[-1].slot if chain[-1].parent_slot is None else chain[-1].parent_slot)
        here = self.blocks.get(anchor.slot)
        if here is None or here.block_hash != anchor.block_hash:
            self.missing.add(anchor.slot)
        dead = sorted(slot for slot, link in self.blocks.items() if low <= slot <= anchor.slot and _hash(on_chain.get(slot)) != link.block_hash)
        for slot in dead:
            del self.blocks[slot]
        whole = self._reaches(chain[-1])
        if not final or not whole or anchor.slot in self.missing:
            return Settled(dead)
        skipped = self._passed_over(chain)
        self.before, self.checkpoint = anchor, anchor.slot + 1
        self.blocks = {slot: link for slot, link in self.blocks.items() if slot >= self.checkpoint}
        self.missing = {slot for slot in self.missing if slot >= self.checkpoint}
        return Settled(dead, skipped)

    def _walk(self, anchor: Link) -> list[Link]:
        """The anchor and its ancestors down to the checkpoint, or to the first that is missing."""
        chain = [anchor]
        while (parent := chain[-1].parent_slot) is not None and self.checkpoint <= parent < chain[-1].slot:
            link = self.blocks.get(parent)
            if link is None or link.block_hash != chain[-1].parent_hash:
                self.missing.add(parent)
                break
            chain.append(link)
        return chain

    def _reaches(self, oldest: Link) -> bool:
        """Whether a chain that ends here is joined to what is final."""
        if oldest.parent_slot is None:
            return False
        if oldest.parent_slot >= self.checkpoint and oldest.parent_slot != oldest.slot:
            return False
        if self.before is None:
            return True
        if oldest.parent_slot != self.before.slot or oldest.parent_hash != self.before.block_hash:
            raise PermanentError(
                f"the block of slot {oldest.slot} follows {oldest.parent_slot} {oldest.parent_hash}, "
                f"but {self.before.slot} {self.before.block_hash} was final",
                where="the node's chain",
                remedy="the node contradicts what was called final: use another, and compare the two",
            )
        return True

    def _passed_over(self, chain: list[Link]) -> list[tuple[int, int]]:
        skipped = []
        start = self.checkpoint
        for link in reversed(chain):
            skipped += [(slot, link.slot) for slot in range(start, link.slot)]
            start = link.slot + 1
        return skipped


def _hash(link: Link | None) -> str | None:
    return None if link is None else link.block_hash
