"""The tokens of one range, from its documents to shards in the lake.

Belongs here: which documents become tokens, cutting them into shards, committing those, and checking what was committed. Does not belong here:
the format (`blyan.corpus.shards`), how text is cut (`blyan.corpus.tokenizer`), when it is done (an orchestrator's business).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.shards import SHARD_TOKENS, Shard, read_shard, write_shard
from blyan.corpus.splits import SPLITS, SplitRule, check_rule
from blyan.corpus.templates import Cap, Templates
from blyan.corpus.tokenizer import Encoded, Tokenizer, text_bytes
from blyan.corpus.tokenizer_versions import BATCH_DOCUMENTS, TokenizerVersion, open_tokenizer, versions
from blyan.errors import MissingObjectError, PermanentError, TransientError
from blyan.lake import Commit, Lake
from blyan.schemas import DOCUMENTS, TOKENS
from blyan.solana.columns import Ints, Mask, mask_of, offsets_of, ragged
from blyan.solana.slots import SlotRange

Row = Mapping[str, Any]
"""A row of `corpus/tokens`."""

_READ = ["block_slot", "tx_index", "text", "structural_key", "family_key", "is_vote"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the shards of a range, or of one of its splits, hold, and what the cap left out."""

    shards: int = 0
    documents: int = 0
    capped_documents: int = 0
    votes: int = 0
    templates: int = 0
    tokens: int = 0
    text_bytes: int = 0
    shard_bytes: int = 0

    @property
    def tokens_per_transaction(self) -> float:
        """Tokens of a document, the one that ends it not counted; 0 without documents."""
        return (self.tokens - self.documents) / self.documents if self.documents else 0.0

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text that a token stands for, the ones that end documents not counted; 0 without tokens."""
        return self.text_bytes / (self.tokens - self.documents) if self.tokens > self.documents else 0.0

    @property
    def compression(self) -> float:
        """How many times fewer bytes two bytes a token are than the text; 0 without tokens."""
        return self.text_bytes / (2 * self.tokens) if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class Tokenised:
    """What a range gave: the commit, and figures by split."""

    commit: Commit
    splits: dict[str, Figures]


def write_tokens(
    lake: Lake,
    slots: SlotRange,
    version: TokenizerVersion,
    rule: SplitRule,
    *,
    cap: int,
    workers: int = 0,
    shard_tokens: int = SHARD_TOKENS,
) -> Tokenised:
    """Make the token shards of a range whose documents the lake has.

    The same documents, tokenizer, rule and cap give the same shards, and a second run commits nothing. Shards that the range has of
    older MAJORs of the tokenizer stay. Memory holds one open shard a split, a batch of documents, and 24 bytes a template.

    Args:
        lake: holds the documents, and gets the shards.
        slots: a range of the grid.
        version: the tokenizer.
        rule: which split a document belongs to; the one that the tokenizer was trained with.
        cap: most documents of one template that become tokens; the others are counted.
        workers: threads; 0 means one per core.
        shard_tokens: a shard gets no document that would take it beyond so many.

    Raises:
        MissingObjectError: the range has no documents, or the tokenizer's blob is gone.
        PermanentError: the rule is another than the tokenizer's.
        TransientError: the documents were replaced meanwhile.
    """
    check_rule(rule, version.split_rule, where=f"tokenizer {version.version}")
    tokenizer, digest = open_tokenizer(lake, version, threads=workers), _documents_digest(lake, slots)
    templates = Templates(batch["structural_key"] for batch in lake.read(DOCUMENTS, key=slots.key, columns=["structural_key"]))
    chooser = Cap(templates, cap)
    about = {
        "first_slot": slots.first,
        "last_slot": slots.last,
        "tokenizer_major": version.major,
        "tokenizer": version.version,
        "tokenizer_sha256": version.tokenizer_sha256,
        "split_rule": version.split_rule,
        "template_cap": cap,
        "documents_sha256": digest,
    }
    builders = [_Builder(lake, about | {"split": split}, shard_tokens) for split in SPLITS]
    for batch in lake.read(DOCUMENTS, key=slots.key, columns=_READ, batch_rows=BATCH_DOCUMENTS):
        kept, first = chooser.choose(batch["structural_key"])
        split_of = splits_of(rule, batch["family_key"])
        rows = batch.filter(pa.array(kept))
        encoded = tokenizer.encode(rows["text"])
        for number, builder in enumerate(builders):
            mine = split_of == number
            builder.add(rows, encoded, tokenizer.end, mine=mine[kept], kept=kept & mine, first=first & mine, capped=~kept & mine)
    rows = [row for builder in builders for row in builder.close()]
    if _documents_digest(lake, slots) != digest:
        raise TransientError("the documents were replaced while they were read", where=f"{DOCUMENTS.name} {slots.key}", remedy="run it again")
    older = [row for row in shards_of(lake, slots.key) if row["tokenizer_major"] != version.major]
    commit = lake.write_partition(TOKENS, slots.key, [pa.Table.from_pylist([*older, *rows], TOKENS.arrow_schema())])
    return Tokenised(commit, figures_of(rows))


def splits_of(rule: SplitRule, family_keys: pa.Array) -> Ints:
    """The number of each document's split."""
    coded = family_keys.dictionary_encode() if not pa.types.is_dictionary(family_keys.type) else family_keys
    found: Ints = rule.split_of(coded.dictionary.to_pylist())[np.asarray(coded.indices)].astype(np.int64)
    return found


def _documents_digest(lake: Lake, slots: SlotRange) -> str:
    partition = lake.partitions(DOCUMENTS).get(slots.key)
    if partition is None:
        raise MissingObjectError(
            f"{DOCUMENTS.name} has no partition {slots.key}", where=DOCUMENTS.name, remedy="run the job build_corpus for it first"
        )
    return partition.digest


def shards_of(lake: Lake, key: str | None = None) -> list[dict[str, Any]]:
    """Rows of `corpus/tokens`, of one range or of all, in order; none where there are none."""
    known = lake.partitions(TOKENS)
    if key is not None and key not in known:
        return []
    return [row for batch in (lake.read(TOKENS, key=key) if known else ()) for row in batch.to_pylist()]


def figures_of(rows: Iterable[Row]) -> dict[str, Figures]:
    """The sums of some shards, by split, those without shards included."""
    sums = {split: dict.fromkeys((each.name for each in fields(Figures)), 0) for split in SPLITS}
    for row in rows:
        for name in sums[row["split"]]:
            sums[row["split"]][name] += row.get(name, 1)  # a row is one of `shards`
    return {split: Figures(**values) for split, values in sums.items()}


@dataclass(slots=True)
class _Builder:
    """The open shard of one split."""

    lake: Lake
    about: Row
    shard_tokens: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    _parts: list[tuple[Shard, int, int]] = field(default_factory=list)
    _tokens: int = 0
    _templates: int = 0
    _capped: int = 0

    def add(self, rows: pa.RecordBatch, encoded: Encoded, end: int, *, mine: Mask, kept: Mask, first: Mask, capped: Mask) -> None:
        """Documents of a batch.

        Args:
            rows: what the cap keeps of the batch, of all splits.
            encoded: their tokens.
            end: the token that ends a document.
            mine: which of the rows are of this split.
            kept: which documents of the whole batch those are.
            first: which are the first of a template of this split.
            capped: which are of this split and left out.
        """
        at, place = np.flatnonzero(mine), np.flatnonzero(kept)
        counts = np.diff(encoded.offsets)[at] + 1
        offsets = offsets_of(counts)
        tokens = np.full(offsets[-1], end, np.uint16)
        source = ragged(encoded.offsets[at], counts - 1)
        inside = np.ones(offsets[-1], np.bool_)
        inside[offsets[1:] - 1] = False
        tokens[inside] = encoded.tokens[source]
        chosen = rows.take(pa.array(at))
        sizes = np.diff(text_bytes(chosen["text"])[1])
        votes = mask_of(pc.fill_null(chosen["is_vote"], False))
        slots, index, keys = np.asarray(chosen["block_slot"]), np.asarray(chosen["tx_index"]), chosen["structural_key"]
        start = told = 0
        while start < len(at):
            room = self.shard_tokens - self._tokens
            fit = int(np.searchsorted(offsets, offsets[start] + room, side="right")) - 1
            if fit <= start and self._parts:
                # What comes before the next shard's first document is told by this one, wherever batches begin.
                self._count(first[told : place[start]], capped[told : place[start]])
                told = place[start]
                self._flush()
                continue
            stop = max(fit, start + 1)
            part = slice(start, stop)
            shard = Shard(
                tokens[offsets[start] : offsets[stop]], offsets[start : stop + 1] - offsets[start], slots[part], index[part], keys[start:stop]
            )
            self._parts.append((shard, int(votes[part].sum()), int(sizes[part].sum())))
            self._tokens += len(shard.tokens)
            start = stop
        self._count(first[told:], capped[told:])

    def close(self) -> list[dict[str, Any]]:
        """The rows of all shards."""
        if self._parts:
            self._flush()
        return self.rows

    def _count(self, first: Mask, capped: Mask) -> None:
        self._templates += int(first.sum())
        self._capped += int(capped.sum())

    def _flush(self) -> None:
        parts = [part for part, _, _ in self._parts]
        sizes = offsets_of(np.array([len(part.tokens) for part in parts]))
        shard = Shard(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([*(part.offsets[:-1] + size for part, size in zip(parts, sizes, strict=False)), sizes[-1:]]),
            np.concatenate([part.block_slot for part in parts]),
            np.concatenate([part.tx_index for part in parts]),
            pa.concat_arrays([part.structural_key for part in parts]),
        )
        written = write_shard(shard, self.about["tokenizer_sha256"])
        self.rows.append(
            {
                **self.about,
                "part": len(self.rows),
                "shard_sha256": self.lake.put_blob(memoryview(written.data)),
                "shard_bytes": written.data.size,
                "tokens_at": written.tokens_at,
                "tokens": len(shard.tokens),
                "offsets_at": written.offsets_at,
                "documents": len(shard),
                "votes": sum(votes for _, votes, _ in self._parts),
                "text_bytes": sum(size for _, _, size in self._parts),
                "templates": self._templates,
                "capped_documents": self._capped,
            }
        )
        self._parts, self._tokens, self._templates, self._capped = [], 0, 0, 0


@dataclass(frozen=True, slots=True)
class Checked:
    """What the stored shards of a range say, held against its documents.

    Attributes:
        documents: documents of the range.
        in_shards: documents in its shards, those in two counted twice.
        capped: documents that its shards say the cap left out.
        unknown: of those in shards, how many are no document of the range, or are in another shard besides.
        in_wrong_split: of those in shards, how many the rule puts elsewhere, or have another structural key there.
        other_rules: shards, and versions of this MAJOR of the tokenizer, that were made with another rule.
        other_text: of those in shards, how many do not decode to the document's text, or do not end as a document does.
        other_counts: shards whose row does not say what they hold.
        damaged: shards whose bytes do not have their digest, with what is wrong.
        stale: shards made from other documents than the range has.
    """

    documents: int
    in_shards: int
    capped: int
    unknown: int
    in_wrong_split: int
    other_rules: int
    other_text: int
    other_counts: int
    damaged: list[str]
    stale: int

    @property
    def every_document_is_accounted_for(self) -> bool:
        """Each document is in one shard, or counted as left out."""
        return self.in_shards + self.capped == self.documents and not (self.unknown or self.stale or self.damaged or self.other_counts)

    @property
    def no_family_is_in_two_splits(self) -> bool:
        """Each split is that of the rule, and the rule is the one of the MAJOR in every range: so no family, and no template, is in two splits."""
        return not (self.in_wrong_split or self.other_rules or self.damaged)

    @property
    def tokens_are_the_text(self) -> bool:
        """Tokens decode to the documents' text, byte for byte."""
        return not (self.other_text or self.damaged)

    @property
    def shards_have_their_digest(self) -> bool:
        """The bytes are those that were written, and hold what their row says."""
        return not (self.damaged or self.other_counts)


def check_tokens(lake: Lake, slots: SlotRange, version: TokenizerVersion, rule: SplitRule) -> Checked:
    """Read the stored shards of a range back, one after the other, and hold them against its documents.

    Decoding is not the library's: it puts the bytes of the vocabulary together.

    Raises:
        MissingObjectError: the range has no documents, or the tokenizer's blob is gone.
        PermanentError: the rule is another than the tokenizer's.
    """
    check_rule(rule, version.split_rule, where=f"tokenizer {version.version}")
    tokenizer, digest = open_tokenizer(lake, version), _documents_digest(lake, slots)
    rows = [row for row in shards_of(lake, slots.key) if row["tokenizer_major"] == version.major]
    rules = [*(row["split_rule"] for row in rows), *(each.split_rule for each in versions(lake) if each.major == version.major)]
    ids, damaged = [np.empty(0, np.int64)], []
    found = other_counts = wrong_split = other_text = 0
    for row in rows:
        try:
            data = pa.py_buffer(lake.get_blob(row["shard_sha256"]))
            shard = read_shard(data, where=f"shard {row['shard_sha256']}", tokenizer_sha256=row["tokenizer_sha256"])
        except PermanentError as error:
            damaged.append(str(error))
            continue
        told = (row["tokens"], row["documents"], row["tokens_at"], row["offsets_at"], row["shard_bytes"])
        at = (shard.tokens.ctypes.data - data.address, shard.offsets.ctypes.data - data.address)
        other_counts += told != (len(shard.tokens), len(shard), *at, data.size)
        own = _id(shard.block_slot, shard.tx_index)
        ids.append(own)
        first, last = int(shard.block_slot[0]), int(shard.block_slot[-1])
        for batch in lake.read(DOCUMENTS, key=slots.key, columns=_READ, first_slot=first, last_slot=last, batch_rows=BATCH_DOCUMENTS):
            places, there = _places(_id(np.asarray(batch["block_slot"]), np.asarray(batch["tx_index"])), own)
            same = _same_text(tokenizer, shard, places, batch["text"].take(pa.array(there)))
            found, other_text = found + len(there), other_text + int((~same).sum())
            keys = batch["structural_key"].take(pa.array(there))
            elsewhere = splits_of(rule, batch["family_key"].take(pa.array(there))) != SPLITS.index(row["split"])
            wrong_split += int((elsewhere | mask_of(pc.not_equal(keys, shard.structural_key.take(pa.array(places))))).sum())
    together = np.sort(np.concatenate(ids))
    return Checked(
        documents=lake.partitions(DOCUMENTS)[slots.key].rows,
        in_shards=len(together),
        capped=sum(row["capped_documents"] for row in rows),
        unknown=len(together) - found + int((together[1:] == together[:-1]).sum()),
        in_wrong_split=wrong_split,
        other_rules=sum(each != rule.fingerprint for each in rules),
        other_text=other_text,
        other_counts=other_counts,
        damaged=damaged,
        stale=sum(row["documents_sha256"] != digest for row in rows),
    )


def _id(slots: Ints, index: Ints) -> Ints:
    """Slot and position of a transaction as one number that sorts like them."""
    return (slots << 24) | index


def _places(wanted: Ints, own: Ints) -> tuple[Ints, Ints]:
    """Positions in `own`, which is sorted, of what is wanted, and positions in `wanted` of what was found."""
    at = np.searchsorted(own, wanted)
    there = np.flatnonzero(np.append(own, -1)[at] == wanted)
    return at[there], there


def _same_text(tokenizer: Tokenizer, shard: Shard, at: Ints, texts: pa.Array) -> Mask:
    """Whether documents of a shard are these texts, and end as documents do."""
    if not len(at):
        return np.empty(0, np.bool_)
    counts = np.diff(shard.offsets)[at]
    tokens = shard.tokens[ragged(shard.offsets[at], counts)]
    edges = offsets_of(counts)
    ends = np.bincount(np.searchsorted(edges, np.flatnonzero(tokens == tokenizer.end), side="right") - 1, minlength=len(at))
    data, starts = tokenizer.bytes_of(tokens)
    text, text_starts = text_bytes(texts)
    sizes = starts[edges]
    same: Mask = (ends == 1) & (tokens[edges[1:] - 1] == tokenizer.end) & (np.diff(sizes) == np.diff(text_starts))
    if not np.array_equal(data, text):
        for each in np.flatnonzero(same).tolist():
            same[each] = np.array_equal(data[sizes[each] : sizes[each + 1]], text[text_starts[each] : text_starts[each + 1]])
    return same
