"""Blocks, transactions and accounts in each form that a node gives them.

Belongs here: from a getBlock result (`json`, full details, rewards) to the same in another encoding or with less detail.
Does not belong here: what instructions mean (`blyan.solana.programs`), or which block is asked for
(`blyan.solana.localnet.rpc`).

`jsonParsed` parses the instructions of the programs that this project decodes, but for the compute budget, as nodes do.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec
import pyarrow as pa
from solders.account import Account

from blyan.solana import base58, programs
from blyan.solana.batch import RESERVED_ACCOUNTS
from blyan.solana.localnet import errors

Encoding = Literal["json", "jsonParsed", "base64", "base58"]
Details = Literal["full", "accounts", "signatures", "none"]
AccountEncoding = Literal["base64", "base58", "base64+zstd", "jsonParsed"]

MAX_BASE58_BYTES = 128
"""Longer account data is refused in base58 (Agave, MAX_BASE58_BYTES)."""

_PARSED_PROGRAMS = frozenset(programs.DECODERS) - {programs.COMPUTE_BUDGET}


@dataclass(frozen=True, slots=True)
class View:
    """How a block or a transaction is asked for.

    Attributes:
        encoding: of transactions.
        details: how much of each transaction.
        rewards: whether the block's rewards are in it.
        max_version: newest transaction version that the client reads; None is legacy only.
    """

    encoding: Encoding = "json"
    details: Details = "full"
    rewards: bool = True
    max_version: int | None = None

    @classmethod
    def of(cls, options: dict[str, Any]) -> View:
        """The view that a request's options ask for.

        Raises:
            RpcError: one of them is not known.
        """
        encoding: Any = options.get("encoding") or "json"
        details: Any = options.get("transactionDetails") or "full"
        rewards, version = options.get("rewards", options.get("showRewards")), options.get("maxSupportedTransactionVersion")
        if encoding not in get_args(Encoding):
            raise errors.invalid_params(f"Invalid params: unknown variant `{encoding}`, expected one of {', '.join(get_args(Encoding))}.")
        if details not in get_args(Details):
            raise errors.invalid_params(f"Invalid params: unknown variant `{details}`, expected one of {', '.join(get_args(Details))}.")
        if not isinstance(version, int | None) or isinstance(version, bool):
            raise errors.invalid_params("Invalid params: maxSupportedTransactionVersion must be a u8.")
        return cls(encoding, details, rewards is not False, version)


def encode_block(payload: bytes, view: View) -> bytes:
    """A getBlock result as `view` asks for it.

    Args:
        payload: the result as `json`, with full details and rewards.
        view: the form asked for.

    Raises:
        RpcError: a transaction has a version that the client does not read.
    """
    if view == View(max_version=0):
        return payload
    block = msgspec.json.decode(payload)
    entries = block.pop("transactions")
    rewards = block.pop("rewards", None)
    if view.details == "signatures":
        block["signatures"] = [entry["transaction"]["signatures"][0] for entry in entries]
    elif view.details != "none":
        block["transactions"] = [encode_transaction(entry, view) for entry in entries]
    if view.rewards and rewards is not None:
        block["rewards"] = rewards
    return msgspec.json.encode(block)


def encode_transaction(entry: dict[str, Any], view: View) -> dict[str, Any]:
    """A transaction of a block, with its status, as `view` asks for it.

    Raises:
        RpcError: its version is one that the client does not read.
    """
    version, encoded = entry.get("version", "legacy"), {"transaction": entry["transaction"], "meta": entry["meta"]}
    if version != "legacy" and (view.max_version is None or view.max_version < version):
        raise errors.unsupported_version(version)
    if view.details == "accounts":
        encoded = _accounts_only(entry)
    elif view.encoding == "jsonParsed":
        encoded = _parsed(entry)
    elif view.encoding == "base64":
        encoded["transaction"] = [base64.b64encode(wire_format(entry["transaction"])).decode(), "base64"]
    elif view.encoding == "base58":
        encoded["transaction"] = [base58.encode(wire_format(entry["transaction"])), "base58"]
    if view.max_version is not None:
        encoded["version"] = version
    return encoded


def _accounts_only(entry: dict[str, Any]) -> dict[str, Any]:
    kept = ("err", "status", "fee", "preBalances", "postBalances", "preTokenBalances", "postTokenBalances")
    return {
        "transaction": {"signatures": entry["transaction"]["signatures"], "accountKeys": _account_keys(entry)},
        "meta": {name: value for name, value in entry["meta"].items() if name in kept},
    }


def _parsed(entry: dict[str, Any]) -> dict[str, Any]:
    given, meta = entry["transaction"]["message"], dict(entry["meta"])
    keys = _account_keys(entry)
    names = [key["pubkey"] for key in keys]
    message = {
        "accountKeys": keys,
        "recentBlockhash": given["recentBlockhash"],
        "instructions": [_parsed_instruction(instruction, names) for instruction in given["instructions"]],
    }
    if "addressTableLookups" in given:
        message["addressTableLookups"] = given["addressTableLookups"]
    # The loaded addresses are among the keys here, each with its source.
    meta.pop("loadedAddresses", None)
    if meta.get("innerInstructions"):
        meta["innerInstructions"] = [
            {**group, "instructions": [_parsed_instruction(instruction, names) for instruction in group["instructions"]]}
            for group in meta["innerInstructions"]
        ]
    return {"transaction": {"signatures": entry["transaction"]["signatures"], "message": message}, "meta": meta}


def _account_keys(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Every account with what the transaction may do to it: Agave's `is_writable`, not just what the message asks."""
    message, loaded = entry["transaction"]["message"], entry["meta"].get("loadedAddresses") or {"writable": [], "readonly": []}
    header, static = message["header"], message["accountKeys"]
    signers = header["numRequiredSignatures"]
    names = static + loaded["writable"] + loaded["readonly"]
    fixed = set() if programs.BPF_UPGRADEABLE_LOADER in names else {names[each["programIdIndex"]] for each in message["instructions"]}
    fixed |= RESERVED_ACCOUNTS

    def asked(index: int) -> bool:
        if index < signers:
            return bool(index < signers - header["numReadonlySignedAccounts"])
        if index < len(static):
            return bool(index < len(static) - header["numReadonlyUnsignedAccounts"])
        return index < len(static) + len(loaded["writable"])

    return [
        {
            "pubkey": name,
            "signer": index < signers,
            "source": "transaction" if index < len(static) else "lookupTable",
            "writable": asked(index) and name not in fixed,
        }
        for index, name in enumerate(names)
    ]


def _parsed_instruction(instruction: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    program_id, height = keys[instruction["programIdIndex"]], instruction.get("stackHeight")
    accounts = [keys[index] for index in instruction["accounts"]]
    decoded = None
    if program_id in _PARSED_PROGRAMS:
        decoded = programs.decode(program_id, base58.decode(instruction["data"]), len(accounts))
    if decoded is None:
        return {"programId": program_id, "accounts": accounts, "data": instruction["data"], "stackHeight": height}
    if decoded.type is None:
        parsed: Any = decoded.text
    else:
        parsed = {"type": decoded.type, "info": {name: _parameter(value, accounts) for name, value in decoded.params}}
    return {"program": decoded.program, "programId": program_id, "parsed": parsed, "stackHeight": height}


def _parameter(value: programs.Value, accounts: list[str]) -> Any:
    if isinstance(value, int):
        return accounts[value]
    if isinstance(value, tuple):
        return [accounts[index] for index in value]
    content = msgspec.json.decode(value)
    if isinstance(content, dict) and content.keys() == {"amount", "decimals"}:
        return ui_token_amount(int(content["amount"]), content["decimals"])
    return content


def ui_token_amount(amount: int, decimals: int) -> dict[str, Any]:
    """A token amount as RPC writes it: exact, and as a float beside it.

    Args:
        amount: in base units.
        decimals: of the mint.
    """
    digits = f"{amount:0{decimals + 1}d}"
    point = len(digits) - decimals
    text = digits[:point] + f".{digits[point:]}".rstrip("0").rstrip(".")
    return {"amount": str(amount), "decimals": decimals, "uiAmount": amount / 10**decimals, "uiAmountString": text}


def wire_format(transaction: dict[str, Any]) -> bytes:
    """The bytes of a transaction given as `json`: its signatures and its message, as they were signed and sent."""
    message = transaction["message"]
    header = message["header"]
    parts = [
        _vector(map(base58.decode, transaction["signatures"])),
        b"\x80" if "addressTableLookups" in message else b"",
        bytes((header["numRequiredSignatures"], header["numReadonlySignedAccounts"], header["numReadonlyUnsignedAccounts"])),
        _vector(map(base58.decode, message["accountKeys"])),
        base58.decode(message["recentBlockhash"]),
        _vector(
            bytes((instruction["programIdIndex"],)) + _bytes(bytes(instruction["accounts"])) + _bytes(base58.decode(instruction["data"]))
            for instruction in message["instructions"]
        ),
    ]
    if "addressTableLookups" in message:
        parts.append(
            _vector(
                base58.decode(lookup["accountKey"]) + _bytes(bytes(lookup["writableIndexes"])) + _bytes(bytes(lookup["readonlyIndexes"]))
                for lookup in message["addressTableLookups"]
            )
        )
    return b"".join(parts)


def _short_length(count: int) -> bytes:
    """A count of 0 to 65,535 in one to three bytes of seven bits (Solana's compact-u16)."""
    data = bytearray()
    while count > 0x7F:
        data.append(count & 0x7F | 0x80)
        count >>= 7
    return bytes((*data, count))


def _vector(items: Iterable[bytes]) -> bytes:
    parts = list(items)
    return _short_length(len(parts)) + b"".join(parts)


def _bytes(data: bytes) -> bytes:
    return _short_length(len(data)) + data


def encode_account(account: Account, encoding: AccountEncoding | None = None, piece: slice | None = None) -> dict[str, Any]:
    """An account as RPC writes it; `jsonParsed` gives base64, as nodes do for programs whose state they do not parse.

    Args:
        account: what to write.
        encoding: of its data; None is the old form, base58 without a name beside it.
        piece: the part of its data asked for.

    Raises:
        RpcError: the data is too long for base58.
    """
    data = account.data[piece] if piece else account.data
    if encoding in (None, "base58") and len(data) > MAX_BASE58_BYTES:
        raise errors.invalid_request("Encoded binary (base 58) data should be less than 128 bytes, please use Base64 encoding.")
    encoded: Any
    if encoding is None:
        encoded = base58.encode(data)
    elif encoding == "base58":
        encoded = [base58.encode(data), "base58"]
    elif encoding == "base64+zstd":
        encoded = [base64.b64encode(pa.compress(data, codec="zstd", asbytes=True)).decode(), "base64+zstd"]
    else:
        encoded = [base64.b64encode(data).decode(), "base64"]
    return {
        "data": encoded,
        "executable": account.executable,
        "lamports": account.lamports,
        "owner": str(account.owner),
        "rentEpoch": account.rent_epoch,
        "space": len(account.data),
    }
