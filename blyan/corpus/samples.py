"""Instruction-tuning samples: a question, the SQL that answers it, the answer, and what the answer rests on.

Belongs here: drawing parameters from the rows of a range, computing answers, and the rows of `corpus/samples`. Does not belong here: the
questions (`blyan.corpus.questions`), whether samples hold (`blyan.corpus.sample_checks`), the form that trainers read (`blyan.corpus.chat`).

Questions are about windows of a range: aligned runs of slots, the same few for the same range. The rows of a window are held in
memory while it is asked about, so the SQL of a sample is first run on nothing but the rows it is about, and later, by the checks,
on the lake. What is drawn, and how it is phrased, hangs on a hash of the values alone.

The split of a sample is by the same keyed rule as that of documents (`blyan.corpus.splits`): by its structural key and, where it is about
one transaction, by the family of that transaction's document too, whichever hides it more. So no sample for training is about a document
that is held out, and none has the SQL of one that is held out. What is about many transactions (sums, counts, lists) may have held-out
ones among them: it tells figures of the tables, never the text of a document.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from blyan.corpus.questions import Family, Questions, bind, canonical, load_questions, say, tables_of
from blyan.corpus.registry import Registry
from blyan.corpus.splits import SPLITS, Split, SplitRule
from blyan.corpus.untrusted import flags_of
from blyan.digest import split_units
from blyan.errors import PermanentError
from blyan.lake import Commit, Lake
from blyan.schemas import (
    BALANCE_CHANGES,
    BLOCK_REWARDS,
    BLOCKS,
    COMPLETENESS,
    DOCUMENTS,
    INSTRUCTIONS,
    SAMPLES,
    SUMMARIES,
    TOKEN_TRANSFERS,
    TRANSACTIONS,
)
from blyan.solana.slots import SlotRange

if TYPE_CHECKING:
    import duckdb

SAMPLER = "2"
"""Raise it when the same rows and questions would give other samples."""

WINDOW_SLOTS = 32
"""Slots of a window: about fifty thousand transactions at mainnet's four thousand a second, votes included."""

MOST_WINDOWS = 8
"""Windows that one range is asked about; a range of production size has 1,688."""

CITED = 5
"""Blocks and transactions that a sample cites, the first ones; the others are counted."""

MEMORY_LIMIT = "768MB"
"""What DuckDB may use for a window; it goes on in files beyond that."""

READ = {
    BLOCKS: BLOCKS.column_names,
    TRANSACTIONS: [
        "block_slot", "block_hash", "block_timestamp", "signature", "index", "fee", "status", "err", "compute_units_consumed", "accounts", "version",
        "is_vote", "compute_unit_limit", "priority_fee_lamports",
    ],
    INSTRUCTIONS: [
        "block_slot", "tx_signature", "index", "parent_index", "parsed", "program_id", "instruction_type", "params", "tx_index", "ordinal", "stack_height",
    ],
    TOKEN_TRANSFERS: [
        "block_slot", "tx_signature", "source", "destination", "value", "decimals", "mint", "transfer_type", "tx_index", "ordinal", "status",
    ],
    BALANCE_CHANGES: ["block_slot", "tx_signature", "account", "change", "mint", "owner", "decimals", "account_index", "tx_index"],
    BLOCK_REWARDS: BLOCK_REWARDS.column_names,
    COMPLETENESS: COMPLETENESS.column_names,
    DOCUMENTS: [name for name in DOCUMENTS.column_names if name not in ("block_timestamp", "block_hash")],
    SUMMARIES: SUMMARIES.column_names,
}  # fmt: skip
"""The columns that questions are about, by table."""


ABOUT_ONE = "transaction"
"""The scope of questions about one transaction, which is the one in `slot` with this `signature`."""

_FAMILY_OF = "select family_key from corpus.documents where block_slot = {slot} and tx_signature = {signature}"

_LOOKED_AT = "select slot as block_slot, null as tx_signature from solana.completeness where slot between {first} and {last}"

_SPANS = ("slots {} to {}", "slots {}-{}", "slots {} through {}")


@dataclass(slots=True)
class Made:
    """Samples of some windows, as rows of `schemas.SAMPLES` in key order, and what was left out."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    windows: list[SlotRange] = field(default_factory=list)
    duplicates: int = 0
    trivial: int = 0
    trivial_left_out: int = 0
    families: Counter[str] = field(default_factory=Counter)

    def table(self) -> pa.Table:
        """The rows."""
        return pa.Table.from_pylist(sorted(self.rows, key=lambda row: [row[name] for name in SAMPLES.key]), SAMPLES.arrow_schema())


def write_samples(
    lake: Lake, slots: SlotRange, registry: Registry, rule: SplitRule, *, per_family: int, questions: Questions | None = None
) -> tuple[Commit, Made]:
    """Make the samples of a range whose tables and corpus the lake has.

    The same rows, registry, rule and number give the same samples, and a second run commits nothing.

    Args:
        lake: holds the tables of the range, and gets its samples.
        slots: a range of the grid.
        registry: names of programs and mints.
        rule: who is in which split.
        per_family: samples of one family, at most.
        questions: the families; those of the project by default.

    Raises:
        MissingObjectError: the range, or its corpus, is not materialised.
    """
    questions = questions or load_questions()
    digests = digests_of(lake, slots)
    made = Made(windows=windows_of(slots))
    for number, window in enumerate(made.windows):
        with _window(lake, slots, window) as connection:
            _Asker(connection, window, questions, registry, rule, digests, made).ask_all(
                {name: _share(per_family, number, len(made.windows)) for name in questions.families}
            )
    with lake.stage(SAMPLES, slots.key) as stage:
        for unit, rows in split_units(SAMPLES, made.table()):
            stage.write(unit, rows)
        staged = stage.close()
    return lake.commit(SAMPLES, slots.key, [staged], metadata={"blyan.samples": version(questions, registry, rule, per_family=per_family)}), made


def version(questions: Questions, registry: Registry, rule: SplitRule | None, *, per_family: int) -> str:
    """What samples depend on besides their rows; the rule is None where no key is known yet."""
    splits = rule.fingerprint[:16] if rule else "not known"
    return f"sampler {SAMPLER}, questions {questions.digest[:16]}, registry {registry.digest[:16]}, splits {splits}, {per_family} of a family"


def windows_of(slots: SlotRange) -> list[SlotRange]:
    """The windows of a range that are asked about, in order: all of a small range, the same few of a large one."""
    firsts = range(slots.first - slots.first % WINDOW_SLOTS, slots.last + 1, WINDOW_SLOTS)
    every = [SlotRange(max(first, slots.first), min(first + WINDOW_SLOTS - 1, slots.last)) for first in firsts]
    chosen = sorted(every, key=lambda window: hashlib.sha256(f"window {window.first} of {slots.key}".encode()).digest())[:MOST_WINDOWS]
    return sorted(chosen, key=lambda window: window.first)


def digests_of(lake: Lake, slots: SlotRange) -> dict[str, str]:
    """The content digest of each table that questions are about, by name, for one range.

    Raises:
        MissingObjectError: a table has nothing of the range.
    """
    found = {}
    for table in READ:
        partition = lake.partitions(table).get(slots.key)
        if partition is None:
            # The reader's own error: it names the table, the range and the remedy.
            next(lake.read(table, key=slots.key), None)
        else:
            found[table.name] = partition.digest
    return found


def _share(number: int, part: int, parts: int) -> int:
    """What one of several parts gets of a number, so that they get all of it."""
    return number * (part + 1) // parts - number * part // parts


def _window(lake: Lake, slots: SlotRange, window: SlotRange) -> duckdb.DuckDBPyConnection:
    """A database in memory with the tables of the lake, of which it holds the rows of a window."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
    for table, columns in READ.items():
        schema = pa.schema([table.arrow_schema().field(name) for name in columns])
        first, last = (None, None) if table is SUMMARIES else (window.first, window.last)
        rows = pa.RecordBatchReader.from_batches(schema, lake.read(table, key=slots.key, columns=columns, first_slot=first, last_slot=last))
        connection.execute(f'create schema if not exists "{table.group}"')
        connection.register("rows", rows)
        connection.execute(f"create table {table.group}.{table.short_name} as select * from rows")  # noqa: S608 - names of our own
        connection.unregister("rows")
    return connection


class _Asker:
    """Questions about one window."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        window: SlotRange,
        questions: Questions,
        registry: Registry,
        rule: SplitRule,
        digests: dict[str, str],
        made: Made,
    ) -> None:
        self._connection, self._window = connection, window
        self._questions, self._registry, self._rule, self._digests = questions, registry, rule, digests
        self._made = made
        self._asked = {row["question"] for row in made.rows} | {row["sql"] for row in made.rows}

    def ask_all(self, wanted: dict[str, int]) -> None:
        """Add samples of every family, so many of each at most.

        Raises:
            PermanentError: the SQL of a family fails.
        """
        import duckdb

        for name, family in self._questions.families.items():
            try:
                self._ask(name, family, wanted[name])
            except duckdb.Error as error:
                where, remedy = f"family {name}, slots {self._window}", "correct the family"
                raise PermanentError(f"its SQL fails: {error}", where=where, remedy=remedy) from error

    def _ask(self, name: str, family: Family, wanted: int) -> None:
        made, trivial = 0, 0
        for drawn in self._drawn(name, family, 2 * wanted):
            if made == wanted:
                break
            sample, is_trivial = self._sample(name, family, drawn)
            if sample["question"] in self._asked or (sample["sql"] is not None and sample["sql"] in self._asked):
                self._made.duplicates += 1
            elif is_trivial and trivial >= max(1, wanted // 10):
                self._made.trivial_left_out += 1
            else:
                self._asked |= {sample["question"], sample["sql"]}
                self._made.rows.append(sample)
                made, trivial = made + 1, trivial + is_trivial
        self._made.families[name] += made
        self._made.trivial += trivial

    def _drawn(self, name: str, family: Family, number: int) -> Iterator[dict[str, Any]]:
        """Parameters, by a hash of their values; those alike take turns with the others, so that the rare are not drowned."""
        mark = f"md5(concat_ws('|', '{name} {self._window.first}', *columns(* exclude (spread))))"
        sql = f"""select * exclude (spread, mark, turn) from (
                select *, row_number() over (partition by spread order by mark) as turn
                from (select *, {mark} as mark from ({self._questions.draw(family)}))
            ) order by turn, mark limit {number}"""  # noqa: S608 - SQL of our own
        columns, rows = self._run(sql)
        for row in rows:
            yield dict(zip(columns, row, strict=True))

    def _sample(self, name: str, family: Family, drawn: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        slot = drawn.get("slot")
        first, last = drawn.get("first", self._window.first), drawn.get("last", self._window.last)
        about = {**drawn, "first": first, "last": last}
        dice = hashlib.sha256(f"{name} {canonical(list(about), [list(about.values())])}".encode()).digest()
        about["slots"] = f"slot {first}" if first == last else _SPANS[dice[0] % len(_SPANS)].format(first, last)
        question = say(family.ask[dice[1] % len(family.ask)], about, self._registry)
        sql = answer = None
        columns, rows, citations, behind, text = list[str](), list[tuple[Any, ...]](), list[dict[str, Any]](), 0, family.answer
        if family.sql is not None:
            sql = bind(family.sql, about)
            columns, rows = self._run(sql)
            answer = canonical(columns, rows)
            text = answer_text(family, about, columns, rows, self._registry)
            # Where nothing is found, the answer rests on the slots that were looked at.
            citations, behind = self._evidence(bind(self._questions.evidence(family), about)) or self._evidence(bind(_LOOKED_AT, about)) or ([], 0)
        texts = [value for value in itertools.chain(drawn.values(), *rows) if isinstance(value, str)]
        odd = {flag for text in texts for flag in flags_of(text)}
        if "{text:verbatim}" in family.answer:
            odd.discard("long_text")  # a document may be long
        key = structural_key(name, family)
        of_document = self._run(bind(_FAMILY_OF, about))[1] if family.scope == ABOUT_ONE else []
        sample = {
            "first_slot": first if slot is None or "{first}" in (family.sql or "") else slot,
            "last_slot": last if slot is None or "{first}" in (family.sql or "") else slot,
            "id": hashlib.sha256(canonical([], [[question, sql, answer]]).encode()).hexdigest()[:32],
            "family": name,
            "scope": family.scope,
            "difficulty": family.difficulty,
            "question": question,
            "sql": sql,
            "parameters": [{"key": key, "value": f"{value}"} for key, value in drawn.items()],
            "answer": answer,
            "answer_text": text,
            "citations": citations,
            "rests_on": behind,
            "sources": [{"table": table, "content_sha256": self._digests[table]} for table in tables_of(family.sql or "")],
            "structural_key": key,
            "split": split_of(self._rule, key, *(family_key for (family_key,) in of_document)),
            "split_rule": self._rule.fingerprint,
            "flags": sorted(odd),
        }
        return sample, family.sql is not None and all(_is_nothing(value) for row in rows for value in row)

    def _evidence(self, sql: str) -> tuple[list[dict[str, Any]], int] | None:
        """The first of what an answer rests on, and how much that is; None where it is nothing."""
        _, rows = self._run(
            f"select block_slot, tx_signature, count(*) over () from (select distinct block_slot, tx_signature from ({sql})) order by 1, 2 limit {CITED}"  # noqa: S608 - SQL of our own
        )
        return ([{"block_slot": slot, "tx_signature": signature} for slot, signature, _ in rows], rows[0][2]) if rows else None

    def _run(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        cursor = self._connection.execute(sql)
        return [column[0] for column in cursor.description], cursor.fetchall()


def answer_text(family: Family, about: dict[str, Any], columns: Sequence[str], rows: Sequence[Sequence[Any]], registry: Registry) -> str:
    """The answer in words: every value of every row is in it."""
    if not rows:
        return say(family.none, about, registry)
    told = [{**about, **dict(zip(columns, row, strict=True))} for row in rows]
    text = say(family.answer, told[0], registry)
    return f"{text} {'; '.join(say(family.row, row, registry) for row in told)}." if family.row else text


def _is_nothing(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, (int, Decimal)) and value == 0)


def structural_key(name: str, family: Family) -> str:
    """Digest of a family and of its SQL with the parameters masked, 32 hex digits: samples that share it differ in values and phrasing alone."""
    return hashlib.sha256(json.dumps([name, family.sql or ""]).encode()).hexdigest()[:32]


def split_of(rule: SplitRule, key: str, *families: str) -> Split:
    """The split of a sample of a structural key that is about documents of these families: of all their splits, the most hidden one."""
    return SPLITS[int(rule.split_of([key, *families]).max())]
