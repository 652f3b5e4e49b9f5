"""How long after a range is sealed everything made from it is materialised, everything running on one machine.

    python benchmarks/downstream.py [--ranges 12] [--slots-per-range 64] [--transactions-per-slot 24]

`blyan up` from nothing: the local chain at 400 ms a slot, the follower, Dagster. A range is sealed when `head.json` first says
so, looked at ten times a second; a table is materialised when Dagster's event says so. `landing` is the sensor's report, from
which on automation is at work. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from socket import socket

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    """Start everything, watch ranges being sealed, then read what Dagster recorded."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ranges", type=int, default=12, help="ranges to measure")
    arguments.add_argument("--skip", type=int, default=2, help="ranges before measuring begins, while everything starts")
    arguments.add_argument("--slots-per-range", type=int, default=64)
    arguments.add_argument("--transactions-per-slot", type=int, default=24)
    arguments.add_argument("--patience", type=float, default=180.0, help="seconds to wait for the last range after it is sealed")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BLYAN_", "DAGSTER_"))}
        environment = clean | {
            "PYTHONPATH": str(REPOSITORY),
            "BLYAN_LAKE": f"{folder}/lake",
            "BLYAN_SLOTS_PER_RANGE": str(given.slots_per_range),
            "BLYAN_EMBEDDED_TRANSACTIONS_PER_SLOT": str(given.transactions_per_slot),
        }
        ports = ["--port", str(free_port()), "--chain-port", str(free_port())]
        command = [sys.executable, "-m", "blyan.cli", "up", *ports, "--home", f"{folder}/dagster"]
        with Path(folder, "up.log").open("wb") as log:
            everything = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            sealed = watch(f"{folder}/lake-live", everything, given)
            materialised = recorded(f"{folder}/dagster", sorted(sealed)[given.skip :], given.patience)
        finally:
            everything.send_signal(signal.SIGINT)
            everything.wait(90)
        print(json.dumps(summary(sealed, materialised, given)))


def free_port() -> int:
    """A port that nobody listens at; the next one is taken for the WebSocket."""
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def watch(lake: str, everything: subprocess.Popen[bytes], given: argparse.Namespace) -> dict[str, float]:
    """When each range was sealed, in Unix seconds."""
    from blyan.lake import Lake
    from blyan.solana.landing import read_head

    sealed: dict[str, float] = {}
    deadline = time.monotonic() + 120 + 1.5 * 0.4 * given.slots_per_range * (given.ranges + given.skip)
    while len(sealed) < given.ranges + given.skip:
        if everything.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{len(sealed)} ranges were sealed, and then no more")
        head = read_head(Lake(lake))
        now = time.time()
        for landed in head.ranges if head else []:
            if landed.sealed:
                sealed.setdefault(landed.key, now)
        time.sleep(0.1)
    return sealed


def recorded(home: str, keys: list[str], patience: float) -> dict[str, dict[str, float]]:
    """When each table of each range was first materialised, by name of asset and range, in Unix seconds."""
    import dagster as dg

    from blyan.schemas import TABLES
    from blyan_assets.checks import LANDING, asset_key

    wanted = [LANDING, *map(asset_key, TABLES.values())]
    deadline = time.monotonic() + patience
    with dg.DagsterInstance.from_config(home) as instance:
        while True:
            found: dict[str, dict[str, float]] = {}
            for asset in wanted:
                records = instance.fetch_materializations(dg.AssetRecordsFilter(asset, asset_partitions=keys), limit=1_000, ascending=True).records
                times = found.setdefault("/".join(asset.path), {})
                for record in records:
                    times.setdefault(str(record.partition_key), record.timestamp)
            if all(len(times) == len(keys) for times in found.values()):
                return found
            if time.monotonic() > deadline:
                sys.exit(f"not everything was materialised: { ({name: len(times) for name, times in found.items()}) } of {len(keys)}")
            time.sleep(2)


def summary(sealed: dict[str, float], materialised: dict[str, dict[str, float]], given: argparse.Namespace) -> dict[str, object]:
    """The figures, over every table of every range."""
    lags = {name: [at - sealed[key] for key, at in times.items()] for name, times in materialised.items()}
    tables = [lag for name, of_table in lags.items() if name != "solana/landing" for lag in of_table]
    whole = [max(times[key] - sealed[key] for times in materialised.values()) for key in materialised["solana/landing"]]
    cut = statistics.quantiles(tables, n=20, method="inclusive")
    return {
        "figure": "sealed_to_materialised",
        "kind": "measured",
        "cores": os.cpu_count(),
        "ranges": len(whole),
        "slots_per_range": given.slots_per_range,
        "transactions_per_slot": given.transactions_per_slot,
        "p50_s": round(statistics.median(tables), 1),
        "p95_s": round(cut[18], 1),
        "max_s": round(max(tables), 1),
        "landing_p50_s": round(statistics.median(lags["solana/landing"]), 1),
        "raw_blocks_p50_s": round(statistics.median(lags["solana/raw_blocks"]), 1),
        "last_table_p50_s": round(statistics.median(whole), 1),
    }


if __name__ == "__main__":
    main()
