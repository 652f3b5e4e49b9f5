"""The Yellowstone clock against gRPC servers that do what real ones do, in the very bytes of the protocol.

The bytes were written with the codec of the protocol's published client (`@triton-one/yellowstone-grpc` 7.0.1), so that
a wrong number here and there would not agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from blyan.errors import SettingError
from blyan.lake import Lake
from blyan.settings import load_settings
from blyan.solana.follower.follow import Follower
from blyan.solana.follower.node import RpcNode
from blyan.solana.follower.serve import _ends
from blyan.solana.follower.yellowstone import YellowstoneSlots
from blyan.solana.jsonrpc import RpcClient
from blyan.solana.landing import read_head
from blyan.solana.localnet.server import Options, running
from blyan.solana.slots import Grid

WAIT_S = 20.0

SUBSCRIPTION = bytes.fromhex("12090a05636c6f636b1200")
ANSWER_TO_PING = bytes.fromhex("4a020801")
PING = bytes.fromhex("3200")
CONFIRMED_300000001 = bytes.fromhex("0a05636c6f636b1a0e0881c6868f011080c6868f0118015a0b0880e2cfaa0610c0a9d33a")
DEAD_300000001 = bytes.fromhex("0a05636c6f636b1a110881c6868f011080c6868f0118062201785a0b0880e2cfaa0610c0a9d33a")

Context = grpc.aio.ServicerContext
Behaviour = Callable[[Context, int], Awaitable[None]]


def update(slot: int, status: int = 0) -> bytes:
    """A small slot's update without its parent; a status of 0 is left out, as protobuf has it."""
    body = bytes((0x08, slot)) + (bytes((0x18, status)) if status else b"")
    return bytes((0x1A, len(body))) + body


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[str]:
    """A server that does this on its n-th stream; its URL."""
    streams = 0

    async def subscribe(_: AsyncIterator[bytes], context: Context) -> None:
        nonlocal streams
        streams += 1
        assert await context.read() == SUBSCRIPTION
        await behaviour(context, streams)

    server = grpc.aio.server()
    handlers = {"Subscribe": grpc.stream_stream_rpc_method_handler(subscribe)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("geyser.Geyser", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


def heard(behaviour: Behaviour, wanted: int, **options: object) -> tuple[list[int], YellowstoneSlots]:
    """The first slots that a stream gives of a server with this behaviour."""

    async def listen() -> tuple[list[int], YellowstoneSlots]:
        async with serving(behaviour) as url:
            stream = YellowstoneSlots(url, silence_s=0.5, jitter=lambda: 0.0, **options)  # type: ignore[arg-type]
            slots: list[int] = []
            async with asyncio.timeout(WAIT_S), aclosing(stream.slots()) as announced:  # type: ignore[type-var]
                async for slot in announced:
                    slots.append(slot)
                    if len(slots) == wanted:
                        break
            return slots, stream

    return asyncio.run(listen())


async def open_end(context: Context) -> None:
    while await context.read() is not grpc.aio.EOF:
        pass


def test_slots_are_announced_when_processed_and_when_confirmed() -> None:
    async def behave(context: Context, _: int) -> None:
        for message in (update(5), update(5, 3), update(5, 4), update(6), update(5, 1), update(5, 2), DEAD_300000001, update(6, 99), update(7)):
            await context.write(message)
        await context.write(CONFIRMED_300000001)
        await open_end(context)

    slots, stream = heard(behave, 5)
    assert slots == [5, 6, 5, 7, 300_000_001]
    assert stream.reconnects == 0


def test_pings_are_answered() -> None:
    async def behave(context: Context, _: int) -> None:
        for slot in (1, 2):
            await context.write(PING)
            assert await context.read() == ANSWER_TO_PING
            await context.write(update(slot))
        await open_end(context)

    assert heard(behave, 2)[0] == [1, 2]


@pytest.mark.parametrize("ended", ["returns", "aborts"])
def test_a_stream_that_ends_is_subscribed_to_again(ended: str) -> None:
    async def behave(context: Context, stream: int) -> None:
        await context.write(update(stream))
        if ended == "aborts":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

    slots, stream = heard(behave, 3)
    assert slots == [1, 2, 3]
    assert stream.reconnects == 2
    assert ("going away" in stream.last_failure) == (ended == "aborts")


def test_a_stream_that_falls_silent_but_for_pings_is_given_up() -> None:
    async def behave(context: Context, stream: int) -> None:
        await context.write(update(stream))
        while True:
            await context.write(PING)
            await asyncio.sleep(0.1)

    slots, stream = heard(behave, 2)
    assert slots == [1, 2]
    assert "TimeoutError" in stream.last_failure


def test_nonsense_ends_the_connection_and_not_the_stream() -> None:
    async def behave(context: Context, stream: int) -> None:
        await context.write(update(stream))
        await context.write(b"\x1a\x7f\x08")
        await open_end(context)

    slots, stream = heard(behave, 2)
    assert slots == [1, 2]
    assert "DecodeError" in stream.last_failure


def test_a_token_that_is_refused_is_said_once_and_tried_again() -> None:
    said: list[str] = []

    async def behave(context: Context, stream: int) -> None:
        token = dict(context.invocation_metadata() or ()).get("x-token")
        if token != "right" or stream < 3:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such token")
        await context.write(update(9))
        await open_end(context)

    slots, stream = heard(behave, 1, token="right", say=said.append)
    assert (slots, stream.reconnects, len(said)) == ([9], 2, 1)
    assert "no such token" in said[0]
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(_first(behave, "wrong"), 0.5))


async def _first(behaviour: Behaviour, token: str) -> int:
    async with serving(behaviour) as url, aclosing(YellowstoneSlots(url, token=token, jitter=lambda: 0.1).slots()) as slots:  # type: ignore[type-var]
        return await anext(slots)


def test_a_follower_goes_by_it(tmp_path: Path) -> None:
    """Slots are announced by gRPC alone: a landed slot whose announcement was timed was announced there."""
    lake = Lake(str(tmp_path / "lake"))
    announced: asyncio.Queue[int] = asyncio.Queue()

    async def behave(context: Context, _: int) -> None:
        while True:
            await context.write(update(await announced.get()))

    async def follow() -> None:
        with running(Options(slot_ms=None, transactions_per_slot=2)) as localnet:
            async with serving(behave) as url:
                client = RpcClient(localnet.http_url)
                follower, stop = Follower(RpcNode(client), YellowstoneSlots(url), lake, Grid(0, 1_000, 100)), asyncio.Event()
                task = asyncio.create_task(follower.run(stop))
                async with asyncio.timeout(WAIT_S):
                    while len(follower.measures.lags_s) < 3:
                        for progress in await asyncio.to_thread(localnet.advance, 1):
                            announced.put_nowait(progress.slot)
                        await asyncio.sleep(0.1)
                stop.set()
                await task
                await client.close()

    asyncio.run(follow())
    head = read_head(lake)
    assert head is not None
    assert head.confirmed >= 3


def test_the_endpoint_comes_from_the_settings() -> None:
    node = RpcNode(RpcClient("http://127.0.0.1:9"))

    def stream_of(**options: object) -> object:
        return _ends(load_settings(stream="yellowstone", **options), node, lambda _: None)[1]

    stream = stream_of(yellowstone_url="https://[::1]", yellowstone_token="secret")
    assert isinstance(stream, YellowstoneSlots)
    assert (stream._target, stream._encrypted, stream._metadata) == ("[::1]:443", True, (("x-token", "secret"),))
    for wrong in (None, "ftp://host", "https://", "http://host:many"):
        with pytest.raises(SettingError, match="BLYAN_YELLOWSTONE_URL"):
            stream_of(yellowstone_url=wrong)
