"""Questions in words: `/v1/ask`, and the same in the form of OpenAI's API.

Belongs here: bodies, models, the stream, and which problem an error is. Does not belong here: answering (`blyan.query.answers`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from blyan.api.callers import Principal, Scope
from blyan.api.envelope import asked_of
from blyan.api.lanes import client_gone
from blyan.api.problems import (
    CANCELLED,
    FORBIDDEN,
    INVALID,
    NOT_FOUND,
    QUERY_REFUSED,
    RATE_LIMITED,
    TOO_COSTLY,
    UNAUTHENTICATED,
    UNAVAILABLE,
    OverloadedError,
    RequestError,
    nearest,
    responses,
    told_of,
)
from blyan.api.routes.sql import problems_of_sql
from blyan.api.service import HeldResponse, Service, known_parameters, needs, service_of, unless_gone
from blyan.corpus.minilm import count_tokens
from blyan.errors import BlyanError, SettingError
from blyan.query.answers import PLANNER, Given, Message, Window, ask_model, ask_planner
from blyan.query.chat_model import ModelAnswerError, ModelUnreachableError, Usage
from blyan.query.tools import LAST_SLOT, Cited, SqlColumn, ToolError

router = APIRouter(tags=["answers"], dependencies=[Depends(known_parameters)])

ERRORS = (UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, QUERY_REFUSED, TOO_COSTLY, CANCELLED)

MODEL = "blyan-planner"
"""What the planner is called as a model."""

MOST_CHARACTERS, MOST_MESSAGES = 8_000, 64

QUEUED = 64
"""Pieces of an answer that wait for a slow reader; the model waits after them."""

Analyst = Annotated[Principal, needs(Scope.SQL)]
Slot = Annotated[int | None, Field(ge=0, le=LAST_SLOT)]

Answering = Callable[[Callable[[str], Awaitable[None]]], Awaitable[Given]]


class AskModel(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"question": "How many transactions failed in slots 0 to 20?"}]})

    question: str = Field(min_length=1, max_length=MOST_CHARACTERS, description="In English.")
    first_slot: Slot = Field(None, description="The first slot that it is about, where it does not say.")
    last_slot: Slot = Field(None, description="The last slot that it is about, likewise.")
    model: str | None = Field(None, max_length=200, description="Who is to answer, of GET /v1/models. Unset: the first of them.")


class CallModel(BaseModel):
    """A tool that was called for an answer."""

    tool: str = Field(description="Its name.")
    arguments: str = Field(description="Its arguments, as JSON.")
    error: str | None = Field(description="Why it had no answer.")


class UntrustedModel(BaseModel):
    """Text in an answer that is not this project's."""

    at: str = Field(description="Where, a JSON pointer.", examples=["/rows/0/2"])
    flags: list[str] = Field(description="What is odd about it.", examples=[["instruction_like"]])


class AnsweredModel(BaseModel):
    """What a question got."""

    answer: str | None = Field(description="In words. Null where there is no answer. Of a model these are its own words.")
    abstained: bool = Field(description="Whether there is no answer.")
    why: str | None = Field(description="Why not.")
    instead: list[str] = Field(description="Questions that would be answered, or the readings to choose from, where there is no answer.")
    intent: str | None = Field(description="What the planner took it for.")
    sql: str | None = Field(description="The statement that was run; of several the last.")
    params: list[Any] = Field(description="Its parameters.")
    columns: list[SqlColumn] = Field(description="Columns of its rows.")
    rows: list[list[Any]] = Field(description="Its rows. What cannot be seen in a text is escaped.")
    truncated: bool = Field(description="Whether there are more rows.")
    citations: list[Cited] = Field(description="What the answer rests on.")
    hits: list[dict[str, Any]] = Field(description="Documents, as of /v1/search: where there is no answer they may help, and are none.")
    hits_why: str | None = Field(description="Why there are none.")
    by: str = Field(description="`planner`, or the model's name.")
    calls: list[CallModel] = Field(description="Tools that were called.")
    refused_calls: list[str] = Field(description="Tools that the model asked for once it had seen data. None of them was called.")
    removed: list[str] = Field(description="Signatures, slots and links in the model's words that no result has: they were taken out.")
    unsupported: list[str] = Field(description="Numbers in the model's words that no result has.")
    untrusted: list[UntrustedModel] = Field(description="Where text of strangers, or of a model, stands in this answer.")
    reading: dict[str, Any] | None = Field(description="What was read. Null where nothing was.")


class PartModel(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"] = Field(description="Only text is read.")
    text: str = Field(max_length=MOST_CHARACTERS, description="The text.")


class MessageModel(BaseModel):
    """A message."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"] = Field(description="Who said it. Tools are this service's own, so none has a message.")
    content: Annotated[str, Field(max_length=MOST_CHARACTERS)] | Annotated[list[PartModel], Field(min_length=1, max_length=16)] = Field(
        description="What was said."
    )
    name: str | None = Field(None, max_length=64, description="Not read.")

    def message(self) -> Message:
        """As the answerer takes it."""
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class StreamOptionsModel(BaseModel):
    """How it is streamed."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(False, description="Whether a last chunk has the tokens.")


class ChatModelRequest(BaseModel):
    """A conversation, as OpenAI's API has it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"model": MODEL, "messages": [{"role": "user", "content": "How many transactions failed in slots 0 to 20?"}]}]
        },
    )

    model: str | None = Field(None, max_length=200, description="Who is to answer, of GET /v1/models. Unset: the first of them.")
    messages: list[MessageModel] = Field(min_length=1, max_length=MOST_MESSAGES, description="What was said; the last is the question.")
    stream: bool = Field(False, description="Whether the answer comes as server-sent events.")
    stream_options: StreamOptionsModel | None = Field(None, description="How it is streamed.")
    max_tokens: int | None = Field(None, ge=1, le=1 << 20, description="Tokens of a model's words, at most.")
    max_completion_tokens: int | None = Field(None, ge=1, le=1 << 20, description="The same.")
    temperature: float | None = Field(None, ge=0, le=2, description="Passed on to a model.")
    n: Literal[1] = Field(1, description="One answer.")
    user: str | None = Field(None, max_length=200, description="Not read.")


class SaidModel(BaseModel):
    """What was answered."""

    role: Literal["assistant"] = Field(description="`assistant`.")
    content: str = Field(description="The answer, or why there is none.")


class ChoiceModel(BaseModel):
    """The answer."""

    index: int = Field(description="0.")
    message: SaidModel = Field(description="It.")
    finish_reason: str = Field(description="`stop`, or `length`.")


class TokensModel(BaseModel):
    """Tokens."""

    prompt_tokens: int = Field(description="Read: of a model, by both of its turns.")
    completion_tokens: int = Field(description="Written.")
    total_tokens: int = Field(description="Both.")


class CompletionModel(BaseModel):
    """An answer, as OpenAI's API has it."""

    id: str = Field(description="The request's id.")
    object: Literal["chat.completion"] = Field(description="`chat.completion`.")
    created: int = Field(description="Unix seconds.")
    model: str = Field(description="Who answered.")
    choices: list[ChoiceModel] = Field(description="One.")
    usage: TokensModel | None = Field(
        description="Tokens: a model's as its server counts them, the planner's in word pieces of MiniLM. Null: nobody counted."
    )
    blyan: AnsweredModel = Field(description="The answer with all that it rests on, as of /v1/ask.")


class ListedModel(BaseModel):
    """Who may answer."""

    id: str = Field(description="Its name.")
    object: Literal["model"] = Field(description="`model`.")
    created: int = Field(description="0.")
    owned_by: str = Field(description="`blyan`, or `configured`.")


class ModelsModel(BaseModel):
    """Everybody who may answer."""

    object: Literal["list"] = Field(description="`list`.")
    data: list[ListedModel] = Field(description="The first answers where none is named.")


@router.post("/v1/ask", summary="Ask in words", response_model=AnsweredModel, responses=responses(NOT_FOUND, *ERRORS))
async def ask(request: Request, asked: AskModel, caller: Analyst) -> Response:
    """An answer with the statement, the rows and the transactions that it rests on, or why there is none.

    The planner knows a closed set of questions, and abstains from others: `hits` are then documents that may help. A language model, where
    one is configured, chooses tools before it sees any data, and words the answer afterwards: `removed` and `unsupported` say what of its
    words no result has.
    """
    window = _window(asked.first_slot, asked.last_slot)
    answering = _answering(request, caller, asked.model, [Message("user", asked.question)], window)
    async with _at_work(request, caller), problems_of_answers():
        given = await unless_gone(request, _answered(answering))
    _note(request, given)
    return Response(msgspec.json.encode(given.document()), media_type="application/json")


@router.post(
    "/v1/chat/completions",
    summary="Ask in words, in the form of OpenAI's API",
    response_model=CompletionModel,
    response_class=StreamingResponse,
    responses={
        200: {
            "model": CompletionModel,
            "description": "The answer; with `stream` as server-sent events, chunks of OpenAI's form, the last of which has `blyan`, then `[DONE]`. "
            'What fails in the middle is an event `{"error": …}` with the problem.',
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/CompletionModel"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
        **responses(NOT_FOUND, *ERRORS),
    },
)
async def chat(request: Request, asked: ChatModelRequest, caller: Analyst) -> Response:
    """The same answers for any client of that API: give it the base `…/v1`. Who closes the connection ends the work."""
    talk = [each.message() for each in asked.messages]
    if talk[-1].role != "user" or not talk[-1].text.strip():
        raise RequestError(
            INVALID,
            "the last message is no question",
            remedy="end with a message of the user",
            details=[("body.messages", "it does not end with a question")],
        )
    options = {"max_tokens": asked.max_completion_tokens or asked.max_tokens, "temperature": asked.temperature}
    answering = _answering(request, caller, asked.model, talk, Window(), **options)
    head = {"id": f"chatcmpl-{asked_of(request.scope).id}", "created": int(time.time()), "model": asked.model or models(service_of(request))[0]}
    places = AsyncExitStack()
    await places.enter_async_context(_at_work(request, caller))
    if not asked.stream:
        async with places, problems_of_answers():
            given = await unless_gone(request, _answered(answering))
        _note(request, given)
        message = {"role": "assistant", "content": _content(given)}
        choices = [{"index": 0, "message": message, "finish_reason": given.finish}]
        document = {**head, "object": "chat.completion", "choices": choices, "usage": _usage(await _counted(talk, given)), "blyan": given.document()}
        return Response(msgspec.json.encode(document), media_type="application/json")
    flow = _Flow(answering)
    places.push_async_callback(flow.aclose)
    try:
        async with problems_of_answers():
            # What fails before its first word is a problem, with its status.
            first = await unless_gone(request, flow.next())
    except BaseException:
        await places.aclose()
        raise
    usage = asked.stream_options is not None and asked.stream_options.include_usage
    return HeldResponse(_chunks(request, talk, flow, first, head, usage=usage), places.aclose, media_type="text/event-stream", headers=UNBUFFERED)


@router.get("/v1/models", summary="Who may answer", dependencies=[needs(Scope.READ)], responses=responses(UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED))
async def listed(request: Request) -> ModelsModel:
    """The language model that is configured, and the planner, which needs none."""
    return ModelsModel(
        object="list",
        data=[
            ListedModel(id=name, object="model", created=0, owned_by="blyan" if name == MODEL else "configured")
            for name in models(service_of(request))
        ],
    )


UNBUFFERED = {"cache-control": "no-store", "x-accel-buffering": "no"}


def models(service: Service) -> list[str]:
    """Who may answer; the first does where none is named."""
    return [*([service.model.name] if service.model else []), MODEL]


@asynccontextmanager
async def problems_of_answers() -> AsyncIterator[None]:
    """Turn what a question raises into problems."""
    try:
        async with problems_of_sql():
            yield
    except ModelUnreachableError as error:
        raise OverloadedError(UNAVAILABLE, error.what, remedy=f"{error.remedy}, or ask the model {MODEL}", retry_after_s=2.0) from error
    except ModelAnswerError as error:
        raise OverloadedError(
            UNAVAILABLE, error.what, remedy=f"ask the model {MODEL}; the operator has to look: {error.remedy}", retry_after_s=60.0
        ) from error
    except ToolError as error:
        raise RequestError(QUERY_REFUSED, error.what, remedy=error.remedy) from error


def _answering(request: Request, caller: Principal, model: str | None, talk: list[Message], window: Window, **options: Any) -> Answering:
    """What answers, given where its words go.

    Raises:
        RequestError: there is no such model.
    """
    service = service_of(request)
    known = models(service)
    name = known[0] if model is None else model
    if name not in known:
        what = f"there is no model {name}{nearest(name, known)}"
        raise RequestError(NOT_FOUND, what, remedy="GET /v1/models lists them", details=[("body.model", what)])
    asked_of(request.scope).question = talk[-1].text
    tools = service.tools(caller)
    if name == MODEL:
        return lambda say: ask_planner(tools, service.searcher.registry, talk[-1].text, say, window=window)
    assert service.model is not None
    chosen = service.model
    return lambda say: ask_model(chosen, tools, talk, say, window=window, data_bytes=service.settings.chat_data_bytes, **options)


def _window(first: int | None, last: int | None) -> Window:
    if first is not None and last is not None and first > last:
        raise RequestError(INVALID, "first_slot is after last_slot", remedy="exchange them", details=[("body.first_slot", "it is after last_slot")])
    return Window(first, last)


@asynccontextmanager
async def _at_work(request: Request, caller: Principal) -> AsyncIterator[None]:
    """One of the questions that a caller may have at once.

    Raises:
        OverloadedError: it has as many.
    """
    async with service_of(request).rates.at_work(f"ask:{caller.id}", caller.limits.concurrency):
        yield


async def _answered(answering: Answering) -> Given:
    async def unheard(_: str) -> None:
        return

    return await answering(unheard)


def _note(request: Request, given: Given) -> None:
    """For the audit log."""
    asked = asked_of(request.scope)
    asked.sql, asked.rows = given.sql, len(given.rows)


def _content(given: Given) -> str:
    if given.answer is not None:
        return given.answer
    return "\n- ".join([f"No answer: {given.why}" + (" It could be asked:" if given.instead else ""), *given.instead])


async def _counted(talk: list[Message], given: Given) -> Usage | None:
    """Tokens: as the model's server counts them, or in word pieces where there is no model; None where their package is not installed."""
    if given.by != PLANNER:
        return given.usage
    try:
        return Usage(*[await asyncio.to_thread(count_tokens, text) for text in (talk[-1].text, _content(given))])
    except SettingError:
        return None


def _usage(usage: Usage | None) -> dict[str, int] | None:
    if usage is None:
        return None
    return {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "total_tokens": usage.prompt + usage.completion}


class _Flow:
    """The words of an answer as they come, then the answer."""

    def __init__(self, answering: Answering) -> None:
        self._waiting: asyncio.Queue[str] = asyncio.Queue(QUEUED)
        self._task = asyncio.create_task(self._work(answering))

    async def _work(self, answering: Answering) -> Given:
        async with problems_of_answers():
            return await answering(self._waiting.put)

    async def next(self) -> str | Given:
        """The next piece.

        Raises:
            BlyanError: the answer ended with it.
        """
        if self._waiting.empty() and not self._task.done():
            piece = asyncio.ensure_future(self._waiting.get())
            waiting: set[asyncio.Future[Any]] = {piece, self._task}
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if piece.done():
                    return piece.result()
            finally:
                piece.cancel()
        # Words that came before the end come before it.
        return self._task.result() if self._waiting.empty() else self._waiting.get_nowait()

    async def aclose(self) -> None:
        """End the work."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _chunks(
    request: Request, talk: list[Message], flow: _Flow, first: str | Given, head: dict[str, Any], *, usage: bool
) -> AsyncIterator[bytes]:
    """The events of a stream. A client that goes away is noticed while the model thinks, too."""
    more: dict[str, Any] = {"usage": None} if usage else {}

    def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event({**head, "object": "chat.completion.chunk", "choices": [choice], **more, **fields})

    yield chunk({"role": "assistant", "content": ""})
    gone = asyncio.ensure_future(client_gone(request))
    piece = first
    try:
        while isinstance(piece, str):
            yield chunk({"content": piece})
            following = asyncio.ensure_future(flow.next())
            await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                return
            piece = following.result()
    except BlyanError as error:
        told = asked_of(request.scope).told = told_of(error)
        problem = json.loads(told.document(path=request.url.path, request_id=asked_of(request.scope).id))
        yield _event({"error": {"message": f"{told.detail}. {told.remedy}", "code": told.kind.slug, **problem}})
        return
    finally:
        gone.cancel()
    _note(request, piece)
    if piece.answer is None:
        yield chunk({"content": _content(piece)})
    yield chunk({}, piece.finish, blyan=piece.document())
    if usage:
        yield _event({**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(await _counted(talk, piece))})
    yield b"data: [DONE]\n\n"


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"
