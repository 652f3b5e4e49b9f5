"""The log of a chain: its blocks as a tree that only grows, in the manner of RFC 6962 and RFC 9162.

Belongs here: the tree over a chain, what is said of it at a size and signed (tree heads), proofs that a block is in it and that an older
tree is the beginning of a newer one. Does not belong here: who keeps an eye on a log (`blyan.chain.witness`), reading a chain.

Leaf number i is block i: SHA-256(0x00 ‖ the hash of its header ‖ its signature), so the top covers every byte that a chain keeps. The tree
is that of RFC 6962, section 2.1, and the proofs are those of RFC 9162, sections 2.1.3 and 2.1.4.

A tree head holds nothing that depends on who states it: its time is that of the last block. So any number of keys sign the same head.
One with signatures of k of n known keys is a checkpoint.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from blyan.chain.block import CHAINS, InvalidBlockError
from blyan.chain.canonical import MAX_INTEGER, NotCanonicalError, encode, parse
from blyan.chain.merkle import EMPTY, HASH_BYTES, Tree, leaf_hash, node_hash, top_of_proof
from blyan.ed25519 import SigningKey, verify_ed25519
from blyan.errors import PermanentError

ARITY = 2

SIGNED_AS = b"blyan tree head 1\n"
"""Stands before the SHA-256 of the canonical head in what is signed."""

_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_TIME = re.compile(r"0|[1-9][0-9]{0,18}")


class TreeHeadError(PermanentError):
    """A tree head is none, or is not signed by those who must sign it."""


class ForkError(PermanentError):
    """Two histories of one chain, or a shorter one than before."""


class TreeHead(Struct, frozen=True, forbid_unknown_fields=True):
    """A chain at a size.

    Attributes:
        network: as in headers.
        chain: `A`, `B` or `D`.
        size: blocks, one at least.
        root: top of the tree over them, hex.
        head: hash of the last block, hex.
        time_ns: of the last block, in decimal.
    """

    network: str
    chain: str
    size: int
    root: str
    head: str
    time_ns: str

    def message(self) -> bytes:
        """What is signed."""
        return SIGNED_AS + hashlib.sha256(encode(self)).digest()


class SignedHead(Struct, frozen=True, forbid_unknown_fields=True):
    """A tree head and signatures of it by key, both hex."""

    head: TreeHead
    signatures: dict[str, str]

    def encoded(self) -> bytes:
        """The canonical bytes."""
        return encode(self)

    def signers(self, keys: Collection[str]) -> set[str]:
        """Those of some keys whose signatures hold; others are not looked at."""
        message = self.head.message()
        signed = {key: self.signatures[key] for key in keys if key in self.signatures}
        return {key for key, signature in signed.items() if verify_ed25519(_bytes(key), message, _bytes(signature))}

    def signed_by(self, key: SigningKey) -> SignedHead:
        """The same with one more signature."""
        return SignedHead(self.head, self.signatures | {key.public.hex(): key.sign(self.head.message()).hex()})


@dataclass(frozen=True)
class Trust:
    """Whose signatures make a tree head a checkpoint: `threshold` of `keys` (public, hex)."""

    keys: frozenset[str]
    threshold: int

    def __post_init__(self) -> None:
        if odd := [key for key in self.keys if _HASH.fullmatch(key) is None]:
            raise TreeHeadError(
                f"{odd[0]!r} is no public key", where="checkpoint", remedy="give 64 hex digits in lower case, as `blyan chain key` shows them"
            )
        if not 1 <= self.threshold <= len(self.keys):
            raise TreeHeadError(
                f"{self.threshold} of {len(self.keys)} keys", where="checkpoint", remedy="ask for one at least, and no more than there are"
            )

    def check(self, signed: SignedHead) -> None:
        """Refuse a head that too few of the keys signed.

        Raises:
            TreeHeadError: it is not signed as it must be.
        """
        good = len(signed.signers(self.keys))
        if good < self.threshold:
            what = f"{good} signatures that count, and {self.threshold} of {len(self.keys)} keys must have signed"
            raise TreeHeadError(what, where=f"{signed.head.chain} at {signed.head.size}", remedy="gather more signatures, or do not trust it")


def read_head(data: bytes) -> SignedHead:
    """The signed head of which these are the canonical bytes; signatures are not checked yet.

    Raises:
        TreeHeadError: they are none.
    """
    try:
        signed = msgspec.convert(parse(data, where="tree head"), SignedHead)
    except (NotCanonicalError, msgspec.ValidationError) as error:
        raise TreeHeadError(f"it is no signed tree head: {error}", where="tree head", remedy="docs/chain.md says what one is") from error
    head = signed.head
    hashes = all(_HASH.fullmatch(value) for value in (head.network, head.root, head.head))
    signatures = all(_HASH.fullmatch(key) and _SIGNATURE.fullmatch(value) for key, value in signed.signatures.items())
    if not hashes or not signatures or head.chain not in CHAINS or not 1 <= head.size <= MAX_INTEGER or _TIME.fullmatch(head.time_ns) is None:
        raise TreeHeadError("a field is not as it must be", where="tree head", remedy="docs/chain.md says what one is")
    return signed


def joined(heads: Collection[SignedHead]) -> SignedHead:
    """One head with the signatures of all.

    Raises:
        TreeHeadError: they are of different heads, or there is none.
    """
    if len({signed.head for signed in heads}) != 1:
        raise TreeHeadError(
            "they are not signatures of one head", where="checkpoint", remedy="join signatures of the same size; if they are, the chains differ"
        )
    signatures = {key: signature for signed in heads for key, signature in signed.signatures.items()}
    return SignedHead(next(iter(heads)).head, signatures)


def entry_hash(block_hash: str, signature: str) -> bytes:
    """The leaf of a block; both in hex.

    Raises:
        InvalidBlockError: one is not: capitals would be other bytes of the same leaf.
    """
    if _HASH.fullmatch(block_hash) is None or _SIGNATURE.fullmatch(signature) is None:
        field = "signature" if _HASH.fullmatch(block_hash) else "block_hash"
        raise InvalidBlockError("not hex digits in lower case, as many as it must have", field=field)
    return leaf_hash(bytes.fromhex(block_hash) + bytes.fromhex(signature))


@dataclass
class Log:
    """The tree over the blocks of a chain, with proofs. Takes 64 bytes a block.

    Args:
        leaves: `entry_hash` of each block, by height.
    """

    leaves: Sequence[bytes]
    _tree: Tree = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._tree = Tree(self.leaves, ARITY)

    def root(self, size: int | None = None) -> bytes:
        """The top of the tree over the first `size` blocks, by default over all."""
        wanted = self._tree.size if size is None else size
        _check_sizes(wanted, self._tree.size)
        return self._range(0, wanted)

    def inclusion(self, height: int, size: int) -> list[bytes]:
        """That block `height` is in the tree of the first `size` blocks: RFC 9162, section 2.1.3.1."""
        _check_sizes(height + 1, size, self._tree.size)
        return self._path(height, 0, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """That the tree of `old` blocks is the beginning of that of `new` blocks: RFC 9162, section 2.1.4.1. Empty where `old` is 0 or `new`."""
        _check_sizes(old, new, self._tree.size)
        proof: list[bytes] = []
        first, end, whole = 0, new, True
        if old in (0, new):
            return proof
        while old < end:
            middle = first + _split(end - first)
            if old <= middle:
                proof.append(self._range(middle, end))
                end = middle
            else:
                proof.append(self._range(first, middle))
                first, whole = middle, False
        return proof[::-1] if whole else [self._range(first, end), *proof[::-1]]

    def _path(self, height: int, first: int, end: int) -> list[bytes]:
        path = []
        while end - first > 1:
            middle = first + _split(end - first)
            if height < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(first, middle))
                first = middle
        return path[::-1]

    def _range(self, first: int, end: int) -> bytes:
        """The top over the leaves from `first` to `end`; `first` is a multiple of the power of two that holds them."""
        right: bytes | None = None
        count = end - first
        for level in range(count.bit_length()):
            if (count >> level) & 1:
                left = self._tree.levels[level][(end >> level) - 1]
                right = left if right is None else node_hash([left, right])
                end -= 1 << level
        return EMPTY if right is None else right


def is_entry(leaf: bytes, height: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether a proof shows that a leaf stands at a height of the tree with this size and top."""
    return top_of_proof({height: leaf}, size, ARITY, proof) == root


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether a proof shows that one tree is the beginning of another: RFC 9162, section 2.1.4.2. Any tree begins with the empty one."""
    if not 0 <= old <= new or any(len(item) != HASH_BYTES for item in proof):
        return False
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    one, other = old - 1, new - 1
    while one & 1:
        one, other = one >> 1, other >> 1
    first = second = path[0]
    for item in path[1:]:
        if other == 0:
            return False
        if one & 1 or one == other:
            first, second = node_hash([item, first]), node_hash([item, second])
            while not one & 1 and one:
                one, other = one >> 1, other >> 1
        else:
            second = node_hash([second, item])
        one, other = one >> 1, other >> 1
    return other == 0 and first == old_root and second == new_root


def _split(size: int) -> int:
    """The largest power of two below `size`, which is 2 at least."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_sizes(*sizes: int) -> None:
    if list(sizes) != sorted(sizes) or sizes[0] < 0:
        raise TreeHeadError(f"sizes {list(sizes)}", where="log", remedy="ask for sizes and heights that the log has, the older one first")


def _bytes(text: str) -> bytes:
    """Bytes of hex digits; none where it is none, which is no key and no signature."""
    return bytes.fromhex(text) if re.fullmatch(r"([0-9a-f]{2})*", text) else b""
