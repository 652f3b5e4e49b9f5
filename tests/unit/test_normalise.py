"""One block, many spellings, one set of rows; and a change of the block shows where it should and nowhere else."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.transaction import VersionedTransaction

from blyan import schemas
from blyan.errors import BadRecordError
from blyan.solana import base58
from blyan.solana.decode import decode, read_transaction
from blyan.solana.normalise import normalise
from blyan.solana.slots import SlotRange
from blyan.solana.sources import Format
from blyan.solana.sources.embedded import EmbeddedSource

Tables = dict[str, pa.Table]


@pytest.fixture(scope="module")
def recorded() -> dict[int, dict[str, Any]]:
    """Blocks of the embedded chain, as getBlock gives them with encoding `json`."""
    source = EmbeddedSource(seed=3, transactions_per_slot=40, horizon_slot=100)
    blocks = {record.slot: json.loads(record.payload) for record in source.read(SlotRange(4, 12)) if record.payload}
    return {slot: block.get("result", block) for slot, block in blocks.items()}


@pytest.fixture(scope="module")
def block(recorded) -> dict[str, Any]:
    return next(iter(recorded.values()))


def tables_of(*blocks: tuple[int, dict[str, Any]]) -> Tables:
    decoded = [decode(slot, json.dumps(block).encode(), Format.GET_BLOCK) for slot, block in blocks]
    tables = normalise(decoded)
    assert [item.bad for item in decoded] == [[] for _ in blocks]
    return {table.name: tables[table.name].cast(table.arrow_schema()) for table in schemas.NORMALISED}


def differences(left: Tables, right: Tables) -> set[tuple[str, str]]:
    """(table, column) of everything that differs; the column is `*` where the numbers of rows do."""
    found = set()
    for table in schemas.NORMALISED:
        ours, theirs = left[table.name], right[table.name]
        if ours.num_rows != theirs.num_rows:
            found.add((table.short_name, "*"))
            continue
        found |= {(table.short_name, name) for name in ours.column_names if not ours[name].combine_chunks().equals(theirs[name].combine_chunks())}
    return found


# Spellings


def short(value: int) -> bytes:
    """A compact-u16."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def in_binary(transaction: dict[str, Any], version: int | str | None) -> bytes:
    """A `json` transaction as the wire carries it."""
    message, header = transaction["message"], transaction["message"]["header"]
    parts = [short(len(transaction["signatures"])), *map(base58.decode, transaction["signatures"])]
    if version == 0:
        parts.append(b"\x80")
    parts.append(bytes([header["numRequiredSignatures"], header["numReadonlySignedAccounts"], header["numReadonlyUnsignedAccounts"]]))
    parts += [short(len(message["accountKeys"])), *map(base58.decode, message["accountKeys"]), base58.decode(message["recentBlockhash"])]
    parts.append(short(len(message["instructions"])))
    for item in message["instructions"]:
        data = base58.decode(item["data"])
        parts += [bytes([item["programIdIndex"]]), short(len(item["accounts"])), bytes(item["accounts"]), short(len(data)), data]
    if version == 0:
        parts.append(short(len(message["addressTableLookups"])))
        for table in message["addressTableLookups"]:
            parts.append(base58.decode(table["accountKey"]))
            for name in ("writableIndexes", "readonlyIndexes"):
                parts += [short(len(table[name])), bytes(table[name])]
    return b"".join(parts)


WRITERS: dict[str, Callable[[bytes], Any]] = {
    "base64": lambda data: [base64.b64encode(data).decode(), "base64"],
    "base58": lambda data: [base58.encode(data), "base58"],
    "the oldest, a bare string": base58.encode,
}


@pytest.mark.parametrize("spelling", list(WRITERS))
def test_a_binary_block_is_the_same_rows(recorded, spelling):
    for slot, block in recorded.items():
        written = [
            {**entry, "transaction": WRITERS[spelling](in_binary(entry["transaction"], entry.get("version")))} for entry in block["transactions"]
        ]
        assert differences(tables_of((slot, block)), tables_of((slot, {**block, "transactions": written}))) == set()


def test_the_wire_form_is_what_another_parser_reads(block):
    for entry in block["transactions"]:
        data = in_binary(entry["transaction"], entry.get("version"))
        theirs = VersionedTransaction.from_bytes(data)
        assert bytes(theirs) == data
        assert [str(signature) for signature in theirs.signatures] == entry["transaction"]["signatures"]


def test_an_envelope_and_a_bare_result_are_the_same_rows(block):
    assert differences(tables_of((4, block)), tables_of((4, {"jsonrpc": "2.0", "result": block, "id": 1}))) == set()


def test_a_legacy_transaction_may_say_so_or_not(block):
    legacy = copy.deepcopy(block)
    dropped = 0
    for entry in legacy["transactions"]:
        dropped += entry.get("version") == "legacy"
        if entry.get("version") == "legacy":
            del entry["version"]
    assert dropped
    assert differences(tables_of((4, block)), tables_of((4, legacy))) == set()


def test_blocks_normalised_together_are_the_rows_of_each(recorded):
    together = tables_of(*recorded.items())
    apart = [tables_of(item) for item in recorded.items()]
    assert len(apart) > 3
    assert differences(together, {name: pa.concat_tables([tables[name] for tables in apart]) for name in together}) == set()


def test_blocks_of_several_encodings_and_details_can_be_normalised_together(recorded):
    (first, plain), (second, binary), (third, bare), *_ = recorded.items()
    binary = {
        **binary,
        "transactions": [
            {**item, "transaction": WRITERS["base64"](in_binary(item["transaction"], item.get("version")))} for item in binary["transactions"]
        ],
    }
    signatures = {name: value for name, value in bare.items() if name != "transactions"}
    signatures["signatures"] = [item["transaction"]["signatures"][0] for item in bare["transactions"]]
    items = [(first, plain), (second, binary), (third, signatures)]
    apart = [tables_of(item) for item in items]
    assert differences(tables_of(*items), {name: pa.concat_tables([tables[name] for tables in apart]) for name in apart[0]}) == set()
    rows = apart[2][schemas.TRANSACTIONS.name].to_pylist()
    assert [row["signature"] for row in rows] == signatures["signatures"]
    assert {row["fee"] for row in rows} == {None}


# Negative controls: what changes when the block does


def last(block: dict[str, Any], wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    return next(entry for entry in reversed(block["transactions"]) if wanted(entry))


def balances(block: dict[str, Any]) -> None:
    meta = block["transactions"][-1]["meta"]
    place = next(at for at, (before, after) in enumerate(zip(meta["preBalances"], meta["postBalances"], strict=True)) if before != after)
    meta["postBalances"][place] += 1


def tokens(block: dict[str, Any]) -> None:
    meta = last(block, lambda entry: entry["meta"]["postTokenBalances"])["meta"]
    side = meta["postTokenBalances"][0]["uiTokenAmount"]
    side["amount"] = str(int(side["amount"]) + 10**6)


def logs(block: dict[str, Any]) -> None:
    last(block, lambda entry: entry["meta"]["logMessages"])["meta"]["logMessages"].append("more")


def fee(block: dict[str, Any]) -> None:
    block["transactions"][0]["meta"]["fee"] += 1


def blockhash(block: dict[str, Any]) -> None:
    block["transactions"][0]["transaction"]["message"]["recentBlockhash"] = "1" * 32


def inner(block: dict[str, Any]) -> None:
    meta = last(block, lambda entry: entry["meta"]["innerInstructions"])["meta"]
    meta["innerInstructions"][-1]["instructions"].pop()


def previous(block: dict[str, Any]) -> None:
    block["previousBlockhash"] = "1" * 32


def reward(block: dict[str, Any]) -> None:
    block["rewards"][0]["lamports"] = -1


def status(block: dict[str, Any]) -> None:
    entry = last(
        block, lambda entry: entry["meta"]["err"] is None and not entry["meta"]["innerInstructions"] and not entry["meta"]["postTokenBalances"]
    )
    entry["meta"]["err"] = "AccountNotFound"


def units(block: dict[str, Any]) -> None:
    block["transactions"][0]["meta"]["computeUnitsConsumed"] = 7


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (balances, {("transactions", "balance_changes"), ("balance_changes", "after"), ("balance_changes", "change")}),
        (logs, {("transactions", "log_messages")}),
        (fee, {("transactions", "fee"), ("transactions", "priority_fee_lamports")}),
        (blockhash, {("transactions", "recent_block_hash")}),
        (inner, {("instructions", "*")}),
        (previous, {("blocks", "previous_block_hash")}),
        (reward, {("blocks", "leader_reward"), ("block_rewards", "lamports")}),
        (units, {("transactions", "compute_units_consumed")}),
    ],
)
def test_a_change_of_the_block_changes_its_columns_and_no_other(block, change, expected):
    altered = copy.deepcopy(block)
    change(altered)
    found = differences(tables_of((4, block)), tables_of((4, altered)))
    # An inner instruction that goes may have moved something.
    assert expected <= found <= expected | ({("token_transfers", "*"), ("token_transfers", "ordinal")} if change is inner else set())


def test_an_error_changes_the_status_and_its_words(block):
    altered = copy.deepcopy(block)
    status(altered)
    found = differences(tables_of((4, block)), tables_of((4, altered)))
    assert {("transactions", "status"), ("transactions", "err"), ("transactions", "error_json")} <= found
    assert found <= {("transactions", "status"), ("transactions", "err"), ("transactions", "error_json"), ("token_transfers", "status")}


def test_a_token_balance_that_changes_shows_in_the_flat_rows_too(block):
    altered = copy.deepcopy(block)
    tokens(altered)
    found = differences(tables_of((4, block)), tables_of((4, altered)))
    assert ("transactions", "post_token_balances") in found
    assert {name for name, _ in found} == {"transactions", "balance_changes"}


# Numbers and what is absent


def only(block: dict[str, Any], **meta: Any) -> dict[str, Any]:
    """The block's first transaction alone, with other metadata."""
    entry = copy.deepcopy(block["transactions"][0])
    entry["meta"].update(meta)
    return {**block, "transactions": [entry]}


@given(st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_every_u64_is_exact(numbers):
    block = next(iter(_embedded().values()))
    count = len(block["transactions"][0]["meta"]["preBalances"])
    before, after, fee = numbers
    rows = tables_of((4, only(block, preBalances=[before] * count, postBalances=[after] * count, fee=fee)))
    row = rows[schemas.TRANSACTIONS.name].to_pylist()[0]
    assert row["fee"] == fee
    assert {(item["before"], item["after"]) for item in row["balance_changes"]} == {(Decimal(before), Decimal(after))}
    changes = [item["change"] for item in rows[schemas.BALANCE_CHANGES.name].to_pylist() if item["mint"] is None]
    assert changes == ([] if before == after else [Decimal(after) - Decimal(before)] * count)


_KNOWN: dict[int, dict[str, Any]] = {}


def _embedded() -> dict[int, dict[str, Any]]:
    if not _KNOWN:
        record = next(item for item in EmbeddedSource(seed=3, transactions_per_slot=40, horizon_slot=100).read(SlotRange(4, 12)) if item.payload)
        block = json.loads(record.payload)
        _KNOWN[record.slot or 0] = block.get("result", block)
    return _KNOWN


def test_what_is_absent_is_null_and_not_zero(block):
    bare = {**block, "transactions": [{"transaction": block["transactions"][0]["transaction"], "meta": None}], "blockTime": None, "blockHeight": None}
    del bare["rewards"]
    tables = tables_of((4, bare))
    (row,) = tables[schemas.TRANSACTIONS.name].to_pylist()
    told = {
        "block_slot",
        "block_hash",
        "recent_block_hash",
        "signature",
        "index",
        "accounts",
        "version",
        "is_vote",
        "signatures",
        "address_table_lookups",
    }
    optional = {"compute_unit_limit", "compute_unit_price_micro_lamports", "loaded_writable_addresses", "loaded_readonly_addresses"}
    for name, value in row.items():
        if name not in told | optional | {"pre_token_balances", "post_token_balances"}:
            assert value is None, name
    assert (row["pre_token_balances"], row["post_token_balances"], row["version"]) == (None, None, "legacy")
    (header,) = tables[schemas.BLOCKS.name].to_pylist()
    assert (header["height"], header["block_timestamp"], header["leader_reward"], header["leader"]) == (None, None, None, None)
    assert tables[schemas.BALANCE_CHANGES.name].num_rows == 0


def quarantined(block: dict[str, Any]) -> tuple[str, int]:
    decoded = decode(4, json.dumps(block).encode(), Format.GET_BLOCK)
    tables = normalise([decoded])
    return decoded.bad[0].reason if decoded.bad else "", tables[schemas.TRANSACTIONS.name].num_rows


@pytest.mark.parametrize("name", ["computeUnitsConsumed", "costUnits"])
def test_a_count_that_does_not_fit_is_quarantined_and_never_wrapped(block, name):
    reason, rows = quarantined(only(block, **{name: 2**63}))
    assert (bool(reason), rows) == (True, 0)


def test_a_lookup_index_that_does_not_fit_is_quarantined_and_never_wrapped(block):
    altered = only(block)
    altered["transactions"][0]["version"] = 0
    altered["transactions"][0]["transaction"]["message"]["addressTableLookups"] = [
        {"accountKey": "1" * 32, "writableIndexes": [2**64 - 1], "readonlyIndexes": []}
    ]
    reason, rows = quarantined(altered)
    assert (bool(reason), rows) == (True, 0)


# Loose transactions, and binary messages


def loose(entries: list[dict[str, Any]]) -> tuple[list[int], list[str]]:
    decoded = decode(4, json.dumps(entries).encode(), Format.GET_TRANSACTION)
    rows = normalise([decoded])[schemas.TRANSACTIONS.name]
    return rows["index"].to_pylist(), [item.reason for item in decoded.bad]


def test_loose_transactions_in_json_and_base64_are_one_batch(block):
    first, second, *_ = ({**entry, "slot": 4} for entry in block["transactions"])
    second = {**second, "transaction": WRITERS["base64"](in_binary(second["transaction"], second.get("version")))}
    assert loose([first, second]) == ([0, 1], [])


def test_a_loose_transaction_written_otherwise_than_the_others_is_quarantined_alone(block):
    entries = [copy.deepcopy({**entry, "slot": 4}) for entry in block["transactions"][:3]]
    del entries[1]["transaction"]["message"]["header"]
    assert loose(entries) == ([0, 2], ["mixed_encodings"])


def test_no_loose_transactions_are_no_rows():
    assert loose([]) == ([], [])


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_bytes_that_are_no_message_raise_only_what_the_decoder_expects(data):
    with pytest.raises((ValueError, IndexError, BadRecordError)):
        read_transaction(data + b"\xff", {})


def test_a_block_that_is_no_block_says_what_to_do():
    for payload in (b"", b"null", b"{}", b'{"blockhash": 1}', b"[]", b'{"result": null}', b"\xff\xfe"):
        with pytest.raises(BadRecordError, match="slot 4") as caught:
            decode(4, payload, Format.GET_BLOCK)
        assert caught.value.remedy
