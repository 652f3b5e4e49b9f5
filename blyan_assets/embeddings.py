"""Embeddings: the vectors of the corpus.

Belongs here: the asset `corpus/embeddings`. Does not belong here: what is embedded, models, storage (`blyan.corpus`).
"""

import time
from collections.abc import Iterator

import dagster as dg

from blyan.corpus.embeddings import Account, account_of, write_embeddings
from blyan.corpus.gist import GIST
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES
from blyan.settings import Settings
from blyan_assets.automation import FOLLOWS_CONTENT
from blyan_assets.checks import SCHEMA, SCHEMA_PROSE, asset_key, check_spec, schema_result
from blyan_assets.failures import failures
from blyan_assets.partitions import SAME_RANGE, slot_ranges
from blyan_assets.tables import table_attributes, table_result
from resources.embedder import EmbedderResource
from resources.lake import LakeResource
from resources.progress import ProgressResource

EMBED_POOL = "embed"
"""Steps that embed at once: each uses every core."""

CHECKED = {
    "every_text_has_a_vector": "Every document and every summary of the range has a vector, and no vector stands for others.",
    "every_vector_is_a_direction": "Every vector is of the model that the settings choose, of its dimension, and of length 1.",
}


def embeddings_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The asset, on the grid of the settings."""
    grid = settings.grid
    partitions = slot_ranges(grid)
    specs = [(SCHEMA, SCHEMA_PROSE), *CHECKED.items()]

    @dg.asset(
        key=asset_key(EMBEDDINGS),
        partitions_def=partitions,
        deps=[dg.AssetDep(asset_key(table), partition_mapping=SAME_RANGE) for table in (DOCUMENTS, SUMMARIES)],
        automation_condition=FOLLOWS_CONTENT,
        check_specs=[check_spec(name, EMBEDDINGS, prose, partitions, blocking=True) for name, prose in specs],
        pool=EMBED_POOL,
        **table_attributes(EMBEDDINGS, code_version(settings)),
    )
    def embeddings(
        context: dg.AssetExecutionContext, lake: LakeResource, embedder: EmbedderResource, progress: ProgressResource
    ) -> dg.MaterializeResult:
        slots, started = grid.range_of(context.partition_key), time.monotonic()
        with failures(context):
            store, model = lake.open(), embedder.open()
            made = write_embeddings(store, slots, model, progress=progress.of(context.log, "embedding", "distinct texts"))
            seconds = time.monotonic() - started
            checks = [schema_result(store, EMBEDDINGS, slots.key), *_checked(account_of(store, slots, model))]
        facts = {
            "seconds": round(seconds, 3),
            "texts": made.documents,
            "distinct": made.distinct,
            "from cache": made.distinct - made.embedded,
            "embedded": made.embedded,
            "truncated": made.truncated,
            "saved share": round(made.saved_share, 4),
            "texts per second": round(made.documents / seconds, 1),
            "embedded per second": round(made.embedded / seconds, 1),
            "model": model.name,
            "model digest": model.digest,
            "dimension": model.dimension,
        }
        context.log.info(
            "%d texts, %d distinct: %d from the cache, %d embedded by %s, %d of them only in part",
            made.documents,
            made.distinct,
            made.distinct - made.embedded,
            made.embedded,
            model.name,
            made.truncated,
        )
        return table_result(store, EMBEDDINGS, slots, made.commit, {EMBEDDINGS.name: checks}, facts)

    return [embeddings]


def code_version(settings: Settings) -> str:
    """What vectors depend on besides the texts, as the settings name it; the digest of the model itself is in every row."""
    parts = [f"gist {GIST}", settings.embedder]
    if settings.embedder in ("sentence-transformers", "endpoint"):
        parts.append(settings.embedding_model or "no model")
    return ", ".join(parts)


def _checked(account: Account) -> Iterator[dg.AssetCheckResult]:
    figures = {
        "texts": account.documents,
        "texts stood for": account.stood_for,
        "texts without a vector": account.without_vector,
        "vectors": account.vectors,
        "of another dimension": account.other_dimension,
        "of another length": account.other_length,
        "of another model": account.other_model,
    }
    for name, passed in zip(CHECKED, (account.every_text_has_a_vector, account.every_vector_is_a_direction), strict=True):
        yield dg.AssetCheckResult(asset_key=asset_key(EMBEDDINGS), check_name=name, passed=passed, metadata=figures)
