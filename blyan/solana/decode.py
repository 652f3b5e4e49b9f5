"""Bytes of a recorded block to typed structs, for every encoding and detail that sources give.

Belongs here: the shapes of `getBlock`, `getTransaction` and BigQuery payloads, and reading the binary message.
Does not belong here: tables and rows (`blyan.solana.normalise`).

Arrays of one kind (keys, balances, account indexes) stay `msgspec.Raw`: the normaliser joins them over a whole
batch and reads them in one pass, which measured a third faster than a list for each. One decoder serves `json` and
`jsonParsed`; `base64` and `base58` messages are read here into the same structs.
"""

from __future__ import annotations

import binascii
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

import msgspec
import pybase64
from msgspec import Raw, Struct

from blyan.errors import BadRecordError
from blyan.solana import base58
from blyan.solana.sources import Format

UNTOLD = ""
"""The version of a transaction whose source does not tell it (BigQuery)."""

LAST_SECOND = 253_402_300_799
"""Unix time of the last second of the year 9999, the last that a timestamp can be written as text."""

MIN_SIGNATURE, MAX_SIGNATURE = 64, 88
"""Characters of base58 that 64 bytes can have."""

EMPTY = Raw(b"[]")
NOTHING = Raw(b"")


class Kind(StrEnum):
    """How keys and instructions are written. Blocks of one kind are normalised together."""

    COMPILED = "compiled"
    """Text keys, instructions by index: `json`."""
    BINARY = "binary"
    """Keys, outer accounts and data as bytes: `base64`, `base58`."""
    PARSED = "parsed"
    """Keys as objects, instructions by name: `jsonParsed`, detail `accounts`, BigQuery."""


class Instruction(Struct, gc=False, rename="camel", omit_defaults=True):
    """A compiled, partially decoded or parsed instruction. `accounts` holds indexes or base58 keys as JSON."""

    data: str = ""
    accounts: Raw = EMPTY
    program_id_index: int = -1
    stack_height: int | None = None
    program_id: str = ""
    program: str = ""
    parsed: Raw = NOTHING


class MessageHeader(Struct, gc=False, rename="camel"):
    """How many keys sign, and how many of each half are read-only."""

    num_required_signatures: int
    num_readonly_signed_accounts: int
    num_readonly_unsigned_accounts: int


class Lookup(Struct, gc=False, rename="camel"):
    """Addresses a v0 message takes from one lookup table: JSON arrays of indexes, or in a binary message a byte each."""

    account_key: str
    writable_indexes: Raw = EMPTY
    readonly_indexes: Raw = EMPTY


class Message(Struct, gc=False, rename="camel"):
    """A transaction's message: `instructions` is an array of `Instruction`."""

    account_keys: Raw
    instructions: Raw
    recent_blockhash: str | None = None
    header: MessageHeader | None = None
    address_table_lookups: list[Lookup] | None = None


class BinaryMessage(Struct, gc=False):
    """A message that came as bytes.

    Attributes:
        account_keys: 32 bytes each.
        programs: of each instruction, the index of its program; then its accounts' indexes, and its data.
    """

    account_keys: bytes
    programs: bytes
    accounts: list[bytes]
    data: list[bytes]
    recent_blockhash: str
    header: MessageHeader
    address_table_lookups: list[Lookup] | None


class Wire(Struct, gc=False, rename="camel"):
    """A transaction as JSON; read from bytes, its signatures are 64 bytes each. With detail `accounts` it has no message."""

    signatures: Raw
    message: Message | None = None
    account_keys: Raw = EMPTY


class UiTokenAmount(Struct, gc=False, rename="camel"):
    """A token amount in base units; the float beside it is not read."""

    amount: str
    decimals: int


class TokenBalance(Struct, gc=False, rename="camel"):
    """Balance of a token account, by position among the transaction's accounts."""

    account_index: int
    mint: str
    ui_token_amount: UiTokenAmount
    owner: str | None = None


class InnerInstructions(Struct, gc=False, rename="camel"):
    """The instructions that outer instruction `index` invoked."""

    index: int
    instructions: Raw


class LoadedAddresses(Struct, gc=False, rename="camel"):
    """Accounts loaded from lookup tables."""

    writable: Raw = EMPTY
    readonly: Raw = EMPTY


class ReturnData(Struct, gc=False, rename="camel"):
    """Data that a program returned: base64 text and the word `base64`."""

    program_id: str
    data: tuple[str, str]


class Meta(Struct, gc=False, rename="camel", omit_defaults=True):
    """A transaction's metadata: what executing it did. `error_text` is set where only the words are known."""

    fee: int | None = None
    pre_balances: Raw = EMPTY
    post_balances: Raw = EMPTY
    err: Any = None
    inner_instructions: list[InnerInstructions] | None = None
    log_messages: Raw = NOTHING
    pre_token_balances: Raw = NOTHING
    post_token_balances: Raw = NOTHING
    loaded_addresses: LoadedAddresses | None = None
    compute_units_consumed: int | None = None
    cost_units: int | None = None
    return_data: ReturnData | None = None
    error_text: str | None = None


class Transaction(Struct, gc=False, rename="camel"):
    """One transaction of a block, or a getTransaction result. `index` is its position in the block once known."""

    transaction: Wire | list[str] | str
    meta: Meta | None = None
    version: int | str | None = None
    slot: int | None = None
    block_time: int | None = None
    index: int = -1


class Reward(Struct, gc=False, rename="camel"):
    """A reward paid by the block."""

    pubkey: str
    lamports: int
    post_balance: int | None = None
    reward_type: str | None = None
    commission: int | None = None


class _Result(Struct, gc=False, rename="camel"):
    """A getBlock result, or an envelope around one."""

    blockhash: str | None = None
    previous_blockhash: str | None = None
    parent_slot: int | None = None
    block_time: int | None = None
    block_height: int | None = None
    transactions: list[Transaction] | None = None
    signatures: list[str] | None = None
    rewards: list[Reward] | None = None
    result: _Result | None = None


class _LooseResult(Struct, gc=False, rename="camel"):
    """The same with its parts left unread, so that a bad one does not cost the block."""

    blockhash: str | None = None
    previous_blockhash: str | None = None
    parent_slot: int | None = None
    block_time: int | None = None
    block_height: int | None = None
    transactions: list[Raw] | None = None
    signatures: list[Raw] | None = None
    rewards: list[Raw] | None = None
    result: _LooseResult | None = None


class BadTransaction(Struct, gc=False):
    """A transaction that cannot be used: its place in the block, why, and its bytes. A reward has no place."""

    index: int | None
    reason: str
    detail: str
    raw: bytes


class Block(Struct, gc=False):
    """A decoded block. `transactions` are the good ones, each with its `index`; `bad` the others.

    Attributes:
        slot: the block's slot.
        block_hash: None for transactions recorded without their block.
        block_time: Unix seconds.
        detail: `full`, `accounts`, `signatures` or `none`.
        signatures: the signatures in their places, with detail `signatures`; the bad ones are empty.
        stated: how many transactions the source says the block has.
    """

    slot: int
    block_hash: str | None
    previous_block_hash: str | None
    parent_slot: int | None
    block_time: int | None
    height: int | None
    kind: Kind
    detail: str
    transactions: list[Transaction]
    signatures: list[str]
    rewards: list[Reward]
    stated: int | None
    bad: list[BadTransaction]


_decode_result = msgspec.json.Decoder(_Result).decode
_decode_loose = msgspec.json.Decoder(_LooseResult).decode
_decode_transaction = msgspec.json.Decoder(Transaction).decode
_decode_reward = msgspec.json.Decoder(Reward).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode


def decode(slot: int, payload: bytes, form: Format) -> Block:
    """The block in a payload.

    Args:
        slot: the slot that the source says it is of; `getBlock` does not tell.
        payload: the bytes as the source gave them.
        form: their shape.

    Raises:
        BadRecordError: the block itself, not one of its transactions, cannot be read.
    """
    if form is Format.GET_TRANSACTION:
        return _loose_transactions(slot, payload)
    if form is Format.BIGQUERY:
        from blyan.solana.bigquery_rows import decode_rows

        return decode_rows(slot, payload)
    bad: list[BadTransaction] = []
    try:
        strict = _decode_result(payload)
        result = strict.result or strict
        transactions = result.transactions or []
        for index, transaction in enumerate(transactions):
            transaction.index = index
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        result, transactions = _tolerant(payload, slot, bad)
    if result.blockhash is None:
        raise BadRecordError(
            f"the response for slot {slot} has no block hash",
            reason="not_a_block",
            where=f"slot {slot}",
            remedy="fetch the block again with getBlock",
        )
    _check_header(slot, result)
    return _block(slot, result, transactions, bad)


def _check_header(slot: int, result: _Result) -> None:
    numbers = (result.parent_slot or 0, result.block_height or 0)
    if all(0 <= number < 1 << 63 for number in numbers) and 0 <= (result.block_time or 0) <= LAST_SECOND:
        return
    raise BadRecordError(
        f"parent slot, height and time of the block cannot be {result.parent_slot}, {result.block_height} and {result.block_time}",
        reason="integer_overflow",
        where=f"slot {slot}",
        remedy="fetch the block again with getBlock",
    )


def raw_transactions(payload: bytes, form: Format) -> dict[int, bytes]:
    """The bytes of each transaction (or signature) of a payload that `decode` took, by its place in the block."""
    if form is Format.BIGQUERY:
        from blyan.solana.bigquery_rows import raw_rows

        return raw_rows(payload)
    if form is Format.GET_TRANSACTION:
        return dict(enumerate(map(bytes, _decode_raws(payload))))
    loose = _decode_loose(payload)
    loose = loose.result or loose
    return dict(enumerate(map(bytes, loose.transactions or loose.signatures or ())))


def _tolerant(payload: bytes, slot: int, bad: list[BadTransaction]) -> tuple[_Result, list[Transaction]]:
    """Read the parts of a block one by one; those that cannot be read go to `bad`."""
    try:
        loose = _decode_loose(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "invalid_utf8" if isinstance(error, UnicodeDecodeError) or "utf-8" in str(error).lower() else "not_a_block"
        raise BadRecordError(
            f"the response for slot {slot} is not a block: {error}", reason=reason, where=f"slot {slot}", remedy="fetch the block again with getBlock"
        ) from error
    loose = loose.result or loose
    transactions = []
    for index, raw in enumerate(loose.transactions or ()):
        try:
            transaction = _decode_transaction(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            bad.append(BadTransaction(index, reason_of(error), str(error), bytes(raw)))
            continue
        transaction.index = index
        transactions.append(transaction)
    rewards = []
    for raw in loose.rewards or ():
        try:
            rewards.append(_decode_reward(raw))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            bad.append(BadTransaction(None, "malformed_reward", str(error), bytes(raw)))
    signatures = None if loose.signatures is None else [_text_of(raw) for raw in loose.signatures]
    result = _Result(
        loose.blockhash, loose.previous_blockhash, loose.parent_slot, loose.block_time, loose.block_height,
        None if loose.transactions is None else [], signatures, rewards,
    )  # fmt: skip
    return result, transactions


def reason_of(error: Exception) -> str:
    """Why a transaction that raised this is quarantined."""
    if isinstance(error, BadRecordError):
        return error.reason
    return "invalid_utf8" if isinstance(error, UnicodeDecodeError) else "malformed_transaction"


def _text_of(raw: Raw) -> str:
    """A string; nothing if it is none."""
    try:
        return _decode_text(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _whole_signatures(signatures: list[str], bad: list[BadTransaction]) -> list[str]:
    """Signatures in their places; those that are not 64 bytes of base58 go to `bad` and become empty."""
    whole = [text if MIN_SIGNATURE <= len(text) <= MAX_SIGNATURE else "" for text in signatures]
    bad += [
        BadTransaction(index, "missing_signature", "a signature is not 64 bytes of base58", signatures[index].encode())
        for index, text in enumerate(whole)
        if not text
    ]
    return whole


def sound_rewards(rewards: list[Reward], bad: list[BadTransaction]) -> list[Reward]:
    """Rewards whose numbers fit their columns; the others go to `bad`."""
    sound = []
    for reward in rewards:
        if abs(reward.lamports) < 1 << 64 and 0 <= (reward.post_balance or 0) < 1 << 64 and abs(reward.commission or 0) < 1 << 63:
            sound.append(reward)
        else:
            bad.append(BadTransaction(None, "integer_overflow", "a number of a reward exceeds 64 bits", msgspec.json.encode(reward)))
    return sound


def _block(slot: int, result: _Result, transactions: list[Transaction], bad: list[BadTransaction]) -> Block:
    if transactions:
        (detail, kind), transactions = _of_one_kind(transactions, bad)
    else:
        kind = Kind.COMPILED
        detail = "full" if result.transactions is not None else "none" if result.signatures is None else "signatures"
    if kind is Kind.BINARY:
        transactions = _read_messages(transactions, bad)
    signatures = _whole_signatures(result.signatures or [], bad) if detail == "signatures" else []
    placed = sum(item.index is not None for item in bad)
    stated = None if detail == "none" else len(signatures) if detail == "signatures" else len(transactions) + placed
    return Block(
        slot=slot,
        block_hash=result.blockhash,
        previous_block_hash=result.previous_blockhash,
        parent_slot=result.parent_slot,
        block_time=result.block_time,
        height=result.block_height,
        kind=kind,
        detail=detail,
        transactions=transactions,
        signatures=signatures,
        rewards=sound_rewards(result.rewards or [], bad),
        stated=stated,
        bad=bad,
    )


def _of_one_kind(transactions: list[Transaction], bad: list[BadTransaction]) -> tuple[tuple[str, Kind], list[Transaction]]:
    """Detail and kind of most transactions, and those that have them; the others go to `bad`."""
    wires: list[Any] = [item.transaction for item in transactions]
    # One number each, not `_kind_of`: this runs over every transaction, and they are all but always alike.
    shapes = [2 if type(wire) is not Wire else 3 if wire.message is None else wire.message.header is None for wire in wires]
    if shapes.count(shapes[0]) == len(shapes):
        return _kind_of(transactions[0]), transactions
    common = Counter(shapes).most_common(1)[0][0]
    alike = [item for item, shape in zip(transactions, shapes, strict=True) if shape == common]
    strange = [item for item, shape in zip(transactions, shapes, strict=True) if shape != common]
    detail = "written otherwise than most transactions of its slot"
    bad += [BadTransaction(item.index, "mixed_encodings", detail, msgspec.json.encode(item)) for item in strange]
    return _kind_of(alike[0]), alike


def _kind_of(transaction: Transaction) -> tuple[str, Kind]:
    wire = transaction.transaction
    if not isinstance(wire, Wire):
        return "full", Kind.BINARY
    if wire.message is None:
        return "accounts", Kind.PARSED
    # Only jsonParsed leaves the header out: its keys say themselves who signs.
    parsed = wire.message.header is None
    return "full", Kind.PARSED if parsed else Kind.COMPILED


def _loose_transactions(slot: int, payload: bytes) -> Block:
    """Transactions recorded one by one: their places in the block are not known, and count up from 0 here."""
    transactions: list[Transaction] = []
    bad: list[BadTransaction] = []
    try:
        raws = _decode_raws(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecordError(f"not a list of transactions: {error}", reason="not_json", where=f"slot {slot}", remedy="record them again") from error
    for index, raw in enumerate(raws):
        try:
            transaction = _decode_transaction(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            bad.append(BadTransaction(index, reason_of(error), str(error), bytes(raw)))
            continue
        if not 0 <= (transaction.block_time or 0) <= LAST_SECOND:
            bad.append(BadTransaction(index, "integer_overflow", f"the block's time cannot be {transaction.block_time}", bytes(raw)))
            continue
        transaction.index = index
        transactions.append(transaction)
    block_time = next((item.block_time for item in transactions if item.block_time is not None), None)
    kinds = {_kind_of(item)[1] for item in transactions}
    if len(kinds) > 1:
        # One spelling for all, so that they are one batch: bytes become text.
        transactions = [_as_text(item) for item in _read_messages(transactions, bad)]
        (_, kind), transactions = _of_one_kind(transactions, bad) if transactions else (("full", Kind.COMPILED), transactions)
        kinds = {kind}
    elif kinds == {Kind.BINARY}:
        transactions = _read_messages(transactions, bad)
    return Block(slot, None, None, None, block_time, None, next(iter(kinds), Kind.COMPILED), "full", transactions, [], [], None, bad)


def binary_message(item: Transaction) -> BinaryMessage | None:
    """The message that `_read_messages` put where JSON has a `Message`; None where it is JSON."""
    message: object = getattr(item.transaction, "message", None)
    return message if isinstance(message, BinaryMessage) else None


def _as_text(item: Transaction) -> Transaction:
    wire, message = item.transaction, binary_message(item)
    if isinstance(wire, Wire) and message is not None:
        signatures = bytes(wire.signatures)
        wire.signatures = Raw(msgspec.json.encode([base58.encode(signatures[at : at + 64]) for at in range(0, len(signatures), 64)]))
        keys = [base58.encode(message.account_keys[at : at + 32]) for at in range(0, len(message.account_keys), 32)]
        instructions = [
            Instruction(base58.encode(data), Raw(msgspec.json.encode(list(accounts))), program)
            for program, accounts, data in zip(message.programs, message.accounts, message.data, strict=True)
        ]
        wire.message = Message(
            Raw(msgspec.json.encode(keys)),
            Raw(msgspec.json.encode(instructions)),
            message.recent_blockhash,
            message.header,
            None if message.address_table_lookups is None else [_lookup_as_text(lookup) for lookup in message.address_table_lookups],
        )
    return item


def _lookup_as_text(lookup: Lookup) -> Lookup:
    return Lookup(lookup.account_key, *(Raw(msgspec.json.encode(list(bytes(side)))) for side in (lookup.writable_indexes, lookup.readonly_indexes)))


_BINARY: dict[str, Callable[[str], bytes]] = {
    "base64": partial(pybase64.b64decode, validate=True),
    "base58": base58.decode,
}


def _read_messages(transactions: list[Transaction], bad: list[BadTransaction]) -> list[Transaction]:
    """Read the binary transactions in place; those that cannot be read go to `bad`."""
    good = []
    known: dict[bytes, str] = {}
    for item in transactions:
        wire = item.transaction
        if isinstance(wire, Wire):
            good.append(item)
            continue
        # A bare string is the oldest form of the API, base58.
        text, encoding = (wire, "base58") if isinstance(wire, str) else (wire[0], wire[1]) if len(wire) == 2 else ("", "")
        try:
            item.transaction, version = read_transaction(_BINARY[encoding](text), known)
        except (KeyError, ValueError, IndexError, binascii.Error) as error:
            bad.append(BadTransaction(item.index, "malformed_message", f"{encoding or 'unknown'} transaction: {error}", msgspec.json.encode(item)))
            continue
        except BadRecordError as error:
            bad.append(BadTransaction(item.index, error.reason, error.what, msgspec.json.encode(item)))
            continue
        if item.version is None:
            item.version = version
        good.append(item)
    return good


def _remember(known: dict[bytes, str], key: bytes) -> str:
    text = known[key] = base58.encode(key)
    return text


def read_transaction(data: bytes, known: dict[bytes, str]) -> tuple[Wire, int | None]:
    """A binary transaction: signatures, then a legacy or v0 message.

    Args:
        data: the transaction as it was sent.
        known: blockhashes and lookup tables as base58, which transactions of a block share; added to.

    Returns:
        The transaction with signatures, keys, outer accounts and data as bytes, and its version (None for legacy).

    Raises:
        ValueError: it is cut short or too long.
        BadRecordError: its version is not known.
    """
    count, at = _short(data, 0)
    if at + 64 * count > len(data):
        raise ValueError(f"{len(data)} bytes cannot hold {count} signatures")
    signatures = data[at : at + 64 * count]
    at += 64 * count
    version = None
    if data[at] & 0x80:
        version = data[at] & 0x7F
        if version != 0:
            raise BadRecordError(f"transaction version {version} is not known", reason="unknown_version")
        at += 1
    header = MessageHeader(data[at], data[at + 1], data[at + 2])
    count, at = _short(data, at + 3)
    keys = data[at : at + 32 * count]
    at += 32 * count
    blockhash = data[at : at + 32]
    count, at = _short(data, at + 32)
    programs, accounts, contents = bytearray(count), [], []
    for place in range(count):
        programs[place], size = data[at], data[at + 1]
        size, at = (size, at + 2) if size < 0x80 else _short(data, at + 1)
        accounts.append(data[at : at + size])
        at += size
        size, at = (data[at], at + 1) if data[at] < 0x80 else _short(data, at)
        contents.append(data[at : at + size])
        at += size
    lookups = None
    if version is not None:
        count, at = _short(data, at)
        lookups = []
        for _ in range(count):
            table = data[at : at + 32]
            size, at = _short(data, at + 32)
            writable = data[at : at + size]
            size, at = _short(data, at + size)
            lookups.append(Lookup(known.get(table) or _remember(known, table), writable, data[at : at + size]))  # type: ignore[arg-type]
            at += size
    if at != len(data):
        raise ValueError(f"{len(data)} bytes, but its lengths add up to {at}")
    message = BinaryMessage(keys, bytes(programs), accounts, contents, known.get(blockhash) or _remember(known, blockhash), header, lookups)
    return Wire(signatures, message), version  # type: ignore[arg-type]


def _short(data: bytes, at: int) -> tuple[int, int]:
    """A compact-u16 at an offset: its value, and the offset after it."""
    value = data[at]
    if value < 0x80:
        return value, at + 1
    value = (value & 0x7F) | (data[at + 1] & 0x7F) << 7
    if data[at + 1] < 0x80:
        return value, at + 2
    return value | data[at + 2] << 14, at + 3
