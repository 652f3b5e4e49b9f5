"""Marts: the dbt models as assets, in the same lineage as the tables they are made from.

Belongs here: the assets of the group `marts`, and running dbt. Does not belong here: what a mart is
(`dbt_project`), the database that dbt works in and publishing (`blyan.marts`).

dbt builds and tests in a database of its own, and a mart goes to the lake only when its tests
passed: what stands there has passed them. Importing `dagster_dbt` takes three seconds, so only this
module does.
"""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
from packaging.version import Version

from blyan.errors import PermanentError
from blyan.lake import Commit
from blyan.marts import PROJECT, SCHEMA, mart_tables, prepare, publish
from blyan.schemas import Table
from blyan.settings import Settings
from blyan_assets.automation import FOLLOWS_LAKE
from blyan_assets.failures import failures
from resources.lake import LakeResource


class _NoDbt:
    """Hides dbt from `dagster_dbt`, which then takes its names from itself, as it does beside a dbt that is not Python.

    dbt runs as a process of its own here, and importing it is most of what importing `dagster_dbt` takes: every run pays it,
    also one of a range, which has nothing to do with marts.
    """

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name == "dbt":
            raise ModuleNotFoundError(name)


with warnings.catch_warnings():
    # dagster-dbt still installs the parser that sqlglot replaced, and sqlglot imports it where it is installed.
    warnings.filterwarnings("ignore", "sqlglotrs is deprecated", DeprecationWarning)
    sys.meta_path.insert(0, _NoDbt())
    try:
        from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, DbtCliResource, dbt_assets
    finally:
        del sys.meta_path[0]

OWNERS = ["team:lake"]

MARTS_POOL = "marts"
"""Steps that build marts at once: each reads most of the lake."""

STATE = "partial_parse.msgpack"
"""dbt's name for the state of its parser."""

log = logging.getLogger(__name__)


class MartTranslator(DagsterDbtTranslator):  # type: ignore[misc]
    """Keys, group, owners and versions of what dbt calls models and sources."""

    def __init__(self) -> None:
        # The parents are assets of this code location and speak for themselves.
        super().__init__(DagsterDbtTranslatorSettings(enable_source_metadata=False))

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """`marts/<model>`, and `solana/<table>` for a source."""
        return dg.AssetKey([dbt_resource_props["schema"], dbt_resource_props["name"]])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The first part of the key."""
        return str(dbt_resource_props["schema"])

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> Sequence[str]:  # noqa: ARG002 - the same for all
        """Whom to ask."""
        return OWNERS

    def get_automation_condition(self, dbt_resource_props: Mapping[str, Any]) -> dg.AutomationCondition[Any] | None:
        """Models follow the lake."""
        return FOLLOWS_LAKE if dbt_resource_props["resource_type"] == "model" else None

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The model's own, without its SQL."""
        return str(dbt_resource_props["description"])

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: Any) -> dg.AssetSpec:
        """As dagster-dbt has it, and a code version that covers the staging models, which are part of the query."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        if not unique_id.startswith("model."):
            return spec
        return spec.replace_attributes(code_version=_code_version(manifest, unique_id), kinds={"dbt", "duckdb", "deltalake"}).merge_attributes(
            metadata={"dagster/table_name": f"{SCHEMA}.{spec.key.path[-1]}"}
        )


class Dbt(DbtCliResource):  # type: ignore[misc]
    """The dbt beside this Python, on one project."""

    @classmethod
    def of(cls, project: Path) -> "Dbt":
        """For the project in this folder, which has its own profile."""
        return cls(project_dir=str(project), profiles_dir=str(project), dbt_executable=_executable(), global_config_flags=["--no-use-colors"])

    @cached_property
    def _cli_version(self) -> Version:
        # The original runs `dbt --version`, which takes two seconds and asks the package index for newer releases.
        return Version(version("dbt-core"))

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> None:
        """None: the original imports dbt and opens the database, for queries that nobody here makes."""


def marts_assets(settings: Settings, project: Path = PROJECT) -> list[dg.AssetsDefinition]:  # noqa: ARG001 - as every group of assets
    """The assets of the group."""
    tables = {dg.AssetKey([SCHEMA, name]): table for name, table in mart_tables(project).items()}
    manifest = json.loads((parsed(project) / "manifest.json").read_text())

    @dbt_assets(manifest=manifest, dagster_dbt_translator=MartTranslator(), name="marts", pool=MARTS_POOL)
    def marts(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[Any]:
        # What is not built in this run stands as it is in the lake, so that its checks can be run alone.
        standing = [table for key, table in tables.items() if key not in context.selected_asset_keys]
        with failures(context), TemporaryDirectory(prefix="blyan-marts-") as folder:
            # A copy in which every path is the same in every run: dbt parses again when its profile or variables change.
            copy = shutil.copytree(project, Path(folder) / "project", ignore=shutil.ignore_patterns("target", "logs"))
            target = shutil.copytree(parsed(project), copy / "target")
            store, database = lake.open(), target / "scratch.duckdb"
            ranges = prepare(store, database, standing)
            context.log.info("Building from %d ranges, %s to %s", len(ranges), ranges[0], ranges[-1])
            build = Dbt.of(copy).cli(["build"], context=context.op_execution_context, target_path=target, raise_on_error=False)
            built, checks = _outcome(context, build.stream())
            failed = {result.asset_key for result in checks if not result.passed and result.severity is dg.AssetCheckSeverity.ERROR}
            for key, seconds in built.items():
                if key not in failed:
                    commit = publish(store, tables[key], database)
                    yield _result(store.root, tables[key], commit, {"ranges": len(ranges), "seconds": seconds})
            yield from checks
            if names := ", ".join(sorted(key.path[-1] for key in failed & built.keys())):
                remedy = "see the failed checks; correct the model or the rows, and materialise it again"
                raise PermanentError(f"tests of {names} failed, so the lake keeps what it had", where=SCHEMA, remedy=remedy)
            if not failed and (error := build.get_error()):
                raise error

    return [marts]


def parsed(project: Path) -> Path:
    """The folder with what dbt makes of a project's files: `manifest.json`, and the state that spares the next dbt the parsing.

    Made again when a file of the project or the version of dbt has changed: five seconds, three from an earlier state. It is kept under
    the digest of what it was made from, so it needs no clock, and processes that load the definitions at once do not disturb
    each other.

    Raises:
        PermanentError: dbt cannot parse the project.
    """
    files = [project / "dbt_project.yml", project / "profiles.yml"]
    for folder in ("models", "macros", "tests"):
        files += [path for path in (project / folder).rglob("*") if path.is_file()]
    sha = hashlib.sha256(f"{version('dbt-core')} {version('dbt-duckdb')}".encode())
    for file in sorted(files):
        sha.update(f"\0{file.relative_to(project).as_posix()}\0".encode() + file.read_bytes())
    kept = project / "target" / f"parsed-{sha.hexdigest()[:16]}"
    if not kept.is_dir():
        log.info("Parsing the dbt project in %s", project)
        kept.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / "made"
            if earlier := max(kept.parent.glob(f"*/{STATE}"), key=lambda path: path.stat().st_mtime, default=None):
                made.mkdir()  # dbt parses only what has changed since
                shutil.copy(earlier, made)
            _parse(project, made)
            try:
                made.rename(kept)
            except OSError:  # another process was first, and what it made is the same
                if not kept.is_dir():
                    raise
    return kept


def _parse(project: Path, target: Path) -> None:
    options = ["--project-dir", str(project), "--profiles-dir", str(project), "--target-path", str(target), "--log-path", str(target)]
    done = subprocess.run([_executable(), "--quiet", "parse", *options], cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"{done.stdout} {done.stderr}".strip()
        raise PermanentError(f"dbt cannot parse the project: {said}", where=str(project), remedy="correct the file it names")
    for name in ("dbt.log", "perf_info.json", "semantic_manifest.json"):
        (target / name).unlink(missing_ok=True)


def _executable() -> str:
    """The dbt in the environment of this Python, which need not be on the PATH."""
    beside = Path(sys.executable).with_name("dbt")
    return str(beside) if beside.is_file() else "dbt"


def _code_version(manifest: Mapping[str, Any], unique_id: str) -> str:
    """Digest of the SQL of a model, and of the models and macros that it includes."""
    node = manifest["nodes"][unique_id]
    models = sorted({unique_id, *(each for each in node["depends_on"]["nodes"] if each.startswith("model."))})
    macros = sorted({macro for each in models for macro in manifest["nodes"][each]["depends_on"]["macros"] if macro.startswith("macro.blyan.")})
    texts = [manifest["nodes"][each]["raw_code"] for each in models] + [manifest["macros"][each]["macro_sql"] for each in macros]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _outcome(context: dg.AssetExecutionContext, events: Iterator[Any]) -> tuple[dict[dg.AssetKey, float], list[dg.AssetCheckResult]]:
    """Seconds that each model took, and the results of the tests."""
    built: dict[dg.AssetKey, float] = {}
    checks: list[dg.AssetCheckResult] = []
    for event in events:
        if isinstance(event, dg.Output):
            built[context.asset_key_for_output(event.output_name)] = event.metadata["Execution Duration"].value
        elif isinstance(event, dg.AssetCheckResult):
            checks.append(event)
    return built, checks


def _result(root: str, table: Table, commit: Commit, extra: Mapping[str, Any]) -> dg.MaterializeResult[Any]:
    """What the step tells of one mart: the digest of its content as the data version, and where to look."""
    return dg.MaterializeResult(
        asset_key=dg.AssetKey(table.name.split("/")),
        data_version=dg.DataVersion(commit.digest),
        metadata={
            "dagster/row_count": commit.rows,
            "rows": commit.rows,
            "bytes": commit.bytes,
            "files": commit.files,
            "table version": commit.version,
            "content changed": commit.changed,
            "data": dg.MetadataValue.path(f"{root}/{table.name}"),
            "query": dg.MetadataValue.md(f'```\nblyan sql "select * from {SCHEMA}.{table.short_name} limit 20"\n```'),  # noqa: S608 - shown, not run
            **extra,
        },
    )
