"""The corpus that retrieval is measured on: every recorded block and transaction as documents, with the summaries of whole blocks.

Belongs here: reading the recordings and putting the documents, and the facts that relevance is judged by, side by side. Does not
belong here: queries and judgements (`judgements`), measures, rankers.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from blyan import schemas
from blyan.corpus.documents import documents_of
from blyan.corpus.registry import Registry, load_registry
from blyan.corpus.summaries import summaries_of
from blyan.solana.decode import Block, decode
from blyan.solana.header import PieceKind, split
from blyan.solana.normalise import normalise
from blyan.solana.slots import SlotRange
from blyan.solana.sources import Format

SOLANA = Path(__file__).resolve().parents[3] / "shared" / "data" / "solana"

VOTE_SHARE = 0.05
"""Of the votes; the same share of the recorded ones as a lake with a setting of this value would have."""

SUMMED_FROM = 300
"""Transactions without votes from which a block gets summaries; smaller ones have nothing to sum up."""

BUSIEST = 25
"""Programs, and accounts, of a block that get a summary of their own."""


@dataclass(frozen=True)
class Corpus:
    """Documents of recordings.

    Attributes:
        documents: rows of `schemas.DOCUMENTS`, in key order, no signature twice.
        summaries: rows of `schemas.SUMMARIES`.
        connection: with the tables of `schemas.NORMALISED` by their short names, `documents`, `summaries`, and `names` of the registry.
    """

    documents: pa.Table
    summaries: pa.Table
    connection: duckdb.DuckDBPyConnection
    registry: Registry


def is_here() -> bool:
    """Whether the recordings are beside the repository."""
    return (SOLANA / "MANIFEST.csv").is_file()


@cache
def recorded_corpus(files: tuple[str, ...] = ("",), vote_share: float = VOTE_SHARE) -> Corpus:
    """The corpus of the recordings whose paths in the manifest start so; all by default."""
    registry = load_registry()
    tables = {name: plain(table) for name, table in normalise(list(_blocks(files))).items()}
    documents = documents_of(tables, registry, vote_share=vote_share).rows
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    shown = {name.partition("/")[2]: table for name, table in tables.items()} | {"documents": plain(documents)}
    shown["names"] = pa.table({"account": list(registry.names), "name": list(registry.names.values())})
    for name, table in shown.items():
        connection.register(f"_{name}", table)
        connection.execute(f"create table {name} as select * from _{name}")
        connection.unregister(f"_{name}")
    summaries = _summaries(connection, registry)
    connection.register("_summaries", summaries)
    connection.execute("create table summaries as select * from _summaries")
    return Corpus(shown["documents"], summaries, connection, registry)


def plain(table: pa.Table) -> pa.Table:
    """The table without dictionaries, which DuckDB cannot read in every nesting."""
    file = io.BytesIO()
    pq.write_table(table, file, store_schema=False)
    return pq.read_table(pa.BufferReader(file.getvalue()))


def _blocks(starts: tuple[str, ...]) -> Iterator[Block]:
    """The recorded blocks in slot order, each slot once: the block, or the transactions of it that were recorded alone."""
    blocks: dict[int, Block] = {}
    loose: dict[int, dict[str, bytes]] = defaultdict(dict)
    with (SOLANA / "MANIFEST.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith(("blocks/", "transactions/")) and row["slot"]]
    for row in rows:
        if not row["file"].startswith(starts):
            continue
        data = (SOLANA / row["file"]).read_bytes()
        for piece in split(gzip.decompress(data) if row["file"].endswith(".gz") else data):
            slot = piece.slot if piece.slot is not None else int(row["slot"].partition("-")[0])
            if piece.kind is PieceKind.BLOCK and slot not in blocks:
                blocks[slot] = decode(slot, bytes(piece.data), Format.GET_BLOCK)
            elif piece.kind is PieceKind.TRANSACTION:
                alone = normalise([decode(slot, b"[" + bytes(piece.data) + b"]", Format.GET_TRANSACTION)])
                for signature in alone[schemas.TRANSACTIONS.name]["signature"].to_pylist():
                    loose[slot].setdefault(signature, bytes(piece.data))
    for slot, found in loose.items():
        if slot not in blocks:
            blocks[slot] = decode(slot, b"[" + b",".join(found.values()) + b"]", Format.GET_TRANSACTION)
    yield from (blocks[slot] for slot in sorted(blocks))


def _summaries(connection: duckdb.DuckDBPyConnection, registry: Registry) -> pa.Table:
    """Summaries of each block that has something to sum up, as a range of its own."""
    busy = connection.execute(
        """select block_slot from transactions where is_vote is distinct from true and status is not null
            group by 1 having count(*) >= ? order by 1""",
        [SUMMED_FROM],
    ).fetchall()
    parts = [schemas.SUMMARIES.arrow_schema().empty_table()]
    for (slot,) in busy:
        with connection.cursor() as cursor:
            for name in ("transactions", "token_transfers", "documents"):
                cursor.execute(f"create or replace temp view {name} as select * from memory.main.{name} where block_slot = {slot}")
            parts.append(summaries_of(cursor, SlotRange(slot, slot), registry, busiest=BUSIEST))
    return pa.concat_tables(parts)
