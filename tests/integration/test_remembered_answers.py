"""Remembered answers over a real lake: equal to those that are computed, whatever is asked and written; in Redis and in the lake, which may fail."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from blyan.errors import StoreFullError, TransientError
from blyan.lake import Lake
from blyan.query.cache import Answers, Content, rows_in_bytes
from blyan.query.gate import RefusedError
from blyan.query.kept_answers import BLOCK_BYTES, CONTENTS, INDEX, ORPHANED_S, RENEWED_S, KeptAnswers
from blyan.query.shared_answers import PREFIX, SharedAnswers
from blyan.query.sql import SqlEngine
from blyan.schemas import TRANSACTIONS
from blyan.solana.landing import Landing
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from tests.redis_server import RedisServer
from tests.small_disk import small_disk
from tests.sql_lake import SMALL, make_lake, settings_of

KEYS = ["000000000000", "000000000004"]


class World:
    """A lake, an engine that remembers, and what happened."""

    def __init__(self, runner: asyncio.Runner, lake: Lake, base: Path, engine: SqlEngine, events: Counter[str]) -> None:
        self.run, self.lake, self.engine, self.events = runner.run, lake, engine, events
        self._base = base
        self.rows = {key: pa.Table.from_batches(list(lake.read(TRANSACTIONS, key=key))) for key in KEYS}

    def reset(self) -> None:
        """The lake as it was made."""
        root = Path(self.lake.root)
        for name in ("solana", "landing"):
            shutil.rmtree(root / name, ignore_errors=True)
            if (self._base / name).exists():
                shutil.copytree(self._base / name, root / name)
        self.engine._snapshots.forget()  # versions begin again, which those of a lake never do
        self.tip = 9

    def write(self, key: str, variant: int) -> None:
        """Other transactions of a range."""
        self.lake.write_partition(TRANSACTIONS, key, [_some(self.rows[key], variant)])

    def land(self) -> None:
        """One slot more in the tail."""
        if self.tip < 11:
            self.tip += 1
            chain = settings_of(Path(self.lake.root))
            Landing(self.lake, chain.grid, source="rpc").advance(list(open_source(chain).read(SlotRange(self.tip, self.tip))))

    def ask(self, sql: str, params: Any = None, **options: Any) -> tuple[list[tuple[Any, ...]], Any]:
        async def ask() -> tuple[list[tuple[Any, ...]], Any]:
            async with await self.engine.query(sql, params, **options) as answer:
                table = await answer.table()
            return list(zip(*(column.to_pylist() for column in table.columns), strict=True)), answer

        return self.run(ask())


def _some(rows: pa.Table, variant: int) -> pa.Table:
    """The rows without every third, beginning with one of the first three; all of them for 3."""
    numbers = pa.array(range(rows.num_rows))
    keep = [variant == 3 or number % 3 != variant for number in numbers.to_pylist()]
    return rows.filter(pa.array(keep))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "lake"
    make_lake(folder)
    return folder


@pytest.fixture(scope="module")
def world(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("answers") / "lake"
    shutil.copytree(base, root)
    lake, events = Lake(str(root)), Counter[str]()
    answers = Answers(8 << 20, tell=lambda event: events.update([event]))
    with asyncio.Runner() as runner:
        engine = SqlEngine(lake, processes=1, limits=SMALL, answers=answers)
        runner.run(engine.__aenter__())
        yield World(runner, lake, base, engine, events)
        runner.run(engine.__aexit__(None, None, None))


# Equal to a computation


@st.composite
def statements(draw: st.DrawFn) -> str:
    """Statements with certain ranges and without, joins, groups, moments, votes, limits with an order and without one."""
    low = draw(st.integers(0, 10))
    slots = draw(st.sampled_from(["", "t.block_slot between {0} and {1}", "t.block_slot >= {0}", "t.block_slot < {1}"])).format(low, low + 3)
    vote = draw(st.sampled_from(["", "t.is_vote is distinct from true", "t.status = 'Success'"]))
    moment = draw(st.sampled_from(["", "t.block_timestamp < timestamptz '2030-01-01'", "t.fee > 5000"]))
    where = " and ".join(filter(None, [slots, vote, moment])) or "true"
    join = draw(st.sampled_from(["", "join solana.blocks b on b.slot = t.block_slot", "left join solana.slot_status b on b.slot = t.block_slot"]))
    select, tail = draw(
        st.sampled_from(
            [
                ("count(*), sum(t.fee), min(t.signature)", ""),
                ("t.block_slot, count(*)", "group by 1 order by 1"),
                ("t.status, list(t.index)", "group by 1"),
                ("t.block_slot, t.index, t.signature", "order by 1, 2 limit 7"),
                ("t.signature, t.fee", "limit 5"),
                ("avg(t.compute_units_consumed), any_value(t.signature)", ""),
                ("first(t.signature), row_number() over (order by t.block_slot)", "group by t.block_slot limit 3"),
            ]
        )
    )
    return f"select {select} from solana.transactions t {join} where {where} {tail}"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(KEYS), st.integers(0, 3)),
        st.tuples(st.just("land")),
        st.tuples(st.just("compact")),
        st.tuples(st.just("ask"), st.integers(0, 3)),
        st.tuples(st.just("ask"), st.integers(0, 3)),
    ),
    min_size=4,
    max_size=12,
)


def test_a_remembered_answer_is_what_a_computation_gives(world: World) -> None:
    """Byte for byte, whatever was written meanwhile; and it is remembered for as long as nothing that it was read from has changed."""
    again: list[str] = []

    @settings(max_examples=8, deadline=None)
    @given(asked=st.lists(statements(), min_size=4, max_size=4), steps=STEPS)
    def holds(asked: list[str], steps: list[tuple[Any, ...]]) -> None:
        world.reset()
        before: dict[str, Any] = {}
        for step in [*steps, ("ask", 0), ("ask", 0)]:
            match step:
                case ("write", range_key, variant):
                    world.write(range_key, variant)
                case ("land",):
                    world.land()
                case ("compact",):
                    world.lake.compact(TRANSACTIONS)
                case ("ask", number):
                    sql = asked[number]
                    rows, answer = world.ask(sql)
                    expected, computed = world.ask(sql, fresh=True)
                    assert rows == expected
                    assert (answer.digest, answer.truncated) == (computed.digest, computed.truncated)
                    now, then = (msgspec.structs.replace(each.reading, behind_ms=None) for each in (answer, computed))
                    assert now == then, "what is said of now is of now"
                    ranges = (answer.reading.ranges, answer.asked.snapshot.layout, answer.asked.snapshot.cache_key)
                    if before.get(sql) == ranges:
                        assert answer.source == "memory"
                        again.append(sql)
                    before[sql] = ranges

    holds()
    assert len(again) >= 8, "it holds of nothing where nothing is remembered"


def test_a_write_in_another_range_leaves_an_answer_and_one_in_its_own_does_not(world: World) -> None:
    world.reset()
    sql = "select count(*), sum(fee) from solana.transactions where block_slot between 0 and 3"
    first = world.ask(sql)[0]
    world.write(KEYS[1], 0)
    world.land()
    rows, answer = world.ask(sql)
    assert (rows, answer.source) == (first, "memory")
    assert answer.reading.versions == {"solana/transactions": world.lake.version(TRANSACTIONS)}, "and it says which version that is by now"
    assert answer.reading.up_to_slot == 10
    world.write(KEYS[0], 1)
    rows, answer = world.ask(sql)
    assert answer.source == "computed"
    assert rows != first


def test_what_depends_on_the_tip_is_made_again_with_the_tip(world: World) -> None:
    world.reset()
    sql = "select slot, commitment from solana.slot_status order by slot desc limit 1"
    first = world.ask(sql)[0]
    world.land()
    rows, answer = world.ask(sql)
    assert answer.source == "computed"
    assert rows != first
    assert world.ask(sql)[1].source == "memory"


@pytest.mark.parametrize(
    "sql", ["select now()", "select random()", "select signature from solana.transactions using sample 3", "show tables", "explain select 1"]
)
def test_what_is_another_each_time_is_not_remembered(world: World, sql: str) -> None:
    assert [world.ask(sql)[1].source for _ in range(2)] == ["", ""]


def test_who_may_have_fewer_rows_gets_fewer(world: World) -> None:
    world.reset()
    sql = "select signature from solana.transactions"
    assert len(world.ask(sql, rows=5)[0]) == 5
    assert len(world.ask(sql, rows=6)[0]) == 6
    assert world.ask(sql, rows=5)[1].source == "memory"


def test_parameters_that_look_alike_are_not_the_same(world: World) -> None:
    found = [world.ask("select $1", [value])[0][0][0] for value in (1, True, "1", 1.0, None, float("nan"))]
    assert found[:5] == [1, True, "1", 1.0, None]
    assert found[5] != found[5]


def test_a_statement_that_looks_like_another_does_not_give_it_its_answer(world: World) -> None:
    assert world.ask("select 1\u1680x")[1].columns[0].name == "\u1680x"
    assert world.ask("select 1 x")[1].columns[0].name == "x"
    with pytest.raises(RefusedError):
        world.ask("select map {#1: '#}{1: 2}--'} from (select 1)\nwhere true")
    assert world.ask("select map {1: 2}\nwhere true")[0] == [([(1, 2)],)]


def test_a_page_goes_on_from_a_first_page_that_is_remembered(world: World) -> None:
    """Without an order, after the files were made others: from where a computation's first page would have ended."""
    world.reset()
    sql = "select signature from solana.transactions"
    expected = [row for (row,) in world.ask(sql, fresh=True)[0]]
    assert world.ask(sql, rows=7)[1].source == "computed"
    found, answer = world.ask(sql, rows=7)
    assert answer.source == "memory"
    world.lake.compact(TRANSACTIONS)
    world.write(KEYS[0], 2)
    while answer.cursor is not None:
        more, answer = world.ask(sql, rows=7, cursor=answer.cursor)
        found += more
    assert [row for (row,) in found] == expected, "all of one snapshot, each once"


def test_a_remembered_answer_can_be_pinned(world: World) -> None:
    world.reset()
    sql = "select signature from solana.transactions order by 1 limit 3"
    world.ask(sql)
    rows, answer = world.ask(sql)
    assert answer.source == "memory"

    async def again() -> list[str]:
        async with await world.engine.again(await world.engine.pin(answer)) as found:
            return (await found.table())["signature"].to_pylist()  # type: ignore[no-any-return]

    assert world.run(again()) == [row for (row,) in rows]


def test_an_answer_that_is_too_large_is_streamed_and_not_kept(world: World) -> None:
    sql = "select range as n, repeat('x', 400) as text from range(10000)"
    for _ in range(2):
        rows, answer = world.ask(sql)
        assert answer.source == "streamed"
        assert [n for n, _ in rows] == list(range(10_000))


def test_fifty_who_ask_together_take_one_process(world: World) -> None:
    world.reset()
    before = world.events["miss"]

    async def together() -> list[Any]:
        sql = "select count(*), max(range) from range(3000000)"
        answers = await asyncio.gather(*(world.engine.query(sql, caller=f"caller {number % 3}") for number in range(50)))
        return [(await answer.table()).to_pylist() for answer in answers]

    found = world.run(together())
    assert all(each == found[0] for each in found)
    assert world.events["miss"] - before == 1


# In the lake


@pytest.fixture
def kept(tmp_path: Path) -> KeptAnswers:
    return KeptAnswers(Lake(str(tmp_path / "lake")), 100_000)


def paths(kept: KeptAnswers, folder: str) -> list[Path]:
    return [Path(kept._store.path(name)) for name in kept._store.walk(folder)]


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_what_is_kept_is_read_again_and_the_same_content_stands_once(kept: KeptAnswers) -> None:
    kept.write(key(1), b"rows")
    kept.write(key(2), b"rows")
    assert (kept.read(key(1)), kept.read(key(2)), kept.read(key(3))) == (b"rows", b"rows", None)
    assert [path.name for path in paths(kept, CONTENTS)] == [hashlib.sha256(b"rows").hexdigest()]


@pytest.mark.parametrize("folder", [INDEX, CONTENTS])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "garbage", "deleted"])
def test_what_is_damaged_is_a_miss_and_is_healed_by_the_next_writing(kept: KeptAnswers, folder: str, damage: str) -> None:
    kept.write(key(1), b"rows of one")
    (path,) = paths(kept, folder)
    match damage:
        case "deleted":
            path.unlink()
        case _:
            path.write_bytes({"truncated": path.read_bytes()[:-3], "emptied": b"", "garbage": os.urandom(path.stat().st_size)}[damage])
    assert kept.read(key(1)) is None
    kept.write(key(1), b"rows of one")
    assert kept.read(key(1)) == b"rows of one"


def test_an_entry_under_the_name_of_another_is_none(kept: KeptAnswers) -> None:
    kept.write(key(1), b"rows")
    (path,) = paths(kept, INDEX)
    other = Path(kept._store.path(f"{INDEX}/{key(2)[:2]}/{key(2)}"))
    other.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, other)
    assert kept.read(key(2)) is None


@pytest.mark.parametrize("dies_at", range(4))
def test_a_writer_that_dies_at_any_change_of_the_disk_leaves_no_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int) -> None:
    """Creating and renaming the content, creating and renaming its entry."""
    lake = Lake(str(tmp_path / "lake"))
    kept, left = KeptAnswers(lake, 1 << 40), [dies_at]

    class Died(BaseException):
        pass

    for step in ("create", "rename"):
        real = getattr(lake.store.disk, step)

        def dying(*arguments: Any, real: Any = real) -> Any:
            if not left[0]:
                raise Died
            left[0] -= 1
            return real(*arguments)

        monkeypatch.setattr(lake.store.disk, step, dying)
    kept._written = 0  # no sweep
    with pytest.raises(Died):
        kept.write(key(1), b"rows")
    monkeypatch.undo()
    again = KeptAnswers(lake, 100_000)
    assert again.read(key(1)) is None
    again.write(key(1), b"rows")
    assert again.read(key(1)) == b"rows"


def test_the_oldest_go_and_what_is_read_stays(tmp_path: Path) -> None:
    now = [1_000_000.0]
    kept = KeptAnswers(Lake(str(tmp_path)), 50_000, now=lambda: now[0])
    for number in range(60):
        now[0] += RENEWED_S + 1
        kept.write(key(number), bytes([number]) * 5_000)
        assert kept.read(key(0)) == bytes([0]) * 5_000, "it is read all the time"
        assert sum(path.stat().st_size for path in paths(kept, CONTENTS)) <= 50_000 * 1.125 + 5_000
    kept.sweep()
    assert sum(path.stat().st_size for path in paths(kept, CONTENTS)) <= 50_000
    assert kept.read(key(59)) is not None
    assert kept.read(key(5)) is None


def test_contents_that_no_entry_names_go_once_they_are_old_and_room_is_wanted(tmp_path: Path) -> None:
    kept = KeptAnswers(Lake(str(tmp_path)), BLOCK_BYTES + 1)
    kept.write(key(1), b"kept")
    kept._store.put(f"{CONTENTS}/ab/{'ab' * 32}", b"orphan")
    assert kept.sweep().contents_deleted == 0, "its writer may be about to name it"
    (orphan,) = [path for path in paths(kept, CONTENTS) if path.name.startswith("abab")]
    os.utime(orphan, (time.time() - ORPHANED_S - 5,) * 2)
    assert kept.sweep().contents_deleted == 1
    assert kept.read(key(1)) == b"kept"


def test_readers_and_writers_are_not_broken_by_a_sweep(tmp_path: Path) -> None:
    kept = KeptAnswers(Lake(str(tmp_path)), 20_000)

    async def lived() -> int:
        seen = 0

        async def one(number: int) -> None:
            nonlocal seen
            for round_ in range(20):
                name = (number * 7 + round_) % 30
                await kept.put(key(name), bytes([name]) * 2_000)
                found = await kept.get(key((name + round_) % 30))
                assert found in (None, bytes([(name + round_) % 30]) * 2_000)
                seen += found is not None

        async def sweeping() -> None:
            for _ in range(30):
                await asyncio.to_thread(kept.sweep)

        await asyncio.gather(sweeping(), *(one(number) for number in range(6)))
        await kept.close()
        return seen

    assert asyncio.run(lived()) > 0


def test_a_full_disk_costs_that_it_is_not_kept(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as folder:
        lake, events = Lake(str(folder)), Counter[str]()
        kept = KeptAnswers(lake, 1 << 30)
        with pytest.raises(StoreFullError):
            kept.write(key(1), os.urandom(1 << 20))
        assert kept.read(key(1)) is None
        answers = Answers(8 << 20, [kept], tell=lambda event: events.update([event]))

        async def compute() -> Content:
            return Content(os.urandom(1 << 20), 1, "d", False)

        async def lived() -> list[str]:
            found = [(await answers.get(key(number), compute, settled=True))[1] for number in (1, 1, 2)]
            await answers.close()
            return found

        assert asyncio.run(lived()) == ["computed", "memory", "computed"]
        assert events["lake failed"] >= 1
        assert not list(folder.rglob("*.unfinished"))


# In Redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that lives is waited for, however busy the machine is."""
    monkeypatch.setattr("blyan.query.shared_answers.TIMEOUT_S", 30.0)
    monkeypatch.setattr(SharedAnswers, "wait_s", 30.0)


def entry(number: int) -> Content:
    rows = pa.table({"n": [number]})
    return Content(rows_in_bytes(rows.to_batches(), rows.schema), 1, str(number), False)


def sources_of(url: str, *rounds: list[int], between: Any = None) -> tuple[list[list[str]], Counter[str]]:
    """Where answers came from, in rounds by a replica each; with what happened."""
    events = Counter[str]()

    async def lived() -> list[list[str]]:
        found = []
        for numbers in rounds:
            room = SharedAnswers(url, tell=lambda event: events.update([event]))
            answers = Answers(1 << 20, [room], tell=lambda event: events.update([event]))
            sources = []
            for number in numbers:

                async def compute(number: int = number) -> Content:
                    return entry(number)

                content, source = await answers.get(key(number), compute, settled=False)
                assert content == entry(number)
                sources.append(source)
            await answers.close()
            found.append(sources)
            if between is not None:
                await asyncio.to_thread(between)
        return found

    return asyncio.run(lived()), events


@pytest.mark.usefixtures("patient")
def test_replicas_share_what_one_computed(redis: RedisServer) -> None:
    found, events = sources_of(redis.url, [1, 2, 1], [1, 2, 3])
    assert found == [["computed", "computed", "memory"], ["redis", "redis", "computed"]]
    assert events["put redis"] == 3


@pytest.mark.parametrize("how", ["stop", "freeze"])
def test_a_redis_that_dies_half_way_costs_one_short_wait(redis: RedisServer, how: str) -> None:
    """Killed, or taking connections and answering nothing; each replica finds out once, and hundred answers are given meanwhile."""
    found, events = sources_of(redis.url, [1], list(range(100)), between=getattr(redis, how))
    assert found[1] == ["computed"] * 100
    assert 1 <= events["redis failed"] <= 3, "asked once, and not again for a while"


@pytest.mark.usefixtures("patient")
def test_a_redis_that_comes_back_is_used_again(redis: RedisServer) -> None:
    redis.stop()
    assert sources_of(redis.url, [1])[0] == [["computed"]]
    redis.start()
    assert sources_of(redis.url, [1], [1])[0] == [["computed"], ["redis"]]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("damage", ["garbage", "half", "foreign", "another format", "empty", "another type"])
def test_what_is_not_what_was_put_is_a_miss(redis: RedisServer, damage: str) -> None:
    assert sources_of(redis.url, [1, 2])[0] == [["computed", "computed"]]

    async def spoil() -> None:
        from redis.asyncio import Redis

        client = Redis.from_url(redis.url)
        one, other = PREFIX + key(1), PREFIX + key(2)
        stored = await client.get(one)
        if damage == "another type":
            await client.delete(one)
            await client.hset(one, "a", "b")
        else:
            spoiled = {"garbage": os.urandom(500), "half": stored[: len(stored) // 2], "foreign": await client.get(other), "empty": b""}
            await client.set(one, spoiled.get(damage, b"\x00" * 32 + stored[32:]))
        await client.aclose()

    asyncio.run(spoil())
    found, events = sources_of(redis.url, [1])
    assert found == [["computed"]]
    assert events["redis damaged"] + events["redis failed"] >= 1


@pytest.mark.usefixtures("patient")
def test_what_was_put_without_the_secret_is_a_miss(redis: RedisServer) -> None:
    """Whoever may write into Redis, and knows all of this code, gives nobody an answer."""
    secret, other = SecretStr("s" * 32), SecretStr("t" * 32)

    async def lived() -> list[bytes | None]:
        found = []
        for number, writer in enumerate((None, other, secret)):
            room, reader = SharedAnswers(redis.url, writer), SharedAnswers(redis.url, secret)
            await room.put(key(number), b"entry")
            found.append(await reader.get(key(number)))
            await room.close()
            await reader.close()
        return found

    assert asyncio.run(lived()) == [None, None, b"entry"]


def test_a_room_that_hangs_is_given_up_and_not_asked_again(tmp_path: Path) -> None:
    asked: list[str] = []

    class Hanging(KeptAnswers):
        async def get(self, key: str) -> bytes | None:
            asked.append(key)
            await asyncio.sleep(3_600)
            raise TransientError(key)

    async def lived() -> None:
        answers = Answers(1 << 20, [Hanging(Lake(str(tmp_path)), 1_000)])

        async def compute() -> Content:
            return entry(1)

        for number in range(50):
            await answers.get(key(number), compute, settled=True)

    asyncio.run(lived())
    assert len(asked) == 1
