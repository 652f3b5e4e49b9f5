"""The node as a process has it: sockets, the clock, and the threads.

Belongs here: HTTP and WebSocket on one event loop, the chain in a thread beside it, faults of the transport, starting and
stopping. Does not belong here: what is answered (`blyan.solana.localnet.rpc`, `blyan.solana.localnet.subscriptions`).

    with running(Options(slot_ms=None)) as localnet:     # held: only `advance` moves it
        localnet.advance(40)
        localnet.faults.refuse_next = 2
        RpcSource(localnet.http_url)
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from aiohttp import ClientConnectionResetError, WSMsgType, web

from blyan.errors import SettingError
from blyan.solana.commitment import Commitment
from blyan.solana.localnet.faults import Faults
from blyan.solana.localnet.ledger import CONFIRMATION_DEPTH, FINALITY_DEPTH, LEDGER_BYTES, Ledger, Plan, Progress
from blyan.solana.localnet.rpc import Methods
from blyan.solana.localnet.subscriptions import Hub

MAX_REQUEST_BYTES = 50 << 10
"""Longest request (Agave, MAX_REQUEST_BODY_SIZE)."""

QUEUED_MESSAGES = 100_000
"""Messages that may wait for a slow subscriber before its connection is closed."""

SWITCH_S = 0.0005
"""How long the thread that executes may keep the one that answers waiting, which it does several times for each answer."""

WAIT_S = 60.0
"""Longest wait for the thread of a localnet that runs beside its user."""

_log = logging.getLogger(__name__)

Returned = TypeVar("Returned")


@dataclass(frozen=True, slots=True)
class Options:
    """A localnet to start.

    Attributes:
        port: of JSON-RPC over HTTP; WebSocket is at the next one, as on real nodes. 0 takes two free ones. Either serves both.
        host: address to listen at.
        slot_ms: milliseconds of a slot; 0 is as fast as it goes; None is held from the start, and as fast as it goes once resumed.
        transactions_per_slot, seed: of the chain, as `blyan.solana.embedded` has them.
        first_slot: where the chain starts.
        horizon_slot: the slot that is never produced: everything before it is finalized, and the chain stands still.
        confirmation_depth, finality_depth: blocks from the tip down.
        ledger_bytes: compressed bytes of blocks to keep.
        plan: skips and forks.
        faults: what is wrong with the node.
    """

    port: int = 0
    host: str = "127.0.0.1"
    slot_ms: float | None = 400
    transactions_per_slot: int = 24
    seed: int = 1
    first_slot: int = 0
    horizon_slot: int | None = None
    confirmation_depth: int = CONFIRMATION_DEPTH
    finality_depth: int = FINALITY_DEPTH
    ledger_bytes: int = LEDGER_BYTES
    plan: Plan = field(default_factory=Plan)
    faults: Faults = field(default_factory=Faults)


class Server:
    """A node on the event loop that started it.

    Attributes:
        ledger: the chain; there once started.
        faults: change them at any time.
        http_url, ws_url: where it listens; there once started.
    """

    ledger: Ledger
    http_url: str
    ws_url: str

    def __init__(self, options: Options) -> None:
        self.faults = options.faults
        self._options = options
        self._chain = ThreadPoolExecutor(1, thread_name_prefix="localnet-chain")
        self._turn = asyncio.Lock()
        self._going = asyncio.Event()
        self._stopping = asyncio.Event()
        self._transports: set[asyncio.Transport] = set()
        self._requests = 0
        self._clock: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None
        self._methods: Methods
        self._hub: Hub

    # Starting and stopping

    async def start(self) -> None:
        """Execute genesis and listen.

        Raises:
            SettingError: the port is taken, or the options do not fit together.
            PermanentError: the installed runtime refuses the chain's genesis.
        """
        options = self._options
        self.ledger = await self._in_chain(
            lambda: Ledger(
                seed=options.seed,
                transactions_per_slot=options.transactions_per_slot,
                first_slot=options.first_slot,
                confirmation_depth=options.confirmation_depth,
                finality_depth=options.finality_depth,
                ledger_bytes=options.ledger_bytes,
                plan=options.plan,
            )
        )
        self._methods, self._hub = Methods(self.ledger, self.faults, self._in_chain), Hub(self.ledger, self.faults)
        application = web.Application(client_max_size=MAX_REQUEST_BYTES)
        application.router.add_get("/health", self._health)
        application.router.add_post("/", self._post)
        application.router.add_get("/", self._socket)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        self.http_url = f"http://{options.host}:{await self._listen(options.port)}"
        self.ws_url = f"ws://{options.host}:{await self._listen(options.port + 1 if options.port else 0)}"
        if options.slot_ms is not None:
            self._going.set()
        self._clock = asyncio.create_task(self._tick(options.slot_ms or 0), name="localnet-clock")

    async def _listen(self, port: int) -> int:
        runner, host = self._runner, self._options.host
        assert runner is not None
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise SettingError(
                f"cannot listen at {host}:{port}: {error.strerror or error}", where="localnet", remedy="choose another --port, or 0 for a free one"
            ) from error
        return int(runner.addresses[-1][1])

    async def stop(self) -> None:
        """Close every connection and end the chain. Safe to call where `start` failed.

        Raises:
            PermanentError: the chain had failed while it ran.
        """
        self._stopping.set()
        ended = await self._stop_clock()
        self.drop_connections()
        if self._runner is not None:
            await self._runner.cleanup()
        await asyncio.to_thread(self._chain.shutdown)
        if isinstance(ended, Exception):
            raise ended

    async def _stop_clock(self) -> BaseException | None:
        """Stop having slots; what ended the clock."""
        if self._clock is None:
            return None
        self._clock.cancel()
        (ended,) = await asyncio.gather(self._clock, return_exceptions=True)
        return ended

    async def finished(self) -> None:
        """Wait until the chain has failed, and raise why. A chain that does not fail is waited for without end."""
        assert self._clock is not None
        await asyncio.shield(self._clock)

    # The chain

    async def _in_chain(self, work: Callable[[], Returned]) -> Returned:
        """Run something in the thread of the chain, between two slots."""
        return await asyncio.get_running_loop().run_in_executor(self._chain, work)

    async def _tick(self, slot_ms: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self._going.wait()
            await self.advance(1)
            # A slot that took too long delays those after it; they do not hurry.
            due = max(due + slot_ms / 1_000, loop.time())
            await asyncio.sleep(due - loop.time())

    async def advance(self, slots: int) -> list[Progress]:
        """Have the next `slots` slots now, or those that are left before the horizon; what each changed."""
        done = []
        for _ in range(slots):
            async with self._turn:
                if self._options.horizon_slot is not None and self.ledger.next_slot >= self._options.horizon_slot:
                    self._going.clear()
                    break
                progress = self.ledger.publish(await self._in_chain(self.ledger.execute))
                self._hub.notify(progress)
                done.append(progress)
        if self._options.horizon_slot is not None and self.ledger.next_slot >= self._options.horizon_slot:
            await self.settle()
        return done

    async def settle(self) -> Progress:
        """Finalize everything up to the tip, as if votes had come and no more blocks."""
        async with self._turn:
            progress = self.ledger.settle()
            self._hub.notify(progress)
            return progress

    async def hold(self) -> None:
        """Have no more slots until told to."""
        self._going.clear()
        async with self._turn:
            pass

    def resume(self) -> None:
        """Have slots by the clock again."""
        self._going.set()

    # Connections

    def drop_connections(self) -> None:
        """Cut every WebSocket, without a word."""
        for transport in list(self._transports):
            transport.abort()

    async def _health(self, _: web.Request) -> web.Response:
        behind = self.faults.lag_blocks
        return web.Response(text="behind" if behind else "ok")

    async def _post(self, request: web.Request) -> web.StreamResponse:
        faults = self.faults
        self._requests += 1
        body = await request.read()
        if faults.half_open:
            await self._stopping.wait()
        if faults.break_every and self._requests % faults.break_every == 0:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if faults.slow_ms > 0:
            await asyncio.sleep(faults.slow_ms / 1_000)
        if faults.refuse_next > 0 or (faults.refuse_every and self._requests % faults.refuse_every == 0):
            faults.refuse_next = max(0, faults.refuse_next - 1)
            return self._refusal()
        answer = await self._methods.answer(body)
        return web.Response(body=answer, content_type="application/json")

    def _refusal(self) -> web.Response:
        pause = self.faults.retry_after_s
        error = {"jsonrpc": "2.0", "error": {"code": 429, "message": "Too many requests from your IP, slow down"}, "id": None}
        headers = {} if pause is None else {"Retry-After": str(math.ceil(pause))}
        return web.Response(status=429, body=msgspec.json.encode(error), content_type="application/json", headers=headers)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if self.faults.half_open:
            await self._stopping.wait()
        # Pings are answered here, because a half-open connection must not.
        socket = web.WebSocketResponse(autoping=False, max_msg_size=MAX_REQUEST_BYTES, compress=False)
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket  # the client is gone already
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[bytes] = asyncio.Queue(QUEUED_MESSAGES)

        def send(message: bytes) -> None:
            if self.faults.half_open:
                return
            try:
                waiting.put_nowait(message)
            except asyncio.QueueFull:
                _log.warning("a subscriber is %d messages behind: its connection is closed", QUEUED_MESSAGES)
                transport.abort()

        connection = self._hub.join(send, loop.call_later)
        self._transports.add(transport)
        sender = asyncio.create_task(_send_all(waiting, socket), name="localnet-sender")
        try:
            async for message in socket:
                if self.faults.half_open:
                    continue
                if message.type is WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    body = message.data.encode() if isinstance(message.data, str) else message.data
                    send(await self._methods.answer(body, connection.call))
                    connection.answered()
        except ClientConnectionResetError:
            _log.debug("a client is gone in the middle of a pong")
        finally:
            self._hub.leave(connection)
            self._transports.discard(transport)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        return socket


async def _send_all(waiting: asyncio.Queue[bytes], socket: web.WebSocketResponse) -> None:
    with suppress(ClientConnectionResetError):
        while True:
            message = await waiting.get()
            if message:
                await socket.send_frame(message, WSMsgType.TEXT)


class Localnet:
    """A node in a thread of its own, for whoever has no event loop. Every method waits until it is done.

    Attributes:
        http_url, ws_url: where it listens.
        faults: what is wrong with the node; change it at any time.
        plan: what befalls the chain; change it while the chain is held, or for slots well ahead.
        ledger: the chain; read it while it is held.
    """

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._loop = server, loop
        self.http_url, self.ws_url = server.http_url, server.ws_url
        self.faults, self.ledger, self.plan = server.faults, server.ledger, server.ledger.plan

    def _wait(self, call: Coroutine[Any, Any, Returned]) -> Returned:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(WAIT_S)

    def advance(self, slots: int = 1) -> list[Progress]:
        """Have the next slots now; what each changed."""
        # One by one, so that the longest wait is for one slot.
        return [progress for _ in range(slots) for progress in self._wait(self._server.advance(1))]

    def advance_to(self, slot: int) -> list[Progress]:
        """Have every slot up to this one, if it is still to come."""
        return self.advance(max(0, slot + 1 - self.ledger.next_slot))

    def settle(self) -> Progress:
        """Finalize everything up to the tip."""
        return self._wait(self._server.settle())

    def hold(self) -> None:
        """Have no more slots until told to."""
        self._wait(self._server.hold())

    def resume(self) -> None:
        """Have slots by the clock again."""
        self._loop.call_soon_threadsafe(self._server.resume)

    def finished(self) -> None:
        """Wait until the chain has failed, and raise why; at most a minute."""
        self._wait(self._server.finished())

    def drop_connections(self) -> None:
        """Cut every WebSocket, without a word."""

        async def drop() -> None:
            self._server.drop_connections()

        self._wait(drop())


@contextmanager
def running(options: Options | None = None) -> Iterator[Localnet]:
    """A node in a thread of its own, listening when the block begins and gone when it ends.

    Raises:
        SettingError: the port is taken, or the options do not fit together.
        PermanentError: the installed runtime refuses the chain's genesis, or the chain failed while it ran.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="localnet", daemon=True)
    thread.start()

    def wait(call: Coroutine[Any, Any, Returned]) -> Returned:
        return asyncio.run_coroutine_threadsafe(call, loop).result(WAIT_S)

    async def made() -> Server:
        return Server(options or Options())

    server = wait(made())
    try:
        wait(server.start())
        yield Localnet(server, loop)
    finally:
        try:
            wait(server.stop())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def serve(options: Options, say: Callable[[str], None]) -> None:
    """Run a node until the process is told to end (SIGINT or SIGTERM), saying what there is to know.

    Args:
        options: the node.
        say: takes one line.

    Raises:
        SettingError: the port is taken, or the options do not fit together.
        PermanentError: the installed runtime refuses the chain's genesis, or the chain failed.
    """
    sys.setswitchinterval(SWITCH_S)
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    server = Server(options)
    try:
        await server.start()
        chain = server.ledger
        pace = "as fast as it goes" if options.slot_ms == 0 else f"{options.slot_ms:g} ms a slot"
        say(f"localnet: {pace}, {options.transactions_per_slot} transactions a slot, seed {options.seed}, from slot {chain.first_available} on")
        say(f"localnet: genesis hash {chain.schedule.genesis_hash()}")
        say(f"localnet: RPC at {server.http_url}, WebSocket at {server.ws_url}")
        ended = [asyncio.create_task(told.wait()), asyncio.create_task(server.finished())]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            if task.done():
                task.result()
            else:
                task.cancel()
        tip, root = (chain.tip(each).slot for each in (Commitment.PROCESSED, Commitment.FINALIZED))
        say(f"localnet: stopped at slot {tip}, finalized {root}")
    finally:
        await server.stop()
