"""`blyan follow` as a process, against a chain with every fault that a node can have."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from blyan import schemas
from blyan.lake import Lake
from blyan.query import engine
from blyan.solana.commitment import Commitment
from blyan.solana.follower import serve
from blyan.solana.follower.follow import Follower
from blyan.solana.follower.serve import quantile_of
from blyan.solana.follower.stream import WebSocketSlots
from blyan.solana.ingest import land, normalise_range
from blyan.solana.landing import FOLDER, Head, land_sealed, read_head
from blyan.solana.localnet.ledger import Fork
from blyan.solana.localnet.server import Localnet, Options, running
from blyan.solana.slots import Grid, SlotRange
from blyan.solana.sources.rpc import RpcSource
from blyan.store import UNFINISHED
from tests.simulated_chain import Faults, SimulatedNode
from tests.small_disk import small_disk

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
GRID = Grid(0, 100_000, 16)


@contextmanager
def following(lake: Path, localnet: Localnet, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A follower of its own process; ended by a signal if it still runs."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BLYAN_")}
    environment = clean | {
        "PYTHONPATH": str(REPOSITORY),
        "BLYAN_LAKE": str(lake),
        "BLYAN_RPC_URL": localnet.http_url,
        "BLYAN_WEBSOCKET_URL": localnet.ws_url,
        "BLYAN_HORIZON_SLOT": str(GRID.horizon_slot),
        "BLYAN_SLOTS_PER_RANGE": str(GRID.slots_per_range),
        **settings,
    }
    process = subprocess.Popen([sys.executable, "-m", "blyan.cli", "follow"], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)


def until(lake: Lake, reached: Callable[[Head], bool], process: subprocess.Popen[str] | None = None) -> Head:
    """The first head for which this holds."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        head = read_head(lake)
        if head is not None and reached(head):
            return head
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the follower ended with {process.returncode}: {process.stderr.read() if process.stderr else ''}")
        time.sleep(0.02)
    raise AssertionError(f"not within {WAIT_S:g} s; the head is {read_head(lake)}")


def unfinished(lake: Lake) -> set[str]:
    """Files of the landing that are being written, or were when the writer died."""
    return {path for path in lake.store.walk(FOLDER) if path.endswith(UNFINISHED)}


def kill_in_a_write(process: subprocess.Popen[str], lake: Lake, localnet: Localnet, writes: int) -> None:
    """Let the chain go on, and kill the follower when that many of its files were seen being written."""
    before, left, deadline = read_head(lake), unfinished(lake), time.monotonic() + WAIT_S
    localnet.advance(4)
    until(lake, partial(_has_generation, 1 + (before.generation if before else 0)), process)
    seen = set(left)
    while len(seen - left) < writes:
        assert process.poll() is None
        assert time.monotonic() < deadline, f"{len(seen - left)} files were seen being written"
        localnet.advance(1)
        for _ in range(400):
            seen |= unfinished(lake)
            if len(seen - left) >= writes:
                break
    process.kill()
    process.wait(WAIT_S)


def finalized(localnet: Localnet) -> int:
    """The newest slot that the node calls final."""
    return RpcSource(localnet.http_url).check().last_slot or 0


def check_against_the_chain(lake: Lake, localnet: Localnet, checkpoint: int) -> None:
    """What is final is what another reader of the same node finds: every slot, block and transaction."""
    chosen = SlotRange(0, checkpoint - 1)
    other = Lake(f"{lake.root}-again")
    land(other, RpcSource(localnet.http_url), chosen)
    normalise_range(other, chosen)
    queries = {
        schemas.COMPLETENESS: f"select slot, state, block_hash, transactions from solana.completeness where slot < {checkpoint} order by slot",
        schemas.TRANSACTIONS: f"select block_slot, index, signature, fee from solana.transactions where block_slot < {checkpoint} order by 1, 2",
    }
    for table, query in queries.items():
        found = []
        for place in (lake, other):
            with engine.connect(place, tables=[table]) as connection:
                found.append(connection.execute(query).fetchall())
        assert found[0] == found[1]
        assert found[0]


def _has_generation(least: int, head: Head) -> bool:
    return head.generation >= least


def _has_confirmed(slot: int, head: Head) -> bool:
    return head.confirmed >= slot


def test_slots_are_followed_sealed_and_taken_over_by_the_lake(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with running(Options(slot_ms=None, transactions_per_slot=6, seed=3)) as localnet:
        localnet.advance(5)
        with following(tmp_path / "lake", localnet) as process:
            until(lake, lambda head: head.confirmed >= 3, process)
            localnet.advance(60)
            final = finalized(localnet)
            head = until(lake, lambda head: head.checkpoint > final and len([landed for landed in head.ranges if landed.sealed]) >= 1, process)
            check_against_the_chain(lake, localnet, head.checkpoint)
            key = next(landed.key for landed in head.ranges if landed.sealed)
            assert land_sealed(lake, GRID.range_of(key)) is not None
            normalise_range(lake, GRID.range_of(key))
            head = until(lake, lambda head: key not in head.range_keys(), process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0


def test_a_follower_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    lake, draw = Lake(str(tmp_path / "lake")), random.Random(11)
    with running(Options(slot_ms=None, transactions_per_slot=4, seed=5, finality_depth=6)) as localnet:
        localnet.plan.skip_share, localnet.plan.fork_share = 0.1, 0.1
        localnet.advance(4)
        in_the_midst = kills = 0
        while in_the_midst < 3:
            kills += 1
            assert kills <= 20, "the kills missed the writes"
            left = unfinished(lake)
            with following(tmp_path / "lake", localnet) as process:
                kill_in_a_write(process, lake, localnet, draw.randrange(1, 8))
            in_the_midst += bool(unfinished(lake) - left)
        localnet.advance(12)
        with following(tmp_path / "lake", localnet) as process:
            final = finalized(localnet)
            head = until(lake, lambda head: head.checkpoint > final, process)
        check_against_the_chain(lake, localnet, head.checkpoint)


def test_a_disk_that_is_full_for_a_while_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "32m") as disk, running(Options(slot_ms=None, transactions_per_slot=4, seed=6, finality_depth=6)) as localnet:
        lake, ballast = Lake(str(disk / "lake")), disk / "ballast"
        localnet.advance(5)
        with following(disk / "lake", localnet) as process:
            standing = until(lake, lambda head: head.confirmed >= 3, process)
            with pytest.raises(OSError, match="No space left"):
                fill(ballast)
            localnet.advance(20)
            assert process.stderr is not None
            said = next(line for line in process.stderr if "trying again" in line)
            assert "the store is full" in said
            assert (read_head(lake) or standing).confirmed < 20
            ballast.unlink()
            final = finalized(localnet)
            head = until(lake, lambda head: head.checkpoint > final, process)
        check_against_the_chain(lake, localnet, head.checkpoint)


def fill(path: Path) -> None:
    """Write until there is no space, which raises OSError; a short write is not an error yet."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def test_a_node_with_every_fault_is_followed_all_the_same(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with running(Options(slot_ms=40, transactions_per_slot=3, seed=9, finality_depth=8)) as localnet:
        localnet.plan.skip_share, localnet.plan.fork_share = 0.1, 0.1
        faults = localnet.faults
        faults.drop_slots = faults.duplicate_slots = faults.reorder_slots = 0.2
        faults.refuse_every, faults.retry_after_s, faults.break_every = 17, None, 23
        # A follower that takes a second to start would begin with the second range.
        localnet.hold()
        with following(tmp_path / "lake", localnet, BLYAN_RPC_TIMEOUT_S="2") as process:
            until(lake, lambda head: True, process)
            localnet.resume()
            until(lake, lambda head: head.checkpoint > 10, process)
            localnet.drop_connections()
            faults.unready_blocks = 4
            until(lake, lambda head: head.checkpoint > 25, process)
            faults.half_open = True
            standing = until(lake, lambda head: True)
            localnet.advance(20)
            faults.half_open = False
            until(lake, lambda head: head.checkpoint > standing.checkpoint + 20, process)
            faults.lag_blocks = 5
            head = until(lake, lambda head: head.checkpoint > standing.checkpoint + 40, process)
            faults.lag_blocks = faults.refuse_every = faults.break_every = 0
            localnet.hold()
            check_against_the_chain(lake, localnet, head.checkpoint)


def test_another_chain_is_refused(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.pin("genesis_hash", "another chain")
    with running(Options(slot_ms=None, transactions_per_slot=1)) as localnet, following(tmp_path / "lake", localnet) as process:
        _, words = process.communicate(timeout=WAIT_S)
        assert process.returncode == 1
        assert "genesis hash" in words
        assert read_head(lake) is None


def test_another_chain_than_the_settings_name_is_refused_before_anything_is_landed(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with running(Options(slot_ms=None, transactions_per_slot=1)) as localnet:
        with following(tmp_path / "lake", localnet, BLYAN_GENESIS_HASH="another chain") as process:
            _, words = process.communicate(timeout=WAIT_S)
        assert process.returncode == 1
        assert "the settings ask for another chain" in words
        assert read_head(lake) is None
        assert lake.pinned("genesis_hash") is None
        served = RpcSource(localnet.http_url).genesis_hash()
        with following(tmp_path / "lake", localnet, BLYAN_GENESIS_HASH=served) as process:
            assert until(lake, lambda head: head.genesis_hash is not None, process).genesis_hash == served


def scraped(port: int, reached: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The first metrics for which this holds, by name with labels."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S).read().decode()
        values = {name: float(value) for name, value in (line.split() for line in text.splitlines() if line and not line.startswith("#"))}
        if reached(values):
            return values
        time.sleep(0.05)
    raise AssertionError(f"not within {WAIT_S:g} s: {values}")


def test_metrics_say_how_far_behind_it_is_and_what_became_of_it(tmp_path: Path, free_port: int) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with running(Options(slot_ms=None, transactions_per_slot=2, first_slot=1_600, finality_depth=80)) as localnet:
        localnet.advance(60)
        # Of what is there at first, the newest and the oldest blocks come first: between them is a gap, which is filled.
        with following(tmp_path / "lake", localnet, BLYAN_METRICS_PORT=str(free_port), BLYAN_STREAM="blocks") as process:
            until(lake, lambda head: head.confirmed >= 1_650, process)
            localnet.plan.add(Fork(localnet.ledger.next_slot + 2, 3))
            for _ in range(10):
                localnet.advance(1)
                # A block of a fork that dies before it is asked for is never seen.
                confirmed = localnet.ledger.tip(Commitment.CONFIRMED).slot
                until(lake, partial(_has_confirmed, confirmed), process)
            localnet.drop_connections()
            values = scraped(
                free_port,
                lambda values: values["blyan_reconnects_total"] >= 2 and values["blyan_forks_total"] >= 1
                and values["blyan_gap_slots"] == 0 and values["blyan_lag_slots"] <= 1,
            )  # fmt: skip
            # Nothing is to be had any more, neither pushed nor fetched, while the chain goes on.
            localnet.faults.unready_blocks, localnet.faults.drop_blocks = 10**6, 1.0

            def later(values: dict[str, float]) -> bool:
                # One by one: what is announced while the stream is down is not heard of.
                localnet.advance(1)
                return values["blyan_lag_slots"] >= 12

            late = scraped(free_port, later)
            localnet.faults.unready_blocks = 0
            scraped(free_port, lambda values: values["blyan_lag_slots"] <= 1)
    assert values["blyan_slot_confirmed"] >= 1_665
    assert values["blyan_blocks_total"] >= 60
    assert values["blyan_payload_bytes_total"] > 60_000
    assert values["blyan_gaps_filled_total"] >= 1
    assert values["blyan_quarantined_total"] == 0
    assert values["blyan_pushed_used_total"] >= 1
    assert values["blyan_pushed_waiting_bytes"] >= values["blyan_pushed_waiting_blocks"] >= 0
    assert 0 < values['blyan_lag_seconds{quantile="0.5"}'] <= values['blyan_lag_seconds{quantile="0.95"}'] < WAIT_S
    assert late["blyan_slot_confirmed"] < late["blyan_slot_processed"]


def test_the_lines_say_how_far_behind_it_is_when_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "SAY_EVERY_S", 0.0)
    said: list[str] = []

    async def follow() -> None:
        node = SimulatedNode(1, Faults(skip=0, fork=0, fail=0, lag=0, leave_out=0, null=0))
        for _ in range(30):
            node.tick()
        talker = serve._Talker(said.append)
        follower = Follower(node, WebSocketSlots("ws://127.0.0.1:9"), Lake(str(tmp_path)), GRID, told=talker.told)
        await follower.begin()
        follower.measures.announced = 29
        await follower.step()
        talker.told(follower)
        follower.measures.announced = 129
        talker.told(follower)

    asyncio.run(follow())
    assert ["behind" in line for line in said] == [False, True]
    assert "the newest block is 101 slots before the tip, 0 slots before it are missing" in said[1]


def test_quantiles_are_values_that_were_measured() -> None:
    assert [quantile_of([3.0, 1.0, 2.0, 4.0], share) for share in (0.25, 0.5, 0.95, 1.0)] == [1.0, 2.0, 4.0, 4.0]
    assert quantile_of([7.0], 0.5) == 7.0
    assert math.isnan(quantile_of([], 0.95))


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
