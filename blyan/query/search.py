"""Searching the index: by meaning, by words, or by both, within filters.

Belongs here: filters, ranking, and what is said of a hit. Does not belong here: what the index holds (`blyan.corpus.search_rows`), what ranking
reads of it (`blyan.corpus.search_ranking`) and how it is written (`blyan.corpus.search_index`), or what a question asks for beside its words
(`blyan.query.ask`).

Most transactions differ from others in nothing but amounts, so what is ranked are templates (documents of one structural key): a template
is as good as its best document, at most some documents of each are shown, and the others are counted. Two documents of one score
come in the order of slot and index. So an answer depends on what the index holds, not on how its files lie.

By meaning: the cosine of the question's vector and that of a document's gist, in double precision. Which gists are near is told by all cosines in
single precision, or, where there are many gists, by LanceDB's index of vectors. By words: BM25 (`blyan.corpus.terms`) of every document that
has a telling word, with counts of the whole index. By both: reciprocal rank fusion (Cormack, Clarke and Büttcher 2009) of the two orders.

Filters hold before anything is ranked; LanceDB tells which documents pass, through its indexes of single values. Where few gists are left, all of
them are compared, so that nothing is missed behind better ones that do not pass. What is shown is read from LanceDB, in one request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from blyan.corpus.embedder import Vectors
from blyan.corpus.search_index import OpenIndex, lance_errors
from blyan.corpus.terms import is_counted, query_terms, saturation, term_weights
from blyan.errors import PermanentError
from blyan.query.conditions import Condition, where
from blyan.solana import base58
from blyan.solana.slots import SlotRange

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]

Mode = Literal["hybrid", "vector", "text"]

Key = TypeVar("Key", int, str)

PER_TEMPLATE = 2
"""Documents of one template that are shown unless another number is asked for."""

DEPTH = 50
"""Templates of each order that are fused."""

FUSION = 60
"""The constant of reciprocal rank fusion: the larger, the less the first places count (its authors' value)."""

GISTS = 512
"""Nearest gists that are looked at first; four times as many each time they were too few."""

COMPARED = 8_192
"""Where no more gists are left by the filters, all of them are compared: 12 MB at 384 dimensions."""

COMMON_SHARE = 0.5
"""Words that more documents have find none of them alone, where the question has others: they tell nothing apart."""

SINGLE_ERROR = 1e-5
"""How far a cosine in single precision may be off: a hundred times what was measured."""

DIGITS = 6
"""Decimals of a score by which documents are ranked: beyond them, the order of a sum decides."""

_SHOWN = (
    "scope", "slot", "last_slot", "tx_index", "signature", "subject", "time", "text", "kind", "status", "error_class", "value_bucket",
    "is_vote", "is_sandwich", "accounts", "programs", "structural_key", "flags", "slot_range",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filters:
    """What a hit must be; everything that is given holds at once.

    Attributes:
        slots: between these slots; a summary passes where its range meets them.
        since: block time at or after; without a time it does not pass, nor does a summary.
        until: block time before.
        programs: called one of these, or is a summary of one.
        accounts: mentions all of these, or is a summary of one.
        kinds, statuses, scopes, error_classes, value_buckets: one of these.
        flags: has all of these.
        is_vote, is_sandwich: whether it is one.
        signature: the transaction with this signature.
        conditions: may meet each of these, as far as the columns of the index tell.
    """

    slots: SlotRange | None = None
    since: datetime | None = None
    until: datetime | None = None
    programs: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    error_classes: tuple[str, ...] = ()
    value_buckets: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    is_vote: bool | None = None
    is_sandwich: bool | None = None
    signature: str | None = None
    conditions: tuple[Condition, ...] = ()

    def condition(self) -> str:
        """The same as LanceDB's SQL; empty where there is no filter.

        Raises:
            PermanentError: a program or an account is none.
        """
        for account in (*self.programs, *self.accounts):
            check_account(account)
        parts = []
        if self.slots:
            parts.append(f"slot <= {self.slots.last} and last_slot >= {self.slots.first}")
        parts += [f"time {sign} {_time(at)}" for sign, at in ((">=", self.since), ("<", self.until)) if at is not None]
        if self.programs:
            parts.append(f"array_has_any(programs, [{_texts(self.programs)}])")
        parts += [f"array_has(accounts, {_text(account)})" for account in self.accounts]
        parts += [f"array_has(flags, {_text(flag)})" for flag in self.flags]
        columns = {"kind": self.kinds, "status": self.statuses, "scope": self.scopes}
        columns |= {"error_class": self.error_classes, "value_bucket": self.value_buckets}
        parts += [f"{name} in ({_texts(values)})" for name, values in columns.items() if values]
        whether = {"is_vote": self.is_vote, "is_sandwich": self.is_sandwich}
        parts += [f"{name} = {str(value).lower()}" for name, value in whether.items() if value is not None]
        if self.signature is not None:
            parts.append(f"signature = {_text(self.signature)}")
        parts += [told for told in map(where, self.conditions) if told is not None]
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Hit:
    """One document or summary that was found.

    Attributes:
        row: its columns, as `blyan.corpus.search_rows.SCHEMA` has them.
        score: what it was ranked by; comparable within one answer only.
        cosine: of its gist with the question, from -1 to 1; None where meaning was not looked at, or it has no vector.
        bm25: how well its words match; None where words were not looked at, or it has none that tells something.
        words: terms of the question that it has.
        alike: documents that pass the filters and have its structural key, itself included.
    """

    row: Mapping[str, Any]
    score: float
    cosine: float | None
    bm25: float | None
    words: tuple[str, ...]
    alike: int


@dataclass(frozen=True, slots=True)
class Searched:
    """What an answer was looked for in.

    Attributes:
        documents: documents and summaries of the index.
        passing: how many of them pass the filters.
        ranges: ranges of slots that it has.
        first_slot, last_slot: first and last slot of documents; None where there is none.
        model: digest of the model of its vectors.
    """

    documents: int
    passing: int
    ranges: int
    first_slot: int | None
    last_slot: int | None
    model: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits, the best first, and what they were looked for in. `terms` are the words that were looked for."""

    hits: tuple[Hit, ...]
    searched: Searched
    mode: str
    terms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """Documents that a search shows, the best first, by their numbers in `OpenIndex.ranking`; arrays are of shape [documents].

    Attributes:
        documents: their numbers.
        scores: what each was ranked by.
        alike: documents that pass the filters and have the same template.
        passing: how many documents pass the filters.
    """

    documents: Numbers
    scores: Floats
    alike: Numbers
    passing: int


@dataclass(frozen=True, slots=True)
class _Order:
    """The first templates, as one way of looking ranks them.

    Attributes:
        templates: their numbers, the best first.
        best: score of each.
        documents: those that pass and have a score, in no order.
        scores: of them.
        template_of: of them.
        is_partial: not all gists were looked at.
    """

    templates: Numbers
    best: Floats
    documents: Numbers
    scores: Floats
    template_of: Numbers
    is_partial: bool = False


def search(
    index: OpenIndex,
    text: str = "",
    *,
    words: str = "",
    embed: Callable[[str], Vectors] | None = None,
    mode: Mode = "hybrid",
    filters: Filters | None = None,
    limit: int = 10,
    per_template: int = PER_TEMPLATE,
) -> Answer:
    """The documents and summaries that answer a question best.

    Without a text the newest that pass the filters.

    Args:
        index: what `blyan.corpus.search_index.open_index` gives.
        text: the question.
        words: what is looked for by words, where that is not the question's own words.
        embed: the question's vector, of the model of the index; only needed by `hybrid` and `vector`.
        mode: by meaning, by words, or by both.
        filters: what a hit must be.
        limit: most hits.
        per_template: most hits of one structural key; the others are counted in `Hit.alike`.

    Raises:
        PermanentError: the vector is of another dimension, a filter is none, or there is neither text nor filter.
        MissingObjectError: files of the index were deleted meanwhile: open it again.
    """
    question = Question(index, text, words=words, embed=embed, mode=mode)
    found = question.find(filters or Filters(), limit=limit, per_template=per_template)
    return question.answers([found])[0]


class Question:
    """One question, which may be asked within several filters: what does not depend on them is worked out once.

    Args:
        index: as in `search`.
        text: as in `search`.
        words: as in `search`.
        embed: as in `search`.
        mode: as in `search`.

    Raises:
        PermanentError: as in `search`.
    """

    def __init__(self, index: OpenIndex, text: str, *, words: str = "", embed: Callable[[str], Vectors] | None = None, mode: Mode = "hybrid") -> None:
        self._index, self._mode = index, mode
        self._is_asked = bool(text.strip())
        self._by_words = self._is_asked and mode in ("hybrid", "text")
        self._by_meaning = self._is_asked and mode in ("hybrid", "vector")
        self._terms = query_terms(words or text) if self._by_words else []
        self._direction: Floats = np.empty(0)
        if self._by_meaning:
            if embed is None:
                raise PermanentError("a search by meaning needs a model", where="search", remedy="give `embed`, or search by words")
            self._direction = _direction(embed(text), index.generation.dimension)
        with lance_errors(index.documents.uri):
            self._ranking = index.ranking
        self._known = np.full(len(self._ranking.gists) if self._by_meaning else 0, np.nan)
        self._near: dict[int, Numbers] = {}

    def find(self, filters: Filters, *, limit: int = 10, per_template: int = PER_TEMPLATE) -> Found:
        """The documents that answer best within filters.

        Args:
            filters: as in `search`.
            limit: as in `search`.
            per_template: as in `search`.

        Raises:
            PermanentError: as in `search`.
            MissingObjectError: as in `search`.
        """
        if limit < 1 or per_template < 1:
            raise PermanentError(f"{limit} hits, {per_template} of a template", where="search", remedy="ask for one at least")
        condition = filters.condition()
        if not self._is_asked and not condition:
            raise PermanentError("there is nothing to look for", where="search", remedy="give words, or a filter")
        with lance_errors(self._index.documents.uri):
            mask = self._index.passing(condition) if condition else None
            passing = self._ranking.documents if mask is None else int(np.count_nonzero(mask))
            depth = max(DEPTH, limit) if self._mode == "hybrid" else limit
            orders = self._orders(mask, passing, depth)
            return self._shown(orders, mask, passing, limit, per_template)

    def answers(self, found: Sequence[Found]) -> list[Answer]:
        """Answers with what their documents are, which are read together.

        Raises:
            MissingObjectError: as in `search`.
        """
        wanted = np.unique(np.concatenate([each.documents for each in found]))
        nothing = [None] * len(wanted)
        cosines = self._cosines_of(wanted) if self._by_meaning else nothing
        matches = self._matches_of(wanted) if self._by_words else nothing
        words = self._words_of(wanted)
        with lance_errors(self._index.documents.uri):
            rows = self._index.rows(wanted.tolist(), _SHOWN)

        def hit(number: int, score: float, alike: int) -> Hit:
            place = int(np.searchsorted(wanted, number))
            return Hit(rows[number], score, cosines[place], matches[place], words[place], alike)

        def hits(of: Found) -> tuple[Hit, ...]:
            return tuple(map(hit, of.documents.tolist(), of.scores.tolist(), of.alike.tolist()))

        mode = self._mode if self._is_asked else "newest"
        return [Answer(hits(each), self._searched(each.passing), mode, tuple(self._terms)) for each in found]

    # Orders

    def _orders(self, mask: Mask | None, passing: int, depth: int) -> list[_Order]:
        if not self._is_asked:
            return [self._order(np.arange(self._ranking.documents), self._ranking.slots.astype(np.float64), mask, depth)]
        orders = []
        if self._by_words:
            orders.append(self._order(*self._with_words, mask, depth))
        if self._by_meaning:
            orders.append(self._nearest(mask, passing, depth))
        return orders

    def _order(self, documents: Numbers, scores: Floats, mask: Mask | None, depth: int) -> _Order:
        """The first templates by scores of some documents, of which those that do not pass are left out."""
        if mask is not None:
            passes = mask[documents]
            documents, scores = documents[passes], scores[passes]
        template_of = self._ranking.template_of[documents]
        best = np.full(self._ranking.templates, -np.inf)
        np.maximum.at(best, template_of, scores)
        found = np.flatnonzero(best > -np.inf)
        if len(found) > depth:
            found = found[best[found] >= np.partition(best[found], -depth)[-depth]]
        # Of equal templates the one comes first whose first document of that score does.
        is_best = np.flatnonzero(scores >= best[found].min(initial=np.inf))
        is_best = is_best[scores[is_best] == best[template_of[is_best]]]
        first = np.full(self._ranking.templates, self._ranking.documents)
        np.minimum.at(first, template_of[is_best], self._ranking.ranks[documents[is_best]])
        templates = found[np.lexsort((first[found], -best[found]))][:depth]
        return _Order(templates, best[templates], documents, scores, template_of)

    def _nearest(self, mask: Mask | None, passing: int, depth: int) -> _Order:
        """The templates of the nearest gists."""
        ranking = self._ranking
        gists = len(ranking.gists)
        left = None
        if mask is not None:
            left = np.zeros(gists + 1, np.bool_)
            left[ranking.gist_of[mask]] = True
            left[-1] = False  # what documents without a vector have
        count = gists if left is None else int(np.count_nonzero(left))
        if count <= COMPARED:
            return self._order(*self._with_gists(np.arange(gists) if left is None else np.flatnonzero(left)), mask, depth)
        templates = ranking.templates if mask is None else np.count_nonzero(np.bincount(ranking.template_of[mask]))
        # Where one of ten documents passes, ten times as many gists lead to as many that do.
        looked_at = GISTS * (-(-ranking.documents // passing) if self._index.has_vector_index else 1)
        while True:
            order = self._order(*self._with_gists(self._looked_at(looked_at, left)), mask, depth)
            if len(order.templates) >= min(depth, templates) or looked_at >= gists:
                return replace(order, is_partial=True)
            looked_at *= 4

    def _looked_at(self, count: int, left: Mask | None) -> Numbers:
        """The nearest gists, of those that are left."""
        if self._index.has_vector_index:
            if count not in self._near:
                self._near[count] = self._index.nearest(self._direction, min(count, self._index.gists.count_rows()))
            near = self._near[count]
            return near if left is None else near[left[near]]
        cosines = self._single if left is None else np.where(left[:-1], self._single, -np.inf)
        least = np.partition(cosines, -count)[-count] - 2 * SINGLE_ERROR if count < len(cosines) else -2.0
        return np.flatnonzero(cosines >= least)

    def _with_gists(self, gists: Numbers) -> tuple[Numbers, Floats]:
        """The documents that have one of these gists, and its cosine."""
        documents, counts = self._ranking.with_gists(gists)
        return documents, np.repeat(self._cosines(gists), counts)

    def _cosines_of(self, documents: Numbers) -> list[float | None]:
        """Cosines of the gists of some documents."""
        gists = self._ranking.gist_of[documents]
        cosines = iter(self._cosines(gists[gists >= 0]).tolist())
        return [next(cosines) if gist >= 0 else None for gist in gists.tolist()]

    def _matches_of(self, documents: Numbers) -> list[float | None]:
        """BM25 of some documents."""
        found, scores = self._with_words
        if not len(found):
            return [None] * len(documents)
        at = np.minimum(np.searchsorted(found, documents), len(found) - 1)
        return [score if there else None for score, there in zip(scores[at].tolist(), found[at] == documents, strict=True)]

    def _cosines(self, gists: Numbers) -> Floats:
        """Cosines of some gists, which are remembered."""
        fresh = gists[np.isnan(self._known[gists])]
        if len(fresh):
            self._known[fresh] = np.round(self._ranking.vectors(fresh).astype(np.float64) @ self._direction, DIGITS)
        return self._known[gists]

    @cached_property
    def _single(self) -> npt.NDArray[np.float32]:
        """Cosines of all gists, in single precision."""
        cosines: npt.NDArray[np.float32] = self._ranking.all_vectors @ self._direction.astype(np.float32)
        return cosines

    # Words

    @cached_property
    def _places(self) -> dict[str, list[tuple[Numbers, Numbers, int]]]:
        """Where each term of the question is; without those that are counted and are nowhere."""
        found = zip(self._terms, self._ranking.places(self._terms), strict=True)
        return {term: parts for term, parts in found if parts or not is_counted(term)}

    @cached_property
    def _with_words(self) -> tuple[Numbers, Floats]:
        """The documents with a telling word, in order, and their BM25."""
        total, ranking = self._ranking.documents, self._ranking
        having = {term: sum(len(rows) for rows, _, _ in parts) for term, parts in self._places.items()}
        telling = {term for term in having if not is_counted(term) or having[term] <= COMMON_SHARE * total} or having.keys()
        scores, tells = np.zeros(total), np.zeros(total, np.bool_)
        weights = term_weights([having[term] if is_counted(term) else 1 for term in having], total)
        for (term, parts), weight in zip(self._places.items(), weights.tolist(), strict=True):
            for rows, often, base in parts:
                documents = rows + base
                scores[documents] += weight * saturation(often, ranking.lengths[documents], ranking.mean_length)
                if term in telling:
                    tells[documents] = True
        found = np.flatnonzero(tells)
        return found, np.round(scores[found], DIGITS)

    # Hits

    def _shown(self, orders: Sequence[_Order], mask: Mask | None, passing: int, limit: int, per_template: int) -> Found:
        """The best documents of the best templates."""
        if len(orders) > 1:
            scores = fuse([order.templates.tolist() for order in orders])
        else:
            scores = dict(zip(orders[0].templates.tolist(), orders[0].best.tolist(), strict=True))
        shown: list[tuple[int, float, int]] = []
        for template, score in list(scores.items())[:limit]:
            members = self._ranking.of_template(template)
            members = members if mask is None else members[mask[members]]
            lists = [self._best(order, template, members, per_template) for order in orders if template in order.templates]
            shown += [(number, score, len(members)) for number in _merged(lists)[:per_template]]
            if len(shown) >= limit:
                break
        numbers, ranked, alike = zip(*shown[:limit], strict=True) if shown else ((), (), ())
        return Found(np.array(numbers, np.int64), np.array([round(score, DIGITS) for score in ranked]), np.array(alike, np.int64), passing)

    def _best(self, order: _Order, template: int, members: Numbers, count: int) -> list[int]:
        """The best documents of a template, of which `members` pass."""
        which = np.flatnonzero(order.template_of == template)
        documents, scores = order.documents[which], order.scores[which]
        if order.is_partial and len(documents) < min(count, len(members)):
            # Too few have one of the gists that were looked at: now all are.
            documents = members[self._ranking.gist_of[members] >= 0]
            scores = self._cosines(self._ranking.gist_of[documents])
        ranks = self._ranking.ranks[documents]
        if len(documents) > count:
            least = np.partition(scores, -count)[-count]
            equal = scores == least
            last = np.partition(ranks[equal], (wanted := count - np.count_nonzero(scores > least)) - 1)[wanted - 1]
            good = (scores > least) | (equal & (ranks <= last))
            documents, scores, ranks = documents[good], scores[good], ranks[good]
        found: list[int] = documents[np.lexsort((ranks, -scores))].tolist()
        return found

    def _words_of(self, documents: Numbers) -> list[tuple[str, ...]]:
        """Which terms of the question each of some documents has; their numbers are sorted."""
        words: list[list[str]] = [[] for _ in documents]
        for term, parts in self._places.items() if self._by_words else ():
            for rows, _, base in parts:
                at = np.minimum(np.searchsorted(rows, documents - base), len(rows) - 1)
                for place in np.flatnonzero(rows[at] == documents - base).tolist():
                    words[place].append(term)
        return [tuple(terms) for terms in words]

    def _searched(self, passing: int) -> Searched:
        index = self._index
        return Searched(self._ranking.documents, passing, len(index.records), *index.span, index.generation.model)


def fuse(orders: Sequence[Sequence[Key]], constant: int = FUSION) -> dict[Key, float]:
    """Reciprocal rank fusion: the sum, over the orders that have a key, of 1 / (constant + its place); keys by it, the highest first.

    Equal sums come by the best place, and then by the order that is given first.
    """
    places = [{key: place for place, key in enumerate(order, 1)} for order in orders]
    never = max(map(len, orders), default=0) + 1
    scores = {key: sum(1 / (constant + place[key]) for place in places if key in place) for order in orders for key in order}
    best = {key: [place.get(key, never) for place in places] for key in scores}
    return {key: scores[key] for key in sorted(scores, key=lambda key: (-scores[key], min(best[key]), best[key]))}


def check_account(account: str) -> None:
    """An account is 32 bytes of base58.

    Raises:
        PermanentError: it is not.
    """
    try:
        size = len(base58.decode(account))
    except ValueError:
        size = 0
    if size != 32:
        raise PermanentError(f"{account!r} is no account", where="search", remedy="give 32 bytes in base58, or the name of a program of the registry")


def _merged(lists: Sequence[Sequence[int]]) -> list[int]:
    """Rows of several orders, the first of each before the second of any."""
    longest = max(map(len, lists), default=0)
    return list(dict.fromkeys(rows[place] for place in range(longest) for rows in lists if place < len(rows)))


def _direction(vectors: Vectors, dimension: int) -> npt.NDArray[np.float64]:
    """The one vector, of length 1."""
    if vectors.shape != (1, dimension):
        what = f"the question's vector is of shape {list(vectors.shape)}, and the index has {dimension} components"
        raise PermanentError(what, where="search", remedy="use the model of the index, or search by words")
    direction = vectors[0].astype(np.float64)
    length = float(np.linalg.norm(direction))
    if not 0 < length < np.inf:
        raise PermanentError("the question's vector is no direction", where="search", remedy="use another model, or search by words")
    scaled: npt.NDArray[np.float64] = direction / length
    return scaled


def _texts(values: Iterable[str]) -> str:
    return ", ".join(map(_text, values))


def _text(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def _time(at: datetime) -> str:
    """A time in SQL."""
    # Not strftime, whose years have less than four digits where they are early.
    return f"timestamp '{at.astimezone(UTC).replace(tzinfo=None).isoformat(' ', 'microseconds')}'"
