"""What it costs to embed texts with MiniLM, and how near int8 comes to fp32. Prints one JSON line a figure.

    python benchmarks/embed.py [--texts 256] [--input PATH …]

Three kinds of text, all distinct: `sentences` of nine words and `transactions` of 46, both made of verbs, aliases, amounts and names with a
fixed seed, and `gists`, what is embedded of the documents of recorded blocks (some large ones of ../shared/data by default). Each rate is of
one `embed` of all texts, tokenisation included. `texts_per_s` is of wall seconds, and only means something where nothing else runs;
`texts_per_cpu_s` is of CPU seconds; fp32 is the limit that int8 is measured against. `gist_saved_share` is what is saved because documents
share gists, and `cache_saved_share` of a second range of which half the texts were in the first.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from blyan.corpus.embedding_cache import EmbeddingCache
from blyan.corpus.minilm import MiniLM, Precision
from blyan.store import Store

SEED = 7
WORDS = ["transfers", "swaps", "pays", "mints", "burns", "stakes", "closes", "creates", "to", "from", "for", "on", "with", "fee", "failed", "because"]
NAMES = ["SOL", "USDC", "Raydium", "Orca", "Jupiter", "token program", "system program", "associated token account", "insufficient funds"]

BLOCKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "solana" / "blocks"
DEFAULT = ("110130000-json-", "254170887-base64-", "285000037-json-", "332254855-json-")

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--texts", type=int, default=256, help="texts of each kind, gists at most so many")
    arguments.add_argument("--input", nargs="+", type=Path, help="files of recorded blocks")
    given = arguments.parse_args()
    paths = given.input or [path for start in DEFAULT for path in sorted(BLOCKS.glob(f"{start}*"))]
    random = np.random.default_rng(SEED)
    kinds = {"sentences": made(given.texts, 9, random), "transactions": made(given.texts, 46, random)}
    if paths:
        kinds["gists"] = gists(paths, given.texts, random)
    models = [opened(precision, cores) for precision in PRECISIONS for cores in (1, 2)]
    for kind, texts in kinds.items():
        measure(models, texts, {"kind": "measured", "texts_of": kind, "texts": len(texts), "seed": SEED})
    with tempfile.TemporaryDirectory() as folder:
        cached(EmbeddingCache(Store(folder, {}), models[-1][2]), kinds["sentences"], {"kind": "measured", "texts": given.texts, "seed": SEED})
    show("peak_rss_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, {"kind": "measured"})


def opened(precision: Precision, cores: int) -> tuple[Precision, int, MiniLM]:
    """A model, and how long it took to open it."""
    started = time.perf_counter()
    model = MiniLM(precision, threads=cores)
    show("open_s", time.perf_counter() - started, {"kind": "measured", "precision": precision})
    return precision, cores, model


def measure(models: list[tuple[Precision, int, MiniLM]], texts: list[str], report: dict[str, object]) -> None:
    """The figures of some texts in both precisions."""
    tokens = sum(len(models[0][2]._tokens(text, 0)[0]) for text in texts) / len(texts)
    vectors = {}
    for precision, cores, model in models:
        model.embed(texts[:8])
        started, worked = time.perf_counter(), time.process_time()
        vectors[precision] = model.embed(texts)
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - worked
        about = {"precision": precision, "cores": cores, "tokens_per_text": round(tokens, 1), **report}
        show("texts_per_s", len(texts) / wall_s, about)
        show("texts_per_cpu_s", len(texts) / cpu_s, about)
    cosines = (vectors["fp32"] * vectors["int8"]).sum(axis=1)
    show("int8_cosine_mean", float(cosines.mean()), report)
    show("int8_cosine_min", float(cosines.min()), report)
    nearest = [set(top) for top in top_10(vectors["fp32"])]
    again = [set(top) for top in top_10(vectors["int8"])]
    show("int8_same_10_nearest", float(np.mean([len(a & b) / 10 for a, b in zip(nearest, again, strict=True)])), report)


def cached(cache: EmbeddingCache, texts: list[str], report: dict[str, object]) -> None:
    """Two ranges that share texts, and what finding a vector costs."""
    middle = len(texts) // 2
    cache.embed(texts[:middle])
    show("cache_saved_share", cache.embed(texts[middle // 2 : middle // 2 + middle]).saved_share, report)
    started = time.perf_counter()
    cache.embed(texts[:middle])
    show("cached_texts_per_s", middle / (time.perf_counter() - started), report)


def gists(paths: list[Path], most: int, random: np.random.Generator) -> list[str]:
    """Distinct gists of the documents of recorded blocks, some of them where there are more; how many share one is printed."""
    from blyan.corpus.gist import gist

    texts = pa.concat_arrays([documents(path) for path in paths])
    started = time.process_time()
    found = gist(texts)
    cpu_s = time.process_time() - started
    distinct = found.unique().to_pylist()
    report = {"kind": "measured", "documents": len(texts), "distinct_texts": len(texts.unique()), "distinct_gists": len(distinct)}
    show("gist_saved_share", 1 - len(distinct) / len(texts), report)
    show("gists_per_cpu_s", len(texts) / cpu_s, report)
    return [distinct[index] for index in random.permutation(len(distinct))[:most]]


def documents(path: Path) -> pa.Array:
    """The texts of a recorded block, votes left out."""
    from blyan.corpus.activity import READ
    from blyan.corpus.documents import documents_of
    from blyan.corpus.registry import load_registry
    from blyan.lake import Lake
    from blyan.solana.ingest import land, normalise_range
    from blyan.solana.slots import SlotRange
    from blyan.solana.sources.archive import ArchiveSource

    slot = int(path.name.partition("-")[0])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "archive").mkdir()
        (Path(folder) / "archive" / path.name).symlink_to(path.resolve())
        lake, slots = Lake(f"{folder}/lake"), SlotRange(slot, slot)
        land(lake, ArchiveSource(f"{folder}/archive"), slots)
        normalise_range(lake, slots, workers=1)
        tables = {table.name: pa.Table.from_batches(lake.read(table, key=slots.key), table.arrow_schema()) for table in READ}
    return documents_of(tables, load_registry(), vote_share=0.0).rows["text"].combine_chunks().cast(pa.string())


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
