"""The sensor that has the ranges made again that the newest inventory decided to repair.

Belongs here: from a plan to run requests. Does not belong here: the decision (`blyan.solana.repair`), which is recorded with the
inventory (`blyan_assets.reconciliation`), and bounded there.

The cursor only saves asking again: run keys name the inventory, and Dagster makes no second run of a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dagster as dg
import msgspec
from msgspec import Struct

from blyan.solana.repair import Plan
from blyan_assets.reconciliation import last_plan, repair_key
from blyan_sensors.cursors import read_cursor

EVERY_S = 60

FORMAT = 1


class Cursor(Struct, frozen=True):
    """Number of the event of the inventory that was last carried out. Without it the newest plan is asked for again, by the same keys."""

    inventory: int = -1
    format: int = FORMAT


def due(plan: Plan, number: int, cursor: Cursor) -> list[tuple[str, str, list[str]]]:
    """The ranges to ask for: the job, the range, and the tables where only some of those that the job makes are wanted.

    With `ingest_range` where the source has to give the range again, with `normalise_range` where the raw blocks do, with `build_corpus`
    where only the corpus is to be made again. None where the plan was carried out.
    """
    if number == cursor.inventory:
        return []
    whole = [(job, key, list[str]()) for job, keys in (("ingest_range", plan.ingest), ("normalise_range", plan.normalise)) for key in keys]
    return whole + [("build_corpus", key, tables) for key, tables in plan.corpus.items()]


def repairs(jobs: Iterable[Any]) -> dg.SensorDefinition:
    """Ask for the repairs of the newest inventory, by these jobs, which are those that `due` names."""

    @dg.sensor(
        name="repairs",
        jobs=list(jobs),
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has the ranges made again that solana/inventory decided to repair: a few a day, each once.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        plan, number = last_plan(context.instance)
        wanted = due(plan, number, read_cursor(context.cursor, Cursor))
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=repair_key(key, number),
                    partition_key=key,
                    job_name=job,
                    asset_selection=[dg.AssetKey(table.split("/")) for table in tables] or None,
                )
                for job, key, tables in wanted
            ],
            cursor=msgspec.json.encode(Cursor(number)).decode(),
            skip_reason=None if wanted else dg.SkipReason("nothing of the newest inventory is left to repair"),
        )

    return sensor
