"""An index that stays open: it is noticed when it changes, opened again when its files are gone, and said when it cannot be read."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from blyan.corpus import search_index
from blyan.corpus.search_index import POINTER, Generation, Pointer, maintain, rebuild, write_range
from blyan.errors import MissingObjectError
from blyan.lake import Lake
from blyan.query.records import Stop, StoppedError
from blyan.query.search import search
from blyan.query.searcher import LOOK_S, OLD_S, AskedError, Searcher, SearchUnavailableError
from blyan.schemas import DOCUMENTS
from blyan.settings import load_settings
from tests.search_lake import MODEL, PAYERS, PROGRAMS, BruteForce, Filters, documents, slots_of, write


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def searcher(lake: Lake, clock: Clock) -> Searcher:
    return Searcher(lake, load_settings(lake=lake.root), clock=clock)


def words(searcher: Searcher, query: str = "failed swaps on Raydium", **options: Any) -> list[Any]:
    """Hits of a search by words, which needs no model, as brute force tells them."""
    found = searcher.find(query, mode="text", understand=False, **options)
    return [(tuple(hit.row[key] for key in ("slot", "tx_index", "scope", "subject", "signature")), hit.score, hit.alike) for hit in found.answer.hits]


def right(lake: Lake, *numbers: int) -> list[Any]:
    return BruteForce(lake, [slots_of(number).key for number in numbers]).search("failed swaps on Raydium", "text", Filters())


def test_a_new_version_is_noticed_after_a_second_and_not_before(lake: Lake, searcher: Searcher, clock: Clock) -> None:
    write_range(lake, write(lake, 0))
    before = words(searcher)
    assert before == right(lake, 0)
    write_range(lake, write(lake, 1))
    clock.now = LOOK_S - 0.01
    assert words(searcher) == before
    clock.now = LOOK_S
    assert words(searcher) == right(lake, 0, 1) != before


def test_another_index_is_switched_to(lake: Lake, searcher: Searcher, clock: Clock) -> None:
    write_range(lake, write(lake, 0))
    first = searcher.find("swaps", mode="text").reading
    made = rebuild(lake)
    clock.now = LOOK_S
    reading = searcher.find("swaps", mode="text").reading
    assert reading.index == made.name != first.index
    assert reading.digest == first.digest, "it was made from the same"


def test_files_that_upkeep_deleted_are_no_matter(lake: Lake, searcher: Searcher) -> None:
    """The clock stands still, so that only the missing file tells that there is another version."""
    write_range(lake, write(lake, 0))
    before = words(searcher)
    held = searcher._held
    assert held is not None
    write_range(lake, write(lake, 0, seed=9))
    maintain(lake, retention_hours=0)
    with pytest.raises(MissingObjectError):
        search(held.index, "failed swaps on Raydium", mode="text")
    assert words(searcher) == right(lake, 0) != before


def test_an_index_that_is_deleted_is_said_and_one_that_is_made_again_is_found(lake: Lake, searcher: Searcher, clock: Clock) -> None:
    write_range(lake, write(lake, 0))
    before = words(searcher)
    shutil.rmtree(Path(lake.root) / "search")
    clock.now = LOOK_S
    with pytest.raises(SearchUnavailableError, match="there is no search index yet"):
        words(searcher)
    rebuild(lake)
    assert words(searcher) == before, "nobody waits a second to find it"


def test_files_that_are_lost_for_good_are_said(lake: Lake, searcher: Searcher) -> None:
    write_range(lake, write(lake, 0))
    words(searcher)
    for file in (Path(lake.root) / "search").rglob("data/*.lance"):
        file.unlink()
    with pytest.raises(SearchUnavailableError, match=r"the search index cannot be read: files of it are missing") as caught:
        words(searcher)
    assert "blyan search --rebuild" in caught.value.remedy
    assert lake.root not in str(caught.value)


@pytest.mark.parametrize(
    ("pointer", "said"),
    [
        (b"{", "is damaged"),
        (search_index.msgspec.json.encode(Pointer(Generation("gone", MODEL, 16, search_index.VERSION))), "files of it are missing"),
        (search_index.msgspec.json.encode(Pointer(Generation("old", MODEL, 16, "0.0.0"))), "it is of version 0.0.0, and this service reads"),
    ],
    ids=["damaged", "of an index that is not there", "of another version"],
)
def test_an_index_that_cannot_be_read_is_said(lake: Lake, searcher: Searcher, pointer: bytes, said: str) -> None:
    lake.store.put(POINTER, pointer)
    with pytest.raises(SearchUnavailableError, match=said) as caught:
        words(searcher)
    assert lake.root not in str(caught.value)


def test_vectors_of_another_model_are_refused_and_words_are_not(lake: Lake, searcher: Searcher) -> None:
    write_range(lake, write(lake, 0))
    for mode in ("vector", "hybrid"):
        with pytest.raises(SearchUnavailableError, match=f"are of the model {MODEL[:12]}, and BLYAN_EMBEDDER=minilm-int8 is") as caught:
            searcher.find("swaps", mode=mode)  # type: ignore[arg-type]
        assert "mode `text`" in caught.value.remedy
    assert searcher.find("swaps", mode="text").answer.hits
    # What needs no vector is answered.
    assert searcher.find(PAYERS[0]).answer.hits


def test_a_model_that_cannot_be_loaded_is_said(lake: Lake) -> None:
    searcher = Searcher(lake, load_settings(lake=lake.root, embedder="sentence-transformers"))
    write_range(lake, write(lake, 0))
    with pytest.raises(SearchUnavailableError, match="the model of this service cannot be loaded"):
        searcher.find("swaps")


def test_texts_that_nobody_waits_for_are_not_embedded(searcher: Searcher) -> None:
    stop = Stop()
    assert searcher.embed(["a text"], stop=stop).vectors.shape == (1, 384)
    stop()
    with pytest.raises(StoppedError):
        searcher.embed(["a text"], stop=stop)


def test_while_one_looks_the_others_are_answered_from_what_is_open(
    lake: Lake, searcher: Searcher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_range(lake, write(lake, 0))
    before = words(searcher)
    write_range(lake, write(lake, 1))
    looking, may_go_on = threading.Event(), threading.Event()
    look = searcher._look

    def slow() -> Any:
        looking.set()
        assert may_go_on.wait(30)
        return look()

    monkeypatch.setattr(searcher, "_look", slow)
    clock.now = LOOK_S
    found: list[Any] = []
    one = threading.Thread(target=lambda: found.append(words(searcher)))
    one.start()
    assert looking.wait(30)
    assert words(searcher) == before
    # What was looked at too long ago answers nobody: who asks waits.
    clock.now = OLD_S
    other = threading.Thread(target=lambda: found.append(words(searcher)))
    other.start()
    other.join(0.3)
    assert other.is_alive()
    may_go_on.set()
    one.join(30)
    other.join(30)
    assert found == [right(lake, 0, 1)] * 2


def test_whatever_is_written_meanwhile_an_answer_is_of_one_version(lake: Lake) -> None:
    """Threads search without a pause while a range is written in turn, and all that is old is deleted at once."""
    searcher = Searcher(lake, load_settings(lake=lake.root), clock=iter(range(10**9)).__next__)
    allowed = []
    for seed in (1, 2):
        write_range(lake, write(lake, 0, seed))
        allowed.append(right(lake, 0))
    assert allowed[0] != allowed[1]
    over, seen, wrong = threading.Event(), [], []

    def ask() -> None:
        while not over.is_set():
            try:
                seen.append(words(searcher))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told below
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(4):
        write_range(lake, write(lake, 0, 1 + turn % 2))
        maintain(lake, retention_hours=0)
    over.set()
    for thread in threads:
        thread.join(30)
    # Files that go twice within one search, which nothing but this test does to an index, end it with words.
    assert all(isinstance(error, SearchUnavailableError) for error in wrong), wrong
    assert seen
    assert all(found in allowed for found in seen)


def test_reading_counts_ranges_that_differ_from_the_tables(lake: Lake, searcher: Searcher, clock: Clock) -> None:
    for number in (0, 1, 2):
        write_range(lake, write(lake, number))
    assert searcher.find("swaps", mode="text").reading.ranges_behind == 0
    lake.write_partition(DOCUMENTS, slots_of(0).key, [documents(0, 5, 40)])  # changed
    lake.write_partition(DOCUMENTS, slots_of(3).key, [documents(3, 0, 5)])  # new
    clock.now = LOOK_S
    assert searcher.find("swaps", mode="text").reading.ranges_behind == 2


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        ({"programs": ["Raydum"]}, "filters.programs", "no program is named 'Raydum'"),
        ({"flags": ["long"]}, "filters.flags", "'long' is none of the flags"),
        ({"accounts": ["x"]}, "filters.accounts", "'x' is no account"),
        ({"signature": "x"}, "filters.signature", "'x' is no signature"),
        ({"first_slot": 5, "last_slot": 4}, "filters.first_slot", "first_slot is after last_slot"),
        ({"from_time": datetime(2026, 1, 2, tzinfo=UTC), "to_time": datetime(2026, 1, 1, tzinfo=UTC)}, "filters.from_time", "not before to_time"),
    ],
)
def test_a_filter_that_is_none_is_named(searcher: Searcher, given: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(AskedError, match=said) as caught:
        searcher.filters(given)
    assert caught.value.where == where


def test_filters_are_what_was_given(searcher: Searcher) -> None:
    assert searcher.filters({}) == Filters()
    assert searcher.filters({"kinds": None, "programs": [], "is_vote": None}) == Filters()
    # A time without a zone is UTC, and a program that is named twice is one.
    given = searcher.filters({"from_time": datetime(2026, 1, 1), "programs": [PROGRAMS[0], PROGRAMS[0]], "is_vote": False, "last_slot": 7})
    assert given.since == datetime(2026, 1, 1, tzinfo=UTC)
    assert (given.programs, given.is_vote) == ((PROGRAMS[0],), False)
    assert given.slots is not None
    assert (given.slots.first, given.slots.last) == (0, 7)
