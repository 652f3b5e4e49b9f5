"""Vectors that were made once: found again, added by many, and whole whoever is killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from blyan.corpus import embedding_cache
from blyan.corpus.embedder import Vectors, unit
from blyan.corpus.embedding_cache import EmbeddingCache
from blyan.errors import BadRecordError, PermanentError
from blyan.store import UNFINISHED, Store

REPOSITORY = Path(__file__).parents[2]


class Hashed:
    """An embedder whose vectors are pseudo-random functions of the text; it remembers what it was asked."""

    name = "hashed"

    def __init__(self, digest: str = "0" * 64, dimension: int = 6) -> None:
        self.digest, self.dimension, self.truncated = digest, dimension, 0
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.asked.extend(texts)
        self.truncated += sum(len(text) > 20 for text in texts)
        return self.vectors(texts)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
        return unit(np.array([np.random.default_rng(seed).standard_normal(self.dimension) for seed in seeds]), self.name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path), {})


def files(store: Store, model: Hashed) -> list[Path]:
    return sorted(Path(store.root, "embeddings", model.digest).glob("*"))


def test_each_distinct_text_is_embedded_once_across_ranges_and_the_saving_is_told(store: Store) -> None:
    model = Hashed()
    first = EmbeddingCache(store, model).embed(["a", "b", "a", "c"])
    assert (first.texts, first.distinct, first.embedded, first.saved_share) == (4, 3, 3, 0.25)
    np.testing.assert_array_equal(first.vectors, model.vectors(["a", "b", "a", "c"]))
    second = EmbeddingCache(store, model).embed(["d", "c", "b", "b", "a", "a", "a", "a"])
    assert (second.texts, second.distinct, second.embedded, second.saved_share) == (8, 4, 1, 0.875)
    np.testing.assert_array_equal(second.vectors, model.vectors(["d", "c", "b", "b", "a", "a", "a", "a"]))
    assert model.asked == ["a", "b", "c", "d"]
    third = EmbeddingCache(store, model).embed(["d", "a"])
    assert (third.embedded, third.saved_share) == (0, 1.0)
    assert len(files(store, model)) == 2, "what is all there adds no file"
    assert EmbeddingCache(store, model).embed([]).saved_share == 0.0


def test_models_are_never_mixed(store: Store) -> None:
    one, other = Hashed("1" * 64), Hashed("2" * 64)
    EmbeddingCache(store, one).embed(["a"])
    assert EmbeddingCache(store, other).embed(["a"]).embedded == 1
    assert files(store, one)
    assert files(store, other)


def test_many_texts_over_many_files_and_row_groups(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "TEXTS_PER_FILE", 1_300)
    model = Hashed()
    texts = [f"text {number}" for number in range(3_000)]
    seen: list[int] = []
    EmbeddingCache(store, model).embed(texts, progress=seen.append)
    assert seen == [0, 1_300, 2_600, 3_000]
    assert len(files(store, model)) == 3
    again = EmbeddingCache(store, model)
    wanted = np.random.default_rng(2).permutation(3_000)[:700]
    found = again.embed([texts[index] for index in wanted])
    assert found.embedded == 0
    np.testing.assert_array_equal(found.vectors, model.vectors([texts[index] for index in wanted]))
    assert len(again) == 3_000


def test_a_file_is_named_by_its_bytes_and_the_same_texts_make_the_same_file(tmp_path: Path) -> None:
    model, names = Hashed(), []
    for folder in ("one", "two"):
        store = Store(str(tmp_path / folder), {})
        EmbeddingCache(store, model).embed(["a", "b", "a"])
        (path,) = files(store, model)
        assert path.name == f"{hashlib.sha256(path.read_bytes()).hexdigest()}.parquet"
        names.append(path.name)
    assert names[0] == names[1]


def test_a_text_that_two_writers_added_is_found_once(store: Store) -> None:
    model = Hashed()
    one, other = EmbeddingCache(store, model), EmbeddingCache(store, model)
    one._look()
    other._look()
    one._add([hashlib.sha256(b"a").digest()], model.vectors(["a"]))
    other._add([hashlib.sha256(text).digest() for text in (b"a", b"b")], model.vectors(["a", "b"]))
    found = one.embed(["b", "a"])
    assert found.embedded == 0
    np.testing.assert_array_equal(found.vectors, model.vectors(["b", "a"]))


def test_what_another_writer_added_meanwhile_is_seen(store: Store) -> None:
    model = Hashed()
    one = EmbeddingCache(store, model)
    one.embed(["a"])
    EmbeddingCache(store, model).embed(["b"])
    assert one.embed(["a", "b"]).embedded == 0


def test_a_text_whose_digest_only_begins_alike_is_embedded(store: Store) -> None:
    model = Hashed()
    cache = EmbeddingCache(store, model)
    alike = hashlib.sha256(b"a").digest()[:8] + bytes(24)
    cache._add([alike], model.vectors(["another"]))
    found = cache.embed(["a"])
    assert found.embedded == 1
    np.testing.assert_array_equal(found.vectors, model.vectors(["a"]))


def test_what_was_cut_is_counted_of_what_went_to_the_model(store: Store) -> None:
    model = Hashed()
    assert EmbeddingCache(store, model).embed(["short", "long " * 9, "long " * 9, "longer " * 9]).truncated == 2
    assert EmbeddingCache(store, model).embed(["long " * 9, "and yet another long one"]).truncated == 1


def test_an_empty_text_stops_it_before_anything_is_embedded(store: Store) -> None:
    model = Hashed()
    with pytest.raises(BadRecordError, match=r"the text is empty .*text 1"):
        EmbeddingCache(store, model).embed(["a", ""])
    assert model.asked == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "dimension"])
def test_a_damaged_file_is_named_and_its_deletion_mends_it(store: Store, damage: str) -> None:
    model = Hashed()
    EmbeddingCache(store, model).embed(["a"])
    (path,) = files(store, model)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:-20])
    elif damage == "flipped":
        at = data.index(model.vectors(["a"]).tobytes())
        data[at] ^= 255
        path.write_bytes(data)
    else:
        path.unlink()
        EmbeddingCache(store, Hashed(dimension=5)).embed(["a"])
        (path,) = files(store, model)
    with pytest.raises(PermanentError, match=f"{path.name}.*delete the file"):
        EmbeddingCache(store, model).embed(["a"])
    path.unlink()
    np.testing.assert_array_equal(EmbeddingCache(store, model).embed(["a"]).vectors, model.vectors(["a"]))


def test_an_embedder_that_breaks_its_word_adds_nothing(store: Store) -> None:
    class Short(Hashed):
        def vectors(self, texts: Sequence[str]) -> Vectors:
            return super().vectors(texts)[:-1]

    with pytest.raises(PermanentError, match=r"the embedder gave float32 \[1, 6\], not float32 \[2, 6\]"):
        EmbeddingCache(store, Short()).embed(["a", "b"])
    assert files(store, Hashed()) == []


def test_what_an_unfinished_writer_left_is_not_read(store: Store) -> None:
    model = Hashed()
    EmbeddingCache(store, model).embed(["a"])
    (path,) = files(store, model)
    path.with_name(f"{path.name}.12345678{UNFINISHED}").write_bytes(b"PAR1")
    assert EmbeddingCache(store, model).embed(["a"]).embedded == 0


WRITER = """
import sys
from blyan.corpus import embedding_cache
from blyan.corpus.embedding_cache import EmbeddingCache
from blyan.store import Store
from tests.unit.test_embedding_cache import Hashed

root, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
embedding_cache.TEXTS_PER_FILE = 20
cache = EmbeddingCache(Store(root, {}), Hashed())
print("ready", flush=True)
cache.embed([f"text {number}" for number in range(first, last)], progress=lambda done: print(done, flush=True))
"""


def writer(root: str, first: int, last: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", WRITER, root, str(first), str(last)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)


def test_writers_side_by_side_of_which_one_is_killed_leave_only_whole_files(store: Store) -> None:
    model = Hashed()
    killed, other = writer(store.root, 0, 1_000_000), writer(store.root, 100, 400)
    assert killed.stdout is not None
    for _ in range(12):  # "ready", what was there, and ten files of 20 texts that were not
        killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    killed.stdout.close()
    other.communicate(timeout=60)
    assert other.returncode == 0
    for path in files(store, model):
        if not path.name.endswith(UNFINISHED):
            assert path.name == f"{hashlib.sha256(path.read_bytes()).hexdigest()}.parquet"
    texts = [f"text {number}" for number in range(600)]
    found = EmbeddingCache(store, model).embed(texts)
    assert found.embedded <= 200, "what either had added is there"
    np.testing.assert_array_equal(found.vectors, model.vectors(texts))
