"""GraphQL over HTTP: a query and its result, or a subscription as server-sent events.

Belongs here: bodies, prices and errors. Does not belong here: the schema (`blyan.api.graphql`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends
from graphql import GraphQLError, OperationType, get_operation_ast, parse
from graphql.language import DocumentNode
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from blyan.api.callers import Principal, Scope
from blyan.api.envelope import asked_of
from blyan.api.graphql import BUDGETS, SCHEMA, Context, cost_of
from blyan.api.problems import CANCELLED, FORBIDDEN, QUERY_REFUSED, RATE_LIMITED, TOO_COSTLY, UNAUTHENTICATED, RequestError, responses, told_of
from blyan.api.service import HeldResponse, Service, known_parameters, needs, service_of
from blyan.query.records import Page, Question

router = APIRouter(tags=["graphql"], dependencies=[Depends(known_parameters)])

EXAMPLE = '{ blocks(limit: 2, order: "desc") { data { slot leader transactions { signature status } } reading { up_to_slot finality } } }'

log = logging.getLogger("blyan.api")


class GraphRequest(BaseModel):
    """A query, as GraphQL over HTTP has it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"query": EXAMPLE}]})

    query: str = Field(description="The document.", max_length=100_000, examples=[EXAMPLE])
    variables: dict[str, Any] | None = Field(None, description="Values of its variables.", examples=[{}])
    operationName: str | None = Field(None, description="The operation, where the document has several.", examples=[None])  # noqa: N815 - GraphQL's name
    extensions: dict[str, Any] | None = Field(None, description="Not used.", examples=[None])


class GraphFault(BaseModel):
    """An error at one place of the result."""

    message: str = Field(description="What went wrong.")
    path: list[Any] | None = Field(None, description="Where in the result.")
    extensions: dict[str, Any] | None = Field(None, description="The kind of problem, and the remedy.")


class GraphAnswer(BaseModel):
    """A result."""

    data: dict[str, Any] | None = Field(description="What was asked for, in its form.")
    errors: list[GraphFault] | None = Field(None, description="What could not be answered.")


OK: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The result; of a subscription, events `next` and `complete`.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/GraphAnswer"}},
            "text/event-stream": {"schema": {"type": "string"}, "example": 'event: next\ndata: {"data":{"slots":{"slot":299}}}\n\n'},
        },
    }
}


@router.post(
    "/v1/graphql",
    summary="Ask in GraphQL",
    response_model=GraphAnswer,
    responses={**OK, **responses(UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, QUERY_REFUSED, TOO_COSTLY, CANCELLED)},
)
async def graphql(request: Request, asked: GraphRequest, caller: Annotated[Principal, needs(Scope.READ)]) -> Response:
    """Records as a graph, with fields named as columns.

    A query is priced before it runs. A subscription is answered as server-sent events, and needs the scope `live`.
    """
    asked_of(request.scope).sql = asked.query
    service, variables = service_of(request), asked.variables or {}
    document = _checked(asked, caller, variables)
    operation = get_operation_ast(document, asked.operationName)
    context = Context(_asking(service, request, caller), caller, service.hub.events)
    if operation is not None and operation.operation is OperationType.SUBSCRIPTION:
        caller.require(Scope.LIVE)
        places = contextlib.AsyncExitStack()
        await places.enter_async_context(service.rates.at_work(f"live:{caller.id}", caller.limits.concurrency * 4))
        return HeldResponse(_followed(asked, context), places.aclose, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
    result = await SCHEMA.execute(asked.query, variable_values=variables, context_value=context, operation_name=asked.operationName)
    errors = result.errors or []
    if result.data is None and errors and not any(error.path for error in errors):
        raise _refusal(errors)
    return Response(msgspec.json.encode(_formed(result.data, errors)), media_type="application/json")


def _checked(asked: GraphRequest, caller: Principal, variables: dict[str, Any]) -> DocumentNode:
    """The document, if the caller may spend what it costs.

    Raises:
        RequestError: it cannot be read, or costs too much.
    """
    try:
        document = parse(asked.query, max_tokens=2_000)
        budget = BUDGETS[caller.role]
        cost = cost_of(document, variables, budget)
    except GraphQLError as error:
        raise _refusal([error]) from error
    except RecursionError as error:
        raise RequestError(QUERY_REFUSED, "it is nested too deep", remedy="ask for less at once") from error
    if cost > budget:
        what = f"the query may cost more than the {budget:,} that a {caller.role} may spend"
        raise RequestError(TOO_COSTLY, what, remedy="ask for fewer rows, or for fewer lists inside of lists")
    return document


def _refusal(errors: list[GraphQLError]) -> RequestError:
    details = [("body.query", error.message) for error in errors]
    return RequestError(QUERY_REFUSED, errors[0].message, remedy="correct the query; introspection tells the schema", details=details)


def _asking(service: Service, request: Request, caller: Principal) -> Any:
    async def ask(question: Question, rows: int, cursor: str | None) -> Page:
        return await service.page(request, caller, question, rows=rows, cursor=cursor)

    return ask


def _formed(data: Any, errors: list[GraphQLError]) -> dict[str, Any]:
    """The result, with errors in words that are the caller's business."""
    formed: dict[str, Any] = {"data": data}
    for error in errors:
        cause = error.original_error
        told = told_of(cause) if cause is not None else None
        if told is not None and told.kind.status >= 500:
            log.error("a field failed: %s", cause, exc_info=cause)
        message = error.message if told is None else told.detail
        extensions = {} if told is None else {"extensions": {"type": told.kind.uri, "remedy": told.remedy}}
        formed.setdefault("errors", []).append({"message": message, "path": error.path, **extensions})
    return formed


async def _followed(asked: GraphRequest, context: Context) -> AsyncIterator[bytes]:
    """Events of a subscription, in the form of GraphQL over server-sent events."""
    results: Any = await SCHEMA.subscribe(asked.query, variable_values=asked.variables, context_value=context, operation_name=asked.operationName)
    if not hasattr(results, "__aiter__"):
        yield b"event: next\ndata: %b\n\n" % msgspec.json.encode(_formed(None, results.errors or []))
    else:
        async for result in results:
            yield b"event: next\ndata: %b\n\n" % msgspec.json.encode(_formed(result.data, result.errors or []))
    yield b"event: complete\ndata:\n\n"
