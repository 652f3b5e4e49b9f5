"""What passes the gate, what does not, and what it proves of slots."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.query import gate
from blyan.query.functions import TABLE_FUNCTIONS, VOLATILE, functions
from blyan.query.gate import MAX_BYTES, RefusedError, check
from blyan.query.snapshot import Bounds

HONEST = [
    "select 1",
    "select * from solana.blocks;",
    "SELECT * FROM Solana.Blocks AS b WHERE b.slot = 3",
    "from solana.blocks select slot",
    "table solana.blocks",
    "values (1, 'a'), (2, 'b')",
    "with a as (select 1 x), b as (select * from a) select * from b, a",
    "with recursive t(n) as (select 1 union all select n + 1 from t where n < 5) select * from t",
    "select count(*) filter (where fee > 0), sum(fee) over (partition by status order by block_slot rows 3 preceding) from solana.transactions group by all",
    "select * from range(3) r(i), unnest([1, 2]) u(x), generate_series(1, 2)",
    "select [x + 1 for x in [1, 2] if x > 1], list_transform([1], lambda x: x + 1), {'a': 1}.a, map {'k': 1}['k']",
    "select extract(year from block_timestamp), trim(both ' ' from 'a'), substring('abc' from 1 for 2), position('a' in 'b') from solana.blocks",
    "select percentile_cont(0.5) within group (order by fee), mode() within group (order by fee) from solana.transactions",
    "select * exclude (slot) replace (height + 1 as height), columns('b.*') from solana.blocks",
    "select a.slot from solana.blocks a asof join solana.blocks b on a.slot >= b.slot",
    "select 1 union all by name select 2 a intersect select 3",
    "select case when true then 1 else 2 end, cast(1 as decimal(20, 0)), try_cast('x' as int), 1::text, interval 3 days",
    "select distinct on (slot) slot from solana.blocks order by slot desc nulls last limit 3 offset 1",
    "select exists (select 1 from solana.blocks), 1 in (select slot from solana.blocks), (select max(slot) from solana.blocks)",
    "explain select * from solana.blocks",
    "describe solana.blocks",
    "show tables",
    "select $$read_text('x')$$, 'copy', \"slot\" from solana.blocks -- drop",
    "select json_extract(err, '$.a'), err->>'a' from solana.transactions",
    "select grouping(slot_range), slot_range from solana.blocks group by rollup (slot_range)",
]


@pytest.mark.parametrize("sql", HONEST)
def test_honest_statements_pass(sql: str) -> None:
    assert check(sql).kind


@pytest.mark.parametrize("sql", [sql for sql in HONEST if not sql.startswith(("explain", "describe", "show"))])
def test_honest_statements_are_duckdbs_too(sql: str) -> None:
    """What the gate takes, DuckDB's parser takes as one SELECT."""
    (statement,) = duckdb.extract_statements(sql)
    assert statement.type == duckdb.StatementType.SELECT


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("", "no statement"),
        (" ; ;", "no statement"),
        ("-- nothing", "no statement"),
        ("select 1; select 2", "2 statements"),
        ("insert into solana.blocks values (1)", "INSERT is not a statement that reads"),
        ("with a as (delete from solana.blocks returning *) select * from a", "DELETE is not allowed"),
        ("pivot solana.blocks on slot using count(*)", "PIVOT"),
        ("select * from solana.blok", r"did you mean solana\.blocks"),
        ("select * from transaction", r"did you mean solana\.transactions"),
        ("select * from memory.solana.blocks", "no table memory.solana.blocks"),
        ("select * from pg_class", "no table pg_class"),
        ("with pg_class as (select * from pg_class) select 1", "no table pg_class"),
        ("select * from (with b as (select 1) select * from b) x, b", "no table b"),
        ("with a as (select * from b), b as (select 1) select * from a", "no table b"),
        ("select read_text('x')", "no function read_text"),
        ("select \"read_text\"('x')", "no function read_text"),
        ("select main.read_text('x')", "no function read_text"),
        ("select ('x').read_text()", "no function read_text"),
        ("select regexp_extrac('a', 'b')", r"did you mean regexp_extract"),
        ("from read_csv('x')", "no table function read_csv"),
        ("from histogram('solana.blocks', 'slot')", "no table function histogram"),
        ("from query('select 1')", "no table function query"),
        ("select current_setting('x')", "no function current_setting"),
        ("select 'a\x00b'", r"U\+0000"),
        ("select '\ud800'", r"U\+D800"),
        ("select 'unterminated", "cannot be read"),
        ("show databases", "only tables can be shown"),
    ],
)
def test_a_refusal_says_what_and_what_instead(sql: str, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        check(sql)


DEEP = {
    "brackets": lambda n: "select " + "(" * n + "1" + ")" * n,
    "lists": lambda n: "select " + "[" * n + "]" * n,
    "subqueries": lambda n: "select * from (" * n + "select 1" + ")" * n,
    "not": lambda n: "select " + "not " * n + "true",
    "minus": lambda n: "select " + "- " * n + "1",
    "tilde": lambda n: "select " + "~" * n + "1",
    "case": lambda n: "select " + "case when true then " * n + "1" + " end" * n,
    "lambda": lambda n: "select list_transform([1], " + "x -> " * n + "1)",
    "plus": lambda n: "select " + "1 + " * n + "1",
    "and": lambda n: "select " + "true and " * n + "true",
    "union": lambda n: " union ".join(["select 1"] * n),
    "casts": lambda n: "select 1" + "::int" * n,
    "dots": lambda n: "select a" + ".a" * n,
    "calls": lambda n: "select 1" + ".abs()" * n,
    "with": lambda n: "with a as (" * n + "select 1" + ") select 1" * n,
    "joins": lambda n: "select * from solana.blocks" + " join solana.blocks using (slot)" * n,
    "explains": lambda n: "explain " * n + "select 1",
    "comments": lambda n: "/*" * n + "*/" * n + "select 1",
    "semicolons": lambda n: ";" * n + "select 1" + ";" * n,
    "quotes": lambda n: "select " + "'" * (2 * n) + " a",
    "exists": lambda n: "select " + "exists (select " * n + "1" + ")" * n,
    "between": lambda n: "select " + "1 between 1 and " * n + "1",
    "interval": lambda n: "select " + "interval " * n + "1 day",
    "distinct": lambda n: "select " + "1 is not distinct from " * n + "1",
    "types": lambda n: "select null::" + "struct(a " * n + "int" + ")" * n,
    "words": lambda n: "select " * n,
    "if": lambda n: "select " + "if(true, " * n + "1" + ", 2)" * n,
}


@pytest.mark.parametrize("size", [50, 3_000, 10_000, 1_000_000])
@pytest.mark.parametrize("shape", DEEP)
def test_depth_and_size_end_in_a_refusal_and_not_in_a_crash(shape: str, size: int) -> None:
    try:
        check(DEEP[shape](size))
    except RefusedError:
        return
    assert size < 1_000_000


def test_a_statement_may_be_as_long_as_it_may_be() -> None:
    listed = ", ".join(["1"] * 9_000)
    assert check(f"select * from solana.blocks where slot in ({listed})").bounds["solana/blocks"] == Bounds(1, 1)
    with pytest.raises(RefusedError, match="KiB"):
        check("select '" + "x" * MAX_BYTES + "'")


def test_the_caller_may_be_any_thread_with_a_small_stack() -> None:
    found: list[Any] = []
    before = threading.stack_size(256 << 10)
    try:
        thread = threading.Thread(target=lambda: found.append(check("select " + "1 + " * 4_000 + "1").kind))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert found == ["rows"]


MOMENT = datetime(2024, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("where", "bounds"),
    [
        ("slot = 3", Bounds(3, 3)),
        ("3 = slot", Bounds(3, 3)),
        ("slot > 3 and slot < 9", Bounds(4, 8)),
        ("3 <= slot and 9 >= slot", Bounds(3, 9)),
        ("slot between 3 and 9", Bounds(3, 9)),
        ("slot in (3, 9, 5)", Bounds(3, 9)),
        ("((slot = 3) and (block_hash = 'x' or slot = 9))", Bounds(3, 3)),
        ("slot_range = '000000000004'", Bounds(keys=("000000000004",))),
        ("slot_range in ('000000000004', '000000000000')", Bounds(keys=("000000000000", "000000000004"))),
        ("block_timestamp >= '2024-01-02'", Bounds(since=MOMENT)),
        ("block_timestamp < timestamp '2024-01-02 00:00:00'", Bounds(until=MOMENT)),
        ("block_timestamp >= date '2024-01-02'", Bounds(since=MOMENT)),
        ("block_timestamp >= '2024-01-02 13:00:00'::date", Bounds(since=MOMENT)),
        ("block_timestamp = $moment", Bounds(since=MOMENT, until=MOMENT)),
        ("slot = $slot", Bounds(7, 7)),
        # Not proved, so not used:
        ("slot = 3 or slot = 9", Bounds()),
        ("not slot = 3", Bounds()),
        ("slot <> 3", Bounds()),
        ("slot + 1 = 3", Bounds()),
        ("slot = '3'", Bounds()),
        ("slot = 3.5", Bounds()),
        ("slot = height", Bounds()),
        ("coalesce(slot, 3) = 3", Bounds()),
        ("slot not in (3)", Bounds()),
        ("slot not between 3 and 9", Bounds()),
        ("slot in (select 3)", Bounds()),
        ("slot is not distinct from 3", Bounds()),
        ("slot_range > '000000000004'", Bounds()),
        ("block_timestamp > '2024-W01-1'", Bounds()),
        ("block_timestamp > '2024-01-02 00:00:00+02'", Bounds()),
        ("case when slot = 3 then true else true end", Bounds()),
        ("true or slot = 3", Bounds()),
    ],
)
def test_what_a_where_proves(where: str, bounds: Bounds) -> None:
    found = check(f"select count(*) from solana.blocks where {where}", {"slot": 7, "moment": MOMENT})
    assert found.bounds.get("solana/blocks", Bounds()) == bounds


@pytest.mark.parametrize(
    ("sql", "bounds"),
    [
        ("select * from solana.blocks a, solana.blocks b where a.slot = 3 and b.slot = 9", Bounds(3, 9)),
        ("select * from solana.blocks where slot = 3 union all select * from solana.blocks", Bounds()),
        ("select * from solana.blocks a left join solana.blocks b on b.slot = 3 where a.slot = 3", Bounds()),
        ("select * from solana.blocks a left join solana.transactions t on true where t.block_slot = 3", Bounds()),
        ("select * from (select * from solana.blocks) where slot = 3", Bounds()),
        ("select 3 as slot from solana.blocks where slot = 3", Bounds()),
        ("select * from solana.blocks b(block_hash, slot) where slot = 3", Bounds()),
        ("select * from solana.transactions positional join solana.blocks b where b.slot = 3", Bounds()),
        ("select * from solana.transactions t asof join solana.blocks b on b.slot < t.block_slot where b.slot = 3", Bounds()),
        ("select (select max(b.slot) from solana.blocks b) from solana.transactions where block_slot = 3", Bounds()),
        ("select * from solana.blocks tablesample 10% where slot = 3", Bounds()),
        ("select * from solana.blocks where slot = ? and ? = 1", Bounds(5, 5)),
    ],
)
def test_what_a_where_proves_of_a_table_among_others(sql: str, bounds: Bounds) -> None:
    assert check(sql, [5, 1]).bounds.get("solana/blocks", Bounds()) == bounds


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["select", "'a b'", '"A"', "$$x$$", "1", "(", ")", "--c\n", "/*c*/", " ", "\n", "from", ",", "e'\\''"]), max_size=12))
def test_equal_normalised_texts_are_equal_words(parts: list[str]) -> None:
    """Only space and comments differ, and two strings on two lines stay on two lines, since they are one string."""
    text = "select 1, 'x', " + " ".join(parts)
    try:
        found = check(text)
    except RefusedError:
        return
    assert check(found.normalised).normalised == found.normalised
    assert tree(found.normalised) == tree(text)


def tree(sql: str) -> str:
    """What DuckDB reads in a statement, without the places of its words; or that it reads nothing."""
    ((text,),) = duckdb.execute("select json_serialize_sql($1)", [sql]).fetchall()
    return "" if '"error":true' in text else re.sub(r'"query_location(_length)?":\d+', "", text)


def test_strings_keep_their_space_and_names_their_case() -> None:
    assert check("select  'a  b' -- c\n , \"A  B\" from solana.blocks").normalised == "select 'a  b'\n, \"A  B\" from solana . blocks"
    assert check("select 'a'\n'b'").normalised != check("select 'a' 'b'").normalised


def test_what_only_one_parser_takes_for_a_space_stays() -> None:
    """DuckDB reads `\u1680x` as a name: without its first sign another column's name would be remembered for this statement."""
    for sign in ("\u1680", "\u2028", "\x85"):
        assert check(f"select 1{sign}x").normalised != check("select 1 x").normalised
        assert tree(check(f"select 1{sign}x").normalised) == tree(f"select 1{sign}x")
    assert check("select 'a'\r'b'").normalised == check("select 'a'\n'b'").normalised


def test_what_is_no_comment_for_duckdb_is_refused() -> None:
    """For the parser here `{#` begins a comment: what DuckDB runs would have neither its words in the key, nor its functions looked at."""
    hidden = "select map {#1: '#}{1: 2}--'} from (select 1)\nwhere true"
    assert duckdb.execute(hidden).fetchall() == [({1: "#}{1: 2}--"},)]
    with pytest.raises(RefusedError, match=r"\{#"):
        check(hidden)
    assert check("select map { #1: 'x'} from (select 1) -- {# a comment #}").kind == "rows"
    assert check("select '{# a #}'").normalised == "select '{# a #}'"


def test_every_listed_function_is_duckdbs_and_the_dangerous_are_not_listed() -> None:
    known = {name for (name,) in duckdb.connect().execute("select distinct function_name from duckdb_functions()").fetchall()}
    assert functions() <= known
    assert known >= TABLE_FUNCTIONS
    reads = {
        name for name in known if name.startswith(("read_", "duckdb_", "pragma_", "pg_", "icu_", "st_", "__", "parquet_")) or name.endswith("_scan")
    }
    assert not functions() & (
        reads
        | {"glob", "query", "query_table", "getvariable", "current_setting", "sleep_ms", "write_log", "which_secret", "sniff_csv", "test_all_types"}
    )
    assert VOLATILE & functions() == VOLATILE - {"current_time", "current_timestamp", "localtime", "localtimestamp"}


def test_a_limit_on_depth_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without it, the same text is read."""
    monkeypatch.setattr(gate, "MAX_NESTED", 1_000)
    gate._remembered.cache_clear()
    assert check(DEEP["brackets"](150)).kind == "rows"
    monkeypatch.undo()
    gate._remembered.cache_clear()
    with pytest.raises(RefusedError, match="nested"):
        check(DEEP["brackets"](150))
