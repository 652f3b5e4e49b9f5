"""The rows of the search index: what the documents and summaries of a range look like in it.

Belongs here: the columns of the index, and making its rows from those of the lake. Does not belong here: where they are kept
(`blyan.corpus.search_index`), or how they are searched (`blyan.query.search`).

There are rows of three kinds, told apart by `scope`: a document; a summary (of a range, a program or an account); and one record a range, which
says what the others were made from. What ranking reads of documents and summaries goes into a file beside them (`blyan.corpus.search_ranking`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.embeddings import embedded_as
from blyan.corpus.search_ranking import RankingWriter
from blyan.corpus.terms import joined, terms_of
from blyan.lake import Lake
from blyan.schemas import DOCUMENTS, SUMMARIES, Table

TRANSACTION, RANGE, PROGRAM, ACCOUNT, RECORD = "transaction", "range", "program", "account", "record"
"""Values of `scope`. Those of a summary are its own."""

FOUND = (TRANSACTION, RANGE, PROGRAM, ACCOUNT)
"""Scopes that a search finds."""

BATCH_ROWS = 16_384
"""Rows that are made at once: some 30 MB."""

GIST_DIGITS = 32
"""Hex digits of a text's SHA-256 by which its vector is found: two of 10^15 texts share them with a chance of one in 10^8."""

LIST = pa.list_(pa.string())

SCHEMA = pa.schema(
    [
        pa.field("scope", pa.string(), nullable=False),
        pa.field("slot_range", pa.string(), nullable=False),
        pa.field("slot", pa.int64()),
        pa.field("last_slot", pa.int64()),
        pa.field("tx_index", pa.int64()),
        pa.field("signature", pa.string()),
        pa.field("subject", pa.string()),
        pa.field("time", pa.timestamp("us", tz="UTC")),
        pa.field("text", pa.string()),
        pa.field("terms", pa.string()),
        pa.field("accounts", LIST),
        pa.field("programs", LIST),
        pa.field("kind", pa.string()),
        pa.field("status", pa.string()),
        pa.field("error_class", pa.string()),
        pa.field("value_bucket", pa.string()),
        pa.field("is_vote", pa.bool_()),
        pa.field("is_sandwich", pa.bool_()),
        pa.field("structural_key", pa.string()),
        pa.field("flags", LIST),
        pa.field("gist", pa.string()),
        pa.field("count", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("number", pa.int64()),
    ]
)
"""`slot_range` to `flags` are as in `corpus/documents` and `corpus/summaries`. `gist` names the row's vector, and is null where it has none.
`subject` is that of a summary, or the digest of all that a record's range was made from; `text` of a record is the SHA-256 of the range's file for
ranking. `count` is the number of transactions of a summary, and of documents and summaries of a record's range; `length` is how many terms a text
has, or those have in all; `number` is the place of a row in the range's file. A summary's `structural_key` is its scope and subject, so that one program's
summaries of many ranges count as alike."""


@dataclass
class RangeRows:
    """The rows of one range, made as they are read. The other attributes hold once all were.

    Attributes:
        documents: rows of documents.
        summaries: rows of summaries.
        without_vector: how many of both have no vector.
    """

    lake: Lake
    key: str
    made_from: str
    ranking: RankingWriter
    documents: int = 0
    summaries: int = 0
    without_vector: int = 0
    _length: int = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Rows of `SCHEMA`: summaries and documents in key order, and the record.

        Summaries of a slot come before its documents in every order, so they are written first.
        """
        gists = self.ranking.gists
        for batch in self.lake.read(SUMMARIES, key=self.key, batch_rows=BATCH_ROWS):
            self.summaries += len(batch)
            yield self._found(SUMMARIES, batch, _summary_columns(batch), gists)
        for batch in self.lake.read(DOCUMENTS, key=self.key, batch_rows=BATCH_ROWS):
            self.documents += len(batch)
            yield self._found(DOCUMENTS, batch, _document_columns(batch), gists)
        total, length = pa.array([self.documents + self.summaries]), pa.array([self._length])
        yield self._rows(1, {"scope": RECORD, "subject": self.made_from, "text": self.ranking.finish(), "count": total, "length": length})

    def _found(self, table: Table, batch: pa.RecordBatch, columns: Mapping[str, pa.Array | str], known: pa.StringArray) -> pa.RecordBatch:
        """Rows that a search finds: with terms, and the names of their vectors. Ranking gets them too."""
        terms = terms_of(batch["text"])
        lengths = pc.list_value_length(terms).cast(pa.int64())
        self._length += len(terms.flatten())
        gists = gists_of(table, batch["text"])
        vector_of = pc.index_in(gists, known)
        self.without_vector += vector_of.null_count
        numbers = pa.array(np.arange(self.ranking.rows, self.ranking.rows + len(batch)))
        self.ranking.add_documents(
            columns["slot"], columns["structural_key"], vector_of.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32), terms
        )
        found = {"text": batch["text"], "terms": joined(terms), "length": lengths, "gist": known.take(vector_of), "number": numbers}
        return self._rows(len(batch), {**columns, **found})

    def _rows(self, count: int, columns: Mapping[str, pa.Array | str]) -> pa.RecordBatch:
        """Rows with these columns; one value means the same for all, and what is not given is null."""

        def column(of: pa.Field) -> pa.Array:
            given = self.key if of.name == "slot_range" else columns.get(of.name)
            if given is None:
                return pa.nulls(count, of.type)
            return pa.repeat(pa.scalar(given, of.type), count) if isinstance(given, str) else given.cast(of.type)

        return pa.RecordBatch.from_arrays([column(of) for of in SCHEMA], schema=SCHEMA)


def gists_of(table: Table, texts: pa.Array) -> pa.Array:
    """By what name the vector of each text of `DOCUMENTS` or `SUMMARIES` is found."""
    coded = embedded_as(table, texts).dictionary_encode()
    names = pa.array([hashlib.sha256(text.encode()).hexdigest()[:GIST_DIGITS] for text in coded.dictionary.to_pylist()], pa.string())
    return names.take(coded.indices)


def _document_columns(batch: pa.RecordBatch) -> dict[str, pa.Array | str]:
    same = ("tx_index", "accounts", "programs", "kind", "status", "error_class", "value_bucket", "is_vote", "is_sandwich", "structural_key", "flags")
    return {name: batch[name] for name in same} | {
        "scope": TRANSACTION,
        "slot": batch["block_slot"],
        "last_slot": batch["block_slot"],
        "signature": batch["tx_signature"],
        "time": batch["block_timestamp"],
    }


def _summary_columns(batch: pa.RecordBatch) -> dict[str, pa.Array | str]:
    scope, subject = batch["scope"], batch["subject"]
    return {
        "scope": scope,
        "slot": batch["first_slot"],
        "last_slot": batch["last_slot"],
        "subject": subject,
        "accounts": _own(subject, scope, ACCOUNT),
        "programs": _own(subject, scope, PROGRAM),
        "structural_key": pc.binary_join_element_wise(scope, subject, " "),
        "count": batch["transactions"],
    }


def _own(subjects: pa.Array, scopes: pa.Array, scope: str) -> pa.Array:
    """A list of the subject where the summary is of this scope, else an empty one."""
    of = pc.equal(scopes, scope)
    offsets = np.concatenate([[0], np.cumsum(of.to_numpy(zero_copy_only=False))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), subjects.filter(of).cast(pa.string()))
