"""Arrow columns without row loops, each against the plain way."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blyan.errors import BadRecordError
from blyan.solana import columns

untimed = settings(deadline=None)

u64 = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 999), st.sampled_from([0, 9, 10, 10**19, 2**63, 2**64 - 1]))
counts = st.lists(st.integers(0, 4), max_size=8)
spellings = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}])
words = st.text(st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"), max_size=10)


def spelt(lists: list[list[object]], spelling: dict[str, object]) -> list[bytes]:
    return [json.dumps(item, **spelling).encode() for item in lists]  # type: ignore[arg-type]


@untimed
@given(st.lists(st.lists(u64, max_size=5), min_size=1, max_size=6), spellings)
@example([[2**64 - 1]], {})
@example([[], []], {})
@example([[1, 22, 333], [0]], {"separators": (",", ":")})
def test_numbers_are_what_json_says(lists: list[list[int]], spelling: dict[str, object]) -> None:
    values, sizes = columns.numbers(spelt(lists, spelling))  # type: ignore[arg-type]
    assert values.dtype == np.uint64
    assert values.tolist() == list(chain.from_iterable(lists))
    assert sizes.tolist() == [len(item) for item in lists]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (b"[-1]", "not_integers"),
        (b"[1.5]", "not_integers"),
        (b"[1e3]", "not_integers"),
        (b'["1"]', "not_integers"),
        (b"[true]", "not_integers"),
        (b"[null]", "not_integers"),
        (b"null", "not_integers"),
        (b"{}", "not_integers"),
        (b"[18446744073709551616]", "integer_overflow"),
        (b"[99999999999999999999]", "integer_overflow"),
        (b"[" + b"9" * 5_000 + b"]", "integer_overflow"),
        (b"[[1]]", "malformed_transaction"),
        (b"5", "malformed_transaction"),
    ],
)
def test_what_is_no_array_of_u64_is_refused_alone_and_among_others(wrong: bytes, reason: str) -> None:
    for arrays in ([wrong], [b"[1,2]", wrong, b"[300000]"]):
        with pytest.raises(BadRecordError) as error:
            columns.numbers(arrays)
        assert error.value.reason in (reason, "not_integers")


@untimed
@given(st.lists(st.lists(words, max_size=4), min_size=1, max_size=6), spellings)
@example([[""]], {})
@example([[], ["1" * 88]], {})
def test_texts_are_what_json_says(lists: list[list[str]], spelling: dict[str, object]) -> None:
    found, sizes = columns.texts(spelt(lists, spelling))  # type: ignore[arg-type]
    found.validate(full=True)
    assert found.to_pylist() == list(chain.from_iterable(lists))
    assert sizes.tolist() == [len(item) for item in lists]


@pytest.mark.parametrize(
    "wrong", [b'["a b"]', b'["a\\u0062"]', b'["a,b"]', b'["a]"]', b"[1]", b"null", b"{}", '["é"]'.encode(), b'["a\\"b"]', b'[["a"]]', b'"a"']
)
def test_what_is_no_array_of_plain_strings_is_refused(wrong: bytes) -> None:
    for arrays in ([wrong], [b'["abc"]', wrong]):
        with pytest.raises(BadRecordError):
            columns.texts(arrays)


@untimed
@given(counts)
def test_runs(sizes: list[int]) -> None:
    array = np.array(sizes, np.int64)
    assert columns.offsets_of(array).tolist() == [sum(sizes[:at]) for at in range(len(sizes) + 1)]
    assert columns.repeat_index(array).tolist() == [at for at, size in enumerate(sizes) for _ in range(size)]
    assert columns.positions(array).tolist() == [at for size in sizes for at in range(size)]
    starts = np.array([100 * at for at in range(len(sizes))], np.int64)
    assert columns.ragged(starts, array).tolist() == [100 * at + step for at, size in enumerate(sizes) for step in range(size)]


@untimed
@given(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=3), st.lists(st.integers(10, 19), max_size=3)), max_size=6))
def test_interleaving_joins_row_by_row(rows: list[tuple[list[int], list[int]]]) -> None:
    pieces = []
    for side in range(2):
        values = np.array([value for row in rows for value in row[side]], np.int64)
        pieces.append((values, np.array([len(row[side]) for row in rows], np.int64)))
    values, sizes = columns.interleave(pieces)
    assert values.tolist() == [value for row in rows for side in row for value in side]
    assert sizes.tolist() == [len(row[0]) + len(row[1]) for row in rows]


@untimed
@given(st.lists(st.tuples(u64, st.booleans(), st.booleans()), max_size=20))
@example([(2**64 - 1, True, False), (2**64 - 1, False, True), (0, False, False)])
def test_decimals_are_exact(rows: list[tuple[int, bool, bool]]) -> None:
    values = np.array([value for value, _, _ in rows], np.uint64)
    negative = np.array([flag for _, flag, _ in rows], np.bool_)
    nulls = np.array([flag for _, _, flag in rows], np.bool_)
    found = columns.decimals(values, nulls, negative=negative)
    found.validate(full=True)
    expected = [None if null else Decimal(value - (2**64 if below else 0)) for value, below, null in rows]
    assert found.to_pylist() == expected
    assert found.equals(pa.array(expected, pa.decimal128(20, 0)))


@untimed
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.booleans()), max_size=20))
def test_counts_and_flags_have_zero_under_a_null(rows: list[tuple[int, bool]]) -> None:
    values, nulls = np.array([value for value, _ in rows], np.int64), np.array([null for _, null in rows], np.bool_)
    found = columns.counts_column(values, nulls)
    assert found.to_pylist() == [None if null else value for value, null in rows]
    assert np.frombuffer(found.buffers()[1], np.int64).tolist()[: len(rows)] == [0 if null else value for value, null in rows]
    found = columns.flags(values > 0, nulls)
    assert found.to_pylist() == [None if null else value > 0 for value, null in rows]


@untimed
@given(st.lists(words, min_size=1, max_size=6, unique=True), st.data())
def test_coded_text_holds_only_the_strings_that_occur(pool: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(st.integers(0, len(pool) - 1), st.booleans()), max_size=12))
    codes, nulls = np.array([code for code, _ in rows], np.int32), np.array([null for _, null in rows], np.bool_)
    found = columns.coded(codes, pa.array(pool, pa.string()), nulls)
    found.validate(full=True)
    assert found.to_pylist() == [None if null else pool[code] for code, null in rows]
    assert set(found.dictionary.to_pylist()) == {pool[code] for code, null in rows if not null}
    assert columns.coded(codes, pa.array(pool, pa.string())).to_pylist() == [pool[code] for code, _ in rows]


@untimed
@given(st.lists(st.none() | st.lists(words, max_size=3), max_size=8))
def test_lists_of_structs(rows: list[list[str] | None]) -> None:
    sizes = np.array([len(row or ()) for row in rows], np.int64)
    flat = [text for row in rows for text in row or ()]
    nulls = np.array([row is None for row in rows], np.bool_)
    lengths = columns.counts_column(np.array([len(text) for text in flat], np.int64))
    found = columns.lists(sizes, columns.structs(text=columns.strings(flat), length=lengths), nulls)
    found.validate(full=True)
    assert found.to_pylist() == [None if row is None else [{"text": text, "length": len(text)} for text in row] for row in rows]


def test_values_are_shared_not_copied() -> None:
    array = pa.array([3, 1, 2], pa.int64())
    assert columns.values_of(array).tolist() == [3, 1, 2]
    assert columns.values_of(array).ctypes.data == array.buffers()[1].address
    assert columns.take(array, np.array([2, 0], np.int32)).to_pylist() == [2, 3]
