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
    .replace(
        "any_deps_updated",
        dg.AutomationCondition.any_deps_match(
            (dg.AutomationCondition.data_version_changed() & ~dg.AutomationCondition.executed_with_root_target())
            | dg.AutomationCondition.will_be_requested()
        ),
    )
    .with_label("follows the content of what it is made from")
)
"""For an asset of the same partitions as its parents: once per change of a parent's data version, when no parent is missing or running.

A change is handled by any materialisation after it, also one that makes the same content again: a whole ingest changes some tables
of a range and not others, and nothing is left to do for those.
"""

FOLLOWS_CHECKED_CONTENT = (FOLLOWS_CONTENT & dg.AutomationCondition.all_deps_blocking_checks_passed()).with_label(
    "follows the content of what it is made from, once its blocking checks passed"
)
"""The same, and not from rows that broke a blocking check: in one run Dagster itself stops there, and this holds for a run of its own."""

COOL_DOWN = "*/10 * * * *"
"""A mart is built whole, so it follows the lake at most this often, however many ranges arrive."""

FOLLOWS_LAKE = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
    .since(dg.AutomationCondition.newly_requested())
    .__and__(dg.AutomationCondition.cron_tick_passed(COOL_DOWN))
    .__and__(~dg.AutomationCondition.in_progress())
    .with_label("follows the lake's content, every ten minutes at most")
)
"""For an asset without partitions over many ranges, of which most may never be materialised.

It is not `eager()`, which waits until every range of the grid is there, and until none is being written: a backfill of days
would starve it. It is asked for once for all that came since, at the next ten minutes. Ranges that are being written are not in
what dbt sees. A change counts from the last request and not from the last materialisation, since what arrives while dbt runs is
not in its result; and a mart that is merely missing is not asked for, since the lake may be empty.

A range whose blocking checks failed is not left out: dbt reads all the lake has, and a check of a range cannot hold back an asset
of all ranges without one bad range holding it back for ever. A run stops behind its own failed checks; this is another run.
"""
