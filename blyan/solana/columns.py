"""Building Arrow columns without Python loops over rows.

Belongs here: reading joined JSON arrays with numpy, and exact decimals, coded strings, masks and ragged
gathers. Does not belong here: anything that knows a table or a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blyan.errors import BadRecordError

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
U64 = npt.NDArray[np.uint64]

CODED = pa.dictionary(pa.int32(), pa.string())
"""Arrow type of a text column held as codes into a pool: the same strings, a fraction of the bytes."""

_U64_MAX = np.uint64(2**64 - 1)
_U64_DIGITS = 20
_INLINE = 12
"""Bytes that Arrow's string view holds itself; longer text is an offset into a buffer."""
_ROOM = bytes(_INLINE)

_QUOTE, _COMMA, _OPEN, _BACKSLASH, _CLOSE = b'",[\\]'


def offsets_of(counts: Ints) -> Ints:
    """Offsets of consecutive runs: `counts` long plus one, from 0."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def repeat_index(counts: Ints) -> Ints:
    """0 `counts[0]` times, then 1 `counts[1]` times, and so on: the owner of each element."""
    return np.repeat(np.arange(len(counts)), counts)


def positions(counts: Ints) -> Ints:
    """0, 1, 2… within each run."""
    offsets = offsets_of(counts)
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)


def ragged(starts: Ints, counts: Ints) -> Ints:
    """Indexes `starts[i]` to `starts[i] + counts[i] - 1` of each i, one after the other."""
    return np.repeat(starts, counts) + positions(counts)


def numbers(arrays: Sequence[bytes]) -> tuple[U64, Ints]:
    """JSON arrays of u64 as one flat array, and how many each held.

    Raises:
        BadRecordError: something in them is not an unsigned 64-bit integer.
    """
    return _numbers(*joined(arrays), len(arrays))


def octets(arrays: Sequence[bytes]) -> tuple[U64, Ints]:
    """`numbers` of arrays that are a byte each."""
    return np.frombuffer(b"".join(arrays), np.uint8).astype(np.uint64), np.fromiter(map(len, arrays), np.int64, len(arrays))


def numbers_in(column: pa.StringArray) -> tuple[U64, Ints]:
    """`numbers` of arrays that are a column."""
    return _numbers(*joined([text_of(column)]), len(column))


def _numbers(text: bytes, characters: npt.NDArray[np.uint8], size: int) -> tuple[U64, Ints]:
    digit = (characters ^ 48) < 10
    edges = np.flatnonzero(digit[1:] != digit[:-1])
    # An array begins and ends with a bracket, so edges alternate: before a number's first digit, at its last.
    starts, lasts = edges[::2], edges[1::2]
    if len(starts) != len(lasts):
        raise BadRecordError("an array of integers cannot be read", reason="not_integers")
    lengths = lasts - starts
    if not _is_flat(characters, size, len(characters) - int(lengths.sum())):
        raise BadRecordError("an array of integers holds something else", reason="not_integers")
    longest = int(lengths.max(initial=0))
    if longest > _U64_DIGITS:
        raise BadRecordError("an integer exceeds 64 bits", reason="integer_overflow")
    values = _short_numbers(characters, starts, lasts) if longest <= 3 else unsigned(spans(text, starts + 1, lengths))
    return values, _counts(characters, starts, size, "not_integers")


def unsigned(column: pa.StringArray) -> U64:
    """Exact values of a column of decimal digits.

    Raises:
        BadRecordError: something in it is not an unsigned 64-bit integer.
    """
    text = np.frombuffer(text_of(column), np.uint8)
    if ((text ^ 48) >= 10).any():
        raise BadRecordError("an amount is not an integer", reason="not_integers")
    try:
        return values_of(column.cast(pa.uint64()))
    except pa.ArrowInvalid as error:
        # No digits at all, or a number that the type cannot hold.
        lengths = np.diff(np.frombuffer(column.buffers()[1], np.int32)[: len(column) + 1])
        reason = "integer_overflow" if lengths.min() else "not_integers"
        raise BadRecordError("an integer exceeds 64 bits or is empty", reason=reason) from error


def joined(arrays: Sequence[bytes]) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """Some text in one piece, with room behind it for `spans`, and its characters without that room."""
    text = b"".join([*arrays, _ROOM])
    return text, np.frombuffer(text, np.uint8)[: -len(_ROOM)]


def _is_flat(characters: npt.NDArray[np.uint8], arrays: int, outside: int) -> bool:
    """Whether all that is `outside` the elements of some arrays, in characters, is their brackets, commas and space."""
    rest = outside - 2 * arrays - int(np.count_nonzero(characters == _COMMA))
    # Compact text has nothing more; only other text is searched for space.
    return rest == 0 or rest == sum(int(np.count_nonzero(characters == space)) for space in b" \n\r\t")


def spans(text: bytes, starts: Ints, lengths: Ints) -> pa.StringArray:
    """Pieces of some text as a column: seven nanoseconds each, where a Python string would take fifty.

    Each is first a string view, 16 bytes that say where it is; Arrow copies them together. Starts and lengths are in bytes
    of UTF-8, which must go on for 12 after the last start.
    """
    views = np.empty((len(starts), 2), np.uint64)
    views[:, 0] = lengths.astype(np.uint64) | (words(text, np.uint32)[starts].astype(np.uint64) << np.uint64(32))
    # A short one is in its view; what follows it in the text is there too, which nothing reads.
    views[:, 1] = starts.astype(np.uint64) << np.uint64(32)
    short = np.flatnonzero(lengths <= _INLINE)
    views[short, 1] = words(text, np.uint64)[starts[short] + 4]
    return pa.Array.from_buffers(pa.string_view(), len(starts), [None, pa.py_buffer(views), pa.py_buffer(text)]).cast(pa.string())


def words(text: bytes, kind: type[np.unsignedinteger[Any]]) -> npt.NDArray[Any]:
    """The little-endian integer that begins at each character."""
    size = np.dtype(kind).itemsize
    return np.ndarray((max(len(text) - size + 1, 0),), np.dtype(kind).newbyteorder("<"), text, 0, (1,))


def _short_numbers(characters: npt.NDArray[np.uint8], starts: Ints, lasts: Ints) -> U64:
    """Numbers of up to three digits, as account indexes are: three times as fast as reading text."""
    tens, hundreds = lasts - 1, lasts - 2
    values = (characters[lasts] & 15).astype(np.uint64)
    values += (characters[tens] & 15) * (tens > starts) * np.uint64(10)
    values += (characters[hundreds] & 15) * (hundreds > starts) * np.uint64(100)
    return values


def _counts(characters: npt.NDArray[np.uint8], starts: Ints, size: int, reason: str) -> Ints:
    """How many elements, which begin at `starts`, each array of the joined text holds: an array ends at its bracket."""
    ends = np.flatnonzero(characters == _CLOSE)
    if len(ends) != size:
        raise BadRecordError("an array holds another", reason=reason)
    return np.diff(np.searchsorted(starts, ends), prepend=0)


def mask_of(array: pa.BooleanArray) -> Mask:
    """The values of a boolean column without nulls."""
    bits = np.frombuffer(array.buffers()[1], np.uint8)
    return np.unpackbits(bits, count=array.offset + len(array), bitorder="little")[array.offset :].view(np.bool_)


def text_of(column: pa.StringArray) -> pa.Buffer | bytes:
    """All text of a column that is no slice, one after the other."""
    _, offsets, text = column.buffers()
    return text.slice(0, np.frombuffer(offsets, np.int32)[len(column)]) if len(column) else b""


def values_of(array: pa.Array) -> npt.NDArray[Any]:
    """The values of a primitive column without nulls, not copied. `Array.to_numpy` would import pandas first: 0.4 s, 50 MB."""
    return np.from_dlpack(array)


def texts(arrays: Sequence[bytes]) -> tuple[pa.StringArray, Ints]:
    """JSON arrays of plain strings (keys, signatures) as one flat column, and how many each held.

    Raises:
        BadRecordError: a string has an escape, a space, a bracket, a comma or a character outside ASCII, which no base58 text has.
    """
    text, characters = joined(arrays)
    quotes = np.flatnonzero(characters == _QUOTE)
    starts, lengths = quotes[::2] + 1, quotes[1::2] - quotes[: len(quotes) - 1 : 2] - 1
    if len(quotes) % 2 or ((characters >= 128) | (characters == _BACKSLASH)).any():
        raise BadRecordError("an array of base58 strings holds something else", reason="not_base58")
    counts = _counts(characters, starts, len(arrays), "not_base58")
    outside = len(characters) - len(quotes) - int(lengths.sum())
    # Every character below the digits is a quote or outside: none is in a string.
    if np.count_nonzero(characters < 48) != len(quotes) + outside - 2 * len(arrays) or not _is_flat(characters, len(arrays), outside):
        raise BadRecordError("an array of base58 strings holds something else", reason="not_base58")
    return spans(text, starts, lengths), counts


def any_texts(arrays: Sequence[bytes]) -> tuple[pa.StringArray, Ints]:
    """JSON arrays of any strings (logs) as one flat column, and how many each held.

    Arrays of ASCII without escapes, nearly all there are, are read where they stand; the others by msgspec.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: something is not an array of strings.
    """
    text, characters = joined(arrays)
    sizes = np.fromiter(map(len, arrays), np.int64, len(arrays))
    ends = np.cumsum(sizes)
    begins = ends - sizes
    odd = np.zeros(len(arrays), np.bool_)
    odd[np.searchsorted(ends, np.flatnonzero((characters >= 127) | (characters == _BACKSLASH) | (characters < 32)), "right")] = True
    quotes = np.flatnonzero(characters == _QUOTE)
    counts = np.diff(np.searchsorted(quotes, ends), prepend=0)
    if odd.any():
        quotes = quotes[~np.repeat(odd, counts)]
        counts[odd] = 0
    counts //= 2
    opens, closes = quotes[::2], quotes[1::2]
    if not _is_dense(characters, begins, ends, counts, odd, opens, closes):
        odd[:] = True
        counts[:] = 0
        opens = closes = quotes[:0]
    starts, lengths = opens + 1, closes - opens - 1
    if odd.any():
        decoded = _decode_texts(b"[" + b",".join([arrays[at] for at in np.flatnonzero(odd).tolist()]) + b"]")
        others = [string.encode() for string in chain.from_iterable(decoded)]
        other_counts = np.zeros(len(arrays), np.int64)
        other_counts[odd] = [len(item) for item in decoded]
        other_lengths = np.array([len(string) for string in others], np.int64)
        other_starts = len(text) + offsets_of(other_lengths)[:-1]
        text = b"".join([text, *others, _ROOM])
        starts, _ = interleave([(starts, counts), (other_starts, other_counts)])
        lengths, counts = interleave([(lengths, counts), (other_lengths, other_counts)])
    return spans(text, starts, lengths), counts


_decode_texts = msgspec.json.Decoder(list[list[str]]).decode


def _is_dense(characters: npt.NDArray[np.uint8], begins: Ints, ends: Ints, counts: Ints, odd: Mask, opens: Ints, closes: Ints) -> bool:
    """Whether the strings fill their arrays: from bracket to bracket, with a comma and at most a space between two."""
    offsets = offsets_of(counts)
    some = counts > 0
    empty = ~some & ~odd
    first = np.zeros(len(opens), np.bool_)
    first[offsets[:-1][some]] = True
    between = ~first[1:]
    gaps = (opens[1:] - closes[:-1])[between]
    return bool(
        (characters[begins[~odd]] == _OPEN).all()
        and (ends - begins == 2)[empty].all()
        and (opens[offsets[:-1][some]] == begins[some] + 1).all()
        and (closes[offsets[1:][some] - 1] == ends[some] - 2).all()
        and (characters[closes[:-1] + 1] == _COMMA)[between].all()
        and ((gaps == 2) | ((gaps == 3) & (characters[opens[1:] - 1] == 32)[between])).all()
    )


def interleave(pieces: Sequence[tuple[npt.NDArray[Any], Ints]]) -> tuple[npt.NDArray[Any], Ints]:
    """Join ragged columns row by row: all of row 0's pieces, then row 1's.

    Args:
        pieces: (values, counts per row) of each column, all with the same number of rows.
    """
    counts = np.sum([count for _, count in pieces], axis=0)
    starts = offsets_of(counts)[:-1]
    out = np.empty(int(counts.sum()), pieces[0][0].dtype)
    for values, count in pieces:
        out[ragged(starts, count)] = values
        starts = starts + count
    return out, counts


def validity(mask_of_nulls: Mask | None) -> pa.Buffer | None:
    """Arrow's validity bitmap of a mask of nulls; None where nothing is null."""
    if mask_of_nulls is None or not mask_of_nulls.any():
        return None
    return pa.py_buffer(np.packbits(~mask_of_nulls, bitorder="little"))


def decimals(values: U64, nulls: Mask | None = None, *, negative: Mask | None = None) -> pa.Decimal128Array:
    """`decimal(20,0)` of u64 values, exact.

    Args:
        values: the low 64 bits, two's complement where negative.
        nulls: True where the value is absent.
        negative: True where the value is below zero.
    """
    words = np.zeros((len(values), 2), np.uint64)
    words[:, 0] = values
    if negative is not None:
        words[negative, 1] = _U64_MAX
    if nulls is not None:
        words[nulls] = 0
    return pa.Array.from_buffers(pa.decimal128(20, 0), len(values), [validity(nulls), pa.py_buffer(words)])


def counts_column(values: Ints, nulls: Mask | None = None) -> pa.Int64Array:
    """`int64` of values; zero under a null, so that equal rows have equal bytes."""
    values = np.ascontiguousarray(values, np.int64)
    if nulls is not None and nulls.any():
        values = np.where(nulls, 0, values)
    return pa.Array.from_buffers(pa.int64(), len(values), [validity(nulls), pa.py_buffer(values)])


def flags(values: Mask, nulls: Mask | None = None) -> pa.BooleanArray:
    """`bool` of values."""
    if nulls is not None:
        values = values & ~nulls
    return pa.Array.from_buffers(pa.bool_(), len(values), [validity(nulls), pa.py_buffer(np.packbits(values, bitorder="little"))])


def take(array: pa.Array, at: npt.NDArray[np.integer[Any]]) -> pa.Array:
    """Rows of a column by position."""
    return array.take(pa.Array.from_buffers(pa.int64(), len(at), [None, pa.py_buffer(np.ascontiguousarray(at, np.int64))]))


def coded(codes: npt.NDArray[np.integer[Any]], pool: pa.StringArray, nulls: Mask | None = None) -> pa.DictionaryArray:
    """A text column of codes into a pool, with a dictionary of only the strings that occur."""
    used = np.zeros(len(pool), np.bool_)
    if nulls is not None and nulls.any():
        used[codes[~nulls]] = True
    else:
        nulls = None
        used[codes] = True
    if not used.all():
        renumber = np.cumsum(used, dtype=np.int32) - np.int32(1)
        pool = pool.filter(flags(used))
        codes = renumber[np.where(nulls, 0, codes)] if nulls is not None else renumber[codes]
    # Not in place: the codes are the caller's.
    codes = np.ascontiguousarray(codes if nulls is None else np.where(nulls, 0, codes), np.int32)
    indices = pa.Array.from_buffers(pa.int32(), len(codes), [validity(nulls), pa.py_buffer(codes)])
    return pa.DictionaryArray.from_arrays(indices, pool, safe=False)


def strings(values: Iterable[str | None]) -> pa.StringArray:
    """A plain text column."""
    return pa.array(values if isinstance(values, list) else list(values), pa.string())


def optional_counts(values: list[int | None]) -> pa.Int64Array:
    """An `int64` column of values that may be absent."""
    return pa.array(values, pa.int64())


def lists(counts: Ints, values: pa.Array, nulls: Mask | None = None) -> pa.ListArray:
    """A list column over flat values; a null list must have no values."""
    offsets = offsets_of(counts).astype(np.int32)
    type_ = pa.list_(pa.field("element", values.type))
    return pa.Array.from_buffers(type_, len(counts), [validity(nulls), pa.py_buffer(offsets)], children=[values])


def structs(**fields: pa.Array) -> pa.StructArray:
    """A struct column of equally long fields."""
    return pa.StructArray.from_arrays(list(fields.values()), fields=[pa.field(name, array.type) for name, array in fields.items()])
