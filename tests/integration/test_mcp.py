"""The tools over the Model Context Protocol, asked by its own client, over HTTP and over a pipe."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import jsonschema
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from blyan.api.callers import Role, Scope
from blyan.lake import Lake
from blyan.query.gate import tables
from blyan.settings import Settings
from tests.http_service import REPOSITORY, WAIT_S, Served, key_for, made_lake, make_searchable, served, until
from tests.integration.test_http_service import problem

NEWEST = "2026-07-28"
OLDER = "2025-11-25"
NAMES = ["sql", "search", "get_transaction", "describe_table"]


@asynccontextmanager
async def client_of(url: str, key: str, mode: str = "auto") -> AsyncIterator[Client]:
    """The protocol's own client, with a key."""
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=WAIT_S) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mcp")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    settings = made_lake(folder / "lake")
    make_searchable(settings)
    return settings


@pytest.fixture(scope="module")
def service(settings: Settings, folder: Path) -> Iterator[Served]:
    with served(settings, folder) as service:
        yield service


@pytest.fixture(scope="module")
def key(settings: Settings) -> str:
    return key_for(Lake.from_settings(settings), Role.ANALYST)


async def asked(client: Client) -> None:
    """What every client may expect, whatever it comes over."""
    offered = (await client.list_tools()).tools
    assert [tool.name for tool in offered] == NAMES
    for tool in offered:
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.annotations.destructive_hint is False
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
    schemas = {tool.name: tool.output_schema for tool in offered}

    async def call(name: str, **arguments: Any) -> dict[str, Any]:
        result = await client.call_tool(name, arguments)
        assert not result.is_error, result.content
        assert json.loads(result.content[0].text) == result.structured_content
        jsonschema.validate(result.structured_content, schemas[name])
        answer: dict[str, Any] = result.structured_content
        return answer

    rows = await call("sql", sql="select block_slot, signature, fee from solana.transactions where block_slot = $1", params=[5], rows=2)
    assert [row[0] for row in rows["rows"]] == [5, 5]
    assert rows["truncated"]
    assert rows["citations"][0] == {"slot": 5, "signature": rows["rows"][0][1], "table": "solana.transactions"}
    assert rows["reading"]["versions"] == {"solana/transactions": 2}
    more = await call(
        "sql", sql="select block_slot, signature, fee from solana.transactions where block_slot = $1", params=[5], rows=2, cursor=rows["cursor"]
    )
    assert more["rows"]
    assert more["rows"] != rows["rows"]

    found = await call("get_transaction", signature=rows["rows"][0][1])
    assert found["transaction"]["block_slot"] == 5
    assert found["transaction"]["fee"] == rows["rows"][0][2]
    assert found["text"] is None or "untrusted_text" in found["text"]

    hits = await call("search", query="failed transfers", first_slot=0, last_slot=19, limit=3)
    assert 0 < len(hits["hits"]) <= 3
    assert all(0 <= hit["slot"] <= 19 for hit in hits["hits"])
    assert all(set(hit["text"]) >= {"untrusted_text"} for hit in hits["hits"])

    assert [table["name"] for table in (await call("describe_table"))["tables"]] == list(tables())
    (blocks,) = (await call("describe_table", table="solana.blocks"))["tables"]
    assert blocks["rows"] > 30
    assert {"name": "slot", "type": "BIGINT"}.items() <= blocks["columns"][0].items()

    resources = (await client.list_resources()).resources
    assert [str(each.uri) for each in resources] == [f"blyan://tables/{name}" for name in tables()]
    content = (await client.read_resource(resources[1].uri)).contents[0].text
    assert json.loads(content)["name"] == resources[1].name

    # What is wrong with a call is told as its result, with what to do.
    for name, arguments, words in [
        ("sql", {"sql": "select slott from solana.blocks"}, "there is no column slott; the nearest is slot"),
        ("sql", {"sql": "drop table solana.blocks"}, "is not a statement that reads"),
        ("sql", {"sql": "select 1; select 2"}, "2 statements"),
        ("sql", {"statement": "select 1"}, "sql: Field required"),
        ("sql", {"sql": "select cast(leader as integer) from solana.blocks"}, "it failed at a row that it read: Conversion Error"),
        ("get_transaction", {"signature": "1" * 64}, "has this signature"),
        ("get_transaction", {"signature": "no"}, "signature: String should"),
        ("describe_table", {"table": "solana.block"}, "the nearest is solana.blocks"),
        ("search", {"query": "x", "first_slot": 9, "last_slot": 3}, ""),
        ("search", {"query": "x", "programs": ["Raydiun"]}, "no program is named"),
        ("shell", {"command": "ls"}, "there is no tool 'shell'"),
    ]:
        result = await client.call_tool(name, arguments)
        assert result.is_error, (name, arguments)
        assert words in result.content[0].text, result.content[0].text


@pytest.mark.parametrize(("mode", "version"), [("auto", NEWEST), ("legacy", OLDER)])
def test_its_own_client_has_every_tool_over_http(service: Served, key: str, mode: str, version: str) -> None:
    async def talk() -> None:
        async with client_of(service.url, key, mode) as client:
            assert client.protocol_version == version
            assert client.server_info.name == "blyan"
            await asked(client)

    asyncio.run(talk())


def test_its_own_client_has_every_tool_over_a_pipe(settings: Settings, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BLYAN_", "DAGSTER_"))}
    environment |= {"BLYAN_LAKE": settings.lake, "BLYAN_QUERY_PROCESSES": "1", "PYTHONPATH": str(REPOSITORY)}
    command = StdioServerParameters(command=sys.executable, args=["-m", "blyan.cli", "mcp"], env=environment, cwd=tmp_path)

    async def talk() -> None:
        with (tmp_path / "errors").open("w") as errors:
            async with Client(stdio_client(command, errlog=errors)) as client:
                assert client.protocol_version == NEWEST
                await asked(client)

    asyncio.run(talk())
    assert "Traceback" not in (tmp_path / "errors").read_text()


def message(method: str = "tools/list", **params: Any) -> dict[str, Any]:
    meta = {"io.modelcontextprotocol/protocolVersion": NEWEST, "io.modelcontextprotocol/clientCapabilities": {}}
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta, **params}}


def posted(service: Served, key: str | None, body: Any = None, **headers: str) -> httpx.Response:
    own = {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": NEWEST,
        "mcp-method": "tools/list",
    }
    with service.client(key) as client:
        return client.post("/mcp", content=json.dumps(message() if body is None else body), headers={**own, **headers})


def test_a_page_that_rebound_its_name_is_refused(service: Served, key: str) -> None:
    assert posted(service, key).status_code == 200
    assert posted(service, key, host="evil.example").status_code == 421
    assert posted(service, key, host="evil.example:8080").status_code == 421
    assert posted(service, key, origin="https://evil.example").status_code == 403
    assert posted(service, key, origin="http://localhost:3000").status_code == 200
    old = {"mcp-protocol-version": OLDER}
    assert posted(service, key, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, host="evil.example", **old).status_code == 421


def test_names_that_are_served_are_settings(settings: Settings, key: str, tmp_path: Path) -> None:
    with served(settings, tmp_path, BLYAN_SERVE_HOSTS='["lake.example"]', BLYAN_SERVE_CORS_ORIGINS='["https://console.example"]') as service:
        assert posted(service, key, host="lake.example").status_code == 200
        assert posted(service, key).status_code == 421
        assert posted(service, key, host="lake.example", origin="https://console.example").status_code == 200


def test_who_has_no_key_or_too_few_rights_is_refused(service: Served, settings: Settings) -> None:
    problem(posted(service, None), "unauthenticated")
    problem(posted(service, "blyan_nonsense"), "unauthenticated")
    lake = Lake.from_settings(settings)
    problem(posted(service, key_for(lake, Role.READER, frozenset({Scope.LIVE}))), "forbidden")

    async def talk() -> None:
        async with client_of(service.url, key_for(lake, Role.READER)) as client:
            refused = await client.call_tool("sql", {"sql": "select 1"})
            assert refused.is_error
            assert "needs the scope `sql`" in refused.content[0].text
            assert not (await client.call_tool("describe_table", {})).is_error

    asyncio.run(talk())


def test_what_is_no_message_is_refused(service: Served, key: str) -> None:
    assert posted(service, key, [message()]).status_code == 400
    assert posted(service, key, {"nonsense": True}).status_code == 400
    with service.client(key) as client:
        head = {"accept": "application/json, text/event-stream", "content-type": "application/json", "mcp-protocol-version": NEWEST}
        assert client.post("/mcp", content=b"{", headers=head).status_code == 400
        problem(client.post("/mcp", content=b"x" * (2 << 20), headers=head), "too-large")
        assert client.get("/mcp", headers=head).status_code == 405
    assert posted(service, key, message("tools/nonsense"), **{"mcp-method": "tools/nonsense"}).status_code == 404


def test_the_audit_log_says_who_called_what(service: Served, folder: Path, key: str) -> None:
    async def talk() -> None:
        async with client_of(service.url, key) as client:
            await client.call_tool("sql", {"sql": "select 4711 as audited"})
            await client.call_tool("search", {"query": "audited search"})

    asyncio.run(talk())

    def mine_of() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
        return [line for line in lines if line["path"] == "/mcp"]

    # A line is written once its answer has gone.
    until(lambda: any(line.get("sql") == "select 4711 as audited" and line["role"] == "analyst" for line in mine_of()))
    until(lambda: any("audited search" in line.get("question", "") for line in mine_of()))
    mine = mine_of()
    assert {line["route"] for line in mine if line["status"] == 200} == {"/mcp"}
