"""Rows of the public BigQuery dataset for one block, as the structs that the other encodings decode to.

Belongs here: the dataset's semantics, undone. Does not belong here: querying it (`blyan.solana.sources.bigquery`).

What the dataset lacks stays absent: version, lookup tables, stack height, cost units, all signatures but the first, the
parent's slot. It has a failed transaction's error in words only.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from blyan.errors import BadRecordError
from blyan.solana.decode import (
    NOTHING,
    UNTOLD,
    BadTransaction,
    Block,
    InnerInstructions,
    Instruction,
    Kind,
    Message,
    Meta,
    Reward,
    TokenBalance,
    Transaction,
    UiTokenAmount,
    Wire,
    sound_rewards,
)


class _Account(Struct, gc=False):
    pubkey: str
    signer: bool = False
    writable: bool = False


class _BalanceChange(Struct, gc=False):
    account: str | None = None
    before: str | None = None
    after: str | None = None


class _TokenBalance(Struct, gc=False):
    account_index: int
    mint: str
    amount: str
    decimals: int
    owner: str | None = None


class _Transaction(Struct, gc=False):
    signature: str
    index: int | None = None
    recent_block_hash: str | None = None
    fee: str | None = None
    status: str | None = None
    err: str | None = None
    compute_units_consumed: str | None = None
    accounts: list[_Account] = []
    log_messages: list[str] = []
    balance_changes: list[_BalanceChange] = []
    pre_token_balances: list[_TokenBalance] = []
    post_token_balances: list[_TokenBalance] = []


class _Param(Struct, gc=False):
    key: str | None = None
    value: str | None = None


class _Instruction(Struct, gc=False):
    tx_signature: str
    index: int
    parent_index: int | None = None
    accounts: list[str] = []
    data: str | None = None
    parsed: str | None = None
    program: str | None = None
    program_id: str | None = None
    instruction_type: str | None = None
    params: list[_Param] = []


class _Reward(Struct, gc=False):
    pubkey: str
    lamports: str | None = None
    post_balance: str | None = None
    reward_type: str | None = None
    commission: str | None = None


class _Block(Struct, gc=False):
    block_hash: str
    block_timestamp: datetime | None = None
    height: int | None = None
    previous_block_hash: str | None = None
    transaction_count: int | None = None


class _Payload(Struct, gc=False):
    block: _Block
    transactions: list[Raw]
    instructions: list[_Instruction]
    rewards: list[_Reward]


_decode_payload = msgspec.json.Decoder(_Payload).decode
_decode_transaction = msgspec.json.Decoder(_Transaction).decode
_REWARD_TYPES = {"Unspecified": None}


def raw_rows(payload: bytes) -> dict[int, bytes]:
    """The row of each transaction of a payload that `decode_rows` took, by its place in the block."""
    rows: dict[int, bytes] = {}
    for at, raw in enumerate(_decode_payload(payload).transactions):
        try:
            index = _decode_transaction(raw).index
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            index = None
        rows[at if index is None else index] = bytes(raw)
    return rows


def decode_rows(slot: int, payload: bytes) -> Block:
    """The block in a payload of rows.

    Raises:
        BadRecordError: the payload is not what the source writes.
    """
    try:
        rows = _decode_payload(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecordError(
            f"not the rows of a block: {error}", reason="not_a_block", where=f"slot {slot}", remedy="read the range again"
        ) from error
    by_signature: dict[str, list[_Instruction]] = {}
    for instruction in rows.instructions:
        by_signature.setdefault(instruction.tx_signature, []).append(instruction)
    transactions: list[Transaction] = []
    bad: list[BadTransaction] = []
    for at, raw in enumerate(rows.transactions):
        try:
            row = _decode_transaction(raw)
            transactions.append(_transaction(row, at, by_signature.get(row.signature, [])))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
            bad.append(BadTransaction(at, "malformed_transaction", str(error), bytes(raw)))
    rewards = []
    for reward in rows.rewards:
        try:
            rewards.append(_reward(reward))
        except ValueError as error:
            bad.append(BadTransaction(None, "malformed_reward", str(error), msgspec.json.encode(reward)))
    transactions.sort(key=lambda item: item.index)
    block = rows.block
    return Block(
        slot=slot,
        block_hash=block.block_hash,
        previous_block_hash=block.previous_block_hash,
        parent_slot=None,
        block_time=None if block.block_timestamp is None else int(block.block_timestamp.timestamp()),
        height=block.height,
        kind=Kind.PARSED,
        detail="full",
        transactions=transactions,
        signatures=[],
        rewards=sound_rewards(rewards, bad),
        stated=len(rows.transactions) if block.transaction_count is None else block.transaction_count,
        bad=bad,
    )


def _reward(row: _Reward) -> Reward:
    return Reward(
        row.pubkey,
        int(row.lamports or 0),
        _integer(row.post_balance),
        _REWARD_TYPES.get(row.reward_type or "Unspecified", row.reward_type),
        _integer(row.commission),
    )


def _integer(text: str | None) -> int | None:
    return None if text is None else int(text)


def _transaction(row: _Transaction, at: int, instructions: list[_Instruction]) -> Transaction:
    outer = sorted((item for item in instructions if item.parent_index is None), key=lambda item: item.index)
    inner: dict[int, list[_Instruction]] = {}
    for item in instructions:
        if item.parent_index is not None:
            inner.setdefault(item.parent_index, []).append(item)
    keys = [{"pubkey": account.pubkey, "signer": account.signer, "writable": account.writable} for account in row.accounts]
    message = Message(_raw(keys), _raw([_instruction(item) for item in outer]), row.recent_block_hash)
    meta = None
    if row.status is not None or row.fee is not None:
        meta = Meta(
            fee=_integer(row.fee),
            pre_balances=_numbers(change.before for change in row.balance_changes),
            post_balances=_numbers(change.after for change in row.balance_changes),
            error_text=(row.err or "") if row.err or row.status != "Success" else None,
            inner_instructions=[
                InnerInstructions(parent, _raw([_instruction(item) for item in sorted(group, key=lambda item: item.index)]))
                for parent, group in sorted(inner.items())
            ],
            # A repeated field cannot be null in BigQuery; what was executed has at least one line, so none means not recorded.
            log_messages=_raw(row.log_messages) if row.log_messages else NOTHING,
            pre_token_balances=_raw([_token_balance(item) for item in row.pre_token_balances]),
            post_token_balances=_raw([_token_balance(item) for item in row.post_token_balances]),
            compute_units_consumed=_integer(row.compute_units_consumed),
        )
    wire = Wire(_raw([row.signature]), message)
    return Transaction(wire, meta, UNTOLD, index=at if row.index is None else row.index)


def _numbers(values: Iterable[str | None]) -> Raw:
    return Raw(f"[{','.join(value or '0' for value in values)}]".encode())


def _raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def _token_balance(item: _TokenBalance) -> TokenBalance:
    return TokenBalance(item.account_index, item.mint, UiTokenAmount(item.amount, item.decimals), item.owner or "")


def _instruction(item: _Instruction) -> Instruction:
    """A parsed row becomes what `jsonParsed` would have said; the others keep data and accounts."""
    program_id = item.program_id or ""
    params = [param for param in item.params if param.key is not None]
    if item.parsed is not None and item.instruction_type is None:
        return Instruction(program_id=program_id, program=item.program or "", parsed=Raw(msgspec.json.encode(item.parsed)))
    if item.instruction_type is not None:
        info = {param.key: _value(param.value) for param in params}
        return Instruction(
            program_id=program_id,
            program=item.program or "",
            parsed=Raw(msgspec.json.encode({"type": item.instruction_type, "info": info})),
        )
    accounts = [account for account in item.accounts if account]
    return Instruction(data=item.data or "", accounts=Raw(msgspec.json.encode(accounts)), program_id=program_id, program=item.program or "")


def _value(text: str | None) -> Raw:
    """A parameter's value is JSON text; text that is not is taken as a string."""
    if text is None:
        return Raw(b"null")
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return Raw(msgspec.json.encode(text))
    return Raw(text.encode())
