"""Ways to rank the recorded corpus, each exact and over every document.

Belongs here: text, vector and hybrid ranking with and without what is understood of a query. Does not belong here: the index that users search
(`blyan.query.search`), which ranks the same way from candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from judgements import DEPTH, Query, Ranking
from recorded_corpus import Corpus

from blyan.corpus.embedder import Embedder
from blyan.corpus.gist import gist
from blyan.corpus.terms import bm25, query_terms, terms_of
from blyan.query.conditions import weigh
from blyan.query.understanding import Understanding, understand

Floats = npt.NDArray[np.float64]

FUSION = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009)."""

WHATEVER = "transaction"
"""What is embedded of a query that is an account or a signature and nothing else."""


class ExactSearch:
    """Every document of a corpus, to be ranked."""

    def __init__(self, corpus: Corpus) -> None:
        self.registry = corpus.registry
        self.rows = _rows(corpus)
        self.names = self.rows["name"].to_pylist()
        self.terms = terms_of(self.rows["text"].combine_chunks())
        self.gists = gist(self.rows["text"].combine_chunks())
        self.lengths = np.diff(self.terms.offsets.to_numpy())

    def by_words(self, text: str) -> Floats:
        """BM25 of each document; 0 where it has none of the words."""
        wanted = query_terms(text)
        if not wanted:
            return np.zeros(len(self.rows))
        _, has = bm25(self.terms, wanted, {}, len(self.rows), 1.0)
        counts = dict(zip(wanted, has.sum(axis=0).tolist(), strict=True))
        scores, _ = bm25(self.terms, wanted, counts, len(self.rows), float(self.lengths.mean()))
        return scores

    def vectors(self, embedder: Embedder, texts: pa.Array | None = None) -> Floats:
        """The vector of each document, of its gist or of another text; equal texts are embedded once."""
        coded = (self.gists if texts is None else texts).dictionary_encode()
        return embedder.embed(coded.dictionary.to_pylist())[coded.indices.to_numpy()].astype(np.float64)

    def rank(self, *orders: Floats, weights: Sequence[float] = (), understood: Understanding | None = None) -> Ranking:
        """Documents, best first, at most `DEPTH`: by reciprocal rank fusion where there are several orders, after the conditions that they meet.

        Args:
            orders: scores of each document, float64 [documents]; 0 or less of one that is not found.
            weights: of each order, 1 by default.
            understood: whose conditions come first.
        """
        fused = np.zeros(len(self.rows))
        for place, scores in enumerate(orders):
            found = np.flatnonzero(scores > 0)
            by = found[np.argsort(-np.round(scores[found], 6), kind="stable")]
            fused[by] += (weights[place] if weights else 1.0) / (FUSION + 1 + np.arange(len(by)))
        if understood is not None:
            fused += weigh(understood.conditions, understood.order, self.rows)
        by = np.argsort(-fused, kind="stable")[:DEPTH]
        return [self.names[at] for at in by[fused[by] > 0].tolist()]

    def understand(self, query: Query) -> Understanding:
        """What the query asks for."""
        return understand(query.text, self.registry)


def _rows(corpus: Corpus) -> pa.Table:
    """Documents and summaries, with the columns of the search index that ranking reads, and their names in the judgements."""
    documents, summaries = corpus.documents, corpus.summaries
    parts = [
        {
            **{name: documents[name] for name in ("text", "status", "kind", "error_class", "programs", "accounts", "is_sandwich")},
            "scope": pa.repeat("transaction", len(documents)),
            "slot": documents["block_slot"],
            "signature": documents["tx_signature"],
            "name": documents["tx_signature"],
        },
        {
            "text": summaries["text"],
            "status": pa.nulls(len(summaries), pa.string()),
            "kind": pa.nulls(len(summaries), pa.string()),
            "error_class": pa.nulls(len(summaries), pa.string()),
            "programs": _own(summaries, "program"),
            "accounts": _own(summaries, "account"),
            "is_sandwich": pa.repeat(False, len(summaries)),
            "scope": summaries["scope"],
            "slot": summaries["first_slot"],
            "signature": pa.nulls(len(summaries), pa.string()),
            "name": pc.binary_join_element_wise(summaries["scope"], summaries["subject"], summaries["first_slot"].cast(pa.string()), " "),
        },
    ]
    tables = [pa.table(part) for part in parts]
    return pa.concat_tables([tables[0], tables[1].cast(tables[0].schema)]).combine_chunks()


def _own(summaries: pa.Table, scope: str) -> pa.Array:
    pairs = zip(summaries["scope"].to_pylist(), summaries["subject"].to_pylist(), strict=True)
    return pa.array([[subject] if of == scope else [] for of, subject in pairs], pa.list_(pa.string()))
