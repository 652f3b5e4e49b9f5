"""Documents: which transactions are rendered, and their rows.

Belongs here: the sample of votes, and `corpus/documents` put together. Does not belong here: text (`blyan.corpus.render`),
labels (`blyan.corpus.labels`), sums over many transactions (`blyan.corpus.summaries`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blyan import schemas
from blyan.corpus.activity import align, plain, whole
from blyan.corpus.labels import label
from blyan.corpus.registry import Registry
from blyan.corpus.render import RENDERER, render
from blyan.errors import PermanentError
from blyan.solana.columns import Mask, mask_of


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents of some slots: `rows` of `schemas.DOCUMENTS`, and what they were taken from."""

    rows: pa.Table
    transactions: int
    votes: int
    votes_kept: int


def documents_of(tables: Mapping[str, pa.Table], registry: Registry, *, vote_share: float) -> Documents:
    """Documents of the transactions of some slots; whole slots, or a sandwich goes unseen.

    Args:
        tables: see `blyan.corpus.activity.align`. A few thousand to a hundred thousand transactions at once: the joined text of a
            call must be below 2 GiB.
        registry: names of programs and mints.
        vote_share: share of the votes that get a document, from 0 to 1. Which do depends on their signatures alone.

    Raises:
        PermanentError: the share is none, or the rows do not fit together.
    """
    if not 0 <= vote_share <= 1:
        raise PermanentError(f"{vote_share} is not a share", where="the share of votes", remedy="set it from 0 to 1")
    transactions = tables[schemas.TRANSACTIONS.name]
    votes = mask_of(whole(pc.fill_null(transactions["is_vote"], False)))
    kept = votes.copy()
    kept[votes] = _sampled(transactions["signature"].filter(pa.array(votes)), vote_share)
    chosen = {**tables, schemas.TRANSACTIONS.name: transactions.filter(pa.array(~votes | kept))}
    activity = align(chosen, registry)
    labels = label(activity, registry)
    rendered = render(activity, labels, registry)
    rows = activity.transactions
    columns = labels.columns | {
        **{name: rows[name] for name in ("block_slot", "block_timestamp", "block_hash", "status", "is_vote")},
        "tx_signature": rows["signature"],
        "tx_index": rows["index"],
        "text": rendered.text,
        "accounts": rendered.accounts,
        "structural_key": rendered.structural_key,
        "family_key": rendered.family_key,
        "flags": rendered.flags,
    }
    names = schemas.DOCUMENTS.column_names
    return Documents(pa.table([columns[name] for name in names], names), len(transactions), int(votes.sum()), int(kept.sum()))


_SAMPLED_BY = slice(8, 16)
"""Characters of a signature that say whether its vote is kept: 46 bits that are as good as random."""


def _sampled(signatures: pa.ChunkedArray, share: float) -> Mask:
    """Those whose characters, mixed as in SplitMix64 (Steele and others, 2014), are below the share of all numbers."""
    text = plain(signatures)
    characters = np.frombuffer(text.buffers()[2] or b"\0", np.uint8)
    ends = np.frombuffer(text.buffers()[1], np.int32)[text.offset : text.offset + len(text) + 1].astype(np.int64)
    at = ends[:-1, None] + np.arange(_SAMPLED_BY.start, _SAMPLED_BY.stop)
    mixed = np.where(at < ends[1:, None], characters[np.minimum(at, len(characters) - 1)], 0).astype(np.uint8).view("<u8")[:, 0]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    kept: Mask = mixed < np.uint64(share * 2**64) if share < 1 else np.ones(len(mixed), np.bool_)
    return kept


def version(registry: Registry, *, vote_share: float) -> str:
    """What documents depend on besides their rows. Documents of two versions do not belong in one table."""
    return f"renderer {RENDERER}, registry {registry.digest[:16]}, votes {vote_share:g}"
