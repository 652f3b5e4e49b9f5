"""What a stranger's statement may be: one that reads, of tables and functions that are listed.

Belongs here: parsing, the two lists, which slots matter, the text that a cache's key is made of. Does not belong here: what a
statement can do if this is wrong, which is `blyan.query.sandbox`'s to bound: the gate gives clear refusals, and is not the wall.

A statement is refused that is not understood. What is allowed is listed, never what is not: functions are those of
`blyan.query.functions`, tables in FROM are those of the lake, by both parts of their name, and names that a WITH before them gives.

Sizes are bounded before anything recursive sees the text.
"""

from __future__ import annotations

import difflib
import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from functools import cache, lru_cache
from typing import Any

import sqlglot.errors
from msgspec import Struct
from sqlglot import Token, TokenType, exp
from sqlglot.dialects.duckdb import DuckDB

from blyan.errors import PermanentError
from blyan.query.engine import all_tables
from blyan.query.functions import TABLE_FUNCTIONS, VOLATILE, functions, words
from blyan.query.position import START, Position
from blyan.query.snapshot import EVERYTHING, Bounds, utc
from blyan.schemas import COMPLETENESS, RANGE_COLUMN, SLOT_STATUS, VIEWS, Table
from blyan.stage import slot_column, stats_columns

MAX_BYTES = 128 << 10
"""Bytes of a statement. Larger ones are refused before they are looked at."""

MAX_TOKENS = 20_000
"""Words and signs of a statement."""

MAX_NESTED = 100
"""Brackets, CASE and prefix operators within each other. DuckDB itself takes 1,000."""

UNREAD_CONTEXT = 100
"""Signs of the text that the parser tells of before the word that it did not take."""

STACK_BYTES = 256 << 20
"""Stack of the thread that parses: the parser recurses in C, where a stack too small ends the process. Only what is used is taken."""

REMEMBERED, REMEMBERED_BYTES, REMEMBERED_PARAMS = 256, 4 << 10, 16
"""Statements of which is remembered what they are, the bytes of the longest of them and of their parameters, and how many these are."""

_PLAIN_VALUES = (bool, int, float, str, bytes, date, type(None))

_OPENS = frozenset({TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE})
_CLOSES = frozenset({TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END})
_PREFIXES = frozenset({TokenType.NOT, TokenType.DASH, TokenType.TILDE})

_STARTS = frozenset({"select", "with", "from", "values", "(", "table", "describe", "desc", "show", "explain"})

_READS = (exp.Select, exp.SetOperation, exp.Subquery, exp.Values, exp.Table)
_NEVER = (
    exp.DML,
    exp.DDL,
    exp.Command,
    exp.Into,
    exp.Pivot,
    exp.Version,
    exp.Show,
    exp.Describe,
    exp.Summarize,
    exp.Attach,
    exp.Pragma,
    exp.Set,
    exp.Use,
)

_PLAIN_JOINS = frozenset({"", "INNER", "OUTER", "CROSS"})

_SPELLED = words(
    """
    cast try_cast extract coalesce exists columns unnest array struct map row interval decimal numeric varchar char text blob bigint integer
    int smallint tinyint ubigint uinteger usmallint utinyint hugeint uhugeint double float real boolean date time timestamp timestamptz
    unpack grouping grouping_id try percentile_cont percentile_disc
    """
)
"""Words of the grammar that are written like functions, which DuckDB does not list as such. They may be quoted, and then are none."""

_KEYWORDS = words(
    """
    select distinct all any some from where group by having qualify order limit offset on using and or not in is as exists between like
    ilike glob similar to case when then else values union intersect except join lateral with recursive materialized over filter within
    partition window rows groups exclude replace rename rollup cube sets escape collate cross inner outer left right full semi anti asof
    isnull notnull array lambda respect ignore nulls at
    """
)
"""Words before a bracket that are no function."""

_PREFIX = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:(explain)(?:(?:\s|--[^\n]*\n|/\*.*?\*/)+(analyze)\b)?|(describe|desc))\b", re.IGNORECASE | re.DOTALL
)


class Checked(Struct, frozen=True):
    """A statement that may run.

    Attributes:
        sql: what is to run: one statement, without its EXPLAIN or DESCRIBE.
        kind: `rows`, `explain`, `analyze`, `describe` or `tables`.
        tables: names in the lake of those it reads.
        bounds: what rows of them can matter, where that can be proved.
        normalised: its text without comments and with single spaces; equal texts mean the same.
        volatile: the functions in it that give another value each time.
        begins: where `sql` begins in what was given.
    """

    sql: str
    kind: str
    tables: tuple[str, ...]
    bounds: dict[str, Bounds]
    normalised: str
    volatile: tuple[str, ...]
    begins: Position = START


class RefusedError(PermanentError):
    """A statement that may not run, or cannot be understood.

    Attributes:
        position: of what is wrong in it, where that is known.
    """

    position: Position | None = None

    def at(self, position: Position | None) -> RefusedError:
        """The same error, of a place."""
        self.position = position
        return self


@cache
def tables() -> dict[str, Table]:
    """The tables and views that a statement may read, by `group.name`."""
    return {f"{table.group}.{table.short_name}": table for table in [*all_tables(), *VIEWS.values()]}


def check(sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Checked:
    """What a statement is, or why it may not run.

    Args:
        sql: one statement, perhaps with a semicolon after it.
        params: values of `$1`, `?` or `$name`; they only serve to prove which slots matter.

    Raises:
        RefusedError: it is too large or too deep, is not one statement that reads, or names what is not listed.
    """
    _check_size(sql)
    given = _as_key(params)
    if given is None or len(sql) > REMEMBERED_BYTES:
        return _thread().submit(_check, sql, params).result()
    return _remembered(sql, given)


Given = tuple[tuple[str | None, type, Any], ...]
"""Parameters as a key: name, type and value, because 1, 1.0 and True are equal and prove different things."""


def _as_key(params: Sequence[Any] | Mapping[str, Any] | None) -> Given | None:
    """The parameters as a key, None where they are none: lists, or long."""
    named = params.items() if isinstance(params, Mapping) else ((None, value) for value in params or ())
    found = tuple((name, type(value), value) for name, value in named)
    small = all(isinstance(value, _PLAIN_VALUES) and not (isinstance(value, str | bytes) and len(value) > REMEMBERED_BYTES) for _, _, value in found)
    return found if small and len(found) <= REMEMBERED_PARAMS else None


@lru_cache(REMEMBERED)
def _remembered(sql: str, given: Given) -> Checked:
    """What was found out of a statement before: that takes a millisecond, and callers ask the same ones again."""
    named = any(name is not None for name, _, _ in given)
    params: Any = {name: value for name, _, value in given} if named else [value for _, _, value in given]
    return _thread().submit(_check, sql, params).result()


def _check_size(sql: str) -> None:
    if len(sql) > MAX_BYTES or len(sql.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise RefusedError(f"the statement has more than {MAX_BYTES >> 10} KiB", remedy="put long lists into parameters, or ask in parts")
    odd = next((character for character in sql if (character < " " and character not in "\t\n\r") or "\ud800" <= character <= "\udfff"), None)
    if odd is not None:
        raise RefusedError(f"the statement has the character U+{ord(odd):04X}", remedy="leave it out, or give the text as a parameter")


@cache
def _thread() -> ThreadPoolExecutor:
    """One thread, with a stack for whatever `MAX_TOKENS` lets through."""
    before = threading.stack_size(STACK_BYTES)
    try:
        pool = ThreadPoolExecutor(1, thread_name_prefix="gate")
        pool.submit(int).result()
    finally:
        threading.stack_size(before)
    return pool


def _check(sql: str, params: Sequence[Any] | Mapping[str, Any] | None) -> Checked:
    try:
        return _checked(sql, params)
    except RecursionError as error:
        raise RefusedError("the statement is nested too deep", remedy="write it with WITH, or in parts") from error
    except sqlglot.errors.SqlglotError as error:  # of its words: what the parser says of them is told with its place
        raise RefusedError(f"the statement cannot be read: {_first_line(error)}", remedy="it is read as DuckDB's SQL") from error


def _first_line(error: Exception) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).partition("\n")[0].strip()


def _checked(sql: str, params: Sequence[Any] | Mapping[str, Any] | None) -> Checked:
    dialect = DuckDB()
    # The tokenizer takes what follows an EXPLAIN for one string.
    prefix = _PREFIX.match(sql)
    kind = "rows" if prefix is None else "analyze" if prefix[2] else "explain" if prefix[1] else "describe"
    begins = 0 if prefix is None else prefix.end()
    text = sql[begins:]
    words = _tokens(dialect, text)
    normalised = ("" if kind == "rows" else f"{kind} ") + _normalised(text, words)
    first = words[0].text.lower()
    if prefix is None and first == "show":
        if [word.text.lower() for word in words[1:]] not in (["tables"], ["all", "tables"]):
            raise RefusedError("only tables can be shown", remedy="`show tables`, and `describe` for the columns of one")
        return Checked("", "tables", (), {}, "show tables", ())
    if kind == "describe" and first not in _STARTS:
        # `describe solana.blocks`: of a table's name, as of a statement that reads it.
        text, begins = f"from {text}", begins - len("from ")
        words = _tokens(dialect, text)
    elif first not in _STARTS:
        raise RefusedError(f"{words[0].text.upper()[:32]} is not a statement that reads", remedy="give a SELECT")
    numbered = _numbered(text, words)

    def place(at: int | None) -> Position | None:
        """Where a place of the numbered text is in what was given."""
        return None if at is None else START.after(sql[: max(0, begins + _unnumbered(at, words))])

    text = text[words[0].start : words[-1].end + 1]
    try:
        parsed = [statement for statement in dialect.parse(numbered) if statement is not None]
    except sqlglot.errors.ParseError as error:
        what, at = _unread(error, numbered)
        raise RefusedError(f"the statement cannot be read: {what}", remedy="it is read as DuckDB's SQL").at(place(at)) from error
    if len(parsed) != 1:
        raise RefusedError(f"there are {len(parsed)} statements", remedy="give one")
    (statement,) = parsed
    if not isinstance(statement, _READS):
        raise RefusedError(f"{type(statement).__name__.upper()} is not a statement that reads", remedy="give a SELECT")
    nodes = list(statement.walk())
    for node in nodes:
        if isinstance(node, _NEVER):
            raise RefusedError(f"{type(node).__name__.upper()} is not allowed here", remedy="give a SELECT; for PIVOT, aggregates with FILTER")
    called = _called(dialect, numbered, nodes, place)
    read = _read(nodes, place)
    bounds = {name: bound for name, bound in _bounds(nodes, params).items() if bound != EVERYTHING}
    volatile = {name for name in called if name in VOLATILE} | ({"explain analyze"} if kind == "analyze" else set())
    volatile |= {"tablesample" for node in nodes if isinstance(node, exp.TableSample)}
    first_word = START.after(sql[: max(0, begins + words[0].start)])
    return Checked(text, kind, tuple(sorted(read)), bounds, normalised, tuple(sorted(volatile)), first_word)


def _tokens(dialect: DuckDB, sql: str) -> list[Token]:
    """The words of a statement, without the semicolons at its end.

    Raises:
        RefusedError: there are none, too many, they are nested too deep, or words that DuckDB would read are not among them.
    """
    words = list(dialect.tokenize(sql))
    while words and words[-1].token_type == TokenType.SEMICOLON:
        words.pop()
    if not words:
        raise RefusedError("there is no statement", remedy="give one SELECT")
    if any("{#" in sql[word.end + 1 : following.start] for word, following in itertools.pairwise(words)):
        # The tokenizer takes it for a comment, and DuckDB for a map whose first key is a column's number.
        raise RefusedError("{# stands outside of a text", remedy="write { #1 for the first column, and no {# in comments")
    if len(words) > MAX_TOKENS:
        raise RefusedError(f"the statement has more than {MAX_TOKENS} words", remedy="put long lists into parameters")
    depth = prefixes = deepest = 0
    for word in words:
        depth += (word.token_type in _OPENS) - (word.token_type in _CLOSES)
        prefixes = prefixes + 1 if word.token_type in _PREFIXES else 0
        deepest = max(deepest, depth + prefixes)
    if deepest > MAX_NESTED:
        raise RefusedError(f"the statement is nested more than {MAX_NESTED} deep", remedy="write it with WITH, or in parts")
    return words


def _numbered(text: str, words: Sequence[Token]) -> str:
    """The text with `$1`, `$2`… for each `?`, as DuckDB counts them."""
    parts, end, number = [], words[0].start, 0
    for word in words:
        if word.token_type == TokenType.PLACEHOLDER and word.text == "?":
            number += 1
            parts += [text[end : word.start], f"${number}"]
            end = word.end + 1
    return "".join([*parts, text[end : words[-1].end + 1]])


def _unnumbered(at: int, words: Sequence[Token]) -> int:
    """The place in the text of a place in what `_numbered` made of it."""
    at += words[0].start
    number = 0
    for word in words:
        if word.start >= at:
            break
        if word.token_type == TokenType.PLACEHOLDER and word.text == "?":
            number += 1
            at = max(word.start, at - len(str(number)))
    return at


def _unread(error: sqlglot.errors.ParseError, text: str) -> tuple[str, int | None]:
    """What the parser did not take, and where that is in the text; None where what it says is not there."""
    known = error.errors[0] if error.errors else {}
    what = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", known.get("description") or _first_line(error)).rstrip(".")
    # Its lines are not those of the text behind a parameter, so the place is found by the words before it, of which it tells a hundred signs.
    before, word = known.get("start_context") or "", known.get("highlight") or ""
    at = text.find(before + word) + len(before)
    if not word or (not text.startswith(before + word) if len(before) < UNREAD_CONTEXT else text.count(before + word) != 1):
        return what, None
    if what.startswith("Required keyword"):
        return f"something is missing at `{word[:40]}`", at
    return (f"`{word[:40]}` is not expected there" if "Unexpected token" in what else what), at


def _normalised(sql: str, words: Sequence[Token]) -> str:
    """The text with one sign between words: a line's end where there was one, because two strings on two lines are one string.

    What is between words and not ASCII stays: some of it is space for the tokenizer, and part of a name for DuckDB.
    """
    parts, end = [], None
    for word in words:
        if end is not None:
            between = sql[end : word.start]
            parts.append(between if not between.isascii() else "\n" if "\n" in between or "\r" in between else " ")
        parts.append(sql[word.start : word.end + 1])
        end = word.end + 1
    return "".join(parts)


Place = Callable[[int | None], Position | None]


def _called(dialect: DuckDB, text: str, nodes: Iterable[exp.Expr], place: Place) -> set[str]:
    """The functions that are called, in lower case.

    They are found among the words, because the parser knows many by other names: a word before a bracket is one, unless it is of
    the grammar or the name of a table with columns, as in `t(a, b)`.
    """
    found = set()
    named = set()
    for node in nodes:
        if isinstance(node, exp.TableAlias) and node.args.get("columns") and isinstance(node.this, exp.Identifier):
            named.add(node.this.meta.get("start"))
        if isinstance(node, exp.Table | exp.Lateral) and isinstance(node.this, exp.Func) and not isinstance(node.this, exp.Unnest):
            start, end = node.this.meta.get("start"), node.this.meta.get("end")
            name = node.this.key if start is None or end is None else text[start : end + 1].strip('"').lower()
            if name not in TABLE_FUNCTIONS:
                listed = ", ".join(sorted(TABLE_FUNCTIONS))
                raise RefusedError(f"there is no table function {name}, or it cannot be used here", remedy=f"these can stand in FROM: {listed}").at(
                    place(start)
                )
    words = dialect.tokenize(text)
    for word, following in itertools.pairwise([*words, None]):
        name = word.text.lower() if word is not None else ""
        quoted = word is not None and word.token_type == TokenType.IDENTIFIER
        if word is None or following is None or following.token_type != TokenType.L_PAREN:
            if name in VOLATILE and name.startswith(("current_", "local")):
                found.add(name)
            continue
        if not (quoted or name.replace("_", "").isalnum()) or word.start in named or word.token_type == TokenType.NUMBER:
            continue
        if name in functions():
            found.add(name)
        elif quoted or name not in _KEYWORDS | _SPELLED:
            near = difflib.get_close_matches(name, functions(), 1)
            raise RefusedError(
                f"there is no function {name[:100]}, or it cannot be used here", remedy=f"did you mean {near[0]}?" if near else "use another"
            ).at(place(word.start))
    return found


def _read(nodes: Iterable[exp.Expr], place: Place) -> set[str]:
    """Names in the lake of the tables that are read."""
    found = set()
    for node in nodes:
        if not isinstance(node, exp.Table) or isinstance(node.this, exp.Func):
            continue
        name = _name(node)
        if node.catalog == "" and node.db == "" and node.name.lower() in _given(node):
            continue
        table = tables().get(name)
        if table is None or node.catalog:
            raise _no_table(name).at(place(node.parts[0].meta.get("start")))
        found.add(table.name)
    return found


def _name(node: exp.Table) -> str:
    return ".".join(part.name for part in node.parts).lower()


def _no_table(name: str) -> RefusedError:
    short = {known.partition(".")[2]: known for known in tables()}
    near = difflib.get_close_matches(name, tables(), 1) or [short[found] for found in difflib.get_close_matches(name.rpartition(".")[2], short, 1)]
    return RefusedError(f"there is no table {name[:100]}", remedy=f"did you mean {near[0]}?" if near else "`show tables` lists them")


def _given(node: exp.Expr) -> set[str]:
    """Names that a WITH gives where a node stands, in lower case: those before it, and of a recursive one itself."""
    found: set[str] = set()
    below, above = node, node.parent
    while above is not None:
        if isinstance(above, exp.With):
            for each in above.expressions:
                if each is below:
                    if above.recursive:
                        found.add(each.alias.lower())
                    break
                found.add(each.alias.lower())
        elif below.arg_key != "with_" and (given := above.args.get("with_")) is not None:
            found.update(each.alias.lower() for each in given.expressions)
        below, above = above, above.parent
    return found


# Which rows can matter


def _bounds(nodes: Sequence[exp.Expr], params: Sequence[Any] | Mapping[str, Any] | None) -> dict[str, Bounds]:
    """What rows of each table can matter: rows that a WHERE refuses cannot, whatever joins are made of them.

    That holds for every kind of join: the conditions used are false or absent for a row of nulls too, so an outer join that finds no
    partner for want of a row that was left out gives a row that WHERE refuses, as the row itself would have been.
    """
    found: dict[str, Bounds] = {}
    for node in nodes:
        if not isinstance(node, exp.Table) or isinstance(node.this, exp.Func):
            continue
        table = tables().get(_name(node))
        if table is None:
            continue
        select = node.parent_select
        bound = Bounds()
        # Only a table that stands in the SELECT's own FROM: of others, the WHERE that filters them is not this one.
        if isinstance(select, exp.Select) and _is_source(node, select) and (where := select.args.get("where")) is not None:
            alias, lone = node.alias_or_name.lower(), not select.args.get("joins") and not select.args.get("laterals")
            named = {each.alias.lower() for each in select.expressions if each.alias}
            for condition in _conjuncts(where.this):
                bound = _narrowed(bound, table, _compared(condition, alias, lone, named, params))
        stored = COMPLETENESS.name if table.name == SLOT_STATUS.name else table.name
        found[stored] = found[stored].or_else(bound) if stored in found else bound
        if stored != table.name:
            found[table.name] = found[stored]
    return found


def _is_source(node: exp.Table, select: exp.Select) -> bool:
    """Whether a table stands in a SELECT's own FROM under its own columns' names, in no join that pairs rows by what else there is."""
    joins = select.args.get("joins") or []
    if any(join.method or (join.kind or "").upper() not in _PLAIN_JOINS for join in joins):
        return False
    alias = node.args.get("alias")
    owner = node.parent.parent if isinstance(node.parent, exp.From | exp.Join) else None
    return owner is select and not (alias is not None and alias.args.get("columns")) and not node.args.get("sample")


def _conjuncts(condition: exp.Expr) -> Iterator[exp.Expr]:
    waiting = [condition]
    while waiting:
        part = waiting.pop().unnest()
        if isinstance(part, exp.And):
            waiting += [part.left, part.right]
        else:
            yield part


_FLIPPED: dict[type[exp.Expr], type[exp.Expr]] = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE, exp.EQ: exp.EQ}

Comparison = tuple[str, Any, Any, tuple[Any, ...] | None]
"""A column, the least and the greatest value it may have, and all that it may have, None where that is not said."""


def _compared(condition: exp.Expr, alias: str, lone: bool, named: set[str], params: Sequence[Any] | Mapping[str, Any] | None) -> Comparison | None:
    """What a condition says of one column of a table, or None where that is not known."""

    def column(node: exp.Expr) -> str | None:
        if not isinstance(node, exp.Column) or len(node.parts) > 2:
            return None
        name = node.name.lower()
        # A name that the SELECT list gives may be what is meant.
        return name if node.table.lower() == alias or (not node.table and lone and name not in named) else None

    def value(node: exp.Expr | None) -> Any:
        return _constant(node, params)

    if isinstance(condition, exp.Between):
        name, low, high = column(condition.this), value(condition.args["low"]), value(condition.args["high"])
        return None if name is None or low is None or high is None or condition.args.get("symmetric") else (name, low, high, None)
    if isinstance(condition, exp.In):
        name, listed = column(condition.this), [value(each) for each in condition.expressions]
        known = name is not None and listed and None not in listed and not condition.args.get("query") and len({type(each) for each in listed}) == 1
        return (name or "", min(listed), max(listed), tuple(listed)) if known else None
    kind = type(condition)
    if kind not in _FLIPPED or not isinstance(condition, exp.Binary):
        return None
    name, constant = column(condition.left), value(condition.right)
    if name is None:
        kind, name, constant = _FLIPPED[kind], column(condition.right), value(condition.left)
    if name is None or constant is None:
        return None
    if kind is exp.EQ:
        return name, constant, constant, (constant,)
    # Slots are integers; of moments, `<` counts as `<=`: a bound that is one too wide leaves nothing out.
    strict = isinstance(constant, int) and kind in (exp.GT, exp.LT)
    if kind in (exp.GT, exp.GTE):
        return name, constant + 1 if strict else constant, None, None
    return name, None, constant - 1 if strict else constant, None


def _constant(node: exp.Expr | None, params: Sequence[Any] | Mapping[str, Any] | None) -> Any:
    """An integer, text or moment that a node surely is; None where it is not sure."""
    if isinstance(node, exp.Paren):
        node = node.unnest()
    if isinstance(node, exp.Cast) and node.to.this in (exp.DType.TIMESTAMPNTZ, exp.DType.TIMESTAMPTZ, exp.DType.DATE):
        moment = _moment(_constant(node.this, params))
        return moment.replace(hour=0, minute=0, second=0, microsecond=0) if moment and node.to.this == exp.DType.DATE else moment
    if isinstance(node, exp.Literal):
        if node.is_string:
            return str(node.this)
        return int(node.this) if re.fullmatch(r"[0-9]{1,18}", node.this) else None
    found: Any = None
    if isinstance(node, exp.Placeholder | exp.Parameter):
        name = node.name
        if isinstance(params, Mapping):
            found = params.get(name)
        elif params is not None and name.isdigit() and 0 < int(name) <= len(params):
            found = params[int(name) - 1]
    return found if isinstance(found, int | str | datetime | date) and not isinstance(found, bool) else None


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d:\d\d(?:\.\d{1,6})?)?")
"""Text that Python and DuckDB take for the same moment of UTC."""


def _moment(found: Any) -> datetime | None:
    if isinstance(found, datetime):
        return utc(found)
    if isinstance(found, date):
        return utc(datetime(found.year, found.month, found.day))
    if not isinstance(found, str) or not _MOMENT.fullmatch(found):
        return None
    try:
        return utc(datetime.fromisoformat(found))
    except ValueError:
        return None


def _narrowed(bound: Bounds, table: Table, said: Comparison | None) -> Bounds:
    if said is None:
        return bound
    name, low, high, listed = said
    slot, times = slot_column(table), [column for column in stats_columns(table) if column != slot_column(table)]
    if name == slot and all(each is None or isinstance(each, int) for each in (low, high)):
        return _with(bound, first=low, last=high)
    if name == RANGE_COLUMN and RANGE_COLUMN in table.partition_by and listed and all(isinstance(each, str) for each in listed):
        keys = set(listed) if bound.keys is None else set(listed) & set(bound.keys)
        return _with(bound, keys=tuple(sorted(keys)))
    if times[:1] == [name]:
        since, until = _moment(low), _moment(high)
        return _with(bound, since=since, until=until)
    return bound


def _with(
    bound: Bounds,
    *,
    first: int | None = None,
    last: int | None = None,
    keys: tuple[str, ...] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Bounds:
    """Narrowed by each that is given."""

    def both(choose: Any, one: Any, two: Any) -> Any:
        return two if one is None else one if two is None else choose(one, two)

    return Bounds(
        both(max, bound.first, first),
        both(min, bound.last, last),
        bound.keys if keys is None else keys,
        both(max, bound.since, since),
        both(min, bound.until, until),
    )
