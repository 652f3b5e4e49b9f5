"""Where the lake, the landing and the records differ."""

from __future__ import annotations

from blyan.lake import Partition
from blyan.schemas import COMPLETENESS, RAW_BLOCKS
from blyan.solana import inventory
from blyan.solana.inventory import Inventory, find_drift
from blyan.solana.slots import Grid

GRID = Grid(0, 40, 10)
A, B = GRID.keys()[:2]
RAW, TABLE = RAW_BLOCKS.name, COMPLETENESS.name


def drift(lake, recorded=None, sealed=None, reported=None, busy=()):
    """Kinds of drift that there are, with their ranges, of a lake of two tables."""
    held = {table: {key: Partition(1, 1, digest, 1, 1) for key, digest in of_table.items()} for table, of_table in lake.items()}
    found = find_drift(
        Inventory(GRID, held), sealed=sealed or {}, recorded=lake if recorded is None else recorded, reported=reported or {}, busy=busy
    )
    return {kind: keys for kind, keys in found.items() if keys}


WHOLE = {RAW: {A: "1"}, TABLE: {A: "2"}}


def test_accounts_that_agree_have_no_drift() -> None:
    assert drift({RAW: {}, TABLE: {}}) == {}
    assert drift(WHOLE, sealed={A: "1"}, reported={A: "1", B: "of a range that left the landing"}) == {}


def test_records_that_differ_from_the_lake() -> None:
    assert drift(WHOLE, recorded={}) == {inventory.UNRECORDED: [A]}
    assert drift(WHOLE, recorded={RAW: {A: "1", B: "1"}, TABLE: {A: "2"}}) == {inventory.LOST: [B]}
    assert drift(WHOLE, recorded={RAW: {A: "1"}, TABLE: {A: "another"}}) == {inventory.OTHER_CONTENT: [A]}


def test_a_landing_that_differs_from_the_lake() -> None:
    assert drift(WHOLE, sealed={A: "another", B: "1"}, reported={A: "another", B: "1"}) == {inventory.NOT_FOLLOWED: [A, B]}
    assert drift(WHOLE, sealed={A: "1"}) == {inventory.UNREPORTED: [A]}


def test_a_lake_that_differs_from_itself_or_from_the_grid() -> None:
    assert drift({RAW: {A: "1"}, TABLE: {}}) == {inventory.PARTLY: [A]}
    assert drift({RAW: {"000000000005": "1"}, TABLE: {"000000000005": "1"}}) == {inventory.OFF_GRID: ["000000000005"]}


def test_a_range_that_is_being_made_is_left_out() -> None:
    assert drift({RAW: {A: "1"}, TABLE: {}}, recorded={}, busy={A}) == {}
