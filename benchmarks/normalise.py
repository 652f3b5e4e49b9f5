"""How fast recorded blocks become the six tables, on one core.

    python benchmarks/normalise.py [--input PATH …] [--seconds 4]

For each file (every large block of ../shared/data by default) prints one JSON line: `tx_per_cpu_s` from bytes in memory to
Arrow for all six tables, with every program decoder on and the garbage collector as Python has it; beside it, in the same
run, what reading the JSON into typed structs alone allows (`decode_tx_per_cpu_s`: msgspec, every field that a column needs,
no table made), and the share of that limit which the whole reaches. Each
file is measured in a process of its own, so that `peak_rss_mb` is its own. Figures are the best of many repetitions, because
the noise of a shared machine only ever adds; the medians stand beside them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

BLOCKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "solana" / "blocks"
DEFAULT = ("110130000-json-", "110130000-jsonParsed-", "332254855-json-", "285000037-json-", "254170887-base64-")

SPELLING = {"JSON": "json", "JSON_PARSED": "jsonParsed", "BASE64": "base64", "BASE58": "base58"}


def main() -> None:
    """Measure each file in a fresh process."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--input", nargs="+", type=Path, help="files of recorded blocks")
    arguments.add_argument("--seconds", type=float, default=4.0, help="CPU seconds to repeat for, per file")
    arguments.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    paths = given.input or [path for start in DEFAULT for path in sorted(BLOCKS.glob(f"{start}*"))]
    if not paths:
        sys.exit(f"no recorded blocks in {BLOCKS}: give some with --input")
    for path in paths:
        if given.here:
            print(json.dumps(measure(path, given.seconds)), flush=True)
        else:
            subprocess.run([sys.executable, __file__, "--here", "--seconds", str(given.seconds), "--input", str(path)], check=True)


def measure(path: Path, seconds: float) -> dict[str, object]:
    """The figures of one file."""
    from blyan.solana.decode import decode
    from blyan.solana.header import Encoding, richness, split
    from blyan.solana.normalise import normalise
    from blyan.solana.sources import Format

    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    digits = path.name.partition("-")[0].partition(".")[0]
    pieces = [(piece.slot if piece.slot is not None else int(digits), bytes(piece.data)) for piece in split(data)]
    encoding = SPELLING[Encoding(richness(pieces[-1][1]).encoding).name]
    del data

    def decode_all() -> list[object]:
        return [decode(slot, payload, Format.GET_BLOCK) for slot, payload in pieces]

    transactions = sum(len(block.transactions) + len(block.signatures) for block in decode_all())  # type: ignore[attr-defined]
    read_typed = msgspec.json.Decoder(_typed()).decode
    decoding = repeat(lambda: [read_typed(payload) for _, payload in pieces], seconds / 4)
    whole = repeat(lambda: normalise(decode_all()), seconds)  # type: ignore[arg-type]
    size = sum(len(payload) for _, payload in pieces)
    return {
        "figure": "normalise",
        "kind": "measured",
        "input": path.name,
        "encoding": encoding,
        "transactions": transactions,
        "tx_per_cpu_s": round(transactions / min(whole)),
        "tx_per_cpu_s_median": round(transactions / statistics.median(whole)),
        "decode_tx_per_cpu_s": round(transactions / min(decoding)),
        "share_of_decode_limit": round(min(decoding) / min(whole), 3),
        "json_mb_per_cpu_s": round(size / 1e6 / min(whole), 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "repetitions": len(whole),
    }


def _typed() -> type:
    """A block with a struct for every object and a string or number for every value: what a row-wise reader would make."""
    from blyan.solana.decode import Lookup, MessageHeader, ReturnData, Reward, TokenBalance

    def struct(name: str, **fields: object) -> type:
        return msgspec.defstruct(name, [(key, kind, None) for key, kind in fields.items()], rename="camel", gc=False)

    text, whole = str | None, int | None
    instruction = struct(
        "Instruction", program_id_index=whole, program_id=text, accounts=list[int | str], data=text, stack_height=whole, program=text, parsed=object
    )
    key = struct("Key", pubkey=text, signer=bool, writable=bool, source=text)
    message = struct(
        "Message",
        account_keys=list[str | key],  # type: ignore[valid-type]
        instructions=list[instruction],  # type: ignore[valid-type]
        recent_blockhash=text,
        header=MessageHeader,
        address_table_lookups=list[Lookup] | None,
    )
    wire = struct("Wire", signatures=list[str], message=message)
    inner = struct("Inner", index=whole, instructions=list[instruction])  # type: ignore[valid-type]
    loaded = struct("Loaded", writable=list[str], readonly=list[str])
    meta = struct(
        "Meta",
        fee=whole,
        pre_balances=list[int],
        post_balances=list[int],
        err=object,
        inner_instructions=list[inner] | None,  # type: ignore[valid-type]
        log_messages=list[str] | None,
        pre_token_balances=list[TokenBalance] | None,
        post_token_balances=list[TokenBalance] | None,
        loaded_addresses=loaded | None,
        compute_units_consumed=whole,
        cost_units=whole,
        return_data=ReturnData | None,
    )
    transaction = struct("Transaction", transaction=wire | list[str], meta=meta | None, version=int | str | None)
    return struct(
        "Block",
        blockhash=text,
        previous_blockhash=text,
        parent_slot=whole,
        block_time=whole,
        block_height=whole,
        transactions=list[transaction],  # type: ignore[valid-type]
        rewards=list[Reward] | None,
    )


def repeat(work: Callable[[], object], seconds: float) -> list[float]:
    """CPU seconds of each repetition, at least five."""
    work()
    taken: list[float] = []
    while len(taken) < 5 or sum(taken) < seconds:
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return taken


if __name__ == "__main__":
    main()
