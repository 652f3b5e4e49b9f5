"""The search index gives what brute force gives, whatever was done to it; whoever dies leaves it as it was or as it should be."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from search_lake import (
    DIMENSION,
    MODEL,
    OTHER_MODEL,
    PAYERS,
    PROGRAMS,
    START,
    BruteForce,
    documents,
    embed,
    slots_of,
    summaries,
    write,
    write_vectors,
)

from blyan.corpus import search_index
from blyan.corpus.search_index import (
    POINTER,
    VERSION,
    Generation,
    OpenIndex,
    Pointer,
    account_of,
    maintain,
    open_index,
    read_pointer,
    rebuild,
    write_range,
)
from blyan.corpus.search_ranking import RankingWriter
from blyan.errors import MissingObjectError, PermanentError, TransientError
from blyan.lake import Lake
from blyan.query import search as searching
from blyan.query.search import Filters, Question, search
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES
from blyan.solana.slots import SlotRange

REPOSITORY = Path(__file__).resolve().parents[2]

QUESTIONS = ("failed swaps on Raydium", "insufficient funds", "transfer of SOL", "paid for swaps")

FILTERS = {
    "none": Filters(),
    "slots": Filters(slots=SlotRange(50, 149)),
    "times": Filters(since=START + timedelta(seconds=20), until=START + timedelta(seconds=150)),
    "a program": Filters(programs=(PROGRAMS[0],)),
    "programs": Filters(programs=tuple(PROGRAMS[1:3])),
    "an account": Filters(accounts=(PAYERS[0],)),
    "accounts": Filters(accounts=tuple(PAYERS[:2])),
    "a kind": Filters(kinds=("swap",)),
    "failed": Filters(statuses=("Fail",)),
    "an error of a kind": Filters(kinds=("mint", "vote"), error_classes=("SlippageExceeded",)),
    "summaries": Filters(scopes=("program", "range")),
    "a flag": Filters(flags=("instruction_like",)),
    "labels": Filters(is_vote=False, is_sandwich=True),
    "nothing": Filters(accounts=(PROGRAMS[0],)),
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def indexes(dataset) -> set[str]:
    return {index.name for index in dataset.describe_indices()}


def hits(index, question, mode, filters=FILTERS["none"], **options):
    answer = search(index, question, embed=lambda text: embed([text]), mode=mode, filters=filters, **options)
    names = [tuple(hit.row[name] for name in ("slot", "tx_index", "scope", "subject", "signature")) for hit in answer.hits]
    return [(name, hit.score, hit.alike) for name, hit in zip(names, answer.hits, strict=True)]


def assert_as_brute_force(lake: Lake, numbers, *, filters=("none", "failed", "an account", "slots"), last: OpenIndex | None = None) -> OpenIndex:
    index, brute = open_index(lake, last), BruteForce(lake, [slots_of(number).key for number in numbers])
    assert index.records.keys() == {slots_of(number).key for number in numbers}
    assert sum(record.rows for record in index.records.values()) == len(brute.all)
    for number in numbers:
        assert account_of(lake, slots_of(number)).is_exact
    for question in QUESTIONS[:2]:
        for mode in ("text", "vector", "hybrid"):
            for name in filters:
                assert hits(index, question, mode, FILTERS[name]) == brute.search(question, mode, FILTERS[name]), (question, mode, name)
    return index


# Answers


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, BruteForce]:
    """Three ranges, the second written twice."""
    lake = Lake(str(tmp_path_factory.mktemp("three")))
    for number, seed in ((0, 0), (1, 7), (2, 0), (1, 0)):
        write_range(lake, write(lake, number, seed, 60))
    return lake, BruteForce(lake, [slots_of(number).key for number in range(3)])


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("compared", [0, 5_000], ids=["nearest first", "all that pass"])
def test_every_filter_and_mode_gives_what_brute_force_gives(three, name, compared, monkeypatch):
    monkeypatch.setattr(searching, "COMPARED", compared)
    monkeypatch.setattr(searching, "GISTS", 4)
    lake, brute = three
    index = open_index(lake)
    some = 0
    for question in QUESTIONS:
        for mode in ("text", "vector", "hybrid"):
            for per_template in (1, 3):
                found = hits(index, question, mode, FILTERS[name], per_template=per_template)
                assert found == brute.search(question, mode, FILTERS[name], per_template=per_template)
                some += len(found)
    assert bool(some) == (name != "nothing")


def test_the_comparison_with_brute_force_can_fail(three, monkeypatch):
    lake, brute = three
    index = open_index(lake)
    right = brute.search(QUESTIONS[0], "hybrid", FILTERS["failed"])
    assert hits(index, QUESTIONS[0], "hybrid", FILTERS["failed"]) == right
    # A fusion that puts the worst first, words that count alike, and a filter that is forgotten.
    fuse = searching.fuse
    monkeypatch.setattr(searching, "fuse", lambda orders: dict(reversed(fuse(orders).items())))
    assert hits(index, QUESTIONS[0], "hybrid", FILTERS["failed"]) != right
    monkeypatch.undo()
    monkeypatch.setattr(searching, "term_weights", lambda found_in, _documents: np.ones(len(found_in)))
    assert hits(index, QUESTIONS[0], "hybrid", FILTERS["failed"]) != right
    monkeypatch.undo()
    assert hits(index, QUESTIONS[0], "hybrid") != right
    assert hits(index, QUESTIONS[0], "hybrid", FILTERS["failed"]) == right


def test_of_many_documents_of_one_score_the_first_are_shown(lake):
    for number in range(3):
        write_range(lake, write(lake, number, 0, 120))
    brute = BruteForce(lake, [slots_of(number).key for number in range(3)])
    question = "vote on Orca succeeded"
    before = hits(open_index(lake), question, "text", limit=3, per_template=1)
    assert before == brute.search(question, "text", Filters(), limit=3, per_template=1)
    maintain(lake, retention_hours=0)
    assert hits(open_index(lake), question, "text", limit=3, per_template=1) == before


def test_words_are_told_and_a_signature_finds_its_transaction(three):
    lake, brute = three
    index = open_index(lake)
    answer = search(index, "insufficient lamports", mode="text")
    assert {hit.words for hit in answer.hits} == {("insufficient",)}
    assert (answer.searched.documents, answer.searched.ranges, answer.searched.first_slot, answer.searched.last_slot) == (len(brute.all), 3, 0, 299)
    signature = brute.all[70].row["signature"]
    (hit,) = search(index, filters=Filters(signature=signature)).hits
    assert hit.row["signature"] == signature
    newest = search(index, filters=FILTERS["failed"], limit=5, per_template=1).hits
    slots = [hit.row["slot"] for hit in newest]
    assert slots == sorted(slots, reverse=True)
    assert slots[0] == max(found.row["slot"] for found in brute.all if found.row["status"] == "Fail")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"filters": Filters(programs=("Raydium",))}, "'Raydium' is no account"),
        ({"filters": Filters(accounts=("x' or true --",))}, "is no account"),
        ({"text": ""}, "nothing to look for"),
        ({"embed": lambda text: embed([text], 8)}, r"shape \[1, 8\], and the index has 16"),
        ({"embed": lambda _: np.full((1, 16), np.nan, np.float32)}, "no direction"),
        ({"embed": None}, "needs a model"),
        ({"limit": 0}, "ask for one"),
    ],
)
def test_what_cannot_be_asked_is_refused(three, wrong, message):
    with pytest.raises(PermanentError, match=message):
        search(open_index(three[0]), **{"text": "swaps", "embed": lambda text: embed([text]), **wrong})


def test_text_in_a_filter_is_data(three):
    assert search(open_index(three[0]), filters=Filters(kinds=("swap' or scope = 'record",))).hits == ()


# Upkeep


STEPS = {
    "write a": lambda world: world.write(0),
    "write b": lambda world: world.write(1),
    "write c": lambda world: world.write(2),
    "change a": lambda world: world.change(0),
    "change b": lambda world: world.change(1),
    "run a again": lambda world: world.again(0),
    "optimise": lambda world: search_index._optimise(world.lake, world.current),
    "compact": lambda world: search_index._compact(world.lake, world.current),
    "clean": lambda world: search_index._clean(world.lake, world.current, 0),
    "maintain": lambda world: maintain(world.lake, retention_hours=0),
    "rebuild": lambda world: rebuild(world.lake),
}


class World:
    """A lake, and which ranges of it are in the index."""

    def __init__(self, lake: Lake) -> None:
        self.lake, self.seeds = lake, {}
        self.write(0)

    @property
    def current(self) -> Generation:
        return read_pointer(self.lake).current

    def write(self, number: int) -> None:
        self.seeds.setdefault(number, 0)
        write_range(self.lake, write(self.lake, number, self.seeds[number], 30 + 10 * number))

    def change(self, number: int) -> None:
        self.seeds[number] = self.seeds.get(number, 0) + 1
        self.write(number)

    def again(self, number: int) -> None:
        version = open_index(self.lake).documents.version
        assert not write_range(self.lake, slots_of(number)).changed
        assert open_index(self.lake).documents.version == version


@given(steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=3, max_size=6))
@settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_no_sequence_of_writes_and_upkeep_changes_an_answer(tmp_path_factory, steps):
    world, index = World(Lake(str(tmp_path_factory.mktemp("world")))), None
    for step in steps:
        STEPS[step](world)
        index = assert_as_brute_force(world.lake, sorted(world.seeds), filters=("none", "failed", "labels"), last=index)


def test_each_kind_of_upkeep_after_each_change_leaves_the_answers_alone(lake):
    world = World(lake)
    for step in (
        "write b",
        "optimise",
        "change a",
        "write c",
        "compact",
        "change b",
        "optimise",
        "compact",
        "clean",
        "run a again",
        "rebuild",
        "change a",
        "maintain",
    ):
        STEPS[step](world)
        assert_as_brute_force(lake, sorted(world.seeds), filters=("failed", "an account"))


def test_with_an_index_of_vectors_answers_are_those_without_it(lake, monkeypatch):
    """Partitions are all looked into here, so only the compression could change an answer, and what it brings is compared again."""
    monkeypatch.setattr(search_index, "INDEXED_VECTORS", 300)
    monkeypatch.setattr(searching, "COMPARED", 0)
    monkeypatch.setattr(search_index, "PROBES", 1_000)
    told, summed = documents(0, 0, 400), summaries(0, 400)
    texts = [
        text.replace(";", f" number {'abcdefghij'[index % 10]}{'klmnopqrst'[index // 10 % 10]}{'uvwxyz'[index // 100]};")
        for index, text in enumerate(told["text"].to_pylist())
    ]
    told = told.set_column(told.column_names.index("text"), "text", pa.array(texts))
    lake.write_partition(DOCUMENTS, slots_of(0).key, [told])
    lake.write_partition(SUMMARIES, slots_of(0).key, [summed])
    write_vectors(lake, slots_of(0), told, summed)
    write_range(lake, slots_of(0))
    assert "vector_idx" in indexes(open_index(lake).gists), "the writer took so many rows into the indexes at once"
    assert_as_brute_force(lake, [0], filters=("none", "failed"))
    write_range(lake, write(lake, 1))
    assert_as_brute_force(lake, [0, 1], filters=("none", "failed"))
    maintain(lake, retention_hours=0)
    assert_as_brute_force(lake, [0, 1], filters=("none", "failed"))


# Defects that others met, and whether they are here


def test_vectors_are_found_and_not_doubled_when_added_again_after_upkeep(lake):
    """lancedb/lancedb#3177, #3515, lance-format/lance#7596: `merge_insert` on an indexed key that matches nothing."""
    world = World(lake)
    maintain(lake, retention_hours=0)
    names = open_index(lake).gists.to_table(columns=["gist"])["gist"]
    assert search_index._add_vectors(lake, world.current, slots_of(0).key, RankingWriter(io.BytesIO(), DIMENSION))[0] == 0
    assert open_index(lake).gists.count_rows() == len(names) == len(set(names.to_pylist()))
    world.change(0)
    added = open_index(lake).gists.to_table(columns=["gist"])["gist"].to_pylist()
    assert len(added) == len(set(added)) > len(names)


def test_merging_indexes_loses_no_row(lake):
    """lance-format/lance#4929: an index that is gone after the upkeep of others. Each row is found by its own words, label and vector."""
    world = World(lake)
    for step in ("write b", "optimise", "write c", "change b", "optimise", "compact", "optimise"):
        STEPS[step](world)
    index = open_index(lake)
    rows = index.documents.to_table(columns=["signature", "structural_key", "gist"], filter="scope = 'transaction'")
    for column in ("signature", "structural_key", "gist"):
        for value in set(rows[column].to_pylist()):
            indexed = index.documents.count_rows(f"{column} = '{value}'")
            assert indexed == index.documents.scanner(filter=f"{column} = '{value}'", use_scalar_index=False).count_rows() > 0
    stats = index.documents.stats.index_stats("terms_idx")
    assert (stats["num_unindexed_rows"], stats["num_indexed_rows"]) == (0, index.documents.count_rows())
    assert indexes(index.documents) == {f"{column}_idx" for column in (*search_index.INDEXES, "terms")}


def test_a_filter_holds_before_ranking(lake):
    """lancedb/lancedb#3095: a hybrid search that filters after it has ranked. The one document that passes is the worst of all."""
    write_range(lake, write(lake, 0, 0, 200))
    index, brute = open_index(lake), BruteForce(lake, [slots_of(0).key])
    question = "paid for swaps"
    worst = brute.search(question, "vector", Filters(), limit=1_000)[-1][0]
    for mode in ("vector", "hybrid"):
        assert [name for name, *_ in hits(index, question, mode, Filters(signature=worst[4]))] == [worst]


def test_the_best_comes_first(three):
    """lancedb/lancedb#3154: a reranker that puts the worst first."""
    index = open_index(three[0])
    for mode in ("vector", "text", "hybrid"):
        scores = [score for _, score, _ in hits(index, QUESTIONS[0], mode)]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > scores[-1]


# Others at the same time


def test_a_reader_sees_one_version_whatever_is_written(lake):
    world = World(lake)
    index = open_index(lake)
    before = [hits(index, question, "hybrid") for question in QUESTIONS]
    world.change(0)
    world.write(1)
    search_index._compact(lake, world.current)
    assert [hits(index, question, "hybrid") for question in QUESTIONS] == before
    assert [hits(open_index(lake), question, "hybrid") for question in QUESTIONS] != before


def test_a_reader_of_files_that_were_deleted_is_told_to_open_again(lake):
    world = World(lake)
    index = open_index(lake)
    world.change(0)
    maintain(lake, retention_hours=0)
    with pytest.raises(MissingObjectError, match="read again"):
        hits(index, QUESTIONS[0], "hybrid")
    assert hits(open_index(lake), QUESTIONS[0], "hybrid")


def test_writers_and_upkeep_at_the_same_time_lose_and_double_nothing(lake):
    for number in range(3):
        write(lake, number)
    write_range(lake, slots_of(0))
    errors: list[BaseException] = []

    def work(*todo) -> None:
        try:
            for each in todo:
                each()
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    current = read_pointer(lake).current
    threads = [
        threading.Thread(target=work, args=[lambda number=number: write_range(lake, slots_of(number)) for number in (1, 2)]),
        threading.Thread(target=work, args=[lambda number=number: write_range(lake, slots_of(number)) for number in (1, 2)]),
        threading.Thread(target=work, args=[lambda: search_index._optimise(lake, current), lambda: search_index._compact(lake, current)] * 2),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert_as_brute_force(lake, range(3))


VICTIM = """
import os, signal, sys
sys.path.insert(0, "tests")
import lance
from search_lake import slots_of
from blyan.corpus import search_index
from blyan.lake import Lake

folder, moment = sys.argv[1:]
lake = Lake(folder)

def die(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(function):
    def both(*arguments, **options):
        function(*arguments, **options)
        die()
    return both

match moment:
    case "after the vectors":
        search_index._replace = die
    case "with rows written and not committed":
        lance.LanceDataset.commit = staticmethod(die)
    case "after the commit":
        lance.LanceDataset.commit = staticmethod(then_die(lance.LanceDataset.commit))
    case "before the pointer":
        search_index._promote = die
if sys.argv[2] == "before the pointer":
    search_index.rebuild(lake)
else:
    search_index.write_range(lake, slots_of(1))
"""


@pytest.mark.parametrize(
    ("moment", "changed"),
    [
        ("after the vectors", False),
        ("with rows written and not committed", False),
        ("after the commit", True),
        ("before the pointer", False),
    ],
)
def test_a_killed_writer_leaves_the_range_as_it_was_or_as_it_should_be(lake, moment, changed):
    for number in (0, 1):
        write_range(lake, write(lake, number))
    before = [hits(open_index(lake), question, mode) for question in QUESTIONS for mode in ("text", "vector")]
    record = open_index(lake).records[slots_of(1).key]
    write(lake, 1, seed=5)
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", VICTIM, lake.root, moment],
        cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    if changed:
        assert_as_brute_force(lake, (0, 1), filters=("none",))
    else:
        assert open_index(lake).records[slots_of(1).key] == record
        assert [hits(open_index(lake), question, mode) for question in QUESTIONS for mode in ("text", "vector")] == before
    assert write_range(lake, slots_of(1)).changed is not changed
    assert_as_brute_force(lake, (0, 1), filters=("none",))


# Files for ranking


def files_for_ranking(lake: Lake) -> list[str]:
    return sorted(lake.store.listed(f"search/{read_pointer(lake).current.name}/ranking"))


def test_upkeep_leaves_the_files_that_records_name_and_no_others(lake):
    world = World(lake)
    for step in ("write b", "change a", "change b"):
        STEPS[step](world)
    index = open_index(lake)
    used = sorted(Path(name).name for name in index.files)
    folder = f"search/{world.current.name}/ranking"
    lake.store.put(f"{folder}/000000000000-killed.arrow.unfinished", b"x")
    assert len(used) < len(files_for_ranking(lake))
    maintain(lake, retention_hours=24)
    assert len(used) < len(files_for_ranking(lake)), "readers of the last day may still read them"
    maintain(lake, retention_hours=0)
    assert files_for_ranking(lake) == used


def test_an_index_that_is_opened_again_keeps_what_did_not_change(lake):
    world = World(lake)
    world.write(1)
    first = open_index(lake)
    files = dict(first.files)
    assert open_index(lake, first) is first
    world.change(1)
    second = open_index(lake, first)
    kept = {name for name, arrays in second.files.items() if arrays is files.get(name)}
    assert {Path(name).name.partition("-")[0] for name in kept} == {slots_of(0).key}
    assert second.files.keys() == open_index(lake).files.keys()
    for question in QUESTIONS[:2]:
        assert hits(second, question, "hybrid", FILTERS["failed"]) == hits(open_index(lake), question, "hybrid", FILTERS["failed"])
    rebuild(lake)
    assert not open_index(lake, second).held, "another index has files of its own"


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (lambda store, name, _other: store.delete([name]), MissingObjectError, "read again"),
        (lambda store, name, _other: store.put(name, store.get(name)[:1_000]), PermanentError, "damaged"),
        (lambda store, name, other: store.put(name, store.get(other)), PermanentError, "its record"),
    ],
    ids=["gone", "cut", "another range's"],
)
def test_a_file_for_ranking_that_is_not_as_it_was_written_is_told(lake, damage, kind, message):
    world = World(lake)
    world.write(1)
    name, other = open_index(lake).files
    assert account_of(lake, slots_of(0)).is_exact
    damage(lake.store, name, other)
    assert not account_of(lake, slots_of(0)).is_exact
    assert account_of(lake, slots_of(1)).is_exact
    with pytest.raises(kind, match=message):
        hits(open_index(lake), QUESTIONS[0], "text")
    rebuild(lake)
    assert_as_brute_force(lake, (0, 1), filters=("failed",))


def test_a_question_within_two_filters_gets_what_two_searches_get(three):
    index = open_index(three[0])
    question = Question(index, QUESTIONS[0], embed=lambda text: embed([text]))
    chosen = [FILTERS["none"], FILTERS["failed"], FILTERS["nothing"], FILTERS["slots"]]
    answers = question.answers([question.find(filters, limit=7, per_template=3) for filters in chosen])
    for filters, answer in zip(chosen, answers, strict=True):
        assert answer == search(index, QUESTIONS[0], embed=lambda text: embed([text]), filters=filters, limit=7, per_template=3)
    assert len({len(answer.hits) for answer in answers}) > 1


# Which index readers use


def test_there_is_no_index_before_the_first_range(lake):
    with pytest.raises(MissingObjectError, match=r"no search index yet.*--rebuild"):
        open_index(lake)
    with pytest.raises(MissingObjectError, match="no range has embeddings"):
        rebuild(lake)
    with pytest.raises(MissingObjectError):
        write_range(lake, slots_of(0))
    assert read_pointer(lake) == Pointer()


def test_a_rebuilt_index_answers_alike_and_the_old_one_goes_once_nobody_reads_it(lake):
    for number in range(2):
        write_range(lake, write(lake, number))
    index = open_index(lake)
    before = [hits(index, question, mode) for question in QUESTIONS for mode in ("text", "vector", "hybrid")]
    done: list[tuple[int, int]] = []
    made = rebuild(lake, progress=lambda *at: done.append(at))
    assert done == [(0, 2), (1, 2), (2, 2)]
    assert made.name != index.generation.name
    assert read_pointer(lake) == Pointer(made)
    assert [hits(open_index(lake), question, mode) for question in QUESTIONS for mode in ("text", "vector", "hybrid")] == before
    assert [hits(index, question, mode) for question in QUESTIONS for mode in ("text", "vector", "hybrid")] == before
    maintain(lake, retention_hours=24)
    assert len(lake.store.folders("search")) == 2
    maintain(lake, retention_hours=0)
    assert lake.store.folders("search") == [made.name]


def test_readers_keep_the_old_model_until_the_new_one_has_every_range(lake):
    for number in range(2):
        write_range(lake, write(lake, number))
    before = [hits(open_index(lake), question, "vector") for question in QUESTIONS]
    assert not write_range(lake, write(lake, 0, model=OTHER_MODEL, dimension=24)).is_current
    assert open_index(lake).generation.model == MODEL
    assert [hits(open_index(lake), question, "vector") for question in QUESTIONS] == before
    assert write_range(lake, write(lake, 1, model=OTHER_MODEL, dimension=24)).is_current
    index = open_index(lake)
    assert (index.generation.model, index.generation.dimension, read_pointer(lake).next) == (OTHER_MODEL, 24, None)
    assert search(index, "swaps", embed=lambda text: embed([text], 24), mode="vector").hits


def test_an_index_of_another_version_is_refused_and_made_anew(lake):
    write_range(lake, write(lake, 0))
    pointer = json.loads(lake.store.get(POINTER))
    pointer["current"]["version"] = "0.1.1"
    lake.store.put(POINTER, json.dumps(pointer).encode())
    with pytest.raises(PermanentError, match=rf"of version 0\.1\.1, and this is version {VERSION}.*--rebuild"):
        open_index(lake)
    assert write_range(lake, slots_of(0)).is_current
    assert_as_brute_force(lake, [0], filters=("none",))


def test_a_damaged_pointer_is_named(lake):
    lake.store.put(POINTER, b"{")
    with pytest.raises(PermanentError, match=r"current\.json.*--rebuild"):
        open_index(lake)


# Bad input


def test_vectors_that_do_not_fit_are_counted_and_the_rest_of_the_range_lands(lake):
    slots = write(lake, 0)
    rows = pa.Table.from_batches(lake.read(EMBEDDINGS, key=slots.key)).to_pylist()
    rows[0]["vector"] = rows[0]["vector"][:7]
    rows[1]["model"] = OTHER_MODEL
    rows[2]["vector"] = [float("nan")] * len(rows[2]["vector"])
    lake.write_partition(EMBEDDINGS, slots.key, [pa.Table.from_pylist(rows, EMBEDDINGS.arrow_schema())])
    written = write_range(lake, slots)
    stood_for = sum(row["documents"] for row in rows[:3])
    assert (written.left_out, written.without_vector) == (3, stood_for)
    account = account_of(lake, slots)
    assert (account.is_exact, account.without_vector, account.lost_vectors) == (True, stood_for, 0)
    assert write_range(lake, slots).without_vector == stood_for
    brute = BruteForce(lake, [slots.key])
    for question in QUESTIONS:
        assert hits(open_index(lake), question, "text") == brute.search(question, "text", Filters())
    assert hits(open_index(lake), QUESTIONS[0], "vector", limit=100)


def test_a_range_without_documents_is_indexed(lake):
    written = write_range(lake, write(lake, 0, count=0))
    assert (written.documents, written.summaries) == (0, 3)
    write_range(lake, write(lake, 1))
    assert_as_brute_force(lake, (0, 1))


def test_tables_that_change_while_they_are_read_are_read_again_by_the_next_run(lake, monkeypatch):
    write_range(lake, write(lake, 0))
    slots = write(lake, 1)
    real = search_index._add_vectors

    def change(*arguments):
        found = real(*arguments)
        write(lake, 1, seed=9)
        return found

    monkeypatch.setattr(search_index, "_add_vectors", change)
    with pytest.raises(TransientError, match="changed while"):
        write_range(lake, slots)
    monkeypatch.undo()
    assert open_index(lake).records.keys() == {slots_of(0).key}
    write_range(lake, slots)
    assert_as_brute_force(lake, (0, 1), filters=("none",))


def test_what_lancedb_says_is_said_in_our_words():
    for text, kind in (("Commit conflict for version 3", TransientError), ("Dataset at path x was not found", MissingObjectError)):
        with pytest.raises(kind, match="at here"), search_index.lance_errors("here"):
            raise OSError(text)
    with pytest.raises(PermanentError, match="--rebuild"), search_index.lance_errors("here"):
        raise ValueError("This dataset cannot be read: unsupported feature flag 64")


def test_lancedb_opens_the_index_as_tables_and_finds_the_same(three):
    import lancedb

    index = open_index(three[0])
    database = lancedb.connect(str(Path(index.documents.uri).parent))
    documents, gists = (database.open_table(name) for name in ("documents", "gists"))
    assert documents.count_rows("scope = 'transaction'") == 180
    for kind in ("swap", "mint"):
        condition = f"kind = '{kind}' and status = 'Fail'"
        mine = index.documents.to_table(columns=["signature"], filter=condition)["signature"].to_pylist()
        theirs = documents.search().where(condition).select(["signature"]).limit(1_000).to_arrow()["signature"].to_pylist()
        assert sorted(theirs) == sorted(mine) != []
    question = embed([QUESTIONS[0]])[0]
    nearest = gists.search(question, vector_column_name="vector").distance_type("cosine").limit(1).to_arrow()
    vectors = index.gists.to_table().column("vector").combine_chunks().flatten().to_numpy().reshape(-1, len(question))
    assert 1 - nearest["_distance"][0].as_py() == pytest.approx(float((vectors @ question).max()), abs=1e-5)
