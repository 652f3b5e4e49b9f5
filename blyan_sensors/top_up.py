"""The schedule that fills the lake's history, oldest range first.

Belongs here: which ranges to ask for next. Does not belong here: how a range is made.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from blyan.settings import Settings
from blyan.solana.inventory import take_inventory
from blyan.solana.landing import read_head
from blyan.solana.slots import Grid
from resources.lake import LakeResource
from resources.source import SourceResource

RANGES_PER_TICK = 8
"""Ranges in flight at most. Few, so that a change of mind costs little; enough to keep the pools full until the next tick."""

TRY_AGAIN_AFTER = timedelta(hours=12)
"""How long a range that failed is left alone: a broken one must not take every tick's place, a source that was down must get another chance."""

IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

PARTITION_TAG = "dagster/partition"


def next_ranges(
    grid: Grid,
    *,
    complete: Collection[str],
    in_flight: Collection[str],
    failed: Collection[str],
    followed: Collection[str] = (),
    last_slot: int | None,
    limit: int = RANGES_PER_TICK,
) -> list[str]:
    """Keys of the ranges to ask for, oldest first.

    Args:
        grid: every range there is.
        complete: ranges that the lake holds, as the store tells and not as Dagster remembers.
        in_flight: ranges with a run that has not ended; they count against the limit.
        failed: ranges that failed lately.
        followed: ranges that the follower has not sealed yet; what the source gave of them now would be made again then.
        last_slot: newest slot that the source has, None where it cannot tell; a range that is not over yet is not asked for.
        limit: ranges in flight at most.
    """
    keys = grid.keys()
    busy = {*complete, *in_flight, *failed, *followed}
    ready = (key for key in keys if key not in busy and (last_slot is None or grid.range_of(key).last <= last_slot))
    return [key for _, key in zip(range(limit - len(set(in_flight))), ready, strict=False)]


def top_up_history(settings: Settings, job: Any) -> dg.ScheduleDefinition:
    """Ask for the oldest missing ranges, every ten minutes. Off until it is switched on."""

    @dg.schedule(
        name="top_up_history",
        job=job,
        cron_schedule="*/10 * * * *",
        execution_timezone="UTC",
        description="Asks for the oldest ranges that the lake does not hold and the source has, a few at a time.",
    )
    def schedule(context: dg.ScheduleEvaluationContext, lake: LakeResource, source: SourceResource) -> Iterator[dg.RunRequest | dg.SkipReason]:
        with source.open() as blocks:
            last_slot = blocks.check().last_slot
        store = lake.open()
        head = read_head(store)
        keys = next_ranges(
            settings.grid,
            complete=take_inventory(store, settings.grid).complete(),
            followed={landed.key for landed in head.ranges if not landed.sealed} if head else (),
            in_flight=ranges_of(context.instance, dg.RunsFilter(job_name=job.name, statuses=IN_FLIGHT)),
            failed=ranges_of(
                context.instance,
                dg.RunsFilter(job_name=job.name, statuses=[dg.DagsterRunStatus.FAILURE], updated_after=datetime.now(UTC) - TRY_AGAIN_AFTER),
            ),
            last_slot=last_slot,
        )
        for key in keys:
            yield dg.RunRequest(run_key=key, partition_key=key)
        if not keys:
            yield dg.SkipReason("no range is missing, ready and idle")

    return schedule


def ranges_of(instance: dg.DagsterInstance, runs: dg.RunsFilter) -> set[str]:
    """The ranges that these runs are of."""
    return {record.dagster_run.tags[PARTITION_TAG] for record in instance.get_run_records(runs) if PARTITION_TAG in record.dagster_run.tags}
