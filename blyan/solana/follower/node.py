"""What the follower asks of a node.

Belongs here: the protocol, and its form over JSON-RPC. Does not belong here: what the answers prove
(`blyan.solana.follower.links`), or asking again (`blyan.solana.jsonrpc`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from blyan.errors import BadRecordError
from blyan.solana.commitment import Commitment
from blyan.solana.follower.links import Link
from blyan.solana.header import read_header
from blyan.solana.jsonrpc import SLOT_ERRORS, RpcClient, SlotError
from blyan.solana.sources import RawRecord, SlotState


@dataclass(frozen=True, slots=True)
class Tips:
    """A node's newest slot at each commitment."""

    processed: int
    confirmed: int
    finalized: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A block that came: its place and its bytes."""

    link: Link
    record: RawRecord


@dataclass(frozen=True, slots=True)
class Unfetched:
    """A block that a node does not give, and what it says instead."""

    slot: int
    why: str


class Node(Protocol):
    """A chain, as one node sees it. Every call may raise TransientError: it is then made again at the next step."""

    where: str

    async def genesis_hash(self) -> str:
        """The chain's identity."""
        ...

    async def first_available(self) -> int:
        """The oldest slot whose block it has."""
        ...

    async def tips(self) -> Tips:
        """Its newest slot at each commitment."""
        ...

    async def listed(self, first: int, last: int, commitment: Commitment) -> list[int]:
        """The slots from `first` to `last` that have a block, in order."""
        ...

    async def link(self, slot: int, commitment: Commitment) -> Link | Unfetched:
        """The place of a block in the chain, without its transactions."""
        ...

    async def block(self, slot: int, commitment: Commitment) -> Fetched | Unfetched:
        """A whole block."""
        ...


class RpcNode:
    """A node over JSON-RPC."""

    def __init__(self, client: RpcClient, *, encoding: str = "json") -> None:
        self._client = client
        self.where = client.where
        self._whole = {"encoding": encoding, "transactionDetails": "full", "rewards": True, "maxSupportedTransactionVersion": 0}

    async def genesis_hash(self) -> str:
        """See `Node`."""
        return await self._client.ask("getGenesisHash", [], str)

    async def first_available(self) -> int:
        """See `Node`."""
        return await self._client.ask("getFirstAvailableBlock", [], int)

    async def tips(self) -> Tips:
        """See `Node`."""
        return Tips(*await asyncio.gather(*(self._client.ask("getSlot", [{"commitment": level.label}], int) for level in Commitment)))

    async def listed(self, first: int, last: int, commitment: Commitment) -> list[int]:
        """See `Node`."""
        return await self._client.blocks_between(first, last, commitment.label)

    async def link(self, slot: int, commitment: Commitment) -> Link | Unfetched:
        """See `Node`."""
        answer = await self._get(slot, commitment, {"transactionDetails": "none", "rewards": False, "maxSupportedTransactionVersion": 0})
        return answer if isinstance(answer, Unfetched) else answer.link

    async def block(self, slot: int, commitment: Commitment) -> Fetched | Unfetched:
        """See `Node`."""
        return await self._get(slot, commitment, self._whole)

    async def _get(self, slot: int, commitment: Commitment, options: dict[str, Any]) -> Fetched | Unfetched:
        try:
            payload = bytes(await self._client.call("getBlock", [slot, {**options, "commitment": commitment.label}]))
        except SlotError as error:
            meaning, remedy = SLOT_ERRORS[error.code]
            return Unfetched(slot, f"rpc {error.code}: {meaning}. Remedy: {remedy}")
        if payload == b"null":
            return Unfetched(slot, "null result")
        return read_block(slot, payload, self.where)


def read_block(slot: int, payload: bytes, origin: str) -> Fetched | Unfetched:
    """A getBlock result as a block of this slot, or why it is none.

    Args:
        slot: what was asked for.
        payload: the result, in any encoding.
        origin: the endpoint that gave it.
    """
    try:
        header = read_header(payload)
    except BadRecordError as error:
        return Unfetched(slot, str(error))
    if header.parent_slot is not None and header.parent_slot >= slot > 0:
        return Unfetched(slot, f"the answer is of another slot: its parent slot is {header.parent_slot}")
    link = Link(slot, header.block_hash, header.parent_slot, header.previous_block_hash)
    record = RawRecord(slot, SlotState.PRESENT, "getBlock", payload, block_hash=header.block_hash, parent_slot=header.parent_slot, origin=origin)
    return Fetched(link, record)
