"""Requests that were answered before, answered again from memory: without routing, parsing and validating.

Belongs here: telling that a request is the same, who may have its answer, conditional requests. Does not belong here: what an answer is
(`blyan.api.routes`), whether it still holds (`blyan.query.cache`).

A request is the same where its method, path, parameters, body and the form that it accepts are, byte for byte, and its caller has the same
role. Everything that counts is done as ever: who asks is told and counted, the scope is required, the envelope writes down and measures.
Whatever is not known here, or does not hold any more, goes to the route.

`If-None-Match` with the tag of the answer gets 304, of POST too where that only reads.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

from blyan.api.callers import Role, Scope
from blyan.api.envelope import App, Asked, Message, Receive, Send, asked_of
from blyan.api.service import Service
from blyan.query.cache import Content, key_of
from blyan.query.records import Reading as RecordsReading
from blyan.query.snapshot import Reading

KNOWN = 4_096
"""Requests that are known, by role."""

BODY_BYTES = 32 << 10
"""A request with more is not known."""

POSTS = frozenset({"/v1/sql"})
"""Paths where POST only reads, and answers are recalled."""

TELLING = (b"accept", b"content-type")
"""Headers that tell requests apart, besides what is in the line."""

ASIDE = frozenset({b"origin", b"content-encoding", b"expect"})
"""Headers of requests that are not for this: they change more than the answer."""

HOLDS = (b"cache-control", b"private, no-cache")
"""An answer may be kept by who asked, if it is asked each time whether it holds."""

VARIES = (b"vary", b"authorization, accept")


@dataclass(frozen=True, slots=True)
class Reply:
    """A response to be: its body, rows, tag, media type, and headers besides."""

    body: bytes
    rows: int
    tag: str
    headers: dict[str, str]
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Recall:
    """How to answer a request again.

    Attributes:
        scope: that its caller needs.
        reply: the response as of now; None where it is not remembered.
        route: for metrics.
        sql: for the audit log.
    """

    scope: Scope
    reply: Callable[[], Awaitable[Reply | None]]
    route: Any = None
    sql: str | None = None


def tag_of(content: Content, reading: Reading | RecordsReading, form: str = "json") -> str:
    """A weak tag: what an answer says of now is another each time, and its rows are the same.

    An answer with more rows behind it has a cursor into what stands now. It is another where something else stands, or who kept it
    would go on with that cursor for good, even where that is gone.
    """
    said = key_of(content.digest, reading.versions, reading.generation) if content.truncated else content.digest
    return f'W/"{said[:32]}-{form}"'


class Recalling:
    """ASGI middleware, inside of the envelope.

    Args:
        app: what answers otherwise.
        service: who callers are.
    """

    def __init__(self, app: App, *, service: Service) -> None:
        self._app, self._service = app, service
        self._known: OrderedDict[tuple[bytes, Role], Recall] = OrderedDict()
        self._names: dict[bytes, int] = {}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not (scope["method"] == "GET" or (scope["method"] == "POST" and scope["path"] in POSTS)):
            await self._app(scope, receive, send)
            return
        # Of two with one name the first counts, as for the routes.
        headers = dict(reversed(scope["headers"]))
        asked = asked_of(scope)
        asked.fresh = _wants_fresh(headers.get(b"cache-control", b""))
        if b"if-none-match" in headers:
            send = _conditional(headers[b"if-none-match"], send)
        name = None
        if not asked.fresh and ASIDE.isdisjoint(headers) and int(headers.get(b"content-length", b"0")) <= BODY_BYTES:
            if scope["method"] == "POST":
                message = await receive()
                body, receive = message.get("body", b""), _again(message, receive)
                name = None if message.get("more_body") else _name(scope, headers, body)
            else:
                name = _name(scope, headers, b"")
        if name in self._names and (reply := await self._recalled(scope, headers, asked, name)) is not None:
            await _sent(reply, send)
            return
        await self._app(scope, receive, send)
        if name is not None and asked.recall is not None and asked.caller is not None:
            self._learn(name, asked.caller.role, asked.recall, scope.get("route"))

    async def _recalled(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], asked: Asked, name: bytes) -> Reply | None:
        scheme, _, shown = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        caller = await self._service.identify(HTTPConnection(scope), shown if scheme.lower() == "bearer" and shown else None)
        recall = self._known.get((name, caller.role))
        if recall is None:
            return None
        caller.require(recall.scope)
        reply = await recall.reply()
        if reply is not None:
            scope["route"], asked.sql, asked.rows = recall.route, recall.sql, reply.rows
            asked.sources.append("memory")
            self._known.move_to_end((name, caller.role))
        return reply

    def _learn(self, name: bytes, role: Role, recall: Recall, route: Any) -> None:
        if (name, role) not in self._known:
            self._names[name] = self._names.get(name, 0) + 1
        self._known[name, role] = Recall(recall.scope, recall.reply, route, recall.sql)
        if len(self._known) > KNOWN:
            (old, _), _ = self._known.popitem(last=False)
            self._names[old] -= 1
            if not self._names[old]:
                del self._names[old]


def _name(scope: MutableMapping[str, Any], headers: dict[bytes, bytes], body: bytes) -> bytes:
    parts = [scope["method"].encode(), scope["path"].encode(), scope["query_string"], *(headers.get(name, b"") for name in TELLING), body]
    return hashlib.blake2b(b"".join(b"%d:%b" % (len(part), part) for part in parts), digest_size=16).digest()


def _wants_fresh(header: bytes) -> bool:
    """Whether a request asks for no answer that is remembered."""
    return any(part.strip().lower() in (b"no-store", b"no-cache") for part in header.split(b","))


def _again(first: Message, receive: Receive) -> Receive:
    """Receive a message that was looked at, then the others."""
    waiting = [first]

    async def receiving() -> Message:
        return waiting.pop() if waiting else await receive()

    return receiving


def _conditional(shown: bytes, send: Send) -> Send:
    """Send 304 in the place of an answer that the client says it has."""
    tags = {tag.strip().removeprefix(b"W/") for tag in shown.split(b",")}
    same = False

    async def sending(message: Message) -> None:
        nonlocal same
        if message["type"] == "http.response.start" and message["status"] == 200:
            tag = next((value for name, value in message["headers"] if name == b"etag"), None)
            same = tag is not None and (tag.removeprefix(b"W/") in tags or tags == {b"*"})
            if same:
                headers = [(name, value) for name, value in message["headers"] if name not in (b"content-length", b"content-type")]
                message = {**message, "status": 304, "headers": headers}
        elif same and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sending


async def _sent(reply: Reply, send: Send) -> None:
    headers = [
        (b"content-type", reply.media_type.encode()),
        (b"content-length", b"%d" % len(reply.body)),
        (b"etag", reply.tag.encode()),
        HOLDS,
        VARIES,
        *((name.encode(), value.encode()) for name, value in reply.headers.items()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
