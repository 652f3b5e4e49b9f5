"""One block gives one set of rows, whatever encoding it was recorded in, and whoever parses it."""

from __future__ import annotations

import base64
import csv
import json
from typing import Any

import bigquery_rows
import pyarrow as pa
import pytest
from recorded_files import SOLANA, manifest, read_block, read_bytes
from solders.rpc.responses import GetBlockResp
from solders.transaction import VersionedTransaction

from blyan import schemas
from blyan.solana.decode import decode
from blyan.solana.normalise import normalise
from blyan.solana.sources import Format

NEEDS = pytest.mark.skipif(not manifest(), reason="the recorded mainnet data is not at ../shared/data")
pytestmark = NEEDS

BASE64 = ["254170887", "147078735", "270893658", "314167369", "380876342", "443787702"]


def tables_of(slot: int, payload: bytes, form: Format = Format.GET_BLOCK) -> dict[str, pa.Table]:
    block = decode(slot, payload, form)
    tables = normalise([block])
    assert block.bad == []
    return {table.name: tables[table.name].cast(table.arrow_schema()) for table in schemas.NORMALISED}


def assert_same(left: dict[str, pa.Table], right: dict[str, pa.Table], *, without: dict[str, set[str]] | None = None) -> None:
    for name, rows in left.items():
        assert rows.num_rows == right[name].num_rows, name
        for column in rows.column_names:
            if column not in (without or {}).get(name, ()):
                ours, theirs = rows[column].combine_chunks(), right[name][column].combine_chunks()
                if not ours.equals(theirs):
                    at = next(i for i in range(len(ours)) if ours[i] != theirs[i])
                    pytest.fail(f"{name}.{column}, row {at}: {ours[at]} and {theirs[at]}")


@pytest.mark.parametrize(("slot", "encodings"), [(110130000, ["json", "jsonParsed"]), (147078735, ["json", "base64", "jsonParsed"])])
def test_a_block_recorded_in_several_encodings_is_stored_the_same(recorded, slot, encodings):
    stored = [{table.name: recorded(f"blocks/{slot}-{encoding}-").table(table) for table in schemas.NORMALISED} for encoding in encodings]
    assert stored[0][schemas.TRANSACTIONS.name].num_rows == recorded(f"blocks/{slot}-json-").transactions_recorded > 0
    for other in stored[1:]:
        assert_same(stored[0], other)
    digests = [
        [recorded(f"blocks/{slot}-{encoding}-").normalised.commits[table.name].digest for table in schemas.NORMALISED] for encoding in encodings
    ]
    assert digests.count(digests[0]) == len(digests)


def test_a_transaction_recorded_in_three_encodings_is_the_same_rows():
    files = [f"transactions/kevinheavey_solders-tests__data__get_transaction_{encoding}_encoding" for encoding in ("json", "base64", "json_parsed")]
    results = [json.loads(read_bytes(file)) for file in files]
    tables = [tables_of(147558327, json.dumps([result["result"]]).encode(), Format.GET_TRANSACTION) for result in results]
    assert tables[0][schemas.TRANSACTIONS.name].num_rows == 1
    for other in tables[1:]:
        assert_same(tables[0], other)


def in_json(entry: dict[str, Any]) -> dict[str, Any]:
    """A base64 transaction as RPC writes it with encoding `json`, read by an independent parser."""
    transaction = VersionedTransaction.from_bytes(base64.b64decode(entry["transaction"][0]))
    message = transaction.message
    given: dict[str, Any] = {
        "accountKeys": [str(key) for key in message.account_keys],
        "header": {
            "numRequiredSignatures": message.header.num_required_signatures,
            "numReadonlySignedAccounts": message.header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": message.header.num_readonly_unsigned_accounts,
        },
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            {"programIdIndex": item.program_id_index, "accounts": list(item.accounts), "data": _base58(bytes(item.data))}
            for item in message.instructions
        ],
    }
    if hasattr(message, "address_table_lookups"):
        given["addressTableLookups"] = [
            {"accountKey": str(table.account_key), "writableIndexes": list(table.writable_indexes), "readonlyIndexes": list(table.readonly_indexes)}
            for table in message.address_table_lookups
        ]
    version = {"version": 0 if hasattr(message, "address_table_lookups") else "legacy"} if "version" in entry else {}
    return entry | version | {"transaction": {"signatures": [str(item) for item in transaction.signatures], "message": given}}


_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def _base58(data: bytes) -> str:
    """Schoolbook base58, so that the test does not lean on what it tests."""
    number, text = int.from_bytes(data), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


@pytest.mark.parametrize("slot", BASE64)
def test_a_base64_block_written_as_json_by_another_parser_is_the_same_rows(slot):
    block = read_block(f"blocks/{slot}-base64-")
    rewritten = block | {"transactions": [in_json(entry) for entry in block["transactions"]]}
    assert len(block["transactions"]) > 10
    assert_same(tables_of(int(slot), json.dumps(block).encode()), tables_of(int(slot), json.dumps(rewritten).encode()))


@pytest.mark.parametrize("start", ["blocks/110130000-json-", "blocks/285000037-json-", "blocks/332254855-json-", "blocks/254170887-base64-"])
def test_signatures_accounts_and_data_are_what_another_parser_reads(start):
    block = read_block(start)
    for entry in block["transactions"]:
        # The other parser fails a whole block for one error that it does not know.
        entry["meta"]["err"] = entry["meta"]["status"] = None
    block["transactions"] = [{**entry, "meta": {**entry["meta"], "status": {"Ok": None}}} for entry in block["transactions"]]
    theirs = GetBlockResp.from_json(json.dumps({"jsonrpc": "2.0", "result": block, "id": 1})).value
    slot = int(start.partition("/")[2].partition("-")[0])
    tables = tables_of(slot, json.dumps(block).encode())
    rows = tables[schemas.TRANSACTIONS.name].to_pylist()
    instructions: dict[int, list[dict[str, Any]]] = {}
    for row in tables[schemas.INSTRUCTIONS.name].to_pylist():
        if row["parent_index"] is None:
            instructions.setdefault(row["tx_index"], []).append(row)
    assert len(rows) == len(theirs.transactions) > 100
    compared = 0
    for row, their in zip(rows, theirs.transactions, strict=True):
        transaction = their.transaction
        message = transaction.message
        keys = [str(key) for key in message.account_keys]
        assert row["signatures"] == [str(signature) for signature in transaction.signatures]
        assert [account["pubkey"] for account in row["accounts"]][: len(keys)] == keys
        assert row["recent_block_hash"] == str(message.recent_blockhash)
        everyone = [account["pubkey"] for account in row["accounts"]]
        for ours, item in zip(instructions[row["index"]], message.instructions, strict=True):
            assert ours["program_id"] == everyone[item.program_id_index]
            if ours["data"] is not None:
                assert ours["data"] == (item.data if isinstance(item.data, str) else _base58(bytes(item.data)))
                assert ours["accounts"] == [everyone[at] for at in item.accounts]
                compared += 1
    assert compared > 5


UNTOLD_BY_BIGQUERY = {
    schemas.BLOCKS.name: {"parent_slot"},
    schemas.TRANSACTIONS.name: {
        "version", "signatures", "error_json", "loaded_writable_addresses", "loaded_readonly_addresses", "address_table_lookups", "cost_units",
        "return_data_program_id", "return_data",
    },
    schemas.INSTRUCTIONS.name: {"stack_height"},
}  # fmt: skip
"""What the public dataset does not have."""


def as_dataset(value: Any, field: bigquery_rows.Field) -> Any:
    """A value as the source writes it: exact numbers are text."""
    if value is None:
        return None
    if field.mode == "REPEATED":
        return [as_dataset(item, bigquery_rows.Field(field.name, field.type, "NULLABLE", field.fields)) for item in value]
    match field.type:
        case "RECORD":
            return {inner.name: as_dataset(value[inner.name], inner) for inner in field.fields}
        case "NUMERIC" | "BIGNUMERIC":
            return str(value)
        case "TIMESTAMP":
            return value.isoformat()
        case _:
            return value


@pytest.mark.parametrize("slot", [110130000, 147078735])
def test_the_public_datasets_rows_of_a_block_give_the_same_rows_in_every_column_that_it_has(slot):
    given = bigquery_rows.rows_of_block(slot, read_block(f"blocks/{slot}-jsonParsed-"))
    rows = {
        name: [{field.name: as_dataset(row[field.name], field) for field in bigquery_rows.SCHEMAS[name]} for row in table]
        for name, table in given.items()
    }
    payload = {
        "block": rows["Blocks"][0],
        "transactions": rows["Transactions"],
        "instructions": rows["Instructions"],
        "rewards": rows["Block Rewards"],
    }
    through_dataset = tables_of(slot, json.dumps(payload).encode(), Format.BIGQUERY)
    direct = tables_of(slot, read_bytes(f"blocks/{slot}-json-"))
    assert_same(direct, through_dataset, without=UNTOLD_BY_BIGQUERY)
    assert through_dataset[schemas.TRANSACTIONS.name]["version"].null_count == len(given["Transactions"])


def test_instructions_agree_with_another_projects_golden_rows():
    folder = SOLANA / "other" / "solana-etl-airflow"
    recorded = json.loads((folder / "web3_response.getTransaction_a94e19dfa57bcb58b28242a684b889a7.json").read_bytes())
    with (folder / "expected_instructions.csv").open(newline="") as file:
        golden = {(int(row["parent_index"] or -1), int(row["index"])): row for row in csv.DictReader(file)}
    result = recorded[0]["result"]
    tables = tables_of(result["slot"], json.dumps([result]).encode(), Format.GET_TRANSACTION)
    rows = tables[schemas.INSTRUCTIONS.name].to_pylist()
    assert {(-1 if row["parent_index"] is None else row["parent_index"], row["index"]) for row in rows} == set(golden)
    decoded = 0
    for row in rows:
        expected = golden[-1 if row["parent_index"] is None else row["parent_index"], row["index"]]
        assert (row["tx_signature"], row["program_id"]) == (expected["tx_signature"], expected["program_id"])
        if row["program"] is None:
            # They name more programs than are decoded here, and leave those undecoded too.
            assert (row["data"], row["accounts"]) == (expected["data"], json.loads(expected["accounts"]))
        else:
            decoded += 1
            assert (row["program"], row["instruction_type"]) == (expected["program"], expected["instruction_type"])
            assert {param["key"]: json.loads(param["value"]) for param in row["params"]} == json.loads(expected["params"])
    assert decoded > 5
