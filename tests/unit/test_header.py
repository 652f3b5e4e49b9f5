"""Finding responses in the bytes of a file, and reading headers without decoding transactions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.errors import BadRecordError
from blyan.solana.header import Detail, Encoding, Header, Piece, PieceKind, read_header, richness, split, split_value, transaction_encoding

BLOCK, TRANSACTION, ERROR, NULL, BAD = PieceKind.BLOCK, PieceKind.TRANSACTION, PieceKind.ERROR, PieceKind.NULL, PieceKind.BAD

A_BLOCK = (
    '{"blockHeight":90,"blockTime":1700000000,"blockhash":"hé","parentSlot":99,"previousBlockhash":"g\\n","rewards":[],"transactions":[]}'.encode()
)
A_TRANSACTION = b'{"blockTime":1,"meta":null,"slot":100,"transaction":{"message":{"header":{}},"signatures":["sig"]}}'
AN_ERROR = b'{"jsonrpc":"2.0","error":{"code":-32007,"message":"Slot 100 was skipped"},"id":1}'


def an_envelope(result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","result":' + result + b',"id":1}'


def summary(pieces: list[Piece]) -> list[tuple[PieceKind, int, int | None]]:
    return [(piece.kind, piece.line, piece.slot) for piece in pieces]


@pytest.mark.parametrize(
    "data",
    [
        A_BLOCK,
        b"  \n" + A_BLOCK + b"\n",
        b"\xef\xbb\xbf" + A_BLOCK,
        an_envelope(A_BLOCK),
        b'{"result":' + A_BLOCK + b"}",
        b"[" + an_envelope(A_BLOCK) + b"]",
        b"[" + A_BLOCK + b"]",
        b'{"recorded_at":"today","response":' + an_envelope(A_BLOCK) + b',"tags":["a",{"b":1}]}',
    ],
)
def test_a_block_is_found_in_whatever_wraps_it(data: bytes) -> None:
    (piece,) = split(data)
    assert (piece.kind, piece.data, piece.slot) == (BLOCK, A_BLOCK, None)
    assert piece.header == Header("hé", "g\n", 99, 1_700_000_000, 90)


@pytest.mark.parametrize(
    "data",
    [
        b'{"slot":100,"block":' + A_BLOCK + b"}",
        b'{"block":' + an_envelope(A_BLOCK) + b',"slot":100}',
        b'[{"slot":100,"anything":[' + A_BLOCK + b"]}]",
        b'{"jsonrpc":"2.0","method":"blockNotification","params":{"result":{"context":{"slot":100},"value":{"slot":100,"err":null,"block":'
        + A_BLOCK
        + b'}},"subscription":1}}',
    ],
)
def test_a_wrapper_tells_the_slot(data: bytes) -> None:
    (piece,) = split(data)
    assert (piece.kind, piece.data, piece.slot) == (BLOCK, A_BLOCK, 100)


def test_a_batch_gives_its_responses_in_order() -> None:
    data = b"[" + b",".join([an_envelope(A_BLOCK), AN_ERROR, an_envelope(b"null"), an_envelope(A_TRANSACTION), b'{"other":1}']) + b"]"
    assert summary(list(split(data))) == [(BLOCK, 1, None), (ERROR, 1, None), (NULL, 1, None), (TRANSACTION, 1, 100), (BAD, 1, None)]


def test_an_error_keeps_its_code_and_words() -> None:
    (piece,) = split(b'{"slot":100,"response":' + AN_ERROR + b"}")
    assert (piece.kind, piece.slot, piece.code, piece.detail, piece.data) == (ERROR, 100, -32007, "Slot 100 was skipped", AN_ERROR)


@pytest.mark.parametrize("data", [an_envelope(b"null"), b'{"slot":100,"block":null}', b'{"result": null, "error": null}'])
def test_a_null_answer_is_not_a_bad_one(data: bytes) -> None:
    (piece,) = split(data)
    assert (piece.kind, piece.data) == (NULL, data)


def test_lines_keep_their_numbers_and_blank_ones_are_nothing() -> None:
    data = b"\n" + A_BLOCK + b"\n\n  \n" + an_envelope(A_TRANSACTION) + b"\r\n<html>\n"
    assert summary(list(split(data))) == [(BLOCK, 2, None), (TRANSACTION, 5, 100), (BAD, 6, None)]


def test_a_document_over_many_lines_is_one_value() -> None:
    pretty = json.dumps(json.loads(an_envelope(A_BLOCK)), indent=2).encode()
    assert summary(list(split(pretty))) == [(BLOCK, 1, None)]
    assert summary(list(split(pretty[:-20]))) == [(BAD, 1, None)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"<!doctype html><p>502</p>", "not_json"),
        (b"{'single': 'quotes'}", "not_json"),
        (A_BLOCK + b"garbage", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"a":' * 100_000, "not_json"),
        (b'{"blockhash":"\x01","parentSlot":1,"previousBlockhash":"p"}', "not_json"),
        (A_BLOCK[:-1], "truncated"),
        (b'{"transactions":[1', "truncated"),
        (b'{"blockhash":"h\xff","parentSlot":1,"previousBlockhash":"p"}', "invalid_utf8"),
        (b'{"blockhash":"h","parentSlot":1,"previousBlockhash":"p","transactions":["\xc3\x28"]}', "invalid_utf8"),
        (b"\xff\xfe{\x00}\x00", "invalid_utf8"),
        (b"{}", "not_a_block"),
        (b"[]", "not_a_block"),
        (b"null", "not_a_block"),
        (b"123", "not_a_block"),
        (b'{"blockhash":"h","lastValidBlockHeight":5}', "not_a_block"),
        (b'{"blockhash":null,"parentSlot":1,"previousBlockhash":"p"}', "not_a_block"),
        (b'{"blockhash":"","parentSlot":1,"previousBlockhash":"p"}', "not_a_block"),
        (b'{"blockhash":"h","parentSlot":"1","previousBlockhash":"p"}', "not_a_block"),
        (b'{"blockhash":"h","parentSlot":-1,"previousBlockhash":"p"}', "not_a_block"),
        (b'{"parentSlot":1,"previousBlockhash":"p","transactions":[]}', "not_a_block"),
        (b'{"error":"no code","result":null}', "not_a_block"),
        (b'{"slot":1,"transaction":{"signature":"s","isVote":false,"transaction":{"signatures":["s"]},"meta":{}}}', "not_a_block"),
        (b'{"one":' + A_BLOCK + b',"two":' + A_BLOCK + b"}", "not_a_block"),
        (b"[" * 20 + A_BLOCK + b"]" * 20, "not_a_block"),
        (b'{"slot":5,"response":' + A_TRANSACTION + b"}", "wrong_slot"),
    ],
)
def test_what_is_not_a_response_says_why(data: bytes, reason: str) -> None:
    (piece,) = split(data)
    assert (piece.kind, piece.reason) == (BAD, reason)
    assert piece.detail
    assert piece.data in data


@given(st.integers(min_value=1, max_value=len(an_envelope(A_BLOCK)) - 1))
def test_every_cut_through_a_response_is_truncated(length: int) -> None:
    (piece,) = split(an_envelope(A_BLOCK)[:length])
    assert piece.reason == "truncated"


@given(st.binary(max_size=200))
def test_any_bytes_give_pieces_that_are_slices_of_them(data: bytes) -> None:
    pieces = list(split(data))
    assert pieces
    assert all(piece.data in data for piece in pieces)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["result", "slot", "block", "error", "meta", "transaction", "blockhash", "parentSlot", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_classified_without_an_error(value: object) -> None:
    data = json.dumps(value).encode()
    for piece in split(data):
        assert piece.data in data
        assert (piece.kind is BAD) == bool(piece.reason)


slots = st.integers(min_value=0, max_value=1 << 40)


@st.composite
def good_lines(draw: st.DrawFn) -> tuple[bytes, list[tuple[PieceKind, int | None]]]:
    """A line, and the kinds and slots of the records in it."""
    slot = draw(slots)
    transaction = A_TRANSACTION.replace(b'"slot":100', b'"slot":%d' % slot)
    return draw(
        st.sampled_from(
            [
                (A_BLOCK, [(BLOCK, None)]),
                (an_envelope(A_BLOCK), [(BLOCK, None)]),
                (b'{"slot":%d,"block":%s}' % (slot, A_BLOCK), [(BLOCK, slot)]),
                (transaction, [(TRANSACTION, slot)]),
                (b"[%s,%s]" % (transaction, an_envelope(A_BLOCK)), [(TRANSACTION, slot), (BLOCK, None)]),
                (AN_ERROR, [(ERROR, None)]),
                (an_envelope(b"null"), [(NULL, None)]),
            ]
        )
    )


@st.composite
def bad_lines(draw: st.DrawFn) -> tuple[bytes, list[tuple[PieceKind, int | None]]]:
    """A line that holds no response."""
    cut = draw(st.integers(min_value=1, max_value=len(A_BLOCK) - 1))
    line = draw(st.sampled_from([A_BLOCK[:cut], b"<html>", b"\xff\xfe", b'{"a":"\xff"}', b'{"unrelated":true}', b"}", b"{}{}"]))
    return line, [(BAD, None)]


@given(st.lists(good_lines() | bad_lines(), min_size=1, max_size=12), good_lines(), st.sampled_from([b"\n", b"\r\n", b"\n\n"]), st.booleans())
def test_a_bad_line_costs_no_line_around_it(
    lines: list[tuple[bytes, list[tuple[PieceKind, int | None]]]], last: tuple[bytes, list[tuple[PieceKind, int | None]]], end: bytes, is_closed: bool
) -> None:
    lines = [*lines, last]
    data = end.join(line for line, _ in lines) + (end if is_closed else b"")
    step = 2 if end == b"\n\n" else 1
    expected = [(kind, number * step + 1, slot) for number, (_, pieces) in enumerate(lines) for kind, slot in pieces]
    found = list(split(data))
    assert summary(found) == expected
    assert all(piece.data in data for piece in found)


def test_a_header_is_read_from_a_bare_result_and_from_an_envelope() -> None:
    assert read_header(A_BLOCK) == read_header(an_envelope(A_BLOCK)) == Header("hé", "g\n", 99, 1_700_000_000, 90)
    assert read_header(b'{"blockhash":"h","blockTime":null}') == Header("h", None, None, None, None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (A_BLOCK[:-9], "truncated"), (b"<html>", "not_json"), (A_BLOCK[:-2] + b'"\xff"]}', "invalid_utf8"), (AN_ERROR, "not_a_block")],
)
def test_a_header_that_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(BadRecordError, match="Remedy") as caught:
        read_header(data)
    assert caught.value.reason == reason


def test_headers_of_recorded_blocks_are_what_a_full_parse_gives(shared_data: Path) -> None:
    for path in sorted((shared_data / "solana" / "blocks").glob("*.json*")):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        (piece,) = split(data)
        block = json.loads(data)
        block = block[0] if isinstance(block, list) else block
        block = block.get("result", block)
        assert json.loads(piece.data) == block
        expected = (block["blockhash"], block["previousBlockhash"], block["parentSlot"], block.get("blockTime"), block.get("blockHeight"))
        header = read_header(piece.data)
        assert header == piece.header
        assert (header.block_hash, header.previous_block_hash, header.parent_slot, header.block_time, header.block_height) == expected


def test_the_richer_record_of_a_block_comes_first(shared_data: Path) -> None:
    folder = shared_data / "solana" / "blocks"
    names = {name: next(folder.glob(f"147078735-{name}-*")).read_bytes() for name in ("json", "base64", "jsonParsed")}
    block = json.loads(names["json"])["result"]
    names["no rewards"] = json.dumps({key: value for key, value in block.items() if key != "rewards"}).encode()
    names["fewer"] = json.dumps({**block, "transactions": block["transactions"][1:]}).encode()
    names["signatures"] = json.dumps({**{key: value for key, value in block.items() if key != "transactions"}, "signatures": ["a"]}).encode()
    accounts = [{"transaction": {"accountKeys": [], "signatures": ["a"]}, "meta": None}] * 25
    names["accounts"] = json.dumps({**block, "transactions": accounts}).encode()
    names["none"] = json.dumps({key: value for key, value in block.items() if key != "transactions"}).encode()
    in_order = sorted(names, key=lambda name: richness(names[name]))
    assert in_order == ["json", "base64", "jsonParsed", "no rewards", "fewer", "accounts", "signatures", "none"]
    assert richness(names["accounts"]).detail is Detail.ACCOUNTS


def test_one_transaction_in_three_encodings_has_one_signature(shared_data: Path) -> None:
    folder = shared_data / "solana" / "transactions"
    found = {}
    for name in ("base64", "json", "json_parsed"):
        (piece,) = split_value((folder / f"kevinheavey_solders-tests__data__get_transaction_{name}_encoding.json").read_bytes())
        encoding, signature = transaction_encoding(piece.data)
        found[encoding] = signature
    assert set(found) == {Encoding.BASE64, Encoding.JSON, Encoding.JSON_PARSED}
    assert len(set(found.values())) == 1


def test_a_transaction_that_is_none_says_so() -> None:
    for data in (b'{"meta":{}}', b'{"transaction":["not base64!","base64"]}', b'{"transaction":"0OIl"}', b"<html>"):
        with pytest.raises(BadRecordError, match="Remedy"):
            transaction_encoding(data)
    assert transaction_encoding(b'{"transaction":{"signatures":[],"message":{"header":{}}}}') == (Encoding.JSON, None)
