"""The graph as a whole: its shape as a reviewable snapshot, and that it loads as a deployment loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion

from blyan.schemas import CORPUS, TABLES
from blyan.settings import load_settings
from blyan_assets.build import build_defs

REPOSITORY = Path(__file__).resolve().parents[2]


def outline(definitions: dg.Definitions) -> dict[str, Any]:
    """What a reviewer wants to see change, or not."""
    graph = definitions.resolve_asset_graph()
    assets = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        assets[key.to_user_string()] = {
            "made by": "a run" if node.is_materializable else "others",
            "group": node.group_name,
            "depends on": sorted(parent.to_user_string() for parent in node.parent_keys),
            "partitions": type(node.partitions_def).__name__ if node.partitions_def else None,
            "kinds": sorted(node.kinds),
            "owners": sorted(node.owners),
            "pools": sorted(node.pools or []),
            "checks": sorted(f"{check.name}{' (blocking)' if graph.get(check).blocking else ''}" for check in node.check_keys),
            "automation": node.automation_condition.get_label() if node.automation_condition else None,
        }
    repository = definitions.get_repository_def()
    return {
        "assets": assets,
        "jobs": sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        "schedules": {each.name: each.cron_schedule for each in repository.schedule_defs},
        "sensors": {each.name: each.default_status.value for each in repository.sensor_defs},
    }


def test_the_graph_is_the_one_that_was_reviewed(snapshot: SnapshotAssertion) -> None:
    assert outline(build_defs(settings=load_settings())) == snapshot


def test_every_asset_says_what_it_is_and_describes_its_columns() -> None:
    graph = build_defs(settings=load_settings(), with_marts=False).resolve_asset_graph()

    for name, table in [*TABLES.items(), *((table.name, table) for table in CORPUS)]:
        node = graph.get(dg.AssetKey(name.split("/")))
        columns = node.metadata["dagster/column_schema"].columns
        assert (node.description or "").startswith(table.prose)
        assert [(column.name, column.description) for column in columns] == [(column.name, column.prose) for column in table.columns]


def test_partitions_are_the_ranges_of_the_grid() -> None:
    settings = load_settings(first_slot=1_000, horizon_slot=1_250, slots_per_range=100)
    node = build_defs(settings=settings, with_marts=False).resolve_asset_graph().get(dg.AssetKey(["solana", "blocks"]))

    assert node.partitions_def.get_partition_keys() == ["000000001000", "000000001100", "000000001200"]


def test_resources_hold_no_setting_that_could_be_a_secret() -> None:
    definitions = build_defs(with_marts=False)

    assert definitions.resources["lake"].overrides == {}
    assert definitions.resources["source"].overrides == {}


def fresh(code: str, **environment: str) -> str:
    """Run Python in an interpreter that has imported nothing, in an environment that sets nothing."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BLYAN_", "DAGSTER_"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=REPOSITORY,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_module_of_blyan_imports_dagster_or_anything_else_that_is_slow() -> None:
    code = """
import importlib, json, pkgutil, sys
import blyan
names = [module.name for module in pkgutil.walk_packages(blyan.__path__, "blyan.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
    names, loaded = json.loads(fresh(code))

    assert {"blyan.cli", "blyan.lake", "blyan.solana.sources.bigquery"} < set(names)
    assert not {"dagster", "dagster_dbt", "dagster_gcp", "dagster_k8s", "torch", "lancedb", "kubernetes"} & set(loaded)


def test_the_graph_without_marts_imports_no_integration() -> None:
    code = """
import json, sys
from blyan_assets.build import build_defs
build_defs(with_marts=False)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    loaded = json.loads(fresh(code))

    assert "dagster" in loaded
    assert not {"dagster_dbt", "dagster_gcp", "dagster_k8s", "google.cloud", "kubernetes", "polars", "duckdb"} & set(loaded)


def test_the_code_location_loads_in_a_fresh_interpreter_without_connecting_to_anything(tmp_path: Path) -> None:
    code = """
import socket
def refuse(*arguments, **options):
    raise AssertionError("nothing may connect while definitions load")
socket.socket.connect = refuse
from blyan_assets.definitions import defs
print(len(defs.resolve_asset_graph().materializable_asset_keys))
"""
    # A lake in a bucket and a node far away: loading must reach for neither.
    found = fresh(code, BLYAN_LAKE="s3://nowhere/lake", BLYAN_SOURCE="rpc", BLYAN_RPC_URL="http://192.0.2.1", HOME=str(tmp_path))

    assert int(found) >= len(TABLES)


@pytest.mark.parametrize("wrong", [{"BLYAN_HORIZON_SLOT": "0"}, {"BLYAN_NOPE": "1"}])
def test_a_wrong_setting_stops_the_load_with_its_name(wrong: dict[str, str]) -> None:
    code = """
from blyan.errors import SettingError
try:
    import blyan_assets.definitions
except SettingError as error:
    print(error)
"""
    assert next(iter(wrong)) in fresh(code, **wrong)


def test_dagster_validates_the_workspace(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BLYAN_")} | {"DAGSTER_HOME": str(tmp_path)}
    (tmp_path / "dagster.yaml").write_text((REPOSITORY / "dagster.yaml").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        cwd=REPOSITORY,
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Validation successful for code location blyan" in done.stdout + done.stderr
