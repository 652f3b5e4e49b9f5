"""`/mcp`: the tools for agents, over the streamable HTTP of the Model Context Protocol.

Belongs here: who may ask, and that nobody waits for the protocol's packages who does not use them. Does not belong here: the protocol
(`blyan.api.agents`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.routing import Route

from blyan.api.callers import Principal, Scope
from blyan.api.envelope import Message, Receive, Send, asked_of
from blyan.api.service import Service, service_of
from blyan.query.tools import Toolbox

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

PATH = "/mcp"

CALLER = "blyan.caller"
"""Where a request's scope has its caller."""


class Endpoint:
    """The ASGI application of the path. Its packages are imported with the first request: they take a second."""

    path = PATH
    """What requests are counted under, as routes have it."""

    def __init__(self) -> None:
        self._opening: asyncio.Task[StreamableHTTPSessionManager] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            RequestError: who asks is not known, or may not.
        """
        scope["route"] = self
        request = Request(scope, receive)
        service = service_of(request)
        kind, _, credentials = request.headers.get("authorization", "").partition(" ")
        caller = await service.identify(request, credentials.strip() if kind.lower() == "bearer" and credentials.strip() else None)
        caller.require(Scope.READ)
        scope["state"][CALLER] = caller
        if self._opening is None:
            self._opening = asyncio.create_task(_open(service))
        manager = await asyncio.shield(self._opening)
        await manager.handle_request(scope, receive, send)


def route() -> Route:
    """The route."""
    return Route(PATH, Endpoint())


async def _open(service: Service) -> StreamableHTTPSessionManager:
    """Start what answers; it ends with the service."""
    agents = await asyncio.to_thread(__import__, "blyan.api.agents", fromlist=["agents"])
    manager: StreamableHTTPSessionManager = agents.manager(agents.server(_asking), service.settings)
    started = asyncio.get_running_loop().create_future()

    async def keep() -> None:
        # A group of tasks is left by the task that entered it.
        async with manager.run():
            started.set_result(None)
            await service.closing.wait()

    service.keep(keep())
    await started
    return manager


def _asking(context: Any, tool: str, arguments: dict[str, Any]) -> Toolbox:
    """The tools of who makes a request.

    Raises:
        RequestError: they may not use this one.
    """
    request: Request = context.request
    caller: Principal = request.scope["state"][CALLER]
    asked = asked_of(request.scope)
    if tool == "sql":
        caller.require(Scope.SQL)
        asked.sql = str(arguments.get("sql", ""))
    else:
        asked.question = f"{tool} {arguments}"
    return service_of(request).tools(caller)
