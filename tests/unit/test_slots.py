"""Ranges of slots and the grid of ranges."""

from __future__ import annotations

import itertools
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.errors import SettingError, UnknownRangeError
from blyan.solana.slots import KEY_DIGITS, Grid, SlotRange, epoch_of

untimed = settings(deadline=None)

slot = st.integers(0, 10**11)
grids = st.builds(
    lambda first, width, ranges, rest: Grid(first, first + width * ranges + rest % width if ranges else first + 1 + rest % width, width),
    st.integers(0, 10**9),
    st.integers(1, 60_000),
    st.integers(0, 50),
    st.integers(0, 10**6),
)


@untimed
@given(slot, st.integers(0, 1_000))
def test_a_range_is_its_slots_in_order(first: int, more: int) -> None:
    slots = SlotRange(first, first + more)
    assert list(slots) == list(range(first, first + more + 1))
    assert len(slots) == more + 1
    assert first in slots
    assert first + more + 1 not in slots
    assert str(first) not in slots
    assert SlotRange.parse(str(slots)) == slots
    assert pickle.loads(pickle.dumps(slots)) == slots


@pytest.mark.parametrize(
    ("text", "slots"), [("5", SlotRange(5, 5)), ("0-99", SlotRange(0, 99)), ("110_130_000-110,130,099", SlotRange(110_130_000, 110_130_099))]
)
def test_a_range_is_read_from_text(text: str, slots: SlotRange) -> None:
    assert SlotRange.parse(text) == slots


@pytest.mark.parametrize("text", ["", "-", "a-b", "-5", "9-5", "1-2-3", "1.5"])
def test_text_that_is_no_range_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(UnknownRangeError, match="FIRST-LAST"):
        SlotRange.parse(text)


@untimed
@given(slot, slot)
def test_keys_sort_as_slots_do(one: int, other: int) -> None:
    keys = [SlotRange(first, first).key for first in (one, other)]
    assert {len(key) for key in keys} == {KEY_DIGITS}
    assert (keys[0] < keys[1]) == (one < other)


@untimed
@given(grids, st.data())
def test_every_slot_of_a_grid_is_in_exactly_one_range(grid: Grid, data: st.DataObject) -> None:
    ranges = [grid.range_of(key) for key in grid.keys()]  # noqa: SIM118
    assert len(ranges) == len(grid)
    assert ranges[0].first == grid.first_slot
    assert ranges[-1].last == grid.horizon_slot - 1
    assert all(left.last + 1 == right.first for left, right in itertools.pairwise(ranges))
    assert all(len(slots) == grid.slots_per_range for slots in ranges[:-1])
    one = data.draw(st.integers(grid.first_slot, grid.horizon_slot - 1))
    (covering,) = grid.covering(SlotRange(one, one))
    assert one in covering
    assert covering in ranges
    other = data.draw(st.integers(one, grid.horizon_slot - 1))
    assert grid.covering(SlotRange(one, other)) == [slots for slots in ranges if slots.last >= one and slots.first <= other]


@pytest.mark.parametrize("key", ["", "5", "000000000001", "000000001000", "0000000000000", "-00000000001", "00000000000x", "\u0660" * 12])
def test_a_key_that_is_not_on_the_grid_is_refused(key: str) -> None:
    with pytest.raises(UnknownRangeError, match="blyan ranges"):
        Grid(0, 1_000, 100).range_of(key)


def test_slots_outside_the_grid_are_refused_with_the_settings_that_bound_it() -> None:
    for slots in (SlotRange(0, 5), SlotRange(990, 1_000)):
        with pytest.raises(UnknownRangeError, match="BLYAN_FIRST_SLOT, BLYAN_HORIZON_SLOT"):
            Grid(1, 1_000, 100).covering(slots)


@pytest.mark.parametrize(
    ("bounds", "name"), [((0, 10, 0), "BLYAN_SLOTS_PER_RANGE"), ((5, 5, 1), "BLYAN_HORIZON_SLOT"), ((-1, 5, 1), "BLYAN_FIRST_SLOT")]
)
def test_an_empty_grid_names_the_setting(bounds: tuple[int, int, int], name: str) -> None:
    with pytest.raises(SettingError, match=name):
        Grid(*bounds)


def test_epochs_of_mainnet() -> None:
    # Slot 64800000 began epoch 150 (recorded rewards are of 64800004).
    assert (epoch_of(0), epoch_of(431_999), epoch_of(432_000), epoch_of(64_800_004)) == (0, 0, 1, 150)
