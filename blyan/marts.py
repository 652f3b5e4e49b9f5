"""Marts: from the lake's tables into the database that dbt works in, and from there back into the lake.

Belongs here: what tables the models declare, the database of one dbt run, publishing its tables.
Does not belong here: what a mart is (`dbt_project`), how dbt is run (`blyan_assets.marts`).

The models' `.yml` files are the one declaration of a mart: names, types and prose of its columns,
and its key. dbt enforces it when it builds, and the table in the lake is made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import yaml

from blyan.errors import MissingObjectError, PermanentError
from blyan.lake import Commit, DataFile, Lake
from blyan.schemas import BLOCKS, COUNT, LAMPORTS, NORMALISED, TEXT, TEXTS, TIMESTAMP, Column, Table
from blyan.store import errors_of

PROJECT = Path(__file__).resolve().parents[1] / "dbt_project"
"""The dbt project."""

SCHEMA = "marts"
"""The schema that dbt builds in, and the first part of a mart's name in the lake."""

SCOPE_COLUMN = "scope"
SCOPE = "all"
"""A mart is one partition, because dbt builds it whole: the lake replaces partitions, never tables."""

READ_ROWS = 65_536

TYPES = {
    "bigint": COUNT,
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "decimal(20,0)": LAMPORTS,
    "decimal(38,0)": pa.decimal128(38, 0),
    "double": pa.float64(),
    "timestamp with time zone": TIMESTAMP,
    "varchar": TEXT,
}
"""The Arrow type of each DuckDB type that a model may declare."""


def mart_tables(project: Path = PROJECT) -> dict[str, Table]:
    """Every mart as a table of the lake, by the name of its model.

    Raises:
        PermanentError: a model lacks a key, or declares a type that the lake does not store.
    """
    files = sorted((project / "models" / SCHEMA).glob("*.yml"))
    models = [model for file in files for model in yaml.safe_load(file.read_text())["models"]]
    return {model["name"]: _table(model) for model in models}


def prepare(lake: Lake, database: Path, standing: Iterable[Table] = ()) -> list[str]:
    """Make the database that dbt works in: a view `solana.<table>` over the files of each table it reads.

    Only ranges that every one of these tables has are in the views, so that marts agree with each other while other ranges
    are being written. The documents and summaries of these ranges are there too, for the tests that compare marts with them;
    `corpus.untold` has the slots of the ranges that have none. Files of a remote lake are copied beside the database first: DuckDB reads no bucket without an
    extension that has to be downloaded.

    Args:
        lake: the lake.
        database: a path at which there is nothing yet.
        standing: marts to show as they are in the lake, where it has them.

    Returns:
        The ranges, by key, in order.

    Raises:
        MissingObjectError: there is no such range.
    """
    files = {table: lake.files(table) for table in NORMALISED}
    ranges = set.intersection(*({file.key or "" for file in found} for found in files.values()))
    if not ranges:
        missing = [table.name for table, found in files.items() if not found]
        what = f"the lake has nothing in {', '.join(missing)}" if missing else "no range is in all of the tables that marts are made from"
        raise MissingObjectError(what, where=lake.root, remedy="materialise a range first, for example with `blyan ingest --slots 0-99`")
    files |= {table: lake.files(table) for table in (*TEXTS, *standing)}
    with duckdb.connect(str(database)) as connection:
        for table, found in files.items():
            paths = [_local(lake, table, file, database.parent) for file in found if file.key in ranges or file.key == SCOPE]
            connection.execute(f"create schema if not exists {table.group}")
            if paths:
                listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
                rows = f"read_parquet([{listed}], hive_partitioning = false)"
                connection.execute(f"create view {table.group}.{table.short_name} as select * from {rows}")  # noqa: S608 - names and paths of our own
            elif table in TEXTS:
                connection.register("no_rows", table.arrow_schema().empty_table())
                connection.execute(f"create table {table.group}.{table.short_name} as select * from no_rows")  # noqa: S608 - names of our own
        connection.execute("create table corpus.untold as select unnest(?) as first_slot, unnest(?) as last_slot", [*_untold(files, ranges)])
    return sorted(ranges)


def _untold(files: Mapping[Table, Sequence[DataFile]], ranges: set[str]) -> tuple[list[int], list[int]]:
    """First and last slots of the ranges without a corpus."""
    told = set.intersection(*({file.key or "" for file in files[table]} for table in TEXTS))
    blocks = [file for file in files[BLOCKS] if file.key in ranges - told and file.slot_min is not None and file.slot_max is not None]
    return [file.slot_min or 0 for file in blocks], [file.slot_max or 0 for file in blocks]


def publish(lake: Lake, table: Table, database: Path) -> Commit:
    """Put a mart that dbt built into the lake; the same rows again make no new version.

    Raises:
        PermanentError: the rows are not what the model declares.
    """
    columns = ", ".join(f'"{name}"' for name in table.column_names)
    order = ", ".join(f'"{name}" nulls first' for name in table.key)
    with duckdb.connect(str(database), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        rows = connection.sql(f"select {columns} from {SCHEMA}.{table.short_name} order by {order}")  # noqa: S608 - names of our own
        return lake.write_partition(table, SCOPE, rows.to_arrow_reader(READ_ROWS))


def _table(model: Mapping[str, Any]) -> Table:
    columns = tuple(_column(model["name"], column) for column in model["columns"])
    keys = [test["unique_key"]["arguments"]["columns"] for test in model.get("data_tests", []) if "unique_key" in test]
    if len(keys) != 1 or columns[0].type != COUNT:
        raise PermanentError(
            "it has not one unique_key test, or its first column is not a slot",
            where=f"model {model['name']}",
            remedy="test the columns that tell its rows apart with unique_key, and put the slot that orders them first",
        )
    # The lake orders the rows of a table by slot, then by what tells them apart.
    key = tuple(dict.fromkeys([columns[0].name, *keys[0]]))
    return Table(f"{SCHEMA}/{model['name']}", model["description"], columns, key, partition_by=(SCOPE_COLUMN,))


def _column(model: str, column: Mapping[str, Any]) -> Column:
    kind = TYPES.get(column["data_type"])
    if kind is None:
        remedy = f"declare one of {', '.join(TYPES)}"
        raise PermanentError(f"the lake does not store {column['data_type']}", where=f"column {model}.{column['name']}", remedy=remedy)
    required = {"type": "not_null"} in column.get("constraints", [])
    return Column(column["name"], kind, column["description"], nullable=not required)


def _local(lake: Lake, table: Table, file: DataFile, folder: Path) -> str:
    """A path of the file on this machine."""
    if lake.store.is_local:
        return file.path
    copy = folder / table.short_name / Path(file.name).name
    copy.parent.mkdir(exist_ok=True)
    with errors_of(file.path), lake.store.open(f"{table.name}/{file.name}") as source, copy.open("wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
    return str(copy)
