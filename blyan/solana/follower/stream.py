"""The clock of the follower: a stream of slots as a node announces them.

Belongs here: subscriptions that never end, whatever the connection does. Does not belong here: content; a notification only
says that it is time to ask. A stream of another kind (Yellowstone gRPC) is one more class with `slots`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import msgspec
from msgspec import Struct
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

SILENCE_S = 10.0
"""A connection on which no slot was announced for so long is half open: slots take 0.4 s."""

BACKOFF_BASE_S, BACKOFF_CAP_S = 0.1, 10.0

OPEN_S = 5.0


class SlotStream(Protocol):
    """Slots as they are announced. They may be late, out of order, twice, or left out: only the clock depends on them."""

    reconnects: int

    def slots(self) -> AsyncIterator[int]:
        """Announced slots, for ever."""
        ...


class _Notice(Struct):
    slot: int


class _Params(Struct):
    result: _Notice


class _Message(Struct):
    method: str = ""
    params: _Params | None = None


_decode = msgspec.json.Decoder(_Message).decode
_SUBSCRIBE = '{"jsonrpc":"2.0","id":1,"method":"slotSubscribe"}'


class WebSocketSlots:
    """`slotSubscribe` of a node, connected again whenever it ends, falls silent or says what cannot be read."""

    def __init__(
        self,
        url: str,
        *,
        silence_s: float = SILENCE_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._url, self._silence_s, self._sleep, self._jitter = url, silence_s, sleep, jitter
        self.reconnects = 0
        self.last_failure = ""

    async def slots(self) -> AsyncIterator[int]:
        """See `SlotStream`."""
        failures = 0
        while True:
            try:
                # Frames of any size: a slot's is small, but the default limit of 1 MiB has ended streams before.
                async with connect(self._url, max_size=None, open_timeout=OPEN_S, close_timeout=1, proxy=None) as socket:
                    await socket.send(_SUBSCRIBE)
                    while True:
                        async with asyncio.timeout(self._silence_s):
                            message = _decode(await socket.recv())
                        if message.params is not None:
                            failures = 0
                            yield message.params.result.slot
            except (OSError, TimeoutError, WebSocketException, msgspec.DecodeError) as error:
                self.last_failure = f"{type(error).__name__}: {error}"
            self.reconnects += 1
            await self._sleep(self._jitter() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0**failures))
            failures += 1


def websocket_url(rpc_url: str) -> str:
    """The WebSocket endpoint that goes with an HTTP one: the next port where one is named, as validators have it."""
    from urllib.parse import urlsplit, urlunsplit

    parts = urlsplit(rpc_url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    host = parts.netloc
    if parts.port is not None:
        host = host.removesuffix(f":{parts.port}") + f":{parts.port + 1}"
    return urlunsplit((scheme, host, parts.path, parts.query, ""))
