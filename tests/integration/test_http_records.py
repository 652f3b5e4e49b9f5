"""Records over HTTP: the same rows as SQL, in pages, from the lake and the landing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from blyan.api.app import create
from blyan.api.callers import Role
from blyan.lake import Lake
from blyan.query.engine import connect
from blyan.settings import Settings
from tests.http_service import LAST_SLOT, key_for, made_lake


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("records")
    return made_lake(folder / "lake").model_copy(update={"audit_log": str(folder / "audit.jsonl")})


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    key = key_for(Lake.from_settings(settings))
    with TestClient(create(settings), headers={"authorization": f"Bearer {key}"}) as client:
        yield client


def rows(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    with connect(Lake.from_settings(settings)) as connection:
        return list(connection.execute(query).fetchall())


def pages(client: TestClient, path: str, **parameters: Any) -> list[dict[str, Any]]:
    found, cursor = [], None
    for _ in range(1_000):
        page = client.get(path, params=parameters | ({"cursor": cursor} if cursor else {})).raise_for_status().json()
        assert page["truncated"] == (page["next"] is not None)
        found += page["data"]
        cursor = page["next"]
        if cursor is None:
            return found
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/blocks", "select slot from solana.blocks order by all"),
        ("/v1/transactions", "select block_slot, index from solana.transactions order by all"),
        ("/v1/token-transfers", "select block_slot, tx_index, ordinal from solana.token_transfers order by all"),
        ("/v1/rewards", "select block_slot, index from solana.block_rewards order by all"),
    ],
)
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_together_are_the_table_in_its_order(client: TestClient, settings: Settings, path: str, query: str, order: str) -> None:
    expected = rows(settings, query)
    assert expected
    names = {1: ["slot"], 2: ["block_slot", "index"], 3: ["block_slot", "tx_index", "ordinal"]}[len(expected[0])]

    found = [tuple(row[name] for name in names) for row in pages(client, path, order=order, limit=37)]

    assert found == (expected if order == "asc" else expected[::-1])


def test_a_window_of_slots_and_one_of_times_leave_the_same_rows(client: TestClient, settings: Settings) -> None:
    ((start, end),) = rows(settings, "select min(block_timestamp), max(block_timestamp) from solana.blocks where slot between 10 and 30")
    expected = rows(settings, f"select slot from solana.blocks where block_timestamp >= '{start}' and block_timestamp < '{end}' order by all")

    found = pages(client, "/v1/blocks", from_time=start.isoformat(), to_time=end.isoformat(), limit=7)

    assert [(row["slot"],) for row in found] == expected
    assert [row["slot"] for row in pages(client, "/v1/blocks", first_slot=18, last_slot=41)] == [
        slot for (slot,) in rows(settings, "select slot from solana.blocks where slot between 18 and 41 order by all")
    ]


def test_an_answer_says_what_it_was_read_from(client: TestClient) -> None:
    reading = client.get("/v1/blocks").json()["reading"]

    assert reading["versions"] == {"solana/blocks": 2}
    assert (reading["up_to_slot"], reading["finality"], reading["finalized_to"]) == (LAST_SLOT, "confirmed", 44)
    assert reading["behind_slots"] == 2
    assert reading["behind_ms"] >= 800


def test_a_transaction_is_found_by_its_signature_wherever_it_is(client: TestClient, settings: Settings) -> None:
    for slot, signature in rows(settings, "select block_slot, first(signature) from solana.transactions group by all order by all")[::7]:
        answer = client.get(f"/v1/transactions/{signature}").raise_for_status().json()
        assert (answer["data"]["block_slot"], answer["data"]["signature"]) == (slot, signature)
        steps = client.get(f"/v1/transactions/{signature}/instructions").raise_for_status().json()["data"]
        assert [step["ordinal"] for step in steps] == list(range(len(steps)))
        assert {step["tx_signature"] for step in steps} == {signature}


def test_a_signature_that_nobody_has_is_not_found(client: TestClient) -> None:
    answer = client.get(f"/v1/transactions/{'5' * 88}")
    assert answer.status_code == 404
    assert answer.json()["detail"] == f"no transaction up to slot {LAST_SLOT} has this signature"


def test_the_transactions_of_an_account_are_those_that_name_it(client: TestClient, settings: Settings) -> None:
    query = "select pubkey, count(*) from (select unnest(accounts).pubkey as pubkey from solana.transactions) group by all order by 2 desc, 1 limit 3"
    for account, count in rows(settings, query):
        found = pages(client, f"/v1/accounts/{account}/transactions", limit=50)
        assert len(found) == count
        assert all(account in {each["pubkey"] for each in row["accounts"]} for row in found)


def test_the_newest_balance_of_an_account_is_the_last_change(client: TestClient, settings: Settings) -> None:
    ((account, after),) = rows(
        settings,
        "select account, arg_max(after, (block_slot, tx_index)) from solana.balance_changes where mint is null group by all order by 1 limit 1",
    )
    (row,) = client.get(f"/v1/accounts/{account}/balances", params={"order": "desc", "limit": 1, "asset": "sol"}).json()["data"]
    assert row["after"] == str(after)


def test_amounts_are_texts_and_exact(client: TestClient, settings: Settings) -> None:
    for row in client.get("/v1/token-transfers", params={"limit": 20}).json()["data"]:
        assert isinstance(row["value"], str)
        assert row["value"].isdecimal()


def test_instructions_of_a_program_and_transfers_of_a_mint(client: TestClient, settings: Settings) -> None:
    ((program, count),) = rows(settings, "select program_id, count(*) from solana.instructions group by all order by 2 desc, 1 limit 1")
    assert len(pages(client, f"/v1/programs/{program}/instructions", limit=500)) == count
    ((mint, moved),) = rows(
        settings, "select mint, count(*) from solana.token_transfers where mint is not null group by all order by 2 desc, 1 limit 1"
    )
    assert len(pages(client, f"/v1/mints/{mint}/transfers", limit=500)) == moved


def test_a_slot_without_a_block_says_why(client: TestClient, settings: Settings) -> None:
    skipped = rows(settings, "select slot from solana.completeness where state = 'skipped' order by all")
    assert skipped, "the embedded chain skips slots"
    answer = client.get(f"/v1/blocks/{skipped[0][0]}")
    assert answer.status_code == 404
    assert "it is skipped" in answer.json()["detail"]
    assert client.get("/v1/blocks/90").json()["detail"] == f"slot 90 is not there; the newest is {LAST_SLOT}"


def test_a_role_may_be_allowed_fewer_rows_and_the_rest_comes_with_the_cursor(settings: Settings, tmp_path: Path) -> None:
    key = key_for(Lake.from_settings(settings), Role.READER)
    with TestClient(create(settings), headers={"authorization": f"Bearer {key}"}) as client:
        page = client.get("/v1/programs/Vote111111111111111111111111111111111111111/instructions", params={"limit": 1_000}).json()
        assert len(page["data"]) <= 500
        assert client.get("/v1/transactions", params={"limit": 1_000}).json()["truncated"] is False


def test_a_cursor_of_another_question_is_refused(client: TestClient) -> None:
    cursor = client.get("/v1/blocks", params={"limit": 1}).json()["next"]
    for wrong in ({"cursor": cursor, "order": "desc"}, {"cursor": cursor, "first_slot": 3}, {"cursor": "nonsense"}, {"cursor": cursor[:-4]}):
        answer = client.get("/v1/blocks", params=wrong)
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:blyan:problem:bad-cursor"), wrong
    assert client.get("/v1/rewards", params={"cursor": cursor}).status_code == 400


def test_every_response_has_the_form_that_the_description_gives_it(client: TestClient) -> None:
    import jsonschema

    description = client.get("/openapi.json").json()
    for path in ("/v1/blocks", "/v1/transactions", "/v1/token-transfers", "/v1/rewards", "/v1/tables", "/v1/me", "/readyz"):
        schema = description["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": description["components"]}
        jsonschema.Draft202012Validator(whole).validate(client.get(path).json())
