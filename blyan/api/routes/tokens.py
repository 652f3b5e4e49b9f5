"""Short-lived tokens.

Belongs here: POST /v1/tokens, and who one is. Does not belong here: signing (`blyan.api.tokens`).
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from blyan.api.callers import LIMITS, Principal, Role, Scope
from blyan.api.problems import FORBIDDEN, RATE_LIMITED, UNAUTHENTICATED, RequestError, responses
from blyan.api.service import known_parameters, needs, service_of
from blyan.api.tokens import LONGEST_S

router = APIRouter(tags=["callers"], dependencies=[Depends(known_parameters)])


class TokenRequest(BaseModel):
    """What a token is to be."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"scopes": ["read"], "expires_in": 300}]})

    scopes: list[Scope] | None = Field(None, description="Rights that it keeps, of those that the key has. Unset: all of them.")
    expires_in: int = Field(600, ge=1, le=LONGEST_S, description="Seconds for which it counts.")


class TokenModel(BaseModel):
    """A token."""

    token: str = Field(description="Send it as `Authorization: Bearer`.", examples=["eyJhbGciOiJIUzI1NiJ9…"])
    expires: dt.datetime = Field(description="When it ends; never after its key.")
    scopes: list[Scope] = Field(description="What it may.", examples=[["read"]])


class CallerModel(BaseModel):
    """Who asks, and what they may."""

    id: str = Field(description="The caller; requests with the same one share a budget.", examples=["key:k3n8q2w7xz"])
    name: str = Field(description="What its owner calls it.", examples=["dashboard"])
    role: Role = Field(description="Decides the limits.")
    scopes: list[Scope] = Field(description="What it may.")
    via: str = Field(description="How it was told: `key`, `token` or `anonymous`.", examples=["key"])
    page_rows: int = Field(description="Rows of one page of REST.", examples=[LIMITS[Role.ANALYST].page_rows])
    result_rows: int = Field(description="Rows of one answer to SQL.", examples=[LIMITS[Role.ANALYST].result_rows])
    seconds: float = Field(description="Seconds that one query may run.", examples=[LIMITS[Role.ANALYST].seconds])
    requests_per_s: float = Field(description="Requests a second, in the long run.", examples=[LIMITS[Role.ANALYST].requests_per_s])


@router.post("/v1/tokens", summary="Make a short-lived token from a key", responses=responses(UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED))
async def make_token(request: Request, wanted: TokenRequest, caller: Annotated[Principal, needs(Scope.READ)]) -> TokenModel:
    """For a program that is not to have the key: a page in a browser, a job. It can have fewer rights than the key, and never more."""
    if caller.via != "key":
        raise RequestError(FORBIDDEN, "a token is made from a key", remedy="ask with the key itself")
    scopes = caller.scopes if wanted.scopes is None else frozenset(wanted.scopes)
    if more := sorted(scopes - caller.scopes):
        raise RequestError(FORBIDDEN, f"the key itself has no scope {', '.join(more)}", remedy=f"choose from {', '.join(sorted(caller.scopes))}")
    token, expires = service_of(request).tokens.sign(caller, scopes, wanted.expires_in)
    return TokenModel(token=token, expires=dt.datetime.fromtimestamp(expires, dt.UTC), scopes=sorted(scopes))


@router.get("/v1/me", summary="Who asks, and what they may", responses=responses(UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED))
async def me(caller: Annotated[Principal, needs(Scope.READ)]) -> CallerModel:
    """Role, rights and limits of the key or token that was sent."""
    limits = caller.limits
    return CallerModel(
        id=caller.id,
        name=caller.name,
        role=caller.role,
        scopes=sorted(caller.scopes),
        via=caller.via,
        page_rows=limits.page_rows,
        result_rows=limits.result_rows,
        seconds=limits.seconds,
        requests_per_s=limits.requests_per_s,
    )
