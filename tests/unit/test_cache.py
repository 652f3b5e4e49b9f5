"""Remembered answers: the memory's bound, one computation for all who wait, rooms that fail, and looks that are shared."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.errors import PermanentError, TransientError
from blyan.query.cache import OVERHEAD, Answers, Breaker, Content, Looks, key_of, rows_in_bytes, unpacked

ROWS = pa.table({"n": [1, 2, 3], "text": ["a", None, "c"]})


def content(size: int = 0, digest: str = "d") -> Content:
    return (
        Content(b"x" * size, 1, digest, False)
        if size
        else Content(rows_in_bytes(ROWS.to_batches(), ROWS.schema), 3, digest, False, [("n", "BIGINT")])
    )


def making(made: Content | None, counted: list[int] | None = None, wait_s: float = 0.0) -> Callable[[], Any]:
    async def compute() -> Content | None:
        if counted is not None:
            counted.append(1)
        await asyncio.sleep(wait_s)
        return made

    return compute


class Shelf:
    """A room in memory that fails when it is told to: the failures of real ones are in tests/integration/test_remembered_answers.py."""

    name, wait_s = "shelf", 30.0

    def __init__(self, *, lasting: bool = False) -> None:
        self.lasting, self.held, self.asked = lasting, dict[str, bytes](), 0
        self.fails: Exception | None = None

    async def get(self, key: str) -> bytes | None:
        self.asked += 1
        if self.fails:
            raise self.fails
        return self.held.get(key)

    async def put(self, key: str, entry: bytes) -> None:
        if self.fails:
            raise self.fails
        self.held[key] = entry

    async def close(self) -> None:
        return


def run(what: Callable[[], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        return await what()

    return asyncio.run(inside())


def test_an_entry_reads_as_it_was_packed_and_another_format_is_none() -> None:
    made = content()
    made.keep_written("json", b"[1]")
    again = unpacked(made.packed())
    assert again == made
    assert again is not None
    assert again.table().equals(ROWS)
    assert again.written("json") is None, "what one process wrote is not sent to others"
    assert unpacked(Content(b"", 0, "d", False, format=2).packed()) is None
    assert unpacked(b"garbage") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4_000), st.integers(0, 3_000)), max_size=60))
def test_the_memory_is_bounded_and_counts_what_it_holds(steps: list[tuple[int, int, int]]) -> None:
    answers = Answers(10_000)

    async def lived() -> None:
        for name, size, written in steps:
            found, _ = await answers.get(str(name), making(content(size)), settled=True)
            assert found is not None
            found.keep_written("json", b"y" * written)
            assert answers.bytes <= 10_000
            held = sum(len(each.rows) + len(each.written("json") or b"") + OVERHEAD for each, _ in answers._held.values())
            assert held == answers.bytes

    asyncio.run(lived())


def test_fifty_who_come_together_wait_for_one_computation() -> None:
    events: Counter[str] = Counter()
    answers, counted = Answers(1 << 20, tell=lambda event: events.update([event])), list[int]()
    found = run(lambda: asyncio.gather(*(answers.get("k", making(content(9), counted, 0.05), settled=True) for _ in range(50))))
    assert len(counted) == 1
    assert Counter(source for _, source in found) == {"computed": 1, "joined": 49}
    assert (events["miss"], events["wait"]) == (1, 49)


def test_who_comes_while_a_computation_is_given_up_is_served() -> None:
    """Ending a statement takes a moment, and who asks meanwhile has not gone away."""
    answers, begun, over = Answers(1 << 20), asyncio.Event(), asyncio.Event()

    async def given_up() -> Content | None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await over.wait()
        return None

    async def lived() -> tuple[Any, Any]:
        first = asyncio.create_task(answers.get("k", given_up, settled=True))
        await begun.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(answers.get("k", making(content(9), wait_s=0.01), settled=True))
        third = asyncio.create_task(answers.get("k", making(content(9), wait_s=0.01), settled=True))
        await asyncio.sleep(0)
        over.set()
        return await asyncio.gather(second, third, return_exceptions=True)

    assert [each[1] for each in run(lived)] == ["computed", "joined"]
    assert not answers._flights


def test_the_others_are_served_where_the_first_one_goes_away() -> None:
    answers, counted = Answers(1 << 20), list[int]()

    async def lived() -> tuple[Any, Any]:
        first = asyncio.create_task(answers.get("k", making(content(9), counted, 0.05), settled=True))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(answers.get("k", making(content(9), counted, 0.05), settled=True))
        await asyncio.sleep(0.01)
        first.cancel()
        return await second, await asyncio.gather(first, return_exceptions=True)

    (_, source), (gone,) = run(lived)
    assert (source, len(counted)) == ("joined", 1)
    assert isinstance(gone, asyncio.CancelledError)


def test_a_computation_ends_once_nobody_waits_for_it() -> None:
    answers, ended = Answers(1 << 20), list[bool]()

    async def compute() -> Content | None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(True)
            raise
        return None

    async def lived() -> None:
        tasks = [asyncio.create_task(answers.get("k", compute, settled=True)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)

    run(lived)
    assert ended == [True]


def test_where_the_first_one_fails_by_chance_another_computes() -> None:
    answers, tries = Answers(1 << 20), list[int]()

    async def compute() -> Content | None:
        tries.append(1)
        await asyncio.sleep(0.02)
        if len(tries) == 1:
            raise TransientError("by chance")
        return content(9)

    found = run(lambda: asyncio.gather(*(answers.get("k", compute, settled=True) for _ in range(10)), return_exceptions=True))
    assert len(tries) == 2
    assert isinstance(found[0], TransientError)
    assert [source for _, source in found[1:]] == ["computed", *["joined"] * 8]


def test_an_error_that_would_come_again_is_everybodys() -> None:
    answers, tries = Answers(1 << 20), list[int]()

    async def compute() -> Content | None:
        tries.append(1)
        await asyncio.sleep(0.01)
        raise PermanentError("wrong")

    found = run(lambda: asyncio.gather(*(answers.get("k", compute, settled=True) for _ in range(10)), return_exceptions=True))
    assert len(tries) == 1
    assert all(isinstance(each, PermanentError) for each in found)


def test_rows_that_are_too_many_are_not_kept() -> None:
    answers, counted = Answers(1 << 20), list[int]()

    async def lived() -> list[Any]:
        return [await answers.get("k", making(None, counted), settled=True) for _ in range(2)]

    assert run(lived) == [(None, "computed"), (None, "computed")]
    assert len(counted) == 2


def test_what_a_room_has_is_not_computed_and_what_is_computed_is_put_there() -> None:
    shelf, counted = Shelf(), list[int]()

    async def lived() -> list[str]:
        sources = []
        for answers in (Answers(1 << 20, [shelf]), Answers(1 << 20, [shelf])):
            sources += [(await answers.get("k", making(content(), counted), settled=True))[1] for _ in range(2)]
            await answers.close()
        return sources

    assert run(lived) == ["computed", "memory", "shelf", "memory"]
    assert len(counted) == 1


def test_what_is_of_the_tail_is_not_put_where_things_are_kept_for_good() -> None:
    shelf = Shelf(lasting=True)

    async def lived() -> None:
        answers = Answers(1 << 20, [shelf])
        await answers.get("tail", making(content()), settled=False)
        await answers.get("settled", making(content()), settled=True)
        await answers.close()

    run(lived)
    assert list(shelf.held) == ["settled"]
    assert shelf.asked == 1


def test_an_entry_that_cannot_be_read_is_computed_and_replaced() -> None:
    shelf = Shelf()
    shelf.held["k"] = b"garbage"

    async def lived() -> str:
        answers = Answers(1 << 20, [shelf])
        source = (await answers.get("k", making(content()), settled=True))[1]
        await answers.close()
        return source

    assert run(lived) == "computed"
    assert unpacked(shelf.held["k"]) == content()


def test_a_room_that_failed_is_asked_by_one_after_a_pause() -> None:
    shelf, events = Shelf(), Counter[str]()
    shelf.fails = TransientError("dead")

    async def lived() -> None:
        answers = Answers(1 << 20, [shelf], tell=lambda event: events.update([event]))
        for name in range(100):
            assert (await answers.get(str(name), making(content(9)), settled=True))[1] == "computed"
        await answers.close()

    run(lived)
    assert shelf.asked == 1
    assert events["shelf failed"] == 1, "and nothing is put where nothing is read"


def test_a_breaker_lets_one_through_after_its_pause_and_all_once_that_succeeded() -> None:
    now = 0.0
    breaker = Breaker(5.0, lambda: now)
    assert breaker.admits()
    breaker.failed()
    now = 4.9
    assert not breaker.admits()
    now = 5.1
    assert [breaker.admits(), breaker.admits()] == [True, False]
    breaker.succeeded()
    assert [breaker.admits(), breaker.admits()] == [True, True]


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    assert key_of("a", "b") != key_of("ab")
    assert key_of(["a"], "b") != key_of("a", ["b"])
    assert key_of(1) != key_of(True) != key_of("1")


@pytest.mark.parametrize("side_by_side", [False, True])
def test_who_asks_for_a_look_gets_one_that_began_afterwards(side_by_side: bool) -> None:
    """Writers count up; whoever asks after a write sees it or a later one, whatever look is under way."""
    stand, taken = [0], list[int]()

    def look() -> int:
        taken.append(1)
        return stand[0]

    async def lived() -> None:
        looks = Looks(side_by_side=side_by_side)

        async def ask() -> None:
            stand[0] += 1
            before = stand[0]
            assert await looks.take("k", look) >= before

        for _ in range(50):
            await asyncio.gather(*(ask() for _ in range(20)))
        looks.close()

    asyncio.run(lived())
    assert len(taken) < 500, "those who wait together share one"


def test_the_error_of_one_look_is_not_anothers() -> None:
    async def lived() -> list[Any]:
        looks = Looks(side_by_side=False)

        def fails() -> int:
            raise TransientError("gone")

        found = await asyncio.gather(looks.take("a", fails), looks.take("b", lambda: 7), return_exceptions=True)
        looks.close()
        return found

    one, other = asyncio.run(lived())
    assert isinstance(one, TransientError)
    assert other == 7
