"""The sensor that has the ranges made again that the newest inventory decided to repair.

Belongs here: from a plan to run requests. Does not belong here: the decision (`blyan.solana.repair`), which is recorded with the
inventory (`blyan_assets.reconciliation`), and bounded there.

The cursor only saves asking again: run keys name the inventory, and Dagster makes no second run of a key.
"""

from __future__ import annotations

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


def due(plan: Plan, number: int, cursor: Cursor) -> dict[str, list[str]]:
    """The ranges to ask for, by what is to be done; none where the plan was carried out."""
    return {} if number == cursor.inventory else {"ingest": plan.ingest, "normalise": plan.normalise, "render": plan.render}


def repairs(ingest: Any, normalise: Any, render: Any) -> dg.SensorDefinition:
    """Ask for the repairs of the newest inventory.

    With `ingest` where the source has to give the range again, with `normalise` where the raw blocks do, with `render` where only text
    is to be made again.
    """
    jobs = {"ingest": ingest, "normalise": normalise, "render": render}

    @dg.sensor(
        name="repairs",
        jobs=list(jobs.values()),
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has the ranges made again that solana/inventory decided to repair: a few a day, each once.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        plan, number = last_plan(context.instance)
        wanted = due(plan, number, read_cursor(context.cursor, Cursor))
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(run_key=repair_key(key, number), partition_key=key, job_name=jobs[what].name)
                for what, keys in wanted.items()
                for key in keys
            ],
            cursor=msgspec.json.encode(Cursor(number)).decode(),
            skip_reason=None if any(wanted.values()) else dg.SkipReason("nothing of the newest inventory is left to repair"),
        )

    return sensor
