"""What responses look like, for people and for OpenAPI: models made from the tables' own declarations.

Belongs here: models, and the JSON of rows. Does not belong here: which rows (`blyan.query.records`).

A column of a table is a field of the same name, with the prose that the table declares. Lamports and token amounts are strings: exact
for every u64, where a JSON number is exact only up to 2^53.
"""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec
import pyarrow as pa
from pydantic import BaseModel, Field, create_model

from blyan.query.records import Reading
from blyan.schemas import Table

Row = TypeVar("Row")

EXACT_JSON = 2**53
"""Integers beyond it are strings in JSON."""


class ReadingModel(BaseModel):
    """What an answer was read from."""

    versions: dict[str, int | None] = Field(
        description="Version of each table in the lake. Null where the lake has none yet.", examples=[{"solana/transactions": 17}]
    )
    up_to_slot: int | None = Field(description="The newest slot that could be in the answer. Null where there is none.", examples=[299])
    finality: str | None = Field(description="How sure that slot is: `finalized` or `confirmed`.", examples=["finalized"])
    finalized_to: int | None = Field(description="Every slot up to it is final.", examples=[299])
    behind_slots: int | None = Field(description="Slots from there to the tip, as the follower last heard. Null where nobody follows.", examples=[2])
    behind_ms: int | None = Field(description="The same as a time, at 400 ms a slot, and the age of what it heard.", examples=[950])
    generation: int | None = Field(description="Generation of the landing, the unsealed tail. Null where nothing is followed.", examples=[4711])


class PageModel(BaseModel, Generic[Row]):
    """A page of rows."""

    data: list[Row] = Field(description="Rows, in the order of the table's key.")
    next: str | None = Field(description="Give it as `cursor` to get the next page of the same snapshot. Null: there are no more rows.")
    truncated: bool = Field(description="Whether there are more rows than these.")
    reading: ReadingModel = Field(description="What the rows were read from.")


class OneModel(BaseModel, Generic[Row]):
    """One row."""

    data: Row = Field(description="The row.")
    reading: ReadingModel = Field(description="What it was read from.")


@cache
def row_model(table: Table) -> type[BaseModel]:
    """The model of a row: a field for each column, named and explained as the table declares."""
    fields: dict[str, Any] = {}
    for column in table.columns:
        kind = _python(f"{_camel(table)}{column.name.title().replace('_', '')}", column.type)
        fields[column.name] = (kind | None if column.nullable else kind, Field(description=column.prose))
    return create_model(_camel(table), __doc__=table.prose, **fields)


def _camel(table: Table) -> str:
    return "".join(part.title() for part in table.name.replace("/", "_").split("_"))


def encoded_page(rows: bytes, following: str | None, reading: Reading) -> bytes:
    """The JSON of a page whose rows are JSON already."""
    return b'{"data":' + rows + b"," + msgspec.json.encode({"next": following, "truncated": following is not None, "reading": reading})[1:]


def encoded_one(row: bytes, reading: Reading) -> bytes:
    """The JSON of one row that is JSON already."""
    return b'{"data":' + row + b"," + msgspec.json.encode({"reading": reading})[1:]


def encoded_rows(rows: pa.Table, *, one: bool = False) -> bytes:
    """The JSON of rows, or of one."""
    found = plain_rows(rows)
    return msgspec.json.encode(found[0] if one else found)


def plain_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows as msgspec encodes them: a decimal as text, a time as RFC 3339, bytes as base64."""
    return rows.to_pylist()  # type: ignore[no-any-return]


def _python(name: str, kind: pa.DataType) -> Any:
    """The type of a field."""
    if pa.types.is_list(kind):
        return list[_python(name, kind.value_type)]  # type: ignore[misc]
    if pa.types.is_struct(kind):
        return create_model(name, **{child.name: (_python(f"{name}{child.name.title()}", child.type) | None, Field()) for child in kind})  # type: ignore[call-overload]
    if pa.types.is_timestamp(kind):
        return dt.datetime
    return {pa.string(): str, pa.int64(): int, pa.bool_(): bool, pa.float64(): float, pa.binary(): str}.get(kind, str)
