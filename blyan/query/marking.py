"""Which strings of an answer anyone may have written, and how that is shown to who reads them.

Belongs here: telling words of the chain's users from values that the chain or this project constrains, and two ways to mark them. Does not
belong here: what is odd about such text (`blyan.corpus.untrusted`), and what is done with an answer.

A value is a number, a time, a digest, 32 or 64 bytes of base58, or a word of the project's own (a status, a kind, a name of the registry, a
column). Every other string is taken for text of a stranger, memo or not: too much is marked, never too little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from blyan.corpus.labels import EXCHANGED, KIND_RULES, MINTED_ONE, NO_RULE, VOTE
from blyan.corpus.registry import load_registry
from blyan.corpus.untrusted import MAX_CHARACTERS, flags_of, visible
from blyan.query import gate
from blyan.solana import base58

MARK = "untrusted_text"
"""The one key of an object that stands for a stranger's text."""

MOST_ITEMS = 64
"""Items of a list inside a value that are shown; the others are counted."""

_VALUE = re.compile(
    r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|NaN|-?Infinity|[0-9a-f]{32}|[0-9a-f]{64}"
    r"|\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:?\d{2})?)?"
)
_BASE58 = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,88}")

_WORDS = frozenset(
    [
        "Success",
        "Fail",
        "true",
        "false",
        "null",
        "transaction",
        "range",
        "program",
        "account",
        "finalized",
        "confirmed",
        "processed",
        "landed",
        "present",
        "skipped",
        "unknown",
        "legacy",
        "0",
        "Fee",
        "Rent",
        "Voting",
        "Staking",
        "full",
        "accounts",
        "signatures",
        "none",
        "hybrid",
        "vector",
        "text",
        "json",
        "jsonParsed",
        "base64",
        "base58",
        "embedded",
        "archive",
        "rpc",
        "bigquery",
    ]
)


def is_value(text: str) -> bool:
    """Whether nobody could choose what a string says."""
    return bool(_VALUE.fullmatch(text)) or text in _known() or is_key(text)


def is_key(text: str) -> bool:
    """Whether it is an account, a hash or a signature: 32 or 64 bytes of base58."""
    if not _BASE58.fullmatch(text):
        return False
    try:
        return len(base58.decode(text)) in (32, 64)
    except ValueError:
        return False


@cache
def _known() -> frozenset[str]:
    """Words of the project's own: statuses, kinds, names of the published registry, tables and columns."""
    kinds = {rule.kind for rule in (*KIND_RULES, VOTE, EXCHANGED, MINTED_ONE, NO_RULE)}
    columns = {column.name for table in gate.tables().values() for column in table.columns}
    return _WORDS | kinds | columns | set(gate.tables()) | {table.name for table in gate.tables().values()} | set(load_registry().names.values())


def marked(value: Any) -> Any:
    """A value for a language model: each text of a stranger is an object `{"untrusted_text": …, "flags": […]}`, so none stands bare.

    What cannot be seen in a text is escaped, longer ones are cut at `untrusted.MAX_CHARACTERS`, lists at `MOST_ITEMS`; both say so.
    """
    match value:
        case str():
            if is_value(value):
                return value
            shown: dict[str, Any] = {MARK: visible(value[:MAX_CHARACTERS])}
            if flags := flags_of(value):
                shown["flags"] = list(flags)
            if len(value) > MAX_CHARACTERS:
                shown["characters"] = len(value)
            return shown
        case Mapping():
            return {name: marked(each) for name, each in value.items()}
        case list() | tuple():
            items = [marked(each) for each in value[:MOST_ITEMS]]
            return [*items, {"items_left_out": len(value) - MOST_ITEMS}] if len(value) > MOST_ITEMS else items
    return value


def shown(value: Any) -> Any:
    """A value for programs and people: the same shape, with what cannot be seen in a string escaped."""
    match value:
        case str():
            return visible(value)
        case Mapping():
            return {name: shown(each) for name, each in value.items()}
        case list() | tuple():
            return [shown(each) for each in value]
    return value


def untrusted(value: Any, at: str = "") -> Iterator[dict[str, Any]]:
    """Where a value has text of strangers: `at`, a JSON pointer (RFC 6901), and `flags`, what is odd about it."""
    match value:
        case str():
            if not is_value(value):
                yield {"at": at, "flags": list(flags_of(value))}
        case Mapping():
            for name, each in value.items():
                yield from untrusted(each, f"{at}/{str(name).replace('~', '~0').replace('/', '~1')}")
        case Sequence():
            for place, each in enumerate(value):
                yield from untrusted(each, f"{at}/{place}")
