"""Whether the process lives, whether it can answer, and what it has done.

Belongs here: /healthz, /readyz, /metrics. Does not belong here: what is measured (`blyan.api.telemetry`).
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field
from starlette.requests import Request

from blyan.api.problems import UNAVAILABLE, OverloadedError, responses
from blyan.api.service import Service, known_parameters, service_of
from blyan.api.telemetry import versions
from blyan.errors import BlyanError
from blyan.query.records import Question, Stop
from blyan.schemas import BLOCKS

router = APIRouter(tags=["health"], dependencies=[Depends(known_parameters)])

READY_S = 5.0
"""Seconds for the lake to answer a small question."""


class Health(BaseModel):
    """The process lives."""

    status: str = Field(description="`ok`.", examples=["ok"])
    versions: dict[str, str] = Field(description="Versions of what answers depend on.", examples=[{"blyan": "0.1.0", "duckdb": "2.0.0"}])


class Readiness(BaseModel):
    """It can answer."""

    status: str = Field(description="`ready`.", examples=["ready"])
    up_to_slot: int | None = Field(description="The newest slot that the lake has. Null: it is reachable and empty.", examples=[299])
    rates: str = Field(description="Where rates are counted: `process`, `redis`, or why not there.", examples=["process"])
    sql: str = Field(description="Whether SQL is answered: `ready`, `starting` or `failed`.", examples=["ready"])
    took_ms: float = Field(description="Milliseconds that a small question took.", examples=[8.1])


@router.get("/healthz", summary="Whether the process lives", responses=responses())
async def healthz() -> Health:
    """Answers as long as the process does anything at all; it looks at nothing else."""
    return Health(status="ok", versions=versions())


@router.get("/readyz", summary="Whether it can answer", responses=responses())
async def readyz(service: Annotated[Service, Depends(service_of)]) -> Readiness:
    """The lake is reachable and a query works: this makes a small one. 503 says why not."""
    if service.ending.is_set():
        raise OverloadedError(UNAVAILABLE, "the service is ending", remedy="ask another replica", retry_after_s=1)
    began, stop = time.perf_counter(), Stop()
    look = asyncio.get_running_loop().run_in_executor(None, lambda: service.records.page(Question(BLOCKS, descending=True), rows=1, stop=stop))
    try:
        async with asyncio.timeout(READY_S):
            page = await look
    except TimeoutError as error:
        stop()
        raise OverloadedError(UNAVAILABLE, f"the lake did not answer within {READY_S:g} s", remedy="see the log", retry_after_s=READY_S) from error
    except BlyanError as error:
        raise OverloadedError(UNAVAILABLE, f"the lake cannot be read: {type(error).__name__}", remedy="see the log", retry_after_s=READY_S) from error
    took_ms = round((time.perf_counter() - began) * 1e3, 1)
    return Readiness(status="ready", up_to_slot=page.reading.up_to_slot, rates=service.rates.state, sql=service.sql_state, took_ms=took_ms)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    responses={200: {"content": {"text/plain": {"example": "blyan_http_requests_total 1.0"}}}, **responses()},
    response_class=Response,
)
async def metrics(request: Request) -> Response:
    """Requests, latencies, what is in flight, live clients, and versions; of all workers together."""
    service = service_of(request)
    text, kind = service.metrics.rendered()
    return Response(text, media_type=kind)
