"""What searching costs over HTTP, beside the same searches in the process. Prints one JSON line a figure.

    python benchmarks/http_search.py [--documents 20000] [--queries 200]

The lake is one of the embedded chain, made and indexed as `blyan corpus --all` does. Questions are words of its documents, each asked once and
understood. `process_*` are `Searcher.find` in this process, warm: the limit that HTTP can come near to. `one_client_*` asks the service, one
process of it, over loopback, in turn with this process, the same questions; `clients_*` are sixteen at once with a key each, which share the
machine's cores with the service. `first_s` is the first search of the service, which opens the index and the model. Memory is resident, in MiB.

It is not called http.py: beside the other scripts that would hide Python's own module of that name.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from blyan.api.callers import SCOPES, Role
from blyan.api.keys import create
from blyan.corpus.embedder import open_embedder
from blyan.corpus.embeddings import write_embeddings
from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.corpus.search_index import maintain, open_index, write_range
from blyan.lake import Lake
from blyan.query.searcher import Searcher
from blyan.settings import Settings, load_settings
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources.embedded import EmbeddedSource

SEED = 7
WIDTH, TRANSACTIONS = 100, 50
CLIENTS = 16
MODES = ("hybrid", "vector", "text")


def main() -> None:
    """Make a lake, search it here, and over HTTP."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--documents", type=int, default=20_000)
    arguments.add_argument("--queries", type=int, default=200)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(lake=str(Path(folder) / "lake"), audit_log="")
        lake = Lake.from_settings(settings)
        fill(lake, settings, given.documents)
        searcher = Searcher(lake, settings)
        asked = questions(lake, given.queries)
        report = {"kind": "measured", "documents": searcher.find("transfer").answer.searched.documents, "seed": SEED}
        keys = [create(lake, Role.OPERATOR, SCOPES[Role.OPERATOR]) for _ in range(CLIENTS)]
        with served(settings, folder) as (url, started_s, process):
            show("service_start_s", started_s, report)
            show("service_idle_mib", resident_mib(process), report)
            over_http(url, keys, asked, searcher, report)
            show("service_after_mib", resident_mib(process), report)


def over_http(url: str, keys: list[str], asked: list[str], searcher: Searcher, report: dict[str, Any]) -> None:
    """One client and this process in turn, and then many clients at once."""
    clients = [httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) for key in keys]

    def search(client: httpx.Client, text: str, mode: str) -> float:
        return seconds(lambda: client.post("/v1/search", json={"query": text, "mode": mode}).raise_for_status())

    show("first_s", search(clients[0], "transfer", "hybrid"), report)
    for mode in MODES:
        here, there = [], []
        for text in asked:
            here.append(seconds(lambda text=text, mode=mode: searcher.find(text, mode=mode)))
            there.append(search(clients[0], text, mode))
        tell(f"process_{mode}", here, report)
        tell(f"one_client_{mode}", there, report)
    for mode in MODES:
        began = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            parts = pool.map(lambda at, mode=mode: [search(clients[at], text, mode) for text in asked[at::CLIENTS]], range(CLIENTS))
            times = [each for part in parts for each in part]
        tell(f"clients_{mode}", times, {**report, "clients": CLIENTS})
        show(f"clients_{mode}_per_s", len(times) / (time.perf_counter() - began), {**report, "clients": CLIENTS})
    for client in clients:
        client.close()


def fill(lake: Lake, settings: Settings, count: int) -> None:
    """A chain's lake with about so many documents, and its index."""
    ranges = max(1, count // (WIDTH * TRANSACTIONS))
    source, embedder = EmbeddedSource(seed=SEED, transactions_per_slot=TRANSACTIONS, horizon_slot=ranges * WIDTH), open_embedder(settings)
    for number in range(ranges):
        slots = SlotRange(number * WIDTH, number * WIDTH + WIDTH - 1)
        land(lake, source, slots)
        normalise_range(lake, slots)
        write_corpus(lake, slots, load_registry(), vote_share=1.0)
        write_embeddings(lake, slots, embedder)
        write_range(lake, slots)
    maintain(lake, retention_hours=0)


def questions(lake: Lake, count: int) -> list[str]:
    """Two to four words of a document each."""
    random = np.random.default_rng(SEED)
    texts = open_index(lake).documents.to_table(columns=["text"], filter="scope = 'transaction'", limit=5_000)["text"].to_pylist()
    return [" ".join(random.choice(random.choice(texts).split(), int(random.integers(2, 5)))) for _ in range(count)]


@contextmanager
def served(settings: Settings, folder: str) -> Any:
    """The service over a lake: its address, the seconds until it answered, and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {name: value for name, value in os.environ.items() if not name.startswith("BLYAN_")}
    own |= {"BLYAN_LAKE": settings.lake, "BLYAN_AUDIT_LOG": "", "BLYAN_QUERY_PROCESSES": "1"}
    began = time.perf_counter()
    command = [sys.executable, "-m", "blyan.cli", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=own, cwd=folder, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx.get(f"{url}/healthz", timeout=5).raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url, time.perf_counter() - began, process.pid
    finally:
        process.terminate()
        process.wait(60)


def resident_mib(process: int) -> float:
    """Of the process alone; those that run SQL are others."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def seconds(work: Any) -> float:
    """How long something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def tell(figure: str, times: list[float], report: dict[str, Any]) -> None:
    """Median and 95th percentile."""
    for name, share in (("p50", 50), ("p95", 95)):
        show(f"{figure}_{name}_ms", float(np.percentile(times, share)) * 1e3, report)


def show(figure: str, value: float, report: dict[str, Any]) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, "value": round(value, 3), **report}), flush=True)


if __name__ == "__main__":
    main()
