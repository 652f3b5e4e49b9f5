"""Families: documents that are near-duplicates of each other, told from one of them alone.

Belongs here: what a family is. Does not belong here: what is done with one (`blyan.corpus.splits`).

A template (`blyan.corpus.templates`) is too narrow to keep near-duplicates on one side of a split: a swap that passes through one account
more has another template. Of recorded mainnet documents that were held out by template, 45 % had one among the others that they share
three quarters of their runs of five words with, numbers masked, and 22 % one that is the same but for numbers. Held out by family it
is 30 % and 0.4 %, which differ in the version of a program's name (means of ten keys; `tests/mainnet/test_recorded_tokens.py` has one).
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?<![A-Za-z0-9])@?[0-9]+(?:\.[0-9]+)?")


def family_of(masked: str) -> str:
    """What near-duplicates share: which lines there are, whoever is meant, however often, in whatever order and depth.

    The first line is left out, since it tells the outcome; a text of one line is its family.

    Args:
        masked: a document's text with values masked. So a family is a set of templates: no template is in two.
    """
    first, _, rest = _NUMBER.sub("#", masked).partition("\n")
    return "\n".join(sorted({line.removeprefix("> ") for line in rest.split("\n")})) if rest else first
