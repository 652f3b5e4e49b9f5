"""The sensor that finds ranges that were not made again since what they are made from has changed.

Belongs here: reconciling what Dagster recorded. Automation conditions are edges: they lose the
update whose run failed, and one that arrives on the tick after a request, or before the first. This
is the level that finds what they lost, asks for it, and lists what failed twice. Does not belong
here: ranges never begun (`blyan_sensors.top_up`).

A link is an asset that follows others range by range, and the job that makes it; what it is made from, and what must have passed before,
the graph says. Of a range that is stale at several links, one is not asked for while another that it hangs on is.

What counts is runs that failed on a version and were to make the asset, whoever asked for them, so that a range has two and no more. A
process that was killed has its own second run (`dagster.yaml`), which is none of these two.

The cursor says up to which event every range was looked at, and which were stale then: each event is looked at once, however many
ranges there are. Without a cursor all are, a few thousand a tick.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import dagster as dg
import msgspec
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from msgspec import Struct

from blyan.schemas import COMPLETENESS, DOCUMENTS, EMBEDDINGS, RAW_BLOCKS, SAMPLES, TOKENS
from blyan_assets.checks import asset_key
from blyan_assets.search import SEARCH_INDEX
from blyan_sensors.cursors import read_cursor
from blyan_sensors.top_up import IN_FLIGHT, PARTITION_TAG, ranges_of
from blyan_sensors.versions import DATA_VERSION, as_used, last_events, last_record, last_versions, records_of, tag_of, version_used

EVERY_S = 60

AFTER_S = 600
"""Seconds from a change to the first request for it: automation asks within seconds, and what ended its run may pass meanwhile."""

TRIES = 2
"""Runs that may fail on a version before the range is only listed."""

PARENT_RUN = "dagster/parent_run_id"
"""Tag of a run that Dagster began in the place of one whose process died."""

LISTED = 20
"""Ranges that one tick names at most."""

AT_ONCE = 8
"""Ranges of the corpus that one tick asks for at most, of each asset: all are stale at once in a lake that is older than its corpus."""

EXAMINED = 2_000
"""Ranges with news that one tick looks at, at most, for each link."""

OVERLAP = 1_000
"""Events that are looked at once more: for a moment a database may show a later one and not yet an earlier one. Less than `EXAMINED`."""

FORMAT = 1


class Link(NamedTuple):
    """An asset that follows others.

    Attributes:
        child: the asset.
        job: name of the job that makes it.
        alone: whether only it is to be made of all that the job makes.
        at_once: ranges that one tick asks for at most; None: all.
    """

    child: dg.AssetKey
    job: str
    alone: bool = False
    at_once: int | None = None


LINKS = (
    Link(asset_key(RAW_BLOCKS), "ingest_range"),
    # Each of these two stands for all that its step makes.
    Link(asset_key(COMPLETENESS), "normalise_range"),
    Link(asset_key(DOCUMENTS), "render_range", at_once=AT_ONCE),
    *(Link(key, "build_corpus", alone=True, at_once=AT_ONCE) for key in (*map(asset_key, (EMBEDDINGS, SAMPLES, TOKENS)), SEARCH_INDEX)),
)
"""Every link, what comes first before what hangs on it."""


class Cursor(Struct, frozen=True):
    """Where the sensor is, by child.

    Attributes:
        examined: the event up to which every range was looked at.
        stale: the ranges that were stale then; they are looked at again.
    """

    examined: dict[str, int] = {}
    stale: dict[str, list[str]] = {}
    format: int = FORMAT


class Request(NamedTuple):
    """A range of an asset to make again, because this version of a parent was not used yet, and how many runs failed on it."""

    partition: str
    child: dg.AssetKey
    parent: dg.AssetKey
    version: str
    failed: int = 0

    @property
    def run_key(self) -> str:
        """One for each version and try: Dagster makes no second run of a key."""
        return f"{self.partition} {self.child.path[-1]} from {self.parent.path[-1]} {self.version} {self.failed + 1}"


def stale(stands: Mapping[str, str], used: Mapping[str, str]) -> dict[str, str]:
    """Ranges that were made from another version than the one that stands, or not made at all, with the version that stands.

    Both as Dagster notes what was used.

    Args:
        stands: data version of what a range is made from, by range.
        used: the version it was made from last, by range.
    """
    return {key: version for key, version in stands.items() if used.get(key) != version}


def to_examine(
    made: Mapping[str, int], parents: Sequence[Mapping[str, int]], *, examined: int, stale: Collection[str], limit: int = EXAMINED
) -> tuple[list[str], int]:
    """The ranges to look at, and the event up to which every range was looked at then.

    Args:
        made: number of the last event of a range, by range; likewise `parents`, of each thing that it is made from. A range that lacks
            one of them cannot be made.
        parents: see `made`.
        examined: event up to which every range was looked at before.
        stale: ranges that were stale then.
        limit: ranges with news, at most; those with the oldest news come first.
    """
    ready = set(parents[0]).intersection(*parents[1:])
    last = {key: max(made.get(key, -1), *(events[key] for events in parents)) for key in ready}
    news = sorted((event, key) for key, event in last.items() if event > examined - OVERLAP)[:limit]
    return list(dict.fromkeys([*sorted(ready.intersection(stale)), *(key for _, key in news)])), max([examined, *(event for event, _ in news[-1:])])


def sort_out(
    wanted: Collection[Request], *, in_flight: Collection[str], upstream: Callable[[dg.AssetKey], Collection[dg.AssetKey]]
) -> tuple[list[Request], list[Request]]:
    """What to ask for, and what failed too often to be asked for again; oldest first.

    Args:
        wanted: what is stale. Of several requests for an asset of a range, the first counts.
        in_flight: ranges with a run that has not ended, whose outcome decides.
        upstream: what an asset hangs on; while that is stale itself, the asset is not asked for.
    """
    first: dict[tuple[str, dg.AssetKey], Request] = {}
    for request in sorted(wanted, key=lambda each: each.partition):
        if request.partition not in in_flight:
            first.setdefault((request.partition, request.child), request)
    free = [each for each in first.values() if not any((each.partition, key) in first for key in upstream(each.child))]
    return [each for each in free if each.failed < TRIES], [each for each in free if each.failed >= TRIES]


def stale_ranges(jobs: Iterable[Any]) -> dg.SensorDefinition:
    """Ask for stale ranges, by these jobs, which are those that `LINKS` names."""

    @dg.sensor(
        name="stale_ranges",
        jobs=list(jobs),
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for ranges that were not made since what they are made from changed; lists those that failed twice.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        look = _Look(context.instance, cast("dg.RepositoryDefinition", context.repository_def), read_cursor(context.cursor, Cursor))
        wanted = [request for link in LINKS for request in look.at(link)]
        in_flight = ranges_of(context.instance, dg.RunsFilter(statuses=IN_FLIGHT))
        ask, failed = sort_out(wanted, in_flight=in_flight, upstream=look.upstream)
        if failed:
            context.log.warning(_listing(failed))
        requests = [
            dg.RunRequest(each.run_key, job_name=link.job, partition_key=each.partition, asset_selection=[link.child] if link.alone else None)
            for link in LINKS
            for each in look.allowed([each for each in ask if each.child == link.child])[: link.at_once]
        ]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason(_listing(failed) if failed else "every range was made from what stands"),
            cursor=msgspec.json.encode(Cursor(look.examined, look.stale)).decode(),
        )

    return sensor


class _Look:
    """One look at the records, each of which is read once."""

    def __init__(self, instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, before: Cursor) -> None:
        self.graph, self.examined, self.stale = repository.asset_graph, dict(before.examined), dict(before.stale)
        self._instance, self._repository = instance, repository
        self._events, self._versions = cache(self._read_events), cache(self._read_versions)

    def at(self, link: Link) -> list[Request]:
        """Ranges of which the child was not made from the version of a parent that has stood for a while."""
        name = link.child.to_user_string()
        parents = sorted(self.graph.get(link.child).parent_keys)
        # A parent without ranges is one for all of them.
        whole = [key for key in parents if not self.graph.get(key).is_partitioned]
        wholes = {key: last_record(self._instance, key) for key in whole}
        events = [self._events(key) for key in parents if key not in whole]
        events += [dict.fromkeys(events[0], record.storage_id) if record else {} for record in wholes.values()]
        made = self._events(link.child)
        keys, self.examined[name] = to_examine(made, events, examined=self.examined.get(name, -1), stale=self.stale.get(name, ()))
        self.stale[name] = []
        if not keys:
            return []
        records = records_of(self._instance, link.child, {key: made[key] for key in keys if key in made})
        requests = []
        for parent in parents:
            if parent in whole:
                stands = dict.fromkeys(keys, tag_of(wholes[parent], DATA_VERSION))
            else:
                stands = {key: as_used(self._versions(parent).get(key, "")) for key in keys}
            used = {key: tag_of(record, version_used(parent)) for key, record in records.items()}
            for key, version in stale(stands, used).items():
                self.stale[name].append(key)
                change = wholes[parent] if parent in whole else last_record(self._instance, parent, key)
                if change is not None and change.timestamp <= time.time() - AFTER_S:
                    requests.append(Request(key, link.child, parent, version, self._failures(link.child, key, change)))
        self.stale[name] = sorted(set(self.stale[name]))
        return requests

    def upstream(self, child: dg.AssetKey) -> set[dg.AssetKey]:
        """The children of the links that an asset hangs on, each with all that its step makes."""
        above = self.graph.get_ancestor_asset_keys(child)
        return {link.child for link in LINKS if link.child != child and above & {link.child, *self.graph.get(link.child).execution_set_asset_keys}}

    def allowed(self, wanted: list[Request]) -> list[Request]:
        """Those of the requests for an asset whose parents passed their blocking checks when they were last evaluated: nothing is made of others."""
        if not wanted:
            return []
        parents = map(self.graph.get, self.graph.get(wanted[0].child).parent_keys)
        blocking = [check for parent in parents if parent.is_partitioned for check in parent.check_keys if self.graph.get(check).blocking]
        bad = _not_passed(self._instance, blocking, [each.partition for each in wanted])
        return [each for each in wanted if each.partition not in bad]

    def _read_events(self, key: dg.AssetKey) -> Mapping[str, int]:
        return last_events(self._instance, key)

    def _read_versions(self, key: dg.AssetKey) -> Mapping[str, str]:
        return last_versions(self._instance, key)

    def _failures(self, child: dg.AssetKey, partition: str, change: dg.EventLogRecord) -> int:
        """Runs that failed to make a range since a change, or in which it came about and nothing after it did."""
        runs = self._instance.get_run_records(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED], tags={PARTITION_TAG: partition})
        )
        return sum(
            PARENT_RUN not in each.dagster_run.tags
            and (each.dagster_run.run_id == change.run_id or each.create_timestamp.timestamp() >= change.timestamp)
            and self._was_to_make(each.dagster_run, child)
            for each in runs
        )

    def _was_to_make(self, run: dg.DagsterRun, child: dg.AssetKey) -> bool:
        if run.asset_selection:
            return child in run.asset_selection
        return self._repository.has_job(run.job_name) and child in self._repository.get_job(run.job_name).asset_layer.selected_asset_keys


def _not_passed(instance: dg.DagsterInstance, checks: list[dg.AssetCheckKey], partitions: list[str]) -> set[str]:
    """Those of the ranges of which one of these checks did not pass when it was last evaluated: nothing is made of them."""
    if not checks or not partitions:
        return set()
    found = instance.event_log_storage.get_asset_check_partition_info(checks, partition_keys=partitions)
    return {each.partition_key for each in found if each.partition_key and each.latest_execution_status != AssetCheckExecutionRecordStatus.SUCCEEDED}


def _listing(failed: list[Request]) -> str:
    more = f" and {len(failed) - LISTED} more" if len(failed) > LISTED else ""
    named = ", ".join(f"{each.partition} {each.child.to_user_string()}" for each in failed[:LISTED])
    return f"failed twice and not asked for again: {named}{more}"
