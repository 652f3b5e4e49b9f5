"""Stage: rows of one partition into Parquet files that no version names yet.

Belongs here: the check of rows against their schema, the Parquet writer, the statistics that Delta
keeps of a file. Does not belong here: the log that makes files visible (`blyan.lake`).

pyarrow writes the files, not delta-rs: memory stays at one row group however large the partition is,
dictionary-encoded text is taken as it is, and any number of processes can write side by side.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from blyan.digest import UnitDigest, digest_unit, in_key_order, unit_of
from blyan.errors import PermanentError
from blyan.schemas import Table
from blyan.store import Store, Upload, errors_of

MIN_GROUP_ROWS = 32 * 1024
MAX_GROUP_ROWS = 128 * 1024
GROUP_BYTES = 32 << 20
"""Small units share a row group until it has this many rows or bytes: sixteen rows of `blocks` alone would be mostly footer."""

GROUP_VALUES = 350_000
"""Values of a row group, at most and about: whoever looks up one row decodes all columns of its group. Of transactions, 8,192 rows of 42 columns
take 10 ms, 19,000 rows 17; a scan of a few columns takes 8 % longer for it, and the file 2 % more room."""

MAX_FILE_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A Parquet file that no version names yet. `path` is relative to the table, `stats` are Delta's, as JSON."""

    path: str
    rows: int
    size: int
    stats: str
    staged_at: float


@dataclass(frozen=True, slots=True)
class Staged:
    """What one `Stage` wrote: files, and the digest of each unit. Small, and can be sent to another process."""

    files: tuple[StagedFile, ...]
    units: Mapping[str, UnitDigest]


class Stage:
    """Files being written for one partition, by one process. A context manager: an exception deletes them."""

    def __init__(self, store: Store, table: Table, folder: str, *, writer: str = "") -> None:
        self._store, self._table = store, table
        self._prefix = f"part-{writer}-" if writer else "part-"
        self._folder = f"{table.name}/{folder}" if folder else table.name
        self._files: list[StagedFile] = []
        self._units: dict[str, UnitDigest] = {}
        self._group: list[pa.Table] = []
        self._held_rows = self._held_bytes = 0
        self._upload: Upload | None = None
        self._writer: Any = None
        self._stats = _Statistics(table)
        self._staged: Staged | None = None

    def write(self, unit: str, rows: pa.Table) -> None:
        """Write all rows of one unit; units come in ascending order.

        Args:
            unit: `blyan.digest.unit_of` the rows' slots.
            rows: columns as `Table.arrow_schema`, in any order of rows; text may be dictionary-encoded, at any depth.

        Raises:
            PermanentError: a column is missing, unknown, null where it may not be, or of a type that does not convert; two
                rows have the same key; the rows are not of this unit, or come after a later one.
            StoreFullError: no space.
        """
        where = f"{self._folder} unit {unit or 'without a slot'}"
        last = next(reversed(self._units), None)
        if last is not None and unit <= last:
            raise PermanentError(f"it comes after unit {last}", where=where, remedy="write each unit once, in ascending order")
        rows = in_key_order(self._table, conform(self._table, rows, where=where), where=where)
        if not rows.num_rows:
            return
        slots = rows[self._table.key[0]]
        if {unit_of(slots[0].as_py()), unit_of(slots[-1].as_py())} != {unit}:
            raise PermanentError(f"slots {slots[0]} to {slots[-1]} are not of this unit", where=where, remedy="name it with blyan.digest.unit_of")
        self._units[unit] = digest_unit(self._table, rows)
        self.put(rows)

    def put(self, rows: pa.Table) -> None:
        """Write rows that conform already, without a digest: for logs, and for `write`."""
        self._group.append(rows)
        self._held_rows += rows.num_rows
        self._held_bytes += rows.nbytes
        if self._held_rows >= MIN_GROUP_ROWS or self._held_bytes >= GROUP_BYTES:
            self._write_group()

    def close(self) -> Staged:
        """Finish the files. Without rows there is one empty file, so that an empty partition is a fact in the log."""
        if self._staged is None:
            self._write_group()
            if not self._files and self._upload is None:
                self._begin(self._table.arrow_schema())
            self._finish()
            self._staged = Staged(tuple(self._files), dict(self._units))
        return self._staged

    def abort(self) -> None:
        """Delete everything that was staged."""
        if self._upload is not None:
            self._writer.is_open = False  # or it would write a footer when it is collected
            self._upload.abort()
            self._upload = None
        self._store.delete(f"{self._table.name}/{file.path}" for file in self._files)
        self._files, self._group, self._units = [], [], {}

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        closed = False
        try:
            if kind is None:
                self.close()
                closed = True
        finally:
            if not closed:
                self.abort()

    def _write_group(self) -> None:
        if not self._group:
            return
        rows = self._group[0] if len(self._group) == 1 else joined(self._group)
        self._group = []
        self._held_rows = self._held_bytes = 0
        upload = self._upload or self._begin(rows.schema)
        if rows.schema != self._writer.schema:
            rows = rows.cast(self._writer.schema)
        with errors_of(self._folder):
            groups = -(-rows.num_rows // group_rows(self._table))
            self._writer.write_table(rows, row_group_size=max(1, -(-rows.num_rows // max(1, groups))))
        self._stats.add(rows)
        if upload.stream.tell() >= MAX_FILE_BYTES:
            self._finish()

    def _begin(self, schema: pa.Schema) -> Upload:
        self._upload = self._store.create(f"{self._folder}/{self._prefix}{uuid.uuid4().hex}.parquet")
        compression, level = compression_of(self._table)
        self._writer = pq.ParquetWriter(
            self._upload.stream,
            schema,
            compression=compression,
            compression_level=level,
            store_schema=False,
            write_statistics=stats_columns(self._table),
        )
        self._stats = _Statistics(self._table)
        return self._upload

    def _finish(self) -> None:
        upload = self._upload
        if upload is None:
            return
        with errors_of(self._folder):
            self._writer.close()
            size = upload.stream.tell()
        upload.publish()
        self._upload = None
        path = upload.name.removeprefix(f"{self._table.name}/")
        self._files.append(StagedFile(path, self._stats.rows, size, self._stats.as_json(), time.time()))


class _Statistics:
    """Rows of a file, and bounds of the columns that readers prune by."""

    def __init__(self, table: Table) -> None:
        self.rows = 0
        self._low: dict[str, Any] = {}
        self._high: dict[str, Any] = {}
        self._absent = dict.fromkeys(stats_columns(table), 0)

    def add(self, rows: pa.Table) -> None:
        self.rows += rows.num_rows
        for name in self._absent:
            self._absent[name] += rows[name].null_count
            low, high = pc.min_max(rows[name]).as_py().values()
            if low is not None:
                self._low[name] = min(self._low.get(name, low), low)
                self._high[name] = max(self._high.get(name, high), high)

    def as_json(self) -> str:
        bounds = {"numRecords": self.rows, "minValues": self._low, "maxValues": self._high, "nullCount": self._absent}
        return json.dumps(bounds, default=lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def conform(table: Table, rows: pa.Table, *, where: str) -> pa.Table:
    """Rows with exactly the table's columns, types and nullability; dictionary-encoded text stays so.

    Raises:
        PermanentError: a column is missing, unknown, given twice, null where it may not be, or does not convert without loss.
    """
    if sorted(rows.column_names) != sorted(table.column_names):
        missing, unknown = set(table.column_names) - set(rows.column_names), set(rows.column_names) - set(table.column_names)
        what = f"columns missing: {sorted(missing)}, unknown: {sorted(unknown)}, given: {rows.column_names}"
        raise PermanentError(what, where=where, remedy=f"give the columns that blyan.schemas declares for {table.name}")
    arrays, fields = [], []
    for declared in table.arrow_schema():
        values = rows[declared.name]
        if _plain(values.type) != declared.type:
            try:
                values = values.cast(declared.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                what = f"column {declared.name} does not convert to {declared.type}: {error}"
                raise PermanentError(what, where=where, remedy="give the type that blyan.schemas declares") from error
        if pa.types.is_dictionary(values.type) and any(chunk.dictionary.null_count for chunk in values.chunks):
            values = values.cast(declared.type)  # nulls inside a dictionary are not counted, and Parquet does not take them
        if not declared.nullable and values.null_count:
            what = f"column {declared.name} is null in {values.null_count} rows and may not be"
            raise PermanentError(what, where=where, remedy="give every row a value")
        arrays.append(values)
        fields.append(pa.field(declared.name, values.type, declared.nullable))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def slot_column(table: Table) -> str | None:
    """The integer column that orders the rows, a slot or a height; None where the rows are ordered by something else."""
    first = table.arrow_schema().field(table.key[0])
    return first.name if pa.types.is_int64(first.type) else None


def stats_columns(table: Table) -> list[str]:
    """The columns with bounds in the log: the slot, and timestamps."""
    slot = slot_column(table)
    return ([slot] if slot else []) + [column.name for column in table.columns if pa.types.is_timestamp(column.type)]


def joined(group: list[pa.Table]) -> pa.Table:
    """One table of single-chunk columns, so that each dictionary is one and the writer keeps it."""
    schema = group[0].schema
    return pa.concat_tables([rows if rows.schema == schema else rows.cast(schema) for rows in group]).combine_chunks()


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(pa.field("element", _plain(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(child.name, _plain(child.type)) for child in kind])
    return kind


def compression_of(table: Table) -> tuple[Any, Any]:
    """Zstandard at level 1, and nothing for columns whose values are compressed already."""
    if not table.uncompressed:
        return "zstd", 1
    kinds = {path: "none" if column.name in table.uncompressed else "zstd" for column in table.columns for path in _leaves(column.name, column.type)}
    return kinds, {path: 1 for path, kind in kinds.items() if kind == "zstd"}


def group_rows(table: Table) -> int:
    """Rows of a table in a row group, at most."""
    values = sum(1 for column in table.columns for _ in _leaves(column.name, column.type))
    return min(MAX_GROUP_ROWS, GROUP_VALUES // values)


def _leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    """Parquet's names of the columns inside a column."""
    if pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for child in kind:
            yield from _leaves(f"{path}.{child.name}", child.type)
    else:
        yield path
