"""How a block fits to those before it.

Belongs here: what is asked of a block when other blocks are known: place, link, dependencies, time, payload, kind, signature. Does not belong
here: what a header keeps by itself (`blyan.chain.block`), reading a chain (`blyan.chain.store`), reports (`blyan.chain.verify`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from blyan.chain import governance
from blyan.chain.block import Header, InvalidBlockError, Ref, read_header, signature_holds
from blyan.chain.payloads import ABSENT, Payloads

MAX_AHEAD_NS = 600 * 10**9
"""How far a block's time may be ahead of the clock of who looks at it."""


class MissingDependencyError(InvalidBlockError):
    """A block depends on one that is not here, and may come yet."""


class Row(NamedTuple):
    """A block as it is kept. `hash` and `signature` are hex, `header` canonical bytes."""

    height: int
    hash: str
    header: bytes
    signature: str


class Place(NamedTuple):
    """What others need to know of a block that they depend on."""

    hash: str
    time_ns: int
    kind: str


Lookup = Callable[[str, int], Place | None]
"""The block at a height of a chain; None where there is none."""


@dataclass
class Progress:
    """A chain as far as it was looked at.

    Attributes:
        chain: `A`, `B` or `D`.
        network: that it must be of; None before the genesis block of A.
        size: blocks so far.
        head: hash of the last one; None where there is none.
        time_ns: of the last one.
    """

    chain: str
    network: str | None
    size: int = 0
    head: str | None = None
    time_ns: int = 0

    def take(self, row: Row, lookup: Lookup, now_ns: int) -> Header:
        """Check the next block against the blocks before it; `payload` and `signature` are checked by themselves.

        Whatever is wrong with it, it is the last one from now on, so that the next block is judged by itself.

        Args:
            row: the block.
            lookup: blocks that it may depend on.
            now_ns: the time, nanoseconds since 1970.

        Raises:
            InvalidBlockError: it does not fit; the first field that does not.
        """
        found = hashlib.sha256(row.header).hexdigest()
        height, head, before_ns = self.size, self.head, self.time_ns
        self.size, self.head = height + 1, found
        header = read_header(row.header)
        time_ns = self.time_ns = int(header.time_ns)
        if self.network is None and header.chain == "A" and header.height == 0:
            self.network = header.network
        if header.network != self.network:
            raise InvalidBlockError(f"of another network, and this is {(self.network or 'none')[:12]}", field="network")
        if header.chain != self.chain:
            raise InvalidBlockError(f"{header.chain}, and this is chain {self.chain}", field="chain")
        if not header.height == row.height == height:
            raise InvalidBlockError(f"{header.height} in the header, {row.height} in the table, and it is block {height}", field="height")
        if header.previous != head:
            raise InvalidBlockError(f"{header.previous}, and the block before is {head}", field="previous")
        for ref in header.depends_on:
            _check_dependency(ref, lookup(ref.chain, ref.height), time_ns)
        if time_ns < before_ns:
            raise InvalidBlockError(f"{time_ns - before_ns} ns after the block before", field="time_ns")
        if time_ns > now_ns + MAX_AHEAD_NS:
            raise InvalidBlockError(f"{(time_ns - now_ns) / 1e9:.0f} s ahead of this clock", field="time_ns")
        if found != row.hash:
            raise InvalidBlockError(f"{row.hash} in the table, and the header has {found}", field="block_hash")
        return header


def check_payload(header: Header, payloads: Payloads, lookup: Lookup, *, may_be_absent: bool = False) -> bool:
    """Check the payload of a block, and where the chain itself reads it, what it says; whether it is here.

    Raises:
        InvalidBlockError: it is damaged, absent, or not what the kind says.
    """
    problem = payloads.problem(header.payload_sha256, header.payload_size)
    if problem is not None:
        if problem[1] == ABSENT and may_be_absent:
            return False
        raise InvalidBlockError(problem[1], field=problem[0], remedy="sync again from a node that has it")
    if header.chain == "A" and header.kind in governance.KINDS:
        check_rules_payload(header, payloads.get(header.payload_sha256), lookup)
    return True


def check_rules_payload(header: Header, payload: bytes, lookup: Lookup) -> None:
    """Check what a block of A says that changes the rules of the network; of any other block nothing.

    Raises:
        InvalidBlockError: it is not what the kind says.
    """
    if header.chain == "A" and header.kind in governance.KINDS:

        def kind_at(height: int) -> str | None:
            place = lookup("A", height)
            return None if place is None else place.kind

        governance.check_payload(header, payload, kind_at)


def check_signature(header: Header, row: Row) -> None:
    """Refuse a block that its producer did not sign.

    Raises:
        InvalidBlockError: of the field `signature`.
    """
    if not signature_holds(header.producer, row.hash, row.signature):
        raise InvalidBlockError("it is not the producer's", field="signature")


def place_of(row: Row) -> Place:
    """What others need to know of a block."""
    header = read_header(row.header)
    return Place(hashlib.sha256(row.header).hexdigest(), int(header.time_ns), header.kind)


def readable_place(row: Row) -> Place | None:
    """The same; None where the header cannot be read."""
    try:
        return place_of(row)
    except InvalidBlockError:
        return None


def _check_dependency(ref: Ref, place: Place | None, time_ns: int) -> None:
    if place is None:
        raise MissingDependencyError(f"{ref} is not here", field="depends_on", remedy="sync that chain first")
    if place.hash != ref.hash:
        raise InvalidBlockError(f"{ref} is another block: {place.hash[:12]}", field="depends_on")
    if place.time_ns > time_ns:
        raise InvalidBlockError(f"{ref} is {place.time_ns - time_ns} ns younger", field="depends_on")
