"""A JSON-RPC client of Solana nodes: asking, waiting and asking again.

Belongs here: HTTP, deadlines, retries with the pauses that servers ask for, and what a node's errors mean. Does not belong
here: which blocks to ask for (`blyan.solana.sources.rpc`, `blyan.solana.follower`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
from msgspec import Raw, Struct
from yarl import URL

from blyan.errors import BadRecordError, PermanentError, RateLimitedError, SettingError, SourceUnreachableError, TransientError

MAX_BODY_BYTES = 256 << 20
"""A larger answer is refused; the largest block recorded so far is 7 MB of jsonParsed."""

KEPT_ALIVE_S = 5.0
"""A connection that is idle for longer is closed: a call on one that the server is about to close would have to be made again."""

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
            SettingError: the URL is not one of HTTP, or the environment names a proxy that is not.
        """
        self.where = where_of(url)
        self._headers = {"Content-Type": "application/json"}
        self._url = URL(url)
        if self._url.raw_user is not None or self._url.raw_password is not None:
            # Not left to aiohttp, which knows latin-1 only.
            self._headers["Authorization"] = aiohttp.encode_basic_auth(self._url.user or "", self._url.password or "")
            self._url = self._url.with_user(None)
        self._proxy = _proxy_of(self._url)
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._retries = retries
        self._sleep = sleep
        self._jitter = jitter
        self._last_id = 0
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()

    def _session(self) -> aiohttp.ClientSession:
        """The connections, which belong to the event loop of the first call."""
        if self._http is None:
            connector = aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=KEPT_ALIVE_S)
            # No timeouts of aiohttp: the deadline of a call is over all of it. The certificates are the system's, or what SSL_CERT_FILE names.
            self._http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None), proxy=self._proxy)
        return self._http

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
            except aiohttp.ClientError as error:
                failure = _Again(_reason(error))
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
        request = msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        async with self._session().post(self._url, data=request, headers=self._headers, allow_redirects=False) as response:
            self._check_status(response)
            body = bytearray()
            async for chunk in response.content.iter_any():
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

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status == HTTPStatus.OK:
            return
        what = f"HTTP {status} {response.reason or ''}".rstrip()
        if status in RETRIED_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            pause_s = retry_after_s(response.headers.get("Retry-After")) if status in (SLOW_DOWN, UNAVAILABLE) else None
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
        parsed = URL(url)
    except ValueError:
        # What yarl says of it may hold a key.
        raise SettingError("not a URL", where="BLYAN_RPC_URL", remedy="set it to the http(s):// endpoint of a node") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SettingError(
            f"{_without_secrets(parsed)} is not an HTTP endpoint", where="BLYAN_RPC_URL", remedy="set it to the http(s):// endpoint of a node"
        )
    return _without_secrets(parsed)


def _without_secrets(url: URL) -> str:
    """The URL as it may be shown: providers put keys into the query, the user part or the path."""
    port = f":{url.explicit_port}" if url.explicit_port is not None else ""
    return f"{url.scheme}://{url.host_subcomponent or ''}{port}{'/…' if url.path not in ('', '/') or url.query_string else ''}"


def _proxy_of(url: URL) -> URL | None:
    """The proxy that the environment names for a URL. aiohttp would ask for each call anew, and send what is in `~/.netrc`.

    Raises:
        SettingError: it is not a proxy of HTTP.
    """
    named = getproxies()
    proxy = named.get(url.scheme) or named.get("all")
    if not proxy or proxy_bypass(url.host or ""):
        return None
    try:
        parsed = URL(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        parsed = URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SettingError(
            "the proxy is not one of HTTP",
            where=f"{url.scheme.upper()}_PROXY or ALL_PROXY",
            remedy="set it to http://host:port, or NO_PROXY to the node",
        )
    return parsed


def _reason(error: aiohttp.ClientError) -> str:
    """Why a connection failed, without the URL that some messages of aiohttp have, nor what else a server sent."""
    name = type(error).__name__
    match error:
        case aiohttp.ClientConnectorError():
            return f"{name}: {error.os_error}"
        case aiohttp.ClientOSError() | aiohttp.ClientPayloadError():
            return f"{name}: {error}"
        case aiohttp.ClientResponseError():
            return f"{name}: {error.status} {error.message}"
    return name


def retry_after_s(value: str | None) -> float | None:
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
