"""What must hold of a range, as asset checks.

Belongs here: check specs, and turning findings of `blyan` into check results. Does not belong here:
what an invariant is (`blyan.solana.invariants`).

Every check is of one partition and is evaluated by the step that wrote it, after the commit: the
rows are in the lake for whoever looks into it, and what is downstream in the run does not start.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from blyan.lake import Lake
from blyan.schemas import Table
from blyan.settings import Settings
from blyan.solana.invariants import INVARIANTS, Finding, check_range
from blyan.solana.landing import read_head
from blyan.solana.liveness import VERDICTS, Verdict, judge
from blyan.solana.slots import SlotRange
from resources.lake import LakeResource

LANDING = dg.AssetKey(["solana", "landing"])
"""What the follower landed. It is external: the follower is a process of its own, and `blyan_sensors.landing` reports its sealed ranges."""

SCHEMA = "schema"
SCHEMA_PROSE = "The stored files have exactly the columns and types that the registry declares."


def asset_key(table: Table) -> dg.AssetKey:
    """The asset key of a table: its name, cut at the slash."""
    return dg.AssetKey(table.name.split("/"))


def check_specs(tables: Sequence[Table], partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
    """Every check of these tables."""
    wanted: list[tuple[str, Table, str, bool]] = [(SCHEMA, table, SCHEMA_PROSE, True) for table in tables]
    wanted += [(each.name, each.table, each.prose, each.blocking) for each in INVARIANTS if each.table in tables]
    return [check_spec(name, table, prose, partitions, blocking=blocking) for name, table, prose, blocking in wanted]


def check_spec(name: str, of: Table | dg.AssetKey, prose: str, partitions: dg.PartitionsDefinition, *, blocking: bool) -> dg.AssetCheckSpec:
    """A check of each partition of a table, or of another asset."""
    with warnings.catch_warnings():
        # Partitioned checks are a preview feature of Dagster 1.13; without them one bad range would block all others.
        warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            name, asset=asset_key(of) if isinstance(of, Table) else of, description=prose, blocking=blocking, partitions_def=partitions
        )


def landing_checks(settings: Settings) -> dg.AssetChecksDefinition:
    """What must hold of the landing as a whole. The sensor `landing` reports every change of a verdict; a run tells it at any time."""

    @dg.multi_asset_check(
        name="landing_checks", specs=[dg.AssetCheckSpec(name, asset=LANDING, description=prose) for name, prose in VERDICTS.items()]
    )
    def evaluate(lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
        head = read_head(lake.open())
        if head is None:
            for name in VERDICTS:
                yield dg.AssetCheckResult(asset_key=LANDING, check_name=name, passed=True, description="nothing was ever landed")
            return
        for verdict in judge(head, settings.grid, now=time.time()):
            yield dg.AssetCheckResult(**verdict_fields(verdict))

    return evaluate


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """A verdict over the landing, as the fields of a check's result. It warns: what is in the lake is right all the same."""
    return {
        "asset_key": LANDING,
        "check_name": verdict.name,
        "passed": verdict.passed,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": verdict.statement,
        "metadata": verdict.figures,
    }


def check_results(lake: Lake, slots: SlotRange, tables: Sequence[Table]) -> dict[str, list[dg.AssetCheckResult]]:
    """Evaluate every check of these tables for one range; the results by name of table."""
    results: dict[str, list[dg.AssetCheckResult]] = {table.name: [schema_result(lake, table, slots.key)] for table in tables}
    if any(each.table in tables for each in INVARIANTS):
        for finding in check_range(lake, slots, genesis_hash=lake.pinned("genesis_hash")):
            results[finding.invariant.table.name].append(_finding_result(finding))
    return results


def schema_result(lake: Lake, table: Table, key: str) -> dg.AssetCheckResult:
    """Compare the footers of the partition's files with the registry."""
    declared = table.arrow_schema()
    wrong: dict[str, str] = {}
    for file in lake.files(table, keys=[key]):
        with lake.store.open(f"{table.name}/{file.name}") as source:
            stored = pq.read_schema(source)
        differences = set(_columns(stored)) ^ set(_columns(declared))
        if differences:
            wrong[file.name] = ", ".join(sorted(differences))
    return dg.AssetCheckResult(
        asset_key=asset_key(table),
        check_name=SCHEMA,
        passed=not wrong,
        description=f"{len(wrong)} files differ from blyan.schemas: {next(iter(wrong.items()))}" if wrong else None,
        metadata={"columns": len(declared), "files that differ": len(wrong)},
    )


def _columns(schema: Iterable[Any]) -> list[str]:
    return [f"{field.name} {field.type}" for field in schema]


def _finding_result(finding: Finding) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {"rows checked": finding.checked, "violations": finding.violations}
    if finding.explained:
        metadata["explained"] = dg.MetadataValue.json(dict(finding.explained))
    if finding.examples:
        metadata["examples"] = dg.MetadataValue.json(_plain(finding.examples))
    return dg.AssetCheckResult(
        asset_key=asset_key(finding.invariant.table),
        check_name=finding.invariant.name,
        passed=finding.passed,
        severity=dg.AssetCheckSeverity.ERROR if finding.invariant.blocking else dg.AssetCheckSeverity.WARN,
        description=finding.statement,
        metadata=metadata,
    )


def _plain(examples: Any) -> Any:
    """Values as JSON has them; exact decimals and times as text."""
    return json.loads(json.dumps(examples, default=str))
