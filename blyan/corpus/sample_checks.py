"""Whether samples hold: what a trainer relies on, found out from the stored rows.

Belongs here: the checks of a range's samples, each with what it found. Does not belong here: making samples
(`blyan.corpus.samples`), or telling Dagster (`blyan_assets.samples`).

Nothing here trusts what made the samples. SQL is read by DuckDB's own parser and by sqlglot, and only what both take for one SELECT over
tables of the lake is run, on the lake through a fresh connection, and its result compared; values are looked for in the prose;
citations, and the families of the documents that samples are about, are looked up.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blyan.corpus.questions import canonical, load_questions
from blyan.corpus.samples import ABOUT_ONE, MEMORY_LIMIT, READ, WINDOW_SLOTS, digests_of, split_of, structural_key
from blyan.corpus.splits import SplitRule
from blyan.corpus.untrusted import quote
from blyan.errors import PermanentError
from blyan.lake import Lake
from blyan.query.engine import all_tables, connect
from blyan.schemas import SAMPLES
from blyan.solana.slots import SlotRange

if TYPE_CHECKING:
    import duckdb
    from sqlglot import expressions as exp

REEXECUTED = 4_000
"""Samples that are executed again, at most, drawn by their ids: about 20 seconds of one core on a range of 20,000 transactions (measured)."""

EXAMPLES = 5
"""Violations that a finding tells."""

CHECKS = {
    "one_read_only_select": "The SQL of every sample is one SELECT, over tables of the lake alone and with known functions.",
    "within_the_range": "Every table that a sample's SQL reads is bounded to slots of its range; so are the slots it says it is about.",
    "reexecutes_to_its_answer": "The SQL of samples, run again on the lake through a fresh connection, gives the stored answer.",
    "citations_exist": "What an answer cites is in the tables, and the digests it names are those that stand; no answer cites nothing.",
    "values_are_told": "Every value of an answer is in its words; a sample without SQL says that the tables cannot tell, and no column has what it asks for.",
    "split_is_by_the_rule": "Every sample is in the split that the rule gives its question or, where that hides it more, the document that it is "
    "about: no sample for training is about a document that is held out.",
}
"""What must hold of the samples of a range, all of it blocking."""


@dataclass(slots=True)
class Finding:
    """What one check found: how many samples it looked at, and those that violate it, a few of them with the reason."""

    name: str
    checked: int = 0
    violations: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Nothing violates it."""
        return not self.violations

    def look(self, sample: dict[str, Any], wrong: str | None) -> None:
        """Count a sample, and what is wrong with it."""
        self.checked += 1
        if wrong is not None:
            self.violations += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(f"{sample['family']} {sample['id']}: {wrong}")


def check_samples(lake: Lake, slots: SlotRange, rule: SplitRule, *, reexecuted: int = REEXECUTED) -> list[Finding]:
    """Check the stored samples of a range, in the order of `CHECKS`.

    Args:
        lake: holds the samples and the tables.
        slots: the range.
        rule: who is in which split.
        reexecuted: samples whose SQL is run again, at most; `checked` of that finding tells how many.

    Raises:
        MissingObjectError: the range, or its samples, is not materialised.
    """
    samples = [row for batch in lake.read(SAMPLES, key=slots.key) for row in batch.to_pylist()]
    with connect(lake, tables=_READABLE.values(), slots=slots) as connection:
        connection.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
        tests: dict[str, Callable[[dict[str, Any]], str | None]] = {
            "one_read_only_select": _not_one_select,
            "within_the_range": lambda sample: _outside(sample, slots),
            "reexecutes_to_its_answer": lambda sample: _other_answer(connection, sample),
            "citations_exist": _Cited(connection, samples, digests_of(lake, slots)).missing,
            "values_are_told": _Told().untold,
            "split_is_by_the_rule": _Splits(connection, samples, rule).other,
        }
        return [_find(name, tests[name], _drawn(samples, reexecuted) if name == "reexecutes_to_its_answer" else samples) for name in CHECKS]


def _find(name: str, test: Callable[[dict[str, Any]], str | None], samples: list[dict[str, Any]]) -> Finding:
    finding = Finding(name)
    for sample in samples:
        finding.look(sample, test(sample))
    return finding


def _drawn(samples: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Those with SQL, or a share of them drawn by a hash of their ids."""
    having = [sample for sample in samples if sample["sql"] is not None]
    return sorted(having, key=lambda sample: hashlib.sha256(str(sample["id"]).encode()).digest())[:most]


# SQL

_FUNCTIONS = frozenset({"GENERATE_SUBSCRIPTS"})
"""Functions that questions use and sqlglot has no class for."""

_READABLE = {table.name.replace("/", "."): table for table in READ}


def _not_one_select(sample: dict[str, Any]) -> str | None:
    if sample["sql"] is None:
        return None
    import duckdb

    try:
        statements = duckdb.extract_statements(sample["sql"])
    except duckdb.Error as error:
        return f"DuckDB cannot parse it: {error}"
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        return f"it is {len(statements)} statements, the first a {statements[0].type if statements else 'nothing'}"
    query = _parsed(sample["sql"])
    if isinstance(query, str):
        return query
    from sqlglot import exp  # after `_parsed`, which imports it quietly

    if not isinstance(query, exp.Query) or query.find(exp.DML, exp.DDL, exp.Command, exp.Into):
        return "it does more than select"
    unknown = sorted({str(each.name).upper() for each in query.find_all(exp.Anonymous)} - _FUNCTIONS)
    if unknown:
        return f"it calls {', '.join(unknown)}"
    ctes = {cte.alias for cte in query.find_all(exp.CTE)}
    others = [name for name in map(_name_of, query.find_all(exp.Table)) if name not in _READABLE and name not in ctes]
    return f"it reads {', '.join(others)}" if others else None


def _parsed(sql: str) -> exp.Expr | str:
    with warnings.catch_warnings():
        # dagster-dbt asks for sqlglot's parser in Rust beside the one in C that is used, and sqlglot says that it is deprecated.
        warnings.filterwarnings("ignore", "sqlglotrs is deprecated", DeprecationWarning)
        import sqlglot

    try:
        parsed = sqlglot.parse(sql, dialect="duckdb")
    except sqlglot.errors.SqlglotError as error:
        return f"sqlglot cannot parse it: {error}"
    return parsed[0] if len(parsed) == 1 and parsed[0] is not None else f"sqlglot finds {len(parsed)} statements"


def _name_of(table: exp.Table) -> str:
    """`solana.blocks`; the SQL itself of what is no plain name, such as a function that reads files."""
    from sqlglot import exp

    if not isinstance(table.this, exp.Identifier):
        return table.sql(dialect="duckdb")
    return ".".join(part.name for part in table.parts)


def _outside(sample: dict[str, Any], slots: SlotRange) -> str | None:
    first, last = sample["first_slot"], sample["last_slot"]
    if not slots.first <= first <= last <= slots.last:
        return f"it is about slots {first} to {last}"
    if sample["sql"] is None:
        return None
    query = _parsed(sample["sql"])
    if isinstance(query, str):
        return query
    from sqlglot import exp

    for select in query.find_all(exp.Select):
        for name in _unbounded(select, slots):
            return f"it reads {name} beyond slots {slots.first} to {slots.last}"
    return None


def _unbounded(select: exp.Select, slots: SlotRange) -> list[str]:
    """Tables of a SELECT's own FROM and JOINs of which it may read slots outside the range.

    A table is bounded by a literal (`block_slot = 5`, `between 5 and 9`), or by being joined on its slot with one that is; what a
    subquery or a WITH gives is bounded where it is made.
    """
    from sqlglot import exp

    joins = select.args.get("joins") or []
    sources = [each.this for each in (select.args.get("from_"), *joins) if each is not None]
    column_of: dict[str, str] = {}
    for table in sources:
        if isinstance(table, exp.Table) and _name_of(table) in _READABLE:
            column_of[table.alias_or_name] = _READABLE[_name_of(table)].key[0]
    bounded = {source.alias_or_name for source in sources} - column_of.keys()
    # What an outer join demands does not hold of all its rows.
    inner = [join for join in joins if not join.side and join.kind in ("", "INNER", "CROSS")]
    conditions = [each for each in (select.args.get("where"), *inner) if each is not None]
    conjuncts: list[exp.Expr] = []
    for condition in conditions:
        top = condition.args.get("on") if isinstance(condition, exp.Join) else condition.this
        conjuncts += [] if top is None else top.flatten() if isinstance(top, exp.And) else [top]
    links: list[tuple[str, str]] = []
    for each in conjuncts:
        literals = _literals(each)
        if literals is not None and isinstance(each.this, exp.Column):
            if all(slots.first <= value <= slots.last for value in literals):
                bounded |= {alias for alias, column in column_of.items() if _is_of(each.this, alias, column, len(column_of))}
        elif isinstance(each, exp.EQ) and isinstance(each.this, exp.Column) and isinstance(each.expression, exp.Column):
            left, right = each.this, each.expression
            if all(one.table not in column_of or one.name == column_of[one.table] for one in (left, right)):
                links += [(left.table, right.table), (right.table, left.table)]
    while more := {other for one, other in links if one in bounded} - bounded:
        bounded |= more
    return sorted(column_of.keys() - bounded)


def _literals(condition: exp.Expr) -> list[int] | None:
    """The integers that a comparison holds a column to, or None where it does not."""
    from sqlglot import exp

    ends = [condition.args["low"], condition.args["high"]] if isinstance(condition, exp.Between) else []
    ends = [condition.expression] if isinstance(condition, exp.EQ) else ends
    return [int(end.name) for end in ends] if ends and all(isinstance(end, exp.Literal) and end.is_int for end in ends) else None


def _is_of(column: exp.Column, alias: str, name: str, tables: int) -> bool:
    return column.name == name and (column.table == alias or (not column.table and tables == 1))


def _other_answer(connection: duckdb.DuckDBPyConnection, sample: dict[str, Any]) -> str | None:
    import duckdb

    # What is not one SELECT over tables of the lake may write files, or read others: it is never run.
    if wrong := _not_one_select(sample):
        return f"it is not executed: {wrong}"
    try:
        cursor = connection.execute(sample["sql"])
        found = canonical([column[0] for column in cursor.description], cursor.fetchall())
    except (duckdb.Error, PermanentError) as error:
        return f"it cannot be executed: {error}"
    return None if found == sample["answer"] else f"it gives {found[:200]} and not {(sample['answer'] or 'nothing')[:200]}"


# Citations

_Place = tuple[int, str | None]
"""A slot, and a signature or None."""


def _near(connection: duckdb.DuckDBPyConnection, places: Iterable[_Place]) -> Iterator[str]:
    """These places a window at a time, in the view `cited`; gives the window as a condition on slots.

    A literal bound for each: joined to all of a large range at once, every row of it would be read.
    """
    import pyarrow as pa

    of_window: dict[int, set[_Place]] = defaultdict(set)
    for slot, signature in places:
        of_window[slot // WINDOW_SLOTS].add((slot, signature))
    for window, near in of_window.items():
        slots, signatures = zip(*near, strict=True)
        connection.register("cited", pa.table({"slot": pa.array(slots, pa.int64()), "signature": pa.array(signatures, pa.string())}))
        yield f"between {window * WINDOW_SLOTS} and {(window + 1) * WINDOW_SLOTS - 1}"
        connection.unregister("cited")


class _Cited:
    """What samples cite, looked up at once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, samples: list[dict[str, Any]], digests: dict[str, str]) -> None:
        self._digests = digests
        cited = {(entry["block_slot"], entry["tx_signature"]) for sample in samples for entry in sample["citations"]}
        found: set[_Place] = set()
        for bounds in _near(connection, cited):
            rows = connection.execute(
                f"""select slot, null from solana.completeness where slot {bounds}
                    union all select block_slot, signature from solana.transactions semi join cited using (signature) where block_slot {bounds}"""  # noqa: S608 - numbers
            )
            found.update(rows.fetchall())
        self._missing = cited - found

    def missing(self, sample: dict[str, Any]) -> str | None:
        """What is wrong with what a sample cites."""
        for entry in sample["citations"]:
            if (entry["block_slot"], entry["tx_signature"]) in self._missing:
                return f"there is no {entry['tx_signature'] or 'record'} in slot {entry['block_slot']}"
            if not sample["first_slot"] <= entry["block_slot"] <= sample["last_slot"]:
                return f"it cites slot {entry['block_slot']}, which it is not about"
        for entry in sample["sources"]:
            if self._digests.get(entry["table"]) != entry["content_sha256"]:
                return f"{entry['table']} has other rows now"
        if sample["sql"] is not None and not (sample["citations"] and sample["sources"] and sample["rests_on"] >= len(sample["citations"])):
            return "it cites nothing"
        return "it cites what it cannot rest on" if sample["sql"] is None and (sample["citations"] or sample["sources"]) else None


# Splits


class _Splits:
    """The split of each sample, found out again: from its family, and from the stored document of the transaction that it is about."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, samples: list[dict[str, Any]], rule: SplitRule) -> None:
        self._rule = rule
        self._keys = {name: structural_key(name, family) for name, family in load_questions().families.items()}
        self._family_of: dict[_Place, str] = {}
        for bounds in _near(connection, filter(None, map(_subject, samples))):
            rows = connection.execute(
                f"""select block_slot, tx_signature, family_key from corpus.documents semi join cited on tx_signature = signature
                    where block_slot {bounds}"""  # noqa: S608 - numbers
            )
            self._family_of |= {(slot, signature): family for slot, signature, family in rows.fetchall()}

    def other(self, sample: dict[str, Any]) -> str | None:
        """What is wrong with the split of a sample."""
        if sample["split_rule"] != self._rule.fingerprint:
            return "it is of another split rule"
        if sample["structural_key"] != self._keys.get(sample["family"]):
            return "it has not the structural key of its family"
        subject = _subject(sample)
        if subject is not None and subject not in self._family_of:
            return f"there is no document of {subject[1]} in slot {subject[0]}"
        split = split_of(self._rule, sample["structural_key"], *([self._family_of[subject]] if subject else []))
        return None if sample["split"] == split else f"it is in {sample['split']}, and belongs in {split}"


def _subject(sample: dict[str, Any]) -> _Place | None:
    """The transaction that a sample is about, where that is one."""
    if sample["scope"] != ABOUT_ONE:
        return None
    drawn = {entry["key"]: entry["value"] for entry in sample["parameters"]}
    return int(drawn["slot"]), drawn["signature"]


# Words


class _Told:
    """Values in the words of an answer, and what the tables lack."""

    def __init__(self) -> None:
        self._families = load_questions().families
        self._columns = [column.name for table in all_tables() for column in table.columns]

    def untold(self, sample: dict[str, Any]) -> str | None:
        """What the words of a sample leave out, or claim wrongly."""
        if sample["sql"] is None:
            return self._abstains_wrongly(sample)
        answer = json.loads(sample["answer"])
        for value in _leaves(answer["rows"]):
            if not _is_told(value, sample["answer_text"]):
                return f"{value!r} is not in its words"
        return None

    def _abstains_wrongly(self, sample: dict[str, Any]) -> str | None:
        if sample["answer"] is not None or not sample["answer_text"].startswith("The tables cannot tell"):
            return "it has no SQL and does not abstain"
        family = self._families.get(sample["family"])
        if family is None or not family.lacks:
            return "its family does not abstain"
        had = [name for name in self._columns if any(word in name for word in family.lacks)]
        return f"the tables have {', '.join(had)}" if had else None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield value


_WORD = re.compile(r"[-0-9A-Za-z.]+")


def _is_told(value: Any, text: str) -> bool:
    """Whether a value stands in a text by itself: 12 is not told by 312 or by 12.5. A text may stand there quoted."""
    said = str(value)
    if quote(said) in text:
        return True
    return re.search(rf"(?<![0-9A-Za-z]){re.escape(said)}(?![0-9A-Za-z]|\.\d)", text) is not None if _WORD.fullmatch(said) else said in text
