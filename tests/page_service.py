"""The service in this process, with search and answers made up: what the page is shown in its tests.

Belongs here: serving it, and answers whose every word a test knows. Does not belong here: the browser, assertions.

All else is the service itself. The made-up answers have the shapes of `POST /v1/search` and `POST /v1/chat/completions`, and hold what
strangers may have written on the chain.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass
class Served:
    """A running service.

    Attributes:
        asked: bodies of what was asked of the made-up routes, by path.
        left: how many streams their readers left before the end.
    """

    url: str
    asked: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left: int = 0


def hit(number: int, text: str, **others: Any) -> dict[str, Any]:
    """A hit as the search gives it."""
    made = {
        "scope": "transaction", "slot": 40 + number, "last_slot": 40 + number, "tx_index": number, "signature": SIGNATURE, "subject": None,
        "time": "2025-03-01T00:00:16Z", "kind": "swap", "status": "Success", "text": text, "programs": [], "flags": ["is_sandwich"],
        "score": 0.0325 - number / 1000, "cosine": 0.71, "bm25": 4.2, "words": ["swap"], "alike": 3, "met": ["kind is swap"],
    }  # fmt: skip
    return made | others


READING = {
    "versions": {"corpus/documents": 4}, "up_to_slot": 49, "finality": "confirmed", "finalized_to": 44, "behind_slots": 2, "behind_ms": 900, "generation": 3,
}  # fmt: skip

SQL = "select count(*) as failed from solana.transactions where status = $1 and block_slot between $2 and $3"


class MadeUp:
    """The service, with some paths answered here.

    Args:
        app: the service.
        served: told what is asked.
    """

    def __init__(self, app: Any, served: Served) -> None:
        self._app, self._served = app, served
        self._routes = {"/v1/search": self._search, "/v1/models": self._models, "/v1/chat/completions": self._chat}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        answer = self._routes.get(scope.get("path", ""))
        if answer is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        body = json.loads(await request.body() or b"{}")
        self._served.asked.setdefault(scope["path"], []).append(body)
        response: Response = answer(body)
        await response(scope, receive, send)

    def _search(self, body: dict[str, Any]) -> Response:
        if body["query"] == "nothing":
            return JSONResponse(
                {"hits": [], "understood": [], "unmet": ["program is Nowhere"], "mode": body["mode"], "searched": {}, "reading": READING}
            )
        texts = ATTACKS if body["query"] == "attacks" else ("Swap on Orca: 1.5 SOL for 210 USDC. " * 20, "A transfer of 3 SOL.")
        hits = [
            hit(number, text, flags=[text], words=[text], met=[text], kind=text) if text in ATTACKS else hit(number, text)
            for number, text in enumerate(texts)
        ]
        searched = {"documents": 1234, "passing": 56, "ranges": 3, "first_slot": 0, "last_slot": 49, "model": "minilm"}
        return JSONResponse(
            {"hits": hits, "understood": ["kind is swap"], "unmet": [], "mode": body["mode"], "searched": searched, "reading": READING}
        )

    def _models(self, _: dict[str, Any]) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "blyan-planner", "object": "model"}]})

    def _chat(self, body: dict[str, Any]) -> Response:
        return StreamingResponse(self._chunks(body["messages"][-1]["content"]), media_type="text/event-stream")

    async def _chunks(self, question: str) -> AsyncIterator[str]:
        def chunk(content: str, **others: Any) -> str:
            return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [{'index': 0, 'delta': {'content': content}}]} | others)}\n\n"

        ended = False
        try:
            if question == "for ever":
                while True:
                    yield chunk("and so on ")
                    await asyncio.sleep(0.02)
            if question == "weather":
                known = {"abstained": True, "why": "the tables have no weather", "by": "planner", "sql": None, "citations": [], "reading": None}
                yield chunk("I cannot tell.", blyan=known)
            elif question == "attacks":
                for text in ATTACKS:
                    yield chunk(text + "\n")
                cited = [{"slot": 41, "signature": text, "table": text} for text in ATTACKS]
                yield chunk("", blyan={"abstained": True, "why": ATTACKS[0], "sql": ATTACKS[1], "params": [], "citations": cited, "by": ATTACKS[2]})
            else:
                for word in ("Two ", "transactions ", "failed."):
                    yield chunk(word)
                cited = [{"slot": 41, "signature": SIGNATURE, "table": "solana/transactions"}]
                known = {"abstained": False, "sql": SQL, "params": ["Fail", 0, 41], "citations": cited, "by": "planner", "reading": READING}
                yield chunk("", blyan=known)
            yield f"data: {json.dumps({'choices': [], 'usage': {'prompt_tokens': 9, 'completion_tokens': 3, 'total_tokens': 12}})}\n\n"
            yield "data: [DONE]\n\n"
            ended = True
        finally:
            self._served.left += not ended


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
