"""Problems: every error of the service as one document of RFC 9457, with its remedy.

Belongs here: the kinds of problem, and which kind an error is. Does not belong here: raising them.

What a caller reads of an error is chosen here: the words of a refused request are the caller's own business and are given; the words of
an error of the store, of a setting or of the code may name paths and addresses, and stay in the log beside the request's id.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from pydantic import BaseModel, Field

from blyan.errors import BlyanError, MissingObjectError, PermanentError, StoreFullError, TooCostlyError, TransientError
from blyan.query.position import Position

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER_S = 2
"""Seconds after which a caller may try again what may pass by itself."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: `urn:blyan:problem:<slug>`, which clients may tell apart, its title and HTTP status."""

    slug: str
    title: str
    status: int

    @property
    def uri(self) -> str:
        """The problem's `type`."""
        return f"urn:blyan:problem:{self.slug}"


MALFORMED = Kind("malformed", "The request cannot be read", 400)
QUERY_REFUSED = Kind("query-refused", "The query is not accepted", 400)
BAD_CURSOR = Kind("bad-cursor", "The cursor is of another question", 400)
UNAUTHENTICATED = Kind("unauthenticated", "Who asks is not known", 401)
FORBIDDEN = Kind("forbidden", "The caller may not do this", 403)
NOT_FOUND = Kind("not-found", "There is no such thing", 404)
METHOD_NOT_ALLOWED = Kind("method-not-allowed", "The method is not served here", 405)
NOT_ACCEPTABLE = Kind("not-acceptable", "No such format", 406)
GONE = Kind("snapshot-gone", "What the cursor was pinned to is gone", 410)
TOO_LARGE = Kind("too-large", "The request is too large", 413)
INVALID = Kind("invalid", "A parameter is not valid", 422)
RATE_LIMITED = Kind("rate-limited", "Too many requests", 429)
CANCELLED = Kind("over-time", "The query took longer than the caller may", 422)
TOO_COSTLY = Kind("too-costly", "The query needs more than the caller may have", 422)
INTERNAL = Kind("internal", "The service failed", 500)
UNAVAILABLE = Kind("unavailable", "The service cannot answer now", 503)
STORE_FULL = Kind("store-full", "The service has no space left", 507)

CLIENT_GONE = Kind("client-gone", "The client went away", 499)
"""Told to nobody, and written down."""

KINDS = (
    MALFORMED,
    QUERY_REFUSED,
    BAD_CURSOR,
    UNAUTHENTICATED,
    FORBIDDEN,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    NOT_ACCEPTABLE,
    GONE,
    TOO_LARGE,
    INVALID,
    RATE_LIMITED,
    CANCELLED,
    TOO_COSTLY,
    INTERNAL,
    UNAVAILABLE,
    STORE_FULL,
)
"""Every kind there is."""


class RequestError(PermanentError):
    """The request is at fault: its words are meant for the caller.

    Args:
        kind: of problem.
        what: what is wrong.
        remedy: what to do about it.
        details: (where in the request, what is wrong there), of each fault.
        headers: of the response.
        position: of what is wrong in a statement.
    """

    def __init__(
        self,
        kind: Kind,
        what: str,
        *,
        remedy: str = "",
        details: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        position: Position | None = None,
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.kind, self.details, self.headers, self.position = kind, tuple(details), dict(headers or {}), position


class OverloadedError(TransientError):
    """The request may be made again later: a rate is used up, or too much is at work."""

    def __init__(self, kind: Kind, what: str, *, remedy: str, retry_after_s: float, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.kind, self.retry_after_s, self.headers = kind, retry_after_s, dict(headers or {})


class Fault(BaseModel):
    """One fault of a request."""

    where: str = Field(description="Where in the request: `query.limit`, `body.sql`.", examples=["query.limit"])
    what: str = Field(description="What is wrong there.", examples=["Input should be less than or equal to 1000"])


class Place(BaseModel):
    """A place in a statement."""

    line: int = Field(description="From 1.", examples=[1])
    column: int = Field(description="From 1, in characters.", examples=[8])


class Problem(BaseModel):
    """An error, as RFC 9457 has it (`application/problem+json`)."""

    type: str = Field(description="The kind of problem, a URN that does not change.", examples=[INVALID.uri])
    title: str = Field(description="The kind in words.", examples=[INVALID.title])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="What happened this time.", examples=["1 parameter is not valid"])
    remedy: str = Field(description="What to do about it. Empty where there is nothing to say.", examples=["correct it and ask again"])
    instance: str = Field(description="The path that was asked for.", examples=["/v1/rewards"])
    request_id: str = Field(description="The request, as in the service's log.", examples=["0193f2a4c1d27b3a"])
    errors: list[Fault] = Field(default=[], description="Each fault, where there are several or a place to name.")
    position: Place | None = Field(default=None, description="What is wrong in a SQL statement, where that is known. Else it is left out.")


class ClientGoneError(TransientError):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller is told of an error."""

    kind: Kind
    detail: str
    remedy: str
    details: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] | None = None
    position: Position | None = None

    def document(self, *, path: str, request_id: str) -> bytes:
        """The problem document."""
        problem: dict[str, Any] = {
            "type": self.kind.uri,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "remedy": self.remedy,
            "instance": path,
            "request_id": request_id,
            "errors": [{"where": where, "what": what} for where, what in self.details],
        }
        if self.position is not None:
            problem["position"] = self.position
        return msgspec.json.encode(problem)


def told_of(error: BaseException) -> Told:
    """The kind of an error, and those of its words that are the caller's business."""
    again = {"retry-after": str(RETRY_AFTER_S)}
    match error:
        case RequestError():
            return Told(error.kind, error.what, error.remedy, error.details, error.headers, error.position)
        case OverloadedError():
            return Told(error.kind, error.what, error.remedy, (), {"retry-after": str(max(1, round(error.retry_after_s + 0.5))), **error.headers})
        case ClientGoneError():
            return Told(CLIENT_GONE, error.what, error.remedy)
        case StoreFullError():
            return Told(STORE_FULL, "there is no space for it", "ask again later; the operator has to free space", (), again)
        case TransientError():
            return Told(UNAVAILABLE, "something that the service needs did not answer", "ask again", (), again)
        case MissingObjectError():
            return Told(UNAVAILABLE, "something that the tables name is not in the store", "ask the operator, with the request's id", (), again)
        case TooCostlyError():
            return Told(QUERY_REFUSED, "it would cost more than is allowed", "ask for less")
        case BlyanError():
            return Told(INTERNAL, "the service could not do it", "ask the operator, with the request's id")
    return Told(INTERNAL, "the service failed in a way that it does not know", "ask the operator, with the request's id")


def nearest(name: str, names: Iterable[str]) -> str:
    """The nearest of some names in words, ` (did you mean limit?)`; nothing where none is near."""
    found = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {found[0]}?)" if found else ""


def responses(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """The errors of an operation for its OpenAPI description, those that every operation has included."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in (*kinds, MALFORMED, INVALID, TOO_LARGE, INTERNAL, UNAVAILABLE):
        example = {
            "type": kind.uri,
            "title": kind.title,
            "status": kind.status,
            "detail": kind.title,
            "remedy": "",
            "instance": "/v1/…",
            "request_id": "0193f2a4c1d27b3a",
            "errors": [],
        }
        entry = found.setdefault(
            kind.status, {"description": "", "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}}}
        )
        examples = entry["content"][MEDIA_TYPE]["examples"]
        if kind.slug not in examples:
            entry["description"] = "; ".join(filter(None, [entry["description"], f"{kind.title} (`{kind.uri}`)"]))
            examples[kind.slug] = {"value": example}
    return found
