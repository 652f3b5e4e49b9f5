"""The search index, a range at a time.

Belongs here: the asset `corpus/search_index`. Does not belong here: what the index is (`blyan.corpus.search_index`), or its upkeep
(`blyan_assets.maintenance`).
"""

import time

import dagster as dg

from blyan.corpus.search_index import FOLDER, VERSION, Account, account_of, write_range
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES
from blyan.settings import Settings
from blyan_assets.automation import FOLLOWS_CONTENT
from blyan_assets.checks import asset_key, check_spec
from blyan_assets.failures import failures
from blyan_assets.partitions import SAME_RANGE, slot_ranges
from blyan_assets.tables import OWNERS
from resources.lake import LakeResource

SEARCH_INDEX = dg.AssetKey(["corpus", "search_index"])

INDEX_POOL = "search_index"
"""Steps that write the index at once. One is best, since all ranges are in one dataset: another writer that was first makes a step begin again."""

CHECKS = {
    "exactly_the_documents": ("The index has exactly the documents and summaries that the tables have of the range.", True),
    "every_vector_there": ("Every vector that a document or summary names is in the index.", True),
    "every_text_has_a_vector": ("Every document and summary names a vector; one without is found by its words alone.", False),
}
"""What must hold of a range, in prose, and whether what is downstream must wait for it."""


def search_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The index, on the grid of the settings."""
    grid = settings.grid
    partitions = slot_ranges(grid)

    @dg.asset(
        key=SEARCH_INDEX,
        partitions_def=partitions,
        deps=[dg.AssetDep(asset_key(table), partition_mapping=SAME_RANGE) for table in (DOCUMENTS, SUMMARIES, EMBEDDINGS)],
        automation_condition=FOLLOWS_CONTENT,
        check_specs=[check_spec(name, SEARCH_INDEX, prose, partitions, blocking=blocking) for name, (prose, blocking) in CHECKS.items()],
        pool=INDEX_POOL,
        description=(
            "Documents and summaries where they can be searched by meaning, by words and within filters: `blyan search`.\n\n"
            "All ranges are in one index of LanceDB, beside the tables and made of them alone; a run replaces the rows of its range. Its data "
            "version is the digest of what it was made from."
        ),
        code_version=VERSION,
        owners=OWNERS,
        kinds={"python", "lancedb"},
        tags={"chain": "solana"},
    )
    def search_index(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        slots, started = grid.range_of(context.partition_key), time.monotonic()
        with failures(context):
            store = lake.open()
            written = write_range(store, slots)
            account = account_of(store, slots)
        metadata = {
            "dagster/row_count": written.documents + written.summaries,
            "rows": written.documents + written.summaries,
            "documents": written.documents,
            "summaries": written.summaries,
            "new vectors": written.vectors,
            "vectors left out": written.left_out,
            "content changed": written.changed,
            "readers see it": written.is_current,
            "slots": str(slots),
            "seconds": round(time.monotonic() - started, 3),
            "data": dg.MetadataValue.path(store.store.uri(FOLDER)),
            "query": dg.MetadataValue.md(f'```\nblyan search --slots {slots} "failed swaps"\n```'),
        }
        return dg.MaterializeResult(data_version=dg.DataVersion(written.made_from), metadata=metadata, check_results=check_results(account))

    return [search_index]


def check_results(account: Account) -> list[dg.AssetCheckResult]:
    """What an account of a range says of each check."""
    passed = {
        "exactly_the_documents": account.is_exact,
        "every_vector_there": not account.lost_vectors,
        "every_text_has_a_vector": not account.without_vector,
    }
    figures = {
        "rows of the tables": account.wanted,
        "rows of the index": account.held,
        "missing": account.missing,
        "unexpected": account.unexpected,
        "vectors lost": account.lost_vectors,
        "texts without a vector": account.without_vector,
    }
    return [
        dg.AssetCheckResult(
            asset_key=SEARCH_INDEX,
            check_name=name,
            passed=passed[name],
            severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
            metadata=figures,
        )
        for name, (_, blocking) in CHECKS.items()
    ]
