"""The daily inventory, run for real."""

from __future__ import annotations

import dagster as dg

from blyan.lake import Lake
from blyan.schemas import BLOCKS
from blyan.settings import Settings
from blyan.solana.inventory import LOST, NOT_FOLLOWED, PARTLY, UNREPORTED
from blyan.solana.slots import SlotRange
from blyan_assets.build import build_defs
from blyan_assets.reconciliation import INVENTORY
from tests.assets.conftest import QUIET, Run
from tests.landed import land_slots

FIRST, SECOND = "000000000000", "000000000008"


def reconcile(settings: Settings, instance: dg.DagsterInstance) -> tuple[dict[str, object], bool]:
    """Figures of the materialisation, and whether its check passed."""
    job = dg.define_asset_job("reconcile", dg.AssetSelection.assets(INVENTORY))
    definitions = dg.Definitions.merge(build_defs(settings=settings, with_marts=False), dg.Definitions(jobs=[job]))
    result = definitions.resolve_job_def("reconcile").execute_in_process(instance=instance, run_config=QUIET)
    (event,) = result.get_asset_materialization_events()
    (check,) = result.get_asset_check_evaluations()
    return {name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()}, check.passed


def test_a_lake_that_dagster_filled_has_no_drift(run: Run, settings: Settings, instance: dg.DagsterInstance) -> None:
    run("ingest_range", FIRST)

    figures, passed = reconcile(settings, instance)

    assert (figures["complete ranges"], figures["drift"], passed) == (1, 0, True)


def test_what_happened_behind_its_back_is_named(run: Run, settings: Settings, instance: dg.DagsterInstance, lake: Lake) -> None:
    run("ingest_range", FIRST)
    lake.restore(BLOCKS, 0)
    land_slots(settings, SlotRange(8, 15))

    figures, passed = reconcile(settings, instance)

    assert {kind: figures[kind] for kind in (LOST, PARTLY, UNREPORTED, NOT_FOLLOWED)} == {
        LOST: {"ranges": 1, "first": [FIRST]},
        PARTLY: {"ranges": 1, "first": [FIRST]},
        UNREPORTED: {"ranges": 1, "first": [SECOND]},
        NOT_FOLLOWED: {"ranges": 1, "first": [SECOND]},
    }
    assert (figures["drift"], passed) == (4, False)
