"""The embedder of an endpoint against a real HTTP server on loopback that misbehaves on purpose."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from blyan.corpus.embedding_endpoint import EmbeddingEndpoint
from blyan.errors import BadRecordError, BlyanError, PermanentError, RateLimitedError, SettingError, SourceUnreachableError, TransientError
from blyan.solana.jsonrpc import MAX_RETRY_AFTER_S

DIMENSION = 4
KEY = "sk-secret-1234"

Rows = list[dict[str, Any]]
Misbehaviour = Callable[["Handler", Rows], None]


def vector_of(text: str) -> list[float]:
    """A direction that is the text's own, of length 1."""
    raw = np.frombuffer(hashlib.sha256(text.encode()).digest()[: 2 * DIMENSION], "<i2").astype(np.float64)
    return list(raw / np.linalg.norm(raw))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EmbeddingServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, self.headers.get("Authorization"), body))
            misbehaviour = self.server.misbehaviours.popleft() if self.server.misbehaviours else None
        rows = [{"object": "embedding", "index": index, "embedding": vector_of(text)} for index, text in enumerate(body["input"])]
        (misbehaviour or answered)(self, rows)

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class EmbeddingServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None, dict[str, Any]]] = []
        self.misbehaviours: deque[Misbehaviour] = deque()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def answered(handler: Handler, rows: Rows) -> None:
    handler.send(200, json.dumps({"object": "list", "data": rows, "model": "m", "usage": {"total_tokens": 1}}).encode())


def status(code: int, body: bytes = b"{}", **headers: str) -> Misbehaviour:
    return lambda handler, rows: handler.send(code, body, **headers)


def changed(change: Callable[[Rows], Any]) -> Misbehaviour:
    """The right answer, with its rows changed in place or replaced by what `change` gives."""
    return lambda handler, rows: answered(handler, change(rows) or rows)


def half(handler: Handler, rows: Rows) -> None:
    """Half the answer, then the connection closes, although Content-Length promised all of it."""
    body = json.dumps({"data": rows}).encode()
    handler.send(200, body[: len(body) // 2], Content_Length=str(len(body)))
    handler.close_connection = True


def half_that_claims_to_be_whole(handler: Handler, rows: Rows) -> None:
    body = json.dumps({"data": rows}).encode()
    handler.send(200, body[: len(body) // 2])


def hung_up(handler: Handler, rows: Rows) -> None:
    handler.close_connection = True


def endpoint(server: EmbeddingServer, **options: Any) -> tuple[EmbeddingEndpoint, list[float]]:
    """The embedder, and the pauses that it made."""
    pauses: list[float] = []
    options = {"dimension": DIMENSION, "key": KEY, "batch": 3, "retries": 2, "sleep": pauses.append, "jitter": lambda: 1.0} | options
    return EmbeddingEndpoint(server.url, "m", **options), pauses


def expected(texts: list[str]) -> np.ndarray:
    return np.array([vector_of(text) for text in texts], np.float32)


def test_texts_go_in_batches_and_come_back_in_their_order(server: EmbeddingServer) -> None:
    model, pauses = endpoint(server)
    texts = [f"text {number}" for number in range(8)]
    vectors = model.embed(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(texts), atol=1e-6)
    assert sorted(len(body["input"]) for _, _, body in server.requests) == [2, 3, 3]
    assert {(path, key, body["model"]) for path, key, body in server.requests} == {("/v1/embeddings", f"Bearer {KEY}", "m")}
    assert pauses == []
    assert model.embed([]).shape == (0, DIMENSION)


def test_without_a_key_none_is_sent(server: EmbeddingServer) -> None:
    endpoint(server, key=None)[0].embed(["a"])
    assert server.requests[0][1] is None


def test_vectors_named_in_another_order_go_where_they_belong(server: EmbeddingServer) -> None:
    server.misbehaviours.append(changed(lambda rows: rows.reverse()))
    np.testing.assert_allclose(endpoint(server)[0].embed(["a", "b", "c"]), expected(["a", "b", "c"]), atol=1e-6)


def test_vectors_that_are_not_of_length_one_are_scaled(server: EmbeddingServer) -> None:
    server.misbehaviours.append(changed(lambda rows: rows[0].update(embedding=[30, 0, 0, 40])))
    np.testing.assert_allclose(endpoint(server)[0].embed(["a"]), [[0.6, 0, 0, 0.8]], atol=1e-6)


PASSING: dict[str, Misbehaviour] = {
    "500": status(500),
    "502 in HTML": status(502, b"<html>"),
    "half": half,
    "half that claims to be whole": half_that_claims_to_be_whole,
    "hung up": hung_up,
    "HTML with 200": status(200, b"<!doctype html>"),
    "another form": status(200, b'{"data": [{"vector": [1]}]}'),
    "a null": changed(lambda rows: rows[0].update(embedding=[1.0, None, 0.0, 0.0])),
    "too few": changed(lambda rows: rows.pop()),
    "one twice": changed(lambda rows: rows[1].update(index=0)),
    "one that was not asked for": changed(lambda rows: rows[1].update(index=7)),
}
"""What may pass, and does not end the batch the first time."""


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_asked_for_again(server: EmbeddingServer, name: str) -> None:
    model, pauses = endpoint(server)
    server.misbehaviours.extend([PASSING[name]] * 2)
    np.testing.assert_allclose(model.embed(["a", "b"]), expected(["a", "b"]), atol=1e-6)
    assert pauses == [0.25, 0.5]


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_is_a_transient_error_without_the_key(server: EmbeddingServer, name: str) -> None:
    server.misbehaviours.extend([PASSING[name]] * 3)
    with pytest.raises(SourceUnreachableError, match=r"a batch of texts failed 3 times, at last: .+BLYAN_EMBEDDING_URL") as caught:
        endpoint(server)[0].embed(["a", "b"])
    assert KEY not in whole_story(caught.value)
    assert len(server.requests) == 3


def test_a_pause_that_the_server_asks_for_is_made(server: EmbeddingServer) -> None:
    model, pauses = endpoint(server)
    server.misbehaviours.extend([status(429, Retry_After="7"), status(503, Retry_After="2")])
    np.testing.assert_allclose(model.embed(["a"]), expected(["a"]), atol=1e-6)
    assert pauses == [7.0, 2.0]


def test_a_limit_that_stays_is_said_and_a_long_pause_is_not_waited_for(server: EmbeddingServer) -> None:
    model, pauses = endpoint(server)
    server.misbehaviours.extend([status(429)] * 3)
    with pytest.raises(RateLimitedError, match=r"HTTP 429.*BLYAN_EMBEDDING_CONCURRENCY"):
        model.embed(["a"])
    server.misbehaviours.append(status(429, Retry_After=str(int(MAX_RETRY_AFTER_S) + 1)))
    pauses.clear()
    with pytest.raises(RateLimitedError, match="failed 1 times, at last: HTTP 429; it asks to wait 121 s"):
        model.embed(["a"])
    assert pauses == []


REFUSED: dict[str, tuple[Misbehaviour, type[PermanentError], str]] = {
    "wrong dimension": (changed(lambda rows: rows[1].update(embedding=[1.0] * 5)), SettingError, "5 components, not 4 .*BLYAN_EMBEDDING_DIMENSION"),
    "NaN": (changed(lambda rows: rows[1]["embedding"].__setitem__(2, float("nan"))), PermanentError, "1 of 2 vectors are no direction"),
    "infinite": (changed(lambda rows: rows[1]["embedding"].__setitem__(2, float("inf"))), PermanentError, "1 of 2 vectors are no direction"),
    "zero": (changed(lambda rows: rows[1].update(embedding=[0.0] * 4)), PermanentError, "1 of 2 vectors are no direction"),
    "401": (status(401, b'{"error": {"message": "Incorrect API key: sk-se***1234"}}'), SettingError, "HTTP 401.*BLYAN_EMBEDDING_KEY"),
    "403": (status(403), SettingError, "HTTP 403.*BLYAN_EMBEDDING_KEY"),
    "400": (status(400, f'{{"error": "too long, says {KEY}"}}'.encode()), PermanentError, "HTTP 400: .*too long.*BLYAN_EMBEDDING_MODEL"),
    "404": (status(404, b"no such model"), PermanentError, "HTTP 404: 'no such model'"),
    "a redirect": (status(307, Location="http://127.0.0.1:1/"), PermanentError, "HTTP 307"),
}
"""What the same request gives again."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_pass_is_a_permanent_error_at_once_without_the_key(server: EmbeddingServer, name: str) -> None:
    misbehaviour, kind, message = REFUSED[name]
    server.misbehaviours.append(misbehaviour)
    with pytest.raises(kind, match=message) as caught:
        endpoint(server)[0].embed(["a", "b"])
    story = whole_story(caught.value)
    assert KEY not in story
    assert "sk-se" not in story
    assert len(server.requests) == 1


def test_when_one_batch_fails_the_waiting_ones_are_not_asked_for(server: EmbeddingServer) -> None:
    model, _ = endpoint(server, batch=1, concurrency=1)
    server.misbehaviours.append(status(400))
    with pytest.raises(PermanentError):
        model.embed([str(number) for number in range(200)])
    assert len(server.requests) < 100


def test_a_node_that_is_not_there_is_a_transient_error_without_what_may_be_a_key(server: EmbeddingServer) -> None:
    port = server.server_address[1] + 1 if server.server_address[1] < 65_535 else 1
    model = EmbeddingEndpoint(f"http://user:pass-word@127.0.0.1:{port}/{KEY}?key={KEY}", "m", dimension=4, retries=0)
    with pytest.raises(TransientError, match=f"ConnectError .at http://127.0.0.1:{port}/…") as caught:
        model.embed(["a"])
    story = whole_story(caught.value)
    assert KEY not in story
    assert "pass-word" not in story


def test_an_empty_text_is_not_sent(server: EmbeddingServer) -> None:
    with pytest.raises(BadRecordError, match="text 1"):
        endpoint(server)[0].embed(["a", " "])
    assert server.requests == []


def test_address_name_and_dimension_make_another_model_and_a_key_does_not() -> None:
    def digest(url: str = "http://a.example/v1", model: str = "m", dimension: int = 4, key: str | None = None) -> str:
        return EmbeddingEndpoint(url, model, dimension=dimension, key=key).digest

    assert digest() == digest(key=KEY) == digest(url="http://a.example/v1/") == digest(url="http://user:x@a.example/v1?key=1")
    assert len({digest(), digest(url="http://b.example/v1"), digest(url="http://a.example/v2"), digest(model="n"), digest(dimension=5)}) == 5


@pytest.mark.parametrize("url", ["ftp://host/v1", "host/v1", f"https:///{KEY}", f"http://host:{KEY}/v1"])
def test_what_is_no_address_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingError, match="BLYAN_EMBEDDING_URL") as caught:
        EmbeddingEndpoint(url, "m", dimension=4)
    assert KEY not in whole_story(caught.value)


def whole_story(error: BlyanError) -> str:
    """The messages of an error and of what led to it."""
    parts, seen = [], error
    while seen is not None:
        parts.append(f"{seen} {seen!r}")
        seen = seen.__cause__  # type: ignore[assignment]
    return " ".join(parts)
