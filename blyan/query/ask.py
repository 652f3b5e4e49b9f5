"""A question in words, answered from the search index.

Belongs here: putting what is understood of a question before how well words and meaning fit. Does not belong here: reading the question
(`blyan.query.understanding`), conditions (`blyan.query.conditions`), or searching (`blyan.query.search`).

The index is searched twice: within the filters that are given, and besides within what was understood, as far as its columns tell. Of all that
was found, documents that meet more conditions come first; among equals, reciprocal rank fusion of both searches decides. Why it is done so, and
how much better it is: docs/retrieval.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blyan.corpus.embedder import Vectors
from blyan.corpus.registry import Registry
from blyan.corpus.search_index import OpenIndex
from blyan.query.conditions import COLUMNS, matches, weigh, where
from blyan.query.search import FUSION, PER_TEMPLATE, Answer, Filters, Hit, Mode, Question
from blyan.query.understanding import Understanding, understand

CANDIDATES = 100
"""Hits of each search that are looked at."""

OF_A_TEMPLATE = 20
"""Of each template, where amounts decide: its documents differ in them alone."""

LEAST_WEIGHT = 0.5
"""Conditions that count less only order what was found."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question's answer.

    Attributes:
        answer: hits, the best first; `score` is the weight of the conditions met and what fusion adds.
        understood: what was understood of the question.
        met: of each hit, the names of the conditions that it meets.
    """

    answer: Answer
    understood: Understanding
    met: tuple[tuple[str, ...], ...]


def ask(
    index: OpenIndex,
    question: str,
    registry: Registry,
    *,
    embed: Callable[[str], Vectors] | None = None,
    mode: Mode = "hybrid",
    filters: Filters | None = None,
    limit: int = 10,
    per_template: int = PER_TEMPLATE,
) -> Asked:
    """The documents and summaries that answer a question best.

    Args:
        index: what `blyan.corpus.search_index.open_index` gives.
        question: in natural language, or words, accounts, signatures; none: the newest documents that pass the filters.
        registry: names of programs and tokens.
        embed: as in `search`.
        mode: as in `search`.
        filters: as in `search`.
        limit: as in `search`.
        per_template: as in `search`.

    Raises:
        PermanentError: as in `search`.
        MissingObjectError: as in `search`.
    """
    understood = understand(question, registry)
    exact = tuple(condition for condition in understood.conditions if condition.exact)
    within = replace(filters or Filters(), conditions=exact)
    by_amount = understood.order is not None or any(condition.amount for condition in understood.conditions)
    looked_at = max(CANDIDATES, limit)
    of_each = max(per_template, OF_A_TEMPLATE) if by_amount else per_template

    asked = Question(index, understood.text, words=understood.words, embed=embed, mode=mode)
    found = [asked.find(within, limit=looked_at, per_template=of_each)]
    wishes = [condition for condition in understood.conditions if condition.weight >= LEAST_WEIGHT and not condition.exact and where(condition)]
    # Without the least one, and then the next, as long as nothing meets them all.
    wishes.sort(key=lambda condition: -condition.weight)
    while wishes:
        narrow = asked.find(replace(within, conditions=(*exact, *wishes)), limit=looked_at, per_template=of_each)
        if len(narrow.documents):
            found.append(narrow)
            break
        wishes.pop()
    answers = asked.answers(found)
    hits, scores = _ranked(answers, understood)
    kept = _capped(hits, per_template)[:limit]
    chosen = [replace(hits[at], score=round(float(scores[at]), 6)) for at in kept]
    rows = _rows(chosen)
    named = [condition for condition in understood.conditions if condition.name]
    meets = [matches(condition, rows) for condition in named]
    met = tuple(tuple(condition.name for condition, which in zip(named, meets, strict=True) if which[at]) for at in range(len(chosen)))
    return Asked(replace(answers[0], hits=tuple(chosen)), understood, met)


def _ranked(answers: Sequence[Answer], understood: Understanding) -> tuple[list[Hit], npt.NDArray[np.float64]]:
    """The distinct hits of some answers, the best first, and their scores."""
    found: dict[tuple[object, ...], Hit] = {}
    fused: dict[tuple[object, ...], float] = {}
    for answer in answers:
        for place, hit in enumerate(answer.hits, 1):
            key = (hit.row["signature"], hit.row["scope"], hit.row["subject"], hit.row["slot"], hit.row["slot_range"])
            # The first answer counts alike documents among all that pass the given filters.
            found.setdefault(key, hit)
            fused[key] = fused.get(key, 0.0) + 1 / (FUSION + place)
    hits = list(found.values())
    scores = np.array(list(fused.values())) + weigh(understood.conditions, understood.order, _rows(hits))
    by = np.argsort(-scores, kind="stable")
    return [hits[at] for at in by.tolist()], scores[by]


def _rows(hits: Sequence[Hit]) -> pa.Table:
    """What conditions read of the hits."""
    lists, whole = pa.list_(pa.string()), {"slot": pa.int64(), "is_sandwich": pa.bool_()}
    types = {name: whole.get(name, lists if name in ("programs", "accounts") else pa.string()) for name in COLUMNS}
    return pa.table({name: pa.array([hit.row[name] for hit in hits], kind) for name, kind in types.items()}).combine_chunks()


def _capped(hits: Sequence[Hit], per_template: int) -> list[int]:
    """The places of the first hits of each template."""
    shown: dict[str, int] = {}
    out = []
    for place, hit in enumerate(hits):
        key = hit.row["structural_key"]
        shown[key] = shown.get(key, 0) + 1
        if shown[key] <= per_template:
            out.append(place)
    return out


def unmet(asked: Asked) -> tuple[str, ...]:
    """Conditions that no hit meets: nothing that was found is what they ask for."""
    names = [condition.name for condition in asked.understood.conditions if condition.name]
    return tuple(name for name in names if not any(name in met for met in asked.met))
