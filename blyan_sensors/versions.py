"""What Dagster recorded of a range: which event was its last, and which versions that event names.

Belongs here: reading the records of one asset. Does not belong here: what to do about them (the sensors).
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

DATA_VERSION = "dagster/data_version"
"""Tag of a materialisation: the version of what was made."""


RUN_KEY = "dagster/run_key"
"""Tag of a run that a sensor asked for: Dagster makes no second run of a key."""


def version_used(parent: dg.AssetKey) -> str:
    """Tag of a materialisation: the version of a parent that it was made from."""
    return f"dagster/input_data_version/{parent.to_user_string()}"


def last_events(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, int]:
    """The number of the latest materialisation of each range; later ones are greater. One query for the whole grid."""
    return instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)


def last_versions(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """The data version of the latest materialisation of each range. One query for the whole grid."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION])
    return {partition: found[DATA_VERSION] for partition, found in tags.items()}


def last_record(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str) -> dg.EventLogRecord | None:
    """The latest materialisation of a range; None where there is none."""
    records = instance.fetch_materializations(dg.AssetRecordsFilter(key, asset_partitions=[partition]), limit=1).records
    return records[0] if records else None


def tag_of(record: dg.EventLogRecord | None, tag: str) -> str:
    """A tag of a materialisation; empty where there is none."""
    made = record.asset_materialization if record else None
    return (made.tags or {}).get(tag, "") if made else ""


def last_tag(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str, tag: str) -> str:
    """A tag of the latest materialisation of a range; empty where there is none."""
    return tag_of(last_record(instance, key, partition), tag)
