"""SQL over HTTP: one statement and its rows, long queries in the background, and pins that give the same rows again.

Belongs here: bodies, formats, and which problem an error is. Does not belong here: statements (`blyan.query.sql`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from blyan.api.callers import MOST, Principal, Scope
from blyan.api.envelope import asked_of
from blyan.api.problems import (
    BAD_CURSOR,
    CANCELLED,
    FORBIDDEN,
    GONE,
    NOT_ACCEPTABLE,
    NOT_FOUND,
    QUERY_REFUSED,
    RATE_LIMITED,
    TOO_COSTLY,
    UNAUTHENTICATED,
    UNAVAILABLE,
    OverloadedError,
    RequestError,
    responses,
)
from blyan.api.recall import HOLDS, VARIES, Recall, Reply, tag_of
from blyan.api.service import HeldResponse, known_parameters, needs, service_of, unless_gone
from blyan.errors import MissingObjectError
from blyan.query.formats import FORMATS, end_of_json
from blyan.query.gate import RefusedError
from blyan.query.sandbox import BusyError, DeadlineError, ProcessDiedError, StatementError, TooLargeError
from blyan.query.snapshot import Reading
from blyan.query.spool import Job
from blyan.query.sql import LONG, Answer, At, SqlEngine
from blyan.query.sql import Asked as SqlAsked

router = APIRouter(tags=["sql"], dependencies=[Depends(known_parameters)])

ERRORS = (UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, QUERY_REFUSED, TOO_COSTLY, CANCELLED)

FIRST_BYTES = 64 << 10
"""Bytes that are gathered before the head is sent: what fails before is a problem, and what ends before is sent whole."""

MOST_WHOLE = 16 << 20
"""Bytes of a form of rows that are remembered, which are all there already."""

ANY = ("*/*", "application/*", "")

Format = Literal["json", "csv", "arrow", "parquet"]

Scalar = str | int | float | bool | None

EXAMPLE: dict[str, Any] = {
    "sql": "select status, count(*) as transactions from solana.transactions where block_slot between $1 and $2 group by all",
    "params": [0, 99],
}


class AtModel(BaseModel):
    """Another time than now."""

    model_config = ConfigDict(extra="forbid")

    versions: dict[str, int] | int | None = Field(None, description="Versions of the tables by name, or one for all; the tail is left out.")
    slot: int | None = Field(None, ge=0, le=2**53, description="As if the chain had ended with this slot.")


class Statement(BaseModel):
    """A statement and what it is to be run with."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    sql: str = Field(description="One SELECT, perhaps with EXPLAIN or DESCRIBE before it, or SHOW TABLES.", examples=[EXAMPLE["sql"]])
    params: list[Scalar | list[Scalar]] | dict[str, Scalar | list[Scalar]] | None = Field(
        None, description="Values of `$1` and `?` by position, or of `$name` by name. Amounts beyond 2^53 as text.", examples=[EXAMPLE["params"]]
    )
    at: AtModel | None = Field(None, description="Another time than now.")


class Asked(Statement):
    """A statement whose rows are wanted at once."""

    rows: int | None = Field(None, ge=1, le=MOST.result_rows, description="Rows of this page. A role may be allowed fewer.", examples=[1_000])
    cursor: str | None = Field(None, max_length=1 << 20, description="`cursor` of an answer to the same statement: the rows after it.")
    format: Format | None = Field(None, description="Form of the rows. Unset: as `Accept` says, JSON otherwise.", examples=["json"])


class SqlColumn(BaseModel):
    """A column of a result."""

    name: str = Field(description="Its name.", examples=["status"])
    type: str = Field(description="Its type, as DuckDB writes it.", examples=["VARCHAR"])


class SqlReading(BaseModel):
    """What an answer was read from."""

    versions: dict[str, int | None] = Field(description="Version of each table in the lake. Null where only the tail has it.")
    ranges: dict[str, dict[str, str]] = Field(description="Digest of what was read of each range, by table.")
    up_to_slot: int | None = Field(description="Newest slot that every table read has.")
    finality: str | None = Field(description="How sure that slot is: `finalized` or `confirmed`.")
    finalized_to: int | None = Field(description="Newest of them that is final.")
    behind_slots: int | None = Field(description="Slots that the node had announced beyond. Null where nobody follows.")
    behind_ms: int | None = Field(description="The same as a time, and the age of what is known.")
    generation: int | None = Field(description="Generation of the tail.")
    as_of_slot: int | None = Field(description="Rows of later slots were left out because that was asked for.")


class SqlAnswer(BaseModel):
    """The JSON form of a result."""

    columns: list[SqlColumn] = Field(description="Names and types.")
    rows: list[list[Any]] = Field(description="Rows, each a list of values. Decimals and what passes 2^63 are texts.")
    reading: SqlReading = Field(description="What it was read from.")
    rows_count: int = Field(description="Rows in it.")
    truncated: bool = Field(description="Whether there are more rows than these.")
    cursor: str | None = Field(description="Send it back with the same statement for the rows after these.")
    digest: str = Field(description="SHA-256 over columns and rows.")


class PinModel(BaseModel):
    """A result that can be had again, byte for byte."""

    pin: str = Field(
        description="Names statement, parameters, versions and digest.", examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    )
    link: str = Field(description="Where it is had again.", examples=["/v1/pins/9f86…"])
    digest: str = Field(description="SHA-256 over columns and rows.")
    rows_count: int = Field(description="Rows in it.")
    truncated: bool = Field(description="Whether the statement has more rows than these.")


class QueryModel(BaseModel):
    """A submitted query."""

    name: str = Field(description="Names it.", examples=["b1946ac92492d2347c6235b4d2611184"])
    state: str = Field(description="`waiting`, `running`, `done`, `failed` or `cancelled`.", examples=["running"])
    submitted: dt.datetime = Field(description="When it came.")
    ended: dt.datetime | None = Field(description="When it was over.")
    error: str | None = Field(description="Why it failed.")
    rows: int = Field(description="Rows of its result.")
    truncated: bool = Field(description="Whether the statement has more rows than its result.")
    result: str | None = Field(description="Where its result is, once it is done.", examples=["/v1/queries/b194…/result"])


BODIES: dict[str, Any] = {
    "application/json": {"schema": {"$ref": "#/components/schemas/SqlAnswer"}},
    "text/csv": {"schema": {"type": "string"}, "example": "status,transactions\r\nSuccess,1950\r\n"},
    "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
    "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
}

ROWS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": SqlAnswer,
        "description": "The rows. `blyan-reading` says what they were read from, in every form. Each form says at its end whether the result "
        "goes on: JSON in the object, Arrow in the metadata `blyan` of its last batch, Parquet in that of its footer, CSV in a last line that "
        "begins with `#`.",
        "content": BODIES,
        "headers": {"blyan-reading": {"description": "Versions, slot and finality, as JSON.", "schema": {"type": "string"}}},
    }
}

Analyst = Annotated[Principal, needs(Scope.SQL)]
Wanted = Annotated[Format | None, Query(description="Form of the rows. Unset: as `Accept` says, JSON otherwise.", examples=["csv"])]
Pinned = Annotated[
    str, Path(description="A pin.", pattern="^[0-9a-f]{64}$", examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])
]
Name = Annotated[str, Path(description="A submitted query.", pattern="^[0-9a-f]{32}$", examples=["b1946ac92492d2347c6235b4d2611184"])]


@router.post(
    "/v1/sql",
    summary="Ask in SQL",
    response_class=StreamingResponse,
    responses={**ROWS, **responses(BAD_CURSOR, GONE, NOT_FOUND, NOT_ACCEPTABLE, *ERRORS)},
)
async def sql(request: Request, asked: Asked, caller: Analyst) -> Response:
    """One read-only statement over every table, in DuckDB's dialect, with the tail that is not sealed yet. Rows are streamed.

    A result that has more rows than were asked for, or than the caller may have, says so, with a cursor for the rest.
    """
    service, form = service_of(request), _form(request, asked.format)
    asked_of(request.scope).sql = asked.sql
    limits = caller.limits.of_sql()
    async with problems_of_sql():
        engine = await service.sql()
        query = engine.query(
            asked.sql,
            asked.params,
            limits=limits,
            caller=caller.id,
            at=_at(asked.at),
            cursor=asked.cursor,
            rows=asked.rows,
            fresh=asked_of(request.scope).fresh,
        )
        recalled = partial(_recalled, engine) if asked.at is None and asked.cursor is None else None
        return await unless_gone(request, _sent(request, query, form, recalled))


@router.post("/v1/pins", summary="Pin a result", responses=responses(NOT_FOUND, *ERRORS))
async def pin(request: Request, asked: Asked, caller: Analyst) -> PinModel:
    """Runs the statement, and keeps text, parameters, versions and digest, so that everybody with the link gets the same rows again."""
    asked_of(request.scope).sql = asked.sql
    async with problems_of_sql():
        engine = await service_of(request).sql()
        limits = caller.limits.of_sql()
        query = engine.query(asked.sql, asked.params, limits=limits, caller=caller.id, at=_at(asked.at), cursor=asked.cursor, rows=asked.rows)
        return await unless_gone(request, _pinned(engine, query))


@router.get(
    "/v1/pins/{pin}",
    summary="The rows of a pin",
    response_class=StreamingResponse,
    responses={**ROWS, **responses(NOT_FOUND, NOT_ACCEPTABLE, *ERRORS)},
)
async def pinned(request: Request, caller: Analyst, pin: Pinned, format: Wanted = None) -> Response:  # noqa: A002 - the name of the parameter
    """The same rows from the same versions, compared with the digest; 404 names what is gone."""
    form = _form(request, format)
    async with problems_of_sql():
        engine = await service_of(request).sql()
        query = engine.again(pin, limits=caller.limits.of_sql(), caller=caller.id)
        return await unless_gone(request, _sent(request, query, form))


@router.post("/v1/queries", status_code=202, summary="Submit a long query", responses=responses(NOT_FOUND, *ERRORS))
async def submit(request: Request, asked: Statement, caller: Analyst) -> QueryModel:
    """Runs in the background, for up to fifteen minutes; its result is kept for a day."""
    asked_of(request.scope).sql = asked.sql
    async with problems_of_sql():
        engine = await service_of(request).sql()
        limits = msgspec.structs.replace(LONG, concurrency=caller.limits.concurrency, memory=caller.limits.memory_bytes)
        name = await engine.submit(asked.sql, asked.params, limits=limits, caller=caller.id, at=_at(asked.at))
        return _shown(await engine.poll(name, caller=caller.id))


@router.get("/v1/queries/{name}", summary="How a submitted query does", responses=responses(NOT_FOUND, *ERRORS))
async def poll(request: Request, caller: Analyst, name: Name) -> QueryModel:
    """Its state, and where its result is."""
    async with problems_of_sql():
        engine = await service_of(request).sql()
        return _shown(await engine.poll(name, caller=caller.id))


@router.delete("/v1/queries/{name}", summary="Cancel a submitted query", responses=responses(NOT_FOUND, *ERRORS))
async def cancel(request: Request, caller: Analyst, name: Name) -> QueryModel:
    """Ends it, or drops its result."""
    async with problems_of_sql():
        engine = await service_of(request).sql()
        return _shown(await engine.cancel(name, caller=caller.id))


@router.get(
    "/v1/queries/{name}/result",
    summary="The rows of a submitted query",
    response_class=StreamingResponse,
    responses={**ROWS, **responses(NOT_FOUND, NOT_ACCEPTABLE, *ERRORS)},
)
async def result(request: Request, caller: Analyst, name: Name, format: Wanted = None) -> Response:  # noqa: A002 - the name of the parameter
    """Once it is done."""
    form = _form(request, format)
    async with problems_of_sql():
        engine = await service_of(request).sql()
        return await unless_gone(request, _sent(request, engine.fetch(name, caller=caller.id), form))


@asynccontextmanager
async def problems_of_sql() -> AsyncIterator[None]:
    """Turn what a statement raises into problems. Its words name tables and columns, and no path."""
    try:
        yield
    except RefusedError as error:
        kind = BAD_CURSOR if "cursor" in error.what else QUERY_REFUSED
        raise RequestError(
            kind,
            error.what,
            remedy=error.remedy,
            details=[("body.cursor" if kind is BAD_CURSOR else "body.sql", error.what)],
            position=error.position,
        ) from error
    except StatementError as error:
        raise RequestError(QUERY_REFUSED, error.what, remedy=error.remedy, details=[("body.sql", error.what)], position=error.position) from error
    except TooLargeError as error:
        raise RequestError(TOO_COSTLY, error.what, remedy=error.remedy) from error
    except DeadlineError as error:
        raise RequestError(CANCELLED, error.what, remedy=error.remedy) from error
    except MissingObjectError as error:
        raise RequestError(NOT_FOUND, error.what, remedy=error.remedy) from error
    except BusyError as error:
        raise OverloadedError(RATE_LIMITED, error.what, remedy=error.remedy, retry_after_s=1.0) from error
    except ProcessDiedError as error:
        raise OverloadedError(UNAVAILABLE, error.what, remedy=error.remedy, retry_after_s=1.0) from error


def _form(request: Request, named: str | None) -> str:
    """The form that is asked for.

    Raises:
        RequestError: `Accept` names none that there is.
    """
    if named:
        return named
    kinds = {kind.partition(";")[0]: name for name, (kind, _) in FORMATS.items()}
    accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    for kind in accepted:
        if kind in ANY:
            return "json"
        if kind in kinds:
            return kinds[kind]
    raise RequestError(NOT_ACCEPTABLE, f"nothing here is {', '.join(accepted)}", remedy=f"accept one of {', '.join(kinds)}")


def _at(at: AtModel | None) -> At | None:
    return None if at is None else At(at.versions, at.slot)


async def _pinned(engine: SqlEngine, query: Awaitable[Answer]) -> PinModel:
    """Read an answer to its end, and keep what makes it again."""
    async with await query as answer:
        async for _ in answer.batches:
            pass
        made = await engine.pin(answer)
        return PinModel(pin=made, link=f"/v1/pins/{made}", digest=answer.digest, rows_count=answer.rows_count, truncated=answer.truncated)


async def _sent(
    request: Request, query: Awaitable[Answer], form: str, recalled: Callable[[SqlAsked], Awaitable[Reply | None]] | None = None
) -> Response:
    """The rows of an answer as a response; whole where they are few.

    Args:
        request: that is answered.
        query: gives the answer.
        form: of its rows.
        recalled: gives the same response as of another moment, if the rows are remembered.
    """
    answer = await query
    kind, write = FORMATS[form]
    parts, first = write(answer), bytearray()
    asked = asked_of(request.scope)
    asked.sources.append("fresh" if asked.fresh else answer.source or "none")
    headers = {"blyan-reading": reading_header(answer.reading)}
    if answer.content is not None:
        headers |= {"etag": tag_of(answer.content, answer.reading, form), **{name.decode(): value.decode() for name, value in (HOLDS, VARIES)}}
    try:
        async for part in parts:
            first += part
            if len(first) >= (FIRST_BYTES if answer.content is None else MOST_WHOLE):
                break
        else:
            asked.rows = answer.rows_count
            if answer.content is not None and form == "json" and recalled is not None:
                answer.content.keep_written("json", bytes(first[: len(first) - len(end_of_json(answer))]))
                asked.recall = Recall(Scope.SQL, partial(recalled, answer.asked.of(None)), sql=answer.asked.sql)
            return Response(bytes(first), media_type=kind, headers={**headers, "blyan-truncated": str(answer.truncated).lower()})
    except BaseException:
        await answer.aclose()
        raise

    async def rest() -> AsyncIterator[bytes]:
        yield bytes(first)
        async for part in parts:
            yield part

    async def over() -> None:
        asked.rows = answer.rows_count
        await answer.aclose()

    return HeldResponse(rest(), over, media_type=kind, headers=headers)


async def _recalled(engine: SqlEngine, asked: SqlAsked) -> Reply | None:
    """The response to a statement that was answered before, if its rows are the same."""
    async with problems_of_sql():
        found = await engine.recalled(asked)
    written = found.content.written("json") if found else None
    if found is None or written is None:
        return None
    headers = {"blyan-reading": reading_header(found.reading), "blyan-truncated": str(found.truncated).lower()}
    return Reply(written + end_of_json(found), found.rows_count, tag_of(found.content, found.reading), headers)


def reading_header(reading: Reading) -> str:
    """What an answer was read from, without the digests of its ranges, which are many."""
    fields = msgspec.structs.asdict(reading)
    del fields["ranges"]
    return msgspec.json.encode(fields).decode()


def _shown(job: Job) -> QueryModel:
    def moment(seconds: float | None) -> dt.datetime | None:
        return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)

    return QueryModel(
        name=job.name,
        state=job.state,
        submitted=dt.datetime.fromtimestamp(job.submitted_at, dt.UTC),
        ended=moment(job.ended_at),
        error=job.error,
        rows=job.rows,
        truncated=job.truncated,
        result=f"/v1/queries/{job.name}/result" if job.state == "done" else None,
    )
