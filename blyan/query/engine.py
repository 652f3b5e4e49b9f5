"""DuckDB over the lake: every table a view, `solana/blocks` as `solana.blocks`.

Belongs here: connections, views, and what DuckDB's errors mean. Does not belong here: printing
results (`blyan.cli`), which files a table has (`blyan.lake`).

The views read the Parquet files that the newest version of each table names when the connection is
made: a connection is a snapshot, though not one across tables. DuckDB opens only the partitions
that a filter on `slot_range` leaves, and only the row groups that a filter on the slot leaves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from blyan.errors import MissingObjectError, PermanentError
from blyan.lake import CONTENT_COLUMN, Lake
from blyan.schemas import TABLES, Table
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
        slots: leave out files that hold none of these slots; rows of other slots may remain.
        database: file of the database that holds the views.
    """
    import duckdb

    # A reader in another time zone must not read other timestamps.
    connection = duckdb.connect(database)
    connection.execute("set timezone = 'UTC'")
    for table in TABLES.values() if tables is None else tables:
        _expose(connection, lake, table, slots)
    return connection


def _expose(connection: duckdb.DuckDBPyConnection, lake: Lake, table: Table, slots: SlotRange | None) -> None:
    files = lake.files(table, first_slot=slots.first if slots else None, last_slot=slots.last if slots else None)
    if not files:
        # An empty list is an error to DuckDB; a partition that holds none of the slots gives no rows of them.
        files = lake.files(table)[:1] if slots else []
    if not files:
        return
    connection.execute(f'create schema if not exists "{table.group}"')
    if lake.store.is_local:
        paths = ", ".join("'" + file.path.replace("'", "''") + "'" for file in files)
        types = ", ".join(f"'{name}': varchar" for name in (*table.partition_by, CONTENT_COLUMN))
        rows = f"read_parquet([{paths}], hive_partitioning = true, hive_types_autocast = false, hive_types = {{{types}}})"
    else:
        # DuckDB reaches a bucket only through an extension that must be downloaded; pyarrow's file system is there.
        import pyarrow as pa
        from pyarrow import dataset

        by_path = dataset.partitioning(pa.schema([(name, pa.string()) for name in (*table.partition_by, CONTENT_COLUMN)]), flavor="hive")
        paths_in_store = [lake.store.path(f"{table.name}/{file.name}") for file in files]
        rows = f"files_of_{table.group}_{table.short_name}"
        connection.register(rows, dataset.dataset(paths_in_store, filesystem=lake.store.files, format="parquet", partitioning=by_path))
    hidden = f" exclude ({CONTENT_COLUMN})" if table.partition_by else ""
    # A view over an object of this process is temporary, and only a permanent one can have a schema.
    connection.execute(f'create or replace view "{table.group}"."{table.short_name}" as select *{hidden} from {rows}')  # noqa: S608


def mentioned(sql: str) -> list[Table]:
    """The tables whose names occur in the text; all of them where none does, as in `show all tables`."""
    text = sql.lower()
    return [table for table in TABLES.values() if table.short_name in text] or list(TABLES.values())


@contextlib.contextmanager
def query_errors(sql: str, missing: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn DuckDB's errors into ours, with a remedy where there is one.

    Args:
        sql: the query, to point at.
        missing: by name of a table that is not there yet, what to do about it.

    Raises:
        MissingObjectError: the query names a table that is not there.
        PermanentError: the query is wrong, or needs more memory than there is.
    """
    import duckdb

    try:
        yield
    except duckdb.CatalogException as error:
        first = str(error).partition("\n")[0].removeprefix("Catalog Error: ")
        remedy = "\n".join(remedy for name, remedy in (missing or {}).items() if name in sql.lower())
        raise MissingObjectError(first, where=sql.strip(), remedy=remedy or "`blyan ranges` lists the tables and what they hold") from error
    except duckdb.Error as error:
        raise PermanentError(str(error).strip(), where="blyan sql") from error
