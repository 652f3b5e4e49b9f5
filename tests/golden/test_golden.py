"""The planner answers the golden set as docs/answers.md says, the set can tell a planner from none, and what is answered holds together."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from golden_set import (
    BEGIN,
    HALVES,
    HERE,
    alike,
    ask,
    by_planner,
    figures,
    is_here,
    lakes,
    page,
    questions,
    shuffled,
    silent,
    table,
    tells,
    tip_of,
    wilson,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blyan.corpus.registry import load_registry
from blyan.query import gate
from blyan.query.lexicon import vocabulary
from blyan.query.planner import Abstention, Plan, Tip, plan, say

pytestmark = pytest.mark.skipif(not is_here(), reason="the recorded mainnet data is not at ../shared/data")

PAGE = HERE.parents[1] / "docs" / "answers.md"
STRANGERS = "3573659d5b0e0de8dc28e3d5931b60b5d3b80ee37145c98028993ab91dc11f52"
HELD_OUT = "77f0d9d1415b06e7292cf57501453679140f0be405c25acdbd23539d591fb7a2"
REGISTRY = load_registry()


@pytest.fixture(scope="module")
def connections(tmp_path_factory):
    with lakes(tmp_path_factory.mktemp("golden")) as found:
        yield found


@pytest.fixture(scope="module")
def found(connections):
    return {half: figures(ask(by_planner, questions(half), connections)) for half in HALVES}


@pytest.fixture(scope="module")
def plans(connections):
    """Every question that is answered, and its plan."""
    tips = {name: tip_of(connection) for name, connection in connections.items()}
    made = [(question, by_planner(question.text, tips[question.lake])) for half in HALVES for question in questions(half)]
    return [(question, each) for question, each in made if isinstance(each, Plan)]


def test_the_set_is_large_enough_and_no_question_is_asked_twice():
    asked = [question for half in HALVES for question in questions(half)]
    assert len([question for question in asked if question.sql is not None]) >= 240
    assert len([question for question in asked if question.abstain is not None]) >= 40
    assert len({question.text for question in asked}) == len(asked)
    assert all((question.sql is None) != (question.abstain is None) for question in asked)


def test_the_held_out_half_is_as_it_was_before_there_was_a_planner():
    assert hashlib.sha256((HERE / "held_out.toml").read_bytes()).hexdigest() == HELD_OUT


def test_the_questions_of_strangers_are_as_they_were_asked():
    assert hashlib.sha256((HERE / "strangers.toml").read_bytes()).hexdigest() == STRANGERS


def test_the_planner_does_as_the_page_says(found):
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == 1
    assert page(text, found) == text, "run `python benchmarks/golden.py --write`, and say in the commit what became better or worse"
    assert "| answered, and right |" in table(found)


def test_a_page_with_another_figure_is_noticed(found):
    text = PAGE.read_text(encoding="utf-8")
    worse = {half: {**values, "right": values["right"] - 1} for half, values in found.items()}
    assert page(text, worse) != text


def test_a_silent_planner_and_right_answers_to_other_questions_score_nothing(connections):
    asked = questions("held_out")
    assert figures(ask(silent, asked, connections))["right"] == 0
    other = figures(ask(by_planner, shuffled(asked), connections))
    assert other["wrong"] > 100
    assert other["right"] <= 0.05 * other["wrong"]


# What is compared, and how


def test_results_are_alike_whatever_the_order_of_columns_and_in_nothing_else():
    wanted = [("a", 1, Decimal("0.5")), ("b", 2, None)]
    assert alike([(1, "a", 0.5), (2, "b", None)], wanted, ordered=True)
    assert alike([("b", 2, None), ("a", 1, Decimal("0.500"))], wanted, ordered=False)
    for other in (
        wanted[:1],
        [("a", 1), ("b", 2)],
        [(*row, 0) for row in wanted],
        [("a", 1, Decimal("0.500000001")), ("b", 2, None)],
        [("a", 2, Decimal("0.5")), ("b", 1, None)],
        # Each row has the right values, but not in one order of columns.
        [("a", 1, Decimal("0.5")), (2, "b", None)],
    ):
        assert not alike(other, wanted, ordered=False)
    assert not alike(wanted[::-1], wanted, ordered=True)
    assert not alike([(1,)], [(True,)], ordered=True)
    assert not alike([], wanted, ordered=False)
    assert alike([], [], ordered=False)


def test_a_stranger_is_told_no_other_rows_however_many_columns_there_are():
    system = "11111111111111111111111111111111"
    wanted = [(system, 3), ("someone", 1)]
    assert tells([(system, 3), ("someone", 1)], wanted, ordered=True)
    assert tells([("a", REGISTRY.names[system], Decimal(3)), ("b", "someone", 1)], wanted, ordered=True)
    for other in (
        [(system, 3)],
        [(system,), ("someone",)],
        [(system, 3), ("another", 1)],
        [(system, 1, 2), ("someone", 3, 4)],
        [*wanted, ("more", 0)],
    ):
        assert not tells(other, wanted, ordered=False)
    assert not tells(wanted[::-1], wanted, ordered=True)
    assert tells(wanted[::-1], wanted, ordered=False)


@pytest.mark.parametrize(
    ("right", "of", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
)
def test_intervals_are_those_of_the_literature(right, of, low, high):
    """Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3."""
    assert wilson(right, of) == pytest.approx((low, high), abs=5e-5)


# What is answered


def test_every_statement_passes_the_gate_and_so_do_those_beside_it(plans):
    seen = set()
    for _, made in plans:
        for statement in ((made.sql, made.params), made.proof, made.rests_on, made.lacking, made.slots_here):
            if statement is not None and statement[0] not in seen:
                seen.add(statement[0])
                gate.check(*statement)
    assert len(seen) > 100


def test_answers_are_said_with_every_value_and_cite_rows_that_are_there(plans, connections):
    cited = 0
    for question, made in plans:
        connection = connections[question.lake]
        cursor = connection.execute(made.sql, made.params)
        columns, rows = [column[0] for column in cursor.description], cursor.fetchall()
        proof = connection.execute(*made.proof).fetchall() if made.proof else []
        said = say(made, columns, rows, proof, names=REGISTRY.names)
        for row in rows[:10]:
            for value in row:
                if isinstance(value, int) and not isinstance(value, bool):
                    assert str(value) in said.text.replace(",", ""), (question.text, said.text)
        if rows and any(value not in (None, 0, False) for row in rows for value in row) and made.table != "solana/completeness":
            assert said.citations, question.text
        for citation in said.citations:
            table = citation.table.replace("/", ".")
            slot = "slot" if citation.table in ("solana/blocks", "solana/completeness") else "block_slot"
            signature = "signature" if citation.table == "solana/transactions" else "tx_signature"
            where = f" and {signature} = ?" if citation.signature else ""
            values = [citation.slot, *([citation.signature] if citation.signature else [])]
            assert connection.execute(f"select count(*) from {table} where {slot} = ?{where}", values).fetchone()[0] > 0
            cited += 1
    assert cited > 500


def test_no_word_is_passed_over(plans, connections):
    """An unknown word at any place of a question that is answered makes it unanswered."""
    chance = random.Random(1)
    tips = {name: tip_of(connection) for name, connection in connections.items()}
    for question, _ in plans:
        words = question.text.split()
        words.insert(chance.randrange(len(words) + 1), "zorbo")
        made = by_planner(" ".join(words), tips[question.lake])
        assert isinstance(made, Abstention)
        assert "zorbo" in made.words or made.reason != "not_understood"


def test_not_changes_what_is_answered_or_that_it_is(plans, connections):
    chance = random.Random(2)
    tips = {name: tip_of(connection) for name, connection in connections.items()}
    for question, made in plans:
        words = question.text.split()
        words.insert(chance.randrange(len(words) + 1), "not")
        other = by_planner(" ".join(words), tips[question.lake])
        assert isinstance(other, Abstention) or (other.sql, other.params) != (made.sql, made.params), " ".join(words)


WORDS = sorted({" ".join(phrase) for phrase in vocabulary()})
NAMES = ["Jupiter v6", "Token-2022", "USDC", "SOL", "slot 20", "slots 10 to 40", "the last 50 slots", "last minute", "2025-03-01", "5", "20k", "InsufficientFunds",
         "CkSjfhZ8Kuqq3yXKZ27XDyruhQhdN9DB4tLYVUwZifNE", "4HD7gwQfXbev5fYT9GPHEjVFtJGmghUpu8XoqpQ36Mr9rVsim9axn8BR3eF5nrU9RuKtA3b4EsK1r9x3gqFwGtJG"]  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*WORDS, *NAMES, "transactions", "fees", "how many", "transfers", "failed", "per", "top"]), min_size=1, max_size=6))
def test_whatever_is_made_of_known_words_runs(connections, words):
    made = plan(" ".join(words), REGISTRY, Tip(0, 127, datetime(2025, 3, 1, 0, 0, 50, tzinfo=UTC)))
    if isinstance(made, Plan):
        gate.check(made.sql, made.params)
        rows = connections["chain"].execute(made.sql, made.params).fetchall()
        columns = [column.name for column in made.columns]
        assert all(len(row) == len(columns) for row in rows)
        assert say(made, columns, rows).text
