"""Hostile statements, each with the gate and with the gate switched off: nothing comes out, nothing is written, the next is served."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blyan.errors import BlyanError
from blyan.query.gate import RefusedError
from blyan.query.sandbox import Limits
from tests.sql_lake import BLOCKS, Asker, asking, make_lake

ATTACKS: dict[str, list[str]] = tomllib.loads((Path(__file__).parents[1] / "attacks" / "attacks.toml").read_text())
QUICK = [(kind, place) for kind, listed in ATTACKS.items() if kind != "bombs" for place in range(len(listed))]


TIGHT = Limits(seconds=5, memory=128 << 20, spill=16 << 20, rows=1_000, bytes=1 << 20)
BOMB = Limits(seconds=0.4, memory=128 << 20, spill=16 << 20, rows=1_000, bytes=1 << 20)

PATH, FILE, VARIABLE, OPTION, ROW, BLOB = "marker-of-the-path", "SECRET-FILE", "SECRET-VALUE", "SECRET-OPTION", "SECRET-ROW", "SECRET-BLOB"
MARKERS = (PATH, FILE, VARIABLE, OPTION, ROW, BLOB)


class Place:
    """Engines over one lake, and a folder with a secret beside it."""

    def __init__(self, outside: Path, lake: Path, askers: dict[bool, Asker]) -> None:
        self.outside, self.lake, self.askers = outside, lake, askers
        self.before = self.written()

    def written(self) -> dict[str, tuple[int, int]]:
        """Every file that is not the engines' own."""
        found = [*self.outside.rglob("*"), *(path for path in self.lake.rglob("*") if "query" not in path.relative_to(self.lake).parts)]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    def attack(self, sql: str, *, gated: bool, limits: Limits) -> str:
        """All that a stranger sees of a statement."""
        try:
            rows, answer = self.askers[gated].ask(sql, limits=limits, caller="stranger")
        except BlyanError as error:
            return f"{type(error).__name__} {error}"
        return repr([*rows, answer.columns, answer.reading])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text(f"{FILE},1\n")
    root = tmp_path_factory.mktemp(PATH) / "lake"
    lake = make_lake(root)
    lake.put_blob(BLOB.encode())
    os.environ["SECRET_VARIABLE"] = VARIABLE
    try:
        with asking(lake, folder=root / "query" / "gated") as gated, asking(lake, folder=root / "query" / "open", gated=False) as opened:
            for asker in (gated, opened):
                asker.rows(f"select '{ROW}' as a, slot from solana.blocks", caller="another")
            for sql in (f"create temp table other as select '{ROW}' a", f"create macro other_macro() as '{ROW}'", "create sequence other_sequence"):
                opened.run(_all(opened, sql))
            yield Place(outside, root, {True: gated, False: opened})
    finally:
        del os.environ["SECRET_VARIABLE"]


async def _all(asker: Asker, sql: str) -> None:
    async with await asker.engine.query(sql, caller="another") as answer:
        await answer.table()


def text_of(place: Place, kind: str, number: int) -> str:
    return ATTACKS[kind][number].format(secret=place.outside / "secret.txt", folder=place.outside)


def check(place: Place, seen: str, *, gated: bool) -> None:
    assert not [marker for marker in MARKERS if marker in seen], seen[:2_000]
    assert place.written() == place.before
    if gated and seen.startswith("RefusedError"):
        return  # it never came to a process
    assert place.askers[gated].rows("select count(*) from solana.blocks", caller="next") == [(BLOCKS,)]


@pytest.mark.parametrize(("kind", "number"), QUICK)
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "open"])
def test_nothing_comes_out_and_nothing_is_written(place: Place, kind: str, number: int, gated: bool) -> None:
    check(place, place.attack(text_of(place, kind, number), gated=gated, limits=TIGHT), gated=gated)


@pytest.mark.parametrize("number", [pytest.param(n, marks=[] if n % 4 == 1 else pytest.mark.slow) for n in range(len(ATTACKS["bombs"]))])
@pytest.mark.parametrize("gated", [pytest.param(True, marks=pytest.mark.slow, id="gated"), pytest.param(False, id="open")])
def test_a_bomb_ends_and_the_next_is_served(place: Place, number: int, gated: bool) -> None:
    check(place, place.attack(text_of(place, "bombs", number), gated=gated, limits=BOMB), gated=gated)


@pytest.mark.parametrize("name", ["other", "temp.other", "temp.main.other", "memory.main.other"])
def test_another_callers_table_is_not_there(place: Place, name: str) -> None:
    seen = place.attack(f"select * from {name}", gated=False, limits=TIGHT)
    assert "does not exist" in seen
    check(place, seen, gated=False)


def test_another_callers_macro_and_sequence_are_not_there(place: Place) -> None:
    for sql in ("select other_macro()", "select nextval('other_sequence')", "execute other", "select getvariable('other')"):
        check(place, place.attack(sql, gated=False, limits=TIGHT), gated=False)


def test_most_attacks_do_not_pass_the_gate(place: Place) -> None:
    """What passes is harmless: it reads nothing, or its own table."""
    passed = []
    for kind, number in QUICK:
        try:
            place.askers[True].run(place.askers[True].engine._checked(text_of(place, kind, number), None))
        except RefusedError:
            continue
        passed.append(text_of(place, kind, number))
    assert len(passed) < 10, passed


@pytest.mark.parametrize("marker", ["row", "file"])
def test_the_check_would_see_a_leak(place: Place, marker: str) -> None:
    """The negative control: a statement that does give a marker away fails the check."""
    sql = f"select '{ROW}' as a" if marker == "row" else "select 1 as a"
    seen = place.attack(sql, gated=True, limits=TIGHT)
    (place.outside / "written.csv").write_text("x") if marker == "file" else None
    try:
        with pytest.raises(AssertionError):
            check(place, seen, gated=True)
    finally:
        (place.outside / "written.csv").unlink(missing_ok=True)


def test_the_kernel_grants_every_layer_here(place: Place) -> None:
    """Elsewhere some may be refused, and `confinement` says so; the tests above are worth most where none is."""
    found: Any = place.askers[True].engine.confinement
    assert set(found.active) | set(found.refused) == {"no_new_privs", "namespaces", "not_dumpable", "landlock", "chroot", "seccomp"}
    assert "no_new_privs" in found.active
