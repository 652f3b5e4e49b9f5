"""Lanes: threads for work that takes time, so many at once, so many of one caller's, and only for so long.

Belongs here: waiting for a thread and for its answer. Does not belong here: the work, and how often a caller may ask (`blyan.api.rates`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from blyan.api.callers import Principal
from blyan.api.problems import CANCELLED, UNAVAILABLE, ClientGoneError, OverloadedError, RequestError

Result = TypeVar("Result")

WAITING = 256
"""Pieces of work that may wait for a thread of a lane; beyond, the service says that it is busy."""


WAITING_SHARE = WAITING // 2
"""Of them, those of one caller: else whoever asks faster than it is answered has everybody refused."""


class Lane:
    """Threads for one kind of work.

    Args:
        name: of the threads.
        threads: pieces of work at once.
        share: of them, those of one caller. Work that could not be stopped in time keeps its place until it ends.
    """

    def __init__(self, name: str, threads: int, share: int) -> None:
        self._pool, self._share = ThreadPoolExecutor(threads, name), share
        self._waiting: Counter[str] = Counter()
        self._shares: dict[str, asyncio.Semaphore] = {}

    async def run(self, request: Request | None, caller: Principal, work: Callable[[], Result], stop: Callable[[], None]) -> Result:
        """Run something in a thread; it is stopped when the caller's time is over, or when the client goes away.

        Args:
            request: whose client may go away; None: whoever looks after that cancels the task.
            caller: whose share and time it takes.
            work: takes no event loop.
            stop: makes the work end early, if it can.

        Raises:
            RequestError: it took longer than the caller may.
            OverloadedError: too much waits.
            ClientGoneError: the client went away.
        """
        if self._waiting[caller.id] >= WAITING_SHARE or self._waiting.total() >= WAITING:
            raise OverloadedError(UNAVAILABLE, "too many questions wait", remedy="ask again", retry_after_s=1.0)
        share = self._shares.setdefault(caller.id, asyncio.Semaphore(self._share))
        self._waiting[caller.id] += 1
        try:
            # A caller with many questions waits for itself, and takes no thread that another would get.
            await share.acquire()
            return await self._run(request, caller.limits.seconds, self._begun(work, share), stop)
        finally:
            self._waiting[caller.id] -= 1
            if not self._waiting[caller.id]:
                del self._waiting[caller.id]
            if not share.locked() and len(self._shares) > WAITING:
                self._shares.pop(caller.id, None)

    def _begun(self, work: Callable[[], Result], share: asyncio.Semaphore) -> asyncio.Future[Result]:
        """The work in a thread, or waiting for one; its place is free again when it has ended, however late that is."""
        loop = asyncio.get_running_loop()
        begun = self._pool.submit(work)
        begun.add_done_callback(lambda _: loop.call_soon_threadsafe(share.release))
        return asyncio.wrap_future(begun)

    async def _run(self, request: Request | None, seconds: float, answer: asyncio.Future[Result], stop: Callable[[], None]) -> Result:
        gone = asyncio.ensure_future(client_gone(request) if request else asyncio.Event().wait())
        waiting: set[asyncio.Future[Any]] = {answer, gone}
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            left = gone.done()
        finally:
            gone.cancel()
            if not answer.done():
                stop()
                answer.cancel()
        if left:
            raise ClientGoneError("the client went away")
        raise RequestError(CANCELLED, f"it took longer than {seconds:g} s", remedy="ask for fewer slots, or with a filter")

    def close(self) -> None:
        """Wait for what runs, and drop what waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)


async def client_gone(request: Request) -> None:
    """Return once the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
