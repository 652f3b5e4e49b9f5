"""Versions of the tokenizer: trained on what the lake has, kept as blobs, listed in `corpus/tokenizer`.

Belongs here: what a version is trained on, its number, and opening one. Does not belong here: how text is cut (`blyan.corpus.tokenizer`).

A version is MAJOR.MINOR. MAJOR is raised where a text would have other tokens, which is what training on other documents does;
MINOR where there are only more tokens that no text becomes. Shards of an older MAJOR stay in the lake and stay readable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa

from blyan.corpus.registry import Registry
from blyan.corpus.render import RENDERER
from blyan.corpus.splits import TRAIN, SplitRule
from blyan.corpus.templates import Cap, Templates
from blyan.corpus.tokenizer import Tokenizer, change_between, own_names, train, with_control_tokens
from blyan.errors import MissingObjectError, PermanentError
from blyan.lake import Lake
from blyan.schemas import DOCUMENTS, TOKENIZER

TRAINING_RANGES = 64
"""Ranges that a tokenizer is trained on at most, spread evenly over those that the lake has."""

TRAINING_DOCUMENTS = 500_000
"""Documents it is trained on at most, spread evenly over those of the ranges: about 200 MB of text, and a minute and a half."""

BATCH_DOCUMENTS = 8_192


@dataclass(frozen=True, slots=True)
class TokenizerVersion:
    """A row of `corpus/tokenizer`; `schemas.TOKENIZER` says what the fields mean."""

    version: str
    major: int
    minor: int
    tokenizer_sha256: str
    vocabulary_size: int
    renderer: str
    registry_sha256: str
    split_rule: str
    template_cap: int
    trained_on: list[dict[str, str]]
    documents: int
    text_bytes: int


def versions(lake: Lake) -> list[TokenizerVersion]:
    """Every version, the newest last; none where none was trained."""
    if not lake.exists(TOKENIZER):
        return []
    found = [TokenizerVersion(**row) for batch in lake.read(TOKENIZER) for row in batch.to_pylist()]
    return sorted(found, key=lambda each: (each.major, each.minor))


def version_of(lake: Lake, version: str | None = None) -> TokenizerVersion:
    """A version by its number, such as `1.0`; the newest where none is given.

    Raises:
        MissingObjectError: there is no such version, or none at all.
    """
    known = versions(lake)
    wanted = [each for each in known if version in (None, each.version)]
    if not wanted:
        what = "there is no tokenizer yet" if not known else f"there is no tokenizer {version}, only {', '.join(each.version for each in known)}"
        raise MissingObjectError(
            what, where=TOKENIZER.name, remedy="materialise corpus/tokenizer (job train_tokenizer) once some range has documents"
        )
    return wanted[-1]


def open_tokenizer(lake: Lake, version: TokenizerVersion, *, threads: int = 0) -> Tokenizer:
    """The tokenizer of a version, from its blob.

    Raises:
        MissingObjectError: the blob is gone.
        PermanentError: it is damaged.
    """
    return Tokenizer(lake.get_blob(version.tokenizer_sha256), threads=threads)


def train_version(lake: Lake, registry: Registry, rule: SplitRule, *, size: int, cap: int) -> TokenizerVersion:
    """Train a tokenizer on the documents that the lake has; a new version where its bytes, or the split rule, are other than the newest's.

    The same documents give the same bytes, whatever the order in which their ranges came.

    Args:
        lake: with the documents of one range at least.
        registry: whose names get tokens of their own.
        rule: only what it puts into the split `train` is read.
        size: most tokens.
        cap: most documents of one template and range.

    Raises:
        MissingObjectError: the lake has no documents.
        PermanentError: it has none in the split `train`, or the size is wrong.
        CommitConflictError: other writers were first, every time.
    """
    keys = chosen([key for key, partition in lake.partitions(DOCUMENTS).items() if partition.rows], TRAINING_RANGES)
    if not keys:
        raise MissingObjectError("the lake has no documents", where=DOCUMENTS.name, remedy="run the job build_corpus for a range first")
    texts = _TrainingTexts(lake, keys, rule, cap)
    definition = train(iter(texts), own_names(registry), size=size)
    if not texts.documents:
        raise PermanentError(
            f"the {len(keys)} ranges have no document in the split train",
            where=DOCUMENTS.name,
            remedy="build the corpus of a range with transactions",
        )
    newest = next(reversed(versions(lake)), None)
    if newest is not None:
        # Control tokens that were added stay: whoever trains uses them.
        definition = with_control_tokens(definition, open_tokenizer(lake, newest).added)
    made = TokenizerVersion(
        version="",
        major=1,
        minor=0,
        tokenizer_sha256="",
        vocabulary_size=0,
        renderer=RENDERER,
        registry_sha256=registry.digest,
        split_rule=rule.fingerprint,
        template_cap=cap,
        trained_on=[{"slot_range": key, "documents_sha256": digest} for key, digest in texts.digests.items()],
        documents=texts.documents,
        text_bytes=texts.bytes,
    )
    return _recorded(lake, newest, made, definition)


def add_control_tokens(lake: Lake, names: Sequence[str]) -> TokenizerVersion:
    """The newest version with more control tokens, as its next MINOR: for what a trainer marks, such as the turns of a dialogue.

    Args:
        lake: with a tokenizer.
        names: as `<| call |>`, with a space in each.

    Raises:
        MissingObjectError: there is no tokenizer yet.
        PermanentError: a name is one that text could become, or that is there already.
    """
    newest = version_of(lake)
    return _recorded(lake, newest, newest, with_control_tokens(lake.get_blob(newest.tokenizer_sha256), names))


def _recorded(lake: Lake, newest: TokenizerVersion | None, made: TokenizerVersion, definition: bytes) -> TokenizerVersion:
    """The next version, in the log; the newest one where nothing changes."""
    major, minor = 1, 0
    if newest is not None:
        change = change_between(lake.get_blob(newest.tokenizer_sha256), definition)
        if made.split_rule != newest.split_rule:
            change = "major"
        if change == "none":
            return newest
        major, minor = (newest.major, newest.minor + 1) if change == "minor" else (newest.major + 1, 0)
    size = Tokenizer(definition).size
    made = replace(made, version=f"{major}.{minor}", major=major, minor=minor, tokenizer_sha256=lake.put_blob(definition), vocabulary_size=size)
    try:
        lake.append(TOKENIZER, pa.Table.from_pylist([asdict(made)], TOKENIZER.arrow_schema()), logical_key=["version"])
    except PermanentError:
        # Who trained meanwhile may have been first with this number; the next one is tried, if so.
        first = versions(lake)[-1:]
        if not first or first[0] == newest:
            raise
        return _recorded(lake, first[0], made, definition)
    return made


def chosen(keys: Sequence[str], most: int) -> list[str]:
    """At most so many of the keys, spread evenly."""
    return [keys[at * len(keys) // most] for at in range(most)] if len(keys) > most else list(keys)


class _TrainingTexts:
    """Texts of the split `train` of some ranges, under the cap; and what they were."""

    def __init__(self, lake: Lake, keys: Sequence[str], rule: SplitRule, cap: int) -> None:
        self._lake, self._keys, self._rule, self._cap = lake, keys, rule, cap
        self.digests: dict[str, str] = {}
        self.documents = self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        most = TRAINING_DOCUMENTS // len(self._keys)
        for key in self._keys:
            self.digests[key] = self._lake.partitions(DOCUMENTS)[key].digest
            templates = Templates(batch["structural_key"] for batch in self._lake.read(DOCUMENTS, key=key, columns=["structural_key"]))
            # Of what the cap keeps, so many that the ranges together stay within bounds; what is in other splits is left out of that.
            kept, cap, seen = templates.kept(self._cap), Cap(templates, self._cap), 0
            wanted = min(most, kept)
            for batch in self._lake.read(DOCUMENTS, key=key, columns=["structural_key", "family_key", "text"], batch_rows=BATCH_DOCUMENTS):
                at = np.flatnonzero(cap.choose(batch["structural_key"])[0])
                place = np.arange(seen, seen + len(at))
                seen += len(at)
                at = at[(place + 1) * wanted // kept > place * wanted // kept]
                rows = batch.take(pa.array(at))
                rows = rows.filter(pa.array(self._rule.split_of(rows["family_key"].to_pylist()) == TRAIN))
                for text in rows["text"].to_pylist():
                    self.documents += 1
                    self.bytes += len(text.encode())
                    yield text
