"""What tables there are, what their columns mean, and what stands in them.

Belongs here: the tables' own declarations as plain values, and counts from the logs. Does not belong here: rows (`blyan.query.records`,
`blyan.query.sql`), and how the declarations are made (`blyan.schemas`).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from blyan.lake import Lake
from blyan.query import gate
from blyan.schemas import VIEWS, Table


def names() -> list[str]:
    """The tables and views that there are, as SQL names them, in the order in which rows are made."""
    return list(gate.tables())


def described(table: Table) -> dict[str, Any]:
    """A table's declaration: `name`, `meaning`, `key`, and `columns` of `name`, `type` (DuckDB's), `nullable`, `meaning`, `bigquery`."""
    columns = [
        {"name": column.name, "type": sql_type(column.type), "nullable": column.nullable, "meaning": column.prose, "bigquery": column.bigquery}
        for column in table.columns
    ]
    columns += [
        {"name": name, "type": "VARCHAR", "nullable": False, "meaning": "The range of slots, its zero-padded first slot.", "bigquery": None}
        for name in table.partition_by
        if name == "slot_range"
    ]
    return {"name": table.name.replace("/", "."), "meaning": table.prose, "key": list(table.key), "columns": columns}


def standing(lake: Lake, table: Table) -> dict[str, Any]:
    """What the lake has of a table: `version`, `rows`, `ranges`, `first_slot`, `last_slot`. Rows of the landing are not counted; a view has none."""
    found = lake.files_at(table) if table.name not in VIEWS else None
    files = found[1] if found else []
    slots = [slot for file in files for slot in (file.slot_min, file.slot_max) if slot is not None]
    return {
        "version": found[0] if found else None,
        "rows": sum(file.rows for file in files),
        "ranges": len({file.key for file in files}),
        "first_slot": min(slots, default=None),
        "last_slot": max(slots, default=None),
    }


def sql_type(kind: pa.DataType) -> str:
    """A type as DuckDB writes it."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return "STRUCT(" + ", ".join(f'"{child.name}" {sql_type(child.type)}' for child in kind) + ")"
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP WITH TIME ZONE"
    known = {"string": "VARCHAR", "int64": "BIGINT", "bool": "BOOLEAN", "double": "DOUBLE", "binary": "BLOB", "date32[day]": "DATE"}
    return known.get(str(kind), str(kind).upper())
