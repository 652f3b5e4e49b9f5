"""The search index: documents, summaries and vectors where they can be searched, as LanceDB keeps them.

Belongs here: writing a range, which index readers use, its upkeep, and making it again. Does not belong here: what a row is
(`blyan.corpus.search_rows`, `search_ranking`), or searching (`blyan.query.search`). Nothing is here that is not in the lake's tables: the folder may be
deleted whenever nobody writes it, and is made again by `rebuild`.

Where things are, under the root of the lake:

    search/current.json                the index that readers use, and the one that is being made, if any; replaced atomically
    search/<name>/documents.lance      one row a document, summary and range (`search_rows`)
    search/<name>/gists.lance          one row a text that was embedded: its name and vector; rows are only ever added
    search/<name>/ranking/             one file a range: what ranking reads of its documents (`search_ranking`)

An index is of one model and one version of this code; vectors of two models are never mixed. While another one is made, readers keep the
one they have, until the new one has every range of it.

A range is replaced in one version of `documents.lance`, and its record, a row like the others, says what it was made from, which names its file for
ranking. So whoever dies leaves the range as it was or as it should be. Vectors and that file are there before the documents that name them: what
a killed writer leaves of them is found by nobody, and the file goes with the next upkeep. LanceDB's `merge_insert` would also do for documents, at the price of comparing every key; here old rows go by the range they
are of, mostly as whole fragments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.gist import GIST
from blyan.corpus.search_ranking import RangeArrays, Ranking, RankingWriter, digest_of, gists_named
from blyan.corpus.search_rows import FOUND, GIST_DIGITS, RANGE, RECORD, SCHEMA, TRANSACTION, RangeRows
from blyan.corpus.terms import TERMS
from blyan.errors import CommitConflictError, MissingObjectError, PermanentError, TransientError
from blyan.lake import Lake
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES
from blyan.solana.slots import SlotRange
from blyan.store import Store, meaning_of

if TYPE_CHECKING:
    import lance

VERSION = f"2.{GIST}.{TERMS}"
"""Raise its first number when the rows or the columns of an index would be others: a new index is then made beside the old one."""

FOLDER = "search"
POINTER = f"{FOLDER}/current.json"
DATASETS = ("documents", "gists")
RANKING = "ranking"
VECTOR_INDEX = "vector_idx"

TRIES = 10
"""Times a version is written while other writers are first."""

REFRESHED_ROWS = 20_000
"""Rows that no index covers are read one by one by every search: 25 ms for so many (measured). Then the writer adds them to the indexes;
and earlier where they are more than those that are covered, by whose counts LanceDB chooses candidates."""

INDEXED_VECTORS = 50_000
"""From so many vectors on they have an index; fewer are kept in memory (77 MB at 384 dimensions) and compared one by one."""

PROBES = 112
"""Partitions that are looked into: of 200,000 vectors 0.99 of the ten nearest are found; with 64 it was 0.91 (benchmarks/search.py)."""

MASKS = 32
"""Conditions whose documents are remembered, a byte a document each."""

VECTORS_PER_PARTITION = 256
"""A partition needs so many to be drawn: with fewer, Lance draws fewer partitions."""

TRAINED_AGAIN = 3
"""The index of vectors is trained again once there should be so many times its partitions."""

TEXT_INDEX_MIB = 512
"""Memory in which the index of terms is built."""

INDEXES = {
    "slot": "BTREE",
    "time": "BTREE",
    "signature": "BTREE",
    "subject": "BTREE",
    "structural_key": "BTREE",
    "gist": "BTREE",
    "slot_range": "BITMAP",
    "scope": "BITMAP",
    "kind": "BITMAP",
    "status": "BITMAP",
    "error_class": "BITMAP",
    "value_bucket": "BITMAP",
    "programs": "LABEL_LIST",
    "accounts": "LABEL_LIST",
    "flags": "LABEL_LIST",
}
"""Indexes of single values, by column; the terms have one of their own."""

VECTORS_AT_ONCE = 8_192
"""Vectors that are added in one version: 13 MB at 384 dimensions."""

_CONFLICT = re.compile(r"conflict|concurrent|already exists", re.IGNORECASE)
_MISSING = re.compile(r"not found|no such file|does not exist", re.IGNORECASE)
_NEWER = re.compile(r"not supported|unsupported|feature flag|newer", re.IGNORECASE)


COMPARED_SLOTS = 128
"""Slots whose rows are compared at once."""

COMPARED_SCHEMA = pa.schema([SCHEMA.field(name) for name in ("scope", "slot", "tx_index", "signature", "subject", "structural_key", "text")])
"""What tells rows apart, and what they say."""

Result = TypeVar("Result")


class Generation(msgspec.Struct, frozen=True):
    """One index: its folder, the digest of its model and what that gives, and the version of the code that makes it."""

    name: str
    model: str
    dimension: int
    version: str

    def is_of(self, model: str) -> bool:
        """Whether rows with vectors of a model belong in it as they are made now."""
        return self.model == model and self.version == VERSION


class Pointer(msgspec.Struct, frozen=True):
    """The index that readers use, and the one that is being made."""

    current: Generation | None = None
    next: Generation | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What writing a range came to.

    Attributes:
        made_from: digest of all that the rows were made from: the range's version.
        documents: documents of the range in the index.
        summaries: summaries of the range in the index.
        vectors: vectors that were new to the index.
        without_vector: documents and summaries that have none, and are found by their words alone.
        left_out: vectors of the lake that are no vectors of this index: of another dimension or model, or not finite.
        changed: False where the index had the same already, and nothing was written.
        is_current: whether readers see it; else it waits in an index that has not yet every range.
    """

    made_from: str
    documents: int
    summaries: int
    vectors: int
    without_vector: int
    left_out: int
    changed: bool
    is_current: bool = True


@dataclass(frozen=True, slots=True)
class Record:
    """What an index says of a range that it has.

    Attributes:
        made_from: digest of what it was made from.
        rows: its documents and summaries.
        length: their terms in all.
        ranking: digest of its file for ranking.
    """

    made_from: str
    rows: int
    length: int
    ranking: str


@dataclass(frozen=True)
class OpenIndex:
    """The index as readers see it, each part at one version, whatever is written meanwhile. Keep it open for many searches.

    Documents are known by their numbers in `ranking`. What is read first on use stays in memory.
    """

    generation: Generation
    documents: lance.LanceDataset
    gists: lance.LanceDataset
    store: Store
    held: Mapping[str, RangeArrays] = field(default_factory=dict, repr=False)
    """Files that are mapped already, by name."""

    @cached_property
    def records(self) -> dict[str, Record]:
        """The ranges that it has, by key."""
        return _records(self.documents)

    @cached_property
    def span(self) -> tuple[int | None, int | None]:
        """The first and the last slot of its ranges; None where it has none."""
        slots = self.documents.to_table(columns=["slot", "last_slot"], filter=f"scope = '{RANGE}'")
        return pc.min(slots["slot"]).as_py(), pc.max(slots["last_slot"]).as_py()

    @cached_property
    def files(self) -> dict[str, RangeArrays]:
        """The file for ranking of each range, by name, in the order of ranges.

        Raises:
            MissingObjectError: one was deleted meanwhile: open the index again.
            PermanentError: one is damaged.
        """
        found = {}
        for key, record in sorted(self.records.items()):
            name = ranking_file(self.generation, key, record.made_from)
            where = self.store.uri(name)
            with lance_errors(where):
                arrays = self.held.get(name) or RangeArrays(self.store, name)
            if arrays.rows != record.rows:
                what = f"it has {arrays.rows:,} documents, and its record {record.rows:,}"
                raise PermanentError(what, where=where, remedy="run `blyan search --rebuild`")
            found[name] = arrays
        return found

    @cached_property
    def ranking(self) -> Ranking:
        """What ranking reads, of all ranges. Errors are those of `files`."""
        return Ranking(list(self.files.values()))

    @cached_property
    def _rows(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """The address of each document's row; and the way back: where each fragment begins in the last array, which has the number at each offset."""
        found = self.documents.scanner(columns=["slot_range", "number"], filter=f"scope != '{RECORD}'", with_row_id=True).to_table()
        keys, sizes = zip(*sorted((key, record.rows) for key, record in self.records.items()), strict=True) if self.records else ((), ())
        bases = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        coded = found["slot_range"].combine_chunks().dictionary_encode()
        base_of = bases[:-1][pc.index_in(coded.dictionary, pa.array(keys, pa.string())).to_numpy()]
        numbers = base_of[coded.indices.to_numpy()] + found["number"].to_numpy()
        addresses = found["_rowid"].to_numpy()
        at = np.zeros(int(bases[-1]), np.uint64)
        at[numbers] = addresses
        if len(numbers) != len(at) or len(np.unique(numbers)) != len(at):
            what = f"it has {len(numbers):,} documents, and its records {len(at):,}"
            raise PermanentError(what, where=self.documents.uri, remedy="run `blyan search --rebuild`")
        fragments, offsets = _split(addresses)
        sizes_of = np.zeros(int(fragments.max(initial=-1)) + 1, np.int64)
        np.maximum.at(sizes_of, fragments, offsets + 1)
        starts = np.cumsum(sizes_of) - sizes_of
        number_at = np.full(int(sizes_of.sum()), -1, np.int32)
        number_at[starts[fragments] + offsets] = numbers
        return at, starts, number_at

    def passing(self, condition: str) -> npt.NDArray[np.bool_]:
        """Which documents meet a condition in LanceDB's SQL, bool [documents]. The last ones that were asked for are remembered."""
        return self._masks(condition)

    @cached_property
    def _masks(self) -> Callable[[str], npt.NDArray[np.bool_]]:
        @lru_cache(MASKS)
        def mask(condition: str) -> npt.NDArray[np.bool_]:
            rows = self.documents.scanner(columns=[], filter=f"scope != '{RECORD}' and ({condition})", with_row_id=True).to_table()
            addresses, starts, number_at = self._rows
            fragments, offsets = _split(rows["_rowid"].to_numpy())
            found = np.zeros(len(addresses), np.bool_)
            found[number_at[starts[fragments] + offsets]] = True
            found.flags.writeable = False
            return found

        return mask

    def rows(self, numbers: Iterable[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Columns of some documents, by number."""
        number_of = {int(self._rows[0][number]): number for number in numbers}
        if not number_of:
            return {}
        only = f"_rowid in ({', '.join(map(str, number_of))})"
        found = self.documents.scanner(columns=list(columns), filter=only, with_row_id=True).to_table().to_pylist()
        return {number_of[row.pop("_rowid")]: row for row in found}

    @cached_property
    def has_vector_index(self) -> bool:
        """Whether gists are found through an index; else they are compared one by one."""
        return VECTOR_INDEX in {index.name for index in self.gists.describe_indices()}

    @cached_property
    def _gist_rows(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Row ids of gists, sorted, and the number of each in `ranking`, -1 where no document has it."""
        rows = self.gists.scanner(columns=["gist"], with_row_id=True).to_table()
        ids, names, known = rows["_rowid"].to_numpy(), gists_named(rows["gist"].to_pylist()), self.ranking.gists
        at = np.minimum(np.searchsorted(known, names), max(len(known) - 1, 0))
        numbers = np.where(known[at] == names, at, -1) if len(known) else np.full(len(names), -1)
        by = np.argsort(ids)
        return ids[by], numbers[by]

    def nearest(self, direction: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
        """The gists that the index of vectors takes for the nearest ones, by number in `ranking`, in no order."""
        nearest = {"column": "vector", "q": direction.astype(np.float32), "k": count, "metric": "cosine", "nprobes": PROBES}
        rows = self.gists.scanner(columns=["_distance"], nearest=nearest, with_row_id=True).to_table()
        ids, numbers = self._gist_rows
        found: npt.NDArray[np.int64] = numbers[np.searchsorted(ids, rows["_rowid"].to_numpy())]
        return np.unique(found[found >= 0])


def _split(addresses: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The fragments of row addresses, and the offsets in them."""
    return (addresses >> np.uint64(32)).astype(np.int64), (addresses & np.uint64(0xFFFFFFFF)).astype(np.int64)


# Reading


def open_index(lake: Lake, last: OpenIndex | None = None) -> OpenIndex:
    """The index that readers use now.

    Args:
        lake: has the index.
        last: an index that was open before: it is given back where it is still the newest version, and its files are kept where they are still used.

    Raises:
        MissingObjectError: there is none.
        PermanentError: another version of this code made it.
    """
    current = read_pointer(lake).current
    if current is None:
        what = "there is no search index yet"
        raise MissingObjectError(what, where=lake.store.uri(FOLDER), remedy="materialise corpus/search_index, or run `blyan search --rebuild`")
    if current.version != VERSION:
        what = f"the search index is of version {current.version}, and this is version {VERSION}"
        raise PermanentError(what, where=lake.store.uri(f"{FOLDER}/{current.name}"), remedy="run `blyan search --rebuild`, or install that version")
    # Documents first: vectors are added before the documents that name them.
    documents, gists = _open(lake, current, "documents"), _open(lake, current, "gists")
    if last is None or last.generation != current:
        return OpenIndex(current, documents, gists, lake.store)
    if (last.documents.version, last.gists.version) == (documents.version, gists.version):
        return last
    return OpenIndex(current, documents, gists, lake.store, last.__dict__.get("files", last.held))


def read_pointer(lake: Lake) -> Pointer:
    """Which index readers use, and which is being made.

    Raises:
        PermanentError: the file is damaged.
    """
    try:
        data = lake.store.get(POINTER)
    except MissingObjectError:
        return Pointer()
    try:
        return msgspec.json.decode(data, type=Pointer)
    except msgspec.DecodeError as error:
        remedy = "delete the file and run `blyan search --rebuild`"
        raise PermanentError(f"it does not say which search index is used: {error}", where=lake.store.uri(POINTER), remedy=remedy) from error


def ranges_held(lake: Lake) -> dict[str, str] | None:
    """What each range of the index was made from, by key, which is its version; None while another index is being made, or of another version.

    Raises:
        PermanentError: the index is damaged.
    """
    pointer = read_pointer(lake)
    if pointer.next is not None or (pointer.current is not None and pointer.current.version != VERSION):
        return None
    return {key: record.made_from for key, record in open_index(lake).records.items()} if pointer.current is not None else {}


# Writing


def write_range(lake: Lake, slots: SlotRange) -> Written:
    """Make the index hold, of a range, exactly what the lake's tables hold.

    One process writes at a time; where two do all the same, one finds the other's version and begins again.

    Args:
        lake: has documents, summaries and embeddings of the range, and the index.
        slots: a range of the grid.

    Raises:
        MissingObjectError: the range has no documents, summaries or embeddings.
        CommitConflictError: other writers were first, every time.
        TransientError: the tables changed while they were read.
    """
    pointer = read_pointer(lake)
    model, dimension = _model_of(lake, slots.key)
    if pointer.current is not None and (not model or pointer.current.is_of(model)):
        return _write(lake, pointer.current, slots.key)
    generation = pointer.next if pointer.next is not None and pointer.next.is_of(model) else _begin(lake, model, dimension)
    written = _write(lake, generation, slots.key)
    if _lacks(lake, pointer.current, generation):
        return dataclasses.replace(written, is_current=False)
    _promote(lake, generation)
    return written


def rebuild(lake: Lake, *, progress: Callable[[int, int], None] | None = None) -> Generation:
    """Make the index again from the lake's tables alone, beside the one there is, and switch to it. Answers are the same after it.

    One that was killed goes on from the ranges it has made.

    Args:
        lake: has the tables.
        progress: told how many ranges are done, and of how many.

    Raises:
        MissingObjectError: no range has embeddings.
    """
    keys = sorted(lake.partitions(EMBEDDINGS).keys() & lake.partitions(DOCUMENTS).keys() & lake.partitions(SUMMARIES).keys())
    if not keys:
        where = lake.store.uri(EMBEDDINGS.name)
        raise MissingObjectError("no range has embeddings", where=where, remedy="materialise corpus/embeddings first")
    model, dimension = next((of for of in (_model_of(lake, key) for key in reversed(keys)) if of[0]), ("", 0))
    begun = read_pointer(lake).next
    generation = begun if begun is not None and begun.is_of(model) else _begin(lake, model, dimension)
    # Ranges that others change meanwhile are written once more.
    while stale := [key for key in keys if _is_stale(lake, generation, key)]:
        for done, key in enumerate(stale, len(keys) - len(stale)):
            if progress is not None:
                progress(done, len(keys))
            _write(lake, generation, key)
    _optimise(lake, generation)
    _promote(lake, generation)
    if progress is not None:
        progress(len(keys), len(keys))
    return generation


def _write(lake: Lake, generation: Generation, key: str) -> Written:
    """Write a range to one index, unless it has the same already."""
    made_from = _made_from(lake, generation, key)
    documents = _open(lake, generation, "documents")
    record = _records(documents, key).get(key)
    if record is not None and record.made_from == made_from:
        return _stood(documents, key, made_from)
    with lake.store.create(ranking_file(generation, key, made_from)) as upload:
        ranking = RankingWriter(upload.stream, generation.dimension)
        added, left_out = _add_vectors(lake, generation, key, ranking)
        rows = RangeRows(lake, key, made_from, ranking)
        fragments = _fragments(lake, generation, rows)
    _replace(lake, generation, key, rows, fragments)
    _refresh_if_due(lake, generation)
    return Written(made_from, rows.documents, rows.summaries, added, rows.without_vector, left_out, changed=True)


def _stood(documents: lance.LanceDataset, key: str, made_from: str) -> Written:
    """What is said of a range that the index has already."""

    def count(condition: str) -> int:
        return int(documents.count_rows(f"slot_range = '{key}' and {condition}"))

    found = f"scope in ({', '.join(map(repr, FOUND))})"
    total, transactions, without = count(found), count(f"scope = '{TRANSACTION}'"), count(f"{found} and gist is null")
    return Written(made_from, transactions, total - transactions, 0, without, 0, changed=False)


def _fragments(lake: Lake, generation: Generation, rows: RangeRows) -> list[Any]:
    """Rows as files that no version has yet."""
    where = _uri(lake, generation, "documents")
    with lance_errors(where):
        made: list[Any] = _lance().fragment.write_fragments(
            pa.RecordBatchReader.from_batches(SCHEMA, rows.batches()), where, SCHEMA, storage_options=lake.storage_options
        )
    return made


def _replace(lake: Lake, generation: Generation, key: str, rows: RangeRows, fragments: list[Any]) -> None:
    """Put the rows of a range in the place of those that stand, in one version."""
    lance = _lance()
    where = _uri(lake, generation, "documents")
    if _made_from(lake, generation, key) != rows.made_from:
        raise TransientError("the tables changed while the index read them", where=f"corpus {key}", remedy="run it again")

    def attempt() -> None:
        documents = _open(lake, generation, "documents")
        of_range = f"slot_range = '{key}'"
        standing = documents.scanner(columns=[], filter=of_range, with_row_address=True).to_table()["_rowaddr"].to_numpy()
        touched = [int(number) for number in np.unique(standing >> np.uint64(32))]
        left = {number: documents.get_fragment(number).delete(of_range) for number in touched}
        change = lance.LanceOperation.Update(
            removed_fragment_ids=[number for number, fragment in left.items() if fragment is None],
            updated_fragments=[fragment for fragment in left.values() if fragment is not None],
            new_fragments=fragments,
        )
        made = lance.LanceDataset.commit(documents, change, read_version=documents.version, max_retries=0, storage_options=lake.storage_options)
        if made.version != documents.version + 1 and made.count_rows(f"{of_range} and scope = '{RECORD}'") != 1:
            # Another writer put the same range in between: its rows and ours both stand. All go, and ours come again.
            raise CommitConflictError("two writers wrote the same range", where=where, remedy="run it again, with one writer at a time")

    _retry(where, attempt)


def _add_vectors(lake: Lake, generation: Generation, key: str, ranking: RankingWriter) -> tuple[int, int]:
    """Add the vectors of a range, to its file and those that are new to the index; how many were new, and how many are no vectors of this index."""
    added = left_out = 0
    for batch in lake.read(EMBEDDINGS, key=key, columns=["text_sha256", "vector", "model"], batch_rows=VECTORS_AT_ONCE):
        sized = pc.equal(pc.list_value_length(batch["vector"]), generation.dimension)
        fit = batch.filter(pc.and_(sized, pc.equal(batch["model"], generation.model)))
        matrix = fit["vector"].flatten().to_numpy(zero_copy_only=False).reshape(len(fit), generation.dimension)
        finite = np.isfinite(matrix).all(axis=1)
        left_out += len(batch) - int(finite.sum())
        names = pc.utf8_slice_codeunits(fit["text_sha256"].filter(pa.array(finite)), 0, GIST_DIGITS)
        ranking.add_vectors(names.to_pylist(), matrix[finite].astype(np.float32))
        new = pa.table([names, _vectors(matrix[finite])], schema=_gists_schema(generation.dimension))
        where = _uri(lake, generation, "gists")
        added += _retry(where, partial(_insert, lake, generation, new))
    return added, left_out


def _insert(lake: Lake, generation: Generation, rows: pa.Table) -> int:
    """Add those of some vectors whose names are not there yet."""
    if not len(rows):
        return 0
    done = _open(lake, generation, "gists").merge_insert("gist").when_not_matched_insert_all().execute(rows)
    return int(done["num_inserted_rows"])


def _vectors(matrix: Any) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix, np.float32).reshape(-1)), matrix.shape[1])


def _gists_schema(dimension: int) -> pa.Schema:
    return pa.schema([pa.field("gist", pa.string(), nullable=False), pa.field("vector", pa.list_(pa.float32(), dimension))])


# Which index


def _begin(lake: Lake, model: str, dimension: int) -> Generation:
    """Make an empty index, which the pointer then names as the next."""
    generation = Generation(f"{model[:12] or 'empty'}-{VERSION}-{uuid.uuid4().hex[:8]}", model, max(dimension, 1), VERSION)
    for name, schema in (("documents", SCHEMA), ("gists", _gists_schema(generation.dimension))):
        where = _uri(lake, generation, name)
        with lance_errors(where):
            made = _lance().write_dataset(schema.empty_table(), where, schema=schema, mode="create", storage_options=lake.storage_options)
            if name == "documents":
                for column, kind in INDEXES.items():
                    made.create_scalar_index(column, kind)
                _index_terms(made)
            else:
                made.create_scalar_index("gist", "BTREE")
    _point(lake, Pointer(read_pointer(lake).current, generation))
    return generation


def _index_terms(documents: lance.LanceDataset) -> None:
    """Make the full text index. Terms are what `blyan.corpus.terms` made them, so nothing is to be folded, cut or left out."""
    documents.create_scalar_index(
        "terms",
        "INVERTED",
        base_tokenizer="whitespace",
        stem=False,
        lower_case=False,
        ascii_folding=False,
        remove_stop_words=False,
        max_token_length=None,
        with_position=False,
        memory_limit=TEXT_INDEX_MIB,
        num_workers=1,
    )


def _promote(lake: Lake, generation: Generation) -> None:
    """Let readers use an index from now on."""
    _point(lake, Pointer(generation, None))


def _point(lake: Lake, pointer: Pointer) -> None:
    lake.store.put(POINTER, msgspec.json.format(msgspec.json.encode(pointer)) + b"\n")


def _lacks(lake: Lake, current: Generation | None, other: Generation) -> bool:
    """Whether an index has not yet every range that readers find now. What cannot be opened has none."""
    if current is None:
        return False
    try:
        held = _records(_open(lake, current, "documents"))
    except PermanentError:
        return False
    return not held.keys() <= _records(_open(lake, other, "documents")).keys()


def _is_stale(lake: Lake, generation: Generation, key: str) -> bool:
    record = _records(_open(lake, generation, "documents"), key).get(key)
    return record is None or record.made_from != _made_from(lake, generation, key)


# Whether it is right


@dataclass(frozen=True, slots=True)
class Account:
    """What the index holds of a range, compared with the lake's tables, row by row.

    Attributes:
        wanted: documents and summaries of the lake.
        held: those of the index.
        missing: rows of the lake that the index has not as they are.
        unexpected: rows of the index that the lake has not as they are, a row that is there twice counted once.
        without_vector: rows of the index that name none.
        lost_vectors: vectors that rows name and that are not there.
        is_ranked: the file that ranking reads is there, as it was written with these rows.
    """

    wanted: int
    held: int
    missing: int
    unexpected: int
    without_vector: int
    lost_vectors: int
    is_ranked: bool

    @property
    def is_exact(self) -> bool:
        """The index has exactly what the lake has."""
        return not self.missing and not self.unexpected and self.wanted == self.held and self.is_ranked


def account_of(lake: Lake, slots: SlotRange) -> Account:
    """Compare a range of the index that was written last with the lake's tables.

    Raises:
        MissingObjectError: there is no index, or the range has no documents or summaries.
    """
    pointer = read_pointer(lake)
    generation = next(
        (each for each in (pointer.current, pointer.next) if each is not None and each.is_of(_model_of(lake, slots.key)[0])), pointer.current
    )
    if generation is None:
        raise MissingObjectError("there is no search index", where=lake.store.uri(FOLDER), remedy="materialise corpus/search_index")
    documents, gists = _open(lake, generation, "documents"), _open(lake, generation, "gists")
    wanted = held = missing = unexpected = without = 0
    names: set[str] = set()
    of_range = f"slot_range = '{slots.key}' and scope in ({', '.join(map(repr, FOUND))})"
    for first in range(slots.first, slots.last + 1, COMPARED_SLOTS):
        last = min(first + COMPARED_SLOTS - 1, slots.last)
        ours = pa.Table.from_batches(_compared(lake, slots.key, first, last), COMPARED_SCHEMA)
        found = documents.to_table(columns=[*COMPARED_SCHEMA.names, "gist"], filter=f"{of_range} and slot between {first} and {last}")
        wanted, held, without = wanted + len(ours), held + len(found), without + found["gist"].null_count
        names |= set(pc.unique(found["gist"].drop_null()).to_pylist())
        sides = [
            rows.append_column("side", pa.array(np.full(len(rows), side))) for rows, side in ((ours, 1), (found.select(COMPARED_SCHEMA.names), -1))
        ]
        both = pa.concat_tables(sides).group_by(COMPARED_SCHEMA.names).aggregate([("side", "sum")])["side_sum"].to_numpy()
        missing, unexpected = missing + int((both > 0).sum()), unexpected + int((both < 0).sum())
    outside = f"{of_range} and not (slot between {slots.first} and {slots.last})"
    stray = documents.count_rows(outside)
    lost = len(names) - _count_named(gists, sorted(names))
    return Account(wanted, held + stray, missing, unexpected + stray, without, lost, _is_ranked(lake, generation, slots.key, documents))


def _is_ranked(lake: Lake, generation: Generation, key: str, documents: lance.LanceDataset) -> bool:
    """Whether the file of a range for ranking is the one that was written with its rows."""
    record = _records(documents, key).get(key)
    try:
        return record is not None and digest_of(lake.store, ranking_file(generation, key, record.made_from)) == record.ranking
    except MissingObjectError:
        return False


def _compared(lake: Lake, key: str, first: int, last: int) -> Iterator[pa.RecordBatch]:
    """Rows of the lake between two slots, by what tells them apart and what they say."""
    for batch in lake.read(
        DOCUMENTS, key=key, columns=["block_slot", "tx_index", "tx_signature", "structural_key", "text"], first_slot=first, last_slot=last
    ):
        scope, nothing = pa.repeat(pa.scalar(TRANSACTION), len(batch)), pa.nulls(len(batch), pa.string())
        yield pa.RecordBatch.from_arrays([scope, batch[0], batch[1], batch[2], nothing, batch[3], batch[4]], schema=COMPARED_SCHEMA)
    for batch in lake.read(SUMMARIES, key=key, columns=["first_slot", "scope", "subject", "text"], first_slot=first, last_slot=last):
        keys = pc.binary_join_element_wise(batch["scope"], batch["subject"], " ")
        index, signature = pa.nulls(len(batch), pa.int64()), pa.nulls(len(batch), pa.string())
        yield pa.RecordBatch.from_arrays(
            [batch["scope"], batch["first_slot"], index, signature, batch["subject"], keys, batch["text"]], schema=COMPARED_SCHEMA
        )


def _count_named(gists: lance.LanceDataset, names: list[str]) -> int:
    """How many of some vectors are there; one that is there twice counts once."""
    found: set[str] = set()
    for start in range(0, len(names), VECTORS_AT_ONCE):
        only = f"gist in ({', '.join(map(repr, names[start : start + VECTORS_AT_ONCE]))})"
        found |= set(gists.to_table(columns=["gist"], filter=only)["gist"].to_pylist())
    return len(found)


# Upkeep: none of it changes an answer


def maintain(lake: Lake, *, retention_hours: int) -> list[str]:
    """Join small files, bring the indexes up to date, and delete what no reader of the last `retention_hours` needs.

    Args:
        lake: has the index; where it has none, nothing is done.
        retention_hours: longer than any reader.

    Returns:
        What was done, in words.
    """
    pointer = read_pointer(lake)
    said = []
    for generation in (pointer.current, pointer.next):
        if generation is not None and generation.version == VERSION:
            # In this order: fragments that an index covers are not joined with others.
            _optimise(lake, generation)
            _upkeep(lake, generation, "gists", partial(_train, again=True))
            _compact(lake, generation)
            _clean(lake, generation, retention_hours)
            said.append(f"search index {generation.name}: {_open(lake, generation, 'documents').count_rows():,} rows")
    return said + [f"search index {name} deleted" for name in _drop_unnamed(lake, pointer, retention_hours)]


def _compact(lake: Lake, generation: Generation) -> None:
    """Write fragments that are small, or of which much is deleted, anew as few large ones."""
    for name in DATASETS:
        _upkeep(lake, generation, name, lambda dataset: dataset.optimize.compact_files(num_threads=1, batch_size=1_024))


def _optimise(lake: Lake, generation: Generation) -> None:
    """Take every row into the indexes, and make that of vectors where there is none and are enough of them."""
    for name in DATASETS:
        _upkeep(lake, generation, name, lambda dataset: dataset.optimize.optimize_indices())
    _upkeep(lake, generation, "gists", partial(_train, again=False))


def _train(gists: lance.LanceDataset, *, again: bool) -> None:
    """Make the index of vectors where there is none; and `again` where there are many more than it was trained on.

    Vectors that came since are in it, or are compared one by one, but in partitions that were drawn without them. One byte a component
    (IVF_SQ): in a trial of 40 questions on 200,000 vectors it found 0.97 of the ten nearest in the time in which product quantisation to an
    eighth of that (IVF_PQ) found 0.82.
    """
    count = gists.count_rows()
    if count < INDEXED_VECTORS:
        return
    partitions = max(1, min(2 ** round(np.log2(np.sqrt(count))), count // VECTORS_PER_PARTITION))
    trained = _partitions_of(gists) if VECTOR_INDEX in {index.name for index in gists.describe_indices()} else 0
    if not trained or (again and partitions >= TRAINED_AGAIN * trained):
        gists.create_index("vector", "IVF_SQ", VECTOR_INDEX, metric="cosine", replace=True, num_partitions=partitions)


def _partitions_of(gists: lance.LanceDataset) -> int:
    return len(gists.get_ivf_model(VECTOR_INDEX).centroids)


def _refresh_if_due(lake: Lake, generation: Generation) -> None:
    """Bring the indexes up to date where more rows wait for it than they have, or so many that searches become slow."""
    stats = _open(lake, generation, "documents").stats.index_stats("terms_idx")
    if stats["num_unindexed_rows"] > min(stats["num_indexed_rows"], REFRESHED_ROWS):
        _optimise(lake, generation)


def _clean(lake: Lake, generation: Generation, retention_hours: int) -> None:
    """Delete the files of old versions, and those of killed writers."""
    folder, old = f"{FOLDER}/{generation.name}/{RANKING}", time.time() - retention_hours * 3600
    # Those that are there are read first: a file that comes with a record meanwhile is none of them.
    there = lake.store.changed(folder)
    used = {ranking_file(generation, key, record.made_from) for key, record in _records(_open(lake, generation, "documents")).items()}
    lake.store.delete([name for file, at in there.items() if at < old and (name := f"{folder}/{file}") not in used])
    for name in DATASETS:
        _upkeep(lake, generation, name, lambda dataset: dataset.cleanup_old_versions(timedelta(hours=retention_hours)))


def _upkeep(lake: Lake, generation: Generation, name: str, work: Callable[[Any], object]) -> None:
    """Do something to the newest version of a dataset, again where another writer was first."""
    _retry(_uri(lake, generation, name), lambda: work(_open(lake, generation, name)))


def _drop_unnamed(lake: Lake, pointer: Pointer, retention_hours: int) -> list[str]:
    """Delete the indexes that the pointer does not name, once they are older than any reader; their names."""
    named = {generation.name for generation in (pointer.current, pointer.next) if generation is not None}
    dropped = []
    for name in lake.store.folders(FOLDER):
        if name not in named and time.time() - lake.store.changed_at(f"{FOLDER}/{name}") >= retention_hours * 3600:
            lake.store.delete_folder(f"{FOLDER}/{name}")
            dropped.append(name)
    return dropped


# What it was made from


def _made_from(lake: Lake, generation: Generation, key: str) -> str:
    """The digest of all that the rows of a range depend on."""
    digests = []
    for table in (DOCUMENTS, SUMMARIES, EMBEDDINGS):
        digests.append(sorted({file.digest or "" for file in lake.files(table, keys=[key])}))
        if not digests[-1]:
            where = lake.store.uri(table.name)
            raise MissingObjectError(f"{table.name} has no partition {key}", where=where, remedy="materialise it first")
    return made_from(generation, digests)


def made_from(generation: Generation, digests: Iterable[Sequence[str]]) -> str:
    """The digest of all that the rows of a range depend on: `Record.made_from`.

    Args:
        generation: the index.
        digests: content digests of the range in documents, summaries and embeddings, in this order; those of each sorted.
    """
    parts = [generation.version, generation.model, *(digest for of_table in digests for digest in of_table)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _model_of(lake: Lake, key: str) -> tuple[str, int]:
    """The model that embedded a range, and the components of its vectors, those of most where they differ; nothing and 0 where there are none."""
    for batch in lake.read(EMBEDDINGS, key=key, columns=["vector", "model"], batch_rows=VECTORS_AT_ONCE):
        kinds = pa.table({"model": batch["model"], "size": pc.list_value_length(batch["vector"])}).group_by(["model", "size"])
        most = kinds.aggregate([([], "count_all")]).sort_by([("count_all", "descending"), ("model", "ascending"), ("size", "ascending")])
        return most["model"][0].as_py(), most["size"][0].as_py()
    return "", 0


def _records(documents: lance.LanceDataset, key: str | None = None) -> dict[str, Record]:
    """The records of all ranges, or of one."""
    only = f"scope = '{RECORD}'" + ("" if key is None else f" and slot_range = '{key}'")
    rows = documents.to_table(columns=["slot_range", "subject", "count", "length", "text"], filter=only)
    return {row["slot_range"]: Record(row["subject"], row["count"], row["length"], row["text"]) for row in rows.to_pylist()}


# Files


def ranking_file(generation: Generation, key: str, made_from: str) -> str:
    """The file for ranking of a range that was made from this."""
    return f"{FOLDER}/{generation.name}/{RANKING}/{key}-{made_from[:32]}.arrow"


def _lance() -> Any:
    """The library, which warns of its own doings on the error output unless it is told not to before it is imported."""
    os.environ.setdefault("LANCE_LOG", "error")
    import lance

    return lance


def _uri(lake: Lake, generation: Generation, name: str) -> str:
    return lake.store.uri(f"{FOLDER}/{generation.name}/{name}.lance")


def _open(lake: Lake, generation: Generation, name: str) -> lance.LanceDataset:
    """The newest version of a dataset."""
    where = _uri(lake, generation, name)
    with lance_errors(where):
        return _lance().dataset(where, storage_options=lake.storage_options)


def _retry(where: str, attempt: Callable[[], Result]) -> Result:
    """Try until no other writer is first, with growing, jittered pauses."""
    for tries in range(TRIES):
        try:
            with lance_errors(where):
                return attempt()
        except CommitConflictError:
            time.sleep(random.uniform(0, min(0.05 * 2**tries, 2.0)))  # noqa: S311
    raise CommitConflictError(f"other writers were first {TRIES} times", where=where, remedy="run it again, with one writer at a time")


@contextlib.contextmanager
def lance_errors(where: str) -> Iterator[None]:
    """Turn errors of Lance into ours; it has no classes of its own, but says what is wrong."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        text = str(error)
        if _MISSING.search(text):
            remedy = "run `blyan search --rebuild`, or read again: it may have been replaced"
            raise MissingObjectError("the search index, or a file of it, is not in the store", where=where, remedy=remedy) from error
        if _CONFLICT.search(text):
            raise CommitConflictError(f"another writer was first: {text}", where=where, remedy="run it again") from error
        if _NEWER.search(text):
            raise PermanentError(f"the search index cannot be read: {text}", where=where, remedy="run `blyan search --rebuild`") from error
        raise meaning_of(error, where) from error
