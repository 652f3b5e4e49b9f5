"""Vectors that were made once: `embeddings/<digest of the model>/<SHA-256 of the file>.parquet` under the root of the lake.

Belongs here: finding and adding vectors by the digest of their text. Does not belong here: making them (`blyan.corpus.embedder`),
or which text belongs to which range.

A file holds texts' digests and their vectors and is never changed; its name is the digest of its bytes. It appears whole or not
at all, so a process that is killed costs the texts it had not yet added. Two writers write two files; a text in both has the same
vector in both. Models have folders of their own and are never mixed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from blyan.corpus.embedder import Embedder, Vectors, check_texts
from blyan.errors import MissingObjectError, PermanentError
from blyan.store import Store, errors_of

FOLDER = "embeddings"

TEXTS_PER_FILE = 4_096
"""Texts that are embedded before their vectors are added: what a killed process loses at most, and what is in memory besides the answer."""

ROWS_PER_GROUP = 512
"""Rows that are read for one vector at most: 0.8 MB at 384 dimensions."""

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of some texts, and what they cost.

    Attributes:
        vectors: float32 [texts, dimension], of length 1, in the order of the texts.
        texts: how many there were.
        distinct: how many different ones.
        embedded: how many of those were not in the cache, and went to the model.
        truncated: of how many of those the model read only the beginning.
    """

    vectors: Vectors
    texts: int
    distinct: int
    embedded: int
    truncated: int

    @property
    def saved_share(self) -> float:
        """The part of the texts that the model was spared, from 0 to 1; 0 where there are none."""
        return 1 - self.embedded / self.texts if self.texts else 0.0


class EmbeddingCache:
    """The vectors of one model in a store. One object belongs to one thread; any number of processes may add to the same store.

    In memory are 16 bytes a vector, so that 10 million take 160 MB.
    """

    def __init__(self, store: Store, embedder: Embedder) -> None:
        """Nothing is read yet."""
        self.folder = f"{FOLDER}/{embedder.digest}"
        self._store, self._embedder = store, embedder
        self._files: list[str] = []
        # By the first 8 bytes of the text's digest, sorted; places are (file, row).
        self._keys = np.empty(0, np.uint64)
        self._places = np.empty((0, 2), np.uint32)

    def embed(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> Embedded:
        """The vectors of all texts, of which only those that are new go to the model, each once.

        Args:
            texts: any number; the vectors of all of them are in memory at the end.
            progress: told how many distinct texts are done, as that grows.

        Raises:
            BadRecordError: a text is empty or no text; nothing was embedded.
            PermanentError: a file of the cache is damaged, or the model broke its word.
        """
        check_texts(texts)
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        first = {digest: index for index, digest in reversed(list(enumerate(digests)))}
        # Each distinct text once, in the order of the texts: the same files are made of the same texts.
        order = sorted(first, key=first.__getitem__)
        row_of = {digest: row for row, digest in enumerate(order)}
        vectors = np.empty((len(order), self._embedder.dimension), np.float32)
        missing = self._read(order, vectors)
        truncated = -self._embedder.truncated
        if progress is not None:
            progress(len(order) - len(missing))
        for start in range(0, len(missing), TEXTS_PER_FILE):
            rows = missing[start : start + TEXTS_PER_FILE]
            made = self._embedder.embed([texts[first[order[row]]] for row in rows])
            vectors[rows] = self._checked(made, len(rows))
            self._add([order[row] for row in rows], made)
            if progress is not None:
                progress(len(order) - len(missing) + start + len(rows))
        truncated += self._embedder.truncated
        found = vectors[[row_of[digest] for digest in digests]] if len(order) < len(texts) else vectors
        return Embedded(found, len(texts), len(order), len(missing), truncated)

    def __len__(self) -> int:
        """Vectors that are there, those of a text that two writers added counted twice."""
        self._look()
        return len(self._keys)

    def _checked(self, made: Vectors, count: int) -> Vectors:
        if made.shape != (count, self._embedder.dimension) or made.dtype != np.float32:
            raise PermanentError(
                f"the embedder gave {made.dtype} {list(made.shape)}, not float32 {[count, self._embedder.dimension]}",
                where=self._embedder.name,
                remedy="use another embedder",
            )
        return made

    def _add(self, digests: Sequence[bytes], vectors: Vectors) -> None:
        """One new file, sorted by digest."""
        by_digest = sorted(range(len(digests)), key=digests.__getitem__)
        flat = pa.array(np.ascontiguousarray(vectors[by_digest]).reshape(-1))
        table = pa.table(
            {
                "text_sha256": pa.array([digests[row] for row in by_digest], pa.binary(DIGEST_BYTES)),
                "vector": pa.FixedSizeListArray.from_arrays(flat, self._embedder.dimension),
            }
        )
        sink = pa.BufferOutputStream()
        # Components of vectors have no pattern: zstd takes 7 % off them, and time.
        pq.write_table(table, sink, row_group_size=ROWS_PER_GROUP, compression="none", use_dictionary=False, write_page_checksum=True)
        data = sink.getvalue().to_pybytes()
        self._store.put(f"{self.folder}/{hashlib.sha256(data).hexdigest()}.parquet", data)

    def _look(self) -> None:
        """Take in the files that are new since the last look."""
        known = set(self._files)
        keys, places = [self._keys], [self._places]
        for name in sorted(self._store.listed(self.folder)):
            if name.endswith(".parquet") and name not in known:
                found = _prefixes(self._table(name, columns=["text_sha256"]).column(0))
                keys.append(found)
                places.append(np.column_stack([np.full(len(found), len(self._files), np.uint32), np.arange(len(found), dtype=np.uint32)]))
                self._files.append(name)
        joined = np.concatenate(keys)
        by_key = np.argsort(joined, kind="stable")
        self._keys, self._places = joined[by_key], np.concatenate(places)[by_key]

    def _read(self, digests: Sequence[bytes], vectors: Vectors) -> list[int]:
        """Put the vectors that are there where they belong; the rows of the others.

        Two texts whose digests begin alike (one pair in 10^19) share a place, and one of them is embedded every time.
        """
        self._look()
        wanted = np.frombuffer(b"".join(digests), ">u8").reshape(-1, DIGEST_BYTES // 8)[:, 0].astype(np.uint64)
        at = np.searchsorted(self._keys, wanted)
        at[at == len(self._keys)] = 0
        there = np.flatnonzero(self._keys[at] == wanted) if len(self._keys) else np.empty(0, np.int64)
        missing = np.ones(len(digests), bool)
        files = self._places[at[there], 0] if len(there) else there
        for number in np.unique(files):
            rows = there[files == number]
            table = self._rows(self._files[number], self._places[at[rows], 1])
            stored = table.column("text_sha256").to_pylist()
            right = np.array([digest == digests[row] for digest, row in zip(stored, rows, strict=True)])
            values = table.column("vector").combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
            if values.shape[1] != self._embedder.dimension:
                raise PermanentError(
                    f"a vector has {values.shape[1]} components, not {self._embedder.dimension}",
                    where=self._where(self._files[number]),
                    remedy="delete the file: its texts are embedded again",
                )
            vectors[rows[right]] = values[right]
            missing[rows[right]] = False
        return [int(row) for row in np.flatnonzero(missing)]

    def _rows(self, name: str, rows: npt.NDArray[Any]) -> pa.Table:
        """Rows of a file in the order given, from the row groups they are in."""
        groups, at = np.unique(rows // ROWS_PER_GROUP, return_inverse=True)
        table = self._table(name, groups=[int(group) for group in groups])
        return table.take(pa.array(at * ROWS_PER_GROUP + rows % ROWS_PER_GROUP))

    def _table(self, name: str, *, columns: list[str] | None = None, groups: list[int] | None = None) -> pa.Table:
        """Columns, or row groups, of a file whose pages are what was written."""
        try:
            with errors_of(self._where(name)), self._store.open(f"{self.folder}/{name}") as source:
                file = pq.ParquetFile(source, page_checksum_verification=True)
                return file.read(columns=columns) if groups is None else file.read_row_groups(groups)
        except MissingObjectError:
            raise
        except PermanentError as error:
            raise PermanentError(error.what, where=error.where, remedy="delete the file: its texts are embedded again") from error

    def _where(self, name: str) -> str:
        return self._store.uri(f"{self.folder}/{name}")


def _prefixes(digests: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """The first 8 bytes of each digest as numbers."""
    chunks = [np.frombuffer(chunk.buffers()[1], ">u8", len(chunk) * 4, chunk.offset * DIGEST_BYTES)[::4] for chunk in digests.chunks]
    return np.concatenate([np.empty(0, ">u8"), *chunks]).astype(np.uint64)
