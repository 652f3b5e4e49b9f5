"""The HTTP service as a process over a small lake, for tests that ask it over the network.

Belongs here: making that lake, starting and ending the service. Does not belong here: questions.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from blyan.api.callers import SCOPES, Role, Scope
from blyan.api.keys import create
from blyan.corpus.embedder import open_embedder
from blyan.corpus.embeddings import write_embeddings
from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.corpus.search_index import write_range
from blyan.lake import Lake
from blyan.settings import Settings, load_settings
from blyan.solana.ingest import land, normalise_range
from blyan.solana.landing import Landing
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source

REPOSITORY = Path(__file__).resolve().parents[1]

WAIT_S = 60.0

LAST_SLOT = 49
"""The newest slot of the lake; 40 to 49 are in the landing."""


def made_lake(folder: Path, *, landed: bool = True) -> Settings:
    """Two ranges of 20 slots in the lake, and ten slots in the landing, of which the first five are final."""
    settings = load_settings(lake=str(folder), horizon_slot=100, slots_per_range=20, embedded_transactions_per_slot=6)
    lake, source = Lake.from_settings(settings), open_source(settings)
    lake.pin("genesis_hash", source.genesis_hash())
    for slots in (SlotRange(0, 19), SlotRange(20, 39)):
        land(lake, source, slots)
        normalise_range(lake, slots)
    if landed:
        landing = Landing(lake, settings.grid)
        landing.open(40)
        landing.advance(list(source.read(SlotRange(40, 44))), processed=46, checkpoint=40)
        landing.advance(list(source.read(SlotRange(45, LAST_SLOT))), processed=51, checkpoint=45)
        landing.close()
    return settings


def make_searchable(settings: Settings, *, vote_share: float = 0.01) -> None:
    """Documents, vectors and the search index of the lake's ranges, by the model that is the default."""
    lake, embedder = Lake.from_settings(settings), open_embedder(settings)
    for slots in (SlotRange(0, 19), SlotRange(20, 39)):
        write_corpus(lake, slots, load_registry(), vote_share=vote_share)
        write_embeddings(lake, slots, embedder)
        write_range(lake, slots)


def key_for(lake: Lake, role: Role = Role.OPERATOR, scopes: frozenset[Scope] | None = None, *, lasts_s: float | None = None) -> str:
    """A key of a role."""
    return create(lake, role, SCOPES[role] if scopes is None else scopes, name=f"a test's {role}", lasts_s=lasts_s)


@dataclass
class Served:
    """A running service: where it listens, what it wrote, and its process."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def client(self, key: str | None = None, **options: object) -> httpx.Client:
        """A client that shows a key."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=WAIT_S, **options)  # type: ignore[arg-type]

    def end(self) -> int:
        """Ask it to end, and wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


@contextmanager
def served(settings: Settings, folder: Path, *, workers: int = 1, **environment: str) -> Iterator[Served]:
    """A service over the lake of the settings; `environment` has more of its settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BLYAN_", "DAGSTER_"))}
    own = {
        "BLYAN_QUERY_PROCESSES": "1",
        "BLYAN_LAKE": settings.lake,
        "BLYAN_AUDIT_LOG": str(folder / "audit.jsonl"),
        "PYTHONPATH": str(REPOSITORY),
        **environment,
    }
    command = [sys.executable, "-m", "blyan.cli", "serve", "--port", "0", "--workers", str(workers)]
    process = subprocess.Popen(command, cwd=folder, env=clean | own, stderr=subprocess.PIPE, text=True)
    service = Served("", process)
    said = threading.Event()

    def listen() -> None:
        for line in process.stderr or ():
            service.lines.append(line.rstrip("\n"))
            if found := re.search(r" at (https?://\S+);", line):
                service.url = found[1]
                said.set()
        said.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        assert said.wait(WAIT_S), "it said nothing"
        assert service.url, "\n".join(service.lines)
        certain = httpx.get(f"{service.url}/healthz", timeout=WAIT_S, verify=False)  # answered once it has started
        assert certain.status_code == 200
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        listener.join(WAIT_S)
        if process.stderr:
            process.stderr.close()


def until(what: object, wait_s: float = WAIT_S) -> None:
    """Wait until a function gives something true."""
    ends = time.monotonic() + wait_s
    while not what():  # type: ignore[operator]
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.02)
