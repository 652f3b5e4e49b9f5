"""`blyan ask` answers over a lake and its landing, and says so where it does not."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from blyan.cli import app
from blyan.errors import MissingObjectError
from tests.sql_lake import make_lake


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("asked") / "lake"
    make_lake(root)
    return root


@pytest.fixture
def ask(root, monkeypatch):
    monkeypatch.setenv("BLYAN_LAKE", str(root))

    def invoke(*arguments: str):
        done = CliRunner().invoke(app, ["ask", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    return invoke


def test_an_answer_has_its_sql_and_rows_that_prove_it(ask):
    text = ask("How many transactions are there in the last 2 slots?")
    assert "slots 8 to 9" in text
    assert "SQL: select count(*)" in text
    assert "Parameters: 8, 9" in text
    _, _, cited = text.partition("From solana/transactions:\n")
    lines = cited.splitlines()
    assert [line.startswith("  slot ") for line in lines] == [True] * 5 + [False]
    count = json.loads(ask("How many transactions are there in the last 2 slots?", "-o", "json"))["rows"][0][0]
    assert lines[-1] == f"  and {count - 5:,} more"


def test_the_landing_is_read_as_the_lake_is(ask):
    found = json.loads(ask("transactions per slot", "-o", "json"))
    assert [row[0] for row in found["rows"]][-1] == 9
    assert sum(row[1] for row in found["rows"]) == json.loads(ask("How many transactions?", "-o", "json"))["rows"][0][0]
    assert (found["abstained"], found["intent"], found["by"]) == (False, "grouped", "planner")
    assert found["citations"]


def test_no_answer_is_no_failure_and_says_what_can_be_asked(ask):
    text = ask("Will fees rise tomorrow?")
    assert text.startswith("No answer: The tables have what happened")
    assert "What can be asked:" in text
    found = json.loads(ask("orca transactions", "-o", "json"))
    assert (found["answer"], found["abstained"], found["reason"]) == (None, True, "ambiguous")
    assert "Orca Whirlpool" in found["instead"]


def test_what_needs_documents_says_that_there_are_none(ask, root):
    done = CliRunner().invoke(app, ["ask", "how many swaps failed"])
    assert isinstance(done.exception, MissingObjectError)
    assert "documents" in str(done.exception)
