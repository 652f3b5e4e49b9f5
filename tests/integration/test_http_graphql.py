"""GraphQL over HTTP: the same rows as REST, loaded together, priced before they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from blyan.api.app import create
from blyan.api.callers import Role, Scope
from blyan.lake import Lake
from blyan.query.records import Records
from blyan.settings import Settings
from tests.http_service import LAST_SLOT, key_for, made_lake


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("graph")
    return made_lake(folder / "lake").model_copy(update={"audit_log": "", "query_processes": 1})


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create(settings), headers={"authorization": f"Bearer {key_for(Lake.from_settings(settings))}"}) as client:
        yield client


def ask(client: TestClient, query: str, **variables: Any) -> dict[str, Any]:
    answer = client.post("/v1/graphql", json={"query": query, "variables": variables})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    assert "errors" not in document, document
    data: dict[str, Any] = document["data"]
    return data


def test_a_graph_has_the_rows_of_the_lists(client: TestClient) -> None:
    query = """query ($last: Long) {
      blocks(last_slot: $last, limit: 30) {
        data { slot leader_reward block_timestamp transactions { signature fee accounts { pubkey signer } instructions { ordinal program_id } } rewards { lamports pubkey } }
        next truncated reading { version up_to_slot finality behind_slots }
      }
    }"""
    page = ask(client, query, last=25)["blocks"]
    plain = client.get("/v1/blocks", params={"last_slot": 25}).json()
    assert [row["slot"] for row in page["data"]] == [row["slot"] for row in plain["data"]]
    assert [row["leader_reward"] for row in page["data"]] == [row["leader_reward"] for row in plain["data"]]
    assert page["reading"] == {"version": 2, "up_to_slot": LAST_SLOT, "finality": "confirmed", "behind_slots": 2}
    listed = client.get("/v1/transactions", params={"last_slot": 25, "limit": 1000}).json()["data"]
    found = [transaction for row in page["data"] for transaction in row["transactions"]]
    assert [(each["signature"], each["fee"], [account["pubkey"] for account in each["accounts"]]) for each in found] == [
        (each["signature"], each["fee"], [account["pubkey"] for account in each["accounts"]]) for each in listed
    ]
    for transaction in found[::40]:
        steps = client.get(f"/v1/transactions/{transaction['signature']}/instructions").json()["data"]
        assert transaction["instructions"] == [{"ordinal": step["ordinal"], "program_id": step["program_id"]} for step in steps]


def test_rows_of_a_level_are_loaded_together(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    page = Records.page

    def counted(self: Records, question: Any, **more: Any) -> Any:
        asked.append(question.table.name)
        return page(self, question, **more)

    monkeypatch.setattr(Records, "page", counted)
    ask(
        client,
        "{ blocks(limit: 10) { data { slot transactions { signature instructions { ordinal } token_transfers { value } changes { change } } } } }",
    )
    assert sorted(asked) == ["solana/balance_changes", "solana/blocks", "solana/instructions", "solana/token_transfers", "solana/transactions"]


def test_one_thing_is_found_by_its_name_or_is_null(client: TestClient) -> None:
    (row,) = client.get("/v1/transactions", params={"first_slot": 30, "limit": 1}).json()["data"]
    query = "query ($signature: String!) { transaction(signature: $signature) { block_slot status } block(slot: 5) { slot } none: block(slot: 999) { slot } }"
    data = ask(client, query, signature=row["signature"])
    assert data == {"transaction": {"block_slot": row["block_slot"], "status": row["status"]}, "block": {"slot": 5}, "none": None}


def test_pages_go_on_with_the_cursor_and_filters_filter(client: TestClient) -> None:
    found, cursor = [], None
    while True:
        page = ask(
            client, "query ($cursor: String) { token_transfers(limit: 50, cursor: $cursor) { data { tx_signature ordinal } next } }", cursor=cursor
        )
        found += [(row["tx_signature"], row["ordinal"]) for row in page["token_transfers"]["data"]]
        cursor = page["token_transfers"]["next"]
        if cursor is None:
            break
    listed, cursor = [], None
    while True:
        plain = client.get("/v1/token-transfers", params={"limit": 1000, **({"cursor": cursor} if cursor else {})}).json()
        listed += [(row["tx_signature"], row["ordinal"]) for row in plain["data"]]
        cursor = plain["next"]
        if cursor is None:
            break
    assert found == listed


@pytest.mark.parametrize(
    ("query", "slug", "said"),
    [
        ("{", "query-refused", "Syntax Error"),
        ("{ blocks { data { slott } } }", "query-refused", "Did you mean 'slot'"),
        ("{ blockz { data { slot } } }", "query-refused", "Did you mean 'block' or 'blocks'"),
        ("{ blocks(limit: 1000) { data { transactions { instructions { ordinal } token_transfers { value } } } } }", "too-costly", "may cost"),
        ("{ " + " ".join(f"a{n}: block(slot: {n}) {{ slot }}" for n in range(40)) + " }", "query-refused", "aliases"),
        ("{ " + "blocks { data { slot } } " * 900 + "}", "query-refused", "tokens"),
        ("query { ...a } fragment a on Query { ...b } fragment b on Query { ...a }", "query-refused", "contains itself"),
        (
            "query { ...f0 } " + " ".join(f"fragment f{n} on Query {{ ...f{n + 1} ...f{n + 1} }}" for n in range(60)),
            "too-costly",
            "may cost",
        ),
        ("mutation { drop }", "query-refused", ""),
        ("{" * 3_000, "query-refused", ""),
    ],
    ids=range(10),
)
def test_what_cannot_be_asked_is_a_problem(client: TestClient, settings: Settings, query: str, slug: str, said: str) -> None:
    key = key_for(Lake.from_settings(settings), Role.READER)
    answer = client.post("/v1/graphql", json={"query": query}, headers={"authorization": f"Bearer {key}"})
    assert answer.json()["type"] == f"urn:blyan:problem:{slug}", answer.text
    assert said in answer.json()["detail"]


def test_an_error_of_one_field_leaves_the_others(client: TestClient) -> None:
    answer = client.post("/v1/graphql", json={"query": "{ blocks(limit: 0) { next } block(slot: 5) { slot } }"}).json()
    assert answer["errors"][0]["extensions"]["type"] == "urn:blyan:problem:query-refused"
    assert "from 1 to" in answer["errors"][0]["extensions"]["remedy"]
    wrong = client.post("/v1/graphql", json={"query": '{ rewards(cursor: "nonsense") { next } }'}).json()
    assert wrong["errors"][0]["extensions"]["type"] == "urn:blyan:problem:bad-cursor"


def test_a_subscription_needs_its_scope(client: TestClient, settings: Settings) -> None:
    key = key_for(Lake.from_settings(settings), Role.READER, frozenset({Scope.READ}))
    answer = client.post("/v1/graphql", json={"query": "subscription { slots { slot } }"}, headers={"authorization": f"Bearer {key}"})
    assert answer.json()["type"] == "urn:blyan:problem:forbidden"
