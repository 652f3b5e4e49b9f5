"""A run that is killed at each stage leaves a lake that reads, and the same command completes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from blyan.lake import Lake
from blyan.schemas import RAW_BLOCKS, TABLES
from blyan.settings import Settings, load_settings
from blyan.solana.ingest import DERIVED, land, normalise_range
from blyan.solana.inventory import COMPLETE, MISSING, PARTIAL, take_inventory
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from blyan_assets.run import materialise

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = {"horizon_slot": 4, "slots_per_range": 4, "embedded_transactions_per_slot": 2}
RANGE = SlotRange(0, 3)

VICTIM = """
import os, signal, socket, sys
import dagster as dg
from blyan.lake import Lake
from blyan.settings import load_settings
from blyan_assets.build import build_defs
from blyan_assets.run import HOST_TAG, PROCESS_TAG

folder, fatal, moment = sys.argv[1], int(sys.argv[2]), sys.argv[3]
settings = load_settings(lake=folder + "/lake", horizon_slot=4, slots_per_range=4, embedded_transactions_per_slot=2)

class Doomed(Lake):
    commits = 0

    def commit(self, *arguments, **options):
        Doomed.commits += 1
        if Doomed.commits == fatal and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        commit = super().commit(*arguments, **options)
        if Doomed.commits == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return commit

class Opens:
    def open(self):
        return Doomed.from_settings(settings)

job = build_defs(settings=settings, resources={"lake": Opens()}, with_marts=False).resolve_job_def("ingest_range")
with dg.DagsterInstance.local_temp(folder + "/dagster") as instance:
    tags = {HOST_TAG: socket.gethostname(), PROCESS_TAG: str(os.getpid())}
    job.execute_in_process(instance=instance, partition_key="000000000000", tags=tags)
"""
"""Dies before or after one of the ten commits of a run: the raw blocks, then nine tables."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the range as an undisturbed run makes it."""
    settings = load_settings(lake=str(tmp_path_factory.mktemp("expected")), **TINY)
    lake = Lake.from_settings(settings)
    raw = land(lake, open_source(settings), RANGE)
    made = normalise_range(lake, RANGE)
    return {RAW_BLOCKS.name: raw.digest} | {name: commit.digest for name, commit in made.commits.items()}


@pytest.mark.parametrize(
    ("commit", "moment", "state"),
    [(1, "before", MISSING), (1, "after", PARTIAL), (4, "before", PARTIAL), (1 + len(DERIVED), "after", COMPLETE)],
    ids=["while landing", "between the steps", "between the tables", "before the record"],
)
def test_a_killed_run_leaves_a_readable_lake_and_running_it_again_completes_it(
    tmp_path: Path, expected: dict[str, str], commit: int, moment: str, state: str
) -> None:
    settings = load_settings(lake=str(tmp_path / "lake"), **TINY)
    (tmp_path / "dagster").mkdir()
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", VICTIM, str(tmp_path), str(commit), moment],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.startswith("BLYAN_")},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert held(settings) == (state, expected_part(settings, expected))

    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        (outcome,) = materialise("ingest_range", [RANGE], settings, show=lambda *_: None, instance=instance)
        statuses = sorted(run.status.value for run in instance.get_runs())

    assert outcome.good, outcome
    assert held(settings) == (COMPLETE, expected)
    assert statuses == ["FAILURE", "SUCCESS"]


def held(settings: Settings) -> tuple[str, dict[str, str]]:
    """The state of the range, and the digest of every partition that can be read, recomputed from its rows."""
    lake = Lake.from_settings(settings)
    state = take_inventory(lake, settings.grid).state_of(RANGE.key)
    return state, {name: lake.digest(table, RANGE.key) for name, table in TABLES.items() if RANGE.key in lake.partitions(table)}


def expected_part(settings: Settings, expected: dict[str, str]) -> dict[str, str]:
    """Of the expected digests, those of the tables that have the range so far."""
    lake = Lake.from_settings(settings)
    return {name: digest for name, digest in expected.items() if RANGE.key in lake.partitions(TABLES[name])}
