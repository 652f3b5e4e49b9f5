"""What tables there are, and what their columns mean.

Belongs here: paths and models. Does not belong here: declarations (`blyan.query.catalogue`), rows (`blyan.api.routes.records`).
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field
from starlette.requests import Request

from blyan.api.callers import Scope
from blyan.api.problems import FORBIDDEN, NOT_FOUND, RATE_LIMITED, UNAUTHENTICATED, RequestError, nearest, responses
from blyan.api.service import known_parameters, needs, service_of
from blyan.query import catalogue, gate

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
    return TablesModel(data=[TableModel(**catalogue.described(table)) for table in gate.tables().values()])


@router.get(
    "/v1/tables/{name}", summary="One table and what the lake has of it", dependencies=[needs(Scope.READ)], responses=responses(NOT_FOUND, *ERRORS)
)
async def table(
    request: Request,
    name: Annotated[str, Path(description="As SQL names it.", examples=["solana.transactions"], max_length=100)],
) -> StandingModel:
    """Its columns, and version, rows and slots of what stands in the lake."""
    found = gate.tables().get(name)
    if found is None:
        raise RequestError(NOT_FOUND, f"there is no table {name}{nearest(name, catalogue.names())}", remedy="GET /v1/tables lists them")
    standing = await asyncio.to_thread(catalogue.standing, service_of(request).lake, found)
    return StandingModel(**catalogue.described(found), **standing)
