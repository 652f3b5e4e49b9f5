"""The golden set: its questions, the lakes they are about, and how a planner does on them.

Belongs here: questions, right results, scores. Does not belong here: planners, or what a score must be. README.md says how the set came about.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.lake import Lake
from blyan.query.engine import connect
from blyan.query.planner import TIP_SQL, Abstention, Plan, Tip, plan
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources import BlockSource
from blyan.solana.sources.archive import ArchiveSource
from blyan.solana.sources.embedded import EmbeddedSource

HERE = Path(__file__).parent
BLOCKS = HERE.parents[2] / "shared" / "data" / "solana" / "blocks"
RECORDED = {110130000: "110130000-jsonParsed", 254170887: "254170887", 285000037: "285000037", 332254855: "332254855"}
CHAIN = (SlotRange(0, 63), SlotRange(64, 127))
HALVES = ("development", "held_out", "strangers")
FIRST_LOOK = {"right": 37, "wrong": 1, "missed": 65, "abstained": 25, "rash": 0}
"""What the planner made of the strangers' questions before it was changed by them, with the comparison of today."""

Rows = list[tuple[Any, ...]]
Planner = Callable[[str, Tip], Plan | Abstention]


@dataclass(frozen=True)
class Question:
    """A question of the set: about a lake, with the SQL that answers it, or with the reason why it must not be answered."""

    text: str
    half: str
    need: int
    lake: str
    sql: str | None
    ordered: bool
    abstain: str | None


def questions(half: str) -> list[Question]:
    """The questions of a half. Needs of several wordings share a number."""
    needs = tomllib.loads((HERE / f"{half}.toml").read_text(encoding="utf-8"))["need"]
    return [
        Question(text, half, number, need.get("lake", "chain"), need.get("sql"), need.get("ordered", False), need.get("abstain"))
        for number, need in enumerate(needs)
        for text in need["ask"]
    ]


def is_here() -> bool:
    """Whether the recorded blocks are beside the repository."""
    return BLOCKS.is_dir()


@contextmanager
def lakes(folder: Path) -> Iterator[dict[str, duckdb.DuckDBPyConnection]]:
    """Both lakes, made in a folder, each as a connection over its views."""
    archive = folder / "archive"
    archive.mkdir()
    for start in RECORDED.values():
        (file,) = BLOCKS.glob(f"{start}*")
        (archive / file.name).symlink_to(file)
    _fill(folder / "chain", EmbeddedSource(seed=11, transactions_per_slot=12, horizon_slot=200), CHAIN, vote_share=0.2)
    _fill(folder / "recorded", ArchiveSource(str(archive)), [SlotRange(slot, slot) for slot in RECORDED], vote_share=0.05)
    with connect(Lake(str(folder / "chain"))) as chain, connect(Lake(str(folder / "recorded"))) as recorded:
        yield {"chain": chain, "recorded": recorded}


def _fill(root: Path, source: BlockSource, ranges: Iterable[SlotRange], vote_share: float) -> None:
    lake = Lake(str(root))
    for slots in ranges:
        land(lake, source, slots)
        normalise_range(lake, slots, workers=1)
        write_corpus(lake, slots, load_registry(), vote_share=vote_share)


def tip_of(connection: duckdb.DuckDBPyConnection) -> Tip:
    """The tip of a lake."""
    (row,) = connection.execute(TIP_SQL).fetchall()
    return Tip(*row)


# Comparing


def alike(found: Rows, wanted: Rows, *, ordered: bool) -> bool:
    """Whether two results are the same, but for the order of columns, and of rows where that says nothing."""
    if len(found) != len(wanted):
        return False
    if not wanted:
        return True
    width = len(wanted[0])
    if len(found[0]) != width:
        return False
    right = [tuple(map(_plain, row)) for row in wanted]
    given = [tuple(map(_plain, row)) for row in found]
    orders = itertools.permutations(range(width)) if width <= 7 else [tuple(range(width))]
    return any(_same([tuple(row[at] for at in order) for row in given], right, ordered) for order in orders)


def tells(found: Rows, wanted: Rows, *, ordered: bool) -> bool:
    """Whether a result has what a stranger wanted: alike in some of its columns, an account by its address or by its name in the registry.

    A stranger does not know which columns an answer has, so more of them are no mistake. More rows, or fewer, are.
    """
    if len(found) != len(wanted) or (wanted and len(found[0]) < len(wanted[0])):
        return False
    if not wanted:
        return True
    names = load_registry().names
    right = [tuple(names.get(value, value) for value in row) for row in wanted]
    given = [tuple(names.get(value, value) if isinstance(value, str) else value for value in row) for row in found]
    chosen = itertools.combinations(range(len(given[0])), len(right[0]))
    return any(alike([tuple(row[at] for at in columns) for row in given], right, ordered=ordered) for columns in chosen)


def _same(found: Rows, wanted: Rows, ordered: bool) -> bool:
    pairs = zip(found, wanted, strict=True) if ordered else zip(sorted(found, key=_key), sorted(wanted, key=_key), strict=True)
    return all(_equal(one, two) for left, right in pairs for one, two in zip(left, right, strict=True))


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else value


def _key(row: Sequence[Any]) -> list[tuple[str, Any]]:
    return [("number", float(value)) if isinstance(value, int | float | Decimal) else ("text", str(value)) for value in row]


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, bool) != isinstance(two, bool):
        return False
    if isinstance(one, float) or isinstance(two, float):
        return isinstance(one, int | float | Decimal) and isinstance(two, int | float | Decimal) and math.isclose(one, two, rel_tol=1e-9)
    if isinstance(one, datetime) != isinstance(two, datetime):
        return False
    return bool(one == two)


# Scoring


@dataclass(frozen=True)
class Outcome:
    """What a planner did with a question: `right`, `wrong`, `missed` (it abstained), `abstained` (as it should), `rash` (it should have)."""

    question: Question
    outcome: str
    told: str


def ask(planner: Planner, asked: Iterable[Question], connections: Mapping[str, duckdb.DuckDBPyConnection]) -> list[Outcome]:
    """What a planner does with questions."""
    tips = {name: tip_of(connection) for name, connection in connections.items()}
    return [_outcome(planner(question.text, tips[question.lake]), question, connections[question.lake]) for question in asked]


def _outcome(made: Plan | Abstention, question: Question, connection: duckdb.DuckDBPyConnection) -> Outcome:
    if isinstance(made, Abstention):
        return Outcome(question, "missed" if question.abstain is None else "abstained", made.why)
    if question.sql is None:
        return Outcome(question, "rash", made.sql)
    found = connection.execute(made.sql, made.params).fetchall()
    wanted = connection.execute(question.sql).fetchall()
    right = (tells if question.half == "strangers" else alike)(found, wanted, ordered=question.ordered)
    return Outcome(question, "right" if right else "wrong", f"{made.sql} {made.params}: {found[:3]} and not {wanted[:3]}")


def by_planner(text: str, tip: Tip) -> Plan | Abstention:
    """The planner of the project."""
    return plan(text, load_registry(), tip)


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score (Wilson 1927, JASA 22:209-212)."""
    if of == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    share, spread = right / of, z * math.sqrt(right / of * (1 - right / of) / of + z * z / (4 * of * of))
    middle, scale = share + z * z / (2 * of), 1 + z * z / of
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The counts of a half, and its shares with their intervals: of the answered, of the answerable, of those to abstain from."""
    return shares(Counter(outcome.outcome for outcome in outcomes), needs=len({outcome.question.need for outcome in outcomes}))


def shares(counts: Mapping[str, int], *, needs: int) -> dict[str, Any]:
    """The same of counted outcomes."""
    right, wrong, missed, rash = (counts[name] for name in ("right", "wrong", "missed", "rash"))
    parts = {
        "accuracy_of_answered": (right, right + wrong + rash),
        "accuracy_of_answerable": (right, right + wrong + missed),
        "abstained_rightly": (counts["abstained"], counts["abstained"] + rash),
    }
    found: dict[str, Any] = {"questions": sum(counts.values()), "needs": needs}
    found |= {name: counts[name] for name in ("right", "wrong", "missed", "abstained", "rash")}
    for name, (part, of) in parts.items():
        low, high = wilson(part, of)
        found[name] = {"value": round(part / of, 4) if of else None, "of": of, "interval": [round(low, 4), round(high, 4)]}
    return found


# Controls, and the page


def silent(_text: str, _tip: Tip) -> Abstention:
    """A planner that knows nothing."""
    return Abstention("I do not know.", "not_understood")


def shuffled(asked: Sequence[Question]) -> list[Question]:
    """The questions that have SQL, each with that of the need after it: right answers to other questions."""
    answerable = [question for question in asked if question.sql is not None]
    needs = {question.need: question for question in answerable}
    after = dict(zip(needs, [*list(needs.values())[1:], next(iter(needs.values()))], strict=True))
    return [
        replace(question, sql=after[question.need].sql, ordered=after[question.need].ordered)
        for question in answerable
        if after[question.need].lake == question.lake
    ]


BEGIN, END = "<!-- figures: made by `python benchmarks/golden.py --write` -->", "<!-- end of figures -->"
_ROWS = (
    ("questions", "questions"), ("needs", "needs, most of them in several wordings"), ("right", "answered, and right"), ("wrong", "answered, and wrong"),
    ("missed", "abstained from, though it has an answer"), ("abstained", "abstained from, rightly"), ("rash", "answered, though it has no answer"),
    ("accuracy_of_answered", "right, of all that was answered"), ("accuracy_of_answerable", "right, of all that has an answer"),
    ("abstained_rightly", "abstained from, of all that has no answer"),
)  # fmt: skip


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of every part, as Markdown; of the strangers', those of the first look before those of now."""
    first = shares(FIRST_LOOK, needs=sum(FIRST_LOOK.values()))
    found = {**found, "strangers": first, "strangers, now": found["strangers"]}
    found = {"strangers, first look" if half == "strangers" else half: figures for half, figures in found.items()}
    lines = [f"| | {' | '.join(half.replace('_', '-') for half in found)} |", f"|---|{'---|' * len(found)}"]
    for name, words in _ROWS:
        lines.append(f"| {words} | {' | '.join(_cell(half[name]) for half in found.values())} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    low, high = value["interval"]
    return f"{value['value']:.3f} ({low:.3f} to {high:.3f}) of {value['of']}"


def page(text: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A page with its figures replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(found)}\n{END}{after}"
