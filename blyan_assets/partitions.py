"""How the graph is partitioned.

Belongs here: partition definitions and mappings. Does not belong here: slot arithmetic
(`blyan.solana.slots`).
"""

from __future__ import annotations

import dagster as dg

from blyan.solana.slots import Grid

SAME_RANGE = dg.IdentityPartitionMapping()
"""A range depends on the same range upstream, and on nothing else."""


def slot_ranges(grid: Grid) -> dg.StaticPartitionsDefinition:
    """The grid as partitions.

    Static, though the chain grows: an automation tick over 8,000 keys takes 0.3 to 0.5 s on static
    partitions and 12 to 20 s on dynamic ones (measured). That a range exists says nothing of its readiness.

    The assets have no `BackfillPolicy`, so a backfill makes one run per range. A run of several partitions records one
    data version for all of them and evaluates its checks for none of them in particular (read in Dagster 1.13:
    `_get_output_asset_events`, `AssetCheckResult`), and both are facts of a range here. A range of production size takes
    minutes, the start of a run about two seconds.
    """
    return dg.StaticPartitionsDefinition(grid.keys())
