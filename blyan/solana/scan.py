"""JSON arrays of alike objects as columns, straight from their text: no object is made for each.

Belongs here: finding the fields of objects that have the same keys in the same order, as those of one node do. Does not
belong here: what the fields mean, or arrays of plain numbers and strings (`blyan.solana.columns`).

The text is valid JSON, which msgspec made sure of when it skipped over it. In it every string lies between two quotes, so
that if objects are alike, string k of one is string k of all: the quotes are a table of objects by strings. That they are
alike is checked, not assumed: every key, and the punctuation around every string. Where they are not (pretty-printed text,
escapes, two spellings mixed), the caller's struct reads them, writes them out alike, and the scan reads that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blyan.errors import BadRecordError
from blyan.solana.columns import Ints, Mask, joined, spans, words

_SPACE, _QUOTE, _COMMA, _COLON, _OPEN, _BACKSLASH, _CLOSE, _OPEN_BRACE, _CLOSE_BRACE = b' ",:[\\]{}'
_INTEGER = re.compile(rb"(-?\d{1,18})\s*[,}]")


@dataclass(slots=True)
class Objects:
    """Objects of some arrays, flat.

    Attributes:
        text, characters: of all arrays, with room behind them.
        counts: objects of each array.
        opens, closes: (objects, strings) where the quotes of each string are.
        column: which string each key is.
    """

    text: bytes
    characters: npt.NDArray[np.uint8]
    counts: Ints
    opens: Ints
    closes: Ints
    column: dict[str, int]

    def __len__(self) -> int:
        return len(self.opens)

    def __contains__(self, key: str) -> bool:
        return key in self.column

    def strings(self, key: str) -> pa.StringArray:
        """Values of a key that `objects` was told is text.

        Raises:
            BadRecordError: there is no such key.
        """
        at = self._column(key) + 1
        if not len(self):
            return pa.array([], pa.string())
        starts = self.opens[:, at] + 1
        return spans(self.text, starts, self.closes[:, at] - starts)

    def integers(self, key: str) -> tuple[Ints, Mask]:
        """Values of a key that are all integers or null: 0 where null, and True there.

        Raises:
            BadRecordError: they are something else.
        """
        at = self._values(key)
        # The longest numbers here are 255, and most have one digit.
        four = words(self.text, np.uint32)[at]
        first, second, third, fourth = ((four >> np.uint32(8 * place)).astype(np.uint8) for place in range(4))
        null = first == ord("n")
        one, two = (second ^ 48) >= 10, (third ^ 48) >= 10
        values = np.where(one, first & 15, np.where(two, (first & 15) * 10 + (second & 15), 0)).astype(np.int64)
        three = ~(one | two)
        if three.any():
            values[three] = (first[three] & 15) * np.int64(100) + (second[three] & 15) * 10 + (third[three] & 15)
        end = np.where(one, second, np.where(two, third, fourth))
        other = ((first ^ 48) >= 10) | ((end != _COMMA) & (end != _CLOSE_BRACE))
        if other.any():
            values[null] = 0
            for row in np.flatnonzero(other & ~null).tolist():
                found = _INTEGER.match(self.text, int(at[row]))
                if found is None:
                    raise BadRecordError(f"{key} is not an integer", reason="malformed_transaction")
                values[row] = int(found[1])
        return values, null

    def flags(self, key: str) -> Mask:
        """Values of a key that are all booleans.

        Raises:
            BadRecordError: they are not.
        """
        first = self.characters[self._values(key)]
        true: Mask = first == ord("t")
        if (~true & (first != ord("f"))).any():
            raise BadRecordError(f"{key} is not true or false", reason="malformed_transaction")
        return true

    def arrays(self, key: str) -> pa.StringArray:
        """JSON text of values of a key that are all arrays of numbers.

        Raises:
            BadRecordError: they are not arrays.
        """
        starts = self._values(key)
        if (self.characters[starts] != _OPEN).any():
            raise BadRecordError(f"{key} is not an array", reason="malformed_transaction")
        brackets = np.flatnonzero(self.characters == _CLOSE)
        ends = brackets[np.searchsorted(brackets, starts)]
        return spans(self.text, starts, ends + 1 - starts)

    def _column(self, key: str) -> int:
        if key not in self.column and len(self):
            raise BadRecordError(f"an object lacks {key}", reason="malformed_transaction")
        return self.column.get(key, 0)

    def _values(self, key: str) -> Ints:
        """Where the values of a key begin."""
        if not len(self):
            return np.zeros(0, np.int64)
        after: Ints = self.closes[:, self._column(key)] + 2
        after += self.characters[after] == _SPACE
        return after


def objects(arrays: Sequence[bytes], texts: Sequence[str], rewrite: Callable[[bytes], Sequence[bytes]]) -> Objects:
    """Read arrays of objects that should be alike.

    Args:
        arrays: JSON texts of arrays.
        texts: keys whose values, where there are such keys, must be strings.
        rewrite: reads a JSON array of all of them, and writes each again so that their objects are alike.

    Raises:
        BadRecordError: they are not arrays of alike objects even then; or what `rewrite` raises.
    """
    read = _alike(arrays, texts) or _alike(rewrite(b"[" + b",".join(arrays) + b"]"), texts)
    if read is None:
        raise BadRecordError("objects of an array differ in kind", reason="malformed_transaction")
    return read


def _alike(arrays: Sequence[bytes], texts: Sequence[str]) -> Objects | None:
    """The objects if they are alike."""
    text, characters = joined(arrays)
    quotes = np.flatnonzero(characters == _QUOTE)
    if not len(quotes):
        empty = np.zeros((0, 0), np.int64)
        blank = text.translate(None, b" \n\r\t\0") == b"[]" * len(arrays)
        return Objects(text, np.frombuffer(text, np.uint8), np.zeros(len(arrays), np.int64), empty, empty, {}) if blank else None
    if _OPEN_BRACE not in text or _BACKSLASH in text or characters.max() >= 128 or not _is_regular(characters):
        return None
    first = _Strings.of(text)
    width = len(first.keys)
    if not width or len(quotes) % (2 * width) or not first.texts.issuperset(key for key in texts if key in first.keys):
        return None
    opens, closes = quotes[::2].reshape(-1, width), quotes[1::2].reshape(-1, width)
    # Before each string its own punctuation, and whether that follows a closed brace or bracket; after it, likewise.
    before = opens - 1
    before -= characters[before] == _SPACE
    punctuation = characters[before]
    earlier = characters[before[:, 1:] - 1]
    closed = (earlier == _CLOSE) | (earlier == _CLOSE_BRACE)
    after = characters[closes + 1]
    if (
        (punctuation != punctuation[0]).any()
        or (closed != closed[0]).any()
        or ((after == _COLON) != [key is not None for key in first.keys]).any()
        or np.count_nonzero(characters == _OPEN_BRACE) != len(opens) * first.braces
        or np.count_nonzero(characters == _OPEN) != len(opens) * first.brackets + len(arrays)
    ):
        return None
    keys = [place for place, key in enumerate(first.keys) if key is not None]
    begins = opens[:, keys] + 1
    sizes = closes[:, keys] - begins
    if (sizes != sizes[0]).any():
        return None
    eights = words(text, np.uint64)
    for place in range(0, int(sizes[0].max()), 8):
        # What lies behind the end of a key is the value's, not the key's.
        kept = np.clip(sizes[0] - place, 0, 8)
        longer = np.flatnonzero(kept)
        mask = np.array([(1 << 8 * int(size)) - 1 for size in kept[longer]], np.uint64)
        piece = eights[begins[:, longer] + place] & mask
        if (piece != piece[0]).any():
            return None
    counts = _counts(characters, arrays, before[:, 0])
    if counts is None:
        return None
    return Objects(
        text, np.frombuffer(text, np.uint8), counts, opens, closes, {key: place for place, key in enumerate(first.keys) if key is not None}
    )


def _counts(characters: npt.NDArray[np.uint8], arrays: Sequence[bytes], braces: Ints) -> Ints | None:
    """How many objects, which open at `braces`, each array holds, if it holds nothing else."""
    sizes = np.fromiter(map(len, arrays), np.int64, len(arrays))
    ends = np.cumsum(sizes)
    counts: Ints = np.diff(np.searchsorted(braces, ends), prepend=0)
    some = np.flatnonzero(counts)
    first = np.cumsum(counts)[some] - counts[some]
    later = np.delete(braces, first)
    comma = later - 1
    comma -= characters[comma] == _SPACE
    alone = (
        (sizes[counts == 0] == len(b"[]")).all()
        and (braces[first] == ends[some] - sizes[some] + 1).all()
        and (characters[ends[some] - 2] == _CLOSE_BRACE).all()
        and (characters[comma] == _COMMA).all()
        and (characters[comma - 1] == _CLOSE_BRACE).all()
    )
    return counts if alone else None


def _is_regular(characters: npt.NDArray[np.uint8]) -> bool:
    """Whether there is no space but one after colons and commas."""
    if characters.min() > _SPACE:
        return True
    low = characters <= _SPACE
    earlier = characters[:-1]
    usual = (characters[1:] == _SPACE) & ((earlier == _COLON) | (earlier == _COMMA))
    return bool(np.count_nonzero(usual) == np.count_nonzero(low))


@dataclass(slots=True)
class _Strings:
    """The strings of one object in order: the path of each key, as `outer.inner`, and None for values.

    `texts` are the keys whose values are strings; braces and brackets count those that open.
    """

    keys: list[str | None] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    braces: int = 0
    brackets: int = 0

    @classmethod
    def of(cls, text: bytes) -> _Strings:
        """Those of the first object in some text."""
        start = text.index(b"{")
        try:
            pairs, _ = _DECODER.raw_decode(text[start : start + _USUAL].decode("ascii"))
        except ValueError:
            pairs, _ = _DECODER.raw_decode(text[start:].decode("ascii"))
        strings = cls()
        strings._walk(pairs, "")
        return strings

    def _walk(self, value: object, path: str) -> None:
        if isinstance(value, _Pairs):
            self.braces += 1
            for key, item in value.pairs:
                self.keys.append(path + key)
                if isinstance(item, str):
                    self.texts.add(path + key)
                self._walk(item, f"{path}{key}.")
        elif isinstance(value, list):
            self.brackets += 1
            for item in value:
                self._walk(item, path)
        elif isinstance(value, str):
            self.keys.append(None)


@dataclass(slots=True)
class _Pairs:
    """A JSON object as it is written: in order, with keys that come twice."""

    pairs: list[tuple[str, object]]


_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs)
_USUAL = 1_000
"""Characters that an object usually fits into."""
