"""Chains from another node: in full, or from a checkpoint on.

Belongs here: what is asked of a peer, in which order, and what is believed. Does not belong here: how a peer is reached; `Peer` is all that
is needed of one, and the chains of another lake are one.

In full, every block is verified like one of our own before it is appended; nothing of a peer is believed. Fast, a checkpoint stands for the
headers below it: the peer gives the tops of the log's subtrees of `SUBTREE` blocks, they must lead to the top that was signed, and then every
batch of headers must lead to its own. So a liar is found at the first batch, and what was appended is right even if the rest never comes.
Payloads below it are not fetched. Chain A is always synced in full: it has the rules, and says whose checkpoints count.

What is appended is where a sync that was cut off goes on. A chain that is longer and wrong is refused at its first wrong block, one that has
another block than ours at a height is refused whatever its length: nobody decides by length here.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from blyan.chain import marks
from blyan.chain.block import CHAINS, Block, InvalidBlockError, read_header
from blyan.chain.checkpoints import log_of, newest
from blyan.chain.log import ARITY, ForkError, SignedHead, TreeHeadError, Trust, entry_hash
from blyan.chain.merkle import Frontier, Tree
from blyan.chain.rules import MissingDependencyError, Row
from blyan.chain.store import Chains, Offered

SUBTREE_LEVEL = 10
SUBTREE = 1 << SUBTREE_LEVEL
"""Blocks of a subtree of the log, and of a batch."""


class Peer(Protocol):
    """What another node is asked for. Nothing it says is believed."""

    @property
    def network(self) -> str:
        """The id of its network."""

    def size(self, chain: str) -> int:
        """Blocks of a chain."""

    def rows(self, chain: str, first: int = 0, end: int | None = None) -> Iterator[Row]:
        """Blocks by height, `end` left out."""

    def payload(self, digest: str) -> bytes:
        """The payload with this SHA-256."""

    def heads(self, chain: str) -> list[SignedHead]:
        """Signed heads of a chain."""

    def subtrees(self, chain: str, size: int) -> list[bytes]:
        """Tops of the subtrees of `SUBTREE` blocks of the log of the first `size` blocks; the last one may have fewer."""


class LakePeer:
    """The chains of another lake, in a folder or a bucket."""

    def __init__(self, chains: Chains) -> None:
        self.chains = chains

    @property
    def network(self) -> str:
        """As `Peer`, and so are the others."""
        return self.chains.network

    def size(self, chain: str) -> int:
        """Blocks of a chain."""
        return self.chains.size(chain)

    def rows(self, chain: str, first: int = 0, end: int | None = None) -> Iterator[Row]:
        """Blocks by height."""
        return self.chains.rows(chain, first, end)

    def payload(self, digest: str) -> bytes:
        """A payload."""
        return self.chains.payloads.get(digest)

    def heads(self, chain: str) -> list[SignedHead]:
        """Signed heads."""
        return marks.heads(self.chains.lake.store, chain)

    def subtrees(self, chain: str, size: int) -> list[bytes]:
        """Tops of subtrees."""
        leaves = log_of(self.chains, chain, size).leaves
        return [Tree(leaves[first : first + SUBTREE], ARITY).top() for first in range(0, len(leaves), SUBTREE)]


@dataclass
class Synced:
    """What a sync did to a chain.

    Attributes:
        size: blocks now.
        verified: blocks that were verified one by one.
        trusted: blocks that a checkpoint stands for.
    """

    chain: str
    size: int = 0
    verified: int = 0
    trusted: int = 0


def sync(chains: Chains, peer: Peer, *, network: str | None = None, fast: bool = False, trust: Trust | None = None) -> dict[str, Synced]:
    """Bring every chain to where the peer's is. Can be cut off at any moment, and run again.

    Args:
        chains: ours.
        peer: who has more.
        network: id of the network that it must be; by default ours, and where we have none, whatever the peer's is.
        fast: whether a checkpoint stands for the headers of B and D below it.
        trust: whose checkpoints count; by default those that chain A names.

    Raises:
        InvalidBlockError: the peer offered a block that breaks a rule. What came before it is kept: it is right.
        ForkError: the peer has another history.
        TreeHeadError: the peer has no checkpoint that is signed well enough, or not the blocks that were signed.
        MissingObjectError: the peer has not the payload of a block that needs one.
    """
    expected = network or (chains.network if chains.size("A") else peer.network)
    if peer.network != expected or (chains.size("A") and chains.network != expected):
        what = f"the peer's network is {peer.network[:12]}, and {expected[:12]} is wanted"
        raise ForkError(what, where="sync", remedy="ask a peer of the same network")
    done = {chain: Synced(chain) for chain in CHAINS}
    trusted = set[str]() if fast else set(CHAINS)
    while True:
        waiting, moved = None, 0
        for chain in CHAINS:
            if chain != "A" and chain not in trusted:
                done[chain].trusted = _adopt(chains, peer, chain, trust or chains.governance().trust())
                trusted.add(chain)
            verified, error = _extend(chains, peer, chain, expected)
            done[chain].verified += verified
            moved += verified
            waiting = waiting or error
        if waiting is None:
            break
        if not moved:
            raise waiting
    for chain in CHAINS:
        done[chain].size = chains.size(chain)
    return done


def _extend(chains: Chains, peer: Peer, chain: str, network: str) -> tuple[int, MissingDependencyError | None]:
    """Append what the peer has beyond ours, as far as it depends on nothing that is not here; how much, and what it waits for."""
    size, theirs = chains.size(chain), peer.size(chain)
    _same_history(chains, peer, chain, min(size, theirs))
    appended = 0
    for batch in _batches(peer, chain, size, theirs):
        offered, unreadable = _offered(peer, batch)
        good, misfit = chains.fitting(chain, offered, network=network)
        chains.commit(chain, [item.row for item in good])
        appended += len(good)
        if isinstance(misfit, MissingDependencyError):
            return appended, misfit
        if (wrong := misfit or unreadable) is not None:
            raise wrong
    return appended, None


def _batches(peer: Peer, chain: str, first: int, end: int) -> Iterator[list[Row]]:
    """The peer's rows, a bounded number at once."""
    for start in range(first, end, SUBTREE):
        rows = _rows(peer, chain, start, min(start + SUBTREE, end))
        if len(rows) != min(start + SUBTREE, end) - start:
            what = f"the peer says that it has {end} blocks, and gives {len(rows)} of those from {start} on"
            raise InvalidBlockError(what, field="height", where=f"{chain}:{start + len(rows)}", remedy="ask another peer")
        yield rows


def _rows(source: Peer | Chains, chain: str, first: int, end: int) -> list[Row]:
    """Rows of a peer or of our own; of more than were asked for, one more, so that it shows."""
    return list(itertools.islice(source.rows(chain, first, end), end - first + 1))


def _offered(peer: Peer, rows: list[Row]) -> tuple[list[Offered], InvalidBlockError | None]:
    """Blocks up to the first that cannot be read, and why that cannot. A payload is fetched when its block is found to be right."""
    offered: list[Offered] = []
    for row in rows:
        try:
            header = read_header(row.header)
        except InvalidBlockError as error:
            return offered, error
        offered.append(Offered(Block(row.header, row.signature, header), partial(peer.payload, header.payload_sha256)))
    return offered, None


def _adopt(chains: Chains, peer: Peer, chain: str, trust: Trust) -> int:
    """Take the headers below the peer's newest checkpoint; how many were new."""
    signed = newest(peer.heads(chain), trust)
    if signed is None:
        what = f"the peer has no checkpoint of {chain} that {trust.threshold} of {len(trust.keys)} keys signed"
        raise TreeHeadError(what, where="fast sync", remedy="ask another peer, or sync in full")
    head, before = signed.head, chains.size(chain)
    if head.network != chains.network:
        raise TreeHeadError(f"the checkpoint is of network {head.network[:12]}", where="fast sync", remedy="ask a peer of the same network")
    if head.size <= before:
        return 0
    tops = peer.subtrees(chain, head.size)
    if len(tops) != -(-head.size // SUBTREE) or Tree(tops, ARITY).top().hex() != head.root:
        raise TreeHeadError("the peer's log is not the one that was signed", where=f"{chain} at {head.size}", remedy="ask another peer")
    marks.put_pruned(chains.lake.store, chain, head.size)
    frontier = Frontier(ARITY)
    for number, top in enumerate(tops):
        first, end = number * SUBTREE, min((number + 1) * SUBTREE, head.size)
        rows = _rows(chains if end <= before else peer, chain, first, end)
        leaves = [_leaf(row, first + at) for at, row in enumerate(rows)]
        if len(rows) != end - first or Tree(leaves, ARITY).top() != top:
            whose = "our own" if end <= before else "the peer's"
            raise TreeHeadError(f"{whose} blocks {first} to {end - 1} are not those that were signed", where=chain, remedy="ask another peer")
        if end > before:
            chains.commit(chain, rows)
        for leaf in leaves:
            frontier.add(leaf)
    levels = [[item.hex() for item in level] for level in frontier.levels]
    marks.put_verified(chains.lake.store, marks.Verified(head.network, chain, head.size, head.head, head.time_ns, levels))
    marks.put_head(chains.lake.store, SignedHead(head, {key: signed.signatures[key] for key in signed.signers(trust.keys)}))
    return head.size - before


def _leaf(row: Row, height: int) -> bytes:
    """The leaf of a row that a peer gave; of nothing where its hash is not that of its header, or it is at another height."""
    found = hashlib.sha256(row.header).hexdigest()
    try:
        return entry_hash(found, row.signature) if row.hash == found and row.height == height else b""
    except InvalidBlockError:
        return b""


def _same_history(chains: Chains, peer: Peer, chain: str, size: int) -> None:
    """Refuse a peer whose block at the last height that both have is another one."""
    if size:
        ours, theirs = chains.row(chain, size - 1), next(peer.rows(chain, size - 1, size), None)
        if theirs is None or theirs.hash != ours.hash:
            what = f"block {size - 1} of {chain} is {ours.hash[:12]} here and {theirs.hash[:12] if theirs else 'absent'} there"
            raise ForkError(what, where=f"{chain}:{size - 1}", remedy="find out which is right: nobody decides by length")
