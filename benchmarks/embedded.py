"""How fast the embedded chain makes blocks, one process: `python benchmarks/embedded.py [--slots N] [--transactions N]`.

Prints one JSON line a figure; the unit is in the figure's name.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

from blyan.solana.slots import SlotRange
from blyan.solana.sources import SlotState
from blyan.solana.sources.embedded import EmbeddedSource


def main() -> None:
    """Read a range from slot 0 and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=200, help="slots to read")
    parser.add_argument("--transactions", type=int, default=24, help="transactions per slot")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()

    source = EmbeddedSource(chosen.seed, chosen.transactions, chosen.slots)
    wall, cpu, blocks, payload_bytes = time.perf_counter(), time.process_time(), 0, 0
    for record in source.read(SlotRange(0, chosen.slots - 1)):
        blocks += record.state is SlotState.PRESENT
        payload_bytes += len(record.payload)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu

    transactions = blocks * chosen.transactions
    figures = {
        "embedded_tx_per_cpu_s": transactions / cpu,
        "embedded_blocks_per_cpu_s": blocks / cpu,
        "embedded_cpu_s_per_1000_slots": cpu / chosen.slots * 1_000,
        "embedded_wall_s_per_1000_slots": wall / chosen.slots * 1_000,
        "embedded_payload_mb_per_cpu_s": payload_bytes / 1e6 / cpu,
        "embedded_peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    about = {
        "kind": "measured",
        "slots": chosen.slots,
        "transactions": transactions,
        "transactions_per_slot": chosen.transactions,
        "seed": chosen.seed,
    }
    for figure, value in figures.items():
        print(json.dumps({"figure": figure, "value": round(value, 3), **about}))


if __name__ == "__main__":
    main()
