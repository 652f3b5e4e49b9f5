"""Every definition, assembled.

Belongs here: assembly, and policy that holds for all assets. Does not belong here: any asset,
check, schedule or sensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from blyan.schemas import RAW_BLOCKS, TEXTS
from blyan.settings import Settings, load_settings
from blyan.solana.ingest import DERIVED
from blyan_assets.answers import HOT_ANSWERS, answers_assets
from blyan_assets.checks import asset_key, landing_checks
from blyan_assets.corpus import corpus_assets
from blyan_assets.embeddings import embeddings_assets
from blyan_assets.maintenance import compact_and_vacuum, weekly_maintenance
from blyan_assets.reconciliation import reconciliation
from blyan_assets.retention import daily_retention, forget_runs
from blyan_assets.samples import samples_assets
from blyan_assets.search import search_assets
from blyan_assets.solana import solana_assets
from blyan_assets.tokens import TOKENIZER_KEY, tokens_assets
from blyan_sensors.invalidation import invalidation
from blyan_sensors.landing import landing_sensor
from blyan_sensors.repairs import repairs
from blyan_sensors.stale_ranges import stale_ranges
from blyan_sensors.top_up import top_up_history
from resources.embedder import EmbedderResource
from resources.lake import LakeResource
from resources.progress import ProgressResource
from resources.source import SourceResource

RANGES = dg.AssetSelection.assets(*(asset_key(table) for table in (RAW_BLOCKS, *DERIVED)))
"""The assets that a run makes of a range."""

TEXT = dg.AssetSelection.assets(*(asset_key(table) for table in TEXTS))
"""The assets that a run makes of the tables of a range."""

CORPUS = dg.AssetSelection.key_prefixes("corpus")
"""The assets of text and tokens."""

MARTS = dg.AssetSelection.key_prefixes("marts")
"""The assets made from all ranges at once."""


def build_defs(
    *,
    settings: Settings | None = None,
    resources: Mapping[str, Any] | None = None,
    executor: dg.ExecutorDefinition | None = None,
    with_marts: bool = True,
) -> dg.Definitions:
    """A fresh set of definitions.

    Args:
        settings: settings that hold above the environment of every process; None leaves each process its own.
        resources: resources to put in the place of the usual ones, by name.
        executor: how the steps of a run execute. In one process by default: a run is one range and two steps, one after
            the other; a process for each costs 2.7 s more (measured) and buys nothing, since normalising has its own.
        with_marts: whether to include the dbt marts, whose import takes three seconds more.
    """
    known = settings or load_settings()
    tables: list[Any] = [
        *solana_assets(known),
        *corpus_assets(known),
        *embeddings_assets(known),
        *search_assets(known),
        *samples_assets(known),
        *tokens_assets(known),
    ]
    if with_marts:
        from blyan_assets.marts import marts_assets

        tables += marts_assets(known)
    ingest_range = dg.define_asset_job(
        "ingest_range", RANGES, description="One range end to end: raw blocks from the source, then every table and check."
    )
    normalise_range = dg.define_asset_job(
        "normalise_range",
        RANGES - dg.AssetSelection.assets(asset_key(RAW_BLOCKS)),
        description="The tables of one range again from its raw blocks, without the source.",
    )
    build_corpus = dg.define_asset_job(
        "build_corpus",
        CORPUS,
        description="One range as text: its documents and summaries from its tables, their embeddings, their part of the search index, questions about them, and tokens; a tokenizer where there is none.",
    )
    render_range = dg.define_asset_job("render_range", TEXT, description="One range as text: its documents and summaries from its tables.")
    train_tokenizer = dg.define_asset_job(
        "train_tokenizer", dg.AssetSelection.assets(TOKENIZER_KEY), description="The tokenizer again, on the documents that the lake has now."
    )
    hot_answers = dg.define_asset_job(
        "hot_answers", dg.AssetSelection.assets(HOT_ANSWERS), description="What is asked often, answered again where new data touched it."
    )
    jobs: list[Any] = [ingest_range, normalise_range, render_range, build_corpus, train_tokenizer, hot_answers, compact_and_vacuum, forget_runs]
    if with_marts:
        jobs.append(dg.define_asset_job("build_marts", MARTS, description="Every mart from the ranges that the lake has."))
    return dg.Definitions(
        assets=dg.map_asset_specs(_grouped, [*tables, reconciliation(known), answers_assets()]),
        asset_checks=[landing_checks(known)],
        jobs=jobs,
        schedules=[top_up_history(known, ingest_range), weekly_maintenance, daily_retention],
        sensors=[
            landing_sensor(known),
            invalidation([key for each in tables if isinstance(each, dg.AssetsDefinition) for key in each.keys], hot_answers),
            stale_ranges([ingest_range, normalise_range, render_range, build_corpus]),
            repairs([ingest_range, normalise_range, build_corpus]),
            # At every 30 s it was half a minute on average until a sealed range was asked for; a tick over 8,000 ranges takes 0.6 s (measured).
            dg.AutomationConditionSensorDefinition(
                "automation", target=dg.AssetSelection.all(), default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=5
            ),
        ],
        resources={
            "lake": LakeResource.of(settings),
            "source": SourceResource.of(settings),
            "progress": ProgressResource(),
            "embedder": EmbedderResource.of(settings),
            **(resources or {}),
        },
        executor=executor or dg.in_process_executor,
    )


def _grouped(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The group is the first part of the key, for every asset alike."""
    return spec.replace_attributes(group_name=spec.key.path[0])
