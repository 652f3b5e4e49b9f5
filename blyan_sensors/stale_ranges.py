"""The sensor that finds ranges that were not made again since what they are made from has changed.

Belongs here: reconciling what Dagster recorded. Automation conditions are edges: they lose the
update whose run failed, and one that arrives on the tick after a request, or before the first. This
is the level that finds what they lost, asks for it once more, and lists what failed that time too.
Does not belong here: ranges never begun (`blyan_sensors.top_up`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import dagster as dg

from blyan.schemas import COMPLETENESS, RAW_BLOCKS
from blyan_assets.checks import LANDING, asset_key
from blyan_sensors.top_up import IN_FLIGHT, ranges_of
from blyan_sensors.versions import DATA_VERSION, RUN_KEY, last_events, last_tag, version_used

EVERY_S = 60

LISTED = 20
"""Ranges that one tick names at most."""


class Request(NamedTuple):
    """A range to make again, because this version of what it is made from was not used yet."""

    partition: str
    parent: dg.AssetKey
    version: str

    @property
    def run_key(self) -> str:
        """One for each version: Dagster makes no second run of a key."""
        return f"{self.partition} {self.parent.path[-1]} {self.version}"


def stale(stands: Mapping[str, str], used: Mapping[str, str]) -> dict[str, str]:
    """Ranges that were made from another version than the one that stands, or not made at all, with the version that stands.

    Args:
        stands: data version of what a range is made from, by range.
        used: the version it was made from last, by range.
    """
    return {key: version for key, version in stands.items() if used.get(key) != version}


def sort_out(wanted: Collection[Request], *, in_flight: Collection[str], tried: Collection[str]) -> tuple[list[Request], list[Request]]:
    """What to ask for, and what failed when it was asked for; oldest first.

    Args:
        wanted: what is stale. Of two requests for a range, the one for the raw blocks makes the tables too.
        in_flight: ranges with a run that has not ended, whose outcome decides.
        tried: run keys that had their run.
    """
    first: dict[str, Request] = {}
    for request in sorted(wanted, key=lambda each: (each.partition, each.parent != LANDING)):
        if request.partition not in in_flight:
            first.setdefault(request.partition, request)
    return [each for each in first.values() if each.run_key not in tried], [each for each in first.values() if each.run_key in tried]


def stale_ranges(ingest: Any, normalise: Any) -> dg.SensorDefinition:
    """Ask for stale ranges: with `ingest` where the landing has them otherwise, with `normalise` where the raw blocks do."""

    @dg.sensor(
        name="stale_ranges",
        jobs=[ingest, normalise],
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks once more for a range that was not made since its raw blocks, or what the landing sealed, changed; lists those that failed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        raw, tables = asset_key(RAW_BLOCKS), asset_key(COMPLETENESS)
        wanted = [*_stale(context.instance, LANDING, raw), *_stale(context.instance, raw, tables)]
        records = context.instance.get_run_records(dg.RunsFilter(tags={RUN_KEY: [each.run_key for each in wanted]})) if wanted else []
        ask, failed = sort_out(
            wanted,
            in_flight=ranges_of(context.instance, dg.RunsFilter(statuses=IN_FLIGHT)),
            tried={record.dagster_run.tags[RUN_KEY] for record in records},
        )
        if failed:
            context.log.warning(_listing(failed))
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(run_key=each.run_key, partition_key=each.partition, job_name=(ingest if each.parent == LANDING else normalise).name)
                for each in ask
            ],
            skip_reason=None if ask else dg.SkipReason(_listing(failed) if failed else "every range was made from what stands"),
        )

    return sensor


def _listing(failed: list[Request]) -> str:
    more = f" and {len(failed) - LISTED} more" if len(failed) > LISTED else ""
    return f"failed twice and not asked for again: {', '.join(each.partition for each in failed[:LISTED])}{more}"


def _stale(instance: dg.DagsterInstance, parent: dg.AssetKey, child: dg.AssetKey) -> list[Request]:
    """Ranges of which `child` was not made from the version of `parent` that stands."""
    made = last_events(instance, child)
    # Only what came after the last making is looked at closer, range by range.
    suspects = [key for key, event in last_events(instance, parent).items() if event > made.get(key, -1)]
    stands = {key: last_tag(instance, parent, key, DATA_VERSION) for key in suspects}
    used = {key: last_tag(instance, child, key, version_used(parent)) for key in suspects if key in made}
    return [Request(key, parent, version) for key, version in stale(stands, used).items()]
