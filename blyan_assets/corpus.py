"""The corpus: transactions as text, and sums over them.

Belongs here: the assets of the group `corpus`. Does not belong here: rendering, labels, sums, storage (`blyan`).
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from blyan.corpus.activity import READ
from blyan.corpus.ranges import Account, account_of, write_corpus
from blyan.corpus.registry import load_registry
from blyan.corpus.render import RENDERER
from blyan.schemas import DOCUMENTS, SUMMARIES, TOKEN_TRANSFERS, TRANSACTIONS, Table
from blyan.settings import Settings
from blyan_assets.automation import FOLLOWS_CHECKED_CONTENT
from blyan_assets.checks import SCHEMA, SCHEMA_PROSE, asset_key, check_spec, schema_result
from blyan_assets.failures import failures
from blyan_assets.partitions import SAME_RANGE, slot_ranges
from blyan_assets.tables import table_attributes, table_result
from resources.lake import LakeResource

CORPUS_POOL = "corpus"
"""Steps that render at once: each uses one core."""

ACCOUNTED = {
    "every_transaction_accounted_for": "Every transaction of the range has a document, or is counted as a vote left out.",
    "every_vote_accounted_for": "The votes with a document and the votes left out are the votes of the lake.",
}


def corpus_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The assets of the group, on the grid of the settings.

    They follow the tables of their range. A range whose tables stay the same shows as out of date when the renderer or the registry
    changes, and is rendered again when it is asked for (`blyan corpus`, the job `render_range`).
    """
    grid = settings.grid
    partitions = slot_ranges(grid)
    registry = load_registry(*([Path(settings.corpus_registry)] if settings.corpus_registry else []))
    code_version = f"{RENDERER}-{registry.digest[:16]}-{settings.corpus_vote_share:g}"

    def spec(table: Table, *made_from: Table) -> dg.AssetSpec:
        deps = [dg.AssetDep(asset_key(each), partition_mapping=SAME_RANGE) for each in made_from]
        return dg.AssetSpec(asset_key(table), deps=deps, automation_condition=FOLLOWS_CHECKED_CONTENT, **table_attributes(table, code_version))

    @dg.multi_asset(
        name="corpus",
        specs=[
            spec(DOCUMENTS, *READ),
            spec(SUMMARIES, DOCUMENTS, TRANSACTIONS, TOKEN_TRANSFERS),
        ],
        partitions_def=partitions,
        check_specs=_check_specs(partitions),
        pool=CORPUS_POOL,
    )
    def corpus(context: dg.AssetExecutionContext, lake: LakeResource) -> Any:
        slots, started = grid.range_of(context.partition_key), time.monotonic()
        with failures(context):
            store = lake.open()
            made = write_corpus(store, slots, registry, vote_share=settings.corpus_vote_share)
            account = account_of(store, slots)
            checks = {table.name: [schema_result(store, table, slots.key)] for table in (DOCUMENTS, SUMMARIES)}
        checks[DOCUMENTS.name] += _accounted(account)
        facts = {
            "seconds": round(time.monotonic() - started, 3),
            "transactions": made.transactions,
            "votes": made.votes,
            "votes kept": made.votes_kept,
            "registry": registry.digest,
        }
        yield table_result(store, DOCUMENTS, slots, made.documents, checks, facts)
        yield table_result(store, SUMMARIES, slots, made.summaries, checks, facts)

    return [corpus]


def _check_specs(partitions: dg.PartitionsDefinition) -> list[dg.AssetCheckSpec]:
    wanted = [(SCHEMA, table, SCHEMA_PROSE) for table in (DOCUMENTS, SUMMARIES)] + [(name, DOCUMENTS, prose) for name, prose in ACCOUNTED.items()]
    return [check_spec(name, table, prose, partitions, blocking=True) for name, table, prose in wanted]


def _accounted(account: Account) -> Iterator[dg.AssetCheckResult]:
    figures = {
        "transactions": account.transactions,
        "votes": account.votes,
        "documents": account.documents,
        "documents of votes": account.vote_documents,
        "votes left out": account.votes_left_out,
    }
    for name, passed in zip(ACCOUNTED, (account.every_transaction_is_accounted_for, account.every_vote_is_accounted_for), strict=True):
        yield dg.AssetCheckResult(asset_key=asset_key(DOCUMENTS), check_name=name, passed=passed, metadata=figures)
