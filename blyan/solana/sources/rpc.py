"""Any Solana JSON-RPC node over HTTP, as a block source.

Belongs here: what a node's answers prove about a slot. Does not belong here: asking and asking again
(`blyan.solana.jsonrpc`), following the tip as it moves (`blyan.solana.follower`), decoding transactions.

`getBlocks` says which slots have a block and `getBlock` brings them; both at commitment `finalized`. A slot that is
not listed is skipped only if a later block is listed: a node behind a load balancer may be older than the tip another
one told. The link of the next block to its parent is better proof than the list, and is used wherever that block is
read.

Calls (`blyan.solana.jsonrpc`) run on an event loop in a thread of its own, because only there can a deadline bound a whole
call, headers and all: a server that sends a byte a second never trips a read timeout.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from msgspec import Struct

from blyan.errors import BadRecordError
from blyan.settings import Settings
from blyan.solana.header import Header, read_header
from blyan.solana.jsonrpc import SLOT_ERRORS, SLOTS_PER_LIST, RpcClient, SlotError, where_of
from blyan.solana.slots import SlotRange
from blyan.solana.sources import RawRecord, SlotState, SourceReport

LOOK_AHEAD = 64
"""Slots asked for first when looking for the block after a range; 64 times as many each time there is none."""

Answered = TypeVar("Answered")


class RpcSource:
    """Blocks from a node.

    A response of one block is held in memory at a time for each call in flight, so at most `concurrency` of them.
    """

    name = "rpc"

    def __init__(
        self,
        url: str,
        *,
        concurrency: int = 8,
        timeout_s: float = 30.0,
        retries: int = 8,
        encoding: str = "json",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is contacted yet.

        Args:
            url: the node's HTTP endpoint; what may be a key in it never appears in a message.
            concurrency: getBlock calls in flight or waiting to be read.
            timeout_s: seconds for one whole call.
            retries: times a call is tried again.
            encoding: the encoding asked of getBlock.
            sleep: how to wait between two tries.
            jitter: a number from 0 to 1, the part of the longest pause that is taken.

        Raises:
            SettingError: the URL is not one of HTTP.
        """
        self._concurrency = concurrency
        self._new_client = partial(RpcClient, url, concurrency=concurrency, timeout_s=timeout_s, retries=retries, sleep=sleep, jitter=jitter)
        self.where = where_of(url)
        self._whole = {
            "encoding": encoding,
            "transactionDetails": "full",
            "rewards": True,
            "maxSupportedTransactionVersion": 0,
        }

    @classmethod
    def from_settings(cls, settings: Settings) -> RpcSource:
        """The source that the settings describe.

        Raises:
            SettingError: BLYAN_RPC_URL is not a URL of HTTP.
        """
        return cls(
            settings.rpc_url,
            concurrency=settings.rpc_concurrency,
            timeout_s=settings.rpc_timeout_s,
            retries=settings.rpc_retries,
            encoding=settings.rpc_encoding,
        )

    def check(self) -> SourceReport:
        """Ask the node what it has.

        Raises:
            SettingError: the endpoint refuses us, or is not a Solana node.
            SourceUnreachableError: it does not answer.
            RateLimitedError: it asks us to slow down.
        """
        with self._session() as node:
            genesis, bounds = node.wait(node.genesis_hash()), node.wait(node.bounds())
        return SourceReport(self.name, self.where, genesis, bounds.first, bounds.last, "finalized blocks")

    def genesis_hash(self) -> str:
        """The genesis hash of the node's chain.

        Raises:
            SettingError: the endpoint refuses us, or is not a Solana node.
            SourceUnreachableError: it does not answer.
            RateLimitedError: it asks us to slow down.
        """
        with self._session() as node:
            return node.wait(node.genesis_hash())

    def states(self, slots: SlotRange) -> list[SlotState]:
        """What getBlocks says of each slot.

        Raises:
            SettingError, SourceUnreachableError, RateLimitedError: as `check`.
        """
        with self._session() as node:
            bounds = node.wait(node.bounds())
            listed = node.wait(node.listed(slots, bounds))
            following = self._following(node, slots, bounds, listed)
        present = set(listed)
        proven = range(max(slots.first, bounds.first), following if following is not None else (listed[-1] if listed else 0))
        return [
            SlotState.PRESENT if slot in present else SlotState.SKIPPED if slot in proven else SlotState.UNKNOWN
            for slot in slots
        ]  # fmt: skip

    def read(self, slots: SlotRange) -> Iterator[RawRecord]:
        """One record per slot, in order, each after the rejected records of its slot.

        Raises:
            SettingError: the endpoint refuses us, or is not a Solana node.
            PermanentError: the node does not understand what we ask.
            SourceUnreachableError: it does not answer, or stays behind, after the retries.
            RateLimitedError: it still asks us to slow down after the retries.
        """
        with self._session() as node:
            bounds = node.wait(node.bounds())
            listed = node.wait(node.listed(slots, bounds))
            at = slots.first
            for slot, block in self._blocks(node, listed):
                yield from self._gap(node, at, slot, bounds, block.header, slot)
                yield from block.records
                at = slot + 1
            if at <= slots.last:
                following = self._following(node, slots, bounds, listed)
                header = node.wait(node.header(following)) if following is not None else None
                yield from self._gap(node, at, slots.last + 1, bounds, header, following)

    @contextmanager
    def _session(self) -> Iterator[_Node]:
        node = _Node(self._new_client())
        try:
            yield node
        finally:
            node.close()

    def _blocks(self, node: _Node, listed: list[int]) -> Iterator[tuple[int, _Block]]:
        """The listed blocks in order, `concurrency` of them asked for ahead of the reader."""
        waiting: deque[tuple[int, Future[_Block]]] = deque()
        upcoming = iter(listed)
        while True:
            for slot in islice(upcoming, self._concurrency - len(waiting)):
                waiting.append((slot, node.start(node.block(slot, self._whole))))
            if not waiting:
                return
            slot, block = waiting.popleft()
            yield slot, block.result()

    def _following(self, node: _Node, slots: SlotRange, bounds: _Bounds, listed: list[int]) -> int | None:
        """The next block after the range, if slots at its end are not listed and it is there."""
        if listed and listed[-1] == slots.last:
            return slots.last
        if slots.last < bounds.first:
            return None
        return node.wait(node.next_listed(slots.last + 1, bounds))

    def _gap(self, node: _Node, first: int, end: int, bounds: _Bounds, child: Header | None, later: int | None) -> Iterator[RawRecord]:
        """The slots from `first` up to `end`, none of which is listed.

        Args:
            node: where to ask for blocks that the list left out, but the chain has.
            first: the first slot of the gap.
            end: the slot after it.
            bounds: the slots that the node has.
            child: the header of the next block, if it could be read.
            later: the slot of the next listed block.
        """
        is_listed = True
        for slot in node.wait(node.left_out(child, max(first, bounds.first), end)):
            block = node.wait(node.block(slot, self._whole))
            for absent in range(first, slot):
                yield self._absent(absent, bounds, block.header, slot, is_listed=False)
            yield from block.records
            first, is_listed = slot + 1, False
        for slot in range(first, end):
            yield self._absent(slot, bounds, child, later, is_listed=is_listed)

    def _absent(self, slot: int, bounds: _Bounds, child: Header | None, later: int | None, *, is_listed: bool) -> RawRecord:
        """A slot without a block: skipped if the next block, or a list that left nothing out, proves it."""
        if slot < bounds.first:
            detail = f"the node's first block is {bounds.first}. Remedy: use an archive node"
            return RawRecord(slot, SlotState.UNKNOWN, "pruned", detail=detail, origin=self.where)
        if later is None:
            detail = f"the node lists no finalized block after it yet (tip {bounds.last}). Remedy: read it again later"
            return RawRecord(slot, SlotState.UNKNOWN, "not finalized yet", detail=detail, origin=self.where)
        if child is not None and child.parent_slot is not None and child.parent_slot < slot:
            return RawRecord(slot, SlotState.SKIPPED, f"parent link of {later}", origin=self.where)
        if is_listed:
            return RawRecord(slot, SlotState.SKIPPED, "getBlocks", origin=self.where)
        detail = f"getBlocks left out block {later}, so it proves nothing here. Remedy: use another node"
        return RawRecord(slot, SlotState.UNKNOWN, "unproven", detail=detail, origin=self.where)


class _Bounds(Struct, frozen=True):
    """The slots that a node has, from its first available block to its finalized tip."""

    first: int
    last: int


class _Block(Struct, frozen=True):
    """What getBlock gave for a slot: its records, and its header if it is a block."""

    records: list[RawRecord]
    header: Header | None


class _Node:
    """A node, and the thread that talks to it."""

    def __init__(self, client: RpcClient) -> None:
        self._client, self._where = client, client.where
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="solana-rpc", daemon=True)
        self._thread.start()

    def start(self, call: Coroutine[Any, Any, Answered]) -> Future[Answered]:
        """Start a call and return at once."""
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def wait(self, call: Coroutine[Any, Any, Answered]) -> Answered:
        """Start a call and wait for its answer."""
        return self.start(call).result()

    def close(self) -> None:
        """Give up what is in flight, and end the thread."""
        self.wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def genesis_hash(self) -> str:
        """The chain's genesis hash."""
        return await self._client.ask("getGenesisHash", [], str)

    async def bounds(self) -> _Bounds:
        """What the node has."""
        first = await self._client.ask("getFirstAvailableBlock", [], int)
        return _Bounds(first, await self._client.ask("getSlot", [{"commitment": "finalized"}], int))

    async def listed(self, slots: SlotRange, bounds: _Bounds) -> list[int]:
        """The slots of the range that have a block, in order."""
        return await self._client.blocks_between(max(slots.first, bounds.first), min(slots.last, bounds.last), "finalized")

    async def next_listed(self, start: int, bounds: _Bounds) -> int | None:
        """The first slot from `start` on that has a block."""
        start, width = max(start, bounds.first), LOOK_AHEAD
        while start <= bounds.last:
            found = await self.listed(SlotRange(start, min(start + width - 1, bounds.last)), bounds)
            if found:
                return found[0]
            start, width = start + width, min(width * 64, SLOTS_PER_LIST)
        return None

    async def header(self, slot: int) -> Header | None:
        """The header of a block, if the node gives it."""
        return (await self.block(slot, {"transactionDetails": "none", "rewards": False, "maxSupportedTransactionVersion": 0})).header

    async def left_out(self, child: Header | None, first: int, end: int) -> list[int]:
        """The slots from `first` up to `end` that the links of a block to its ancestors name, in order."""
        slots: list[int] = []
        while child is not None and child.parent_slot is not None and first <= child.parent_slot < end:
            end = child.parent_slot
            slots.append(end)
            child = await self.header(end)
        return slots[::-1]

    async def block(self, slot: int, options: dict[str, Any]) -> _Block:
        """A block, or what the node says instead."""
        try:
            result = await self._client.call("getBlock", [slot, {"commitment": "finalized", **options}])
        except SlotError as answer:
            meaning, remedy = SLOT_ERRORS[answer.code]
            detail = f"getBlocks lists the slot, but getBlock answers {answer.code}: {meaning} ({answer}). Remedy: {remedy}"
            return self._without_block(slot, "pruned" if answer.code == -32001 else f"rpc {answer.code}", detail)
        except BadRecordError as error:
            return self._bad_block(slot, error, b"")
        payload = bytes(result)
        if payload == b"null":
            return self._without_block(slot, "null result", "getBlocks lists the slot, but getBlock answers null. Remedy: use another node")
        try:
            header = read_header(payload)
        except BadRecordError as error:
            return self._bad_block(slot, error, payload)
        if header.parent_slot is not None and header.parent_slot >= slot > 0:
            what = f"the answer for slot {slot} is of another slot: its parent slot is {header.parent_slot}"
            return self._bad_block(slot, BadRecordError(what, reason="wrong_slot", where=self._where, remedy="use another node"), payload)
        record = RawRecord(
            slot, SlotState.PRESENT, "getBlock", payload, block_hash=header.block_hash, parent_slot=header.parent_slot, origin=self._where
        )
        return _Block([record], header)

    def _without_block(self, slot: int, proof: str, detail: str) -> _Block:
        return _Block([RawRecord(slot, SlotState.UNKNOWN, proof, detail=detail, origin=self._where)], None)

    def _bad_block(self, slot: int, error: BadRecordError, payload: bytes) -> _Block:
        rejected = RawRecord(slot, SlotState.REJECTED, error.reason, payload, detail=str(error), origin=self._where)
        unknown = RawRecord(slot, SlotState.UNKNOWN, "unreadable", detail=str(error), origin=self._where)
        return _Block([rejected, unknown], None)
