"""The daily deletion of runs that nothing rests on any more: Dagster itself keeps every run and event for ever.

Belongs here: which runs may go, deleting them, and its clock. Does not belong here: the lake's own upkeep
(`blyan_assets.maintenance`), or ticks, which Dagster deletes by itself (`dagster.yaml`).

What the UI and automation know of a range is read from events, and a run takes its events along. So a run goes only when every
asset that it made, or was to make, was materialised by a later run: the newest of each range stays, and so does a failed run
until the range was made. Ranges made once are therefore kept for ever, about 0.35 MB each (measured, 26 checks).

Not everything has a public way out. Rows of `asset_check_executions` (about 50 kB a run) and events that sensors report without
a run (two a sealed range, and a turn of a check) stay; freed pages of SQLite are used again.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME

from blyan_sensors.top_up import PARTITION_TAG
from resources.lake import LakeResource

RUNS_A_DAY = 2_000
"""Runs that go at once at most, each deleted in about 20 ms (measured): a backlog is gone within days, and no day's run is long."""

PAGE = 500

FREE_SHARE = 0.5
"""Share of free pages from which the index of events is written anew: rare, since writers wait meanwhile (420 MB in 1.5 s, measured)."""

WAIT_S = 30.0
"""Seconds to wait for other writers before that is left to the next day."""

ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]

MADE = {dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.ASSET_MATERIALIZATION}


def forgettable(instance: dg.DagsterInstance, before: datetime) -> Iterator[str]:
    """Ids of runs that ended before a time and were superseded in all that they made or were to make, oldest first."""
    made_since: set[str] = set()
    candidates: list[tuple[str, float]] = []
    for record in _newest_first(instance):
        run, ended = record.dagster_run, record.end_time or record.update_timestamp.timestamp()
        partition = run.tags.get(PARTITION_TAG)
        # Cheap, and leaves out almost every run that has to stay: each range's only one.
        if ended < before.timestamp() and (partition is None or partition in made_since):
            candidates.append((run.run_id, ended))
        if partition is not None and run.status is dg.DagsterRunStatus.SUCCESS:
            made_since.add(partition)
    return (run_id for run_id, ended in reversed(candidates) if _superseded(instance, run_id, ended))


def _newest_first(instance: dg.DagsterInstance) -> Iterator[dg.RunRecord]:
    cursor = None
    while page := instance.get_run_records(dg.RunsFilter(statuses=ENDED), limit=PAGE, cursor=cursor):
        yield from page
        cursor = page[-1].dagster_run.run_id


def _superseded(instance: dg.DagsterInstance, run_id: str, ended: float) -> bool:
    """Whether each asset of a run was materialised by a later one; also where it was of none, such as of a check or of the upkeep."""
    events = (entry.dagster_event for entry in instance.all_logs(run_id, of_type=MADE))
    made = {(event.asset_key, event.partition) for event in events if event is not None and event.asset_key is not None}
    return all(_made_after(instance, key, partition, run_id, ended) for key, partition in sorted(made, key=str))


def _made_after(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None, run_id: str, ended: float) -> bool:
    wanted = dg.AssetRecordsFilter(key, asset_partitions=None if partition is None else [partition])
    records = instance.fetch_materializations(wanted, limit=1).records
    return bool(records) and records[0].run_id != run_id and records[0].timestamp > ended


def forget(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run, its events, its logs, and the file that SQLite keeps for it alone."""
    instance.delete_run(run_id)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        # Deleting leaves the file as large as it was. Nobody writes to that of a run that has ended.
        for suffix in ("", "-wal", "-shm"):
            Path(f"{storage.path_for_shard(run_id)}{suffix}").unlink(missing_ok=True)


def rewrite_index(instance: dg.DagsterInstance) -> str:
    """Give the free pages of SQLite's index of events back to the disk, where they are most of it; what was done, in words."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage):
        return "the database looks after its own pages"
    with closing(sqlite3.connect(storage.path_for_shard(INDEX_SHARD_NAME), timeout=WAIT_S)) as connection:
        free, pages = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
        state = f"{free} of {pages} pages of the index are free"
        if free <= FREE_SHARE * pages:
            return state
        try:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            return f"{state}, which is left to another day: {error}"
    return f"{state}, and were given back"


@dg.op(description="Deletes old runs whose results were all made again since, with their events and logs.")
def forget_superseded_runs(context: dg.OpExecutionContext, lake: LakeResource) -> None:
    """What the UI shows of every range, and what automation decides, is the same before and after."""
    days = lake.settings().run_retention_days
    started, deleted = time.monotonic(), 0
    for run_id in islice(forgettable(context.instance, datetime.now(UTC) - timedelta(days=days)), RUNS_A_DAY):
        forget(context.instance, run_id)
        deleted += 1
    context.log.info("%d runs deleted in %.1f s; %s", deleted, time.monotonic() - started, rewrite_index(context.instance))


@dg.job(description="Deletes runs older than BLYAN_RUN_RETENTION_DAYS that nothing rests on: every result of theirs was made again since.")
def forget_runs() -> None:
    """One op."""
    forget_superseded_runs()


daily_retention = dg.ScheduleDefinition(
    name="daily_retention",
    job=forget_runs,
    cron_schedule="30 4 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="At 04:30 UTC. Runs from the start, since Dagster's records grow for ever otherwise.",
)
