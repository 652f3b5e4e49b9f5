"""A chain that exists in memory only, and a node that shows it as badly as real ones do.

Belongs here: forks, skipped slots, lag and failing calls, all drawn from a seed. Does not belong here: what the follower
must make of them, which the tests say.

Time is a number of ticks. At each, one slot begins: it may be skipped, land on the main chain, or land on a fork. A block
is `confirmed` a tick later and `finalized` `DEPTH` ticks later; a fork's block is served as confirmed until it dies.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, field

from blyan.errors import SourceUnreachableError
from blyan.solana import base58
from blyan.solana.commitment import Commitment
from blyan.solana.follower.links import Link
from blyan.solana.follower.node import Fetched, Tips, Unfetched
from blyan.solana.sources import RawRecord, SlotState

DEPTH = 6
"""Ticks until a block is final."""


def hash_of(*parts: object) -> str:
    """Something of the form of a block hash."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:44].replace("0", "z")


def signatures_of(link: Link) -> list[str]:
    """Of the transactions of a block: every fifth block has one."""
    return [] if link.slot % 5 else [base58.encode(hashlib.sha512(link.block_hash.encode()).digest())]


def block_of(link: Link) -> bytes:
    """A block with a reward; some have a transfer, and some a transaction that cannot be one: every table has rows."""
    broken = [{"transaction": {"signatures": 1}, "meta": None, "version": "legacy"}] if link.slot % 20 == 7 else []
    return json.dumps(
        {
            "blockhash": link.block_hash,
            "previousBlockhash": link.parent_hash,
            "parentSlot": link.parent_slot,
            "blockTime": 1_700_000_000 + link.slot // 2,
            "blockHeight": link.slot,
            "transactions": [_transfer(signature, link) for signature in signatures_of(link)] + broken,
            "rewards": [{"pubkey": "1" * 32, "lamports": link.slot, "postBalance": link.slot, "rewardType": "Fee", "commission": None}],
        }
    ).encode()


def _transfer(signature: str, link: Link) -> dict[str, object]:
    keys = [base58.encode(hashlib.sha256(name).digest()) for name in (b"payer", b"payee")]
    data = base58.encode((2).to_bytes(4, "little") + link.slot.to_bytes(8, "little"))
    return {
        "transaction": {
            "signatures": [signature],
            "message": {
                "header": {"numRequiredSignatures": 1, "numReadonlySignedAccounts": 0, "numReadonlyUnsignedAccounts": 1},
                "accountKeys": [*keys, "1" * 32],
                "recentBlockhash": link.block_hash,
                "instructions": [{"programIdIndex": 2, "accounts": [0, 1], "data": data, "stackHeight": 1}],
            },
        },
        "meta": {
            "err": None,
            "status": {"Ok": None},
            "fee": 5_000,
            "preBalances": [10**9, 0, 1],
            "postBalances": [10**9 - 5_000 - link.slot, link.slot, 1],
            "innerInstructions": [],
            "logMessages": ["Program 11111111111111111111111111111111 invoke [1]", "Program 11111111111111111111111111111111 success"],
            "preTokenBalances": [],
            "postTokenBalances": [],
            "rewards": [],
            "loadedAddresses": {"writable": [], "readonly": []},
            "computeUnitsConsumed": 150,
        },
        "version": "legacy",
    }


@dataclass
class Faults:
    """How often, of 1."""

    skip: float = 0.1
    fork: float = 0.15
    fail: float = 0.1
    lag: float = 0.1
    leave_out: float = 0.1
    null: float = 0.05


QUIET = Faults(skip=0, fork=0, fail=0, lag=0, leave_out=0, null=0)


@dataclass
class SimulatedNode:
    """The chain, and the node that serves it. `tick` makes it longer."""

    seed: int
    faults: Faults = field(default_factory=Faults)
    where: str = "simulated"
    now: int = -1
    main: dict[int, Link] = field(default_factory=dict)
    forks: dict[int, tuple[Link, int]] = field(default_factory=dict)
    """Blocks off the main chain, and the tick at which each dies."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.calls = random.Random(self.seed + 1)

    def tick(self) -> int:
        """Begin the next slot."""
        self.now += 1
        slot, tip = self.now, max(self.main, default=None)
        parent = self.main[tip] if tip is not None else None
        draw = self.random.random()
        if slot == 0 or draw >= self.faults.skip + self.faults.fork:
            self.main[slot] = self._child(slot, parent, "main")
        elif draw >= self.faults.skip:
            # A block of the main chain that a fork replaces, or one in a slot that the main chain skips.
            self.forks[slot] = (self._child(slot, parent, "fork"), slot + 1 + self.random.randrange(DEPTH - 1))
            if self.random.random() < 0.5:
                self.main[slot] = self._child(slot, parent, "main")
        return slot

    def _child(self, slot: int, parent: Link | None, name: str) -> Link:
        return Link(slot, hash_of(self.seed, name, slot), parent.slot if parent else 0, parent.block_hash if parent else hash_of("genesis"))

    def final(self) -> dict[int, str | None]:
        """What must be landed in the end: the hash of each slot up to the finalized tip, None where skipped."""
        tip = self.tip(self.now - DEPTH)
        return {slot: self.main[slot].block_hash if slot in self.main else None for slot in range(tip + 1)}

    def tip(self, slot: int) -> int:
        """The newest block of the main chain up to a slot."""
        return max((other for other in self.main if other <= slot), default=-1)

    def _seen(self, slot: int, commitment: Commitment) -> Link | None:
        fork = self.forks.get(slot)
        if commitment is not Commitment.FINALIZED and fork is not None and self.now < fork[1]:
            return fork[0]
        last = self.now - DEPTH if commitment is Commitment.FINALIZED else self.now - 1
        return self.main.get(slot) if slot <= last else None

    def _may_fail(self) -> None:
        if self.calls.random() < self.faults.fail:
            raise SourceUnreachableError("a call failed", where=self.where, remedy="try again")

    async def genesis_hash(self) -> str:
        self._may_fail()
        return hash_of(self.seed, "genesis")

    async def first_available(self) -> int:
        return 0

    async def tips(self) -> Tips:
        self._may_fail()
        behind = self.calls.randrange(5) if self.calls.random() < self.faults.lag else 0
        return Tips(self.now, max(self.tip(self.now - 1 - behind), 0), max(self.tip(self.now - DEPTH - behind), 0))

    async def listed(self, first: int, last: int, commitment: Commitment) -> list[int]:
        self._may_fail()
        slots = [slot for slot in range(first, last + 1) if self._seen(slot, commitment)]
        return [slot for slot in slots if self.calls.random() >= self.faults.leave_out]

    async def link(self, slot: int, commitment: Commitment) -> Link | Unfetched:
        self._may_fail()
        return self._seen(slot, commitment) or Unfetched(slot, "null result")

    async def block(self, slot: int, commitment: Commitment) -> Fetched | Unfetched:
        self._may_fail()
        link = self._seen(slot, commitment)
        if link is None or self.calls.random() < self.faults.null:
            return Unfetched(slot, "null result")
        record = RawRecord(slot, SlotState.PRESENT, "getBlock", block_of(link), block_hash=link.block_hash, parent_slot=link.parent_slot)
        return Fetched(link, record)
