"""The clock from a Yellowstone gRPC endpoint (Geyser), as many providers have one.

Belongs here: the few messages of its protocol that announce slots, and the connection. Does not belong here: blocks; content
comes from JSON-RPC whatever announces it.

Only what is used of the protocol is described: `Geyser.Subscribe` with a filter of slots, slot updates, and pings. The
numbers are those of `geyser.proto`; fields that are not described are skipped, as protobuf has it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from blyan.errors import SettingError
from blyan.solana.follower.stream import BACKOFF_BASE_S, BACKOFF_CAP_S, SILENCE_S

SUBSCRIBE = "/geyser.Geyser/Subscribe"

FILTER = "clock"
"""The name of the one filter; any would do."""

PROCESSED, CONFIRMED = 0, 1
"""Of `SlotStatus`: a slot has begun to matter, and its block can be asked for."""

REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")
"""Status codes that do not pass by themselves."""


@cache
def _messages() -> tuple[Any, Any]:
    """The classes of SubscribeRequest and SubscribeUpdate."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="geyser.proto", package="geyser", syntax="proto3")

    def message(parent: Any, name: str, *fields: tuple[str, int, int | str]) -> Any:
        made = parent.add(name=name)
        for label, number, kind in fields:
            field = made.field.add(name=label, number=number, label=kinds.LABEL_OPTIONAL)
            if isinstance(kind, str):
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".geyser.{kind}"
            else:
                field.type = kind
        return made

    top = file.message_type
    message(top, "SubscribeRequestFilterSlots")
    message(top, "SubscribeRequestPing", ("id", 1, kinds.TYPE_INT32))
    request = message(top, "SubscribeRequest", ("slots", 2, "SubscribeRequest.SlotsEntry"), ("ping", 9, "SubscribeRequestPing"))
    request.field[0].label = kinds.LABEL_REPEATED
    entry = message(request.nested_type, "SlotsEntry", ("key", 1, kinds.TYPE_STRING), ("value", 2, "SubscribeRequestFilterSlots"))
    entry.options.map_entry = True
    # An enumeration goes over the wire as this integer does; values that are not known yet stay numbers.
    message(top, "SubscribeUpdateSlot", ("slot", 1, kinds.TYPE_UINT64), ("status", 3, kinds.TYPE_INT32))
    message(top, "SubscribeUpdatePing")
    message(top, "SubscribeUpdate", ("slot", 3, "SubscribeUpdateSlot"), ("ping", 6, "SubscribeUpdatePing"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"geyser.{name}")) for name in ("SubscribeRequest", "SubscribeUpdate")]
    return made[0], made[1]


class YellowstoneSlots:
    """Slots as a Geyser stream announces them, connected again whenever it ends, falls silent or says what cannot be read.

    A slot is announced when it is processed and again when it is confirmed: its block can then be had at once.

    Attributes:
        reconnects: times it was connected again.
        last_failure: why, the last time.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        silence_s: float = SILENCE_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing is contacted yet.

        Args:
            url: `https://host:port`, or `http://host:port` without encryption.
            token: sent as `x-token`.
            silence_s: seconds without a slot after which the connection is given up.
            sleep: how to wait before the next one.
            jitter: a number from 0 to 1, the part of the longest pause that is taken.
            say: told once where the endpoint refuses us.

        Raises:
            SettingError: the URL is not of that form.
        """
        try:
            place = urlsplit(url)
            port = place.port or (443 if place.scheme == "https" else 80)
        except ValueError as error:
            raise SettingError(f"not a URL: {error}", where="BLYAN_YELLOWSTONE_URL", remedy="set it to https://host:port") from error
        if place.scheme not in ("http", "https") or not place.hostname:
            raise SettingError("not an endpoint of gRPC", where="BLYAN_YELLOWSTONE_URL", remedy="set it to https://host:port")
        host = f"[{place.hostname}]" if ":" in place.hostname else place.hostname
        self._target, self._encrypted = f"{host}:{port}", place.scheme == "https"
        self._metadata = (("x-token", token),) if token else ()
        self._silence_s, self._sleep, self._jitter, self._say = silence_s, sleep, jitter, say
        self.reconnects = 0
        self.last_failure = ""

    async def slots(self) -> AsyncIterator[int]:
        """See `SlotStream`."""
        import grpc
        from google.protobuf.message import DecodeError

        failures, refused = 0, False
        while True:
            try:
                async with self._channel() as channel:
                    call = channel.stream_stream(SUBSCRIBE)(metadata=self._metadata)
                    await call.write(_messages()[0](slots={FILTER: {}}).SerializeToString())
                    while True:
                        async with asyncio.timeout(self._silence_s):
                            slot = await _next_slot(call)
                        failures = 0
                        yield slot
            except grpc.aio.AioRpcError as error:
                self.last_failure = f"{error.code().name}: {error.details()}"
                if error.code().name in REFUSALS and not refused:
                    refused = True
                    self._say(f"Yellowstone at {self._target} refuses to announce slots ({self.last_failure}): the node is asked every second")
            except (OSError, TimeoutError, DecodeError, asyncio.InvalidStateError) as error:
                self.last_failure = f"{type(error).__name__}: {error}"
            self.reconnects += 1
            await self._sleep(self._jitter() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0**failures))
            failures += 1

    def _channel(self) -> Any:
        import grpc

        if self._encrypted:
            return grpc.aio.secure_channel(self._target, grpc.ssl_channel_credentials())
        return grpc.aio.insecure_channel(self._target)


async def _next_slot(call: Any) -> int:
    """The next slot that is processed or confirmed; pings before it are answered.

    Raises:
        ConnectionError: the stream ended.
    """
    import grpc

    request, update = _messages()
    while True:
        received = await call.read()
        if received is grpc.aio.EOF:
            raise ConnectionResetError("the stream ended")
        told = update.FromString(received)
        if told.HasField("ping"):
            # Load balancers between us and the endpoint end streams on which nothing is sent.
            await call.write(request(ping={"id": 1}).SerializeToString())
        elif told.HasField("slot") and told.slot.status in (PROCESSED, CONFIRMED):
            return int(told.slot.slot)
