"""Families of questions about the tables: how each is asked, the SQL that answers it, and the sentence that says the answer.

Belongs here: reading the families, and putting values into SQL and into prose. Does not belong here: the entries
(`questions.toml`), where values come from, or running anything (`blyan.corpus.samples`).

A family belongs to a scope (one transaction, one block, one account, token or program, several slots), which says how parameters
are drawn from the rows of some slots and which rows an answer rests on. Values go into SQL as literals only, and into prose only through
`say`: a text that anyone may have written is quoted there, as data.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

import msgspec

from blyan.corpus.registry import Registry
from blyan.corpus.summaries import whole_units
from blyan.corpus.untrusted import quote
from blyan.errors import PermanentError

_PUBLISHED = Path(__file__).with_name("questions.toml")

_TABLE = re.compile(r"\b(?:solana|corpus)\.[a-z_]+")


class Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What questions are about.

    Attributes:
        draw: SQL that gives a row per candidate, its columns being parameters; those alike in the column `spread` take turns.
            `{when}` stands for what the family demands besides.
        evidence: SQL that gives `block_slot` and `tx_signature` of what an answer rests on.
    """

    draw: str
    evidence: str


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A family of questions.

    Attributes:
        scope: name of its scope.
        difficulty: 1 for columns of one table, 2 for aggregates, orders or joins, 3 for several steps.
        ask: phrasings, one of which a sample gets.
        answer: what is said of the first row; of all that the family abstains from, where it has no SQL.
        sql: the query, or None where the tables cannot tell.
        row: what is said of each row, after `answer`.
        none: what is said where there is no row.
        when, draw, evidence: see `Scope`; in the place of what that has.
        lacks: words that no column of the tables has in its name: why the family abstains.
    """

    scope: str
    difficulty: int
    ask: tuple[str, ...]
    answer: str
    sql: str | None = None
    row: str = ""
    none: str = "There is no such row."
    when: str = "true"
    draw: str | None = None
    evidence: str | None = None
    lacks: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scopes: dict[str, Scope]
    families: dict[str, Family]


@dataclass(frozen=True, slots=True)
class Questions:
    """Scopes and families by name. `digest` is the SHA-256 of the entries, in hex."""

    scopes: dict[str, Scope]
    families: dict[str, Family]
    digest: str

    def draw(self, family: Family) -> str:
        """The SQL that draws parameters of a family."""
        return (family.draw or self.scopes[family.scope].draw).replace("{when}", f"({family.when})")

    def evidence(self, family: Family) -> str:
        """The SQL template that gives what an answer rests on."""
        return family.evidence or self.scopes[family.scope].evidence


@cache
def load_questions(path: Path = _PUBLISHED) -> Questions:
    """The families of the project, or of another file of the same form.

    Raises:
        PermanentError: the file cannot be read, or a family names no scope, has no phrasing, abstains without saying what the
            tables lack, or says a value in a way that there is not.
    """
    try:
        file = msgspec.toml.decode(path.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError) as error:
        raise PermanentError(f"the questions cannot be read: {error}", where=str(path), remedy="correct the file") from error
    for name, family in file.families.items():
        wrong = _wrong(file, family)
        if wrong:
            raise PermanentError(wrong, where=f"family {name} of {path.name}", remedy="correct the entry")
    return Questions(file.scopes, file.families, hashlib.sha256(msgspec.json.encode(file, order="sorted")).hexdigest())


def _wrong(file: _File, family: Family) -> str | None:
    if family.scope not in file.scopes:
        return f"there is no scope {family.scope}"
    if not family.ask:
        return "it has no phrasing"
    if (family.sql is None) != bool(family.lacks):
        return "it must have either SQL or what the tables lack"
    for template in (*family.ask, family.answer, family.row, family.none):
        for _, name, how, _ in Formatter().parse(template):
            if name is not None and not _HOW.fullmatch(how or ""):
                return f"{{{name}:{how}}} is no way to say a value"
    return None


def tables_of(sql: str) -> list[str]:
    """The tables that a template names, as `corpus/documents`, in alphabetical order."""
    return sorted({name.replace(".", "/") for name in _TABLE.findall(sql)})


# SQL


def bind(template: str, values: Mapping[str, Any]) -> str:
    """A SQL template with its placeholders filled in, on one line.

    Raises:
        PermanentError: a placeholder has no value.
    """
    parts: list[str] = []
    for text, name, _, _ in Formatter().parse(template):
        parts.append(re.sub(r"\s+", " ", text))
        if name is not None:
            parts.append(literal(_value(values, name)))
    return "".join(parts).strip()


_PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]+")


def literal(value: Any) -> str:
    """A value as a literal of DuckDB's SQL. Characters that cannot be seen are written as `chr(n)`, so the SQL is what it looks like.

    Raises:
        PermanentError: it is neither an integer, a decimal nor a text.
    """
    match value:
        case bool():
            pass
        case int():
            return str(value)
        case Decimal():
            return f"{value:f}"
        case str():
            pieces: list[str] = []
            at = 0
            for found in _PLAIN.finditer(value):
                pieces += [f"chr({ord(sign)})" for sign in value[at : found.start()]]
                pieces.append("'" + found[0].replace("'", "''") + "'")
                at = found.end()
            pieces += [f"chr({ord(sign)})" for sign in value[at:]]
            return pieces[0] if len(pieces) == 1 else "(" + " || ".join(pieces or ["''"]) + ")"
    raise PermanentError(f"{value!r} cannot be a literal", where="the parameters of a question", remedy="draw integers, decimals or text")


# Prose

_HOW = re.compile(r"|sol|name|called|quoted|verbatim|list|count [a-z ]+|or [a-z ]+|units [a-z_]+ [a-z_]+")
_HARMLESS = re.compile(r"[A-Za-z0-9 ._:;,()#/+'%-]{1,300}")


def say(template: str, values: Mapping[str, Any], registry: Registry) -> str:
    """A sentence with its placeholders filled in.

    After the colon comes how a value is said: `sol` lamports as SOL, `units D M` base units of the mint in M with the decimals in D,
    `count noun` with its noun, `name` an account with its name in the registry, `called` by that name alone, `or words` the words where it is null, `quoted` and
    `verbatim` text, `list` each item. Every figure is also said as it stands in the row.

    Raises:
        PermanentError: a placeholder has no value.
    """
    parts: list[str] = []
    for text, name, how, _ in Formatter().parse(template):
        parts.append(text)
        if name is not None:
            parts.append(_said(_value(values, name), how or "", values, registry))
    return "".join(parts)


def _value(values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        raise PermanentError(f"nothing is drawn or selected as {name}", where="the questions", remedy="correct the family")
    return values[name]


def _said(value: Any, how: str, values: Mapping[str, Any], registry: Registry) -> str:
    way, _, rest = how.partition(" ")
    if value is None:
        return rest if way == "or" else "an unrecorded amount" if way in ("sol", "units") else "nothing recorded"
    match way:
        case "sol":
            return f"{_units(value, 9)} SOL ({value:f} lamports)"
        case "units":
            decimals, mint = (values.get(name) for name in rest.split())
            token = _named(str(mint), registry) if mint is not None else "an unknown mint"
            if decimals is None:
                return f"{value:f} base units of {token}, whose decimals are not told,"
            return f"{_units(value, decimals)} {token} ({value:f} base units, {decimals} decimals)"
        case "count":
            return f"{value} {rest}{'' if value == 1 else 's'}"
        case "name":
            return _named(str(value), registry)
        case "called":
            return registry.names.get(str(value)) or plain(value)
        case "quoted":
            return quote(str(value))
        case "verbatim":
            return str(value)
        case "list":
            return ", ".join(plain(item) for item in value) or "none"
    return plain(value)


def _named(account: str, registry: Registry) -> str:
    name = registry.names.get(account)
    return plain(account) if name is None else f"{name} ({account})"


def _units(value: Decimal | int, decimals: int) -> str:
    digits = f"{value:f}"
    return ("-" if digits.startswith("-") else "") + whole_units(digits.lstrip("-"), decimals)


def plain(value: Any) -> str:
    """A value as prose has it; a text that is more than letters, digits and simple signs in quotes."""
    if isinstance(value, str):
        return value if _HARMLESS.fullmatch(value) else quote(value)
    return "nothing recorded" if value is None else str(cell(value))


# Answers

EXACT_JSON = 2**53
"""Integers beyond it are text in JSON, where many readers keep numbers as doubles."""


def canonical(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A result as JSON, the same for the same result: `{"columns": […], "rows": [[…], …]}`, decimals and large integers as text.

    Raises:
        PermanentError: a value is a float, or of another type that has no one text.
    """
    return msgspec.json.encode({"columns": list(columns), "rows": [[cell(value) for value in row] for row in rows]}).decode()


def cell(value: Any) -> Any:
    """One value of an answer."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= EXACT_JSON else str(value)
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat()
        case list() | tuple():
            return [cell(item) for item in value]
    raise PermanentError(f"an answer holds {value!r}, a {type(value).__name__}", where="the questions", remedy="cast it to a decimal or to text")
