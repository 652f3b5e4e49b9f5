"""What a sensor remembers between its ticks, as text.

Belongs here: reading it back. Does not belong here: what each sensor remembers, or what it costs to have forgotten, which its own
module says.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec


class Versioned(Protocol):
    """A struct of which every field has a default, and `format` the number of the layout that is written now."""

    @property
    def format(self) -> int:
        """Number of its layout."""
        ...


Memory = TypeVar("Memory", bound=Versioned)


def read_cursor(text: str | None, kind: type[Memory]) -> Memory:
    """The cursor; an empty one where it is lost, cannot be read or is of another format."""
    if text is None:
        return kind()
    try:
        cursor = msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        return kind()
    return cursor if cursor.format == kind().format else kind()
