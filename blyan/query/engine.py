"""DuckDB over the lake: every table a view, `solana/blocks` as `solana.blocks`.

Belongs here: connections, views, and what DuckDB's errors mean. Does not belong here: printing
results (`blyan.cli`), which files a table has (`blyan.lake`).

The views read the Parquet files that the newest version of each table names when they are
made: a connection is a snapshot until they are made again, though not one across tables. DuckDB opens only the partitions
that a filter on `slot_range` leaves, and only the row groups that a filter on the slot leaves.

Slots that are not in the tables yet are in the landing, whose files have the same columns: ranges that
its head names are read from there alone (`blyan.solana.landing` has the rule). The head is read first. `solana.slot_status`
is made of the completeness statement and of the same head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blyan.errors import MissingObjectError, PermanentError
from blyan.lake import Lake
from blyan.schemas import COMPLETENESS, CORPUS, RANGE_COLUMN, SLOT_STATUS, TABLES, Table
from blyan.solana.commitment import Commitment
from blyan.solana.landing import Head, read_head
from blyan.solana.segments import LANDED
from blyan.solana.slots import SlotRange

if TYPE_CHECKING:
    import duckdb


def connect(
    lake: Lake, *, tables: Iterable[Table] | None = None, slots: SlotRange | None = None, database: str = ":memory:"
) -> duckdb.DuckDBPyConnection:
    """A connection with a view of each table that the lake has.

    Args:
        lake: where the tables are.
        tables: those to expose, all by default; each costs one look into its log.
        slots: leave out files that hold none of these slots; rows of other slots may remain, and marts stay whole.
        database: file of the database that holds the views.
    """
    import duckdb

    # A reader in another time zone must not read other timestamps.
    connection = duckdb.connect(database)
    connection.execute("set timezone = 'UTC'")
    expose(connection, lake, tables=tables, slots=slots)
    return connection


def expose(connection: duckdb.DuckDBPyConnection, lake: Lake, *, tables: Iterable[Table] | None = None, slots: SlotRange | None = None) -> None:
    """Make the views of a connection show what stands now; to begin a connection takes longer than this.

    Args:
        connection: one of `connect`, or any.
        lake: where the tables are.
        tables: those to expose, all by default.
        slots: leave out files that hold none of these slots.
    """
    head = read_head(lake)
    for table in all_tables() if tables is None else tables:
        files = _expose(connection, lake, table, slots, head)
        if files is not None and table == COMPLETENESS:
            _expose_status(connection, {file.key for file in files}, slots, head or Head())


def all_tables() -> list[Table]:
    """Every table that the lake may have, the corpus and marts included."""
    from blyan.marts import mart_tables

    return [*TABLES.values(), *CORPUS, *mart_tables().values()]


@dataclass(frozen=True, slots=True)
class _File:
    """A Parquet file to read: its path under the root, and the range it is of."""

    path: str
    key: str | None


def _files(lake: Lake, table: Table, slots: SlotRange | None, head: Head | None) -> list[_File]:
    """The files of a table, of the lake and of the landing."""
    landed = head if table in LANDED else None
    files = lake.files(table, first_slot=slots.first if slots else None, last_slot=slots.last if slots else None)
    if not files and slots and landed is None:
        # An empty list is an error to DuckDB; a partition that holds none of the slots gives no rows of them.
        files = lake.files(table)[:1]
    found = [_File(f"{table.name}/{file.name}", file.key) for file in files if landed is None or file.key not in landed.range_keys()]
    return found + ([_File(path, key) for key, path in landed.files(table, slots)] if landed else [])


def _expose(connection: duckdb.DuckDBPyConnection, lake: Lake, table: Table, slots: SlotRange | None, head: Head | None) -> list[_File] | None:
    """Make the view of a table; the files it reads, or None where there is no such table."""
    by_range = table.partition_by == (RANGE_COLUMN,)
    slots = slots if by_range else None
    files = _files(lake, table, slots, head)
    if not files and (head is None or table not in LANDED):
        return None
    connection.execute(f'create schema if not exists "{table.group}"')
    name = f'"{table.group}"."{table.short_name}"'
    if not files:
        rows = f"no_rows_of_{table.group}_{table.short_name}"
        connection.register(rows, table.delta_schema().empty_table())
        connection.execute(f"create or replace view {name} as select * from {rows}")  # noqa: S608
    elif lake.store.is_local:
        connection.execute(f"create or replace view {name} as {rows_of(table, [lake.store.path(file.path) for file in files])}")
    else:
        # DuckDB reaches a bucket only through an extension that must be downloaded; pyarrow's file system is there.
        from pyarrow import dataset

        parquet = dataset.ParquetFileFormat()
        fragments = [
            parquet.make_fragment(
                lake.store.path(file.path),
                lake.store.files,
                partition_expression=dataset.field(RANGE_COLUMN) == file.key if by_range else None,
            )
            for file in files
        ]
        schema = table.delta_schema() if by_range else table.arrow_schema()
        rows = f"files_of_{table.group}_{table.short_name}"
        connection.register(rows, dataset.FileSystemDataset(fragments, schema, parquet, lake.store.files))
        connection.execute(f"create or replace view {name} as select * from {rows}")  # noqa: S608
    return files


def rows_of(table: Table, paths: Iterable[str]) -> str:
    """The query over a table's Parquet files on this machine, one at least. Their paths have the range's folder in them."""
    # From the path, not `hive_partitioning`: compaction adds a folder level, and DuckDB wants all paths alike. It still prunes files by it.
    by_range = table.partition_by == (RANGE_COLUMN,)
    key = f", regexp_extract(filename, '/{RANGE_COLUMN}=([^/]*)/', 1) as {RANGE_COLUMN}" if by_range else ""
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    return f"select *{key} from read_parquet([{listed}], hive_partitioning = false)"  # noqa: S608


def status_rows(checkpoint: int, landed: Iterable[str], announced: Iterable[tuple[int, str]]) -> str:
    """The query of what is known of each slot, over the view of the completeness statement.

    Args:
        checkpoint: of the head that this view was made with.
        landed: the ranges that the head names.
        announced: slot and range of those that are processed and not landed.
    """
    names = "slot, state, block_hash, commitment, " + RANGE_COLUMN
    keys = ", ".join(f"'{key}'" for key in sorted(landed)) or "null"
    known = (
        f"select slot, state, block_hash, case when state = 'unknown' then null "  # noqa: S608
        f"when slot >= {checkpoint} and {RANGE_COLUMN} in ({keys}) then '{Commitment.CONFIRMED.label}' "
        f"else '{Commitment.FINALIZED.label}' end as commitment, {RANGE_COLUMN} from {COMPLETENESS.group}.{COMPLETENESS.short_name}"
    )
    ahead = "".join(f" union all select {slot}::bigint, 'announced', null, '{Commitment.PROCESSED.label}', '{key}'" for slot, key in announced)
    return f"select {names} from ({known}{ahead})"  # noqa: S608


def _expose_status(connection: duckdb.DuckDBPyConnection, held: set[str | None], slots: SlotRange | None, head: Head) -> None:
    """Make the view of what is known of each slot.

    An announced slot counts only where the landing is read for its range, or nothing is: `held` are the ranges that are read.
    """
    announced = [
        (slot, key)
        for slot, key in head.announced
        if (slots is None or slots.first <= slot <= slots.last) and (key in head.range_keys() or key not in held)
    ]
    view = f"{SLOT_STATUS.group}.{SLOT_STATUS.short_name}"
    connection.execute(f"create or replace view {view} as {status_rows(head.checkpoint, head.range_keys(), announced)}")


def mentioned(sql: str) -> list[Table]:
    """The tables whose names occur in the text; all of them where none does, as in `show all tables`."""
    text = sql.lower()
    if SLOT_STATUS.short_name in text:
        text += f" {COMPLETENESS.short_name}"
    return [table for table in all_tables() if table.short_name in text] or all_tables()


@contextlib.contextmanager
def query_errors(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Turn DuckDB's errors into ours.

    Raises:
        MissingObjectError: the query names a table, column or function that is not there.
        PermanentError: the query is wrong in another way, or needs more memory than there is.
    """
    import duckdb

    try:
        yield
    except duckdb.CatalogException as error:
        found = connection.execute(
            "select table_schema || '.' || table_name from information_schema.tables where table_schema <> 'main' order by all"
        ).fetchall()
        there = ", ".join(name for (name,) in found) or "no table"
        what = str(error).removeprefix("Catalog Error: ").partition("\n")[0]
        raise MissingObjectError(what, remedy=f"the lake has {there}; `blyan ingest --slots A-B` makes tables") from error
    except duckdb.Error as error:
        raise PermanentError(str(error).strip()) from error
