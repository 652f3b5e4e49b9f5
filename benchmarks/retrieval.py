"""How well questions find their answers among recorded mainnet blocks. Prints one JSON line a figure.

    python benchmarks/retrieval.py [--plot docs/retrieval.svg]

Queries, judgements and measures are those of tests/relevance: what is relevant is told by predicates over the tables. Each system ranks the same
documents and summaries; a line has the mean of a measure over the queries of a split, its 95 % interval, and its difference from plain hybrid search in the same run
with the interval of the difference (paired; needs are drawn, not queries). `by_class` are means of the measure by class of query. `index …` and `blyan search` go through the
index that users search, with at most 2 documents of a template as users see them (`distinct nDCG@10` is the measure that is fair to that); the
others are exact and over every document. The controls must come out near chance: `shuffled` ranks at random, `shuffled relevance` gives each query the
answers of another. What was tried besides, and not taken in, is measured by retrieval_experiments.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "relevance"))

from exact_search import WHATEVER, ExactSearch  # noqa: E402
from indexed_search import indexed, ways  # noqa: E402
from judgements import Judged, Query, Ranking, interval, judge, score  # noqa: E402
from recorded_corpus import recorded_corpus  # noqa: E402

from blyan.corpus.minilm import MiniLM, Precision  # noqa: E402

BASE = "hybrid"
PEERS = {"hybrid understood": "text understood", "blyan search": "index hybrid"}
"""What these are compared with besides: the same without vectors, and the same index without understanding."""

SPLITS = ("dev", "test", "fresh")
SEED = 1


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--plot", type=Path, help="an SVG of the systems")
    given = arguments.parse_args()
    corpus = recorded_corpus()
    judged = judge(corpus)
    queries = [query for query in judged.queries if query.grades]
    models = {precision: MiniLM(precision, threads=2) for precision in _precisions()}
    exact = ExactSearch(corpus)
    started = time.process_time()
    systems: dict[str, list[Ranking]] = dict(
        zip(
            ("text", "vector", "vector fp32", BASE, "text understood", "vector understood", "hybrid understood"),
            _exact(exact, models, queries),
            strict=True,
        )
    )
    show("exact_cpu_s", time.process_time() - started, {"queries": len(queries), "systems": len(systems)})
    random = np.random.default_rng(SEED)
    systems["shuffled"] = [[exact.names[at] for at in random.permutation(len(exact.names))] for _ in queries]
    with tempfile.TemporaryDirectory() as folder:
        index = indexed(corpus, folder, models["int8"])
        for name, find in ways(index, corpus, models["int8"]).items():
            started, systems[name] = time.process_time(), [find(query.text) for query in queries]
            show("cpu_s_a_query", (time.process_time() - started) / len(queries), {"system": name, "queries": len(queries)})
        nothing = [query for query in judged.queries if not query.grades]
        abstained(ways_to_abstain(index, corpus, models["int8"]), nothing, queries)
    found = table(judged, queries, systems)
    other = [queries[at] for at in derangement(queries, random)]
    swapped = [Query(query.text, query.need, query.kind, query.split, answers.grades) for query, answers in zip(queries, other, strict=True)]
    table(judged, swapped, {"shuffled relevance": systems["hybrid understood"]}, base=None)
    if given.plot:
        given.plot.write_text(svg(found))


def _precisions() -> tuple[Precision, ...]:
    return ("int8", "fp32")


def _exact(exact: ExactSearch, models: Mapping[str, Any], queries: Sequence[Query]) -> list[list[Ranking]]:
    """By words, by meaning and by both, without and with what is understood."""
    vectors = {name: exact.vectors(model) for name, model in models.items()}
    out: list[list[Ranking]] = [[] for _ in range(7)]
    for query in queries:
        understood = exact.understand(query)
        words, own = exact.by_words(query.text), exact.by_words(understood.words)
        near, precise = (vectors[name] @ models[name].embed([query.text])[0] for name in ("int8", "fp32"))
        meant = vectors["int8"] @ models["int8"].embed([understood.text or WHATEVER])[0]
        ranked = [
            exact.rank(words), exact.rank(near), exact.rank(precise), exact.rank(words, near),
            exact.rank(own, understood=understood), exact.rank(meant, understood=understood), exact.rank(own, meant, understood=understood),
        ]  # fmt: skip
        for rankings, ranking in zip(out, ranked, strict=True):
            rankings.append(ranking)
    return out


def table(judged: Judged, queries: Sequence[Query], systems: Mapping[str, Sequence[Ranking]], base: str | None = BASE) -> dict[str, dict[str, Any]]:
    """Print the figures of each system and split; those of nDCG@10, by system and split."""
    out: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        places = [place for place, query in enumerate(queries) if query.split == split]
        asked = [queries[place] for place in places]
        scores = {name: score(judged, asked, [rankings[place] for place in places]) for name, rankings in systems.items()}
        for name, measures in scores.items():
            for measure, values in measures.items():
                about: dict[str, Any] = {"system": name, "split": split, "measure": measure, "queries": len(asked)}
                about["interval"] = rounded(interval(values, asked))
                if base and name != base:
                    difference = values - scores[base][measure]
                    about |= {
                        "over": base,
                        "difference": round(float(difference.mean()), 4),
                        "difference_interval": rounded(interval(difference, asked)),
                    }
                peer = PEERS.get(name)
                if base and peer:
                    between = values - scores[peer][measure]
                    about |= {"peer": peer, "peer_difference": round(float(between.mean()), 4), "peer_interval": rounded(interval(between, asked))}
                if measure == "nDCG@10":
                    kinds = dict.fromkeys(query.kind for query in asked)
                    about["by_class"] = {
                        kind: round(float(np.mean([value for query, value in zip(asked, values, strict=True) if query.kind == kind])), 3)
                        for kind in kinds
                    }
                    out.setdefault(name, {})[split] = (float(values.mean()), *interval(values, asked))
                show("retrieval", float(values.mean()), about)
    return out


def ways_to_abstain(index: Any, corpus: Any, embedder: Any) -> Callable[[str], bool]:
    """Whether `blyan search` says that nothing which it found is all that was asked for."""
    from blyan.query.ask import ask, unmet

    def abstains(text: str) -> bool:
        asked = ask(index, text, corpus.registry, embed=lambda words: embedder.embed([words]))
        return not asked.answer.hits or bool(unmet(asked))

    return abstains


def abstained(abstains: Callable[[str], bool], nothing: Sequence[Query], something: Sequence[Query]) -> None:
    """Print how often it is said that nothing was found which meets a condition, where that is so and where it is not."""
    for name, asked in (("without an answer", nothing), ("with one", something)):
        show("says_nothing_meets", float(np.mean([abstains(query.text) for query in asked])), {"queries_are": name, "queries": len(asked)})


def derangement(queries: Sequence[Query], random: np.random.Generator) -> list[int]:
    """For each query, another one of another need."""
    while True:
        order = random.permutation(len(queries)).tolist()
        if all(queries[at].need != query.need for at, query in zip(order, queries, strict=True)):
            return order
        for place, query in enumerate(queries):
            while queries[order[place]].need == query.need:
                other = int(random.integers(len(queries)))
                order[place], order[other] = order[other], order[place]


def rounded(pair: tuple[float, float]) -> list[float]:
    """Both ends to four places."""
    return [round(end, 4) for end in pair]


def show(figure: str, value: float, about: Mapping[str, object]) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, "value": round(value, 4), "kind": "measured", **about}), flush=True)


_SHOWN = ("text", "vector", "hybrid", "text understood", "vector understood", "hybrid understood", "blyan search", "shuffled")
_COLOURS = {"dev": "#9ecae1", "test": "#4292c6", "fresh": "#08519c"}


def svg(found: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> str:
    """Bars of nDCG@10 with their intervals, by system and split."""
    left, wide, high, gap = 150, 520, 13, 14
    rows, at = [], 34
    for name in _SHOWN:
        rows.append(f'<text x="{left - 8}" y="{at + 1.5 * high + 4}" text-anchor="end">{name}</text>')
        for split, (value, low, top) in found[name].items():
            rows.append(f'<rect x="{left}" y="{at}" width="{value * wide:.1f}" height="{high - 2}" fill="{_COLOURS[split]}"/>')
            rows.append(f'<path d="M{left + low * wide:.1f} {at + high / 2 - 1}H{left + top * wide:.1f}" stroke="#222"/>')
            rows.append(f'<text x="{left + top * wide + 6:.1f}" y="{at + high - 3}" font-size="10">{value:.2f}</text>')
            at += high
        at += gap
    keys = [
        f'<rect x="{left + 90 * place}" y="8" width="11" height="11" fill="{colour}"/><text x="{left + 90 * place + 16}" y="18">{split}</text>'
        for place, (split, colour) in enumerate(_COLOURS.items())
    ]
    title = f'<text x="{left + 280}" y="18">nDCG@10, 95 % intervals</text>'
    body = "\n".join([*keys, title, *rows])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 60}" height="{at}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
