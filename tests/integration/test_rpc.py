"""The RPC source against a real HTTP server on loopback that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from blyan.errors import PermanentError, RateLimitedError, SettingError, SourceUnreachableError
from blyan.settings import load_settings
from blyan.solana import jsonrpc
from blyan.solana.jsonrpc import MAX_RETRY_AFTER_S, RpcClient
from blyan.solana.slots import SlotRange
from blyan.solana.sources import BlockSource, Format, RawRecord, SlotState, open_source
from blyan.solana.sources.rpc import RpcSource
from tests.rpc_server import (
    BrokenChunk,
    BrokenCompression,
    BrokenHead,
    Compressed,
    Drip,
    Endless,
    Error,
    HalfBody,
    HalfBodyThatClaimsToBeWhole,
    Held,
    Html,
    LastWord,
    Misbehaviour,
    OtherId,
    Reset,
    Result,
    RpcServer,
    Status,
)

PRESENT, SKIPPED, UNKNOWN, REJECTED = SlotState.PRESENT, SlotState.SKIPPED, SlotState.UNKNOWN, SlotState.REJECTED
SKIPS = {103, 104, 110, 119}
"""Slots of the test chain, 100 to 119, that have no block; the node's tip is 125."""


def a_block(slot: int, parent: int) -> bytes:
    return json.dumps(
        {
            "blockHeight": slot,
            "blockTime": 1_700_000_000 + slot,
            "blockhash": f"hash{slot}",
            "parentSlot": parent,
            "previousBlockhash": f"hash{parent}",
            "rewards": [],
            "transactions": [],
        }
    ).encode()


def a_chain(first: int, last: int, skips: set[int]) -> dict[int, bytes]:
    present = [slot for slot in range(first, last + 1) if slot not in skips]
    return {slot: a_block(slot, parent) for parent, slot in zip([first - 1, *present], present, strict=False)}


@pytest.fixture
def server() -> Iterator[RpcServer]:
    with RpcServer(a_chain(100, 125, SKIPS)) as server:
        yield server


class Waits:
    """Sleeps that take no time, and are remembered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def a_source(server: RpcServer, waits: Waits | None = None, **options: object) -> RpcSource:
    return RpcSource(server.url, sleep=waits or Waits(), jitter=lambda: 1.0, **options)  # type: ignore[arg-type]


def read(source: RpcSource, first: int, last: int) -> list[RawRecord]:
    return list(source.read(SlotRange(first, last)))


def test_the_source_is_a_block_source_that_the_settings_choose(server: RpcServer) -> None:
    source = open_source(load_settings(source="rpc", rpc_url=server.url))
    assert isinstance(source, RpcSource)
    assert isinstance(source, BlockSource)
    assert server.requests == []


def test_check_reports_the_chain_and_what_the_node_has(server: RpcServer) -> None:
    report = a_source(server).check()
    assert (report.genesis_hash, report.first_slot, report.last_slot) == ("GenesisOfTheTest", 100, 125)
    assert a_source(server).genesis_hash() == "GenesisOfTheTest"


def test_a_range_is_complete_in_order_and_verbatim(server: RpcServer) -> None:
    records = read(a_source(server), 100, 118)
    assert [record.slot for record in records] == list(range(100, 119))
    assert [record.slot for record in records if record.state is SKIPPED] == [103, 104, 110]
    for record in records:
        if record.state is PRESENT:
            assert record.payload == server.blocks[record.slot or 0]
            assert (record.block_hash, record.format, record.proof) == (f"hash{record.slot}", Format.GET_BLOCK, "getBlock")


def test_a_skipped_slot_is_proven_by_the_parent_link_of_the_next_block(server: RpcServer) -> None:
    proofs = {record.slot: record.proof for record in read(a_source(server), 100, 119) if record.state is SKIPPED}
    assert proofs == {103: "parent link of 105", 104: "parent link of 105", 110: "parent link of 111", 119: "parent link of 120"}


def test_a_skipped_slot_whose_next_block_cannot_be_read_is_proven_by_getblocks(server: RpcServer) -> None:
    server.misbehave("getBlock", Error(-32009), slot=105)
    records = {record.slot: record for record in read(a_source(server), 102, 106)}
    assert [records[slot].state for slot in range(102, 107)] == [PRESENT, SKIPPED, SKIPPED, UNKNOWN, PRESENT]
    assert (records[103].proof, records[105].proof) == ("getBlocks", "rpc -32009")


def test_the_node_is_asked_in_order_for_full_finalized_versioned_blocks(server: RpcServer) -> None:
    read(a_source(server, concurrency=1, encoding="base64"), 100, 104)
    assert [request.method for request in server.requests[:3]] == ["getFirstAvailableBlock", "getSlot", "getBlocks"]
    assert server.calls("getBlocks")[0].params == [100, 104, {"commitment": "finalized"}]
    whole = [request for request in server.calls("getBlock") if request.params[1]["transactionDetails"] == "full"]
    assert [request.slot for request in whole] == [100, 101, 102]
    assert whole[0].params[1] == {
        "commitment": "finalized",
        "encoding": "base64",
        "transactionDetails": "full",
        "rewards": True,
        "maxSupportedTransactionVersion": 0,
    }


def test_no_block_is_fetched_twice(server: RpcServer) -> None:
    read(a_source(server), 100, 118)
    slots = [request.slot for request in server.calls("getBlock")]
    assert len(slots) == len(set(slots)) == 16


def test_getblocks_is_split_at_500000_slots() -> None:
    with RpcServer({0: a_block(0, 0), 1_200_000: a_block(1_200_000, 1_199_999)}) as server:
        states = a_source(server).states(SlotRange(0, 1_200_000))
        assert [request.params[:2] for request in server.calls("getBlocks")] == [[0, 499_999], [500_000, 999_999], [1_000_000, 1_200_000]]
    assert (states[0], states[1], states[-2], states[-1]) == (PRESENT, SKIPPED, SKIPPED, PRESENT)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_blocks_are_in_flight_than_the_setting_allows(server: RpcServer, concurrency: int) -> None:
    read(a_source(server, concurrency=concurrency), 100, 118)
    assert 1 <= server.most_at_once <= concurrency


def test_blocks_are_fetched_at_once_and_still_come_in_order(server: RpcServer) -> None:
    release = threading.Event()
    server.misbehave("getBlock", Held(release), slot=100)
    stream = a_source(server, concurrency=4).read(SlotRange(100, 109))
    taken: list[RawRecord] = []
    reader = threading.Thread(target=lambda: taken.extend(stream))
    reader.start()
    try:
        while len(server.calls("getBlock")) < 4:
            reader.join(0.005)
        assert taken == []
    finally:
        release.set()
        reader.join()
    assert [record.slot for record in taken] == list(range(100, 110))
    assert {request.slot for request in server.calls("getBlock")[:4]} == {100, 101, 102, 105}


def test_a_reader_that_stops_early_stops_the_requests(server: RpcServer) -> None:
    stream = a_source(server, concurrency=2).read(SlotRange(100, 118))
    assert next(stream).slot == 100
    stream.close()
    assert len(server.calls("getBlock")) <= 3


@pytest.mark.parametrize(
    "way",
    [
        Status(500),
        Status(502),
        Status(503),
        Status(408),
        HalfBody(),
        HalfBodyThatClaimsToBeWhole(),
        BrokenCompression(),
        BrokenCompression(cut=True),
        BrokenChunk(),
        BrokenHead(),
        Reset(),
        Html(),
        OtherId(),
        Error(-32603),
    ],
    ids=lambda way: type(way).__name__ + str(getattr(way, "code", "")),
)
def test_a_broken_answer_is_asked_for_again_and_nothing_is_lost(server: RpcServer, way: Misbehaviour) -> None:
    server.misbehave("getBlock", way, way, slot=102)
    server.misbehave("getBlocks", way)
    server.misbehave("getSlot", way)
    waits = Waits()
    records = read(a_source(server, waits), 100, 109)
    assert [(record.slot, record.state) for record in records] == [(slot, SKIPPED if slot in SKIPS else PRESENT) for slot in range(100, 110)]
    assert len(waits.seconds) == 4
    assert [request.slot for request in server.calls("getBlock")].count(102) == 3


def test_a_compressed_answer_is_read(server: RpcServer) -> None:
    server.misbehave("getBlock", Compressed(), slot=101)
    (record,) = read(a_source(server), 101, 101)
    assert record.payload == server.blocks[101]
    assert "gzip" in server.requests[-1].headers["Accept-Encoding"]


@pytest.mark.parametrize("compressed", [False, True])
def test_an_answer_over_the_bound_is_refused_while_it_comes(server: RpcServer, monkeypatch: pytest.MonkeyPatch, compressed: bool) -> None:
    monkeypatch.setattr(jsonrpc, "MAX_BODY_BYTES", 1 << 20)
    hung_up = threading.Event()
    server.misbehave("getBlock", Endless(hung_up, compressed), slot=101)
    records = read(a_source(server), 100, 102)
    assert [(record.slot, record.state) for record in records] == [(100, PRESENT), (101, REJECTED), (101, UNKNOWN), (102, PRESENT)]
    assert records[1].proof == "too_large"
    assert hung_up.wait(10)


def test_connections_are_kept_and_no_more_than_the_calls_in_flight(server: RpcServer) -> None:
    read(a_source(server, concurrency=1), 100, 118)
    assert len(server.requests) > 16
    assert len({id(request.connection) for request in server.requests}) == 1
    server.requests.clear()
    read(a_source(server, concurrency=3), 100, 118)
    assert len({id(request.connection) for request in server.requests}) <= 3


def test_calls_that_start_at_once_share_the_connections(server: RpcServer) -> None:
    async def ask() -> list[str]:
        client = RpcClient(server.url, concurrency=2)
        try:
            return await asyncio.gather(*(client.ask("getGenesisHash", [], str) for _ in range(12)))
        finally:
            await client.close()

    assert asyncio.run(ask()) == ["GenesisOfTheTest"] * 12
    assert len({id(request.connection) for request in server.requests}) == 2


def test_a_connection_that_the_server_closed_after_an_answer_is_made_anew(server: RpcServer) -> None:
    server.misbehave("getBlock", LastWord(), always=True)
    records = read(a_source(server, concurrency=1), 100, 109)
    assert [record.state for record in records] == [SKIPPED if slot in SKIPS else PRESENT for slot in range(100, 110)]
    assert len({id(request.connection) for request in server.calls("getBlock")}) == len(server.calls("getBlock"))


@pytest.mark.parametrize("from_status_line", [False, True])
def test_an_answer_that_drips_slower_than_the_timeout_is_given_up_and_asked_for_again(server: RpcServer, from_status_line: bool) -> None:
    server.misbehave("getBlock", Drip(from_status_line), slot=101)
    records = read(a_source(server, timeout_s=0.3), 100, 102)
    assert [record.state for record in records] == [PRESENT] * 3
    assert [request.slot for request in server.calls("getBlock")].count(101) == 2


def test_the_pause_doubles_to_a_cap_and_is_jittered_from_nothing(server: RpcServer) -> None:
    server.misbehave("getGenesisHash", *[Status(500)] * 8)
    waits = Waits()
    RpcSource(server.url, sleep=waits, jitter=lambda: 1.0).genesis_hash()
    assert waits.seconds == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    server.misbehave("getGenesisHash", *[Status(500)] * 3)
    waits = Waits()
    RpcSource(server.url, sleep=waits, jitter=lambda: 0.0).genesis_hash()
    assert waits.seconds == [0, 0, 0]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_is_honoured(server: RpcServer, status: int) -> None:
    server.misbehave("getGenesisHash", Status(status, {"Retry-After": "7"}))
    waits = Waits()
    assert a_source(server, waits).genesis_hash() == "GenesisOfTheTest"
    assert waits.seconds == [7]


def test_retry_after_as_a_date_is_honoured(server: RpcServer) -> None:
    later, earlier = (format_datetime(datetime.now(UTC) + timedelta(seconds=offset), usegmt=True) for offset in (60, -60))
    server.misbehave(
        "getGenesisHash", Status(429, {"Retry-After": later}), Status(429, {"Retry-After": earlier}), Status(429, {"Retry-After": "soon"})
    )
    waits = Waits()
    a_source(server, waits).genesis_hash()
    assert 30 < waits.seconds[0] <= 60
    assert waits.seconds[1:] == [0, 1.0]  # a date in the past; nothing sensible, so the usual pause


def test_a_server_that_asks_for_a_very_long_pause_ends_the_run_at_once(server: RpcServer) -> None:
    server.misbehave("getGenesisHash", Status(429, {"Retry-After": str(int(MAX_RETRY_AFTER_S) + 1)}))
    waits = Waits()
    with pytest.raises(RateLimitedError, match="121 s"):
        a_source(server, waits).genesis_hash()
    assert waits.seconds == []


def test_a_rate_limit_that_outlasts_the_retries_says_what_to_lower(server: RpcServer) -> None:
    server.misbehave("getBlock", Status(429), always=True)
    with pytest.raises(RateLimitedError, match=r"getBlock failed 3 times.*HTTP 429.*BLYAN_RPC_CONCURRENCY"):
        read(a_source(server, retries=2), 100, 105)


def test_a_rate_limit_inside_an_answer_of_status_200_is_one_too(server: RpcServer) -> None:
    server.misbehave("getGenesisHash", Error(429, "Too many requests"), always=True)
    with pytest.raises(RateLimitedError, match="Too many requests"):
        a_source(server, retries=1).genesis_hash()


def test_a_server_that_stays_down_is_a_transient_error_that_names_the_setting(server: RpcServer) -> None:
    server.misbehave("getSlot", Status(502), always=True)
    with pytest.raises(SourceUnreachableError, match=r"getSlot failed 3 times.*HTTP 502.*127\.0\.0\.1.*BLYAN_RPC_URL"):
        a_source(server, retries=2).check()
    assert len(server.calls("getSlot")) == 3


def test_no_server_at_all_is_a_transient_error(server: RpcServer) -> None:
    url = server.url
    with RpcServer({}) as other:
        gone = other.url
    assert gone != url
    with pytest.raises(SourceUnreachableError, match=r"ClientConnectorError: .*Connect call failed"):
        RpcSource(gone, retries=1, sleep=Waits()).check()


def test_keys_in_the_url_appear_in_no_message(server: RpcServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    port = server.url.rpartition(":")[2]
    source = RpcSource(f"http://user:hunter2%C5%82@127.0.0.1:{port}/v2/path-key?api-key=query-key", retries=0, sleep=Waits())
    for way in (Status(500), Reset(), HalfBody(), BrokenHead()):
        server.misbehave("getGenesisHash", way)
        with pytest.raises(SourceUnreachableError) as caught:
            source.genesis_hash()
        told = "".join(traceback.format_exception(caught.value)) + source.where + caplog.text
        assert [secret for secret in ("hunter2", "path-key", "query-key") if secret in told] == []
        assert f"http://127.0.0.1:{port}" in str(caught.value)
    # They all went to the node.
    assert server.requests[-1].target == "/v2/path-key?api-key=query-key"
    assert base64.b64decode(server.requests[-1].headers["Authorization"].removeprefix("Basic ")).decode() == "user:hunter2ł"


@pytest.mark.parametrize("url", ["http://user:hunter2@host:80:90/", "http://user:hunter2@host℀.com", "ftp://user:hunter2@host/hunter2?hunter2"])
def test_keys_in_what_is_no_url_appear_in_no_message(url: str) -> None:
    with pytest.raises(SettingError, match="BLYAN_RPC_URL") as caught:
        RpcSource(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment, with no proxy in it."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_the_proxy_of_the_environment_is_used(server: RpcServer, no_proxy: pytest.MonkeyPatch, name: str) -> None:
    no_proxy.setenv(name, server.url.replace("//", "//user:word@"))
    assert RpcSource("http://node.example/key").genesis_hash() == "GenesisOfTheTest"
    assert server.requests[0].target == "http://node.example/key"
    assert server.requests[0].headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"user:word").decode()


def test_the_proxy_of_the_environment_is_not_used_for_what_it_excepts(server: RpcServer, no_proxy: pytest.MonkeyPatch) -> None:
    no_proxy.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(SourceUnreachableError):
        a_source(server, retries=0).genesis_hash()
    no_proxy.setenv("no_proxy", "127.0.0.1")
    assert a_source(server, retries=0).genesis_hash() == "GenesisOfTheTest"


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://127.0.0.1:many"])
def test_a_proxy_that_is_not_of_http_is_a_wrong_setting(server: RpcServer, no_proxy: pytest.MonkeyPatch, proxy: str) -> None:
    no_proxy.setenv("all_proxy", proxy)
    with pytest.raises(SettingError, match="ALL_PROXY"):
        a_source(server).genesis_hash()


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    key, path = ec.generate_private_key(ec.SECP256R1()), tmp_path / "node.pem"
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(path)
    with RpcServer({}, tls=tls) as server:
        with pytest.raises(SourceUnreachableError, match="certificate verify failed"):
            a_source(server, retries=0).genesis_hash()
        assert server.requests == []
        # Which certificates to trust is read as a process starts.
        code = "import sys; from blyan.solana.sources.rpc import RpcSource; print(RpcSource(sys.argv[1], retries=0).genesis_hash())"
        trusting = os.environ | {"SSL_CERT_FILE": str(path)}
        done = subprocess.run([sys.executable, "-W", "error", "-c", code, server.url], env=trusting, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("GenesisOfTheTest\n", "")


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404])
def test_a_refusal_is_permanent_and_names_the_setting(server: RpcServer, status: int) -> None:
    server.misbehave("getGenesisHash", Status(status, {"Location": server.url}))
    with pytest.raises(SettingError, match=rf"HTTP {status}.*BLYAN_RPC_URL"):
        a_source(server).genesis_hash()
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [-32600, -32601, -32602])
def test_a_call_the_node_does_not_understand_is_permanent(server: RpcServer, code: int) -> None:
    server.misbehave("getBlock", Error(code, "Invalid params"), slot=101)
    with pytest.raises(PermanentError, match=rf"getBlock is refused with {code}.*BLYAN_RPC_URL"):
        read(a_source(server), 100, 105)


def test_a_node_without_transaction_history_is_a_wrong_setting(server: RpcServer) -> None:
    server.misbehave("getBlock", Error(-32011), slot=100)
    with pytest.raises(SettingError, match="enable-rpc-transaction-history"):
        read(a_source(server), 100, 100)


def test_an_endpoint_that_is_no_solana_node_is_a_wrong_setting(server: RpcServer) -> None:
    server.misbehave("getGenesisHash", Result(b'{"number": 5}'))
    with pytest.raises(SettingError, match=r"not Solana's form.*BLYAN_RPC_URL"):
        a_source(server).genesis_hash()


@pytest.mark.parametrize("url", ["wss://example.com", "not a url", "", "ftp://example.com", "http://"])
def test_a_url_that_is_not_of_http_is_refused_before_anything_is_contacted(url: str) -> None:
    with pytest.raises(SettingError, match="BLYAN_RPC_URL"):
        RpcSource.from_settings(load_settings(rpc_url=url))


def test_slots_before_the_first_available_block_are_pruned(server: RpcServer) -> None:
    server.first_available = 105
    records = read(a_source(server), 100, 106)
    assert [(record.state, record.proof) for record in records] == [(UNKNOWN, "pruned")] * 5 + [(PRESENT, "getBlock")] * 2
    assert a_source(server).states(SlotRange(100, 106)) == [UNKNOWN] * 5 + [PRESENT] * 2
    assert all((request.slot or 0) >= 105 for request in server.calls("getBlock"))


def test_slots_after_the_tip_are_not_finalized_yet(server: RpcServer) -> None:
    server.tip = 104
    records = read(a_source(server), 101, 106)
    assert [(record.state, record.proof) for record in records] == [(PRESENT, "getBlock")] * 2 + [(UNKNOWN, "not finalized yet")] * 4
    assert a_source(server).states(SlotRange(101, 106)) == [PRESENT] * 2 + [UNKNOWN] * 4


def test_a_range_wholly_outside_what_the_node_has_is_unknown(server: RpcServer) -> None:
    assert {record.proof for record in read(a_source(server), 0, 50)} == {"pruned"}
    assert {record.proof for record in read(a_source(server), 500, 550)} == {"not finalized yet"}
    assert server.calls("getBlock") == []


def test_a_node_behind_the_tip_another_one_told_proves_no_slot_skipped(server: RpcServer) -> None:
    # The load balancer asked one node for the tip, and another, which is behind, for the list.
    server.misbehave("getBlocks", Result(b"[100,101,102]"), Result(b"[]"), always=True)
    assert [record.proof for record in read(a_source(server), 101, 104)] == ["getBlock", "getBlock", "not finalized yet", "not finalized yet"]


def test_a_node_that_is_behind_is_waited_for_and_then_a_transient_error(server: RpcServer) -> None:
    server.misbehave("getBlock", Error(-32004, "Block not available for slot 101"), Error(-32005), Error(-32014), Error(-32016), slot=101)
    assert [record.state for record in read(a_source(server), 101, 101)] == [PRESENT]
    server.misbehave("getBlock", Error(-32004, "Block not available for slot 101"), slot=101, always=True)
    with pytest.raises(SourceUnreachableError, match="Block not available for slot 101"):
        read(a_source(server, retries=2), 100, 105)


@pytest.mark.parametrize(
    ("code", "proof", "words"),
    [
        (-32001, "pruned", "archive node"),
        (-32007, "rpc -32007", "another node"),
        (-32009, "rpc -32009", "another node"),
        (-32015, "rpc -32015", "version"),
    ],
)
def test_a_listed_slot_that_getblock_denies_is_unknown_with_the_code(server: RpcServer, code: int, proof: str, words: str) -> None:
    server.misbehave("getBlock", Error(code), slot=101)
    records = read(a_source(server), 100, 102)
    assert [record.state for record in records] == [PRESENT, UNKNOWN, PRESENT]
    assert records[1].proof == proof
    assert str(code) in records[1].detail
    assert words in records[1].detail


def test_a_null_block_is_unknown(server: RpcServer) -> None:
    server.misbehave("getBlock", Result(b"null"), slot=101)
    assert [(record.state, record.proof) for record in read(a_source(server), 101, 101)] == [(UNKNOWN, "null result")]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (b'{"blockhash": 5}', "not_a_block"),
        (b'{"transactions": []}', "not_a_block"),
        (b'{"blockhash":"h","parentSlot":100,"previousBlockhash":"\xff"}', "invalid_utf8"),
        (a_block(108, 107), "wrong_slot"),
    ],
)
def test_a_result_that_is_not_the_block_is_rejected_and_costs_no_other(server: RpcServer, result: bytes, reason: str) -> None:
    server.misbehave("getBlock", Result(result), slot=101)
    records = read(a_source(server), 100, 102)
    assert [(record.slot, record.state) for record in records] == [(100, PRESENT), (101, REJECTED), (101, UNKNOWN), (102, PRESENT)]
    assert (records[1].proof, records[1].payload, records[2].proof) == (reason, result, "unreadable")


def test_blocks_that_getblocks_left_out_are_found_by_the_parent_links(server: RpcServer) -> None:
    server.hide(101, 102, 107)
    records = read(a_source(server), 100, 109)
    assert [(record.slot, record.state) for record in records] == [(slot, SKIPPED if slot in SKIPS else PRESENT) for slot in range(100, 110)]


def test_blocks_left_out_at_the_end_of_a_range_are_found_too(server: RpcServer) -> None:
    server.hide(118, 117)
    records = read(a_source(server), 115, 119)
    assert [record.state for record in records] == [PRESENT] * 4 + [SKIPPED]


def test_a_list_that_left_out_a_block_that_cannot_be_read_proves_nothing_before_it(server: RpcServer) -> None:
    server.hide(105)
    server.misbehave("getBlock", Error(-32001), slot=105, always=True)
    records = {record.slot: record for record in read(a_source(server), 102, 106)}
    assert [records[slot].state for slot in range(102, 107)] == [PRESENT, UNKNOWN, UNKNOWN, UNKNOWN, PRESENT]
    assert (records[103].proof, records[105].proof) == ("unproven", "pruned")


def test_states_agree_with_what_is_read(server: RpcServer) -> None:
    states = a_source(server).states(SlotRange(98, 119))
    assert states == [record.state for record in read(a_source(server), 98, 119)]


def test_recorded_mainnet_blocks_come_through_verbatim(shared_data: Path) -> None:
    folder = shared_data / "solana" / "blocks"
    blocks = {
        int(path.name.partition("-")[0]): path.read_bytes() for path in folder.glob("*-base64-helius*.json") if path.suffix == ".json"
    }  # fmt: skip
    assert len(blocks) == 4
    with RpcServer(blocks) as server:
        for slot, block in blocks.items():
            (record,) = read(a_source(server), slot, slot)
            assert (record.payload, record.block_hash) == (block, json.loads(block)["blockhash"])


def test_the_same_range_read_twice_gives_the_same_records(server: RpcServer) -> None:
    source = a_source(server)
    assert read(source, 99, 121) == read(source, 99, 121)
