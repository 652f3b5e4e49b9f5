"""Materialising ranges in this process, through Dagster: what the command line does.

Belongs here: runs of the jobs `ingest_range`, `render_range`, `build_corpus` and `build_marts` on the local instance, what came of them, and how
others fare. Does not belong here: printing.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from blyan import errors
from blyan.errors import TransientError
from blyan.settings import Settings
from blyan.solana.ingest import Progress
from blyan.solana.slots import SlotRange
from blyan_assets.build import CORPUS, TEXT, build_defs
from blyan_assets.records import kept_connections
from blyan_sensors.top_up import IN_FLIGHT

HOME = Path(".blyan/dagster")
"""The instance's folder where DAGSTER_HOME does not name one."""

HOST_TAG, PROCESS_TAG = "blyan/host", "blyan/process"

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class Made:
    """What a run made of one table."""

    rows: int
    bytes: int
    changed: bool


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """A check that did not pass."""

    table: str
    name: str
    description: str
    blocking: bool


@dataclass(slots=True)
class Outcome:
    """What came of one run of a job: `error` is empty where it succeeded, or only checks failed. `slots` is None for the marts."""

    job: str
    slots: SlotRange | None
    run_id: str
    made: dict[str, Made] = field(default_factory=dict)
    checks: int = 0
    failed_checks: list[FailedCheck] = field(default_factory=list)
    error: str = ""
    transient: bool = False

    @property
    def good(self) -> bool:
        """The range is in the lake, and no blocking check failed."""
        return not self.error and not any(each.blocking for each in self.failed_checks)


@dataclass(frozen=True, slots=True)
class Bars:
    """Takes the place of `ProgressResource`: hands every callback to `show(what, done, total)`."""

    show: Callable[[str, int, int], None]

    def of(self, _log: Any, what: str, _unit: str = "slots") -> Progress:
        """A callback for one piece of work."""
        return lambda done, total: self.show(what, done, total)


def dagster_home() -> Path:
    """The folder of the local instance, made where it is not there, with the project's `dagster.yaml` in it."""
    home = Path(os.environ.get("DAGSTER_HOME", "") or HOME).absolute()
    home.mkdir(parents=True, exist_ok=True)
    template = Path(__file__).resolve().parents[1] / "dagster.yaml"
    if not (home / "dagster.yaml").exists() and template.exists():
        shutil.copyfile(template, home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def materialise(
    job: str,
    ranges: Iterable[SlotRange],
    settings: Settings,
    *,
    show: Callable[[str, int, int], None],
    instance: dg.DagsterInstance | None = None,
) -> Iterator[Outcome]:
    """Make these ranges one after another, each in a run of its own, and say what came of each.

    Args:
        job: `ingest_range` for their tables, `render_range` for their text, `build_corpus` for what is made of text.
        ranges: ranges of the grid.
        settings: where from and where to.
        show: told what is done, how far it is, and of how much.
        instance: Dagster's records; the local instance by default.
    """
    if instance is None:
        dagster_home()
        with kept_connections(), dg.DagsterInstance.get() as local:
            yield from materialise(job, ranges, settings, show=show, instance=local)
        return
    bury_dead_runs(instance)
    defs = build_defs(settings=settings, resources={"progress": Bars(show)}, with_marts=False)
    made = defs.resolve_job_def(job)
    # Of the corpus all but the text, which has a job of its own and was told before.
    chosen = sorted((CORPUS - TEXT).resolve(defs.resolve_asset_graph())) if job == "build_corpus" else None
    tags = {HOST_TAG: socket.gethostname(), PROCESS_TAG: str(os.getpid())}
    for slots in ranges:
        with kept_connections():
            result = made.execute_in_process(
                instance=instance, partition_key=slots.key, asset_selection=chosen, tags=tags, run_config=QUIET, raise_on_error=False
            )
        yield _outcome(job, slots, result)


def build_marts(settings: Settings) -> Outcome:
    """Build every mart from the ranges that the lake has, in a run on the local instance."""
    dagster_home()
    job = build_defs(settings=settings).resolve_job_def("build_marts")
    with kept_connections(), dg.DagsterInstance.get() as instance:
        tags = {HOST_TAG: socket.gethostname(), PROCESS_TAG: str(os.getpid())}
        return _outcome(job.name, None, job.execute_in_process(instance=instance, tags=tags, run_config=QUIET, raise_on_error=False))


def count_runs(home: str | None) -> str:
    """How many runs wait, run, and failed within a day, in words; of the instance in a folder, `dagster_home` by default."""
    folder = Path(home or os.environ.get("DAGSTER_HOME", "") or HOME).absolute()
    if not (folder / "dagster.yaml").is_file():
        return f"none are recorded in {folder}"
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        waiting = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]
        counts = {
            "queued": instance.get_runs_count(dg.RunsFilter(statuses=waiting)),
            "running": instance.get_runs_count(dg.RunsFilter(statuses=[status for status in IN_FLIGHT if status not in waiting])),
            "failed within a day": instance.get_runs_count(
                dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=datetime.now(UTC) - timedelta(days=1))
            ),
        }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark as failed the runs of processes of this machine that are no more, so that nobody waits for them; returns their ids.

    A killed process cannot say so itself, and the daemon watches only runs that it launched.
    """
    dead = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=IN_FLIGHT, tags={HOST_TAG: socket.gethostname()})):
        run = record.dagster_run
        if not Path(f"/proc/{run.tags[PROCESS_TAG]}").exists():
            instance.report_run_failed(run, "The process of this run was killed. What it had committed stands; run the range again.")
            dead.append(run.run_id)
    return dead


def _outcome(job: str, slots: SlotRange | None, result: dg.ExecuteInProcessResult) -> Outcome:
    outcome = Outcome(job, slots, result.run_id)
    for event in result.get_asset_materialization_events():
        made = event.step_materialization_data.materialization
        values = {name: value.value for name, value in made.metadata.items()}
        if "rows" in values:  # a tokenizer has none
            outcome.made["/".join(made.asset_key.path)] = Made(values["rows"], values.get("bytes", 0), values["content changed"])
    for check in result.get_asset_check_evaluations():
        outcome.checks += 1
        if not check.passed:
            blocking = check.blocking and check.severity == dg.AssetCheckSeverity.ERROR
            outcome.failed_checks.append(FailedCheck("/".join(check.asset_key.path), check.check_name, check.description or "", blocking))
    if not result.success and outcome.good:
        outcome.error, outcome.transient = _cause(result)
    return outcome


def _cause(result: dg.ExecuteInProcessResult) -> tuple[str, bool]:
    """The message of the error that ended the run, and whether trying again may help."""
    known: Mapping[str, Any] = vars(errors)
    failures = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    error = next((each for each in failures if each is not None), None)
    while error is not None:
        kind = known.get(error.cls_name or "")
        if kind is not None:
            return error.message.partition(": ")[2].strip(), issubclass(kind, TransientError)
        if error.cause is None:
            return error.message.strip(), False
        error = error.cause
    return f"run {result.run_id} failed before a step did", False
