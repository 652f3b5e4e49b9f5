"""What intents give, and what several of them share.

Belongs here: the form of a meaning, its proof, the words of aggregates and lists. Does not belong here: which questions mean what
(`blyan.query.intents` and what it names), SQL (`blyan.query.query_ast`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from blyan.query.query_ast import Balance, Column, Query
from blyan.query.reading import NotUnderstoodError


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a question asks; the attributes are those of `blyan.query.planner.Plan`."""

    intent: str
    query: Query | Balance
    about: str
    notes: tuple[str, ...] = ()
    slots: Mapping[str, str] = field(default_factory=dict)
    proof: Query | None = None
    table: str = ""
    signature: str | None = None
    ordered: bool = False
    columns: tuple[Column, ...] = ()


PROOFS = 5
"""Rows that are cited."""


def proof_of(query: Query) -> Query:
    """Some of the rows that an aggregate is over; of an extreme, those that have it."""
    source = query.source
    signature = Column("signature", source.signature or "cast(null as varchar)", "signature")
    columns = (Column("slot", source.slot, "slot"), signature)
    if source.repeats:
        return Query(source, (), by=columns, filters=query.filters, window=query.window, limit=PROOFS)
    return Query(source, columns, filters=query.filters, window=query.window, limit=PROOFS, rows=True)


def rests_on(proof: Query) -> Query:
    """How many rows there are of which a proof has some. An extreme rests on the one that has it."""
    source = proof.source
    counted = f"count(distinct ({source.slot}, {source.place}))" if source.repeats else "count(*)"
    one = proof.limit == 1
    return replace(proof, columns=(Column("rows_in_all", f"least({counted}, 1)" if one else counted),), by=(), order=(), limit=None, rows=False)


ROW = (Column("block_slot", "t.block_slot", "slot"), Column("signature", "t.signature", "signature"))
"""Of a transaction that is listed."""

LIST_ROWS = 10
"""Rows of a list, where the question does not say how many."""

AGGREGATES = {"TOTAL": "total", "MEAN": "mean", "MEDIAN": "median", "P90": "p90", "P95": "p95", "P99": "p99", "BIG": "highest", "SMALL": "lowest"}
AGGREGATE_TAGS = " ".join(AGGREGATES)

OFTEN = ("most often", "most frequently", "most times", "the most times")
"""Words that ask for calls or operations to be counted."""


def base_units(value: Decimal) -> int:
    """An amount to compare with, where it is one.

    Raises:
        NotUnderstoodError: it has a fraction of a base unit, or is none that can exist.
    """
    if not 0 <= value < 2**64 or value % 1:
        raise NotUnderstoodError(f"{value:f} is no amount in base units.", "not_understood", (f"{value:f}",))
    return int(value)


def some(word: str, limit: int, about: str) -> str:
    """Some of what is listed, in words."""
    return f"{word} {f'{limit} ' if limit > 1 else ''}of the {about}"
