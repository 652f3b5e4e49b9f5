"""The daily comparison of the lake with the landing and with Dagster's own records.

Belongs here: gathering the accounts, and showing where they differ. Does not belong here: what a difference is
(`blyan.solana.inventory`), or repairing it: `blyan_sensors.stale_ranges` asks for what was not followed.
"""

import dagster as dg

from blyan.schemas import RAW_BLOCKS
from blyan.settings import Settings
from blyan.solana.ingest import DERIVED
from blyan.solana.inventory import DRIFTS, find_drift, take_inventory
from blyan.solana.landing import read_head
from blyan_assets.automation import DAILY
from blyan_assets.checks import LANDING, asset_key
from blyan_assets.failures import failures
from blyan_sensors.top_up import IN_FLIGHT, ranges_of
from blyan_sensors.versions import last_versions
from resources.lake import LakeResource

INVENTORY = dg.AssetKey(["solana", "inventory"])

NO_DRIFT = "no_drift"

LISTED = 100
"""Ranges of one kind of drift that are named at most."""


def reconciliation(settings: Settings) -> dg.AssetsDefinition:
    """The asset that reports drift."""

    @dg.asset(
        key=INVENTORY,
        description=(
            "Where the lake, the landing and Dagster's records differ about a range, once a day. It repairs nothing; the metadata of "
            "each materialisation names the ranges. A range that is made while it looks may show as drift once."
        ),
        owners=["team:lake"],
        kinds={"python"},
        tags={"chain": "solana"},
        automation_condition=DAILY,
        check_specs=[dg.AssetCheckSpec(NO_DRIFT, asset=INVENTORY, description="The lake, the landing and the records agree about every range.")],
    )
    def inventory(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        busy = ranges_of(context.instance, dg.RunsFilter(statuses=IN_FLIGHT))
        # The records first: what they name was committed before it was recorded, so it must be there when the lake is looked at.
        recorded = {table.name: last_versions(context.instance, asset_key(table)) for table in (RAW_BLOCKS, *DERIVED)}
        reported = last_versions(context.instance, LANDING)
        with failures(context):
            store = lake.open()
            head = read_head(store)
            held = take_inventory(store, settings.grid)
        sealed = {landed.key: landed.digest for landed in head.ranges if landed.digest is not None} if head else {}
        drift = find_drift(held, sealed=sealed, recorded=recorded, reported=reported, busy=busy)
        total = sum(map(len, drift.values()))
        return dg.MaterializeResult(
            metadata={
                "complete ranges": len(held.complete()),
                "sealed ranges in the landing": len(sealed),
                "ranges being made": len(busy),
                "drift": total,
                **{kind: dg.MetadataValue.json({"ranges": len(drift[kind]), "first": drift[kind][:LISTED]}) for kind in DRIFTS if drift[kind]},
            },
            check_results=[
                dg.AssetCheckResult(
                    asset_key=INVENTORY,
                    check_name=NO_DRIFT,
                    passed=not total,
                    severity=dg.AssetCheckSeverity.WARN,
                    description="; ".join(f"{len(keys)} {kind}" for kind, keys in drift.items() if keys) or "all agree",
                )
            ],
        )

    return inventory
