"""The recorded corpus in a lake of its own, with the index that users search.

Belongs here: making it, and the order in which it answers. Does not belong here: exact ranking (`exact_search`), measures.
"""

from __future__ import annotations

from collections.abc import Callable

from judgements import Ranking
from recorded_corpus import Corpus

from blyan.corpus.embedder import Embedder
from blyan.corpus.embeddings import write_embeddings
from blyan.corpus.search_index import OpenIndex, open_index, write_range
from blyan.lake import Lake
from blyan.query.ask import ask
from blyan.query.search import Hit, Mode, search
from blyan.schemas import DOCUMENTS, SUMMARIES
from blyan.solana.slots import SlotRange

SLOTS = SlotRange(0, 499_999_999)
"""One range has all recordings."""

LIMIT = 100


def indexed(corpus: Corpus, root: str, embedder: Embedder) -> OpenIndex:
    """The index of a corpus, made in a lake at a root."""
    lake = Lake(root)
    lake.write_partition(DOCUMENTS, SLOTS.key, [corpus.documents.select(DOCUMENTS.column_names)])
    lake.write_partition(SUMMARIES, SLOTS.key, [corpus.summaries])
    write_embeddings(lake, SLOTS, embedder)
    write_range(lake, SLOTS)
    return open_index(lake)


def ways(index: OpenIndex, corpus: Corpus, embedder: Embedder) -> dict[str, Callable[[str], Ranking]]:
    """How the index answers a question: plain search in each mode, and what `blyan search` does."""

    def plain(mode: Mode) -> Callable[[str], Ranking]:
        return lambda text: [named(hit) for hit in search(index, text, embed=lambda words: embedder.embed([words]), mode=mode, limit=LIMIT).hits]

    def asked(text: str) -> Ranking:
        return [named(hit) for hit in ask(index, text, corpus.registry, embed=lambda words: embedder.embed([words]), limit=LIMIT).answer.hits]

    return {"index text": plain("text"), "index vector": plain("vector"), "index hybrid": plain("hybrid"), "blyan search": asked}


def named(hit: Hit) -> str:
    """What a hit is called in the judgements."""
    row = hit.row
    return str(row["signature"]) if row["signature"] else f"{row['scope']} {row['subject']} {row['slot']}"
