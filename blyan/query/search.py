"""Searching the index: by meaning, by words, or by both, within filters.

Belongs here: filters, ranking, and what is said of a hit. Does not belong here: what the index holds (`blyan.corpus.search_rows`) and how
it is written (`blyan.corpus.search_index`), or what a question asks for beside its words (`blyan.query.ask`).

Most transactions differ from others in nothing but amounts, so what is ranked are templates (documents of one structural key): a template
is as good as its best document, at most some documents of each are shown, and the others are counted. Two documents of one score
come in the order of slot and index. So an answer depends on what the index holds, not on how its files lie.

By meaning: the cosine of the question's vector and that of a document's gist. LanceDB finds the nearest gists, through its index where
there are many; the cosines are computed here, from the stored vectors. By words: BM25 (`blyan.corpus.terms`) with counts of the whole index.
LanceDB finds the documents with the most telling words; they are scored here, because its own scores move when its files are merged. By both:
reciprocal rank fusion (Cormack, Clarke and Büttcher 2009) of the two orders.

Filters hold before anything is ranked. Where few documents pass them, all their gists are compared, so that nothing is missed behind
better ones that do not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.embedder import Vectors
from blyan.corpus.search_index import OpenIndex, lance_errors
from blyan.corpus.search_rows import FOUND, TERM
from blyan.corpus.terms import bm25, is_counted, query_terms
from blyan.errors import PermanentError
from blyan.query.conditions import Condition, where
from blyan.solana import base58
from blyan.solana.slots import SlotRange

Mode = Literal["hybrid", "vector", "text"]

PER_TEMPLATE = 2
"""Documents of one template that are shown unless another number is asked for."""

DEPTH = 50
"""Templates of each order that are fused."""

FUSION = 60
"""The constant of reciprocal rank fusion: the larger, the less the first places count (its authors' value)."""

GISTS = 64
"""Nearest gists that are looked at first; four times as many each time they were too few."""

COMPARED = 5_000
"""Where no more documents pass the filters, the gists of all of them are compared."""

CANDIDATES = 1_000
"""Documents that LanceDB gives for some words at a time."""

ROUNDS = 6
"""Times that it is asked for more, without the templates it has given."""

COMMON_SHARE = 0.5
"""Words that more documents have find none of them alone, where the question has others: reading all their places takes longest."""

REFINED, PROBES = 3, 112
"""Compressed vectors that are compared again exactly, for each that is asked for, and partitions that are looked into: of 200,000
vectors 0.99 of the ten nearest are found; with 2 and 64 it was 0.91 (benchmarks/search.py)."""

DIGITS = 6
"""Decimals of a score by which documents are ranked: beyond them, the order of a sum decides."""

_KEYS = ("slot", "tx_index", "scope", "subject")
"""What orders documents of one score."""

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
        cosine: of its gist with the question, from -1 to 1; None where meaning was not looked at, or found others first.
        bm25: how well its words match; None where words were not looked at, or found others first.
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


@dataclass(slots=True)
class _Order:
    """The first templates, as one way of looking ranks them, with the best documents of each.

    Attributes:
        best: by structural key, in order: the numbers of its best documents' rows, the best first.
        scores: score of each row that is in `best`.
    """

    best: dict[str, list[int]] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    def best_scores(self) -> dict[str, float]:
        """The score of each template."""
        return {key: self.scores[rows[0]] for key, rows in self.best.items()}


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
    chosen = filters or Filters()
    if limit < 1 or per_template < 1:
        raise PermanentError(f"{limit} hits, {per_template} of a template", where="search", remedy="ask for one at least")
    with lance_errors(index.documents.uri):
        depth = max(DEPTH, limit) if mode == "hybrid" else limit
        return _Search(index, chosen, limit, per_template, depth).answer(text, words or text, mode, embed)


class _Search:
    """One search."""

    def __init__(self, index: OpenIndex, filters: Filters, limit: int, per_template: int, depth: int) -> None:
        self._documents, self._gists, self._generation = index.documents, index.gists, index.generation
        self._records, self._span = index.records, index.span
        self._filtered = filters.condition()
        self._found = f"scope in ({_texts(FOUND)})" + (f" and {self._filtered}" if self._filtered else "")
        self._limit, self._per_template = limit, per_template
        self._depth = depth
        self._total = sum(record.rows for record in self._records.values())
        self._passing = int(self._documents.count_rows(self._found)) if self._filtered else self._total
        self._words: dict[int, tuple[str, ...]] = {}
        self._cut = False
        self._direction: npt.NDArray[np.float64] = np.empty(0)
        self._wanted: tuple[Sequence[str], Mapping[str, int], int, float] = ((), {}, 0, 0.0)

    def answer(self, text: str, words: str, mode: Mode, embed: Callable[[str], Vectors] | None) -> Answer:
        terms: list[str] = []
        orders: dict[str, _Order] = {}
        if not text.strip():
            if not self._filtered:
                raise PermanentError("there is nothing to look for", where="search", remedy="give words, or a filter")
            orders["newest"] = self._newest()
        if text.strip() and mode in ("hybrid", "text"):
            terms = query_terms(words)
            orders["text"] = self._by_words(terms)
        if text.strip() and mode in ("hybrid", "vector"):
            if embed is None:
                raise PermanentError("a search by meaning needs a model", where="search", remedy="give `embed`, or search by words")
            orders["vector"] = self._by_meaning(_direction(embed(text), self._generation.dimension))
        return Answer(tuple(self._hits(orders)), self._searched(), mode if text.strip() else "newest", tuple(terms))

    # Orders

    def _newest(self) -> _Order:
        """The templates of the newest documents."""
        rows = self._rows(["structural_key", *_KEYS], self._found)
        return self._ordered(rows, rows["slot"].to_numpy().astype(np.float64))

    def _by_meaning(self, direction: npt.NDArray[np.float64]) -> _Order:
        """The templates of the nearest gists."""
        if not self._passing:
            return _Order()
        self._direction = direction
        if self._filtered and self._passing <= COMPARED:
            rows = self._rows(["structural_key", "gist", *_KEYS], f"{self._found} and gist is not null")
            names = pc.unique(rows["gist"])
            cosines = dict.fromkeys(names.to_pylist(), -1.0) | self._cosines(direction, names)
            return self._ordered(rows, _looked_up(rows["gist"], cosines))
        everything = int(self._gists.count_rows())
        # Where one of ten documents passes, ten times as many gists lead to as many that do.
        looked_at = min(GISTS * -(-self._total // self._passing), everything)
        while looked_at:
            cosines = self._nearest(direction, looked_at)
            condition = f"gist in ({_texts(cosines)})" + (f" and {self._filtered}" if self._filtered else "")
            rows = self._rows(["structural_key", "gist", *_KEYS], condition)
            if looked_at == everything or pc.count_distinct(rows["structural_key"]).as_py() >= self._depth:
                return self._ordered(rows, _looked_up(rows["gist"], cosines))
            looked_at = min(4 * looked_at, everything)
        return _Order()

    def _by_words(self, terms: Sequence[str]) -> _Order:
        """The templates of the documents with the most telling words."""
        counts = self._counts(terms)
        wanted = [term for term in terms if term not in counts or counts[term]]
        telling = [term for term in wanted if counts.get(term, 0) <= COMMON_SHARE * self._total] or wanted
        if not telling or not self._passing:
            return _Order()
        length = sum(record.length for record in self._records.values()) / max(self._total, 1)
        parts: list[pa.Table] = []
        seen: list[str] = []
        for _ in range(ROUNDS):
            rows = self._matching(telling, seen)
            if len(rows):
                parts.append(rows)
            seen = pc.unique(pa.chunked_array([column for part in parts for column in part["structural_key"].chunks], pa.string())).to_pylist()
            self._cut = self._cut or len(rows) == CANDIDATES
            if len(rows) < CANDIDATES or len(seen) >= self._depth:
                break
        if not parts:
            return _Order()
        self._wanted = (wanted, counts, self._total, length)
        rows = pa.concat_tables(parts)
        return self._ordered(rows, self._scored(rows))

    def _ordered(self, rows: pa.Table, scores: npt.NDArray[np.float64]) -> _Order:
        """Templates by their best document, with as many of their documents as are shown."""
        order = _Order()
        if not len(rows):
            return order
        rounded = np.round(scores, DIGITS)
        by = _sorted(rows, -rounded)
        kept = by[_places(_codes(rows["structural_key"])[by]) < self._per_template]
        keys, numbers = (rows[name].take(pa.array(kept)).to_pylist() for name in ("structural_key", "_rowid"))
        for key, number, score in zip(keys, numbers, rounded[kept].tolist(), strict=True):
            if key not in order.best and len(order.best) == self._depth:
                continue
            order.best.setdefault(key, []).append(number)
            order.scores[number] = score
        return order

    # What LanceDB is asked

    def _rows(self, columns: Sequence[str], condition: str) -> pa.Table:
        return self._documents.scanner(columns=list(columns), filter=condition, with_row_id=True).to_table()

    def _matching(self, terms: Sequence[str], seen: Sequence[str]) -> pa.Table:
        """Documents with some of the words, of other templates than those seen."""
        condition = self._filtered
        if seen:
            condition += (" and " if condition else "") + f"structural_key not in ({_texts(seen)})"
        return self._documents.scanner(
            columns=["structural_key", "terms", *_KEYS, "_score"],
            full_text_query={"query": " ".join(terms), "columns": ["terms"]},
            filter=condition or None,
            prefilter=True,
            limit=CANDIDATES,
            with_row_id=True,
        ).to_table()

    def _nearest(self, direction: npt.NDArray[np.float64], count: int) -> dict[str, float]:
        """The cosines of the nearest gists."""
        found = self._gists.scanner(
            columns=["gist", "vector", "_distance"],
            nearest={
                "column": "vector",
                "q": direction.astype(np.float32),
                "k": count,
                "metric": "cosine",
                "nprobes": PROBES,
                "refine_factor": REFINED,
            },
        ).to_table()
        return dict(zip(found["gist"].to_pylist(), _cosines(found["vector"], direction), strict=True))

    def _cosines(self, direction: npt.NDArray[np.float64], names: pa.Array) -> dict[str, float]:
        """The cosines of some gists."""
        found = self._gists.to_table(columns=["gist", "vector"], filter=f"gist in ({_texts(names.to_pylist())})") if len(names) else None
        return {} if found is None else dict(zip(found["gist"].to_pylist(), _cosines(found["vector"], direction), strict=True))

    def _counts(self, terms: Sequence[str]) -> dict[str, int]:
        """In how many documents each term is, of those that are counted; 0 where none has it."""
        counts = {term: 0 for term in terms if is_counted(term)}
        if counts:
            rows = self._documents.to_table(columns=["subject", "count"], filter=f"scope = '{TERM}' and subject in ({_texts(counts)})")
            for term, count in zip(rows["subject"].to_pylist(), rows["count"].to_pylist(), strict=True):
                counts[term] += count
        return counts

    # Hits

    def _hits(self, orders: Mapping[str, _Order]) -> list[Hit]:
        """The documents that are shown."""
        scores = fuse([list(order.best) for order in orders.values()]) if len(orders) > 1 else _only(orders).best_scores()
        keys = list(scores)[: self._limit]
        if not keys:
            return []
        members = self._rows(["structural_key"], f"{self._found} and structural_key in ({_texts(keys)})")
        alike = dict(zip(*(column.to_pylist() for column in pc.value_counts(members["structural_key"]).flatten()), strict=True))
        # One column for all that are alike; the others only where more than what was found has to be looked at.
        if "text" in orders and self._cut:
            self._settle(orders["text"], self._members([key for key in keys if key in orders["text"].best]))
        if "vector" in orders:
            best = orders["vector"].best
            short = [key for key in keys if 0 < len(best.get(key, ())) < min(self._per_template, alike[key])]
            self._complete(orders["vector"], self._members(short))
        shown: list[tuple[str, int]] = []
        for key in keys:
            shown += [(key, row) for row in _merged([order.best.get(key, []) for order in orders.values()])[: self._per_template]]
        shown = shown[: self._limit]
        by_row = {row["_rowid"]: row for row in self._rows(_SHOWN, _row_ids(row for _, row in shown)).to_pylist()}
        cosines, matches = (orders.get(name, _Order()).scores for name in ("vector", "text"))
        return [
            Hit(by_row[row], round(scores[key], DIGITS), cosines.get(row), matches.get(row), self._words.get(row, ()), alike[key])
            for key, row in shown
        ]

    def _members(self, keys: Sequence[str]) -> pa.Table:
        """All documents of some templates that pass."""
        condition = f"{self._found} and structural_key in ({_texts(keys)})" if keys else "false"
        return self._rows(["structural_key", "gist", *_KEYS], condition)

    def _settle(self, order: _Order, members: pa.Table) -> None:
        """Look at the first documents of each template that is shown.

        LanceDB gives some of the documents of one score, not the first; where it gave not all of a template, the first may be as good.
        """
        by = _sorted(members, np.zeros(len(members)))
        first = by[_places(_codes(members["structural_key"])[by]) < self._per_template]
        known = [row for rows in order.best.values() for row in rows]
        fresh = sorted(set(members["_rowid"].take(pa.array(first)).to_pylist()) - set(known))
        if not fresh:
            return
        rows = self._rows(["structural_key", "terms", *_KEYS], _row_ids([*known, *fresh]))
        again = self._ordered(rows, self._scored(rows))
        for key in pc.unique(members["structural_key"]).to_pylist():
            # Templates that only another order found may push one out of these.
            if key in order.best and key in again.best:
                order.best[key] = again.best[key]
                order.scores |= {row: again.scores[row] for row in again.best[key]}

    def _complete(self, order: _Order, members: pa.Table) -> None:
        """Look at all documents of templates that are shown and of which too few have one of the gists that were looked at."""
        rows = members.filter(pc.is_valid(members["gist"]))
        if not len(rows):
            return
        names = pc.unique(rows["gist"])
        again = self._ordered(rows, _looked_up(rows["gist"], dict.fromkeys(names.to_pylist(), -1.0) | self._cosines(self._direction, names)))
        order.best |= again.best
        order.scores |= again.scores

    def _scored(self, rows: pa.Table) -> npt.NDArray[np.float64]:
        """How well the words of rows match, and which they have."""
        scores, has = bm25(pc.split_pattern(rows["terms"].combine_chunks(), " "), *self._wanted)
        for row, there in zip(rows["_rowid"].to_pylist(), has, strict=True):
            self._words[row] = tuple(term for term, found in zip(self._wanted[0], there, strict=True) if found)
        return scores

    def _searched(self) -> Searched:
        return Searched(self._total, self._passing, len(self._records), *self._span, self._generation.model)


def fuse(orders: Sequence[Sequence[str]], constant: int = FUSION) -> dict[str, float]:
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


def _only(orders: Mapping[str, _Order]) -> _Order:
    (order,) = orders.values()
    return order


def _merged(lists: Sequence[Sequence[int]]) -> list[int]:
    """Rows of several orders, the first of each before the second of any."""
    longest = max(map(len, lists), default=0)
    return list(dict.fromkeys(rows[place] for place in range(longest) for rows in lists if place < len(rows)))


def _sorted(rows: pa.Table, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The order of rows by a score, the least first, and by what orders documents of one score."""
    ordered = rows.select(_KEYS).append_column("score", pa.array(scores))
    keys = [(name, "ascending", "at_start") for name in ("score", *_KEYS)]
    found: npt.NDArray[np.int64] = pc.sort_indices(ordered, keys).to_numpy().astype(np.int64)
    return found


def _codes(texts: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Equal texts as equal numbers."""
    coded = texts.combine_chunks().dictionary_encode()
    numbers: npt.NDArray[np.int64] = coded.indices.to_numpy().astype(np.int64)
    return numbers


def _places(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each number, how many equal ones are before it."""
    by = np.argsort(codes, kind="stable")
    fresh = np.flatnonzero(np.append(True, np.diff(codes[by]) != 0)[: len(by)])
    places = np.empty(len(by), np.int64)
    places[by] = np.arange(len(by)) - np.repeat(fresh, np.diff(np.append(fresh, len(by))))
    return places


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


def _cosines(vectors: pa.ChunkedArray, direction: npt.NDArray[np.float64]) -> list[float]:
    """Cosines of stored vectors, which have length 1."""
    matrix = vectors.combine_chunks().flatten().to_numpy().reshape(-1, len(direction)).astype(np.float64)
    cosines: list[float] = (matrix @ direction).tolist()
    return cosines


def _looked_up(names: pa.ChunkedArray, values: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """The value of each name."""
    coded = names.combine_chunks().dictionary_encode()
    of_name = np.array([values[name] for name in coded.dictionary.to_pylist()] or [0.0])
    found: npt.NDArray[np.float64] = of_name[coded.indices.to_numpy()]
    return found


def _row_ids(rows: Iterable[int]) -> str:
    return f"_rowid in ({', '.join(map(str, rows))})"


def _texts(values: Iterable[str]) -> str:
    return ", ".join(map(_text, values))


def _text(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def _time(at: datetime) -> str:
    """A time in SQL."""
    # Not strftime, whose years have less than four digits where they are early.
    return f"timestamp '{at.astimezone(UTC).replace(tzinfo=None).isoformat(' ', 'microseconds')}'"
