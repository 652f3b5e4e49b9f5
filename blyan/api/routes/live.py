"""Live slots as server-sent events and over a WebSocket.

Belongs here: how events travel. Does not belong here: what they are (`blyan.api.live`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Query, WebSocket
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocketDisconnect

from blyan.api.callers import Principal, Scope
from blyan.api.envelope import asked_of
from blyan.api.live import Event
from blyan.api.problems import (
    CANCELLED,
    FORBIDDEN,
    MEDIA_TYPE,
    NOT_FOUND,
    QUERY_REFUSED,
    RATE_LIMITED,
    TOO_COSTLY,
    UNAUTHENTICATED,
    responses,
    told_of,
)
from blyan.api.routes.sql import problems_of_sql
from blyan.api.service import HeldResponse, Service, known_parameters, needs, service_of
from blyan.api.telemetry import REQUEST_ID
from blyan.errors import BlyanError, TransientError
from blyan.query.engine import all_tables
from blyan.query.formats import as_json
from blyan.query.snapshot import Reading
from blyan.solana.landing import read_head

router = APIRouter(tags=["live"])

HEARTBEAT_S = 15.0
"""Seconds of silence after which a comment is sent, so that proxies keep the connection and a dead one is noticed."""

LIVE_LOOK_S = 0.5
"""Seconds between two looks whether a live query's tables have moved."""

LIVE_ROWS, LIVE_ROWS_BYTES = 1_000, 1 << 20
"""Of the result of a live query; one that has more says that it is truncated."""

UNBUFFERED = {"x-accel-buffering": "no"}
"""Says to a proxy that events are not to wait for each other."""

BEARER_PROTOCOL = "bearer."
"""Pages in a browser cannot set headers of a WebSocket; they name the protocol `bearer.<key or token>` instead."""

EXAMPLE = 'event: slot\nid: 4711\ndata: {"slot":299,"block_hash":"4uQe…","state":"landed","commitment":"confirmed","tip":301}\n\n'

After = Annotated[int | None, Query(ge=0, le=2**53, description="Only what came after this generation, the `id` of an event.", examples=[4711])]


class SlotEvent(BaseModel):
    """A slot, as the newest head tells it."""

    slot: int = Field(description="The slot.", examples=[299])
    block_hash: str | None = Field(description="Hash of its block. Null where it was skipped.")
    state: str = Field(description="`landed` or `skipped`.", examples=["landed"])
    commitment: str = Field(description="`confirmed` or `finalized`.", examples=["confirmed"])
    tip: int = Field(description="The newest slot that the node had announced.", examples=[301])


@router.get(
    "/v1/live",
    summary="New slots, as server-sent events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events until either side ends them.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
        },
        **responses(UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED),
    },
    dependencies=[Depends(known_parameters)],
)
async def live(
    caller: Annotated[Principal, needs(Scope.LIVE)],
    service: Annotated[Service, Depends(service_of)],
    after: After = None,
    last_event_id: Annotated[
        str | None, Header(description="The same as `after`, as browsers send it when they come back.", pattern="^[0-9]{0,16}$", examples=["4711"])
    ] = None,
) -> Response:
    """`head` first: everything that may still change; then whatever happens.

    `slot` for each slot that lands or is proven skipped, `gone` where its fork
    died, `final` when everything up to a slot is. Each event's `id` is the generation to come back with. `slow` is the last event of a
    client that does not read.
    """
    known = after if after is not None else int(last_event_id) if last_event_id else None
    places = contextlib.AsyncExitStack()
    await places.enter_async_context(service.rates.at_work(f"live:{caller.id}", caller.limits.concurrency * 4))
    return HeldResponse(_server_sent(service, known), places.aclose, media_type="text/event-stream", headers=UNBUFFERED)


async def _server_sent(service: Service, after: int | None) -> AsyncIterator[bytes]:
    events = service.hub.events(after)
    waiting: asyncio.Task[Any] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({waiting}, timeout=HEARTBEAT_S)
            if not done:
                yield b": nothing new\n\n"
                continue
            try:
                event: Event = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield b"event: %b\nid: %d\ndata: %b\n\n" % (event.event.encode(), event.id, msgspec.json.encode(event.data))
    finally:
        if waiting is not None:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await waiting
        await events.aclose()  # type: ignore[attr-defined]


@router.get(
    "/v1/live/query",
    summary="Tell me when this result changes, as server-sent events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events until either side ends them.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": 'event: result\nid: 1\ndata: {"columns":[],"rows":[]}\n\n'}},
        },
        **responses(UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, QUERY_REFUSED, TOO_COSTLY, CANCELLED, NOT_FOUND),
    },
    dependencies=[Depends(known_parameters)],
)
async def live_query(
    caller: Annotated[Principal, needs(Scope.SQL)],
    service: Annotated[Service, Depends(service_of)],
    sql: Annotated[str, Query(description="The statement, as of POST /v1/sql.", max_length=20_000, examples=["select max(slot) from solana.blocks"])],
    request: Request,
) -> Response:
    """`result` with the JSON form of the rows, at first and whenever they become others.

    The statement is run again when a table that it reads has a new version, or the tail has moved. `problem` is the last event, where it cannot be run any more.
    """
    asked_of(request.scope).sql = sql
    watch = LiveQuery(service, caller, sql)
    async with problems_of_sql():
        first = await watch.changed()
    places = contextlib.AsyncExitStack()
    await places.enter_async_context(service.rates.at_work(f"live:{caller.id}", caller.limits.concurrency * 4))
    return HeldResponse(_results(service, watch, first), places.aclose, media_type="text/event-stream", headers=UNBUFFERED)


class LiveQuery:
    """A statement that is run again when what it read has moved."""

    def __init__(self, service: Service, caller: Principal, sql: str) -> None:
        self._service, self._caller, self._sql = service, caller, sql
        self._digest: str | None = None
        self._reading: Reading | None = None

    async def changed(self) -> bytes | None:
        """The rows as JSON where they are others than before, or None."""
        if self._reading is not None and not await asyncio.to_thread(self._moved, self._reading):
            return None
        engine = await self._service.sql()
        limits = msgspec.structs.replace(self._caller.limits.of_sql(), bytes=LIVE_ROWS_BYTES)
        async with await engine.query(self._sql, limits=limits, caller=self._caller.id, rows=LIVE_ROWS) as answer:
            rows = b"".join([part async for part in as_json(answer)])
            self._reading = answer.reading
            before, self._digest = self._digest, answer.digest
        return rows if self._digest != before else None

    def _moved(self, reading: Reading) -> bool:
        """Whether there may be other rows by now. The head is looked at first, as by every reader."""
        lake = self._service.lake
        head = read_head(lake)
        if (head.generation if head else None) != reading.generation:
            return True
        tables = {table.name: table for table in all_tables()}
        return any(version is None or not lake.is_newest(tables[name], version) for name, version in reading.versions.items())


async def _results(service: Service, watch: LiveQuery, rows: bytes | None) -> AsyncIterator[bytes]:
    number, silent = 0, 0.0
    while not service.ending.is_set():
        if rows is not None:
            number, silent = number + 1, 0.0
            yield b"event: result\nid: %d\ndata: %b\n\n" % (number, rows)
        elif silent >= HEARTBEAT_S:
            silent = 0.0
            yield b": nothing new\n\n"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(service.ending.wait(), LIVE_LOOK_S)
        silent += LIVE_LOOK_S
        try:
            async with problems_of_sql():
                rows = await watch.changed()
        except TransientError:
            rows = None  # too much is at work; it is looked at again in a moment
        except BlyanError as error:
            told = told_of(error)
            yield b"event: problem\ndata: %b\n\n" % told.document(path="/v1/live/query", request_id=REQUEST_ID.get())
            return


@router.websocket("/v1/live")
async def live_socket(socket: WebSocket) -> None:
    """The same events, each a message `{"event": …, "id": …, "data": …}`. What the client sends is not read."""
    service = service_of(socket)
    protocols = [name for name in socket.scope.get("subprotocols", []) if name.startswith(BEARER_PROTOCOL)]
    scheme, _, credentials = socket.headers.get("authorization", "").partition(" ")
    shown = credentials if scheme.lower() == "bearer" else protocols[0].removeprefix(BEARER_PROTOCOL) if protocols else None
    try:
        caller = await service.identify(socket, shown)
        caller.require(Scope.LIVE)
        after = socket.query_params.get("after", "")
        async with service.rates.at_work(f"live:{caller.id}", caller.limits.concurrency * 4):
            await socket.accept(subprotocol=protocols[0] if protocols else None)
            await _told(socket, service, int(after) if after.isdecimal() and len(after) <= 16 else None)
    except BlyanError as error:
        told = told_of(error)
        body = told.document(path=socket.url.path, request_id=asked_of(socket.scope).id)
        asked_of(socket.scope).told = told
        await socket.send_denial_response(Response(body, told.kind.status, dict(told.headers or {}), MEDIA_TYPE))


async def _told(socket: WebSocket, service: Service, after: int | None) -> None:
    """Send events until the client goes, or there are no more."""

    async def until_gone() -> None:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass

    async def sending() -> None:
        async with contextlib.aclosing(service.hub.events(after)) as events:  # type: ignore[type-var]
            async for event in events:
                async with asyncio.timeout(service.settings.serve_patience_s):
                    await socket.send_text(msgspec.json.encode(event).decode())

    tasks = {asyncio.create_task(until_gone()), asyncio.create_task(sending())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(1001 if service.ending.is_set() else 1000)
