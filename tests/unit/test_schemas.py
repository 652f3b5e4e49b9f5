"""The registry of tables keeps its own laws."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from blyan.schemas import CORPUS, LAMPORTS, NORMALISED, RANGE_COLUMN, TABLES, TOKENIZER, WIDE, Table

ALL = (*TABLES.values(), *CORPUS)
EVERY = pytest.mark.parametrize("table", ALL, ids=lambda table: table.name)


@EVERY
def test_a_table_is_named_described_and_ordered(table: Table) -> None:
    assert re.fullmatch(r"[a-z]+/[a-z_]+", table.name)
    assert (table.group, table.short_name) == tuple(table.name.split("/"))
    assert table.prose.endswith(".")
    assert len(set(table.column_names)) == len(table.columns)
    assert set(table.key) <= set(table.column_names)
    assert table.partition_by == (() if table == TOKENIZER else (RANGE_COLUMN,))
    assert not {RANGE_COLUMN} & set(table.column_names)


@EVERY
def test_every_column_has_prose_and_a_type_that_delta_has(table: Table) -> None:
    for column in table.columns:
        assert column.prose.endswith("."), column.name
        for kind in _inner(column.type):
            named = pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_boolean(kind)
            assert named or kind in (pa.int64(), pa.float32(), LAMPORTS, WIDE, _TIME), column.name


_TIME = pa.timestamp("us", tz="UTC")


def _inner(kind: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_list(kind):
        return _inner(kind.value_type)
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _inner(field.type)]
    return [kind]


@EVERY
def test_the_delta_schema_is_the_rows_and_then_the_partition(table: Table) -> None:
    assert table.delta_schema().names == [*table.column_names, *table.partition_by]
    assert table.arrow_schema() == pa.schema([field for field in table.delta_schema() if field.name != RANGE_COLUMN])
    assert not any(table.delta_schema().field(name).nullable for name in table.partition_by)


def test_the_same_name_means_the_same_type_everywhere() -> None:
    kinds: dict[str, set[str]] = {}
    for table in ALL:
        for column in table.columns:
            kinds.setdefault(column.name, set()).add(str(column.type))
    different = {name: found for name, found in kinds.items() if len(found) > 1}
    # `accounts` of a transaction say who signs and writes, those of an instruction only who they are, as in the public dataset.
    assert set(different) == {"accounts"}


@pytest.mark.parametrize("table", NORMALISED, ids=lambda table: table.name)
def test_every_row_names_its_block_and_its_time(table: Table) -> None:
    assert {"block_hash", "block_timestamp"} < set(table.column_names)
    assert table.key[0] in ("slot", "block_slot")


def test_amounts_are_exact() -> None:
    assert pa.types.is_decimal(LAMPORTS)
    assert (LAMPORTS.precision, LAMPORTS.scale) == (20, 0)
    assert 10**LAMPORTS.precision > 2**64
    for table in ALL:
        floats = {column.name for column in table.columns for kind in _inner(column.type) if pa.types.is_floating(kind)}
        assert floats <= {"vector"}, table.name
