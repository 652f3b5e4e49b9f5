"""Search and embeddings over HTTP: what brute force finds, whatever changes meanwhile, and what is refused."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from blyan.api.callers import Role, Scope
from blyan.corpus.embedder import Embedder, open_embedder
from blyan.corpus.embeddings import write_embeddings
from blyan.corpus.labels import VALUE_BUCKETS
from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.corpus.search_index import open_index, write_range
from blyan.corpus.untrusted import FLAGS
from blyan.lake import Lake
from blyan.query.ask import ask, unmet
from blyan.query.search import Filters
from blyan.query.searcher import Searcher
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES
from blyan.settings import Settings, load_settings
from blyan.solana.slots import SlotRange
from tests.http_service import Served, key_for, made_lake, make_searchable, served, until
from tests.integration.test_http_service import problem
from tests.search_lake import KINDS, PAYERS, PROGRAMS, REASONS, START, BruteForce, documents, passes, slots_of, summaries

QUESTIONS = ("failed swaps on Raydium", "insufficient funds", "transfer of SOL", "paid for swaps")

RANGES = (0, 1, 2)


def write(lake: Lake, embedder: Embedder, number: int, seed: int = 0, count: int = 40) -> SlotRange:
    """A range of made-up documents with vectors of the real model, in the index."""
    slots = slots_of(number)
    lake.write_partition(DOCUMENTS, slots.key, [documents(number, seed, count)])
    lake.write_partition(SUMMARIES, slots.key, [summaries(number, count)])
    write_embeddings(lake, slots, embedder)
    write_range(lake, slots)
    return slots


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return load_settings(lake=str(folder / "lake"), workers=1)


@pytest.fixture(scope="module")
def embedder(settings: Settings) -> Embedder:
    return open_embedder(settings)


@pytest.fixture(scope="module")
def lake(settings: Settings, embedder: Embedder) -> Lake:
    lake = Lake.from_settings(settings)
    for number in RANGES:
        write(lake, embedder, number)
    return lake


@pytest.fixture(scope="module")
def brute(lake: Lake, embedder: Embedder) -> BruteForce:
    return BruteForce(lake, [slots_of(number).key for number in RANGES], embedder.embed)


@pytest.fixture(scope="module")
def service(settings: Settings, lake: Lake, folder: Path) -> Iterator[Served]:
    with served(settings, folder) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Served, lake: Lake) -> Iterator[httpx.Client]:
    with service.client(key_for(lake)) as client:
        yield client


def ask_for(client: httpx.Client, query: str, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/search", json={"query": query, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def names(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Hits as brute force tells them."""
    keys = ("slot", "tx_index", "scope", "subject", "signature")
    return [(tuple(hit[key] for key in keys), hit["score"], hit["alike"]) for hit in found["hits"]]


# Answers


def some_of(values: Any, most: int = 2) -> Any:
    return st.lists(st.sampled_from(list(values)), max_size=most, unique=True)


SIGNATURES = [row["tx_signature"] for number in RANGES for row in documents(number, 0, 40).to_pylist()]

TIMES = st.integers(0, 350).map(lambda seconds: START + timedelta(seconds=seconds))

FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "first_slot": st.integers(0, 320),
        "last_slot": st.integers(0, 320),
        "from_time": TIMES,
        "to_time": TIMES,
        "programs": some_of(PROGRAMS),
        "accounts": some_of(PAYERS),
        "kinds": some_of(KINDS),
        "statuses": some_of(["Success", "Fail"]),
        "scopes": some_of(["transaction", "range", "program", "account"], 4),
        "error_classes": some_of(REASONS),
        "value_buckets": some_of([bucket for bucket in VALUE_BUCKETS if "SOL 1" in bucket], 3),
        "flags": some_of(FLAGS, 1),
        "is_vote": st.booleans(),
        "is_sandwich": st.booleans(),
        "signature": st.sampled_from(SIGNATURES),
    },
).filter(lambda given: given.get("first_slot", 0) <= given.get("last_slot", 400))


def as_filters(given: dict[str, Any]) -> Filters:
    """The same in our words, said once more."""
    slots = SlotRange(given.get("first_slot", 0), given.get("last_slot", 10**6)) if {"first_slot", "last_slot"} & given.keys() else None
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    rest = {name: given.get(name) for name in ("is_vote", "is_sandwich", "signature")}
    return Filters(slots=slots, since=given.get("from_time"), until=given.get("to_time"), **lists, **rest)


def as_json(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if name.endswith("_time") else value for name, value in given.items()}


@hypothesis_settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    query=st.sampled_from(QUESTIONS),
    mode=st.sampled_from(["hybrid", "vector", "text"]),
    filters=FILTERS,
    limit=st.integers(1, 30),
    per_template=st.integers(1, 3),
)
def test_every_mode_and_filter_gives_what_brute_force_over_the_tables_gives(
    client: httpx.Client, brute: BruteForce, query: str, mode: str, filters: dict[str, Any], limit: int, per_template: int
) -> None:
    if "from_time" in filters and "to_time" in filters and filters["from_time"] >= filters["to_time"]:
        body = {"query": query, "filters": as_json(filters)}
        assert problem(client.post("/v1/search", json=body), "invalid")["errors"][0]["where"] == "body.filters.from_time"
        return
    options = {"limit": limit, "per_template": per_template}
    found = ask_for(client, query, mode=mode, filters=as_json(filters), understand=False, **options)
    assert names(found) == brute.search(query, mode, as_filters(filters), **options)
    assert found["searched"]["passing"] == sum(passes(each.row, as_filters(filters)) for each in brute.all)


def test_the_comparison_with_brute_force_can_fail(client: httpx.Client, brute: BruteForce) -> None:
    found = names(ask_for(client, QUESTIONS[0], understand=False, filters={"statuses": ["Fail"]}))
    assert found
    assert found == brute.search(QUESTIONS[0], "hybrid", Filters(statuses=("Fail",)))
    assert found != brute.search(QUESTIONS[0], "hybrid", Filters())
    assert found != brute.search(QUESTIONS[0], "text", Filters(statuses=("Fail",)))


@pytest.mark.parametrize("query", [*QUESTIONS, f"what did {PAYERS[0]} do", "largest SOL transfers", ""])
def test_an_understood_question_is_answered_as_in_the_process(client: httpx.Client, lake: Lake, embedder: Embedder, query: str) -> None:
    filters = Filters(scopes=("transaction",))
    asked = ask(open_index(lake), query, load_registry(), embed=lambda text: embedder.embed([text]), filters=filters)
    found = ask_for(client, query, filters={"scopes": ["transaction"]})
    assert [hit["signature"] for hit in found["hits"]] == [hit.row["signature"] for hit in asked.answer.hits]
    assert [hit["met"] for hit in found["hits"]] == [list(met) for met in asked.met]
    assert ", ".join(found["understood"]) == asked.understood.explain()
    assert tuple(found["unmet"]) == unmet(asked)
    assert found["mode"] == ("hybrid" if asked.understood.text else "newest")


def test_a_hit_cites_its_transaction_and_says_why_it_was_found(client: httpx.Client) -> None:
    found = ask_for(client, "failed swaps", mode="text", filters={"scopes": ["transaction"]}, limit=3)
    for hit in found["hits"]:
        assert hit["signature"] in SIGNATURES
        assert 0 <= hit["slot"] == hit["last_slot"]
        assert "swap" in hit["text"].lower()
        assert hit["met"] == ["status = Fail", "kind = swap"]
        assert hit["cosine"] is None
        assert hit["bm25"] > 0
    summary = ask_for(client, "slots summary", filters={"scopes": ["range"]}, limit=1)["hits"][0]
    assert (summary["scope"], summary["signature"], summary["tx_index"], summary["time"]) == ("range", None, None, None)
    assert (summary["programs"], summary["flags"]) == ([], [])


def test_a_program_is_named_as_in_the_registry(client: httpx.Client) -> None:
    account = next(account for account, program in load_registry().programs.items() if program.name == "Raydium AMM v4")
    by_name = ask_for(client, "swaps", filters={"programs": ["Raydium AMM v4"]}, understand=False)
    assert by_name["searched"] == ask_for(client, "swaps", filters={"programs": [account]}, understand=False)["searched"]
    assert by_name["hits"] == []
    document = problem(client.post("/v1/search", json={"query": "swaps", "filters": {"programs": ["Raydum AMM"]}}), "invalid")
    assert document["errors"][0]["where"] == "body.filters.programs"
    assert "Raydium AMM v4" in document["remedy"]


def test_reading_says_what_was_read(client: httpx.Client, lake: Lake) -> None:
    reading, index = ask_for(client, "swaps")["reading"], open_index(lake)
    assert (reading["index"], reading["index_version"]) == (index.generation.name, index.documents.version)
    assert (reading["ranges_behind"], reading["up_to_slot"], reading["finality"], reading["finalized_to"]) == (0, 299, "finalized", 299)
    assert (reading["behind_slots"], reading["behind_ms"], reading["generation"]) == (None, None, None)
    assert reading["versions"] == {table.name: len(RANGES) for table in (DOCUMENTS, SUMMARIES, EMBEDDINGS)}


@pytest.mark.parametrize(
    ("start", "end", "some"), [("0002-01-01T00:00:00Z", "9998-12-31T00:00:00Z", True), ("0002-01-01T00:00:00Z", "0725-07-04T12:54:42.7+14:07", False)]
)
def test_times_long_ago_and_far_away_are_times(client: httpx.Client, start: str, end: str, some: bool) -> None:
    found = ask_for(client, "swaps", mode="text", filters={"from_time": start, "to_time": end})
    assert bool(found["searched"]["passing"]) == bool(found["hits"]) == some


# What is refused

STRANGE = [
    "\u202eswap\u202c failed",
    "\x00",
    "swap\x00failed\x1b[31m",
    "\u200f\u200e",
    "\U0001f980" * 300,
    "'; drop table documents; --",
    "((((",
    "* ~ ^ \" '",
]


@pytest.mark.parametrize("query", STRANGE, ids=range(len(STRANGE)))
def test_strange_queries_are_data(client: httpx.Client, query: str) -> None:
    for mode in ("hybrid", "vector", "text"):
        for filters in ({}, {"error_classes": [query[:200]]}):
            answer = client.post("/v1/search", json={"query": query, "mode": mode, "filters": filters})
            if answer.status_code != 200:
                assert problem(answer, "invalid")["errors"] == [{"where": "body.query", "what": "the question has nothing to look for"}]
            elif filters:
                assert answer.json()["searched"]["passing"] == 0


@pytest.mark.parametrize(
    ("body", "where", "said"),
    [
        ({"query": "  "}, "body.query", "there is nothing to look for"),
        ({"query": "x" * 2_001}, "body.query", "at most 2000 characters"),
        ({"query": 5}, "body.query", "valid string"),
        ({"query": "x", "mode": "fuzzy"}, "body.mode", "'hybrid', 'vector' or 'text'"),
        ({"query": "x", "limit": 101}, "body.limit", "less than or equal to 100"),
        ({"query": "x", "per_template": 0}, "body.per_template", "greater than or equal to 1"),
        ({"query": "x", "filter": {}}, "body.filter", "there is no field filter (did you mean filters?)"),
        ({"query": "x", "filters": {"frst_slot": 1}}, "body.filters.frst_slot", "there is no field frst_slot (did you mean first_slot?)"),
        ({"query": "x", "filters": []}, "body.filters", "valid dictionary"),
        ({"query": "x", "filters": {"first_slot": -1}}, "body.filters.first_slot", "greater than or equal to 0"),
        ({"query": "x", "filters": {"first_slot": 9, "last_slot": 3}}, "body.filters.first_slot", "first_slot is after last_slot"),
        ({"query": "x", "filters": {"from_time": "yesterday"}}, "body.filters.from_time", "valid datetime"),
        ({"query": "x", "filters": {"from_time": "0001-01-01T00:00:00+14:00"}}, "body.filters", "out of range"),
        ({"query": "x", "filters": {"kinds": ["swop"]}}, "body.filters.kinds", "'swop' is none of the kinds"),
        ({"query": "x", "filters": {"value_buckets": ["much"]}}, "body.filters.value_buckets", "'much' is none of the value buckets"),
        ({"query": "x", "filters": {"accounts": ["me"]}}, "body.filters.accounts", "'me' is no account"),
        ({"query": "x", "filters": {"signature": PAYERS[0]}}, "body.filters.signature", "is no signature"),
        ({"query": "x", "filters": {"accounts": PAYERS * 6}}, "body.filters.accounts", "at most 100 items"),
    ],
)
def test_what_cannot_be_searched_is_named(client: httpx.Client, body: dict[str, Any], where: str, said: str) -> None:
    document = problem(client.post("/v1/search", json=body), "invalid")
    fault = document["errors"][0]
    assert fault["where"] == where
    assert said in fault["what"]
    assert document["remedy"]


def test_a_kind_that_is_misspelt_gets_the_nearest(client: httpx.Client) -> None:
    document = problem(client.post("/v1/search", json={"query": "x", "filters": {"kinds": ["swop"]}}), "invalid")
    assert document["remedy"].startswith("did you mean swap?")


def test_half_a_character_and_ten_megabytes_are_refused(client: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    problem(client.post("/v1/search", content=b'{"query": "half \\ud83d"}', headers=headers), "invalid")
    problem(client.post("/v1/search", content=b'{"query": "' + b"x" * 10_000_000 + b'"}', headers=headers), "too-large")
    problem(client.post("/v1/search", content=b'{"query": ', headers=headers), "malformed")


def test_reading_is_a_scope_and_who_asked_what_is_written_down(client: httpx.Client, service: Served, lake: Lake, folder: Path) -> None:
    with service.client(key_for(lake, Role.READER, frozenset({Scope.LIVE}))) as other:
        problem(other.post("/v1/search", json={"query": "swaps"}), "forbidden")
        problem(other.post("/v1/embeddings", json={"input": "swaps", "model": "m"}), "forbidden")
    with service.client(key_for(lake, Role.READER)) as other:
        body = {"query": "who asked this", "filters": {"kinds": ["swap"]}, "limit": 2}
        assert other.post("/v1/search", json=body, headers={"x-request-id": "a-search-1"}).status_code == 200
    until(lambda: "a-search-1" in (folder / "audit.jsonl").read_text())
    (record,) = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines() if "a-search-1" in line]
    assert json.loads(record["search"]) == body
    assert (record["role"], record["rows"] <= 2) == ("reader", True)


def test_metrics_tell_searches_by_mode_and_the_index(client: httpx.Client, lake: Lake) -> None:
    ask_for(client, "swaps", mode="vector")
    text = client.get("/metrics").text
    assert 'blyan_searches_total{mode="vector"}' in text
    assert 'blyan_search_seconds_bucket{le="10.0",mode="vector"}' in text
    assert f'blyan_search_index{{index="{open_index(lake).generation.name}"}} 1.0' in text
    assert "blyan_search_documents " in text


# Embeddings


def vectors(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2-int8", **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_embeddings_are_those_of_the_model_in_both_forms(client: httpx.Client, embedder: Embedder) -> None:
    texts = ["failed swaps on Raydium", "a transfer of SOL", "ملخص"]
    expected = embedder.embed(texts)
    found = vectors(client, input=texts)
    assert [row["index"] for row in found["data"]] == [0, 1, 2]
    np.testing.assert_array_equal(np.array([row["embedding"] for row in found["data"]], np.float32), expected)
    coded = vectors(client, input=texts[0], encoding_format="base64", dimensions=384, model=embedder.digest)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4"), expected[0])
    assert (found["object"], found["data"][0]["object"], found["model"]) == ("list", "embedding", "all-MiniLM-L6-v2-int8")


def test_usage_counts_the_tokens_that_were_read(client: httpx.Client) -> None:
    # Two marks a text, and "sol" is one token.
    assert vectors(client, input=["sol sol", "sol"])["usage"] == {"prompt_tokens": 7, "total_tokens": 7, "truncated_texts": 0}
    assert vectors(client, input="sol " * 1_000)["usage"] == {"prompt_tokens": 256, "total_tokens": 256, "truncated_texts": 1}


def test_many_texts_come_in_their_order(client: httpx.Client, embedder: Embedder) -> None:
    texts = [f"{number} SOL" for number in range(40)]
    found = vectors(client, input=texts)
    np.testing.assert_array_equal(np.array([row["embedding"] for row in found["data"]], np.float32), embedder.embed(texts))


@pytest.mark.parametrize(
    ("body", "slug", "where", "said"),
    [
        ({"input": "x", "model": "text-embedding-3-small"}, "not-found", "body.model", "there is no model 'text-embedding-3-small'"),
        ({"input": [1, 2, 3]}, "invalid", "body.input", "numbers of tokens are not taken"),
        ({"input": [[1, 2], [3]]}, "invalid", "body.input", "numbers of tokens are not taken"),
        ({"input": 5}, "invalid", "body.input", "valid list"),
        ({"input": []}, "invalid", "body.input", "at least 1 item"),
        ({"input": ["x"] * 257}, "invalid", "body.input", "at most 256 items"),
        ({"input": ["good", "\u200f"]}, "invalid", "body.input.1", "the text is empty"),
        ({"input": [*["good"] * 20, " "]}, "invalid", "body.input.20", "the text is empty"),
        ({"input": "x", "dimensions": 256}, "invalid", "body.dimensions", "the model gives 384 components"),
        ({"input": "x", "encoding_format": "int8"}, "invalid", "body.encoding_format", "'float' or 'base64'"),
        ({"input": "x", "truncate": True}, "invalid", "body.truncate", "there is no field truncate"),
    ],
)
def test_what_cannot_be_embedded_is_named(client: httpx.Client, body: dict[str, Any], slug: str, where: str, said: str) -> None:
    document = problem(client.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2-int8", **body}), slug)
    faults = [fault for fault in document["errors"] if fault["where"].startswith(where)]
    assert faults, document
    assert any(said in fault["what"] for fault in faults), document


# What is not there yet


def test_the_service_notices_an_index_and_what_it_lacks(tmp_path: Path) -> None:
    settings = made_lake(tmp_path / "lake")
    lake = Lake.from_settings(settings)
    with served(settings, tmp_path) as service, service.client(key_for(lake)) as client:
        document = problem(client.post("/v1/search", json={"query": "failed"}), "unavailable")
        assert document["detail"] == "there is no search index yet"
        assert "blyan corpus --all" in document["remedy"]
        assert str(tmp_path) not in json.dumps(document)

        make_searchable(settings)
        found = ask_for(client, "failed transfers")
        assert all(hit["signature"] or hit["subject"] is not None for hit in found["hits"])
        reading = found["reading"]
        # The node had announced slot 51; slots 40 to 49 are in the landing, and so in no index.
        assert (reading["up_to_slot"], reading["behind_slots"], reading["ranges_behind"]) == (39, 12, 1)
        assert reading["behind_ms"] >= 12 * 400
        assert reading["generation"] >= 1

        write_corpus(lake, SlotRange(20, 39), load_registry(), vote_share=1.0)
        until(lambda: ask_for(client, "failed")["reading"]["ranges_behind"] == 2)
        assert ask_for(client, "failed")["reading"]["digest"] == reading["digest"], "the index is the same, and so is the answer"
        make_searchable(settings, vote_share=1.0)
        until(lambda: ask_for(client, "failed")["reading"]["index_version"] > reading["index_version"])


def test_a_question_is_answered_beside_texts_that_take_long(service: Served, lake: Lake, client: httpx.Client) -> None:
    with service.client(key_for(lake, Role.OPERATOR)) as other:
        body = {"input": ["sol " * 255] * 48, "model": "all-MiniLM-L6-v2-int8"}
        busy = threading.Thread(target=lambda: other.post("/v1/embeddings", json=body))
        busy.start()
        time.sleep(0.1)
        assert ask_for(client, "swaps", mode="text")["hits"]
        assert busy.is_alive(), "it was answered before the texts were"
        busy.join()


def test_a_searcher_opens_nothing_before_it_is_asked(settings: Settings, lake: Lake) -> None:
    code = "import sys; from blyan.api.app import create; create(); print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"BLYAN_LAKE": settings.lake, "BLYAN_AUDIT_LOG": "", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fastapi" in done.stdout
    assert not {"'lance'", "'onnxruntime'", "'tokenizers'"} & set(done.stdout.strip("[]\n").split(", "))
    assert Searcher(lake, settings)._held is None
