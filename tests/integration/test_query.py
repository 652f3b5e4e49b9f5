"""The query engine over a lake in a folder and in a bucket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blyan.errors import MissingObjectError, PermanentError
from blyan.lake import Lake
from blyan.query.engine import connect, mentioned, query_errors
from blyan.schemas import BLOCKS, COMPLETENESS, TRANSACTIONS
from blyan.settings import load_settings
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from tests.object_stores import local_store, s3_store


@pytest.fixture(scope="module", params=["folder", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """Two ranges of four slots, the second compacted."""
    settings = load_settings(horizon_slot=8, slots_per_range=4, embedded_transactions_per_slot=2)
    with s3_store() if request.param == "s3" else local_store(tmp_path_factory.mktemp("lake")) as store:
        made = store.lake()
        for slots in (SlotRange(0, 3), SlotRange(4, 7)):
            land(made, open_source(settings), slots)
            normalise_range(made, slots)
        made.compact(BLOCKS, "000000000004")
        yield made


def test_every_row_is_there_with_the_key_of_its_range(lake: Lake) -> None:
    expected = [(key, part.rows) for key, part in lake.partitions(BLOCKS).items()]

    with connect(lake) as connection:
        assert connection.execute("select slot_range, count(*) from solana.blocks group by all order by all").fetchall() == expected


def test_a_filter_on_the_range_and_on_the_slot_finds_the_same_rows(lake: Lake) -> None:
    with connect(lake, tables=[TRANSACTIONS]) as connection:
        by_range = connection.execute("select signature from solana.transactions where slot_range = '000000000004' order by all").fetchall()
        by_slot = connection.execute("select signature from solana.transactions where block_slot >= 4 order by all").fetchall()

    assert by_range == by_slot
    assert by_range


def test_the_status_of_a_slot_that_nobody_follows_is_final(lake: Lake) -> None:
    query = "select state, commitment, slot_range, count(*) from solana.slot_status where slot >= 4 group by all"
    with connect(lake, tables=mentioned(query)) as connection:
        assert connection.execute(query).fetchall() == [("landed", "finalized", "000000000004", 4)]


def test_lamports_stay_exact(lake: Lake) -> None:
    with connect(lake, tables=[TRANSACTIONS]) as connection:
        ((kind,),) = connection.execute("select distinct typeof(fee) from solana.transactions").fetchall()

    assert kind == "DECIMAL(20,0)"


def test_only_files_of_the_slots_asked_for_are_opened(lake: Lake) -> None:
    with connect(lake, slots=SlotRange(0, 1)) as connection:
        assert connection.execute("select distinct slot_range from solana.blocks").fetchall() == [("000000000000",)]


def test_slots_that_no_file_holds_give_no_rows_and_no_error(lake: Lake) -> None:
    with connect(lake, slots=SlotRange(90, 99)) as connection:
        assert connection.execute("select * from solana.blocks where slot between 90 and 99").fetchall() == []


def test_a_missing_table_is_named_with_those_that_there_are(lake: Lake) -> None:
    with (
        connect(lake, tables=[COMPLETENESS]) as connection,
        pytest.raises(MissingObjectError, match=r"the lake has solana\.completeness"),
        query_errors(connection),
    ):
        connection.execute("select * from solana.blocks")


def test_a_wrong_query_is_a_permanent_error(lake: Lake) -> None:
    with connect(lake, tables=[]) as connection, pytest.raises(PermanentError, match="syntax error"), query_errors(connection):
        connection.execute("selec")


def test_the_tables_of_a_query_are_those_it_names_or_all() -> None:
    assert BLOCKS in mentioned("select * from solana.blocks")
    assert TRANSACTIONS not in mentioned("select * from solana.quarantine")
    assert {BLOCKS, TRANSACTIONS} < set(mentioned("show all tables"))
