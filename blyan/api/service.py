"""The service: what routes need, opened once for a process.

Belongs here: how the parts are put together, and who a request's caller is. Does not belong here: the parts, and routes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Security
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection, Request
from starlette.responses import StreamingResponse

from blyan.api import keys as api_keys
from blyan.api.audit import AuditLog
from blyan.api.callers import Principal, Scope, anonymous
from blyan.api.envelope import asked_of
from blyan.api.keys import KeyRing
from blyan.api.lanes import Lane, client_gone
from blyan.api.live import Hub
from blyan.api.problems import BAD_CURSOR, GONE, INVALID, UNAVAILABLE, ClientGoneError, OverloadedError, RequestError, nearest
from blyan.api.rates import Rates
from blyan.api.telemetry import Metrics
from blyan.api.tokens import Tokens, new_secret
from blyan.errors import BlyanError, TransientError
from blyan.lake import Lake
from blyan.query.cache import Answers, Content, Looks, Room
from blyan.query.chat_model import ChatModel
from blyan.query.hot_answers import WRITTEN_EVERY_S, Counts
from blyan.query.kept_answers import KeptAnswers
from blyan.query.records import CursorError, Look, Page, Question, Records, SnapshotGoneError, Stop
from blyan.query.search import Mode
from blyan.query.searcher import Found, Searcher
from blyan.query.shared_answers import SharedAnswers
from blyan.query.sql import SqlEngine
from blyan.query.tools import Toolbox
from blyan.schemas import BLOCKS
from blyan.settings import Settings

Result = TypeVar("Result")

log = logging.getLogger("blyan.api")

THREADS = 8
"""Questions that a process asks of DuckDB at once."""

SHARE = 4
"""Of them, those of one caller."""

SEARCHES, SEARCH_SHARE = 4, 2
"""Searches and embeddings that a process makes at once, and of them those of one caller."""

STRANGERS_PER_S, STRANGERS_BURST = 2.0, 30
"""How often an address may show keys that do not exist."""

TRIES = 3
"""Times a question is asked whose files were tidied away under it."""

BEARER = HTTPBearer(
    auto_error=False, scheme_name="key", description="A key of `blyan keys create`, or a token of POST /v1/tokens, as `Authorization: Bearer …`."
)


class Service:
    """One process' share of the service.

    Args:
        settings: of the lake and of what is served.

    Raises:
        SettingError: a setting is wrong.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lake = Lake.from_settings(settings)
        self.metrics = Metrics()
        self.audit = AuditLog(Path(settings.audit_log), settings.audit_bytes) if settings.audit_log else None
        self.keys = KeyRing(self.lake)
        self.tokens = Tokens(settings.token_secret.get_secret_value() if settings.token_secret else new_secret(), self.keys)
        self.rates = Rates(settings.redis_url.get_secret_value() if settings.redis_url else None)
        self.records = Records(self.lake, threads=settings.serve_threads, memory=f"{settings.serve_memory_mib}MiB")
        self.model = ChatModel.from_settings(settings)
        self.answers = self._remembering() if settings.answers_memory_mb else None
        self.looks = Looks(side_by_side=not self.lake.store.is_local)
        self._counts = Counts(self.lake)
        self._counting: asyncio.Task[None] | None = None
        self._engine = SqlEngine.from_settings(settings, self.answers, self._counts.note)
        self._opening: asyncio.Task[SqlEngine] | None = None
        self.questions = Lane("question", THREADS, SHARE)
        self.searcher = Searcher(self.lake, settings)
        self.searches = Lane("search", SEARCHES, SEARCH_SHARE)
        self.ending, self.closing = asyncio.Event(), asyncio.Event()
        self._kept: list[asyncio.Task[None]] = []
        self.hub = Hub(self.lake, self.ending, self.metrics.live.set)

    def _remembering(self) -> Answers:
        """What is remembered, here, in Redis and in the lake."""
        settings, rooms = self.settings, list[Room]()
        if settings.redis_url:
            rooms.append(SharedAnswers(settings.redis_url.get_secret_value(), settings.token_secret, self._told))
        if settings.answers_bytes:
            rooms.append(KeptAnswers(self.lake, settings.answers_bytes, self._told))
        return Answers(settings.answers_memory_mb << 20, rooms, tell=self._told)

    def _told(self, event: str) -> None:
        self.metrics.cache.labels(event).inc()
        if self.answers is not None and event != "hit memory":
            self.metrics.cache_bytes.set(self.answers.bytes)
            for room, state in self.answers.state.items():
                self.metrics.cache_paused.labels(room).set(state == "paused")

    async def _say_counts(self) -> None:
        """Say what is asked often, for those who make it again ahead; a lake that does not take it is told later."""
        while True:
            await asyncio.sleep(WRITTEN_EVERY_S)
            try:
                await asyncio.to_thread(self._counts.write)
            except BlyanError as error:
                log.warning("what is asked often cannot be written: %s", error)

    async def warm(self) -> None:
        """Import and open what the first question would wait for. A lake that cannot be read is told by /readyz, and ends nothing."""
        try:
            await asyncio.to_thread(self.records.page, Question(BLOCKS, descending=True), rows=1)
        except BlyanError as error:
            log.warning("the lake cannot be read yet: %s", error)

    async def open(self) -> None:
        """Start the processes that run SQL; nobody who does not ask for SQL waits for them."""
        self._opening = asyncio.create_task(self._engine.__aenter__())
        if self.answers and self.settings.hot_answers:
            self._counting = asyncio.create_task(self._say_counts())
        await self.warm()

    async def sql(self) -> SqlEngine:
        """What answers SQL, once it has started.

        Raises:
            OverloadedError: it could not start.
        """
        assert self._opening is not None
        try:
            return await asyncio.shield(self._opening)
        except BlyanError as error:
            log.exception("SQL cannot be answered")
            raise OverloadedError(
                UNAVAILABLE, "SQL cannot be answered here", remedy="ask the operator: the log says why", retry_after_s=60.0
            ) from error

    @property
    def sql_state(self) -> str:
        """`ready`, `starting` or `failed`."""
        if self._opening is None or not self._opening.done():
            return "starting"
        return "failed" if self._opening.exception() else "ready"

    async def identify(self, connection: HTTPConnection, credentials: str | None) -> Principal:
        """Who asks; counted, and refused where they ask too often.

        Raises:
            RequestError: nobody that is known.
            OverloadedError: too often.
        """
        asked = asked_of(connection.scope)
        if asked.caller is not None:  # told already, and counted
            return asked.caller
        address = connection.client.host if connection.client else "nowhere"
        try:
            caller = await self._holder(credentials, address)
        except RequestError:
            # Guessing costs: a stranger has a bucket by address, and a caller with a key never takes from it.
            await self.rates.take(f"stranger:{address}", STRANGERS_PER_S, STRANGERS_BURST)
            raise
        asked.caller = caller
        limits = caller.limits
        asked.headers |= await self.rates.take(caller.id, limits.requests_per_s, limits.burst)
        return caller

    async def _holder(self, credentials: str | None, address: str) -> Principal:
        if credentials is None:
            if self.settings.serve_anonymous:
                return anonymous(address)
            raise api_keys.unknown("no key was sent")
        parts = api_keys.parse(credentials)
        return await (self.keys.holder(*parts) if parts else self.tokens.holder(credentials))

    async def page(self, request: Request, caller: Principal, question: Question, *, rows: int, cursor: str | None = None) -> Page:
        """A page of records, within the caller's limits.

        Raises:
            RequestError: the cursor is wrong or its snapshot gone, or it took too long.
            OverloadedError: too much is at work.
        """
        for tries in range(1, TRIES + 1):
            try:
                if self.answers is None or asked_of(request.scope).fresh:
                    asked_of(request.scope).sources.append("fresh" if self.answers else "none")
                    return await self._read(request, caller, question, rows, cursor=cursor)
                return await self._remembered(self.answers, request, caller, question, rows, cursor)
            except CursorError as error:
                raise RequestError(BAD_CURSOR, error.what, remedy=error.remedy, details=[("query.cursor", error.what)]) from error
            except SnapshotGoneError as error:
                raise RequestError(GONE, error.what, remedy=error.remedy) from error
            except TransientError as error:
                # Files are deleted a while after nothing names them: another look finds others.
                if tries == TRIES or isinstance(error, ClientGoneError | OverloadedError):
                    raise
        raise AssertionError("a loop that returns or raises")

    def tools(self, caller: Principal) -> Toolbox:
        """The tools that language models and agents of a caller have; who waits for them cancels their task, and they stop."""

        def run(work: Callable[[], Result], stop: Callable[[], None]) -> Awaitable[Result]:
            return self.ask(None, caller, work, stop)

        return Toolbox(
            self.lake,
            engine=self.sql,
            records=self.records,
            searcher=self.searcher,
            search=partial(self.search, None, caller),
            run=run,
            limits=caller.limits.of_sql(),
            caller=caller.id,
        )

    async def look(self, question: Question, cursor: str | None = None) -> Look:
        """What stands for a question; those who ask for the same together share the look.

        Raises:
            CursorError: the cursor is of another question.
            SnapshotGoneError: what it was pinned to is gone.
        """
        place = (question.digest(), question.alone, question.within, cursor)
        return await self.looks.take(place, partial(self.records.look, question, cursor))

    async def _read(
        self, request: Request, caller: Principal, question: Question, rows: int, *, cursor: str | None = None, look: Look | None = None
    ) -> Page:
        stop = Stop()
        return await self.ask(request, caller, partial(self.records.page, question, rows=rows, cursor=cursor, stop=stop, look=look), stop)

    async def _remembered(self, answers: Answers, request: Request, caller: Principal, question: Question, rows: int, cursor: str | None) -> Page:
        """A page that is remembered, or that will be."""
        look, large = await self.look(question, cursor), list[Page]()

        async def compute() -> Content | None:
            page = await self._read(request, caller, question, rows, look=look)
            large.append(page)
            return look.content(page)

        content, source = await answers.get(look.key(rows), compute, settled=look.is_settled)
        if content is None:
            asked_of(request.scope).sources.append("streamed")
            return large[0] if large else await self._read(request, caller, question, rows, look=look)
        asked_of(request.scope).sources.append(source)
        return look.page(content)

    async def ask(self, request: Request | None, caller: Principal, question: Callable[[], Result], stop: Callable[[], None]) -> Result:
        """Ask DuckDB something; see `Lane.run`."""
        return await self.questions.run(request, caller, question, stop)

    async def search(self, request: Request | None, caller: Principal, query: str, mode: Mode, filters: Mapping[str, Any], **options: Any) -> Found:
        """Search the index, counted and timed; see `Searcher.filters` and `Searcher.find`.

        Without a request nobody is looked after: whoever does that cancels the task.

        Raises:
            AskedError: what is asked for cannot be.
            SearchUnavailableError: no search can be answered.
            RequestError: it took longer than the caller may.
            OverloadedError: too many searches wait.
            ClientGoneError: the client went away.
        """
        began = time.perf_counter()
        work = partial(self._found, query, mode, filters, options)
        # LanceDB cannot be interrupted: who is too long is no longer waited for, and keeps its place until it ends.
        found = await self.searches.run(request, caller, work, lambda: None)
        self.metrics.searched(found.answer.mode, time.perf_counter() - began, found.reading, found.answer.searched.documents)
        return found

    def _found(self, query: str, mode: Mode, filters: Mapping[str, Any], options: Mapping[str, Any]) -> Found:
        return self.searcher.find(query, mode=mode, filters=self.searcher.filters(filters), **options)

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the requests, which ends when `closing` is set, once they are all answered."""
        self._kept.append(asyncio.create_task(work))

    async def close(self) -> None:
        """Let go of everything."""
        self.closing.set()
        await asyncio.gather(*self._kept)
        if self._opening is not None:
            with suppress(BlyanError):
                await self._opening
                await self._engine.__aexit__(None, None, None)
        if self.model is not None:
            await self.model.aclose()
        if self._counting is not None:
            self._counting.cancel()
            with suppress(asyncio.CancelledError):
                await self._counting
            with suppress(BlyanError):
                await asyncio.to_thread(self._counts.close)
        await self.hub.close()
        await self.rates.close()
        self.questions.close()
        self.searches.close()
        if self.answers:
            await self.answers.close()
        self.looks.close()
        self.records.close()
        if self.audit:
            self.audit.close()


class HeldResponse(StreamingResponse):
    """A stream with something that is let go when it is over, even where the client went away before its first byte.

    Args:
        parts: of the body.
        release: lets go; once is enough, and again does nothing.
        options: of a response.
    """

    def __init__(self, parts: AsyncIterator[bytes], release: Callable[[], Awaitable[None]], **options: Any) -> None:
        super().__init__(parts, **options)
        self._release = release

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._release()


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for something, and cancel it where the client goes away meanwhile.

    Raises:
        ClientGoneError: the client went away.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(client_gone(request))
    waiting: set[asyncio.Task[Any]] = {task, gone}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    raise ClientGoneError("the client went away")


def service_of(connection: HTTPConnection) -> Service:
    """The service that a request is asked of."""
    service: Service = connection.app.state.service
    return service


def needs(scope: Scope) -> Any:
    """A dependency: the caller, who has this scope."""

    async def identified(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]) -> Principal:
        caller = await service_of(request).identify(request, credentials.credentials if credentials else None)
        caller.require(scope)
        return caller

    return Depends(identified)


async def known_parameters(request: Request) -> None:
    """Refuse parameters of the query that the route does not declare, and those given twice, with the nearest name.

    Raises:
        RequestError: there are some.
    """
    fields = get_flat_params(request.scope["route"].dependant)
    declared = [field.alias for field in fields if isinstance(field.field_info, Query)]
    given = list(request.query_params.keys())
    faults = [(f"query.{name}", f"there is no parameter {name}{nearest(name, declared)}") for name in dict.fromkeys(given) if name not in declared]
    pairs = [name for name, _ in request.query_params.multi_items()]
    faults += [(f"query.{name}", "it is given twice") for name in declared if pairs.count(name) > 1]
    if faults:
        remedy = f"this takes {', '.join(declared)}" if declared else "this takes no parameters"
        raise RequestError(INVALID, "; ".join(what for _, what in faults), remedy=remedy, details=faults)
