"""What it costs to embed texts with MiniLM, and how near int8 comes to fp32. Prints one JSON line a figure.

    python benchmarks/embed.py [--texts 512] [--words 46]

Texts are made like rendered transactions (verbs, aliases, amounts, program names), all distinct, the seed is fixed; 46 words are
about 100 tokens. Each rate is of one `embed` of all texts, tokenisation included. `texts_per_s` is of wall seconds, and only means something where
nothing else runs; `texts_per_cpu_s` is of CPU seconds. `cache_saved_share` is of a second range of which half the texts were in the first.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time

import numpy as np

from blyan.corpus.embedding_cache import EmbeddingCache
from blyan.corpus.minilm import MiniLM, Precision
from blyan.store import Store

SEED = 7
WORDS = ["transfers", "swaps", "pays", "mints", "burns", "stakes", "closes", "creates", "to", "from", "for", "on", "with", "fee", "failed", "because"]
NAMES = ["SOL", "USDC", "Raydium", "Orca", "Jupiter", "token program", "system program", "associated token account", "insufficient funds"]


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--texts", type=int, default=512)
    arguments.add_argument("--words", type=int, default=46)
    given = arguments.parse_args()
    texts = made(given.texts, given.words, np.random.default_rng(SEED))
    vectors, report = {}, {"kind": "measured", "texts": len(texts), "seed": SEED}
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    for precision in precisions:
        for threads in (1, 2):
            started = time.perf_counter()
            model = MiniLM(precision, threads=threads)
            opened_s = time.perf_counter() - started
            model.embed(texts[:8])
            tokens = sum(len(model._tokenizer.encode(text).ids) for text in texts) / len(texts)
            started, worked = time.perf_counter(), time.process_time()
            vectors[precision] = model.embed(texts)
            wall_s, cpu_s = time.perf_counter() - started, time.process_time() - worked
            about = {"precision": precision, "cores": threads, "tokens_per_text": round(tokens, 1), **report}
            show("texts_per_s", len(texts) / wall_s, about)
            show("texts_per_cpu_s", len(texts) / cpu_s, about)
        show("open_s", opened_s, {"precision": precision, **report})
    cosines = (vectors["fp32"] * vectors["int8"]).sum(axis=1)
    show("int8_cosine_mean", float(cosines.mean()), report)
    show("int8_cosine_min", float(cosines.min()), report)
    nearest = [set(top) for top in top_10(vectors["fp32"])]
    again = [set(top) for top in top_10(vectors["int8"])]
    show("int8_same_10_nearest", float(np.mean([len(a & b) / 10 for a, b in zip(nearest, again, strict=True)])), report)
    with tempfile.TemporaryDirectory() as folder:
        cached(EmbeddingCache(Store(folder, {}), model), texts, report)
    show("peak_rss_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, report)


def cached(cache: EmbeddingCache, texts: list[str], report: dict[str, object]) -> None:
    """Two ranges that share texts, and what finding a vector costs."""
    middle = len(texts) // 2
    cache.embed(texts[:middle])
    show("cache_saved_share", cache.embed(texts[middle // 2 : middle // 2 + middle]).saved_share, report)
    started = time.perf_counter()
    cache.embed(texts[:middle])
    show("cached_texts_per_s", middle / (time.perf_counter() - started), report)


def made(count: int, words: int, random: np.random.Generator) -> list[str]:
    """Distinct texts of a number of words."""
    return [" ".join(word(random, position) for position in range(words)) for _ in range(count)]


def word(random: np.random.Generator, position: int) -> str:
    """A verb, an alias, an amount or a name, in turn."""
    match position % 4:
        case 0:
            return f"@{random.integers(12)}"
        case 1:
            return WORDS[random.integers(len(WORDS))]
        case 2:
            return str(random.integers(10_000) / 10 ** int(random.integers(3)))
    return NAMES[random.integers(len(NAMES))]


def top_10(vectors: np.ndarray) -> np.ndarray:
    """The ten nearest others of each."""
    near = vectors @ vectors.T
    np.fill_diagonal(near, -1)
    return np.argpartition(-near, 10, axis=1)[:, :10]


def show(figure: str, value: float, report: dict[str, object]) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, "value": round(value, 4), **report}), flush=True)


if __name__ == "__main__":
    main()
