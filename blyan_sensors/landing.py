"""The sensor that tells Dagster which ranges the follower has sealed.

Belongs here: from `head.json` to materialisations of `solana/landing`, and to its checks where a
verdict turns. It launches nothing: what is
made from a sealed range is for automation to ask for (`blyan_assets.automation`). Does not belong
here: what the landing is (`blyan.solana.landing`), or anything a reader waits for.

The cursor is a memory of what was reported and no more: without it, Dagster's own records are asked,
range by range, so that nothing it knows is reported twice. The daemon stores events before the
cursor, so a tick that dies between them is repeated, and finds them there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import dagster as dg
import msgspec
from msgspec import Struct

from blyan.schemas import RANGE_COLUMN
from blyan.settings import Settings
from blyan.solana.landing import Head, LandedRange, read_head
from blyan.solana.liveness import Verdict, judge
from blyan.solana.segments import FOLDER
from blyan.solana.slots import Grid
from blyan_assets.checks import LANDING, verdict_fields
from blyan_sensors.cursors import read_cursor
from blyan_sensors.versions import DATA_VERSION, last_tag
from resources.lake import LakeResource

EVERY_S = 5
"""Dagster's own loop takes no fewer."""

FORMAT = 1


class Cursor(Struct, frozen=True):
    """What was reported: the digest of each sealed range of the head, and whether the landing passed each check. Without it, Dagster's records are looked at."""

    reported: dict[str, str] = {}
    passed: dict[str, bool] = {}
    format: int = FORMAT


def newly_sealed(head: Head, cursor: Cursor, known: Callable[[str], str]) -> tuple[list[tuple[str, str]], Cursor]:
    """What to report, as (range, digest), and the cursor once that is done.

    Args:
        head: what the landing holds.
        cursor: what was reported, as far as is remembered.
        known: the data version that Dagster has of a range; asked only where the cursor does not tell.
    """
    sealed = {landed.key: landed.digest for landed in head.ranges if landed.sealed and landed.digest is not None}
    unsure = {key: digest for key, digest in sealed.items() if cursor.reported.get(key) != digest}
    # What has left the head is forgotten, so that the cursor is as short as the landing.
    return [(key, digest) for key, digest in unsure.items() if known(key) != digest], Cursor(sealed, cursor.passed)


def turned(verdicts: Iterable[Verdict], cursor: Cursor) -> tuple[list[Verdict], Cursor]:
    """The verdicts that are not what they were, and the cursor once they are reported.

    Every tick has the same verdicts, day after day, so only a turn is worth an event.
    """
    verdicts = list(verdicts)
    passed = {verdict.name: verdict.passed for verdict in verdicts}
    return [verdict for verdict in verdicts if cursor.passed.get(verdict.name) != verdict.passed], Cursor(cursor.reported, passed)


def landing_sensor(settings: Settings) -> dg.SensorDefinition:
    """Report sealed ranges."""

    @dg.sensor(
        name="landing",
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports the ranges that the follower has sealed, and what its checks come to, of solana/landing. It launches nothing.",
    )
    def sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
        store = lake.open()
        head = read_head(store)
        if head is None:
            return dg.SensorResult(skip_reason=f"nothing was ever landed in {store.root}: is `blyan follow` running?")
        reports, cursor = newly_sealed(head, read_cursor(context.cursor, Cursor), lambda key: last_tag(context.instance, LANDING, key, DATA_VERSION))
        landed = {each.key: each for each in head.ranges}
        sealed = [_event(landed[key], digest, settings.grid, store.root) for key, digest in reports]
        turns, cursor = turned(judge(head, settings.grid, now=time.time()), cursor)
        return dg.SensorResult(
            asset_events=[*sealed, *(dg.AssetCheckEvaluation(**verdict_fields(verdict)) for verdict in turns)],
            cursor=msgspec.json.encode(cursor).decode(),
            skip_reason=f"{len(sealed)} ranges were sealed; every slot before {head.checkpoint} is landed and final",
        )

    return sensor


def _event(landed: LandedRange, digest: str, grid: Grid, root: str) -> dg.AssetMaterialization:
    slots = grid.range_of(landed.key)
    landed.check(slots)
    rows: dict[str, int] = {}
    for segment in landed.segments:
        for table, count in segment.rows.items():
            rows[table] = rows.get(table, 0) + count
    metadata: dict[str, Any] = {
        "slots": str(slots),
        "segments": len(landed.segments),
        "bytes": sum(segment.size for segment in landed.segments),
        "rows": dg.MetadataValue.json(rows),
        "data": dg.MetadataValue.path(f"{root}/{FOLDER}/{RANGE_COLUMN}={landed.key}"),
    }
    return dg.AssetMaterialization(LANDING, partition=landed.key, metadata=metadata, tags={DATA_VERSION: digest})
