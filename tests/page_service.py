"""The service in this process, some of whose answers are made up: what the page is shown in its tests.

Belongs here: serving it, and answers that no lake gives: those of an attacker, and one without an end. Does not belong here: the browser,
assertions.

All else is the service itself, over the lake that a test gives.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from blyan.api.app import create
from blyan.settings import Settings

WAIT_S = 60.0

SIGNATURE = "5" * 88

ATTACKS = (
    "<script>window.caught = 'script'</script>",
    "<img src=x onerror=\"window.caught = 'image'\">",
    "<svg onload=\"window.caught = 'svg'\"></svg>",
    "javascript:window.caught='link'",
    '"><iframe srcdoc="<script>parent.caught=\'frame\'</script>"></iframe>',
    "'; window.caught = 'quote'; //",
    "${window.caught = 'template'}{{window.caught}}",
    "[click me](javascript:window.caught='markdown')",
    "<a href=\"javascript:window.caught='anchor'\">free tokens</a>",
    "<style>body { display: none }</style>",
    "\u202egnp.exe\u202c and \u2066hidden\u2069 \u200bspace",
    ']]><!--<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(1)&gt;">',
)
"""What a memo, the name of a token or a log line may hold."""


ATTACKED, REFUSED, ENDLESS = "attacks", "refused attacks", "for ever"
"""What is asked for to get a made-up answer."""


@dataclass
class Served:
    """A running service.

    Attributes:
        left: how many streams without an end their readers left.
    """

    url: str
    left: int = 0


def hit(number: int, text: str) -> dict[str, Any]:
    """A hit as the search gives it, of which all that can be is a text; the first is long."""
    return {
        "scope": "transaction", "slot": 40 + number, "last_slot": 40 + number, "tx_index": number, "signature": SIGNATURE, "subject": None,
        "time": "2025-03-01T00:00:16Z", "kind": text, "status": "Success", "text": text if number else text + " and more" * 100, "programs": [],
        "flags": [text], "score": 0.0325 - number / 1000, "cosine": 0.71, "bm25": 4.2, "words": [text], "alike": 3, "met": [text],
    }  # fmt: skip


class MadeUp:
    """The service, with some questions answered here.

    Args:
        app: the service.
        served: told who left.
    """

    def __init__(self, app: Any, served: Served) -> None:
        self._app, self._served = app, served

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope.get("path") not in ("/v1/search", "/v1/chat/completions"):
            await self._app(scope, receive, send)
            return
        content = await Request(scope, receive).body()
        asked = json.loads(content)
        question = asked["query"] if "query" in asked else asked["messages"][-1]["content"]
        if question not in (ATTACKED, REFUSED, ENDLESS):
            given = iter([{"type": "http.request", "body": content, "more_body": False}])

            async def again() -> Any:
                return next(given, None) or await receive()

            await self._app(scope, again, send)
            return
        response: Response = self._found() if "query" in asked else StreamingResponse(self._chunks(question), media_type="text/event-stream")
        await response(scope, receive, send)

    def _found(self) -> Response:
        hits = [hit(number, text) for number, text in enumerate(ATTACKS)]
        searched = {"documents": 1234, "passing": 56, "ranges": 3, "first_slot": 0, "last_slot": 49, "model": "minilm"}
        return JSONResponse({"hits": hits, "understood": ATTACKS, "unmet": ATTACKS, "mode": "hybrid", "searched": searched, "reading": None})

    async def _chunks(self, question: str) -> AsyncIterator[str]:
        def chunk(content: str, **others: Any) -> str:
            return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [{'index': 0, 'delta': {'content': content}}]} | others)}\n\n"

        try:
            while question == ENDLESS:
                yield chunk("and so on ")
                await asyncio.sleep(0.02)
        finally:
            self._served.left += question == ENDLESS
        for text in ATTACKS:
            yield chunk(text + "\n")
        cited = [{"slot": 41, "signature": text, "table": text} for text in ATTACKS]
        known = {"sql": ATTACKS[1], "params": [], "citations": cited, "by": ATTACKS[2], "unsupported": ATTACKS, "reading": None}
        refused = {"why": ATTACKS[0], "instead": ATTACKS} if question == REFUSED else {}
        yield chunk("", blyan={**known, **refused, "abstained": question == REFUSED})
        yield "data: [DONE]\n\n"


@contextmanager
def page_service(settings: Settings) -> Iterator[Served]:
    """The service at a free port, in a thread."""
    served = Served("")
    server = uvicorn.Server(uvicorn.Config(MadeUp(create(settings), served), port=0, log_config=None, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        ends = time.monotonic() + WAIT_S
        while not server.started:
            assert thread.is_alive(), "it did not start"
            assert time.monotonic() < ends, "it did not start in time"
            time.sleep(0.02)
        served.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield served
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
