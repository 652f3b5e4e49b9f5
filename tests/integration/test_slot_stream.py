"""The stream of slots against WebSocket servers that do what real ones do: end, fall silent, and talk nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from websockets.asyncio.server import ServerConnection, serve

from blyan.solana.follower.stream import WebSocketSlots, websocket_url

WAIT_S = 20.0

Behaviour = Callable[[ServerConnection, int], Awaitable[None]]


def notice(slot: int) -> str:
    return json.dumps(
        {"jsonrpc": "2.0", "method": "slotNotification", "params": {"result": {"parent": slot - 1, "root": 0, "slot": slot}, "subscription": 3}}
    )


async def subscribed(socket: ServerConnection) -> None:
    request = json.loads(await socket.recv())
    assert request["method"] == "slotSubscribe"
    await socket.send(json.dumps({"jsonrpc": "2.0", "result": 3, "id": request["id"]}))


def heard(behaviour: Behaviour, wanted: int) -> tuple[list[int], WebSocketSlots]:
    """The first slots that a stream gives of a server with this behaviour at its n-th connection."""

    async def listen() -> tuple[list[int], WebSocketSlots]:
        connections = 0

        async def handle(socket: ServerConnection) -> None:
            nonlocal connections
            connections += 1
            await behaviour(socket, connections)

        async with serve(handle, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            stream = WebSocketSlots(f"ws://127.0.0.1:{port}", silence_s=0.5, jitter=lambda: 0.0)
            slots: list[int] = []
            async with asyncio.timeout(WAIT_S), aclosing(stream.slots()) as announced:  # type: ignore[type-var]
                async for slot in announced:
                    slots.append(slot)
                    if len(slots) == wanted:
                        break
            return slots, stream

    return asyncio.run(listen())


def test_slots_come_as_they_are_announced_twice_and_out_of_order_too() -> None:
    async def behave(socket: ServerConnection, _: int) -> None:
        await subscribed(socket)
        for slot in (5, 7, 6, 6, 8):
            await socket.send(notice(slot))
        await socket.wait_closed()

    slots, stream = heard(behave, 5)
    assert slots == [5, 7, 6, 6, 8]
    assert stream.reconnects == 0


def test_a_stream_that_ends_is_subscribed_to_again() -> None:
    async def behave(socket: ServerConnection, connection: int) -> None:
        await subscribed(socket)
        await socket.send(notice(connection))
        if connection == 2:
            socket.transport.abort()

    slots, stream = heard(behave, 4)
    assert slots == [1, 2, 3, 4]
    assert stream.reconnects == 3


def test_a_connection_that_falls_silent_is_given_up() -> None:
    async def behave(socket: ServerConnection, connection: int) -> None:
        await subscribed(socket)
        await socket.send(notice(connection))
        # Half open: neither a slot nor an end. The server goes on answering pings, so only silence can tell.
        await socket.wait_closed()

    slots, stream = heard(behave, 3)
    assert slots == [1, 2, 3]
    assert stream.reconnects == 2
    assert "TimeoutError" in stream.last_failure


@pytest.mark.parametrize("nonsense", ["{", "[]", '{"method":"slotNotification","params":{"result":{"slot":"seven"}}}', b"\xff\xfe"])
def test_nonsense_ends_the_connection_and_not_the_stream(nonsense: str | bytes) -> None:
    async def behave(socket: ServerConnection, connection: int) -> None:
        await subscribed(socket)
        await socket.send(notice(connection))
        if connection == 1:
            await socket.send(nonsense)
        await socket.wait_closed()

    slots, stream = heard(behave, 2)
    assert slots == [1, 2]
    assert stream.reconnects == 1


def test_a_server_that_is_not_there_is_tried_again() -> None:
    async def listen() -> WebSocketSlots:
        tries = 0

        async def give_up(_: float) -> None:
            nonlocal tries
            tries += 1
            if tries == 3:
                raise StopTryingError

        stream = WebSocketSlots("ws://127.0.0.1:9", sleep=give_up)
        with pytest.raises(StopTryingError):
            async for _ in stream.slots():
                pass
        return stream

    assert asyncio.run(listen()).reconnects == 3


class StopTryingError(Exception):
    """The test has seen enough."""


@pytest.mark.parametrize(
    ("http", "websocket"),
    [
        ("http://127.0.0.1:8899", "ws://127.0.0.1:8900"),
        ("https://api.mainnet-beta.solana.com", "wss://api.mainnet-beta.solana.com"),
        ("https://node.example/key/abc?x=1", "wss://node.example/key/abc?x=1"),
    ],
)
def test_the_websocket_endpoint_goes_with_the_http_one(http: str, websocket: str) -> None:
    assert websocket_url(http) == websocket
