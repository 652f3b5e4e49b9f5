"""The embeddings of a range go from the lake into the lake: every text has its vector, the same again, and nothing is embedded twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from blyan.corpus import embeddings as module
from blyan.corpus.embeddings import account_of, embedded_as, vectors_of, write_embeddings
from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.errors import BadRecordError, MissingObjectError, PermanentError
from blyan.lake import Lake
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources.embedded import EmbeddedSource
from tests.unit.test_embedding_cache import Hashed

REPOSITORY = Path(__file__).parents[2]
ONE, OTHER = SlotRange(0, 49), SlotRange(50, 99)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the corpus of two ranges."""
    root = tmp_path_factory.mktemp("filled") / "lake"
    lake, source = Lake(str(root)), EmbeddedSource(seed=2, transactions_per_slot=20, horizon_slot=100)
    for slots in (ONE, OTHER):
        land(lake, source, slots)
        normalise_range(lake, slots, workers=1)
        write_corpus(lake, slots, load_registry(), vote_share=0.2)
    return root


@pytest.fixture
def lake(filled: Path, tmp_path: Path) -> Lake:
    """A copy of it, by links: files of a lake are never changed in place."""
    subprocess.run(["cp", "-al", str(filled), str(tmp_path / "lake")], check=True)
    return Lake(str(tmp_path / "lake"))


def texts_of(lake: Lake, slots: SlotRange) -> list[str]:
    return [
        text
        for table in (DOCUMENTS, SUMMARIES)
        for batch in lake.read(table, key=slots.key, columns=["text"])
        for text in embedded_as(table, batch["text"]).to_pylist()
    ]


def rows_of(lake: Lake, slots: SlotRange) -> pa.Table:
    return pa.Table.from_batches(lake.read(EMBEDDINGS, key=slots.key), EMBEDDINGS.arrow_schema())


def test_each_distinct_text_of_a_range_is_a_row_and_the_saving_is_told(lake: Lake) -> None:
    model = Hashed()
    texts = texts_of(lake, ONE)
    first = write_embeddings(lake, ONE, model)
    assert (first.documents, first.distinct, first.embedded) == (len(texts), len(set(texts)), len(set(texts)))
    assert first.distinct < len(texts) / 2
    assert first.saved_share == 1 - first.embedded / len(texts)
    rows = rows_of(lake, ONE)
    assert first.commit.rows == len(rows) == first.distinct
    stored = {row["text"]: row for row in rows.to_pylist()}
    assert {text: row["documents"] for text, row in stored.items()} == {text: texts.count(text) for text in texts}
    np.testing.assert_array_equal(np.array([row["vector"] for row in stored.values()], np.float32), model.vectors(list(stored)))
    assert {row["model"] for row in stored.values()} == {model.digest}
    assert {row["first_slot"] for row in stored.values()} <= set(ONE)
    # The other range has most of its gists from the cache.
    before = len(model.asked)
    second = write_embeddings(lake, OTHER, model)
    assert 0 < second.embedded == len(model.asked) - before < second.distinct
    assert second.saved_share > first.saved_share
    assert len(model.asked) == len(set(model.asked))
    assert lake.digest(EMBEDDINGS, ONE.key) == first.commit.digest


def test_a_second_run_commits_nothing_and_another_model_is_other_content(lake: Lake) -> None:
    first = write_embeddings(lake, ONE, Hashed())
    again = write_embeddings(lake, ONE, Hashed())
    assert (again.commit.changed, again.embedded, again.saved_share) == (False, 0, 1.0)
    assert again.commit.digest == first.commit.digest

    class Alike(Hashed):
        """Another model that gives the very same vectors."""

    other = write_embeddings(lake, ONE, Alike("1" * 64))
    assert other.commit.changed
    assert other.commit.digest != first.commit.digest
    assert other.embedded == other.distinct
    assert set(rows_of(lake, ONE)["model"].to_pylist()) == {"1" * 64}


def test_parts_and_folds_change_no_row(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_embeddings(lake, ONE, Hashed())
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "PART_TEXTS", 5)
    monkeypatch.setattr(module, "FOLD_ROWS", 3)
    read = lake.read
    monkeypatch.setattr(lake, "read", lambda *given, **options: read(*given, **{**options, "batch_rows": 7}))
    parts = write_embeddings(lake, ONE, Hashed(), progress=lambda done, total: seen.append((done, total)))
    assert (parts.commit.changed, parts.commit.digest) == (False, whole.commit.digest)
    assert seen == sorted(seen)
    assert seen[-1] == (whole.distinct, whole.distinct)
    assert len(seen) >= 3, "several parts"


def test_the_vectors_of_documents_and_summaries_are_found_again(lake: Lake) -> None:
    model = Hashed()
    write_embeddings(lake, ONE, model)
    with vectors_of(lake, ONE) as vectors:
        assert vectors.model == model.digest
        assert vectors.vectors.shape == (lake.partitions(EMBEDDINGS)[ONE.key].rows, model.dimension)
        for table in (DOCUMENTS, SUMMARIES):
            for batch in lake.read(table, key=ONE.key, columns=["text"], batch_rows=100):
                wanted = model.vectors(embedded_as(table, batch["text"]).to_pylist())
                np.testing.assert_array_equal(vectors.of(table, batch["text"]), wanted)
        with pytest.raises(MissingObjectError, match=r"1 of 2 texts have no vector .*corpus/embeddings.* again"):
            vectors.of(SUMMARIES, pa.array([batch["text"][0].as_py(), "never embedded"]))
        assert vectors.of(DOCUMENTS, pa.array([], pa.string())).shape == (0, model.dimension)


def test_a_range_without_a_corpus_is_refused_and_one_without_texts_is_a_fact(lake: Lake) -> None:
    with pytest.raises(MissingObjectError):
        write_embeddings(lake, SlotRange(100, 149), Hashed())
    assert not lake.exists(EMBEDDINGS)
    for table in (DOCUMENTS, SUMMARIES):
        lake.write_partition(table, "000000000200", [])
    nothing = SlotRange(200, 249)
    made = write_embeddings(lake, nothing, Hashed())
    assert (made.commit.rows, made.documents, made.saved_share) == (0, 0, 0.0)
    account = account_of(lake, nothing, Hashed())
    assert account.every_text_has_a_vector
    assert account.every_vector_is_a_direction
    with vectors_of(lake, nothing) as vectors:
        assert (vectors.model, len(vectors.vectors)) == ("", 0)
        assert vectors.rows_of(DOCUMENTS, pa.array(["x"])).tolist() == [-1]


def damaged(name: str, change: Callable[[list[object]], list[object]]) -> Callable[[pa.Table], pa.Table]:
    def apply(rows: pa.Table) -> pa.Table:
        at = rows.column_names.index(name)
        return rows.set_column(at, rows.schema.field(at), pa.array(change(rows[name].to_pylist()), rows.schema.field(at).type))

    return apply


@pytest.mark.parametrize(
    ("damage", "figure", "verdicts"),
    [
        (lambda rows: rows, None, (True, True)),
        (lambda rows: rows.slice(1), "without_vector", (False, True)),
        (damaged("documents", lambda values: [values[0] + 1, *values[1:]]), "stood_for", (False, True)),
        (damaged("vector", lambda values: [values[0][:-1], *values[1:]]), "other_dimension", (True, False)),
        (damaged("vector", lambda values: [[2 * part for part in values[0]], *values[1:]]), "other_length", (True, False)),
        (damaged("vector", lambda values: [[float("nan")] * 6, *values[1:]]), "other_length", (True, False)),
        (damaged("model", lambda values: ["f" * 64, *values[1:]]), "other_model", (True, False)),
    ],
    ids=["nothing", "a row is lost", "counted twice", "a component is lost", "twice as long", "not a number", "another model"],
)
def test_what_is_wrong_with_stored_vectors_is_noticed(
    lake: Lake, damage: Callable[[pa.Table], pa.Table], figure: str | None, verdicts: tuple[bool, bool]
) -> None:
    write_embeddings(lake, ONE, Hashed())
    sound = account_of(lake, ONE, Hashed())
    lake.write_partition(EMBEDDINGS, ONE.key, [damage(rows_of(lake, ONE))])
    account = account_of(lake, ONE, Hashed())
    assert (account.every_text_has_a_vector, account.every_vector_is_a_direction) == verdicts
    if figure is not None:
        assert getattr(account, figure) > getattr(sound, figure)


def test_a_document_that_changed_since_is_noticed(lake: Lake) -> None:
    write_embeddings(lake, ONE, Hashed())
    rows = pa.Table.from_batches(lake.read(DOCUMENTS, key=ONE.key), DOCUMENTS.arrow_schema())
    texts = pa.array(["Something else succeeded.", *rows["text"].to_pylist()[1:]])
    lake.write_partition(DOCUMENTS, ONE.key, [rows.set_column(rows.column_names.index("text"), rows.schema.field("text"), texts)])
    account = account_of(lake, ONE, Hashed())
    assert (account.without_vector, account.every_text_has_a_vector) == (1, False)


def test_vectors_of_two_dimensions_in_one_range_are_refused(lake: Lake) -> None:
    write_embeddings(lake, ONE, Hashed())
    rows = rows_of(lake, ONE)
    lake.write_partition(EMBEDDINGS, ONE.key, [damaged("vector", lambda values: [values[0][:-1], *values[1:]])(rows)])
    with pytest.raises(PermanentError, match="vectors have 5 to 6 components"), vectors_of(lake, ONE):
        pass
    lake.write_partition(EMBEDDINGS, ONE.key, [damaged("model", lambda values: ["f" * 64, *values[1:]])(rows)])
    with pytest.raises(PermanentError, match="2 models"), vectors_of(lake, ONE):
        pass


def test_a_model_that_breaks_its_word_commits_nothing(lake: Lake) -> None:
    class Broken(Hashed):
        def vectors(self, texts):  # type: ignore[no-untyped-def]
            return super().vectors(texts)[:, :-1]

    with pytest.raises(PermanentError, match="the embedder gave float32"):
        write_embeddings(lake, ONE, Broken())
    assert not lake.exists(EMBEDDINGS)


def test_a_text_that_cannot_be_embedded_stops_it_and_is_named(lake: Lake) -> None:
    rows = pa.Table.from_batches(lake.read(SUMMARIES, key=ONE.key), SUMMARIES.arrow_schema())
    texts = pa.array(["", *rows["text"].to_pylist()[1:]])
    lake.write_partition(SUMMARIES, ONE.key, [rows.set_column(rows.column_names.index("text"), rows.schema.field("text"), texts)])
    with pytest.raises(BadRecordError, match="the text is empty"):
        write_embeddings(lake, ONE, Hashed())
    assert not lake.exists(EMBEDDINGS)


WRITER = """
import sys
from blyan.corpus import embedding_cache
from blyan.corpus.embeddings import write_embeddings
from blyan.lake import Lake
from blyan.solana.slots import SlotRange
from tests.unit.test_embedding_cache import Hashed

embedding_cache.TEXTS_PER_FILE = 10

def told(done, total):
    print(done, flush=True)
    if done >= 40:
        sys.stdin.read()

write_embeddings(Lake(sys.argv[1]), SlotRange(0, 49), Hashed(), progress=told)
"""


def test_a_killed_run_leaves_nothing_in_the_table_and_the_next_one_goes_on_from_there(lake: Lake) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", WRITER, lake.root]
    writer = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdin is not None
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < 40:
        pass
    writer.send_signal(signal.SIGKILL)
    assert writer.wait(60) == -signal.SIGKILL
    writer.stdin.close()
    writer.stdout.close()
    assert not lake.partitions(EMBEDDINGS)
    model = Hashed()
    made = write_embeddings(lake, ONE, model)
    assert made.embedded == made.distinct - 40 == len(model.asked)
    assert account_of(lake, ONE, model).every_text_has_a_vector
