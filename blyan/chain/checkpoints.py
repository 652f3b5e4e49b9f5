"""Checkpoints: heads of chains that k of n keys signed, and the proofs that go with heads.

Belongs here: signing a head of one's own chains, finding one that is signed well enough, logs of chains. Does not belong here: heads and
proofs themselves (`blyan.chain.log`).

Nobody signs what he did not verify: `sign` verifies what is new first.
"""

from __future__ import annotations

from blyan.chain import marks
from blyan.chain.log import Log, SignedHead, Trust, entry_hash
from blyan.chain.store import Chains
from blyan.chain.verify import verify_new
from blyan.ed25519 import SigningKey
from blyan.errors import PermanentError


def sign(chains: Chains, chain: str, key: SigningKey) -> SignedHead:
    """Verify what is new of a chain, then sign its head and keep the signature.

    Raises:
        PermanentError: the chain does not hold, or is empty.
    """
    report = verify_new(chains, chain)
    if not report.good:
        fault = report.faults[0]
        what = f"block {fault.height} is wrong: {fault.field}: {fault.what}"
        raise PermanentError(what, where=f"chain {chain}", remedy="sign nothing of it; `blyan chain verify` has the report")
    mark = marks.verified(chains.lake.store, chain)
    if mark is None:
        raise PermanentError("it has no blocks", where=f"chain {chain}", remedy="sign it when it has some")
    report.size, report.root, report.head, report.time_ns = mark.size, mark.frontier().top().hex(), mark.head, int(mark.time_ns)
    signed = SignedHead(report.tree_head(mark.network), {}).signed_by(key)
    marks.put_head(chains.lake.store, signed)
    return signed


def newest(heads: list[SignedHead], trust: Trust) -> SignedHead | None:
    """The largest head that is signed well enough; None where none is."""
    good = [signed for signed in heads if len(signed.signers(trust.keys)) >= trust.threshold]
    return max(good, key=lambda signed: signed.head.size, default=None)


def log_of(chains: Chains, chain: str, size: int | None = None) -> Log:
    """The log of a chain as it is stored, by default whole, for proofs.

    Raises:
        InvalidBlockError: a stored hash or signature is none.
    """
    return Log([entry_hash(row.hash, row.signature) for row in chains.rows(chain, 0, size)])
