"""When assets are materialised without being asked.

Belongs here: a few named automation conditions, each tested by real ticks. Does not belong here:
schedules and sensors that look outside the graph (`blyan_sensors`).

What is known of Dagster's conditions, measured in 1.13: `eager()` asks again after an upstream
event with the same data version; a level condition repeats a failing asset for ever; an edge
condition loses the update whose run failed, and one that arrives on the tick after a request. So
the conditions here are edges on data versions, and `blyan_sensors.stale_ranges` finds what they lost.
"""

from __future__ import annotations

import dagster as dg

FOLLOWS_CONTENT = (
    dg.AutomationCondition.eager()
    .replace("newly_updated", dg.AutomationCondition.data_version_changed())
    .with_label("follows the content of what it is made from")
)
"""For an asset of the same partitions as its parents: once per change of a parent's data version, when no parent is missing or running."""

FOLLOWS_CHECKED_CONTENT = (
    dg.AutomationCondition.eager()
    .replace("newly_updated", dg.AutomationCondition.data_version_changed())
    # An asset without partitions would wait until every range of the grid has been materialised.
    .without(~dg.AutomationCondition.any_deps_missing())
    .__and__(dg.AutomationCondition.all_deps_blocking_checks_passed())
    .with_label("follows checked content, whatever ranges there are yet")
)
"""For an unpartitioned asset over many ranges, such as a mart: once the parents' runs are over and their blocking checks passed.

A blocking check stops only the assets of its own run, so the condition asks for it again.
"""
