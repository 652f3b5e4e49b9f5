"""A JSON-RPC client of Solana nodes: asking, waiting and asking again.

Belongs here: HTTP, deadlines, retries with the pauses that servers ask for, and what a node's errors mean. Does not belong
here: which blocks to ask for (`blyan.solana.sources.rpc`, `blyan.solana.follower`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar

import httpx
import msgspec
from msgspec import Raw, Struct

from blyan.errors import BadRecordError, PermanentError, RateLimitedError, SettingError, SourceUnreachableError, TransientError

MAX_BODY_BYTES = 256 << 20
"""A larger answer is refused; the largest block recorded so far is 7 MB of jsonParsed."""

SLOTS_PER_LIST = 500_000
"""Most slots one getBlocks may span (Solana RPC documentation)."""

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


class SlotError(Exception):
    """The node answered that it cannot give a slot's block."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


_decode_reply = msgspec.json.Decoder(_Reply).decode


class RpcClient:
    """Calls to one node, on the event loop that makes them. A response is held in memory for each call in flight."""

    def __init__(
        self,
        url: str,
        *,
        concurrency: int = 8,
        timeout_s: float = 30.0,
        retries: int = 8,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is contacted yet.

        Args:
            url: the node's HTTP endpoint; what may be a key in it never appears in a message.
            concurrency: connections at most.
            timeout_s: seconds for one whole call.
            retries: times a call is tried again.
            sleep: how to wait between two tries.
            jitter: a number from 0 to 1, the part of the longest pause that is taken.

        Raises:
            SettingError: the URL is not one of HTTP.
        """
        self.where = where_of(url)
        self._url = httpx.URL(url)
        self._timeout_s = timeout_s
        self._retries = retries
        self._sleep = sleep
        self._jitter = jitter
        self._last_id = 0
        # httpx logs whole URLs at INFO, and a URL may hold a key.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        # No timeouts of httpx: the deadline of a call is over all of it.
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._http = httpx.AsyncClient(timeout=None, limits=limits, verify=_tls())  # noqa: S113

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def blocks_between(self, first: int, last: int, commitment: str) -> list[int]:
        """The slots from `first` to `last` that have a block, in order; `getBlocks`, in as many calls as it takes."""
        found: set[int] = set()
        for start in range(first, last + 1, SLOTS_PER_LIST):
            end = min(start + SLOTS_PER_LIST - 1, last)
            answer = await self.ask("getBlocks", [start, end, {"commitment": commitment}], list[int])
            found.update(slot for slot in answer if start <= slot <= end)
        return sorted(found)

    async def ask(self, method: str, params: list[Any], kind: type[Answered]) -> Answered:
        """A call whose result is small.

        Raises:
            SettingError: the result is of another type than Solana's.
        """
        result = await self.call(method, params)
        try:
            return msgspec.json.decode(result, type=kind)
        except msgspec.DecodeError as error:
            raise SettingError(
                f"{method} answered {bytes(result)[:80]!r}, which is not Solana's form: {error}",
                where=f"BLYAN_RPC_URL, {self.where}",
                remedy="set it to the HTTP endpoint of a Solana node",
            ) from error

    async def call(self, method: str, params: list[Any]) -> Raw:
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
            return RateLimitedError(what, where=self.where, remedy="lower BLYAN_RPC_CONCURRENCY, or use an endpoint with a higher limit")
        return SourceUnreachableError(
            what, where=self.where, remedy="check BLYAN_RPC_URL and the network; raise BLYAN_RPC_TIMEOUT_S or BLYAN_RPC_RETRIES if it is only slow"
        )

    async def _attempt(self, method: str, params: list[Any]) -> Raw:
        self._last_id += 1
        number = self._last_id
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        async with self._http.stream("POST", self._url, json=request) as response:
            self._check_status(response)
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise BadRecordError(
                        f"{method} answered more than {MAX_BODY_BYTES} bytes", reason="too_large", where=self.where, remedy="use another node"
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
            f"the endpoint refuses the request: {what}", where=f"BLYAN_RPC_URL, {self.where}", remedy="check the URL and the key in it"
        )

    def _reply_error(self, method: str, error: _ReplyError) -> Exception:
        if error.code in BUSY_ERRORS:
            return _Again(f"rpc {error.code}: {error.message}", is_rate_limit=error.code in (SLOW_DOWN, -32429))
        if method == "getBlock" and error.code in SLOT_ERRORS:
            return SlotError(error.code, error.message)
        if error.code == NO_HISTORY:
            return SettingError(
                f"the node keeps no transaction history: {error.message}",
                where=f"BLYAN_RPC_URL, {self.where}",
                remedy="use a node that runs with --enable-rpc-transaction-history",
            )
        return PermanentError(
            f"{method} is refused with {error.code}: {error.message}",
            where=f"BLYAN_RPC_URL, {self.where}",
            remedy="use a node that serves this method; if BLYAN_RPC_ENCODING was changed, set it back to json",
        )


def where_of(url: str) -> str:
    """The endpoint as it may be shown.

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
    return _without_secrets(parsed)


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
