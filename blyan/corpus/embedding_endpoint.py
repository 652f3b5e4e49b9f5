"""Vectors from an endpoint that speaks OpenAI's `POST /v1/embeddings`.

Belongs here: requests, retries with the pauses that servers ask for, and what their answers mean. Does not belong here: models
that run in this process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import httpx
import msgspec
import numpy as np
from msgspec import Struct

from blyan.corpus.embedder import Tokens, Vectors, check_texts, unit
from blyan.errors import PermanentError, RateLimitedError, SettingError, SourceUnreachableError, TransientError
from blyan.solana.jsonrpc import BACKOFF_BASE_S, BACKOFF_CAP_S, MAX_RETRY_AFTER_S, RETRIED_STATUSES, SLOW_DOWN, UNAVAILABLE, retry_after_s

TIMEOUT_S = 60.0
"""Seconds for a server to connect, and to go on with its answer."""

RETRIES = 8

MAX_BODY_BYTES = 256 << 20
"""A larger answer is refused: 2,048 vectors of 4,096 components are about 170 MB of JSON."""


class _Row(Struct):
    index: int
    embedding: list[float]


class _Answer(Struct):
    data: list[_Row]


class _Again(Exception):  # noqa: N818  - it is a reason to ask again; only the last one becomes an error
    """Why an attempt failed, and the pause that the server asked for."""

    def __init__(self, what: str, *, is_rate_limit: bool = False, pause_s: float | None = None) -> None:
        super().__init__(what)
        self.is_rate_limit = is_rate_limit
        self.pause_s = pause_s


class EmbeddingEndpoint:
    """A model behind HTTP. It is known by its address, name and dimension: whether the server changes it unsaid, nothing here can tell.

    Nor does a server say of which texts it read only the beginning: `truncated` stays 0.

    Args:
        url: the base, as `https://api.openai.com/v1`; `/embeddings` is added. What may be a key in it never appears in a message.
        model: sent with each request.
        dimension: components that every vector must have.
        key: sent as `Authorization: Bearer`.
        batch: texts in a request.
        concurrency: requests in flight at once.
        retries: times a request is made again.
        sleep: how to wait between two tries.
        jitter: a number from 0 to 1, the part of the longest pause that is taken.

    Raises:
        SettingError: the URL is not one of HTTP.
    """

    truncated = 0

    def __init__(
        self,
        url: str,
        model: str,
        *,
        dimension: int,
        key: str | None = None,
        batch: int = 64,
        concurrency: int = 4,
        retries: int = RETRIES,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._url = _address(url)
        self.where = f"{self._url.scheme}://{self._url.netloc.decode()}/…"
        self.name = model
        self.dimension = dimension
        identity = json.dumps(["embeddings", f"{self.where}{self._url.path}", model, dimension])
        self.digest = hashlib.sha256(identity.encode()).hexdigest()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._secrets = [text for text in (key, self._url.password, self._url.query.decode()) if text]
        self._batch, self._concurrency, self._retries, self._timeout_s = batch, concurrency, retries, timeout_s
        self._sleep, self._jitter = sleep, jitter

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text, whatever the order in which the server names them."""
        check_texts(texts)
        # httpx logs whole URLs at INFO, and a URL may hold a key.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        found = np.empty((len(texts), self.dimension), np.float32)
        starts = range(0, len(texts), self._batch)
        with httpx.Client(headers=self._headers, timeout=self._timeout_s) as http, ThreadPoolExecutor(self._concurrency) as pool:
            waiting = [pool.submit(self._ask, http, texts[start : start + self._batch]) for start in starts]
            try:
                for start, future in zip(starts, waiting, strict=True):
                    found[start : start + self._batch] = future.result()
            except BaseException:
                # What has not begun would only be paid for.
                pool.shutdown(cancel_futures=True)
                raise
        return found

    def tokens(self, texts: Sequence[str]) -> Tokens | None:  # noqa: ARG002 - the protocol's
        """None: a server tells how many it read only with its vectors, and not of how many texts the beginning."""
        return None

    def _ask(self, http: httpx.Client, texts: Sequence[str]) -> Vectors:
        """The vectors of a batch, tried again until the retries are used up."""
        for attempt in range(self._retries + 1):
            try:
                return self._vectors(self._attempt(http, texts), len(texts))
            except httpx.HTTPError as error:
                # Messages of httpx may have the URL.
                failure = _Again(type(error).__name__)
            except _Again as again:
                failure = again
            if attempt == self._retries or (failure.pause_s or 0) > MAX_RETRY_AFTER_S:
                break
            bound = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0**attempt)
            self._sleep(self._jitter() * bound if failure.pause_s is None else failure.pause_s)
        raise self._given_up(attempt + 1, failure)

    def _given_up(self, tries: int, failure: _Again) -> TransientError:
        what = f"a batch of texts failed {tries} times, at last: {failure}"
        if failure.is_rate_limit:
            if failure.pause_s is not None:
                what += f"; it asks to wait {failure.pause_s:.0f} s"
            return RateLimitedError(what, where=self.where, remedy="lower BLYAN_EMBEDDING_CONCURRENCY, or run it again later")
        return SourceUnreachableError(what, where=self.where, remedy="check BLYAN_EMBEDDING_URL and the network, and run it again")

    def _attempt(self, http: httpx.Client, texts: Sequence[str]) -> bytes:
        request = {"model": self.name, "input": list(texts), "encoding_format": "float"}
        with http.stream("POST", self._url, json=request) as response:
            body = b"".join(self._bounded(response.iter_bytes()))
        status = response.status_code
        if status == HTTPStatus.OK:
            return body
        if status in RETRIED_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            pause_s = retry_after_s(response.headers.get("Retry-After")) if status in (SLOW_DOWN, UNAVAILABLE) else None
            raise _Again(f"HTTP {status}", is_rate_limit=status == SLOW_DOWN, pause_s=pause_s)
        what = f"the endpoint refuses the request: HTTP {status}"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):  # whose text may hold a part of the key
            raise SettingError(what, where=f"BLYAN_EMBEDDING_KEY, {self.where}", remedy="check the key and what it may do")
        raise PermanentError(
            f"{what}: {self._shown(body)!r}",
            where=self.where,
            remedy="check BLYAN_EMBEDDING_URL and BLYAN_EMBEDDING_MODEL, and the longest input it takes",
        )

    def _bounded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise PermanentError(f"the answer is more than {MAX_BODY_BYTES} bytes", where=self.where, remedy="lower BLYAN_EMBEDDING_BATCH")
            yield chunk

    def _vectors(self, body: bytes, count: int) -> Vectors:
        try:
            # Not msgspec's own decoder: Python servers write NaN, which is no JSON and must be told from half an answer.
            rows = msgspec.convert(json.loads(body), _Answer).data
        except (ValueError, RecursionError) as error:
            raise _Again(f"the answer is not one of embeddings: {type(error).__name__}; it begins with {self._shown(body[:60])!r}") from error
        if sorted(row.index for row in rows) != list(range(count)):
            raise _Again(f"the answer has {len(rows)} vectors, and not one for each of {count} texts")
        for row in rows:
            if len(row.embedding) != self.dimension:
                raise SettingError(
                    f"a vector has {len(row.embedding)} components, not {self.dimension}",
                    where=f"BLYAN_EMBEDDING_DIMENSION, {self.where}",
                    remedy="set it to what the model gives, or BLYAN_EMBEDDING_MODEL to the right model",
                )
        return unit(np.array([row.embedding for row in sorted(rows, key=lambda row: row.index)], np.float64), f"{self.name} at {self.where}")

    def _shown(self, body: bytes) -> str:
        """What of an answer may be in a message."""
        text = body.decode(errors="replace")
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text[:200]


def _address(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        base = httpx.URL()
    if base.scheme not in ("http", "https") or not base.host:
        # What httpx says of it may hold a key.
        raise SettingError("not an HTTP endpoint", where="BLYAN_EMBEDDING_URL", remedy="set it to the base of an API, as https://host/v1") from None
    return base.copy_with(path=base.path.rstrip("/") + "/embeddings")
