"""Objects read as columns from their text, each against what a JSON parser reads."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blyan.errors import BadRecordError
from blyan.solana import columns
from blyan.solana.scan import Objects, objects

untimed = settings(deadline=None)

base58 = st.text(st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"), min_size=0, max_size=44)
spellings = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}])
integers = st.one_of(st.integers(0, 9), st.integers(0, 255), st.integers(-(10**17), 10**17))


class Amount(msgspec.Struct):
    amount: str
    decimals: int


class Item(msgspec.Struct):
    mint: str
    place: int | None
    held: Amount
    list_: list[int] = msgspec.field(name="list")
    fresh: bool = False
    owner: str = ""


def rewrite(text: bytes) -> list[bytes]:
    return [msgspec.json.encode(array) for array in msgspec.json.decode(text, type=list[list[Item]])]


def read(arrays: list[bytes]) -> Objects:
    return objects(arrays, ("mint", "owner", "held.amount"), rewrite)


def refuse(_: bytes) -> list[bytes]:
    raise AssertionError("alike objects are not written again")


@st.composite
def items(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """Arrays of objects of one kind: with or without an owner, in one order of keys."""
    order = draw(st.permutations(["mint", "place", "held", "list", "fresh", "owner", "other"]))
    left_out = draw(st.sampled_from([set(), {"owner"}, {"other"}, {"owner", "other"}]))
    one = st.fixed_dictionaries(
        {
            "mint": base58,
            "place": st.one_of(st.none(), integers),
            "held": st.fixed_dictionaries({"amount": st.integers(0, 2**64 - 1).map(str), "decimals": st.integers(0, 255)}),
            "list": st.lists(st.integers(0, 255), max_size=4),
            "fresh": st.booleans(),
            "owner": base58,
            "other": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()),
        }
    )
    arrays = draw(st.lists(st.lists(one, max_size=4), min_size=1, max_size=5))
    return [[{key: item[key] for key in order if key not in left_out} for item in array] for array in arrays]


@untimed
@given(items(), spellings)
def test_columns_are_what_json_says_in_every_spelling(arrays: list[list[dict[str, Any]]], spelling: dict[str, Any]) -> None:
    flat = list(chain.from_iterable(arrays))
    got = read([json.dumps(array, **spelling).encode() for array in arrays])
    assert got.counts.tolist() == [len(array) for array in arrays]
    if not flat:
        return
    assert got.strings("mint").to_pylist() == [item["mint"] for item in flat]
    assert got.strings("held.amount").to_pylist() == [item["held"]["amount"] for item in flat]
    assert "owner" in got or "owner" not in flat[0]
    if "owner" in got:
        assert got.strings("owner").to_pylist() == [item.get("owner", "") for item in flat]
    values, null = got.integers("place")
    assert [None if absent else value for value, absent in zip(values.tolist(), null.tolist(), strict=True)] == [item["place"] for item in flat]
    assert got.integers("held.decimals")[0].tolist() == [item["held"]["decimals"] for item in flat]
    assert got.flags("fresh").tolist() == [item["fresh"] for item in flat]
    numbers, sizes = columns.numbers_in(got.arrays("list"))
    assert numbers.tolist() == list(chain.from_iterable(item["list"] for item in flat))
    assert sizes.tolist() == [len(item["list"]) for item in flat]


ONE = {"mint": "abc", "place": 7, "held": {"amount": "12", "decimals": 6}, "list": [1, 22], "fresh": True, "owner": "xyz"}


def written(*arrays: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(array, separators=(",", ":")).encode() for array in arrays]


def test_alike_objects_are_read_where_they_stand() -> None:
    for separators in ((",", ":"), (", ", ": ")):
        arrays = [json.dumps(array, separators=separators).encode() for array in ([ONE, ONE], [], [ONE])]
        assert objects(arrays, ("mint",), refuse).counts.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "other",
    [
        {key: ONE[key] for key in reversed(ONE)},
        {key: value for key, value in ONE.items() if key != "owner"},
        {**ONE, "held": {"decimals": 6, "amount": "12"}},
        {**ONE, "more": {"mint": "another", "list": [1]}},
        {**ONE, "more": "text"},
        {**ONE, "more": {}},
        {**ONE, "more": []},
    ],
)
def test_objects_that_differ_in_kind_are_written_alike_and_read_the_same(other: dict[str, Any]) -> None:
    for arrays in (written([ONE], [other]), written([other], [ONE]), written([ONE, other, ONE])):
        got = read(arrays)
        assert got.strings("mint").to_pylist() == ["abc"] * len(got)
        assert got.integers("held.decimals")[0].tolist() == [6] * len(got)
        assert columns.numbers_in(got.arrays("list"))[0].tolist() == [1, 22] * len(got)


def test_a_key_inside_another_object_is_not_mistaken_for_one_outside() -> None:
    inside = {"held": {"amount": "1", "decimals": 2}, "place": 3, "list": [], "mint": "m"}
    outside = {"held": {"amount": "1"}, "decimals": 2, "place": 3, "list": [], "mint": "m"}
    with pytest.raises(msgspec.ValidationError):
        read(written([inside], [outside]))
    with pytest.raises(BadRecordError, match=r"lacks held\.decimals"):
        objects(written([outside]), ("mint",), refuse).integers("held.decimals")


@pytest.mark.parametrize(
    "wrong", [b"null", b"5", b'""', b"{}", b"[[]]", b"[{}]", b"[5]", b'["mint"]', b'{"mint":"abc"}', b'[{"mint":5}]', b'[{"mint":"\\u0041"}]']
)
def test_what_is_no_array_of_such_objects_is_refused_alone_and_among_others(wrong: bytes) -> None:
    for arrays in ([wrong], [*written([ONE]), wrong], [wrong, *written([ONE, ONE])]):
        with pytest.raises((msgspec.ValidationError, msgspec.DecodeError)):
            read(arrays)


@pytest.mark.parametrize(
    ("key", "value"), [("place", 1.5), ("place", "7"), ("place", True), ("place", 10**30), ("fresh", 1), ("fresh", None), ("list", 5)]
)
def test_a_value_of_another_kind_is_refused(key: str, value: object) -> None:
    def read_all() -> None:
        got = read(written([ONE, {**ONE, key: value}]))
        got.integers("place")
        got.flags("fresh")
        got.arrays("list")

    with pytest.raises((BadRecordError, msgspec.ValidationError)):
        read_all()


@pytest.mark.parametrize("text", ['"', "\\", "{", "[", "é"])
def test_text_that_no_base58_has_is_refused_and_never_read_as_structure(text: str) -> None:
    with pytest.raises(BadRecordError, match="differ in kind"):
        read(written([ONE], [{**ONE, "mint": text}]))


lines = st.one_of(st.text(max_size=20), st.sampled_from(["", "Program log: [1, 2]", 'a "quoted" word', "é", "\n", "a\\b", "]", '","', "\x7f"]))


@untimed
@given(st.lists(st.lists(lines, max_size=4), min_size=1, max_size=6), spellings, st.booleans())
@example([["a"], ['"'], ["b", "c"], []], {}, True)
def test_any_texts_are_what_json_says(arrays: list[list[str]], spelling: dict[str, Any], ascii_only: bool) -> None:
    column, counts = columns.any_texts([json.dumps(array, ensure_ascii=ascii_only, **spelling).encode("utf-8", "surrogatepass") for array in arrays])
    assert column.to_pylist() == list(chain.from_iterable(arrays))
    assert counts.tolist() == [len(array) for array in arrays]
    column.validate(full=True)


@pytest.mark.parametrize(
    "wrong", [b'["a",55]', b'["a",5]', b"[null]", b"null", b"{}", b'[["a"]]', b'{"a":"b"}', b'"a"', b"5", b'[{"a":"b"}]', b'["a" "b"]']
)
def test_what_is_no_array_of_strings_is_refused_alone_and_among_others(wrong: bytes) -> None:
    for arrays in ([wrong], [b'["a","b"]', b"[]", wrong], [wrong, b'["a", "b"]', b'["c", "d", "e"]']):
        with pytest.raises(msgspec.DecodeError):
            columns.any_texts(arrays)


def test_text_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        columns.any_texts([b'["a"]', b'["\xff"]'])


def test_spans_are_cut_where_they_are_told() -> None:
    text = b"abcdefghijklmnopqrstuvwxyz" + bytes(12)
    starts, lengths = np.array([0, 3, 25, 10, 5]), np.array([13, 12, 1, 0, 20])
    assert columns.spans(text, starts, lengths).to_pylist() == ["abcdefghijklm", "defghijklmno", "z", "", "fghijklmnopqrstuvwxy"]
