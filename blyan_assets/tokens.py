"""The tokenizer, and the token shards of each range.

Belongs here: the assets `corpus/tokenizer` and `corpus/tokens`. Does not belong here: cutting text, training, shards, splits (`blyan`).
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from blyan.corpus.registry import load_registry
from blyan.corpus.shards import FORMAT
from blyan.corpus.splits import split_rule
from blyan.corpus.tokenizer_versions import TokenizerVersion, train_version, version_of, versions
from blyan.corpus.tokens import Checked, Figures, check_tokens, write_tokens
from blyan.schemas import DOCUMENTS, TOKENIZER, TOKENS
from blyan.settings import Settings
from blyan.solana.slots import SlotRange
from blyan_assets.automation import FOLLOWS_CONTENT
from blyan_assets.checks import SCHEMA, SCHEMA_PROSE, asset_key, check_spec, schema_result
from blyan_assets.failures import failures
from blyan_assets.partitions import SAME_RANGE, slot_ranges
from blyan_assets.tables import table_attributes, table_result
from resources.lake import LakeResource

TOKENIZER_KEY = asset_key(TOKENIZER)

TRAINING_CODE = "1"
"""Raise it when the same documents would give another tokenizer."""

TOKENIZER_POOL = "tokenizer"
"""Two that train at once would both be the next version, and one would fail."""

TOKENS_POOL = "tokens"
"""Steps that make tokens at once: each may use every core, and half a gigabyte."""

CHECKS = {
    "every_document_accounted_for": "Every document of the range is in one shard, or is counted as left out by the cap of its template.",
    "no_family_in_two_splits": "Every shard has the documents that the split rule puts there, and the rule is that of the tokenizer.",
    "tokens_are_the_text": "The tokens of every document decode to its text, byte for byte.",
    "shards_have_their_digest": "The bytes of every shard have their SHA-256, and hold what the row says.",
}


def tokens_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The two assets, on the grid of the settings."""
    grid = settings.grid
    partitions = slot_ranges(grid)
    registry = load_registry(*([Path(settings.corpus_registry)] if settings.corpus_registry else []))

    @dg.asset(
        key=TOKENIZER_KEY,
        deps=[dg.AssetDep(asset_key(DOCUMENTS), partition_mapping=dg.AllPartitionMapping())],
        pool=TOKENIZER_POOL,
        **table_attributes(TOKENIZER, f"{TRAINING_CODE}-{registry.digest[:16]}-{settings.tokenizer_vocabulary}-{settings.corpus_template_cap}"),
    )
    def tokenizer(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        """Trained when it is asked for by itself. A run of a range trains it only where there is none: one range is no reason for another."""
        started = time.monotonic()
        with failures(context):
            store = lake.open()
            known = versions(store)
            version = known[-1] if known else None
            if version is None or not context.run.tags.get("dagster/partition"):
                rule = split_rule(lake.settings())
                version = train_version(store, registry, rule, size=settings.tokenizer_vocabulary, cap=settings.corpus_template_cap)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(f"{version.version}-{version.tokenizer_sha256}"),
            metadata=_about(version) | {"new": version not in known, "seconds": round(time.monotonic() - started, 3)},
        )

    @dg.asset(
        key=asset_key(TOKENS),
        partitions_def=partitions,
        deps=[dg.AssetDep(asset_key(DOCUMENTS), partition_mapping=SAME_RANGE), dg.AssetDep(TOKENIZER_KEY)],
        automation_condition=FOLLOWS_CONTENT,
        check_specs=[check_spec(name, TOKENS, prose, partitions, blocking=True) for name, prose in [(SCHEMA, SCHEMA_PROSE), *CHECKS.items()]],
        pool=TOKENS_POOL,
        **table_attributes(TOKENS, f"{FORMAT}-{settings.corpus_template_cap}"),
    )
    def tokens(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        slots, started = grid.range_of(context.partition_key), time.monotonic()
        with failures(context):
            store = lake.open()
            version, rule = version_of(store), split_rule(lake.settings())
            made = write_tokens(store, slots, version, rule, cap=settings.corpus_template_cap, workers=settings.workers)
            seconds = round(time.monotonic() - started, 3)
            checked = check_tokens(store, slots, version, rule)
            checks = {TOKENS.name: [schema_result(store, TOKENS, slots.key), *_results(checked)]}
        return table_result(
            store, TOKENS, slots, made.commit, checks, _facts(made.splits, slots) | {"tokenizer": version.version, "seconds": seconds}
        )

    return [tokenizer, tokens]


def _about(version: TokenizerVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "tokenizer.json": version.tokenizer_sha256,
        "vocabulary": version.vocabulary_size,
        "ranges": len(version.trained_on),
        "documents": version.documents,
        "bytes of text": version.text_bytes,
        "split rule": version.split_rule,
    }


def _facts(splits: dict[str, Figures], slots: SlotRange) -> dict[str, Any]:
    """What the UI shows of a range: figures of all its splits together, and of each."""
    together = Figures(**{name: sum(getattr(each, name) for each in splits.values()) for name in Figures.__slots__})
    share = {
        split: {
            "share of templates": round(each.templates / max(together.templates, 1), 4),
            "share of documents": round(each.documents / max(together.documents, 1), 4),
            "documents": each.documents,
            "left out by the cap": each.capped_documents,
            "tokens": each.tokens,
            "tokens per transaction": round(each.tokens_per_transaction, 1),
            "bytes per token": round(each.bytes_per_token, 3),
        }
        for split, each in splits.items()
    }
    return {
        "tokens": together.tokens,
        "tokens per transaction": round(together.tokens_per_transaction, 1),
        "bytes of text": together.text_bytes,
        "bytes per token": round(together.bytes_per_token, 3),
        "text to token bytes": round(together.compression, 3),
        "documents": together.documents,
        "votes among them": together.votes,
        "left out by the cap": together.capped_documents,
        "templates": together.templates,
        "splits": dg.MetadataValue.json(share),
        "read it": dg.MetadataValue.md(f'```\nTokenStream(lake, split="train", ranges=["{slots.key}"])\n```'),
    }


def _results(checked: Checked) -> Iterator[dg.AssetCheckResult]:
    figures = {
        "documents": checked.documents,
        "documents in shards": checked.in_shards,
        "documents left out by the cap": checked.capped,
        "documents that are in two shards, or no document": checked.unknown,
        "documents in a wrong split": checked.in_wrong_split,
        "shards or tokenizers of another split rule": checked.other_rules,
        "documents of another text": checked.other_text,
        "shards that hold other counts": checked.other_counts,
        "shards of documents that were replaced": checked.stale,
        "damaged shards": len(checked.damaged),
    }
    passed = (
        checked.every_document_is_accounted_for,
        checked.no_family_is_in_two_splits,
        checked.tokens_are_the_text,
        checked.shards_have_their_digest,
    )
    for name, good in zip(CHECKS, passed, strict=True):
        description = None if good or not checked.damaged else checked.damaged[0]
        yield dg.AssetCheckResult(asset_key=asset_key(TOKENS), check_name=name, passed=good, description=description, metadata=figures)
