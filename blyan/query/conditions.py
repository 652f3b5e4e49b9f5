"""What a document may be asked to be, and whether it is.

Belongs here: conditions, and documents against them. Does not belong here: which conditions a query states
(`blyan.query.understanding`), or how documents are found (`blyan.query.search`).

A condition is a wish. Documents are ordered by the sum of the weights of the conditions that they meet, and only among equals by how well
their words and meaning fit; so documents that meet all come first, and where there is none, those that meet most. An exact one is a filter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.labels import GREATEST_DECADE, LEAST_DECADE, bucket
from blyan.corpus.terms import terms_of

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

Field = Literal["status", "kind", "program", "error", "account", "signature", "slot", "text", "gained", "lost", "sandwich", "scope", "error_words"]


@dataclass(frozen=True, slots=True)
class Check:
    """What a document may be tested for. Any of the values will do.

    `status`, `kind` and `scope` are the columns; `program` and `account` are accounts of the columns `programs` and `accounts`; `error`
    is a part of `error_class` and `text` of `text`; `gained` and `lost` are symbols of what the fee payer received and gave; `slot` is a
    number; `sandwich` has no value. `error_words` are terms of which all those of `error_class` are some: an error is named by its words.
    """

    field: Field
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Amount:
    """The largest amount of a unit that a text tells of is between two bounds.

    Attributes:
        unit: `SOL` (wrapped or not), `USD` (any dollar token), the symbol of a token, `fee` in SOL, or `compute units`.
        least, most: the bounds, in whole units; None for none.
        strict: the bounds themselves are outside.
    """

    unit: str
    least: Decimal | None
    most: Decimal | None
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Condition:
    """What a document should be; any of the checks will do.

    Attributes:
        name: the condition in words, such as `status = Fail`; empty for one that most documents miss and nobody need know of.
        checks: what shows it.
        amount: or an amount that it should tell of.
        words: words of documents that meet it, which full text is searched for besides the query's own.
        weight: how much more a document counts that meets it. The ranks of text and vector together count less than 0.1.
        exact: a document that is not so is no answer.
    """

    name: str
    checks: tuple[Check, ...] = ()
    amount: Amount | None = None
    words: tuple[str, ...] = ()
    weight: float = 1.0
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """What most is asked of: documents that tell of more of it come first among equals.

    Attributes:
        unit: as `Amount.unit`, or what a summary counts: `transactions`, `failed`, `swap`, `fees`.
        descending: the largest first.
    """

    unit: str
    descending: bool = True


ORDER_WEIGHT = 1.5
"""What being first in an order counts: as much as one or two conditions."""

COLUMNS = ("text", "status", "kind", "error_class", "programs", "accounts", "is_sandwich", "scope", "slot", "signature")
"""What is read of a document to tell whether it meets conditions; named as in the search index."""


def weigh(conditions: Sequence[Condition], order: Order | None, rows: pa.Table) -> Floats:
    """How much documents meet conditions: the sum of the weights, and up to `ORDER_WEIGHT` for what most is asked of.

    Args:
        conditions: of an `Understanding`.
        order: of it as well.
        rows: documents and summaries, with `COLUMNS`.

    Returns:
        float64 [rows]; minus infinity where an exact condition is not met.
    """
    out = np.zeros(len(rows))
    for condition in conditions:
        met = matches(condition, rows)
        out += np.where(met, condition.weight, -np.inf if condition.exact else 0.0)
    if order is not None:
        value = told(rows["text"], order.unit)
        tells = np.isfinite(value)
        distinct, place = np.unique(value[tells] if order.descending else -value[tells], return_inverse=True)
        out[tells] += ORDER_WEIGHT * (place + 1) / (len(distinct) + 1)
    return out


def where(condition: Condition) -> str | None:
    """What must be true of a row of the search index that meets a condition, as SQL; None where its columns do not tell.

    Of an amount they tell the decade, so that more rows pass than meet it.
    """
    parts = [_sql(check) for check in condition.checks]
    if condition.amount is not None:
        parts.append(_in_buckets(condition.amount))
    told = [part for part in parts if part is not None]
    return f"({' or '.join(told)})" if told and len(told) == len(parts) else None


def _sql(check: Check) -> str | None:
    values = ", ".join(map(_quoted, check.values))
    match check.field:
        case "status" | "kind" | "scope" | "signature":
            return f"{check.field} in ({values})"
        case "program":
            return f"array_has_any(programs, [{values}])"
        case "account":
            return f"array_has_any(accounts, [{values}])"
        case "slot":
            return " or ".join(f"(slot <= {int(value)} and last_slot >= {int(value)})" for value in check.values)
        case "error":
            return " or ".join(f"error_class like {_quoted(f'%{value}%')}" for value in check.values)
        case "sandwich":
            return "is_sandwich = true"
    return None


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _in_buckets(amount: Amount) -> str | None:
    """The value buckets that a row with such an amount may have: that of its largest movement, which may be larger than this one."""
    unit = "SOL" if amount.unit == "SOL" else "USD" if amount.unit in ("USD", "USDC", "USDT") else None
    if unit is None:
        return None
    least = LEAST_DECADE - 1 if not amount.least or amount.least <= 0 else max(amount.least.adjusted(), LEAST_DECADE - 1)
    names = [bucket(decade, unit) for decade in range(least, GREATEST_DECADE + 1)]
    if unit == "SOL":
        # Where a dollar token moved as well, the bucket is that of the dollars.
        names += [bucket(decade, "USD") for decade in range(LEAST_DECADE - 1, GREATEST_DECADE + 1)]
    return f"value_bucket in ({', '.join(map(_quoted, names))})"


def matches(condition: Condition, rows: pa.Table) -> Mask:
    """Which documents meet a condition.

    Args:
        condition: of an `Understanding`.
        rows: documents and summaries, with `COLUMNS`.

    Returns:
        A mask, shape [rows].
    """
    out = np.zeros(len(rows), np.bool_)
    for check in condition.checks:
        out |= _holds(check, rows)
    if condition.amount is not None:
        amount, value = condition.amount, told(rows["text"], condition.amount.unit)
        inside = np.isfinite(value)
        # Texts tell amounts exactly; a float tells them apart to 15 digits, which is more than anyone types.
        if amount.least is not None:
            inside &= value > float(amount.least) if amount.strict else value >= float(amount.least)
        if amount.most is not None:
            inside &= value < float(amount.most) if amount.strict else value <= float(amount.most)
        out |= inside
    return out


def _holds(check: Check, rows: pa.Table) -> Mask:
    columns = {
        "program": "programs",
        "account": "accounts",
        "error": "error_class",
        "error_words": "error_class",
        "sandwich": "is_sandwich",
        "gained": "text",
        "lost": "text",
    }
    column = columns.get(check.field, check.field)
    array = rows[column].combine_chunks()
    if check.field in ("program", "account"):
        rows_of = np.repeat(np.arange(len(array)), np.diff(np.asarray(array.offsets)))
        held = _mask(pc.is_in(array.flatten(), pa.array(check.values, pa.string())))
        found: Mask = np.bincount(rows_of[held], minlength=len(array)) > 0
        return found
    if check.field in ("error", "text"):
        has: Mask = np.any([_mask(pc.match_substring(array, value)) for value in check.values], axis=0)
        return has
    if check.field == "sandwich":
        return _mask(array)
    if check.field == "error_words":
        coded = array.dictionary_encode()
        named = [bool(words) and set(words) <= set(check.values) for words in terms_of(coded.dictionary).to_pylist()]
        met: Mask = np.array([*named, False], np.bool_)[pc.fill_null(coded.indices, len(named)).to_numpy(zero_copy_only=False)]
        return met
    if check.field in ("gained", "lost"):
        symbols = "|".join(re.escape(value) for value in check.values)
        return _mask(pc.match_substring_regex(array, _NET[check.field].format(symbols)))
    values = pa.array([int(value) for value in check.values], pa.int64()) if check.field == "slot" else pa.array(check.values, pa.string())
    return _mask(pc.is_in(array, values))


_NET = {
    "gained": r"^[^\n;]* swapped [^\n;]* for (?:[^\n;]*[ ,])?[0-9.]+ (?:{0})(?:[ ,;.]|$)|^[^\n]*\n[^\n>]* received (?:[0-9.]+ [^\n]*?, )*[0-9.]+ (?:{0})[.,\n]",
    "lost": r"^[^\n;]* swapped (?:[0-9.]+ [^\n;]*?, )*[0-9.]+ (?:{0})(?:,[^\n;]*)? for |^[^\n]*\n[^\n> ]+ gave (?:[0-9.]+ [^ \n]+, )*[0-9.]+ (?:{0})(?: and |[.,\n])",
}
"""What the fee payer gave and received is told in the first line of a swap, and in the second of any other."""


def _mask(array: pa.Array) -> Mask:
    return np.asarray(pc.fill_null(array, False).to_numpy(zero_copy_only=False), np.bool_)


_TOLD = {
    "SOL": r" sent ([0-9.]+) w?SOL\b",
    "USD": r" sent ([0-9.]+) USD[CT]\b",
    "fee": r" paid ([0-9.]+) SOL in fees",
    "compute units": r", ([0-9]+) compute units",
    "fees": r", ([0-9.]+) SOL in fees",
    "transactions": r"(?:called in|paid for|: )\s?([0-9]+) transaction",
    "failed": r", ([0-9]+) failed",
    "swap": r"\bswap ([0-9]+)",
}


def told(texts: pa.ChunkedArray | pa.Array, unit: str) -> Floats:
    """The largest amount of a unit that each text tells of, NaN where it tells of none.

    Args:
        texts: of documents or summaries, shape [texts].
        unit: as `Amount.unit` and `Order.unit`.
    """
    pattern = re.compile(_TOLD.get(unit) or rf" (?:sent|minted|burned) ([0-9.]+) {re.escape(unit)}\b")
    return np.array([max(map(float, pattern.findall(text)), default=np.nan) for text in texts.to_pylist()], np.float64)
