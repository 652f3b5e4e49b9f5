"""SQL over HTTP: forms, pages, pins, long queries, live queries, and what is refused."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blyan.api.callers import Role, Scope
from blyan.lake import Lake
from blyan.settings import Settings
from blyan.solana.landing import Landing
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from tests.http_service import WAIT_S, Served, key_for, made_lake, served, until
from tests.integration.test_http_service import problem, sse

ENDLESS = "select count(*) from range(100000000) a, range(100000000) b, range(100000000) c where a.range + b.range + c.range = 7"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sql")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return made_lake(folder / "lake")


@pytest.fixture(scope="module")
def service(settings: Settings, folder: Path) -> Iterator[Served]:
    with served(settings, folder, BLYAN_QUERY_PROCESSES="2") as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Served, settings: Settings) -> Iterator[httpx.Client]:
    with service.client(key_for(Lake.from_settings(settings))) as client:
        yield client


def ask(client: httpx.Client, sql: str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/v1/sql", json={"sql": sql, **more}).raise_for_status().json()
    return answer


def test_an_answer_has_exact_rows_and_what_they_were_read_from(client: httpx.Client) -> None:
    answer = ask(
        client, "select block_slot, fee, fee * 1.5 as more from solana.transactions where block_slot >= $1 order by all limit 2", params=[40]
    )
    assert [column["type"] for column in answer["columns"]] == ["BIGINT", "DECIMAL(20,0)", "DECIMAL(22,1)"]
    assert all(isinstance(row[1], str) for row in answer["rows"])
    assert answer["truncated"] is False
    reading = answer["reading"]
    assert reading["versions"] == {"solana/transactions": 2}
    assert (reading["up_to_slot"], reading["finality"], reading["behind_slots"]) == (49, "confirmed", 2)


def test_every_form_has_the_same_rows(client: httpx.Client) -> None:
    sql = {"sql": "select slot, block_hash, leader_reward from solana.blocks order by slot", "rows": 10}
    rows = client.post("/v1/sql", json=sql).json()["rows"]

    answer = client.post("/v1/sql", json=sql, headers={"accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    lines = list(csv.reader(io.StringIO(answer.text)))
    assert lines[0] == ["slot", "block_hash", "leader_reward"]
    assert lines[1:11] == [[str(slot), block_hash, reward or ""] for slot, block_hash, reward in rows]
    assert lines[11][0].startswith("# truncated"), "nothing is cut silently"
    assert json.loads(answer.headers["blyan-reading"])["up_to_slot"] == 49
    assert answer.headers["blyan-truncated"] == "true"

    arrow = pa.ipc.open_stream(client.post("/v1/sql", json={**sql, "format": "arrow"}).content).read_all()
    parquet = pq.read_table(io.BytesIO(client.post("/v1/sql", json={**sql, "format": "parquet"}).content))
    for table in (arrow, parquet):
        assert [
            [slot, block_hash, None if reward is None else str(reward)]
            for slot, block_hash, reward in zip(*(column.to_pylist() for column in table.columns), strict=True)
        ] == rows


def test_pages_go_on_with_the_cursor(client: httpx.Client) -> None:
    found, cursor = [], None
    while True:
        answer = ask(client, "select slot from solana.blocks order by slot", rows=7, **({"cursor": cursor} if cursor else {}))
        found += [slot for (slot,) in answer["rows"]]
        cursor = answer["cursor"]
        if cursor is None:
            break
    assert found == [slot for (slot,) in ask(client, "select slot from solana.blocks order by slot")["rows"]]
    assert not answer["truncated"]
    document = problem(client.post("/v1/sql", json={"sql": "select 1", "cursor": "nonsense"}), "bad-cursor")
    assert document["errors"][0]["where"] == "body.cursor"


def test_a_long_answer_is_streamed_whole(client: httpx.Client) -> None:
    answer = ask(client, "select range as n, repeat('x', 50) as text from range(30000)")
    assert [row[0] for row in answer["rows"]] == list(range(30_000))
    assert answer["rows_count"] == 30_000


def test_a_pin_gives_the_same_bytes_after_the_lake_has_moved(client: httpx.Client, settings: Settings) -> None:
    sql = {"sql": "select slot, state from solana.completeness where slot < 40 order by slot"}
    pinned = client.post("/v1/pins", json=sql).raise_for_status().json()
    before = client.get(pinned["link"], params={"format": "csv"}).content
    lake = Lake.from_settings(settings)
    from blyan.schemas import COMPLETENESS

    lake.compact(COMPLETENESS)
    assert client.get(pinned["link"], params={"format": "csv"}).content == before
    assert client.get(pinned["link"]).json()["digest"] == pinned["digest"]
    problem(client.get(f"/v1/pins/{'0' * 64}"), "not-found")


def test_a_long_query_is_submitted_polled_fetched_and_cancelled(client: httpx.Client, service: Served, settings: Settings) -> None:
    submitted = client.post("/v1/queries", json={"sql": "select slot from solana.blocks order by slot"})
    assert submitted.status_code == 202
    path = f"/v1/queries/{submitted.json()['name']}"
    until(lambda: client.get(path).json()["state"] == "done")
    assert client.get(client.get(path).json()["result"]).json()["rows"][0] == [0]
    with service.client(key_for(Lake.from_settings(settings))) as other:
        problem(other.get(path), "not-found")
    endless = client.post("/v1/queries", json={"sql": ENDLESS}).json()["name"]
    assert client.delete(f"/v1/queries/{endless}").json()["state"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "slug", "said"),
    [
        ({"sql": "select fe from solana.transactions"}, "query-refused", "fee"),
        ({"sql": "select * from solana.blockz"}, "query-refused", "solana.blockz"),
        ({"sql": "drop table solana.blocks"}, "query-refused", ""),
        ({"sql": "select 1; select 2"}, "query-refused", ""),
        ({"sql": "select * from read_text('/etc/passwd')"}, "query-refused", ""),
        ({"sql": "select * from '/etc/passwd'"}, "query-refused", ""),
        ({"sql": "select \x00"}, "query-refused", ""),
        ({"sql": "select " + "(" * 10_000 + "1" + ")" * 10_000}, "query-refused", ""),
        ({"sql": "select " + "1+" * 400_000 + "1"}, "query-refused", ""),
        ({"sql": "select '" + "x" * 10_000_000 + "'"}, "too-large", ""),
        ({"sql": 1}, "invalid", "valid string"),
        ({"sql": "select 1", "paramz": []}, "invalid", "did you mean params"),
        ({"sql": "select $1", "params": [{"deep": {}}]}, "invalid", ""),
        ({"sql": "select 1", "rows": 0}, "invalid", "greater than or equal to 1"),
        ({"sql": "select 1", "format": "xml"}, "invalid", "'json'"),
        ({"sql": "select slot from solana.blocks", "at": {"versions": 999}}, "not-found", "version"),
        ({}, "invalid", "Field required"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_what_cannot_be_asked_is_a_problem_with_a_remedy(client: httpx.Client, body: dict[str, Any], slug: str, said: str) -> None:
    document = problem(client.post("/v1/sql", json=body), slug)
    assert said in document["detail"] + document["remedy"] + " ".join(error["what"] for error in document["errors"])
    assert document["detail"]
    assert "/tmp" not in json.dumps(document)
    assert ask(client, "select 1")["rows"] == [[1]], "the next one is answered"


def test_a_reader_may_not_ask_in_sql(service: Served, settings: Settings) -> None:
    with service.client(key_for(Lake.from_settings(settings), Role.READER)) as client:
        assert "scope `sql`" in problem(client.post("/v1/sql", json={"sql": "select 1"}), "forbidden")["detail"]


def test_an_unknown_form_is_not_acceptable(client: httpx.Client) -> None:
    problem(client.post("/v1/sql", json={"sql": "select 1"}, headers={"accept": "image/png"}), "not-acceptable")


def test_a_client_that_goes_away_frees_its_process(client: httpx.Client, service: Served, settings: Settings) -> None:
    """Two processes and two callers who leave: who comes after them would wait ten seconds, and be refused."""
    key = key_for(Lake.from_settings(settings))
    leaving = []
    for _ in range(2):
        with service.client(key) as impatient, pytest.raises(httpx.ReadTimeout):
            impatient.post("/v1/sql", json={"sql": ENDLESS}, timeout=1)
        leaving.append(time.monotonic())
    assert ask(client, "select 1")["rows"] == [[1]]
    assert time.monotonic() - leaving[-1] < 9


def test_a_caller_has_so_many_statements_at_once(client: httpx.Client, service: Served, settings: Settings) -> None:
    key = key_for(Lake.from_settings(settings), Role.ANALYST, frozenset({Scope.SQL}))
    refused: list[int] = []
    ask(client, "select 1")  # the first statement of a process waits for the parser to be imported

    def endless(number: int) -> None:
        with service.client(key) as mine, contextlib.suppress(httpx.ReadTimeout):
            # Statements of their own: those who ask for the same share one.
            refused.append(mine.post("/v1/sql", json={"sql": f"{ENDLESS}{number}"}, timeout=2).status_code)

    threads = [threading.Thread(target=endless, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused.count(429) >= 2
    assert ask(client, "select 1")["rows"] == [[1]]


def test_the_audit_has_statements_and_their_digest(client: httpx.Client, folder: Path) -> None:
    ask(client, "select 'find me in the audit'")
    until(lambda: "find me" in (folder / "audit.jsonl").read_text())
    records = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    (record,) = [record for record in records if "find me" in (record.get("sql") or "")]
    assert (record["rows"], len(record["sql_sha256"]), record["caller"][:4]) == (1, 64, "key:")


def test_a_live_query_tells_when_its_result_changes_and_only_then(tmp_path: Path) -> None:
    settings = made_lake(tmp_path / "lake")
    lake = Lake.from_settings(settings)
    with served(settings, tmp_path, BLYAN_QUERY_PROCESSES="1") as service, service.client(key_for(lake)) as client:
        problem(client.get("/v1/live/query", params={"sql": "selec"}), "query-refused")
        with client.stream("GET", "/v1/live/query", params={"sql": "select max(slot) from solana.blocks"}, timeout=WAIT_S) as stream:
            events = sse(stream)
            assert next(events)[1]["rows"] == [[49]]
            landing = Landing(lake, settings.grid)
            landing.advance([], checkpoint=47)  # another head, the same rows
            landing.advance(list(open_source(settings).read(SlotRange(50, 52))), processed=53)
            name, result = next(events)
            assert (name, result["rows"], result["reading"]["up_to_slot"]) == ("result", [[52]], 52)
            landing.close()
            service.process.terminate()
            assert service.process.wait(WAIT_S) == 0
