"""A language model's server of OpenAI's form, for tests: what it says is scripted, and it may misbehave.

Belongs here: the API. Does not belong here: what a test has it say.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Calls = list[tuple[str, Any]]
"""Names of tools and their arguments, a text as it is and all else as JSON."""

Script = Callable[[dict[str, Any]], tuple[str, Calls]]
"""What the model says to a request: its words and its calls."""

Misbehaviour = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
            misbehaviour = self.server.misbehaviours.popleft() if self.server.misbehaviours else None
        (misbehaviour or answered)(self, body)

    def send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        named = {"Content-Type": kind, "Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def begin(self) -> None:
        """The head of a stream, which ends with its connection."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, data: Any) -> None:
        self.wfile.write(b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n")
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        pass


class ChatServer(ThreadingHTTPServer):
    """`gone` is set when a client left a stream of `endless`."""

    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.misbehaviours: deque[Misbehaviour] = deque()
        self.gone = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextmanager
def chat_server(script: Script) -> Iterator[ChatServer]:
    with ChatServer(script) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def usage(body: dict[str, Any], text: str) -> dict[str, int]:
    """A token for each word."""
    read = sum(len(str(message["content"]).split()) for message in body["messages"])
    return {"prompt_tokens": read, "completion_tokens": len(text.split()), "total_tokens": read + len(text.split())}


def as_calls(calls: Calls) -> list[dict[str, Any]]:
    return [
        {
            "index": place,
            "id": f"call_{place}",
            "type": "function",
            "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
        }
        for place, (name, given) in enumerate(calls)
    ]


def answered(handler: Handler, body: dict[str, Any]) -> None:
    """As the script says, streamed a few characters at a time where that is asked for."""
    text, calls = handler.server.script(body)
    finish = "tool_calls" if calls else "stop"
    if not body.get("stream"):
        message = {"role": "assistant", "content": text, **({"tool_calls": as_calls(calls)} if calls else {})}
        whole = {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage(body, text)}
        handler.send(200, json.dumps(whole).encode())
        return
    handler.begin()
    for start in range(0, len(text), 7):
        handler.event({"choices": [{"index": 0, "delta": {"content": text[start : start + 7]}, "finish_reason": None}]})
    if calls:
        handler.event({"choices": [{"index": 0, "delta": {"tool_calls": as_calls(calls)}, "finish_reason": None}]})
    handler.event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    handler.event({"choices": [], "usage": usage(body, text)})
    handler.event(b"[DONE]")


def status(code: int, body: bytes = b"{}", **headers: str) -> Misbehaviour:
    return lambda handler, _: handler.send(code, body, **headers)


def hung_up(handler: Handler, _: dict[str, Any]) -> None:
    handler.close_connection = True


def slow(seconds: float) -> Misbehaviour:
    return lambda handler, body: (time.sleep(seconds), answered(handler, body))[1]  # type: ignore[func-returns-value]


def dies(words: str) -> Misbehaviour:
    """Some words of a stream, and the connection closes."""

    def misbehave(handler: Handler, _: dict[str, Any]) -> None:
        handler.begin()
        handler.event({"choices": [{"index": 0, "delta": {"content": words}, "finish_reason": None}]})

    return misbehave


def endless(handler: Handler, _: dict[str, Any]) -> None:
    """Words without end, until the client goes."""
    handler.begin()
    try:
        while True:
            handler.event({"choices": [{"index": 0, "delta": {"content": "and on "}, "finish_reason": None}]})
            time.sleep(0.01)
    except OSError:
        handler.server.gone.set()


def silent(handler: Handler, _: dict[str, Any]) -> None:
    """No word, until the client goes."""
    handler.begin()
    handler.connection.settimeout(20)
    try:
        if handler.connection.recv(1) == b"":
            handler.server.gone.set()
    except OSError:
        handler.server.gone.set()
