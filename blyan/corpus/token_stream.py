"""What a trainer reads: contexts of tokens, in an order that anyone can make again.

Belongs here: the order, packing documents into contexts, resuming, and sharing the work. Does not belong here: the files
(`blyan.corpus.shards`), or anything that learns.

All documents of a split, each with the token that ends it, are one run of tokens: range after range, shard after shard. It is cut
into contexts of one length; a document that does not end in a context goes on in the next one of the run. An epoch is every context
once, in an order drawn from the seed and the number of the epoch; only the end of the run that fills no context is left out.

Nothing is loaded: shards are mapped into memory, and a context that lies in one shard is a view into it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blyan.corpus.shards import view_of
from blyan.corpus.splits import SPLITS, Split, SplitRule, check_rule
from blyan.corpus.tokenizer import Offsets, Tokens
from blyan.corpus.tokenizer_versions import TokenizerVersion, version_of
from blyan.corpus.tokens import shards_of
from blyan.errors import PermanentError
from blyan.lake import Lake
from blyan.solana.slots import SlotRange

ROUNDS = 6
"""Of the Feistel network that draws an order; four make one that looks random, by Luby and Rackoff's proof."""


@dataclass(frozen=True, slots=True)
class Context:
    """Tokens that are read at once.

    Attributes:
        index: which of the run's contexts it is.
        tokens: uint16 [context]; a view into the file unless the context lies in two.
        starts: int32 [documents + 1]; the edges of the documents in it, 0 and the context's length included: `cu_seqlens` of
            attention that keeps documents apart. The first may have begun before, and the last may go on.
    """

    index: int
    tokens: Tokens
    starts: npt.NDArray[np.int32]

    @property
    def document_of(self) -> npt.NDArray[np.int32]:
        """int32 [context]: the number of each token's document among those in the context."""
        return np.repeat(np.arange(len(self.starts) - 1, dtype=np.int32), np.diff(self.starts))

    @property
    def positions(self) -> npt.NDArray[np.int32]:
        """int32 [context]: each token's position in its document, counted from the context's beginning for the first."""
        return np.arange(len(self.tokens), dtype=np.int32) - np.repeat(self.starts[:-1], np.diff(self.starts))


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stream is, for all who share it.

    Attributes:
        epoch: from 0.
        step: contexts of the epoch that each rank has read.
        run: digest of the shards, the context's length, the seed and the number of ranks, without which the others mean nothing.
    """

    epoch: int
    step: int
    run: str


class TokenStream:
    """The contexts of one split, epoch after epoch; iterating goes on from `position`.

    The shards are those that the lake has when the stream is made: ranges that come later are not in it.

    Args:
        lake: with token shards.
        split: `hidden` is only given to who has the rule.
        tokenizer: version such as `1.0`; the newest by default. Shards of every MINOR of its MAJOR are read.
        context: tokens of a context.
        seed: of the order.
        rank: which of the contexts are for this reader: those at `rank`, `rank + world`… of the order.
        world: how many readers share the epoch. Each gets as many contexts; the fewer than `world` that are over are left out.
        ranges: keys of the ranges to read, all by default.
        rule: the split rule, for `hidden`.
        cache: folder for copies of shards, where the lake is not a folder.

    Raises:
        MissingObjectError: there is no such tokenizer, or a shard is gone.
        PermanentError: the split is hidden and the rule is not its, or there are too few tokens, or an argument is wrong.
    """

    def __init__(
        self,
        lake: Lake,
        *,
        split: Split = "train",
        tokenizer: str | None = None,
        context: int = 1_024,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        ranges: Iterable[str] | None = None,
        rule: SplitRule | None = None,
        cache: Path = Path(".blyan/shards"),
    ) -> None:
        if split not in SPLITS or context < 1 or not 0 <= rank < world:
            raise PermanentError(
                f"split {split!r}, context {context}, rank {rank} of {world}",
                where="TokenStream",
                remedy=f"splits are {', '.join(SPLITS)}; ranks count from 0",
            )
        self.version: TokenizerVersion = version_of(lake, tokenizer)
        if split == "hidden":
            if rule is None:
                raise PermanentError("the hidden split is not given without its key", where="TokenStream", remedy="pass rule=split_rule(settings)")
            check_rule(rule, self.version.split_rule, where=f"tokenizer {self.version.version}")
        wanted = None if ranges is None else set(ranges)
        self._shards = [
            row
            for row in shards_of(lake)
            if row["split"] == split
            and row["tokenizer_major"] == self.version.major
            and (wanted is None or SlotRange(row["first_slot"], row["last_slot"]).key in wanted)
        ]
        self._paths = [lake.blob_path(row["shard_sha256"], cache) for row in self._shards]
        self._open: dict[int, tuple[Tokens, Offsets]] = {}
        self._edges = np.cumsum([0, *(row["tokens"] for row in self._shards)])
        self.context, self.seed, self.rank, self.world = context, seed, rank, world
        self.tokens = int(self._edges[-1])
        self.contexts = self.tokens // context
        self.steps = self.contexts // world
        if not self.steps:
            raise PermanentError(
                f"{len(self._shards)} shards of {split} hold {self.tokens} tokens: no {world} contexts of {context}",
                where="corpus/tokens",
                remedy="materialise more ranges, or take a shorter context",
            )
        about = [*(row["shard_sha256"] for row in self._shards), str(context), str(seed), str(world)]
        self.position = Position(0, 0, hashlib.sha256(" ".join(about).encode()).hexdigest())

    def resume(self, position: Position) -> None:
        """Go on from there: the contexts to come are those that would have come.

        Raises:
            PermanentError: the position is of another run: other shards, or another context, seed or number of readers.
        """
        if position.run != self.position.run or not (0 <= position.step <= self.steps and position.epoch >= 0):
            raise PermanentError(
                f"{position} is of another run than {self.position.run}", where="TokenStream", remedy="open the same ranges with the same arguments"
            )
        self.position = position

    def __iter__(self) -> Iterator[Context]:
        """Contexts without end. `position` is moved before each is given: it says what comes after it."""
        while True:
            epoch, step, run = self.position.epoch, self.position.step, self.position.run
            if step == self.steps:
                epoch, step = epoch + 1, 0
            self.position = Position(epoch, step + 1, run)
            yield self.read(self.index_of(epoch, step))

    def epoch(self, number: int) -> Iterator[Context]:
        """The contexts of one epoch that are this reader's; the position stays."""
        for step in range(self.steps):
            yield self.read(self.index_of(number, step))

    def index_of(self, epoch: int, step: int) -> int:
        """Which context of the run this reader gets at a step of an epoch."""
        return permuted(step * self.world + self.rank, self.contexts, f"{self.seed} {epoch}")

    def read(self, index: int) -> Context:
        """One context of the run by its number."""
        first = index * self.context
        stop = first + self.context
        tokens, edges = [], [np.zeros(1, np.int64)]
        shard = int(np.searchsorted(self._edges, first, side="right")) - 1
        at = first
        while at < stop:
            base, end = int(self._edges[shard]), int(self._edges[shard + 1])
            if end > at:
                part, offsets = self._view(shard)
                upto = min(stop, end)
                tokens.append(part[at - base : upto - base])
                low, high = np.searchsorted(offsets, [at - base, upto - base], side="right")
                edges.append(offsets[low:high] + (base - first))
                at = upto
            shard += 1
        starts = np.concatenate(edges)
        if starts[-1] != self.context:
            starts = np.append(starts, self.context)
        return Context(index, tokens[0] if len(tokens) == 1 else np.concatenate(tokens), starts.astype(np.int32))

    def _view(self, shard: int) -> tuple[Tokens, Offsets]:
        known = self._open.get(shard)
        if known is None:
            row: dict[str, Any] = self._shards[shard]
            places = {name: row[name] for name in ("tokens_at", "tokens", "offsets_at", "documents")}
            known = self._open[shard] = view_of(self._paths[shard], **places)
        return known


def permuted(place: int, size: int, seed: str) -> int:
    """The number at a place of an order of 0 to `size` - 1 that the seed draws; every number is at one place.

    A Feistel network over the next even number of bits, gone round until it lands below `size`: so an order of any length takes no
    memory, and any place of it is found at once.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    key = hashlib.blake2b(seed.encode(), digest_size=8 * ROUNDS, person=b"blyan order 1").digest()
    rounds = np.frombuffer(key, "<u8").tolist()
    while True:
        left, right = place >> half, place & mask
        for drawn in rounds:
            left, right = right, left ^ (_mixed(right ^ drawn) & mask)
        place = left << half | right
        if place < size:
            return place


def _mixed(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): every bit of the result depends on every bit of the value."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)
