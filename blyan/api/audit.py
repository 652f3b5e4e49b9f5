"""The audit log: who asked what, a line of JSON a request.

Belongs here: the file, its rotation, and what may stand in it. Does not belong here: the log of the process (`blyan.api.telemetry`).

Several processes write one file: a line is one write at its end. The file is renamed once it would exceed its size, by whoever
notices first; the others see that it is another file. No header of a request is ever written, so no key is either.
"""

from __future__ import annotations

import fcntl
import os
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from blyan.errors import SettingError

KEPT = 8
"""Files that are kept besides the one that is written."""

SQL_CHARACTERS = 10_000
"""Characters of a statement that are written; its digest is of the whole."""


class AuditLog:
    """One file, and those that it was before.

    Args:
        path: of the file.
        most_bytes: of one file.

    Raises:
        SettingError: it cannot be written.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path, self._most = path, most_bytes
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._turn = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            self._file = self._open()
        except OSError as error:
            raise SettingError(f"the audit log cannot be written: {error.strerror}", where="BLYAN_AUDIT_LOG", remedy="choose another path") from error

    def write(self, record: dict[str, Any]) -> None:
        """Write one line.

        Raises:
            OSError: there is no space, or no permission any more.
        """
        line = msgspec.json.encode(record) + b"\n"
        with self._lock:
            self._follow()
            if os.fstat(self._file).st_size + len(line) > self._most:
                self._rotate(len(line))
            os.write(self._file, line)

    def close(self) -> None:
        """Close the files."""
        os.close(self._file)
        os.close(self._turn)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _follow(self) -> None:
        """Write to what has the name now: another process may have renamed the file, or a person deleted it."""
        try:
            named = self._path.stat().st_ino
        except FileNotFoundError:
            named = None
        if named != os.fstat(self._file).st_ino:
            os.close(self._file)
            self._file = self._open()

    def _rotate(self, more: int) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            self._follow()
            size = os.fstat(self._file).st_size
            if size and size + more > self._most:
                older = [self._path, *(self._path.with_name(f"{self._path.name}.{age}") for age in range(1, KEPT + 1))]
                for newer, old in reversed(list(pairwise(older))):
                    if newer.exists():
                        newer.replace(old)
                self._follow()
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
