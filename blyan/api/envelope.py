"""What surrounds every request: its id, size, problem, headers, log line, metrics and audit.

Belongs here: what is the same for all routes. Does not belong here: routes, and connections (`blyan.api.connections`).
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blyan.api.audit import SQL_CHARACTERS, AuditLog
from blyan.api.callers import Principal
from blyan.api.problems import MEDIA_TYPE, TOO_LARGE, RequestError, Told, told_of
from blyan.api.telemetry import REQUEST_ID, Metrics

if TYPE_CHECKING:
    from blyan.api.recall import Recall

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SANE_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
"""A client's own request id that is taken over."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-site"),
    (b"cache-control", b"no-store"),
)
"""Of every response that does not say otherwise."""

TLS_HEADERS = ((b"strict-transport-security", b"max-age=31536000"),)

AUDITED = ("/v1/", "/mcp")

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths whose good answers are no line of the log."""

log = logging.getLogger("blyan.api")


@dataclass(slots=True)
class Asked:
    """One request, as it becomes known.

    Attributes:
        caller: who asks, once it is told.
        headers: that the response gets besides.
        sql: the statement.
        search: the search, as JSON.
        question: in words.
        rows: that were sent.
        told: the problem that was told.
        fresh: the caller wants no answer that is remembered.
        sources: where each part of the answer came from, as `blyan.query.cache` names them.
        recall: how to answer the same request again without its route, where that is known.
    """

    id: str
    caller: Principal | None = None
    headers: dict[str, str] = field(default_factory=dict)
    sql: str | None = None
    search: str | None = None
    question: str | None = None
    rows: int | None = None
    told: Told | None = None
    fresh: bool = False
    sources: list[str] = field(default_factory=list)
    recall: Recall | None = None


def asked_of(scope: MutableMapping[str, Any]) -> Asked:
    """The request of a scope."""
    asked: Asked = scope["state"]["asked"]
    return asked


class Envelope:
    """ASGI middleware, the outermost.

    Args:
        app: what answers.
        metrics: where requests are counted.
        audit: where they are written down; None: nowhere.
        body_bytes: that a request may have.
    """

    def __init__(self, app: App, *, metrics: Metrics, audit: AuditLog | None, body_bytes: int) -> None:
        self._app, self._metrics, self._audit, self._body_bytes = app, metrics, audit, body_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id" and SANE_ID.fullmatch(value)), None)
        asked = Asked(given.decode() if given else secrets.token_hex(8))
        scope.setdefault("state", {})["asked"] = asked
        token = REQUEST_ID.set(asked.id)
        self._metrics.in_flight.inc()
        try:
            await (self._http if scope["type"] == "http" else self._websocket)(scope, receive, send, asked)
        finally:
            self._metrics.in_flight.dec()
            REQUEST_ID.reset(token)

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, asked: Asked) -> None:
        began, status, sent, whole = time.perf_counter(), 0, 0, False

        async def sending(message: Message) -> None:
            nonlocal status, sent, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._headers(scope, list(message.get("headers", ())), asked)
            await send(message)
            if message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                whole = not message.get("more_body", False)

        why = ""
        try:
            try:
                await self._app(scope, self._bounded(scope, receive), sending)
            except Exception as error:
                if status:
                    # The head said that all is well: only a broken connection can still say that it is not.
                    why = type(error).__name__
                    raise
                await self._tell(scope, error, sending, asked)
        finally:
            if not whole:
                self._metrics.broken.labels(why or "disconnected").inc()
            self._account(scope, asked, status=status, sent=sent, seconds=time.perf_counter() - began, whole=whole)

    async def _websocket(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, asked: Asked) -> None:
        began = time.perf_counter()
        try:
            await self._app(scope, receive, send)
        finally:
            self._account(scope, asked, status=101, sent=0, seconds=time.perf_counter() - began, whole=True)

    def _bounded(self, scope: MutableMapping[str, Any], receive: Receive) -> Receive:
        """Receive, up to the largest body.

        Raises:
            RequestError: when more is received, or at once where the head says so.
        """
        most, had = self._body_bytes, 0
        stated = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(stated) > most:
            raise too_large(most)

        async def receiving() -> Message:
            nonlocal had
            message = await receive()
            had += len(message.get("body", b""))
            if had > most:
                raise too_large(most)
            return message

        return receiving

    async def _tell(self, scope: MutableMapping[str, Any], error: Exception, send: Send, asked: Asked) -> None:
        """Answer with the problem that an error is."""
        told = asked.told = told_of(error)
        self._metrics.refused.labels(told.kind.slug).inc()
        if told.kind.status >= 500:
            log.error("a request failed: %s", error, exc_info=error)
        body = told.document(path=scope["path"], request_id=asked.id)
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in (told.headers or {}).items()]
        await send({"type": "http.response.start", "status": told.kind.status, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})

    def _headers(self, scope: MutableMapping[str, Any], headers: list[tuple[bytes, bytes]], asked: Asked) -> list[tuple[bytes, bytes]]:
        there = {name.lower() for name, _ in headers}
        more = [(b"x-request-id", asked.id.encode()), *((name.encode(), value.encode()) for name, value in asked.headers.items())]
        if asked.sources:
            more.append((b"cache-status", cache_status(asked.sources)))
        more += [*HEADERS, *(TLS_HEADERS if scope["scheme"] == "https" else ())]
        return headers + [(name, value) for name, value in more if name not in there]

    def _account(self, scope: MutableMapping[str, Any], asked: Asked, *, status: int, sent: int, seconds: float, whole: bool) -> None:
        """Count a request that is over, and write it down."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope.get("method", "WEBSOCKET")
        # A method is whatever a client writes, and each would be a series of its own.
        method = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "WEBSOCKET") else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        self._metrics.sent_bytes.labels(route).inc(sent)
        about: dict[str, Any] = {
            "method": method,
            "path": scope["path"],
            "route": route,
            "status": status,
            "bytes": sent,
            "ms": round(seconds * 1e3, 1),
        }
        if asked.told:
            about["problem"] = asked.told.kind.slug
        if not whole:
            about["whole"] = False
        if scope["path"] not in QUIET or status >= 400:
            log.info("answered", extra=about)
        if self._audit is not None and scope["path"].startswith(AUDITED):
            self._write_down(scope, asked, about)

    def _write_down(self, scope: MutableMapping[str, Any], asked: Asked, about: dict[str, Any]) -> None:
        caller = asked.caller
        record = {
            "time": time.time(),
            "request_id": asked.id,
            "caller": caller.id if caller else None,
            "via": caller.via if caller else None,
            "role": caller.role if caller else None,
            "client": (scope.get("client") or ("",))[0],
            **about,
            "query": scope.get("query_string", b"").decode("latin-1"),
            "rows": asked.rows,
        }
        if asked.question is not None:
            record["question"] = asked.question[:SQL_CHARACTERS]
        if asked.sql is not None:
            record["sql"] = asked.sql[:SQL_CHARACTERS]
            record["sql_sha256"] = hashlib.sha256(asked.sql.encode(errors="replace")).hexdigest()
        if asked.search is not None:
            record["search"] = asked.search[:SQL_CHARACTERS]
        try:
            assert self._audit is not None
            self._audit.write(record)
        except OSError:
            # The request was answered: what is left is to say so where somebody may still read it.
            log.exception("the audit log cannot be written", extra={"audit": record})


def cache_status(sources: list[str]) -> bytes:
    """The header of RFC 9211: a hit where nothing had to be computed, with the room that was asked last."""
    computed = [source for source in sources if source in _MISSES]
    if computed:
        return b"blyan; " + _MISSES[computed[0]]
    last = next((source for source in reversed(sources) if source != "memory"), None)
    return b"blyan; hit" if last is None else f"blyan; hit; detail={last}".encode()


_MISSES = {
    "computed": b"fwd=miss; stored",
    "joined": b"fwd=miss; collapsed",
    "streamed": b"fwd=miss; detail=too-large",
    "fresh": b"fwd=request",
    "none": b"fwd=bypass",
}
"""Of where a part came from: that it was computed, and what became of it."""


def too_large(most: int) -> RequestError:
    """The refusal of a body."""
    return RequestError(TOO_LARGE, f"the body has more than {most} bytes", remedy="send less, or ask the operator to raise BLYAN_SERVE_BODY_BYTES")
