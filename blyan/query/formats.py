"""Answers as bytes, while their rows come: JSON, CSV, Arrow IPC, Parquet.

Belongs here: how values are written. Does not belong here: which rows (`blyan.query.sql`), or how bytes are sent.

Nothing loses digits. In JSON and CSV, decimals and integers that may pass 2^63 are text, moments are ISO 8601 to the last digit of
their type (with `Z` where they have a zone, which is UTC), bytes are base64, NaN and the infinities are `"NaN"`, `"Infinity"` and
`"-Infinity"`; lists are lists, structs are objects, maps are lists of pairs. In CSV an absent value is nothing and an empty text is
`""`; nested values are JSON.

Each says at its end whether the result goes on, because only then is it known: JSON in the object itself, Arrow as the metadata
`blyan` of a last batch without rows, Parquet in the footer, and CSV, only where it was cut, as a last line that begins with `#`.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from blyan.query.sql import Answer, Recalled

METADATA = "blyan"
"""Name of the metadata in Arrow and Parquet: a JSON object as the end of the JSON form has it."""

GROUP_BYTES = 16 << 20
"""Bytes of rows in a row group of Parquet, about: what is held until they are written."""


async def as_json(answer: Answer) -> AsyncIterator[bytes]:
    """`{"columns": […], "rows": [[…], …], "reading": …, "rows_count": …, "truncated": …, "cursor": …, "digest": …}`."""
    columns = [{"name": column.name, "type": column.type} for column in answer.columns]
    yield b'{"columns":' + msgspec.json.encode(columns) + b',"rows":['
    first = True
    async for batch in answer.batches:
        if not batch.num_rows:
            continue
        rows = msgspec.json.encode(list(zip(*map(plain, batch.columns), strict=True)))[1:-1]
        yield rows if first else b"," + rows
        first = False
    yield end_of_json(answer)


async def as_csv(answer: Answer) -> AsyncIterator[bytes]:
    """A line of names, then a line a row, as RFC 4180 has it; a last line that begins with `#` where the result goes on."""
    yield (",".join(_quoted(column.name) for column in answer.columns) + "\r\n").encode()
    async for batch in answer.batches:
        texts = [_texts(values) for values in batch.columns]
        yield "".join(",".join(row) + "\r\n" for row in zip(*texts, strict=True)).encode()
    if answer.truncated:
        yield b"# truncated, cursor: " + (answer.cursor or "").encode() + b"\r\n"


async def as_arrow(answer: Answer) -> AsyncIterator[bytes]:
    """An Arrow IPC stream."""
    sink = _Sink()
    with pa.ipc.new_stream(sink, answer.schema) as writer:
        async for batch in answer.batches:
            writer.write_batch(batch)
            yield sink.taken()
        writer.write_batch(
            pa.RecordBatch.from_pylist([], schema=answer.schema), custom_metadata={METADATA: msgspec.json.encode(conclusion(answer)).decode()}
        )
    yield sink.taken()


async def as_parquet(answer: Answer) -> AsyncIterator[bytes]:
    """A Parquet file, a row group at a time."""
    sink = _Sink()
    waiting: list[pa.RecordBatch] = []
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), _stored(answer.schema), compression="zstd", store_schema=True) as writer:
        async for batch in answer.batches:
            waiting.append(batch)
            if sum(each.nbytes for each in waiting) >= GROUP_BYTES:
                writer.write_table(_storable(waiting, answer.schema))
                waiting = []
                yield sink.taken()
        if waiting:
            writer.write_table(_storable(waiting, answer.schema))
        writer.add_key_value_metadata({METADATA: msgspec.json.encode(conclusion(answer)).decode()})
    yield sink.taken()


FORMATS: dict[str, tuple[str, Callable[[Answer], AsyncIterator[bytes]]]] = {
    "json": ("application/json", as_json),
    "csv": ("text/csv; charset=utf-8", as_csv),
    "arrow": ("application/vnd.apache.arrow.stream", as_arrow),
    "parquet": ("application/vnd.apache.parquet", as_parquet),
}
"""Media type and writer of each format, by name."""


def conclusion(answer: Answer | Recalled) -> dict[str, Any]:
    """What is said at the end of an answer."""
    return {
        "reading": answer.reading,
        "rows_count": answer.rows_count,
        "truncated": answer.truncated,
        "cursor": answer.cursor,
        "digest": answer.digest,
    }


def end_of_json(answer: Answer | Recalled) -> bytes:
    """What follows the rows in the JSON form."""
    return b"]," + msgspec.json.encode(conclusion(answer))[1:]


def plain(values: pa.Array) -> list[Any]:
    """The values as JSON has them."""
    kind = values.type
    return next((write for fits, write in _WRITERS if fits(kind)), _as_they_are)(values)


def _as_they_are(values: pa.Array) -> list[Any]:
    found: list[Any] = values.to_pylist()
    return found


def _digits(values: pa.Array) -> list[Any]:
    if pa.types.is_decimal(values.type) and values.type.scale:
        return [None if value is None else format(value, "f") for value in values.to_pylist()]
    return _as_they_are(values.cast(pa.string()))


def _iso_dates(values: pa.Array) -> list[Any]:
    return [None if value is None else value.isoformat() for value in values.cast(pa.date32()).to_pylist()]


def _floats(values: pa.Array) -> list[Any]:
    return [value if value is None or math.isfinite(value) else _odd(value) for value in values.to_pylist()]


def _base64(values: pa.Array) -> list[Any]:
    return [None if value is None else base64.b64encode(value).decode() for value in values.to_pylist()]


def _objects(values: pa.Array) -> list[Any]:
    names, fields = [field.name for field in values.type], [plain(field) for field in values.flatten()]
    rows = zip(*fields, strict=True) if fields else iter([()] * len(values))
    return [dict(zip(names, row, strict=True)) if there else None for row, there in zip(rows, values.is_valid().to_pylist(), strict=True)]


def _pairs(values: pa.Array) -> list[Any]:
    # A slice of a map has the offsets of the whole, which a copy has not.
    copy = values.take(pa.array(range(len(values))))
    pairs = [[key, item] for key, item in zip(plain(copy.keys), plain(copy.items), strict=True)]
    edges, there = copy.offsets.to_pylist(), copy.is_valid().to_pylist()
    return [pairs[low:high] if valid else None for low, high, valid in zip(edges, edges[1:], there, strict=False)]


def _lists(values: pa.Array) -> list[Any]:
    if pa.types.is_fixed_size_list(values.type):
        values = values.cast(pa.list_(values.type.value_type))
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_pylist()
    inside, at, found = plain(values.flatten()), 0, []
    for length, there in zip(lengths, values.is_valid().to_pylist(), strict=True):
        found.append(inside[at : at + length] if there else None)
        at += length
    return found


def _odd(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _moments(values: pa.Array) -> list[str | None]:
    """Moments and times of day in ISO 8601, to the last digit of their unit."""
    kind = values.type
    if pa.types.is_time(kind):
        unit = kind.unit if pa.types.is_time64(kind) else "us"
        of_day = values.cast(pa.time64(unit)).cast(pa.int64()).cast(pa.timestamp(unit))
        return [None if text is None else text.removeprefix("1970-01-01T") for text in _moments(of_day)]
    numbers = pc.fill_null(values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    texts = np.datetime_as_string(numbers.view(f"datetime64[{kind.unit}]"), unit=kind.unit)
    zone = "Z" if kind.tz else ""
    valid = values.is_valid().to_pylist()
    return [f"{text}{zone}" if there else None for text, there in zip(texts.tolist(), valid, strict=True)]


def _texts(values: pa.Array) -> list[str]:
    """The values as fields of CSV."""
    kind = values.type
    if pa.types.is_nested(kind):
        return ["" if value is None else _quoted(msgspec.json.encode(value).decode()) for value in plain(values)]
    if pa.types.is_boolean(kind):
        return ["" if value is None else "true" if value else "false" for value in values.to_pylist()]
    if pa.types.is_floating(kind):
        return ["" if value is None else value if isinstance(value, str) else repr(value) for value in plain(values)]
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return ["" if value is None else str(value) for value in plain(values)]
    return ["" if value is None else _quoted(value) for value in plain(values)]


def _quoted(text: str) -> str:
    if text and not text.startswith("#") and not any(sign in text for sign in '",\r\n'):
        return text
    return '"' + text.replace('"', '""') + '"'


_WRITERS: list[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], list[Any]]]] = [
    (lambda kind: pa.types.is_decimal(kind) or pa.types.is_uint64(kind), _digits),
    (lambda kind: pa.types.is_timestamp(kind) or pa.types.is_time(kind), lambda values: list(_moments(values))),
    (pa.types.is_date, _iso_dates),
    (pa.types.is_floating, _floats),
    (lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind), _base64),
    (pa.types.is_struct, _objects),
    (pa.types.is_map, _pairs),
    (lambda kind: pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind), _lists),
]
"""How each type is written; the others are as Python has them."""


class _Sink(io.RawIOBase):
    """Bytes that were written and not yet taken."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._at += len(part)
        return len(part)

    def tell(self) -> int:
        return self._at

    def taken(self) -> bytes:
        """What was written since the last time."""
        parts, self._parts = b"".join(self._parts), []
        return parts


def _stored(schema: pa.Schema) -> pa.Schema:
    """The schema with types that Parquet has: it has no column of nothing."""
    return pa.schema([pa.field(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in schema])


def _storable(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(batches, schema).cast(_stored(schema))
