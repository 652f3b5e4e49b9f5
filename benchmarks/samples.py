"""What it costs to make and to check the samples of a range. Prints one JSON line a figure.

    python benchmarks/samples.py [--slots 36] [--transactions 557] [--per-family 20]

A recorded mainnet block of ../shared/data stands at every slot: 36 slots of 557 transactions are 20,052. The corpus is made first, outside of
what is measured. Rates are per CPU second, besides wall seconds, which mean something only where nothing else runs. The limit beside
them is DuckDB alone: the same SQL over the lake's files, with nothing but its results fetched. Making and checking are each measured in a
process of their own, whose peak memory is told.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.corpus.sample_checks import check_samples
from blyan.corpus.samples import write_samples
from blyan.corpus.splits import SplitRule
from blyan.lake import Lake
from blyan.query.engine import connect
from blyan.schemas import SAMPLES
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange

BLOCKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "solana" / "blocks"

RULE = SplitRule(bytes(32), 0.01, 0.01)


def main() -> None:
    """Fill a lake, then measure."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--input", type=Path, help="a recorded block with encoding json")
    arguments.add_argument("--slots", type=int, default=36)
    arguments.add_argument("--transactions", type=int, help="keep only the first so many of the block")
    arguments.add_argument("--per-family", type=int, default=20)
    arguments.add_argument("--lake", help=argparse.SUPPRESS)
    arguments.add_argument("--part", choices=["fill", "make", "check", "duckdb"], help=argparse.SUPPRESS)
    given = arguments.parse_args()
    slots = SlotRange(0, given.slots - 1)
    if given.part == "fill":
        fill(Lake(given.lake), slots, given.input, given.transactions)
        return
    if given.part:
        measure(Lake(given.lake), slots, given.part, given.per_family)
        return
    path = given.input or next(iter(BLOCKS.glob("285000037-json-*")), None)
    if path is None:
        sys.exit(f"no recorded blocks in {BLOCKS}: give one with --input")
    # Each in a process of its own, the lake too: a child's peak is never below what its parent had when it began.
    with tempfile.TemporaryDirectory() as folder:
        for part in ("fill", "make", "check", "duckdb"):
            command = [sys.executable, __file__, "--lake", folder, "--part", part, "--slots", str(given.slots), "--per-family", str(given.per_family)]
            command += ["--input", str(path)] + (["--transactions", str(given.transactions)] if given.transactions else [])
            subprocess.run(command, check=True)


def fill(lake: Lake, slots: SlotRange, path: Path, transactions: int | None) -> None:
    """The tables and the corpus of a range."""
    from ingest import Repeated

    land(lake, Repeated(path, transactions), slots)
    normalise_range(lake, slots)
    write_corpus(lake, slots, load_registry(), vote_share=0.01)


def measure(lake: Lake, slots: SlotRange, part: str, per_family: int) -> None:
    """One figure and what it rests on."""
    wall, cpu = time.perf_counter(), time.process_time()
    report: dict[str, object] = {}
    if part == "make":
        commit, made = write_samples(lake, slots, load_registry(), RULE, per_family=per_family)
        number = commit.rows
        report = {"bytes": commit.bytes, "duplicates": made.duplicates, "families": sum(count > 0 for count in made.families.values())}
    elif part == "check":
        findings = check_samples(lake, slots, RULE)
        number = findings[0].checked
        report = {"passed": all(finding.passed for finding in findings)}
    else:
        queries = [row["sql"] for batch in lake.read(SAMPLES, key=slots.key, columns=["sql"]) for row in batch.to_pylist() if row["sql"]]
        number = len(queries)
        wall, cpu = time.perf_counter(), time.process_time()
        with connect(lake, slots=slots) as connection:
            for sql in queries:
                connection.execute(sql).fetchall()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    about = {
        "kind": "measured",
        "samples": number,
        "slots": len(slots),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **report,
    }
    print(json.dumps({"figure": f"samples_{part}_per_cpu_s", "value": round(number / cpu, 1), **about}), flush=True)


if __name__ == "__main__":
    main()
