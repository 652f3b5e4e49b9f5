"""Solana: raw blocks and the tables made from them.

Belongs here: the assets of the group `solana`. Does not belong here: sources, decoding,
normalising, storage (`blyan`).
"""

import time
from typing import Any

import dagster as dg

from blyan.schemas import COMPLETENESS, RAW_BLOCKS
from blyan.settings import Settings
from blyan.solana.ingest import DERIVED, land, normalise_range, pin_chain, statement_of
from blyan.solana.landing import land_sealed
from blyan_assets.automation import FOLLOWS_CONTENT, FOLLOWS_LANDING
from blyan_assets.checks import LANDING, asset_key, check_results, check_specs
from blyan_assets.failures import failures
from blyan_assets.partitions import SAME_RANGE, slot_ranges
from blyan_assets.tables import OWNERS, table_attributes, table_result
from resources.lake import LakeResource
from resources.progress import ProgressResource
from resources.source import SourceResource

LANDING_CODE = "1"
"""Raise it when the same blocks would be kept differently in `raw_blocks`."""

NORMALISING_CODE = "1"
"""Raise it when the same raw blocks would give other rows: every range then shows as out of date."""

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
        **table_attributes(RAW_BLOCKS, LANDING_CODE),
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
        return table_result(store, RAW_BLOCKS, slots, commit, checks, {"seconds": round(time.monotonic() - started, 3), "source": origin})

    @dg.multi_asset(
        name="normalise",
        specs=[
            dg.AssetSpec(
                asset_key(table),
                deps=[dg.AssetDep(asset_key(RAW_BLOCKS), partition_mapping=SAME_RANGE)],
                automation_condition=FOLLOWS_CONTENT,
                **table_attributes(table, NORMALISING_CODE),
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
            yield table_result(store, table, slots, made.commits[table.name], checks, extra)

    return [landing, raw_blocks, normalise]
