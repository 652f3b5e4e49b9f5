"""The sensor that finds ranges whose tables were made from raw blocks that have changed since.

Belongs here: reconciling what Dagster recorded. Automation conditions are edges: they lose the
update whose run failed, and one that arrives on the tick after a request. This is the level that
finds what they lost. Does not belong here: ranges never made (`blyan_sensors.top_up`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from blyan.schemas import COMPLETENESS, RAW_BLOCKS, Table
from blyan_assets.checks import asset_key

DATA_VERSION = "dagster/data_version"
RAW_VERSION_USED = f"dagster/input_data_version/{RAW_BLOCKS.name}"

EVERY_S = 600


def stale(raw: Mapping[str, str], used: Mapping[str, str]) -> dict[str, str]:
    """Ranges whose tables were made from another version of their raw blocks, with the version that stands.

    Args:
        raw: data version of the raw blocks, by range.
        used: version of the raw blocks that the tables were made from, by range. A range that has no tables is not stale but missing.
    """
    return {key: version for key, version in raw.items() if key in used and used[key] != version}


def stale_ranges(job: Any) -> dg.SensorDefinition:
    """Ask for the tables of stale ranges. Off until it is switched on."""

    @dg.sensor(
        name="stale_ranges",
        job=job,
        minimum_interval_seconds=EVERY_S,
        description="Asks for the tables of a range again where its raw blocks have changed since, once per change.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest]:
        landed, made = (_last_events(context.instance, table) for table in (RAW_BLOCKS, COMPLETENESS))
        # One query each for the whole grid; only what landed after its tables were made is looked at closer.
        suspects = [key for key, event in landed.items() if event > made.get(key, event)]
        raw = {key: _tag(context.instance, RAW_BLOCKS, key, DATA_VERSION) for key in suspects}
        used = {key: _tag(context.instance, COMPLETENESS, key, RAW_VERSION_USED) for key in suspects}
        for key, version in sorted(stale(raw, used).items()):
            # The key makes it one request per change: a range that fails is not asked for again and again.
            yield dg.RunRequest(run_key=f"{key} {version}", partition_key=key)

    return sensor


def _last_events(instance: dg.DagsterInstance, table: Table) -> Mapping[str, int]:
    """The number of the latest materialisation of each range; later ones are greater."""
    return instance.get_latest_storage_id_by_partition(asset_key(table), dg.DagsterEventType.ASSET_MATERIALIZATION)


def _tag(instance: dg.DagsterInstance, table: Table, key: str, tag: str) -> str:
    """A tag of the latest materialisation of a range; empty where it has none."""
    (record,) = instance.fetch_materializations(dg.AssetRecordsFilter(asset_key(table), asset_partitions=[key]), limit=1).records
    materialization = record.asset_materialization
    return (materialization.tags or {}).get(tag, "") if materialization else ""
