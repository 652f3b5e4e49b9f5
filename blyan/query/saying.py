"""The rows of an answer as a sentence, with what it rests on.

Belongs here: values in words, citations. Does not belong here: what was asked (`blyan.query.intents`), SQL, fetching.

Text of the chain that anyone may write is quoted, as data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from blyan.corpus.questions import plain
from blyan.corpus.untrusted import quote
from blyan.query.query_ast import Column

if TYPE_CHECKING:
    from blyan.query.planner import Plan


@dataclass(frozen=True, slots=True)
class Citation:
    """A row that an answer rests on: its slot, its transaction where it is of one, and the table."""

    slot: int
    signature: str | None
    table: str


@dataclass(frozen=True, slots=True)
class Said:
    """An answer in words."""

    text: str
    citations: tuple[Citation, ...]


ROWS_SAID = 10
"""Rows that a sentence has; it says how many more there are."""

CITED = 5


def say(
    plan: Plan,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    proof: Sequence[Sequence[Any]] = (),
    *,
    lacking: int = 0,
    here: int | None = None,
    names: Mapping[str, str] | None = None,
) -> Said:
    """What the rows of a plan's statement say.

    Args:
        plan: the plan.
        columns: names of the columns of the result.
        rows: the result.
        proof: rows of the plan's `proof`, if that was run.
        lacking: what the plan's `lacking` gave, if that was run.
        here: what the plan's `slots_here` gave, if that was run.
        names: of accounts, such as `Registry.names`.
    """
    known = {column.name: column for column in plan.columns}
    shown = [known.get(name, Column(name, name, "text")) for name in columns]
    taken = list(plan.notes)
    if here is not None and plan.slots_asked is not None and here < plan.slots_asked:
        taken.append(f"only {here:,} of these {plan.slots_asked:,} slots are here")
    if lacking:
        taken.append(f"{lacking:,} transactions there have no document yet and are left out")
    notes = f" ({'; '.join(taken)})" if taken else ""
    about = plan.about[:1].upper() + plan.about[1:]
    if not rows or all(value is None for row in rows for value in row):
        return Said(f"{about}: there is nothing of that here{notes}.", _citations(plan, columns, rows, proof))
    if len(rows) == 1:
        text = f"{about}: {_row(shown, rows[0], names or {})}{notes}."
    else:
        lines = [f"- {_row(shown, row, names or {})}" for row in rows[:ROWS_SAID]]
        more = f"\n… and {len(rows) - ROWS_SAID} more." if len(rows) > ROWS_SAID else ""
        text = f"{about}{notes}:\n" + "\n".join(lines) + more
    return Said(text, _citations(plan, columns, rows, proof))


def _row(columns: Sequence[Column], row: Sequence[Any], names: Mapping[str, str]) -> str:
    decimals = next((value for column, value in zip(columns, row, strict=True) if column.unit == "decimals"), None)
    parts = [
        _said(column, value, decimals, names) if len(row) == 1 or column.unit in ("sol", "token", "count", "base_units", "lamports") else
        f"{column.name.replace('_', ' ')} {_said(column, value, decimals, names)}"
        for column, value in zip(columns, row, strict=True)
        if column.unit != "decimals"
    ]  # fmt: skip
    return ", ".join(parts)


def _said(column: Column, value: Any, decimals: Any, names: Mapping[str, str]) -> str:
    if value is None:
        return "not recorded"
    match column.unit:
        case "yes":
            return "yes" if value else "no"
        case "percent":
            return f"{value} %"
        case "count":
            noun = column.name.replace("_", " ")
            return f"{value:,} {noun.removesuffix('s') if value == 1 else noun}"
        case "sol" | "token" | "lamports":
            return f"{_number(value)} {column.symbol}".strip()
        case "base_units":
            return f"{_number(value)} base units{f' of {column.symbol}' if column.symbol else ''}, {'decimals not told' if decimals is None else f'{decimals} decimals'}"
        case "number":
            return _number(value)
        case "account" | "program" | "mint":
            name = names.get(str(value))
            return f"{name} ({value})" if name else plain(str(value))
        case "time":
            return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else str(value)
        case "signature" | "slot":
            return str(value)
    return _text(column, value)


def _text(column: Column, value: Any) -> str:
    return quote(str(value)) if column.name == "memo" else plain(value) if isinstance(value, str) else str(value)


def _number(value: Any) -> str:
    """With separators, and without zeros that say nothing."""
    if isinstance(value, Decimal):
        text = f"{value:,f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:,}" if isinstance(value, int) else str(value)


def _citations(plan: Plan, columns: Sequence[str], rows: Sequence[Sequence[Any]], proof: Sequence[Sequence[Any]]) -> tuple[Citation, ...]:
    """Rows that are their own proof, or those of the proof."""
    if proof:
        return tuple(Citation(int(slot), signature, plan.table) for slot, signature in proof[:CITED])
    named = list(columns)
    slot = next((named.index(name) for name in ("block_slot", "slot") if name in named), None)
    if slot is None:
        return ()
    signature = named.index("signature") if "signature" in named else None
    found = [(row[slot], row[signature] if signature is not None else plan.signature) for row in rows[:CITED] if row[slot] is not None]
    return tuple(Citation(int(at), each, plan.table) for at, each in found)
