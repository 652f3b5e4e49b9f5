"""The clock of the follower: a stream of slots as a node announces them.

Belongs here: subscriptions over WebSocket that never end, whatever the connection does. Does not belong here: content; a
notification only says that it is time to ask. Streams of other kinds are in `pushed` and `yellowstone`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

SILENCE_S = 10.0
"""A connection on which no slot was announced for so long is half open: slots take 0.4 s."""

BACKOFF_BASE_S, BACKOFF_CAP_S = 0.1, 10.0

OPEN_S = 5.0

METHOD_NOT_FOUND = -32601

Result = TypeVar("Result")


class SlotStream(Protocol):
    """Slots as they are announced. They may be late, out of order, twice, or left out: only the clock depends on them."""

    @property
    def reconnects(self) -> int:
        """Times it was connected again."""
        ...

    def slots(self) -> AsyncIterator[int]:
        """Announced slots, for ever, or until nothing will ever be announced."""
        ...


class _Params(Struct, Generic[Result]):
    result: Result


class _Error(Struct):
    code: int
    message: str = ""


class _Message(Struct, Generic[Result]):
    method: str = ""
    params: _Params[Result] | None = None
    error: _Error | None = None


class Subscription(Generic[Result]):
    """One subscription of a node over WebSocket, made again whenever it ends, falls silent or says what cannot be read.

    Attributes:
        reconnects: times it was made again.
        last_failure: why, the last time.
        refused: what the node said where it does not serve the method at all; the subscription is then over.
    """

    def __init__(
        self,
        url: str,
        method: str,
        params: list[Any],
        kind: type[Result],
        *,
        silence_s: float = SILENCE_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is contacted yet.

        Args:
            url: the node's WebSocket endpoint.
            method: that subscribes.
            params: of the method.
            kind: of the results that are notified.
            silence_s: seconds without a notification after which the connection is given up.
            sleep: how to wait before the next one.
            jitter: a number from 0 to 1, the part of the longest pause that is taken.
        """
        self._url, self._silence_s, self._sleep, self._jitter = url, silence_s, sleep, jitter
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method}
        self._request = msgspec.json.encode({**request, "params": params} if params else request).decode()
        self._decode = msgspec.json.Decoder(_Message[kind]).decode  # type: ignore[valid-type]
        self.reconnects = 0
        self.last_failure = self.refused = ""

    async def results(self) -> AsyncIterator[Result]:
        """What is notified; without end, unless the node does not serve the method."""
        failures = 0
        while True:
            try:
                # Frames of any size: a slot's is small, but the default limit of 1 MiB has ended streams before.
                async with connect(self._url, max_size=None, open_timeout=OPEN_S, close_timeout=1, proxy=None) as socket:
                    await socket.send(self._request)
                    while True:
                        async with asyncio.timeout(self._silence_s):
                            message = self._decode(await socket.recv(decode=False))
                        if message.params is not None:
                            failures = 0
                            yield message.params.result
                        elif message.error is not None and message.error.code == METHOD_NOT_FOUND:
                            self.refused = message.error.message or str(METHOD_NOT_FOUND)
                            return
                        elif message.error is not None:
                            raise ConnectionRefusedError(f"rpc {message.error.code}: {message.error.message}")
            except (OSError, TimeoutError, WebSocketException, msgspec.DecodeError) as error:
                self.last_failure = f"{type(error).__name__}: {error}"
            self.reconnects += 1
            await self._sleep(self._jitter() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0**failures))
            failures += 1


class _Notice(Struct):
    slot: int


class WebSocketSlots(Subscription[_Notice]):
    """`slotSubscribe` of a node; `say` is told once where the node does not serve it."""

    def __init__(self, url: str, *, say: Callable[[str], None] = lambda _: None, **waiting: Any) -> None:
        super().__init__(url, "slotSubscribe", [], _Notice, **waiting)
        self._say = say

    async def slots(self) -> AsyncIterator[int]:
        """See `SlotStream`."""
        async with aclosing(self.results()) as notices:  # type: ignore[type-var]
            async for notice in notices:
                yield notice.slot
        self._say(f"the node does not serve slotSubscribe ({self.refused}): it is asked every second")


def websocket_url(rpc_url: str) -> str:
    """The WebSocket endpoint that goes with an HTTP one: the next port where one is named, as validators have it."""
    from urllib.parse import urlsplit, urlunsplit

    parts = urlsplit(rpc_url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    host = parts.netloc
    if parts.port is not None:
        host = host.removesuffix(f":{parts.port}") + f":{parts.port + 1}"
    return urlunsplit((scheme, host, parts.path, parts.query, ""))
