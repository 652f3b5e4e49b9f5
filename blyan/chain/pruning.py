"""Payloads that leave for cold storage. Headers stay, and with them everything that was signed.

Belongs here: which payloads may leave. Does not belong here: moving them (`blyan.chain.payloads`).

Those of blocks below a checkpoint, unless a block above it, or one of another chain, has the same payload. Those of A never: they are the rules.
Who appends a block with one of these payloads at the very moment that it leaves finds it gone: `blyan chain verify` says so, cold storage has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blyan.chain import marks
from blyan.chain.block import CHAINS, read_header
from blyan.chain.log import SignedHead, Trust
from blyan.chain.rules import Row
from blyan.chain.store import Chains
from blyan.chain.verify import verify_from
from blyan.errors import PermanentError
from blyan.store import Store


@dataclass(frozen=True)
class Pruning:
    """What left: payloads and their bytes, of blocks below a height."""

    below: int
    payloads: int
    payload_bytes: int


def prune(chains: Chains, signed: SignedHead, trust: Trust, cold: Store) -> Pruning:
    """Move the payloads below a checkpoint to cold storage. Again it moves what was left.

    Raises:
        PermanentError: it is a checkpoint of A, the chain is not the one that was signed, or too few signed it.
    """
    chain, size = signed.head.chain, signed.head.size
    if chain == "A":
        raise PermanentError("the payloads of A are the rules of the network", where="chain A", remedy="prune B or D")
    report = verify_from(chains, signed, trust)
    if not report.good:
        fault = report.faults[0]
        what = f"block {fault.height} is wrong: {fault.field}: {fault.what}"
        raise PermanentError(what, where=f"chain {chain}", remedy="prune nothing; `blyan chain verify` has the report")
    leaving = set(_payloads(chains.rows(chain, 0, size)))
    for other in CHAINS:
        first = size if other == chain else marks.pruned_below(chains.lake.store, other)
        leaving.difference_update(_payloads(chains.rows(other, first)))
    here = sorted(digest for digest in leaving if chains.payloads.has(digest))
    marks.put_pruned(chains.lake.store, chain, size)  # before the first is gone, so that a crash leaves nothing that looks damaged
    return Pruning(size, len(here), chains.payloads.move(here, cold))


def _payloads(rows: Iterable[Row]) -> Iterable[str]:
    return (read_header(row.header).payload_sha256 for row in rows)
