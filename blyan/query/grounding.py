"""What a language model says, held against the results that it was shown.

Belongs here: finding signatures, slots, links and numbers in words while they come, and whether the results have them. Does not belong here:
asking a model (`blyan.query.answers`).

A signature, an account or a slot that no result has is taken out of the words; so are links, which nothing here needs and by which data
leaves. A number that no result has stays and is listed: it may be a sum of others, or made up, and nobody can tell from the words alone.

What strangers wrote into the results proves nothing: a signature or number that stands in a memo only is not one of the results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from blyan.query.marking import is_key, is_value

HELD_CHARACTERS = 4_096
"""A word that is longer is looked at in pieces."""

MOST_LISTED = 50

_KEY = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,}")
_LINK = re.compile(r"!?\[[^\]\n]*\]\([^)\n]*\)|\b(?:[a-z][a-z0-9+.-]{1,20}://|www\.|(?:data|javascript|mailto):)\S*", re.IGNORECASE)
_SLOT = re.compile(r"\b(slots?)(\s+(?:#|no\.\s*|number\s+)?)(\d(?:[\d,_]*\d)?)(?!\w)", re.IGNORECASE)
_UNNUMBERED = re.compile(r"\bslots?(?:\s+(?:#|no\.|number))?\s*$", re.IGNORECASE)
_BLANK = re.compile(r"\s")
_NUMBER = re.compile(r"(?<![\w.])-?\d(?:[\d,_]*\d)?(?:\.\d+)?(?!\w)")
_ORDINAL = re.compile(r"^\s*\d{1,2}[.)]\s", re.MULTILINE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')

NO_KEY, NO_SLOT, NO_LINK = "[not in the results]", "[a slot that is not in the results]", "[link taken out]"


class Grounds:
    """What may be said: keys, slots and numbers of a question and of results.

    Args:
        asked: words of the caller.
        results: of tools, as plain values.
    """

    def __init__(self, asked: Iterable[str], results: Iterable[Any]) -> None:
        self.keys: set[str] = set()
        self.slots: set[int] = set()
        self.numbers: set[Decimal] = set()
        for text in asked:
            self.keys.update(_KEY.findall(text))
            self._numbers_of(text)
            self.slots.update(int(found[2].replace(",", "").replace("_", "")) for found in _SLOT.findall(text))
        for result in results:
            self._take(result, "")

    def _take(self, value: Any, name: str) -> None:
        match value:
            case bool() | None:
                return
            case int() | float():
                self._number(str(value))
                if isinstance(value, int):
                    # Of a cell nobody can tell whether it is a slot: the columns of a statement have any names.
                    self.slots.add(value)
            case str():
                if is_key(value):
                    self.keys.add(value)
                elif is_value(value):
                    self._number(value)
                elif name == "text":
                    # A document is in this project's words; what others wrote stands in quotes there.
                    self._numbers_of(_QUOTED.sub(" ", value))
            case Mapping():
                for key, each in value.items():
                    self._take(each, key)
            case list() | tuple():
                self._number(str(len(value)))
                for each in value:
                    self._take(each, name)

    def _numbers_of(self, text: str) -> None:
        for found in _NUMBER.findall(text):
            self._number(found)

    def _number(self, text: str) -> None:
        if (number := _decimal(text)) is not None:
            self.numbers.add(number)


class Grounded:
    """Words that come in pieces, with what has no ground taken out.

    Attributes:
        removed: what was taken out.
        keys, slots: that were said and have a ground.
    """

    def __init__(self, grounds: Grounds) -> None:
        self._grounds, self._held, self._said = grounds, "", ""
        self.removed: list[str] = []
        self.keys: list[str] = []
        self.slots: list[int] = []

    def feed(self, piece: str) -> str:
        """Take words; returns those that can be said. What may be half a word, a slot without its number, or half a link is held back."""
        self._held += piece
        at = max((found.start() for found in _BLANK.finditer(self._held)), default=0)
        if len(self._held) > HELD_CHARACTERS:
            at = at or len(self._held)
        else:
            if unnumbered := _UNNUMBERED.search(self._held, 0, at):
                at = unnumbered.start()
            opened = self._held.rfind("[", 0, at)
            if opened >= 0 and ")" not in self._held[opened:at]:
                at = opened - (self._held[:opened].endswith("!"))
        ready, self._held = self._held[:at], self._held[at:]
        return self._checked(ready)

    def end(self) -> str:
        """The words that were held back."""
        ready, self._held = self._held, ""
        return self._checked(ready)

    @property
    def unsupported(self) -> list[str]:
        """Numbers that were said so far, and that no result has."""
        found = (text for text in _NUMBER.findall(_ORDINAL.sub("\n", self._said)) if _decimal(text) not in self._grounds.numbers)
        return list(dict.fromkeys(found))[:MOST_LISTED]

    def _checked(self, text: str) -> str:
        text = _LINK.sub(self._link, text)
        text = _KEY.sub(self._key, text)
        text = _SLOT.sub(self._slot, text)
        self._said += text
        return text

    def _link(self, found: re.Match[str]) -> str:
        return self._taken_out(found[0], NO_LINK)

    def _key(self, found: re.Match[str]) -> str:
        if found[0] in self._grounds.keys:
            self.keys.append(found[0])
            return found[0]
        return self._taken_out(found[0], NO_KEY)

    def _slot(self, found: re.Match[str]) -> str:
        number = int(found[3].replace(",", "").replace("_", ""))
        if number in self._grounds.slots:
            self.slots.append(number)
            return found[0]
        return self._taken_out(found[0], NO_SLOT)

    def _taken_out(self, what: str, mark: str) -> str:
        if len(self.removed) < MOST_LISTED:
            self.removed.append(what[:200])
        return mark


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text.replace(",", "").replace("_", ""))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
