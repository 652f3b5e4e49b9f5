"""Values go into SQL as literals and into prose as data; the families keep their own laws."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime
from decimal import Decimal
from string import Formatter

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.corpus.questions import bind, canonical, literal, load_questions, plain, say, tables_of
from blyan.corpus.registry import load_registry
from blyan.corpus.sample_checks import _parsed
from blyan.corpus.samples import READ
from blyan.errors import PermanentError

REGISTRY = load_registry()
QUESTIONS = load_questions()
USDC = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
UNSEEN = {"Cc", "Zl", "Zp"}
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text("'\"\\;-\x00\n{}()|chr1 ", max_size=40)


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as made:
        yield made


# Families


def test_there_are_enough_families_of_every_scope_and_difficulty():
    families = QUESTIONS.families
    assert len([family for family in families.values() if family.sql]) >= 80
    assert len([family for family in families.values() if not family.sql]) >= 10
    for name in QUESTIONS.scopes:
        assert len([family for family in families.values() if family.scope == name]) >= 8
    assert {family.difficulty for family in families.values()} == {1, 2, 3}
    assert sum(family.difficulty == 3 for family in families.values()) >= 15


@pytest.mark.parametrize("name", QUESTIONS.families)
def test_a_family_keeps_the_laws(name):
    family = QUESTIONS.families[name]
    assert len(family.ask) >= 3
    assert len(set(family.ask)) == len(family.ask)
    assert all(template[-1] in "?." for template in family.ask)
    known = {table.name for table in READ}
    if family.sql is None:
        assert family.answer.startswith("The tables cannot tell")
        return
    assert tables_of(family.sql)
    assert set(tables_of(family.sql)) | set(tables_of(QUESTIONS.evidence(family))) | set(tables_of(QUESTIONS.draw(family))) <= known
    if family.row:
        assert _parsed(re.sub(r"\{[a-z_]+\}", "1", family.sql)).args.get("order"), "a list has an order"
    asked = {field for template in family.ask for _, field, _, _ in Formatter().parse(template) if field}
    used = {field for _, field, _, _ in Formatter().parse(family.sql) if field}
    assert used - {"first", "last"} <= asked, "the question tells all that the query needs"
    assert not {"first", "last"} & used or "slots" in asked
    for template in family.ask:
        told = {field for _, field, _, _ in Formatter().parse(template) if field}
        assert used - {"first", "last"} <= told | ({"slots"} if "slots" in told else set()), template
        assert not {"first", "last"} & used or "slots" in told, template


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ('scope = "planet"\nask = ["?"]\nanswer = ""\nsql = "select 1"', "no scope planet"),
        ('scope = "block"\nask = []\nanswer = ""\nsql = "select 1"', "no phrasing"),
        ('scope = "block"\nask = ["?"]\nanswer = ""', "either SQL or what the tables lack"),
        ('scope = "block"\nask = ["?"]\nanswer = ""\nsql = "select 1"\nlacks = ["x"]', "either SQL or what the tables lack"),
        ('scope = "block"\nask = ["{slot:loudly}?"]\nanswer = ""\nsql = "select 1"', "no way to say"),
        ('scope = "block"\nask = ["?"]\nanswer = ""\nsql = "select 1"\ncolour = "red"', "unknown field"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_name(tmp_path, entry, complaint):
    path = tmp_path / "questions.toml"
    path.write_text(f'[scopes.block]\ndraw = "select 1"\nevidence = "select 1"\n\n[families.odd]\ndifficulty = 1\n{entry}\n')
    with pytest.raises(PermanentError, match=complaint):
        load_questions(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(PermanentError, match="cannot be read"):
        load_questions(tmp_path / "none.toml")


# SQL


@settings(deadline=None)
@given(text=TEXT)
def test_a_literal_is_the_text_and_looks_like_it(connection, text):
    written = literal(text)
    assert not any(unicodedata.category(sign) in UNSEEN or unicodedata.bidirectional(sign) in TURNING for sign in written)
    sql = f"select {written} as x"
    (statement,) = duckdb.extract_statements(sql)
    assert statement.type == duckdb.StatementType.SELECT
    assert connection.execute(sql).fetchall() == [(text,)]


@settings(deadline=None)
@given(value=st.integers(-(2**63), 2**63 - 1) | st.decimals(min_value=-(10**20), max_value=10**20, places=0))
def test_a_number_is_a_literal(connection, value):
    ((found,),) = connection.execute(f"select {literal(value)}").fetchall()
    assert found == value


@pytest.mark.parametrize("value", [None, True, 1.5, [1], {"a": 1}, b"x"])
def test_what_is_no_literal_is_refused(value):
    with pytest.raises(PermanentError):
        literal(value)


def test_a_template_is_bound_once():
    assert bind("select {a},\n    {b} from t", {"a": "{b}", "b": 1}) == "select '{b}', 1 from t"
    with pytest.raises(PermanentError, match="as c"):
        bind("select {c}", {"a": 1})


# Prose


@pytest.mark.parametrize(
    ("template", "values", "said"),
    [
        ("{x:sol}", {"x": Decimal(5000)}, "0.000005 SOL (5000 lamports)"),
        ("{x:sol}", {"x": Decimal(-1_500_000_000)}, "-1.5 SOL (-1500000000 lamports)"),
        ("{x:sol}", {"x": None}, "an unrecorded amount"),
        ("{x:units d m}", {"x": Decimal(203117642), "d": 6, "m": USDC}, f"203.117642 USDC ({USDC}) (203117642 base units, 6 decimals)"),
        ("{x:units d m}", {"x": Decimal(7), "d": None, "m": USDC}, f"7 base units of USDC ({USDC}), whose decimals are not told,"),
        ("{x:units d m}", {"x": Decimal(7), "d": None, "m": None}, "7 base units of an unknown mint, whose decimals are not told,"),
        ("{x:count vote}", {"x": 1}, "1 vote"),
        ("{x:count vote}", {"x": 0}, "0 votes"),
        ("{x:name}", {"x": USDC}, f"USDC ({USDC})"),
        ("{x:called}", {"x": USDC}, "USDC"),
        ("{x:called}", {"x": "So1"}, "So1"),
        ("{x:or none}", {"x": None}, "none"),
        ("{x:or none}", {"x": 3}, "3"),
        ("{x:list}", {"x": ["a", "b"]}, "a, b"),
        ("{x:list}", {"x": []}, "none"),
        ("{x}", {"x": "custom program error: 0x1"}, "custom program error: 0x1"),
        ("{x}", {"x": "a\nb"}, '"a\\nb"'),
        ("{x}", {"x": "ignore\u202ethat"}, '"ignore\\u202ethat"'),
        ("{x}", {"x": None}, "nothing recorded"),
        ("{x}", {"x": datetime(2024, 3, 14, tzinfo=UTC)}, "2024-03-14T00:00:00+00:00"),
        ("{x:verbatim}", {"x": "a\nb"}, "a\nb"),
    ],
)
def test_a_value_is_said(template, values, said):
    assert say(template, values, REGISTRY) == said


@settings(deadline=None)
@given(text=TEXT)
def test_text_is_said_on_one_line_and_nothing_in_it_is_a_template(text):
    said = say("Memo {memo:quoted} and {memo}.", {"memo": text}, REGISTRY)
    assert len(said.splitlines()) == 1
    assert json.loads(said.removeprefix("Memo ").partition(" and ")[0] if '"' not in text and " and " not in text else json.dumps(text)) == text
    assert plain(text) in said


# Answers


def test_an_answer_keeps_every_digit_and_has_one_form():
    rows = [[2**53, 2**53 + 1, Decimal(18446744073709551615), None, True, "é\n", datetime(2024, 3, 14, tzinfo=UTC), ["a"]]]
    text = canonical(["a", "b", "c", "d", "e", "f", "g", "h"], rows)
    assert json.loads(text)["rows"] == [[2**53, str(2**53 + 1), "18446744073709551615", None, True, "é\n", "2024-03-14T00:00:00+00:00", ["a"]]]


@pytest.mark.parametrize("value", [0.5, b"x", {"a": 1}])
def test_an_answer_that_has_no_one_form_is_refused(value):
    with pytest.raises(PermanentError, match="an answer holds"):
        canonical(["a"], [[value]])
