"""What chains cost: to append to, to verify, to sync. Prints one JSON line a figure.

    python benchmarks/chain.py [--blocks 1000 10000 100000] [--appends 40]

Blocks of D with a payload of 200 bytes each and one dependency, in a folder. Each size has a chain of its own. `blocks_per_cpu_s` is a full
verification without signatures: every header parsed and written again, hashed, linked, its dependency looked up, its payload opened and hashed,
the log's leaf and nodes made; the best of three passes. Its limit (`limit_blocks_per_cpu_s`) is reading the same rows and payloads and hashing both, and nothing else.
`signatures_per_cpu_s` is our check on every block, and `share_of_library` is that over what solders does with ready bytes in the same run,
in turns. `append_ms` is one block more, with its payload durable, in a process that has appended before; its limit (`fsync_ms`) is two small
files written, synced and renamed, with their folder. `sync` goes from folder to folder. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from solders.pubkey import Pubkey
from solders.signature import Signature

from blyan.chain.block import SIGNED_AS, make_block, read_header, signature_holds
from blyan.chain.checkpoints import log_of, sign
from blyan.chain.governance import genesis_payload
from blyan.chain.log import Trust, is_consistent
from blyan.chain.payloads import FOLDER
from blyan.chain.rules import Row
from blyan.chain.store import Chains
from blyan.chain.sync import LakePeer, sync
from blyan.chain.verify import verify_full, verify_new
from blyan.ed25519 import SigningKey
from blyan.lake import Lake
from blyan.store import Store

KEY = SigningKey(b"\1" * 32)
PAYLOAD_BYTES = 200
BATCH = 4_096
SIGNATURES = 4_000
PASSES = 3
"""The best of so many passes counts, ours and the limit's: the first one finds the files of the payloads in no cache."""

SYNCED = 10_000
"""A longer chain is not synced: every payload waits for the disk, so it would take minutes and say the same."""


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--blocks", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    arguments.add_argument("--appends", type=int, default=40)
    given = arguments.parse_args()
    for blocks in given.blocks:
        report: dict[str, object] = {"kind": "measured", "blocks": blocks}
        with tempfile.TemporaryDirectory() as folder:
            chains = made(Path(folder) / "lake", blocks)
            verified(chains, report)
            appended(chains, Path(folder), given.appends, report)
            if blocks <= SYNCED:
                synced(chains, Path(folder), report)
    show("peak_rss_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, {"kind": "measured"})


def made(folder: Path, blocks: int) -> Chains:
    """A chain of this many blocks; the payloads are written without waiting for the disk, as nothing here is measured."""
    chains = Chains(Lake(str(folder)))
    voters: list[Any] = [KEY.public.hex()]
    genesis = chains.found(KEY, genesis_payload("benchmark", "", {"voting_keys": voters}))
    progress = chains.progress("D")
    while progress.size < blocks:
        rows = []
        for _ in range(min(BATCH, blocks - progress.size)):
            payload = b"%d" % progress.size * PAYLOAD_BYTES
            digest = put(chains, payload[:PAYLOAD_BYTES])
            block = make_block(
                KEY,
                network=chains.network,
                chain="D",
                height=progress.size,
                previous=progress.head,
                kind="dataset",
                payload_sha256=digest,
                payload_size=PAYLOAD_BYTES,
                time_ns=time.time_ns(),
                depends_on=[genesis["A"].ref],
                metadata={"rows": progress.size},
            )
            rows.append(Row(progress.size, block.hash, block.raw, block.signature))
            progress.size, progress.head = progress.size + 1, block.hash
        chains.commit("D", rows)
    return chains


def put(chains: Chains, payload: bytes) -> str:
    """Keep a payload without waiting for the disk."""
    digest = hashlib.sha256(payload).hexdigest()
    path = Path(chains.lake.store.path(f"{FOLDER}/{digest[:2]}/{digest[2:4]}/{digest}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(payload)
    return digest


def verified(chains: Chains, report: dict[str, object]) -> None:
    """Full verification without signatures, signatures alone, both, and one block more."""
    blocks = chains.size("D")
    worked = min(cpu(lambda: sound(verify_full(chains, "D", signatures=False))) for _ in range(PASSES))
    show("blocks_per_cpu_s", blocks / worked, report)
    show("cpu_us_per_block", worked / blocks * 1e6, report)
    show("limit_blocks_per_cpu_s", blocks / min(cpu(lambda: hashed(chains)) for _ in range(PASSES)), report)
    signatures(chains, report)
    show("with_signatures_blocks_per_cpu_s", blocks / cpu(lambda: sound(verify_full(chains, "D"))), report)
    sound(verify_new(chains, "D"))
    chains.write(KEY, "D", "dataset", b"one more")
    show("verify_one_more_cpu_ms", cpu(lambda: sound(verify_new(chains, "D"))) * 1e3, report)
    log = log_of(chains, "D")
    old, new = blocks // 3, blocks
    show("log_cpu_us_per_block", cpu(lambda: log_of(chains, "D")) / blocks * 1e6, report)
    show("consistency_proof_us", cpu(lambda: [log.consistency(old, new) for _ in range(200)]) / 200 * 1e6, report)
    proof = log.consistency(old, new)
    show("consistency_check_us", cpu(lambda: [is_consistent(old, new, log.root(old), log.root(new), proof) for _ in range(200)]) / 200 * 1e6, report)


def hashed(chains: Chains) -> None:
    """What no verification can leave out."""
    base = chains.lake.store.path(FOLDER)
    for row in chains.rows("D"):
        hashlib.sha256(row.header).hexdigest()
        digest = read_digest(row.header)
        with open(f"{base}/{digest[:2]}/{digest[2:4]}/{digest}", "rb", buffering=0) if row.height else open("/dev/null", "rb", buffering=0) as file:  # noqa: PTH123
            hashlib.sha256(file.read()).hexdigest()


def read_digest(header: bytes) -> str:
    """The payload's digest, by the place where it stands."""
    at = header.index(b'"payload_sha256":"') + 18
    return header[at : at + 64].decode()


def signatures(chains: Chains, report: dict[str, object]) -> None:
    """Ours and the library's, in turns, on the same signatures."""
    rows = list(chains.rows("D", 0, SIGNATURES))
    ours = [(read_header(row.header).producer, row.hash, row.signature) for row in rows]
    bare = [(bytes.fromhex(producer), SIGNED_AS + bytes.fromhex(digest), bytes.fromhex(signature)) for producer, digest, signature in ours]
    took = {"ours": 0.0, "bare": 0.0}
    for first in range(0, len(rows), 500):
        took["ours"] += cpu(lambda part=ours[first : first + 500]: [signature_holds(*item) for item in part])  # type: ignore[misc]
        took["bare"] += cpu(
            lambda part=bare[first : first + 500]: [Signature.from_bytes(item[2]).verify(Pubkey.from_bytes(item[0]), item[1]) for item in part]  # type: ignore[misc]
        )
    show("signatures_per_cpu_s", len(rows) / took["ours"], report)
    show("library_signatures_per_cpu_s", len(rows) / took["bare"], report)
    show("share_of_library", took["bare"] / took["ours"], report)


def appended(chains: Chains, folder: Path, count: int, report: dict[str, object]) -> None:
    """One block at a time."""
    took, limits, worked = [], [], 0.0
    bare = Store(str(folder / "bare"), {})
    for number in range(count):
        started, began = time.perf_counter(), time.process_time()
        chains.write(KEY, "D", "dataset", b"appended %d" % number)
        took.append((time.perf_counter() - started) * 1e3)
        worked += time.process_time() - began
        started = time.perf_counter()
        bare.put(f"payload/{number}", b"appended")
        bare.put(f"header/{number}", b"x" * 1_000)
        limits.append((time.perf_counter() - started) * 1e3)
    for name, values in (("append_ms", took), ("fsync_ms", limits)):
        show(f"{name}_p50", float(np.percentile(values, 50)), report)
        show(f"{name}_p95", float(np.percentile(values, 95)), report)
    show("append_cpu_ms", worked / count * 1e3, report)


def synced(chains: Chains, folder: Path, report: dict[str, object]) -> None:
    """To a node that has nothing: in full, and from a checkpoint."""
    for chain in "BD":
        sign(chains, chain, KEY)
    trust = Trust(frozenset({KEY.public.hex()}), 1)
    size = chains.size("D")
    for name, fast in (("full_sync", False), ("fast_sync", True)):
        mine = Chains(Lake(str(folder / name)))
        started = time.perf_counter()
        worked = cpu(lambda mine=mine, fast=fast: sync(mine, LakePeer(chains), fast=fast, trust=trust))  # type: ignore[misc]
        show(f"{name}_s", time.perf_counter() - started, report)
        show(f"{name}_cpu_us_per_block", worked / size * 1e6, report)


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds, of all threads of the process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def sound(report: Any) -> None:
    """Stop where the chain is not what it should be: its figures would mean nothing."""
    if not report.good:
        raise SystemExit(f"the chain does not hold: {report.faults}")


def show(figure: str, value: float, report: dict[str, object]) -> None:
    """One line."""
    print(json.dumps({"figure": figure, "value": round(value, 4), **report}), flush=True)


if __name__ == "__main__":
    main()
