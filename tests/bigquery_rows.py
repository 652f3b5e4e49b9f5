"""Rows of the public BigQuery dataset, made from a recorded `jsonParsed` getBlock response.

Belongs here: the dataset's schema and the meaning of its columns, as its ETL and people who queried
it describe them. It shares nothing with the project's own normaliser, so that a test can compare
the two. Does not belong here: serving the rows (`bigquery_stand_in`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Row = dict[str, Any]
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Field:
    """A column: BigQuery type, mode, and the columns of a RECORD."""

    name: str
    type: str
    mode: str = "NULLABLE"
    fields: tuple[Field, ...] = ()


def _fields(text: str) -> tuple[Field, ...]:
    """`name TYPE[!]` separated by commas; `!` is REQUIRED."""
    fields = []
    for item in text.split(","):
        name, type_ = item.split()
        fields.append(Field(name, type_.rstrip("!"), "REQUIRED" if type_.endswith("!") else "NULLABLE"))
    return tuple(fields)


def _record(name: str, text: str) -> Field:
    return Field(name, "RECORD", "REPEATED", _fields(text))


_BALANCE = "account_index INTEGER, mint STRING, owner STRING, amount BIGNUMERIC, decimals INTEGER"

SCHEMAS: dict[str, tuple[Field, ...]] = {
    "Blocks": _fields(
        "slot INTEGER!, block_hash STRING!, block_timestamp TIMESTAMP, height INTEGER, previous_block_hash STRING,"
        "transaction_count INTEGER, leader_reward NUMERIC, leader STRING"
    ),
    "Transactions": (
        *_fields(
            "block_slot INTEGER, block_hash STRING, block_timestamp TIMESTAMP, recent_block_hash STRING, signature STRING,"
            "index INTEGER, fee NUMERIC, status STRING, err STRING, compute_units_consumed NUMERIC"
        ),
        _record("accounts", "pubkey STRING, signer BOOLEAN, writable BOOLEAN"),
        Field("log_messages", "STRING", "REPEATED"),
        _record("balance_changes", "account STRING, before NUMERIC, after NUMERIC"),
        _record("pre_token_balances", _BALANCE),
        _record("post_token_balances", _BALANCE),
    ),
    "Instructions": (
        *_fields("block_slot INTEGER!, block_timestamp TIMESTAMP, block_hash STRING, tx_signature STRING!, index INTEGER, parent_index INTEGER"),
        Field("accounts", "STRING", "REPEATED"),
        *_fields("data STRING, parsed STRING, program STRING, program_id STRING, instruction_type STRING"),
        _record("params", "key STRING, value STRING"),
    ),
    "Block Rewards": _fields(
        "block_slot INTEGER!, block_hash STRING!, block_timestamp TIMESTAMP, commission NUMERIC, lamports NUMERIC,"
        "post_balance NUMERIC, pubkey STRING, reward_type STRING"
    ),
}
"""The tables a source reads, column by column."""

PARTITIONS = {"Blocks": "month", "Transactions": "day", "Instructions": "day", "Block Rewards": "month"}
"""The span of a partition on `block_timestamp`."""

FILTER_REQUIRED = frozenset(PARTITIONS) - {"Blocks"}
"""Tables that refuse a query without a filter on the partition."""


def rows_of_block(slot: int, block: dict[str, Any]) -> Tables:
    """The rows of one block, by table; `block` is the result of getBlock with encoding `jsonParsed`."""
    time = None if block.get("blockTime") is None else datetime.fromtimestamp(block["blockTime"], UTC)
    of_block = {"block_slot": slot, "block_hash": block["blockhash"], "block_timestamp": time}
    rewards = block.get("rewards") or []
    fees = [reward for reward in rewards if reward["rewardType"] == "Fee"]
    transactions = block.get("transactions") or []
    tables: Tables = {
        "Blocks": [
            {
                "slot": slot,
                "block_hash": block["blockhash"],
                "block_timestamp": time,
                "height": block.get("blockHeight"),
                "previous_block_hash": block["previousBlockhash"],
                "transaction_count": len(transactions),
                "leader_reward": fees[0]["lamports"] if fees else None,
                "leader": fees[0]["pubkey"] if fees else None,
            }
        ],
        "Transactions": [of_block | _transaction(index, given) for index, given in enumerate(transactions)],
        "Instructions": [of_block | row for given in transactions for row in _instructions(given)],
        "Block Rewards": [
            of_block
            | {
                "commission": reward.get("commission"),
                "lamports": reward["lamports"],
                "post_balance": reward["postBalance"],
                "pubkey": reward["pubkey"],
                "reward_type": reward["rewardType"] or "Unspecified",
            }
            for reward in rewards
        ],
    }
    return {name: [_in_schema(SCHEMAS[name], row) for row in rows] for name, rows in tables.items()}


def combined(blocks: Iterable[Tables]) -> Tables:
    """The rows of several blocks, as one dataset."""
    tables: Tables = {name: [] for name in SCHEMAS}
    for block in blocks:
        for name, rows in block.items():
            tables[name] += rows
    return tables


def _in_schema(fields: tuple[Field, ...], row: Row) -> Row:
    return {field.name: row[field.name] for field in fields}


def _transaction(index: int, given: dict[str, Any]) -> Row:
    message, meta = given["transaction"]["message"], given["meta"]
    row: Row = {
        "recent_block_hash": message["recentBlockhash"],
        "signature": given["transaction"]["signatures"][0],
        "index": index,
        "accounts": [{name: key[name] for name in ("pubkey", "signer", "writable")} for key in message["accountKeys"]],
    }
    if meta is None:
        absent = dict.fromkeys(("fee", "status", "err", "compute_units_consumed"))
        empty = {name: [] for name in ("log_messages", "balance_changes", "pre_token_balances", "post_token_balances")}
        return row | absent | empty
    return row | {
        "fee": meta["fee"],
        # The ETL writes "Failure"; "Fail" is what the live tables were seen to hold.
        "status": "Success" if meta["err"] is None else "Fail",
        "err": None if meta["err"] is None else error_text(meta["err"]),
        "compute_units_consumed": meta.get("computeUnitsConsumed"),
        "log_messages": meta["logMessages"] or [],
        "balance_changes": [
            {"account": key["pubkey"], "before": before, "after": after}
            for key, before, after in zip(message["accountKeys"], meta["preBalances"], meta["postBalances"], strict=True)
        ],
        "pre_token_balances": [_token_balance(balance) for balance in meta["preTokenBalances"] or []],
        "post_token_balances": [_token_balance(balance) for balance in meta["postTokenBalances"] or []],
    }


def _token_balance(balance: dict[str, Any]) -> Row:
    return {
        "account_index": balance["accountIndex"],
        "mint": balance["mint"],
        "owner": balance.get("owner"),
        "amount": int(balance["uiTokenAmount"]["amount"]),
        "decimals": balance["uiTokenAmount"]["decimals"],
    }


def _instructions(given: dict[str, Any]) -> list[Row]:
    signature, meta = given["transaction"]["signatures"][0], given["meta"]
    invoked = {group["index"]: group["instructions"] for group in (meta or {}).get("innerInstructions") or []}
    rows = []
    for index, outer in enumerate(given["transaction"]["message"]["instructions"]):
        rows.append(_instruction(signature, index, None, outer))
        rows += [_instruction(signature, position, index, inner) for position, inner in enumerate(invoked.get(index, []))]
    return rows


def _instruction(signature: str, index: int, parent_index: int | None, given: dict[str, Any]) -> Row:
    row: Row = {"tx_signature": signature, "index": index, "parent_index": parent_index, "program_id": given["programId"]}
    if "parsed" not in given:
        # The placeholder is what the ETL leaves for an instruction without parameters.
        placeholder = [{"key": None, "value": None}]
        unnamed = dict.fromkeys(("parsed", "program", "instruction_type"))
        return row | unnamed | {"accounts": given["accounts"], "data": given["data"], "params": placeholder}
    parsed = given["parsed"]
    row |= {"accounts": [""], "data": None, "program": given["program"]}
    if isinstance(parsed, str):
        return row | {"parsed": parsed, "instruction_type": None, "params": []}
    params = [{"key": key, "value": json.dumps(value, separators=(",", ":"))} for key, value in (parsed.get("info") or {}).items()]
    return row | {"parsed": None, "instruction_type": parsed["type"], "params": params}


_INSTRUCTION_ERRORS = {
    "InvalidArgument": "invalid program argument",
    "InvalidInstructionData": "invalid instruction data",
    "InvalidAccountData": "invalid account data for instruction",
    "InsufficientFunds": "insufficient funds for instruction",
    "MissingRequiredSignature": "missing required signature for instruction",
    "ProgramFailedToComplete": "Program failed to complete",
    "ComputationalBudgetExceeded": "Computational budget exceeded",
}
"""What the runtime prints for these errors of an instruction."""


def error_text(error: Any) -> str:
    """The runtime's words for an error that RPC gives as JSON; only those that the recorded blocks hold."""
    match error:
        case {"InstructionError": [int(position), {"Custom": int(code)}]}:
            return f"Error processing Instruction {position}: custom program error: {code:#x}"
        case {"InstructionError": [int(position), str(name)]}:
            return f"Error processing Instruction {position}: {_INSTRUCTION_ERRORS[name]}"
        case _:
            raise ValueError(f"no words for the error {error!r}: add them")
