"""Pages of records stay one snapshot while the lake moves; the index finds what a scan finds, and opens few files."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from blyan.lake import Lake
from blyan.query import lookup
from blyan.query.lookup import ACCOUNT, DIMENSIONS, HOLDER, MINT, PARTY, PROGRAM, SIGNATURE, Dimension, Tail
from blyan.query.records import CursorError, Match, Opened, Question, Records, SnapshotGoneError, Stop, StoppedError
from blyan.schemas import BLOCK_REWARDS, BLOCKS, TRANSACTIONS, Table
from blyan.settings import load_settings
from blyan.solana.ingest import normalise_range
from blyan.solana.landing import Landing, land_sealed
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from tests.http_service import made_lake
from tests.lake_rows import rewards
from tests.object_stores import s3_store


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "lake"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "lake"
    made_lake(folder)
    return folder


def slots_of(records: Records, question: Question, *, rows: int = 3, between: Any = lambda: None) -> list[int]:
    """The slots of all pages; `between` happens after the first."""
    found: list[int] = []
    cursor = None
    for number in itertools.count():
        page = records.page(question, rows=rows, cursor=cursor)
        found += page.rows[question.table.key[0]].to_pylist()
        cursor = page.next
        if cursor is None:
            return found
        if number == 0:
            between()
    raise AssertionError


# One snapshot


def test_slots_that_become_final_and_move_are_paged_on(folder: Path) -> None:
    settings = load_settings(lake=str(folder), horizon_slot=100, slots_per_range=20, embedded_transactions_per_slot=6)
    lake, source = Lake.from_settings(settings), open_source(settings)
    records, question = Records(lake), Question(BLOCKS)
    before = slots_of(records, question)

    def finish() -> None:
        landing = Landing(lake, settings.grid)
        landing.advance(list(source.read(SlotRange(50, 59))), processed=60)
        landing.advance([], checkpoint=60, finalized=59)
        landing.seal()
        assert land_sealed(lake, SlotRange(40, 59))
        normalise_range(lake, SlotRange(40, 59))
        assert landing.hand_over() == ["000000000040"]
        landing.close()

    assert slots_of(records, question, between=finish) == before


@pytest.mark.parametrize("descending", [False, True])
def test_slots_that_land_between_two_pages_are_on_neither(folder: Path, descending: bool) -> None:
    settings = load_settings(lake=str(folder), horizon_slot=100, slots_per_range=20, embedded_transactions_per_slot=6)
    lake = Lake.from_settings(settings)
    records, question = Records(lake), Question(BLOCKS, descending=descending)
    before = slots_of(records, question)

    def more() -> None:
        landing = Landing(lake, settings.grid)
        landing.advance(list(open_source(settings).read(SlotRange(50, 55))), processed=57)
        landing.close()

    assert slots_of(records, question, between=more) == before
    assert len(slots_of(records, question)) > len(before), "the slots did land"


def test_a_range_that_moves_into_the_lake_between_two_pages_is_read_once(folder: Path) -> None:
    settings = load_settings(lake=str(folder), horizon_slot=100, slots_per_range=20, embedded_transactions_per_slot=6)
    lake = Lake.from_settings(settings)
    landing = Landing(lake, settings.grid)
    landing.advance(list(open_source(settings).read(SlotRange(50, 59))), processed=60)
    landing.advance([], checkpoint=60, finalized=59)
    records, question = Records(lake), Question(BLOCKS)
    before = slots_of(records, question)

    def hand_over() -> None:
        landing.seal()
        assert land_sealed(lake, SlotRange(40, 59))
        normalise_range(lake, SlotRange(40, 59))
        assert landing.hand_over() == ["000000000040"]

    assert slots_of(records, question, between=hand_over) == before
    landing.close()


def test_a_fork_that_dies_between_two_pages_is_said(folder: Path) -> None:
    settings = load_settings(lake=str(folder), horizon_slot=100, slots_per_range=20, embedded_transactions_per_slot=6)
    lake = Lake.from_settings(settings)
    records = Records(lake)

    def fork() -> None:
        landing = Landing(lake, settings.grid)
        landing.advance([], removed=[48])
        landing.close()

    with pytest.raises(SnapshotGoneError, match="have become others"):
        slots_of(records, Question(BLOCKS), between=fork)


def test_final_slots_are_paged_on_while_the_tip_moves(folder: Path) -> None:
    """The control of the test above: where only what was not final stays as it is, nothing is refused."""
    settings = load_settings(lake=str(folder), horizon_slot=100, slots_per_range=20, embedded_transactions_per_slot=6)
    lake = Lake.from_settings(settings)

    def settle() -> None:
        landing = Landing(lake, settings.grid)
        landing.advance([], checkpoint=50, finalized=49, processed=60)
        landing.close()

    assert len(slots_of(Records(lake), Question(BLOCKS), between=settle)) == len(slots_of(Records(lake), Question(BLOCKS)))


def test_a_range_that_is_written_again_is_read_as_it_was(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write_partition(BLOCK_REWARDS, "000000000000", [rewards(range(10), each=1)])
    records, question = Records(lake), Question(BLOCK_REWARDS)

    def again() -> None:
        lake.write_partition(BLOCK_REWARDS, "000000000000", [rewards(range(5), each=1)])
        lake.write_partition(BLOCK_REWARDS, "000000000100", [rewards(range(100, 105), each=1)])

    assert slots_of(records, question, between=again) == list(range(10))
    assert slots_of(records, question) == [*range(5), *range(100, 105)]


def test_a_version_that_was_vacuumed_is_said_to_be_gone_or_to_try_again(tmp_path: Path) -> None:
    from blyan.errors import TransientError

    lake = Lake(str(tmp_path))
    lake.write_partition(BLOCK_REWARDS, "000000000000", [rewards(range(10), each=1)])
    records = Records(lake)

    def vacuum() -> None:
        lake.write_partition(BLOCK_REWARDS, "000000000000", [rewards(range(5), each=1)])
        assert lake.vacuum(BLOCK_REWARDS, retention_hours=0)

    with pytest.raises(TransientError, match="a file is gone"):
        slots_of(records, Question(BLOCK_REWARDS), between=vacuum)


def test_a_stopped_question_says_so(folder: Path) -> None:
    stop = Stop()
    stop()
    with pytest.raises(StoppedError):
        Records(Lake(str(folder))).page(Question(BLOCKS), rows=1, stop=stop)


def test_a_cursor_cannot_make_other_sql(folder: Path) -> None:
    import base64

    import msgspec

    records = Records(Lake(str(folder)))
    cursor = records.page(Question(BLOCKS), rows=1).next
    assert cursor
    fields = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    for place, value in ((1, ["1; drop"]), (1, [1, 2]), (1, [1e300]), (3, "x"), (4, [1]), (5, None), (2, "1")):
        changed = [value if at == place else field for at, field in enumerate(fields)]
        text = base64.urlsafe_b64encode(msgspec.json.encode(changed)).decode().rstrip("=")
        with pytest.raises(CursorError):
            records.page(Question(BLOCKS), rows=1, cursor=text)


# The index


def values_of(records: Records, dimension: Dimension) -> list[str]:
    """Some values of a dimension, and one that nobody has."""
    rows = records.page(Question(dimension.table), rows=10_000).rows.to_pylist()
    match dimension.name:
        case "signature":
            found = {row["signature"] for row in rows}
        case "account":
            found = {each["pubkey"] for row in rows for each in row["accounts"]}
        case "program":
            found = {row["program_id"] for row in rows}
        case "mint":
            found = {row["mint"] for row in rows}
        case "party":
            found = {row[name] for row in rows for name in ("source", "destination", "authority")}
        case _:
            found = {row["account"] for row in rows}
    return [*sorted(found - {None})[:: max(1, len(found) // 8)], "nobody"]


CONDITIONS = {
    "signature": "signature = ?",
    "account": "list_contains(list_transform(accounts, lambda each: each.pubkey), ?)",
    "program": "program_id = ?",
    "mint": "mint = ?",
    "party": "? in (source, destination, authority)",
    "holder": "account = ?",
}


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda each: each.name)
def test_the_index_finds_what_a_scan_finds(folder: Path, dimension: Dimension) -> None:
    lake = Lake(str(folder))
    list(lookup.update(lake, [dimension]))
    records = Records(lake)
    for value, descending in itertools.product(values_of(records, dimension), (False, True)):
        match = (Match(CONDITIONS[dimension.name], (value,)),)
        opened = Opened()
        found = records.page(Question(dimension.table, match, (dimension, value), descending=descending), rows=10_000, opened=opened)
        scanned = records.page(Question(dimension.table, match, descending=descending), rows=10_000)
        assert found.rows.equals(scanned.rows)
        assert opened.runs, "the index was asked"


def many_ranges(lake: Lake, count: int) -> None:
    for start in range(0, 10 * count, 10):
        lake.write_partition(BLOCK_REWARDS, f"{start:012d}", [rewards(range(start, start + 10), each=1, pubkey=f"p{start}")])


PAID = Dimension("paid", BLOCK_REWARDS, "pubkey")


def paid(pubkey: str) -> Question:
    return Question(BLOCK_REWARDS, (Match("pubkey = ?", (pubkey,)),), (PAID, pubkey))


def test_a_lookup_opens_a_few_files_however_many_there_are(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    many_ranges(lake, 40)
    (done,) = lookup.update(lake, [PAID])
    records = Records(lake)

    indexed, scanned = Opened(), Opened()
    page = records.page(paid("p370 0"), rows=100, opened=indexed)
    without = records.page(Question(BLOCK_REWARDS, paid("p370 0").matches), rows=100, opened=scanned)

    assert page.rows["block_slot"].to_pylist() == list(range(370, 380)) == without.rows["block_slot"].to_pylist()
    assert done.ranges == 40
    assert done.runs == sum(map(int, np.base_repr(40, lookup.MERGE)))
    assert (indexed.files, indexed.runs) == (1, done.runs)
    assert scanned.files == 40


def test_a_lookup_reads_one_row_group_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "GROUP_ROWS", 64)
    lake = Lake(str(tmp_path))
    lake.write_partition(BLOCK_REWARDS, "000000000000", [rewards(range(slot, slot + 1), each=8, pubkey=f"p{slot}") for slot in range(500)])
    list(lookup.update(lake, [PAID]))
    (run,) = lookup.read_manifest(lake, PAID).runs

    import duckdb

    path = lake.store.path(lookup.path_of(PAID, run))
    groups = duckdb.sql(
        f"select row_group_id, stats_min_value::ubigint low, stats_max_value::ubigint high from parquet_metadata('{path}') where path_in_schema = 'key'"
    )
    bounds = groups.fetchall()
    assert len(bounds) == 4_000 // 64 + 1
    held = [number for number, low, high in bounds if low <= lookup.key_of("p77 3") <= high]
    assert len(held) == 1


def test_a_lookup_in_the_tail_opens_the_segments_that_have_it(tmp_path: Path) -> None:
    settings = made_lake(tmp_path, landed=False)
    lake, source = Lake.from_settings(settings), open_source(settings)
    landing = Landing(lake, settings.grid)
    landing.open(40)
    for slot in range(40, 57):
        landing.advance(list(source.read(SlotRange(slot, slot))), processed=slot, checkpoint=40)
    records = Records(lake)
    rows = records.page(Question(TRANSACTIONS, first_slot=40), rows=1_000).rows
    wanted = rows.slice(rows.num_rows // 2, 1).to_pylist()[0]
    match = (Match("signature = ?", (wanted["signature"],)),)
    question = Question(TRANSACTIONS, match, (SIGNATURE, wanted["signature"]), descending=True, alone=True)

    for _ in range(2):
        opened, scanned = Opened(), Opened()
        found = records.page(question, rows=1, opened=opened).rows
        assert found.equals(records.page(Question(TRANSACTIONS, match, descending=True), rows=1, opened=scanned).rows)
        assert found["block_slot"].to_pylist() == [wanted["block_slot"]]
        assert opened.files == 1
        assert scanned.files > 10

    # What leaves the head is let go of once there is something new, and what came is found.
    held = records._tail.files
    landing.advance(list(source.read(SlotRange(57, 59))), processed=59, checkpoint=58)
    while landing.merge():
        pass
    assert records.page(question, rows=1).rows.equals(found)
    assert records._tail.files < held
    landing.close()


def test_a_tail_that_is_not_kept_is_read(folder: Path) -> None:
    lake = Lake(str(folder))
    records = Records(lake)
    records._tail = Tail(lake, most=0)
    for value in values_of(records, ACCOUNT):
        match = (Match(CONDITIONS["account"], (value,)),)
        found = records.page(Question(TRANSACTIONS, match, (ACCOUNT, value)), rows=10_000)
        assert found.rows.equals(records.page(Question(TRANSACTIONS, match), rows=10_000).rows)
    assert all(not len(keys) for keys, _ in records._tail._kept.values())


def test_an_update_indexes_only_what_is_new(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    many_ranges(lake, 3)
    assert [done.ranges for done in lookup.update(lake, [PAID])] == [3]
    assert [done.ranges for done in lookup.update(lake, [PAID])] == [0]
    lake.write_partition(BLOCK_REWARDS, "000000000010", [rewards(range(10, 20), each=1, pubkey="other")])
    assert [done.ranges for done in lookup.update(lake, [PAID])] == [1]
    assert Records(lake).page(paid("other 0"), rows=100).rows.num_rows == 10
    assert Records(lake).page(paid("p10 0"), rows=100).rows.num_rows == 0


def test_an_index_that_is_behind_or_damaged_or_gone_costs_no_row(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    many_ranges(lake, 3)
    list(lookup.update(lake, [PAID]))
    lake.write_partition(BLOCK_REWARDS, "000000000020", [rewards(range(20, 30), each=1, pubkey="p0")])
    wanted = [*range(10), *range(20, 30)]

    def found() -> list[int]:
        slots: list[int] = Records(lake).page(paid("p0 0"), rows=100).rows["block_slot"].to_pylist()
        return slots

    assert found() == wanted, "a range that was written again"
    runs = sorted((tmp_path / lookup.FOLDER / "paid").glob("*.parquet"))
    runs[0].write_bytes(b"no parquet")
    assert found() == wanted, "a damaged run"
    runs[0].unlink()
    assert found() == wanted, "a run that is gone"
    (tmp_path / lookup.FOLDER / "paid.json").write_bytes(b"{")
    assert found() == wanted, "a damaged manifest"
    assert [done.ranges for done in lookup.update(lake, [PAID])] == [3]
    assert found() == wanted


def test_files_that_no_manifest_names_are_swept_after_a_while(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    many_ranges(lake, 2 * lookup.MERGE)
    list(lookup.update(lake, [PAID]))
    folder = tmp_path / lookup.FOLDER / "paid"
    named = {f"{run.name}.parquet" for run in lookup.read_manifest(lake, PAID).runs}
    assert named < {path.name for path in folder.iterdir()}, "what was merged stays for readers"
    import time

    list(lookup.update(lake, [PAID], now=lambda: time.time() + 2 * lookup.ORPHAN_S))
    assert {path.name for path in folder.iterdir()} == named


def test_a_wrong_index_is_noticed_by_these_tests(tmp_path: Path) -> None:
    """The control: an index that claims a range and lacks its rows does lose them, so the tests above would fail."""
    lake = Lake(str(tmp_path))
    many_ranges(lake, 1)
    (digest,) = {file.digest or "" for file in lake.files(BLOCK_REWARDS)}
    lake.write_partition(BLOCK_REWARDS, "000000000010", [rewards(range(10, 20), each=1, pubkey="x")])
    files = [file for file in lake.files(BLOCK_REWARDS) if file.key == "000000000010"]
    run = lookup._indexed(lake, PAID, "000000000000", digest, files)
    import msgspec

    lake.store.put(lookup._manifest(PAID), msgspec.json.encode(lookup.Manifest([run])))
    assert Records(lake).page(paid("p0 0"), rows=100).rows.num_rows == 0


def test_a_bucket_is_looked_up_in_too() -> None:
    with s3_store() as store:
        lake = store.lake()
        many_ranges(lake, 3)
        list(lookup.update(lake, [PAID]))
        records, opened = Records(lake), Opened()
        assert records.page(paid("p10 0"), rows=4, opened=opened).rows["block_slot"].to_pylist() == [10, 11, 12, 13]
        assert (opened.files, opened.runs) == (1, 3)
        assert slots_of(records, paid("p10 0")) == list(range(10, 20))


@hypothesis_settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_pages_of_any_size_are_the_rows(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Against brute force: random ranges, an index of some of them, random windows, orders and sizes of pages."""
    lake = Lake(str(tmp_path_factory.mktemp("any")))
    starts = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True))
    names = ["a", "b"]
    expected = []
    for position, start in enumerate(starts):
        chosen = data.draw(st.lists(st.integers(start * 10, start * 10 + 9), min_size=1, max_size=6, unique=True).map(sorted))
        name = names[position % 2]
        table = rewards(chosen, each=2, pubkey=name)
        lake.write_partition(BLOCK_REWARDS, f"{start * 10:012d}", [table])
        expected += [(slot, index) for slot in chosen for index in (0, 1) if index == 0 and name == "a"]
        if data.draw(st.booleans()):
            list(lookup.update(lake, [PAID]))
    first, last = sorted(data.draw(st.tuples(st.integers(0, 60), st.integers(0, 60))))
    descending = data.draw(st.booleans())
    question = Question(BLOCK_REWARDS, (Match("pubkey = ?", ("a 0",)),), (PAID, "a 0"), first, last, descending=descending)

    found = slots_of(Records(lake), question, rows=data.draw(st.integers(1, 5)))

    assert found == sorted((slot for slot, _ in expected if first <= slot <= last), reverse=descending)


def test_dimensions_are_of_tables_that_start_with_a_slot() -> None:
    for dimension in (SIGNATURE, ACCOUNT, PROGRAM, MINT, PARTY, HOLDER):
        assert isinstance(dimension.table, Table)
        assert dimension.table.key[0] == "block_slot"
    assert SIGNATURE.table == TRANSACTIONS
