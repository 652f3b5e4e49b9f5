"""What it costs to look up a signature in a large table, with the index and without. Prints one JSON line a figure.

    python benchmarks/lookup.py [--rows 2000000] [--ranges 100] [--lookups 200] [--lake FOLDER]

The table is `solana/transactions` with made signatures, a block of 1,600 rows a slot, the other columns null or alike: what is measured is
finding a row, not reading a wide one. With `--lake` it is that of a lake that is there (`large_lake.py` makes one), whose rows are whole.
`lookup_ms` is one `Records.page` of one row, in a process that has asked before; each signature is asked for once. `scan_ms` is the same
without the index. `opened` counts files of the table and of the index, `read_bytes` what a look-up reads of them by system calls, of all the
bytes that `table_bytes` and `index_bytes` say. The peer is DuckDB over the same files, told the slot beforehand (`bare_ms`), and not told it (`bare_scan_ms`).

A million rows take 12 CPU-seconds and 80 MB of disk to make, index and look up; `--rows 50000000 --ranges 500` takes fifty times as much.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from blyan.lake import Lake
from blyan.query.lookup import SIGNATURE, update
from blyan.query.records import Match, Opened, Question, Records
from blyan.schemas import TRANSACTIONS

ROWS_PER_SLOT = 1_600
SEED = 11
LETTERS = np.frombuffer(b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", dtype="S1")


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=2_000_000)
    arguments.add_argument("--ranges", type=int, default=100)
    arguments.add_argument("--lookups", type=int, default=200)
    arguments.add_argument("--lake")
    given = arguments.parse_args()
    report: dict[str, object] = {"kind": "measured", "seed": SEED}
    with tempfile.TemporaryDirectory() as folder:
        lake, random = Lake(given.lake or folder), np.random.default_rng(SEED)
        wanted = some(lake, random) if given.lake else fill(lake, random, given.rows, given.ranges)
        files = lake.files(TRANSACTIONS)
        rows = sum(file.rows for file in files)
        report |= {"rows": rows, "ranges": len({file.key for file in files})}
        show("table_files", len(files), report)
        show("table_bytes", sum(file.size for file in files), report)
        started, worked = time.perf_counter(), time.process_time()
        (done,) = update(lake, [SIGNATURE])
        show("index_s", time.perf_counter() - started, report)
        show("index_rows_per_cpu_s", rows / (time.process_time() - worked), report)
        show("index_bytes_per_row", done.bytes / done.rows, report)
        show("index_files", done.runs, report)
        show("index_bytes", done.bytes, report)
        chosen = [wanted[at] for at in random.permutation(len(wanted))[: given.lookups]]
        records = Records(lake)
        measured(records, chosen, report)
        bare(lake, chosen, report)
    show("peak_rss_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, report)


def measured(records: Records, chosen: list[tuple[str, int]], report: dict[str, object]) -> None:
    """Look-ups with the index, and a few without."""
    opened = Opened()

    def looked_up(signature: str, slot: int) -> None:
        question = Question(TRANSACTIONS, (Match("signature = ?", (signature,)),), (SIGNATURE, signature), descending=True, alone=True)
        found = records.page(question, rows=1, opened=opened)
        assert found.rows["block_slot"][0].as_py() == slot

    def scanned(signature: str, slot: int) -> None:
        found = records.page(Question(TRANSACTIONS, (Match("signature = ?", (signature,)),), descending=True), rows=1)
        assert found.rows["block_slot"][0].as_py() == slot

    for signature, slot in chosen[:10]:  # imports, footers
        looked_up(signature, slot)
    opened.files = opened.runs = 0
    before = read_bytes()
    timed("lookup_ms", looked_up, chosen[10:], report)
    show("read_bytes_per_lookup", (read_bytes() - before) / len(chosen[10:]), report)
    show("opened_table_files_per_lookup", opened.files / len(chosen[10:]), report)
    show("opened_index_files_per_lookup", opened.runs / len(chosen[10:]), report)
    timed("scan_ms", scanned, chosen[:10], report)


def bare(lake: Lake, chosen: list[tuple[str, int]], report: dict[str, object]) -> None:
    """DuckDB alone over the same files."""
    import duckdb

    files = lake.files(TRANSACTIONS)
    connection = duckdb.connect(config={"threads": 2})
    connection.execute("set parquet_metadata_cache = true")

    def told(signature: str, slot: int) -> None:
        paths = [file.path for file in files if (file.slot_min or 0) <= slot <= (file.slot_max or 0)]
        query = f"select * from read_parquet({paths}, hive_partitioning = false) where block_slot = {slot} and signature = ?"
        assert connection.sql(query, params=[signature]).to_arrow_table().num_rows == 1

    def untold(signature: str, _: int) -> None:
        query = f"select * from read_parquet({[file.path for file in files]}, hive_partitioning = false) where signature = ?"
        assert connection.sql(query, params=[signature]).to_arrow_table().num_rows == 1

    for signature, slot in chosen[:10]:
        told(signature, slot)
    timed("bare_ms", told, chosen[10:], report)
    timed("bare_scan_ms", untold, chosen[:10], report)


def timed(figure: str, ask: Callable[[str, int], None], chosen: list[tuple[str, int]], report: dict[str, object]) -> None:
    """Median and 95th percentile of asking, of wall time, and the mean of CPU time."""
    took, worked = [], time.process_time()
    for signature, slot in chosen:
        started = time.perf_counter()
        ask(signature, slot)
        took.append((time.perf_counter() - started) * 1e3)
    cpu_ms = (time.process_time() - worked) / len(chosen) * 1e3
    for name, value in (("p50", np.percentile(took, 50)), ("p95", np.percentile(took, 95)), ("cpu_mean", cpu_ms)):
        show(f"{figure}_{name}", float(value), report)


def fill(lake: Lake, random: np.random.Generator, rows: int, ranges: int) -> list[tuple[str, int]]:
    """Make a table of so many rows, a range at a time; some of its signatures, with their slots."""
    wanted: list[tuple[str, int]] = []
    wide = max(1, rows // ranges // ROWS_PER_SLOT)
    for first in range(0, ranges * wide, wide):
        parts = [made(random, slot) for slot in range(first, first + wide)]
        lake.write_partition(TRANSACTIONS, f"{first:012d}", parts)
        wanted += [(parts[at % len(parts)]["signature"][at * 7 % ROWS_PER_SLOT].as_py(), first + at % len(parts)) for at in range(10)]
    return wanted


def some(lake: Lake, random: np.random.Generator) -> list[tuple[str, int]]:
    """Some signatures of a lake that is there, with their slots."""
    wanted: list[tuple[str, int]] = []
    for key in lake.partitions(TRANSACTIONS):
        rows = pa.Table.from_batches(lake.read(TRANSACTIONS, key=key, columns=["signature", "block_slot"]))
        wanted += [(rows["signature"][at].as_py(), rows["block_slot"][at].as_py()) for at in random.integers(0, rows.num_rows, 10).tolist()]
    return wanted


def read_bytes() -> int:
    """Bytes that this process has read by system calls, from disk or from the kernel's cache."""
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar")]
    return int(line.partition(":")[2])


def made(random: np.random.Generator, slot: int) -> pa.Table:
    """The transactions of a slot: each signature 88 letters of base58."""
    letters = LETTERS[random.integers(0, 58, (ROWS_PER_SLOT, 88))]
    signatures = pa.array(np.ascontiguousarray(letters).view("S88").ravel().astype(str))
    schema = TRANSACTIONS.arrow_schema()
    columns = {field.name: pa.nulls(ROWS_PER_SLOT, field.type) for field in schema}
    columns["block_slot"] = pa.array(np.full(ROWS_PER_SLOT, slot))
    columns["index"] = pa.array(np.arange(ROWS_PER_SLOT))
    columns["signature"] = signatures
    columns["status"] = pa.array(["Success"] * ROWS_PER_SLOT)
    return pa.table(columns, schema=schema)


def show(figure: str, value: float, report: dict[str, object]) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, "value": round(value, 3), **report}), flush=True)


if __name__ == "__main__":
    main()
