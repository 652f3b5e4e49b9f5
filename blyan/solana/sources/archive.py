"""Recorded RPC responses in a folder or bucket, as a block source.

Belongs here: which file holds which slot, reading files within bounds, and choosing between records of one slot.
Does not belong here: finding responses inside a file's bytes (`blyan.solana.header`), decoding transactions.

A slot is told by the record (a wrapper's `slot`, a getTransaction result's own) or else by the leading digits of the
file's name. A file whose name tells its slot is opened only when that slot is read; any other is opened once for the
index. Lines of a compressed ndjson file are read in one pass if they are in the order of their slots; each step back
costs a pass.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from msgspec import Struct
from pyarrow import fs

from blyan.errors import BadRecordError, PermanentError, SettingError, SourceUnreachableError
from blyan.settings import Settings
from blyan.solana.header import Detail, Encoding, Piece, PieceKind, Richness, richness, split, split_value, transaction_encoding
from blyan.solana.slots import SlotRange
from blyan.solana.sources import Format, RawRecord, SlotState, SourceReport

LINES = (".ndjson", ".jsonl")
SUFFIXES = (".json", *LINES)
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

CHUNK = 1 << 20
"""Bytes decompressed at a time; what is held may pass `archive_max_bytes` by this much."""

READS = 3
"""Times a file that changes while it is read is read before it is rejected."""

FORK_DEPTH = 32
"""Blocks ahead that are looked at to tell which of two blocks of a slot is on the chain.

A fork longer than this cannot be: a block with 31 confirmations is final (Solana, `MAX_LOCKOUT_HISTORY`).
"""

NO_SLOT = 1 << 63
"""Later than any slot."""

OPEN_FILES = 8
"""Line files held open at once while a range is read."""

SKIPPED_CODES = (-32007, -32009)
"""JSON-RPC errors by which a node says that a slot has no block (skipped; skipped, in long-term storage)."""

ERROR_MEANINGS = {
    -32001: "pruned: the node no longer has this block",
    -32004: "the node did not have this block yet",
    -32011: "the node keeps no transaction history",
}

_REMEDIES = {
    "truncated": "record the block again; the file ends too early",
    "corrupt": "copy or record the file again; its compressed bytes are damaged",
    "gzip_bomb": "if the file is what it should be, raise BLYAN_ARCHIVE_MAX_BYTES",
    "too_large": "if the file is what it should be, raise BLYAN_ARCHIVE_MAX_BYTES",
    "changed_while_read": "read the range again when nothing writes to the file",
    "empty": "record the block again",
    "not_json": "record the block again; check that the file is not a proxy's error page",
    "invalid_utf8": "record the block again; its bytes are damaged",
    "not_a_block": "keep only getBlock and getTransaction responses in the archive",
    "no_slot": "name the file SLOT.json, or wrap each record as {\"slot\": SLOT, \"block\": …}",
    "wrong_slot": "name the file after the slot it was recorded for, or record the block again",
    "conflicting_hash": "remove the wrong record, or record the block after this one, which names its parent's hash",
}  # fmt: skip


class _File(Struct, frozen=True, gc=False):
    """A file of the archive as it was when listed. `named` is the slot that its name tells."""

    path: str
    size: int
    mtime_ns: int | None
    compression: str | None
    is_lines: bool
    named: int | None


class _Place(Struct, frozen=True, gc=False):
    """Where a record is.

    Attributes:
        file: its file.
        kind: what it was when the file was indexed; None for a file that is opened only when its slot is read.
        line: its line, from 1.
        offset: where the line begins, in decompressed bytes.
        length: bytes of the line.
        ordinal: its place among the records of the line, or of a file that is not lines.
        problem: why it cannot be placed in a slot: reason and words.
    """

    file: _File
    kind: PieceKind | None = None
    line: int = 1
    offset: int = 0
    length: int = 0
    ordinal: int = 0
    problem: tuple[str, str] | None = None

    @property
    def origin(self) -> str:
        """Path, and line of an ndjson file."""
        return f"{self.file.path}:{self.line}" if self.file.is_lines else self.file.path


@dataclass(slots=True)
class _Index:
    """Which slots are recorded where."""

    files: list[_File]
    ignored: int
    places: dict[int, list[_Place]]
    slots: list[int]
    unplaced: list[_Place]
    blockless: set[int] = field(default_factory=set)
    """Slots whose files were opened and held no block, so that looking for the next block does not open them again."""


@dataclass(slots=True)
class _Record:
    """A record that can be used for its slot."""

    piece: Piece
    place: _Place

    @property
    def order(self) -> tuple[str, int, int]:
        return self.place.file.path, self.place.line, self.place.ordinal


@dataclass(slots=True)
class _Found:
    """All that the archive holds of a slot."""

    slot: int
    blocks: list[_Record] = field(default_factory=list)
    transactions: list[_Record] = field(default_factory=list)
    answers: list[_Record] = field(default_factory=list)
    rejected: list[RawRecord] = field(default_factory=list)
    chosen: _Record | None = None


class ArchiveSource:
    """Blocks recorded in files.

    A slot without a block is SKIPPED where the next recorded block names an earlier parent, or where the node's answer
    that it was skipped is recorded; otherwise UNKNOWN. Where a block is recorded, loose transactions of its slot are
    ignored. A file that belongs to no slot is reported once in a backfill: with the range that holds the first
    recorded slot of the grid. The archive is listed once: another source object sees what was recorded since.
    """

    name = "archive"

    def __init__(self, location: str, *, max_bytes: int = 1 << 30, first_slot: int = 0, options: Mapping[str, Any] | None = None) -> None:
        """Nothing is opened yet.

        Args:
            location: a folder, or `s3://bucket/prefix` or `gs://bucket/prefix`; folders in it are searched too.
            max_bytes: most bytes a file may decompress to, or a line of an uncompressed file may have.
            first_slot: first slot of the grid.
            options: arguments of pyarrow's S3 or GCS file system.
        """
        self.location = location
        self.max_bytes = max_bytes
        self.first_slot = first_slot
        self._options = dict(options or {})
        self._cached: tuple[fs.FileSystem, _Index] | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> ArchiveSource:
        """The source that the settings describe.

        Raises:
            SettingError: BLYAN_ARCHIVE is not set.
        """
        if not settings.archive:
            raise SettingError(
                "the archive source has no archive", where="BLYAN_ARCHIVE", remedy="set it to a folder, s3:// or gs:// of recorded getBlock responses"
            )
        return cls(
            settings.archive,
            max_bytes=settings.archive_max_bytes,
            first_slot=settings.first_slot,
            options=settings.file_options if "://" in settings.archive else None,
        )

    def check(self) -> SourceReport:
        """List the archive and say what it has. Files named by their slot are counted, not opened.

        Raises:
            SettingError: BLYAN_ARCHIVE does not name a folder with recorded responses.
            SourceUnreachableError: the bucket does not answer.
        """
        _, index = self._open()
        records = sum(len(places) for places in index.places.values())
        detail = f"{len(index.files)} files, {records} records of {len(index.slots)} slots, {len(index.unplaced)} rejected that tell no slot"
        if index.ignored:
            detail += f", {index.ignored} files of other kinds ignored"
        first, last = (index.slots[0], index.slots[-1]) if index.slots else (None, None)
        return SourceReport(self.name, self.location, None, first, last, detail)

    def genesis_hash(self) -> str | None:
        """None: recorded responses do not tell."""
        return None

    def states(self, slots: SlotRange) -> list[SlotState]:
        """What `read` says of each slot. The files are opened: a name is only a claim."""
        return [record.state for record in self.read(slots) if record.state is not SlotState.REJECTED]

    def read(self, slots: SlotRange) -> Iterator[RawRecord]:
        """One record per slot in order, each after the rejected records of its slot.

        Raises:
            SettingError: BLYAN_ARCHIVE does not name a folder with recorded responses.
            PermanentError: a file may not be read.
            SourceUnreachableError: the bucket does not answer.
        """
        filesystem, index = self._open()
        reading = _Reading(filesystem, index, self.max_bytes)
        try:
            if self._anchor(index) in slots:
                yield from reading.unplaced()
            for slot in slots:
                yield from reading.slot(slot)
        finally:
            reading.close()

    def _anchor(self, index: _Index) -> int:
        """The slot whose range reports the files that belong to no slot."""
        return next((slot for slot in index.slots if slot >= self.first_slot), self.first_slot)

    def _open(self) -> tuple[fs.FileSystem, _Index]:
        if self._cached is None:
            filesystem, root = self._filesystem()
            files, ignored = self._list(filesystem, root)
            self._cached = filesystem, _build_index(filesystem, files, ignored, self.max_bytes)
        return self._cached

    def _filesystem(self) -> tuple[fs.FileSystem, str]:
        scheme, _, rest = self.location.rpartition("://")
        match scheme:
            case "":
                return fs.LocalFileSystem(), Path(rest).expanduser().as_posix()
            case "s3":
                return fs.S3FileSystem(**self._options), rest.rstrip("/")
            case "gs":
                return fs.GcsFileSystem(**self._options), rest.rstrip("/")
            case _:
                raise SettingError(f"no file system for {self.location}", where="BLYAN_ARCHIVE", remedy="give a folder, s3://… or gs://…")

    def _list(self, filesystem: fs.FileSystem, root: str) -> tuple[list[_File], int]:
        try:
            kind = filesystem.get_file_info(root).type
            infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True)) if kind is fs.FileType.Directory else []
        except OSError as error:
            raise SourceUnreachableError(
                f"the archive cannot be listed: {error}", where=self.location, remedy="check the address, the keys and the network"
            ) from error
        if kind is not fs.FileType.Directory:
            what = "is not there" if kind is fs.FileType.NotFound else "is not a folder"
            raise SettingError(
                f"the archive {self.location} {what}", where="BLYAN_ARCHIVE", remedy="set it to the folder of recorded getBlock responses"
            )
        infos = [info for info in infos if info.type is fs.FileType.File and not info.base_name.startswith(".")]
        files = [file for info in infos if (file := _file_of(info)) is not None]
        if not files:
            raise SettingError(
                f"the archive {self.location} holds no recorded responses ({len(infos)} other files)",
                where="BLYAN_ARCHIVE",
                remedy=f"put files there that end in {', '.join(SUFFIXES)}, or these with .gz or .zst",
            )
        return sorted(files, key=lambda file: file.path), len(infos) - len(files)


def _file_of(info: fs.FileInfo) -> _File | None:
    """The file, if it is of a kind that may hold responses."""
    name = info.base_name
    packed = Path(name).suffix.lower()
    plain = name[: -len(packed)] if packed in COMPRESSIONS else name
    suffix = Path(plain).suffix.lower()
    if suffix not in SUFFIXES:
        return None
    named = re.match(r"\d{1,18}(?=[-_.])", plain)
    return _File(info.path, info.size, info.mtime_ns, COMPRESSIONS.get(packed), suffix in LINES, int(named[0]) if named else None)


def _build_index(filesystem: fs.FileSystem, files: list[_File], ignored: int, max_bytes: int) -> _Index:
    places: dict[int, list[_Place]] = {}
    unplaced: list[_Place] = []
    for file in files:
        if file.named is not None and not file.is_lines:
            places.setdefault(file.named, []).append(_Place(file))
            continue
        found = [(_place_without_data(place, piece), piece.slot) for place, piece in _settled(filesystem, file, max_bytes, keep=False)]
        for place, told in found:
            # The name of a file of many lines is its first slot or its range at best.
            slot = file.named if told is None and len(found) == 1 else told
            if slot is None:
                unplaced.append(place)
            else:
                places.setdefault(slot, []).append(place)
    return _Index(files, ignored, places, sorted(places), unplaced)


def _place_without_data(place: _Place, piece: Piece) -> _Place:
    if piece.kind is PieceKind.BAD:
        problem = (piece.reason, piece.detail)
    elif piece.slot is None:
        problem = ("no_slot", "neither the record nor the file's name tells its slot")
    else:
        problem = None
    return _Place(place.file, piece.kind, place.line, place.offset, place.length, place.ordinal, problem)


def _settled(filesystem: fs.FileSystem, file: _File, max_bytes: int, *, keep: bool) -> list[tuple[_Place, Piece]]:
    """The records of a file that did not change while it was read.

    Args:
        filesystem: where it is.
        file: the file.
        max_bytes: most bytes it may decompress to.
        keep: whether to keep the bytes of the records; an index does without.
    """
    for _ in range(READS):
        before = _identity(filesystem, file.path)
        records = []
        for place, piece in _pieces(filesystem, file, max_bytes):
            records.append((place, piece if keep else Piece(piece.kind, b"", piece.line, piece.slot, reason=piece.reason, detail=piece.detail)))
        if _identity(filesystem, file.path) == before:
            return records
    detail = f"the file changed each of the {READS} times it was read"
    return [(_Place(file), Piece(PieceKind.BAD, b"", reason="changed_while_read", detail=detail))]


def _identity(filesystem: fs.FileSystem, path: str) -> tuple[int | None, int | None]:
    info = filesystem.get_file_info(path)
    return info.size, info.mtime_ns


def _pieces(filesystem: fs.FileSystem, file: _File, max_bytes: int) -> Iterator[tuple[_Place, Piece]]:
    """The records of a file, in its order, one line in memory at a time where it is lines."""
    empty = True
    for text in _texts(filesystem, file, max_bytes):
        if text.failure is not None:
            pieces = [Piece(PieceKind.BAD, text.data, text.line, reason=text.failure.reason, detail=text.failure.what)]
        elif file.is_lines:
            pieces = split_value(text.data, text.line)
        else:
            pieces = list(split(text.data))
        for ordinal, piece in enumerate(pieces):
            empty = False
            yield _Place(file, piece.kind, piece.line, text.offset, len(text.data), ordinal), piece
    if empty:
        yield _Place(file, PieceKind.BAD), Piece(PieceKind.BAD, b"", reason="empty", detail="the file is empty")


@dataclass(slots=True)
class _Text:
    """A line, or a whole file that is not lines; the last one of a file that cannot be read on says why."""

    line: int
    offset: int
    data: bytes
    failure: BadRecordError | None = None


def _texts(filesystem: fs.FileSystem, file: _File, max_bytes: int) -> Iterator[_Text]:
    line, offset = 1, 0
    held = io.BytesIO()
    try:
        for chunk in _chunks(filesystem, file, max_bytes):
            if file.is_lines and b"\n" in chunk:
                head, *rest = chunk.split(b"\n")
                held.write(head)
                for following in rest:
                    data = held.getvalue()
                    if data.strip():
                        yield _Text(line, offset, data)
                    line, offset = line + 1, offset + len(data) + 1
                    held = io.BytesIO()
                    held.write(following)
            else:
                held.write(chunk)
            _check_size(held.tell(), max_bytes, file, "too_large")
    except BadRecordError as failure:
        if failure.reason in ("gzip_bomb", "too_large"):
            evidence = b""
        else:
            evidence = held.getvalue() if file.is_lines else _verbatim(filesystem, file, max_bytes)
        yield _Text(line, offset, evidence, failure)
        return
    if held.getvalue().strip() or not file.is_lines:
        yield _Text(line, offset, held.getvalue())


def _check_size(size: int, max_bytes: int, file: _File, reason: str) -> None:
    if size > max_bytes:
        raise BadRecordError(f"more than {max_bytes} bytes{' when decompressed' if file.compression else ''}", reason=reason, where=file.path)


def _verbatim(filesystem: fs.FileSystem, file: _File, max_bytes: int) -> bytes:
    """The bytes of a file that does not decompress, as they are; none if it is gone."""
    try:
        with _opened(filesystem, file) as raw:
            return _read(raw, max_bytes, file)
    except BadRecordError:
        return b""


def _chunks(filesystem: fs.FileSystem, file: _File, max_bytes: int) -> Iterator[bytes]:
    """The file's bytes, decompressed.

    Raises:
        BadRecordError: its compressed bytes are cut short or damaged, or it decompresses to more than `max_bytes`.
        PermanentError: it may not be read.
        SourceUnreachableError: the store does not answer.
    """
    total = 0
    try:
        with _stream(filesystem, file) as stream:
            while chunk := _read(stream, CHUNK, file):
                total += len(chunk)
                if file.compression is not None:
                    _check_size(total, max_bytes, file, "gzip_bomb")
                yield chunk
    except BadRecordError as failure:
        if failure.reason in ("truncated", "corrupt"):
            yield _last_bytes(filesystem, file, total)
        raise


def _last_bytes(filesystem: fs.FileSystem, file: _File, after: int) -> bytes:
    """What a damaged file still gives after so many bytes; a longer read that fails gives nothing of it."""
    data = bytearray()
    try:
        with _stream(filesystem, file) as stream:
            while after > 0 and (skipped := _read(stream, min(CHUNK, after), file)):
                after -= len(skipped)
            while len(data) < CHUNK and (byte := _read(stream, 1, file)):
                data += byte
    except BadRecordError:
        return bytes(data)
    return bytes(data)


def _stream(filesystem: fs.FileSystem, file: _File) -> pa.NativeFile:
    raw = _opened(filesystem, file)
    return raw if file.compression is None else pa.CompressedInputStream(raw, file.compression)


def _opened(filesystem: fs.FileSystem, file: _File) -> pa.NativeFile:
    """The file's own bytes, at random access."""
    try:
        return filesystem.open_input_file(file.path)
    except OSError as error:
        raise _failure(error, file) from error


def _read(stream: pa.NativeFile, size: int, file: _File) -> bytes:
    try:
        data: bytes = stream.read(size)
    except OSError as error:
        raise _failure(error, file) from error
    return data


def _failure(error: OSError, file: _File) -> BadRecordError | PermanentError | SourceUnreachableError:
    """What an error of reading means. Arrow tells a damaged file and a dead store apart only in words."""
    words = str(error)
    if "Truncated" in words:
        return BadRecordError("the compressed file is cut short", reason="truncated", where=file.path)
    if "inflate" in words or "ZSTD" in words:
        return BadRecordError(f"the compressed file is damaged: {words}", reason="corrupt", where=file.path)
    if isinstance(error, FileNotFoundError):
        return BadRecordError("the file is gone since it was listed", reason="changed_while_read", where=file.path)
    if isinstance(error, PermissionError):
        return PermanentError(f"a file of the archive may not be read: {words}", where=file.path, remedy="give this user permission to read it")
    return SourceUnreachableError(f"a file of the archive cannot be read: {words}", where=file.path, remedy="check the store and the network")


@dataclass(slots=True)
class _Ahead:
    """The next block of every slot from `after` up to `before`; None where it is not told which block that is."""

    after: int
    before: int
    found: _Found | None


class _Lines:
    """A line file held open: lines by their offset, fastest in ascending order."""

    def __init__(self, filesystem: fs.FileSystem, file: _File) -> None:
        self._file = file
        self._position = 0
        self.stream = _stream(filesystem, file)

    def behind(self, place: _Place) -> bool:
        """Whether the line can be reached without opening the file again."""
        return self._file.compression is None or self._position <= place.offset

    def line(self, place: _Place) -> bytes:
        """The bytes at a place; fewer than were there if the file is shorter now."""
        if self._file.compression is None:
            self.stream.seek(place.offset)
        else:
            while self._position < place.offset and (skipped := _read(self.stream, min(CHUNK, place.offset - self._position), self._file)):
                self._position += len(skipped)
        data = io.BytesIO()
        while data.tell() < place.length and (chunk := _read(self.stream, place.length - data.tell(), self._file)):
            data.write(chunk)
        self._position += data.tell()
        return data.getvalue()


class _Reading:
    """One pass over a range: what it holds open, and the next block it has already looked at."""

    def __init__(self, filesystem: fs.FileSystem, index: _Index, max_bytes: int) -> None:
        self._filesystem = filesystem
        self._index = index
        self._max_bytes = max_bytes
        self._open: OrderedDict[str, _Lines] = OrderedDict()
        self._whole: tuple[str, list[tuple[_Place, Piece]]] = ("", [])
        self._ahead = _Ahead(0, 0, None)

    def close(self) -> None:
        """Close the files held open."""
        while self._open:
            self._open.popitem()[1].stream.close()

    def unplaced(self) -> Iterator[RawRecord]:
        """The records that belong to no slot."""
        for place in self._index.unplaced:
            piece = self._fetch(place)
            reason, words = place.problem or (piece.reason, piece.detail)
            yield _rejected(None, reason, words, piece.data, place.origin)

    def slot(self, slot: int) -> Iterator[RawRecord]:
        """The rejected records of a slot, then its own."""
        ahead = self._ahead.found
        found = ahead if ahead is not None and ahead.slot == slot else self._find(slot, 0)
        yield from found.rejected
        yield self._own(found)

    def _own(self, found: _Found) -> RawRecord:
        slot, chosen = found.slot, found.chosen
        if chosen is not None and chosen.piece.header is not None:
            header = chosen.piece.header
            return RawRecord(
                slot,
                SlotState.PRESENT,
                "recorded",
                chosen.piece.data,
                block_hash=header.block_hash,
                parent_slot=header.parent_slot,
                origin=chosen.place.origin,
            )
        if found.transactions:
            payload, origin = _combine(found.transactions)
            detail = "transactions were recorded one by one, without their block. Remedy: record the block with getBlock"
            return RawRecord(slot, SlotState.UNKNOWN, "transactions_only", payload, Format.GET_TRANSACTION, detail=detail, origin=origin)
        if found.blocks:
            return RawRecord(
                slot,
                SlotState.UNKNOWN,
                "conflicting_hash",
                detail=_words("blocks of different hashes are recorded", "conflicting_hash", f"slot {slot}"),
            )
        following = self._next_block(slot, 0)
        if following is not None and _parent(following) < slot:
            return RawRecord(slot, SlotState.SKIPPED, f"parent link of {following.slot}")
        return _answered(found)

    def _find(self, slot: int, depth: int) -> _Found:
        found = _Found(slot)
        for place in self._index.places.get(slot, ()):
            if place.kind is None:
                records = [(place, piece) for _, piece in _settled(self._filesystem, place.file, self._max_bytes, keep=True)]
            else:
                records = [(place, self._fetch(place))]
            _sort_out(found, records)
        if not found.blocks and slot in self._index.places:
            self._index.blockless.add(slot)
        self._choose(found, depth)
        return found

    def _choose(self, found: _Found, depth: int) -> None:
        """Of several records of a block keep the best; of several blocks that which the next block names."""
        hashes = {_hash(record) for record in found.blocks}
        on_chain = next(iter(hashes), None)
        if len(hashes) > 1:
            following = self._next_block(found.slot, depth + 1) if depth < FORK_DEPTH else None
            child = following.chosen.piece.header if following is not None and following.chosen is not None else None
            on_chain = child.previous_block_hash if child is not None and child.parent_slot == found.slot else None
            for record in found.blocks:
                if _hash(record) != on_chain:
                    found.rejected.append(_conflicting(found.slot, record, len(hashes)))
        candidates = [record for record in found.blocks if _hash(record) == on_chain]
        if len(candidates) > 1:
            candidates.sort(key=lambda record: (_richness(record), record.order))
        found.chosen = candidates[0] if candidates else None

    def _next_block(self, slot: int, depth: int) -> _Found | None:
        """The next slot with a recorded block, if it is told which block that is."""
        if depth == 0 and self._ahead.after <= slot < self._ahead.before:
            return self._ahead.found
        found, before = None, NO_SLOT
        recorded = self._index.slots
        for later in (recorded[at] for at in range(bisect_right(recorded, slot), len(recorded))):
            if later in self._index.blockless or not _may_hold_block(self._index.places[later]):
                continue
            found = self._find(later, depth)
            if found.blocks:
                before = later
                break
        if found is not None and found.chosen is None:
            found = None
        if depth == 0:
            self._ahead = _Ahead(slot, before, found)
        return found

    def _fetch(self, place: _Place) -> Piece:
        """The record at an indexed place, read again if the file changes meanwhile."""
        for _ in range(READS):
            piece = self._line_piece(place) if place.file.is_lines else self._whole_piece(place)
            if piece is not None and piece.kind is place.kind:
                return piece
            self._open.pop(place.file.path, None)
            self._whole = ("", [])
        detail = "the file is not what it was when the archive was listed"
        return Piece(PieceKind.BAD, b"", place.line, reason="changed_while_read", detail=detail)

    def _whole_piece(self, place: _Place) -> Piece | None:
        path, records = self._whole
        if path != place.file.path:
            records = _settled(self._filesystem, place.file, self._max_bytes, keep=True)
            self._whole = (place.file.path, records)
        return records[place.ordinal][1] if place.ordinal < len(records) else None

    def _line_piece(self, place: _Place) -> Piece | None:
        if place.kind is PieceKind.BAD and place.problem is not None and place.length == 0:
            return Piece(PieceKind.BAD, b"", place.line, reason=place.problem[0], detail=place.problem[1])
        try:
            lines = self._lines(place)
            pieces = split_value(lines.line(place), place.line)
        except BadRecordError as failure:
            pieces = [Piece(PieceKind.BAD, b"", place.line, reason=failure.reason, detail=failure.what)]
        return pieces[place.ordinal] if place.ordinal < len(pieces) else None

    def _lines(self, place: _Place) -> _Lines:
        path = place.file.path
        lines = self._open.pop(path, None)
        if lines is None or not lines.behind(place):
            lines = _Lines(self._filesystem, place.file)
        self._open[path] = lines
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].stream.close()
        return lines


def _may_hold_block(places: list[_Place]) -> bool:
    return any(place.kind in (None, PieceKind.BLOCK) for place in places)


def _sort_out(found: _Found, records: list[tuple[_Place, Piece]]) -> None:
    """Put each record of a slot where it belongs, or among the rejected."""
    slot = found.slot
    nameless = sum(piece.kind is PieceKind.BLOCK and piece.slot is None for _, piece in records)
    for place, piece in records:
        problem = _problem(slot, piece, nameless)
        if problem is not None:
            found.rejected.append(_rejected(slot, *problem, piece.data, place.origin))
        elif piece.kind is PieceKind.BLOCK:
            found.blocks.append(_Record(piece, place))
        elif piece.kind is PieceKind.TRANSACTION:
            found.transactions.append(_Record(piece, place))
        else:
            found.answers.append(_Record(piece, place))


def _problem(slot: int, piece: Piece, nameless: int) -> tuple[str, str] | None:
    """Why a record cannot be used for a slot: reason and words."""
    if piece.kind is PieceKind.BAD:
        return piece.reason, piece.detail
    if piece.slot is not None and piece.slot != slot:
        return "wrong_slot", f"a response for another slot: the record says {piece.slot}, the file's name {slot}"
    if piece.kind is PieceKind.BLOCK and piece.slot is None and nameless > 1:
        return "no_slot", f"the file is named for slot {slot}, but holds {nameless} blocks that do not tell theirs"
    if piece.header is not None and piece.header.parent_slot is not None and piece.header.parent_slot >= slot > 0:
        return "wrong_slot", f"a response for another slot: its parent slot is {piece.header.parent_slot}, which is not before {slot}"
    return None


def _answered(found: _Found) -> RawRecord:
    """What recorded errors say of a slot without a block."""
    codes = {record.piece.code: record for record in found.answers if record.piece.kind is PieceKind.ERROR}
    for code in SKIPPED_CODES:
        if code in codes:
            return RawRecord(found.slot, SlotState.SKIPPED, f"rpc {code}", detail=codes[code].piece.detail, origin=codes[code].place.origin)
    for given, record in sorted(codes.items(), key=lambda item: item[1].order):
        words = ERROR_MEANINGS.get(given or 0, "the node answered with an error")
        return RawRecord(
            found.slot,
            SlotState.UNKNOWN,
            f"rpc {given}",
            detail=f"{words} ({record.piece.detail}). Remedy: record the block from a node that has it",
            origin=record.place.origin,
        )
    if found.answers:
        answer = found.answers[0]
        return RawRecord(found.slot, SlotState.UNKNOWN, "null result", detail=answer.piece.detail, origin=answer.place.origin)
    if found.rejected:
        first = found.rejected[0]
        return RawRecord(found.slot, SlotState.UNKNOWN, "unreadable", detail=f"{first.proof}: {first.detail}", origin=first.origin)
    return RawRecord(found.slot, SlotState.UNKNOWN, "not recorded")


def _combine(records: list[_Record]) -> tuple[bytes, str]:
    """One JSON array of the transactions of a slot, each once, in its most exact encoding."""
    best: dict[str, tuple[Encoding, tuple[str, int, int]]] = {}
    kept: dict[str, _Record] = {}
    for record in records:
        try:
            encoding, signature = transaction_encoding(record.piece.data)
        except BadRecordError:
            encoding, signature = Encoding.BASE58, None  # the decoder says what is wrong with it
        key = signature or "\0".join(map(str, record.order))
        if key not in best or (encoding, record.order) < best[key]:
            best[key], kept[key] = (encoding, record.order), record
    chosen = sorted(kept.values(), key=lambda record: record.order)
    origin = chosen[0].place.origin + (f" and {len(chosen) - 1} more" if len(chosen) > 1 else "")
    return b"[" + b",".join(record.piece.data for record in chosen) + b"]", origin


def _richness(record: _Record) -> Richness:
    try:
        return richness(record.piece.data)
    except BadRecordError:
        return Richness(Detail.NONE, 0, missing_rewards=True, encoding=Encoding.BASE58)  # kept only if nothing better is


def _hash(record: _Record) -> str:
    return record.piece.header.block_hash if record.piece.header is not None else ""


def _parent(found: _Found) -> int:
    header = found.chosen.piece.header if found.chosen is not None else None
    return header.parent_slot if header is not None and header.parent_slot is not None else found.slot


def _conflicting(slot: int, record: _Record, hashes: int) -> RawRecord:
    words = f"block {_hash(record)} is one of {hashes} different blocks recorded for slot {slot}"
    return _rejected(slot, "conflicting_hash", words, record.piece.data, record.place.origin, _hash(record))


def _rejected(slot: int | None, reason: str, words: str, data: bytes, origin: str, block_hash: str | None = None) -> RawRecord:
    # Not the whole path: the words are part of the digest, and where the archive lies is not.
    where = Path(origin).name if slot is None else f"slot {slot}"
    return RawRecord(slot, SlotState.REJECTED, reason, data, block_hash=block_hash, detail=_words(words, reason, where), origin=origin)


def _words(words: str, reason: str, where: str) -> str:
    return str(BadRecordError(words, where=where, remedy=_REMEDIES[reason]))
