"""`solana.slot_status`: how sure each slot is, while it is followed and after."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path

import pytest

from blyan import store
from blyan.errors import MissingObjectError
from blyan.lake import Lake
from blyan.query.engine import connect, mentioned, query_errors
from blyan.settings import load_settings
from blyan.solana.commitment import Commitment
from blyan.solana.follower.follow import Follower
from blyan.solana.follower.node import RpcNode, Tips
from blyan.solana.follower.stream import WebSocketSlots
from blyan.solana.ingest import land, normalise_range
from blyan.solana.jsonrpc import RpcClient
from blyan.solana.landing import Landing, land_sealed, read_head
from blyan.solana.localnet.ledger import Fork
from blyan.solana.localnet.server import Options, running
from blyan.solana.slots import Grid, SlotRange
from blyan.solana.sources import open_source
from tests.landed import land_slots

WAIT_S = 60.0
GRID = Grid(0, 100_000, 16)
LEVELS = {commitment.label: commitment for commitment in Commitment}


@pytest.fixture(autouse=True)
def _without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing crashes here: fsync would only cost time.
    monkeypatch.setattr(store, "_fsync", lambda _: None)


Seen = tuple[str, str | None, str]
"""State, block hash, commitment."""


def status(lake: Lake, slots: SlotRange | None = None) -> dict[int, Seen]:
    query = "select slot, state, block_hash, commitment from solana.slot_status order by slot"
    with connect(lake, tables=mentioned(query), slots=slots) as connection, query_errors(connection):
        rows = connection.execute(query).fetchall()
    found = {row[0]: row[1:] for row in rows}
    assert len(found) == len(rows), "a slot is there twice"
    return found


def falls(seen: list[dict[int, Seen]], chain: dict[int, str]) -> list[tuple[int, Seen, Seen | None]]:
    """Slots whose status went down though what was known of them is of the chain."""
    found = []
    for before, after in pairwise(seen):
        for slot, was in before.items():
            now = after.get(slot)
            if now is not None and LEVELS[now[2]] >= LEVELS[was[2]]:
                continue
            if slot in chain and was[1] in (None, chain[slot]):
                found.append((slot, was, now))
    return found


def test_status_only_goes_up_or_a_fork_dies_and_ends_where_the_node_is(tmp_path: Path) -> None:
    lake, seen, tips = Lake(str(tmp_path / "lake")), [], []

    async def follow() -> None:
        client = RpcClient(localnet.http_url)
        node = RpcNode(client)
        follower, stop = Follower(node, WebSocketSlots(localnet.ws_url), lake, GRID), asyncio.Event()
        task = asyncio.create_task(follower.run(stop))
        deadline = time.monotonic() + WAIT_S

        async def until_settled() -> Tips:
            while time.monotonic() < deadline:
                seen.append(status(lake) if read_head(lake) else {})
                head, told = read_head(lake), await node.tips()
                if head and (head.processed, head.confirmed, head.checkpoint - 1) == (told.processed, told.confirmed, told.finalized):
                    # Once more: the head may be newer than what was seen before it.
                    seen.append(status(lake))
                    return told
                await asyncio.sleep(0.05)
            raise AssertionError(f"not within {WAIT_S:g} s; the head is {read_head(lake)}")

        await until_settled()
        for _ in range(28):
            await asyncio.to_thread(localnet.advance, 1)
            await asyncio.sleep(0.03)
            seen.append(status(lake))
        tips.append(await until_settled())
        stop.set()
        await task
        await client.close()

    with running(Options(slot_ms=None, transactions_per_slot=2, seed=4, finality_depth=5)) as localnet:
        localnet.plan.skip_share = 0.1
        localnet.plan.add(Fork(9, 2, replaced=True), Fork(15, 3), Fork(22, 1, replaced=True))
        localnet.advance(3)
        asyncio.run(follow())
        chain = {block.slot: block.hash for block in localnet.ledger.blocks(0, localnet.ledger.next_slot)}

    last = seen[-1]
    assert falls(seen, chain) == []
    reached = {name: max(slot for slot, row in last.items() if LEVELS[row[2]] >= level) for name, level in LEVELS.items()}
    assert (reached["processed"], reached["confirmed"], reached["finalized"]) == (tips[0].processed, tips[0].confirmed, tips[0].finalized)
    assert {slot: row[1] for slot, row in last.items() if row[0] == "landed"} == {slot: chain[slot] for slot in chain if slot <= tips[0].confirmed}
    for now in seen:
        assert all(row[1] == chain.get(slot) for slot, row in now.items() if row[2] == "finalized")
    # Every kind was seen, or nothing was shown.
    assert {row[::2] for now in seen for row in now.values()} == {
        ("announced", "processed"), ("landed", "confirmed"), ("landed", "finalized"), ("skipped", "finalized"),
    }  # fmt: skip


def test_a_fall_would_be_found() -> None:
    chain = {5: "five", 6: "six"}
    confirmed, processed = ("landed", "five", "confirmed"), ("announced", None, "processed")
    assert falls([{5: confirmed}, {5: processed}], chain) == [(5, confirmed, processed)]
    assert falls([{6: processed}, {}], chain) == [(6, processed, None)]
    assert falls([{5: ("landed", "dead", "confirmed"), 7: processed}, {}, {5: processed}, {5: confirmed}], chain) == []


def test_announced_slots_are_there_before_anything_landed(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    landing = Landing(lake, GRID)
    landing.open(0)
    landing.advance([], processed=3, announced=[(2, "000000000000"), (3, "000000000000")])
    announced = ("announced", None, "processed")
    assert status(lake) == {2: announced, 3: announced}
    assert status(lake, SlotRange(3, 9)) == {3: announced}


def test_a_lake_that_was_never_followed_is_final(tmp_path: Path) -> None:
    lake, settings = Lake(str(tmp_path)), load_settings(horizon_slot=8, slots_per_range=4, embedded_transactions_per_slot=2)
    with pytest.raises(MissingObjectError, match="slot_status"):
        status(lake)
    land(lake, open_source(settings), SlotRange(0, 3))
    normalise_range(lake, SlotRange(0, 3))
    assert {row[2] for row in status(lake).values()} == {"finalized"}
    assert list(status(lake)) == [0, 1, 2, 3]


def test_it_follows_the_hand_over(tmp_path: Path) -> None:
    """A range is the landing's until the head lets go of it, and then the lake's; so are the slots announced in it."""
    settings = load_settings(lake=str(tmp_path), source="embedded", horizon_slot=64, slots_per_range=4, embedded_transactions_per_slot=2)
    lake = Lake.from_settings(settings)
    land_slots(settings, SlotRange(0, 7), final=False)
    landing = Landing(lake, settings.grid)
    landing.advance([], checkpoint=5, announced=[(8, "000000000008")])
    before = status(lake)
    assert [row[2] for row in before.values()] == ["finalized"] * 5 + ["confirmed"] * 3 + ["processed"]
    landing.seal()
    slots = SlotRange(0, 3)
    land_sealed(lake, slots)
    normalise_range(lake, slots)
    assert status(lake) == before
    assert landing.hand_over() == [slots.key]
    assert status(lake) == before
    # The range of the announced slot comes into the lake from elsewhere: what is landed there counts, once.
    land(lake, open_source(settings), SlotRange(8, 11))
    normalise_range(lake, SlotRange(8, 11))
    after = status(lake)
    assert {slot: after[slot] for slot in range(8)} == {slot: before[slot] for slot in range(8)}
    assert [after[slot][2] for slot in range(8, 12)] == ["finalized"] * 4
