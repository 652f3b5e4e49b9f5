"""API keys: made, found, listed and revoked.

Belongs here: keys and where they are kept. Does not belong here: what a role may (`blyan.api.callers`).

A key is `blyan_<id>_<secret>`. The lake keeps one small object a key, `serving/keys/<id>.json`, so that every replica over it knows the
same keys and two operators never write the same object. It holds the SHA-256 of the secret and never the secret: the secret is 256 random
bits, which nobody guesses, so a slow hash would protect nothing and would cost every request.

A service looks a key up again after `KNOWN_S`: a revoked key is refused by then everywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec import Struct

from blyan.api.callers import Principal, Role, Scope
from blyan.api.problems import UNAUTHENTICATED, RequestError
from blyan.errors import MissingObjectError, PermanentError
from blyan.lake import Lake

FOLDER = "serving/keys"

PREFIX = "blyan_"

ID_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
"""Without l, o, 0 and 1, which people confuse."""

SECRET_BYTES = 32

KNOWN_S = 5.0
"""Seconds for which a service relies on what it read of a key."""

KNOWN = 10_000
"""Keys that a service remembers, those that do not exist included."""

_KEY = re.compile(rf"{PREFIX}([{ID_LETTERS}]{{10}})_([A-Za-z0-9_-]{{43}})")

CHALLENGE = {"www-authenticate": 'Bearer realm="blyan"'}


class Key(Struct, frozen=True):
    """What is kept of a key. Times are Unix seconds.

    Attributes:
        sha256: of the secret, hex.
    """

    id: str
    sha256: str
    role: Role
    scopes: list[Scope]
    created: float
    name: str = ""
    expires: float | None = None
    revoked: float | None = None

    def principal(self, via: str = "key") -> Principal:
        """The caller that shows it."""
        return Principal(f"key:{self.id}", self.role, frozenset(self.scopes), via, self.name, self.expires)

    def state(self, now: float) -> str:
        """`revoked`, `expired` or `valid`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


def create(lake: Lake, role: Role, scopes: frozenset[Scope], *, name: str = "", lasts_s: float | None = None, now: float | None = None) -> str:
    """Make a key and keep its hash; the key itself, which nobody can show again."""
    moment = time.time() if now is None else now
    identity = "".join(secrets.choice(ID_LETTERS) for _ in range(10))
    secret = secrets.token_urlsafe(SECRET_BYTES)
    key = Key(
        identity,
        hashlib.sha256(secret.encode()).hexdigest(),
        role,
        sorted(scopes),
        moment,
        name,
        None if lasts_s is None else moment + lasts_s,
    )
    _write(lake, key)
    return f"{PREFIX}{identity}_{secret}"


def listed(lake: Lake) -> list[Key]:
    """Every key that was made, the oldest first, those that no longer count included."""
    names = [name for name in lake.store.listed(FOLDER) if name.endswith(".json")]
    return sorted((_read(lake, name.removesuffix(".json")) for name in names), key=lambda key: key.created)


def revoke(lake: Lake, identity: str, *, now: float | None = None) -> Key:
    """Make a key count no more; again changes nothing.

    Raises:
        PermanentError: there is no such key.
    """
    try:
        key = _read(lake, identity)
    except MissingObjectError as error:
        raise PermanentError(f"there is no key {identity}", where=FOLDER, remedy="`blyan keys list` names them") from error
    if key.revoked is None:
        key = msgspec.structs.replace(key, revoked=time.time() if now is None else now)
        _write(lake, key)
    return key


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `15m`, `12h` or `30d`.

    Raises:
        PermanentError: it is none of them.
    """
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not found or not int(found[1]):
        raise PermanentError(f"{text!r} is no duration", where="--expires", remedy="write it as 90s, 15m, 12h or 30d")
    return int(found[1]) * {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}[found[2]]


def parse(text: str) -> tuple[str, str] | None:
    """Identity and secret of what looks like a key; None of anything else."""
    found = _KEY.fullmatch(text)
    return (found[1], found[2]) if found else None


class KeyRing:
    """The keys of a lake as one service knows them.

    Args:
        lake: where they are.
        now: Unix seconds.
        clock: seconds that never go back.
    """

    def __init__(self, lake: Lake, *, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        self._lake, self._now, self._clock = lake, now, clock
        self._known: OrderedDict[str, tuple[float, Key | None]] = OrderedDict()

    async def holder(self, identity: str, secret: str) -> Principal:
        """Who shows a key.

        Raises:
            RequestError: no such key, another secret, expired or revoked; which of them is not told to those without the secret.
        """
        key = await self._find(identity)
        shown = hashlib.sha256(secret.encode()).hexdigest()
        # Compared even where there is none, so that the time tells nothing.
        if not hmac.compare_digest(key.sha256 if key else "0" * 64, shown) or key is None:
            raise unknown("there is no such key")
        self._check(key)
        return key.principal()

    async def standing(self, identity: str) -> Key:
        """A key that counts, by its identity: for tokens that were made from it.

        Raises:
            RequestError: it counts no more.
        """
        key = await self._find(identity)
        if key is None:
            raise unknown("there is no such key")
        self._check(key)
        return key

    def _check(self, key: Key) -> None:
        state = key.state(self._now())
        if state != "valid":
            raise unknown(f"the key {key.id} is {state}")

    async def _find(self, identity: str) -> Key | None:
        known = self._known.get(identity)
        if known and self._clock() - known[0] < KNOWN_S:
            return known[1]
        key = await asyncio.to_thread(self._look, identity)
        self._known[identity] = (self._clock(), key)
        self._known.move_to_end(identity)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return key

    def _look(self, identity: str) -> Key | None:
        try:
            return _read(self._lake, identity)
        except MissingObjectError:
            return None


def unknown(what: str) -> RequestError:
    """The refusal of somebody who is not known."""
    remedy = "send `Authorization: Bearer` with a key of `blyan keys create`, or a token of POST /v1/tokens"
    return RequestError(UNAUTHENTICATED, what, remedy=remedy, headers=CHALLENGE)


def _path(identity: str) -> str:
    return f"{FOLDER}/{identity}.json"


def _read(lake: Lake, identity: str) -> Key:
    if not identity or set(identity) - set(ID_LETTERS):
        raise MissingObjectError("no key has such an identity", where=FOLDER, remedy="`blyan keys list` names them")
    content = lake.store.get(_path(identity))
    try:
        return msgspec.json.decode(content, type=Key)
    except msgspec.DecodeError as error:
        raise PermanentError(f"it cannot be read: {error}", where=_path(identity), remedy="delete it, and make another key") from error


def _write(lake: Lake, key: Key) -> None:
    lake.store.put(_path(key.id), msgspec.json.encode(key))
