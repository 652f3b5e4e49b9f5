"""A witness: somebody else who remembers how long a chain was, and signs only what begins with that.

Belongs here: what a witness remembers and refuses. Does not belong here: the proofs themselves (`blyan.chain.log`), asking it over a network.

A node that shows two histories to two readers, or takes blocks back, must do it before the witness too. What it remembers is on the disk
before its signature leaves it, so one that was killed never signs two histories either. It needs nothing of the chain but heads and proofs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from blyan.chain.canonical import NotCanonicalError, encode, parse
from blyan.chain.log import ForkError, SignedHead, TreeHead, TreeHeadError, Trust, is_consistent
from blyan.ed25519 import SigningKey
from blyan.errors import MissingObjectError, PermanentError
from blyan.store import Store


class Witness:
    """Remembers the newest head of each chain of one network.

    Args:
        folder: where it remembers; each witness has its own.
        key: what it signs with.
        network: whose heads it looks at.
        logs: whose heads it looks at: signatures of so many of the keys.
    """

    def __init__(self, folder: Path, key: SigningKey, *, network: str, logs: Trust) -> None:
        self._folder, self._key, self._network, self._logs = folder, key, network, logs
        self._store = Store(str(folder), {})

    def known(self, chain: str) -> TreeHead | None:
        """The newest head that it signed of a chain; None where it signed none.

        Raises:
            PermanentError: what it remembers was damaged. It signs nothing more before somebody looked at that.
        """
        try:
            data = self._store.get(self._name(chain))
        except MissingObjectError:
            return None
        try:
            return msgspec.convert(parse(data, where=self._name(chain)), TreeHead)
        except (NotCanonicalError, msgspec.ValidationError) as error:
            remedy = "find out what the witness signed last, from those who have its signatures, before it signs again"
            raise PermanentError(f"what the witness remembers is damaged: {error}", where=str(self._folder), remedy=remedy) from error

    def observe(self, signed: SignedHead, proof: Sequence[bytes]) -> SignedHead:
        """Look at a head: it, with the witness's signature, where it is the same chain and no shorter.

        Args:
            signed: by the keys of the log.
            proof: `Log.consistency` from the size of `known` to that of the head; empty the first time.

        Raises:
            TreeHeadError: it is of another network, or not signed by those who must sign it.
            ForkError: it is shorter than what the witness signed, or another history.
        """
        head = signed.head
        if head.network != self._network:
            what = f"it is of network {head.network[:12]}, and the witness looks at {self._network[:12]}"
            raise TreeHeadError(what, where=f"{head.chain} at {head.size}", remedy="ask a witness of that network")
        self._logs.check(signed)
        with self._alone():
            known = self.known(head.chain)
            if known is not None:
                _compare(known, head, proof)
            if known != head:
                self._store.put(self._name(head.chain), encode(head))
        return signed.signed_by(self._key)

    def _name(self, chain: str) -> str:
        return f"witnessed-{chain}.json"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One observation at a time, of however many processes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _compare(known: TreeHead, head: TreeHead, proof: Sequence[bytes]) -> None:
    where = f"{head.chain} at {head.size}"
    if head.size < known.size:
        raise ForkError(f"it had {known.size} blocks before: a rollback", where=where, remedy="keep both signed heads: they are the proof")
    if head.size == known.size and head != known:
        raise ForkError("another history of the same length: a fork", where=where, remedy="keep both signed heads: they are the proof")
    if not is_consistent(known.size, head.size, bytes.fromhex(known.root), bytes.fromhex(head.root), proof):
        remedy = "ask the log for a proof from the size that the witness knows; if it has none, keep both signed heads"
        raise ForkError(f"nothing proves that it begins with the {known.size} blocks of before", where=where, remedy=remedy)
