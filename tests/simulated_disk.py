"""A disk that forgets what was not synced, fills up, and stands still when the process dies.

Belongs here: what a POSIX file system may do to files, at its worst. Does not belong here: when it does it, which the simulated
world says (`tests.simulated_world`).

The files are real, so readers need nothing; beside them stands what a loss of power would undo. Two things are not on the disk
until they are synced, each for itself: a file's bytes, and the names in a folder (files made, renamed and deleted there, and
folders made there). Names in one folder are lost from the newest back, since file systems journal them; folders and bytes are
lost independently of each other.
"""

from __future__ import annotations

import errno
import io
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from blyan.store import Disk


class Crash(BaseException):
    """The process died here."""


class Change(NamedTuple):
    """A name in a folder that is not on the disk yet. Paths are relative to the root of the disk.

    Attributes:
        folder: whose name it is.
        kind: "made" (a file or a folder), "renamed" or "deleted".
        path: what was made, the new name, or what was deleted.
        before: the old name.
        content: of the file that a renamed one took the place of, or of the deleted one; None where there was none.
    """

    folder: Path
    kind: str
    path: Path
    before: Path | None = None
    content: bytes | None = None


class SimulatedDisk(Disk):
    """Files under a root.

    Args:
        root: where they are.
        reached: told the name of every instant between two changes of the disk, and the path; raises `Crash` to die there.

    Attributes:
        free: bytes until the disk is full; None where it never is.
        dead: the process died: nothing it still tries is done.
        unsynced: files whose bytes are not on the disk yet.
        changes: names that are not, in order.
    """

    def __init__(self, root: Path, reached: Callable[[str, Path], None]) -> None:
        self.root, self.reached = root, reached
        self.free: int | None = None
        self.dead = False
        self.unsynced: dict[Path, None] = {}
        self.changes: list[Change] = []

    def at(self, point: str, path: Path) -> None:
        """An instant at which the process may die."""
        if self.dead:
            raise Crash
        try:
            self.reached(point, path.relative_to(self.root))
        except Crash:
            self.dead = True
            raise

    def spend(self, size: int) -> int:
        """How much of this still fits."""
        if self.free is None:
            return size
        fits = min(size, self.free)
        self.free -= fits
        return fits

    # What a store does

    def create(self, path: Path) -> Any:
        self.at("before create", path)
        if self.free == 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        for folder in [folder for folder in reversed(path.parents) if not folder.exists()]:
            folder.mkdir()
            self._changed("made", folder)
        stream = io.BufferedWriter(_File(self, path), 1 << 16)
        self._changed("made", path)
        self.unsynced[path.relative_to(self.root)] = None
        return pa.PythonFile(stream, mode="w")

    def rename(self, path: Path, final: Path) -> None:
        self.at("before rename", final)
        content = final.read_bytes() if final.exists() else None
        path.replace(final)
        old, new = path.relative_to(self.root), final.relative_to(self.root)
        self.unsynced.pop(new, None)
        if old in self.unsynced:
            del self.unsynced[old]
            self.unsynced[new] = None
        self._changed("renamed", final, old, content)
        self.at("after rename", final)

    def sync(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self.at("before sync", path)
            if self.free == 0:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            name = path.relative_to(self.root)
            if path.is_dir():
                self.changes = [change for change in self.changes if change.folder != name]
            else:
                self.unsynced.pop(name, None)
        self.at("after sync", paths[-1])

    def delete(self, path: Path) -> None:
        if not path.exists():
            return
        self.at("before delete", path)
        name = path.relative_to(self.root)
        content = b"" if name in self.unsynced else path.read_bytes()
        path.unlink()
        self.unsynced.pop(name, None)
        self._changed("deleted", path, None, content)

    def _changed(self, kind: str, path: Path, before: Path | None = None, content: bytes | None = None) -> None:
        name = path.relative_to(self.root)
        self.changes.append(Change(name.parent, kind, name, before, content))

    # What happens to it

    def copied(self, root: Path, reached: Callable[[str, Path], None]) -> SimulatedDisk:
        """The same disk at another place, as a process that begins finds it."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        copied = SimulatedDisk(root, reached)
        copied.unsynced, copied.changes = dict(self.unsynced), list(self.changes)
        return copied

    def lose_power(self, draw: random.Random, lost: str) -> None:
        """Undo "all" that was not synced, its "bytes" alone, as where space is given to files late, or "some" of it."""
        for name in self.unsynced:
            content = (self.root / name).read_bytes()
            size = len(content)
            kept = draw.choice((0, size, draw.randint(0, size))) if lost == "some" else 0
            (self.root / name).write_bytes(content[:kept] + draw.choice((b"", bytes(size - kept))))
        counts = Counter(change.folder for change in self.changes)
        lasting = {folder: {"all": 0, "bytes": count, "some": draw.randint(0, count)}[lost] for folder, count in counts.items()}
        undone = []
        for change in self.changes:
            lasting[change.folder] -= 1
            if lasting[change.folder] < 0:
                undone.append(change)
        for change in reversed(undone):
            self._undo(change)
        self.unsynced, self.changes = {}, []

    def _undo(self, change: Change) -> None:
        path = self.root / change.path
        if change.kind == "made":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if change.before is not None:
            path.replace(self.root / change.before)
        if change.content is not None:
            path.write_bytes(change.content)


class _File(io.FileIO):
    """What lies under the buffer: it is written once, or each time that the buffer is full."""

    def __init__(self, disk: SimulatedDisk, path: Path) -> None:
        super().__init__(path, "w")
        self._disk, self._path = disk, path

    def write(self, data: Any) -> int:
        """All of it, or what fits before the error."""
        if self._disk.dead:
            return len(data)
        fits, content = self._disk.spend(len(data)), memoryview(data)
        super().write(content[: fits // 2])
        self._disk.at("half written", self._path)
        super().write(content[fits // 2 : fits])
        if fits < len(data):
            raise OSError(errno.ENOSPC, "No space left on device", str(self._path))
        return len(data)
