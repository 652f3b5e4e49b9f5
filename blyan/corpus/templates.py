"""Templates: documents that share a structural key, and a cap on how many of each are used.

Belongs here: counting them, and which are kept. Does not belong here: the structural key (`blyan.corpus.render`).

Four fifths of mainnet's documents differ from some other in masked values alone; a model would read little else. Under a cap, so many
of each template are kept, spread evenly over the range: not the first of them, which would be those of its first minutes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blyan.corpus.activity import coded_text
from blyan.errors import PermanentError
from blyan.solana.columns import Ints, Mask

Prefixes = npt.NDArray[np.uint64]

MERGE_AT = 1 << 20
"""Templates of batches that are held before they are joined with those known."""


class Templates:
    """The templates of some documents, and how many there are of each: 24 bytes a template, which two with the same first 64 bits share.

    Args:
        batches: structural keys of the documents, in order.
    """

    def __init__(self, batches: Iterable[pa.Array]) -> None:
        self.keys, self.counts = np.empty(0, np.uint64), np.empty(0, np.int64)
        held: list[tuple[Prefixes, Ints]] = []
        for batch in batches:
            distinct, code_of = coded_text(batch)
            held.append((prefixes(distinct), np.bincount(code_of, minlength=len(distinct))))
            if sum(len(keys) for keys, _ in held) >= MERGE_AT:
                self._merge(held)
                held = []
        self._merge(held)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def documents(self) -> int:
        """Documents of all templates."""
        return int(self.counts.sum())

    def kept(self, cap: int) -> int:
        """Documents that a cap keeps."""
        return int(np.minimum(self.counts, cap).sum())

    def _merge(self, held: list[tuple[Prefixes, Ints]]) -> None:
        every = np.concatenate([self.keys] + [keys for keys, _ in held])
        counts = np.concatenate([self.counts] + [counts for _, counts in held])
        self.keys, which = np.unique(every, return_inverse=True)
        self.counts = np.bincount(which, weights=counts, minlength=len(self.keys)).astype(np.int64)


class Cap:
    """Chooses documents as they go by, in the order in which they were counted.

    Of n documents of a template, min(n, cap) are kept, the same ones every time.
    """

    def __init__(self, templates: Templates, cap: int) -> None:
        if cap < 1:
            raise PermanentError(f"a cap of {cap} keeps nothing", where="BLYAN_CORPUS_TEMPLATE_CAP", remedy="set it to 1 or more")
        self._templates, self._cap = templates, cap
        self._seen = np.zeros(len(templates), np.int64)

    def choose(self, structural_keys: pa.Array) -> tuple[Mask, Mask]:
        """For the next documents: which are kept, and which are the first of their template.

        Raises:
            PermanentError: there are more of a template than were counted.
        """
        distinct, code_of = coded_text(structural_keys)
        wanted = prefixes(distinct)
        place = np.searchsorted(self._templates.keys, wanted)
        known = np.append(self._templates.keys, np.uint64(0))
        if (known[place] != wanted).any():
            raise _changed()
        at = place[code_of]
        rank = self._seen[at] + ranks(at)
        self._seen += np.bincount(at, minlength=len(self._seen))
        count = self._templates.counts[at]
        if (rank >= count).any():
            raise _changed()
        cap = np.minimum(count, self._cap)
        # Evenly: the number kept grows with the rank like cap / count.
        return (rank + 1) * cap // count > rank * cap // count, rank == 0


def _changed() -> PermanentError:
    return PermanentError("the documents are not those that were counted", where="templates", remedy="run it again: they were replaced meanwhile")


def prefixes(structural_keys: pa.StringArray) -> Prefixes:
    """The first 64 bits of structural keys.

    Raises:
        PermanentError: one is not 32 hex digits.
    """
    text = structural_keys.to_pylist()
    try:
        data = bytes.fromhex("".join(text))
    except ValueError:
        data = b""
    if len(data) != 16 * len(text) or any(len(key) != 32 for key in text):
        raise PermanentError("a structural key is not 32 hex digits", where="corpus/documents", remedy="render the range again")
    return np.frombuffer(data, ">u8")[::2].astype(np.uint64)


def ranks(codes: Ints) -> Ints:
    """For each element, how many before it are the same."""
    by = np.argsort(codes, kind="stable")
    fresh = np.flatnonzero(np.append(True, np.diff(codes[by]) != 0)[: len(by)])
    found = np.empty(len(by), np.int64)
    found[by] = np.arange(len(by)) - np.repeat(fresh, np.diff(np.append(fresh, len(by))))
    return found
