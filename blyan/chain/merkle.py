"""Merkle trees: a digest of a list of which single items, and many at once, can be shown to be in it.

Belongs here: trees of any arity, their roots, proofs and how these are checked. Does not belong here: what the leaves are, the log of a
chain (`blyan.chain.log`), which is the binary tree without the length.

    leaf  = SHA-256(0x00 ‖ bytes)
    node  = SHA-256(0x01 ‖ children), up to `arity` of them
    root  = SHA-256(0x02 ‖ arity as one byte ‖ number of leaves as 8 bytes, big-endian ‖ top)

Items are grouped from the left, level by level, until one is left, the top; a group of one goes up as it is. With arity 2 the top is the
tree hash of RFC 6962, section 2.1. The top of no leaves is SHA-256 of nothing. Tiles of tensors use arity 8, which takes fewer levels;
binary trees have the smaller proofs (7 hashes for 96 leaves; with arity 8 at most 15).

A proof is the hashes that are missing on the way up, from the lowest level, each level from the left. Nothing else is in it: which are
missing follows from the number of leaves and the places that are shown, so no proof can be read in two ways.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from blyan.errors import PermanentError

HASH_BYTES = 32

MAX_LEAVES = 2**63

EMPTY = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes | memoryview) -> bytes:
    """The hash of a leaf's bytes."""
    digest = hashlib.sha256(b"\0")
    digest.update(data)
    return digest.digest()


def node_hash(children: Sequence[bytes]) -> bytes:
    """The hash of a node over its children's hashes."""
    return hashlib.sha256(b"\1" + b"".join(children)).digest()


def bound(top: bytes, leaves: int, arity: int) -> bytes:
    """The root: the top with the number of leaves and the arity."""
    return hashlib.sha256(b"\2" + bytes([arity]) + leaves.to_bytes(8, "big") + top).digest()


class Frontier:
    """A tree that leaves are added to, one after the other, in a few hundred bytes whatever its size.

    Args:
        arity: 2 to 255.

    Attributes:
        size: leaves so far.
        levels: of each level, the hashes that wait for their group to be full.
    """

    def __init__(self, arity: int, *, size: int = 0, levels: Iterable[Iterable[bytes]] = ()) -> None:
        _check_arity(arity)
        self.arity, self.size = arity, size
        self.levels = [list(level) for level in levels]
        if [len(level) for level in self.levels] != [len(level) for level in _waiting(size, arity)]:
            raise PermanentError(f"they are not what waits after {size} leaves", where="frontier", remedy="make it again from the leaves")

    def add(self, leaf: bytes) -> None:
        """Add the hash of a leaf."""
        self.size += 1
        carried, level = leaf, 0
        while True:
            if level == len(self.levels):
                self.levels.append([])
            waiting = self.levels[level]
            waiting.append(carried)
            if len(waiting) < self.arity:
                return
            carried, self.levels[level] = node_hash(waiting), []
            level += 1

    def top(self) -> bytes:
        """The top of the tree of the leaves so far."""
        carried: bytes | None = None
        for waiting in self.levels:
            group = waiting if carried is None else [*waiting, carried]
            if group:
                carried = group[0] if len(group) == 1 else node_hash(group)
        return EMPTY if carried is None else carried

    def root(self) -> bytes:
        """The root of the tree of the leaves so far."""
        return bound(self.top(), self.size, self.arity)


class Tree:
    """A tree that can prove: all hashes of all levels, 32 bytes each.

    Args:
        leaves: hashes of the leaves, in order.
        arity: 2 to 255.
    """

    def __init__(self, leaves: Iterable[bytes], arity: int) -> None:
        _check_arity(arity)
        self.arity = arity
        self.levels: list[list[bytes]] = [list(leaves)]
        while len(below := self.levels[-1]) > 1:
            groups = (below[first : first + arity] for first in range(0, len(below), arity))
            self.levels.append([group[0] if len(group) == 1 else node_hash(group) for group in groups])

    @property
    def size(self) -> int:
        """Leaves in it."""
        return len(self.levels[0])

    def top(self) -> bytes:
        """The last hash that is left."""
        return self.levels[-1][0] if self.levels[0] else EMPTY

    def root(self) -> bytes:
        """The top with the number of leaves and the arity."""
        return bound(self.top(), self.size, self.arity)

    def prove(self, places: Iterable[int]) -> list[bytes]:
        """That the leaves at these places are in the tree.

        Raises:
            PermanentError: none is asked for, or one that is not there.
        """
        known = sorted(set(places))
        if not known or known[0] < 0 or known[-1] >= self.size:
            raise PermanentError(f"places {known[:3]} of {self.size} leaves", where="Merkle proof", remedy="ask for places that the tree has")
        proof: list[bytes] = []
        for level in self.levels[:-1]:
            groups = sorted({place // self.arity for place in known})
            here = set(known)
            for group in groups:
                members = range(group * self.arity, min((group + 1) * self.arity, len(level)))
                proof.extend(level[member] for member in members if member not in here)
            known = groups
        return proof


def top_of_proof(leaves: Mapping[int, bytes], size: int, arity: int, proof: Sequence[bytes]) -> bytes | None:
    """The top that hashes of leaves by place and a proof lead to; None where the proof has too much, too little, or what is no hash.

    Args:
        leaves: at least one.
        size: leaves of the tree.
        arity: of the tree.
        proof: from `Tree.prove`.
    """
    if not leaves or min(leaves) < 0 or not max(leaves) < size <= MAX_LEAVES or any(len(item) != HASH_BYTES for item in [*proof, *leaves.values()]):
        return None
    known, rest, width = dict(leaves), iter(proof), size
    while width > 1:
        above: dict[int, bytes] = {}
        for group in sorted({place // arity for place in known}):
            members = range(group * arity, min((group + 1) * arity, width))
            hashes = [known[member] if member in known else next(rest, b"") for member in members]
            if b"" in hashes:
                return None
            above[group] = hashes[0] if len(hashes) == 1 else node_hash(hashes)
        known, width = above, -(-width // arity)
    return known[0] if next(rest, None) is None else None


def is_included(leaves: Mapping[int, bytes], size: int, arity: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether a proof shows that these hashes of leaves stand at their places in the tree with this root."""
    top = top_of_proof(leaves, size, arity, proof)
    return top is not None and bound(top, size, arity) == root


def _waiting(size: int, arity: int) -> list[range]:
    """As many items in each level as wait there after `size` leaves."""
    levels = []
    while size:
        levels.append(range(size % arity))
        size //= arity
    return levels


def _check_arity(arity: int) -> None:
    if not 2 <= arity <= 255:
        raise PermanentError(f"an arity of {arity}", where="Merkle tree", remedy="choose from 2 to 255")
