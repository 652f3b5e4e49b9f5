"""The functions of DuckDB that a stranger's statement may call.

Belongs here: the lists, and why something is not on them. Does not belong here: finding calls in a statement (`blyan.query.gate`
with one parser, `blyan.query.worker` with DuckDB's own).

`functions_allowed.txt` has DuckDB's scalar functions, aggregates, macros and window functions, without those that read files,
settings, secrets, variables, catalogs or other statements, take pointers or foreign bytes for state of their own, write logs, or only
wait. It is a list and not a rule, so that a newer DuckDB adds nothing to it by itself: a test says what is new there.
"""

from __future__ import annotations

from functools import cache
from importlib import resources


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


TABLE_FUNCTIONS = words("range generate_series unnest json_each json_tree regexp_split_to_table")
"""Functions that may stand in FROM."""

VOLATILE = words(
    """
    random uuid uuidv4 uuidv7 gen_random_uuid now current_date current_time current_timestamp current_localtime current_localtimestamp
    get_current_time get_current_timestamp transaction_timestamp localtime localtimestamp today ago age reservoir_quantile
    """
)
"""Functions whose value is another one each time; `age` and `ago` look at the clock."""


@cache
def functions() -> frozenset[str]:
    """Every function that may be called."""
    return words(resources.files("blyan.query").joinpath("functions_allowed.txt").read_text()) | TABLE_FUNCTIONS
