"""What an asset of a table says of itself and of what it made.

Belongs here: descriptions, column schemas and results, all from the registry of tables. Does not belong here: any asset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from blyan.lake import Commit, Lake
from blyan.schemas import Table
from blyan.solana.slots import SlotRange
from blyan_assets.checks import asset_key

OWNERS = ["team:lake"]


def table_attributes(table: Table, code_version: str) -> dict[str, Any]:
    """What every asset of a table says of itself, from the registry."""
    return {
        "description": _description(table),
        "code_version": code_version,
        "owners": OWNERS,
        "kinds": {"python", "deltalake"},
        "tags": {"chain": "solana"},
        "metadata": {"dagster/column_schema": _column_schema(table), "dagster/table_name": table.name.replace("/", ".")},
    }


def _description(table: Table) -> str:
    shared = sum(column.bigquery is not None for column in table.columns)
    lines = [table.prose, f"Rows are told apart and ordered by {', '.join(f'`{name}`' for name in table.key)}."]
    if shared:
        lines.append(f"{shared} of {len(table.columns)} columns have the name and meaning they have in BigQuery's `crypto_solana_mainnet_us`.")
    return "\n\n".join(lines)


def _column_schema(table: Table) -> dg.TableSchema:
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                _type_name(column.type),
                description=column.prose,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in table.columns
        ]
    )


def _type_name(kind: pa.DataType) -> str:
    """The type as DuckDB names it, which is what a reader will query it as."""
    if pa.types.is_list(kind):
        return f"{_type_name(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        # Without the types of the fields: the UI gives the type no line breaks, and squeezes the description beside it.
        return "struct(" + ", ".join(child.name for child in kind) + ")"
    names = {
        "string": "varchar",
        "int64": "bigint",
        "decimal128(20, 0)": "decimal(20,0)",
        "decimal128(38, 0)": "decimal(38,0)",
        "binary": "blob",
        "bool": "boolean",
    }
    return "timestamp with time zone" if pa.types.is_timestamp(kind) else names.get(str(kind), str(kind))


def table_result(
    store: Lake,
    table: Table,
    slots: SlotRange,
    commit: Commit,
    checks: Mapping[str, Sequence[dg.AssetCheckResult]],
    extra: Mapping[str, Any],
) -> dg.MaterializeResult:
    """What the step tells of one table: the digest of its content as the data version, and where to look."""
    metadata = {
        "dagster/row_count": commit.rows,
        "rows": commit.rows,
        "bytes": commit.bytes,
        "files": commit.files,
        "table version": commit.version,
        "content changed": commit.changed,
        "slots": str(slots),
        "data": dg.MetadataValue.path(f"{store.root}/{table.name}/{table.partition_by[0]}={slots.key}"),
        "query": dg.MetadataValue.md(f"```\n{_query(table, slots)}\n```"),
    }
    return dg.MaterializeResult(
        asset_key=asset_key(table),
        data_version=dg.DataVersion(commit.digest),
        metadata=metadata | dict(extra),
        check_results=checks[table.name],
    )


def _query(table: Table, slots: SlotRange) -> str:
    """The command that shows the partition."""
    return f"blyan sql \"select * from {table.name.replace('/', '.')} where slot_range = '{slots.key}' limit 20\""  # noqa: S608 - names of our own
