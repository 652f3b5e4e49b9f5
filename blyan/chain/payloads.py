"""Payloads of blocks by their SHA-256.

Belongs here: keeping, reading, checking and moving them. Does not belong here: which may leave (`blyan.chain.pruning`).

They lie in `chain/payloads`, apart from the lake's other blobs, so that what leaves here is never something that another table names. What
left is in cold storage, another store of the same layout, and is read from there where that is given. The payload of no bytes is nowhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from blyan.errors import MissingObjectError, PermanentError
from blyan.store import Store, errors_of, meaning_of

FOLDER = "chain/payloads"

NOTHING = hashlib.sha256(b"").hexdigest()

PIECE_BYTES = 8 << 20
"""Bytes of a large payload that are held at once."""

ABSENT = "it is not in the store"


class Payloads:
    """Payloads in a store, and in cold storage behind it.

    Args:
        store: of the lake.
        cold: where pruned payloads went; None where nobody can say.
    """

    def __init__(self, store: Store, cold: Store | None = None) -> None:
        self._store, self._cold = store, cold
        self._folder = store.path(FOLDER)

    def put(self, payload: bytes | Path, *, durable: bool = True, again: bool = False) -> tuple[str, int]:
        """Keep a payload; its SHA-256 (hex) and size. Bytes that are there already cost one look.

        Args:
            payload: bytes, or a file.
            durable: whether it survives a loss of power when this returns; else `sync` sees to that, for many at once.
            again: whether to write it even so, in the place of bytes that are damaged.

        Raises:
            StoreFullError: no space.
            PermanentError: the file changed while it was read.
        """
        if isinstance(payload, bytes):
            digest, size = hashlib.sha256(payload).hexdigest(), len(payload)
        else:
            with errors_of(str(payload)), payload.open("rb") as file:
                digest, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
        if digest == NOTHING or (not again and self._store.size(_name(digest)) == size):
            return digest, size
        if isinstance(payload, bytes):
            with self._store.create(_name(digest), durable=durable) as upload:
                upload.stream.write(payload)
        else:
            self._copy(payload, digest)
        return digest, size

    def sync(self, digests: Iterable[str]) -> None:
        """Make payloads survive a loss of power, side by side."""
        self._store.sync(_name(digest) for digest in {*digests} - {NOTHING})

    def get(self, digest: str) -> bytes:
        """The payload with this SHA-256, from wherever it is.

        Raises:
            MissingObjectError: it is neither here nor in cold storage.
            PermanentError: the stored bytes have another SHA-256.
        """
        if digest == NOTHING:
            return b""
        data = self._get(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            where = self._store.uri(_name(digest))
            raise PermanentError("the bytes of the payload have another SHA-256", where=where, remedy="delete it and sync from another node")
        return data

    def has(self, digest: str) -> bool:
        """Whether it is here; cold storage does not count."""
        return digest == NOTHING or self._store.size(_name(digest)) is not None

    def problem(self, digest: str, size: int) -> tuple[str, str] | None:
        """The field of a header that the stored payload contradicts, and how; `ABSENT` where it is not here. It is read whole."""
        try:
            found, length = self._digest(digest, size)
        except MissingObjectError:
            return "payload_sha256", ABSENT
        if length != size:
            return "payload_size", f"the stored payload has {'more' if length > size else length} bytes, not {size}"
        return None if found == digest else ("payload_sha256", f"the stored payload has SHA-256 {found}")

    def move(self, digests: Iterable[str], to: Store) -> int:
        """Take payloads out, into cold storage of the same layout; bytes that left. One is deleted here only when it is durable and whole there.

        Raises:
            PermanentError: cold storage is this very store, or has other bytes under the same name.
        """
        if self._is_here(to):
            raise PermanentError("cold storage is the store itself", where=to.root, remedy="name another folder or bucket")
        cold, moved = Payloads(to), 0
        for digest in digests:
            if digest != NOTHING and self.has(digest):
                data = self.get(digest)
                cold.put(data)
                if (problem := cold.problem(digest, len(data))) is not None:
                    raise PermanentError(problem[1], where=to.uri(_name(digest)), remedy="delete it there, and prune again")
                self._store.delete([_name(digest)])
                moved += len(data)
        return moved

    def _is_here(self, other: Store) -> bool:
        """Whether another store is this one, by whatever name."""
        here, there = Path(self._store.root), Path(other.root)
        if not (self._store.is_local and other.is_local):
            return self._store.root == other.root
        return (here / FOLDER).resolve() == (there / FOLDER).resolve()

    def _get(self, digest: str) -> bytes:
        try:
            return self._store.get(_name(digest))
        except MissingObjectError:
            if self._cold is None:
                raise
            return self._cold.get(_name(digest))

    def _digest(self, digest: str, size: int) -> tuple[str, int]:
        """SHA-256 and length of what is stored, a longer length where it is longer. A small payload on a disk takes 10 µs; `Store.open`, 60."""
        if digest == NOTHING:
            return NOTHING, 0
        if self._store.is_local and size <= PIECE_BYTES:
            data = _read_small(f"{self._folder}/{digest[:2]}/{digest[2:4]}/{digest}", size)
            return hashlib.sha256(data).hexdigest(), len(data)
        hashed, length = hashlib.sha256(), 0
        with errors_of(self._store.uri(_name(digest))), self._store.open(_name(digest)) as source:
            while piece := source.read(PIECE_BYTES):
                hashed.update(piece)
                length += len(piece)
        return hashed.hexdigest(), length

    def _copy(self, path: Path, digest: str) -> None:
        hashed = hashlib.sha256()
        with self._store.create(_name(digest)) as upload, path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                hashed.update(piece)
                upload.stream.write(piece)
            if hashed.hexdigest() != digest:
                raise PermanentError("the file changed while it was read", where=str(path), remedy="append it when nobody writes it")


def _read_small(path: str, size: int) -> bytes:
    """The bytes of a file, and of a longer one that many and one more."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            data = os.read(descriptor, size + 1)
            while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
                data += more
        finally:
            os.close(descriptor)
    except OSError as error:
        raise meaning_of(error, path) from error
    return data


def _name(digest: str) -> str:
    return f"{FOLDER}/{digest[:2]}/{digest[2:4]}/{digest}"
