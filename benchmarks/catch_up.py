"""How fast the follower catches up with a chain that is far ahead: recorded blocks into the landing, on all cores.

    python benchmarks/catch_up.py [--input FILE] [--slots 256]

The block of FILE (a modern mainnet block of ../shared/data by default) stands at every slot, under hashes that link. The node
answers from memory, so that what is measured is the follower: settling, normalising, writing, merging, sealing. Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from node.recorded import RecordedChain, recording


def main() -> None:
    """Measure once."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--input", type=Path, help="a recorded block with encoding json")
    arguments.add_argument("--slots", type=int, default=256)
    given = arguments.parse_args()
    path = recording(given.input)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(path, given.slots, folder))))


async def measure(path: Path, slots: int, folder: str) -> dict[str, object]:
    """The figures of catching up with so many slots."""
    from blyan.lake import Lake
    from blyan.solana.follower.follow import Follower
    from blyan.solana.landing import Landing
    from blyan.solana.segments import cores
    from blyan.solana.slots import Grid

    node, lake, grid = RecordedNode(RecordedChain(path, skips=False), slots), Lake(folder), Grid(0, 1 << 40, 54_000)
    follower = Follower(node, node, lake, grid, landing=Landing(lake, grid, processes=cores()))  # type: ignore[arg-type]
    await follower.begin()
    start, cpu = time.perf_counter(), time.process_time()
    while follower.landing.head.checkpoint < slots:
        await follower.step()
    await follower.tidied()
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    follower.landing.close()
    return {
        "figure": "catch_up",
        "kind": "measured",
        "input": path.name,
        "slots": slots,
        "transactions": follower.landing.transactions,
        "cores": os.cpu_count(),
        "tx_per_wall_s": round(follower.landing.transactions / wall),
        "own_cpu_share": round(cpu / wall, 2),
        "json_mb_per_wall_s": round(follower.measures.payload_bytes / 1e6 / wall, 1),
        "slots_per_wall_s": round(slots / wall, 1),
        "times_mainnet_slots": round(slots / wall / 2.5, 1),
        "peak_rss_mb": [round(resource.getrusage(who).ru_maxrss / 1024) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)],
    }


class RecordedNode:
    """A recorded chain in this process, final up to its last slot; a stream that announces nothing."""

    where = "recorded"
    reconnects = 0

    def __init__(self, chain: RecordedChain, slots: int) -> None:
        self._chain, self._last = chain, slots - 1

    async def slots(self) -> AsyncIterator[int]:
        """Nothing, for ever."""
        await asyncio.Event().wait()
        yield 0

    async def genesis_hash(self) -> str:
        """Any."""
        return "recorded"

    async def first_available(self) -> int:
        """Everything is there."""
        return 0

    async def tips(self) -> object:
        """All of it is final."""
        from blyan.solana.follower.node import Tips

        # Following begins with the range of the final tip, which is the first one here.
        return Tips(self._last, self._last, self._last)

    async def listed(self, first: int, last: int, _: object) -> list[int]:
        """The slots with a block."""
        return self._chain.listed(first, min(last, self._last))

    async def link(self, slot: int, _: object) -> object:
        """The place of a slot's block."""
        from blyan.solana.follower.links import Link

        return Link(slot, *self._chain.link(slot))

    async def block(self, slot: int, _: object) -> object:
        """The block, under the slot's own hashes."""
        from blyan.solana.follower.links import Link
        from blyan.solana.follower.node import Fetched
        from blyan.solana.sources import RawRecord, SlotState

        link = Link(slot, *self._chain.link(slot))
        payload = self._chain.place(slot) + self._chain.rest
        record = RawRecord(slot, SlotState.PRESENT, "recorded", payload, block_hash=link.block_hash, parent_slot=link.parent_slot)
        return Fetched(link, record)


if __name__ == "__main__":
    main()
