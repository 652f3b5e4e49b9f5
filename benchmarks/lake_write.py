"""What it costs to put a range into the lake: rows, bytes and digest per second, on synthetic rows.

    python benchmarks/lake_write.py [--slots 64] [--transactions 1500] [--lake FOLDER]

Prints one JSON line a figure. The rows have the shape of mainnet's (accounts drawn from a skewed set, 20 a transaction,
two instructions, eleven changed balances), dictionary-encoded as the normaliser gives them; the seed is fixed. CPU
seconds count one process. `logical` bytes are those of the decoded Arrow columns: what a reader of plain text would see.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time

import numpy as np
import pyarrow as pa

from blyan.digest import UNIT_SLOTS, digest_unit, unit_of
from blyan.lake import Lake
from blyan.schemas import BALANCE_CHANGES, BLOCKS, INSTRUCTIONS, LAMPORTS, TEXT, TIMESTAMP, TRANSACTIONS, Table

SEED = 7
ACCOUNTS, BALANCES, LOGS = 20, 11, 8


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--slots", type=int, default=64)
    arguments.add_argument("--transactions", type=int, default=1500, help="per slot")
    arguments.add_argument("--lake", help="folder to write to; a temporary one by default")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Lake(given.lake or folder), given.slots, given.transactions)


def measure(lake: Lake, slots: int, transactions: int) -> None:
    """Write one partition of each table, and recompute its digest from storage."""
    key = unit_of(0)
    for table, make in ((BLOCKS, blocks), (TRANSACTIONS, transaction_rows), (INSTRUCTIONS, instruction_rows), (BALANCE_CHANGES, balance_rows)):
        units = {unit_of(slot): make(table, slot, transactions) for slot in range(0, slots, UNIT_SLOTS)}
        rows = sum(part.num_rows for part in units.values())
        logical = sum(part.cast(table.arrow_schema()).nbytes for part in units.values())
        report = {"table": table.name, "kind": "measured", "rows": rows, "logical_bytes": logical, "seed": SEED}

        with clock() as digest:
            for part in units.values():
                digest_unit(table, part)
        show("digest_gb_per_cpu_s", logical / 1e9 / digest.cpu_s, report)

        with clock() as write, lake.stage(table, key) as stage:
            for unit, part in units.items():
                stage.write(unit, part)
        show("stage_rows_per_cpu_s", rows / write.cpu_s, report)
        show("stage_gb_per_cpu_s", logical / 1e9 / write.cpu_s, report)

        with clock() as commit:
            done = lake.commit(table, key, [stage.close()])
        show("commit_wall_ms", commit.wall_s * 1e3, report)
        show("stored_bytes_per_row", done.bytes / rows, report)

        with clock() as again:
            if lake.digest(table, key) != done.digest:
                raise SystemExit("the recomputed digest differs")
        show("recompute_rows_per_cpu_s", rows / again.cpu_s, report)
    show("peak_rss_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, {"kind": "measured"})


class clock:  # noqa: N801
    """Wall and CPU seconds of a block of code."""

    def __enter__(self) -> clock:
        self.wall_s, self.cpu_s = -time.perf_counter(), -time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s += time.perf_counter()
        self.cpu_s += time.process_time()


def show(figure: str, value: float, report: dict[str, object]) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, "value": round(value, 3), **report}), flush=True)


def blocks(table: Table, first: int, _: int) -> pa.Table:
    """One row a slot."""
    slots = np.arange(first, first + UNIT_SLOTS)
    return filled(table, UNIT_SLOTS, {"slot": pa.array(slots), "parent_slot": pa.array(slots - 1)}, np.random.default_rng([SEED, first]))


def transaction_rows(table: Table, first: int, count: int) -> pa.Table:
    """`count` transactions a slot."""
    random, rows = np.random.default_rng([SEED, first]), UNIT_SLOTS * count
    pubkeys, balances = skewed(random, rows * ACCOUNTS), lamports(random, rows * ACCOUNTS)
    flags = pa.array(random.random(rows * ACCOUNTS) < 0.3)
    given = {
        "block_slot": pa.array(np.repeat(np.arange(first, first + UNIT_SLOTS), count)),
        "index": pa.array(np.tile(np.arange(count), UNIT_SLOTS)),
        "signature": unique(random, rows),
        "accounts": structs(rows, ACCOUNTS, pubkey=pubkeys, signer=flags, writable=flags),
        "balance_changes": structs(rows, ACCOUNTS, account=pubkeys, before=balances, after=balances),
        "log_messages": lists(rows, LOGS, skewed(random, rows * LOGS, "Program log: Instruction: ")),
    }
    return filled(table, rows, given, random)


def instruction_rows(table: Table, first: int, count: int) -> pa.Table:
    """Two instructions a transaction."""
    random, rows = np.random.default_rng([SEED, first]), UNIT_SLOTS * count * 2
    given = {
        "block_slot": pa.array(np.repeat(np.arange(first, first + UNIT_SLOTS), 2 * count)),
        "tx_index": pa.array(np.tile(np.repeat(np.arange(count), 2), UNIT_SLOTS)),
        "ordinal": pa.array(np.tile([0, 1], rows // 2)),
        "tx_signature": pa.DictionaryArray.from_arrays(np.repeat(np.arange(rows // 2, dtype=np.int32), 2), unique(random, rows // 2)),
        "accounts": lists(rows, 6, skewed(random, rows * 6)),
    }
    return filled(table, rows, given, random)


def balance_rows(table: Table, first: int, count: int) -> pa.Table:
    """Eleven changed balances a transaction, all of SOL."""
    random, rows = np.random.default_rng([SEED, first]), UNIT_SLOTS * count * BALANCES
    changes = pa.array(np.arange(rows // BALANCES, dtype=np.int32))
    given = {
        "block_slot": pa.array(np.repeat(np.arange(first, first + UNIT_SLOTS), count * BALANCES)),
        "tx_index": pa.array(np.tile(np.repeat(np.arange(count), BALANCES), UNIT_SLOTS)),
        "account_index": pa.array(np.tile(np.arange(BALANCES), rows // BALANCES)),
        "tx_signature": pa.DictionaryArray.from_arrays(changes.take(np.repeat(changes, BALANCES)), unique(random, rows // BALANCES)),
        "mint": pa.nulls(rows, TEXT),
        "before": lamports(random, rows),
        "after": lamports(random, rows),
    }
    return filled(table, rows, given, random)


def filled(table: Table, rows: int, given: dict[str, pa.Array], random: np.random.Generator) -> pa.Table:
    """A table of the given columns, and the others with plausible values."""
    return pa.table({column.name: given[column.name] if column.name in given else plausible(column.type, rows, random) for column in table.columns})


def plausible(kind: pa.DataType, rows: int, random: np.random.Generator) -> pa.Array:
    """Values of a type that cost about what real ones do."""
    if kind == TEXT:
        return skewed(random, rows)
    if kind == LAMPORTS:
        return lamports(random, rows)
    if kind == TIMESTAMP:
        return pa.array(np.full(rows, 1_700_000_000_000_000)).cast(TIMESTAMP)
    if pa.types.is_boolean(kind):
        return pa.array(random.random(rows) < 0.5)
    if pa.types.is_int64(kind):
        return pa.array(random.integers(0, 200_000, rows))
    return pa.nulls(rows, kind)


def skewed(random: np.random.Generator, count: int, prefix: str = "") -> pa.DictionaryArray:
    """Text of 44 characters, few values often and many rarely, dictionary-encoded."""
    values = pa.array([f"{prefix}{index:0{44 - len(prefix)}d}" for index in range(20_000)])
    return pa.DictionaryArray.from_arrays((random.zipf(1.3, count) % 20_000).astype(np.int32), values)


def unique(random: np.random.Generator, count: int) -> pa.Array:
    """Random text of 88 characters."""
    return pa.array([random.bytes(44).hex() for _ in range(count)])


def lamports(random: np.random.Generator, count: int) -> pa.Array:
    """Amounts below 2^40, exact decimals."""
    return pa.array(random.integers(0, 1 << 40, count)).cast(LAMPORTS)


def lists(rows: int, width: int, values: pa.Array) -> pa.ListArray:
    """Lists of one length."""
    field = pa.field("element", values.type)
    return pa.ListArray.from_arrays(pa.array(np.arange(0, rows * width + 1, width), pa.int32()), values).cast(pa.list_(field))


def structs(rows: int, width: int, **fields: pa.Array) -> pa.ListArray:
    """Lists of structs, of one length."""
    return lists(rows, width, pa.StructArray.from_arrays(list(fields.values()), names=list(fields)))


if __name__ == "__main__":
    main()
