"""The embeddings of one range, from the lake into the lake, and back out of it.

Belongs here: the distinct texts of a range, staging and committing their vectors, and finding the vectors of documents. Does not
belong here: what of a document is embedded (`blyan.corpus.gist`), models (`blyan.corpus.embedder`), or what was embedded for other
ranges (`blyan.corpus.embedding_cache`).

A range has many documents and few distinct texts, so only those are held: some hundred bytes each. Vectors pass by in parts.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.embedder import Embedder, Vectors
from blyan.corpus.embedding_cache import TEXTS_PER_FILE, EmbeddingCache
from blyan.corpus.gist import GIST, gist
from blyan.digest import split_units
from blyan.errors import MissingObjectError, PermanentError
from blyan.lake import Commit, Lake
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES, Table
from blyan.solana.slots import SlotRange

PART_TEXTS = 4 * TEXTS_PER_FILE
"""Texts whose vectors are in memory at once: 25 MB at 384 dimensions."""

FOLD_ROWS = 1 << 18
"""Rows that are collected before equal texts are made one."""

LENGTH_ERROR = 1e-5
"""How far from 1 the length of a vector may be: a hundred times what rounding to float32 makes of it."""

_SLOT_OF = {DOCUMENTS: "block_slot", SUMMARIES: "first_slot"}


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What embedding a range gave and cost.

    Attributes:
        commit: of `corpus/embeddings`.
        documents: documents and summaries that have a vector now.
        distinct: their distinct texts, which are the rows.
        embedded: how many of those were new to the cache and went to the model.
        truncated: of how many of those the model read only the beginning.
    """

    commit: Commit
    documents: int
    distinct: int
    embedded: int
    truncated: int

    @property
    def saved_share(self) -> float:
        """The part of the documents that the model was spared, from 0 to 1; 0 where there are none."""
        return 1 - self.embedded / self.documents if self.documents else 0.0


def write_embeddings(lake: Lake, slots: SlotRange, embedder: Embedder, *, progress: Callable[[int, int], None] | None = None) -> Embeddings:
    """Embed the documents and summaries of a range that the lake has.

    The same texts and model give the same rows, and a second run commits nothing. A process that is killed has added to the cache
    what it embedded but for the last `TEXTS_PER_FILE`, and the next one goes on from there.

    Args:
        lake: holds the documents and summaries of the range, and gets its embeddings.
        slots: a range of the grid.
        embedder: what makes vectors of texts.
        progress: told how many distinct texts are done, and of how many.

    Raises:
        MissingObjectError: the range has no documents or summaries.
        PermanentError: the model broke its word, or a file of the cache is damaged.
        TransientError: the model could not be reached.
    """
    texts = _distinct(lake, slots)
    cache = EmbeddingCache(lake.store, embedder)
    embedded = truncated = done = 0
    with lake.stage(EMBEDDINGS, slots.key) as stage:
        for units in _parts(texts):
            part = pa.concat_tables([rows for _, rows in units])
            tell = None if progress is None else _told(progress, done, len(texts))
            made = cache.embed(part["text"].to_pylist(), progress=tell)
            done, embedded, truncated = done + made.texts, embedded + made.embedded, truncated + made.truncated
            at = 0
            for unit, rows in units:
                stage.write(unit, _rows(rows, made.vectors[at : at + len(rows)], embedder.digest))
                at += len(rows)
        staged = stage.close()
    commit = lake.commit(EMBEDDINGS, slots.key, [staged], metadata={"blyan.embedder": f"{embedder.name}, gist {GIST}"})
    return Embeddings(commit, pc.sum(texts["documents"]).as_py() or 0, len(texts), embedded, truncated)


def embedded_as(table: Table, texts: pa.Array) -> pa.Array:
    """What is embedded of texts of `DOCUMENTS`, their gist, or of `SUMMARIES`, all of it."""
    return gist(texts) if table is DOCUMENTS else texts


class RangeVectors:
    """The vectors of a range, in a temporary file; in memory are 64 bytes a distinct text.

    Attributes:
        model: digest of the embedder that made them; empty where the range has no texts.
        vectors: float32 [distinct texts, dimension], in the order of the rows of `corpus/embeddings`.
    """

    def __init__(self, model: str, vectors: Vectors, digests: npt.NDArray[np.bytes_]) -> None:
        self.model, self.vectors = model, vectors
        self._by_digest = np.argsort(digests)
        self._digests = digests[self._by_digest]

    def rows_of(self, table: Table, texts: pa.Array) -> npt.NDArray[np.int64]:
        """The rows of `vectors` that belong to texts of `DOCUMENTS` or `SUMMARIES`; -1 where a text has none."""
        digests, text_of = _digests(embedded_as(table, texts))
        at = np.searchsorted(self._digests, digests)
        at[at == len(self._digests)] = 0
        found = np.full(len(digests), -1, np.int64)
        if len(self._digests):
            there = self._digests[at] == digests
            found[there] = self._by_digest[at[there]]
        return found[text_of]

    def of(self, table: Table, texts: pa.Array) -> Vectors:
        """The vectors of texts of `DOCUMENTS` or `SUMMARIES`, float32 [texts, dimension].

        Raises:
            MissingObjectError: a text has none, so the embeddings are of other documents.
        """
        rows = self.rows_of(table, texts)
        if (rows < 0).any():
            what = f"{int((rows < 0).sum())} of {len(rows)} texts have no vector"
            raise MissingObjectError(what, where=EMBEDDINGS.name, remedy=f"materialise {EMBEDDINGS.name} of the range again: {table.name} changed")
        found: Vectors = self.vectors[rows]
        return found


@contextmanager
def vectors_of(lake: Lake, slots: SlotRange) -> Iterator[RangeVectors]:
    """The stored vectors of a range, as long as the block lasts: `vectors.of(DOCUMENTS, batch["text"])`.

    Raises:
        MissingObjectError: the range has no embeddings.
        PermanentError: they are of several models, or dimensions.
    """
    rows = sum(file.rows for file in lake.files(EMBEDDINGS, keys=[slots.key]))
    digests, model, done = np.empty(rows, "S64"), "", 0
    with tempfile.TemporaryFile() as file:
        vectors: Vectors = np.empty((0, 0), np.float32)
        for batch in _stored(lake, slots):
            if not done:
                model = batch["model"][0].as_py()
                vectors = np.memmap(file, np.float32, "w+", shape=(rows, len(batch["vector"][0])))
            _check_alike(batch, model, vectors.shape[1], where=f"{EMBEDDINGS.name} {slots.key}")
            here = slice(done, done + len(batch))
            vectors[here] = batch["vector"].flatten().to_numpy().reshape(len(batch), -1)
            digests[here] = batch["text_sha256"].to_numpy(zero_copy_only=False).astype("S64")
            done += len(batch)
        yield RangeVectors(model, vectors, digests)


@dataclass(frozen=True, slots=True)
class Account:
    """What the stored rows of a range say of its documents, its summaries, and their vectors.

    Attributes:
        documents: documents and summaries.
        stood_for: how many of them the embeddings say that they stand for.
        without_vector: how many have none.
        vectors: rows of the embeddings.
        other_dimension: vectors that have not as many components as the model gives.
        other_length: vectors whose length is not 1.
        other_model: vectors that another model made.
    """

    documents: int
    stood_for: int
    without_vector: int
    vectors: int
    other_dimension: int
    other_length: int
    other_model: int

    @property
    def every_text_has_a_vector(self) -> bool:
        """No document or summary is without, and none is counted twice."""
        return not self.without_vector and self.documents == self.stood_for

    @property
    def every_vector_is_a_direction(self) -> bool:
        """All vectors are of this model, of its dimension, and of length 1."""
        return not (self.other_dimension or self.other_length or self.other_model)


def account_of(lake: Lake, slots: SlotRange, embedder: Embedder) -> Account:
    """Compare the stored vectors of a range with its stored texts.

    Raises:
        MissingObjectError: the range, its documents or its summaries are not materialised.
    """
    known: list[pa.Array] = []
    vectors = stood_for = other_dimension = other_length = other_model = 0
    for batch in _stored(lake, slots):
        known.append(batch["text_sha256"])
        vectors += len(batch)
        stood_for += pc.sum(batch["documents"]).as_py()
        other_model += len(batch) - int(pc.sum(pc.equal(batch["model"], embedder.digest)).as_py())
        sizes = pc.list_value_length(batch["vector"]).to_numpy()
        other_dimension += int((sizes != embedder.dimension).sum())
        squares = batch["vector"].flatten().to_numpy().astype(np.float64) ** 2
        lengths = np.sqrt(np.bincount(np.repeat(np.arange(len(batch)), sizes), weights=squares, minlength=len(batch)))
        # A length that is no number fails the comparison too.
        other_length += int((~(np.abs(lengths - 1) <= LENGTH_ERROR)).sum())
    digests = np.sort(pa.chunked_array(known, pa.string()).to_numpy().astype("S64"))
    lookup = RangeVectors("", np.empty((0, 0), np.float32), digests)
    documents = without = 0
    for table in _SLOT_OF:
        for batch in lake.read(table, key=slots.key, columns=["text"]):
            documents += len(batch)
            without += int((lookup.rows_of(table, batch["text"]) < 0).sum())
    return Account(documents, stood_for, without, vectors, other_dimension, other_length, other_model)


def _distinct(lake: Lake, slots: SlotRange) -> pa.Table:
    """The distinct texts of a range in key order: the columns of `EMBEDDINGS` but for vector and model; texts of any total size."""
    held: list[pa.Table] = []
    fresh = 0
    for part in _texts(lake, slots):
        held.append(part)
        fresh += len(part)
        if fresh > max(FOLD_ROWS, len(held[0])):
            held, fresh = [_folded(held)], 0
    texts = _folded(held) if held else _texts_schema().empty_table()
    digests = [hashlib.sha256(text.encode()).hexdigest() for chunk in texts["text"].chunks for text in chunk.to_pylist()]
    return texts.append_column("text_sha256", pa.array(digests, pa.string())).sort_by([(name, "ascending") for name in EMBEDDINGS.key])


def _texts(lake: Lake, slots: SlotRange) -> Iterator[pa.Table]:
    """The texts of a range as they are embedded, each batch's once."""
    for table, slot in _SLOT_OF.items():
        for batch in lake.read(table, key=slots.key, columns=[slot, "text"]):
            texts = embedded_as(table, batch["text"]).cast(pa.large_string())
            yield _folded([pa.table([texts, batch[slot], pa.array(np.ones(len(batch), np.int64))], schema=_texts_schema())])


def _texts_schema() -> pa.Schema:
    return pa.schema([("text", pa.large_string()), ("first_slot", pa.int64()), ("documents", pa.int64())])


def _folded(parts: list[pa.Table]) -> pa.Table:
    """Equal texts made one: the first slot of all, and the sum of what they stand for."""
    joined = pa.concat_tables(parts)
    sums = joined.group_by("text", use_threads=False).aggregate([("first_slot", "min"), ("documents", "sum")])
    return sums.select(["text", "first_slot_min", "documents_sum"]).rename_columns(_texts_schema().names)


def _parts(texts: pa.Table) -> Iterator[list[tuple[str, pa.Table]]]:
    """Whole units, as few as have `PART_TEXTS` texts together."""
    if not len(texts):
        return
    held: list[tuple[str, pa.Table]] = []
    count = 0
    for unit, rows in split_units(EMBEDDINGS, texts):
        held.append((unit, rows))
        count += len(rows)
        if count >= PART_TEXTS:
            yield held
            held, count = [], 0
    if held:
        yield held


def _told(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(before + done, total)


def _rows(texts: pa.Table, vectors: Vectors, model: str) -> pa.Table:
    """Rows of `EMBEDDINGS`."""
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(vectors).reshape(-1)))
    models = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(vectors), np.int32)), pa.array([model]))
    columns = {"vector": lists, "model": models, "text": pa.array(texts["text"].to_pylist(), pa.string())}
    return pa.table({name: columns[name] if name in columns else texts[name] for name in EMBEDDINGS.column_names})


def _stored(lake: Lake, slots: SlotRange) -> Iterable[pa.RecordBatch]:
    return lake.read(EMBEDDINGS, key=slots.key, columns=["text_sha256", "documents", "vector", "model"], batch_rows=TEXTS_PER_FILE)


def _check_alike(batch: pa.RecordBatch, model: str, dimension: int, *, where: str) -> None:
    """All vectors are of one model, and have its dimension."""
    sizes = pc.min_max(pc.list_value_length(batch["vector"])).as_py()
    models = pc.unique(batch["model"]).to_pylist()
    remedy = "materialise the range again"
    if models != [model]:
        raise PermanentError(f"the vectors are of {len({model, *models})} models", where=where, remedy=remedy)
    if (sizes["min"], sizes["max"]) != (dimension, dimension):
        low, high = min(sizes["min"], dimension), max(sizes["max"], dimension)
        raise PermanentError(f"the vectors have {low} to {high} components", where=where, remedy=remedy)


def _digests(texts: pa.Array) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int64]]:
    """The digests of the distinct texts, and which of them each text has."""
    coded = texts.dictionary_encode()
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in coded.dictionary.to_pylist()]
    return np.array(digests, "S64"), coded.indices.to_numpy().astype(np.int64)
