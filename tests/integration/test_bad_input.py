"""Input that is not what it should be, from the source to the tables: the good lands, the bad is in quarantine, and nothing is lost.

One range holds a case of every kind, each in a place of its own, beside the same range without any of them. So every
test also shows that the cases cost one another nothing.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from blyan import schemas
from blyan.lake import Lake
from blyan.schemas import RAW_BLOCKS
from blyan.solana import base58
from blyan.solana.decode import decode
from blyan.solana.ingest import DERIVED
from blyan.solana.normalise import normalise
from blyan.solana.slots import SlotRange
from blyan.solana.sources import Format
from blyan.solana.sources.rpc import RpcSource
from tests.recorded_chain import (
    Outcome,
    as_base58,
    as_base64,
    changed,
    recorded,
    rows_without,
    run,
    run_archive,
    wire_of,
    with_signatures,
    write_archive,
)
from tests.restless_archive import Restless
from tests.rpc_server import Error, Html, Result, RpcServer

SLOTS = SlotRange(48, 95)
"""Three units of sixteen slots. With 13 transactions a block, none of these slots is skipped."""

PER_BLOCK = 13
NOBODY = "So1ana1111111111111111111111111111111111111"


@cache
def blocks() -> dict[int, bytes]:
    return {slot: payload for slot, payload in recorded(97, PER_BLOCK).items() if slot >= SLOTS.first}


@cache
def parsed(slot: int) -> dict[str, Any]:
    return json.loads(blocks()[slot])


# Bad transactions


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change that puts a value at a path of the transaction's JSON."""

    def change(entry: Any) -> None:
        for key in path[:-1]:
            entry = entry[key]
        entry[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    """A change that takes a key away."""

    def change(entry: Any) -> None:
        for key in path[:-1]:
            entry = entry[key]
        del entry[path[-1]]

    return change


def inner(entry: dict[str, Any]) -> bool:
    return bool(entry["meta"]["innerInstructions"])


def tokens(entry: dict[str, Any]) -> bool:
    return len(entry["meta"]["postTokenBalances"]) > 0


def plain(entry: dict[str, Any]) -> bool:
    return entry["version"] == "legacy" and not inner(entry) and not tokens(entry)


AMOUNT = ("meta", "postTokenBalances", 0, "uiTokenAmount", "amount")

BAD: dict[str, tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], object], str]] = {
    "signatures are missing": (plain, drop("transaction", "signatures"), "malformed_transaction"),
    "signatures are null": (plain, put("transaction", "signatures", value=None), "not_base58"),
    "there is no signature": (plain, put("transaction", "signatures", value=[]), "missing_signature"),
    "a signature is empty": (plain, put("transaction", "signatures", 0, value=""), "missing_signature"),
    "a signature is short": (plain, put("transaction", "signatures", 0, value="1" * 63), "missing_signature"),
    "a signature too many": (plain, lambda entry: entry["transaction"]["signatures"].append("1" * 64), "missing_signature"),
    "the version is unknown": (plain, put("version", value=1), "unknown_version"),
    "the version is a word": (plain, put("version", value="v2"), "unknown_version"),
    "the message is missing": (plain, drop("transaction", "message"), "mixed_encodings"),
    "the header is missing": (plain, drop("transaction", "message", "header"), "mixed_encodings"),
    "the header counts too many": (plain, put("transaction", "message", "header", "numReadonlyUnsignedAccounts", value=200), "bad_header"),
    "it is not an object": (plain, lambda entry: entry.clear(), "malformed_transaction"),
    "300 accounts": (plain, lambda entry: three_hundred_accounts(entry), "too_many_accounts"),
    "100,000 accounts of an instruction": (
        plain,
        put("transaction", "message", "instructions", 0, "accounts", value=[250] * 100_000),
        "account_index",
    ),
    "a program that is not there": (plain, put("transaction", "message", "instructions", 0, "programIdIndex", value=99), "account_index"),
    "an account index that is a word": (plain, put("transaction", "message", "instructions", 0, "accounts", value=["zero"]), "not_integers"),
    "data that is not base58": (plain, put("transaction", "message", "instructions", 0, "data", value="0OIl"), "not_base58"),
    "inner instructions that point nowhere": (inner, put("meta", "innerInstructions", 0, "index", value=77), "orphan_inner_instruction"),
    "inner instructions before the first": (inner, put("meta", "innerInstructions", 0, "index", value=-1), "orphan_inner_instruction"),
    "an amount above 64 bits": (tokens, put(*AMOUNT, value=str(2**64)), "integer_overflow"),
    "an amount of 5,000 digits": (tokens, put(*AMOUNT, value="9" * 5_000), "integer_overflow"),
    "a negative amount": (tokens, put(*AMOUNT, value="-1"), "not_integers"),
    "an amount with a point": (tokens, put(*AMOUNT, value="1.5"), "not_integers"),
    "an amount with an exponent": (tokens, put(*AMOUNT, value="1e3"), "not_integers"),
    "an amount that is two": (tokens, put(*AMOUNT, value="1,2"), "not_integers"),
    "an amount of nothing": (tokens, put(*AMOUNT, value=" "), "not_integers"),
    "a token account that is not there": (tokens, put("meta", "postTokenBalances", 0, "accountIndex", value=200), "account_index"),
    "a negative balance": (plain, put("meta", "postBalances", 0, value=-5), "not_integers"),
    "a balance above 64 bits": (plain, put("meta", "preBalances", 0, value=2**64), "integer_overflow"),
    "a balance too few": (plain, lambda entry: entry["meta"]["preBalances"].pop(), "balance_count"),
    "a balance that is a float": (plain, put("meta", "preBalances", 0, value=0.5), "not_integers"),
    "a fee above 64 bits": (plain, put("meta", "fee", value=2**64), "malformed_transaction"),
    "a negative fee": (plain, put("meta", "fee", value=-1), "malformed_transaction"),
    "compute units above 63 bits": (plain, put("meta", "computeUnitsConsumed", value=2**63), "malformed_transaction"),
    "logs that are a word": (plain, put("meta", "logMessages", value="none"), "malformed_transaction"),
}
"""By name: which transaction may have it, what is done to it, and the reason in quarantine."""


def three_hundred_accounts(entry: dict[str, Any]) -> None:
    entry["transaction"]["message"]["accountKeys"] += [NOBODY] * 300
    for side in ("preBalances", "postBalances"):
        entry["meta"][side] += [0] * 300


# Strange transactions that land


def with_error(error: Any) -> Callable[[dict[str, Any]], None]:
    return put("meta", "err", value=error)


def unknown_program(entry: dict[str, Any]) -> None:
    message = entry["transaction"]["message"]
    program = message["instructions"][-1]["programIdIndex"]
    message["accountKeys"][program] = NOBODY


LOGS = ["\u0000\u0007\u001b[31mred", "🦀 Solana 😀", "line\nline\r\n\ttab", "", "\u202e\ufeff", "x" * (3 << 20), "Log truncated"]

STRANGE: dict[str, tuple[Callable[[dict[str, Any]], object], dict[str, Any]]] = {
    "an unknown error": (
        with_error("ProgramAteMyHomework"),
        {"status": "Fail", "err": "ProgramAteMyHomework", "error_json": '"ProgramAteMyHomework"'},
    ),
    "an unknown error with content": (
        with_error({"FutureError": {"a": [1, None]}}),
        {"status": "Fail", "err": 'FutureError: {"a":[1,null]}', "error_json": '{"FutureError":{"a":[1,null]}}'},
    ),
    "an unknown instruction error": (
        with_error({"InstructionError": [2, {"NewKind": 7}]}),
        {"status": "Fail", "err": "Error processing Instruction 2: NewKind: 7", "error_json": '{"InstructionError":[2,{"NewKind":7}]}'},
    ),
    "a custom error above 32 bits": (
        with_error({"InstructionError": [0, {"Custom": 3_131_746_989}]}),
        {
            "status": "Fail",
            "err": "Error processing Instruction 0: custom program error: 0xbaaaaaad",
            "error_json": '{"InstructionError":[0,{"Custom":3131746989}]}',
        },
    ),
    "an error that is a number": (with_error(6), {"status": "Fail", "err": "6", "error_json": "6"}),
    "strange logs": (put("meta", "logMessages", value=LOGS), {"log_messages": LOGS}),
    "no logs": (put("meta", "logMessages", value=None), {"log_messages": None}),
    "the greatest fee": (put("meta", "fee", value=2**64 - 1), {"fee": Decimal(2**64 - 1), "priority_fee_lamports": Decimal(2**64 - 1 - 5_000)}),
    "fields that are not known": (put("meta", "newField", value={"deep": [1]}), {}),
}
"""By name: what is done to a transaction, and how its row then differs."""


# Bad files


@dataclass(frozen=True)
class BadFile:
    """Files in the place of a block's own.

    Attributes:
        files: by suffix of the slot.
        reasons: of the slot's rows in quarantine.
        proof: of its row in the completeness statement.
        landed: whether a block landed all the same.
    """

    files: Callable[[int, bytes], dict[str, bytes]]
    reasons: tuple[str, ...]
    proof: str = "unreadable"
    landed: bool = False


def with_hash(payload: bytes, name: str) -> bytes:
    return changed(payload, lambda block: block.update(blockhash=name))


def bad_utf8(payload: bytes) -> bytes:
    return payload.replace(b"invoke [1]", b"invoke \xff1]", 1)


def bomb() -> bytes:
    return gzip.compress(b'{"blockhash":"' + b"x" * (64 << 20), compresslevel=1, mtime=0)


MAX_BYTES = 16 << 20

BAD_FILES: dict[str, BadFile] = {
    "cut short": BadFile(lambda _, data: {".json": data[:-40]}, ("truncated",)),
    "cut short and compressed": BadFile(lambda _, data: {".json.gz": gzip.compress(data, mtime=0)[:-200]}, ("truncated",)),
    "damaged and compressed": BadFile(lambda _, data: {".json.gz": gzip.compress(data, mtime=0)[:30] + b"!" * 400}, ("corrupt",)),
    "an error page": BadFile(lambda _, data: {".json": b"<html>502 Bad Gateway</html>"}, ("not_json",)),
    "random bytes": BadFile(lambda _, data: {".json": bytes(range(128, 256)) * 4}, ("invalid_utf8",)),
    "empty": BadFile(lambda _, data: {".json": b""}, ("empty",)),
    "another JSON": BadFile(lambda _, data: {".json": b'{"hello": "world"}'}, ("not_a_block",)),
    "of another slot by its wrapper": BadFile(lambda slot, data: {".json": b'{"slot":%d,"block":%s}' % (slot + 1_000, data)}, ("wrong_slot",)),
    "of another slot by its parent": BadFile(lambda slot, data: {".json": blocks()[slot + 1]}, ("wrong_slot",)),
    "invalid UTF-8 in a log": BadFile(lambda _, data: {".json": bad_utf8(data)}, ("invalid_utf8",)),
    "half a character in a log": BadFile(lambda _, data: {".json": data.replace(b"invoke [1]", rb"\ud800", 1)}, ("not_json",)),
    "a gzip bomb": BadFile(lambda _, data: {".json.gz": bomb()}, ("gzip_bomb",)),
    "a time beyond the year 9999": BadFile(
        lambda _, data: {".json": changed(data, lambda block: block.update(blockTime=2**60))}, ("integer_overflow",), "integer_overflow"
    ),
    "a height beyond 63 bits": BadFile(
        lambda _, data: {".json": changed(data, lambda block: block.update(blockHeight=2**64))}, ("integer_overflow",), "integer_overflow"
    ),
    "two hashes, and the next block names one": BadFile(
        lambda _, data: {"-a.json": with_hash(data, "Fork"), "-b.json": data}, ("conflicting_hash",), "recorded", landed=True
    ),
    "two hashes, and the next block names neither": BadFile(
        lambda _, data: {"-a.json": with_hash(data, "ForkA"), "-b.json": with_hash(data, "ForkB")}, ("conflicting_hash",) * 2, "conflicting_hash"
    ),
    "cut short beside a whole one": BadFile(lambda _, data: {"-a.json": data[:-40], "-b.json": data}, ("truncated",), "recorded", landed=True),
}

BAD_REWARDS: dict[str, tuple[dict[str, Any], str]] = {
    "a reward above 64 bits": ({"pubkey": NOBODY, "lamports": 2**64, "postBalance": 1, "rewardType": "Rent", "commission": None}, "integer_overflow"),
    "a reward to nobody": ({"lamports": 1, "postBalance": 1, "rewardType": "Rent", "commission": None}, "malformed_reward"),
}


@dataclass
class Hospital:
    """The range with every case in it.

    Attributes:
        good: the outcome of the range without any of them.
        bad: the outcome with all of them.
        folder: the recorded files.
        cases: the slot, and index of the transaction, of each case by name.
        entries: the JSON of each changed transaction by name.
    """

    good: Outcome
    bad: Outcome
    folder: Path
    cases: dict[str, tuple[int, int]]
    entries: dict[str, str]

    def touched(self) -> tuple[set[int], set[tuple[int, int]]]:
        """Slots of bad files, and places of changed transactions."""
        files = {slot for name, (slot, _) in self.cases.items() if name in BAD_FILES}
        return files, {place for name, place in self.cases.items() if name in BAD or name in STRANGE}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    root = tmp_path_factory.mktemp("hospital")
    good = run_archive(write_archive(root / "good", blocks()), root / "good-lake", SLOTS)
    edited = {slot: json.loads(payload) for slot, payload in blocks().items()}
    cases: dict[str, tuple[int, int]] = {}
    entries: dict[str, str] = {}
    files: dict[str, bytes] = {}
    # Two slots apart, so that the block that follows a bad file is its own.
    slots = iter(range(SLOTS.first + 1, SLOTS.last, 2))
    for name, case in BAD_FILES.items():
        slot = next(slots)
        cases[name] = slot, -1
        for suffix, data in case.files(slot, blocks()[slot]).items():
            files[f"{slot}{suffix}"] = data
    lost = {slot for slot, _ in cases.values()}
    free = [slot for slot in SLOTS if slot not in lost]
    for name, (fits, change) in {
        **{name: (fits, change) for name, (fits, change, _) in BAD.items()},
        **{name: (plain, change) for name, (change, _) in STRANGE.items()},
    }.items():
        used = set(cases.values())
        slot, index = next(
            (slot, index)
            for index in range(PER_BLOCK)
            for slot in free
            if (slot, index) not in used and sum(place[0] == slot for place in used) < 4 and fits(edited[slot]["transactions"][index])
        )
        cases[name] = slot, index
        change(edited[slot]["transactions"][index])
        entries[name] = json.dumps(edited[slot]["transactions"][index])
    for slot, (name, (reward, _)) in zip(free, BAD_REWARDS.items(), strict=False):
        cases[name] = slot, -1
        entries[name] = json.dumps(reward)
        edited[slot]["rewards"].insert(0, reward)
    kept = {slot: json.dumps(block).encode() for slot, block in edited.items() if slot not in lost}
    folder = write_archive(root / "bad", kept, {**files, "nameless.json": blocks()[SLOTS.first]})
    bad = run_archive(folder, root / "bad-lake", SLOTS, max_bytes=MAX_BYTES)
    return Hospital(good, bad, folder, cases, entries)


def check_words(detail: str) -> None:
    """What, where and the remedy."""
    what, _, rest = detail.partition(" [at ")
    where, _, remedy = rest.partition("] Remedy: ")
    assert what, detail
    assert where, detail
    assert remedy, detail
    assert "Remedy" not in remedy, detail


def test_what_is_good_has_exactly_the_rows_that_it_has_alone(hospital: Hospital) -> None:
    slots, transactions = hospital.touched()
    found, expected = rows_without(hospital.bad.rows, slots, transactions), rows_without(hospital.good.rows, slots, transactions)
    for name, rows in expected.items():
        assert found[name] == rows, name
    assert len(expected[schemas.TRANSACTIONS.name]) == PER_BLOCK * (len(SLOTS) - len(slots)) - len(transactions)


def test_everything_is_in_a_table_or_in_quarantine_and_the_numbers_say_so(hospital: Hospital) -> None:
    made, rows = hospital.bad.made, hospital.bad.rows
    lost = sum(not case.landed for case in BAD_FILES.values())
    expected = len(BAD) + len(BAD_REWARDS) + sum(len(case.reasons) for case in BAD_FILES.values()) + 1
    assert (made.landed, made.skipped, made.unknown) == (len(SLOTS) - lost, 0, lost)
    assert made.quarantined == len(rows[schemas.QUARANTINE.name]) == expected
    assert made.transactions == len(rows[schemas.TRANSACTIONS.name]) == PER_BLOCK * (len(SLOTS) - lost) - len(BAD)
    statement = rows[schemas.COMPLETENESS.name]
    assert sum(row["quarantined"] for row in statement) == expected - 1
    for row in statement:
        assert row["quarantined"] == len(hospital.bad.quarantined(row["slot"]))
        if row["state"] == "landed":
            of_transactions = [item for item in hospital.bad.quarantined(row["slot"]) if item["tx_index"] is not None]
            assert row["transactions_stated"] == PER_BLOCK == row["transactions"] + len(of_transactions)


def test_every_word_in_quarantine_says_what_where_and_the_remedy(hospital: Hospital) -> None:
    for row in hospital.bad.rows[schemas.QUARANTINE.name]:
        check_words(row["detail"])
        assert row["origin"].startswith(str(hospital.folder))
    numbers = [(row["block_slot"], row["item"]) for row in hospital.bad.rows[schemas.QUARANTINE.name]]
    assert len(set(numbers)) == len(numbers)


def test_a_second_run_changes_nothing_and_another_lake_gets_the_same_digests(hospital: Hospital, tmp_path: Path) -> None:
    again = run_archive(hospital.folder, Path(hospital.bad.lake.root), SLOTS, max_bytes=MAX_BYTES)
    assert not any(commit.changed for commit in again.commits.values())
    assert again.digests == hospital.bad.digests
    assert all(hospital.bad.lake.digest(table, SLOTS.key) == again.digests[table.name] for table in (RAW_BLOCKS, *DERIVED))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_transaction_is_in_quarantine_with_its_bytes(hospital: Hospital, name: str) -> None:
    slot, index = hospital.cases[name]
    (row,) = (row for row in hospital.bad.quarantined(slot) if row["tx_index"] == index)
    assert row["reason"] == BAD[name][2]
    assert f"[at slot {slot}, transaction {index}]" in row["detail"]
    assert row["raw"].decode() == hospital.entries[name]
    assert (slot, index) not in [(item["block_slot"], item["index"]) for item in hospital.bad.rows[schemas.TRANSACTIONS.name]]
    for table in (schemas.INSTRUCTIONS, schemas.TOKEN_TRANSFERS, schemas.BALANCE_CHANGES):
        assert (slot, index) not in [(item["block_slot"], item["tx_index"]) for item in hospital.bad.rows[table.name]]
    assert hospital.bad.statement(slot)["state"] == "landed"


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_transaction_lands_verbatim(hospital: Hospital, name: str) -> None:
    place = hospital.cases[name]
    assert hospital.bad.transaction(*place) == {**hospital.good.transaction(*place), **STRANGE[name][1]}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_in_quarantine_and_its_slot_says_so(hospital: Hospital, name: str) -> None:
    slot, _ = hospital.cases[name]
    case = BAD_FILES[name]
    rows = hospital.bad.quarantined(slot)
    assert tuple(row["reason"] for row in rows) == case.reasons
    assert all(row["tx_index"] is None and f"[at slot {slot}]" in row["detail"] for row in rows)
    statement = hospital.bad.statement(slot)
    assert (statement["state"], statement["proof"], statement["quarantined"]) == ("landed" if case.landed else "unknown", case.proof, len(rows))
    if case.landed:
        assert rows_without(hospital.bad.rows, set(SLOTS) - {slot}) == rows_without(hospital.good.rows, set(SLOTS) - {slot})
    else:
        assert (statement["block_hash"], statement["transactions"], statement["transactions_stated"]) == (None, None, None)
        assert all(len(found) == 0 for found in rows_without(hospital.bad.rows, set(SLOTS) - {slot}).values())
    raw = b"".join(row["raw"] or b"" for row in rows)
    for data in case.files(slot, blocks()[slot]).values():
        assert raw == b"" if name == "a gzip bomb" else data in raw or b'"slot"' in data or data == blocks()[slot]


@pytest.mark.parametrize("name", BAD_REWARDS)
def test_a_bad_reward_costs_no_other_and_no_transaction(hospital: Hospital, name: str) -> None:
    slot, _ = hospital.cases[name]
    (row,) = (row for row in hospital.bad.quarantined(slot) if row["tx_index"] is None)
    assert (row["reason"], json.loads(row["raw"])) == (BAD_REWARDS[name][1], json.loads(hospital.entries[name]))
    assert f"[at slot {slot}]" in row["detail"]


def test_a_file_that_belongs_to_no_slot_is_in_quarantine_too(hospital: Hospital) -> None:
    (row,) = hospital.bad.quarantined(None)
    assert (row["reason"], row["raw"]) == ("no_slot", blocks()[SLOTS.first])
    assert "[at nameless.json]" in row["detail"]
    assert "name the file SLOT.json" in row["detail"]


def test_raw_blocks_keep_every_byte_that_the_source_gave(hospital: Hospital) -> None:
    stored = [row for batch in hospital.bad.lake.read(RAW_BLOCKS, key=SLOTS.key) for row in batch.to_pylist()]
    payloads = {pa.decompress(row["payload"], row["payload_bytes"], "zstd", asbytes=True) for row in stored if row["payload"]}
    for path in hospital.folder.iterdir():
        data = path.read_bytes()
        beyond = path.name[0].isdigit() and int(path.name[:2]) not in SLOTS
        assert not data or data in payloads or any(payload in data for payload in payloads) or beyond or path.suffix == ".gz", path.name


# The other encodings and details


def test_a_bad_binary_transaction_costs_no_other(tmp_path: Path) -> None:
    slot = SLOTS.first
    entries = parsed(slot)["transactions"]
    wire = wire_of(entries[0])
    version_at = 1 + 64 * wire[0]
    broken = {
        0: (wire[:-5], "malformed_message"),
        1: (wire_of(entries[1]) + b"!", "malformed_message"),
        2: (b"", "malformed_message"),
        3: (wire[:version_at] + b"\x81" + wire[version_at:], "unknown_version"),
        4: (b"\xff\xff\x7f" + wire[1:], "malformed_message"),
    }
    block = json.loads(as_base64(blocks()[slot]))
    for index, (data, _) in broken.items():
        block["transactions"][index]["transaction"][0] = base64.b64encode(data).decode()
    block["transactions"][5]["transaction"] = ["not base64!", "base64"]
    block["transactions"][6]["transaction"][1] = "base99"
    expected = {**{index: reason for index, (_, reason) in broken.items()}, 5: "malformed_message", 6: "malformed_message"}
    slots = SlotRange(slot, slot + 1)
    files = {slot: json.dumps(block).encode(), slot + 1: as_base58(blocks()[slot + 1])}
    outcome = run_archive(write_archive(tmp_path / "a", files), tmp_path / "lake", slots)
    good = run_archive(write_archive(tmp_path / "good", {at: blocks()[at] for at in slots}), tmp_path / "good-lake", slots)
    assert {row["tx_index"]: row["reason"] for row in outcome.quarantined(slot)} == expected
    for row in outcome.quarantined(slot):
        check_words(row["detail"])
        assert json.loads(row["raw"]) == block["transactions"][row["tx_index"]]
    gone = [(slot, index) for index in expected]
    found, wanted = rows_without(outcome.rows, transactions=gone), rows_without(good.rows, transactions=gone)
    for rows in (found, wanted):
        for row in rows[schemas.TRANSACTIONS.name]:
            del row["address_table_lookups"]
    assert found == wanted


def test_a_bad_signature_of_a_block_with_signatures_only_keeps_the_places_of_the_others(tmp_path: Path) -> None:
    slot = SLOTS.first
    block = json.loads(with_signatures(blocks()[slot]))
    whole = list(block["signatures"])
    block["signatures"][1], block["signatures"][3] = "", None
    slots = SlotRange(slot, slot)
    outcome = run_archive(write_archive(tmp_path / "a", {slot: json.dumps(block).encode()}), tmp_path / "lake", slots)
    assert {row["tx_index"]: (row["reason"], row["raw"]) for row in outcome.quarantined(slot)} == {
        1: ("missing_signature", b'""'),
        3: ("missing_signature", b"null"),
    }
    landed = {row["index"]: row["signature"] for row in outcome.rows[schemas.TRANSACTIONS.name]}
    assert landed == {index: text for index, text in enumerate(whole) if index not in (1, 3)}
    statement = outcome.statement(slot)
    assert (statement["transactions"], statement["transactions_stated"], statement["quarantined"]) == (PER_BLOCK - 2, PER_BLOCK, 2)


def test_a_damaged_byte_in_one_log_costs_the_normaliser_one_transaction() -> None:
    """Sources that give bytes they did not look through, as BigQuery's do, need the same of it."""
    slot = SLOTS.first
    block = decode(slot, bad_utf8(blocks()[slot]), Format.GET_BLOCK)
    assert normalise([block])[schemas.TRANSACTIONS.name].num_rows == PER_BLOCK - 1
    (bad,) = block.bad
    assert bad.reason == "invalid_utf8"
    assert b"invoke \xff1]" in bad.raw
    assert block.stated == PER_BLOCK


def test_instructions_with_many_accounts_or_neighbours_are_not_mistaken_for_others(tmp_path: Path) -> None:
    """A key made of program, data and number of accounts, or of transaction and position, must hold whatever their size."""
    system = "1" * 32
    slot, busy = next(
        (slot, at)
        for slot in SLOTS
        for at, entry in enumerate(parsed(slot)["transactions"])
        if inner(entry) and system in entry["transaction"]["message"]["accountKeys"]
    )
    block = json.loads(blocks()[slot])
    message = block["transactions"][busy]["transaction"]["message"]
    program, first = message["accountKeys"].index(system), len(message["instructions"])
    # Three hundred transfers of 1, 2, 3… lamports, every other one with 512 accounts more than it needs.
    message["instructions"] += [
        {
            "programIdIndex": program,
            "accounts": [0, 1] + [0] * 512 * (at % 2),
            "data": base58.encode((2).to_bytes(4, "little") + (1 + at).to_bytes(8, "little")),
            "stackHeight": 1,
        }
        for at in range(300)
    ]
    slots = SlotRange(slot, slot)
    outcome = run_archive(write_archive(tmp_path / "a", {slot: json.dumps(block).encode()}), tmp_path / "lake", slots)
    good = run_archive(write_archive(tmp_path / "good", {slot: blocks()[slot]}), tmp_path / "good-lake", slots)
    assert outcome.made.quarantined == 0
    found, wanted = rows_without(outcome.rows, transactions=[(slot, busy)]), rows_without(good.rows, transactions=[(slot, busy)])
    assert found[schemas.INSTRUCTIONS.name] == wanted[schemas.INSTRUCTIONS.name]
    own = [row for row in outcome.rows[schemas.INSTRUCTIONS.name] if row["tx_index"] == busy]
    before = [row for row in good.rows[schemas.INSTRUCTIONS.name] if row["tx_index"] == busy]
    assert own[: len(before)] == before
    told = [
        (row["index"], row["ordinal"], row["instruction_type"], next(item["value"] for item in row["params"] if item["key"] == "lamports"))
        for row in own[len(before) :]
    ]
    assert told == [(first + at, len(before) + at, "transfer", str(1 + at)) for at in range(300)]


# RPC


def test_bad_answers_of_a_node_are_in_quarantine_and_cost_no_other(tmp_path: Path) -> None:
    slots = SlotRange(SLOTS.first, SLOTS.first + 9)
    first = slots.first
    good = run_archive(write_archive(tmp_path / "good", blocks()), tmp_path / "good-lake", slots)
    served = dict(blocks())
    served[first + 1] = changed(served[first + 1], lambda block: block["transactions"][2]["transaction"].update(signatures=[]))
    served[first + 2] = bad_utf8(served[first + 2])

    async def no_wait(_: float) -> None:
        return

    with RpcServer(served) as server:
        server.misbehave("getBlock", Result(b'{"hello":1}'), slot=first + 4, always=True)
        server.misbehave("getBlock", Result(blocks()[first + 8]), slot=first + 5, always=True)
        server.misbehave("getBlock", Result(b"null"), slot=first + 6, always=True)
        server.misbehave("getBlock", Error(-32001), slot=first + 7, always=True)
        server.misbehave("getBlock", Html(), slot=first + 9)
        outcome = run(RpcSource(server.url, sleep=no_wait), Lake(str(tmp_path / "lake")), slots)
        again = run(RpcSource(server.url, sleep=no_wait), Lake(str(tmp_path / "lake")), slots)
    assert not any(commit.changed for commit in again.commits.values())
    assert {slot: [row["reason"] for row in outcome.quarantined(slot)] for slot in slots if outcome.quarantined(slot)} == {
        first + 1: ["missing_signature"],
        first + 2: ["invalid_utf8"],
        first + 4: ["not_a_block"],
        first + 5: ["wrong_slot"],
    }
    states = {slot: (outcome.statement(slot)["state"], outcome.statement(slot)["proof"]) for slot in slots}
    assert {slot: state for slot, state in states.items() if state[0] != "landed"} == {
        first + 2: ("unknown", "unreadable"),
        first + 4: ("unknown", "unreadable"),
        first + 5: ("unknown", "unreadable"),
        first + 6: ("unknown", "null result"),
        first + 7: ("unknown", "pruned"),
    }
    for row in outcome.rows[schemas.QUARANTINE.name]:
        check_words(row["detail"])
    lost = {slot for slot, state in states.items() if state[0] != "landed"}
    assert rows_without(outcome.rows, lost, [(first + 1, 2)]) == rows_without(good.rows, lost, [(first + 1, 2)])


# A file that changes, and one that will not stop


def test_a_file_that_changes_while_it_is_read_is_read_again_or_given_up(tmp_path: Path) -> None:
    first = SLOTS.first
    slots = SlotRange(first, first + 3)
    files = {slot: blocks()[slot] for slot in slots}
    good = run_archive(write_archive(tmp_path / "good", files), tmp_path / "good-lake", slots)
    folder = write_archive(tmp_path / "a", files)
    (folder / f"{first + 1}.json").write_bytes(files[first + 1][:500])

    def write_on(path: str) -> None:
        if path.endswith(f"{first + 1}.json") and Path(path).stat().st_size == 500:
            # Its writer finishes it.
            Path(path).write_bytes(files[first + 1])
        elif path.endswith(f"{first + 2}.json"):
            # Its writer never does.
            Path(path).write_bytes(Path(path).read_bytes() + b" ")

    outcome = run(Restless(folder, write_on), Lake(str(tmp_path / "lake")), slots)
    assert [outcome.statement(slot)["state"] for slot in slots] == ["landed", "landed", "unknown", "landed"]
    (row,) = outcome.rows[schemas.QUARANTINE.name]
    assert (row["block_slot"], row["reason"]) == (first + 2, "changed_while_read")
    check_words(row["detail"])
    assert rows_without(outcome.rows, [first + 2]) == rows_without(good.rows, [first + 2])


BOMB = """
import resource, sys
from pathlib import Path
from tests.recorded_chain import SlotRange, run_archive
root, slots = Path(sys.argv[1]), SlotRange(int(sys.argv[2]), int(sys.argv[2]) + 2)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
run_archive(root / "good", root / "good-lake", slots)
before = peak()
outcome = run_archive(root / "bad", root / "lake", slots, max_bytes=16 << 20)
print(peak() - before, outcome.made.landed, [row["reason"] for row in outcome.rows["solana/quarantine"]])
"""


def test_bombs_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    first = SLOTS.first
    files = {slot: blocks()[slot] for slot in range(first, first + 3)}
    write_archive(tmp_path / "good", files)
    line = b'{"slot":%d,"block":{"padding":"' % first + b" " * (256 << 20)
    bombs = {f"{first + 1}.json.gz": gzip.compress(line, compresslevel=1), f"{first + 1}-lines.ndjson.zst": pa.compress(line, "zstd", asbytes=True)}
    del line
    write_archive(tmp_path / "bad", {slot: payload for slot, payload in files.items() if slot != first + 1}, bombs)
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path), str(first)],
        capture_output=True,
        text=True,
        check=False,
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert done.returncode == 0, done.stderr
    grown, landed, reasons = done.stdout.strip().split(" ", 2)
    assert (landed, reasons) == ("2", "['gzip_bomb', 'gzip_bomb']")
    assert int(grown) < 96, "more than a few times the bound of 16 MiB was held"


def test_the_fixture_has_a_case_in_every_unit(hospital: Hospital) -> None:
    units = {slot // 16 for slot, _ in hospital.cases.values()}
    assert units == {3, 4, 5}
