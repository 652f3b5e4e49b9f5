"""Canonical JSON and headers: what one block keeps by itself."""

from __future__ import annotations

import json
import pickle
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.chain.block import (
    MAX_DEPENDENCIES,
    Block,
    InvalidBlockError,
    Ref,
    make_block,
    read_block,
    read_header,
)
from blyan.chain.canonical import MAX_DEPTH, MAX_INTEGER, NotCanonicalError, canonical, parse
from blyan.ed25519 import SigningKey

KEY = SigningKey(b"\1" * 32)
NETWORK, HASH = "ab" * 32, "cd" * 32


def block(**changes: Any) -> Block:
    fields: dict[str, Any] = {
        "network": NETWORK,
        "chain": "D",
        "height": 7,
        "previous": HASH,
        "kind": "dataset",
        "payload_sha256": "ef" * 32,
        "payload_size": 12,
        "time_ns": 1_800_000_000_123_456_789,
        "depends_on": [Ref("D", 3, "01" * 32), Ref("A", 0, "02" * 32)],
        "semver": "1.2.3-rc.1+build",
        "metadata": {"table": "solana/blocks", "rows": 5, "note": "é"},
    }
    return make_block(KEY, **(fields | changes))


GOOD = block()
FIELDS = json.loads(GOOD.raw)


# Canonical JSON

# The subset that a chain may say; keys are ASCII, and text is normal form C by its letters.
texts = st.text(st.sampled_from('aZ09 "\\/\b\f\n\r\t\0\x1f\x7f\u00e9\u20ac\u2028\ufb33\U0001f600\uffff'), max_size=8)
keys = st.text(st.characters(max_codepoint=127), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(values)
def test_it_is_what_the_rfc_8785_library_writes(value: Any) -> None:
    try:
        data = canonical(value)
    except NotCanonicalError:
        assert "\ufb33" in json.dumps(value, ensure_ascii=False), "only this letter of those above is not in normal form C"
        return
    assert data == rfc8785.dumps(value)
    assert parse(data) == value == json.loads(data)


def test_the_vectors_of_the_rfc_that_have_no_fractions() -> None:
    """RFC 8785, sections 3.2.2 and 3.2.4, and its test file `weird`, with keys and numbers that a chain may not have left out."""
    text = "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/"
    data = canonical({"string": text, "literals": [None, True, False], "numbers": [0, -1, MAX_INTEGER]})
    assert data.hex() == (
        '{"literals":[null,true,false],"numbers":[0,-1,9007199254740991],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'.encode().hex()
    )
    assert canonical({"\r": 1, "1": 2, "\x7f": 3, "": 4, "</script>": 5}) == b'{"":4,"\\r":1,"1":2,"</script>":5,"\x7f":3}'


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":1}',
        b'{"b":1,"a":1}',
        b'{"a": 1}',
        b' {"a":1}',
        b'{"a":1}\n',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":0.5}',
        b'{"a":9007199254740992}',
        b'{"a":-9007199254740992}',
        b'{"a":123456789012345678901234567890}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\/"}',
        b'{"a":"\\u000A"}',
        b'{"a":"\\u000a"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\ud83d\\ude00"}',
        '{"a":"e\u0301"}'.encode(),
        '{"a":"\u212b"}'.encode(),
        '{"\u00e9":1}'.encode(),
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        b"",
        b"{",
        b'{"a":1}{}',
        b"[" * 5_000 + b"]" * 5_000,
        b"[" * 100_000,
        b"{'a':1}",
        b"[1,]",
    ],
    ids=lambda data: data[:24].decode("latin-1"),
)
def test_what_two_readers_could_take_for_two_things_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonicalError):
        parse(data)


@pytest.mark.parametrize(
    "value", [0.5, float("nan"), 1.0, MAX_INTEGER + 1, b"x", (1,), {1: 2}, {"é": 1}, "e\u0301", "\ud800", {"a": [{"b": 2.0}]}, {1}]
)
def test_what_a_chain_may_not_say_is_not_written(value: object) -> None:
    with pytest.raises(NotCanonicalError):
        canonical(value)


def test_depth_is_bounded() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert parse(canonical(value)) == value
    with pytest.raises(NotCanonicalError, match="levels"):
        canonical([value])
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(NotCanonicalError, match="levels"):
        parse(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


# Headers


def test_a_block_is_read_as_it_was_made() -> None:
    assert read_block(GOOD.raw, GOOD.signature) == GOOD
    assert GOOD.raw == rfc8785.dumps(json.loads(GOOD.raw))
    assert str(GOOD.ref) == f"D:7:{GOOD.hash[:12]}"
    assert [ref.chain for ref in GOOD.header.depends_on] == ["A", "D"], "dependencies are in order, however they are given"
    assert block().signature == GOOD.signature


WRONG: list[tuple[str, Any]] = [
    ("version", 2),
    ("version", True),
    ("network", NETWORK.upper()),
    ("network", NETWORK[:-1]),
    ("chain", "C"),
    ("chain", "a"),
    ("height", -1),
    ("height", 2**53),
    ("height", 7.0),
    ("height", "7"),
    ("previous", None),
    ("previous", HASH + "\n"),
    ("depends_on", [{"chain": "D", "hash": HASH, "height": 7}]),
    ("depends_on", [{"chain": "D", "hash": HASH, "height": 8}]),
    ("depends_on", [{"chain": "A", "hash": HASH, "height": 1}, {"chain": "A", "hash": HASH, "height": 1}]),
    ("depends_on", [{"chain": "B", "hash": HASH, "height": 1}, {"chain": "A", "hash": HASH, "height": 1}]),
    ("depends_on", [{"chain": "A", "hash": "xy", "height": 1}]),
    ("depends_on", [{"chain": "A", "hash": HASH, "height": 1, "more": 1}]),
    ("depends_on", [{"chain": "A", "hash": HASH}]),
    ("depends_on", [{"chain": "A", "hash": HASH, "height": n} for n in range(MAX_DEPENDENCIES + 1)]),
    ("depends_on", None),
    ("kind", "Dataset"),
    ("kind", ""),
    ("kind", "genesis"),
    ("kind", "x" * 33),
    ("payload_sha256", "00"),
    ("payload_size", -1),
    ("payload_size", 2**53),
    ("producer", "0x" + "00" * 31),
    ("time_ns", 1_800_000_000),
    ("time_ns", "01"),
    ("time_ns", "-1"),
    ("time_ns", str(2**63)),
    ("time_ns", "1e9"),
    ("time_ns", "\u0661"),
    ("semver", "1.2"),
    ("semver", "01.2.3"),
    ("semver", "1.2.3-"),
    ("semver", "v1.2.3"),
    ("semver", "1.2.3-" + "x" * 128),
    ("metadata", {"a": 0.5}),
    ("metadata", {"a": "e\u0301"}),
    ("metadata", {"é": 1}),
    ("metadata", {"a": 2**53}),
    ("metadata", []),
    ("metadata", None),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: str(value)[:24])
def test_a_wrong_field_is_refused_by_its_name(field: str, value: Any) -> None:
    raw = json.dumps(FIELDS | {field: value}, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    with pytest.raises(InvalidBlockError) as caught:
        read_header(raw)
    assert caught.value.field == field, str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.field, str(again)) == (field, str(caught.value))


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_missing_is_named(field: str) -> None:
    rest = {name: value for name, value in FIELDS.items() if name != field}
    with pytest.raises(InvalidBlockError) as caught:
        read_header(rfc8785.dumps(rest))
    assert caught.value.field == field


def test_a_field_too_many_and_another_form_are_refused() -> None:
    for raw, field in [
        (rfc8785.dumps(FIELDS | {"nonce": 1}), "nonce"),
        (json.dumps(FIELDS, separators=(",", ":"), ensure_ascii=False).encode()[:-1] + b"} ", "header"),
        (json.dumps(FIELDS).encode(), "header"),
        (GOOD.raw.replace(b'"height":7,', b'"height":7,"height":7,', 1), "header"),
        (GOOD.raw.replace(b'"height":7,"kind"', b'"height":8,"height":7,"kind"', 1), "header"),
        (GOOD.raw[:-1], "header"),
        (b"[]", "header"),
        (b"null", "header"),
        (b"\xff" + GOOD.raw, "header"),
        (GOOD.raw.replace(b'"rows":5', b'"rows":NaN'), "header"),
        (GOOD.raw + b" " * 70_000, "header"),
        (b'{"metadata":{"a":' + b"[" * 60_000, "header"),
    ]:
        with pytest.raises(InvalidBlockError) as caught:
            read_header(raw)
        assert caught.value.field == field, str(caught.value)


def test_the_first_block_of_a_chain() -> None:
    first = {"chain": "A", "height": 0, "previous": None, "kind": "genesis", "depends_on": [], "payload_sha256": NETWORK, "semver": None}
    genesis = block(**first)
    branch = first | {"chain": "B", "payload_sha256": "00" * 32, "depends_on": [genesis.ref]}
    assert block(**branch).header.height == 0
    for changes, field in [
        (first | {"payload_sha256": HASH}, "payload_sha256"),
        (first | {"previous": HASH}, "previous"),
        (first | {"kind": "dataset"}, "kind"),
        (first | {"depends_on": [Ref("B", 0, HASH)]}, "depends_on"),
        (branch | {"depends_on": []}, "depends_on"),
        (branch | {"depends_on": [Ref("A", 1, HASH)]}, "depends_on"),
        (branch | {"depends_on": [Ref("D", 0, HASH)]}, "depends_on"),
        (branch | {"depends_on": [genesis.ref, Ref("A", 1, HASH)]}, "depends_on"),
    ]:
        with pytest.raises(InvalidBlockError) as caught:
            block(**changes)
        assert caught.value.field == field


def test_every_single_change_of_a_header_breaks_the_signature() -> None:
    """The public implementation that this replaces notices none of them."""
    changed = {
        "version": 2,
        "network": HASH,
        "chain": "B",
        "height": 8,
        "previous": NETWORK,
        "depends_on": FIELDS["depends_on"][:1],
        "kind": "other",
        "payload_sha256": HASH,
        "payload_size": 13,
        "producer": SigningKey(b"\2" * 32).public.hex(),
        "time_ns": "1800000000123456790",
        "semver": None,
        "metadata": FIELDS["metadata"] | {"rows": 6},
    }
    assert set(changed) == set(FIELDS)
    for field, value in changed.items():
        with pytest.raises(InvalidBlockError) as caught:
            read_block(rfc8785.dumps(FIELDS | {field: value}), GOOD.signature)
        assert caught.value.field == ("version" if field == "version" else "signature")


def test_a_signature_by_another_key_or_of_another_kind_of_message_is_refused() -> None:
    other = SigningKey(b"\2" * 32)
    for signature in (
        other.sign(b"blyan block 1\n" + bytes.fromhex(GOOD.hash)).hex(),
        KEY.sign(bytes.fromhex(GOOD.hash)).hex(),
        KEY.sign(b"blyan tree head 1\n" + bytes.fromhex(GOOD.hash)).hex(),
        KEY.sign(GOOD.raw).hex(),
        GOOD.signature.upper(),
        GOOD.signature[:-2],
        "",
        "zz" * 64,
    ):
        with pytest.raises(InvalidBlockError, match="signature: it is not the producer's"):
            read_block(GOOD.raw, signature)


@settings(deadline=None)
@given(st.data())
def test_a_header_with_any_byte_changed_is_another_block_or_none(data: st.DataObject) -> None:
    raw = bytearray(GOOD.raw)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["set", "cut", "put"])):
            case "set":
                raw[at] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[at]
            case _:
                raw.insert(at, data.draw(st.sampled_from(b'{}[]",:0159aefnul\\ .-+E\x00\xff')))
    changed = bytes(raw)
    try:
        header = read_header(changed)
    except InvalidBlockError:
        return
    assert header.encoded() == changed == rfc8785.dumps(msgspec.to_builtins(header))
    if changed != GOOD.raw:
        with pytest.raises(InvalidBlockError, match="signature"):
            read_block(changed, GOOD.signature)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_of_any_kind_never_get_past_as_anything_but_an_error(data: bytes) -> None:
    with pytest.raises(InvalidBlockError):
        read_header(data)
