"""What can be told of a recorded response without decoding its transactions.

Belongs here: finding the responses inside a file's bytes, whatever they are wrapped in, and reading the header of a
block. Does not belong here: transactions (`blyan.solana.decode`), files and folders (`blyan.solana.sources.archive`).

Values stay `msgspec.Raw`: one pass checks the JSON of a 4.5 MB block and finds its header in 4 ms, and nothing is
built for its transactions.
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Iterator
from enum import IntEnum, StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from blyan.errors import BadRecordError
from blyan.solana import base58

NOTHING = Raw(b"")
MAX_WRAPPERS = 8
"""Levels of lists and objects that may wrap a response. A blockSubscribe notification inside a batch needs 5."""

CHECKED_AT_ONCE = 1 << 20
"""Bytes whose UTF-8 is checked at a time: decoded text takes up to four times the memory of its bytes."""


class PieceKind(StrEnum):
    """What a piece of a file is."""

    BLOCK = "block"
    """A getBlock result."""
    TRANSACTION = "transaction"
    """A getTransaction result, or a transaction as a block has it."""
    ERROR = "error"
    """A JSON-RPC error; `code` says which."""
    NULL = "null"
    """A response whose result is null: the node had nothing."""
    BAD = "bad"
    """None of these; `reason` and `detail` say why."""


class Header(Struct, frozen=True, gc=False):
    """The header of a block. `block_time` is in Unix seconds; what is None the source did not give."""

    block_hash: str
    previous_block_hash: str | None
    parent_slot: int | None
    block_time: int | None
    block_height: int | None


class Piece(Struct, frozen=True, gc=False):
    """One response inside a file.

    Attributes:
        kind: what it is.
        data: its bytes, exactly a slice of the file: a bare result without its envelope, an error or a null with it.
        line: the line it begins on, from 1, where the file is ndjson; otherwise 1.
        slot: the slot, if the response or what wraps it tells.
        header: the header, of a block.
        code: the JSON-RPC error code, of an error.
        reason: a short stable code, of a bad piece: `truncated`, `not_json`, `invalid_utf8`, `not_a_block`, `wrong_slot`, `empty`.
        detail: what was wrong, in words; an error's message.
    """

    kind: PieceKind
    data: bytes
    line: int = 1
    slot: int | None = None
    header: Header | None = None
    code: int | None = None
    reason: str = ""
    detail: str = ""


class Detail(IntEnum):
    """How much of its transactions a block holds (`transactionDetails`), the most first."""

    FULL = 0
    ACCOUNTS = 1
    SIGNATURES = 2
    NONE = 3


class Encoding(IntEnum):
    """How transactions are written, the one to prefer first: it loses nothing and is the quickest to decode."""

    JSON = 0
    BASE64 = 1
    JSON_PARSED = 2
    BASE58 = 3


class Richness(Struct, frozen=True, order=True, gc=False):
    """How good a record of a block is; of two records of the same block keep the lesser of these."""

    detail: Detail
    missing_transactions: int
    missing_rewards: bool
    encoding: Encoding


class _Value(Struct, gc=False, rename="camel"):
    """The keys that tell one response from another; raw, since any of them may be of any type."""

    result: Raw = NOTHING
    error: Raw = NOTHING
    slot: Raw = NOTHING
    block: Raw = NOTHING
    blockhash: Raw = NOTHING
    previous_blockhash: Raw = NOTHING
    parent_slot: Raw = NOTHING
    block_time: Raw = NOTHING
    block_height: Raw = NOTHING
    transaction: Raw = NOTHING
    meta: Raw = NOTHING
    is_vote: Raw = NOTHING


class _Block(Struct, gc=False, rename="camel"):
    """A getBlock result, or an envelope around one."""

    blockhash: str | None = None
    previous_blockhash: str | None = None
    parent_slot: Annotated[int, Meta(ge=0)] | None = None
    block_time: int | None = None
    block_height: int | None = None
    result: _Block | None = None


class _Error(Struct, gc=False):
    """A JSON-RPC error."""

    code: int
    message: str = ""


class _Body(Struct, gc=False):
    """The parts of a block whose presence says how rich it is."""

    transactions: list[Raw] | None = None
    signatures: Raw = NOTHING
    rewards: Raw = NOTHING
    result: _Body | None = None


class _Transaction(Struct, gc=False):
    """A transaction, for telling its encoding."""

    transaction: Raw


class _Wire(Struct, gc=False, rename="camel"):
    """A transaction as JSON, for telling its encoding and its signature."""

    signatures: list[str]
    message: Raw = NOTHING
    account_keys: Raw = NOTHING


class _Message(Struct, gc=False):
    """A message; `jsonParsed` leaves out the header."""

    header: Raw = NOTHING


_NOT_ONE_VALUE = ("not_json", "truncated", "invalid_utf8")

_decode_value = msgspec.json.Decoder(_Value).decode
_decode_block = msgspec.json.Decoder(_Block).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_dict = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_error = msgspec.json.Decoder(_Error).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_transaction = msgspec.json.Decoder(_Transaction).decode
_decode_wire = msgspec.json.Decoder(_Wire).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_text_pair = msgspec.json.Decoder(tuple[str, str]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder(Raw).decode
_decode_slot = msgspec.json.Decoder(int).decode


def read_header(payload: bytes) -> Header:
    """The header of a getBlock result, bare or in its envelope.

    Raises:
        BadRecordError: it is none; `reason` is `empty`, `truncated`, `not_json`, `invalid_utf8` or `not_a_block`.
    """
    try:
        block = _decode_block(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason, detail = _why(error, payload)
        raise BadRecordError(detail, reason=reason, where="block header", remedy="fetch the block again with getBlock") from error
    block = block.result or block
    if not block.blockhash:
        raise BadRecordError(
            "JSON, but not a block: it has no blockhash", reason="not_a_block", where="block header", remedy="fetch the block again with getBlock"
        )
    bad = _bad_utf8(payload)
    if bad:
        raise BadRecordError(bad, reason="invalid_utf8", where="block header", remedy="fetch the block again with getBlock")
    return Header(block.blockhash, block.previous_blockhash, block.parent_slot, block.block_time, block.block_height)


def split(data: bytes) -> Iterator[Piece]:
    """The responses in a file, in its order.

    The file holds one JSON value, or one on each line (ndjson). A value is a getBlock or getTransaction result, its
    JSON-RPC envelope, a list of any of these, or an object that has exactly one of them inside, such as
    `{"slot": 5, "block": {...}}`. A value that is none of these is a bad piece, and costs no other.

    Args:
        data: the file, decompressed.
    """
    pieces = split_value(data)
    if len(pieces) == 1 and pieces[0].reason in _NOT_ONE_VALUE and b"\n" in pieces[0].data:
        lines = [piece for number, line in enumerate(data.split(b"\n"), start=1) if line.strip() for piece in split_value(line, number)]
        if any(piece.kind is not PieceKind.BAD for piece in lines):
            pieces = lines
    yield from pieces


def split_value(data: bytes, line: int = 1) -> list[Piece]:
    """The responses in one JSON value.

    Args:
        data: the value, such as one line of ndjson.
        line: the number to give to its pieces.
    """
    data = data.removeprefix(codecs.BOM_UTF8).strip()
    try:
        return list(_unwrap(data, line, None, 0))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason, detail = _why(error, data)
        return [Piece(PieceKind.BAD, data, line, reason=reason, detail=detail)]


def richness(payload: bytes) -> Richness:
    """How much a getBlock result holds, and in what encoding.

    Raises:
        BadRecordError: it is not JSON, or its transactions are not a list.
    """
    try:
        body = _decode_body(payload)
        body = body.result or body
        transactions = body.transactions
        if transactions is None:
            detail = Detail.NONE if _absent(body.signatures) else Detail.SIGNATURES
            return Richness(detail, 0, _absent(body.rewards), Encoding.JSON)
        detail, encoding = _encoding_of(_decode_transaction(transactions[0]).transaction) if transactions else (Detail.FULL, Encoding.JSON)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason, words = _why(error, payload)
        raise BadRecordError(words, reason=reason, where="block", remedy="fetch the block again with getBlock") from error
    return Richness(detail, -len(transactions), _absent(body.rewards), encoding)


def transaction_encoding(payload: bytes) -> tuple[Encoding, str | None]:
    """The encoding of a getTransaction result, and its first signature, None where it has none.

    Raises:
        BadRecordError: it is not a transaction, or its text is not what its encoding says.
    """
    try:
        wire = _decode_transaction(payload).transaction
        _, encoding = _encoding_of(wire)
        if _opening(wire) == b"{":
            signatures = _decode_wire(wire).signatures
            return encoding, signatures[0] if signatures else None
        text = _decode_text(wire) if _opening(wire) == b'"' else _decode_text_pair(wire)[0]
        data = base58.decode(text) if encoding is Encoding.BASE58 else base64.b64decode(text, validate=True)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        reason, words = ("not_a_block", f"not a transaction: {error}") if isinstance(error, ValueError) else _why(error, payload)
        raise BadRecordError(words, reason=reason, where="transaction", remedy="fetch it again with getTransaction") from error
    # One byte counts the signatures, of 64 bytes each; a transaction of over 127 does not fit a packet.
    return encoding, base58.encode(data[1:65]) if len(data) >= 65 and data[0] else None


def _encoding_of(wire: Raw) -> tuple[Detail, Encoding]:
    opening = _opening(wire)
    if opening == b'"':
        return Detail.FULL, Encoding.BASE58  # the oldest form of the API: bare text
    if opening == b"[":
        return Detail.FULL, Encoding.BASE58 if _decode_text_pair(wire)[1] == "base58" else Encoding.BASE64
    message = _decode_wire(wire).message
    if _absent(message):
        return Detail.ACCOUNTS, Encoding.JSON_PARSED
    return Detail.FULL, Encoding.JSON_PARSED if _absent(_decode_message(message).header) else Encoding.JSON


def _opening(value: Raw | bytes) -> bytes:
    return bytes(memoryview(value)[:1])


def _given(value: Raw) -> bool:
    """Whether the key is there, null or not."""
    return len(memoryview(value)) > 0


def _absent(value: Raw) -> bool:
    return bytes(memoryview(value)[:4]) in (b"", b"null")


def _unwrap(value: Raw | bytes, line: int, slot: int | None, depth: int) -> Iterator[Piece]:
    """The responses in a value; `slot` is what the wrappers around it told.

    Raises:
        msgspec.DecodeError: the value is not JSON. A value inside another one always is, once the outer is read.
    """
    opening = _opening(value)
    if opening == b"{" and depth <= MAX_WRAPPERS:
        seen = _decode_value(value)
        told = _slot_of(seen.slot)
        if slot is not None and told is not None and told != slot:
            yield _bad(value, line, slot, "wrong_slot", f"a response for slot {told} inside a wrapper for slot {slot}")
        else:
            yield from _classify(value, seen, line, slot if told is None else told, depth)
    elif opening == b"[" and depth <= MAX_WRAPPERS and (items := _decode_list(value)):
        for item in items:
            yield from _unwrap(item, line, slot, depth + 1)
    else:
        _decode_any(value)
        yield _bad(value, line, slot, "not_a_block", f"JSON, but not a response: it begins with {bytes(memoryview(value)[:40])!r}")


def _classify(value: Raw | bytes, seen: _Value, line: int, slot: int | None, depth: int) -> Iterator[Piece]:
    if _given(seen.blockhash) or _given(seen.previous_blockhash) or _given(seen.parent_slot):
        yield _block(value, seen, line, slot)
    elif _absent(seen.result) and not _absent(seen.error):
        yield _rpc_error(value, seen, line, slot)
    elif (_given(seen.result) and _absent(seen.result)) or (_given(seen.block) and _absent(seen.block)):
        yield Piece(PieceKind.NULL, bytes(value), line, slot, detail="the node's answer was null")
    elif _given(seen.result):
        yield from _unwrap(seen.result, line, slot, depth + 1)
    elif _is_transaction(seen):
        yield _checked(Piece(PieceKind.TRANSACTION, bytes(value), line, slot))
    else:
        yield from _wrapper(value, line, slot, depth)


def _block(value: Raw | bytes, seen: _Value, line: int, slot: int | None) -> Piece:
    missing = [
        name
        for name, part in (("blockhash", seen.blockhash), ("previousBlockhash", seen.previous_blockhash), ("parentSlot", seen.parent_slot))
        if _absent(part)
    ]
    if missing:
        return _bad(value, line, slot, "not_a_block", f"it looks like a block, but has no {' and no '.join(missing)}")
    fields = {
        "blockhash": seen.blockhash,
        "previousBlockhash": seen.previous_blockhash,
        "parentSlot": seen.parent_slot,
        "blockTime": seen.block_time,
        "blockHeight": seen.block_height,
    }
    try:
        header = read_header(msgspec.json.encode({name: part for name, part in fields.items() if _given(part)}))
    except BadRecordError as error:
        return _bad(value, line, slot, error.reason, error.what)
    return _checked(Piece(PieceKind.BLOCK, bytes(value), line, slot, header))


def _rpc_error(value: Raw | bytes, seen: _Value, line: int, slot: int | None) -> Piece:
    try:
        error = _decode_error(seen.error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _bad(value, line, slot, "not_a_block", "an error that is not a JSON-RPC error: it has no code")
    return Piece(PieceKind.ERROR, bytes(value), line, slot, code=error.code, detail=error.message)


def _is_transaction(seen: _Value) -> bool:
    # A Geyser update also has a transaction and its meta, but in another form; only it has isVote.
    if not _given(seen.meta) or _given(seen.is_vote):
        return False
    opening = _opening(seen.transaction)
    if opening == b"{":
        try:
            _decode_wire(seen.transaction)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
    return opening in (b"{", b"[", b'"')


def _wrapper(value: Raw | bytes, line: int, slot: int | None, depth: int) -> Iterator[Piece]:
    """What an object of no known shape wraps, if exactly one of its keys holds responses."""
    try:
        inside = _decode_dict(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        yield _bad(value, line, slot, *_why(error, bytes(value)))
        return
    found = []
    for part in inside.values():
        if _opening(part) in (b"{", b"["):
            pieces = list(_unwrap(part, line, slot, depth + 1))
            # A bad UTF-8 byte or a wrong slot inside a response does not make it another thing than a response.
            if any(piece.kind is not PieceKind.BAD or piece.reason in ("invalid_utf8", "wrong_slot") for piece in pieces):
                found.append(pieces)
    if len(found) == 1:
        yield from found[0]
    else:
        what = "responses under several keys" if found else "no response in it"
        yield _bad(value, line, slot, "not_a_block", f"JSON, but not a getBlock or getTransaction response: {what}")


def _bad(value: Raw | bytes, line: int, slot: int | None, reason: str, detail: str) -> Piece:
    damage = _bad_utf8(bytes(value))
    if damage:
        reason, detail = "invalid_utf8", damage
    return Piece(PieceKind.BAD, bytes(value), line, slot, reason=reason, detail=detail)


def _checked(piece: Piece) -> Piece:
    """The piece, unless its text is not UTF-8, which skipping over it does not notice."""
    bad = _bad_utf8(piece.data)
    return Piece(PieceKind.BAD, piece.data, piece.line, piece.slot, reason="invalid_utf8", detail=bad) if bad else piece


def _slot_of(value: Raw) -> int | None:
    """A slot that a response or wrapper tells; what is not a number tells none."""
    try:
        slot = _decode_slot(value) if _given(value) else -1
    except msgspec.DecodeError:
        return None
    return slot if 0 <= slot < 1 << 63 else None


def _bad_utf8(data: bytes) -> str:
    """What is wrong with the text, or nothing. A character cut short at the end is not: the JSON is then cut short too."""
    if data.isascii():
        return ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(data), CHECKED_AT_ONCE):
        try:
            decoder.decode(data[at : at + CHECKED_AT_ONCE])
        except UnicodeDecodeError as error:
            return f"invalid UTF-8 near byte {at + error.start}: {error.reason}"
    return ""


def _why(error: Exception, data: bytes) -> tuple[str, str]:
    """The reason code and the words for bytes that did not decode."""
    if not data.strip():
        return "empty", "no bytes where a response should be"
    if isinstance(error, RecursionError):
        return "not_json", "JSON nested too deeply to be a response"
    if isinstance(error, msgspec.ValidationError):
        return "not_a_block", f"JSON, but not a block: {error}"
    # A number, literal or escape that ends with the input is cut short; msgspec calls only some of these truncated.
    if "truncated" in str(error) or f"(byte {len(data)})" in str(error):
        return "truncated", f"the JSON ends too early, after {len(data)} bytes"
    bad = _bad_utf8(data)
    if bad or isinstance(error, UnicodeDecodeError):
        return "invalid_utf8", bad or str(error)
    return "not_json", f"not JSON: {str(error).removeprefix('JSON is malformed: ')}; it begins with {data[:40]!r}"
