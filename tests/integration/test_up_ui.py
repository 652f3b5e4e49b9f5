"""`blyan up` on a machine that has nothing: slots arrive, ranges seal, the graph fills by itself, seen in a real browser, and the service reads it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import httpx
import pytest

from blyan import schemas
from blyan.lake import Lake
from blyan.query import engine
from blyan.query.lookup import SIGNATURE, read_manifest
from blyan.solana.landing import read_head
from blyan.solana.segments import LANDED
from blyan_assets.build import build_defs
from blyan_assets.checks import asset_key
from tests.integration.test_ui import look, page, screenshots

__all__ = ["page", "screenshots"]

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_S = 180.0

FOLLOWING = (*schemas.TEXTS, schemas.EMBEDDINGS, schemas.SAMPLES)
"""What follows the tables by itself. Tokens wait until somebody trains a tokenizer."""


def checks_of_a_range() -> int:
    """How many checks the run of a sealed range evaluates, which is of all that follows by itself."""
    graph = build_defs(with_marts=False).resolve_asset_graph()
    return sum(
        len(graph.get(key).check_keys)
        for key in graph.materializable_asset_keys
        if graph.get(key).is_partitioned and key != asset_key(schemas.TOKENS)
    )


def free_port() -> int:
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Everything:
    """Addresses of the UI and of the service, the lake, and the process."""

    graph: str
    service: str
    lake: Lake
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    """Everything, from nothing."""
    folder = tmp_path_factory.mktemp("up")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BLYAN_", "DAGSTER_"))}
    environment = clean | {
        "PYTHONPATH": str(REPOSITORY),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "BLYAN_LAKE": str(folder / "lake"),
        "BLYAN_SLOTS_PER_RANGE": "16",
        "BLYAN_EMBEDDED_TRANSACTIONS_PER_SLOT": "6",
    }
    port, serve_port = free_port(), free_port()
    ports = ["--port", str(port), "--chain-port", str(free_port()), "--serve-port", str(serve_port)]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "blyan.cli", "up", *ports, "--home", str(folder / "dagster")],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Everything(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{serve_port}", Lake(str(folder / "lake-live")), process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(WAIT_S)
            if process.returncode:
                print((folder / "up.log").read_text(encoding="utf-8", errors="replace"))


def until(what: str, holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert process.poll() is None, f"it ended with {process.returncode} before {what}"
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S:g} s"
        time.sleep(0.2)


def test_slots_arrive_ranges_seal_and_the_graph_fills_by_itself(running: Everything, page: Any, screenshots: Path) -> None:
    lake, process = running.lake, running.process
    until("slots arrive", lambda: (head := read_head(lake)) is not None and head.checkpoint > 0, process)
    until("ranges seal", lambda: any(landed.sealed for landed in (read_head(lake) or pytest.fail("no head")).ranges), process)
    # Nobody asks for anything: the sensor reports, automation requests, the daemon runs, and the follower lets go.
    until("the lake takes a range over", lambda: "000000000000" not in (read_head(lake) or pytest.fail("no head")).range_keys(), process)
    assert all("000000000000" in lake.partitions(table) for table in LANDED)
    until("the range is told as text and embedded", lambda: all("000000000000" in lake.partitions(table) for table in FOLLOWING), process)
    look(page, f"{running.graph}/assets/solana/landing", ["External Asset", "slots", "segments"], screenshots / "landing.png")
    look(page, f"{running.graph}/runs", ["Success", "automation", f"{checks_of_a_range()} checks"], screenshots / "runs.png")
    with engine.connect(lake, tables=[schemas.COMPLETENESS]) as connection:
        slots = [slot for (slot,) in connection.execute("select slot from solana.completeness order by slot").fetchall()]
    assert slots == sorted(set(slots))
    head = read_head(lake)
    assert head is not None
    assert slots[0] == 0


def test_the_service_reads_what_is_there_and_the_index_follows(running: Everything) -> None:
    until("the range is indexed", lambda: any("000000000000" in run.ranges for run in read_manifest(running.lake, SIGNATURE).runs), running.process)
    oldest = httpx.get(f"{running.service}/v1/transactions", params={"first_slot": 0, "last_slot": 15, "limit": 1}, timeout=WAIT_S).json()
    signature = oldest["data"][0]["signature"]
    found = httpx.get(f"{running.service}/v1/transactions/{signature}", timeout=WAIT_S).json()
    assert found["data"]["block_slot"] <= 15
    newest = httpx.get(f"{running.service}/v1/blocks", params={"limit": 1, "order": "desc"}, timeout=WAIT_S).json()
    assert newest["reading"]["up_to_slot"] > 15


def test_it_ends_as_one(running: Everything) -> None:
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(WAIT_S) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.service}/healthz", timeout=WAIT_S)
