"""What a node remembers of a chain besides its blocks: how far it was verified, below which height payloads left, signed heads.

Belongs here: small objects beside the tables, and their form. Does not belong here: making them (`verify`, `pruning`, `checkpoints`).

Nothing of this is believed by anybody else. A node that loses it verifies again.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from blyan.chain.canonical import NotCanonicalError, encode, parse
from blyan.chain.log import ARITY, SignedHead, read_head
from blyan.chain.merkle import Frontier
from blyan.errors import MissingObjectError, PermanentError
from blyan.store import Store

FOLDER = "chain/marks"
HEADS = "chain/heads"


class Verified(Struct, frozen=True, forbid_unknown_fields=True):
    """A chain up to a block that was verified, as it was then.

    Attributes:
        size: blocks.
        head: hash of the last one, hex.
        time_ns: of the last one, in decimal.
        levels: `Frontier.levels` of the log, hex.
    """

    network: str
    chain: str
    size: int
    head: str
    time_ns: str
    levels: list[list[str]]

    def frontier(self) -> Frontier:
        """The log so far."""
        return Frontier(ARITY, size=self.size, levels=[[bytes.fromhex(item) for item in level] for level in self.levels])


class Pruned(Struct, frozen=True, forbid_unknown_fields=True):
    """Payloads of blocks below this height may be absent."""

    below: int


Mark = TypeVar("Mark", Verified, Pruned)


def verified(store: Store, chain: str) -> Verified | None:
    """How far a chain was verified; None where it never was."""
    return _read(store, f"{FOLDER}/verified-{chain}.json", Verified)


def pruned_below(store: Store, chain: str) -> int:
    """The height from which on every payload must be there."""
    mark = _read(store, f"{FOLDER}/pruned-{chain}.json", Pruned)
    return 0 if mark is None else mark.below


def put_verified(store: Store, mark: Verified) -> None:
    """Remember it."""
    store.put(f"{FOLDER}/verified-{mark.chain}.json", encode(mark))


def put_pruned(store: Store, chain: str, below: int) -> None:
    """Remember it; payloads never come back below a height."""
    if below > pruned_below(store, chain):
        store.put(f"{FOLDER}/pruned-{chain}.json", encode(Pruned(below)))


def put_head(store: Store, signed: SignedHead) -> None:
    """Keep the signatures of a head, each in an object of its own, so that signers need not wait for each other."""
    for key, signature in signed.signatures.items():
        store.put(f"{HEADS}/{signed.head.chain}/{signed.head.size:016d}-{key}.json", SignedHead(signed.head, {key: signature}).encoded())


def heads(store: Store, chain: str) -> list[SignedHead]:
    """All that was kept, signatures of the same head together, the largest first."""
    found: dict[object, SignedHead] = {}
    for name in store.listed(f"{HEADS}/{chain}"):
        if name.endswith(".json"):
            signed = read_head(store.get(f"{HEADS}/{chain}/{name}"))
            known = found.get(signed.head)
            found[signed.head] = signed if known is None else SignedHead(signed.head, known.signatures | signed.signatures)
    return sorted(found.values(), key=lambda signed: -signed.head.size)


def _read(store: Store, name: str, kind: type[Mark]) -> Mark | None:
    try:
        data = store.get(name)
    except MissingObjectError:
        return None
    try:
        return msgspec.convert(parse(data, where=name), kind)
    except (NotCanonicalError, msgspec.ValidationError) as error:
        raise PermanentError(f"what was remembered is damaged: {error}", where=store.uri(name), remedy="delete it, and verify in full") from error
