"""Files under the root of the lake: a folder, S3 or Google Cloud Storage behind one small class.

Belongs here: paths, atomic and durable writes, and what a store's errors mean. Does not belong
here: tables, rows and digests (`blyan.lake`).

A file of a folder is there after a loss of power once its bytes are synced, and after them every folder that leads to it: a
folder's names are content of their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from blyan.errors import BlyanError, MissingObjectError, PermanentError, SettingError, StoreFullError, TransientError

UNFINISHED = ".unfinished"
"""Suffix of a local file that is still being written; no reader's pattern matches it."""

DELETES = 8
"""Deletions, and waits for the disk, in flight at once."""

SETTLED = 1_024
"""Folders that are remembered as being on the disk; one that was forgotten is synced again."""

_FULL = re.compile(r"no space left|disk quota exceeded|file too large|storagefull|os error (28|122|27)\b", re.IGNORECASE)
_MISSING = re.compile(r"not ?found|no such file|nosuchkey|nosuchbucket|missing file", re.IGNORECASE)
_DAMAGED = re.compile(r"magic bytes|thrift|corrupt|decompress|end of stream|not a parquet file|invalid parquet|checksum verification", re.IGNORECASE)
_REFUSED = re.compile(r"access ?denied|forbidden|permission|unauthorized|invalidaccesskey|signaturedoesnotmatch|credential", re.IGNORECASE)


class Disk:
    """What is done to the files of a folder, in the order that makes them durable. Tests put one here that fails and forgets."""

    def create(self, path: Path) -> Any:
        """A stream into a new file, and the folders that it needs."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return pa.OSFile(str(path), "wb")

    def rename(self, path: Path, final: Path) -> None:
        """Give a file the name of another, which is gone then."""
        path.replace(final)

    def sync(self, paths: Sequence[Path]) -> None:
        """Make the content of files, and the names in folders, survive a loss of power; side by side."""
        if len(paths) == 1:
            _fsync(paths[0])
            return
        with ThreadPoolExecutor(DELETES) as pool:
            list(pool.map(_fsync, paths))

    def delete(self, path: Path) -> None:
        """Delete a file; one already gone does not matter."""
        path.unlink(missing_ok=True)


class Store:
    """Objects by their path relative to the root. Can be sent to another process.

    Args:
        root: a folder, `s3://bucket/prefix` or `gs://bucket/prefix`.
        options: arguments of `pyarrow.fs.S3FileSystem` or `GcsFileSystem`, as text.

    Raises:
        SettingError: another scheme, or an option that the file system does not take.
    """

    def __init__(self, root: str, options: Mapping[str, str]) -> None:
        scheme, separator, rest = root.partition("://")
        self.scheme = scheme if separator else "file"
        if self.scheme not in ("file", "s3", "gs"):
            raise SettingError(f"no store for {root}", where="BLYAN_LAKE", remedy="give a folder, s3://bucket/prefix or gs://bucket/prefix")
        self.is_local = self.scheme == "file"
        if self.is_local:
            self._base = str(Path(rest if separator else root).absolute())
            self.root = self._base
        else:
            self._base = rest.rstrip("/")
            self.root = f"{self.scheme}://{self._base}"
        self._options = dict(options)
        self.disk = Disk()
        self._settled: set[Path] = set()

    def __reduce__(self) -> tuple[object, ...]:
        return (Store, (self.root, self._options))

    @property
    def options(self) -> Mapping[str, str]:
        """Arguments of the pyarrow file system, as they were given."""
        return self._options

    @cached_property
    def files(self) -> Any:
        """The pyarrow file system, connected on first use."""
        options = {name: _typed(name, value) for name, value in self._options.items()}
        try:
            match self.scheme:
                case "s3":
                    return fs.S3FileSystem(**options)
                case "gs":
                    return fs.GcsFileSystem(**options)
                case _:
                    return fs.LocalFileSystem()
        except (TypeError, ValueError) as error:
            raise SettingError(str(error), where="BLYAN_FILE_OPTIONS", remedy="use the arguments of pyarrow's file system for this store") from error

    def path(self, name: str) -> str:
        """The path as the pyarrow file system wants it."""
        return f"{self._base}/{name}"

    def uri(self, name: str) -> str:
        """The full address, which delta-rs and DuckDB understand."""
        return f"{self.root}/{name}"

    def create(self, name: str, *, durable: bool = True) -> Upload:
        """Start a new object, which nobody sees before `Upload.publish`.

        Without `durable` a local one is not yet safe from a loss of power: `sync` makes many safe at once.
        """
        return Upload(self, name, durable=durable)

    def open(self, name: str) -> Any:
        """A random access file for reading.

        Raises:
            MissingObjectError: there is no such object.
        """
        with errors_of(self.uri(name)):
            return self.files.open_input_file(self.path(name))

    def size(self, name: str) -> int | None:
        """Bytes in the object, or None where there is none."""
        return self.sizes([name])[0]

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes in each object, or None where there is none; asked side by side."""
        with errors_of(self.root):
            found = self.files.get_file_info([self.path(name) for name in names])
        return [info.size if info.type == fs.FileType.File else None for info in found]

    def get(self, name: str) -> bytes:
        """The whole object.

        Raises:
            MissingObjectError: there is no such object.
        """
        with errors_of(self.uri(name)), self.open(name) as file:
            return bytes(file.read())

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole object, atomically: readers see all of it or none of it.

        Raises:
            StoreFullError: no space; nothing was written.
        """
        with self.create(name) as upload:
            upload.stream.write(data)

    def listed(self, folder: str) -> list[str]:
        """Names of the objects directly in a folder, unfinished ones included; none where it does not exist."""
        with errors_of(self.uri(folder)):
            found = self.files.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True))
        return [info.base_name for info in found if info.type == fs.FileType.File]

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, in order; none where it does not exist."""
        with errors_of(self.uri(folder)):
            found = self.files.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def changed_at(self, folder: str) -> float:
        """When the youngest object below a folder was written, in seconds since 1970; 0 where there is none."""
        with errors_of(self.uri(folder)):
            found = self.files.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True, recursive=True))
        return max((info.mtime_ns / 1e9 for info in found if info.type == fs.FileType.File), default=0.0)

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with all that is below it; one already gone does not matter."""
        with contextlib.suppress(MissingObjectError), errors_of(self.uri(folder)):
            self.files.delete_dir(self.path(folder))

    def changed(self, folder: str) -> dict[str, float]:
        """When each object directly in a folder was last written, in Unix seconds; none where the folder does not exist."""
        with errors_of(self.uri(folder)):
            found = self.files.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True))
        return {info.base_name: info.mtime_ns / 1e9 for info in found if info.type == fs.FileType.File}

    def walk(self, folder: str) -> list[str]:
        """Paths of all objects below a folder, unfinished ones included; none where it does not exist."""
        with errors_of(self.uri(folder)):
            found = self.files.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True, recursive=True))
        start = len(self.path(""))
        return [info.path[start:] for info in found if info.type == fs.FileType.File]

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, those of an object store side by side; those already gone do not matter."""
        if self.is_local:
            for name in names:
                with errors_of(self.uri(name)):
                    self.disk.delete(Path(self.path(name)))
            return
        with ThreadPoolExecutor(DELETES) as pool:
            for _ in pool.map(self._delete, list(names)):
                pass

    def _delete(self, name: str) -> None:
        with contextlib.suppress(MissingObjectError), errors_of(self.uri(name)):
            self.files.delete_file(self.path(name))

    def sync(self, names: Iterable[str]) -> None:
        """Make files survive a loss of power, side by side. Object stores need nothing."""
        if self.is_local:
            paths = [path for path in map(Path, map(self.path, names)) if path.exists()]
            with errors_of(self.root):
                self.settle(paths, content=True)

    def settle(self, paths: Sequence[Path], *, content: bool) -> None:
        """Make the names of local files survive a loss of power, and with `content` their bytes too."""
        base, folders = Path(self._base), set[Path]()
        for path in paths:
            folder = path.parent
            while folder != base and folder not in folders:
                folders.add(folder)
                folder = folder.parent
        names = {path.parent for path in [*paths, *(folders - self._settled)]}
        self.disk.sync([*(paths if content else []), *sorted(names)])
        self._settled = folders | (self._settled if len(self._settled) < SETTLED else set())


class Upload:
    """One object being written: `stream`, then `publish`, or `abort`. As a context manager it does one of the two."""

    def __init__(self, store: Store, name: str, *, durable: bool = True) -> None:
        self.name = name
        self._store, self._durable = store, durable
        with errors_of(store.uri(name)):
            if store.is_local:
                self._final = Path(store.path(name))
                self._path = self._final.with_name(f"{self._final.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}")
                self.stream: Any = store.disk.create(self._path)
            else:
                self.stream = store.files.open_output_stream(store.path(name))

    def publish(self) -> None:
        """Make it visible, whole, and durable unless it was not to be.

        Raises:
            StoreFullError: no space; the object is not there.
        """
        with errors_of(self._store.uri(self.name)):
            self.stream.close()
            if self._store.is_local:
                if self._durable:
                    self._store.disk.sync([self._path])
                self._store.disk.rename(self._path, self._final)
                if self._durable:
                    self._store.settle([self._final], content=False)

    def abort(self) -> None:
        """Leave nothing behind. The error that led here is the one worth raising, so a second one is not."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.close()
        if self._store.is_local:
            with contextlib.suppress(OSError):
                self._store.disk.delete(self._path)
        else:
            with contextlib.suppress(BlyanError):
                self._store.delete([self.name])

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self.abort()
            if isinstance(error, OSError):
                raise meaning_of(error, self._store.uri(self.name)) from error
            return
        try:
            self.publish()
        except BlyanError:
            self.abort()
            raise


@contextlib.contextmanager
def errors_of(where: str) -> Iterator[None]:
    """Turn errors of a file system, and of Parquet files, into ours."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise meaning_of(error, where) from error


def meaning_of(error: Exception, where: str) -> BlyanError:
    """Our error for an error of a file system or of delta-rs, which mostly tell the cause in words."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or _FULL.search(text):
        return StoreFullError("the store is full; nothing was committed", where=where, remedy="free space or move BLYAN_LAKE, then run it again")
    if isinstance(error, ValueError) or _DAMAGED.search(text):
        return PermanentError(f"the file is damaged: {text}", where=where, remedy="write its partition again, or restore the file from a backup")
    if isinstance(error, FileNotFoundError) or _MISSING.search(text):
        return MissingObjectError(
            "the object is not in the store", where=where, remedy="write its partition again, or restore the file from a backup"
        )
    if isinstance(error, PermissionError) or _REFUSED.search(text):
        return PermanentError(f"the store refused: {text}", where=where, remedy="check the permissions and BLYAN_DELTA_OPTIONS, BLYAN_FILE_OPTIONS")
    if not isinstance(error, OSError):  # delta-rs raises OSError for what its store did, and DeltaError for the rest
        return PermanentError(f"the table refused: {text}", where=where, remedy="read the message; trying again gives the same")
    return TransientError(f"the store failed: {text}", where=where, remedy="run it again; if it stays, check the store")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _typed(name: str, value: str) -> object:
    """An option as pyarrow wants it."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if name == "retry_time_limit":
        return timedelta(seconds=float(value))
    return float(value) if name.endswith("_timeout") else value
