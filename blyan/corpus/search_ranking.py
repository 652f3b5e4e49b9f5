"""What ranking reads of the documents of a range: flat arrays in one file, which readers map into memory.

Belongs here: the arrays, their file, and those of all ranges seen as one. Does not belong here: where files are kept, and which of them
belong to an index (`blyan.corpus.search_index`), or how documents are ranked (`blyan.query.search`).

A file of LanceDB is read column by column and page by page, which costs milliseconds a request however little is asked for; these arrays cost
what their bytes cost. They say nothing that the rows of the index do not say. A file is written before the rows whose record names it, and never
changed. Processes of a machine share its pages, and the system takes back those that nobody reads.

A file is Arrow IPC, whose batches have one row of lists: a batch has vectors of the range, or up to `BATCH_ROWS` of its documents with the places
of their terms. A term is known by 64 bits of its BLAKE2b: that of 10^8 terms one is taken for a word that is looked for has a chance of one in 10^11. The
same holds of templates and gists.
"""

from __future__ import annotations

import hashlib
import mmap
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blyan.store import Store

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

COPIED_BYTES = 1 << 20
"""Bytes of a bucket's file that are copied at once."""

MOST_OFTEN = np.iinfo(np.uint16).max
"""A term that a text has more often counts as if it had it so often: BM25 tells them no more apart."""

_SCHEMA = pa.schema(
    [
        pa.field(name, pa.large_list(kind), nullable=False)
        for name, kind in {
            "gists": pa.uint64(),
            "vectors": pa.float32(),
            "slots": pa.int64(),
            "lengths": pa.int32(),
            "templates": pa.uint64(),
            "vector_of": pa.int32(),
            "terms": pa.uint64(),
            "starts": pa.int64(),
            "rows": pa.int32(),
            "often": pa.uint16(),
        }.items()
    ]
)
"""`gists` and `vectors` are those of the range. `slots`, `lengths` (in terms), `templates` and `vector_of` (place among the gists of the range, -1 for
none) are of documents; `terms` are sorted, and those of `starts[t]` to `starts[t + 1]` of `rows` have term `t`, as `often` as it says."""


def named(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """What texts are known by."""
    return np.frombuffer(b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts), np.uint64)


def gists_named(gists: Sequence[str]) -> npt.NDArray[np.uint64]:
    """What gists are known by: the first 64 bits of the digests that name them, in hex."""
    return np.frombuffer(bytes.fromhex("".join(gist[:16] for gist in gists)), ">u8").astype(np.uint64)


class RankingWriter:
    """Writes the file of a range: first its vectors, then its documents.

    Args:
        stream: takes the bytes; the caller closes it.
        dimension: components of a vector.
    """

    def __init__(self, stream: Any, dimension: int) -> None:
        self._hashed = _Hashed(stream)
        self._file = pa.ipc.new_file(pa.PythonFile(self._hashed, "w"), _SCHEMA)
        self._dimension = dimension
        self._numbers: dict[str, int] = {}
        self._vectors = 0
        self.rows = 0

    @property
    def gists(self) -> pa.StringArray:
        """Names of the vectors, in their order; a name that came twice stands once, with null for the other."""
        names: list[str | None] = [None] * self._vectors
        for name, number in self._numbers.items():
            names[number] = name
        return pa.array(names, pa.string())

    def add_vectors(self, gists: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        """Vectors by the names of their gists.

        Args:
            gists: their names.
            vectors: shape [gists, dimension].
        """
        for number, gist in enumerate(gists, self._vectors):
            self._numbers.setdefault(gist, number)
        self._vectors += len(gists)
        self._write(gists=gists_named(gists), vectors=vectors.reshape(-1))

    def add_documents(self, slots: pa.Array, templates: pa.Array, vector_of: npt.NDArray[np.int32], terms: pa.ListArray) -> None:
        """Documents in the order in which those of one slot are shown.

        Args:
            slots: their first slots.
            templates: their structural keys.
            vector_of: number of each one's gist in `gists`, -1 for none.
            terms: of each.
        """
        lengths = np.diff(terms.offsets.to_numpy())
        keys = templates.dictionary_encode()
        self.rows += len(lengths)
        self._write(
            slots=slots.to_numpy(), lengths=lengths, templates=named(keys.dictionary.to_pylist())[keys.indices.to_numpy()], vector_of=vector_of, **_places(terms, lengths)
        )  # fmt: skip

    def finish(self) -> str:
        """End the file; the SHA-256 of its bytes, in hex."""
        self._file.close()
        return self._hashed.sha256.hexdigest()

    def _write(self, **arrays: npt.NDArray[Any]) -> None:
        columns = []
        for of in _SCHEMA:
            values = pa.array(np.ascontiguousarray(arrays.get(of.name, ())), of.type.value_type)
            columns.append(pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values))
        self._file.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))


def _places(terms: pa.ListArray, lengths: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """In which documents each term is, and how often."""
    coded = terms.flatten().dictionary_encode()
    names = named(coded.dictionary.to_pylist())
    by_name = np.argsort(names)
    rank = np.empty(len(names), np.int64)
    rank[by_name] = np.arange(len(names))
    documents = max(len(lengths), 1)
    pairs, often = np.unique(rank[coded.indices.to_numpy()] * documents + np.repeat(np.arange(len(lengths)), lengths), return_counts=True)
    starts = np.concatenate([[0], np.cumsum(np.bincount(pairs // documents, minlength=len(names)))])
    return {"terms": names[by_name], "starts": starts, "rows": pairs % documents, "often": np.minimum(often, MOST_OFTEN)}


class _Hashed:
    """A stream that is hashed as it is written."""

    closed = False

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self._stream.write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The stream is its owner's."""


def digest_of(store: Store, name: str) -> str:
    """The SHA-256 of a file's bytes, in hex.

    Raises:
        MissingObjectError: there is no such file.
    """
    sha256 = hashlib.sha256()
    with store.open(name) as file:
        while part := file.read(COPIED_BYTES):
            sha256.update(part)
    return sha256.hexdigest()


@dataclass(frozen=True, slots=True)
class Postings:
    """Documents of a batch and the places of their terms, as `_SCHEMA` has them; `base` is the number of the first document."""

    base: int
    terms: npt.NDArray[np.uint64]
    starts: Numbers
    rows: npt.NDArray[np.int32]
    often: npt.NDArray[np.uint16]


class RangeArrays:
    """The arrays of one range, mapped.

    Args:
        store: has the file.
        name: of the file. One in a bucket is copied to a temporary file, which is gone with the object.

    Raises:
        MissingObjectError: there is no such file.
        OSError, ValueError: it cannot be read.
    """

    def __init__(self, store: Store, name: str) -> None:
        file = pa.ipc.open_file(_mapped(store, name))
        batches = [_arrays(file.get_batch(number)) for number in range(file.num_record_batches)]
        self.vectors = [(batch["gists"], batch["vectors"].reshape(len(batch["gists"]), -1)) for batch in batches if len(batch["gists"])]
        self.documents = [batch for batch in batches if len(batch["slots"])]
        self.rows = sum(len(batch["slots"]) for batch in self.documents)


def _mapped(store: Store, name: str) -> pa.Buffer:
    if store.is_local:
        with pa.memory_map(store.path(name)) as file:
            return file.read_buffer()
    with tempfile.TemporaryFile() as copy, store.open(name) as file:
        shutil.copyfileobj(file, copy, COPIED_BYTES)
        copy.flush()
        return pa.py_buffer(mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ))


def _arrays(batch: pa.RecordBatch) -> dict[str, npt.NDArray[Any]]:
    return {name: batch[name].flatten().to_numpy() for name in _SCHEMA.names}


class _Groups:
    """The places of equal numbers from 0 on, which come first to last; those of -1 are left out."""

    def __init__(self, numbers: npt.NDArray[np.int32], count: int) -> None:
        by = np.argsort(numbers, kind="stable").astype(np.int32)
        self._members = by[len(by) - np.count_nonzero(numbers >= 0) :]
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(numbers[self._members], minlength=count), dtype=np.int64)])

    def members(self, groups: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int32], Numbers]:
        """The members of some groups, one group after the other, and how many each has."""
        starts = self.starts[groups]
        counts = self.starts[groups + 1] - starts
        ends = np.cumsum(counts)
        at = np.arange(int(counts.sum())) + np.repeat(starts - (ends - counts), counts)
        return self._members[at], counts


class Ranking:
    """The arrays of several ranges as those of one. Documents, templates and gists are known by their numbers.

    In memory are some 40 bytes a document and 24 a gist; terms, their places and vectors stay in the mapped files.

    Attributes:
        documents: how many there are.
        slots: first slot of each, int64 [documents].
        ranks: place of each by slot, and of one slot by number, int32 [documents].
        lengths: terms of each, int32 [documents].
        template_of: int32 [documents].
        gist_of: int32 [documents], -1 where it has no vector.
        gists: what gists are known by (see `gists_named`), sorted, uint64 [gists].
    """

    def __init__(self, ranges: Sequence[RangeArrays]) -> None:
        batches = [batch for of in ranges for batch in of.documents]
        bases = np.cumsum([0, *(len(batch["slots"]) for batch in batches)], dtype=np.int64)
        self.documents = int(bases[-1])
        self.slots: Numbers = _joined([batch["slots"] for batch in batches], np.int64)
        self.ranks = np.empty(self.documents, np.int32)
        self.ranks[np.argsort(self.slots, kind="stable")] = np.arange(self.documents)
        self.lengths: npt.NDArray[np.int32] = _joined([batch["lengths"] for batch in batches], np.int32)
        self._postings = [
            Postings(base, batch["terms"], batch["starts"], batch["rows"], batch["often"])
            for base, batch in zip(bases[:-1].tolist(), batches, strict=True)
        ]
        templates, coded = np.unique(_joined([batch["templates"] for batch in batches], np.uint64), return_inverse=True)
        self.template_of = coded.astype(np.int32)
        self._by_template = _Groups(self.template_of, len(templates))
        blocks = [block for of in ranges for block in of.vectors]
        self._blocks = [vectors for _, vectors in blocks]
        self._block_ends = np.cumsum([len(vectors) for vectors in self._blocks], dtype=np.int64)
        # A gist that several ranges have is read from the first.
        self.gists, self._home, number = np.unique(_joined([names for names, _ in blocks], np.uint64), return_index=True, return_inverse=True)
        self.gist_of = np.full(self.documents, -1, np.int32)
        bases_left, first = iter(bases.tolist()), 0
        for of in ranges:
            for batch in of.documents:
                base, own = next(bases_left), batch["vector_of"]
                has = np.flatnonzero(own >= 0)
                self.gist_of[base + has] = number[first + own[has]]
            first += sum(len(names) for names, _ in of.vectors)
        self._by_gist = _Groups(self.gist_of, len(self.gists))

    @property
    def templates(self) -> int:
        """How many templates there are."""
        return len(self._by_template.starts) - 1

    @cached_property
    def mean_length(self) -> float:
        """Terms of a document on average."""
        return float(self.lengths.sum(dtype=np.int64)) / max(self.documents, 1)

    def of_template(self, template: int) -> npt.NDArray[np.int32]:
        """The documents of a template."""
        return self._by_template.members(np.array([template]))[0]

    def with_gists(self, gists: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int32], Numbers]:
        """The documents of each gist, one gist after the other, and how many each has."""
        return self._by_gist.members(gists)

    def places(self, terms: Sequence[str]) -> list[list[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint16], int]]]:
        """For each term, by parts: documents that have it, how often, and what is to be added to the number of a document."""
        names = named(terms)
        found: list[list[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint16], int]]] = [[] for _ in terms]
        for part in self._postings:
            at = np.searchsorted(part.terms, names)
            for place in np.flatnonzero(part.terms[np.minimum(at, len(part.terms) - 1)] == names) if len(part.terms) else ():
                start, end = part.starts[at[place]], part.starts[at[place] + 1]
                found[place].append((part.rows[start:end], part.often[start:end], part.base))
        return found

    def vectors(self, gists: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Vectors of some gists, shape [gists, dimension]; they have length 1."""
        at = self._home[gists]
        block = np.searchsorted(self._block_ends, at, side="right")
        out = np.empty((len(at), self._blocks[0].shape[1] if self._blocks else 0), np.float32)
        for number in np.unique(block):
            which, matrix = block == number, self._blocks[number]
            out[which] = matrix[at[which] - (self._block_ends[number] - len(matrix))]
        return out

    @cached_property
    def all_vectors(self) -> npt.NDArray[np.float32]:
        """Vectors of all gists, in memory: for an index that compares them one by one."""
        return self.vectors(np.arange(len(self.gists)))


def _joined(parts: Sequence[npt.NDArray[Any]], kind: type) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)
