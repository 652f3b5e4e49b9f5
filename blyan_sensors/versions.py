"""What Dagster recorded of a range: which event was its last, and which versions that event names.

Belongs here: reading the records of one asset. Does not belong here: what to do about them (the sensors).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import dagster as dg

DATA_VERSION = "dagster/data_version"
"""Tag of a materialisation: the version of what was made."""


RUN_KEY = "dagster/run_key"
"""Tag of a run that a sensor asked for: Dagster makes no second run of a key."""


def as_used(version: str) -> str:
    """A data version of a range as Dagster notes it of what is made from that range: the SHA-256 of the versions of all partitions it used."""
    return hashlib.sha256(version.encode()).hexdigest()


def version_used(parent: dg.AssetKey) -> str:
    """Tag of a materialisation: the version of a parent that it was made from, of a range `as_used`."""
    return f"dagster/input_data_version/{parent.to_user_string()}"


def last_events(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, int]:
    """The number of the latest materialisation of each range; later ones are greater. One query for the whole grid."""
    return instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)


def last_versions(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """The data version of the latest materialisation of each range. One query for the whole grid."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION])
    return {partition: found[DATA_VERSION] for partition, found in tags.items()}


def last_record(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None = None) -> dg.EventLogRecord | None:
    """The latest materialisation of a range, or of an asset without ranges; None where there is none."""
    of = key if partition is None else dg.AssetRecordsFilter(key, asset_partitions=[partition])
    records = instance.fetch_materializations(of, limit=1).records
    return records[0] if records else None


def records_of(instance: dg.DagsterInstance, key: dg.AssetKey, numbers: Mapping[str, int]) -> dict[str, dg.EventLogRecord]:
    """The materialisations of some ranges with these numbers, by range. A query for each 500 of them."""
    wanted, found = list(numbers.values()), dict[str, dg.EventLogRecord]()
    for at in range(0, len(wanted), 500):
        some = wanted[at : at + 500]
        records = instance.fetch_materializations(dg.AssetRecordsFilter(key, storage_ids=some), limit=len(some)).records
        found |= {record.partition_key: record for record in records if record.partition_key is not None}
    return found


def tag_of(record: dg.EventLogRecord | None, tag: str) -> str:
    """A tag of a materialisation; empty where there is none."""
    made = record.asset_materialization if record else None
    return (made.tags or {}).get(tag, "") if made else ""


def last_tag(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str, tag: str) -> str:
    """A tag of the latest materialisation of a range; empty where there is none."""
    return tag_of(last_record(instance, key, partition), tag)
