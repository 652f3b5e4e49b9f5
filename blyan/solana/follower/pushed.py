"""Blocks that a node pushes by itself, so that they need not be fetched.

Belongs here: `blockSubscribe`, what of it is kept, and for how long. Does not belong here: which blocks are wanted
(`blyan.solana.follower.follow`), or what they prove (`blyan.solana.follower.links`).

Nothing depends on a push. Nodes serve the method only on request, close the connection under load, and leave blocks out
without a word. So a pushed block is only another answer to `block`, given once: what did not come, was dropped, cannot be read
or turns out to be of a dead fork is fetched as ever.

The text of the block is kept as it came. Where a node writes the keys of a push in another order than those of getBlock, the
bytes in `raw_blocks` and their digest are those of the push; every other table is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from msgspec import Raw, Struct

from blyan.solana.commitment import Commitment
from blyan.solana.follower.links import Link
from blyan.solana.follower.node import Fetched, Node, Tips, Unfetched, read_block
from blyan.solana.follower.stream import SlotStream, Subscription

BUFFER_BYTES = 64 << 20
"""Bytes of blocks that wait to be asked for: six seconds of mainnet, by the estimate of 10 MB/s."""

NULL = Raw(b"null")


class _Value(Struct):
    slot: int
    block: Raw = NULL
    err: Raw = NULL


class Update(Struct):
    """A block notification."""

    value: _Value


class WebSocketBlocks(Subscription[Update]):
    """`blockSubscribe` of a node: whole blocks as they are confirmed."""

    def __init__(self, url: str, *, encoding: str = "json", **waiting: Any) -> None:
        options = {
            "commitment": Commitment.CONFIRMED.label,
            "encoding": encoding,
            "transactionDetails": "full",
            # getBlock calls it `rewards`.
            "showRewards": True,
            "maxSupportedTransactionVersion": 0,
        }
        super().__init__(url, "blockSubscribe", ["all", options], Update, **waiting)
        place = urlsplit(url)
        # Providers put keys into the user part, the path and the query.
        self.where = f"{place.scheme}://{place.netloc.rpartition('@')[2]}"


class PushedBlocks:
    """A node in front of another, which answers `block` from what was pushed; and the stream of slots that brings it.

    Args:
        node: what is asked for all else.
        clock: announces slots as ever.
        blocks: pushes blocks, each of which is announced too: it can be landed at once.
        limit_bytes: of blocks to hold; the oldest are dropped.
        say: told once where the node does not push blocks.

    Attributes:
        where: the node.
        held_bytes: of blocks that wait.
        used: blocks that were not fetched because they had been pushed.
        dropped: blocks that were pushed and not used.
    """

    def __init__(
        self,
        node: Node,
        clock: SlotStream,
        blocks: WebSocketBlocks,
        *,
        limit_bytes: int = BUFFER_BYTES,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._node, self._clock, self._blocks, self._limit, self._say = node, clock, blocks, limit_bytes, say
        self._held: dict[int, bytes] = {}
        self.where = node.where
        self.held_bytes = self.used = self.dropped = 0

    # The node

    async def genesis_hash(self) -> str:
        """See `Node`."""
        return await self._node.genesis_hash()

    async def first_available(self) -> int:
        """See `Node`."""
        return await self._node.first_available()

    async def tips(self) -> Tips:
        """See `Node`."""
        return await self._node.tips()

    async def listed(self, first: int, last: int, commitment: Commitment) -> list[int]:
        """See `Node`."""
        return await self._node.listed(first, last, commitment)

    async def link(self, slot: int, commitment: Commitment) -> Link | Unfetched:
        """See `Node`. What is final is never taken from a push."""
        return await self._node.link(slot, commitment)

    async def block(self, slot: int, commitment: Commitment) -> Fetched | Unfetched:
        """See `Node`. A pushed block is given once: whoever asks again has found it wrong."""
        if commitment is Commitment.CONFIRMED and slot in self._held:
            found = read_block(slot, self._take(slot), self._blocks.where)
            if isinstance(found, Fetched):
                self.used += 1
                return found
            self.dropped += 1
        return await self._node.block(slot, commitment)

    # The stream

    @property
    def reconnects(self) -> int:
        """Times that either connection was made again."""
        return self._clock.reconnects + self._blocks.reconnects

    @property
    def held(self) -> int:
        """Blocks that wait."""
        return len(self._held)

    async def slots(self) -> AsyncIterator[int]:
        """See `SlotStream`. Slots of the clock, and those of pushed blocks as they come."""
        arrived: asyncio.Queue[int | asyncio.Task[None]] = asyncio.Queue()
        tasks = [asyncio.create_task(source(arrived.put_nowait)) for source in (self._announce, self._receive)]
        for task in tasks:
            task.add_done_callback(arrived.put_nowait)
        try:
            while True:
                item = await arrived.get()
                if isinstance(item, int):
                    yield item
                else:
                    item.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _announce(self, tell: Callable[[int], None]) -> None:
        async with aclosing(self._clock.slots()) as slots:  # type: ignore[type-var]
            async for slot in slots:
                tell(slot)

    async def _receive(self, tell: Callable[[int], None]) -> None:
        async with aclosing(self._blocks.results()) as updates:  # type: ignore[type-var]
            async for update in updates:
                if update.value.err == NULL and update.value.block != NULL:
                    self.keep(update.value.slot, bytes(update.value.block))
                    tell(update.value.slot)
        self._say(f"the node does not serve blockSubscribe ({self._blocks.refused}): every block is fetched")

    def keep(self, slot: int, payload: bytes) -> None:
        """Hold a block until it is asked for, instead of what was held of its slot."""
        if slot in self._held:
            self._take(slot)
            self.dropped += 1
        self._held[slot] = payload
        self.held_bytes += len(payload)
        while self.held_bytes > self._limit:
            self._take(next(iter(self._held)))
            self.dropped += 1

    def _take(self, slot: int) -> bytes:
        payload = self._held.pop(slot)
        self.held_bytes -= len(payload)
        return payload
