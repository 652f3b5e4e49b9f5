"""The application: routes, errors and what surrounds them, made from the settings.

Belongs here: assembly. Does not belong here: routes (`blyan.api.routes`), starting processes (`blyan.api.serve`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, NoReturn

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from blyan.api.envelope import Envelope
from blyan.api.problems import INVALID, MALFORMED, METHOD_NOT_ALLOWED, NOT_FOUND, Problem, RequestError, nearest
from blyan.api.recall import Recalling
from blyan.api.routes import answers, graphql, health, live, mcp, page, records, search, sql, tables, tokens
from blyan.api.service import Service
from blyan.errors import BlyanError
from blyan.settings import Settings, load_settings

ABOUT = """Solana's history and its newest slots, from one lake.

Every answer says which version of its table it read, up to which slot, how sure that slot is, and how far behind the tip that is. Amounts
are strings, exact for every u64. An error is a problem document of RFC 9457 with what to do about it."""

EXPOSED = [
    "x-request-id",
    "ratelimit-limit",
    "ratelimit-remaining",
    "retry-after",
    "link",
    "blyan-reading",
    "blyan-truncated",
    "blyan-cursor",
    "cache-status",
    "etag",
]
"""Headers that pages in a browser may read."""

log = logging.getLogger("blyan.api")


def create(settings: Settings | None = None) -> FastAPI:
    """The application of one process.

    Raises:
        SettingError: a setting is wrong.
    """
    settings = settings or load_settings()
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        _end_with_the_process(service)
        await service.open()
        log.info("serving", extra={"lake": service.lake.root, "rates": service.rates.state, "anonymous": settings.serve_anonymous})
        yield
        await service.close()

    app = FastAPI(title="Blyan", version="1", description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    for routes in (health, tokens, tables, records, search, sql, answers, graphql, live, page):
        app.include_router(routes.router)
    app.router.routes.append(mcp.route())
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    if settings.serve_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.serve_cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "authorization",
                "content-type",
                "x-request-id",
                "cache-control",
                "if-none-match",
                "mcp-protocol-version",
                "mcp-method",
                "mcp-name",
            ],
            expose_headers=EXPOSED,
        )
    app.add_middleware(Recalling, service=service)
    app.add_middleware(Envelope, metrics=service.metrics, audit=service.audit, body_bytes=settings.serve_body_bytes)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _end_with_the_process(service: Service) -> None:
    """Let live streams end when the process is told to: uvicorn only waits for them."""
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        handle = signal.getsignal(number)

        def ended(number: int, frame: FrameType | None, handle: Any = handle) -> None:
            loop.call_soon_threadsafe(service.ending.set)
            if callable(handle):
                handle(number, frame)

        signal.signal(number, ended)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description, with the one schema of all errors."""
    if not app.openapi_schema:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"] |= {**problem.pop("$defs", {}), "Problem": problem}
        app.openapi_schema = schema
    return app.openapi_schema


async def _refuse_http(request: Request, error: Exception) -> NoReturn:
    """What the router itself refuses."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, BlyanError):  # of reading the body, which FastAPI takes for a fault of the body
        raise error.__cause__
    match error.status_code:
        case 404:
            raise RequestError(NOT_FOUND, f"nothing is served at {request.url.path}", remedy="GET /openapi.json describes what is")
        case 405:
            allowed = (error.headers or {}).get("Allow", "")
            raise RequestError(METHOD_NOT_ALLOWED, f"{request.method} is not served here", remedy=f"use {allowed}", headers={"allow": allowed})
    raise RequestError(MALFORMED, str(error.detail), remedy="send what GET /openapi.json describes")


async def _refuse_invalid(request: Request, error: Exception) -> NoReturn:
    """What does not fit the declaration of a parameter or of a body."""
    assert isinstance(error, RequestValidationError)
    faults = [(".".join(str(part) for part in fault["loc"]), _said(request, fault)) for fault in error.errors()]
    broken = next((fault for fault in error.errors() if fault["type"] == "json_invalid"), None)
    if broken:
        raise RequestError(
            MALFORMED, "the body is not JSON", remedy="send JSON", details=[("body", str(broken.get("ctx", {}).get("error", broken["msg"])))]
        )
    count = "1 parameter is" if len(faults) == 1 else f"{len(faults)} parameters are"
    raise RequestError(INVALID, f"{count} not valid", remedy="correct what `errors` names", details=faults)


def _said(request: Request, fault: dict[str, Any]) -> str:
    """What is wrong at a place; of a field that there is not, the nearest that there is."""
    if fault["type"] != "extra_forbidden":
        return str(fault["msg"])
    *path, name = fault["loc"][1:]
    body = getattr(request.scope.get("route"), "body_field", None)
    model = _model(body.field_info.annotation) if body is not None else None
    for part in path:
        model = _model(model.model_fields[part].annotation) if model is not None and part in model.model_fields else None
    return f"there is no field {name}{nearest(str(name), model.model_fields)}" if model is not None else str(fault["msg"])


def _model(kind: Any) -> type[BaseModel] | None:
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
