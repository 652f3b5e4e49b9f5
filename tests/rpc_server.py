"""A Solana JSON-RPC node on loopback that serves recorded blocks and misbehaves on purpose.

Belongs here: the server and its ways to misbehave. Does not belong here: what a client should make of them.

    with RpcServer({5: block_bytes}) as server:
        server.misbehave("getBlock", Status(429, {"Retry-After": "3"}), slot=5)
        RpcSource(server.url)
"""

from __future__ import annotations

import gzip
import json
import ssl
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request as it arrived: the call, and the HTTP around it."""

    method: str
    params: list[Any]
    target: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    connection: object = None

    @property
    def slot(self) -> int | None:
        return self.params[0] if self.method == "getBlock" else None


@dataclass(frozen=True)
class Status:
    """An HTTP error status, with headers."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"<html><body>upstream is not well</body></html>"

    def answer(self, handler: _Handler, body: bytes) -> None:
        handler.send(self.code, self.body, {"Content-Type": "text/html", **self.headers})


@dataclass(frozen=True)
class Html:
    """A proxy's error page with status 200."""

    def answer(self, handler: _Handler, body: bytes) -> None:
        handler.send(200, b"<!doctype html><title>Bad gateway</title>", {"Content-Type": "text/html"})


@dataclass(frozen=True)
class HalfBody:
    """Half the answer, then the connection closes, although Content-Length promised all of it."""

    def answer(self, handler: _Handler, body: bytes) -> None:
        handler.send(200, body[: len(body) // 2], {"Content-Length": str(len(body))})
        handler.close_connection = True


@dataclass(frozen=True)
class HalfBodyThatClaimsToBeWhole:
    """Half the answer, with the Content-Length of the half: only the JSON is cut short."""

    def answer(self, handler: _Handler, body: bytes) -> None:
        handler.send(200, body[: len(body) // 2])


@dataclass(frozen=True)
class Compressed:
    """The right answer, compressed with gzip."""

    def answer(self, handler: _Handler, body: bytes) -> None:
        handler.send(200, gzip.compress(body), {"Content-Encoding": "gzip"})


@dataclass(frozen=True)
class BrokenCompression:
    """The right answer, compressed with gzip, of which some bytes in the middle are others, or the end is missing."""

    cut: bool = False

    def answer(self, handler: _Handler, body: bytes) -> None:
        data = gzip.compress(body)
        middle = len(data) // 2
        handler.send(200, data[:middle] if self.cut else data[:middle] + b"\xff" * 8 + data[middle + 8 :], {"Content-Encoding": "gzip"})


@dataclass(frozen=True)
class BrokenChunk:
    """Half the answer in a chunk, and then a chunk whose size is no number."""

    def answer(self, handler: _Handler, body: bytes) -> None:
        half = body[: len(body) // 2]
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        handler.wfile.write(head + b"%x\r\n%s\r\nsize\r\n" % (len(half), half))
        handler.close_connection = True


@dataclass(frozen=True)
class BrokenHead:
    """What is not HTTP."""

    def answer(self, handler: _Handler, body: bytes) -> None:
        handler.wfile.write(b"+PONG\r\n\r\n")
        handler.close_connection = True


@dataclass(frozen=True)
class Endless:
    """An answer that never ends, plain or compressed; the event is set once the client hung up."""

    hung_up: threading.Event
    compressed: bool = False

    def answer(self, handler: _Handler, body: bytes) -> None:
        blank = b" " * (1 << 16)
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\n\r\n" % (b"gzip" if self.compressed else b"identity")
        # Members of gzip may follow one another.
        part = gzip.compress(blank) if self.compressed else blank
        try:
            handler.wfile.write(head)
            while not handler.node.stopping.is_set():
                handler.wfile.write(part)
        except (BrokenPipeError, ConnectionResetError):
            self.hung_up.set()
            raise


@dataclass(frozen=True)
class LastWord:
    """The right answer, and then the connection closes, although nothing announced that."""

    def answer(self, handler: _Handler, body: bytes) -> None:
        handler.send(200, body)
        handler.close_connection = True


@dataclass(frozen=True)
class Reset:
    """The connection closes before any answer."""

    def answer(self, handler: _Handler, body: bytes) -> None:
        handler.close_connection = True


@dataclass(frozen=True)
class Drip:
    """One byte at a time, from the status line or from the body on, until the client gives up."""

    from_status_line: bool = False

    def answer(self, handler: _Handler, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        if not self.from_status_line:
            handler.wfile.write(head)
        for byte in body if not self.from_status_line else head + body:
            if handler.node.stopping.wait(0.02):
                break
            handler.wfile.write(bytes([byte]))
        handler.close_connection = True


@dataclass(frozen=True)
class OtherId:
    """A well-formed answer, but to another client's request."""

    def answer(self, handler: _Handler, body: bytes) -> None:
        handler.send(200, json.dumps({**json.loads(body), "id": 987654}).encode())


@dataclass(frozen=True)
class Error:
    """A JSON-RPC error."""

    code: int
    message: str = "as scripted"

    def answer(self, handler: _Handler, body: bytes) -> None:
        reply = {"jsonrpc": "2.0", "error": {"code": self.code, "message": self.message}, "id": json.loads(body)["id"]}
        handler.send(200, json.dumps(reply).encode())


@dataclass(frozen=True)
class Result:
    """A result of the test's choice, as JSON text."""

    text: bytes

    def answer(self, handler: _Handler, body: bytes) -> None:
        handler.send(200, b'{"jsonrpc":"2.0","result":' + self.text + b',"id":%d}' % json.loads(body)["id"])


@dataclass(frozen=True)
class Held:
    """A right answer, once the test sets the event."""

    release: threading.Event

    def answer(self, handler: _Handler, body: bytes) -> None:
        self.release.wait(10)
        handler.send(200, body)


Misbehaviour = (
    Status
    | Html
    | HalfBody
    | HalfBodyThatClaimsToBeWhole
    | Compressed
    | BrokenCompression
    | BrokenChunk
    | BrokenHead
    | Endless
    | LastWord
    | Reset
    | Drip
    | OtherId
    | Error
    | Result
    | Held
)


class RpcServer:
    """The node. Its blocks are getBlock results; a slot without one was skipped.

    Attributes:
        url: where it listens.
        first_available: the first slot it still has.
        tip: its finalized slot.
        requests: every request so far, in the order they arrived.
        most_at_once: how many requests it was ever answering at the same time.
    """

    def __init__(
        self,
        blocks: Mapping[int, bytes],
        *,
        first_available: int | None = None,
        tip: int | None = None,
        genesis: str = "GenesisOfTheTest",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.blocks = dict(blocks)
        self.first_available = min(blocks, default=0) if first_available is None else first_available
        self.tip = max(blocks, default=0) if tip is None else tip
        self.genesis = genesis
        self.hidden: set[int] = set()
        self.requests: list[Request] = []
        self.most_at_once = 0
        self.stopping = threading.Event()
        self._answering = 0
        self._plan: dict[tuple[str, int | None], deque[Misbehaviour]] = defaultdict(deque)
        self._always: dict[tuple[str, int | None], Misbehaviour] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"node": self}))
        self._server.daemon_threads = False
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="rpc-server")

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def start(self) -> RpcServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> RpcServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def misbehave(self, method: str, *ways: Misbehaviour, slot: int | None = None, always: bool = False) -> None:
        """Answer the next calls of a method (of getBlock: for one slot) in these ways; then well, unless `always`."""
        if always:
            self._always[method, slot] = ways[-1]
        self._plan[method, slot].extend(ways)

    def hide(self, *slots: int) -> None:
        """Leave blocks out of getBlocks, though getBlock serves them."""
        self.hidden.update(slots)

    def calls(self, method: str) -> list[Request]:
        """The requests of one method so far."""
        return [request for request in self.requests if request.method == method]

    def arrived(self, request: Request) -> Misbehaviour | None:
        """Record a request and say how to answer it."""
        with self._lock:
            self.requests.append(request)
            self._answering += 1
            self.most_at_once = max(self.most_at_once, self._answering)
            for key in ((request.method, request.slot), (request.method, None)):
                if self._plan[key]:
                    return self._plan[key].popleft()
                if key in self._always:
                    return self._always[key]
            return None

    def answered(self) -> None:
        """Record the end of an answer."""
        with self._lock:
            self._answering -= 1

    def reply(self, request: Request) -> bytes | Error:
        """The result of a request, as JSON text."""
        match request.method:
            case "getGenesisHash":
                return json.dumps(self.genesis).encode()
            case "getFirstAvailableBlock":
                return b"%d" % self.first_available
            case "getSlot":
                return b"%d" % self.tip
            case "getBlocks":
                first, last = request.params[:2]
                if last - first > 500_000:
                    return Error(-32602, "Slot range too large; max 500000")
                listed = [slot for slot in sorted(self.blocks) if first <= slot <= min(last, self.tip) and slot not in self.hidden]
                return json.dumps([slot for slot in listed if slot >= self.first_available]).encode()
            case "getBlock":
                return self._block(*request.params)
            case _:
                return Error(-32601, "Method not found")

    def _block(self, slot: int, options: dict[str, Any]) -> bytes | Error:
        if slot < self.first_available:
            return Error(-32001, f"Block {slot} cleaned up, does not exist on node. First available block: {self.first_available}")
        if slot > self.tip:
            return Error(-32004, f"Block not available for slot {slot}")
        if slot not in self.blocks:
            return Error(-32007, f"Slot {slot} was skipped, or missing due to ledger jump to recent snapshot")
        if options["transactionDetails"] == "none":
            block = json.loads(self.blocks[slot])
            return json.dumps({key: value for key, value in block.items() if key not in ("transactions", "rewards")}).encode()
        return self.blocks[slot]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer takes 40 ms
    node: RpcServer

    def do_POST(self) -> None:
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = Request(call["method"], call["params"], self.path, dict(self.headers), self.connection)
        way = self.node.arrived(request)
        reply = self.node.reply(request)
        try:
            if isinstance(reply, Error):
                way, reply = way or reply, b"null"
            body = b'{"jsonrpc":"2.0","result":' + reply + b',"id":%d}' % call["id"]
            if way is None:
                self.send(200, body)
            else:
                way.answer(self, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up, as some tests want it to
        finally:
            self.node.answered()

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
