"""How many transactions a CPU-second turns into text, beside plain Python on the same rows, and what the corpus of a range takes.

    python benchmarks/render.py [--blocks N] [--slots A B]

Without recorded blocks in ../shared/data it takes those of the embedded chain alone. The peer prints each instruction with an
f-string, the shortest program that tells who sent what to whom: no names, aliases, labels, structural keys, nor what was gained.
`write_corpus` is measured in a process of its own, on a lake of one recorded block at every slot, of two lengths: what it
holds in memory must not grow with the range. One JSON line a figure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "node"))

import pyarrow as pa
from recorded import BLOCKS, RecordedChain

from blyan import schemas
from blyan.corpus.documents import documents_of
from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.lake import Lake
from blyan.solana.ingest import normalise_range, raw_rows
from blyan.solana.normalise import normalise
from blyan.solana.slots import SlotRange
from blyan.solana.sources import Format, RawRecord, SlotState
from blyan.solana.sources.embedded import EmbeddedSource

RECORDED = ("332254855-json", "285000037-json", "110130000-json-")
"""Complete blocks with encoding json, of 2025 and of 2021."""

TRIES = 3


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--blocks", type=int, default=20, help="copies of a block rendered at once")
    arguments.add_argument("--slots", type=int, nargs=2, default=(128, 1_024), help="lengths of the two ranges; 0 0 leaves them out")
    given = arguments.parse_args()
    pa.set_cpu_count(1)
    for start in RECORDED:
        path = next(iter(BLOCKS.glob(f"{start}*")), None)
        if path is not None:
            measure(start.partition("-")[0], of_recorded(path, given.blocks))
    measure("embedded", of_embedded(given.blocks * 10))
    path = next(iter(BLOCKS.glob(f"{RECORDED[0]}*")), None)
    if path is not None and all(given.slots):
        for slots in given.slots:
            measure_range(path, slots)


Tables = dict[str, pa.Table]


def of_recorded(path: Path, copies: int) -> Tables:
    """Rows of a block, at every one of so many slots."""
    from blyan.solana.decode import decode

    chain = RecordedChain(path, skips=False)
    blocks = [decode(slot, chain.place(slot) + chain.rest, Format.GET_BLOCK) for slot in range(1, copies + 1)]
    return normalise(blocks)


def of_embedded(slots: int) -> Tables:
    """Rows of the embedded chain."""
    from blyan.solana.decode import decode

    source = EmbeddedSource(seed=1, transactions_per_slot=100, horizon_slot=10_000)
    return normalise([decode(record.slot, record.payload, Format.GET_BLOCK) for record in source.read(SlotRange(0, slots - 1)) if record.payload])


def measure(name: str, tables: Tables) -> None:
    """The renderer with and without votes, and the peer."""
    registry = load_registry()
    every = tables[schemas.TRANSACTIONS.name].num_rows
    for share, what in ((0.0, "without votes"), (1.0, "all")):
        seconds, made = best(lambda share=share: documents_of(tables, registry, vote_share=share))
        characters = pa.compute.sum(pa.compute.utf8_length(made.rows["text"])).as_py()
        report = {"block": name, "transactions": made.rows.num_rows, "of": every, "characters each": round(characters / made.rows.num_rows)}
        show(f"documents per CPU-second, {what}", made.rows.num_rows / seconds, report)
    seconds, texts = best(lambda: plainly(tables))
    show("peer: f-strings over rows, without votes, per CPU-second", len(texts) / seconds, {"block": name, "transactions": len(texts)})


def best(work: Any) -> tuple[float, Any]:
    """The fewest CPU-seconds of some tries, and the result."""
    found, made = [], None
    for _ in range(TRIES):
        began = time.process_time()
        made = work()
        found.append(time.process_time() - began)
    return min(found), made


def plainly(tables: Tables) -> list[str]:
    """A text for each transaction that is no vote, by loops over rows."""
    lines: dict[tuple[int, int], list[str]] = {}
    for row in tables[schemas.TRANSACTIONS.name].select(["block_slot", "index", "status", "fee", "is_vote", "accounts"]).to_pylist():
        if not row["is_vote"]:
            payer = row["accounts"][0]["pubkey"] if row["accounts"] else ""
            lines[row["block_slot"], row["index"]] = [f"{row['status']}: {payer} paid {row['fee']} lamports"]
    columns = ["block_slot", "tx_index", "program", "program_id", "instruction_type", "params"]
    for row in tables[schemas.INSTRUCTIONS.name].select(columns).to_pylist():
        of = lines.get((row["block_slot"], row["tx_index"]))
        if of is not None:
            params = " ".join(f"{param['key']} {param['value']}" for param in row["params"] or ())
            of.append(f"{row['program'] or row['program_id']} {row['instruction_type'] or ''} {params}")
    return ["\n".join(of) for of in lines.values()]


def measure_range(path: Path, slots: int) -> None:
    """`write_corpus` on so many slots."""
    with TemporaryDirectory() as folder:
        votes = fill(folder, path, slots)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, cpu, peak, report = pool.apply(write, (folder, slots))
    show("corpus of a range: transactions per CPU-second, votes included", report["transactions"] / cpu, report | {"slots": slots})
    show("corpus of a range: seconds", seconds, {"slots": slots, "CPU-seconds": round(cpu, 2), "cores": os.cpu_count(), "votes": votes})
    show("corpus of a range: peak MiB", peak, {"slots": slots})


def fill(folder: str, path: Path, slots: int) -> int:
    """A lake with one block at every slot."""
    lake, chain = Lake(folder), RecordedChain(path, skips=False)
    whole = SlotRange(0, slots - 1)
    with lake.stage(schemas.RAW_BLOCKS, whole.key) as stage:
        from blyan.digest import UNIT_SLOTS, unit_of

        for first in range(0, slots, UNIT_SLOTS):
            records = [
                RawRecord(slot, SlotState.PRESENT, "recorded", chain.place(slot) + chain.rest)
                for slot in range(first, min(first + UNIT_SLOTS, slots))
            ]
            stage.write(unit_of(first), raw_rows(records, "recorded"))
        staged = stage.close()
    lake.commit(schemas.RAW_BLOCKS, whole.key, [staged])
    return normalise_range(lake, whole, workers=2).transactions


def write(folder: str, slots: int) -> tuple[float, float, float, dict[str, Any]]:
    """Seconds, CPU-seconds and peak MiB of `write_corpus`, in this process and those it starts."""
    lake, registry = Lake(folder), load_registry()
    began, used = time.monotonic(), sum(os.times()[:4])
    made = write_corpus(lake, SlotRange(0, slots - 1), registry, vote_share=0.01)
    seconds, cpu = time.monotonic() - began, sum(os.times()[:4]) - used
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    return seconds, cpu, peak, {"transactions": made.transactions, "documents": made.documents.rows, "bytes": made.documents.bytes}


def show(figure: str, value: float, report: dict[str, object]) -> None:
    """Print one figure."""
    print(json.dumps({"kind": "measured", "figure": figure, "value": round(value, 1), **report}), flush=True)


if __name__ == "__main__":
    main()
