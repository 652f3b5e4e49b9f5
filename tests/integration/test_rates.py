"""Rates: a bucket in the process, and one in a real Redis that may die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.api.problems import OverloadedError
from blyan.api.rates import PAUSE_S, LocalBuckets, Rates, SharedBuckets
from blyan.errors import SettingError
from tests.redis_server import RedisServer


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@given(
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 3)), min_size=1, max_size=40),
    rate=st.sampled_from([0.5, 1.0, 10.0]),
    burst=st.integers(1, 20),
)
def test_never_more_is_taken_than_the_bucket_held_and_was_refilled(steps: list[tuple[float, int]], rate: float, burst: int) -> None:
    now = 0.0
    buckets = LocalBuckets(lambda: now)
    taken = 0
    for pause, wanted in steps:
        now += pause
        found = buckets.take("a", rate, burst, wanted)
        taken += wanted if found.wait_s == 0 else 0
        assert taken <= burst + rate * now + 1e-6
        if found.wait_s and wanted <= burst:
            now += found.wait_s + 1e-6
            assert buckets.take("a", rate, burst, wanted).wait_s == 0, "after the wait there is enough"
            taken += wanted


def test_callers_have_buckets_of_their_own_and_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blyan.api.rates.BUCKETS", 3)
    buckets = LocalBuckets(lambda: 0.0)
    assert buckets.take("a", 1, 1).wait_s == 0
    assert buckets.take("a", 1, 1).wait_s > 0
    assert buckets.take("b", 1, 1).wait_s == 0
    for name in "cde":
        buckets.take(name, 1, 1)
    assert len(buckets._held) == 3


def test_replicas_share_one_bucket(redis: RedisServer) -> None:
    async def taken() -> int:
        replicas = [SharedBuckets(redis.url), SharedBuckets(redis.url)]
        found = await asyncio.gather(*(replicas[number % 2].take("a", 0.001, 10) for number in range(30)))
        for replica in replicas:
            assert replica.shared
            await replica.close()
        return sum(1 for each in found if each.wait_s == 0)

    assert asyncio.run(taken()) == 10


def test_a_bucket_in_redis_refills_and_is_forgotten_once_full(redis: RedisServer) -> None:
    async def lived() -> list[float]:
        from redis.asyncio import Redis

        buckets, client = SharedBuckets(redis.url), Redis.from_url(redis.url)
        found = [(await buckets.take("a", 20, 2)).wait_s for _ in range(3)]
        await asyncio.sleep(0.15)
        found.append((await buckets.take("a", 20, 2)).wait_s)
        assert 0 < await client.pttl("blyan:rate:a") <= 1_100 + 1
        await buckets.close()
        await client.aclose()
        return found

    first, second, third, later = asyncio.run(lived())
    assert (first, second, later) == (0, 0, 0)
    assert 0 < third <= 0.05


@pytest.mark.parametrize("way", ["freeze", "stop"])
def test_redis_may_die_and_come_back(redis: RedisServer, way: str) -> None:
    async def lived() -> None:
        rates = Rates(redis.url)
        await rates.take("a", 1, 100)
        assert rates.state == "redis"
        getattr(redis, way)()
        await rates.take("a", 1, 100)
        assert rates.state == "redis does not answer: process"
        began = time.monotonic()
        for _ in range(50):
            await rates.take("a", 1, 100)
        assert time.monotonic() - began < PAUSE_S, "nobody waits for a dead one"
        for _ in range(49):
            await rates.take("a", 0.001, 100)
        with pytest.raises(OverloadedError):
            await rates.take("a", 0.001, 100)
        redis.stop()
        redis.start()
        await asyncio.sleep(PAUSE_S + 0.1)
        await rates.take("a", 1, 100)
        assert rates.state == "redis"
        await rates.close()

    asyncio.run(lived())


def test_a_wrong_address_is_a_setting_error() -> None:
    with pytest.raises(SettingError, match="BLYAN_REDIS_URL"):
        SharedBuckets("http://nonsense")


def test_so_many_of_a_caller_are_at_work_at_once() -> None:
    async def lived() -> None:
        rates = Rates()
        async with rates.at_work("a", 2), rates.at_work("a", 2):
            with pytest.raises(OverloadedError, match="2 of the caller's are at work"):
                async with rates.at_work("a", 2):
                    raise AssertionError
            async with rates.at_work("b", 1):
                pass
        async with rates.at_work("a", 1):
            pass
        assert not rates._at_work

    asyncio.run(lived())
