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

FOLLOWS_LANDING = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
    .since(dg.AutomationCondition.newly_requested())
    .__and__(~dg.AutomationCondition.in_progress())
    .with_label("follows the ranges that the landing seals")
)
"""For an asset whose parent comes from outside and holds few of its partitions: once per change of the parent's data version.

It is not `eager()`, which asks for every range that is missing, and for none whose parent is: history is not for automation
to fill (`blyan_sensors.top_up`), and most of it never stood in the landing.
"""

DAILY = (dg.AutomationCondition.cron_tick_passed("0 4 * * *") & ~dg.AutomationCondition.in_progress()).with_label("daily at 04:00 UTC")
"""For an asset that looks at what no parent announces."""

FOLLOWS_CONTENT = (
    dg.AutomationCondition.eager()
    .replace("newly_updated", dg.AutomationCondition.data_version_changed())
    .with_label("follows the content of what it is made from")
)
"""For an asset of the same partitions as its parents: once per change of a parent's data version, when no parent is missing or running."""
