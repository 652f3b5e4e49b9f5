"""The corpus of one range, from the lake into the lake.

Belongs here: reading a range a few slots at a time, staging and committing its documents and summaries. Does not belong here: what
they say (`blyan.corpus.documents`, `blyan.corpus.summaries`), or when it is done (an orchestrator's business).
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.activity import READ
from blyan.corpus.documents import documents_of, version
from blyan.corpus.registry import Registry
from blyan.corpus.summaries import summaries_of
from blyan.digest import UNIT_SLOTS, split_units, unit_of
from blyan.lake import Commit, Lake
from blyan.query.engine import connect
from blyan.schemas import DOCUMENTS, SUMMARIES, TOKEN_TRANSFERS, TRANSACTIONS, Table
from blyan.solana.slots import SlotRange

WINDOW_SLOTS = 2 * UNIT_SLOTS
"""Slots that are read and rendered at once: about fifty thousand transactions, votes included, at mainnet's four thousand a second."""

MEMORY_LIMIT = "1GB"
"""What DuckDB may use for the sums of a range; it goes on in files beyond that."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What one range gave: the commits of its two tables, and the votes of which it keeps a share."""

    documents: Commit
    summaries: Commit
    transactions: int
    votes: int
    votes_kept: int


def write_corpus(lake: Lake, slots: SlotRange, registry: Registry, *, vote_share: float) -> Corpus:
    """Make the documents and summaries of a range that the lake has.

    The same rows, registry and share give the same documents, and a second run commits nothing. The summaries are made from the
    committed documents, so a run that dies between the two leaves documents without their summaries, which the next run makes.

    Args:
        lake: holds the tables of the range, and gets its documents.
        slots: a range of the grid.
        registry: names of programs and mints.
        vote_share: share of the votes that get a document.

    Raises:
        MissingObjectError: the range is not materialised.
    """
    transactions = votes = votes_kept = 0
    with lake.stage(DOCUMENTS, slots.key) as stage:
        for first in range(slots.first - slots.first % WINDOW_SLOTS, slots.last + 1, WINDOW_SLOTS):
            window = SlotRange(max(first, slots.first), min(first + WINDOW_SLOTS - 1, slots.last))
            made = documents_of(_rows(lake, slots, window), registry, vote_share=vote_share)
            transactions, votes, votes_kept = transactions + made.transactions, votes + made.votes, votes_kept + made.votes_kept
            for unit, rows in split_units(DOCUMENTS, made.rows):
                stage.write(unit, rows)
        staged = stage.close()
    documents = lake.commit(DOCUMENTS, slots.key, [staged], metadata={"blyan.corpus": version(registry, vote_share=vote_share)})
    with connect(lake, tables=[TRANSACTIONS, TOKEN_TRANSFERS, DOCUMENTS], slots=slots) as connection:
        connection.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
        for table in (TRANSACTIONS, TOKEN_TRANSFERS, DOCUMENTS):
            connection.execute(
                f"create temp view {table.short_name} as select * from {table.group}.{table.short_name} where slot_range = '{slots.key}'"  # noqa: S608 - names of our own
            )
        sums = summaries_of(connection, slots, registry)
    with lake.stage(SUMMARIES, slots.key) as stage:
        stage.write(unit_of(slots.first), sums)
        staged = stage.close()
    summaries = lake.commit(SUMMARIES, slots.key, [staged])
    return Corpus(documents, summaries, transactions, votes, votes_kept)


@dataclass(frozen=True, slots=True)
class Account:
    """What the stored rows of a range say of its transactions, of its votes, and of which of them are told."""

    transactions: int
    votes: int
    documents: int
    vote_documents: int
    votes_left_out: int

    @property
    def every_transaction_is_accounted_for(self) -> bool:
        """Documents and votes left out are all transactions."""
        return self.documents + self.votes_left_out == self.transactions

    @property
    def every_vote_is_accounted_for(self) -> bool:
        """Votes with a document and votes left out are all votes."""
        return self.vote_documents + self.votes_left_out == self.votes


def account_of(lake: Lake, slots: SlotRange) -> Account:
    """Count the stored rows of a range.

    Raises:
        MissingObjectError: the range, or its corpus, is not materialised.
    """

    def count(table: Table) -> tuple[int, int]:
        columns = [pc.fill_null(batch["is_vote"], False) for batch in lake.read(table, key=slots.key, columns=["is_vote"])]
        return sum(map(len, columns)), sum(column.true_count for column in columns)

    left_out = sum(
        row["votes_left_out"] or 0 for batch in lake.read(SUMMARIES, key=slots.key, columns=["votes_left_out"]) for row in batch.to_pylist()
    )
    return Account(*count(TRANSACTIONS), *count(DOCUMENTS), left_out)


def _rows(lake: Lake, slots: SlotRange, window: SlotRange) -> dict[str, pa.Table]:
    """Rows of some slots of a range, of the columns that documents are made from."""
    tables = {}
    for table, columns in READ.items():
        names = list(columns)
        schema = pa.schema([table.arrow_schema().field(name) for name in names])
        batches = lake.read(table, key=slots.key, columns=names, first_slot=window.first, last_slot=window.last)
        tables[table.name] = pa.Table.from_batches(batches, schema)
    return tables
