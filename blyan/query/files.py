"""Parquet files of the lake as something that DuckDB can select from.

Belongs here: reaching files, in a folder or in a bucket. Does not belong here: which files (`blyan.lake`, `blyan.solana.landing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow as pa

from blyan.lake import Lake

if TYPE_CHECKING:
    import duckdb


def relation(connection: duckdb.DuckDBPyConnection, lake: Lake, paths: Sequence[str], schema: pa.Schema) -> str:
    """SQL that names the rows of some files.

    Args:
        connection: that will run it.
        lake: where the files are.
        paths: of one file at least, under the lake's root.
        schema: of their rows.
    """
    if lake.store.is_local:
        listed = ", ".join("'" + lake.store.path(path).replace("'", "''") + "'" for path in paths)
        return f"read_parquet([{listed}], hive_partitioning = false)"
    # DuckDB reaches a bucket only through an extension that must be downloaded; pyarrow's file system is there.
    from pyarrow import dataset

    parquet = dataset.ParquetFileFormat()
    fragments = [parquet.make_fragment(lake.store.path(path), lake.store.files) for path in paths]
    name = f"files_{uuid4().hex}"
    connection.register(name, dataset.FileSystemDataset(fragments, schema, parquet, lake.store.files))
    return name
