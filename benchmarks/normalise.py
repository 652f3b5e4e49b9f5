"""How fast recorded blocks become the six tables, on one core.

    python benchmarks/normalise.py [--input PATH …] [--seconds 4]

For each file (every large block of ../shared/data by default) prints one JSON line: `tx_per_cpu_s` from bytes in memory to
Arrow for all six tables, with every program decoder on and the garbage collector as Python has it; beside it, in the same
run, what decoding the JSON alone allows (`decode_tx_per_cpu_s`), and the share of that limit which the whole reaches. Each
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
    decoding = repeat(decode_all, seconds / 4)
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
