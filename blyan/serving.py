"""What changed in the lake, for whoever keeps answers: `serving/generations.json` and `POST /invalidate`.

Belongs here: the file, and telling one cache. Does not belong here: where changes come from (`blyan_sensors.invalidation`), or
what a cache does with them.

**What it promises.** `serving/generations.json` has, for every table and range, the data version last seen, and the generation
in which it was seen; a generation is a number that only grows, one for every write of the file. Changes arrive at least once
and perhaps late, again, or all from the beginning; whatever arrives, the file ends at the version that came last, and a version
that stands already changes nothing. So it says *look again*, promptly, and no more: an answer is right because its key holds the
version of every table and range it was made from, as the tables' logs tell, and never because nothing was said here.

A cache that was told generation g knows of every change up to g. `POST /invalidate` brings the generation that stands, and what
changed since the last one that this cache acknowledged by 2xx; to one that cannot be told so, that anything may have changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from blyan.errors import MissingObjectError, PermanentError, TransientError
from blyan.lake import Lake

FORMAT = 1
"""Version of `generations.json`. A reader refuses a newer one."""

GENERATIONS = "serving/generations.json"

WHOLE = "*"
"""Stands for the range of a table that is made whole."""

TIMEOUT_S = 2.0
"""Seconds for one cache to answer: it has only to drop entries, and others wait behind it."""

NAMED_CHANGES = 1_000
"""Changes that one POST names at most; beyond, it says that anything may have changed."""


class Change(Struct, frozen=True, array_like=True):
    """A table has other rows in a range."""

    table: str
    range: str
    version: str


class Seen(Struct, frozen=True, array_like=True):
    """The data version that was seen last, and in which generation."""

    version: str
    generation: int


class Generations(Struct, frozen=True):
    """What was seen last.

    Attributes:
        generation: the newest.
        tables: by name of table and key of range.
    """

    generation: int = 0
    tables: dict[str, dict[str, Seen]] = {}
    format: int = FORMAT

    def after(self, changes: Iterable[Change], *, above: int = 0) -> Generations:
        """With these changes in the order they came; itself where none of them changes anything.

        Args:
            changes: again or for the first time.
            above: a generation that was given out, perhaps by a file that is lost.
        """
        # Only where a range ends counts, so that events that come again together change nothing.
        last = {(change.table, change.range): change.version for change in changes}
        news = {place: version for place, version in last.items() if self._version(*place) != version}
        if not news:
            return self
        generation = max(self.generation, above) + 1
        tables = {name: dict(ranges) for name, ranges in self.tables.items()}
        for (table, key), version in news.items():
            tables.setdefault(table, {})[key] = Seen(version, generation)
        return Generations(generation, tables)

    def _version(self, table: str, key: str) -> str | None:
        seen = self.tables.get(table, {}).get(key)
        return seen.version if seen else None

    def since(self, generation: int) -> dict[str, dict[str, str]]:
        """The versions that were seen after a generation, by table and range."""
        found = {name: {key: seen.version for key, seen in ranges.items() if seen.generation > generation} for name, ranges in self.tables.items()}
        return {name: ranges for name, ranges in found.items() if ranges}


def read_generations(lake: Lake) -> Generations | None:
    """The file as it stands, or None where there is none.

    Raises:
        PermanentError: it cannot be read, or a newer release wrote it.
    """
    try:
        content = lake.store.get(GENERATIONS)
    except MissingObjectError:
        return None
    where = lake.store.uri(GENERATIONS)
    try:
        generations = msgspec.json.decode(content, type=Generations)
    except msgspec.DecodeError as error:
        raise PermanentError(f"it cannot be read: {error}", where=where, remedy="delete it: it is made again from Dagster's records") from error
    if generations.format > FORMAT:
        raise PermanentError(f"it has format {generations.format}, this release reads up to {FORMAT}", where=where, remedy="update blyan")
    return generations


def write_generations(lake: Lake, generations: Generations) -> None:
    """Replace the file: readers see the old one or the new one. For one writer."""
    lake.store.put(GENERATIONS, msgspec.json.encode(generations))


def message(generations: Generations, acknowledged: int | None) -> dict[str, Any]:
    """What to tell a cache that acknowledged this generation; None where it acknowledged none.

    `changed` has the new versions by table and range, or is null: anything may have changed.
    """
    changed: Mapping[str, Mapping[str, str]] | None = None
    if acknowledged is not None:
        changed = generations.since(acknowledged)
        if sum(map(len, changed.values())) > NAMED_CHANGES:
            changed = None
    return {"generation": generations.generation, "since": acknowledged, "changed": changed}


def tell(url: str, told: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S) -> None:
    """POST a message to `/invalidate` of one cache.

    Raises:
        TransientError: it did not take it; the same or a later message can be sent again.
    """
    # httpx logs whole URLs at INFO, and a URL may hold a key; so no message has more of it than the host.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    address = httpx.URL(url.rstrip("/") + "/invalidate")
    body, headers = msgspec.json.encode(told), {"content-type": "application/json"}
    try:
        # As a stream: what the answer says beside its status is not read.
        with httpx.stream("POST", address, content=body, headers=headers, timeout=timeout_s) as answer:
            status = answer.status_code
    except httpx.HTTPError as error:
        raise TransientError(f"no answer: {type(error).__name__}", where=address.host, remedy="it is told again") from error
    if not httpx.codes.is_success(status):
        raise TransientError(f"it answered {status}", where=address.host, remedy="it is told again")
