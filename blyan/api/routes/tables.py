"""What tables there are, and what their columns mean.

Belongs here: the tables' own declarations as JSON. Does not belong here: rows (`blyan.api.routes.records`).
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field
from starlette.requests import Request

from blyan.api.callers import Scope
from blyan.api.problems import FORBIDDEN, NOT_FOUND, RATE_LIMITED, UNAUTHENTICATED, RequestError, nearest, responses
from blyan.api.service import known_parameters, needs, service_of
from blyan.query.engine import all_tables
from blyan.schemas import VIEWS, Table

router = APIRouter(tags=["tables"], dependencies=[Depends(known_parameters)])

ERRORS = (UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED)


class ColumnModel(BaseModel):
    """A column."""

    name: str = Field(description="Its name.", examples=["fee"])
    type: str = Field(description="Its type, as DuckDB writes it.", examples=["DECIMAL(20,0)"])
    nullable: bool = Field(description="Whether it may be null. Absent is null, never zero.", examples=[True])
    meaning: str = Field(description="What it means, in words.", examples=["Lamports charged: base fee plus priority fee."])
    bigquery: str | None = Field(description="Its name in the public BigQuery dataset. Null where that lacks it.", examples=["fee"])


class TableModel(BaseModel):
    """A table."""

    name: str = Field(description="As SQL names it.", examples=["solana.transactions"])
    meaning: str = Field(description="What a row is.", examples=["One row per transaction."])
    key: list[str] = Field(description="Columns that order the rows and tell them apart.", examples=[["block_slot", "index"]])
    columns: list[ColumnModel] = Field(description="Its columns, in order.")


class TablesModel(BaseModel):
    """Every table."""

    data: list[TableModel] = Field(description="The tables, in the order in which rows are made.")


class StandingModel(TableModel):
    """A table, and what the lake has of it."""

    version: int | None = Field(description="Its version in the lake. Null where the lake has none, as of a view.", examples=[17])
    rows: int = Field(description="Rows in the lake's version; those of the landing are not counted.", examples=[5880])
    ranges: int = Field(description="Ranges of slots that it has.", examples=[3])
    first_slot: int | None = Field(description="The least slot of its rows.", examples=[0])
    last_slot: int | None = Field(description="The greatest.", examples=[299])


@router.get("/v1/tables", summary="Every table and its columns", dependencies=[needs(Scope.READ)], responses=responses(*ERRORS))
async def tables() -> TablesModel:
    """Names, types and meanings, as the tables are declared. Whether the lake has rows of them is told table by table."""
    return TablesModel(data=[TableModel(**described(table)) for table in _all().values()])


@router.get(
    "/v1/tables/{name}", summary="One table and what the lake has of it", dependencies=[needs(Scope.READ)], responses=responses(NOT_FOUND, *ERRORS)
)
async def table(
    request: Request,
    name: Annotated[str, Path(description="As SQL names it.", examples=["solana.transactions"], max_length=100)],
) -> StandingModel:
    """Its columns, and version, rows and slots of what stands in the lake."""
    found = _all().get(name)
    if found is None:
        raise RequestError(NOT_FOUND, f"there is no table {name}{nearest(name, _all())}", remedy="GET /v1/tables lists them")
    standing = await asyncio.to_thread(service_of(request).lake.files_at, found) if found.name not in VIEWS else None
    files = standing[1] if standing else []
    slots = [slot for file in files for slot in (file.slot_min, file.slot_max) if slot is not None]
    return StandingModel(
        **described(found),
        version=standing[0] if standing else None,
        rows=sum(file.rows for file in files),
        ranges=len({file.key for file in files}),
        first_slot=min(slots, default=None),
        last_slot=max(slots, default=None),
    )


@cache
def _all() -> dict[str, Table]:
    return {table.name.replace("/", "."): table for table in [*all_tables(), *VIEWS.values()]}


def described(table: Table) -> dict[str, Any]:
    """A table's declaration."""
    columns = [
        {"name": column.name, "type": _sql_type(column.type), "nullable": column.nullable, "meaning": column.prose, "bigquery": column.bigquery}
        for column in table.columns
    ]
    columns += [
        {"name": name, "type": "VARCHAR", "nullable": False, "meaning": "The range of slots, its zero-padded first slot.", "bigquery": None}
        for name in table.partition_by
        if name == "slot_range"
    ]
    return {"name": table.name.replace("/", "."), "meaning": table.prose, "key": list(table.key), "columns": columns}


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return "STRUCT(" + ", ".join(f'"{child.name}" {_sql_type(child.type)}' for child in kind) + ")"
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP WITH TIME ZONE"
    names = {"string": "VARCHAR", "int64": "BIGINT", "bool": "BOOLEAN", "double": "DOUBLE", "binary": "BLOB", "date32[day]": "DATE"}
    return names.get(str(kind), str(kind).upper())
