"""Any Solana JSON-RPC node over HTTP, as a block source.

Belongs here: asking, waiting and asking again, and what a node's answers prove about a slot. Does not belong here:
following the tip as it moves (`blyan.solana.follower`), decoding transactions.

`getBlocks` says which slots have a block and `getBlock` brings them; both at commitment `finalized`. A slot that is
not listed is skipped only if a later block is listed: a node behind a load balancer may be older than the tip another
one told. The link of the next block to its parent is better proof than the list, and is used wherever that block is
read.

Calls run on an event loop in a thread of its own, because only there can a deadline bound a whole call, headers and
all: a server that sends a byte a second never trips a read timeout.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import httpx
import msgspec
from msgspec import Raw, Struct

from blyan.errors import BadRecordError, PermanentError, RateLimitedError, SettingError, SourceUnreachableError, TransientError
from blyan.settings import Settings
from blyan.solana.header import Header, read_header
from blyan.solana.slots import SlotRange
from blyan.solana.sources import RawRecord, SlotState, SourceReport

SLOTS_PER_LIST = 500_000
"""Most slots one getBlocks may span (Solana RPC documentation)."""

LOOK_AHEAD = 64
"""Slots asked for first when looking for the block after a range; 64 times as many each time there is none."""

MAX_BODY_BYTES = 256 << 20
"""A larger answer is refused; the largest block recorded so far is 7 MB of jsonParsed."""

BACKOFF_BASE_S = 0.25
BACKOFF_CAP_S = 10.0
MAX_RETRY_AFTER_S = 120.0
"""A server that asks for a longer pause is not waited for: the run ends, and says when to come back."""

SLOW_DOWN = 429
RETRIED_STATUSES = (408, SLOW_DOWN)
UNAVAILABLE = 503

SLOT_ERRORS = {
    -32007: ("skipped, or lost in a ledger jump", "read the range from another node"),
    -32009: ("skipped, or missing in long-term storage", "read the range from another node"),
    -32001: ("pruned: the node no longer has this block", "use an archive node"),
    -32015: ("a transaction version newer than 0, which this release does not read", "update blyan"),
}
"""JSON-RPC errors of getBlock that are about the slot, not about the node: their meaning and the remedy."""

BUSY_ERRORS = (-32004, -32005, -32014, -32016, -32603, SLOW_DOWN, -32429)
"""JSON-RPC errors that pass: block or status not available yet, node behind, minimum slot not reached, internal error,
and the two codes by which providers limit the rate inside an answer of status 200."""

NO_HISTORY = -32011

Answered = TypeVar("Answered")


class _Reply(Struct, gc=False):
    """A JSON-RPC response."""

    id: int | str | None = None
    result: Raw = Raw(b"")
    error: _ReplyError | None = None


class _ReplyError(Struct, gc=False):
    code: int
    message: str = ""


class _Again(Exception):  # noqa: N818  - it is a reason to ask again; only the last one becomes an error
    """Why an attempt failed, and the pause that the server asked for."""

    def __init__(self, what: str, *, is_rate_limit: bool = False, pause_s: float | None = None) -> None:
        super().__init__(what)
        self.is_rate_limit = is_rate_limit
        self.pause_s = pause_s


class _SlotError(Exception):
    """The node answered that it cannot give a slot's block."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


_decode_reply = msgspec.json.Decoder(_Reply).decode


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
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise SettingError(f"not a URL: {error}", where="BLYAN_RPC_URL", remedy="set it to the http(s):// endpoint of a node") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise SettingError(
                f"{_without_secrets(parsed)} is not an HTTP endpoint", where="BLYAN_RPC_URL", remedy="set it to the http(s):// endpoint of a node"
            )
        self.where = _without_secrets(parsed)
        self._url = parsed
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._retries = retries
        self._sleep = sleep
        self._jitter = jitter
        self._whole = {
            "encoding": encoding,
            "transactionDetails": "full",
            "rewards": True,
            "maxSupportedTransactionVersion": 0,
        }
        # httpx logs whole URLs at INFO, and a URL may hold a key.
        logging.getLogger("httpx").setLevel(logging.WARNING)

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
        node = _Node(self._url, self.where, self._concurrency, self._timeout_s, self._retries, self._sleep, self._jitter)
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

    def __init__(
        self,
        url: httpx.URL,
        where: str,
        concurrency: int,
        timeout_s: float,
        retries: int,
        sleep: Callable[[float], Awaitable[None]],
        jitter: Callable[[], float],
    ) -> None:
        self._url = url
        self._where = where
        self._timeout_s = timeout_s
        self._retries = retries
        self._sleep = sleep
        self._jitter = jitter
        self._last_id = 0
        # No timeouts of httpx: the deadline of a call is over all of it.
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx.AsyncClient(timeout=None, limits=limits, verify=_tls())  # noqa: S113
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
        await self._client.aclose()

    async def genesis_hash(self) -> str:
        """The chain's genesis hash."""
        return await self._ask("getGenesisHash", [], str)

    async def bounds(self) -> _Bounds:
        """What the node has."""
        first = await self._ask("getFirstAvailableBlock", [], int)
        return _Bounds(first, await self._ask("getSlot", [{"commitment": "finalized"}], int))

    async def listed(self, slots: SlotRange, bounds: _Bounds) -> list[int]:
        """The slots of the range that have a block, in order."""
        found: set[int] = set()
        start, last = max(slots.first, bounds.first), min(slots.last, bounds.last)
        for first in range(start, last + 1, SLOTS_PER_LIST):
            end = min(first + SLOTS_PER_LIST - 1, last)
            answer = await self._ask("getBlocks", [first, end, {"commitment": "finalized"}], list[int])
            found.update(slot for slot in answer if first <= slot <= end)
        return sorted(found)

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
            result = await self._call("getBlock", [slot, {"commitment": "finalized", **options}])
        except _SlotError as answer:
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

    async def _ask(self, method: str, params: list[Any], kind: type[Answered]) -> Answered:
        """A call whose result is small.

        Raises:
            SettingError: the result is of another type than Solana's.
        """
        result = await self._call(method, params)
        try:
            return msgspec.json.decode(result, type=kind)
        except msgspec.DecodeError as error:
            raise SettingError(
                f"{method} answered {bytes(result)[:80]!r}, which is not Solana's form: {error}",
                where=f"BLYAN_RPC_URL, {self._where}",
                remedy="set it to the HTTP endpoint of a Solana node",
            ) from error

    async def _call(self, method: str, params: list[Any]) -> Raw:
        """The raw result of a call, tried again until the retries are used up."""
        for attempt in range(self._retries + 1):
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._attempt(method, params)
            except TimeoutError:
                failure = _Again(f"no whole answer within {self._timeout_s:g} s")
            except httpx.UnsupportedProtocol as error:
                raise SettingError(str(error), where="BLYAN_RPC_URL", remedy="set it to the http(s):// endpoint of a node") from error
            except (httpx.TransportError, httpx.DecodingError) as error:
                failure = _Again(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
            except _Again as again:
                failure = again
            if attempt == self._retries or (failure.pause_s or 0) > MAX_RETRY_AFTER_S:
                break
            await self._sleep(self._pause(attempt, failure))
        raise self._given_up(method, attempt + 1, failure)

    def _pause(self, attempt: int, failure: _Again) -> float:
        """Seconds to wait: what the server asked for, or full jitter over a doubling bound."""
        if failure.pause_s is not None:
            return failure.pause_s
        return self._jitter() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0**attempt)

    def _given_up(self, method: str, tries: int, failure: _Again) -> TransientError:
        what = f"{method} failed {tries} times, at last: {failure}"
        if failure.is_rate_limit:
            if failure.pause_s is not None:
                what += f"; it asks to wait {failure.pause_s:.0f} s"
            return RateLimitedError(what, where=self._where, remedy="lower BLYAN_RPC_CONCURRENCY, or use an endpoint with a higher limit")
        return SourceUnreachableError(
            what, where=self._where, remedy="check BLYAN_RPC_URL and the network; raise BLYAN_RPC_TIMEOUT_S or BLYAN_RPC_RETRIES if it is only slow"
        )

    async def _attempt(self, method: str, params: list[Any]) -> Raw:
        self._last_id += 1
        number = self._last_id
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        async with self._client.stream("POST", self._url, json=request) as response:
            self._check_status(response)
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise BadRecordError(
                        f"{method} answered more than {MAX_BODY_BYTES} bytes", reason="too_large", where=self._where, remedy="use another node"
                    )
        try:
            reply = _decode_reply(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _Again(f"the answer is not JSON-RPC ({error}); it begins with {bytes(body[:60])!r}") from error
        if reply.id != number and not (reply.id is None and reply.error is not None):
            raise _Again(f"the answer is to request {reply.id}, not to ours, {number}")
        if reply.error is not None:
            raise self._reply_error(method, reply.error)
        if not len(memoryview(reply.result)):
            raise _Again("the answer has neither result nor error")
        return reply.result

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == httpx.codes.OK:
            return
        what = f"HTTP {status} {response.reason_phrase}".rstrip()
        if status in RETRIED_STATUSES or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            pause_s = _retry_after_s(response.headers.get("retry-after")) if status in (SLOW_DOWN, UNAVAILABLE) else None
            raise _Again(what, is_rate_limit=status == SLOW_DOWN, pause_s=pause_s)
        raise SettingError(
            f"the endpoint refuses the request: {what}", where=f"BLYAN_RPC_URL, {self._where}", remedy="check the URL and the key in it"
        )

    def _reply_error(self, method: str, error: _ReplyError) -> Exception:
        if error.code in BUSY_ERRORS:
            return _Again(f"rpc {error.code}: {error.message}", is_rate_limit=error.code in (SLOW_DOWN, -32429))
        if method == "getBlock" and error.code in SLOT_ERRORS:
            return _SlotError(error.code, error.message)
        if error.code == NO_HISTORY:
            return SettingError(
                f"the node keeps no transaction history: {error.message}",
                where=f"BLYAN_RPC_URL, {self._where}",
                remedy="use a node that runs with --enable-rpc-transaction-history",
            )
        return PermanentError(
            f"{method} is refused with {error.code}: {error.message}",
            where=f"BLYAN_RPC_URL, {self._where}",
            remedy="use a node that serves this method; if BLYAN_RPC_ENCODING was changed, set it back to json",
        )


@cache
def _tls() -> ssl.SSLContext:
    """The certificates to trust: reading them takes 0.1 s, too long for every range."""
    return httpx.create_ssl_context()


def _without_secrets(url: httpx.URL) -> str:
    """The URL as it may be shown: providers put keys into the query, the user part or the path."""
    port = f":{url.port}" if url.port is not None else ""
    return f"{url.scheme}://{url.host}{port}{'/…' if url.path not in ('', '/') or url.query else ''}"


def _retry_after_s(value: str | None) -> float | None:
    """The seconds of a Retry-After header, which may be a number or a date; None if it is neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
