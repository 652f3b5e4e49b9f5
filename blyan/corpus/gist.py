"""What of a document is embedded.

Belongs here: the gist of a text. Does not belong here: the text (`blyan.corpus.render`), or its vector (`blyan.corpus.embedder`).

A sentence model says nothing of digits, and transactions of one kind differ in little else: without their numbers, most have the same
gist, which is embedded once. Exact words, numbers and accounts are found by other means than vectors.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

GIST = "2"
"""Raise it when a text would get another gist."""

_DROPPED = "|".join(
    [
        r"; [^\n;]*? paid [0-9.]+ SOL in fees",
        r", [0-9]+ (?:compute units|times)",
        r" with [0-9]+ accounts?",
        r" (?:space|lamports) [0-9.]+(?: SOL)?\b",
        # What has no words: seeds, and memos that are a digest, a key or a number.
        r' \w*[sS]eed "(?:[^"\\\n]|\\.)*"',
        r' "[A-Za-z0-9+/=_-]{16,}"',
        r' "[0-9.,:+-]*"',
        # Not what follows a letter or a mark: `v4`, `@2` and `0x1771` are names.
        r" [0-9]+(?:\.[0-9]+)*\b",
    ]
)


def gist(texts: pa.Array) -> pa.Array:
    """Texts without amounts, fees, and what else has no meaning for a sentence model. Aliases of accounts stay.

    Args:
        texts: `schemas.DOCUMENTS.text`. The words at the beginning of a document always stay, so no gist is empty.
    """
    return pc.replace_substring_regex(texts, _DROPPED, "")
