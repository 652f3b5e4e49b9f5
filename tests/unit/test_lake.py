"""The lake on one machine and in one process: digests, partitions, logs, blobs, errors."""

from __future__ import annotations

import datetime as dt
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lake_rows import CODED, EVERY_TYPE, LEDGER, REWARDS, rewards

from blyan import lake as lake_module
from blyan.digest import UnitDigest, digest_partition, digest_unit, in_key_order, split_units, unit_of
from blyan.errors import MissingObjectError, PermanentError, SettingError, StoreFullError, TransientError
from blyan.lake import STAGED_HOURS, Lake
from blyan.schemas import RAW_BLOCKS, TABLES
from blyan.settings import load_settings

KEY = "000000000000"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def files_of(lake: Lake) -> list[str]:
    """Every data file on disk, finished or not, whether the log names it or not."""
    return sorted(str(path.relative_to(lake.root)) for path in Path(lake.root).rglob("*") if path.is_file() and "_delta_log" not in path.parts)


# Digests

small = st.integers(-3, 3)
wide = st.integers(-(2**63), 2**63 - 1)
text = st.text(st.sampled_from("aé🦀\0\n"), max_size=3)
amounts = st.one_of(small, st.integers(0, 2**64 - 1), st.integers(-(10**20) + 1, 10**20 - 1)).map(Decimal)
moments = st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2200, 1, 1)).map(lambda moment: moment.replace(tzinfo=dt.UTC))
nested = st.fixed_dictionaries(
    {"name": st.none() | text, "amount": st.none() | amounts, "places": st.none() | st.lists(st.none() | small, max_size=3)}
)
row = st.fixed_dictionaries(
    {
        "slot": st.none() | st.integers(0, 15),
        "name": text,
        "flag": st.none() | st.booleans(),
        "number": st.none() | small | wide,
        "amount": st.none() | amounts,
        "moment": st.none() | moments,
        "raw": st.none() | st.binary(max_size=3),
        "share": st.none() | st.floats(allow_nan=False),
        "texts": st.none() | st.lists(st.none() | text, max_size=3),
        "nested": st.none() | st.lists(st.none() | nested, max_size=3),
        "note": st.none() | text,
    }
)
unit_rows = st.lists(row, min_size=1, max_size=8, unique_by=lambda row: (row["slot"], row["name"]))


def table_of(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=EVERY_TYPE.arrow_schema())


def digest_of(rows: pa.Table) -> UnitDigest:
    return digest_unit(EVERY_TYPE, in_key_order(EVERY_TYPE, rows, where="test"))


def coded(rows: pa.Table) -> pa.Table:
    """The same rows with every text dictionary-encoded, at any depth."""

    def code(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_string(kind):
            return CODED
        if pa.types.is_list(kind):
            return pa.list_(pa.field("element", code(kind.value_type)))
        if pa.types.is_struct(kind):
            return pa.struct([pa.field(child.name, code(child.type)) for child in kind])
        return kind

    return rows.cast(pa.schema([pa.field(field.name, code(field.type)) for field in rows.schema]))


@settings(max_examples=60, deadline=None)
@given(unit_rows, st.data())
def test_the_same_rows_have_the_same_digest_however_they_are_held(rows: list[dict[str, object]], data: st.DataObject) -> None:
    plain = table_of(rows)
    expected = digest_of(plain)
    assert digest_of(coded(plain)) == expected
    shuffled = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    front, back = table_of(shuffled[:cut]), table_of(shuffled[cut:])
    assert digest_of(pa.concat_tables([front, back])) == expected
    assert digest_of(pa.concat_tables([coded(front), coded(back)])) == expected
    padded = pa.concat_tables([table_of(rows[:1]), plain, table_of(rows[-1:])]).combine_chunks()
    assert digest_of(padded.slice(1, len(rows))) == expected
    assert digest_of(coded(padded).slice(1, len(rows))) == expected
    assert digest_of(plain.set_column(10, "note", pa.array(["another"] * len(rows)))) == expected


@settings(max_examples=150, deadline=None)
@given(unit_rows, row, st.data())
def test_any_single_change_gives_another_digest(rows: list[dict[str, object]], other: dict[str, object], data: st.DataObject) -> None:
    column = data.draw(st.sampled_from([name for name in rows[0] if name != "note"]))
    index = data.draw(st.integers(0, len(rows) - 1))
    changed = [dict(row) for row in rows]
    changed[index][column] = other[column]
    before, after = table_of(rows), table_of(changed)
    keys = {(row["slot"], row["name"]) for row in changed}
    if len(keys) < len(changed):
        return
    same = (
        in_key_order(EVERY_TYPE, before, where="").drop_columns("note").to_pylist()
        == in_key_order(EVERY_TYPE, after, where="").drop_columns("note").to_pylist()
    )
    # 0.0 equals -0.0 to Python, and their bits differ.
    if column != "share":
        assert (digest_of(before) == digest_of(after)) == same
    elif not same:
        assert digest_of(before) != digest_of(after)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"texts": ["ab", "c"]}, {"texts": ["a", "bc"]}),
        ({"texts": []}, {"texts": None}),
        ({"texts": [None]}, {"texts": [""]}),
        ({"number": 0}, {"number": None}),
        ({"amount": Decimal(2**64 - 1)}, {"amount": Decimal(-1)}),
        ({"nested": [None]}, {"nested": [{"name": None, "amount": None, "places": None}]}),
        ({"nested": [{"places": []}]}, {"nested": [{"places": None}]}),
        ({"raw": b""}, {"raw": None}),
    ],
)
def test_values_that_are_easily_confused_have_different_digests(left: dict[str, object], right: dict[str, object]) -> None:
    base = dict.fromkeys(EVERY_TYPE.column_names) | {"slot": 1, "name": "a"}
    assert digest_of(table_of([base | left])) != digest_of(table_of([base | right]))


def test_a_dictionary_with_repeated_unused_and_null_entries_means_its_values() -> None:
    values = ["b", None, "a", "b", None]
    twisted = pa.DictionaryArray.from_arrays(pa.array([3, 2, 1, 0, None], pa.int32()), pa.array(["b", "a", "a", "b"])).take(pa.array([0, 4, 1, 3, 4]))
    with_null = pa.DictionaryArray.from_arrays(pa.array([1, 0, 2, 1, 0], pa.int32()), pa.array([None, "b", "a"]))
    base = {name: [None] * 5 for name in EVERY_TYPE.column_names} | {"slot": [1] * 5, "name": list("abcde")}
    expected = digest_of(pa.table({**base, "texts": [[value] for value in values]}).cast(EVERY_TYPE.arrow_schema()))
    for array in (twisted, with_null):
        lists = pa.ListArray.from_arrays(pa.array(range(6), pa.int32()), array).cast(pa.list_(pa.field("element", array.type)))
        rows = table_of([dict.fromkeys(base) | {"slot": 1, "name": name} for name in "abcde"])
        assert digest_of(rows.set_column(8, "texts", lists)) == expected


def test_the_digest_never_changes_between_releases() -> None:
    """A change of the canonical form makes every stored digest false: raise FORM with it, and say so."""
    rows = rewards(range(16, 32))
    unit = digest_unit(REWARDS, in_key_order(REWARDS, rows, where=""))
    assert unit == UnitDigest(32, "12b08211b2776e3f3f7b97d0ca2904be3c3bca7fded78caa3da0879fb3b94b95")
    assert digest_partition(REWARDS, {unit_of(16): unit}) == "4f1e96318844353a7d6981e5df9e7da6d075d110b3fb4ee51c07e69ed8a40717"


def test_the_digest_of_a_partition_tells_tables_units_and_columns_apart() -> None:
    unit = UnitDigest(1, "00")
    base = digest_partition(REWARDS, {"a": unit})
    assert digest_partition(REWARDS, {"b": unit}) != base
    assert digest_partition(REWARDS, {"a": UnitDigest(2, "00")}) != base
    assert digest_partition(replace(REWARDS, name="solana/other"), {"a": unit}) != base
    assert digest_partition(replace(REWARDS, columns=REWARDS.columns[:-1]), {"a": unit}) != base
    assert digest_partition(REWARDS, {"a": unit, "b": UnitDigest(0, "01")}) == base


def test_rows_are_put_in_key_order_with_absent_keys_first_and_text_by_its_bytes() -> None:
    rows = [{"slot": slot, "name": name} for slot, name in [(2, "b"), (None, "z"), (2, "B"), (1, "é"), (1, "z")]]
    ordered = in_key_order(EVERY_TYPE, table_of(rows), where="").select(["slot", "name"]).to_pylist()
    assert [(row["slot"], row["name"]) for row in ordered] == [(None, "z"), (1, "z"), (1, "é"), (2, "B"), (2, "b")]


def test_two_rows_with_one_key_are_refused() -> None:
    with pytest.raises(PermanentError, match=r"two rows of test/every_type have the key .*'name': 'a'"):
        in_key_order(EVERY_TYPE, table_of([{"slot": 1, "name": "b"}, {"slot": 1, "name": "a"}, {"slot": 1, "name": "a"}]), where="")


def test_rows_are_cut_into_aligned_units() -> None:
    parts = [(unit, part.num_rows) for unit, part in split_units(REWARDS, rewards([0, 15, 16, 40]))]
    assert parts == [("000000000000", 4), ("000000000016", 2), ("000000000032", 2)]
    assert unit_of(None) == ""
    assert list(split_units(REWARDS, rewards([]))) == []


# Partitions


def test_what_is_written_is_read_back_exactly(lake: Lake) -> None:
    rows = rewards(range(100))
    commit = lake.write_partition(REWARDS, KEY, rows.to_batches(max_chunksize=7), metadata={"run": "1"})
    read = pa.Table.from_batches(lake.read(REWARDS, key=KEY))
    assert read.schema == REWARDS.arrow_schema()
    assert read.equals(rows.cast(REWARDS.arrow_schema()))
    assert (commit.rows, commit.changed, commit.files) == (200, True, 1)
    assert commit.version == lake.version(REWARDS)
    assert lake.digest(REWARDS, KEY) == commit.digest
    partition = lake.partitions(REWARDS)[KEY]
    assert (partition.rows, partition.bytes, partition.digest, partition.files) == (200, commit.bytes, commit.digest, 1)


@settings(max_examples=15, deadline=None)
@given(unit_rows)
def test_every_type_survives_storage_with_its_digest(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    ordered = in_key_order(EVERY_TYPE, table_of(rows), where="")
    commit = lake.write_partition(EVERY_TYPE, KEY, [coded(ordered)])
    assert pa.Table.from_batches(lake.read(EVERY_TYPE, key=KEY)).to_pylist() == ordered.to_pylist()
    assert lake.digest(EVERY_TYPE, KEY) == commit.digest


def test_writing_the_same_content_again_changes_nothing(lake: Lake) -> None:
    first = lake.write_partition(REWARDS, KEY, [rewards(range(40))])
    stored = files_of(lake)
    again = lake.write_partition(REWARDS, KEY, [rewards(range(24)), rewards(range(24, 40)).cast(REWARDS.arrow_schema())])
    assert not again.changed
    assert (again.version, again.digest, again.bytes) == (first.version, first.digest, first.bytes)
    assert files_of(lake) == stored
    other = lake.write_partition(REWARDS, KEY, [rewards(range(40), lamports=6)])
    assert other.changed
    assert other.digest != first.digest
    back = lake.write_partition(REWARDS, KEY, [rewards(range(40))])
    assert (back.changed, back.digest) == (True, first.digest)


def test_a_write_touches_its_own_partition_only(lake: Lake) -> None:
    first = lake.write_partition(REWARDS, "a", [rewards(range(10))])
    second = lake.write_partition(REWARDS, "b", [rewards(range(10, 30))])
    lake.write_partition(REWARDS, "b", [rewards(range(10, 20))])
    assert {key: partition.rows for key, partition in lake.partitions(REWARDS).items()} == {"a": 20, "b": 20}
    assert lake.digest(REWARDS, "a") == first.digest
    assert lake.partitions(REWARDS)["b"].digest != second.digest


def test_an_empty_partition_is_a_fact_and_can_be_filled_and_emptied(lake: Lake) -> None:
    empty = lake.write_partition(REWARDS, KEY, [])
    assert (empty.rows, empty.changed) == (0, True)
    assert lake.partitions(REWARDS)[KEY].rows == 0
    assert list(lake.read(REWARDS, key=KEY)) == []
    assert lake.digest(REWARDS, KEY) == empty.digest
    assert not lake.write_partition(REWARDS, KEY, [rewards([])]).changed
    assert lake.write_partition(REWARDS, KEY, [rewards([3])]).rows == 2
    assert lake.write_partition(REWARDS, KEY, []).digest == empty.digest


def test_several_writers_stage_one_partition_and_one_commit_shows_it(lake: Lake) -> None:
    whole = lake.write_partition(REWARDS, "whole", [rewards(range(64))])
    staged = []
    for first in (32, 0, 48, 16):
        with lake.stage(REWARDS, KEY) as stage:
            if first != 48:
                stage.write(unit_of(first), rewards(range(first, first + 16)))
        staged.append(pickle.loads(pickle.dumps(stage.close())))
    with lake.stage(REWARDS, KEY) as stage:
        stage.write(unit_of(48), rewards(range(48, 64)))
    assert KEY not in lake.partitions(REWARDS)
    commit = lake.commit(REWARDS, KEY, [*staged, stage.close()])
    assert (commit.digest, commit.rows, commit.files) == (whole.digest, 128, 4)
    assert len(files_of(lake)) == 5  # the writer that had nothing left no file
    assert [file.slot_min for file in lake.files(REWARDS, keys=[KEY])] == [0, 16, 32, 48]


def test_units_staged_twice_are_refused_and_nothing_stays(lake: Lake) -> None:
    staged = []
    for _ in range(2):
        with lake.stage(REWARDS, KEY) as stage:
            stage.write(unit_of(0), rewards(range(16)))
        staged.append(stage.close())
    with pytest.raises(PermanentError, match="unit 000000000000 was staged twice"):
        lake.commit(REWARDS, KEY, staged)
    assert files_of(lake) == []
    with pytest.raises(PermanentError, match="nothing was staged"):
        lake.commit(REWARDS, KEY, [])


def test_rows_without_a_slot_come_first_and_are_part_of_the_digest(lake: Lake) -> None:
    columns = {
        "block_slot": [None, None, 3, 40],
        "record": [1, 2, 0, 0],
        "state": ["rejected"] * 4,
        "proof": ["p"] * 4,
        "source": ["s"] * 4,
        "format": ["f"] * 4,
        "payload_bytes": [1] * 4,
        "payload": [b"x" * 9] * 4,
    }
    rows = pa.table({name: pa.array(columns.get(name, [None] * 4), RAW_BLOCKS.arrow_schema().field(name).type) for name in RAW_BLOCKS.column_names})
    commit = lake.write_partition(RAW_BLOCKS, KEY, [rows])
    assert lake.digest(RAW_BLOCKS, KEY) == commit.digest
    assert pa.Table.from_batches(lake.read(RAW_BLOCKS, key=KEY))["record"].to_pylist() == [1, 2, 0, 0]
    assert [batch["block_slot"].to_pylist() for batch in lake.read(RAW_BLOCKS, key=KEY, first_slot=0, last_slot=20)] == [[3]]
    without = lake.write_partition(RAW_BLOCKS, KEY, [rows.slice(2)])
    assert without.digest != commit.digest


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_table_of_the_schema_can_be_created_empty(lake: Lake, table: object) -> None:
    commit = lake.write_partition(table, KEY, [])
    assert lake.digest(table, KEY) == commit.digest


def test_readers_get_only_the_files_row_groups_and_columns_they_ask_for(lake: Lake) -> None:
    for first in range(0, 64, 16):
        lake.write_partition(REWARDS, unit_of(first), [rewards(range(first, first + 16))])
    assert [file.key for file in lake.files(REWARDS, first_slot=20, last_slot=40)] == [unit_of(16), unit_of(32)]
    assert [file.key for file in lake.files(REWARDS, keys=[unit_of(48), "absent"])] == [unit_of(48)]
    assert all(Path(file.path).stat().st_size == file.size for file in lake.files(REWARDS))
    table = pa.Table.from_batches(lake.read(REWARDS, columns=["index"], first_slot=30, last_slot=33))
    assert (table.column_names, table.num_rows) == (["index"], 8)
    slots = [slot for batch in lake.read(REWARDS, columns=["block_slot"], batch_rows=5) for slot in batch[0].to_pylist()]
    assert slots == sorted(slots)


def test_a_partition_larger_than_a_window_is_digested_in_pieces(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = lake.write_partition(REWARDS, KEY, [rewards([*range(100), *range(500, 700)])])
    monkeypatch.setattr(lake_module, "WINDOW_BYTES", 500)
    assert lake.digest(REWARDS, KEY) == commit.digest


# What is refused


def test_a_missing_or_unknown_column_is_named(lake: Lake) -> None:
    rows = rewards(range(3)).rename_columns(
        ["block_slot", "block_hash", "block_timestamp", "commission", "lamports", "post_balance", "key", "reward_type", "index"]
    )
    with pytest.raises(PermanentError, match=r"columns missing: \['pubkey'\], unknown: \['key'\]"):
        lake.write_partition(REWARDS, KEY, [rows])
    assert files_of(lake) == []


def test_a_null_where_none_may_be_is_named_with_its_unit(lake: Lake) -> None:
    rows = rewards(range(20)).set_column(6, "pubkey", pa.array([None, *["k"] * 39]))
    with pytest.raises(PermanentError, match=r"column pubkey is null in 1 rows.*unit 000000000016"), lake.stage(REWARDS, KEY) as stage:
        stage.write(unit_of(16), rows.slice(0, 16))
    with pytest.raises(PermanentError, match="column pubkey is null in 1 rows"):
        lake.write_partition(REWARDS, KEY, [rows.set_column(6, "pubkey", coded_with_a_null(40))])
    assert files_of(lake) == []
    assert not lake.exists(REWARDS)


def coded_with_a_null(rows: int) -> pa.Array:
    """Text whose one null is inside the dictionary, where Arrow does not count it."""
    return pa.DictionaryArray.from_arrays(pa.array([0] + [1] * (rows - 1), pa.int32()), pa.array([None, "k"]))


def test_types_convert_without_loss_or_not_at_all(lake: Lake) -> None:
    rows = rewards(range(3))
    narrow = rows.set_column(8, "index", rows["index"].cast(pa.int8())).set_column(7, "reward_type", rows["reward_type"].cast(pa.large_string()))
    assert lake.write_partition(REWARDS, "a", [narrow]).digest == lake.write_partition(REWARDS, "b", [rows]).digest
    with pytest.raises(PermanentError, match="column index does not convert to int64"):
        lake.write_partition(REWARDS, KEY, [rows.set_column(8, "index", pa.array([0.5] * 6))])
    with pytest.raises(PermanentError, match="column index does not convert to int64"):
        lake.write_partition(REWARDS, KEY, [rows.set_column(8, "index", pa.array([2**63] * 6, pa.uint64()))])


def test_rows_of_another_unit_and_units_out_of_order_are_refused(lake: Lake) -> None:
    with pytest.raises(PermanentError, match="slots 16 to 31 are not of this unit"), lake.stage(REWARDS, KEY) as stage:
        stage.write(unit_of(0), rewards(range(16, 32)))
    with lake.stage(REWARDS, KEY) as stage:
        stage.write(unit_of(16), rewards(range(16, 32)))
        with pytest.raises(PermanentError, match="comes after unit 000000000016"):
            stage.write(unit_of(0), rewards(range(16)))
    lake.discard(REWARDS, [stage.close()])
    assert files_of(lake) == []


def test_an_exception_while_staging_leaves_no_file(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blyan.stage.MIN_GROUP_ROWS", 1)
    monkeypatch.setattr("blyan.stage.MAX_FILE_BYTES", 1)
    found = []

    def write() -> None:
        with lake.stage(REWARDS, KEY) as stage:
            stage.write(unit_of(0), rewards(range(16)))
            found.extend(files_of(lake))
            monkeypatch.setattr("blyan.stage.MAX_FILE_BYTES", 1 << 20)
            stage.write(unit_of(16), rewards(range(16, 32)))
            found.extend(files_of(lake))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert len(found) == 3  # one finished, then that one and one unfinished
    assert files_of(lake) == []


def test_a_large_partition_becomes_several_files_of_the_same_content(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    one = lake.write_partition(REWARDS, "one", [rewards(range(100))])
    monkeypatch.setattr("blyan.stage.MIN_GROUP_ROWS", 50)
    monkeypatch.setattr("blyan.stage.MAX_FILE_BYTES", 3_000)
    many = lake.write_partition(REWARDS, "many", [rewards(range(50)), rewards(range(50, 100)).cast(REWARDS.arrow_schema())])
    assert (many.digest, one.files) == (one.digest, 1)
    assert many.files > 1
    assert lake.digest(REWARDS, "many") == one.digest


@pytest.mark.parametrize("key", ["", "../x", "a/b", "a b", ".hidden", "é"])
def test_a_key_that_is_no_name_is_refused(lake: Lake, key: str) -> None:
    with pytest.raises(PermanentError, match="cannot be a name"):
        lake.write_partition(REWARDS, key, [])


def test_a_file_staged_so_long_ago_that_vacuum_may_take_it_is_not_committed(lake: Lake) -> None:
    with lake.stage(REWARDS, KEY) as stage:
        stage.write(unit_of(0), rewards(range(16)))
    staged = stage.close()
    old = replace(staged, files=(replace(staged.files[0], staged_at=time.time() - STAGED_HOURS * 3600),))
    with pytest.raises(TransientError, match="stage it again"):
        lake.commit(REWARDS, KEY, [old])
    assert not lake.exists(REWARDS)


def test_a_staged_file_that_is_gone_is_not_committed(lake: Lake) -> None:
    with lake.stage(REWARDS, KEY) as stage:
        stage.write(unit_of(0), rewards(range(16)))
    (Path(lake.root) / REWARDS.name / stage.close().files[0].path).unlink()
    with pytest.raises(MissingObjectError, match="a staged file is not there"):
        lake.commit(REWARDS, KEY, [stage.close()])
    assert not lake.exists(REWARDS)


def test_a_table_with_other_columns_is_not_written_to(lake: Lake) -> None:
    lake.write_partition(REWARDS, KEY, [rewards(range(3))])
    older = replace(REWARDS, columns=REWARDS.columns[:-1], key=("block_slot",))
    with pytest.raises(PermanentError, match=r"other columns than blyan\.schemas declares"):
        lake.write_partition(older, KEY, [rewards(range(3), each=1).drop_columns("index")])
    assert len(files_of(lake)) == 1


def test_what_is_not_there_is_named(lake: Lake) -> None:
    assert (lake.exists(REWARDS), lake.version(REWARDS), lake.partitions(REWARDS), lake.files(REWARDS)) == (False, None, {}, [])
    with pytest.raises(MissingObjectError, match="there is no table solana/block_rewards"):
        next(lake.read(REWARDS))
    lake.write_partition(REWARDS, KEY, [rewards(range(3))])
    for call in (lambda: next(lake.read(REWARDS, key="other")), lambda: lake.digest(REWARDS, "other")):
        with pytest.raises(MissingObjectError, match="has no partition other"):
            call()
    with pytest.raises(PermanentError, match="there is no version 9"):
        lake.restore(REWARDS, 9)


def test_a_data_file_that_vanished_or_was_damaged_is_named(lake: Lake) -> None:
    commit = lake.write_partition(REWARDS, KEY, [rewards(range(30))])
    path = Path(lake.files(REWARDS)[0].path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + b"\0" * 20)
    with pytest.raises(PermanentError, match=r"the file is damaged.*part-"):
        lake.digest(REWARDS, KEY)
    path.unlink()
    with pytest.raises(MissingObjectError, match=r"a file that solana/block_rewards names is not in the store.*part-"):
        list(lake.read(REWARDS, key=KEY))
    path.write_bytes(whole)
    assert lake.digest(REWARDS, KEY) == commit.digest


def test_a_root_of_another_kind_is_a_wrong_setting() -> None:
    with pytest.raises(SettingError, match="no store for ftp://host"):
        Lake("ftp://host/lake")
    with pytest.raises(SettingError, match="BLYAN_FILE_OPTIONS"):
        Lake("s3://bucket/lake", file_options={"no_such_option": "1"}).has_blob("00" * 32)


def test_a_lake_is_made_from_settings_and_sent_to_other_processes(tmp_path: Path) -> None:
    lake = Lake.from_settings(load_settings(lake=str(tmp_path / "here")))
    lake.write_partition(REWARDS, KEY, [rewards(range(3))])
    assert pickle.loads(pickle.dumps(lake)).partitions(REWARDS) == lake.partitions(REWARDS)
    assert repr(lake) == f"Lake('{tmp_path}/here')"


def test_importing_the_lake_does_not_import_deltalake() -> None:
    """Its import costs 0.24 s, which a command line that only prints help need not pay."""
    code = "import sys, blyan.lake; raise SystemExit('deltalake' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# A full disk: a limit on file size needs no privileges, and fails writes in the same places

FULL = """
import resource, sys
from lake_rows import REWARDS, rewards
from blyan.errors import StoreFullError
from blyan.lake import Lake
lake = Lake(sys.argv[1])
if sys.argv[3] == "commit":
    with lake.stage(REWARDS, "0") as stage:
        stage.write("000000000000", rewards(range(16)))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    if sys.argv[3] == "commit":
        lake.commit(REWARDS, "0", [stage.close()])
    elif sys.argv[3] == "blob":
        lake.put_blob(bytes(100_000))
    else:
        lake.write_partition(REWARDS, "0", [rewards(range(500), lamports=9, pubkey=str(list(range(999))))])
except StoreFullError as error:
    print(error)
"""


@pytest.mark.parametrize(("limit", "what"), [(2_000, "partition"), (1_000, "commit"), (4_096, "blob")])
def test_a_full_store_says_so_and_keeps_what_it_had(lake: Lake, limit: int, what: str) -> None:
    commit = lake.write_partition(REWARDS, "0", [rewards(range(20))])
    before = files_of(lake)
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", FULL, lake.root, str(limit), what],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{tests}:{tests.parent}"},
    )
    assert "the store is full; nothing was committed" in done.stdout, done.stderr
    assert "Remedy: free space" in done.stdout
    assert files_of(lake) == before
    assert (lake.version(REWARDS), lake.digest(REWARDS, "0")) == (commit.version, commit.digest)
    assert lake.write_partition(REWARDS, "0", [rewards(range(30))]).changed


# Logs, blobs, facts


def ledger(heights: list[int], body: str = "body") -> pa.Table:
    return pa.table({"height": heights, "body": [f"{body} {height}" for height in heights]})


def test_a_log_takes_each_logical_key_once(lake: Lake) -> None:
    assert lake.append(LEDGER, ledger([0, 1, 2]), logical_key=["height"]).rows == 3
    again = lake.append(LEDGER, ledger([1, 2]), logical_key=["height"])
    assert (again.changed, again.rows) == (False, 0)
    assert lake.append(LEDGER, ledger([2, 3, 4]), logical_key=["height"]).rows == 2
    assert sorted(row["height"] for batch in lake.read(LEDGER) for row in batch.to_pylist()) == [0, 1, 2, 3, 4]
    with pytest.raises(PermanentError, match=r"another row with the key \(2,\)"):
        lake.append(LEDGER, ledger([2], "changed"), logical_key=["height"])
    with pytest.raises(PermanentError, match="repeat a logical key"):
        lake.append(LEDGER, ledger([7, 7]), logical_key=["height"])
    assert len(files_of(lake)) == 2


def test_logs_and_partitions_are_not_confused(lake: Lake) -> None:
    with pytest.raises(PermanentError, match=r"use Lake\.append"):
        lake.write_partition(LEDGER, KEY, [])
    with pytest.raises(PermanentError, match=r"use Lake\.write_partition"):
        lake.append(REWARDS, rewards([1]), logical_key=["block_slot"])


def test_a_blob_is_stored_once_and_verified_when_read(lake: Lake) -> None:
    digest = lake.put_blob(b"weights")
    assert lake.put_blob(b"weights") == digest
    assert files_of(lake) == [f"blobs/sha256/{digest[:2]}/{digest[2:4]}/{digest}"]
    assert (lake.get_blob(digest), lake.has_blob(digest), lake.has_blob("00" * 32)) == (b"weights", True, False)
    (Path(lake.root) / files_of(lake)[0]).write_bytes(b"WEIGHTS")
    with pytest.raises(PermanentError, match="have SHA-256"):
        lake.get_blob(digest)
    with pytest.raises(MissingObjectError):
        lake.get_blob("00" * 32)


def test_a_blob_cut_short_by_a_crash_is_written_again(lake: Lake) -> None:
    digest = lake.put_blob(b"weights")
    (Path(lake.root) / files_of(lake)[0]).write_bytes(b"wei")
    assert lake.put_blob(b"weights") == digest
    assert lake.get_blob(digest) == b"weights"


def test_the_first_value_of_a_pin_stands(lake: Lake) -> None:
    assert lake.pin("genesis_hash", "first") == "first"
    assert lake.pin("genesis_hash", "second") == "first"
    assert lake.pin("other", "third é\n") == "third é\n"
    with pytest.raises(PermanentError, match="cannot be a name"):
        lake.pin("../x", "y")


def test_errors_of_the_store_keep_their_family() -> None:
    assert issubclass(StoreFullError, TransientError)
    assert issubclass(MissingObjectError, PermanentError)
