"""Remembered answers over HTTP: what is said of them, who gets which, conditional requests, dead rooms, and many at once."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from blyan.api.callers import Role, Scope
from blyan.lake import Lake
from blyan.query.cache import PAUSE_S
from blyan.query.shared_answers import PREFIX
from blyan.settings import Settings
from blyan.solana.landing import Landing
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from tests.http_service import Served, key_for, made_lake, served, until
from tests.integration.test_http_service import problem
from tests.redis_server import RedisServer

COUNT = "select status, count(*) as n from solana.transactions where block_slot between 0 and 19 group by all order by all"

NEWEST = "select max(slot) from solana.blocks"

SETTLED_PAGE = "/v1/transactions?first_slot=0&last_slot=19&limit=5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return made_lake(folder / "lake")


@pytest.fixture(scope="module")
def service(settings: Settings, folder: Path) -> Iterator[Served]:
    with served(settings, folder, BLYAN_QUERY_PROCESSES="2") as service:
        yield service


@pytest.fixture
def client(service: Served, settings: Settings) -> Iterator[httpx.Client]:
    with service.client(key_for(Lake.from_settings(settings))) as client:
        yield client


def ask(client: httpx.Client, sql: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    return client.post("/v1/sql", json={"sql": sql, **more}, headers=headers)


def status(response: httpx.Response) -> str:
    assert response.status_code in (200, 304), response.text
    return response.headers["cache-status"]


def moved(settings: Settings, slot: int) -> None:
    """One slot more in the tail."""
    landing = Landing(Lake.from_settings(settings), settings.grid)
    landing.advance(list(open_source(settings).read(SlotRange(slot, slot))), processed=slot + 2)
    landing.close()


def events(client: httpx.Client) -> Counter[str]:
    found = re.findall(r'blyan_cache_events_total\{event="([^"]+)"\} ([0-9.]+)', client.get("/metrics").text)
    return Counter({name: int(float(count)) for name, count in found})


def without_age(body: bytes) -> Any:
    document = json.loads(body)
    document["reading"].pop("behind_ms")
    return document


def test_an_answer_says_whether_it_was_remembered(client: httpx.Client) -> None:
    first, second, third = (ask(client, COUNT) for _ in range(3))
    assert status(first) == "blyan; fwd=miss; stored"
    assert status(second) == status(third) == "blyan; hit"
    assert without_age(first.content) == without_age(second.content) == without_age(third.content)
    kept = ("content-type", "etag", "cache-control", "vary", "blyan-truncated", "x-content-type-options", "ratelimit-limit")
    assert {name: first.headers[name] for name in kept} == {name: third.headers[name] for name in kept}
    assert first.headers["cache-control"] == "private, no-cache"
    assert first.headers.keys() == third.headers.keys()


@pytest.mark.parametrize("form", ["csv", "arrow", "parquet"])
def test_every_form_is_made_from_the_same_rows(client: httpx.Client, form: str) -> None:
    ask(client, COUNT)
    response = ask(client, COUNT, format=form)
    assert status(response) == "blyan; hit"
    assert ask(client, COUNT, {"cache-control": "no-cache"}, format=form).headers["blyan-truncated"] == response.headers["blyan-truncated"]


@pytest.mark.parametrize("path", [SETTLED_PAGE, "/v1/blocks/5", "/v1/blocks?first_slot=3&last_slot=9"])
def test_records_are_remembered_too(client: httpx.Client, path: str) -> None:
    first, second, third = (client.get(path) for _ in range(3))
    assert status(first).startswith("blyan; fwd=miss")
    assert status(second) == status(third) == "blyan; hit"
    assert without_age(first.content) == without_age(second.content) == without_age(third.content)
    fresh = client.get(path, headers={"cache-control": "no-store"})
    assert status(fresh) == "blyan; fwd=request"
    assert without_age(fresh.content) == without_age(third.content)


def test_graphql_reads_pages_that_are_remembered(client: httpx.Client) -> None:
    query = {"query": "{ blocks(first_slot: 0, last_slot: 9) { data { slot transactions { signature } } } }"}
    first, second = (client.post("/v1/graphql", json=query) for _ in range(2))
    assert status(second) == "blyan; hit"
    assert first.json() == second.json()


def test_pages_go_on_from_a_page_that_is_remembered(client: httpx.Client) -> None:
    expected = [row["signature"] for row in client.get(SETTLED_PAGE.replace("limit=5", "limit=500")).json()["data"]]
    client.get(SETTLED_PAGE)
    page = client.get(SETTLED_PAGE)
    assert status(page) == "blyan; hit"
    found = page.json()["data"]
    while page.json()["next"]:
        page = client.get(SETTLED_PAGE, params={**dict(httpx.URL(SETTLED_PAGE).params), "cursor": page.json()["next"]})
        found += page.json()["data"]
    assert [row["signature"] for row in found] == expected


def test_what_is_said_of_now_is_of_now(client: httpx.Client, settings: Settings) -> None:
    """A new slot leaves the rows of others remembered, changes what is said of the tip, and is in the next answer that it matters to."""
    settled, page, newest = ask(client, COUNT).json(), client.get(SETTLED_PAGE).json(), ask(client, NEWEST).json()
    assert newest["rows"] == [[49]]
    moved(settings, 50)
    response = ask(client, COUNT)
    assert status(response) == "blyan; hit"
    assert response.json()["rows"] == settled["rows"]
    assert (settled["reading"]["up_to_slot"], response.json()["reading"]["up_to_slot"]) == (49, 50)
    assert json.loads(response.headers["blyan-reading"])["generation"] == settled["reading"]["generation"] + 1
    again = client.get(SETTLED_PAGE)
    assert status(again) == "blyan; hit"
    assert (page["reading"]["up_to_slot"], again.json()["reading"]["up_to_slot"]) == (49, 50)
    assert ask(client, NEWEST).json()["rows"] == [[50]]


def test_a_client_that_has_the_rows_is_told_so(client: httpx.Client) -> None:
    for ask_again in (lambda headers: ask(client, COUNT, headers), lambda headers: client.get(SETTLED_PAGE, headers=headers)):
        first = ask_again({})
        tag = first.headers["etag"]
        for shown in (tag, f'"other", {tag}', "*", tag.removeprefix("W/")):
            response = ask_again({"if-none-match": shown})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == tag
        assert ask_again({"if-none-match": '"other"'}).status_code == 200
        assert ask_again({"if-none-match": tag, "cache-control": "no-cache"}).status_code in (200, 304)


def test_a_tag_is_of_one_form_and_one_result(client: httpx.Client) -> None:
    tags = [ask(client, COUNT).headers["etag"], ask(client, COUNT, format="csv").headers["etag"], ask(client, COUNT, rows=1).headers["etag"]]
    assert len(set(tags)) == 3


def test_a_page_that_goes_on_now_is_another(client: httpx.Client, settings: Settings) -> None:
    """The same rows with more behind them: who has them is not told that nothing changed, or it would never ask for the rest."""
    newest = ask(client, NEWEST).json()["rows"][0][0]
    path, blocks = f"/v1/blocks?first_slot={newest}&limit=1", f"select slot from solana.blocks where slot >= {newest} order by slot"
    page, found = client.get(path), ask(client, blocks, rows=1)
    assert (page.json()["next"], found.json()["truncated"]) == (None, False)
    moved(settings, newest + 1)
    for _ in range(2):
        later, more = (
            client.get(path, headers={"if-none-match": page.headers["etag"]}),
            ask(client, blocks, {"if-none-match": found.headers["etag"]}, rows=1),
        )
        assert (later.status_code, more.status_code) == (200, 200)
        assert later.json()["next"]
        assert more.json()["truncated"]
        assert (later.json()["data"], more.json()["rows"]) == (page.json()["data"], found.json()["rows"])


def test_two_headers_of_one_name_give_nobody_another_form(client: httpx.Client) -> None:
    """The route looks at the first of them: what it answered is not remembered for those who send the other one alone."""
    both = [("accept", "application/json"), ("accept", "text/csv")]
    body = {"sql": "select 'two headers' as n"}
    assert client.build_request("POST", "/v1/sql", json=body, headers=both).headers.get_list("accept") == ["application/json", "text/csv"]
    for _ in range(2):
        client.send(client.build_request("POST", "/v1/sql", json=body, headers=both))
        response = client.post("/v1/sql", json=body, headers={"accept": "text/csv"})
        assert response.headers["content-type"].partition(";")[0] == "text/csv"


def test_who_asks_is_told_and_counted_as_ever(client: httpx.Client, service: Served, settings: Settings, folder: Path) -> None:
    ask(client, COUNT)
    assert status(ask(client, COUNT)) == "blyan; hit"
    with service.client() as stranger:
        problem(ask(stranger, COUNT), "unauthenticated")
    lake = Lake.from_settings(settings)
    with service.client(key_for(lake, Role.OPERATOR, frozenset({Scope.READ}))) as reader:
        problem(ask(reader, COUNT), "forbidden")
    with service.client(key_for(lake, Role.READER)) as reader:
        answers = [reader.get(SETTLED_PAGE) for _ in range(3)]
        assert status(answers[-1]) == "blyan; hit"
        while (response := reader.get(SETTLED_PAGE)).status_code == 200:
            assert int(response.headers["ratelimit-remaining"]) < 40
        problem(response, "rate-limited")
    assert status(ask(client, COUNT, {"x-request-id": "counted-2"})) == "blyan; hit"
    lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    mine = [line for line in lines if line["request_id"] == "counted-2"]
    assert [(line["sql"], line["rows"], line["route"]) for line in mine] == [(COUNT, 2, "/v1/sql")]


def test_a_role_gets_what_it_may_have(service: Served, settings: Settings) -> None:
    lake, path = Lake.from_settings(settings), "/v1/transactions?first_slot=0&last_slot=39&limit=1000"
    with service.client(key_for(lake)) as operator, service.client(key_for(lake, Role.READER)) as reader:
        for _ in range(3):
            most, fewer = operator.get(path).json(), reader.get(path).json()
            assert len(fewer["data"]) == min(500, len(most["data"]))
            problem(ask(reader, COUNT), "forbidden")


def test_what_is_not_asked_for_as_remembered_is_computed(client: httpx.Client) -> None:
    ask(client, COUNT)
    for header in ("no-cache", "no-store", "max-age=0, no-cache"):
        assert status(ask(client, COUNT, {"cache-control": header})) == "blyan; fwd=request"
    assert status(ask(client, "select random()")) == "blyan; fwd=bypass"
    assert "etag" not in ask(client, "select random()").headers


def test_fifty_who_come_together_cost_one_computation(service: Served, settings: Settings, client: httpx.Client) -> None:
    lake = Lake.from_settings(settings)
    keys = [key_for(lake) for _ in range(10)]
    sql, found = "select count(*), max(range) from range(20000000)", list[tuple[str, Any]]()
    before = events(client)["miss"]

    def one(number: int) -> None:
        with service.client(keys[number % 10]) as mine:
            response = ask(mine, sql)
            found.append((status(response), response.json()["rows"]))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 50
    assert {rows[0][0] for _, rows in found} == {20_000_000}
    assert events(client)["miss"] - before == 1


def test_another_process_finds_in_the_lake_what_one_computed(client: httpx.Client, settings: Settings, folder: Path) -> None:
    sql = "select count(*) as in_the_lake from solana.transactions where block_slot <= 19"
    rows = ask(client, sql).json()["rows"]
    (folder / "other").mkdir()
    with served(settings, folder / "other") as other, other.client(key_for(Lake.from_settings(settings))) as asking:
        first, second = ask(asking, sql), ask(asking, sql)
        assert (status(first), status(second)) == ("blyan; hit; detail=lake", "blyan; hit")
        assert first.json()["rows"] == second.json()["rows"] == rows


def held(redis: RedisServer) -> list[Any]:
    """Names of the answers in Redis."""
    from redis import Redis

    with Redis.from_url(redis.url) as client:
        return list(client.scan_iter(f"{PREFIX}*"))


def test_a_dead_redis_slows_nobody_and_a_live_one_is_shared(settings: Settings, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    redis.start()
    lake, own = Lake.from_settings(settings), {"BLYAN_REDIS_URL": redis.url, "BLYAN_ANSWERS_BYTES": "0"}
    own["BLYAN_TOKEN_SECRET"] = "of all replicas, and of nobody else"
    try:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        with (
            served(settings, tmp_path / "one", **own) as one,
            served(settings, tmp_path / "other", **own) as other,
            one.client(key_for(lake)) as asking,
            other.client(key_for(lake)) as again,
        ):
            assert status(ask(asking, COUNT)) == "blyan; fwd=miss; stored"
            until(lambda: held(redis))  # it is put there while nobody waits
            assert status(ask(again, COUNT)) == "blyan; hit; detail=redis"
            assert ask(again, COUNT).json()["rows"] == ask(asking, COUNT).json()["rows"]
            redis.freeze()
            began = time.monotonic()
            for number in range(30):
                assert status(ask(asking, f"select {number}")) == "blyan; fwd=miss; stored"
            happened, pauses = events(asking), 1 + (time.monotonic() - began) // PAUSE_S
            assert happened["miss"] > 30
            # A look and what was being put when the pause began: of a busy machine there are more pauses, and of none a failure a request.
            assert 0 < happened["redis failed"] <= 4 * pauses
            redis.stop()
            assert status(ask(asking, COUNT)) == "blyan; hit"
    finally:
        redis.stop()
