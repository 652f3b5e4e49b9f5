"""A tiny lake on the embedded chain, and the graph over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from blyan.lake import Lake
from blyan.settings import Settings, load_settings
from blyan_assets.build import build_defs
from tests.unit.test_embedding_cache import Hashed


@dataclass
class Small:
    """Opens the embedder of the tests in the place of a model, which takes seconds."""

    model: Hashed = field(default_factory=Hashed)

    def open(self) -> Hashed:
        return self.model


QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Three ranges of eight slots, four transactions each."""
    return load_settings(
        lake=str(tmp_path / "lake"),
        split_key_file=str(tmp_path / "split.key"),
        horizon_slot=24,
        slots_per_range=8,
        embedded_transactions_per_slot=4,
        corpus_samples_per_family=1,
    )


@pytest.fixture
def lake(settings: Settings) -> Lake:
    """The lake of the settings."""
    return Lake.from_settings(settings)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's records, in memory."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def run(settings: Settings, instance: dg.DagsterInstance) -> Run:
    """Run a job of the graph for one range: `run("ingest_range", key, **resources)`."""

    def run_job(job: str, key: str, **resources: object) -> dg.ExecuteInProcessResult:
        made = build_defs(settings=settings, resources={"embedder": Small(), **resources}, with_marts=False).resolve_job_def(job)
        return made.execute_in_process(instance=instance, partition_key=key, run_config=QUIET, raise_on_error=False)

    return run_job
