"""What the search index costs and how good it is, at 200,000 documents. Prints one JSON line a figure.

    python benchmarks/search.py [--documents 200000] [--queries 200] [--folder DIR]

The documents are replicated: those of a short run of the embedded chain, each many times, with slots, signatures, accounts and a word of its own;
one in five copies has a structural key of its own. Each has a vector of its own, that of its original with noise (cosine about 0.9): real
documents share vectors, so this is the hard case. Questions are documents' vectors with as much noise, and two to four words of a text.

Building is from the Delta tables, in a process of its own whose peak memory is told; making vectors is not in it (benchmarks/embed.py). Searches
run one after another in one process, warm; a question's own embedding is not in them, and is told apart. Answers are compared with a search of
everything by numpy, which is timed too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from blyan.corpus.embedder import open_embedder
from blyan.corpus.gist import gist
from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.corpus.search_index import OpenIndex, maintain, open_index, write_range
from blyan.lake import Lake
from blyan.query.ask import ask
from blyan.query.search import GISTS, Filters, search
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES
from blyan.settings import load_settings
from blyan.solana import base58
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources.embedded import EmbeddedSource

SEED = 7
RANGES = 20
WIDTH = 1_000
QUESTIONS = (
    "failed swaps on Raydium over 100 dollars",
    "the largest transfer of SOL",
    "insufficient funds",
    "sandwiches on Orca",
    "who minted tokens",
    "votes that failed",
    "swaps of USDC for SOL with a slippage error",
    "transactions with more than 200000 compute units",
)
NOISE = 0.48
"""Length of the noise that is added to a vector of length 1."""


def main() -> None:
    """Make a lake, index it in another process, search it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--documents", type=int, default=200_000)
    arguments.add_argument("--queries", type=int, default=200)
    arguments.add_argument("--folder", help="a folder with the lake of an earlier run, or for the one of this run; by default one that is deleted")
    arguments.add_argument("--index", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.index:
        build(Lake(given.index))
        return
    folder = Path(given.folder or tempfile.mkdtemp())
    lake = Lake(str(folder / "lake"))
    report = {"kind": "measured", "documents": given.documents, "seed": SEED}
    if not lake.exists(EMBEDDINGS):
        fill(lake, given.documents)
    shutil.rmtree(folder / "lake" / "search", ignore_errors=True)
    built = subprocess.run([sys.executable, "-W", "ignore", __file__, "--index", lake.root], capture_output=True, text=True, check=True)
    for figure, value in json.loads(built.stdout).items():
        show(figure, value, report)
    measure(lake, given.queries, report)
    if not given.folder:
        shutil.rmtree(folder)


def build(lake: Lake) -> None:
    """Index every range, and bring the indexes up to date; what that cost."""
    keys = sorted(lake.partitions(EMBEDDINGS))
    began, worked = time.perf_counter(), time.process_time()
    for key in keys:
        write_range(lake, SlotRange(int(key), int(key) + WIDTH - 1))
    written = time.perf_counter() - began
    maintain(lake, retention_hours=0)
    figures = {
        "index_build_s": time.perf_counter() - began,
        "index_build_cpu_s": time.process_time() - worked,
        "of_it_writing_ranges_s": written,
        "index_build_peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    began = time.perf_counter()
    write_range(lake, SlotRange(int(keys[0]), int(keys[0]) + WIDTH - 1))
    figures["range_unchanged_s"] = time.perf_counter() - began
    folder = Path(lake.root) / "search"
    figures["index_mib"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    print(json.dumps(figures))


def fill(lake: Lake, count: int) -> None:
    """Tables of text of as many documents, in ranges."""
    originals, vectors = chain_documents()
    random = np.random.default_rng(SEED)
    for number in range(RANGES):
        slots = SlotRange(number * WIDTH, number * WIDTH + WIDTH - 1)
        size = count // RANGES
        of = random.integers(len(originals), size=size)
        rows = copied(originals.take(pa.array(of)), slots, random)
        lake.write_partition(DOCUMENTS, slots.key, [rows])
        summary = {
            "first_slot": slots.first,
            "last_slot": slots.last,
            "scope": "range",
            "subject": "",
            "text": f"Slots {slots}.",
            "transactions": size,
        }
        lake.write_partition(SUMMARIES, slots.key, [pa.Table.from_pylist([summary | {"votes_left_out": 0}], SUMMARIES.arrow_schema())])
        own = noisy(vectors[of], random)
        texts = gist(rows["text"].combine_chunks()).to_pylist()
        embedded = pa.table(
            {
                "first_slot": rows["block_slot"],
                "text_sha256": [hashlib.sha256(text.encode()).hexdigest() for text in texts],
                "text": texts,
                "documents": np.ones(size, np.int64),
                "vector": pa.ListArray.from_arrays(pa.array(np.arange(size + 1, dtype=np.int32) * own.shape[1]), pa.array(own.reshape(-1))),
                "model": ["a" * 64] * size,
            }
        )
        lake.write_partition(EMBEDDINGS, slots.key, [embedded.sort_by([("first_slot", "ascending"), ("text_sha256", "ascending")])])


def chain_documents() -> tuple[pa.Table, np.ndarray]:
    """Documents of the embedded chain, and their vectors."""
    slots = SlotRange(0, 49)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        land(lake, EmbeddedSource(seed=SEED, transactions_per_slot=100, horizon_slot=50), slots)
        normalise_range(lake, slots, workers=1)
        write_corpus(lake, slots, load_registry(), vote_share=0.01)
        rows = pa.Table.from_batches(lake.read(DOCUMENTS, key=slots.key), DOCUMENTS.arrow_schema())
    texts = gist(rows["text"].combine_chunks()).to_pylist()
    distinct = sorted(set(texts))
    vectors = dict(zip(distinct, open_embedder(load_settings()).embed(distinct), strict=True))
    return rows, np.stack([vectors[text] for text in texts])


def copied(rows: pa.Table, slots: SlotRange, random: np.random.Generator) -> pa.Table:
    """Rows with slots, signatures, accounts and a word of their own."""
    size = len(rows)
    at = np.sort(random.integers(slots.first, slots.last + 1, size=size))
    words = ["".join(letters) for letters in random.choice(list("abcdefghijklmnopqrstuvwxyz"), (size, 8))]
    pool = [base58.encode(random.bytes(32)) for _ in range(size // 10)]
    keys = rows["structural_key"].to_pylist()
    fresh = random.random(size) < 0.2
    columns = {
        "block_slot": pa.array(at),
        "block_timestamp": pa.array([datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=int(slot)) for slot in at], rows["block_timestamp"].type),
        "tx_signature": pa.array([base58.encode(random.bytes(64)) for _ in range(size)]),
        "tx_index": pa.array(np.arange(size)),
        "text": pa.array([f"{text}\nNoted {word}" for text, word in zip(rows["text"].to_pylist(), words, strict=True)]),
        "accounts": pa.array([[pool[place] for place in random.integers(len(pool), size=len(each))] for each in rows["accounts"].to_pylist()]),
        "structural_key": pa.array([random.bytes(16).hex() if new else key for key, new in zip(keys, fresh, strict=True)]),
    }
    return pa.table([columns.get(name, rows[name]) for name in rows.column_names], rows.column_names)


def noisy(vectors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Other directions near these."""
    noise = random.normal(size=vectors.shape).astype(np.float32)
    moved = vectors + NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    made: np.ndarray = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    return made


def measure(lake: Lake, queries: int, report: dict[str, Any]) -> None:
    """Times, and how many of the right hits are found."""
    before = resident_mib()
    began = time.perf_counter()
    index = open_index(lake)
    index.ranking.documents  # noqa: B018 - mapped and joined on first use
    show("open_s", time.perf_counter() - began, report)
    random = np.random.default_rng(SEED + 1)
    one = index.ranking.vectors(np.array([0]))
    began = time.perf_counter()
    timed(index, "swap", one[0], "hybrid", Filters(statuses=("Success",)))
    show("first_search_s", time.perf_counter() - began, report)
    show("open_resident_mib", resident_mib() - before, report)
    matrix = index.ranking.vectors(np.arange(len(index.ranking.gists)))
    directions = noisy(matrix[random.integers(len(matrix), size=queries)], random)
    texts = index.documents.to_table(columns=["text"], filter="scope = 'transaction'", limit=5_000)["text"].to_pylist()
    asked = [" ".join(random.choice(random.choice(texts).split(), int(random.integers(2, 5)))) for _ in range(queries)]
    accounts = index.documents.to_table(columns=["accounts"], filter="scope = 'transaction'", limit=5_000)["accounts"].to_pylist()
    recalls(index, matrix, directions, report)
    nothing = Filters()
    filters: dict[str, Callable[[int], Filters]] = {
        "": lambda _: nothing,
        "_half": lambda _: Filters(statuses=("Success",)),
        "_tenth": lambda at: Filters(slots=SlotRange(at % 18 * WIDTH, at % 18 * WIDTH + 2 * WIDTH - 1)),
        "_account": lambda at: Filters(accounts=(accounts[at % len(accounts)][0],)),
    }
    for mode in ("vector", "text", "hybrid"):
        for name, made in filters.items():
            percentiles(f"{mode}{name}", [timed(index, asked[at], directions[at], mode, made(at)) for at in range(queries)], report)
    registry = load_registry()
    times = []
    for at in range(queries):
        began = time.perf_counter()
        ask(index, QUESTIONS[at % len(QUESTIONS)], registry, embed=lambda _, at=at: directions[at][None])
        times.append(time.perf_counter() - began)
    percentiles("ask", times, report)
    show("resident_mib", resident_mib() - before, report)
    model = open_embedder(load_settings())
    times = []
    for text in asked[:50]:
        began = time.perf_counter()
        model.embed([text])
        times.append(time.perf_counter() - began)
    show("embed_question_p50_ms", float(np.percentile(times, 50)) * 1e3, report)


def recalls(index: OpenIndex, matrix: np.ndarray, directions: np.ndarray, report: dict[str, Any]) -> None:
    """Of the ten nearest vectors, and of the ten best hits, the share that is found."""
    near, right, exact_s = [], [], []
    ranking = index.ranking
    has = np.flatnonzero(ranking.gist_of >= 0)
    template_of = np.full(len(matrix), -1)
    template_of[ranking.gist_of[has]] = ranking.template_of[has]
    key_of: dict[int, str] = {}
    for direction in directions:
        began = time.perf_counter()
        order = np.argsort(-(matrix @ direction))[:2_000]
        exact_s.append(time.perf_counter() - began)
        near.append(len(np.intersect1d(order[:10], index.nearest(direction, GISTS))) / 10)
        templates = list(dict.fromkeys(template_of[order].tolist()))[:10]
        firsts = {int(ranking.of_template(template)[0]): template for template in templates if template not in key_of}
        key_of |= {firsts[number]: row["structural_key"] for number, row in index.rows(firsts, ["structural_key"]).items()}
        hits = search(index, "x", embed=lambda _, direction=direction: direction[None], mode="vector", limit=10, per_template=1).hits
        right.append(len({key_of[template] for template in templates} & {hit.row["structural_key"] for hit in hits}) / 10)
    show("vector_recall_at_10", float(np.mean(near)), report)
    show("answer_recall_at_10", float(np.mean(right)), report)
    show("numpy_exact_p50_ms", float(np.percentile(exact_s, 50)) * 1e3, report)


def percentiles(figure: str, seconds: list[float], report: dict[str, Any]) -> None:
    """Print the median and the 95th percentile."""
    for name in (50, 95):
        show(f"{figure}_p{name}_ms", float(np.percentile(seconds, name)) * 1e3, report)


def resident_mib() -> float:
    """Memory of this process that is its own or mapped from files, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def timed(index: OpenIndex, text: str, direction: np.ndarray, mode: Any, filters: Filters) -> float:
    """Seconds of one search."""
    began = time.perf_counter()
    search(index, text, embed=lambda _: direction[None], mode=mode, filters=filters, limit=10)
    return time.perf_counter() - began


def show(figure: str, value: float, report: dict[str, Any]) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, "value": round(value, 4), **report}), flush=True)


if __name__ == "__main__":
    main()
