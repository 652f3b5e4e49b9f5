"""A language model behind an API of OpenAI's form: Ollama, vLLM, or any other.

Belongs here: requests, deadlines, retries, and what its answers mean. Does not belong here: what it is asked, and what is believed of
what it says (`blyan.query.answers`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from blyan.errors import PermanentError, SettingError, TransientError
from blyan.settings import Settings
from blyan.solana.jsonrpc import BACKOFF_BASE_S, RETRIED_STATUSES, SLOW_DOWN, UNAVAILABLE, retry_after_s

RETRIES = 2
"""Times a request is made again of which no word came: somebody waits."""

LONGEST_PAUSE_S = 5.0
"""A server that asks for a longer one is not waited for."""

MAX_BYTES = 1 << 20
"""Of one answer, stream or not."""

DONE = "[DONE]"


class ModelUnreachableError(TransientError):
    """The language model did not answer, or not to the end."""


class ModelAnswerError(PermanentError):
    """The language model refused a request, or what it answered is none of the API."""


class _Function(Struct):
    name: str | None = None
    arguments: Any = None

    def text(self) -> str:
        """The arguments as text; some servers give an object."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps({} if self.arguments is None else self.arguments)


class _Called(Struct):
    function: _Function
    id: str | None = None


class _Message(Struct):
    content: str | None = None
    tool_calls: list[_Called] | None = None


class _Choice(Struct):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None


class _Counted(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(Struct):
    choices: list[_Choice] = []
    usage: _Counted | None = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the model's server counts them."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.completion + other.completion)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. `arguments` is what it wrote, perhaps no JSON."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Reply:
    """What the model said. `usage` None: its server did not count."""

    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    usage: Usage | None = None
    finish: str = "stop"


class ChatModel:
    """A model by its address and name.

    Args:
        url: the base, as `http://localhost:11434/v1`; `/chat/completions` is added. What may be a key in it never appears in a message.
        model: sent with each request.
        key: sent as `Authorization: Bearer`.
        timeout_s: for one reply, to its last word.
        max_tokens: of one reply.
        retries: times a request is made again of which nothing came.

    Raises:
        SettingError: the URL is not one of HTTP.
    """

    def __init__(
        self, url: str, model: str, *, key: str | None = None, timeout_s: float = 60.0, max_tokens: int = 1_024, retries: int = RETRIES
    ) -> None:
        self._url = _address(url)
        self.where = f"{self._url.scheme}://{self._url.netloc.decode()}/…"
        self.name = model
        self._http = httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=timeout_s)
        self._timeout_s, self._max_tokens, self._retries = timeout_s, max_tokens, retries
        # httpx logs whole URLs at INFO, and a URL may hold a key.
        logging.getLogger("httpx").setLevel(logging.WARNING)

    @classmethod
    def from_settings(cls, settings: Settings) -> ChatModel | None:
        """The model that the settings name; None where they name none.

        Raises:
            SettingError: half of it is set.
        """
        if settings.chat_url is None and settings.chat_model is None:
            return None
        if settings.chat_url is None or settings.chat_model is None:
            raise SettingError("one of the two is not set", where="BLYAN_CHAT_URL, BLYAN_CHAT_MODEL", remedy="set both, or neither")
        key = settings.chat_key.get_secret_value() if settings.chat_key else None
        return cls(settings.chat_url, settings.chat_model, key=key, timeout_s=settings.chat_timeout_s, max_tokens=settings.chat_max_tokens)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def reply(self, messages: Sequence[dict[str, Any]], *, tools: Sequence[dict[str, Any]] = (), temperature: float | None = None) -> Reply:
        """A whole reply.

        Args:
            messages: in OpenAI's form.
            tools: that it may ask for, in OpenAI's form.
            temperature: passed on.

        Raises:
            ModelUnreachableError: it did not answer in time, or its server is down or busy.
            ModelAnswerError: it refused, or its answer is none.
            SettingError: the key is refused.
        """
        body = self._body(messages, None, temperature) | ({"tools": list(tools), "tool_choice": "auto"} if tools else {})
        async with self._in_time(), self._asked(body) as response:
            answer = self._read(await _whole(response, self.where))
        if not answer.choices or (message := answer.choices[0].message) is None:
            raise self._no_answer("it has no message")
        calls = [
            ToolCall(each.id or str(place), each.function.name or "", each.function.text()) for place, each in enumerate(message.tool_calls or ())
        ]
        return Reply(message.content or "", calls, _usage(answer), answer.choices[0].finish_reason or "stop")

    async def words(
        self, messages: Sequence[dict[str, Any]], *, max_tokens: int | None = None, temperature: float | None = None, heard: Reply
    ) -> AsyncIterator[str]:
        """A reply while it comes, without tools: calls that it makes up anyhow are put into `heard`, and nowhere else.

        Args:
            messages: in OpenAI's form.
            max_tokens: fewer than the setting allows.
            temperature: passed on.
            heard: gets the whole text, its calls, how it ended and its tokens.

        Raises:
            ModelUnreachableError: it did not answer in time, or ended in the middle.
            ModelAnswerError: it refused, or its answer is none.
            SettingError: the key is refused.
        """
        body = self._body(messages, max_tokens, temperature) | {"stream": True, "stream_options": {"include_usage": True}}
        ended = False
        async with self._in_time(), self._asked(body) as response:
            async for line in _lines(response, self.where):
                if line == DONE:
                    ended = True
                    break
                text, finish = self._taken(line, heard)
                ended = ended or finish
                if text:
                    heard.text += text
                    yield text
        if not ended:
            raise ModelUnreachableError("the language model ended in the middle of its answer", where=self.where, remedy="ask again")

    def _taken(self, line: str, heard: Reply) -> tuple[str, bool]:
        """The words of an event, and whether it says that the answer is whole."""
        event = self._read(line.encode())
        if event.error is not None:
            raise ModelUnreachableError("the language model failed in the middle of its answer", where=self.where, remedy="ask again")
        heard.usage = _usage(event) or heard.usage
        if not event.choices:
            return "", False
        choice = event.choices[0]
        delta = choice.delta or _Message()
        # The rest of a call's arguments comes without its name.
        heard.calls += [ToolCall(each.id or "", each.function.name, each.function.text()) for each in delta.tool_calls or () if each.function.name]
        if choice.finish_reason:
            heard.finish = choice.finish_reason
        return delta.content or "", choice.finish_reason is not None

    def _read(self, content: bytes) -> _Completion:
        try:
            # Not msgspec's own decoder: Python servers write NaN, which is no JSON.
            return msgspec.convert(json.loads(content), _Completion)
        except (ValueError, RecursionError) as error:
            raise self._no_answer(type(error).__name__) from error

    def _body(self, messages: Sequence[dict[str, Any]], max_tokens: int | None, temperature: float | None) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name, "messages": list(messages), "max_tokens": min(max_tokens or self._max_tokens, self._max_tokens)}
        return body if temperature is None else body | {"temperature": temperature}

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            what = f"the language model was not done in {self._timeout_s:g} s"
            raise ModelUnreachableError(
                what, where=self.where, remedy="ask again, or for less; the operator may raise BLYAN_CHAT_TIMEOUT_S"
            ) from error
        except httpx.HTTPError as error:
            # Messages of httpx may have the URL.
            what = f"the language model broke off: {type(error).__name__}"
            raise ModelUnreachableError(what, where=self.where, remedy="ask again") from error

    @asynccontextmanager
    async def _asked(self, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """The head of an answer of status 200, asked for again where nothing came."""
        for attempt in range(self._retries + 1):
            pause_s: float | None = None
            try:
                response = await self._http.send(self._http.build_request("POST", self._url, json=body), stream=True)
            except httpx.HTTPError as error:
                if attempt == self._retries:
                    what = f"the language model cannot be reached: {type(error).__name__}"
                    raise ModelUnreachableError(what, where=self.where, remedy="ask again later; the operator may check BLYAN_CHAT_URL") from error
            else:
                try:
                    if response.status_code == HTTPStatus.OK:
                        yield response
                        return
                    pause_s = self._refused(response, last=attempt == self._retries)
                finally:
                    await response.aclose()
            await asyncio.sleep(BACKOFF_BASE_S * 2.0**attempt if pause_s is None else pause_s)

    def _refused(self, response: httpx.Response, *, last: bool) -> float | None:
        """The pause after which it is asked again; None where its server names none."""
        status = response.status_code
        if status in RETRIED_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            pause_s = retry_after_s(response.headers.get("Retry-After")) if status in (SLOW_DOWN, UNAVAILABLE) else None
            if last or (pause_s or 0) > LONGEST_PAUSE_S:
                what = "has too much to do" if status == SLOW_DOWN else "failed"
                raise ModelUnreachableError(f"the language model's server {what}: HTTP {status}", where=self.where, remedy="ask again later")
            return pause_s
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise SettingError(f"the language model refuses the key: HTTP {status}", where=f"BLYAN_CHAT_KEY, {self.where}", remedy="check the key")
        raise ModelAnswerError(
            f"the language model refuses the request: HTTP {status}",
            where=self.where,
            remedy="check BLYAN_CHAT_MODEL, and the longest input it takes",
        )

    def _no_answer(self, why: str) -> ModelAnswerError:
        return ModelAnswerError(f"what the language model answered is no chat completion: {why}", where=self.where, remedy="check BLYAN_CHAT_URL")


def _usage(answer: _Completion) -> Usage | None:
    return Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens) if answer.usage else None


async def _whole(response: httpx.Response, where: str) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_BYTES:
            raise _too_long(where)
    return bytes(body)


async def _lines(response: httpx.Response, where: str) -> AsyncIterator[str]:
    """The data of the events of a stream."""
    size, rest = 0, b""
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_BYTES:
            raise _too_long(where)
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode(errors="replace")
    if rest.startswith(b"data:"):
        yield rest[5:].strip().decode(errors="replace")


def _too_long(where: str) -> ModelAnswerError:
    return ModelAnswerError(f"the language model answers more than {MAX_BYTES} bytes", where=where, remedy="lower BLYAN_CHAT_MAX_TOKENS")


def _address(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        base = httpx.URL()
    if base.scheme not in ("http", "https") or not base.host:
        # What httpx says of it may hold a key.
        raise SettingError(
            "not an HTTP endpoint", where="BLYAN_CHAT_URL", remedy="set it to the base of an API, as http://localhost:11434/v1"
        ) from None
    return base.copy_with(path=base.path.rstrip("/") + "/chat/completions")
