"""Transactions that are not what they should be: each lands or is quarantined with its reason, and costs no other a row."""

from __future__ import annotations

import base64
import copy
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blyan import schemas
from blyan.errors import BadRecordError
from blyan.solana.decode import Block, decode
from blyan.solana.normalise import normalise
from blyan.solana.slots import SlotRange
from blyan.solana.sources import Format
from blyan.solana.sources.embedded import EmbeddedSource

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SLOT = 285_000_037
PER_TRANSACTION = (schemas.TRANSACTIONS, schemas.INSTRUCTIONS, schemas.TOKEN_TRANSFERS, schemas.BALANCE_CHANGES)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
ENCODINGS = ["json", "jsonParsed", "base64"]

RECORDED = {
    "json": "285000037-json-SangHyeonKwon_solana-sandwich-detector-fixtures__slot_285000037.json.gz",
    "jsonParsed": "110130000-jsonParsed-zuyezheng_solana-etl-test__resources__blocks__110130000__110130000.json.gz",
    "base64": "254170887-base64-helius-labs_photon-tests__data__blocks__index_block_metadata__254170887.json.gz",
}


@cache
def header_and_transactions(encoding: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block with six transactions that differ as much as can be: recorded ones, or the embedded chain's where those are absent."""
    path = SHARED_DATA / "solana" / "blocks" / RECORDED[encoding]
    if path.is_file():
        block = json.loads(gzip.decompress(path.read_bytes()))
        block = block.get("result", block)
    else:
        if encoding != "json":
            pytest.skip("the recorded mainnet data is not at ../shared/data, and the embedded chain speaks json")
        record = next(item for item in EmbeddedSource(seed=1, transactions_per_slot=24, horizon_slot=100).read(SlotRange(5, 60)) if item.payload)
        block = json.loads(record.payload)
        block = block.get("result", block)
    kinds: dict[Any, dict[str, Any]] = {}
    for transaction in block["transactions"]:
        meta = transaction["meta"]
        kind = (bool(meta["innerInstructions"]), bool(meta["postTokenBalances"]), meta["err"] is None, transaction.get("version"))
        if len(json.dumps(transaction)) < 40_000:
            kinds.setdefault(kind, transaction)
    return {**block, "transactions": None}, list(kinds.values())[:6]


def payload_of(encoding: str, transactions: list[Any]) -> bytes:
    header, _ = header_and_transactions(encoding)
    return json.dumps({**header, "transactions": transactions}).encode()


def tables_of(block: Block) -> dict[str, pa.Table]:
    tables = normalise([block])
    return {table.name: tables[table.name].cast(table.arrow_schema()) for table in schemas.NORMALISED}


@cache
def untouched(encoding: str, without: int) -> dict[str, pa.Table]:
    """The rows of the whole block, less those of one transaction."""
    block = decode(SLOT, payload_of(encoding, header_and_transactions(encoding)[1]), Format.GET_BLOCK)
    tables = tables_of(block)
    assert block.bad == []
    return rows_without(tables, without)


def rows_without(tables: dict[str, pa.Table], index: int) -> dict[str, pa.Table]:
    position = {table.name: "index" if table is schemas.TRANSACTIONS else "tx_index" for table in PER_TRANSACTION}
    return {name: tables[name].filter(pc.not_equal(tables[name][column], index)).combine_chunks() for name, column in position.items()}


def check_accounted(block: Block, tables: dict[str, pa.Table], count: int) -> None:
    """Every transaction is in the tables or in `bad`, with its reason and its bytes, and never in both."""
    landed = tables[schemas.TRANSACTIONS.name]["index"].to_pylist()
    bad = [item.index for item in block.bad]
    assert sorted([*landed, *bad]) == list(range(count))
    for item in block.bad:
        assert item.reason.replace("_", "").isalnum()
        assert item.raw
    assert block.stated == count
    for table in schemas.NORMALISED:
        for column in table.columns:
            assert column.nullable or tables[table.name][column.name].null_count == 0, (table.name, column.name)
        assert not (set(tables[table.name][table.key[0] if table is schemas.BLOCKS else "block_slot"].to_pylist()) - {SLOT})
    indexes = set(landed)
    for table in PER_TRANSACTION[1:]:
        assert set(tables[table.name]["tx_index"].to_pylist()) <= indexes


def check_one_bad(encoding: str, at: int, transaction: Any) -> Block:
    """Put something in the place of one transaction, and see that no other notices."""
    transactions = list(header_and_transactions(encoding)[1])
    transactions[at] = transaction
    block = decode(SLOT, payload_of(encoding, transactions), Format.GET_BLOCK)
    tables = tables_of(block)
    check_accounted(block, tables, len(transactions))
    assert {item.index for item in block.bad} <= {at}
    rest, expected = rows_without(tables, at), untouched(encoding, at)
    # Names only: a whole table in a message says nothing, and takes long to write.
    differ = [(name, column) for name, rows in rest.items() for column in rows.column_names if not rows[column].equals(expected[name][column])]
    assert differ == []
    return block


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 255, 256, 65_536, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 1.5, 1e300]),
    st.integers(),
    st.sampled_from(
        [
            "",
            "0",
            "-1",
            "1.5",
            "0OIl",
            "=",
            "!!",
            "A" * 5_000,
            "1" * 100,
            "18446744073709551616",
            "1e3",
            " 1",
            "\0",
            "\x1b[31m\n",
            "é",
            "\u202e",
            "1" * 32,
        ]
    ),
    st.text(max_size=20),
    st.sampled_from(
        [[], {}, [[]], [None], [0] * 300, [-1], [2**64], [""], ["1" * 32], {"a": 1}, {"Custom": 2**40}, {"NoSuchVariant": [1, {"x": None}]}]
    ),
    st.sampled_from(["legacy", "v1", 1, 127, -1, "0"]),
    st.recursive(
        st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((*path, key))
        found += places(inner, (*path, key))
    return found


@cache
def all_places(encoding: str, at: int) -> list[tuple[Any, ...]]:
    """Paths of a transaction, one for each shape: `…/instructions/0/data` and `…/instructions/1/data` are alike."""
    shapes: dict[Any, tuple[Any, ...]] = {}
    for path in places(header_and_transactions(encoding)[1][at]):
        shapes.setdefault(tuple(min(key, 1) if isinstance(key, int) else key for key in path), path)
    return list(shapes.values())


@st.composite
def mutations(draw: st.DrawFn, encoding: str) -> tuple[int, Any]:
    """A transaction, and what becomes of it."""
    _, transactions = header_and_transactions(encoding)
    at = draw(st.integers(0, len(transactions) - 1))
    mutant = copy.deepcopy(transactions[at])
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(all_places(encoding, at)))
        parent = mutant
        try:
            for key in path[:-1]:
                parent = parent[key]
            value = parent[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier mutation took the place away
        change = draw(st.sampled_from(["replace", "delete", "repeat", "truncate", "flood"]))
        if change == "delete":
            del parent[path[-1]]
        elif change == "repeat" and isinstance(value, list) and value:
            value.append(copy.deepcopy(value[0]))
        elif change == "truncate" and isinstance(value, list | str) and value:
            parent[path[-1]] = value[:-1]
        elif change == "flood" and isinstance(value, list) and value:
            parent[path[-1]] = value * (600 // len(value) + 1)
        else:
            parent[path[-1]] = draw(JUNK)
    return at, mutant


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_mutated_transaction_lands_or_is_quarantined_and_costs_no_other_a_row(encoding):
    @FUZZ
    @given(mutations(encoding))
    def check(mutation):
        check_one_bad(encoding, *mutation)

    check()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "thing",
    [None, 0, "text", [], {}, {"transaction": None, "meta": None}, {"transaction": {}, "meta": {}}, {"transaction": ["", "base64"]}],
    ids=repr,
)
def test_something_that_is_no_transaction_is_quarantined_wherever_it_stands(encoding, thing):
    for at in range(len(header_and_transactions(encoding)[1])):
        assert [item.index for item in check_one_bad(encoding, at, thing).bad] == [at]


def changed(encoding: str, at: int, *path: Any, to: Any) -> Any:
    transaction = copy.deepcopy(header_and_transactions(encoding)[1][at])
    parent = transaction
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = to
    return transaction


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("version",), 1, "unknown_version"),
        (("transaction", "signatures"), [], "missing_signature"),
        (("transaction", "signatures", 0), "", "missing_signature"),
        (("transaction", "message", "accountKeys", 0), "\u00e9", "not_base58"),
        (("transaction", "message", "header", "numRequiredSignatures"), 200, "bad_header"),
        (("transaction", "message", "instructions", 0, "programIdIndex"), 200, "account_index"),
        (("transaction", "message", "instructions", 0, "accounts"), [255], "account_index"),
        (("transaction", "message", "instructions", 0, "accounts"), [2**64], "integer_overflow"),
        (("meta", "preBalances", 0), 2**64, "integer_overflow"),
        (("meta", "preBalances", 0), -1, "not_integers"),
        (("meta", "postBalances"), [], "balance_count"),
        (("meta", "innerInstructions"), [{"index": 99, "instructions": []}], "orphan_inner_instruction"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_by_a_stable_reason(path, value, reason):
    for at in range(len(header_and_transactions("json")[1])):
        (item,) = check_one_bad("json", at, changed("json", at, *path, to=value)).bad
        assert (item.index, item.reason) == (at, reason)


@pytest.mark.parametrize(
    "err", [{"NoSuchError": 7}, "AnotherOne", {"InstructionError": [0, "NoSuchVariant"]}, {"InstructionError": [0, {"Custom": 2**40}]}]
)
def test_an_error_that_nobody_knows_is_kept_and_fails_nothing(err):
    for encoding in ENCODINGS:
        assert check_one_bad(encoding, 0, changed(encoding, 0, "meta", "err", to=err)).bad == []


def test_logs_are_kept_to_the_letter_whatever_they_hold():
    logs = ["\0\x01\x1b[2J", "emoji \U0001f680", "line\nfeed", "Log truncated", "\ufffd", "x" * 50_000]
    transaction = changed("json", 0, "meta", "logMessages", to=logs)
    transactions = [transaction, *header_and_transactions("json")[1][1:]]
    block = decode(SLOT, payload_of("json", transactions), Format.GET_BLOCK)
    assert tables_of(block)[schemas.TRANSACTIONS.name]["log_messages"][0].as_py() == logs


def test_a_key_given_twice_counts_as_the_last_one():
    text = json.dumps(header_and_transactions("json")[1][0]).replace('"meta": {', '"meta": {"fee": 1, ', 1)
    payload = payload_of("json", [None]).replace(b"[null]", b"[" + text.encode() + b"]")
    row = tables_of(decode(SLOT, payload, Format.GET_BLOCK))[schemas.TRANSACTIONS.name].to_pylist()[0]
    assert row["fee"] == header_and_transactions("json")[1][0]["meta"]["fee"]


def test_nesting_deeper_than_any_stack_is_refused_and_costs_nothing_else():
    deep = "[" * 100_000 + "]" * 100_000
    text = json.dumps(header_and_transactions("json")[1][0]).replace('"meta": {', f'"meta": {{"err": {deep}, ', 1)
    payload = payload_of("json", [None]).replace(b"[null]", b"[" + text.encode() + b"]")
    with pytest.raises(BadRecordError):
        decode(SLOT, payload, Format.GET_BLOCK)


def decoded_or_refused(payload: bytes) -> tuple[Block | None, Any]:
    try:
        return decode(SLOT, payload, Format.GET_BLOCK), None
    except BadRecordError as error:
        return None, error


@FUZZ
@given(
    encoding=st.sampled_from(ENCODINGS),
    cut=st.integers(0, 200_000),
    edits=st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from([b"", b"\xff", b"\0", b'"', b"{", b"]", b",", b"9", b"\xf0\x9f", b"null"])), max_size=3
    ),
)
@example("json", 200_000, [(3_000, b"\xff")])
def test_damaged_bytes_raise_nothing_but_a_bad_record(encoding, cut, edits):
    payload = payload_of(encoding, header_and_transactions(encoding)[1])
    whole = len(payload) <= cut
    payload = payload[:cut] if not whole else payload
    for place, piece in edits:
        place %= len(payload) or 1
        payload = payload[:place] + piece + payload[place + 1 :]
    block, refusal = decoded_or_refused(payload)
    if block is None:
        assert refusal.reason
        assert "slot 285000037" in str(refusal)
    else:
        check_accounted(block, tables_of(block), block.stated or 0)


@FUZZ
@given(
    at=st.integers(0, 5), edits=st.lists(st.tuples(st.integers(0, 1_300), st.binary(max_size=3)), min_size=1, max_size=3), cut=st.integers(0, 1_300)
)
def test_a_damaged_binary_message_lands_or_is_quarantined_and_costs_no_other_a_row(at, edits, cut):
    transactions = header_and_transactions("base64")[1]
    at %= len(transactions)
    data = base64.b64decode(transactions[at]["transaction"][0])
    for place, piece in edits:
        place %= len(data)
        data = data[:place] + piece + data[place + len(piece) :]
    data = data[: max(cut, 1)]
    check_one_bad("base64", at, transactions[at] | {"transaction": [base64.b64encode(data).decode(), "base64"]})
