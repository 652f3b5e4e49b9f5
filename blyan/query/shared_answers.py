"""Answers in Redis, where replicas of the service share them.

Belongs here: what is asked of Redis. Does not belong here: when it is asked (`blyan.query.cache`).

An entry stands under its key, behind a digest of key and entry: what was written half, or under another key, is none. Where the service has a
secret, the digest is an HMAC with it (RFC 2104, SHA-256), so what somebody without the secret wrote is none either; without one, whoever may
write into Redis may make up answers. `blyan serve` makes a secret of its own where it is given none.
Redis forgets an entry `LASTS_S` after it was last put, or earlier, as its own policy says; nothing is deleted by us.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from pydantic import SecretStr

from blyan.errors import SettingError, TransientError

LASTS_S = 3_600
"""Seconds for which Redis keeps an entry: beyond, the lake has what is asked for often."""

TIMEOUT_S = 0.25
"""Seconds for Redis to answer, as for the counting of rates."""

PREFIX = "blyan:answer:"

DIGEST_BYTES = 32


class SharedAnswers:
    """A room in Redis.

    Args:
        url: `redis://host:port/db`, or `rediss://`.
        secret: that all who share have; None: entries are not authenticated.
        tell: called with `redis damaged` where an entry is not what was put.

    Raises:
        SettingError: it is no such URL.
    """

    name = "redis"
    lasting = False
    wait_s = TIMEOUT_S

    def __init__(self, url: str, secret: SecretStr | None = None, tell: Callable[[str], None] = lambda _: None) -> None:
        from redis.asyncio import Redis

        try:
            self._redis: Any = Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, max_connections=64)
        except ValueError as error:
            raise SettingError(str(error), where="BLYAN_REDIS_URL", remedy="give redis://host:port/0") from error
        self._secret, self._tell = secret, tell

    async def get(self, key: str) -> bytes | None:
        """An entry that is what was put.

        Raises:
            TransientError: Redis did not answer.
        """
        found = await self._done(self._redis.get(PREFIX + key))
        if found is None:
            return None
        entry = bytes(found[DIGEST_BYTES:])
        if not hmac.compare_digest(bytes(found[:DIGEST_BYTES]), self._digest(key, entry)):
            self._tell("redis damaged")
            return None
        return entry

    async def put(self, key: str, entry: bytes) -> None:
        """Keep an entry for a while.

        Raises:
            TransientError: Redis did not take it.
        """
        await self._done(self._redis.set(PREFIX + key, self._digest(key, entry) + entry, ex=LASTS_S))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()

    async def _done(self, command: Any) -> Any:
        from redis.exceptions import RedisError

        try:
            # The client's own timeouts are of one step; this is of all of them.
            async with asyncio.timeout(self.wait_s):
                return await command
        except (RedisError, OSError, TimeoutError) as error:
            raise TransientError(f"Redis did not answer: {type(error).__name__}", remedy="it is asked again") from error

    def _digest(self, key: str, entry: bytes) -> bytes:
        # With the prefix, nothing that the secret signs elsewhere is an entry.
        content = (PREFIX + key).encode() + entry
        return hashlib.sha256(content).digest() if self._secret is None else hmac.digest(self._secret.get_secret_value().encode(), content, "sha256")
