"""Short-lived tokens: what a caller with a key hands to a program that is not to have the key.

Belongs here: signing and reading tokens. Does not belong here: keys (`blyan.api.keys`).

A token is a JWT signed with HMAC-SHA-256: only the service that signs reads it, so a public key would serve nobody. It names the key
that it was made from and counts only while that key does; its scopes are those of the key or fewer.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from blyan.api.callers import Principal, Scope
from blyan.api.keys import KeyRing, unknown

ALGORITHM = "HS256"
"""The one that is accepted, whatever a token's header says."""

ISSUER = "blyan"

LONGEST_S = 3_600
"""A token's life at most, seconds."""

SECRET_BYTES = 32


def new_secret() -> str:
    """A random secret to sign with."""
    return secrets.token_urlsafe(SECRET_BYTES)


class Tokens:
    """Signs tokens and reads them.

    Args:
        secret: that all replicas share.
        keys: that tokens are made from.
        now: Unix seconds.
    """

    def __init__(self, secret: str, keys: KeyRing, *, now: Callable[[], float] = time.time) -> None:
        self._key, self._keys, self._now = OctKey.import_key(secret), keys, now

    def sign(self, caller: Principal, scopes: frozenset[Scope], lasts_s: int) -> tuple[str, float]:
        """A token of a caller who showed a key, and when it ends in Unix seconds: no later than the key."""
        ends = min(self._now() + min(lasts_s, LONGEST_S), caller.expires or float("inf"))
        kept = sorted(caller.scopes & scopes)
        claims = {"iss": ISSUER, "sub": caller.id.removeprefix("key:"), "exp": int(ends), "iat": int(self._now()), "scope": " ".join(kept)}
        return jwt.encode({"alg": ALGORITHM}, claims, self._key, algorithms=[ALGORITHM]), float(int(ends))

    async def holder(self, token: str) -> Principal:
        """Who shows a token.

        Raises:
            Refused: it is not one of ours, is over, or its key counts no more.
        """
        try:
            claims = jwt.decode(token, self._key, algorithms=[ALGORITHM]).claims
            subject, ends, issuer, scopes = str(claims["sub"]), float(claims["exp"]), claims["iss"], str(claims["scope"]).split()
        except (JoseError, KeyError, ValueError, TypeError) as error:
            raise unknown("it is neither a key nor a token of this service") from error
        if issuer != ISSUER or ends <= self._now():
            raise unknown("the token is over")
        key = await self._keys.standing(subject)
        return key.principal("token").narrowed(frozenset(scope for scope in Scope if scope in scopes))
