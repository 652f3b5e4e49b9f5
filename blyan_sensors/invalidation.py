"""The sensor that carries changes of the lake's tables to `serving/generations.json` and to the caches.

Belongs here: following Dagster's materialisation events. Does not belong here: what the file promises, and the message
(`blyan.serving`).

The file is written before the cursor, and a cache is told before the cursor says so: what dies between is done again. A cache
that does not answer holds nothing up: it is told at the next tick, together with what came since. A file or cursor that is lost
is made again from all the records there are. Records have no other order than their number, so on a database with several
writers an event that becomes visible late may be passed over; it is found when its range changes again.

Where what is asked often reads a table that changed, the job `hot_answers` is asked for, so that the next reader finds the answer. Without
it, without this sensor, and while either is late, that reader computes it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import msgspec
from msgspec import Struct

from blyan.errors import TransientError
from blyan.query.hot_answers import Hot, hottest, tables_of
from blyan.serving import WHOLE, Change, Generations, message, read_generations, tell, write_generations
from blyan_sensors.cursors import read_cursor
from blyan_sensors.top_up import IN_FLIGHT
from blyan_sensors.versions import DATA_VERSION
from resources.lake import LakeResource

EVERY_S = 5
"""Dagster's own loop takes no fewer."""

HOT_EVERY_S = 30.0
"""Seconds between two runs that make hot answers again, at least: one takes some, and a chain that lives changes something every minute."""

EVENTS_PER_TICK = 500
"""Of each table: a tick must end within a minute, and what is left comes with the next."""

FORMAT = 1


class Cursor(Struct, frozen=True):
    """How far everything is. Without it everything is followed again.

    Attributes:
        after: number of the last event that is in the file, by table.
        generation: the newest that was ever written, so that a file that is made again goes on above it.
        told: the generation that each cache acknowledged, by `name_of`.
        hot: the generation for which hot answers were asked for last, and when, in Unix seconds.
    """

    after: dict[str, int] = {}
    generation: int = 0
    told: dict[str, int] = {}
    hot: tuple[int, float] = (0, 0.0)
    format: int = FORMAT


def beginning(cursor: Cursor, standing: Generations | None) -> tuple[Cursor, Generations]:
    """Where to go on from: the first event, if the file is lost or older than what was written."""
    if standing is not None and standing.generation >= cursor.generation:
        return cursor, standing
    return msgspec.structs.replace(cursor, after={}), Generations()


def name_of(url: str) -> str:
    """A name for a cache that tells nothing of its URL, which may hold a key: the UI shows the cursor to anyone."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def due(generations: Generations, told: Mapping[str, int], urls: Iterable[str]) -> list[tuple[str, int | None]]:
    """The caches to tell, each with the generation that it acknowledged last."""
    return [(url, told.get(name_of(url))) for url in urls if told.get(name_of(url), 0) < generations.generation]


def wants_hot(generations: Generations, hot: Iterable[Hot], last: tuple[int, float], now: float) -> bool:
    """Whether hot answers are to be made again: a table that one of them reads has changed since the last time, which is a while ago."""
    return now - last[1] >= HOT_EVERY_S and not tables_of(hot).isdisjoint(generations.since(last[0]))


def invalidation(assets: Sequence[dg.AssetKey], hot_answers: Any) -> dg.SensorDefinition:
    """Follow the events of these assets, and ask for the job `hot_answers` where they touch what is asked often."""

    @dg.sensor(
        name="invalidation",
        job=hot_answers,
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Keeps serving/generations.json and tells the caches of BLYAN_INVALIDATE_URLS what changed. It launches `hot_answers`, nothing else.",
    )
    def sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
        store = lake.open()
        cursor, before = beginning(read_cursor(context.cursor, Cursor), read_generations(store))
        changes, after = _changes(context.instance, assets, cursor.after)
        generations = before.after(changes, above=cursor.generation)
        if generations is not before:
            write_generations(store, generations)
        urls = [str(url) for url in lake.settings().invalidate_urls]
        told = {name_of(url): cursor.told[name_of(url)] for url in urls if name_of(url) in cursor.told}
        unreached: list[str] = []
        for url, acknowledged in due(generations, told, urls):
            try:
                tell(url, message(generations, acknowledged))
            except TransientError as error:
                unreached.append(str(error))
                context.log.warning("a cache was not told of generation %d: %s", generations.generation, error)
            else:
                told[name_of(url)] = generations.generation
        state, hot, requests = f"generation {generations.generation}, {len(changes)} events", cursor.hot, list[dg.RunRequest]()
        if generations.generation > hot[0] and not _is_running(context.instance, hot_answers.name):
            now, wanted = time.time(), lake.settings().hot_answers
            if wanted and wants_hot(generations, hottest(store, wanted), hot, now):
                hot = (generations.generation, now)
                requests.append(dg.RunRequest(run_key=f"hot answers {generations.generation}"))
        return dg.SensorResult(
            run_requests=requests,
            cursor=msgspec.json.encode(Cursor(after, max(generations.generation, cursor.generation), told, hot)).decode(),
            skip_reason=None if requests else "; ".join([state, *unreached]),
        )

    return sensor


def _is_running(instance: dg.DagsterInstance, job: str) -> bool:
    return bool(instance.get_runs(dg.RunsFilter(job_name=job, statuses=IN_FLIGHT), limit=1))


def _changes(instance: dg.DagsterInstance, assets: Iterable[dg.AssetKey], after: Mapping[str, int]) -> tuple[list[Change], dict[str, int]]:
    """What was materialised since, in the order of each table's events, and how far that is."""
    changes, reached = [], dict(after)
    for key in assets:
        name = key.to_user_string()
        for number, change in _events(instance, key, reached.get(name)):
            changes.append(change)
            reached[name] = number
    return changes, reached


def _events(instance: dg.DagsterInstance, key: dg.AssetKey, after: int | None) -> Iterator[tuple[int, Change]]:
    found = instance.fetch_materializations(dg.AssetRecordsFilter(key, after_storage_id=after), limit=EVENTS_PER_TICK, ascending=True)
    for record in found.records:
        made = record.asset_materialization
        if made is not None:
            # A report by hand may have no data version: then the event itself is the news.
            version = (made.tags or {}).get(DATA_VERSION) or f"event {record.storage_id}"
            yield record.storage_id, Change(key.to_user_string(), made.partition or WHOLE, version)
