"""The content digest: what a partition holds, whatever its files look like.

Belongs here: the order of rows, the digest of a unit of rows, the digest of a partition. Does not
belong here: where rows come from (`blyan.lake`).

A partition is digested in units, aligned groups of `UNIT_SLOTS` slots, so that worker processes
each digest their own, and a partition of any size is digested in bounded memory. The digest of a
unit is one SHA-256 over its columns, each in a canonical form that is a function of the values
alone: not of batches, row groups, files, compression or dictionaries. The forms are chosen to feed
SHA-256 few bytes, because it is the slow part (0.4 GB/s on a CPU without SHA instructions):

- integers: the smallest, then differences from it in the narrowest width that holds them;
- text and bytes: distinct values in order of appearance, then each row's number among them;
- floats: their bits;
- lists: lengths, then the elements; structs: their fields;
- absent values: number 0 for text, else one bit per row where a column has any, and zero in the place of the value.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blyan.errors import PermanentError
from blyan.schemas import Table
from blyan.solana.slots import KEY_DIGITS

UNIT_SLOTS = 16
"""Slots in a unit. Sixteen mainnet blocks are about 25,000 transactions: a good row group, and a few dozen megabytes."""

FORM = 1
"""Version of the canonical form; it is part of every digest."""

Integers = np.ndarray[Any, np.dtype[np.int64]]


class UnitDigest(NamedTuple):
    """Rows and SHA-256 (hex) of one unit."""

    rows: int
    sha256: str


def unit_of(slot: int | None) -> str:
    """The name of the unit that a slot belongs to; the empty name, which sorts first, where a row has no slot."""
    return "" if slot is None else f"{slot - slot % UNIT_SLOTS:0{KEY_DIGITS}d}"


def digest_partition(table: Table, units: Mapping[str, UnitDigest]) -> str:
    """SHA-256 (hex) of a partition: the table's name and columns, and its units in order. Units without rows count for nothing."""
    columns = [[column.name, str(column.type)] for column in table.columns if column.in_digest]
    parts = [[name, unit.rows, unit.sha256] for name, unit in sorted(units.items()) if unit.rows]
    text = json.dumps(["blyan rows", FORM, table.name, columns, parts], separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_unit(table: Table, rows: pa.Table) -> UnitDigest:
    """Digest the rows of one unit, which are in key order.

    Raises:
        PermanentError: a column has a type that has no canonical form.
    """
    sha = hashlib.sha256()
    for column in table.columns:
        if column.in_digest:
            _feed(sha.update, _one_array(rows[column.name]))
    return UnitDigest(rows.num_rows, sha.hexdigest())


def feed_rows(update: Callable[[Any], None], rows: pa.RecordBatch) -> None:
    """Give rows of any types to a hash, in the canonical form, whatever the layout of the batch.

    Raises:
        PermanentError: a column has a type that has no canonical form.
    """
    for values in rows.columns:
        _feed(update, _told_plainly(values))


def in_key_order(table: Table, rows: pa.Table, *, where: str) -> pa.Table:
    """The rows in the order of `table.key`, absent values first, text by its bytes; the same object where they already are.

    Raises:
        PermanentError: two rows have the same key, so their order would mean nothing.
    """
    if rows.num_rows < 2:
        return rows
    ranks = [_rank(_one_array(rows[name])) for name in table.key]
    descends, ties = _compare_neighbours(ranks)
    if descends:
        order = np.lexsort(ranks[::-1])
        rows = rows.take(pa.array(order))
        _, ties = _compare_neighbours([rank[order] for rank in ranks])
    if ties is not None:
        key = {name: rows[name][ties].as_py() for name in table.key}
        raise PermanentError(
            f"two rows of {table.name} have the key {key}", where=where, remedy="the rows of a table are told apart by its key; write each once"
        )
    return rows


def split_units(table: Table, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Cut rows that are in slot order, absent slots first, into units."""
    slots = _one_array(rows[table.key[0]])
    starts = pc.fill_null(slots, -1).to_numpy() // UNIT_SLOTS
    edges = [0, *(np.flatnonzero(starts[1:] != starts[:-1]) + 1).tolist(), rows.num_rows]
    for first, end in itertools.pairwise(edges):
        if end > first:
            yield unit_of(slots[first].as_py()), rows.slice(first, end - first)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _feed(update: Callable[[Any], None], values: pa.Array) -> None:
    """Give the canonical form of an array to a hash."""
    kind = values.type
    update(struct.pack("<Q", len(values)))
    if _is_text(kind) or pa.types.is_dictionary(kind):
        _feed_text(update, values)
        return
    update(struct.pack("?", values.null_count > 0))
    if values.null_count:
        update(np.packbits(values.is_valid().to_numpy(zero_copy_only=False)))
    if pa.types.is_boolean(kind):
        update(np.packbits(pc.fill_null(values, False).to_numpy(zero_copy_only=False)))
    elif pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date32(kind):
        _feed_integers(update, _integers(values))
    elif pa.types.is_decimal128(kind):
        words = _words(values)
        _feed_integers(update, words[:, 0])
        _feed_integers(update, words[:, 1])
    elif pa.types.is_floating(kind):
        update(np.ascontiguousarray(pc.fill_null(values, 0).to_numpy(zero_copy_only=False)))
    elif pa.types.is_list(kind):
        _feed_integers(update, pc.fill_null(pc.list_value_length(values), 0).to_numpy().astype(np.int64))
        _feed(update, values.flatten())
    elif pa.types.is_struct(kind):
        for field in values.flatten():
            _feed(update, field)
    else:
        raise PermanentError(f"no canonical form for {kind}", where="blyan.digest", remedy="add one, or leave the column out of the digest")


def _feed_integers(update: Callable[[Any], None], values: Integers) -> None:
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    width = next(width for width in (0, 1, 2, 4, 8) if high - low < 1 << 8 * width)
    update(struct.pack("<qB", low, width))
    if width:
        # Unsigned subtraction wraps, so the widest differences come out right too.
        differences = values.view(np.uint64) - np.uint64(low % (1 << 64))
        update(differences.astype(f"<u{width}"))


def _feed_text(update: Callable[[Any], None], values: pa.Array) -> None:
    codes, distinct = _first_appearance(values)
    _feed_integers(update, codes)
    plain = distinct.cast(pa.large_binary())
    offsets = np.frombuffer(plain.buffers()[1], np.int64)[plain.offset : plain.offset + len(plain) + 1] if len(plain) else np.zeros(1, np.int64)
    _feed_integers(update, np.diff(offsets))
    if offsets[-1] > offsets[0]:
        update(memoryview(plain.buffers()[2])[offsets[0] : offsets[-1]])


def _first_appearance(values: pa.Array) -> tuple[Integers, pa.Array]:
    """Number the distinct values by first appearance, from 1; absent is 0."""
    if not pa.types.is_dictionary(values.type):
        encoded = values.dictionary_encode()
        return pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64) + 1, encoded.dictionary
    entries = len(values.dictionary)
    indices = pc.fill_null(values.indices, entries).to_numpy().astype(np.int64)
    # numpy keeps the last of repeated assignments, which in reverse is the first appearance.
    first = np.full(entries + 1, len(indices), np.int64)
    first[indices[::-1]] = np.arange(len(indices) - 1, -1, -1)
    used = np.flatnonzero(first[:entries] < len(indices))
    used = used[np.argsort(first[used])]
    # A dictionary may hold a value twice, or an absent value: number what it means, not its entries.
    encoded = values.dictionary.take(pa.array(used)).dictionary_encode()
    numbers = np.zeros(entries + 1, np.int64)
    numbers[used] = pc.fill_null(encoded.indices, -1).to_numpy() + 1
    return numbers[indices], encoded.dictionary


def _told_plainly(values: pa.Array) -> pa.Array:
    """The same values in a type that has a canonical form."""
    kind = values.type
    if pa.types.is_map(kind):
        values = values.take(pa.array(range(len(values))))
        entries = pa.StructArray.from_arrays([_told_plainly(values.keys), _told_plainly(values.items)], ["key", "value"])
        return pa.ListArray.from_arrays(values.offsets, entries, mask=values.is_null() if values.null_count else None)
    if pa.types.is_fixed_size_list(kind):
        return _told_plainly(values.cast(pa.list_(kind.value_type)))
    if pa.types.is_list(kind):
        inside = _told_plainly(values.values)
        return values if inside.type == kind.value_type else pa.ListArray.from_arrays(values.offsets, inside, mask=_nulls(values))
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays([_told_plainly(field) for field in values.flatten()], [field.name for field in kind], mask=_nulls(values))
    if pa.types.is_uint64(kind):
        return values.view(pa.int64())
    if pa.types.is_time(kind):
        return values.cast(pa.time64("us") if pa.types.is_time32(kind) else kind).view(pa.int64())
    return values.cast(pa.bool_()) if pa.types.is_null(kind) else values


def _nulls(values: pa.Array) -> pa.Array | None:
    return values.is_null() if values.null_count else None


def _integers(values: pa.Array) -> Integers:
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    elif pa.types.is_date32(values.type):
        values = values.cast(pa.int32())
    result: Integers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return result


def _words(values: pa.Array) -> Integers:
    """Low and high 64 bits of each decimal, an array of shape (rows, 2); zero where absent."""
    if not len(values):
        return np.zeros((0, 2), np.int64)
    words: Integers = np.frombuffer(values.buffers()[1], np.int64, 2 * len(values), 16 * values.offset).reshape(-1, 2)
    if values.null_count:
        words = words * values.is_valid().to_numpy(zero_copy_only=False)[:, None]
    return words


def _rank(values: pa.Array) -> Integers:
    """Numbers that sort as the values do, absent first."""
    if pa.types.is_integer(values.type) or pa.types.is_timestamp(values.type):
        numbers = _integers(values)
        if values.null_count:
            numbers = np.where(values.is_valid().to_numpy(zero_copy_only=False), numbers, np.iinfo(np.int64).min)
        return numbers
    codes, distinct = _first_appearance(values)
    ranks = np.zeros(len(distinct) + 1, np.int64)
    ranks[1:] = pc.rank(distinct, tiebreaker="dense").to_numpy()
    result: Integers = ranks[codes]
    return result


def _compare_neighbours(ranks: list[Integers]) -> tuple[bool, int | None]:
    """Whether some row sorts before the row above it, and the first row that equals the row above it."""
    tied = np.ones(len(ranks[0]) - 1, np.bool_)
    for rank in ranks:
        if np.any(tied & (rank[1:] < rank[:-1])):
            return True, None
        tied &= rank[1:] == rank[:-1]
        if not tied.any():
            return False, None
    return False, int(np.flatnonzero(tied)[0]) + 1


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary))
