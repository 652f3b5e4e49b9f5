"""The JSON-RPC methods of the node, and requests in general.

Belongs here: what is asked and what a node answers, over any transport. Does not belong here: the chain
(`blyan.solana.localnet.ledger`), forms of blocks (`blyan.solana.localnet.encoding`), subscriptions
(`blyan.solana.localnet.subscriptions`), sockets (`blyan.solana.localnet.server`).

Answers, defaults and errors are those of Agave. Known to differ: a preflight runs on the newest state whatever commitment it
asks for, a transaction with a durable nonce is refused like one with an old blockhash, and `getVersion` names the release whose
answers these imitate.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Raw
from solders.hash import Hash
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from blyan.solana import base58
from blyan.solana.commitment import Commitment
from blyan.solana.localnet import errors
from blyan.solana.localnet.encoding import AccountEncoding, View, encode_account, encode_block, encode_transaction
from blyan.solana.localnet.errors import RpcError
from blyan.solana.localnet.faults import Faults
from blyan.solana.localnet.ledger import BLOCKHASH_AGE, Block, Landed, Ledger
from blyan.solana.programs import MEMO_V1, MEMO_V3
from blyan.solana.slots import SLOTS_PER_EPOCH, epoch_of

API_VERSION = "2.3.0"
FEATURE_SET = 0

MAX_SLOT_RANGE = 500_000
"""Most slots that getBlocks may span."""
MAX_SIGNATURES, MAX_STATUSES, MAX_ACCOUNTS = 1_000, 256, 100
"""Most that getSignaturesForAddress, getSignatureStatuses and getMultipleAccounts give or take."""
STATUS_SLOTS = 300
"""Slots for which getSignatureStatuses knows a transaction without searching the history."""
MAX_TRANSACTION_BYTES = 1_232

Result = TypeVar("Result")
Params = list[Any]

_COMMITMENTS = {commitment.label: commitment for commitment in Commitment}
_WORDS = {
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "AlreadyProcessed": "This transaction has already been processed",
}


def commitment_of(options: dict[str, Any], default: Commitment = Commitment.FINALIZED) -> Commitment:
    """The commitment that a request's options ask for.

    Raises:
        RpcError: there is no such commitment.
    """
    name = options.get("commitment")
    if name is None:
        return default
    if name not in _COMMITMENTS:
        raise errors.invalid_params(f"Invalid params: unknown variant `{name}`, expected one of {', '.join(_COMMITMENTS)}.")
    return _COMMITMENTS[name]


def at_least_confirmed(options: dict[str, Any]) -> Commitment:
    """As `commitment_of`, for what is not told of a block that is only processed."""
    commitment = commitment_of(options)
    if commitment < Commitment.CONFIRMED:
        raise errors.invalid_params("Method does not support commitment below `confirmed`")
    return commitment


def pubkey_of(text: Any) -> Pubkey:
    """The account that a request names.

    Raises:
        RpcError: it is no base58 of 32 bytes.
    """
    try:
        return Pubkey.from_string(text)
    except (ValueError, TypeError) as error:
        raise errors.invalid_params(f"Invalid param: {'WrongSize' if 'size' in str(error).lower() else 'Invalid'}") from error


def signature_of(text: Any) -> str:
    """The signature that a request names.

    Raises:
        RpcError: it is no base58 of 64 bytes.
    """
    try:
        return str(Signature.from_string(text))
    except (ValueError, TypeError) as error:
        raise errors.invalid_params(f"Invalid param: {'WrongSize' if 'size' in str(error).lower() else 'Invalid'}") from error


def slot_of(value: Any) -> int:
    """The slot that a request names.

    Raises:
        RpcError: it is no number of 64 bits.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise errors.invalid_params(f"Invalid params: invalid value `{value}`, expected u64.")
    return value


def options_of(params: Params, place: int) -> dict[str, Any]:
    """The options at a place among the parameters, empty where there are none.

    Raises:
        RpcError: there is something else.
    """
    options = params[place] if len(params) > place else None
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise errors.invalid_params(f"Invalid params: invalid type of {options!r}, expected an object.")
    return options


def account_encoding_of(options: dict[str, Any]) -> AccountEncoding | None:
    """The encoding of accounts that a request's options ask for.

    Raises:
        RpcError: there is no such encoding.
    """
    encoding = options.get("encoding")
    if encoding is not None and encoding not in get_args(AccountEncoding):
        raise errors.invalid_params(f"Invalid params: unknown variant `{encoding}`, expected one of {', '.join(get_args(AccountEncoding))}.")
    return encoding


def with_context(slot: int, value: Any) -> dict[str, Any]:
    """A value with the slot it is of, as nodes wrap them."""
    return {"context": {"slot": slot, "apiVersion": API_VERSION}, "value": value}


class Methods:
    """A node's answers about a ledger."""

    def __init__(self, ledger: Ledger, faults: Faults, in_runtime: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        """Nothing is asked yet.

        Args:
            ledger: the chain, read where it is published.
            faults: what is wrong with the node.
            in_runtime: runs a function where the chain executes, between two slots.
        """
        self._ledger, self._faults, self._in_runtime = ledger, faults, in_runtime
        self._airdrops = itertools.count(1)
        self._methods: dict[str, Callable[[Params], Any]] = {
            "getAccountInfo": self._account_info,
            "getBalance": self._balance,
            "getBlock": self._block,
            "getBlockHeight": lambda params: self._tip(options_of(params, 0)).height,
            "getBlockTime": self._block_time,
            "getBlocks": self._blocks,
            "getBlocksWithLimit": self._blocks_with_limit,
            "getEpochInfo": self._epoch_info,
            "getFirstAvailableBlock": lambda _: self._ledger.first_available,
            "getGenesisHash": lambda _: self._ledger.schedule.genesis_hash(),
            "getHealth": self._health,
            "getLatestBlockhash": self._latest_blockhash,
            "getMinimumBalanceForRentExemption": self._rent,
            "getMultipleAccounts": self._multiple_accounts,
            "getSignatureStatuses": self._signature_statuses,
            "getSignaturesForAddress": self._signatures_for_address,
            "getSlot": lambda params: self._tip(options_of(params, 0)).slot,
            "getTransaction": self._transaction,
            "getTransactionCount": lambda params: self._tip(options_of(params, 0)).transactions_so_far,
            "getVersion": lambda _: {"solana-core": API_VERSION, "feature-set": FEATURE_SET},
            "isBlockhashValid": self._is_blockhash_valid,
            "minimumLedgerSlot": lambda _: self._ledger.first_available,
            "requestAirdrop": self._airdrop,
            "sendTransaction": self._send_transaction,
            "simulateTransaction": self._simulate_transaction,
        }

    async def answer(self, body: bytes, others: Callable[[str, Params], Any] | None = None) -> bytes:
        """The response to a request or a batch; empty if it has only notifications.

        Args:
            body: what arrived.
            others: methods besides, which come first: gives None where it has no such method.
        """
        try:
            content = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _failure(None, errors.parse_error())
        if not isinstance(content, list):
            return await self._answer_one(content, others)
        if not content:
            return _failure(None, errors.invalid_request())
        answers = [answer for each in content if (answer := await self._answer_one(each, others))]
        return b"[" + b",".join(answers) + b"]" if answers else b""

    async def _answer_one(self, request: Any, others: Callable[[str, Params], Any] | None) -> bytes:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str) or request.get("jsonrpc") != "2.0":
            return _failure(request.get("id") if isinstance(request, dict) else None, errors.invalid_request())
        try:
            result = await self._call(request["method"], request.get("params"), others)
        except RpcError as error:
            return _failure(request.get("id"), error) if "id" in request else b""
        return msgspec.json.encode({"jsonrpc": "2.0", "result": result, "id": request["id"]}) if "id" in request else b""

    async def _call(self, name: str, params: Any, others: Callable[[str, Params], Any] | None) -> Any:
        if params is None:
            params = []
        if not isinstance(params, list):
            raise errors.invalid_params("Invalid params: expected an array.")
        if others is not None and (result := others(name, params)) is not None:
            return result
        method = self._methods.get(name)
        if method is None:
            raise errors.method_not_found()
        try:
            result = method(params)
            return await result if isinstance(result, Awaitable) else result
        except IndexError as error:
            raise errors.invalid_params("`params` should have at least 1 argument(s)") from error

    # What the node is at

    def _tip(self, options: dict[str, Any]) -> Block:
        tip = self._ledger.tip(commitment_of(options), self._faults.lag_blocks)
        least = options.get("minContextSlot")
        if least is not None and slot_of(least) > tip.slot:
            raise errors.slot_not_reached(tip.slot)
        return tip

    def _newest(self, commitment: Commitment) -> Block:
        return self._ledger.tip(commitment, self._faults.lag_blocks)

    def _health(self, _: Params) -> str:
        if self._faults.lag_blocks:
            raise errors.behind(self._ledger.tip(Commitment.PROCESSED).slot - self._newest(Commitment.PROCESSED).slot)
        return "ok"

    def _epoch_info(self, params: Params) -> dict[str, int]:
        tip = self._tip(options_of(params, 0))
        return {
            "absoluteSlot": tip.slot,
            "blockHeight": tip.height,
            "epoch": epoch_of(tip.slot),
            "slotIndex": tip.slot % SLOTS_PER_EPOCH,
            "slotsInEpoch": SLOTS_PER_EPOCH,
            "transactionCount": tip.transactions_so_far,
        }

    def _latest_blockhash(self, params: Params) -> dict[str, Any]:
        tip = self._tip(options_of(params, 0))
        return with_context(tip.slot, {"blockhash": tip.hash, "lastValidBlockHeight": tip.height + BLOCKHASH_AGE})

    def _is_blockhash_valid(self, params: Params) -> dict[str, Any]:
        tip = self._tip(options_of(params, 1))
        try:
            blockhash = str(Hash.from_string(params[0]))
        except (ValueError, TypeError) as error:
            raise errors.invalid_params("Invalid param: Invalid") from error
        return with_context(tip.slot, self._ledger.is_recent(blockhash, tip))

    # Blocks

    def _blocks(self, params: Params) -> list[int]:
        first = slot_of(params[0])
        has_end = len(params) > 1 and isinstance(params[1], int)
        newest = self._newest(at_least_confirmed(options_of(params, 2 if has_end or params[1:2] == [None] else 1))).slot
        last = slot_of(params[1]) if has_end else min(first + MAX_SLOT_RANGE, newest)
        if last - first > MAX_SLOT_RANGE:
            raise errors.invalid_params(f"Slot range too large; max {MAX_SLOT_RANGE}")
        return [block.slot for block in self._ledger.blocks(first, min(last, newest))]

    def _blocks_with_limit(self, params: Params) -> list[int]:
        first, limit = slot_of(params[0]), slot_of(params[1])
        if limit > MAX_SLOT_RANGE:
            raise errors.invalid_params(f"Limit too large; max {MAX_SLOT_RANGE}")
        newest = self._newest(at_least_confirmed(options_of(params, 2))).slot
        return [block.slot for block in self._ledger.blocks(first, newest)[:limit]]

    def _block(self, params: Params) -> Raw:
        slot = slot_of(params[0])
        # Old clients name only the encoding.
        options = {"encoding": params[1]} if isinstance(params[1:2] and params[1], str) else options_of(params, 1)
        commitment, view = at_least_confirmed(options), View.of(options)
        if self._faults.unready_blocks > 0:
            self._faults.unready_blocks -= 1
            raise errors.status_not_available(slot)
        return Raw(encode_block(self._at(slot, commitment).payload, view))

    def _block_time(self, params: Params) -> int:
        return self._at(slot_of(params[0]), Commitment.CONFIRMED).time

    def _at(self, slot: int, commitment: Commitment) -> Block:
        """The slot's block, if it has reached the commitment."""
        ledger = self._ledger
        if slot < ledger.first_available:
            raise errors.cleaned_up(slot, ledger.first_available)
        if slot > self._newest(commitment).slot:
            raise errors.not_available(slot)
        block = ledger.block(slot)
        if block is not None:
            return block
        if slot > self._newest(Commitment.FINALIZED).slot:
            raise errors.not_available(slot)
        raise errors.skipped_in_storage(slot) if self._faults.long_term_storage else errors.skipped(slot)

    # Transactions

    def _find(self, signature: str, commitment: Commitment) -> Landed | None:
        landed = self._ledger.find(signature)
        return landed if landed is not None and landed.block.slot <= self._newest(commitment).slot else None

    def _status(self, block: Block) -> Commitment:
        """The commitment of a block as this node knows it."""
        known = (each for each in reversed(Commitment) if block.slot <= self._newest(each).slot)
        return next(known, Commitment.PROCESSED)

    def _transaction(self, params: Params) -> dict[str, Any] | None:
        signature = signature_of(params[0])
        options = {"encoding": params[1]} if isinstance(params[1:2] and params[1], str) else options_of(params, 1)
        landed = self._find(signature, at_least_confirmed(options))
        if landed is None:
            return None
        view = View.of({**options, "transactionDetails": "full"})
        entry = encode_transaction(landed.block.entries()[landed.position], view)
        return {"slot": landed.block.slot, **entry, "blockTime": landed.block.time}

    def _signature_statuses(self, params: Params) -> dict[str, Any]:
        signatures = [signature_of(text) for text in _list(params[0])]
        if len(signatures) > MAX_STATUSES:
            raise errors.invalid_params(f"Too many inputs provided; max {MAX_STATUSES}")
        everything = options_of(params, 1).get("searchTransactionHistory", False)
        tip = self._newest(Commitment.PROCESSED)
        return with_context(tip.slot, [self._signature_status(signature, tip, everything=everything) for signature in signatures])

    def _signature_status(self, signature: str, tip: Block, *, everything: bool) -> dict[str, Any] | None:
        landed = self._find(signature, Commitment.PROCESSED)
        if landed is None or (not everything and tip.slot - landed.block.slot > STATUS_SLOTS):
            return None
        commitment = self._status(landed.block)
        return {
            "slot": landed.block.slot,
            "confirmations": None if commitment is Commitment.FINALIZED else tip.height - landed.block.height,
            "err": landed.error,
            "status": {"Ok": None} if landed.error is None else {"Err": landed.error},
            "confirmationStatus": commitment.label,
        }

    def _signatures_for_address(self, params: Params) -> list[dict[str, Any]]:
        key, options = str(pubkey_of(params[0])), options_of(params, 1)
        commitment, limit = at_least_confirmed(options), options.get("limit") or MAX_SIGNATURES
        if not 0 < slot_of(limit) <= MAX_SIGNATURES:
            raise errors.invalid_params(f"Invalid limit; max {MAX_SIGNATURES}")
        before = signature_of(options["before"]) if options.get("before") else None
        until = signature_of(options["until"]) if options.get("until") else None
        start, end = (self._find(each, commitment) if each else None for each in (before, until))
        if before and start is None:
            return []
        found: list[dict[str, Any]] = []
        for block in self._ledger.newest_first(commitment, self._faults.lag_blocks):
            if end is not None and block.slot < end.block.slot:
                break
            for position in reversed(block.mentions.get(key, ())):
                place = (block.slot, position)
                if start is not None and place >= (start.block.slot, start.position):
                    continue
                if len(found) == limit or (end is not None and place <= (end.block.slot, end.position)):
                    return found
                found.append(self._signature_row(block, position))
        return found

    def _signature_row(self, block: Block, position: int) -> dict[str, Any]:
        return {
            "signature": block.signatures[position],
            "slot": block.slot,
            "err": block.errors[position],
            "memo": _memo(block, position),
            "blockTime": block.time,
            "confirmationStatus": self._status(block).label,
        }

    # Accounts

    def _account_at(self, key: Pubkey, options: dict[str, Any]) -> Any:
        return self._ledger.account(key, commitment_of(options), self._faults.lag_blocks)

    def _balance(self, params: Params) -> dict[str, Any]:
        key, options = pubkey_of(params[0]), options_of(params, 1)
        account = self._account_at(key, options)
        return with_context(self._tip(options).slot, account.lamports if account else 0)

    def _account_info(self, params: Params) -> dict[str, Any]:
        key, options = pubkey_of(params[0]), options_of(params, 1)
        return with_context(self._tip(options).slot, self._encoded_account(key, options))

    def _multiple_accounts(self, params: Params) -> dict[str, Any]:
        keys, options = [pubkey_of(text) for text in _list(params[0])], options_of(params, 1)
        if len(keys) > MAX_ACCOUNTS:
            raise errors.invalid_params(f"Too many inputs provided; max {MAX_ACCOUNTS}")
        options = {**options, "encoding": options.get("encoding") or "base64"}
        return with_context(self._tip(options).slot, [self._encoded_account(key, options) for key in keys])

    def _encoded_account(self, key: Pubkey, options: dict[str, Any]) -> dict[str, Any] | None:
        encoding, part = account_encoding_of(options), options.get("dataSlice")
        piece = slice(slot_of(part["offset"]), slot_of(part["offset"]) + slot_of(part["length"])) if part else None
        account = self._account_at(key, options)
        return encode_account(account, encoding, piece) if account else None

    async def _rent(self, params: Params) -> int:
        size = slot_of(params[0])
        rent: int = await self._in_runtime(lambda: self._ledger.rent(size))
        return rent

    # Sending

    async def _send_transaction(self, params: Params) -> str:
        options = options_of(params, 1)
        transaction = _sent(params[0], options.get("encoding") or "base58")
        signature = str(transaction.signatures[0])
        is_signed, is_recent = _is_signed(transaction), self._is_recent(transaction, options.get("preflightCommitment"))
        if not options.get("skipPreflight"):
            if not is_signed:
                raise errors.signature_failure()
            if self._ledger.find(signature) is not None:
                raise _preflight("AlreadyProcessed")
            if not is_recent:
                raise _preflight("BlockhashNotFound")
            simulated = await self._in_runtime(lambda: self._ledger.simulate(transaction))
            if simulated.error is not None:
                raise _preflight(simulated.error, simulated.logs, simulated.compute_units)
        # Without the preflight a node takes anything, and leaders drop what they cannot use.
        if is_signed and self._is_recent(transaction, "processed"):
            self._ledger.mempool.append(transaction)
        return signature

    async def _simulate_transaction(self, params: Params) -> dict[str, Any]:
        options = options_of(params, 1)
        transaction = _sent(params[0], options.get("encoding") or "base58")
        tip = self._tip(options)
        if options.get("sigVerify") and not _is_signed(transaction):
            raise errors.signature_failure()
        error, logs, units = "BlockhashNotFound", [], 0
        if options.get("replaceRecentBlockhash") or self._is_recent(transaction, options.get("commitment")):
            error, logs, units = await self._in_runtime(lambda: self._ledger.simulate(transaction))
        return with_context(
            tip.slot, {"err": error, "logs": logs, "unitsConsumed": units, "accounts": None, "returnData": None, "innerInstructions": None}
        )

    def _is_recent(self, transaction: VersionedTransaction, commitment: str | None) -> bool:
        tip = self._newest(commitment_of({"commitment": commitment}))
        return self._ledger.is_recent(str(transaction.message.recent_blockhash), tip)

    async def _airdrop(self, params: Params) -> str:
        key, lamports, number = pubkey_of(params[0]), slot_of(params[1]), next(self._airdrops)
        transaction = self._ledger.give(key, lamports, number)
        simulated = await self._in_runtime(lambda: self._ledger.simulate(transaction))
        if simulated.error is not None:
            raise _preflight(simulated.error, simulated.logs, simulated.compute_units)
        self._ledger.mempool.append(transaction)
        return str(transaction.signatures[0])


def _failure(number: Any, error: RpcError) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "error": error.body(), "id": number})


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise errors.invalid_params("Invalid params: expected a sequence.")
    return value


def _sent(text: Any, encoding: str) -> VersionedTransaction:
    """The transaction that was sent."""
    try:
        data = base64.b64decode(text, validate=True) if encoding == "base64" else base58.decode(text)
    except (ValueError, TypeError, binascii.Error) as error:
        raise errors.invalid_params(f"invalid {encoding} encoding: {error}") from error
    if encoding not in ("base64", "base58"):
        raise errors.invalid_params(f"unsupported encoding: {encoding}. Supported encodings: base58, base64")
    if len(data) > MAX_TRANSACTION_BYTES:
        raise errors.invalid_params(f"decoded VersionedTransaction too large: {len(data)} bytes (max: {MAX_TRANSACTION_BYTES} bytes)")
    try:
        transaction = VersionedTransaction.from_bytes(data)
    except ValueError as error:
        raise errors.invalid_params(f"failed to deserialize VersionedTransaction: {error}") from error
    if not isinstance(transaction.message, (Message, MessageV0)) or not transaction.signatures:
        raise errors.invalid_params("invalid transaction: Transaction failed to sanitize accounts offsets correctly")
    return transaction


def _is_signed(transaction: VersionedTransaction) -> bool:
    needed = transaction.message.header.num_required_signatures
    return len(transaction.signatures) == needed and all(transaction.verify_with_results())


def _preflight(error: Any, logs: list[str] | None = None, units: int = 0) -> RpcError:
    return errors.preflight_failure(_in_words(error), error, logs or [], units)


def _in_words(error: Any) -> str:
    """An error as nodes put it in a message."""
    if isinstance(error, str):
        return _WORDS.get(error) or " ".join(re.findall("[A-Z][a-z0-9]*", error)).capitalize()
    (name, content), *_ = error.items()
    if name != "InstructionError":
        return f"{_in_words(name)} {msgspec.json.encode(content).decode()}"
    index, why = content
    if isinstance(why, dict):
        (reason, number), *_ = why.items()
        text = f"custom program error: {number:#x}" if reason == "Custom" else f"{_in_words(reason)} {number}"
    else:
        text = _in_words(why).lower()
    return f"Error processing Instruction {index}: {text}"


def _memo(block: Block, position: int) -> str | None:
    """The memos of a transaction as nodes list them: each with its length, in bytes."""
    if not any(position in block.mentions.get(program, ()) for program in (MEMO_V1, MEMO_V3)):
        return None
    message = block.entries()[position]["transaction"]["message"]
    keys = message["accountKeys"]
    memos = [base58.decode(each["data"]) for each in message["instructions"] if keys[each["programIdIndex"]] in (MEMO_V1, MEMO_V3)]
    return "; ".join(f"[{len(memo)}] {memo.decode(errors='replace')}" for memo in memos) or None
