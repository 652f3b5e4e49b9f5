"""How long after a slot is announced its rows are in a query's result, everything running on one machine.

    python benchmarks/lag.py [--chain embedded|recorded] [--seconds 60] [--transactions-per-slot 1000]

Three processes share the machine: the chain at 400 ms a slot (the embedded one, whose execution of 1,000 transactions takes most
of a core, or a node that gives a recorded mainnet block, as a node elsewhere would), `blyan follow`, and this one, which listens to the same
announcements and, whenever the head has a newer slot, asks
`select max(slot) from solana.blocks` of views made anew. The lag of a
slot is from when this process heard of it to when a query answered with it: it includes the slot's own 400 ms, after which the
node serves the block as `confirmed`, and the query. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def main() -> None:
    """Start the processes, measure, end them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--chain", choices=["embedded", "recorded"], default="embedded")
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--transactions-per-slot", type=int, default=1_000)
    arguments.add_argument("--warm-up", type=float, default=15.0, help="seconds before measuring begins")
    given = arguments.parse_args()
    blyan = [sys.executable, "-m", "blyan.cli"]
    with tempfile.TemporaryDirectory() as folder:
        node = [*blyan, "localnet", "--port", "0"]
        if given.chain == "recorded":
            node = [sys.executable, str(Path(__file__).parent / "node" / "recorded.py")]
        rate = ["--transactions-per-slot", str(given.transactions_per_slot)]
        chain = subprocess.Popen([*node, *rate], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        follower = None
        try:
            http, socket = endpoints(chain)
            environment = os.environ | {
                "BLYAN_LAKE": f"{folder}/lake",
                "BLYAN_RPC_URL": http,
                "BLYAN_WEBSOCKET_URL": socket,
                "BLYAN_HORIZON_SLOT": "1000000",
                "BLYAN_SLOTS_PER_RANGE": "64",
            }
            follower = subprocess.Popen([*blyan, "follow"], env=environment, stderr=subprocess.DEVNULL)
            print(json.dumps(measure(f"{folder}/lake", socket, given)))
        finally:
            for process in (follower, chain):
                if process is not None:
                    process.terminate()
                    process.wait(20)


def endpoints(chain: subprocess.Popen[str]) -> tuple[str, str]:
    """The URLs that the chain says it serves; its further words are thrown away."""
    found: list[tuple[str, str]] = []
    ready = threading.Event()

    def read(stream: object) -> None:
        for line in stream:  # type: ignore[attr-defined]
            match = re.search(r"(http://\S+?),? .*(ws://\S+)", line)
            if match:
                found.append((match[1], match[2]))
                ready.set()

    for stream in (chain.stdout, chain.stderr):
        threading.Thread(target=read, args=(stream,), daemon=True).start()
    if not ready.wait(60):
        sys.exit("the local chain did not start")
    return found[0]


def measure(lake: str, socket: str, given: argparse.Namespace) -> dict[str, object]:
    """Listen and ask, side by side."""
    from blyan.lake import Lake
    from blyan.solana.landing import read_head

    announced: dict[int, float] = {}
    threading.Thread(target=lambda: asyncio.run(listen(socket, announced)), daemon=True).start()
    seen: dict[int, float] = {}
    queries: list[float] = []
    begin = time.monotonic() + given.warm_up
    landed, reader = -1, Reader(lake)
    while time.monotonic() < begin + given.seconds:
        head = read_head(Lake(lake))
        newest = -1 if head is None else max((segment.last for each in head.ranges for segment in each.segments), default=-1)
        if newest == landed:
            time.sleep(0.01)
            continue
        landed, start = newest, time.monotonic()
        newest = reader.newest()
        now = time.monotonic()
        queries.append(now - start)
        for slot in range(max(seen, default=newest - 1) + 1, newest + 1):
            seen[slot] = now
    lags = [seen[slot] - at for slot, at in list(announced.items()) if slot in seen and at >= begin]
    cut = statistics.quantiles(lags, n=100)
    return {
        "figure": "announced_to_readable",
        "kind": "measured",
        "cores": os.cpu_count(),
        "chain": given.chain,
        "transactions_per_slot": given.transactions_per_slot,
        "slots": len(lags),
        "p50_ms": round(cut[49] * 1e3),
        "p95_ms": round(cut[94] * 1e3),
        "p99_ms": round(cut[98] * 1e3),
        "query_p50_ms": round(statistics.median(queries) * 1e3),
    }


class Reader:
    """A connection that is kept, as a service keeps one; what it shows is made anew for every question."""

    def __init__(self, lake: str) -> None:
        from blyan.lake import Lake
        from blyan.query.engine import connect

        self._lake = Lake(lake)
        self._connection = connect(self._lake, tables=[])

    def newest(self) -> int:
        """The newest slot that a query finds; -1 while there is none."""
        from blyan.query.engine import expose
        from blyan.schemas import BLOCKS

        expose(self._connection, self._lake, tables=[BLOCKS])
        found = self._connection.execute("select max(slot) from solana.blocks").fetchone()
        return -1 if found is None or found[0] is None else int(found[0])


async def listen(socket: str, announced: dict[int, float]) -> None:
    """Note when each slot is announced."""
    from blyan.solana.follower.stream import WebSocketSlots

    async for slot in WebSocketSlots(socket).slots():
        announced.setdefault(slot, time.monotonic())


if __name__ == "__main__":
    main()
