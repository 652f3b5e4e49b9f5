"""Answers in the lake, kept for good within a bound: contents by their own digest, and an index of small files by key.

Belongs here: these files, and which of them go. Does not belong here: when an answer is looked for (`blyan.query.cache`).

    serving/answers/contents/<2 digits>/<SHA-256 of the bytes>     rows, once for all keys that have the same
    serving/answers/index/<2 digits>/<key>                         {key, content, bytes, kept_at}

Every file is written whole under another name and renamed, the content before its entry in the index. So a process that dies at any step
leaves an entry that is whole, or a content that no entry names, which goes with the next sweep. Nothing is synced: what a loss of power
tore is not what its digest says, and is computed again. A content that is not what its name says, an entry that cannot be read and a
content that is gone are all misses: a sweep breaks no reader.

**The bound** is of contents. Entries go in the order in which they were written, the oldest first; one that is read and older than
`RENEWED_S` is written again, so what is in use stays. Each process sweeps after it wrote an eighth of the bound, so all of them together
may be above it by an eighth each.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from blyan.errors import MissingObjectError
from blyan.lake import Lake

FOLDER = "serving/answers"

INDEX, CONTENTS = f"{FOLDER}/index", f"{FOLDER}/contents"

WAIT_S = 1.0
"""Seconds for the lake to give an entry: two small objects, which a bucket gives in a tenth of it."""

RENEWED_S = 3_600.0
"""Seconds after which an entry that is read is written again."""

ORPHANED_S = 600.0
"""Seconds for which a content may have no entry: its writer is between the two."""

BLOCK_BYTES = 4_096
"""What a file takes at least: so many small contents count for what they take."""

SWEPT_TO = 0.9
"""Of the bound: what a sweep leaves."""


class Entry(Struct, frozen=True):
    """What the index has of a key: the content's SHA-256 (hex) and size, and when it was kept, in Unix seconds."""

    key: str
    content: str
    bytes: int
    kept_at: float


@dataclass(frozen=True, slots=True)
class Swept:
    """Bytes of contents that a sweep left, and how many entries and contents it deleted."""

    bytes: int
    entries_deleted: int
    contents_deleted: int


class KeptAnswers:
    """A room in the lake. Several processes may use it at once.

    Args:
        lake: the lake.
        most_bytes: of contents.
        tell: called with `lake damaged` where a content is not what was put.
        now: Unix seconds.
    """

    name = "lake"
    lasting = True
    wait_s = WAIT_S

    def __init__(self, lake: Lake, most_bytes: int, tell: Callable[[str], None] = lambda _: None, *, now: Callable[[], float] = time.time) -> None:
        self._store, self._most, self._tell, self._now = lake.store, most_bytes, tell, now
        # Threads of its own: where the disk hangs, nobody else waits for one.
        self._readers, self._writer = ThreadPoolExecutor(4, "kept-answers"), ThreadPoolExecutor(1, "keep-answers")
        self._written = most_bytes  # so that the first to write sweeps: nobody knows what stands there
        self._turn = threading.Lock()

    async def get(self, key: str) -> bytes | None:
        """The bytes that were kept under a key.

        Raises:
            TransientError: the store does not answer.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read, key)

    async def put(self, key: str, entry: bytes) -> None:
        """Keep bytes under a key.

        Raises:
            StoreFullError: there is no space; nothing was kept.
            TransientError: the store does not answer.
        """
        await asyncio.get_running_loop().run_in_executor(self._writer, self.write, key, entry)

    async def close(self) -> None:
        """Let go of the threads; what is being written is left as it is."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=False, cancel_futures=True)

    def has(self, key: str) -> bool:
        """Whether there is an entry for a key, whatever its content is worth."""
        return self._entry(key) is not None

    def read(self, key: str) -> bytes | None:
        """As `get`, in this thread."""
        entry = self._entry(key)
        if entry is None:
            return None
        try:
            content = self._store.get(_content(entry.content))
        except MissingObjectError:
            return None
        if hashlib.sha256(content).hexdigest() != entry.content:
            self._tell("lake damaged")
            return None
        if self._now() - entry.kept_at > RENEWED_S:
            self._enter(entry.key, entry.content, entry.bytes)
        return content

    def write(self, key: str, content: bytes) -> None:
        """As `put`, in this thread."""
        digest = hashlib.sha256(content).hexdigest()
        # The same rows under another key are there; what a crash tore has another size, or is found by its digest and written again.
        torn = self.read(key) is None and self._entry(key) is not None
        if torn or self._store.size(_content(digest)) != len(content):
            self._put(_content(digest), content)
        self._enter(key, digest, len(content))
        with self._turn:
            self._written += _room(len(content))
            due = self._written > self._most // 8
            if due:
                self._written = 0
        if due:
            self.sweep()

    def sweep(self) -> Swept:
        """Where contents have more than the bound: delete the oldest entries until those of the others have not, and contents that no entry names.

        Entries are read only then: within the bound, a sweep is a look at sizes.
        """
        contents = self._store.walk(CONTENTS)
        stands = sum(map(_room, filter(None, self._store.sizes(contents))))
        if stands <= self._most:
            return Swept(stands, 0, 0)
        standing = [name.rpartition("/")[2] for name in self._store.walk(INDEX)]
        entries = sorted(filter(None, map(self._entry, standing)), key=lambda entry: entry.kept_at, reverse=True)
        named = sum({entry.content: _room(entry.bytes) for entry in entries}.values())
        most = self._most if named <= self._most else self._most * SWEPT_TO
        kept: dict[str, int] = {}
        left: list[Entry] = []
        total = 0
        for entry in entries:
            more = 0 if entry.content in kept else _room(entry.bytes)
            if total + more > most:
                left.append(entry)
            else:
                kept[entry.content], total = entry.bytes, total + more
        self._store.delete([_index(entry.key) for entry in left])
        gone = {entry.content for entry in left} - kept.keys()
        names = [name.rpartition("/")[2] for name in contents]
        orphans = [name for name in names if name not in kept and (name in gone or self._now() - self._changed_at(name) > ORPHANED_S)]
        self._store.delete([_content(name) for name in orphans])
        for _ in left:
            self._tell("lake evicted")
        return Swept(total, len(left), len(orphans))

    def _changed_at(self, name: str) -> float:
        folder, _, base = _content(name).rpartition("/")
        return self._store.changed(folder).get(base, 0.0)

    def _entry(self, key: str) -> Entry | None:
        try:
            entry = msgspec.json.decode(self._store.get(_index(key)), type=Entry)
        except (MissingObjectError, msgspec.DecodeError):
            return None
        return entry if entry.key == key else None

    def _enter(self, key: str, content: str, size: int) -> None:
        self._put(_index(key), msgspec.json.encode(Entry(key, content, size, self._now())))

    def _put(self, name: str, data: bytes) -> None:
        with self._store.create(name, durable=False) as upload:
            upload.stream.write(data)


def _room(size: int) -> int:
    return max(size, BLOCK_BYTES)


def _index(key: str) -> str:
    return f"{INDEX}/{key[:2]}/{key}"


def _content(digest: str) -> str:
    return f"{CONTENTS}/{digest[:2]}/{digest}"
