"""Threads for work that takes time: who waits for whom, and what becomes of work that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from blyan.api import lanes
from blyan.api.callers import LIMITS, SCOPES, Principal, Role
from blyan.api.lanes import Lane
from blyan.api.problems import CANCELLED, ClientGoneError, OverloadedError, RequestError

CALLER, OTHER = (Principal(name, Role.READER, SCOPES[Role.READER], "key") for name in ("key:one", "key:other"))


class Client:
    """A request whose client goes away when it is told to."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.left.wait()
        return {"type": "http.disconnect"}


def in_a_lane(check: Callable[[Lane, Any], Awaitable[None]], threads: int = 2, share: int = 1) -> None:
    async def run() -> None:
        lane = Lane("test", threads, share)
        try:
            await check(lane, Client())
        finally:
            await asyncio.to_thread(lane.close)

    asyncio.run(run())


def test_work_is_done_in_a_thread_and_its_error_is_told() -> None:
    async def check(lane: Lane, client: Any) -> None:
        assert await lane.run(client, CALLER, lambda: threading.current_thread().name, print) == "test_0"
        with pytest.raises(ZeroDivisionError):
            await lane.run(client, CALLER, lambda: 1 // 0, print)

    in_a_lane(check)


def test_a_caller_waits_for_itself_and_no_other_does() -> None:
    async def check(lane: Lane, client: Any) -> None:
        free, began = threading.Event(), threading.Event()
        first = asyncio.create_task(lane.run(client, CALLER, lambda: (began.set(), free.wait(30)), print))
        await asyncio.to_thread(began.wait, 30)
        second = asyncio.create_task(lane.run(client, CALLER, lambda: "second", print))
        assert await lane.run(client, OTHER, lambda: "other", print) == "other"
        assert not second.done()
        free.set()
        assert await second == "second"
        await first

    in_a_lane(check)


def test_who_is_too_long_is_stopped_and_keeps_its_place_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, Role.READER, replace(LIMITS[Role.READER], seconds=0.05))

    async def check(lane: Lane, client: Any) -> None:
        free, stopped = threading.Event(), threading.Event()
        with pytest.raises(RequestError) as caught:
            await lane.run(client, CALLER, lambda: free.wait(30), stopped.set)
        assert caught.value.kind is CANCELLED
        assert stopped.is_set()
        # The thread is still at work, so the caller's next question is not begun beside it.
        monkeypatch.setitem(LIMITS, Role.READER, replace(LIMITS[Role.READER], seconds=30))
        begun = threading.Event()
        second = asyncio.create_task(lane.run(client, CALLER, lambda: begun.set() or "second", print))
        await asyncio.sleep(0.05)
        assert not begun.is_set()
        free.set()
        assert await second == "second"

    in_a_lane(check)


def test_a_client_that_goes_away_is_not_waited_for() -> None:
    async def check(lane: Lane, client: Any) -> None:
        free, stopped, began = threading.Event(), threading.Event(), threading.Event()
        asked = asyncio.create_task(lane.run(client, CALLER, lambda: (began.set(), free.wait(30)), stopped.set))
        await asyncio.to_thread(began.wait, 30)
        client.left.set()
        with pytest.raises(ClientGoneError):
            await asked
        assert stopped.is_set()
        free.set()

    in_a_lane(check)


def test_too_much_that_waits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "WAITING", 1)

    async def check(lane: Lane, client: Any) -> None:
        free, began = threading.Event(), threading.Event()
        first = asyncio.create_task(lane.run(client, CALLER, lambda: (began.set(), free.wait(30)), print))
        await asyncio.to_thread(began.wait, 30)
        with pytest.raises(OverloadedError):
            await lane.run(client, OTHER, lambda: None, print)
        free.set()
        await first
        assert await lane.run(client, OTHER, lambda: "again", print) == "again"

    in_a_lane(check)


def test_a_caller_that_waits_for_itself_leaves_others_places_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "WAITING", 8)
    monkeypatch.setattr(lanes, "WAITING_SHARE", 4)

    async def check(lane: Lane, client: Any) -> None:
        free = threading.Event()
        mine = [asyncio.create_task(lane.run(client, CALLER, lambda: free.wait(30), print)) for _ in range(20)]
        await asyncio.sleep(0)
        assert await lane.run(client, OTHER, lambda: "other", print) == "other"
        free.set()
        done = await asyncio.gather(*mine, return_exceptions=True)
        assert [type(each) for each in done] == [bool] * 4 + [OverloadedError] * 16
        assert await lane.run(client, CALLER, lambda: "again", print) == "again"
        assert not lane._waiting

    in_a_lane(check)
