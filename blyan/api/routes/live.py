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
from blyan.api.problems import FORBIDDEN, MEDIA_TYPE, RATE_LIMITED, UNAUTHENTICATED, responses, told_of
from blyan.api.service import Service, known_parameters, needs, service_of
from blyan.errors import BlyanError

router = APIRouter(tags=["live"])

HEARTBEAT_S = 15.0
"""Seconds of silence after which a comment is sent, so that proxies keep the connection and a dead one is noticed."""

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
        200: {"description": "Events until either side ends them.", "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}}},
        **responses(UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED),
    },
    dependencies=[Depends(known_parameters)],
)
async def live(
    request: Request,
    caller: Annotated[Principal, needs(Scope.LIVE)],
    service: Annotated[Service, Depends(service_of)],
    after: After = None,
    last_event_id: Annotated[
        str | None, Header(description="The same as `after`, as browsers send it when they come back.", pattern="^[0-9]{0,16}$", examples=["4711"])
    ] = None,
) -> Response:
    """`head` first: everything that may still change. Then `slot` for each slot that lands or is proven skipped, `gone` where its fork
    died, `final` when everything up to a slot is. Each event's `id` is the generation to come back with. `slow` is the last event of a
    client that does not read.
    """
    known = after if after is not None else int(last_event_id) if last_event_id else None
    places = contextlib.AsyncExitStack()
    await places.enter_async_context(service.rates.at_work(f"live:{caller.id}", caller.limits.concurrency * 4))
    return StreamingResponse(_server_sent(service, known, places), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _server_sent(service: Service, after: int | None, places: contextlib.AsyncExitStack) -> AsyncIterator[bytes]:
    async with places:
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
