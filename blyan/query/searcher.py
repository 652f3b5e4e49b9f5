"""What answers searches in a process that stays: the index, the model and the names, opened on first use and kept.

Belongs here: keeping them open, noticing that the index changed, filters as callers write them, and what an answer says of what it was read
from. Does not belong here: ranking (`blyan.query.search`), reading a question (`blyan.query.ask`), the index (`blyan.corpus.search_index`).

At most every `LOOK_S` one search looks whether there is another version of the index, and how far the tables are ahead of it; meanwhile the
others are answered from the one that is open, unless that is older than `OLD_S`. A version stays readable while it is open, for as long as
upkeep leaves its files; where they are gone, the index is opened again, once. All of it runs in the caller's thread, and takes any number of them.
"""

from __future__ import annotations

import difflib
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from blyan.corpus.embedder import Embedder, Tokens, Vectors, open_embedder
from blyan.corpus.labels import KINDS, VALUE_BUCKETS
from blyan.corpus.registry import Registry, load_registry
from blyan.corpus.search_index import VERSION, OpenIndex, lance_errors, made_from, open_index, read_pointer
from blyan.corpus.search_rows import FOUND
from blyan.corpus.untrusted import FLAGS
from blyan.errors import BadRecordError, MissingObjectError, PermanentError, SettingError
from blyan.lake import Lake
from blyan.query.ask import ask, unmet
from blyan.query.records import Stop, StoppedError
from blyan.query.search import PER_TEMPLATE, Answer, Filters, Hit, Mode, Searched, check_account, search
from blyan.query.snapshot import SLOT_MS, Snapshots, Tip
from blyan.query.understanding import programs_named
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES, TRANSACTIONS
from blyan.settings import Settings
from blyan.solana import base58
from blyan.solana.commitment import Commitment
from blyan.solana.slots import SlotRange

LOOK_S = 1.0
"""Seconds for which it is relied on that the index and the tables are as they were. A look takes 0.1 ms where nothing changed, 10 ms else, on a
disk (measured), and some requests to a bucket."""

OLD_S = 10.0
"""Nobody is answered from what was looked at longer ago."""

LAST_SLOT = 2**53
"""No chain reaches it, and JSON numbers are exact up to here."""

QUESTIONS_KEPT = 1_024
"""Questions whose vectors are kept: 1.5 kB each at 384 dimensions, and 6 ms of a core to make again."""

TEXTS_AT_ONCE = 16
"""Texts that are embedded before it is asked whether anybody still waits."""

SIGNATURE_BYTES = 64

STATUSES = ("Success", "Fail")

_VALUES = {"kinds": KINDS, "statuses": STATUSES, "scopes": FOUND, "value_buckets": VALUE_BUCKETS, "flags": FLAGS}
"""Filters whose values are of a list; classes of errors are as many as programs give."""

_TEXT_TABLES = (DOCUMENTS, SUMMARIES, EMBEDDINGS)
"""What a range of the index is made from, in the order of its digest."""


class AskedError(PermanentError):
    """What is asked for cannot be; `where` is its place in the request, such as `filters.programs`."""


class UnknownModelError(AskedError):
    """There is no model of this name."""


class SearchUnavailableError(PermanentError):
    """No search can be answered until somebody makes or mends something. Its words name no path."""


class SearchReading(Struct, frozen=True):
    """What an answer was read from.

    Attributes:
        index: name of the index; another is another model, or was made anew.
        index_version: of its documents; each range that is written makes one.
        digest: SHA-256 of all that an answer depends on besides the question: what the ranges were made from, the model, and the registry's names.
        versions: of each table when it was last compared with the index; None where only the landing has it.
        ranges_behind: ranges of slots of which the index has not what the tables have: not at all yet, or as they were.
        up_to_slot: last slot of its ranges; None where it has none.
        finality: how sure that slot is: only what is final is indexed.
        finalized_to: the same slot.
        behind_slots: slots that the node had announced beyond; None where nobody follows the chain.
        behind_ms: the same at 400 ms each, and the age of what is known; None likewise.
        generation: of the landing; None likewise.
    """

    index: str
    index_version: int
    digest: str
    versions: dict[str, int | None]
    ranges_behind: int
    up_to_slot: int | None
    finality: str | None
    finalized_to: int | None
    behind_slots: int | None
    behind_ms: int | None
    generation: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a search.

    Attributes:
        answer: hits, the best first, and what was searched.
        met: of each hit, the conditions of the question that it meets.
        understood: what was understood of the question, each in words.
        unmet: those that no hit meets.
        reading: what it was read from.
    """

    answer: Answer
    met: tuple[tuple[str, ...], ...]
    understood: tuple[str, ...]
    unmet: tuple[str, ...]
    reading: SearchReading

    def document(self) -> dict[str, Any]:
        """The answer as plain values, as JSON has it; times are datetimes."""
        return {
            "hits": [_shown(hit, met) for hit, met in zip(self.answer.hits, self.met, strict=True)],
            "understood": self.understood,
            "unmet": self.unmet,
            "mode": self.answer.mode,
            "searched": _searched(self.answer.searched),
            "reading": self.reading,
        }


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of texts, one a row, the name of the model, and the tokens that it read; None where it does not tell."""

    vectors: Vectors
    model: str
    tokens: Tokens | None


@dataclass(frozen=True, slots=True)
class _Standing:
    """The tables beside the index, as they were looked at."""

    versions: dict[str, int | None]
    ranges_behind: int
    tip: Tip | None


@dataclass(frozen=True, slots=True)
class _Held:
    """An open index, the digest of all that it was made from, and what stands beside it."""

    index: OpenIndex
    digest: str
    standing: _Standing
    looked: float


class Searcher:
    """Searches one lake; opens nothing before it is asked.

    Args:
        lake: has the index, or will have it.
        settings: choose the model and further names.
        clock: seconds that never go back.
    """

    def __init__(self, lake: Lake, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lake, self._clock = lake, clock
        # One core a text: there are other questions.
        self._settings = settings.model_copy(update={"workers": 1})
        self._snapshots = Snapshots(lake)
        self._held: _Held | None = None
        self._looking = threading.Lock()
        self._loading = threading.Lock()
        self._model: Embedder | None = None
        self._directions: OrderedDict[tuple[str, str], Vectors] = OrderedDict()

    @property
    def registry(self) -> Registry:
        """Names of programs and tokens.

        Raises:
            PermanentError: a file of it cannot be read.
        """
        more = self._settings.corpus_registry
        return load_registry(*([Path(more)] if more else []))

    # Questions

    def find(
        self,
        query: str,
        *,
        mode: Mode = "hybrid",
        filters: Filters | None = None,
        limit: int = 10,
        per_template: int = PER_TEMPLATE,
        understand: bool = True,
    ) -> Found:
        """The documents and summaries that answer a question best.

        Args:
            query: a question, words, accounts, signatures; empty: the newest that pass the filters.
            mode: by meaning, by words, or by both.
            filters: what a hit must be.
            limit: most hits.
            per_template: most hits that differ in nothing but amounts; the others are counted.
            understand: read the question for conditions; else its words and meaning alone count.

        Raises:
            AskedError: there is neither question nor filter, or the question has nothing that can be looked for.
            SearchUnavailableError: there is no index, or none that this process can read, or not its model.
            TransientError: the store or the model did not answer.
        """
        chosen = filters or Filters()
        if not query.strip() and not chosen.condition():
            raise AskedError("there is nothing to look for", where="query", remedy="give words, or a filter")
        held: _Held | None = None
        for tries in (1, 2):
            try:
                held = self._open(gone=held)
                embed = self.embedder_of(held.index.generation.model)
                if not understand:
                    found = search(held.index, query, embed=embed, mode=mode, filters=chosen, limit=limit, per_template=per_template)
                    return Found(found, ((),) * len(found.hits), (), (), self._reading(held))
                asked = ask(held.index, query, self.registry, embed=embed, mode=mode, filters=chosen, limit=limit, per_template=per_template)
                return Found(asked.answer, asked.met, asked.understood.parts, unmet(asked), self._reading(held))
            except BadRecordError as error:
                raise AskedError("the question has nothing to look for", where="query", remedy="give words, or a filter") from error
            except MissingObjectError as error:
                # Upkeep deleted files of a version that was open for longer than it leaves them.
                if tries == 2:
                    raise _unreadable("files of it are missing") from error
        raise AssertionError("a loop that returns or raises")

    def filters(self, given: Mapping[str, Any]) -> Filters:
        """Filters by the names of the request's fields; what is None or empty is no filter.

        Args:
            given: `first_slot`, `last_slot`, `from_time`, `to_time` (UTC where they name no zone), `programs` by name or account, `accounts`,
                `kinds`, `statuses`, `scopes`, `error_classes`, `value_buckets`, `flags`, `is_vote`, `is_sandwich`, `signature`.

        Raises:
            AskedError: one of them is none; it names the nearest there is.
        """
        for name, values in _VALUES.items():
            _check_listed(name, given.get(name) or (), values)
        for account in given.get("accounts") or ():
            with_place("filters.accounts", check_account, account)
        programs = [found for name in given.get("programs") or () for found in with_place("filters.programs", programs_named, name, self.registry)]
        signature = given.get("signature")
        if signature is not None and not _is_signature(signature):
            raise AskedError(f"{signature!r} is no signature", where="filters.signature", remedy="give 64 bytes in base58")
        since, until = _times(given.get("from_time"), given.get("to_time"))

        def texts(name: str) -> tuple[str, ...]:
            return tuple(given.get(name) or ())

        return Filters(
            slots=_slots(given.get("first_slot"), given.get("last_slot")),
            since=since,
            until=until,
            programs=tuple(dict.fromkeys(programs)),
            accounts=texts("accounts"),
            kinds=texts("kinds"),
            statuses=texts("statuses"),
            scopes=texts("scopes"),
            error_classes=texts("error_classes"),
            value_buckets=texts("value_buckets"),
            flags=texts("flags"),
            is_vote=given.get("is_vote"),
            is_sandwich=given.get("is_sandwich"),
            signature=signature,
        )

    def embed(self, texts: Sequence[str], *, model: str | None = None, dimension: int | None = None, stop: Stop | None = None) -> Embedded:
        """The vectors of some texts, by the model that embeds questions.

        Args:
            texts: at least one, none of them empty.
            model: its name or digest, to be sure; None: whatever it is.
            dimension: components that are wanted of a vector; None: as many as there are.
            stop: told when nobody waits any more.

        Raises:
            UnknownModelError: the model has another name.
            AskedError: a text is empty, or holds no token; or the model gives another number of components.
            SearchUnavailableError: the model cannot be loaded.
            StoppedError: nobody waits any more.
            TransientError: the model did not answer.
        """
        import numpy as np

        embedder = self._embedder()
        if model is not None and model not in (model_name(embedder), embedder.name, embedder.digest):
            raise UnknownModelError(f"there is no model {model!r}", where="model", remedy=f"this service has {model_name(embedder)}")
        if dimension not in (None, embedder.dimension):
            raise AskedError(f"the model gives {embedder.dimension} components", where="dimensions", remedy="leave it out")
        parts = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            if stop is not None and stop.stopped:
                raise StoppedError("nobody waits for the vectors")
            try:
                parts.append(embedder.embed(texts[start : start + TEXTS_AT_ONCE]))
            except BadRecordError as error:
                at = start + int(error.where.removeprefix("text "))
                raise AskedError(error.what, where=f"input.{at}", remedy="leave it out: it has no meaning that a vector could tell") from error
        return Embedded(np.concatenate(parts), model_name(embedder), embedder.tokens(texts))

    # What is kept

    def _open(self, gone: _Held | None = None) -> _Held:
        """The index that readers use now, or did a moment ago, and not the one that is gone.

        Raises:
            MissingObjectError: files of it are missing, or were deleted while it was opened.
            SearchUnavailableError: there is none that can be read.
        """
        held, now = self._held, self._clock()
        if held is not None and held is not gone and now - held.looked < LOOK_S:
            return held
        others_may_look = held is not None and held is not gone and now - held.looked < OLD_S
        if not self._looking.acquire(blocking=not others_may_look):
            assert held is not None
            return held
        try:
            found = self._held
            if found is None or found is held or found is gone:  # nobody looked meanwhile
                self._held = None if found is gone else found
                found = self._held = self._look()
        except SearchUnavailableError:
            self._held = None
            raise
        else:
            return found
        finally:
            self._looking.release()

    def _look(self) -> _Held:
        """The open index where it still is the newest, else the newest; and what stands beside it."""
        held, looked = self._held, self._clock()
        index = held.index if held is not None and self._is_newest(held.index) else self._opened(held)
        digest = held.digest if held is not None and held.index is index else _digest(index, self.registry)
        return _Held(index, digest, self._stand(index), looked)

    def _is_newest(self, index: OpenIndex) -> bool:
        if read_pointer(self._lake).current != index.generation:
            return False
        return all(bool(dataset.latest_version == dataset.version) for dataset in (index.documents, index.gists))

    def _opened(self, held: _Held | None) -> OpenIndex:
        try:
            self._check_pointer()
            index = open_index(self._lake, None if held is None else held.index)
            with lance_errors(index.documents.uri):
                _ = index.records, index.span, index.ranking
        except (SearchUnavailableError, MissingObjectError):
            raise
        except PermanentError as error:
            raise _unreadable("it, or a file of it, is damaged") from error
        return index

    def _check_pointer(self) -> None:
        """There is an index, and this code can read it."""
        current = read_pointer(self._lake).current
        if current is None:
            remedy = "the operator makes one with `blyan corpus --all --slots A-B`, or the job `build_corpus`; SQL and records need none"
            raise SearchUnavailableError("there is no search index yet", remedy=remedy)
        if current.version != VERSION:
            raise _unreadable(f"it is of version {current.version}, and this service reads {VERSION}")

    def _stand(self, index: OpenIndex) -> _Standing:
        """The tables, and of how many ranges the index has something else."""
        tables = [table.name for table in (*_TEXT_TABLES, TRANSACTIONS) if self._lake.exists(table)]
        snapshot = self._snapshots.take(tables)
        digests = snapshot.reading.ranges
        wanted = {
            key: made_from(index.generation, ([digests.get(table.name, {}).get(key, "")] for table in _TEXT_TABLES))
            for key in {key for found in digests.values() for key in found}
        }
        held = {key: record.made_from for key, record in index.records.items()}
        behind = sum(wanted.get(key) != held.get(key) for key in wanted.keys() | held.keys())
        return _Standing(dict(snapshot.reading.versions), behind, snapshot.pin.tip)

    def _reading(self, held: _Held) -> SearchReading:
        index, standing = held.index, held.standing
        last, tip = index.span[1], standing.tip
        behind = None if tip is None or last is None else max(0, tip.processed - last)
        return SearchReading(
            index.generation.name,
            int(index.documents.version),
            held.digest,
            standing.versions,
            standing.ranges_behind,
            last,
            None if last is None else Commitment.FINALIZED.label,
            last,
            behind,
            None if behind is None or tip is None else behind * SLOT_MS + max(0, round((time.time() - tip.written_at) * 1000)),
            None if tip is None else tip.generation,
        )

    # The model

    def _embedder(self) -> Embedder:
        """The model, loaded by who needs it first.

        Raises:
            SearchUnavailableError: it cannot be loaded.
        """
        with self._loading:
            if self._model is None:
                try:
                    self._model = open_embedder(self._settings)
                except SettingError as error:
                    remedy = "search with the mode `text`, or ask the operator: the log says why"
                    raise SearchUnavailableError("the model of this service cannot be loaded", remedy=remedy) from error
            return self._model

    def embedder_of(self, model: str) -> Callable[[str], Vectors]:
        """What makes the vector of a question, of the model with this digest, which made those of the index; it is loaded when a vector is asked for.

        It raises SearchUnavailableError where the settings choose another model, or it cannot be loaded.
        """

        def embed(text: str) -> Vectors:
            known = self._directions.get((model, text))
            if known is not None:
                return known
            embedder = self._embedder()
            if embedder.digest != model:
                chosen = self._settings.embedder
                what = f"the vectors of the search index are of the model {model[:12]}, and BLYAN_EMBEDDER={chosen} is {embedder.digest[:12]}"
                remedy = "search with the mode `text`; or set the embedder that made them, or embed the ranges again and run `blyan search --rebuild`"
                raise SearchUnavailableError(what, where="BLYAN_EMBEDDER", remedy=remedy)
            self._directions[model, text] = made = embedder.embed([text])
            while len(self._directions) > QUESTIONS_KEPT:
                self._directions.popitem(last=False)
            return made

        return embed


def model_name(embedder: Embedder) -> str:
    """A model's name without spaces, as clients of OpenAI's API name models."""
    return embedder.name.replace(" ", "-")


def with_place(place: str, check: Callable[..., Any], *arguments: object) -> Any:
    """What a check gives; its refusal is told with the place in the request.

    Raises:
        AskedError: it refuses.
    """
    try:
        return check(*arguments)
    except PermanentError as error:
        raise AskedError(error.what, where=place, remedy=error.remedy) from error


def _check_listed(name: str, given: Iterable[str], values: Sequence[str]) -> None:
    for value in given:
        if value not in values:
            near = difflib.get_close_matches(value, values, 1)
            remedy = f"did you mean {near[0]}? There are {', '.join(values)}" if near else f"there are {', '.join(values)}"
            raise AskedError(f"{value!r} is none of the {name.replace('_', ' ')}", where=f"filters.{name}", remedy=remedy)


def _is_signature(text: str) -> bool:
    try:
        return len(base58.decode(text)) == SIGNATURE_BYTES
    except ValueError:
        return False


def _slots(first: int | None, last: int | None) -> SlotRange | None:
    if first is None and last is None:
        return None
    low, high = first or 0, LAST_SLOT if last is None else last
    if low > high:
        raise AskedError("first_slot is after last_slot", where="filters.first_slot", remedy="exchange them")
    return SlotRange(low, high)


def _times(start: datetime | None, end: datetime | None) -> tuple[datetime | None, datetime | None]:
    try:
        since, until = (at if at is None else at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC) for at in (start, end))
    except OverflowError as error:
        raise AskedError("a time is out of range", where="filters", remedy="give a year from 2 to 9998") from error
    if since is not None and until is not None and since >= until:
        raise AskedError("from_time is not before to_time", where="filters.from_time", remedy="exchange them")
    return since, until


def _unreadable(why: str) -> SearchUnavailableError:
    return SearchUnavailableError(
        f"the search index cannot be read: {why}", remedy="the operator runs `blyan search --rebuild`; SQL and records need none"
    )


def _digest(index: OpenIndex, registry: Registry) -> str:
    """SHA-256 of what every range was made from, and of the names by which questions are understood."""
    parts = [
        registry.digest,
        index.generation.model,
        index.generation.version,
        *(f"{key} {record.made_from}" for key, record in sorted(index.records.items())),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


_COLUMNS = ("scope", "slot", "last_slot", "tx_index", "signature", "subject", "time", "kind", "status", "text", "programs", "flags")


def _shown(hit: Hit, met: tuple[str, ...]) -> dict[str, Any]:
    row = {name: hit.row[name] for name in _COLUMNS}
    # A summary has no list of programs where its subject is none.
    row |= {"programs": row["programs"] or [], "flags": row["flags"] or []}
    return row | {"score": hit.score, "cosine": hit.cosine, "bm25": hit.bm25, "words": hit.words, "alike": hit.alike, "met": met}


def _searched(searched: Searched) -> dict[str, Any]:
    return {name: getattr(searched, name) for name in ("documents", "passing", "ranges", "first_slot", "last_slot", "model")}
