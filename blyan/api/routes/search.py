"""Search over the documents of the lake, and the vectors that it searches by.

Belongs here: bodies, models, and which problem an error is. Does not belong here: searching (`blyan.query.searcher`).
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from blyan.api.callers import Principal, Scope
from blyan.api.envelope import asked_of
from blyan.api.problems import (
    CANCELLED,
    FORBIDDEN,
    INVALID,
    NOT_FOUND,
    RATE_LIMITED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    OverloadedError,
    RequestError,
    responses,
)
from blyan.api.service import known_parameters, needs, service_of
from blyan.query.records import Stop
from blyan.query.search import PER_TEMPLATE, Mode
from blyan.query.searcher import LAST_SLOT, AskedError, Embedded, SearchUnavailableError, UnknownModelError

router = APIRouter(tags=["search"], dependencies=[Depends(known_parameters)])

ERRORS = (UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, CANCELLED)

MOST_CHARACTERS = 2_000
"""Of a question; the model reads 256 tokens of it."""

MOST_HITS, MOST_VALUES, MOST_TEXTS = 100, 100, 256

UNAVAILABLE_S = 60.0
"""Seconds after which it may be asked whether there is an index or a model now."""

Reader = Annotated[Principal, needs(Scope.READ)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Names = Annotated[list[Name], Field(max_length=MOST_VALUES)]

EXAMPLE: dict[str, Any] = {"query": "failed swaps on Raydium", "filters": {"first_slot": 0, "last_slot": 99, "statuses": ["Fail"]}, "limit": 5}


def _listed(given: Any) -> Any:
    """One text as a list of one."""
    if isinstance(given, list) and given and not any(isinstance(each, str) for each in given):
        raise PydanticCustomError("tokens", "numbers of tokens are not taken, since they mean nothing to another tokenizer: send the texts")
    return [given] if isinstance(given, str) else given


_TEXT = {"type": "string", "minLength": 1}

Texts = Annotated[
    list[Annotated[str, StringConstraints(min_length=1)]],
    Field(min_length=1, max_length=MOST_TEXTS),
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MOST_TEXTS}]}),
]


class FiltersModel(BaseModel):
    """What a hit must be. Everything that is given holds at once, before anything is ranked."""

    model_config = ConfigDict(extra="forbid")

    first_slot: int | None = Field(None, ge=0, le=LAST_SLOT, description="In this slot or later; a summary where its slots meet the bounds.")
    last_slot: int | None = Field(None, ge=0, le=LAST_SLOT, description="In this slot or earlier.")
    from_time: dt.datetime | None = Field(
        None,
        description="Of a block made at this time or later, RFC 3339; without an offset it is UTC. What has no time, as a summary, does not pass.",
    )
    to_time: dt.datetime | None = Field(None, description="Of a block made before this time.")
    programs: Names = Field([], description="Calls one of these programs, by account or by its name in the registry.", examples=[["Raydium AMM v4"]])
    accounts: Names = Field([], description="Mentions all of these accounts.")
    kinds: Names = Field([], description="Is one of these kinds.", examples=[["swap"]])
    statuses: Names = Field([], description="`Success`, `Fail`.", examples=[["Fail"]])
    scopes: Names = Field([], description="`transaction`, or a summary: `range`, `program`, `account`.", examples=[["transaction"]])
    error_classes: Names = Field([], description="Failed with one of these errors.", examples=[["InsufficientFunds"]])
    value_buckets: Names = Field([], description="Moved this much at most in one piece.", examples=[["SOL 1 to 10"]])
    flags: Names = Field([], description="Its memos have all of these oddities.", examples=[["instruction_like"]])
    is_vote: bool | None = Field(None, description="Whether it is a vote.")
    is_sandwich: bool | None = Field(None, description="Whether it is part of a sandwich.")
    signature: Name | None = Field(None, description="Is the transaction with this signature, base58.")


class SearchModel(BaseModel):
    """A search."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    query: str = Field(
        "",
        max_length=MOST_CHARACTERS,
        description="What to look for: a question in English, words, accounts, signatures. Empty: the newest that pass the filters.",
        examples=["failed swaps on Raydium over 100 dollars"],
    )
    mode: Mode = Field("hybrid", description="By meaning (`vector`), by words (`text`), or by both, put together by reciprocal rank fusion.")
    filters: FiltersModel = Field(default_factory=FiltersModel, description="What a hit must be.")
    limit: int = Field(10, ge=1, le=MOST_HITS, description="Hits at most.")
    per_template: int = Field(
        PER_TEMPLATE, ge=1, le=MOST_HITS, description="Hits at most that differ in nothing but amounts; the others are counted."
    )
    understand: bool = Field(
        True, description="Read the question for outcomes, programs, amounts and the like, and put what meets them first. Else it is words alone."
    )


class HitModel(BaseModel):
    """A transaction or a summary that was found."""

    scope: str = Field(description="`transaction`, or of a summary `range`, `program` or `account`.", examples=["transaction"])
    slot: int = Field(description="Its slot, or a summary's first.", examples=[5])
    last_slot: int = Field(description="The same slot, or a summary's last.", examples=[5])
    tx_index: int | None = Field(description="Its position in the block. Null of a summary.", examples=[3])
    signature: str | None = Field(description="Its signature. Null of a summary.")
    subject: str | None = Field(description="The account that a summary is of. Null of a transaction.")
    time: dt.datetime | None = Field(description="When its block was made. Null of a summary, or where the block does not say.")
    kind: str | None = Field(description="What it is. Null of a summary.", examples=["swap"])
    status: str | None = Field(description="`Success` or `Fail`. Null of a summary.", examples=["Fail"])
    text: str = Field(description="What it did, in words. What anyone wrote into it is quoted: it is data.")
    programs: list[str] = Field(description="Accounts of the programs that it calls.")
    flags: list[str] = Field(description="What is odd about its memos.")
    score: float = Field(description="What it was ranked by; comparable within one answer only.")
    cosine: float | None = Field(description="Likeness in meaning, -1 to 1. Null where that was not looked at, or found others first.")
    bm25: float | None = Field(description="How well its words match. Null likewise.")
    words: list[str] = Field(description="Words of the question that it has.")
    alike: int = Field(description="How many that pass the filters differ from it in nothing but amounts, itself included.")
    met: list[str] = Field(description="What was understood of the question, and is true of it.")


class SearchedModel(BaseModel):
    """What was looked through."""

    documents: int = Field(description="Transactions and summaries in the index.")
    passing: int = Field(description="Of them, those that pass the filters.")
    ranges: int = Field(description="Ranges of slots in the index.")
    first_slot: int | None = Field(description="The first slot of them.")
    last_slot: int | None = Field(description="The last slot of them.")
    model: str = Field(description="Digest of the model of the vectors.")


class SearchReadingModel(BaseModel):
    """What an answer was read from, and how far that is behind."""

    index: str = Field(description="The index.")
    index_version: int = Field(description="Its version: each range that is written makes one.")
    digest: str = Field(description="SHA-256 of all that hits depend on besides the search: the same digest and search, the same hits.")
    versions: dict[str, int | None] = Field(description="Version of each table when it was last compared with the index, seconds ago at most.")
    ranges_behind: int = Field(description="Ranges of slots of which the index has not what the tables have: not yet, or as they were.")
    up_to_slot: int | None = Field(description="Newest slot that could be in the answer.")
    finality: str | None = Field(description="How sure that slot is: only what is `finalized` is indexed.")
    finalized_to: int | None = Field(description="Every slot up to it is final.")
    behind_slots: int | None = Field(description="Slots that the node had announced beyond. Null where nobody follows.")
    behind_ms: int | None = Field(description="The same as a time, at 400 ms a slot, and the age of what is known.")
    generation: int | None = Field(description="Generation of the landing, the unsealed tail. Null where nothing is followed.")


class FoundModel(BaseModel):
    """The hits, the best first."""

    hits: list[HitModel] = Field(description="Transactions and summaries, the best first.")
    understood: list[str] = Field(description="What was understood of the question.", examples=[["status = Fail", "kind = swap"]])
    unmet: list[str] = Field(description="Of that, what is true of no hit: nothing that was found is what it asks for.")
    mode: str = Field(description="How was looked: `newest` where there was nothing to rank by.")
    searched: SearchedModel = Field(description="What the hits were looked for in.")
    reading: SearchReadingModel = Field(description="What it was read from.")


class EmbeddingsModel(BaseModel):
    """Texts to embed, as OpenAI's API has it."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"input": "failed swaps on Raydium", "model": "all-MiniLM-L6-v2-int8"}]}
    )

    input: Texts = Field(description="A text, or up to 256. Numbers of tokens are not taken.", examples=["failed swaps on Raydium"])
    model: str = Field(description="The model's name; another than this service's is refused.", max_length=200, examples=["all-MiniLM-L6-v2-int8"])
    encoding_format: Literal["float", "base64"] = Field("float", description="Numbers, or base64 of little-endian float32.")
    dimensions: int | None = Field(None, ge=1, description="Components of a vector: only as many as the model gives.")
    user: str | None = Field(None, max_length=200, description="Not heeded: the key says who asks.")


class EmbeddingModel(BaseModel):
    """One vector."""

    object: Literal["embedding"] = Field(description="`embedding`.")
    index: int = Field(description="Which text it is of.")
    embedding: list[float] | str = Field(description="Its components, a vector of length 1; or their bytes as base64.")


class UsageModel(BaseModel):
    """What was read."""

    prompt_tokens: int | None = Field(description="Tokens that the model read, its own marks included. Null where it does not tell.")
    total_tokens: int | None = Field(description="The same.")
    truncated_texts: int | None = Field(description="Texts of which only the beginning was read. Null where the model does not tell.")


class EmbeddedModel(BaseModel):
    """Vectors, as OpenAI's API has it."""

    object: Literal["list"] = Field(description="`list`.")
    data: list[EmbeddingModel] = Field(description="A vector for each text, in their order.")
    model: str = Field(description="The model's name.", examples=["all-MiniLM-L6-v2-int8"])
    usage: UsageModel = Field(description="What the model read of the texts.")


@router.post("/v1/search", summary="Find transactions by what they say", response_model=FoundModel, responses=responses(*ERRORS))
async def search(request: Request, asked: SearchModel, caller: Reader) -> Response:
    """Transactions and summaries by meaning, by words, or by both, within filters. Every hit has its slot and, of a transaction, its signature.

    Documents that differ in nothing but amounts count as one, of which `per_template` are shown. `understood` says what of the question
    decided, `unmet` what nothing meets. `reading` says how far the index is behind the tables and the tip.
    """
    service = service_of(request)
    asked_of(request.scope).search = asked.model_dump_json(exclude_defaults=True)
    options = {"limit": asked.limit, "per_template": asked.per_template, "understand": asked.understand}
    with problems_of_search():
        found = await service.search(request, caller, asked.query, asked.mode, asked.filters.model_dump(), **options)
    asked_of(request.scope).rows = len(found.answer.hits)
    return Response(msgspec.json.encode(found.document()), media_type="application/json")


@router.post("/v1/embeddings", summary="Vectors of texts", response_model=EmbeddedModel, responses=responses(NOT_FOUND, *ERRORS))
async def embeddings(request: Request, asked: EmbeddingsModel, caller: Reader) -> Response:
    """The vectors that the search compares, in the form of OpenAI's API: give its base as `…/v1` to any client of that."""
    service, stop = service_of(request), Stop()
    with problems_of_search():
        work = partial(service.searcher.embed, asked.input, model=asked.model, dimension=asked.dimensions, stop=stop)
        made = await service.searches.run(request, caller, work, stop)
    asked_of(request.scope).rows = len(asked.input)
    return Response(msgspec.json.encode(_embedded(made, asked.encoding_format)), media_type="application/json")


@contextmanager
def problems_of_search() -> Iterator[None]:
    """Turn what a search raises into problems. Its words name fields, models and programs, and no path."""
    try:
        yield
    except UnknownModelError as error:
        raise RequestError(NOT_FOUND, error.what, remedy=error.remedy, details=[(f"body.{error.where}", error.what)]) from error
    except AskedError as error:
        raise RequestError(INVALID, error.what, remedy=error.remedy, details=[(f"body.{error.where}", error.what)]) from error
    except SearchUnavailableError as error:
        raise OverloadedError(UNAVAILABLE, error.what, remedy=error.remedy, retry_after_s=UNAVAILABLE_S) from error


def _embedded(made: Embedded, form: str) -> dict[str, Any]:
    rows = made.vectors.astype("<f4")
    told = (row.tolist() for row in rows) if form == "float" else (base64.b64encode(row.tobytes()).decode() for row in rows)
    read, truncated = (made.tokens.read, made.tokens.truncated) if made.tokens else (None, None)
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(told)],
        "model": made.model,
        "usage": {"prompt_tokens": read, "total_tokens": read, "truncated_texts": truncated},
    }
