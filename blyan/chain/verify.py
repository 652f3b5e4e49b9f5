"""Whether a chain is what it says: in full, what is new, from a checkpoint, or a sample; with a report.

Belongs here: walking a chain by the rules, and what is found. Does not belong here: the rules (`blyan.chain.rules`).

In full, everything that is stored is read: each header with its link, place and dependencies, each signature, each payload. It takes time in
proportion to the chain. What is new takes time in proportion to what is new: the last verified block is remembered with the log so far. A
checkpoint stands for the blocks below it: their bytes are only hashed into the log, whose top must be the one that was signed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from blyan.chain import marks
from blyan.chain.block import Header, InvalidBlockError
from blyan.chain.log import ARITY, ForkError, SignedHead, TreeHead, TreeHeadError, Trust, entry_hash
from blyan.chain.merkle import Frontier
from blyan.chain.rules import Lookup, Place, Progress, Row, check_payload, check_signature, place_of, readable_place
from blyan.chain.store import Chains
from blyan.errors import MissingObjectError

MAX_FAULTS = 100
"""Faults that a report names; it counts all."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a block: the first field that is, as the rules look at them."""

    chain: str
    height: int
    field: str
    what: str


@dataclass
class Report:
    """What was looked at and found.

    Attributes:
        mode: `full`, `new`, `checkpoint` or `sampled`.
        size: blocks of the chain.
        blocks: that were looked at one by one.
        trusted: blocks that a checkpoint stands for.
        payloads: that were read, `payload_bytes` together.
        absent: payloads that are not here, and need not be.
        signatures: that were checked.
        faults: the first ones; `fault_count` is of all.
        root: top of the log, hex; None where there is a fault, or not every block was read.
        head: hash of the last block, hex; `time_ns` is its time.
    """

    chain: str
    mode: str
    size: int = 0
    blocks: int = 0
    trusted: int = 0
    payloads: int = 0
    payload_bytes: int = 0
    absent: int = 0
    signatures: int = 0
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    root: str | None = None
    head: str | None = None
    time_ns: int = 0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.fault_count

    def add(self, height: int, name: str, what: str) -> None:
        """Note a fault."""
        self.fault_count += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(self.chain, height, name, what))

    def tree_head(self, network: str) -> TreeHead:
        """The head of the log, where nothing is wrong and every block was counted."""
        if self.root is None or self.head is None or not self.good:
            raise ForkError(
                "there is no head of a chain that does not hold", where=f"chain {self.chain}", remedy="`blyan chain verify` says what is wrong"
            )
        return TreeHead(network, self.chain, self.size, self.root, self.head, str(self.time_ns))


def verify_full(chains: Chains, chain: str, *, network: str | None = None, signatures: bool = True, payloads: bool = True) -> Report:
    """Verify everything that is stored of a chain.

    Args:
        chains: where it is.
        chain: `A`, `B` or `D`.
        network: id of the network that it must be of; by default, whatever the genesis block of A says.
        signatures: whether to check them, the most of the time.
        payloads: whether to read them.
    """
    report = Report(chain, "full", chains.size(chain))
    if report.size:
        known = network if chain == "A" else network or chains.network
        walk = _Walk(chains, Progress(chain, known), _Index(chains), Frontier(ARITY), report, signatures, payloads)
        walk.through(chains.rows(chain, 0, report.size))
    return report


def verify_new(chains: Chains, chain: str) -> Report:
    """Verify the blocks after those that were verified before, and remember how far it is then, unless something is wrong.

    What changed below them since is not noticed, but for the last one.
    """
    mark = marks.verified(chains.lake.store, chain)
    if mark is None:
        report = Report(chain, "new", chains.size(chain))
        progress, frontier = Progress(chain, None if chain == "A" else chains.network), Frontier(ARITY)
    else:
        report = Report(chain, "new", max(chains.size(chain), mark.size))
        progress, frontier = Progress(chain, mark.network, mark.size, mark.head, int(mark.time_ns)), mark.frontier()
        if not _is_last(chains, mark):
            report.add(mark.size - 1, "block_hash", f"it was {mark.head} when it was verified")
            return report
    walk = _Walk(chains, progress, _Index(chains, one_by_one=mark is not None), frontier, report)
    walk.through(chains.rows(chain, progress.size, report.size))
    if report.good and report.blocks:
        walk.remember()
    return report


def verify_from(chains: Chains, signed: SignedHead, trust: Trust) -> Report:
    """Verify a chain from a checkpoint on. Of the blocks below it, only the log is made.

    Raises:
        TreeHeadError: too few of the keys signed it, or it is of another network.
    """
    trust.check(signed)
    head = signed.head
    if head.network != chains.network:
        what = f"it is of network {head.network[:12]}, and this is {chains.network[:12]}"
        raise TreeHeadError(what, where=f"{head.chain} at {head.size}", remedy="take a checkpoint of this network")
    report = Report(head.chain, "checkpoint", chains.size(head.chain))
    frontier = Frontier(ARITY)
    last: Row | None = None
    for row in chains.rows(head.chain, 0, min(head.size, report.size)):
        if row.height != frontier.size or hashlib.sha256(row.header).hexdigest() != row.hash:
            report.add(frontier.size, "block_hash", "the header is missing, or has another hash than the table says")
            return report
        try:
            frontier.add(entry_hash(row.hash, row.signature))
        except InvalidBlockError as error:
            report.add(row.height, error.field, error.reason)
            return report
        last = row
    report.trusted = frontier.size
    if last is None or frontier.size != head.size or frontier.top().hex() != head.root or last.hash != head.head:
        what = f"the {frontier.size} blocks here are not the {head.size} that were signed: the log has the top {frontier.top().hex()}"
        report.add(min(frontier.size, head.size) - 1, "root", what)
        return report
    progress = Progress(head.chain, head.network, head.size, head.head, int(head.time_ns))
    walk = _Walk(chains, progress, _Index(chains), frontier, report)
    walk.through(chains.rows(head.chain, head.size, report.size))
    return report


def verify_sampled(chains: Chains, chain: str, count: int, *, seed: int | None = None) -> Report:
    """Verify some blocks, each as in full, with its link to the one before.

    Of a chain of which a share f is wrong, `count` blocks miss that with probability (1 - f)^count.

    Args:
        chains: where it is.
        chain: `A`, `B` or `D`.
        count: blocks to look at; all, where there are no more.
        seed: which they are; None for others each time, which is what surprises somebody who damages a chain.
    """
    report = Report(chain, "sampled", chains.size(chain))
    source = random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311
    network = None if chain == "A" else chains.network
    for height in sorted(source.sample(range(report.size), min(count, report.size))):
        rows = list(chains.rows(chain, max(height - 1, 0), height + 1))
        progress = Progress(chain, network or chains.network, height)
        if height:
            try:
                before = place_of(rows[0])
            except (InvalidBlockError, IndexError):
                report.add(height - 1, "header", "it is missing, or cannot be read")
                continue
            progress.head, progress.time_ns = before.hash, before.time_ns
        _Walk(chains, progress, _Index(chains, one_by_one=True), None, report).through(rows[1:] if height else rows)
    return report


@dataclass
class _Walk:
    """One pass over the rows of a chain."""

    chains: Chains
    progress: Progress
    index: _Index
    frontier: Frontier | None
    report: Report
    signatures: bool = True
    payloads: bool = True

    def through(self, rows: Iterable[Row]) -> None:
        """Look at each row; what is wrong goes into the report."""
        report, progress = self.report, self.progress
        pruned = marks.pruned_below(self.chains.lake.store, progress.chain)
        now_ns, lookup, here = self.chains.clock(), self.index.lookup(progress), self.index.here
        for row in rows:
            if row.height < progress.size:
                report.add(row.height, "height", "two blocks have this height")
                continue
            if row.height > progress.size:
                report.add(progress.size, "height", f"blocks {progress.size} to {row.height - 1} are missing")
                here.extend([None] * (row.height - progress.size))
                progress.size, progress.head = row.height, None
            try:
                header = progress.take(row, lookup, now_ns)
            except InvalidBlockError as error:
                here.append(Place(progress.head or "", progress.time_ns, ""))
                report.add(row.height, error.field, error.reason)
            else:
                here.append(Place(row.hash, progress.time_ns, header.kind))
                self._content(header, row, lookup, pruned)
            report.blocks += 1
            self._log(row)
        if progress.size < report.size and report.mode != "sampled":
            report.add(progress.size, "height", f"blocks {progress.size} to {report.size - 1} are missing")
        if self.frontier is not None:
            report.root = self.frontier.top().hex() if report.good else None
            report.head, report.time_ns = progress.head, progress.time_ns

    def _log(self, row: Row) -> None:
        """Add a block to the log, as long as nothing is wrong."""
        if self.frontier is not None and self.report.good:
            try:
                self.frontier.add(entry_hash(row.hash, row.signature))
            except InvalidBlockError as error:
                self.report.add(row.height, error.field, error.reason)

    def remember(self) -> None:
        """Keep how far the chain was verified."""
        progress = self.progress
        assert self.frontier is not None
        levels = [[item.hex() for item in level] for level in self.frontier.levels]
        mark = marks.Verified(progress.network or "", progress.chain, progress.size, progress.head or "", str(progress.time_ns), levels)
        marks.put_verified(self.chains.lake.store, mark)

    def _content(self, header: Header, row: Row, lookup: Lookup, pruned: int) -> None:
        """Look at payload and signature."""
        try:
            if self.payloads:
                if check_payload(header, self.chains.payloads, lookup, may_be_absent=row.height < pruned):
                    self.report.payloads += 1
                    self.report.payload_bytes += header.payload_size
                else:
                    self.report.absent += 1
            if self.signatures:
                check_signature(header, row)
                self.report.signatures += 1
        except InvalidBlockError as error:
            self.report.add(row.height, error.field, error.reason)


class _Index:
    """Blocks that others depend on, by chain and height.

    Args:
        chains: where they are.
        one_by_one: whether to look each up in the store, which is less where few are asked for; else whole chains are read when first asked for.
    """

    def __init__(self, chains: Chains, *, one_by_one: bool = False) -> None:
        self._chains, self._one_by_one = chains, one_by_one
        self._whole: dict[str, list[Place | None]] = {}
        self.here: list[Place | None] = []
        self.first = 0

    def lookup(self, progress: Progress) -> Lookup:
        """How a walk that begins at `progress` finds them: its own blocks as it saw them, no matter what a table says of them."""
        chain, here = progress.chain, self.here
        first = self.first = progress.size
        other: Callable[[str, int], Place | None] = self._chains.place if self._one_by_one else self._of

        def find(where: str, height: int) -> Place | None:
            if where == chain and height >= first:
                return here[height - first] if height - first < len(here) else None
            return other(where, height)

        return find

    def _of(self, chain: str, height: int) -> Place | None:
        if chain not in self._whole:
            whole: list[Place | None] = []
            for row in self._chains.rows(chain):
                whole.extend([None] * (row.height - len(whole)))
                whole.append(readable_place(row))
            self._whole[chain] = whole
        whole = self._whole[chain]
        return whole[height] if height < len(whole) else None


def _is_last(chains: Chains, mark: marks.Verified) -> bool:
    """Whether the last block that was verified is there as it was."""
    try:
        row = chains.row(mark.chain, mark.size - 1)
    except MissingObjectError:
        return False
    return row.hash == mark.head == hashlib.sha256(row.header).hexdigest()
