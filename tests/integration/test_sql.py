"""The SQL engine over a small lake: answers, pages, pins, time travel, limits, long queries, and what goes wrong under it."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Iterator
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blyan.errors import BlyanError, MissingObjectError, PermanentError, TransientError
from blyan.lake import Lake
from blyan.query import sandbox
from blyan.query.engine import all_tables, connect
from blyan.query.formats import FORMATS, METADATA
from blyan.query.gate import RefusedError
from blyan.query.position import START, Position
from blyan.query.sandbox import BusyError, DeadlineError, ProcessDiedError, StatementError, TooLargeError
from blyan.query.sql import At, SqlEngine
from blyan.schemas import BLOCKS, COMPLETENESS, TRANSACTIONS
from blyan.solana.ingest import normalise_range
from blyan.solana.landing import Landing, read_head
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from tests.lake_rows import rewards
from tests.landed import land_slots
from tests.object_stores import s3_store
from tests.sql_lake import SMALL, Asker, asking, make_lake, settings_of


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def asker(lake: Lake) -> Iterator[Asker]:
    with asking(lake, processes=2) as found:
        yield found


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[tuple[Lake, Asker]]:
    """A lake of its own, to be changed under the engine."""
    made = make_lake(tmp_path / "lake")
    with asking(made) as found:
        yield made, found


def bare(lake: Lake, sql: str) -> list[tuple[Any, ...]]:
    with connect(lake, tables=[table for table in all_tables() if table.short_name in sql or table == COMPLETENESS]) as connection:
        table = connection.sql(sql).to_arrow_reader(1000).read_all()
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


# Answers


@pytest.mark.parametrize(
    "sql",
    [
        "select * from solana.blocks order by slot",
        "select slot_range, count(*), sum(leader_reward) from solana.blocks group by all order by all",
        "select count(*), sum(fee), max(block_slot) from solana.transactions where block_slot between 2 and 8",
        "select t.signature, b.block_hash from solana.transactions t join solana.blocks b on b.slot = t.block_slot where b.slot > 6 order by all",
        "with a as (select block_slot s, count(*) n from solana.transactions group by 1) select * from a where n > 1 order by s",
        "select signature, unnest(accounts) from solana.transactions where slot_range = '000000000004' order by all",
        "select slot, state, commitment, slot_range from solana.slot_status order by slot",
        "select program, count(*) filter (where block_slot < 5) from solana.instructions group by 1 order by all",
        "select max(lamports) from solana.block_rewards where block_timestamp > timestamp '2025-03-01 00:00:01'",
    ],
)
def test_an_answer_is_what_duckdb_gives(asker: Asker, lake: Lake, sql: str) -> None:
    assert asker.rows(sql) == bare(lake, sql)


COLUMNS = st.sampled_from(["block_slot", "index", "fee", "status", "signature", "is_vote", "slot_range", "block_timestamp"])
CONDITIONS = st.one_of(
    st.tuples(st.sampled_from(["block_slot", "t.block_slot", "index"]), st.sampled_from(["<", "<=", "=", ">=", ">", "<>"]), st.integers(-1, 12)).map(
        lambda parts: f"{parts[0]} {parts[1]} {parts[2]}"
    ),
    st.tuples(st.integers(-1, 11), st.integers(-1, 11)).map(lambda pair: f"block_slot between {pair[0]} and {pair[1]}"),
    st.lists(st.integers(0, 11), min_size=1, max_size=3).map(
        lambda slots: f"{slots[0]} < block_slot or block_slot in ({', '.join(map(str, slots))})"
    ),
    st.sampled_from(
        ["slot_range = '000000000004'", "slot_range in ('000000000000', '000000000008')", "slot_range > '000000000000'", "status = 'Success'"]
    ),
    st.integers(0, 5).map(lambda second: f"block_timestamp >= timestamp '2025-03-01 00:00:0{second}'"),
    st.integers(0, 5).map(lambda second: f"'2025-03-01 00:00:0{second}'::timestamptz > t.block_timestamp"),
)
JOINS = st.sampled_from(["", "left join solana.blocks b on b.slot = t.block_slot", "right join solana.blocks b on b.slot = t.block_slot + 1", "full join solana.blocks b on b.slot = t.index", "semi join solana.blocks b on b.slot = t.block_slot", "anti join solana.blocks b on b.slot = t.block_slot", "asof join solana.blocks b on b.slot < t.block_slot"])  # fmt: skip


@st.composite
def statements(draw: st.DrawFn) -> str:
    shown = draw(st.lists(COLUMNS, min_size=1, max_size=3, unique=True))
    conditions = draw(st.lists(CONDITIONS, max_size=3))
    join = draw(JOINS)
    glue = draw(st.sampled_from([" and ", " or "]))
    more = f"{draw(st.sampled_from(['b.slot', 'b.slot + 0']))} {draw(st.sampled_from(['>', '<=', '=']))} {draw(st.integers(0, 9))}"
    if join and "semi" not in join and "anti" not in join and draw(st.booleans()):
        conditions.append(more)
    where = f" where {glue.join(f'({each})' for each in conditions)}" if conditions else ""
    named = [f"t.{name}" for name in shown]
    if draw(st.booleans()):
        return f"select {', '.join(named)}, count(*) from solana.transactions t {join}{where} group by all order by all"
    return f"select {', '.join(named)} from solana.transactions t {join}{where} order by all"


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sql=statements())
def test_random_statements_give_what_duckdb_gives(asker: Asker, lake: Lake, sql: str) -> None:
    """Above all: leaving files out by what a WHERE proves changes nothing."""
    sql = sql.replace(" block_slot", " t.block_slot").replace("(block_slot", "(t.block_slot").replace("(slot_range", "(t.slot_range").replace("(block_timestamp", "(t.block_timestamp").replace("(status", "(t.status").replace("(index", "(t.index")  # fmt: skip
    assert asker.rows(sql) == bare(lake, sql)


def test_only_the_ranges_that_can_matter_are_read(asker: Asker) -> None:
    _, answer = asker.ask("select * from solana.transactions where block_slot between 1 and 2")
    assert list(answer.reading.ranges["solana/transactions"]) == ["000000000000"]
    _, answer = asker.ask("select * from solana.transactions where block_slot > 1")
    assert list(answer.reading.ranges["solana/transactions"]) == ["000000000000", "000000000004", "000000000008"]


def test_an_answer_says_what_it_read(asker: Asker, lake: Lake) -> None:
    _, answer = asker.ask("select count(*) from solana.blocks")
    reading = answer.reading
    assert reading.versions == {"solana/blocks": lake.version(BLOCKS)}
    assert (reading.up_to_slot, reading.finality, reading.finalized_to) == (9, "confirmed", 7)
    assert reading.ranges["solana/blocks"]["000000000000"] == lake.digest(BLOCKS, "000000000000")
    assert reading.behind_slots == 0
    assert reading.behind_ms is not None


VALUES: list[tuple[str, Any, Any]] = [
    ("$1", 2**64 - 1, 2**64 - 1),
    ("$1", -(2**63), -(2**63)),
    ("$1", Decimal("18446744073709551615"), Decimal("18446744073709551615")),
    ("$1", "it's; drop", "it's; drop"),
    ("$1", b"\x00\xff", b"\x00\xff"),
    ("$1", True, True),
    ("$1", None, None),
    ("$1", 1.5, 1.5),
    ("$1", date(2024, 2, 29), date(2024, 2, 29)),
    ("$1", [1, 2], [1, 2]),
    ("$1 = timestamptz '2024-01-01 00:00:00+00'", datetime(2024, 1, 1, tzinfo=timezone.utc), True),  # noqa: UP017
]


@pytest.mark.parametrize(("sql", "value", "expected"), VALUES, ids=str)
def test_parameters_are_bound_as_they_are(asker: Asker, sql: str, value: Any, expected: Any) -> None:
    assert asker.rows(f"select {sql} as a", [value]) == [(expected,)]
    assert asker.rows(f"select {sql.replace('$1', '$value')} as a", {"value": value}) == [(expected,)]


def test_a_parameter_that_is_no_value_is_refused(asker: Asker) -> None:
    with pytest.raises(StatementError, match="a parameter cannot be a dict"):
        asker.rows("select $1", [{"a": 1}])


def test_explain_describe_and_show(asker: Asker) -> None:
    assert "PARQUET" in str(asker.rows("explain select * from solana.blocks where slot = 3")).upper()
    assert ("slot", "BIGINT") in [row[:2] for row in asker.rows("describe solana.blocks")]
    assert ("solana", "blocks") in [row[:2] for row in asker.rows("show tables")]
    assert ("solana", "slot_status") in [row[:2] for row in asker.rows("show tables")]


# Pages and pins


def test_pages_make_up_the_whole(asker: Asker) -> None:
    sql = "select signature, block_slot from solana.transactions where block_slot <> 3"
    whole, answer = asker.ask(sql)
    assert not answer.truncated
    paged, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        rows, answer = asker.ask(sql, cursor=cursor, rows=7)
        paged, cursor, pages = paged + rows, answer.cursor, pages + 1
    assert paged == whole
    assert pages == -(-len(whole) // 7)


def test_a_result_that_has_too_many_bytes_is_cut_between_rows_and_goes_on(asker: Asker) -> None:
    sql = "select i, repeat('x', 1000) t from range(3000) r(i)"
    limits = msgspec.structs.replace(SMALL, bytes=200_000)
    rows, answer = asker.ask(sql, limits=limits)
    assert answer.truncated
    assert 100 < len(rows) < 200
    following, _ = asker.ask(sql, limits=limits, cursor=answer.cursor)
    assert following[0][0] == len(rows)


def test_one_row_that_is_larger_than_a_result_is_an_error(asker: Asker) -> None:
    with pytest.raises(TooLargeError, match="its first row alone"):
        asker.rows("select repeat('x', 1000000)", limits=msgspec.structs.replace(SMALL, bytes=1000))


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "eJwDAAAAAAE", "A" * 10_000])
def test_a_cursor_that_is_none_is_refused(asker: Asker, cursor: str) -> None:
    with pytest.raises(RefusedError, match="cursor"):
        asker.rows("select slot from solana.blocks", cursor=cursor)


def test_a_cursor_is_of_one_statement_and_its_parameters(asker: Asker) -> None:
    _, answer = asker.ask("select slot from solana.blocks where slot > $1", [0], rows=1)
    for sql, params in (("select slot from solana.blocks where slot >= $1", [0]), ("select slot from solana.blocks where slot > $1", [1])):
        with pytest.raises(RefusedError, match="of another statement"):
            asker.rows(sql, params, cursor=answer.cursor)


@pytest.mark.parametrize("inside", ["../../secret", "' union select 1 --", "a/b"])
def test_a_forged_cursor_names_no_file_and_no_sql(asker: Asker, inside: str) -> None:
    import base64
    import zlib

    sql = "select state from solana.slot_status"
    _, answer = asker.ask(sql, rows=1)
    assert answer.cursor
    content = msgspec.json.decode(zlib.decompress(base64.urlsafe_b64decode(answer.cursor + "==")))
    for forge in (
        lambda pin: pin["tables"]["solana/completeness"]["landed"].append([inside, "segment", 0, 9]),
        lambda pin: pin["tables"]["solana/completeness"]["landed"].append(["000000000000", inside, 0, 9]),
        lambda pin: pin["tip"]["announced"].append([99, inside]),
        lambda pin: pin["tip"]["ranges"].append(inside),
        lambda pin: pin["tables"].update({inside: {"version": 1}}),
    ):
        forged = msgspec.json.decode(msgspec.json.encode(content))
        forge(forged[2])
        cursor = base64.urlsafe_b64encode(zlib.compress(msgspec.json.encode(forged))).decode()
        with pytest.raises((PermanentError, RefusedError)):
            asker.rows(sql, cursor=cursor)


def test_a_pin_gives_the_same_bytes_after_everything_changed(changing: tuple[Lake, Asker]) -> None:
    lake, asker = changing
    sql = "select *, list(signature) over (partition by block_slot) l from solana.transactions where block_slot < 9"
    before, answer = asker.ask(sql)
    pin = asker.run(asker.engine.pin(answer))
    lake.compact(TRANSACTIONS)
    lake.write_partition(TRANSACTIONS, "000000000000", [lake_rows(lake).slice(0, 3)])
    assert asker.rows(sql) != before

    async def again() -> tuple[list[Any], str]:
        async with await asker.engine.again(pin) as found:
            table = await found.table()
        return table.to_pylist(), found.digest

    rows, digest = asker.run(again())
    assert digest == answer.digest
    assert [tuple(row.values()) for row in rows] == before


def lake_rows(lake: Lake) -> pa.Table:
    return pa.Table.from_batches(list(lake.read(TRANSACTIONS, key="000000000000")))


def test_a_pin_of_a_file_that_is_gone_names_it(changing: tuple[Lake, Asker]) -> None:
    lake, asker = changing
    _, answer = asker.ask("select * from solana.blocks")
    pin = asker.run(asker.engine.pin(answer))
    (path,) = [file.path for file in lake.files(BLOCKS, keys=["000000000004"])]
    lake.write_partition(BLOCKS, "000000000004", [pa.Table.from_batches(list(lake.read(BLOCKS, key="000000000004"))).slice(0, 2)])
    Path(path).unlink()
    with pytest.raises(MissingObjectError, match=rf"solana/blocks/slot_range=000000000004/.*{Path(path).name}"):
        asker.run(asker.engine.again(pin))


@pytest.mark.parametrize("sql", ["select now() a", "select random() a", "select uuid() a", "explain analyze select 1"])
def test_what_differs_each_time_has_no_pin_and_no_cursor(asker: Asker, sql: str) -> None:
    _, answer = asker.ask(sql)
    with pytest.raises(PermanentError, match="gives another value each time"):
        asker.run(asker.engine.pin(answer))
    _, answer = asker.ask(f"{sql} from range(9)" if sql.startswith("select") else sql, rows=1)
    assert answer.cursor is None


def test_a_pin_whose_rows_come_out_otherwise_is_an_error(asker: Asker, lake: Lake) -> None:
    """The negative control of `again`."""
    _, answer = asker.ask("select slot from solana.blocks")
    pin = asker.run(asker.engine.pin(answer))
    forged = lake.put_blob(lake.get_blob(pin).replace(answer.digest.encode(), b"0" * 64))

    async def again() -> None:
        async with await asker.engine.again(forged) as found:
            await found.table()

    with pytest.raises(PermanentError, match="gave other rows"):
        asker.run(again())


@pytest.mark.parametrize("pin", ["", "x" * 64, "0" * 64, "../../etc/passwd"])
def test_a_pin_that_is_none_is_refused(asker: Asker, pin: str) -> None:
    with pytest.raises(PermanentError):
        asker.run(asker.engine.again(pin))


def test_the_same_statement_gives_the_same_digest_in_any_process(asker: Asker) -> None:
    sql = "select program, sum(1.1::double * tx_index) s, list(tx_signature) l, first(block_slot) f from solana.instructions group by program"
    assert len({asker.ask(sql)[1].digest for _ in range(4)}) == 1
    assert asker.ask(sql)[1].digest != asker.ask(sql.replace("1.1", "1.2"))[1].digest


def test_the_cache_key_changes_with_what_matters_and_with_nothing_else(changing: tuple[Lake, Asker]) -> None:
    lake, asker = changing
    old, new = "select count(*) from solana.blocks where slot < 4", "select count(*) from solana.blocks where slot > 4"
    before = [asker.ask(sql)[1].cache_key for sql in (old, new)]
    assert asker.ask(old.replace(" ", "  ") + " -- a comment")[1].cache_key == before[0]
    lake.write_partition(BLOCKS, "000000000004", [pa.Table.from_batches(list(lake.read(BLOCKS, key="000000000004"))).slice(0, 2)])
    after = [asker.ask(sql)[1].cache_key for sql in (old, new)]
    assert after[0] == before[0]
    assert after[1] != before[1]


# Another time


def test_time_travel_by_version_and_by_slot(asker: Asker, lake: Lake) -> None:
    assert asker.rows("select max(slot) from solana.blocks", at=At(versions=1)) == [(3,)]
    assert asker.rows("select max(slot) from solana.blocks", at=At(versions={"solana.blocks": 2})) == [(7,)]
    for slot in range(10):
        rows, answer = asker.ask("select count(*), max(block_slot) from solana.transactions", at=At(slot=slot))
        assert rows == bare(lake, f"select count(*), max(block_slot) from solana.transactions where block_slot <= {slot}")
        assert answer.reading.up_to_slot == slot
    with pytest.raises(MissingObjectError, match="no version 99"):
        asker.rows("select 1 from solana.blocks", at=At(versions=99))
    with pytest.raises(PermanentError, match=r"no version of solana\.blocks was named"):
        asker.rows("select 1 from solana.blocks", at=At(versions={"solana/transactions": 1}))


# Limits


def test_a_statement_ends_at_its_deadline(asker: Asker) -> None:
    with pytest.raises(DeadlineError, match=r"not done in 0\.3 s"):
        asker.rows("select count(*) from range(1000000000) a, range(1000000) b", limits=msgspec.structs.replace(SMALL, seconds=0.3))
    assert asker.rows("select 1") == [(1,)]


def test_a_process_that_takes_too_much_memory_is_replaced(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "BASE_BYTES", 0)
    with pytest.raises(TooLargeError, match="more memory"):
        asker.rows("select sum(sin(i)) from range(3000000000) r(i)", limits=msgspec.structs.replace(SMALL, memory=20 << 20))
    monkeypatch.undo()
    assert asker.rows("select 1") == [(1,)]


def test_a_caller_may_have_so_many_at_once_and_no_other_suffers(asker: Asker) -> None:
    # Each asks what nobody asked before: an answer that is remembered takes no place.
    async def crowd() -> None:
        limits = msgspec.structs.replace(SMALL, concurrency=1)
        async with await asker.engine.query("select * from range(10001)", limits=limits, caller="a"):
            with pytest.raises(BusyError, match="of this caller"):
                await asker.engine.query("select 1001", limits=limits, caller="a")
            async with await asker.engine.query("select 1002", limits=limits, caller="b") as answer:
                assert (await answer.table()).num_rows == 1
        async with await asker.engine.query("select 1003", limits=limits, caller="a") as answer:
            assert (await answer.table()).num_rows == 1

    asker.run(crowd())


def test_who_waits_too_long_for_a_process_is_told(asker: Asker) -> None:
    async def crowd() -> None:
        while asker.engine.free < 2:
            await asyncio.sleep(0.05)
        limits = msgspec.structs.replace(SMALL, waiting_s=0.1, rows=1_000_000, bytes=1 << 30)
        sql = "select i, repeat('x', 1000) from range(100000) r(i)"
        async with await asker.engine.query(sql, limits=limits), await asker.engine.query(sql, limits=limits):
            with pytest.raises(BusyError, match="at work on another"):
                await asker.engine.query("select 1004", limits=limits)

    asker.run(crowd())
    assert asker.engine.free == 2


def test_a_slow_reader_is_waited_for_in_bounded_memory(asker: Asker) -> None:
    async def read() -> tuple[int, int]:
        limits = msgspec.structs.replace(SMALL, rows=1_000_000, bytes=1 << 30)
        async with await asker.engine.query("select i, repeat('x', 1000) from range(60000) r(i)", limits=limits) as answer:
            await asyncio.sleep(0.5)
            held = answer.asked.running._size  # type: ignore[union-attr]
            return (await answer.table()).num_rows, held

    rows, held = asker.run(read())
    assert rows == 60_000
    assert held < sandbox.AHEAD_BYTES + (4 << 20)


def test_a_reader_that_goes_away_frees_its_process(asker: Asker) -> None:
    async def leave() -> None:
        limits = msgspec.structs.replace(SMALL, rows=10_000_000, bytes=1 << 34)
        answer = await asker.engine.query("select i, repeat('x', 1000) from range(10000000) r(i)", limits=limits)
        async for _ in answer.batches:
            break
        await answer.aclose()
        with pytest.raises(PermanentError, match="known to be whole"):
            _ = answer.truncated

    asker.run(leave())
    assert asker.rows("select 1") == [(1,)]


def test_an_answer_that_nobody_reads_or_closes_is_over_at_its_deadline(asker: Asker) -> None:
    async def forget() -> None:
        limits = msgspec.structs.replace(SMALL, seconds=0.5, concurrency=1, rows=10_000_000, bytes=1 << 34)
        answer = await asker.engine.query("select i, repeat('x', 1000) from range(10000000) r(i)", limits=limits, caller="a")
        while asker.engine.free < 2:
            await asyncio.sleep(0.05)
        async with await asker.engine.query("select 1", limits=limits, caller="a") as other:
            assert (await other.table()).num_rows == 1
        with pytest.raises(DeadlineError):
            await answer.table()

    asker.run(forget())


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select nope from solana.blocks", r'"nope" not found in FROM clause! Remedy: name one that there is: (\w+, ){4}\w+$'),
        ("select slot from solana.blocks where slott = 1", "slott"),
        ("select * from solana.block", r"did you mean solana\.blocks\?"),
        ("select * from blocks", r"did you mean solana\.blocks\?"),
        ("select regexp_match('a', 'b')", "did you mean regexp_match"),
        ("select cast('x' as int)", "Could not convert"),
        ("select * from corpus.documents", "has not been made yet"),
    ],
)
def test_a_wrong_statement_is_told_what_is_wrong(asker: Asker, sql: str, message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        asker.rows(sql)


@pytest.mark.parametrize(
    ("sql", "wrong", "remedy"),
    [
        ("select slott from solana.blocks", "slott", "did you mean slot?"),
        ("explain select 'é', b.slot, x.slot\nfrom solana.blocks b", "x.slot", "name one that there is: b"),
        ("-- é\n  select slot, count(*) from solana.blocks where slot > ?", "slot, count", 'either add it to the GROUP BY list, or use ANY_VALUE("slot")'),
        ("select slot\nfrom solana.blocks\nwhere slot = 'abc'", "'abc'", "correct the statement"),
        ("select 'é' || sum(leader) from solana.blocks", "sum(", "cast what it is given; there is sum("),
        ("select ?, ?, fooo(1) from solana.blocks", "fooo", "did you mean"),
        ("select ?, 'a\nb' from solana.blocs", "solana.blocs", "did you mean solana.blocks?"),
        ("select ?, slot from solana.blocks\nwhere (", "(", "it is read as DuckDB's SQL"),
        ("/* é */ describe select 1 ]", "]", "it is read as DuckDB's SQL"),
        (f"select {'slot, ' * 40}?, ?\nfrom solana.blocks b c", "c", "it is read as DuckDB's SQL"),
    ],
)  # fmt: skip
def test_where_a_statement_is_wrong_is_told_with_what_to_do(asker: Asker, sql: str, wrong: str, remedy: str) -> None:
    with pytest.raises((RefusedError, StatementError)) as caught:
        asker.rows(sql, [1, 2][: sql.count("?")])
    assert remedy in caught.value.remedy
    assert len(caught.value.what) < 300
    before = sql[: sql.rindex(wrong)].split("\n")
    assert caught.value.position == Position(len(before), len(before[-1]) + 1)


@given(st.text("ab\né", max_size=20), st.text("ab\né", max_size=20))
def test_a_place_behind_two_texts_is_behind_the_one_and_then_the_other(one: str, other: str) -> None:
    assert START.after(one + other) == START.after(one).after(other)
    assert START.after(one).line == 1 + one.count("\n")


def test_what_duckdb_says_at_length_is_told_in_short(asker: Asker) -> None:
    with pytest.raises(StatementError) as caught:
        asker.rows("select error(repeat('long ', 1000))")
    assert 300 < len(caught.value.what) <= 401
    assert caught.value.position is None


# Faults


def test_a_process_that_is_killed_while_it_runs_is_an_error_and_is_replaced(asker: Asker) -> None:
    async def kill() -> None:
        limits = msgspec.structs.replace(SMALL, rows=10_000_000, bytes=1 << 34)
        answer = await asker.engine.query("select i, repeat('x', 1000) from range(10000000) r(i)", limits=limits)
        batches = answer.batches
        await anext(batches)
        os.kill(answer.asked.running._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        with pytest.raises(ProcessDiedError, match="ended under it"):
            async for _ in batches:
                pass

    asker.run(kill())
    assert asker.rows("select count(*) from solana.blocks") == [(10,)]


def test_a_process_that_died_before_is_not_noticed(asker: Asker) -> None:
    for process in list(asker.engine._sandbox._all):
        os.kill(process.pid, signal.SIGKILL)
    assert asker.rows("select count(*) from solana.blocks") == [(10,)]
    assert asker.rows("select count(*) from solana.blocks") == [(10,)]


def test_files_that_go_between_the_log_and_the_reading_are_looked_up_again(changing: tuple[Lake, Asker], monkeypatch: pytest.MonkeyPatch) -> None:
    lake, asker = changing
    sql = "select signature from solana.transactions order by 1"
    expected = asker.rows(sql)
    take, taken = asker.engine._snapshots.take, []

    def take_and_lose(*arguments: Any, **options: Any) -> Any:
        """The first snapshot is of files that maintenance replaces and deletes before they are read."""
        found = take(*arguments, **options)
        taken.append(found)
        if len(taken) == 1:
            lake.z_order(TRANSACTIONS, ["signature"])
            for file in found.files[TRANSACTIONS.name]:
                if not file.path.startswith("landing"):
                    Path(lake.store.path(file.path)).unlink()
        return found

    monkeypatch.setattr(asker.engine._snapshots, "take", take_and_lose)
    assert asker.rows(sql) == expected
    assert len(taken) == 2


def test_files_that_are_deleted_under_a_statement_are_still_there_for_it(changing: tuple[Lake, Asker]) -> None:
    """The landing's own files, too: what a merge no longer names may go while a slow reader reads."""
    lake, asker = changing
    expected = asker.rows("select count(*), sum(length(t)) from (select signature, repeat('x', 20000) t from solana.transactions)")

    async def read() -> int:
        limits = msgspec.structs.replace(SMALL, rows=1_000_000, bytes=1 << 30)
        sql = "select t.signature, repeat('x', 20000) from solana.transactions t, range(40) order by t.block_slot"
        async with await asker.engine.query(sql, limits=limits) as answer:
            for path in [*Path(lake.root).rglob("solana/transactions/**/*.parquet"), *Path(lake.root).rglob("landing/**/*.parquet")]:
                path.unlink()
            return (await answer.table()).num_rows

    assert asker.run(read()) == expected[0][0] * 40
    with pytest.raises(MissingObjectError):
        asker.rows("select count(*) from solana.transactions")


def test_a_slot_that_lands_is_in_the_next_answer(changing: tuple[Lake, Asker]) -> None:
    lake, asker = changing
    chain = settings_of(Path(lake.root))
    assert asker.rows("select max(slot) from solana.blocks") == [(9,)]
    Landing(lake, chain.grid, source="rpc").advance(list(open_source(chain).read(SlotRange(10, 10))))
    rows, answer = asker.ask("select max(slot) from solana.blocks")
    assert rows == [(10,)]
    assert answer.reading.generation == (read_head(lake) or pytest.fail("no head")).generation


def test_a_hand_over_doubles_and_loses_nothing(changing: tuple[Lake, Asker]) -> None:
    from blyan.solana.landing import land_sealed

    lake, asker = changing
    sql = "select slot from solana.blocks order by 1"
    land_slots(settings_of(Path(lake.root)), SlotRange(10, 11), final=True)
    slots = [(slot,) for slot in range(12)]
    assert asker.rows(sql) == slots
    land_sealed(lake, SlotRange(8, 11))
    assert asker.rows(sql) == slots
    normalise_range(lake, SlotRange(8, 11))
    assert asker.rows(sql) == slots


def test_a_table_whose_columns_changed_is_read_by_its_own_files(changing: tuple[Lake, Asker]) -> None:
    lake, asker = changing
    (path,) = [file.path for file in lake.files(BLOCKS, keys=["000000000004"])]
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["height"]), path)
    with pytest.raises(PermanentError) as error:
        asker.rows("select height from solana.blocks")
    assert lake.root not in str(error.value)
    assert asker.rows("select 1") == [(1,)]


def test_a_damaged_file_is_an_error_without_its_path(changing: tuple[Lake, Asker]) -> None:
    lake, asker = changing
    (path,) = [file.path for file in lake.files(BLOCKS, keys=["000000000004"])]
    Path(path).write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(BlyanError) as error:
        asker.rows("select * from solana.blocks")
    assert lake.root not in str(error.value)
    assert "query/" not in str(error.value)


def test_folders_of_engines_that_were_killed_are_deleted(tmp_path: Path, lake: Lake) -> None:
    left = tmp_path / "query" / "sandbox-left"
    left.mkdir(parents=True)
    (left / "lock").touch()
    (left / "0" / "files").mkdir(parents=True)
    with asking(lake, folder=tmp_path / "query") as first:
        assert not left.exists()
        with asking(lake, folder=tmp_path / "query"):
            assert first.rows("select 1") == [(1,)]


# Long queries


async def ended(engine: SqlEngine, name: str, caller: str = "") -> Any:
    while (job := await engine.poll(name, caller=caller)).state in ("waiting", "running"):
        await asyncio.sleep(0.02)
    return job


def test_a_submitted_query_is_fetched_by_its_caller_alone(asker: Asker) -> None:
    async def submit() -> None:
        sql = "select * from solana.instructions"
        name = await asker.engine.submit(sql, caller="a")
        job = await ended(asker.engine, name, "a")
        assert job.state == "done", job.error
        async with await asker.engine.fetch(name, caller="a") as answer:
            table = await answer.table()
        async with await asker.engine.query(sql) as direct:
            expected = await direct.table()
        assert table.to_pylist() == expected.to_pylist()
        assert answer.digest == direct.digest == job.digest
        assert job.reading == answer.reading
        for ask in (asker.engine.poll, asker.engine.fetch, asker.engine.cancel):
            with pytest.raises(MissingObjectError, match="no such submitted query"):
                await ask(name, caller="b")
        await asker.engine.cancel(name, caller="a")
        with pytest.raises(MissingObjectError):
            await asker.engine.poll(name, caller="a")

    asker.run(submit())


def test_a_submitted_query_can_be_cancelled(asker: Asker) -> None:
    async def cancel() -> None:
        name = await asker.engine.submit("select count(*) from range(1000000000) a, range(1000000) b")
        with pytest.raises(TransientError, match="the query is"):
            await asker.engine.fetch(name)
        while (await asker.engine.poll(name)).state != "running":
            await asyncio.sleep(0.02)
        assert (await asker.engine.cancel(name)).state == "cancelled"
        with pytest.raises(PermanentError, match="cancelled"):
            await asker.engine.fetch(name)

    asker.run(cancel())
    assert asker.rows("select 1") == [(1,)]


def test_a_submitted_query_that_fails_says_why(asker: Asker) -> None:
    async def fail() -> None:
        job = await ended(asker.engine, await asker.engine.submit("select error('this')"))
        assert job.state == "failed"
        with pytest.raises(PermanentError, match="this"):
            await asker.engine.fetch(job.name)
        with pytest.raises(RefusedError):
            await asker.engine.submit("select read_text('x')")

    asker.run(fail())


def test_a_full_disk_fails_the_job_and_nothing_else(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    path_open = Path.open

    def opened(path: Path, *arguments: Any, **options: Any) -> Any:
        return Full() if path.name == "result.parquet" else path_open(path, *arguments, **options)

    async def fail() -> Any:
        monkeypatch.setattr(Path, "open", opened)
        return await ended(asker.engine, await asker.engine.submit("select * from solana.blocks"))

    job = asker.run(fail())
    assert (job.state, "full" in job.error) == ("failed", True)
    monkeypatch.undo()
    assert asker.rows("select 1") == [(1,)]


def test_results_have_bounded_room_and_the_oldest_go(lake: Lake, tmp_path: Path) -> None:
    async def fill(engine: SqlEngine) -> None:
        names = [(await ended(engine, await engine.submit("select md5(i::varchar) from range(3000) r(i)"))) for _ in range(4)]
        assert {job.state for job in names} == {"done"}
        left = {job.name for job in await asyncio.to_thread(engine._spool.jobs)}
        assert names[0].name not in left
        assert names[-1].name in left
        too_much = await ended(engine, await engine.submit("select md5(i::varchar) from range(100000) r(i)"))
        assert (too_much.state, "no more room" in too_much.error) == ("failed", True)

    with asking(lake, spool_bytes=150_000, folder=Path(lake.root) / "query" / "small") as found:
        found.run(fill(found.engine))


def test_a_job_whose_process_died_is_lost_and_one_of_a_live_engine_is_not(lake: Lake, asker: Asker) -> None:
    async def lose() -> None:
        spool = asker.engine._spool
        job = spool.begin("", "select 1")
        spool.tidy()
        assert spool.job(job.name, "").state == "waiting"
        spool._locks.pop(job.name).close()
        spool.tidy()
        assert spool.job(job.name, "").state == "failed"

    asker.run(lose())


# Formats


EVERY = """select 18446744073709551615::ubigint u64, (-9223372036854775807 - 1)::bigint i64, 12345678901234567890.123456789::decimal(38, 9) dec,
    timestamptz '2024-02-29 01:02:03.456789+00' tz, timestamp '2024-02-29 01:02:03' ts, date '2024-02-29' d, time '01:02:03.5' t, 'a,"b"' || chr(10) s, '' e,
    null n, '\\x00\\xFF'::blob b, [1, null, 3] l, {'x': 1::decimal(20, 0), 'y': [null]} st, map {'k': 18446744073709551615::ubigint} m, 'NaN'::double nan,
    '-infinity'::double ninf, 1e-7::decimal(20, 10) small, true yes, interval '1 month 2 days' iv, uuid '00000000-0000-0000-0000-000000000001' id,
    340282366920938463463374607431768211455::uhugeint uh, 0.1::double f, [{'a': 1}] ll, array_value(1, 2) ar"""
EXPECTED = {
    "u64": "18446744073709551615", "i64": -9223372036854775808, "dec": "12345678901234567890.123456789", "tz": "2024-02-29T01:02:03.456789Z",
    "ts": "2024-02-29T01:02:03.000000", "d": "2024-02-29", "t": "01:02:03.500000", "s": 'a,"b"\n', "e": "", "n": None, "b": "AP8=", "l": [1, None, 3],
    "st": {"x": "1", "y": [None]}, "m": [["k", "18446744073709551615"]], "nan": "NaN", "ninf": "-Infinity", "small": "0.0000001000", "yes": True,
    "iv": "1 month 2 days", "id": "00000000-0000-0000-0000-000000000001", "uh": "340282366920938463463374607431768211455", "f": 0.1, "ll": [{"a": 1}], "ar": [1, 2],
}  # fmt: skip


def written(asker: Asker, name: str, sql: str, **options: Any) -> bytes:
    async def write() -> bytes:
        async with await asker.engine.query(sql, **options) as answer:
            return b"".join([part async for part in FORMATS[name][1](answer)])

    return asker.run(write())


def test_json_is_exact(asker: Asker) -> None:
    found = msgspec.json.decode(written(asker, "json", EVERY))
    assert dict(zip([column["name"] for column in found["columns"]], found["rows"][0], strict=True)) == EXPECTED
    assert found["truncated"] is False


def test_csv_is_exact(asker: Asker) -> None:
    import csv

    text = written(asker, "csv", EVERY).decode()
    names, row = list(csv.reader(io.StringIO(text, newline="")))
    found = dict(zip(names, row, strict=True))
    for name in ("u64", "dec", "tz", "s", "e", "b", "nan", "uh", "small"):
        assert found[name] == EXPECTED[name]
    assert msgspec.json.decode(found["m"]) == EXPECTED["m"]
    assert (found["n"], ',"",,' in text) == ("", True)


def test_arrow_and_parquet_hold_the_same_rows(asker: Asker) -> None:
    with pa.ipc.open_stream(written(asker, "arrow", EVERY)) as reader:
        batches = [reader.read_next_batch_with_custom_metadata() for _ in range(2)]
    table = pa.Table.from_batches([batches[0].batch])
    assert msgspec.json.decode(batches[1].custom_metadata[METADATA.encode()])["truncated"] is False
    assert table["u64"].to_pylist() == [2**64 - 1]
    file = pq.ParquetFile(io.BytesIO(written(asker, "parquet", EVERY)))
    assert file.read()["dec"].to_pylist() == table["dec"].to_pylist() == [Decimal("12345678901234567890.123456789")]
    assert msgspec.json.decode(file.metadata.metadata[METADATA.encode()])["rows_count"] == 1


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("sql", ["select * from solana.transactions", "select * from solana.transactions where false", "select 1 a, 2 a"])
def test_every_format_writes_any_result(asker: Asker, name: str, sql: str) -> None:
    assert written(asker, name, sql)


def test_every_format_says_that_it_goes_on(asker: Asker) -> None:
    sql = "select slot from solana.blocks"
    assert msgspec.json.decode(written(asker, "json", sql, rows=2))["cursor"]
    assert written(asker, "csv", sql, rows=2).decode().splitlines()[-1].startswith("# truncated, cursor: ")
    assert "#" not in written(asker, "csv", sql).decode()
    with pa.ipc.open_stream(written(asker, "arrow", sql, rows=2)) as reader:
        metadata = [batch.custom_metadata for batch in reader.iter_batches_with_custom_metadata()][-1]
    assert msgspec.json.decode(metadata[METADATA.encode()])["truncated"] is True
    file = pq.ParquetFile(io.BytesIO(written(asker, "parquet", sql, rows=2)))
    assert msgspec.json.decode(file.metadata.metadata[METADATA.encode()])["truncated"] is True


# A bucket


def test_a_lake_in_a_bucket_answers_alike(tmp_path: Path) -> None:
    with s3_store() as store:
        lake = store.lake()
        from tests.lake_rows import REWARDS

        for first in (0, 8):
            lake.write_partition(REWARDS, f"{first:012d}", [rewards(range(first, first + 8))])
        with asking(lake, folder=tmp_path) as found:
            assert found.rows("select slot_range, count(*) from solana.block_rewards where block_slot > 3 group by 1 order by 1") == [
                ("000000000000", 8),
                ("000000000008", 16),
            ]
            with pytest.raises(PermanentError):
                found.rows("select * from read_text('/etc/passwd')")
            assert "landlock" in found.engine.confinement.active or "landlock" in found.engine.confinement.refused
