"""A second verifier of logs and trees, written from the words of RFC 6962 and of docs/chain.md alone: recursive, from lists of leaves.

Belongs here: definitions as the texts have them, slow. Does not belong here: anything of `blyan`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def largest_power(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(entries: Sequence[bytes]) -> bytes:
    """RFC 6962, section 2.1: the Merkle Tree Hash of entries, which are bytes and not yet hashes."""
    match len(entries):
        case 0:
            return sha(b"")
        case 1:
            return sha(b"\x00" + entries[0])
        case n:
            k = largest_power(n)
            return sha(b"\x01" + mth(entries[:k]) + mth(entries[k:]))


def root_from_path(leaf: bytes, m: int, n: int, path: list[bytes]) -> bytes | None:
    """RFC 6962, section 2.1.1, read backwards: the root that PATH(m, D[n]) leads to. The path is used up from its end."""
    if n == 1:
        return leaf if not path else None
    if not path:
        return None
    k, last = largest_power(n), path[-1]
    if m < k:
        below = root_from_path(leaf, m, k, path[:-1])
        return None if below is None else sha(b"\x01" + below + last)
    below = root_from_path(leaf, m - k, n - k, path[:-1])
    return None if below is None else sha(b"\x01" + last + below)


def roots_from_subproof(m: int, n: int, whole: bool, old_root: bytes, path: list[bytes]) -> tuple[bytes, bytes] | None:
    """RFC 6962, section 2.1.2, read backwards: the old and the new root that SUBPROOF(m, D[n], whole) leads to."""
    if m == n:
        if whole:
            return (old_root, old_root) if not path else None
        return (path[0], path[0]) if len(path) == 1 else None
    if not path:
        return None
    k, last = largest_power(n), path[-1]
    if m <= k:
        below = roots_from_subproof(m, k, whole, old_root, path[:-1])
        return None if below is None else (below[0], sha(b"\x01" + below[1] + last))
    below = roots_from_subproof(m - k, n - k, False, old_root, path[:-1])
    return None if below is None else (sha(b"\x01" + last + below[0]), sha(b"\x01" + last + below[1]))


def consistent(m: int, n: int, old_root: bytes, new_root: bytes, path: list[bytes]) -> bool:
    if m == 0:
        return not path and old_root == sha(b"")
    return roots_from_subproof(m, n, True, old_root, path) == (old_root, new_root)


def top(items: list[bytes], arity: int) -> bytes:
    """docs/chain.md: items are grouped from the left, and a group of one goes up as it is. `items` are hashes of leaves."""
    if not items:
        return sha(b"")
    if len(items) == 1:
        return items[0]
    groups = [items[first : first + arity] for first in range(0, len(items), arity)]
    return top([group[0] if len(group) == 1 else sha(b"\x01" + b"".join(group)) for group in groups], arity)


def root(items: list[bytes], arity: int) -> bytes:
    return sha(b"\x02" + bytes([arity]) + len(items).to_bytes(8, "big") + top(items, arity))


def tampered(proof: list[bytes]) -> Iterator[list[bytes]]:
    """Everything that one hand can do to a proof."""
    for index in range(len(proof)):
        flipped = bytes([proof[index][0] ^ 1]) + proof[index][1:]
        yield [*proof[:index], flipped, *proof[index + 1 :]]
        yield [*proof[:index], *proof[index + 1 :]]
        yield [*proof[:index], proof[index], *proof[index:]]
        yield [*proof[:index], proof[index][:-1], *proof[index + 1 :]]
    yield [*proof, bytes(32)]
    yield [bytes(32), *proof]
    for index in range(len(proof) - 1):
        if proof[index] != proof[index + 1]:
            yield [*proof[:index], proof[index + 1], proof[index], *proof[index + 2 :]]
