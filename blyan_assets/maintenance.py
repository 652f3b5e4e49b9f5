"""The weekly upkeep of the lake's tables and of the search index.

Belongs here: the job and its clock. Does not belong here: what compaction and vacuum do
(`blyan.lake`, `blyan.corpus.search_index`); none of it changes what a table holds or a search finds.
"""

import dagster as dg

from blyan.corpus.search_index import maintain
from blyan.query.engine import all_tables
from blyan_assets.failures import failures
from resources.lake import LakeResource


@dg.op(description="Joins small files, deletes those that no version of the retention period needs, and checkpoints the log, table by table.")
def compact_and_vacuum_tables(context: dg.OpExecutionContext, lake: LakeResource) -> None:
    """Safe beside writers and readers; what it was doing when it was killed is done by the next run."""
    retention = lake.settings().vacuum_retention_hours
    with failures(context):
        store = lake.open()
        for table in all_tables():
            if not store.exists(table):
                context.log.info("%s does not exist yet", table.name)
                continue
            before = len(store.files(table))
            store.compact(table)
            deleted = store.vacuum(table, retention_hours=retention)
            store.checkpoint(table)
            context.log.info("%s: %d files became %d, %d old ones deleted", table.name, before, len(store.files(table)), len(deleted))


@dg.op(
    ins={"after": dg.In(dg.Nothing)},
    description="Joins small files of the search index, takes new rows into its indexes, deletes old versions, and indexes that nobody reads.",
)
def maintain_search_index(context: dg.OpExecutionContext, lake: LakeResource) -> None:
    """Safe beside readers and writers, as the tables' upkeep is."""
    with failures(context):
        for line in maintain(lake.open(), retention_hours=lake.settings().vacuum_retention_hours):
            context.log.info(line)


@dg.job(description="Compacts and vacuums every table, and the search index. The retention, BLYAN_VACUUM_RETENTION_HOURS, is longer than any reader.")
def compact_and_vacuum() -> None:
    """One after another, to leave the machine to the writers."""
    maintain_search_index(compact_and_vacuum_tables())


weekly_maintenance = dg.ScheduleDefinition(
    name="weekly_maintenance",
    job=compact_and_vacuum,
    cron_schedule="0 3 * * 0",
    execution_timezone="UTC",
    description="Sunday at 03:00 UTC. Off until it is switched on.",
)
