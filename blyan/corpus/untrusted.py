"""Text that anyone may write into a transaction: memos, names of tokens.

Belongs here: making it safe to print, and saying what is odd about it. Does not belong here: what it is printed in. Such text is
data. It is kept, flagged and quoted; nothing that reads documents may do what it says.
"""

from __future__ import annotations

import re

import msgspec

MAX_CHARACTERS = 1_000
"""Longer text is cut there, and its length told: no memo is worth more tokens than a transaction."""

FLAGS = ("control_characters", "instruction_like", "invisible_characters", "long_text")
"""Every flag."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Marks that set or override the direction of text, and characters without width, which hide what a reader sees.
_INVISIBLE = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
_UNPRINTABLE = re.compile(f"{_CONTROL.pattern}|{_INVISIBLE.pattern}|[\u2028\u2029]")
_INSTRUCTION_LIKE = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instruction|prompt|rule|context)s?\b"
    r"|\bsystem prompt\b|\byou are now\b|\bact as\b|<\|?(?:im_start|im_end|system|assistant|user)\|?>|\bdo not (?:tell|reveal)\b",
    re.IGNORECASE | re.DOTALL,
)


def quote(text: str) -> str:
    """The text as one line in double quotes, as JSON has it, with what cannot be seen escaped."""
    shown = msgspec.json.encode(text[:MAX_CHARACTERS]).decode()
    shown = _UNPRINTABLE.sub(_escape, shown)
    return shown if len(text) <= MAX_CHARACTERS else f"{shown} (the first {MAX_CHARACTERS} of {len(text)} characters)"


def _escape(found: re.Match[str]) -> str:
    # As JSON escapes it: two surrogates above 16 bits.
    units = found[0].encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def flags_of(text: str) -> tuple[str, ...]:
    """What is odd about it, of `FLAGS` and in that order."""
    odd = (_CONTROL.search(text), _INSTRUCTION_LIKE.search(text), _INVISIBLE.search(text), len(text) > MAX_CHARACTERS)
    return tuple(name for name, found in zip(FLAGS, odd, strict=True) if found)
