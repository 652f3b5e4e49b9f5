"""Statements that are asked often, and their answers made again before somebody asks.

Belongs here: counting, what each process says of it in the lake, and running the most asked of all. Does not belong here: when that is due
(`blyan_sensors.invalidation`), what is remembered (`blyan.query.cache`).

Each process of the service writes `serving/answers/asked/<its name>.json`: the statements that it was asked most, how often, by a count
that is halved with every writing. So what was asked an hour ago counts for nothing beside what is asked now. A file that is torn, lost or old costs promptness
alone: whoever asks for an answer that is not remembered computes it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from blyan.errors import BlyanError, MissingObjectError
from blyan.lake import Lake
from blyan.query.kept_answers import FOLDER
from blyan.query.sandbox import Limits
from blyan.query.worker import unpacked

if TYPE_CHECKING:
    from blyan.query.sql import Asked, SqlEngine

ASKED = f"{FOLDER}/asked"

WRITTEN_EVERY_S = 30.0
"""Seconds between two writings of a process."""

SAID = 200
"""Statements that a process says."""

COUNTED = 4_096
"""Statements that a process counts between two writings; further ones are not counted until then."""

COUNTED_BYTES = 4 << 10
"""Characters of a statement and bytes of its parameters; longer ones are not counted, or a few callers fill the memory with them."""

OLD_S = 3_600.0
"""Seconds after which what a process said is of nobody who lives."""

SECONDS = 60.0
"""That one of them may run: longer than any reader's."""

log = logging.getLogger("blyan.query")


class Hot(Struct, frozen=True):
    """A statement that is asked often: its parameters as they are sent, the limits that its rows depend on, its tables, and how often."""

    sql: str
    params: Any
    rows: int
    bytes: int
    tables: tuple[str, ...]
    asked: float


class Said(Struct, frozen=True):
    """What one process says, and when, in Unix seconds."""

    written_at: float
    hot: list[Hot]


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a round found: statements that were run, whose answers stood, that are of the tail, and that failed; and the digest of each answer."""

    run: int
    stood: int
    of_tail: int
    failed: int
    digests: dict[str, str]


class Counts:
    """Counts of one process.

    Args:
        lake: where it says them.
        now: Unix seconds.
    """

    def __init__(self, lake: Lake, *, now: Callable[[], float] = time.time) -> None:
        self._store, self._now = lake.store, now
        self._path = f"{ASKED}/{uuid.uuid4().hex}.json"
        self._counts: Counter[tuple[str, bytes, int, int]] = Counter()
        self._tables: dict[str, tuple[str, ...]] = {}
        self._said = False

    def note(self, asked: Asked) -> None:
        """Somebody asked, whether the answer was remembered or not."""
        # Sensors read what is said here, and have no use for a parser of SQL.
        from blyan.query.sql import packed_params

        place = (asked.checked.normalised, msgspec.json.encode(packed_params(asked.params)), asked.limits.rows, asked.limits.bytes)
        if len(place[0]) + len(place[1]) > COUNTED_BYTES:
            return
        if place in self._counts or len(self._counts) < COUNTED:
            self._counts[place] += 1
            self._tables[place[0]] = asked.checked.tables

    def write(self) -> None:
        """Say what was asked most, and let it count for half from now on.

        Raises:
            BlyanError: the store does not take it.
        """
        if not self._counts and not self._said:
            return
        most = self._counts.most_common(SAID)
        hot = [Hot(sql, msgspec.json.decode(params), rows, size, self._tables[sql], count) for (sql, params, rows, size), count in most]
        self._counts = Counter({place: count // 2 for place, count in most if count > 1})
        self._tables = {place[0]: self._tables[place[0]] for place in self._counts}
        self._said = bool(self._counts)
        with self._store.create(self._path, durable=False) as upload:
            upload.stream.write(msgspec.json.encode(Said(self._now(), hot)))

    def close(self) -> None:
        """Say nothing any more."""
        self._store.delete([self._path])


def hottest(lake: Lake, most: int, *, now: float | None = None) -> list[Hot]:
    """What all processes together are asked most, the most asked first. What processes said that are long gone is deleted."""
    moment, counts, known = time.time() if now is None else now, Counter[bytes](), dict[bytes, Hot]()
    for name in lake.store.listed(ASKED):
        try:
            said = msgspec.json.decode(lake.store.get(f"{ASKED}/{name}"), type=Said)
        except (MissingObjectError, msgspec.DecodeError):
            continue
        if moment - said.written_at > OLD_S:
            lake.store.delete([f"{ASKED}/{name}"])
            continue
        for hot in said.hot:
            place = msgspec.json.encode([hot.sql, hot.params, hot.rows, hot.bytes])
            counts[place] += hot.asked  # type: ignore[assignment]
            known[place] = hot
    return [known[place] for place, _ in counts.most_common(most)]


def tables_of(hot: Iterable[Hot]) -> set[str]:
    """Names in the lake of the tables that statements read."""
    return {name for each in hot for name in each.tables}


async def refresh(engine: SqlEngine, hot: Sequence[Hot]) -> Refreshed:
    """Run those of some statements whose answers are not remembered as of now. One that fails holds up none of the others."""
    run = stood = of_tail = failed = 0
    digests: dict[str, str] = {}
    for each in hot:
        params = {name: unpacked(value) for name, value in each.params.items()} if isinstance(each.params, dict) else list(map(unpacked, each.params))
        limits = Limits(seconds=SECONDS, rows=each.rows, bytes=each.bytes)
        try:
            async with await engine.query(each.sql, params, limits=limits, caller="hot answers") as answer:
                snapshot, content = answer.asked.snapshot, answer.content
        except BlyanError as error:
            failed += 1
            log.warning("a hot statement failed: %s", error)
            continue
        if snapshot is not None and not snapshot.is_settled:
            of_tail += 1
        elif answer.source == "computed":
            run += 1
        else:
            stood += 1
        if content is not None:
            digests[answer.cache_key] = content.digest
    return Refreshed(run, stood, of_tail, failed, digests)
