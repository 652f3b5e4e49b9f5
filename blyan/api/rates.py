"""Rates: how often a caller may ask, counted by a bucket of tokens; and how much of theirs is at work at once.

Belongs here: counting, in the process and in Redis. Does not belong here: what a role may (`blyan.api.callers`).

A bucket holds `burst` tokens and is refilled at a rate; a request takes one. Where BLYAN_REDIS_URL is set, all replicas take from the same
bucket, by one script that Redis runs whole. Redis may die: then each process counts for itself, `shared` says no, and Redis is
asked again after `PAUSE_S`, so that no request waits for a dead one. Counting never decides what an answer is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from blyan.api.problems import RATE_LIMITED, OverloadedError
from blyan.errors import SettingError

BUCKETS = 100_000
"""Callers that a process counts; the one that asked longest ago is forgotten, and begins with a full bucket."""

TIMEOUT_S = 0.25
"""Seconds for Redis to answer."""

PAUSE_S = 1.0
"""Seconds for which a Redis that failed is not asked."""

SCRIPT = """
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local rate, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local tokens, at = tonumber(held[1]) or burst, tonumber(held[2]) or now
tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
local wait = 0
if tokens >= wanted then tokens = tokens - wanted else wait = (wanted - tokens) / rate end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / rate * 1000) + 1000)
return {tostring(tokens), tostring(wait)}
"""
"""Takes from a bucket by Redis' own clock, so that replicas need not agree on the time. A full bucket is forgotten."""

log = logging.getLogger("blyan.api")


@dataclass(frozen=True, slots=True)
class Taken:
    """What is left, and seconds to wait where nothing was taken; 0 where something was."""

    left: float
    wait_s: float


class LocalBuckets:
    """Buckets of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, rate: float, burst: int, wanted: float = 1) -> Taken:
        """Take from a bucket, or take nothing and say how long to wait."""
        now = self._clock()
        tokens, at = self._held.get(name, (float(burst), now))
        tokens = min(float(burst), tokens + (now - at) * rate)
        enough = tokens >= wanted
        left = tokens - wanted if enough else tokens
        self._held[name] = (left, now)
        self._held.move_to_end(name)
        if len(self._held) > BUCKETS:
            self._held.popitem(last=False)
        return Taken(left, 0.0 if enough else (wanted - tokens) / rate)


class SharedBuckets:
    """Buckets in Redis, and those of this process while Redis does not answer.

    Args:
        url: `redis://host:port/db`, or `rediss://`.
        clock: seconds that never go back.

    Raises:
        SettingError: it is no such URL.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        from redis.asyncio import Redis

        try:
            self._redis: Any = Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, max_connections=64)
        except ValueError as error:
            raise SettingError(str(error), where="BLYAN_REDIS_URL", remedy="give redis://host:port/0") from error
        self._script = self._redis.register_script(SCRIPT)
        self._local, self._clock = LocalBuckets(clock), clock
        self._paused_until = 0.0
        self.shared = True

    async def take(self, name: str, rate: float, burst: int, wanted: float = 1) -> Taken:
        """Take from the bucket that all share, or from this process' own while there is no other."""
        from redis.exceptions import RedisError

        if self._clock() < self._paused_until:
            return self._local.take(name, rate, burst, wanted)
        try:
            async with asyncio.timeout(2 * TIMEOUT_S):
                left, wait = await self._script(keys=[f"blyan:rate:{name}"], args=[rate, burst, wanted])
        except (RedisError, OSError, TimeoutError) as error:
            if self.shared:
                log.warning("Redis does not answer: rates are counted in each process", extra={"error": type(error).__name__})
            self.shared, self._paused_until = False, self._clock() + PAUSE_S
            return self._local.take(name, rate, burst, wanted)
        if not self.shared:
            log.warning("Redis answers again: rates are counted together")
        self.shared = True
        return Taken(float(left), float(wait))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()


class Rates:
    """What callers may do now.

    Args:
        redis_url: where replicas count together; None: each process for itself.
    """

    def __init__(self, redis_url: str | None = None) -> None:
        self._shared = SharedBuckets(redis_url) if redis_url else None
        self._local = LocalBuckets()
        self._at_work: dict[str, int] = {}

    @property
    def state(self) -> str:
        """`process`, `redis`, or `redis does not answer: process`."""
        if self._shared is None:
            return "process"
        return "redis" if self._shared.shared else "redis does not answer: process"

    async def take(self, name: str, rate: float, burst: int) -> dict[str, str]:
        """Count a request of somebody; the headers that say what is left.

        Raises:
            OverloadedError: too many came.
        """
        taken = await self._shared.take(name, rate, burst) if self._shared else self._local.take(name, rate, burst)
        headers = {"ratelimit-limit": str(burst), "ratelimit-remaining": str(int(taken.left))}
        if taken.wait_s > 0:
            remedy = f"wait {taken.wait_s:.1f} s; {rate:g} requests a second refill a bucket of {burst}"
            raise OverloadedError(RATE_LIMITED, "the caller asks too often", remedy=remedy, retry_after_s=taken.wait_s, headers=headers)
        return headers

    @asynccontextmanager
    async def at_work(self, name: str, most: int) -> AsyncIterator[None]:
        """Something of somebody that takes long, of which there may be `most` at once in this process.

        Raises:
            OverloadedError: there are.
        """
        if self._at_work.get(name, 0) >= most:
            raise OverloadedError(
                RATE_LIMITED, f"{most} of the caller's are at work already", remedy="wait until one of them is over", retry_after_s=1.0
            )
        self._at_work[name] = self._at_work.get(name, 0) + 1
        try:
            yield
        finally:
            self._at_work[name] -= 1
            if not self._at_work[name]:
                del self._at_work[name]

    async def close(self) -> None:
        """Let go of Redis."""
        if self._shared:
            await self._shared.close()
