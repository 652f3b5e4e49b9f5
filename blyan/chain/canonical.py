r"""Canonical JSON: the bytes that are hashed and signed.

Belongs here: RFC 8785 for what a chain may say. Does not belong here: which keys an object has (`blyan.chain.block` and others).

What a chain may say is less than JSON: no fractions and no exponents (money and tensors are no floats here, and time does not fit one),
integers that every reader keeps exactly (RFC 7493: up to 2^53 - 1), keys in ASCII, text in Unicode's normal form C. On these values
RFC 8785 is what msgspec writes with sorted keys, in 0.6 µs a header where the package `rfc8785` takes 32; tests compare the two on values
of all kinds, and with the vectors of the RFC.

`parse` takes nothing but the canonical bytes of a value: what it read is written again and compared. So a key that stands twice, a
space, `1e2`, `-0`, `\u0041` and whatever else two readers could take for different things is refused without a rule for each.
"""

from __future__ import annotations

import unicodedata

import msgspec

from blyan.errors import PermanentError

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]

MAX_INTEGER = 2**53 - 1
"""RFC 7493, section 2.2: beyond it doubles are not exact, and RFC 8785 knows only doubles."""

MAX_DEPTH = 16
"""Arrays and objects in one another."""

_ENCODER = msgspec.json.Encoder(order="sorted")


class NotCanonicalError(PermanentError):
    """A value that a chain may not say, or bytes that are not its canonical form."""


def canonical(value: object) -> bytes:
    """The canonical bytes of a value: None, bool, int, str, list, and dict with ASCII keys.

    Raises:
        NotCanonicalError: the value, or one in it, may not stand in a chain.
    """
    check(value)
    return _ENCODER.encode(value)


def encode(value: object) -> bytes:
    """The same for what was checked: the structs of a block, and values that `check` let pass."""
    return _ENCODER.encode(value)


def parse(data: bytes, *, where: str = "canonical JSON") -> Json:
    """The value of which these are the canonical bytes.

    Raises:
        NotCanonicalError: they are not JSON, not canonical, or hold what a chain may not say.
    """
    try:
        value: Json = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotCanonicalError(f"it is not JSON: {error}", where=where, remedy="write it by RFC 8785") from error
    check(value, where=where)
    if _ENCODER.encode(value) != data:
        raise NotCanonicalError("it is not in canonical form", where=where, remedy="write it by RFC 8785: sorted keys, each once, no spaces")
    return value


def check(value: object, *, where: str = "canonical JSON") -> None:
    """Refuse what a chain may not say.

    Raises:
        NotCanonicalError: a float, an integer beyond 2^53 - 1, text that is not in normal form C, a key beyond ASCII, more than 16 levels.
    """
    pending: list[tuple[object, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth == MAX_DEPTH and type(item) in (dict, list):
            raise NotCanonicalError(f"more than {MAX_DEPTH} levels", where=where, remedy="put it into the payload")
        if type(item) is dict:
            for key, child in item.items():
                if type(key) is not str or not key.isascii():
                    raise NotCanonicalError(f"the key {key!r}", where=where, remedy="keys are text in ASCII")
                pending.append((child, depth + 1))
        elif type(item) is list:
            pending.extend((child, depth + 1) for child in item)
        elif (problem := _problem(item)) is not None:
            raise NotCanonicalError(problem, where=where, remedy="docs/chain.md says what a value may be")


def _problem(item: object) -> str | None:
    """What is wrong with a value that holds no others."""
    if type(item) is str:
        if item.isascii():
            return None
        if not unicodedata.is_normalized("NFC", item):
            return f"{item!r} is not in Unicode's normal form C"
        return f"{item!r} has half of a surrogate pair" if any("\ud800" <= letter <= "\udfff" for letter in item) else None
    if type(item) is int:
        return None if -MAX_INTEGER <= item <= MAX_INTEGER else f"the integer {item} is beyond 2^53 - 1"
    return None if item is None or type(item) is bool else f"{item!r} is a {type(item).__name__}"
