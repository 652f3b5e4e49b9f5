"""Blocks from `blockSubscribe`: the same rows as from `getBlock`, and never a reason for missing or wrong ones."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest

from blyan import schemas, store
from blyan.digest import digest_unit
from blyan.lake import Lake
from blyan.query import engine
from blyan.solana.commitment import Commitment
from blyan.solana.follower.follow import Follower
from blyan.solana.follower.links import Link
from blyan.solana.follower.node import Fetched, RpcNode, Unfetched
from blyan.solana.follower.pushed import PushedBlocks, WebSocketBlocks
from blyan.solana.follower.stream import WebSocketSlots
from blyan.solana.ingest import land, normalise_range, normalise_unit, raw_rows
from blyan.solana.jsonrpc import RpcClient
from blyan.solana.landing import Head, Landing, read_head
from blyan.solana.localnet.ledger import Fork
from blyan.solana.localnet.server import Localnet, Options, running
from blyan.solana.slots import Grid, SlotRange
from blyan.solana.sources import RawRecord, SlotState
from blyan.solana.sources.rpc import RpcSource
from tests.simulated_chain import Faults, SimulatedNode, block_of, hash_of

WAIT_S = 60.0
GRID = Grid(0, 100_000, 16)


@pytest.fixture(autouse=True)
def _without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing crashes here: fsync would only cost time.
    monkeypatch.setattr(store, "_fsync", lambda _: None)


@dataclass
class Following:
    """A follower in this process, fed by pushes."""

    lake: Lake
    pushed: PushedBlocks
    follower: Follower
    said: list[str]
    fetched: list[int]

    async def until(self, reached: Callable[[Head], bool]) -> Head:
        """The first head for which this holds."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            head = read_head(self.lake)
            if head is not None and reached(head):
                return head
            await asyncio.sleep(0.02)
        raise AssertionError(f"not within {WAIT_S:g} s; the head is {read_head(self.lake)}")


class Counted(RpcNode):
    """Remembers which whole blocks were asked for."""

    def __init__(self, client: RpcClient) -> None:
        super().__init__(client)
        self.fetched: list[int] = []

    async def block(self, slot: int, commitment: Commitment) -> Fetched | Unfetched:
        self.fetched.append(slot)
        return await super().block(slot, commitment)


@asynccontextmanager
async def following(lake: Lake, localnet: Localnet) -> AsyncIterator[Following]:
    client, said = RpcClient(localnet.http_url, retries=2), []
    node = Counted(client)
    blocks = WebSocketBlocks(localnet.ws_url, jitter=lambda: 0.0)
    pushed = PushedBlocks(node, WebSocketSlots(localnet.ws_url, jitter=lambda: 0.0), blocks, say=said.append)
    follower, stop = Follower(pushed, pushed, lake, GRID), asyncio.Event()
    task = asyncio.create_task(follower.run(stop))
    try:
        yield Following(lake, pushed, follower, said, node.fetched)
    finally:
        stop.set()
        await task
        await client.close()


async def advance(localnet: Localnet, slots: int, apart_s: float = 0.0) -> None:
    for _ in range(slots):
        await asyncio.to_thread(localnet.advance, 1)
        await asyncio.sleep(apart_s)


async def final_tip(localnet: Localnet) -> int:
    return (await asyncio.to_thread(RpcSource(localnet.http_url).check)).last_slot or 0


def _has_confirmed(slot: int, head: Head) -> bool:
    return head.confirmed >= slot


def check_against_getblock(lake: Lake, localnet: Localnet, head: Head) -> None:
    """Every final slot, and the digest of every sealed range, is what a reader finds who only fetches."""
    other = Lake(f"{lake.root}-fetched")
    chosen = SlotRange(0, head.checkpoint - 1)
    land(other, RpcSource(localnet.http_url), chosen)
    normalise_range(other, chosen)
    found = []
    for place in (lake, other):
        with engine.connect(place) as connection:
            found.append(
                [
                    connection.execute(f"select * exclude (slot_range) from {name} where {slot} < {head.checkpoint} order by all").fetchall()
                    for name, slot in (("solana.completeness", "slot"), ("solana.blocks", "slot"), ("solana.transactions", "block_slot"))
                ]
            )
    assert found[0] == found[1]
    assert found[0][2]
    # One is enough: what is in it, lost, late or of a fork, was so before it was sealed.
    landed = next(landed for landed in reversed(head.ranges) if landed.sealed)
    alone = Lake(f"{lake.root}-fetched-{landed.key}")
    land(alone, RpcSource(localnet.http_url), GRID.range_of(landed.key))
    assert alone.partitions(schemas.RAW_BLOCKS)[landed.key].digest == landed.digest


@pytest.mark.parametrize("encoding", ["json", "jsonParsed", "base64"])
def test_the_text_of_a_pushed_block_is_that_of_getblock(encoding: str) -> None:
    async def compare(localnet: Localnet) -> None:
        pushed: dict[int, bytes] = {}
        async with aclosing(WebSocketBlocks(localnet.ws_url, encoding=encoding).results()) as updates:  # type: ignore[type-var]
            waiting = asyncio.ensure_future(anext(updates))
            while len(pushed) < 3:
                await advance(localnet, 1, 0.05)
                if waiting.done():
                    update = waiting.result()
                    pushed[update.value.slot] = bytes(update.value.block)
                    waiting = asyncio.ensure_future(anext(updates))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        client = RpcClient(localnet.http_url)
        node = RpcNode(client, encoding=encoding)
        for slot, text in pushed.items():
            answer = await node.block(slot, Commitment.CONFIRMED)
            assert isinstance(answer, Fetched)
            assert answer.record.payload == text
        await client.close()

    with running(Options(slot_ms=None, transactions_per_slot=5)) as localnet:
        asyncio.run(compare(localnet))


def test_pushed_blocks_land_without_being_fetched_and_give_the_same_digests(tmp_path: Path) -> None:
    async def follow(localnet: Localnet) -> None:
        async with following(Lake(str(tmp_path / "lake")), localnet) as world:
            await world.until(lambda head: True)
            # Until a block came by itself: a subscription that is not made yet is told of nothing.
            while not world.pushed.used:
                await advance(localnet, 1, 0.05)
            first = localnet.ledger.next_slot
            await advance(localnet, 40, 0.01)
            final = await final_tip(localnet)
            head = await world.until(lambda head: head.checkpoint > final and any(landed.sealed for landed in head.ranges))
            # A block may be listed before its push is here, and is then fetched; such a race is rare.
            assert sum(slot >= first for slot in world.fetched) < 20
            assert world.pushed.used > 20
            assert world.said == []
        check_against_getblock(world.lake, localnet, head)

    with running(Options(slot_ms=None, transactions_per_slot=4, seed=3, finality_depth=8)) as localnet:
        asyncio.run(follow(localnet))


def test_pushes_that_are_lost_late_cut_off_or_of_dead_forks_cost_nothing(tmp_path: Path) -> None:
    async def follow(localnet: Localnet) -> None:
        async with following(Lake(str(tmp_path / "lake")), localnet) as world:
            await world.until(lambda head: True)
            faults = localnet.faults
            faults.drop_blocks = 0.3
            await advance(localnet, 16, 0.03)
            faults.delay_blocks_ms = 150
            await advance(localnet, 10, 0.03)
            await asyncio.to_thread(localnet.drop_connections)
            await advance(localnet, 10, 0.03)
            faults.drop_blocks = faults.delay_blocks_ms = 0
            # Confirmed, pushed and used, then dead; the first of them with another block in its place.
            first = localnet.ledger.next_slot + 3
            localnet.plan.add(Fork(first, 3, replaced=True), Fork(first + 8, 3))
            for _ in range(22):
                # A block of a fork that dies before it is asked for is never seen.
                await advance(localnet, 1)
                confirmed = localnet.ledger.tip(Commitment.CONFIRMED).slot
                await world.until(partial(_has_confirmed, confirmed))
            final = await final_tip(localnet)
            head = await world.until(lambda head: head.checkpoint > final and any(landed.sealed for landed in head.ranges))
            assert 0 < world.pushed.used < world.follower.measures.blocks
            assert world.pushed.reconnects >= 2
            assert world.follower.measures.forks > 0
        check_against_getblock(world.lake, localnet, head)

    with running(Options(slot_ms=None, transactions_per_slot=3, seed=7, finality_depth=8)) as localnet:
        localnet.plan.skip_share = 0.1
        asyncio.run(follow(localnet))


def test_a_node_that_does_not_push_is_followed_by_its_slots_and_that_is_said_once(tmp_path: Path) -> None:
    async def follow(localnet: Localnet) -> None:
        async with following(Lake(str(tmp_path / "lake")), localnet) as world:
            await world.until(lambda head: True)
            await advance(localnet, 12, 0.05)
            await asyncio.to_thread(localnet.drop_connections)
            await advance(localnet, 8, 0.05)
            final = await final_tip(localnet)
            await world.until(lambda head: head.checkpoint > final)
            assert world.pushed.used == 0
            assert len(world.said) == 1
            assert re.search(r"blockSubscribe \(Method not found\)", world.said[0])
            assert world.follower.measures.announced == localnet.ledger.next_slot - 1

    with running(Options(slot_ms=None, transactions_per_slot=3, finality_depth=4)) as localnet:
        localnet.faults.refuse_blocks = True
        asyncio.run(follow(localnet))


class Silence:
    reconnects = 0

    async def slots(self) -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 0


QUIET = Faults(skip=0, fork=0, fail=0, lag=0, leave_out=0, null=0)
LIES: dict[str, Callable[[Link], bytes]] = {
    "a dead fork's block": lambda link: block_of(Link(link.slot, hash_of("dead", link.slot), link.parent_slot, link.parent_hash)),
    "another slot's block": lambda link: block_of(Link(link.slot, hash_of("other"), link.slot + 3, link.block_hash)),
    "no block": lambda link: b"{}",
    "half a block": lambda link: block_of(link)[:-20],
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_pushed_wrongly_is_fetched(lie: str, tmp_path: Path) -> None:
    """Every block is pushed wrongly, and again at every step: what is final is the node's chain all the same."""

    async def follow() -> None:
        node, time_s = SimulatedNode(1, QUIET), 0.0
        pushed = PushedBlocks(node, Silence(), WebSocketBlocks("ws://127.0.0.1:9"))
        lake = Lake(str(tmp_path))
        follower = Follower(pushed, pushed, lake, GRID, landing=Landing(lake, GRID, clock=lambda: time_s), clock=lambda: time_s)
        for tick in range(30):
            node.tick()
            time_s += 60.0
            if node.now:
                pushed.keep(node.now, LIES[lie](node.main[node.now]))
            if tick == 0:
                await follower.begin()
            follower.measures.announced = node.now
            await follower.step()
        head = await _settled(node, follower, lake)
        expected = {slot: block_hash for slot, block_hash in node.final().items() if slot < head.checkpoint}
        with engine.connect(lake, tables=[schemas.COMPLETENESS]) as connection:
            found = dict(connection.execute(f"select slot, block_hash from solana.completeness where slot < {head.checkpoint}").fetchall())
        assert found == expected
        # It was believed as far as it could be: without the links that contradict it, it would be there still.
        assert (follower.measures.forks > 0) == (lie == "a dead fork's block")
        assert pushed.used + pushed.dropped > 20

    async def _settled(node: SimulatedNode, follower: Follower, lake: Lake) -> Head:
        for _ in range(10):
            await follower.step()
        head = read_head(lake)
        assert head is not None
        assert head.checkpoint > 20
        return head

    asyncio.run(follow())


def test_a_pushed_block_is_given_once_the_newest_of_its_slot() -> None:
    async def ask() -> None:
        node = SimulatedNode(1, QUIET)
        for _ in range(4):
            node.tick()
        pushed = PushedBlocks(node, Silence(), WebSocketBlocks("ws://127.0.0.1:9"))
        other = Link(2, hash_of("other"), 1, hash_of("parent"))
        pushed.keep(2, block_of(Link(2, hash_of("older"), 1, hash_of("parent"))))
        pushed.keep(2, block_of(other))
        answers = [await pushed.block(2, Commitment.CONFIRMED) for _ in range(2)]
        assert [answer.link for answer in answers if isinstance(answer, Fetched)] == [other, node.main[2]]
        assert (pushed.held, pushed.held_bytes, pushed.used, pushed.dropped) == (0, 0, 1, 1)

    asyncio.run(ask())


def test_only_so_many_bytes_wait_and_the_oldest_go_first() -> None:
    node = SimulatedNode(1, QUIET)
    pushed = PushedBlocks(node, Silence(), WebSocketBlocks("ws://127.0.0.1:9"), limit_bytes=100)
    for slot in (5, 4, 6):
        pushed.keep(slot, b"x" * 40)
    assert (pushed.held, pushed.held_bytes, pushed.dropped) == (2, 80, 1)
    assert sorted(pushed._held) == [4, 6]
    pushed.keep(7, b"x" * 101)
    assert (pushed.held, pushed.held_bytes, pushed.dropped) == (0, 0, 4)


def test_another_order_of_keys_changes_the_digest_of_the_bytes_and_no_other() -> None:
    """A node may write a push by its struct and an answer by the alphabet; what the rows tell is the same."""

    def in_reverse(value: object) -> object:
        if isinstance(value, dict):
            return {key: in_reverse(part) for key, part in reversed(value.items())}
        return [in_reverse(part) for part in value] if isinstance(value, list) else value

    def digests(payload: bytes) -> dict[str, object]:
        record = RawRecord(slot, SlotState.PRESENT, "getBlock", payload, block_hash=head["blockhash"], parent_slot=head["parentSlot"])
        raw = raw_rows([record], "rpc")
        tables = {schemas.RAW_BLOCKS.name: raw, **normalise_unit(raw.to_pylist())}
        return {name: digest_unit(schemas.TABLES[name], rows) for name, rows in tables.items()}

    with running(Options(slot_ms=None, transactions_per_slot=8)) as localnet:
        localnet.advance(6)
        block = next(iter(localnet.ledger.newest_first(Commitment.CONFIRMED)))
        slot, text = block.slot, block.payload
    head = msgspec.json.decode(text)
    written, pushed = digests(text), digests(json.dumps(in_reverse(head)).encode())
    assert {name for name in written if written[name] != pushed[name]} == {schemas.RAW_BLOCKS.name}
