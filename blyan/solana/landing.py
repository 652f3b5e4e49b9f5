"""The landing: the tail of the chain that is not yet in the lake's tables, readable the moment it is written.

Belongs here: the files of the tail, `head.json` that names them, and what survives a crash. Does not belong here: which slots
to write (`blyan.solana.follower`), their files (`blyan.solana.segments`), or ranges that are over (`blyan.lake`).

A **segment** is some slots' rows of every table (`blyan.solana.segments`). Segments are never changed: rows of a fork that died are left out of a new segment that takes the old one's place. `head.json` names the
segments that count, and is replaced atomically: what it does not name is not there. Files that it no longer names are kept
for `GRACE_S`, for readers who read the head before.

**Rule of the hand-over.** A reader reads `head.json` first and the tables' logs after it. A range that the head names is
read from the landing alone, whatever the lake has of it; every other range is read from the lake alone. A range leaves the
head only when the lake holds every table of it, made from the same raw blocks. So at any moment a row is read exactly once:
the lake cannot lack a range that the head did not name, since it stood in the log before it left the head.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, groupby, pairwise
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from blyan import schemas
from blyan.digest import UnitDigest, digest_partition, digest_unit, in_key_order, split_units
from blyan.errors import MissingObjectError, PermanentError
from blyan.lake import Commit, Lake
from blyan.schemas import RAW_BLOCKS, Table
from blyan.solana.segments import FOLDER, LANDED, Segment, SegmentWriter, path_of, read_rows, slot_of
from blyan.solana.slots import Grid, SlotRange
from blyan.solana.sources import RawRecord
from blyan.stage import joined

FORMAT = 1
"""Version of `head.json`. A reader refuses a newer one."""

HEAD = f"{FOLDER}/head.json"

GRACE_S = 120.0
"""Seconds for which files stay that the head no longer names: longer than any query that began before."""

MERGE = 16
"""Final segments that become one, so that a range of n slots is O(log n) files, each row written O(log n) times."""

MERGED_SLOTS = 4_096
"""A segment of so many slots is not merged further: every merge reads and writes each of its rows again."""


class LandedRange(Struct, frozen=True):
    """What the landing holds of a range. `sealed` once every slot of it is final; `digest` is then that of its raw blocks."""

    key: str
    segments: list[Segment]
    sealed: bool = False
    digest: str | None = None

    def check(self, slots: SlotRange) -> None:
        """That a sealed range has the slots which a grid gives its key.

        Raises:
            PermanentError: it was sealed under another grid.
        """
        first, last = min(segment.first for segment in self.segments), max(segment.last for segment in self.segments)
        if (first, last, sum(segment.count for segment in self.segments)) != (slots.first, slots.last, len(slots)):
            raise PermanentError(
                f"the sealed range {self.key} has slots {first}-{last}, the grid says {slots}",
                where=HEAD,
                remedy="give the follower and Dagster the same BLYAN_FIRST_SLOT, BLYAN_HORIZON_SLOT and BLYAN_SLOTS_PER_RANGE",
            )


class Head(Struct, frozen=True):
    """What readers see of the tail.

    Attributes:
        generation: one more with every head.
        genesis_hash: the chain.
        written_at: Unix seconds, for people and for lag; nothing is decided by it.
        processed, confirmed, finalized: the node's newest slot at each commitment, as it last said.
        checkpoint: every followed slot before it is final: landed with its hash, or skipped with proof.
        anchor: slot and hash of the newest final block, which the next one must link to.
        announced: (slot, range key) of slots that the node has processed and whose blocks are still to come, the newest of them.
        ranges: in order of their keys; all others are the lake's.
    """

    generation: int = 0
    genesis_hash: str | None = None
    written_at: float = 0.0
    processed: int = -1
    confirmed: int = -1
    finalized: int = -1
    checkpoint: int = 0
    anchor: tuple[int, str] | None = None
    announced: list[tuple[int, str]] = []
    ranges: list[LandedRange] = []
    format: int = FORMAT

    def slots(self) -> dict[int, str | None]:
        """Block hash of every slot that may still change, and of final ones not merged yet; None where skipped."""
        return dict(sorted(pair for landed in self.ranges for segment in landed.segments for pair in segment.slots))

    def range_keys(self) -> set[str]:
        """The ranges that are read from the landing, and not from the lake."""
        return {landed.key for landed in self.ranges}

    def files(self, table: Table, slots: SlotRange | None = None) -> list[tuple[str, str]]:
        """(range key, path under the lake's root) of the files of a table that may hold rows of these slots."""
        return [
            (landed.key, path_of(landed.key, segment.name, table))
            for landed in self.ranges
            for segment in landed.segments
            if segment.rows.get(table.name) and (slots is None or (segment.first <= slots.last and segment.last >= slots.first))
        ]


@lru_cache(maxsize=4)
def _decode_head(content: bytes) -> Head:
    """Readers look many times a second at a file that changes twice a second: the same bytes are the same object."""
    return msgspec.json.decode(content, type=Head)


def read_head(lake: Lake) -> Head | None:
    """The head as it stands, or None where nothing was ever landed.

    Raises:
        PermanentError: it cannot be read, or a newer release wrote it. It is never taken for "nothing new".
    """
    try:
        content = lake.store.get(HEAD)
    except MissingObjectError:
        return None
    where = lake.store.uri(HEAD)
    try:
        head = _decode_head(content)
    except msgspec.DecodeError as error:
        raise PermanentError(
            f"it cannot be read: {error}", where=where, remedy="restore it, or delete it and follow again from BLYAN_FIRST_SLOT"
        ) from error
    if head.format > FORMAT:
        raise PermanentError(f"it has format {head.format}, this release reads up to {FORMAT}", where=where, remedy="update blyan")
    return head


def land_sealed(lake: Lake, slots: SlotRange) -> Commit | None:
    """Commit the raw blocks of a sealed range to the lake, as they were landed; None where the landing holds no such range.

    What comes after (`normalise_range`) makes the same rows as the landing has, from the same bytes.

    Raises:
        PermanentError: the head cannot be read, or the range was sealed with other bounds than these.
    """
    head = read_head(lake)
    landed = next((landed for landed in head.ranges if landed.key == slots.key and landed.sealed), None) if head else None
    if landed is None:
        return None
    landed.check(slots)
    segments = sorted(landed.segments, key=lambda segment: segment.first)
    parts = (read_rows(lake, landed.key, segment, RAW_BLOCKS) for segment in segments)
    # Segments written while catching up may lie between each other, and units span segments.
    apart = all(before.last < after.first for before, after in pairwise(segments))
    return lake.write_partition(
        RAW_BLOCKS, slots.key, parts if apart else [in_key_order(RAW_BLOCKS, joined(list(parts)), where=f"{FOLDER} {slots.key}")]
    )


class Landing:
    """The one writer of a lake's landing.

    What changes the newest slots (`advance`, `open`) is for one thread, what tidies final ones (`merge`, `seal`, `hand_over`,
    `sweep`) may be for another: the two never touch the same segment, and heads are made one after the other.

    Args:
        lake: where it is.
        grid: its ranges.
        source: name of the source in `raw_blocks`.
        processes: that share the work of many blocks.
        clock: seconds that never go back, for the grace of files.
        now: Unix seconds, for `Head.written_at`.

    Attributes:
        head: what readers see.
        transactions, quarantined: rows written since the process began.
    """

    def __init__(
        self,
        lake: Lake,
        grid: Grid,
        *,
        source: str = "rpc",
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._lake, self._grid = lake, grid
        self._segments = SegmentWriter(lake, source, processes=processes, clock=clock)
        self._clock, self._now = clock, now
        self.head = read_head(lake) or Head()
        self._retired: list[tuple[float, list[str]]] = [(clock(), self._unnamed())]
        self._turn = threading.Lock()
        # A head that was just read may still be undone by a loss of power, and one that is written next is not.
        self._uncertain = True
        self.transactions = self.quarantined = 0

    def close(self) -> None:
        """End what writes beside this process."""
        self._segments.close()

    # Changing what readers see

    def advance(self, added: Sequence[RawRecord], removed: Iterable[int] = (), **marks: Any) -> Head:
        """Add the records of some slots and take others away, in one step that readers see whole or not at all.

        Args:
            added: present or skipped slots, with rejected records beside them; a slot that is there already is replaced.
            removed: slots whose block died with its fork.
            marks: new values of the head's `processed`, `confirmed`, `finalized`, `checkpoint`, `anchor`, `announced`,
                `genesis_hash`.

        Raises:
            StoreFullError: no space; readers see what they saw before, and the same call can be made again.
            PermanentError: a slot is outside the grid.
        """
        gone = {*removed, *map(slot_of, added)}
        final = sorted(slot for slot in gone if slot < self.head.checkpoint)
        if final:
            raise PermanentError(
                f"slots {final} are final and would change", where=HEAD, remedy="the node contradicts what it called final: use another"
            )
        instead: dict[str, list[Segment]] = {}
        new: dict[str, list[Segment]] = {}
        with self._writing() as written:
            for landed in self.head.ranges:
                for segment in landed.segments:
                    if any(slot in gone for slot, _ in segment.slots):
                        instead[segment.name] = self._without(landed.key, segment, gone, written)
            for key, records in groupby(sorted(added, key=slot_of), key=lambda record: self._key_of(slot_of(record))):
                new[key] = self._segments.write(key, list(records), written)

            def change(ranges: dict[str, LandedRange]) -> None:
                for key in {*ranges, *new}:
                    landed = ranges.get(key) or LandedRange(key, [])
                    kept = [part for segment in landed.segments for part in instead.get(segment.name, [segment])]
                    ranges[key] = msgspec.structs.replace(landed, segments=[*kept, *new.get(key, [])])

            head = self._publish(change, **marks)
        for segment in chain.from_iterable(new.values()):
            self.transactions += segment.rows.get(schemas.TRANSACTIONS.name, 0)
            self.quarantined += segment.rows.get(schemas.QUARANTINE.name, 0)
        return head

    def open(self, slot: int) -> Head:
        """Take over the range of a slot from the lake, before anything of it is landed; slots are landed from its first on."""
        key = self._key_of(slot)
        if any(landed.key == key for landed in self.head.ranges):
            return self.head
        return self._publish(lambda ranges: ranges.update({key: LandedRange(key, [])}))

    def merge(self) -> bool:
        """Merge final segments where `MERGE` of about the same size stand together. Whether anything was done."""
        head = self.head
        for landed in head.ranges:
            group = _mergeable(landed, head.checkpoint)
            if group:
                key, names = landed.key, {segment.name for segment in group}
                with self._writing() as written:
                    merged = self._merged(key, group, written)

                    def change(ranges: dict[str, LandedRange], key: str = key, names: set[str] = names, merged: Segment = merged) -> None:
                        kept = [segment for segment in ranges[key].segments if segment.name not in names]
                        ranges[key] = msgspec.structs.replace(ranges[key], segments=[merged, *kept])

                    self._publish(change)
                return True
        return False

    def seal(self) -> list[str]:
        """Seal the ranges whose every slot is final; their keys."""
        head = self.head
        over = [landed for landed in head.ranges if not landed.sealed and self._grid.range_of(landed.key).last < head.checkpoint]
        digests = {landed.key: self._digest(landed) for landed in over}

        def change(ranges: dict[str, LandedRange]) -> None:
            for key, digest in digests.items():
                ranges[key] = msgspec.structs.replace(ranges[key], sealed=True, digest=digest)

        if digests:
            self._publish(change)
        return list(digests)

    def hand_over(self) -> list[str]:
        """Let go of the sealed ranges that the lake holds whole, made from the same raw blocks; their keys."""
        waiting = {landed.key: landed.digest for landed in self.head.ranges if landed.sealed}
        if not waiting:
            return []
        held = [self._lake.partitions(table) for table in LANDED]
        raw = held[0]
        done = [key for key, digest in waiting.items() if all(key in partitions for partitions in held) and raw[key].digest == digest]

        def change(ranges: dict[str, LandedRange]) -> None:
            for key in done:
                del ranges[key]

        if done:
            self._publish(change)
        return done

    def sweep(self) -> int:
        """Delete the files that the head stopped naming longer than `GRACE_S` ago; how many."""
        with self._turn:
            if self._uncertain:
                return 0
            now = self._clock()
            due = [name for since, names in self._retired if now - since >= GRACE_S for name in names]
            self._retired = [(since, names) for since, names in self._retired if now - since < GRACE_S]
        self._lake.store.delete(due)
        return len(due)

    def places(self) -> list[tuple[int, str, int | None, str | None]]:
        """(slot, hash, parent slot, parent hash) of the blocks that may still change, for a follower that goes on from here."""
        names = ["slot", "block_hash", "parent_slot", "previous_block_hash"]
        parts = [
            read_rows(self._lake, landed.key, segment, schemas.BLOCKS, names)
            for landed in self.head.ranges
            for segment in landed.segments
            if segment.last >= self.head.checkpoint
        ]
        return [tuple(row[name] for name in names) for part in parts for row in part.to_pylist()]

    # Sealed ranges

    def _digest(self, landed: LandedRange) -> str:
        """The digest that `raw_blocks` will have of a range."""
        names = [column.name for column in RAW_BLOCKS.columns if column.in_digest]
        parts = [read_rows(self._lake, landed.key, segment, RAW_BLOCKS, names) for segment in landed.segments]
        rows = in_key_order(RAW_BLOCKS, joined(parts), where=f"{FOLDER} {landed.key}")
        units: dict[str, UnitDigest] = {unit: digest_unit(RAW_BLOCKS, part) for unit, part in split_units(RAW_BLOCKS, rows)}
        return digest_partition(RAW_BLOCKS, units)

    # Files

    def _without(self, key: str, segment: Segment, gone: set[int], written: list[str]) -> list[Segment]:
        """The segment without some of its slots: a new one, or none."""
        kept = [(slot, block_hash) for slot, block_hash in segment.slots if slot not in gone]
        if not kept:
            return []
        alive = pa.array([slot for slot, _ in kept], pa.int64())
        tables = {}
        for table in LANDED:
            rows = read_rows(self._lake, key, segment, table)
            tables[table.name] = [rows.filter(pc.is_in(rows[table.key[0]], value_set=alive))]
        return [self._segments.rewrite(key, kept, tables, written)]

    def _merged(self, key: str, group: list[Segment], written: list[str]) -> Segment:
        group = sorted(group, key=lambda segment: segment.first)
        apart = all(before.last < after.first for before, after in pairwise(group))
        # In order already, as all but freshly landed ones are: a part in memory at a time.
        parts: dict[str, Iterable[pa.Table]] = {
            table.name: self._each(key, group, table) if apart else [joined(list(self._each(key, group, table)))] for table in LANDED
        }
        count = sum(segment.count for segment in group)
        slots: list[tuple[int, str | None]] = [(group[0].first, None), (max(segment.last for segment in group), None)]
        return msgspec.structs.replace(self._segments.rewrite(key, slots, parts, written), count=count, slots=[])

    def _each(self, key: str, group: list[Segment], table: Table) -> Iterator[pa.Table]:
        return (read_rows(self._lake, key, segment, table) for segment in group)

    @contextmanager
    def _writing(self) -> Iterator[list[str]]:
        """The paths of files that are written for the next head; on an error they begin their grace at once."""
        written: list[str] = []
        try:
            yield written
        except BaseException:
            with self._turn:
                self._retired.append((self._clock(), written))
            raise

    def _publish(self, change: Callable[[dict[str, LandedRange]], None] = lambda _: None, **marks: Any) -> Head:
        """Make a new head of the one that stands; files that it no longer names begin their grace.

        Args:
            change: makes the ranges, by key, what they are to be.
            marks: new values of other attributes.
        """
        with self._turn:
            before, ranges = self._named(), {landed.key: landed for landed in self.head.ranges}
            change(ranges)
            marks |= {"ranges": [ranges[key] for key in sorted(ranges)], "generation": self.head.generation + 1, "written_at": self._now()}
            head = msgspec.structs.replace(self.head, **marks)
            # If it fails, nobody knows which head stands until the next one does: nothing may be deleted meanwhile.
            self._uncertain = True
            self._lake.store.put(HEAD, msgspec.json.encode(head))
            self._uncertain = False
            self.head = head
            gone = before - self._named()
            if gone:
                self._retired.append((self._clock(), sorted(gone)))
            return head

    def _named(self) -> set[str]:
        return {path for table in LANDED for _, path in self.head.files(table)}

    def _unnamed(self) -> list[str]:
        """Files that a writer before this one left."""
        store, named = self._lake.store, self._named()
        return [path for path in sorted(store.walk(FOLDER)) if path not in named and path != HEAD]

    def _key_of(self, slot: int) -> str:
        return self._grid.covering(SlotRange(slot, slot))[0].key


def _mergeable(landed: LandedRange, checkpoint: int) -> list[Segment]:
    """`MERGE` final segments of one size class that follow each other; none where there are not so many.

    A size class is the power of `MERGE` that the number of slots reaches.
    """
    final = sorted((segment for segment in landed.segments if segment.last < checkpoint), key=lambda segment: segment.first)
    run: list[Segment] = []
    for segment in final:
        level = _level(segment)
        if run and _level(run[-1]) != level:
            run = []
        if segment.count < MERGED_SLOTS:
            run.append(segment)
        if len(run) == MERGE:
            return run
    return []


def _level(segment: Segment) -> int:
    level, size = 0, segment.count
    while size >= MERGE:
        level, size = level + 1, size // MERGE
    return level
