"""Instruction-tuning samples: questions with the SQL that answers them.

Belongs here: the asset `corpus/samples`. Does not belong here: questions, answers, what must hold of them (`blyan.corpus`).
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg

from blyan.corpus.questions import load_questions
from blyan.corpus.registry import load_registry
from blyan.corpus.sample_checks import CHECKS, Finding, check_samples
from blyan.corpus.samples import READ, version, write_samples
from blyan.corpus.splits import SplitRule, split_rule
from blyan.errors import SettingError
from blyan.schemas import SAMPLES
from blyan.settings import Settings
from blyan_assets.automation import FOLLOWS_CONTENT
from blyan_assets.checks import SCHEMA, SCHEMA_PROSE, asset_key, check_spec, schema_result
from blyan_assets.failures import failures
from blyan_assets.partitions import SAME_RANGE, slot_ranges
from blyan_assets.tables import table_attributes, table_result
from resources.lake import LakeResource

SAMPLES_POOL = "samples"
"""Steps that make samples at once: each uses one core and about 600 MB."""


def samples_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The asset, on the grid of the settings. It follows its tables: a range whose documents change gets new samples."""
    grid = settings.grid
    partitions = slot_ranges(grid)
    registry = load_registry(*([Path(settings.corpus_registry)] if settings.corpus_registry else []))
    code_version = version(load_questions(), registry, _known_rule(settings), per_family=settings.corpus_samples_per_family)

    @dg.multi_asset(
        name="samples",
        specs=[
            dg.AssetSpec(
                asset_key(SAMPLES),
                deps=[dg.AssetDep(asset_key(table), partition_mapping=SAME_RANGE) for table in READ],
                automation_condition=FOLLOWS_CONTENT,
                **table_attributes(SAMPLES, code_version),
            )
        ],
        partitions_def=partitions,
        check_specs=[check_spec(name, SAMPLES, prose, partitions, blocking=True) for name, prose in {SCHEMA: SCHEMA_PROSE, **CHECKS}.items()],
        pool=SAMPLES_POOL,
    )
    def samples(context: dg.AssetExecutionContext, lake: LakeResource) -> Any:
        slots, started = grid.range_of(context.partition_key), time.monotonic()
        with failures(context):
            store, rule = lake.open(), split_rule(lake.settings())
            commit, made = write_samples(store, slots, registry, rule, per_family=settings.corpus_samples_per_family)
            checks = [schema_result(store, SAMPLES, slots.key), *map(_result, check_samples(store, slots, rule))]
        facts = {
            "seconds": round(time.monotonic() - started, 3),
            "windows": ", ".join(map(str, made.windows)),
            "families": sum(count > 0 for count in made.families.values()),
            "families without samples": ", ".join(sorted(name for name, count in made.families.items() if not count)) or "none",
            "splits": ", ".join(f"{count} {split}" for split, count in Counter(row["split"] for row in made.rows).most_common()),
            "duplicates left out": made.duplicates,
            "answers of nothing": made.trivial,
            "answers of nothing left out": made.trivial_left_out,
        }
        yield table_result(store, SAMPLES, slots, commit, {SAMPLES.name: checks}, facts)

    return [samples]


def _known_rule(settings: Settings) -> SplitRule | None:
    """The rule, by which samples of another one show as out of date. The graph loads without a key, and makes none: a step does, or says what is wrong."""
    try:
        return split_rule(settings, make=False)
    except SettingError:
        return None


def _result(finding: Finding) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset_key(SAMPLES),
        check_name=finding.name,
        passed=finding.passed,
        description="\n".join(finding.examples) or None,
        metadata={"samples checked": finding.checked, "violations": finding.violations},
    )
