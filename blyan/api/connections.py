"""Connections that nobody may hold open for nothing: uvicorn's protocol with a patience.

Belongs here: limits of one connection. Does not belong here: time limits of queries (`blyan.api.callers`), sizes of bodies
(`blyan.api.envelope`).

uvicorn waits for ever for a client that does not read, and for one that does not finish what it sends. Here a client that leaves the
send buffer full, or a request unfinished, for `patience_s` loses its connection, and the query behind it is cancelled. The head of a
request may have `HEAD_BYTES`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from blyan.api.problems import MALFORMED, MEDIA_TYPE, Told

HEAD_BYTES = 64 << 10
"""Bytes of a request's line and headers, at most."""


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 with limits on both directions."""

    patience_s = 30.0
    """Seconds; set once, before serving."""

    let_go: Callable[[], None] = staticmethod(lambda: None)
    """Told of each connection that was let go; set likewise."""

    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _head: int | None = 0

    def connection_made(self, transport: Any) -> None:
        """A client is there: its first request is due."""
        super().connection_made(transport)
        self._reading = self._after(self._reading)

    def data_received(self, data: bytes) -> None:
        """Something came, of a head or of a body."""
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"the head of the request has more than {HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """A request begins, and must come whole."""
        super().on_message_begin()
        self._head = self._head or 0  # what came with the same packet is counted already
        self._reading = self._after(self._reading)

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request came whole."""
        self._reading = self._stop(self._reading)
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """The connection is another protocol's, which has limits of its own."""
        self._reading = self._stop(self._reading)
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Tell a client that does not speak HTTP, and let it go."""
        body = Told(MALFORMED, msg, "send HTTP/1.1").document(path="", request_id="")
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read as fast as is written."""
        super().pause_writing()
        self._writing = self._after(self._writing)

    def resume_writing(self) -> None:
        """It has read."""
        self._writing = self._stop(self._writing)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._reading, self._writing = self._stop(self._reading), self._stop(self._writing)
        super().connection_lost(exc)

    def _after(self, running: asyncio.TimerHandle | None) -> asyncio.TimerHandle:
        self._stop(running)
        return self.loop.call_later(self.patience_s, self._abort)

    def _stop(self, running: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
        if running is not None:
            running.cancel()
        return None

    def _abort(self) -> None:
        # Not close(): it would wait for what the client does not read.
        self.let_go()
        self.transport.abort()
