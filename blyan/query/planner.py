"""Questions in words, answered without a model: question → meaning → query → SQL, or the reason why not.

Belongs here: the door, what a plan and an abstention are. Does not belong here: words (`blyan.query.lexicon`), where they stand
(`blyan.query.reading`), what they mean together (`blyan.query.intents`), SQL (`blyan.query.query_ast`), sentences (`blyan.query.saying`).

The schema of questions is closed. Every word must be accounted for: one that no part of the query came from, and that is not known to
say nothing, makes the planner abstain. So does everything that can be read in two ways. It runs nothing and looks at no clock:
the same question over the same tip is the same plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blyan.corpus.registry import Registry
from blyan.query.intents import meaning_of
from blyan.query.meaning import Meaning, rests_on
from blyan.query.query_ast import Column, Query, Value, slots_here, to_sql, without_documents
from blyan.query.reading import NotUnderstoodError, Tip, read
from blyan.query.saying import Citation, Said, say

__all__ = ["TIP_SQL", "Abstention", "Citation", "Plan", "Said", "Tip", "plan", "say"]

TIP_SQL = "select min(slot) as first_slot, max(slot) as last_slot, arg_max(block_timestamp, slot) as last_time from solana.blocks"
"""The one row that `Tip` is made of, as in `Tip.of(*row)`."""

MAX_CHARACTERS = 2_000
"""Of a question. Longer ones are no questions."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A question, understood.

    Attributes:
        intent: what is asked, such as `count` or `ranking`.
        slots: what was understood, by the names of the parts: what was counted, filters, window, as text.
        sql: one statement that reads, with a `?` for each parameter.
        params: their values, integers and text.
        columns: of the result: names, units.
        about: the subject in words, such as `transactions that failed`.
        notes: what was taken for granted: which slots, whether votes are in.
        proof: a statement with columns `slot` and `signature` of some rows that the answer rests on, and its parameters; None where the
            rows of the answer are their own proof.
        rests_on: a statement that gives how many rows those are in all, and its parameters; None where there is no `proof`.
        lacking: a statement that gives the number of transactions in the window that have no document yet, and its parameters; None where the
            answer needs no documents. Such transactions have no kind and no error's name, and are in no answer about them.
        slots_here: a statement that gives how many of the `slots_asked` are known, landed or skipped, and its parameters.
        slots_asked: the number of slots of the window; None where it has no two ends.
        table: the table that is cited.
        signature: the transaction asked about, if one is.
        ordered: whether the order of the rows says something.
    """

    intent: str
    slots: Mapping[str, str]
    sql: str
    params: tuple[Value, ...]
    columns: tuple[Column, ...]
    about: str
    notes: tuple[str, ...]
    proof: tuple[str, tuple[Value, ...]] | None
    rests_on: tuple[str, tuple[Value, ...]] | None
    lacking: tuple[str, tuple[Value, ...]] | None
    slots_here: tuple[str, tuple[Value, ...]] | None
    slots_asked: int | None
    table: str
    signature: str | None = None
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Abstention:
    """Why a question is not answered.

    Attributes:
        why: one sentence or two.
        reason: its class: `not_understood`, `ambiguous`, `future`, `opinion`, `price`, `other_chain`, `identity`, `writes`, `not_recorded`, `no_question`.
        words: those that were not understood.
        instead: questions that would be answered, or the readings to choose from.
    """

    why: str
    reason: str
    words: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()


def plan(question: str, names: Registry, tip: Tip | None = None) -> Plan | Abstention:
    """What a question asks of the tables, or why that cannot be told.

    Args:
        question: in English. Accounts, signatures and names of the registry are exact.
        names: programs and tokens.
        tip: the slots that are here; without it, whatever is relative to the newest block is abstained from, and nothing bounds the slots.
    """
    if len(question) > MAX_CHARACTERS:
        return Abstention(f"The question has more than {MAX_CHARACTERS} characters.", "no_question", instead=EXAMPLES)
    try:
        meaning = meaning_of(read(question, names, tip), names)
    except NotUnderstoodError as error:
        return Abstention(str(error), error.reason, error.words, error.instead or EXAMPLES)
    return _plan(meaning)


def _plan(meaning: Meaning) -> Plan:
    query = meaning.query
    sql, params = to_sql(query)
    window = query.window
    # What a transaction is depends on no other slot.
    here = slots_here(window) if meaning.signature is None else None
    asked = window.last - window.first + 1 if here is not None and window.first is not None and window.last is not None else None
    labelled = isinstance(query, Query) and query.source.is_labelled
    return Plan(
        intent=meaning.intent,
        slots=meaning.slots,
        sql=sql,
        params=params,
        columns=(*query.by, *query.columns) if isinstance(query, Query) else meaning.columns,
        about=meaning.about,
        notes=meaning.notes,
        proof=to_sql(meaning.proof) if meaning.proof is not None else None,
        rests_on=to_sql(rests_on(meaning.proof)) if meaning.proof is not None else None,
        lacking=to_sql(without_documents(window)) if labelled else None,
        slots_here=to_sql(here) if here is not None else None,
        slots_asked=asked,
        table=meaning.table,
        signature=meaning.signature,
        ordered=meaning.ordered,
    )


EXAMPLES = (
    "How many transactions failed in the last 100 slots?",
    "Top 5 programs by number of transactions without votes",
    "How much USDC was transferred between slots 100 and 200?",
    "Why did SIGNATURE fail?",
    "Who was the leader of slot 77?",
)
"""Questions that are answered, told where another is not."""
