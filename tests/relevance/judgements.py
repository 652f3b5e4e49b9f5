"""What answers each query, and how good a ranking is.

Belongs here: the query set, its judgements, measures and their uncertainty. Does not belong here: the corpus (`recorded_corpus`), rankers.

A judgement is a predicate over rows of the tables (`facts.sql`), written from what the words of the query ask for. It never sees a text
or a ranking. Queries that ask for the same share a need; needs, not queries, are split into `dev` and `test` and drawn by the bootstrap,
because two wordings of a question are not two independent observations.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
from recorded_corpus import Corpus

FOLDER = Path(__file__).parent

_MACROS = (
    "create or replace macro has(names, name) as list_contains(names, name)",
    "create or replace macro any_like(names, pattern) as len(list_filter(names, lambda name: name like pattern)) > 0",
    """create or replace macro of_subject(scope, subject, name, f) as
        scope = 'range' or (scope = 'account' and f.payer = subject) or (scope = 'program' and list_contains(f.programs, coalesce(name, subject)))""",
)

Ranking = Sequence[str]
"""Documents, best first."""


@dataclass(frozen=True)
class Query:
    """A query: its words, the need it states, and the grade of every document that answers it."""

    text: str
    need: str
    kind: str
    split: str
    grades: Mapping[str, int]


@dataclass(frozen=True)
class Judged:
    """Queries with their judgements, and the structural key of each document (itself, where it has none)."""

    queries: tuple[Query, ...]
    keys: Mapping[str, str]


def judge(corpus: Corpus) -> Judged:
    """Judge every query on a corpus. The same rows give the same judgements."""
    connection = corpus.connection
    for macro in _MACROS:
        connection.execute(macro)
    connection.execute("drop table if exists facts; drop table if exists called; drop table if exists moved; drop table if exists netted")
    connection.execute((FOLDER / "facts.sql").read_text())
    queries = []
    for need in tomllib.loads((FOLDER / "queries.toml").read_text())["need"]:
        sql = f"select id, grade from (select id, coalesce(({need['relevant']})::int, 0) as grade from facts) where grade > 0 order by id"
        grades = dict(connection.execute(sql).fetchall())
        kind, split = need["class"], need["split"]
        queries += [Query(text, need["name"], kind, split, grades) for text in need["queries"]]
        queries += [Query(text, need["name"], "misspelt", split, grades) for text in need.get("misspelt", ())]
        queries += [Query(text, need["name"], kind, "fresh", grades) for text in need.get("fresh", ())]
    keys = {row[0]: row[1] or row[0] for row in connection.execute("select tx_signature, structural_key from documents").fetchall()}
    return Judged(tuple(queries), keys)


MEASURES = ("nDCG@10", "R@20", "distinct nDCG@10", "MRR@10")
"""Per query: nDCG@10; the share of 20 places, or of all that is relevant where that is less, that relevant documents fill; nDCG@10 where
documents of one structural key and grade are one; one by the place of the first answer."""

DEPTH = 1_000
"""Places of a ranking that are read: the distinct measure looks past near-duplicates."""


def score(judged: Judged, queries: Sequence[Query], rankings: Sequence[Ranking]) -> dict[str, np.ndarray]:
    """Each measure of each query, by `ir_measures`; a query without an answer has no measure, and is refused."""
    plain, grouped = [], []
    for number, (query, ranking) in enumerate(zip(queries, rankings, strict=True)):
        if not query.grades:
            raise ValueError(f"{query.text!r} has no answer to measure by")
        places = list(dict.fromkeys(ranking[:DEPTH]))
        plain.append((str(number), query.grades, places))
        named = {document: f"{judged.keys.get(document, document)} {query.grades.get(document, 0)}" for document in {*places, *query.grades}}
        units = {named[document]: grade for document, grade in query.grades.items()}
        grouped.append((str(number), units, list(dict.fromkeys(named[document] for document in places))))
    ndcg, recall, first = ir_measures.nDCG @ 10, ir_measures.R @ 20, ir_measures.RR @ 10
    found = _calculated(plain, [ndcg, recall, first])
    limit = np.array([len(query.grades) / min(20, len(query.grades)) for query in queries])
    return {
        "nDCG@10": found[ndcg],
        "R@20": found[recall] * limit,
        "distinct nDCG@10": _calculated(grouped, [ndcg])[ndcg],
        "MRR@10": found[first],
    }


def _calculated(runs: Sequence[tuple[str, Mapping[str, int], Sequence[str]]], measures: Sequence[object]) -> dict[object, np.ndarray]:
    qrels = {number: dict(grades) for number, grades, _ in runs}
    # Equal scores would be ordered by name: the place is the score.
    ranked = {number: {document: float(-place) for place, document in enumerate(places)} for number, _, places in runs}
    out = {measure: np.zeros(len(runs)) for measure in measures}
    for found in ir_measures.iter_calc(list(measures), qrels, ranked):
        out[found.measure][int(found.query_id)] = found.value
    return out


REPEATS = 10_000


def interval(values: np.ndarray, queries: Sequence[Query], *, seed: int = 1, repeats: int = REPEATS) -> tuple[float, float]:
    """The 95 % interval of a mean over queries: percentile bootstrap that draws needs, with all their wordings.

    Args:
        values: one of each query; differences of two systems give a paired interval.
    """
    needs = {name: number for number, name in enumerate(dict.fromkeys(query.need for query in queries))}
    of = np.array([needs[query.need] for query in queries])
    sums, counts = np.bincount(of, values, len(needs)), np.bincount(of, minlength=len(needs))
    drawn = np.random.default_rng(seed).integers(0, len(needs), (repeats, len(needs)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
