"""A place in a statement, as people and editors count.

Belongs here: lines and columns. Does not belong here: finding what is wrong (`blyan.query.gate`, `blyan.query.worker`).
"""

from __future__ import annotations

from msgspec import Struct


class Position(Struct, frozen=True):
    """A place in a text: line and column, both from 1, in characters (code points)."""

    line: int
    column: int

    def after(self, text: str) -> Position:
        """The place behind a text that begins here."""
        lines = text.split("\n")
        return Position(self.line + len(lines) - 1, (self.column if len(lines) == 1 else 1) + len(lines[-1]))


START = Position(1, 1)
"""Where a text begins."""
