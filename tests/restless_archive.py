"""An archive in which something happens whenever a file is opened: for tests of files that change.

Belongs here: the file system that lets a test act. Does not belong here: what the tests expect.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from blyan.solana.sources.archive import ArchiveSource


class _Local(fs.FileSystemHandler):
    """The local file system, with something that happens whenever a file is opened."""

    def __init__(self, on_open: Callable[[str], object]) -> None:
        self._local = fs.LocalFileSystem()
        self._on_open = on_open

    def get_type_name(self) -> str:
        return "local"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return self._local.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return self._local.get_file_info(selector)

    def open_input_file(self, path: str) -> pa.NativeFile:
        self._on_open(path)
        return pa.PythonFile(self._local.open_input_file(path), mode="r")

    def _unused(self, *_: object, **__: object) -> Any:
        raise NotImplementedError

    open_input_stream = open_output_stream = open_append_stream = create_dir = delete_dir = delete_dir_contents = _unused
    delete_root_dir_contents = delete_file = move = copy_file = _unused


class Restless(ArchiveSource):
    """An archive in which something happens whenever a file is opened."""

    def __init__(self, location: Path, on_open: Callable[[str], object]) -> None:
        super().__init__(str(location))
        self._on_open = on_open

    def _filesystem(self) -> tuple[fs.FileSystem, str]:
        return fs.PyFileSystem(_Local(self._on_open)), self.location
