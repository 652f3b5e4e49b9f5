"""The service as a process: who may ask, what is refused and how, and how it ends."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from blyan.api.callers import LIMITS, Role, Scope
from blyan.api.keys import revoke
from blyan.api.problems import KINDS
from blyan.api.serve import serve
from blyan.errors import SettingError
from blyan.lake import Lake
from blyan.settings import Settings
from blyan.solana.landing import Landing
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from tests.http_service import REPOSITORY, WAIT_S, Served, key_for, made_lake, served, until

OPERATOR = Role.OPERATOR


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return made_lake(folder / "lake")


@pytest.fixture(scope="module")
def lake(settings: Settings) -> Lake:
    return Lake.from_settings(settings)


@pytest.fixture(scope="module")
def service(settings: Settings, folder: Path) -> Iterator[Served]:
    with served(settings, folder, BLYAN_SERVE_BODY_BYTES="20000", BLYAN_SERVE_PATIENCE_S="1") as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Served, lake: Lake) -> Iterator[httpx.Client]:
    with service.client(key_for(lake)) as client:
        yield client


def problem(answer: httpx.Response, slug: str) -> dict[str, Any]:
    """The document of a problem, which every error is."""
    kind = next(kind for kind in KINDS if kind.slug == slug)
    document: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, document["status"], document["type"], document["title"]) == (kind.status, kind.status, kind.uri, kind.title)
    assert document["request_id"] == answer.headers["x-request-id"]
    assert document["instance"] == answer.request.url.path
    return document


# What it says of itself


def test_it_says_where_it_listens_and_how_to_get_a_key(service: Served) -> None:
    assert any(service.url in line for line in service.lines)
    assert any("blyan keys create --role analyst" in line for line in service.lines)
    assert httpx.URL(service.url).host == "127.0.0.1"


def test_it_lives_and_is_ready(client: httpx.Client) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").json()["up_to_slot"] == 49


def test_a_lake_that_cannot_be_read_is_not_ready_and_says_so(folder: Path, settings: Settings, tmp_path: Path) -> None:
    landing = tmp_path / "lake" / "landing"
    landing.mkdir(parents=True)
    (landing / "head.json").write_bytes(b"{")
    with served(settings.model_copy(update={"lake": str(tmp_path / "lake")}), tmp_path) as broken, broken.client() as client:
        assert client.get("/healthz").status_code == 200
        document = problem(client.get("/readyz"), "unavailable")
        assert "the lake cannot be read" in document["detail"]
        assert str(tmp_path) not in json.dumps(document)


def test_metrics_count_requests_by_route(client: httpx.Client) -> None:
    client.get("/v1/blocks/5")
    client.get("/v1/blocks/6")
    text = client.get("/metrics").text
    assert 'route="/v1/blocks/{slot}",status="200"' in text
    assert "blyan_http_request_seconds_bucket" in text
    assert 'duckdb="2.0.0"' in text


def test_a_request_keeps_its_id_in_the_log_and_the_audit(client: httpx.Client, service: Served, folder: Path) -> None:
    answer = client.get("/v1/rewards", params={"limit": 3}, headers={"x-request-id": "my-own-request-1"})
    assert answer.headers["x-request-id"] == "my-own-request-1"
    until(lambda: any("my-own-request-1" in line for line in service.lines))
    (line,) = [json.loads(line) for line in service.lines if "my-own-request-1" in line]
    assert (line["route"], line["status"]) == ("/v1/rewards", 200)
    until(lambda: "my-own-request-1" in (folder / "audit.jsonl").read_text())
    (record,) = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines() if "my-own-request-1" in line]
    assert (record["role"], record["via"], record["query"], record["rows"], record["status"]) == ("operator", "key", "limit=3", 3, 200)


@pytest.mark.parametrize("insane", ["short", "x" * 65, "white space in it", "<script>alert(1)</script>"])
def test_a_request_id_that_is_not_sane_is_replaced(client: httpx.Client, insane: str) -> None:
    assert client.get("/healthz", headers={"x-request-id": insane}).headers["x-request-id"] != insane


def test_responses_have_the_headers_that_browsers_heed(client: httpx.Client) -> None:
    headers = client.get("/v1/me").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    assert "access-control-allow-origin" not in client.get("/v1/me", headers={"origin": "https://elsewhere.example"}).headers


# Who asks


def test_without_a_key_nothing_is_read(service: Served) -> None:
    with service.client() as client:
        answer = client.get("/v1/blocks")
        assert "blyan keys create" in problem(answer, "unauthenticated")["remedy"]
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_wrong_expired_and_revoked_keys_are_refused(service: Served, lake: Lake) -> None:
    good, revoked, expired = key_for(lake), key_for(lake), key_for(lake, lasts_s=-1)
    identity = revoked.split("_")[1]
    revoke(lake, identity)
    wrong = good[:-4] + ("aaaa" if good[-4:] != "aaaa" else "bbbb")
    for key, why in ((wrong, "there is no such key"), (revoked, f"the key {identity} is revoked"), (expired, "is expired"), ("nonsense", "neither")):
        with service.client(key) as client:
            assert why in problem(client.get("/v1/me"), "unauthenticated")["detail"]
    with service.client(good) as client:
        assert client.get("/v1/me").status_code == 200


def test_a_key_that_is_revoked_counts_no_more_within_seconds_nor_do_its_tokens(service: Served, lake: Lake) -> None:
    key = key_for(lake)
    with service.client(key) as client:
        token = client.post("/v1/tokens", json={}).json()["token"]
        with service.client(token) as other:
            assert other.get("/v1/me").json()["via"] == "token"
            revoke(lake, key.split("_")[1])
            until(lambda: client.get("/v1/me").status_code == 401, 8)
            until(lambda: other.get("/v1/me").status_code == 401, 8)


def test_a_token_has_fewer_rights_and_never_more(service: Served, lake: Lake) -> None:
    with service.client(key_for(lake, Role.ANALYST)) as client:
        made = client.post("/v1/tokens", json={"scopes": ["live"], "expires_in": 60}).json()
        assert made["scopes"] == ["live"]
        with service.client(made["token"]) as other:
            assert "scope `read`" in problem(other.get("/v1/blocks"), "forbidden")["detail"]
        problem(client.post("/v1/tokens", json={"scopes": ["operate"]}), "forbidden")
        token = client.post("/v1/tokens", json={}).json()["token"]
        with service.client(token) as other:
            assert "made from a key" in problem(other.post("/v1/tokens", json={}), "forbidden")["detail"]


def test_a_narrowed_key_may_only_what_it_was_given(service: Served, lake: Lake) -> None:
    with service.client(key_for(lake, Role.ANALYST, frozenset({Scope.LIVE}))) as client:
        problem(client.get("/v1/tables"), "forbidden")


@pytest.mark.parametrize("forged", ["none", "other secret", "over"])
def test_forged_tokens_are_refused(service: Served, lake: Lake, forged: str) -> None:
    import base64

    from joserfc import jwt
    from joserfc.jwk import OctKey

    identity = key_for(lake).split("_")[1]
    claims = {"iss": "blyan", "sub": identity, "exp": int(time.time()) + 600, "scope": "read operate"}
    if forged == "none":
        parts = [json.dumps({"alg": "none"}), json.dumps(claims)]
        token = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts) + "."
    else:
        token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key("a secret that is of somebody else entirely"))
    with service.client(token) as client:
        problem(client.get("/v1/me"), "unauthenticated")


def test_a_caller_who_asks_too_often_waits_and_no_other_does(service: Served, lake: Lake) -> None:
    with service.client(key_for(lake, Role.READER)) as client, service.client(key_for(lake, Role.READER)) as other:
        answers = [client.get("/v1/me") for _ in range(LIMITS[Role.READER].burst + 20)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert problem(refused[0], "rate-limited")["remedy"].startswith("wait ")
        assert int(refused[0].headers["retry-after"]) >= 1
        assert answers[0].headers["ratelimit-limit"] == str(LIMITS[Role.READER].burst)
        assert other.get("/v1/me").status_code == 200
        time.sleep(0.3)
        assert client.get("/v1/me").status_code == 200


def test_no_secret_is_in_the_log_or_the_audit(service: Served, lake: Lake, folder: Path) -> None:
    key = key_for(lake)
    with service.client(key) as client:
        token = client.post("/v1/tokens", json={}).json()["token"]
        client.get("/v1/blocks", params={"limit": "x"})
    for text in (
        "\n".join(service.lines),
        (folder / "audit.jsonl").read_text(),
        "".join(path.read_text() for path in (folder / "lake/serving").rglob("*.json")),
    ):
        assert key.split("_", 2)[2] not in text
        assert token not in text
    until(lambda: key.split("_")[1] in (folder / "audit.jsonl").read_text())  # the caller is there


# What is refused


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/blocks?limt=3", "there is no parameter limt (did you mean limit?)"),
        ("/v1/blocks?limit=3&limit=4", "it is given twice"),
        ("/v1/blocks?limit=0", "greater than or equal to 1"),
        ("/v1/blocks?limit=1001", "less than or equal to 1000"),
        ("/v1/blocks?first_slot=9&last_slot=3", "it is after last_slot"),
        ("/v1/blocks?first_slot=99999999999999999999999", "less than or equal to"),
        ("/v1/blocks?from_time=yesterday", "valid datetime"),
        ("/v1/blocks?from_time=2024-01-02T00:00:00Z&to_time=2024-01-01T00:00:00Z", "it is not before to_time"),
        ("/v1/blocks?order=sideways", "'asc' or 'desc'"),
        ("/v1/blocks/minus", "valid integer"),
        ("/v1/blocks/-1", "greater than or equal to 0"),
        ("/v1/accounts/0OIl0OIl0OIl0OIl0OIl0OIl0OIl0OIl/transactions", "match pattern"),
        ("/v1/accounts/%00/transactions", "at least 32"),
        ("/v1/transactions/'%20or%201=1--", "at least 64"),
        ("/v1/tables?x=1", "there is no parameter x"),
        ("/healthz?x=1", "there is no parameter x"),
    ],
)
def test_wrong_parameters_are_named(client: httpx.Client, path: str, said: str) -> None:
    document = problem(client.get(path), "invalid")
    assert said in " ".join(error["what"] for error in document["errors"])
    assert all(error["where"].startswith(("query.", "path.")) for error in document["errors"])


def test_paths_methods_and_bodies_that_are_not_served_are_named(client: httpx.Client) -> None:
    problem(client.get("/v2/blocks"), "not-found")
    answer = client.put("/v1/blocks")
    assert answer.headers["allow"] == "GET"
    problem(answer, "method-not-allowed")
    headers = {"content-type": "application/json"}
    problem(client.post("/v1/tokens", content=b'{"scopes": [', headers=headers), "malformed")
    problem(client.post("/v1/tokens", content=b"[" * 10_000, headers=headers), "malformed")
    problem(client.post("/v1/tokens", content=b"\x00\xff", headers=headers), "malformed")
    problem(client.post("/v1/tokens", json={"scope": ["read"]}), "invalid")
    problem(client.post("/v1/tokens", json={"expires_in": 10**9}), "invalid")


def test_large_bodies_and_heads_are_refused_before_they_are_read(client: httpx.Client, service: Served) -> None:
    problem(client.post("/v1/tokens", content=b" " * 20_001), "too-large")

    def drops() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1_000

    problem(client.post("/v1/tokens", content=drops()), "too-large")
    with connected(service) as stream:
        stream.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"x-much: " + b"y" * 100_000)
        assert stream.recv(1_000).startswith(b"HTTP/1.1 400")


def connected(service: Served) -> socket.socket:
    url = httpx.URL(service.url)
    assert url.port
    return socket.create_connection((url.host, url.port), timeout=WAIT_S)


def test_a_client_that_does_not_finish_its_request_is_let_go(service: Served) -> None:
    for begun in (b"", b"GET /healthz HT", b"POST /v1/tokens HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"):
        with connected(service) as stream:
            stream.sendall(begun)
            assert rest(stream) == b""


def rest(stream: socket.socket) -> bytes:
    """What comes until the other side closes or resets."""
    try:
        return stream.recv(100_000)
    except ConnectionResetError:
        return b""


def test_a_client_that_does_not_read_is_let_go_and_slows_nobody(service: Served, lake: Lake, client: httpx.Client) -> None:
    key = key_for(lake)
    ask = f"GET /v1/transactions?limit=1000 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode()
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        url = httpx.URL(service.url)
        stream.connect((url.host, url.port))
        stream.sendall(ask * 40)
        assert client.get("/healthz").status_code == 200
        until(lambda: 'blyan_http_broken_total{why="patience"}' in client.get("/metrics").text)


def test_what_is_not_http_gets_a_problem(service: Served) -> None:
    with connected(service) as stream:
        stream.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = stream.recv(10_000)
        assert b"application/problem+json" in answer


def test_errors_tell_no_path_of_the_store(client: httpx.Client, service: Served, lake: Lake, folder: Path) -> None:
    table = folder / "lake/solana/quarantine"
    assert table.exists()
    landing = folder / "lake/landing/head.json"
    kept = landing.read_bytes()
    try:
        landing.write_bytes(b"{")
        document = problem(client.get("/v1/blocks"), "internal")
        assert str(folder) not in json.dumps(document)
        assert any("head.json" in line for line in service.lines), "the log has it"
    finally:
        landing.write_bytes(kept)


# How it ends


def test_it_finishes_what_it_took_and_takes_nothing_new(settings: Settings, lake: Lake, tmp_path: Path) -> None:
    key = key_for(lake)
    with served(settings, tmp_path) as service:
        body = b'{"expires_in": 60}'
        with connected(service) as stream:
            head = f"POST /v1/tokens HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
            stream.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:5])
            time.sleep(0.3)
            service.process.terminate()
            until(lambda: refuses(service))
            assert service.process.poll() is None, "it waits for what it took"
            stream.sendall(body[5:])
            assert stream.recv(10_000).startswith(b"HTTP/1.1 200")
        assert service.process.wait(WAIT_S) == 0
        until(lambda: service.lines[-1].endswith("ended"))


def refuses(service: Served) -> bool:
    try:
        connected(service).close()
    except ConnectionRefusedError:
        return True
    return False


def test_several_workers_know_the_same_keys_and_tokens_and_count_together(settings: Settings, lake: Lake, tmp_path: Path) -> None:
    with served(settings, tmp_path, workers=2) as service:
        key = key_for(lake)
        with service.client(key) as client:
            token = client.post("/v1/tokens", json={}).json()["token"]

        def asked(_: int) -> int:
            with service.client(token) as client:
                return client.get("/v1/blocks/3").status_code

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(asked, range(20))) == {200}
        with service.client() as client:
            assert 'route="/v1/blocks/{slot}",status="200"} 20.0' in client.get("/metrics").text
        assert service.end() == 0


def test_a_port_that_is_taken_is_said(settings: Settings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "blyan.cli", "serve", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY), "PATH": ""}, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 1
    assert "Remedy: choose another port, or 0" in done.stderr


def test_tls_cross_origin_pages_and_readers_without_a_key_are_settings(settings: Settings, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    tls = {"BLYAN_SERVE_TLS_CERTIFICATE": str(certificate), "BLYAN_SERVE_TLS_KEY": str(key)}
    with (
        served(settings, tmp_path, BLYAN_SERVE_ANONYMOUS="true", BLYAN_SERVE_CORS_ORIGINS='["https://page.example"]', **tls) as service,
        httpx.Client(base_url=service.url, verify=ssl.create_default_context(cafile=str(certificate))) as client,
    ):
        assert service.url.startswith("https://")
        answer = client.get("/v1/blocks/5", headers={"origin": "https://page.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        assert "max-age" in answer.headers["strict-transport-security"]
        asked = {"origin": "https://page.example", "access-control-request-method": "GET", "access-control-request-headers": "authorization"}
        assert client.options("/v1/blocks", headers=asked).status_code == 200
        assert client.options("/v1/blocks", headers=asked | {"origin": "https://other.example"}).status_code == 400
        assert client.get("/v1/me").json()["via"] == "anonymous"
        problem(client.post("/v1/sql", json={"sql": "select 1"}), "forbidden")
        problem(client.post("/v1/tokens", json={}), "forbidden")


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, and its key."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")]), dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        builder.add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder / "certificate.pem", folder / "key.pem"


def test_the_files_of_tls_are_checked_before_anything_listens(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "not.pem").write_text("nothing")
    for certificate, key in ((str(tmp_path / "not.pem"), None), (str(tmp_path / "not.pem"), str(tmp_path / "not.pem"))):
        chosen = settings.model_copy(update={"serve_tls_certificate": certificate, "serve_tls_key": key})
        with pytest.raises(SettingError, match="BLYAN_SERVE_TLS"):
            serve(chosen, host="127.0.0.1", port=0, workers=1, say=print)


# Live


def test_a_slot_is_told_within_a_second_over_both_ways(settings: Settings, lake: Lake, tmp_path: Path) -> None:
    from websockets.sync.client import connect

    made = made_lake(tmp_path / "lake")
    key = key_for(Lake.from_settings(made), Role.READER)
    with served(made, tmp_path) as service, service.client(key) as client, contextlib.ExitStack() as follow_slots:
        socket_url = service.url.replace("http", "ws") + "/v1/live"
        with client.stream("GET", "/v1/live") as stream, connect(socket_url, additional_headers={"authorization": f"Bearer {key}"}) as told:
            events = sse(stream)
            graph = follow_slots.enter_context(client.stream("POST", "/v1/graphql", json={"query": "subscription { slots { slot commitment } }"}))
            name, first = next(events)
            assert (name, first["finalized_to"], len(first["slots"])) == ("head", 44, 5)
            assert json.loads(told.recv(WAIT_S))["event"] == "head"
            landing = Landing(Lake.from_settings(made), made.grid)
            landing.advance(list(open_source(made).read(SlotRange(50, 50))), processed=52)
            began = time.monotonic()
            name, slot = next(events)
            assert time.monotonic() - began < 5
            assert (name, slot["slot"], slot["commitment"]) == ("slot", 50, "confirmed")
            assert next(sse(graph)) == ("next", {"data": {"slots": {"slot": 50, "commitment": "confirmed"}}})
            message = json.loads(told.recv(WAIT_S))
            assert (message["event"], message["data"]) == ("slot", slot)
            landing.advance([], removed=[49])
            assert next(events)[0] == "gone"
            landing.advance([], checkpoint=48)
            assert next(events) == ("final", {"finalized_to": 47})
        with client.stream("GET", "/v1/live", params={"after": message["id"]}) as stream:
            assert next(sse(stream))[0] == "gone", "what came since"
        with client.stream("GET", "/v1/live", headers={"last-event-id": "1"}) as stream:
            assert next(sse(stream))[0] == "head", "more than is remembered"
            service.process.terminate()
            assert service.process.wait(WAIT_S) == 0, "streams do not hold it up"
        landing.close()


def sse(stream: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in stream.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_live_needs_a_key_and_its_scope(service: Served, lake: Lake) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    url = service.url.replace("http", "ws") + "/v1/live"
    with pytest.raises(InvalidStatus) as refused:
        connect(url)
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["type"] == "urn:blyan:problem:unauthenticated"
    narrow = key_for(lake, Role.ANALYST, frozenset({Scope.READ}))
    with pytest.raises(InvalidStatus) as refused:
        connect(url, subprotocols=[f"bearer.{narrow}"])  # type: ignore[list-item]
    assert refused.value.response.status_code == 403
    with connect(url, subprotocols=[f"bearer.{key_for(lake)}"]) as told:  # type: ignore[list-item]
        assert json.loads(told.recv(WAIT_S))["event"] == "head"
