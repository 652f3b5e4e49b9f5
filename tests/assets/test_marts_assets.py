"""The marts in the graph: keys, lineage, documentation, and when they are asked for."""

import datetime as dt
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from blyan.errors import PermanentError
from blyan.marts import PROJECT, TYPES, mart_tables
from blyan.settings import load_settings
from blyan_assets.automation import FOLLOWS_LAKE
from blyan_assets.marts import MARTS_POOL, marts_assets, parsed


@pytest.fixture(scope="module")
def marts() -> dg.AssetsDefinition:
    [definition] = marts_assets(load_settings())
    return definition


def test_each_mart_depends_on_the_tables_of_the_lake_that_its_query_reads(marts: dg.AssetsDefinition) -> None:
    lineage = {spec.key.to_user_string(): sorted(dep.asset_key.to_user_string() for dep in spec.deps) for spec in marts.specs}
    assert lineage == {
        "marts/fee_market": ["solana/transactions"],
        "marts/program_activity": ["solana/instructions", "solana/transactions"],
        "marts/token_flows": ["solana/token_transfers"],
        "marts/validator_rewards": ["solana/block_rewards", "solana/blocks"],
        "marts/wallet_activity": ["solana/balance_changes", "solana/transactions"],
    }


def test_each_mart_says_in_the_interface_what_it_is_and_whom_to_ask(marts: dg.AssetsDefinition) -> None:
    for spec in marts.specs:
        table = mart_tables()[spec.key.path[-1]]
        assert (spec.group_name, spec.owners, spec.kinds) == ("marts", ["team:lake"], {"dbt", "duckdb", "deltalake"})
        assert spec.description == table.prose
        assert spec.metadata["dagster/table_name"] == f"marts.{table.short_name}"
        columns = {column.name: column for column in spec.metadata["dagster/column_schema"].columns}
        assert list(columns) == table.column_names
        for column in table.columns:
            assert columns[column.name].description == column.prose
            assert TYPES[columns[column.name].type] == column.type
            assert column.prose.endswith((".", "below."))
    assert marts.op.pool == MARTS_POOL


def test_each_mart_has_a_check_of_its_key_and_one_that_reconciles_it_with_the_lake(marts: dg.AssetsDefinition) -> None:
    for name in mart_tables():
        checks = [spec.name for spec in marts.check_specs if spec.asset_key.path[-1] == name]
        assert any(check.startswith(f"unique_key_{name}") for check in checks)
        assert any(check.startswith(f"{name}_has_") for check in checks)


def test_no_amount_of_a_mart_is_a_float() -> None:
    floats = [column.name for table in mart_tables().values() for column in table.columns if str(column.type) == "double"]
    assert floats == ["priority_share"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, as dbt has parsed it."""
    copy = Path(shutil.copytree(PROJECT, tmp_path / "dbt_project", ignore=shutil.ignore_patterns("target", "logs")))
    shutil.copytree(parsed(PROJECT), copy / "target" / parsed(PROJECT).name)
    return copy


def test_a_project_is_parsed_once_until_a_file_changes_and_a_staging_model_is_part_of_the_version_of_its_marts(
    project: Path, marts: dg.AssetsDefinition
) -> None:
    staging = project / "models" / "staging" / "stg_token_transfers.sql"
    staging.write_text(staging.read_text().replace("'Unknown'", "'Not recorded'"))
    first = parsed(project)
    written = (first / "manifest.json").stat().st_mtime_ns
    assert parsed(project) == first
    assert (first / "manifest.json").stat().st_mtime_ns == written
    [changed] = marts_assets(load_settings(), project)
    before, after = ({spec.key: spec.code_version for spec in definition.specs} for definition in (marts, changed))
    assert {key.path[-1] for key in before if before[key] != after[key]} == {"token_flows"}


def test_a_project_that_dbt_cannot_parse_says_which_file_is_wrong(project: Path) -> None:
    (project / "models" / "marts" / "token_flows.sql").write_text("select * from {{ ref('nothing') }}")
    with pytest.raises(PermanentError, match=r"token_flows\.sql(.|\n)*'nothing'"):
        parsed(project)
    assert list((project / "target").iterdir()) == [project / "target" / parsed(PROJECT).name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("data_type: date", "data_type: interval"), "does not store interval.*token_flows.day"),
        (("unique_key:", "other_key:"), "not one unique_key test.*model token_flows"),
    ],
)
def test_a_mart_that_the_lake_cannot_hold_is_refused(project: Path, change: tuple[str, str], message: str) -> None:
    model = project / "models" / "marts" / "token_flows.yml"
    model.write_text(model.read_text().replace(*change))
    with pytest.raises(PermanentError, match=message):
        mart_tables(project)


BETA = pytest.mark.filterwarnings("ignore:Parameter `include_sources`")  # Dagster's own use of its beta

Tick = Callable[[int], int]
Land = Callable[[str, str], None]


@pytest.fixture
def chain() -> Iterator[tuple[Tick, Land]]:
    """A table of three ranges with a mart over it: let minutes pass and tell how many requests there were; materialise a range."""
    ranges = dg.StaticPartitionsDefinition(["0", "1", "2"])

    @dg.asset(key=["solana", "transactions"], partitions_def=ranges)
    def transactions(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion(context.run.tags["content"]))

    @dg.asset(key=["marts", "fee_market"], deps=[transactions], automation_condition=FOLLOWS_LAKE)
    def fee_market() -> None: ...

    definitions = dg.Definitions(assets=[transactions, fee_market])
    state = {"now": dt.datetime(2026, 1, 1, 0, 1, tzinfo=dt.UTC), "cursor": None}

    def tick(minutes: int) -> int:
        state["now"] += dt.timedelta(minutes=minutes)
        result = dg.evaluate_automation_conditions(definitions, instance, cursor=state["cursor"], evaluation_time=state["now"])
        state["cursor"] = result.cursor
        return result.total_requested

    def land(key: str, content: str) -> None:
        assert dg.materialize([transactions], instance=instance, partition_key=key, tags={"content": content}).success

    with dg.DagsterInstance.ephemeral() as instance:
        yield tick, land


@BETA
def test_a_mart_follows_the_first_range_though_most_of_the_grid_is_missing(chain: tuple[Tick, Land]) -> None:
    tick, land = chain
    assert (tick(1), tick(10)) == (0, 0)  # an empty lake is nothing to build from
    land("1", "a")
    assert (tick(1), tick(10), tick(10)) == (0, 1, 0)


@BETA
def test_a_mart_follows_many_ranges_once_every_ten_minutes_at_most(chain: tuple[Tick, Land]) -> None:
    tick, land = chain
    tick(1)
    requests = []
    for key in ("0", "1", "2"):
        land(key, "a")
        requests.append(tick(2))
    assert (requests, tick(10)) == ([0, 0, 0], 1)


@BETA
def test_a_mart_does_not_follow_a_range_made_again_with_the_same_content(chain: tuple[Tick, Land]) -> None:
    tick, land = chain
    tick(1)
    land("0", "a")
    assert tick(10) == 1
    land("0", "a")
    assert (tick(10), tick(10)) == (0, 0)
    land("0", "b")
    assert tick(10) == 1


def test_a_process_that_loads_the_graph_does_not_load_dbt() -> None:
    # Every run loads the graph, and dbt is a quarter of what that takes.
    code = "import sys; import blyan_assets.marts; sys.exit('dbt' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
