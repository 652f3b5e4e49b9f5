"""A range of recorded blocks through the whole lake: source to raw blocks to Delta tables, on all cores.

    python benchmarks/ingest.py [--input FILE] [--slots 200] [--transactions N] [--flat 10]

The block of FILE (a modern mainnet block of ../shared/data by default) stands at every slot of a range, with its parent slot
moved so that the chain links; `--transactions` keeps only that many of its transactions. Prints one JSON line a figure:
transactions per wall second of landing, of normalising and of both, and the peak memory of the largest process. `--flat N`
measures a range N times as long too, in a fresh process, and prints how the peak grew.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BLOCKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "solana" / "blocks"


def main() -> None:
    """Measure, each length in a process of its own."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--input", type=Path, help="a recorded block with encoding json")
    arguments.add_argument("--slots", type=int, default=200)
    arguments.add_argument("--transactions", type=int, help="keep only the first so many of the block")
    arguments.add_argument("--flat", type=int, default=0, help="also measure a range so many times as long")
    arguments.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    path = given.input or next(iter(BLOCKS.glob("285000037-json-*")), None)
    if path is None:
        sys.exit(f"no recorded blocks in {BLOCKS}: give one with --input")
    if given.here:
        print(json.dumps(measure(path, given.slots, given.transactions)), flush=True)
        return
    lengths = [given.slots, given.slots * given.flat] if given.flat else [given.slots]
    rows = []
    for slots in lengths:
        command = [sys.executable, __file__, "--here", "--input", str(path), "--slots", str(slots)]
        command += ["--transactions", str(given.transactions)] if given.transactions else []
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(output, end="", flush=True)
        rows.append(json.loads(output))
    if given.flat:
        growth = rows[1]["peak_rss_mb"] / rows[0]["peak_rss_mb"]
        print(json.dumps({"figure": "ingest_peak_growth_ratio", "kind": "derived", "slots": lengths, "value": round(growth, 3)}))


def measure(path: Path, slots: int, keep: int | None) -> dict[str, object]:
    """The figures of one range."""
    from blyan.lake import Lake
    from blyan.solana.ingest import DERIVED, land, normalise_range
    from blyan.solana.slots import SlotRange

    source = Repeated(path, keep)
    chosen = SlotRange(0, slots - 1)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        start = time.perf_counter()
        raw = land(lake, source, chosen)
        landed = time.perf_counter()
        made = normalise_range(lake, chosen)
        end = time.perf_counter()
        size = sum(commit.bytes for name, commit in made.commits.items() if name in {table.name for table in DERIVED})
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    return {
        "figure": "ingest_range",
        "kind": "measured",
        "input": path.name,
        "slots": slots,
        "transactions": made.transactions,
        "cores": os.cpu_count(),
        "land_tx_per_wall_s": round(made.transactions / (landed - start)),
        "normalise_tx_per_wall_s": round(made.transactions / (end - landed)),
        "both_tx_per_wall_s": round(made.transactions / (end - start)),
        "json_mb_per_wall_s": round(source.size * slots / 1e6 / (end - start), 1),
        "raw_bytes_per_tx": round(raw.bytes / made.transactions, 1),
        "table_bytes_per_tx": round(size / made.transactions, 1),
        "peak_rss_mb": round(peak, 1),
    }


class Repeated:
    """One recorded block at every slot."""

    name = "archive"

    def __init__(self, path: Path, keep: int | None) -> None:
        """Read the block, and keep some of its transactions."""
        from blyan.solana.header import split

        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        block = json.loads(next(iter(split(data))).data)
        block["transactions"] = block["transactions"][:keep]
        block["parentSlot"] = 0
        text = json.dumps(block, separators=(",", ":"), ensure_ascii=False).encode()
        self._head, _, self._tail = text.partition(b'"parentSlot":0')
        self.size = len(text)

    def read(self, slots: object) -> Iterator[object]:
        """A present record for every slot."""
        from blyan.solana.sources import RawRecord, SlotState

        for slot in slots:  # type: ignore[attr-defined]
            payload = self._head + b'"parentSlot":%d' % max(slot - 1, 0) + self._tail
            yield RawRecord(slot, SlotState.PRESENT, "recorded", payload)


if __name__ == "__main__":
    main()
