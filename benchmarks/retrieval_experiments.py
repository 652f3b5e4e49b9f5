"""What was tried to make retrieval better, and whether it pays. Prints one JSON line a figure.

    python benchmarks/retrieval_experiments.py

As benchmarks/retrieval.py, exact and over every document; a line has the mean of nDCG@10 over the queries of a split, and its difference from the
same system without the change, with the 95 % interval (paired, needs are drawn).

`whole text`: vectors of the whole text, not of its gist. `label words`: the words that people use for the labels (kind, outcome, error, program, sandwich) are put before
the text, for full text and for vectors. `vector weight 0.25`: in fusion, the order of vectors counts a quarter. `adapter`: a linear map on the vector of a query, fitted by ridge
regression towards the mean vector of the documents that answer it, on made-up queries over documents of other blocks than those it is measured on.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "relevance"))

from exact_search import WHATEVER, ExactSearch  # noqa: E402
from judgements import Judged, Query, Ranking, interval, judge, score  # noqa: E402
from recorded_corpus import recorded_corpus  # noqa: E402

from blyan.corpus.minilm import MiniLM  # noqa: E402
from blyan.corpus.terms import bm25, query_terms, terms_of  # noqa: E402

SPLITS = ("dev", "test", "fresh")
MEASURED_SLOTS = (110130000, 285000037, 332254855)
"""Blocks that the adapter is measured on; it is fitted on all others."""

RIDGE = 10.0
SEED = 1

KINDS = {
    "swap": ("swap", "trade", "token swap"), "liquidity": ("liquidity", "LP deposit"), "exchange": ("order", "market activity"), "nft": ("NFT", "NFT mint", "collectible"),
    "lending": ("lending", "borrow", "loan"), "stake": ("stake", "staking"), "oracle": ("oracle update", "price feed"), "program": ("program call", "contract call"),
    "token_transfer": ("token transfer", "token payment"), "transfer": ("SOL transfer", "payment"), "token_account": ("token account", "account opened or closed"),
    "deploy": ("deployment", "program upload"), "vote": ("vote", "validator vote"), "other": ("transaction",), "mint": ("mint",), "burn": ("burn",), "account": ("account created",),
}  # fmt: skip
OUTCOMES = {"Fail": ("failed", "unsuccessful", "reverted", "errored"), "Success": ("successful", "completed", ""), None: ("",)}


def main() -> None:
    """Measure and print."""
    corpus = recorded_corpus()
    judged, exact, model = judge(corpus), ExactSearch(corpus), MiniLM("int8", threads=2)
    queries = [query for query in judged.queries if query.grades]
    texts = exact.rows["text"].combine_chunks()
    labelled = pa.array([f"{words}\n{text}" for words, text in zip(label_words(exact), texts.to_pylist(), strict=True)])
    vectors = {"gist": exact.vectors(model), "whole text": exact.vectors(model, texts)}
    gists = pa.array([f"{words}\n{text}" for words, text in zip(label_words(exact), exact.gists.to_pylist(), strict=True)])
    vectors["label words"] = exact.vectors(model, gists)
    terms = terms_of(labelled)
    out: dict[str, list[Ranking]] = defaultdict(list)
    for query in queries:
        understood = exact.understand(query)
        own, asked = model.embed([query.text])[0], model.embed([understood.text or WHATEVER])[0]
        words, meant = exact.by_words(query.text), exact.by_words(understood.words)
        more, meant_more = (by_words(exact, terms, text) for text in (query.text, understood.words))
        near = {name: matrix @ own for name, matrix in vectors.items()}
        far = {name: matrix @ asked for name, matrix in vectors.items()}
        out["vector"].append(exact.rank(near["gist"]))
        out["vector, whole text"].append(exact.rank(near["whole text"]))
        out["vector, label words"].append(exact.rank(near["label words"]))
        out["text"].append(exact.rank(words))
        out["text, label words"].append(exact.rank(more))
        out["hybrid"].append(exact.rank(words, near["gist"]))
        out["hybrid, label words"].append(exact.rank(more, near["label words"]))
        out["hybrid, vector weight 0.25"].append(exact.rank(words, near["gist"], weights=(1, 0.25)))
        out["hybrid understood"].append(exact.rank(meant, far["gist"], understood=understood))
        out["hybrid understood, label words"].append(exact.rank(meant_more, far["label words"], understood=understood))
        out["hybrid understood, vector weight 0.25"].append(exact.rank(meant, far["gist"], weights=(1, 0.25), understood=understood))
        out["hybrid understood, whole text"].append(exact.rank(meant, far["whole text"], understood=understood))
    table(judged, queries, out)
    adapted(exact, judged, queries, model, vectors["gist"])


def label_words(exact: ExactSearch) -> list[str]:
    """What people call the labels of each document; nothing for a summary."""
    names, out = exact.registry.names, []
    for row in exact.rows.select(["kind", "status", "error_class", "programs", "is_sandwich"]).to_pylist():
        parts = [*KINDS.get(row["kind"], ()), {"Fail": "failed with an error", "Success": "succeeded"}.get(row["status"], "")]
        parts += [split_names(row["error_class"] or ""), *(names[account] for account in row["programs"] if account in names)]
        parts += ["part of a sandwich attack, MEV, front-run and back-run"] if row["is_sandwich"] else []
        out.append(", ".join(part for part in parts if part) if row["kind"] else "")
    return out


def split_names(text: str) -> str:
    """Camel case as words, without accounts."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"\b[1-9A-HJ-NP-Za-km-z]{32,44}\b", "", text)).strip()


def by_words(exact: ExactSearch, terms: pa.ListArray, text: str) -> np.ndarray:
    """BM25 over other terms than those of the texts."""
    wanted = query_terms(text)
    if not wanted:
        return np.zeros(len(exact.rows))
    _, has = bm25(terms, wanted, {}, len(terms), 1.0)
    length = float(np.diff(terms.offsets.to_numpy()).mean())
    return bm25(terms, wanted, dict(zip(wanted, has.sum(axis=0).tolist(), strict=True)), len(terms), length)[0]


def adapted(exact: ExactSearch, judged: Judged, queries: Sequence[Query], model: MiniLM, vectors: np.ndarray) -> None:
    """The adapter, in vector search and in the default, on blocks that it was not fitted on."""
    slots = exact.rows["slot"].to_numpy()
    measured = np.isin(slots, MEASURED_SLOTS)
    made = made_up(exact, np.flatnonzero(~measured & (exact.rows["status"].is_valid().to_numpy(zero_copy_only=False))))
    asked = model.embed(list(made)).astype(np.float64)
    answers = np.array([vectors[rows].mean(axis=0) for rows in made.values()])
    answers /= np.linalg.norm(answers, axis=1, keepdims=True)
    keep = RIDGE * np.eye(asked.shape[1])
    adapter = np.linalg.solve(asked.T @ asked + keep, asked.T @ answers + keep)
    there = {name for name, inside in zip(exact.names, measured, strict=True) if inside}
    left = [
        Query(query.text, query.need, query.kind, query.split, {name: grade for name, grade in query.grades.items() if name in there})
        for query in queries
    ]
    left = [query for query in left if query.grades]
    out: dict[str, list[Ranking]] = defaultdict(list)

    def near(vector: np.ndarray) -> np.ndarray:
        cosines = vectors @ vector
        return np.where(measured, cosines - cosines.min() + 1e-6, 0)

    for query in left:
        understood = exact.understand(query)
        own, meant = (model.embed([text])[0].astype(np.float64) for text in (query.text, understood.text or WHATEVER))
        words = np.where(measured, exact.by_words(understood.words), 0)
        out["vector"].append(exact.rank(near(own)))
        out["vector, adapter"].append(exact.rank(near(own @ adapter)))
        for name, vector in (("hybrid understood", meant), ("hybrid understood, adapter", meant @ adapter)):
            # Conditions put others first as well: those of other blocks are taken out.
            out[name].append([found for found in exact.rank(words, near(vector), understood=understood) if found in there])
    table(judged, left, out)


def made_up(exact: ExactSearch, rows: np.ndarray) -> dict[str, list[int]]:
    """Queries from the labels of documents, and the documents that answer each."""
    random, names = np.random.default_rng(SEED), exact.registry.names
    found: dict[str, list[int]] = defaultdict(list)
    labels = exact.rows.select(["kind", "status", "error_class", "programs"]).to_pylist()
    for at in rows.tolist():
        row = labels[at]
        kind, outcome = str(random.choice(KINDS[row["kind"]])), str(random.choice(OUTCOMES[row["status"]]))
        programs = [names[account] for account in row["programs"] if names.get(account, "System") not in ("System", "Compute Budget", "SPL Token")]
        asked = [f"{outcome} {kind}"]
        if programs:
            program = str(random.choice(programs))
            asked += [f"{outcome} {kind} on {program}", f"{program} {kind}"]
        if row["error_class"]:
            asked += [split_names(row["error_class"]).lower(), f"{kind} failed because {split_names(row['error_class']).lower()}"]
        for text in asked:
            if text.strip():
                found[text.strip()].append(at)
    return dict(found)


def table(judged: Judged, queries: Sequence[Query], systems: Mapping[str, Sequence[Ranking]]) -> None:
    """Print nDCG@10 of each system and split, and the difference from the system before the comma."""
    for split in SPLITS:
        places = [place for place, query in enumerate(queries) if query.split == split]
        asked = [queries[place] for place in places]
        found = {name: score(judged, asked, [rankings[place] for place in places])["nDCG@10"] for name, rankings in systems.items()}
        for name, values in found.items():
            about: dict[str, Any] = {"system": name, "split": split, "measure": "nDCG@10", "queries": len(asked)}
            base = name.partition(",")[0]
            if name != base:
                low, high = interval(values - found[base], asked)
                about |= {
                    "over": base,
                    "difference": round(float((values - found[base]).mean()), 4),
                    "difference_interval": [round(low, 4), round(high, 4)],
                }
            print(json.dumps({"figure": "retrieval_experiment", "value": round(float(values.mean()), 4), "kind": "measured", **about}), flush=True)


if __name__ == "__main__":
    main()
