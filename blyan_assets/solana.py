"""Solana: raw blocks and the tables made from them.

Belongs here: the assets of the group `solana`. Does not belong here: sources, decoding,
normalising, storage (`blyan`).
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from blyan.lake import Commit, Lake
from blyan.schemas import COMPLETENESS, RAW_BLOCKS, Table
from blyan.settings import Settings
from blyan.solana.ingest import DERIVED, land, normalise_range, pin_chain, statement_of
from blyan.solana.landing import land_sealed
from blyan.solana.slots import SlotRange
from blyan_assets.automation import FOLLOWS_CONTENT, FOLLOWS_LANDING
from blyan_assets.checks import LANDING, asset_key, check_results, check_specs
from blyan_assets.failures import failures
from blyan_assets.partitions import SAME_RANGE, slot_ranges
from resources.lake import LakeResource
from resources.progress import ProgressResource
from resources.source import SourceResource

LANDING_CODE = "1"
"""Raise it when the same blocks would be kept differently in `raw_blocks`."""

NORMALISING_CODE = "1"
"""Raise it when the same raw blocks would give other rows: every range then shows as out of date."""

OWNERS = ["team:lake"]

SOURCE_POOL = "source"
"""Steps that read the source at once: a rate limit. Its size is set in `dagster.yaml`."""

NORMALISE_POOL = "normalise"
"""Steps that normalise at once: each may use every core and 1.5 GiB."""


def solana_assets(settings: Settings) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets of the group, on the grid of the settings."""
    grid = settings.grid
    partitions = slot_ranges(grid)

    landing = dg.AssetSpec(
        LANDING,
        partitions_def=partitions,
        description=(
            "The tail of the chain as the follower landed it: rows of every table, readable before the tables have them.\n\n"
            "A range is reported here once it is sealed, which is when every slot of it is final. Its data version is the digest "
            "of its raw blocks."
        ),
        owners=OWNERS,
        kinds={"parquet"},
        tags={"chain": "solana"},
    )

    @dg.asset(
        key=asset_key(RAW_BLOCKS),
        partitions_def=partitions,
        deps=[dg.AssetDep(LANDING, partition_mapping=SAME_RANGE)],
        automation_condition=FOLLOWS_LANDING,
        check_specs=check_specs([RAW_BLOCKS], partitions),
        pool=SOURCE_POOL,
        **_attributes(RAW_BLOCKS, LANDING_CODE),
    )
    def raw_blocks(context: dg.AssetExecutionContext, lake: LakeResource, source: SourceResource, progress: ProgressResource) -> dg.MaterializeResult:
        slots, started = grid.range_of(context.partition_key), time.monotonic()
        with failures(context):
            store, origin = lake.open(), "landing"
            # What the follower landed is of the chain that the lake is pinned to, so the source is not even opened.
            commit = land_sealed(store, slots)
            if commit is None:
                with source.open() as blocks:
                    origin = blocks.name
                    pin_chain(store, blocks, settings.genesis_hash)
                    commit = land(store, blocks, slots, progress=progress.of(context.log, "landing"))
            checks = check_results(store, slots, [RAW_BLOCKS])
        return _result(store, RAW_BLOCKS, slots, commit, checks, {"seconds": round(time.monotonic() - started, 3), "source": origin})

    @dg.multi_asset(
        name="normalise",
        specs=[
            dg.AssetSpec(
                asset_key(table),
                deps=[dg.AssetDep(asset_key(RAW_BLOCKS), partition_mapping=SAME_RANGE)],
                automation_condition=FOLLOWS_CONTENT,
                **_attributes(table, NORMALISING_CODE),
            )
            for table in DERIVED
        ],
        partitions_def=partitions,
        check_specs=check_specs(DERIVED, partitions),
        pool=NORMALISE_POOL,
    )
    def normalise(context: dg.AssetExecutionContext, lake: LakeResource, progress: ProgressResource) -> Any:
        slots, started = grid.range_of(context.partition_key), time.monotonic()
        with failures(context):
            store = lake.open()
            made = normalise_range(store, slots, workers=settings.workers, progress=progress.of(context.log, "normalising"))
            checks = check_results(store, slots, DERIVED)
            statement = statement_of(store, slots)
        facts = {
            "seconds": round(time.monotonic() - started, 3),
            "slots landed": made.landed,
            "slots skipped": made.skipped,
            "slots unknown": made.unknown,
            "quarantined": made.quarantined,
        }
        for table in DERIVED:
            extra = {**facts, "statement": dg.MetadataValue.json(statement)} if table is COMPLETENESS else facts
            yield _result(store, table, slots, made.commits[table.name], checks, extra)

    return [landing, raw_blocks, normalise]


def _attributes(table: Table, code_version: str) -> dict[str, Any]:
    """What every asset of a table says of itself, from the registry."""
    return {
        "description": _description(table),
        "code_version": code_version,
        "owners": OWNERS,
        "kinds": {"python", "deltalake"},
        "tags": {"chain": "solana"},
        "metadata": {"dagster/column_schema": _column_schema(table), "dagster/table_name": table.name.replace("/", ".")},
    }


def _description(table: Table) -> str:
    shared = sum(column.bigquery is not None for column in table.columns)
    lines = [table.prose, f"Rows are told apart and ordered by {', '.join(f'`{name}`' for name in table.key)}."]
    if shared:
        lines.append(f"{shared} of {len(table.columns)} columns have the name and meaning they have in BigQuery's `crypto_solana_mainnet_us`.")
    return "\n\n".join(lines)


def _column_schema(table: Table) -> dg.TableSchema:
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                _type_name(column.type),
                description=column.prose,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in table.columns
        ]
    )


def _type_name(kind: pa.DataType) -> str:
    """The type as DuckDB names it, which is what a reader will query it as."""
    if pa.types.is_list(kind):
        return f"{_type_name(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        # Without the types of the fields: the UI gives the type no line breaks, and squeezes the description beside it.
        return "struct(" + ", ".join(child.name for child in kind) + ")"
    names = {"string": "varchar", "int64": "bigint", "decimal128(20, 0)": "decimal(20,0)", "binary": "blob", "bool": "boolean"}
    return "timestamp with time zone" if pa.types.is_timestamp(kind) else names.get(str(kind), str(kind))


def _result(
    store: Lake,
    table: Table,
    slots: SlotRange,
    commit: Commit,
    checks: Mapping[str, Sequence[dg.AssetCheckResult]],
    extra: Mapping[str, Any],
) -> dg.MaterializeResult:
    """What the step tells of one table: the digest of its content as the data version, and where to look."""
    metadata = {
        "dagster/row_count": commit.rows,
        "rows": commit.rows,
        "bytes": commit.bytes,
        "files": commit.files,
        "table version": commit.version,
        "content changed": commit.changed,
        "slots": str(slots),
        "data": dg.MetadataValue.path(f"{store.root}/{table.name}/{table.partition_by[0]}={slots.key}"),
        "query": dg.MetadataValue.md(f"```\n{_query(table, slots)}\n```"),
    }
    return dg.MaterializeResult(
        asset_key=asset_key(table),
        data_version=dg.DataVersion(commit.digest),
        metadata=metadata | dict(extra),
        check_results=checks[table.name],
    )


def _query(table: Table, slots: SlotRange) -> str:
    """The command that shows the partition."""
    return f"blyan sql \"select * from {table.name.replace('/', '.')} where slot_range = '{slots.key}' limit 20\""  # noqa: S608 - names of our own
