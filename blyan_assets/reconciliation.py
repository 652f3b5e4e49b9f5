"""The daily comparison of the lake with the chain, with the landing and with Dagster's own records.

Belongs here: gathering the accounts, showing where they differ, and what is to be done about it. Does not belong here: what a
difference is (`blyan.solana.inventory`, `blyan.solana.audit`), which are repaired (`blyan.solana.repair`), or asking for the
repairs (`blyan_sensors.repairs`).
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import dagster as dg
import msgspec

from blyan.corpus.search_index import ranges_held
from blyan.errors import BlyanError
from blyan.lake import Lake
from blyan.schemas import RAW_BLOCKS
from blyan.settings import Settings
from blyan.solana.audit import Audit, audit, to_audit
from blyan.solana.ingest import DERIVED
from blyan.solana.inventory import DRIFTS, OF_CORPUS, SEARCH_INDEX, find_drift, take_inventory
from blyan.solana.landing import read_head
from blyan.solana.repair import Plan, plan_repairs, read_plan
from blyan_assets.automation import DAILY
from blyan_assets.checks import LANDING
from blyan_assets.failures import failures
from blyan_sensors.top_up import IN_FLIGHT, ranges_of
from blyan_sensors.versions import RUN_KEY, last_versions
from resources.lake import LakeResource
from resources.source import SourceResource

INVENTORY = dg.AssetKey(["solana", "inventory"])

NO_DRIFT = "no_drift"

REPAIRS = "repairs"
"""Metadata of a materialisation: the plan."""

BILLED = ("bigquery",)
"""Sources that cost money by the look: they are never asked here, and nothing is read from them again without a person."""

LISTED = 100
"""Ranges of one kind of drift that are named at most."""

DAY_S = 86_400


def repair_key(key: str, inventory: int) -> str:
    """Run key of the repair of a range that an inventory, by the number of its event, decided."""
    return f"repair {key} {inventory}"


def last_plan(instance: dg.DagsterInstance) -> tuple[Plan, int]:
    """What the newest inventory decided, and the number of its event; an empty plan and -1 where there was none."""
    records = instance.fetch_materializations(INVENTORY, limit=1).records
    made = records[0].asset_materialization if records else None
    return (read_plan(made.metadata[REPAIRS].value if REPAIRS in made.metadata else None), records[0].storage_id) if made else (Plan(), -1)


def reconciliation(settings: Settings) -> dg.AssetsDefinition:
    """The asset that reports drift, and says which ranges are to be made again."""

    @dg.asset(
        key=INVENTORY,
        description=(
            "Where the chain, the lake, the landing and Dagster's records differ about a range, once a day; the metadata of each "
            "materialisation names the ranges. The sensor `repairs` has a few of them made again, each once. "
            "A range that is made while it looks may show as drift once."
        ),
        owners=["team:lake"],
        kinds={"python"},
        tags={"chain": "solana"},
        automation_condition=DAILY,
        check_specs=[dg.AssetCheckSpec(NO_DRIFT, asset=INVENTORY, description="The chain, the lake, the landing and the records agree.")],
    )
    def inventory(context: dg.AssetExecutionContext, lake: LakeResource, source: SourceResource) -> dg.MaterializeResult:
        instance = context.instance
        before, number = last_plan(instance)
        ran = _ran(instance, before, number)
        busy = ranges_of(instance, dg.RunsFilter(statuses=IN_FLIGHT))
        # The records first: what they name was committed before it was recorded, so it must be there when the lake is looked at.
        names = [*(table.name for table in (RAW_BLOCKS, *DERIVED, *OF_CORPUS)), SEARCH_INDEX]
        recorded = {name: last_versions(instance, dg.AssetKey(name.split("/"))) for name in names}
        reported = last_versions(instance, LANDING)
        with failures(context), ExitStack() as stack:
            store = lake.open()
            head = read_head(store)
            held = take_inventory(store, settings.grid)
            indexed, index_error = _indexed(store)
            if indexed is not None:
                held = replace(held, corpus={**held.corpus, SEARCH_INDEX: indexed})
            sealed = {landed.key: landed.digest for landed in head.ranges if landed.digest is not None} if head else {}
            chain = None if settings.source in BILLED else Chain(store, settings, source, stack)
            wanted = to_audit(held.complete(), [*before.asked(), *before.failed], day=int(time.time() // DAY_S))
            audits = chain.audits(wanted) if chain else {}
            drift = find_drift(held, sealed=sealed, recorded=recorded, reported=reported, audits=audits, busy=busy)
            plan = plan_repairs(
                drift,
                held,
                recorded=recorded[RAW_BLOCKS.name],
                before=before,
                ran=ran,
                busy=busy,
                unseen=lambda key: chain is not None and key not in audits,
                readable=lambda key: key in sealed or (chain is not None and chain.readable(key)),
            )
        total = sum(map(len, drift.values()))
        error = "; ".join(filter(None, [chain.error if chain else "", index_error]))
        return dg.MaterializeResult(
            metadata={
                "complete ranges": len(held.complete()),
                "sealed ranges in the landing": len(sealed),
                "ranges being made": len(busy),
                "ranges compared with the chain": len(audits),
                **({"slots that the source no longer tells": untold} if (untold := sum(each.untold for each in audits.values())) else {}),
                "the chain": (chain.error if chain else "") or ("compared" if chain else f"not asked: {settings.source} is billed by the look"),
                "drift": total,
                **{kind: dg.MetadataValue.json({"ranges": len(drift[kind]), "first": drift[kind][:LISTED]}) for kind in DRIFTS if drift[kind]},
                REPAIRS: dg.MetadataValue.json(msgspec.to_builtins(plan)),
            },
            check_results=[
                dg.AssetCheckResult(
                    asset_key=INVENTORY,
                    check_name=NO_DRIFT,
                    passed=not total and not error,
                    severity=dg.AssetCheckSeverity.WARN,
                    description="; ".join(_words(drift, plan, error)) or "all agree",
                )
            ],
        )

    return inventory


def _indexed(lake: Lake) -> tuple[dict[str, str] | None, str]:
    """What the search index has; None where it cannot be compared, and why if that is an error."""
    try:
        return ranges_held(lake), ""
    except BlyanError as error:
        return None, f"the search index was not compared: {error}"


class Chain:
    """The block source, opened when it is first asked. One that does not answer leaves the rest of the inventory as it is, and says so."""

    def __init__(self, lake: Lake, settings: Settings, source: SourceResource, stack: ExitStack) -> None:
        self.error = ""
        self._lake, self._grid = lake, settings.grid
        self._open = cache(lambda: stack.enter_context(source.open()))
        self._seen: dict[str, Audit] = {}

    def audits(self, keys: Iterable[str]) -> dict[str, Audit]:
        """How these ranges stand to the chain, as far as it answers."""
        return {key: found for key in keys if (found := self._audit(key)) is not None}

    def readable(self, key: str) -> bool:
        """Whether the source can give the range again without a loss."""
        found = self._audit(key)
        return found is not None and found.readable

    def _audit(self, key: str) -> Audit | None:
        if key not in self._seen and not self.error:
            try:
                self._seen[key] = audit(self._lake, self._open(), self._grid.range_of(key))
            except BlyanError as error:
                self.error = f"not compared from {key} on: {error}"
        return self._seen.get(key)


def _ran(instance: dg.DagsterInstance, plan: Plan, number: int) -> list[str]:
    """The ranges of a plan that had their run, whatever came of it."""
    keys = {repair_key(key, number): key for key in plan.asked()}
    records = instance.get_run_records(dg.RunsFilter(tags={RUN_KEY: list(keys)})) if keys else []
    return sorted({keys[record.dagster_run.tags[RUN_KEY]] for record in records})


def _words(drift: Mapping[str, list[str]], plan: Plan, error: str) -> Iterable[str]:
    for kind, keys in drift.items():
        if keys:
            yield f"{len(keys)} {kind}"
    told: dict[str, Any] = {"made again": plan.asked(), "over the bound": plan.later, "repaired before": plan.failed, "not readable": plan.unreadable}
    for what, keys in told.items():
        if keys:
            yield f"{what}: {', '.join(keys[:LISTED])}"
    if error:
        yield error
