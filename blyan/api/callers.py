"""Callers: who asks, and what a role may.

Belongs here: the principal that every route sees, roles, scopes and limits. Does not belong here: how somebody becomes one
(`blyan.api.keys`, `blyan.api.tokens`), how rates are counted (`blyan.api.rates`).

A route knows a `Principal` and nothing of how it came about, so another way to become one changes no route.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from blyan.api.problems import FORBIDDEN, RequestError
from blyan.errors import PermanentError
from blyan.query.sandbox import Limits as SqlLimits


class Role(StrEnum):
    """What a caller is, from least to most."""

    READER = "reader"
    ANALYST = "analyst"
    CONTRIBUTOR = "contributor"
    OPERATOR = "operator"


class Scope(StrEnum):
    """A right. A key or token may have fewer than its role."""

    READ = "read"
    LIVE = "live"
    SQL = "sql"
    CONTRIBUTE = "contribute"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may use.

    Attributes:
        requests_per_s: that refill the bucket; burst: that it holds.
        page_rows: rows of one page of REST.
        result_rows, result_bytes: of one answer to SQL; the rest comes with its cursor.
        seconds: that one query may run.
        memory_bytes: that one query may take.
        concurrency: queries at once, and live streams at once.
    """

    requests_per_s: float
    burst: int
    page_rows: int
    result_rows: int
    result_bytes: int
    seconds: float
    memory_bytes: int
    concurrency: int

    def of_sql(self) -> SqlLimits:
        """What one statement may take."""
        return SqlLimits(seconds=self.seconds, memory=self.memory_bytes, rows=self.result_rows, bytes=self.result_bytes, concurrency=self.concurrency)


LIMITS = {
    Role.READER: Limits(10, 40, 500, 10_000, 16 << 20, 10, 256 << 20, 2),
    Role.ANALYST: Limits(50, 200, 1_000, 100_000, 128 << 20, 30, 512 << 20, 4),
    Role.CONTRIBUTOR: Limits(50, 200, 1_000, 100_000, 128 << 20, 30, 512 << 20, 4),
    Role.OPERATOR: Limits(200, 800, 1_000, 1_000_000, 1 << 30, 120, 1 << 30, 8),
}
"""The limits of each role."""

MOST = LIMITS[Role.OPERATOR]
"""What nobody may exceed."""

SCOPES = {
    Role.READER: frozenset({Scope.READ, Scope.LIVE}),
    Role.ANALYST: frozenset({Scope.READ, Scope.LIVE, Scope.SQL}),
    Role.CONTRIBUTOR: frozenset({Scope.READ, Scope.LIVE, Scope.SQL, Scope.CONTRIBUTE}),
    Role.OPERATOR: frozenset(Scope),
}
"""The most that each role may."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        id: the same for all requests that share a budget, such as `key:7f3k2p9a`.
        role: decides the limits.
        scopes: what it may.
        via: how it was told, `key`, `token` or `anonymous`, for the audit log.
        name: what its owner calls it.
        expires: Unix seconds after which it is nobody; None: never.
    """

    id: str
    role: Role
    scopes: frozenset[Scope]
    via: str
    name: str = ""
    expires: float | None = None

    @property
    def limits(self) -> Limits:
        """What it may use."""
        return LIMITS[self.role]

    def require(self, scope: Scope) -> None:
        """Refuse what it may not do.

        Raises:
            RequestError: it lacks the scope.
        """
        if scope not in self.scopes:
            roles = ", ".join(role for role in Role if scope in SCOPES[role])
            raise RequestError(FORBIDDEN, f"this needs the scope `{scope}`", remedy=f"use a key of role {roles}, or a token that keeps the scope")

    def narrowed(self, scopes: frozenset[Scope]) -> Principal:
        """The same caller with fewer rights; those that it lacks are not given."""
        return replace(self, scopes=self.scopes & scopes)


def parse_scopes(names: list[str] | None, role: Role) -> frozenset[Scope]:
    """Scopes by name, all of the role's where none are named.

    Raises:
        PermanentError: there is no such scope, or the role has it not.
    """
    if not names:
        return SCOPES[role]
    allowed = {str(scope) for scope in SCOPES[role]}
    if wrong := sorted(set(names) - allowed):
        raise PermanentError(f"a {role} has no scope {', '.join(wrong)}", where="scopes", remedy=f"choose from {', '.join(sorted(allowed))}")
    return frozenset(map(Scope, names))


def anonymous(address: str) -> Principal:
    """Whoever asks from an address, without a key."""
    return Principal(f"anonymous:{address}", Role.READER, SCOPES[Role.READER], "anonymous")
