"""The sensor that finds ranges that were not made again since what they are made from has changed.

Belongs here: reconciling what Dagster recorded. Automation conditions are edges: they lose the
update whose run failed, and one that arrives on the tick after a request, or before the first. This
is the level that finds what they lost, asks for it, and lists what failed twice. Does not belong
here: ranges never begun (`blyan_sensors.top_up`).

A link is a parent, a child and the job that makes the child: from the landing to the raw blocks, from there to the tables, from
the tables to the documents. Of a range that is stale at several links only the first is asked for: automation carries on from there.

What counts is runs that failed on a version, whoever asked for them, so that a range has two and no more. A process that was
killed has its own second run (`dagster.yaml`), which is none of these two.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from blyan.corpus.activity import READ
from blyan.schemas import COMPLETENESS, DOCUMENTS, RAW_BLOCKS
from blyan_assets.checks import LANDING, asset_key
from blyan_sensors.top_up import IN_FLIGHT, PARTITION_TAG, ranges_of
from blyan_sensors.versions import DATA_VERSION, last_events, last_record, tag_of, version_used

EVERY_S = 60

AFTER_S = 600
"""Seconds from a change to the first request for it: automation asks within seconds, and what ended its run may pass meanwhile."""

TRIES = 2
"""Runs that may fail on a version before the range is only listed."""

PARENT_RUN = "dagster/parent_run_id"
"""Tag of a run that Dagster began in the place of one whose process died."""

LISTED = 20
"""Ranges that one tick names at most."""

FROM_LANDING, FROM_RAW, FROM_TABLES = range(3)
"""The links."""

RENDERED_AT_ONCE = 8
"""Ranges that one tick has rendered at most: all of them are stale at once in a lake whose tables are older than its documents."""


class Request(NamedTuple):
    """A range to make again at a link, because this version of the parent was not used yet, and how many runs failed on it."""

    partition: str
    link: int
    parent: dg.AssetKey
    version: str
    failed: int = 0

    @property
    def run_key(self) -> str:
        """One for each version and try: Dagster makes no second run of a key."""
        return f"{self.partition} {self.parent.path[-1]} {self.version} {self.failed + 1}"


def stale(stands: Mapping[str, str], used: Mapping[str, str]) -> dict[str, str]:
    """Ranges that were made from another version than the one that stands, or not made at all, with the version that stands.

    Args:
        stands: data version of what a range is made from, by range.
        used: the version it was made from last, by range.
    """
    return {key: version for key, version in stands.items() if used.get(key) != version}


def sort_out(wanted: Collection[Request], *, in_flight: Collection[str]) -> tuple[list[Request], list[Request]]:
    """What to ask for, and what failed too often to be asked for again; oldest first.

    Args:
        wanted: what is stale. Of several requests for a range, that of the first link counts.
        in_flight: ranges with a run that has not ended, whose outcome decides.
    """
    first: dict[str, Request] = {}
    for request in sorted(wanted, key=lambda each: (each.partition, each.link)):
        if request.partition not in in_flight:
            first.setdefault(request.partition, request)
    return [each for each in first.values() if each.failed < TRIES], [each for each in first.values() if each.failed >= TRIES]


def stale_ranges(ingest: Any, normalise: Any, render: Any) -> dg.SensorDefinition:
    """Ask for stale ranges.

    With `ingest` where the landing has them otherwise, with `normalise` where the raw blocks do, with `render` where the tables do.
    """
    jobs, raw = {FROM_LANDING: ingest, FROM_RAW: normalise, FROM_TABLES: render}, asset_key(RAW_BLOCKS)
    links = [
        (FROM_LANDING, LANDING, raw),
        (FROM_RAW, raw, asset_key(COMPLETENESS)),
        *((FROM_TABLES, asset_key(table), asset_key(DOCUMENTS)) for table in READ),
    ]

    @dg.sensor(
        name="stale_ranges",
        jobs=list(jobs.values()),
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for ranges that were not made since what they are made from changed; lists those that failed twice.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = context.instance
        wanted = [request for link, parent, child in links for request in _stale(instance, parent, child, link)]
        ask, failed = sort_out(wanted, in_flight=ranges_of(instance, dg.RunsFilter(statuses=IN_FLIGHT)))
        blocking = [key for table in READ for key in _blocking_checks(context, asset_key(table))]
        bad = _not_passed(instance, blocking, [each.partition for each in ask if each.link == FROM_TABLES])
        rendered = [each for each in ask if each.link == FROM_TABLES and each.partition not in bad]
        ask = [each for each in ask if each.link != FROM_TABLES] + rendered[:RENDERED_AT_ONCE]
        if failed:
            context.log.warning(_listing(failed))
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=each.run_key, partition_key=each.partition, job_name=jobs[each.link].name) for each in ask],
            skip_reason=None if ask else dg.SkipReason(_listing(failed) if failed else "every range was made from what stands"),
        )

    return sensor


def _blocking_checks(context: dg.SensorEvaluationContext, key: dg.AssetKey) -> Iterable[dg.AssetCheckKey]:
    graph = context.repository_def.asset_graph if context.repository_def else None
    return [check for check in graph.get(key).check_keys if graph.get(check).blocking] if graph else []


def _not_passed(instance: dg.DagsterInstance, checks: list[dg.AssetCheckKey], partitions: list[str]) -> set[str]:
    """Those of the ranges of which one of these checks did not pass when it was last evaluated: nothing is made of them."""
    if not partitions:
        return set()
    found = instance.event_log_storage.get_asset_check_partition_info(checks, partition_keys=partitions)
    return {each.partition_key for each in found if each.partition_key and each.latest_execution_status != AssetCheckExecutionRecordStatus.SUCCEEDED}


def _listing(failed: list[Request]) -> str:
    more = f" and {len(failed) - LISTED} more" if len(failed) > LISTED else ""
    return f"failed twice and not asked for again: {', '.join(each.partition for each in failed[:LISTED])}{more}"


def _stale(instance: dg.DagsterInstance, parent: dg.AssetKey, child: dg.AssetKey, link: int) -> list[Request]:
    """Ranges of which `child` was not made from the version of `parent` that has stood for a while."""
    made = last_events(instance, child)
    # Only what came after the last making is looked at closer, range by range.
    suspects = [key for key, event in last_events(instance, parent).items() if event > made.get(key, -1)]
    records = {key: record for key in suspects if (record := last_record(instance, parent, key)) and record.timestamp <= time.time() - AFTER_S}
    stands = {key: tag_of(record, DATA_VERSION) for key, record in records.items()}
    used = {key: tag_of(last_record(instance, child, key), version_used(parent)) for key in records if key in made}
    return [Request(key, link, parent, version, _failures(instance, key, records[key])) for key, version in stale(stands, used).items()]


def _failures(instance: dg.DagsterInstance, partition: str, change: dg.EventLogRecord) -> int:
    """Runs of a range that failed since a change, or in which it came about and nothing after it did."""
    runs = instance.get_run_records(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED], tags={PARTITION_TAG: partition})
    )
    return sum(
        PARENT_RUN not in each.dagster_run.tags
        and (each.dagster_run.run_id == change.run_id or each.create_timestamp.timestamp() >= change.timestamp)
        for each in runs
    )
