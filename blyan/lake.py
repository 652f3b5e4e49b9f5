"""Lake: the only code that touches storage.

Belongs here: Delta tables by partition, logs, content-addressed blobs, pinned facts, maintenance.
Does not belong here: what rows mean (`blyan.schemas`), how they are digested (`blyan.digest`) and
written to Parquet (`blyan.stage`), how bytes reach a disk or a bucket (`blyan.store`).

How a partition is replaced: `stage` writes Parquet files that nobody reads yet, in any number of
processes; `commit` puts one version into the Delta log that removes the files the partition has and
adds the staged ones. Each try commits exactly the version after the one it read, and reads again
where another writer was first: delta-rs on its own lets two writers of a new partition both succeed,
and the partition then holds the rows of both (measured, deltalake 1.6.6).

How a partition's digest is known: it is the value of a second partition column, `CONTENT_COLUMN`,
so it stands in the log beside the files that it describes. Compaction, z-order, restore, checkpoints,
vacuum and log clean-up keep it true without code of ours, and no second record can disagree with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from blyan.digest import UNIT_SLOTS, UnitDigest, digest_partition, digest_unit, in_key_order, split_units
from blyan.errors import BlyanError, CommitConflictError, MissingObjectError, PermanentError, TransientError
from blyan.schemas import Table
from blyan.settings import Settings
from blyan.stage import MAX_FILE_BYTES, MAX_GROUP_ROWS, Stage, Staged, StagedFile, conform, group_rows, joined, slot_column, stats_columns
from blyan.store import Store, errors_of, meaning_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["Commit", "DataFile", "Lake", "Partition", "Stage", "Staged"]

CONTENT_COLUMN = "content_sha256"
"""Partition column that holds the digest of the partition's rows."""

TRIES = 15
"""Times a commit is tried while other writers are first."""

STAGED_HOURS = 48
"""Vacuum leaves files that no version names alone for this long, and a commit refuses files staged longer ago, less an hour for
clocks that differ: so vacuum can never delete what is about to be committed. What a killed writer leaves costs only space."""

WINDOW_BYTES = 32 << 20
"""Stored bytes that are read at once to recompute a digest."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*")

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Commit:
    """What a write made stand; `changed` is False where the same content already stood."""

    version: int
    rows: int
    bytes: int
    digest: str
    changed: bool
    files: int


@dataclass(frozen=True, slots=True)
class Partition:
    """What the log says of a partition; `version` is the table's version that was read."""

    rows: int
    bytes: int
    digest: str
    version: int
    files: int


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of a version.

    Attributes:
        path: full address, which DuckDB can read.
        slot_min: smallest slot in it; None where the file has none, or no statistics. `slot_max` likewise.
        key: the partition; None in a log.
        name: the path relative to the table.
        digest: the partition's digest; None in a log.
        time_min: smallest of its first timestamp column, as far as the log tells; `time_max` likewise.
    """

    path: str
    rows: int
    size: int
    slot_min: int | None
    slot_max: int | None
    key: str | None
    name: str
    digest: str | None
    time_min: datetime | None = None
    time_max: datetime | None = None


class Lake:
    """Delta tables, blobs and pinned facts under one root. Can be sent to another process.

    Every operation opens the table anew, because an old handle does not see other writers.

    Args:
        root: a folder, `s3://bucket/prefix` or `gs://bucket/prefix`.
        delta_options: storage options of delta-rs.
        file_options: arguments of the pyarrow file system of the same store, as text.

    Raises:
        SettingError: there is no store of that kind.
    """

    def __init__(self, root: str, *, delta_options: Mapping[str, str] | None = None, file_options: Mapping[str, str] | None = None) -> None:
        self._store = Store(root, file_options or {})
        self._options = dict(delta_options or {})
        self.root = self._store.root

    @classmethod
    def from_settings(cls, settings: Settings) -> Lake:
        """The lake that the settings name."""
        return cls(settings.lake, delta_options=settings.delta_options, file_options=settings.file_options)

    def __repr__(self) -> str:
        return f"Lake({self.root!r})"

    @property
    def store(self) -> Store:
        """The store under the lake, for those who read whole files: `store.open(f"{table.name}/{file.name}")`."""
        return self._store

    @property
    def storage_options(self) -> dict[str, str]:
        """How the store is reached, as delta-rs and Lance, which are made of the same client, want it."""
        return dict(self._options)

    # Writing

    def stage(self, table: Table, key: str, *, writer: str = "") -> Stage:
        """Start writing files for a partition; nobody reads them before `commit`.

        Args:
            table: the table.
            key: the partition.
            writer: a name that no other writer has, so that `sweep` can tell its files if its process dies.

        Raises:
            PermanentError: the key cannot name a partition, or the table has none.
        """
        return Stage(self._store, table, _folder(table, key), writer=_checked_name(writer, table.name) if writer else "")

    def commit(self, table: Table, key: str, staged: Sequence[Staged], *, metadata: Mapping[str, str] | None = None) -> Commit:
        """Replace a partition by what was staged, in one version; or do nothing where it holds the same rows already.

        A partition without rows is a fact too: stage one and write nothing, and it stands with 0 rows. On an error the
        staged files are deleted, unless the store cannot tell whether the version landed: then vacuum decides.

        Args:
            table: the table.
            key: the partition, such as `SlotRange.key`; only its files are touched.
            staged: what each writer staged, one at least; their units do not overlap.
            metadata: text to put into the log beside the version.

        Raises:
            CommitConflictError: other writers were first, every time.
            StoreFullError: the store is full; the partition is as it was.
            PermanentError: units overlap, or the table in the store has other columns.
        """
        everything = [file for part in staged for file in part.files]
        files = [file for file in everything if file.rows] or everything[:1]
        try:
            self._check_staged(table, key, files)
            digest = digest_partition(table, _merged_units(staged, where=f"{table.name} {key}"))
            commit = self._retry(table, lambda: self._replace(table, key, files, digest, metadata or {}))
        except BlyanError:
            with contextlib.suppress(BlyanError):
                self.discard(table, staged)
            raise
        if len(files) < len(everything):
            self.discard(table, staged)
        return commit

    def discard(self, table: Table, staged: Sequence[Staged]) -> None:
        """Delete the staged files that the table does not name."""
        named = {file.name for file in self.files(table)}
        names = [file.path for part in staged for file in part.files]
        self._store.delete(f"{table.name}/{name}" for name in names if name not in named)

    def sweep(self, table: Table, key: str, writer: str) -> None:
        """Delete the files that a writer, alive or dead, staged for a partition and the table does not name.

        On an object store the parts of an object that was never finished are not files; the bucket's own rules end those.
        """
        named = {file.name for file in self.files(table, keys=[key])}
        folder = _folder(table, key)
        names = [f"{folder}/{name}" for name in self._store.listed(f"{table.name}/{folder}") if name.startswith(f"part-{writer}-")]
        self._store.delete(f"{table.name}/{name}" for name in names if name not in named)

    def write_partition(
        self, table: Table, key: str, batches: Iterable[pa.Table | pa.RecordBatch], *, metadata: Mapping[str, str] | None = None
    ) -> Commit:
        """Stage and commit in this process. Batches come in slot order; a unit may span batches."""
        with self.stage(table, key) as stage:
            tables = (conform(table, pa.table(batch), where=f"{table.name} {key}") for batch in batches)
            parts = (part for rows in tables for part in split_units(table, rows))
            for unit, group in itertools.groupby(parts, key=lambda part: part[0]):
                stage.write(unit, joined([rows for _, rows in group]))
        return self.commit(table, key, [stage.close()], metadata=metadata)

    def append(self, table: Table, rows: pa.Table, *, logical_key: Sequence[str]) -> Commit:
        """Add rows to a log (a table without partitions), except those whose logical key it has already.

        Raises:
            PermanentError: the log has another row with the same logical key, or `rows` repeats one.
            CommitConflictError: other writers were first, every time.
        """
        if table.partition_by:
            raise PermanentError("it has partitions", where=table.name, remedy="use Lake.write_partition")
        rows = conform(table, rows, where=table.name)
        wanted = _by_key(rows, logical_key)
        if len(wanted) != rows.num_rows:
            raise PermanentError(f"the rows repeat a logical key {list(logical_key)}", where=table.name, remedy="append each row once")
        return self._retry(table, lambda: self._append(table, rows, wanted, logical_key))

    # Reading

    def exists(self, table: Table) -> bool:
        """Whether the table has a version."""
        return self.version(table) is not None

    def version(self, table: Table) -> int | None:
        """The table's newest version, or None where there is no table."""
        handle = self._find(table)
        return None if handle is None else handle.version()

    def partitions(self, table: Table) -> dict[str, Partition]:
        """Every partition by key, in order, as the log tells: no data file is read."""
        handle = self._find(table)
        if handle is None:
            return {}
        groups = itertools.groupby(self._files_of(table, handle), key=lambda file: file.key or "")
        return {key: _partition(handle.version(), list(files)) for key, files in groups}

    def files(
        self, table: Table, *, keys: Iterable[str] | None = None, first_slot: int | None = None, last_slot: int | None = None
    ) -> list[DataFile]:
        """The files of one version that may hold rows of these keys and slots (both ends included), in order.

        A table that does not exist has none.
        """
        handle = self._find(table)
        return [] if handle is None else self._files_of(table, handle, keys, first_slot, last_slot)

    def files_at(self, table: Table, version: int | None = None) -> tuple[int, list[DataFile]] | None:
        """A version, the newest by default, and all its files in order; None where there is no table.

        Raises:
            MissingObjectError: the log does not have that version, or no longer.
        """
        handle = self._find(table) if version is None else self._find_version(table, version)
        return None if handle is None else (handle.version(), self._files_of(table, handle))

    def is_newest(self, table: Table, version: int) -> bool:
        """Whether a version that was the newest still is, by two looks for names in the log; a doubt counts as no."""
        log = f"{table.name}/_delta_log"
        this, following = self._store.sizes([f"{log}/{version:020}.json", f"{log}/{version + 1:020}.json"])
        return this is not None and following is None

    def read(
        self,
        table: Table,
        *,
        key: str | None = None,
        columns: Sequence[str] | None = None,
        first_slot: int | None = None,
        last_slot: int | None = None,
        absent: bool = False,
        batch_rows: int = 65_536,
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows of one version, file by file in slot order.

        Rows without a slot come where no bound is given, and where `absent` asks for them beside those between the bounds.

        Raises:
            MissingObjectError: the table, the partition `key`, or a file that the version names is not in the store.
            TransientError: another writer replaced the version and vacuum deleted its files meanwhile.
        """
        files = self._files_of(table, self._open(table), None if key is None else [key])
        if key is not None and not files:
            raise self._no_partition(table, key)
        schema = table.arrow_schema() if columns is None else pa.schema([table.arrow_schema().field(name) for name in columns])
        for file in files:
            if absent or _may_hold(file.slot_min, file.slot_max, first_slot, last_slot):
                for batch in self._read_file(table, file, schema.names, first_slot, last_slot, batch_rows, absent=absent):
                    yield batch.cast(schema)

    def digest(self, table: Table, key: str) -> str:
        """Recompute a partition's digest from its stored rows, whatever their layout, a window of slots at a time.

        Raises:
            MissingObjectError: the partition, or one of its files, is not in the store.
        """
        files = self.files(table, keys=[key])
        if not files:
            raise self._no_partition(table, key)
        names = [column.name for column in table.columns if column.in_digest or column.name in table.key]
        text = [column.name for column in table.columns if pa.types.is_string(column.type)]
        units: dict[str, UnitDigest] = {}
        for first, last, absent in _windows(files):
            near = [file for file in files if absent or _may_hold(file.slot_min, file.slot_max, first, last)]
            batches = [
                batch for file in near for batch in self._read_file(table, file, names, first, last, MAX_GROUP_ROWS, absent=absent, coded=text)
            ]
            if batches:
                rows = in_key_order(table, pa.Table.from_batches(batches), where=f"{table.name} {key}")
                units |= {unit: digest_unit(table, part) for unit, part in split_units(table, rows)}
        return digest_partition(table, units)

    # Blobs and facts

    def put_blob(self, data: bytes | memoryview) -> str:
        """Store bytes under their SHA-256 (hex), which is returned. The same bytes again cost one look-up."""
        digest = hashlib.sha256(data).hexdigest()
        if self._store.size(_blob_name(digest)) != len(data):
            self._store.put(_blob_name(digest), data)
        return digest

    def get_blob(self, digest: str) -> bytes:
        """The bytes with this SHA-256.

        Raises:
            MissingObjectError: there is no such blob.
            PermanentError: the stored bytes have another SHA-256.
        """
        data = self._store.get(_blob_name(digest))
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            where = self._store.uri(_blob_name(digest))
            raise PermanentError(f"the bytes of the blob have SHA-256 {found}", where=where, remedy="the store damaged it: restore it from a backup")
        return data

    def blob_path(self, digest: str, cache: Path) -> Path:
        """A local file with the bytes of a blob, to be mapped into memory: the blob itself where the lake is a folder, else a copy in `cache`.

        The bytes are digested as they are copied, and not where the lake is a folder: `get_blob` does that.

        Raises:
            MissingObjectError: there is no such blob.
            PermanentError: the stored bytes have another SHA-256.
        """
        if self._store.is_local:
            if not self.has_blob(digest):
                where = self._store.uri(_blob_name(digest))
                raise MissingObjectError("there is no such blob", where=where, remedy="make again what names it, or restore it from a backup")
            return Path(self._store.path(_blob_name(digest)))
        copies = Store(str(cache), {})
        if copies.size(_blob_name(digest)) is None:
            copies.put(_blob_name(digest), self.get_blob(digest))
        return Path(copies.path(_blob_name(digest)))

    def has_blob(self, digest: str) -> bool:
        """Whether a blob with this SHA-256 is stored."""
        return self._store.size(_blob_name(digest)) is not None

    def pin(self, name: str, value: str) -> str:
        """Fix a small fact once and for all, such as the genesis hash; returns the value that stands.

        A pin is an empty Delta table whose description is the value: creating version 0 is the one operation that every
        store, local or remote, grants to exactly one of several writers.
        """
        from deltalake import DeltaTable, Field, Schema
        from deltalake.exceptions import DeltaError
        from deltalake.schema import PrimitiveType

        uri = self._store.uri(f"pins/{_checked_name(name, 'pins')}")
        fields = Schema([Field("value", PrimitiveType("string"))])
        with contextlib.suppress(DeltaError):  # it is there, or another writer was first; if not, reading it says what is wrong
            DeltaTable.create(uri, fields, description=value, storage_options=self._options or None, commit_properties=_once())
            self._store.sync([f"pins/{name}/_delta_log/{0:020}.json"])
        with self._delta_errors(uri):
            return str(DeltaTable(uri, storage_options=self._options or None).metadata().description)

    def pinned(self, name: str) -> str | None:
        """The value of a pin, or None where nobody fixed it yet."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        uri = self._store.uri(f"pins/{_checked_name(name, 'pins')}")
        with self._delta_errors(uri):
            try:
                return str(DeltaTable(uri, storage_options=self._options or None).metadata().description)
            except TableNotFoundError:
                return None

    # Maintenance: none of it changes what a partition holds, except restore

    def compact(self, table: Table, key: str | None = None, *, target_bytes: int = MAX_FILE_BYTES) -> None:
        """Join small files, in one partition or in all; one that has `target_bytes` already stays as it is."""
        only = None if key is None else [(table.partition_by[0], "=", key)]
        self._maintain(table, lambda handle: handle.optimize.compact(only, target_size=target_bytes, writer_properties=_zstd(table)))

    def z_order(self, table: Table, columns: Sequence[str], key: str | None = None) -> None:
        """Rewrite files so that rows with near values of `columns` lie together, in one partition or in all."""
        # delta-rs drops a file without rows, and with it the fact that its partition is empty.
        keys = sorted({file.key or "" for file in self.files(table, keys=None if key is None else [key]) if file.rows})
        only = [(table.partition_by[0], "in", keys)]
        if keys:
            self._maintain(table, lambda handle: handle.optimize.z_order(columns, only, target_size=MAX_FILE_BYTES, writer_properties=_zstd(table)))

    def vacuum(self, table: Table, *, retention_hours: int, dry_run: bool = False) -> list[str]:
        """Delete files that no version of the last `retention_hours` needs; returns their paths.

        Files that no version ever named may be another writer's, staged and not yet committed: those go after
        `STAGED_HOURS` at the earliest. Readers of a version older than the retention fail with a TransientError.
        """
        if retention_hours < 0:
            raise PermanentError(f"a retention of {retention_hours} hours", where=table.name, remedy="give 0 or more")
        handle = self._open(table)
        with self._delta_errors(table.name):
            # Only a full vacuum lists what no version ever named, and it lists nothing younger than it is told.
            replaced = handle.vacuum(retention_hours, dry_run=True, enforce_retention_duration=False)
            unnamed = handle.vacuum(max(retention_hours, STAGED_HOURS), dry_run=True, enforce_retention_duration=False, full=True)
        current = {file.name for file in self.files(table)}
        names = self._present(table, sorted({*replaced, *unnamed} - current))
        if not dry_run:
            # Not by delta-rs: it writes two versions for it, which conflict with every writer at work.
            self._store.delete(f"{table.name}/{name}" for name in names)
        return names

    def restore(self, table: Table, version: int) -> None:
        """Make a new version that holds, in every partition, what `version` held.

        Raises:
            PermanentError: there is no such version.
            MissingObjectError: vacuum deleted files that it needs.
        """
        newest = self._open(table).version()
        if not 0 <= version <= newest:
            raise PermanentError(f"there is no version {version}", where=table.name, remedy=f"choose one from 0 to {newest}")
        if version < newest:
            self._maintain(table, lambda handle: handle.restore(version, commit_properties=_once()))

    def checkpoint(self, table: Table) -> None:
        """Write a checkpoint of the log, which makes opening the table faster."""
        self._maintain(table, lambda handle: handle.create_checkpoint())

    # The log

    def _find(self, table: Table) -> DeltaTable | None:
        """A handle on the newest version, or None where there is no table."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        with self._delta_errors(table.name):
            try:
                return DeltaTable(self._store.uri(table.name), storage_options=self._options or None)
            except TableNotFoundError:
                return None

    def _find_version(self, table: Table, version: int) -> DeltaTable | None:
        """A handle on one version, or None where there is no table."""
        newest = self._find(table)
        if newest is None or newest.version() == version:
            return newest
        # delta-rs would answer a number that is too high with the newest version.
        if 0 <= version < newest.version():
            from deltalake.exceptions import DeltaError

            with contextlib.suppress(DeltaError, OSError):
                newest.load_as_version(version)
                return newest
        remedy = f"choose one up to {newest.version()}; old ones go when the log is cleaned up"
        raise MissingObjectError(f"{table.name} has no version {version}", where=table.name, remedy=remedy)

    def _open(self, table: Table) -> DeltaTable:
        handle = self._find(table)
        if handle is None:
            raise MissingObjectError(f"there is no table {table.name}", where=self._store.uri(table.name), remedy="materialise it first")
        return handle

    def _open_or_create(self, table: Table) -> DeltaTable:
        from deltalake import DeltaTable, Schema
        from deltalake.exceptions import DeltaError

        declared, partition_by = table.delta_schema(), list(table.partition_by)
        if partition_by:
            declared, partition_by = declared.append(pa.field(CONTENT_COLUMN, pa.string(), nullable=False)), [*partition_by, CONTENT_COLUMN]
        schema = Schema.from_arrow(declared)
        handle = self._find(table)
        if handle is None:
            uri = self._store.uri(table.name)
            configuration = {"delta.dataSkippingStatsColumns": ",".join(stats_columns(table)), **dict(table.properties)}
            with contextlib.suppress(DeltaError):  # another writer was first; if not, opening it says what is wrong
                options = self._options or None
                DeltaTable.create(
                    uri, schema, partition_by=partition_by, configuration=configuration, storage_options=options, commit_properties=_once()
                )
                self._sync_log(table, 0)
            handle = self._open(table)
        if handle.schema() != schema:
            remedy = "use a new lake, or move the table away and materialise it again"
            raise PermanentError("the table in the store has other columns than blyan.schemas declares", where=table.name, remedy=remedy)
        return handle

    def _files_of(
        self, table: Table, handle: DeltaTable, keys: Iterable[str] | None = None, first: int | None = None, last: int | None = None
    ) -> list[DataFile]:
        with self._delta_errors(table.name):
            actions = pa.table(handle.get_add_actions(flatten=True))
        nothing = pa.nulls(actions.num_rows)

        def column(name: str, kind: pa.DataType) -> pa.ChunkedArray:
            return (actions[name] if name in actions.column_names else nothing).cast(kind)

        slot, by = slot_column(table), table.partition_by[0] if table.partition_by else None
        times = [name for name in stats_columns(table) if name != slot]
        moment = pa.timestamp("us", tz="UTC")
        found = pa.table(
            {
                "key": column(f"partition.{by}", pa.string()),
                "slot_min": column(f"min.{slot}", pa.int64()),
                "slot_max": column(f"max.{slot}", pa.int64()),
                "name": column("path", pa.string()),
                "rows": column("num_records", pa.int64()),
                "size": column("size_bytes", pa.int64()),
                "digest": column(f"partition.{CONTENT_COLUMN}", pa.string()),
                "time_min": column(f"min.{times[0]}" if times else "", moment),
                "time_max": column(f"max.{times[0]}" if times else "", moment),
            }
        )
        if keys is not None:
            found = found.filter(pc.is_in(found["key"], pa.array(list(keys), pa.string())))
        # A file without statistics is never pruned.
        if first is not None:
            found = found.filter(pc.fill_null(pc.greater_equal(found["slot_max"], first), True))
        if last is not None:
            found = found.filter(pc.fill_null(pc.less_equal(found["slot_min"], last), True))
        found = found.sort_by([("key", "ascending"), ("slot_min", "ascending"), ("name", "ascending")])
        return [DataFile(path=self._store.uri(f"{table.name}/{row['name']}"), **row) for row in found.to_pylist()]

    def _replace(self, table: Table, key: str, files: Sequence[StagedFile], digest: str, metadata: Mapping[str, str]) -> Commit:
        """One try of `commit`, on the newest version."""
        handle = self._open_or_create(table)
        standing = self._files_of(table, handle, [key])
        names = {file.path for file in files}
        if {file.name for file in standing} == names:  # an earlier try landed, and the store's answer was lost
            return _commit(handle.version(), standing, changed=True)
        if standing and _digest_of(standing) == digest:
            self._store.delete(f"{table.name}/{name}" for name in names)
            return _commit(handle.version(), standing, changed=False)
        self._write_version(table, handle, files, standing, {table.partition_by[0]: key, CONTENT_COLUMN: digest}, metadata)
        return Commit(handle.version() + 1, sum(file.rows for file in files), sum(file.size for file in files), digest, True, len(files))

    def _append(self, table: Table, rows: pa.Table, wanted: Mapping[tuple[Any, ...], dict[str, Any]], logical_key: Sequence[str]) -> Commit:
        """One try of `append`, on the newest version."""
        from deltalake.exceptions import CommitFailedError

        handle = self._open_or_create(table)
        slot = slot_column(table)
        low, high = pc.min_max(rows[slot]).as_py().values() if slot else (None, None)
        present = set()
        for file in self._files_of(table, handle, None, low, high):
            for batch in self._read_file(table, file, table.column_names, low, high, MAX_GROUP_ROWS):
                for key, row in _by_key(pa.table(batch).cast(table.arrow_schema()), logical_key).items():
                    if wanted.get(key, row) != row:
                        remedy = "a log is never rewritten: append a row with a new key"
                        raise PermanentError(f"the log has another row with the key {key}", where=table.name, remedy=remedy)
                    present.add(key)
        new = [index for index, key in enumerate(wanted) if key not in present]
        if not new:
            return Commit(handle.version(), 0, 0, "", False, 0)
        with Stage(self._store, table, "") as stage:
            stage.put(rows.take(pa.array(new)))
        staged = stage.close()
        try:
            self._write_version(table, handle, staged.files, [], {}, {})
        except (CommitFailedError, BlyanError):
            self.discard(table, [staged])
            raise
        return Commit(handle.version() + 1, len(new), sum(file.size for file in staged.files), "", True, len(staged.files))

    def _write_version(
        self,
        table: Table,
        handle: DeltaTable,
        files: Sequence[StagedFile],
        standing: Sequence[DataFile],
        values: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None:
        """Commit exactly the version after the handle's; CommitFailedError where another writer has it."""
        from deltalake.transaction import AddAction, RemoveAction

        now = int(time.time() * 1000)
        added = [AddAction(file.path, file.size, dict(values), now, True, file.stats) for file in files]
        removed = [RemoveAction(file.name, True, now, file.size, {table.partition_by[0]: file.key, CONTENT_COLUMN: file.digest}) for file in standing]
        # Not mode="overwrite": its filter, were it ever lost, would be the whole table.
        handle.create_write_transaction(
            [*added, *removed], "append", handle.schema(), handle.metadata().partition_columns, commit_properties=_once(metadata)
        )
        self._sync_log(table, handle.version() + 1)

    def _maintain(self, table: Table, operation: Callable[[DeltaTable], object]) -> None:
        def attempt() -> None:
            handle = self._open(table)
            operation(handle)
            self._sync_log(table, handle.version())

        self._retry(table, attempt)

    def _retry(self, table: Table, attempt: Callable[[], Result]) -> Result:
        """Try until no other writer is first, with growing, jittered pauses."""
        from deltalake.exceptions import CommitFailedError

        for tries in range(TRIES):
            with self._delta_errors(table.name):
                try:
                    return attempt()
                except CommitFailedError:
                    time.sleep(random.uniform(0, min(0.02 * 2**tries, 1.0)))  # noqa: S311
        raise CommitConflictError(f"other writers were first {TRIES} times", where=table.name, remedy="run it again, with fewer writers at once")

    @contextlib.contextmanager
    def _delta_errors(self, where: str) -> Iterator[None]:
        """Turn errors of delta-rs and of the file system into ours."""
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (DeltaError, OSError) as error:
            raise meaning_of(error, where) from error

    def _sync_log(self, table: Table, version: int) -> None:
        """Make a version that delta-rs wrote survive a loss of power: delta-rs does not."""
        log = f"{table.name}/_delta_log"
        self._store.sync([f"{log}/{version:020}.json", f"{log}/{version:020}.checkpoint.parquet", f"{log}/_last_checkpoint"])

    # Files

    def _present(self, table: Table, names: Sequence[str]) -> list[str]:
        """The files that are in the store: the log remembers deleted ones for a week."""
        sizes = self._store.sizes([f"{table.name}/{name}" for name in names])
        return [name for name, size in zip(names, sizes, strict=True) if size is not None]

    def _check_staged(self, table: Table, key: str, files: Sequence[StagedFile]) -> None:
        if not files:
            raise PermanentError("nothing was staged", where=f"{table.name} {key}", remedy="stage the partition, without rows if it has none")
        sizes = self._store.sizes([f"{table.name}/{file.path}" for file in files])
        for file, size in zip(files, sizes, strict=True):
            where = self._store.uri(f"{table.name}/{file.path}")
            if file.staged_at < time.time() - (STAGED_HOURS - 1) * 3600:
                raise TransientError(f"it was staged {STAGED_HOURS - 1} hours ago; vacuum may delete it", where=where, remedy="stage it again")
            if size != file.size:
                raise MissingObjectError("a staged file is not there as it was written", where=where, remedy="stage it again")

    def _read_file(
        self,
        table: Table,
        file: DataFile,
        columns: Sequence[str],
        first: int | None,
        last: int | None,
        batch_rows: int,
        *,
        absent: bool = False,
        coded: Sequence[str] = (),
    ) -> Iterator[pa.RecordBatch]:
        """Rows of a file between two slots; those without a slot where there is no bound, or `absent` asks for them. `coded` text stays coded."""
        slot = slot_column(table)
        bounded = slot is not None and (first is not None or last is not None)
        names = [*columns, slot] if bounded and slot not in columns else list(columns)
        with self._missing_file(table, file), errors_of(file.path), self._store.open(f"{table.name}/{file.name}") as source:
            parquet = pq.ParquetFile(source, pre_buffer=not self._store.is_local, read_dictionary=coded)
            groups = [
                index
                for index in range(parquet.num_row_groups)
                if not bounded or _group_may_hold(parquet.metadata.row_group(index), slot, first, last)
            ]
            for batch in parquet.iter_batches(batch_rows, row_groups=groups, columns=names):
                kept = batch.filter(_between(batch[slot], first, last, absent=absent)) if bounded else batch
                if kept.num_rows:
                    yield kept.select(columns)

    @contextlib.contextmanager
    def _missing_file(self, table: Table, file: DataFile) -> Iterator[None]:
        """A file that is gone is missing, unless a newer version replaced it and vacuum deleted it under the reader."""
        try:
            yield
        except MissingObjectError as error:
            if file.name in {current.name for current in self.files(table)}:
                remedy = "write the partition again, or restore the file from a backup"
                raise MissingObjectError(f"a file that {table.name} names is not in the store", where=file.path, remedy=remedy) from error
            remedy = "read again, and vacuum with a retention longer than any reader"
            raise TransientError("the version being read was replaced and vacuumed", where=file.path, remedy=remedy) from error

    def _no_partition(self, table: Table, key: str) -> MissingObjectError:
        return MissingObjectError(f"{table.name} has no partition {key}", where=self._store.uri(table.name), remedy="materialise it first")


def _folder(table: Table, key: str) -> str:
    """Where the files of a partition are, relative to the table."""
    if len(table.partition_by) != 1:
        raise PermanentError("it is a log, not partitioned by one column", where=table.name, remedy="use Lake.append")
    return f"{table.partition_by[0]}={_checked_name(key, table.name)}"


def _checked_name(name: str, where: str) -> str:
    if not _NAME.fullmatch(name):
        raise PermanentError(f"{name!r} cannot be a name in the store", where=where, remedy="use letters, digits and _ . @ -")
    return name


def _merged_units(staged: Sequence[Staged], *, where: str) -> dict[str, UnitDigest]:
    units: dict[str, UnitDigest] = {}
    for part in staged:
        if twice := units.keys() & part.units.keys():
            raise PermanentError(f"unit {min(twice)} was staged twice", where=where, remedy="give each unit to one writer")
        units.update(part.units)
    return units


def _digest_of(files: Sequence[DataFile]) -> str:
    """The digest in the log; one that equals no other where the files do not agree, so that the next write repairs it."""
    return "+".join(sorted({file.digest or "unknown" for file in files}))


def _partition(version: int, files: Sequence[DataFile]) -> Partition:
    return Partition(sum(file.rows for file in files), sum(file.size for file in files), _digest_of(files), version, len(files))


def _commit(version: int, files: Sequence[DataFile], *, changed: bool) -> Commit:
    return Commit(version, sum(file.rows for file in files), sum(file.size for file in files), _digest_of(files), changed, len(files))


def _by_key(rows: pa.Table, logical_key: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(row[name] for name in logical_key): row for row in rows.to_pylist()}


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest[:2]}/{digest[2:4]}/{digest}"


def _once(metadata: Mapping[str, str] | None = None) -> Any:
    """One version number, tried once: delta-rs would try the next ones, and even create an existing table anew as its version 1."""
    from deltalake import CommitProperties

    return CommitProperties(custom_metadata={"blyan": dict(metadata or {})}, max_commit_retries=0)


def _zstd(table: Table) -> Any:
    from deltalake import WriterProperties

    return WriterProperties(compression="ZSTD", compression_level=1, max_row_group_size=group_rows(table))


def _may_hold(low: int | None, high: int | None, first: int | None, last: int | None) -> bool:
    """Whether values between `low` and `high` may lie in the slots asked for; unknown bounds may."""
    return not ((first is not None and high is not None and high < first) or (last is not None and low is not None and low > last))


def _group_may_hold(group: Any, slot: str | None, first: int | None, last: int | None) -> bool:
    index = next(index for index in range(group.num_columns) if group.column(index).path_in_schema == slot)
    stats = group.column(index).statistics
    return stats is None or not stats.has_min_max or bool(stats.null_count) or _may_hold(stats.min, stats.max, first, last)


def _between(slots: pa.Array, first: int | None, last: int | None, *, absent: bool) -> pa.Array:
    inside = pc.is_valid(slots)
    if first is not None:
        inside = pc.and_kleene(inside, pc.greater_equal(slots, first))
    if last is not None:
        inside = pc.and_kleene(inside, pc.less_equal(slots, last))
    return pc.or_kleene(inside, pc.is_null(slots)) if absent else inside


def _windows(files: Sequence[DataFile]) -> list[tuple[int, int, bool]]:
    """Cut the slots of the files into windows of whole units and bounded size; the first takes the rows without a slot too."""
    low = min((file.slot_min for file in files if file.slot_min is not None), default=0) // UNIT_SLOTS
    high = max((file.slot_max for file in files if file.slot_max is not None), default=0) // UNIT_SLOTS + 1
    count = min(high - low, sum(file.size for file in files) // WINDOW_BYTES + 1)
    edges = [UNIT_SLOTS * (low + (high - low) * index // count) for index in range(count + 1)]
    return [(first, end - 1, first == edges[0]) for first, end in itertools.pairwise(edges)]
