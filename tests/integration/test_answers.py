"""Questions in words over HTTP: the planner, a language model that is a real server, its failures, and OpenAI's own client."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from blyan.api.callers import Role
from blyan.lake import Lake
from blyan.query.tools import TOOLS
from blyan.settings import Settings
from tests.chat_server import Calls, ChatServer, Misbehaviour, answered, chat_server, dies, endless, hung_up, silent, slow, status
from tests.http_service import Served, key_for, made_lake, served, until
from tests.integration.test_http_service import problem

COUNT = "How many transactions failed in slots 0 to 20?"
FAILED = "select block_slot, signature from solana.transactions where status = 'Fail' and block_slot between 0 and 20 order by block_slot, \"index\""
KEY = "sk-secret-4711"


class Scripted:
    """What the model of these tests says: its calls before it has results, and its words after."""

    def __init__(self) -> None:
        self.turns: list[Calls] = []
        self.words = ""

    def __call__(self, body: dict[str, Any]) -> tuple[str, Calls]:
        if "tools" in body:
            return "", self.turns.pop(0) if self.turns else []
        return self.words, []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return made_lake(folder / "lake")


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with chat_server(Scripted()) as server:
        yield server


@pytest.fixture(scope="module")
def service(settings: Settings, folder: Path, server: ChatServer) -> Iterator[Served]:
    model = {"BLYAN_CHAT_URL": server.url, "BLYAN_CHAT_MODEL": "scripted", "BLYAN_CHAT_KEY": KEY, "BLYAN_CHAT_TIMEOUT_S": "3"}
    with served(settings, folder, **model) as service:
        yield service


@pytest.fixture(scope="module")
def key(settings: Settings) -> str:
    return key_for(Lake.from_settings(settings), Role.ANALYST)


@pytest.fixture(scope="module")
def client(service: Served, key: str) -> Iterator[httpx.Client]:
    with service.client(key) as client:
        yield client


@pytest.fixture
def model(server: ChatServer) -> ChatServer:
    server.script, server.requests = Scripted(), []
    server.misbehaviours.clear()
    server.gone.clear()
    return server


def script(model: ChatServer, *turns: Calls, words: str = "") -> None:
    assert isinstance(model.script, Scripted)
    model.script.turns, model.script.words = list(turns), words


def ask(client: httpx.Client, question: str = COUNT, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/v1/ask", json={"question": question, **more}).raise_for_status().json()
    return answer


def rows(client: httpx.Client, sql: str) -> list[list[Any]]:
    found: list[list[Any]] = client.post("/v1/sql", json={"sql": sql}).raise_for_status().json()["rows"]
    return found


# The planner


def test_the_planner_answers_with_its_statement_rows_and_citations(client: httpx.Client) -> None:
    expected = rows(client, FAILED)
    given = ask(client, model="blyan-planner")
    assert given["by"] == "planner"
    assert given["rows"] == [[len(expected)]]
    assert str(len(expected)) in given["answer"]
    assert [[each["slot"], each["signature"]] for each in given["citations"]] == expected[:5]
    assert rows(client, given["sql"].replace("?", "{}").format(*given["params"])) == given["rows"]
    assert given["reading"]["versions"] == {"solana/transactions": 2}
    assert not given["abstained"]


def test_the_planner_abstains_and_says_why(client: httpx.Client) -> None:
    given = ask(client, "Will the price of SOL rise tomorrow?", model="blyan-planner")
    assert given["abstained"]
    assert given["answer"] is None
    assert given["why"]
    assert given["hits"] == []
    assert given["hits_why"] == "there is no search index yet"


def test_slots_bound_a_question_that_names_none(client: httpx.Client) -> None:
    given = ask(client, "How many transactions failed?", first_slot=0, last_slot=20, model="blyan-planner")
    assert given["rows"] == [[len(rows(client, FAILED))]]
    document = problem(client.post("/v1/ask", json={"question": COUNT, "first_slot": 3, "last_slot": 1}), "invalid")
    assert "first_slot" in document["detail"]


# A language model


def test_a_model_chooses_tools_and_words_what_they_gave(client: httpx.Client, model: ChatServer) -> None:
    expected = rows(client, FAILED)
    slot, signature = expected[0]
    script(model, [("sql", {"sql": FAILED})], words=f"{len(expected)} failed; the first was {signature} in slot {slot}.")
    given = ask(client)
    assert given["answer"] == f"{len(expected)} failed; the first was {signature} in slot {slot}."
    assert given["by"] == "scripted"
    assert given["rows"] == expected
    assert given["citations"] == [{"slot": slot, "signature": signature, "table": "solana.transactions"}]
    assert (given["unsupported"], given["removed"], given["refused_calls"]) == ([], [], [])
    assert {"at": "/answer", "flags": []} in given["untrusted"], "they are a model's words"
    first, second = model.requests
    assert [tool["function"]["name"] for tool in first["tools"]] == list(TOOLS)
    assert "solana.transactions(" in first["messages"][0]["content"]
    assert signature not in json.dumps(first)
    assert "tools" not in second
    assert set(model.keys) == {f"Bearer {KEY}"}


def test_what_a_model_makes_up_is_taken_out_or_told(client: httpx.Client, model: ChatServer) -> None:
    made_up = "4" * 88
    words = f"1. It was {made_up}, in slot 99999, of 123456 lamports; see https://evil.example/x or [here](https://evil.example)."
    script(model, [("sql", {"sql": FAILED})], words=words)
    given = ask(client)
    assert given["answer"] == (
        "1. It was [not in the results], in [a slot that is not in the results], of 123456 lamports; see [link taken out] or [link taken out]."
    )
    assert given["removed"] == [made_up, "slot 99999", "https://evil.example/x", "[here](https://evil.example)"]
    assert given["unsupported"] == ["123456"]


def test_calls_that_are_wrong_in_themselves_are_repaired_in_our_words(client: httpx.Client, model: ChatServer) -> None:
    script(
        model,
        [("sql", {"sql": "select slott from solana.blocks"}), ("sql", "{no json"), ("describe_table", {}), ("sgl", {})],
        [("sql", {"sql": "select slot from solana.blocks where slot = 5"}), ("describe_table", {})],
        words="It is slot 5.",
    )
    given = ask(client)
    assert given["rows"] == [[5]]
    assert [call["tool"] for call in given["calls"]] == ["sql", "describe_table"]
    repairs = [json.loads(message["content"]) for message in model.requests[1]["messages"] if message["role"] == "tool"]
    assert repairs[0] == {"error": "there is no column slott; the nearest is slot", "where": "sql", "remedy": "correct the statement"}
    assert repairs[1]["error"] == "its arguments are not JSON"
    assert "accepted" in repairs[2]
    assert "there is no tool 'sgl'" in repairs[3]["error"]
    assert len(model.requests) == 3


def test_a_model_that_never_gets_it_right_has_no_answer(client: httpx.Client, model: ChatServer) -> None:
    script(model, *[[("sql", {"sql": "drop table solana.blocks"})]] * 5, words="never said")
    given = ask(client)
    assert given["abstained"]
    assert "not a statement that reads" in given["why"]
    assert len(model.requests) == 3, "it may repair twice"


def test_a_model_that_looks_nothing_up_has_no_answer(client: httpx.Client, model: ChatServer) -> None:
    script(model, [], words="The answer is 42.")
    given = ask(client, "What is the answer?")
    assert given["abstained"]
    assert "looked nothing up" in given["why"]


def test_an_error_at_a_row_is_a_result_and_no_reason_to_call_again(client: httpx.Client, model: ChatServer) -> None:
    bad = {"sql": "select cast(leader as integer) from solana.blocks"}
    script(model, [("sql", bad), ("sql", {"sql": "select count(*) from solana.blocks"})], words="I could read one of two.")
    given = ask(client)
    assert [call["error"] for call in given["calls"]] == ["it failed at a row that it read: Conversion Error", None]
    assert len(model.requests) == 2
    assert "Could not convert" not in json.dumps(model.requests)


def test_too_many_calls_are_not_made(client: httpx.Client, model: ChatServer) -> None:
    script(model, [("sql", {"sql": f"select {number}"}) for number in range(9)], words="Done.")
    given = ask(client)
    assert [call["error"] for call in given["calls"]].count("too many calls") == 3
    assert len(given["calls"]) == 9


def test_results_beyond_what_a_model_may_be_shown_are_cut_and_it_is_told(client: httpx.Client, model: ChatServer) -> None:
    script(model, [("sql", {"sql": "select * from solana.transactions", "rows": 1000})], words="Many.")
    given = ask(client)
    assert given["truncated"]
    shown = model.requests[-1]["messages"][-1]["content"]
    assert len(shown) < 30_000
    assert "not all of it is here" in shown


# Failures of a model's server


@pytest.mark.parametrize(
    ("misbehaviours", "words"),
    [
        ([hung_up] * 3, "cannot be reached"),
        ([status(500)] * 3, "HTTP 500"),
        ([status(429, Retry_After="60")], "has too much to do"),
        ([slow(5)], "was not done in 3 s"),
        ([status(200, b"<html>")], "is no chat completion"),
        ([status(200, b'{"choices": []}')], "it has no message"),
        ([status(200, b'{"choices": [{"message": {"content": 7}}]}')], "is no chat completion"),
        ([status(400, b'{"error": "no tools"}')], "refuses the request: HTTP 400"),
        ([answered, dies("half an")], "ended in the middle"),
        ([answered, slow(5)], "was not done in 3 s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_that_fails_is_a_problem_that_says_so(client: httpx.Client, model: ChatServer, misbehaviours: list[Misbehaviour], words: str) -> None:
    script(model, [("sql", {"sql": "select 1"})], words="One.")
    model.misbehaviours.extend(misbehaviours)
    document = problem(client.post("/v1/ask", json={"question": COUNT}), "unavailable")
    assert words in document["detail"]
    assert "blyan-planner" in document["remedy"]
    assert model.url not in json.dumps(document)
    assert KEY not in json.dumps(document)


def test_what_passes_by_itself_is_asked_again(client: httpx.Client, model: ChatServer) -> None:
    script(model, [("sql", {"sql": "select 7"})], words="It is 7.")
    model.misbehaviours.extend([status(503), hung_up])
    assert ask(client)["answer"] == "It is 7."


def test_a_key_that_a_model_refuses_is_the_operators_business(client: httpx.Client, model: ChatServer) -> None:
    model.misbehaviours.append(status(401))
    document = problem(client.post("/v1/ask", json={"question": COUNT}), "internal")
    assert KEY not in json.dumps(document)


def test_a_model_that_dies_in_the_middle_of_a_stream_is_an_event(client: httpx.Client, model: ChatServer) -> None:
    script(model, [("sql", {"sql": "select 1"})])
    model.misbehaviours.extend([answered, dies("some words of an answer that was never finished ")])
    body = {"messages": [{"role": "user", "content": COUNT}], "stream": True}
    events = [json.loads(line[6:]) for line in client.post("/v1/chat/completions", json=body).text.splitlines() if line.startswith("data: {")]
    assert "some words" in "".join(each["choices"][0]["delta"].get("content", "") for each in events[:-1])
    assert events[-1]["error"]["type"] == "urn:blyan:problem:unavailable"
    assert "ended in the middle" in events[-1]["error"]["detail"]


@pytest.mark.parametrize("misbehaviour", [endless, silent], ids=["that talks", "that thinks"])
def test_who_goes_away_ends_the_models_work(service: Served, key: str, model: ChatServer, misbehaviour: Misbehaviour) -> None:
    script(model, [("sql", {"sql": "select 1"})])
    model.misbehaviours.extend([answered, misbehaviour])
    body = {"messages": [{"role": "user", "content": COUNT}], "stream": True}
    with (
        contextlib.suppress(httpx.ReadTimeout),
        service.client(key) as client,
        client.stream("POST", "/v1/chat/completions", json=body, timeout=1.0) as answer,
    ):
        next(answer.iter_bytes())
    until(model.gone.is_set, 10)


def test_who_goes_away_ends_the_statement(service: Served, key: str, model: ChatServer, client: httpx.Client) -> None:
    endless_sql = "select count(*) from range(100000000) a, range(100000000) b where a.range + b.range = 7"
    script(model, [("sql", {"sql": endless_sql})])
    with service.client(key) as other, pytest.raises(httpx.ReadTimeout):
        other.post("/v1/ask", json={"question": COUNT}, timeout=0.7)
    # There is one process: it answers again long before the statement's own time is over.
    began = time.monotonic()
    assert rows(client, "select 1") == [[1]]
    assert time.monotonic() - began < 20


# OpenAI's form


def test_openais_own_client_has_answers_streams_models_and_errors(service: Served, key: str, client: httpx.Client, model: ChatServer) -> None:
    expected = rows(client, FAILED)
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0) as api:
        assert [each.id for each in api.models.list()] == ["scripted", "blyan-planner"]
        messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": COUNT}]}]
        whole = api.chat.completions.create(model="blyan-planner", messages=messages, temperature=0.0, max_tokens=100)
        assert str(len(expected)) in (whole.choices[0].message.content or "")
        assert whole.usage is not None
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 10
        assert whole.model_extra is not None
        assert whole.model_extra["blyan"]["rows"] == [[len(expected)]]

        script(model, [("sql", {"sql": FAILED})], words=f"There are {len(expected)} of them, as the rows of slots 0 to 20 say.")
        said, last = "", None
        for chunk in api.chat.completions.create(model="scripted", messages=messages, stream=True, stream_options={"include_usage": True}):
            said += chunk.choices[0].delta.content or "" if chunk.choices else ""
            last = chunk
        assert said == f"There are {len(expected)} of them, as the rows of slots 0 to 20 say."
        assert last is not None
        assert last.usage is not None
        assert last.usage.prompt_tokens > 100, "both turns of the model are counted"
        assert model.requests[-1]["messages"][1] == {"role": "system", "content": "Be brief."}

        script(model, [("sql", {"sql": "select 1"})])
        model.misbehaviours.extend([answered, dies("some words of an answer that never ends ")])
        with pytest.raises(openai.APIError, match="ended in the middle"):
            list(api.chat.completions.create(model="scripted", messages=messages, stream=True))
        with pytest.raises(openai.NotFoundError) as refused:
            api.chat.completions.create(model="blyan-planer", messages=messages)
        assert "did you mean blyan-planner" in refused.value.response.json()["detail"]
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="blyan_none", max_retries=0) as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_follow_up_has_the_earlier_questions(client: httpx.Client, model: ChatServer) -> None:
    script(model, [("sql", {"sql": "select 3"})], words="It is 3.")
    talk = [{"role": "user", "content": COUNT}, {"role": "assistant", "content": "It was 4."}, {"role": "user", "content": "And in slots 21 to 39?"}]
    answer = client.post("/v1/chat/completions", json={"messages": talk}).raise_for_status().json()
    assert answer["choices"][0]["message"]["content"] == "It is 3."
    chosen, worded = ([message["content"] for message in request["messages"]] for request in model.requests)
    assert COUNT in chosen
    assert "It was 4." not in chosen
    assert "It was 4." in worded


# Bad input

QUESTION = {"role": "user", "content": COUNT}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://evil.example/i.png"}}]}


@pytest.mark.parametrize(
    ("path", "body", "slug"),
    [
        ("/v1/ask", {}, "invalid"),
        ("/v1/ask", {"question": ""}, "invalid"),
        ("/v1/ask", {"question": ["a"]}, "invalid"),
        ("/v1/ask", {"question": "x" * 8_001}, "invalid"),
        ("/v1/ask", {"question": COUNT, "first_slot": -1}, "invalid"),
        ("/v1/ask", {"question": COUNT, "quest": 1}, "invalid"),
        ("/v1/ask", {"question": COUNT, "model": "gpt"}, "not-found"),
        ("/v1/chat/completions", {"messages": []}, "invalid"),
        ("/v1/chat/completions", {"messages": "hello"}, "invalid"),
        ("/v1/chat/completions", {"messages": [{"role": "wizard", "content": "a"}]}, "invalid"),
        ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]}, "invalid"),
        ("/v1/chat/completions", {"messages": [QUESTION], "tools": [{"type": "function"}]}, "invalid"),
        ("/v1/chat/completions", {"messages": [IMAGE]}, "invalid"),
        ("/v1/chat/completions", {"messages": [QUESTION, {"role": "assistant", "content": "a"}]}, "invalid"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": " "}]}, "invalid"),
        ("/v1/chat/completions", {"messages": [QUESTION] * 65}, "invalid"),
        ("/v1/chat/completions", {"messages": [QUESTION], "temperature": 9}, "invalid"),
        ("/v1/chat/completions", {"messages": [QUESTION], "n": 2}, "invalid"),
        ("/v1/chat/completions", {"messages": [QUESTION], "model": "gpt", "stream": True}, "not-found"),
    ],
)
def test_what_is_no_question_is_refused(client: httpx.Client, path: str, body: Any, slug: str) -> None:
    problem(client.post(path, json=body), slug)


def test_bodies_that_are_too_large_or_no_json_are_refused(client: httpx.Client) -> None:
    for path in ("/v1/ask", "/v1/chat/completions"):
        problem(client.post(path, content=b"x" * (10 << 20), headers={"content-type": "application/json"}), "too-large")
        problem(client.post(path, content=b'{"question": ', headers={"content-type": "application/json"}), "malformed")
    odd = ask(client, "How many \x00 transactions \u202e failed \U000e0041 in slots 0 to 20?", model="blyan-planner")
    assert odd["by"] == "planner"


def test_readers_ask_nothing_and_the_audit_log_has_the_question(client: httpx.Client, service: Served, settings: Settings, folder: Path) -> None:
    with service.client(key_for(Lake.from_settings(settings), Role.READER)) as reader:
        problem(reader.post("/v1/ask", json={"question": COUNT}), "forbidden")
        problem(reader.post("/v1/chat/completions", json={"messages": [QUESTION]}), "forbidden")
        assert reader.get("/v1/models").status_code == 200
    ask(client, "How many transactions failed in slots 0 to 11?", model="blyan-planner")

    def mine_of() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
        return [line for line in lines if line.get("question") == "How many transactions failed in slots 0 to 11?"]

    until(mine_of)  # it is written once the answer has gone
    (mine,) = mine_of()
    assert mine["role"] == "analyst"
    assert mine["sql"].startswith("select count(*)")
    assert mine["rows"] == 1


def test_half_a_setting_is_refused(settings: Settings) -> None:
    from blyan.errors import SettingError
    from blyan.query.chat_model import ChatModel

    for given in ({"chat_url": "http://localhost:1/v1"}, {"chat_model": "m"}, {"chat_url": "ftp://x", "chat_model": "m"}):
        with pytest.raises(SettingError):
            ChatModel.from_settings(settings.model_copy(update=given))
