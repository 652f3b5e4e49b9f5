"""What parent links prove, on chains drawn at random."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.errors import PermanentError
from blyan.solana.follower.links import Link, Links


def chain(*slots: int, name: str = "a", parent: Link | None = None) -> list[Link]:
    links: list[Link] = []
    for slot in slots:
        links.append(Link(slot, f"{name}{slot}", parent.slot if parent else 9, parent.block_hash if parent else "a9"))
        parent = links[-1]
    return links


def having(checkpoint: int, *here: Link) -> Links:
    links = Links(checkpoint)
    for link in here:
        links.add(link)
    return links


def test_a_final_block_proves_what_landed_and_what_was_skipped() -> None:
    links = having(10, *chain(10, 11, 14, 15))
    settled = links.settle(links.blocks[15], final=True)
    assert (settled.dead, settled.skipped, links.checkpoint) == ([], [(12, 14), (13, 14)], 16)


def test_the_checkpoint_waits_for_a_missing_block_and_asks_for_it() -> None:
    whole = chain(10, 11, 12, 13)
    links = having(10, whole[0], whole[3])
    assert links.settle(whole[3], final=True).skipped == []
    assert (links.checkpoint, links.wanted([])) == (10, [12])
    links.add(whole[2])
    links.settle(whole[3], final=True)
    assert (links.checkpoint, links.wanted([])) == (10, [11])
    links.add(whole[1])
    links.settle(whole[3], final=True)
    assert (links.checkpoint, links.missing) == (14, set())


def test_a_fork_dies_when_a_block_is_linked_past_it() -> None:
    whole = chain(10, 13, 14)
    links = having(10, *whole, *chain(11, 12, name="b", parent=whole[0]))
    assert links.settle(whole[2], final=False).dead == [11, 12]
    assert links.checkpoint == 10
    assert links.settle(whole[2], final=True).skipped == [(11, 13), (12, 13)]


def test_a_block_with_another_hash_than_its_child_names_is_fetched_again() -> None:
    whole = chain(10, 11, 12)
    links = having(10, whole[0], Link(11, "other", 10, "a10"), whole[2])
    settled = links.settle(whole[2], final=True)
    assert (settled.dead, links.checkpoint, links.wanted([])) == ([11], 10, [11])
    links.add(whole[1])
    links.settle(whole[2], final=True)
    assert links.checkpoint == 13


def test_an_anchor_that_is_here_under_another_hash_is_dead_and_wanted() -> None:
    whole = chain(10, 11)
    links = having(10, whole[0], Link(11, "other", 10, "a10"))
    assert links.settle(whole[1], final=True).dead == [11]
    assert (links.checkpoint, links.wanted([])) == (10, [11])


def test_a_node_that_contradicts_what_was_final_is_refused() -> None:
    links = having(10, *chain(10, 11))
    links.settle(links.blocks[11], final=True)
    stranger = Link(12, "x12", 11, "x11")
    links.add(stranger)
    with pytest.raises(PermanentError, match="was final"):
        links.settle(stranger, final=True)
    assert links.checkpoint == 12


def test_an_anchor_before_the_checkpoint_says_nothing() -> None:
    links = Links(10)
    assert links.settle(Link(7, "a7", 6, "a6"), final=True) == links.settle(Link(9, "a9", 8, "a8"), final=False)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 40))
def test_in_whatever_order_blocks_come_every_slot_ends_landed_or_skipped(seed: int, length: int) -> None:
    draw = random.Random(seed)
    slots = [slot for slot in range(10, 10 + length) if slot == 10 + length - 1 or draw.random() < 0.7]
    whole = chain(*slots)
    forks = [Link(slot, f"b{slot}", slots[0], whole[0].block_hash) for slot in range(11, 10 + length - 1) if draw.random() < 0.3]
    arriving = [*whole, *(fork for fork in forks if fork.slot not in slots)]
    draw.shuffle(arriving)
    links, landed, skipped = Links(10), set(), set()
    for link in arriving:
        if links.add(link):
            landed.add(link.slot)
        anchor = draw.choice(whole)
        settled = links.settle(anchor, final=draw.random() < 0.7)
        landed -= set(settled.dead)
        skipped |= {slot for slot, _ in settled.skipped}
        assert all(slot in landed or slot in skipped for slot in range(10, links.checkpoint))
    while links.checkpoint < 10 + length:
        missing = links.wanted(slots)
        landed |= {link.slot for link in whole if link.slot in missing and links.add(link)}
        settled = links.settle(whole[-1], final=True)
        landed -= set(settled.dead)
        skipped |= {slot for slot, _ in settled.skipped}
    assert landed == set(slots)
    assert skipped == set(range(10, 10 + length)) - set(slots)


def test_a_gap_is_what_no_link_passes_over() -> None:
    whole = chain(10, 11, 14, 15, 18)
    assert having(10, *whole).gaps() == []
    assert having(10, *whole[1:]).gaps() == [(10, 10)]
    assert having(10, whole[0], whole[3], whole[4]).gaps() == [(11, 14)]
    assert having(10, whole[0], whole[4]).gaps() == [(11, 15)]
    assert having(10, whole[0], Link(13, "c13", None, None)).gaps() == [(11, 12)]
    assert having(10).gaps() == having(0, Link(0, "genesis", 0, "none")).gaps() == []


@given(st.sets(st.integers(10, 40), min_size=1), st.data())
def test_gaps_are_the_slots_that_are_neither_here_nor_passed_over(slots: set[int], data: st.DataObject) -> None:
    here = data.draw(st.lists(st.sampled_from(chain(*sorted(slots))), unique=True))
    known = {slot for link in here for slot in range((9 if link.parent_slot is None else link.parent_slot) + 1, link.slot + 1)}
    expected = {slot for slot in range(10, max((link.slot for link in here), default=9)) if slot not in known}
    assert {slot for first, last in having(10, *here).gaps() for slot in range(first, last + 1)} == expected
