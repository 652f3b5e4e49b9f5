"""The sensor that finds ranges whose tables were made from raw blocks that have changed since.

Belongs here: reconciling what Dagster recorded. Automation conditions are edges: they lose the
update whose run failed, and one that arrives on the tick after a request. This is the level that
finds what they lost. Does not belong here: ranges never made (`blyan_sensors.top_up`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from blyan.schemas import COMPLETENESS, RAW_BLOCKS
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
        raw = _versions(context.instance, asset_key(RAW_BLOCKS), DATA_VERSION)
        used = _versions(context.instance, asset_key(COMPLETENESS), RAW_VERSION_USED)
        for key, version in sorted(stale(raw, used).items()):
            # The key makes it one request per change: a range that fails is not asked for again and again.
            yield dg.RunRequest(run_key=f"{key} {version}", partition_key=key)

    return sensor


def _versions(instance: dg.DagsterInstance, key: dg.AssetKey, tag: str) -> dict[str, str]:
    found = instance.event_log_storage.get_latest_tags_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION, [tag])
    return {partition: tags[tag] for partition, tags in found.items() if tag in tags}
