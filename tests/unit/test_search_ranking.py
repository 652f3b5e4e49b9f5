"""The arrays of several ranges say of every document what its own rows say, however they were cut into batches and ranges."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blyan.corpus.search_ranking import RangeArrays, Ranking, RankingWriter, digest_of, gists_named
from blyan.store import Store

DIMENSION = 3
GISTS = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(4)]
VECTORS = {gist: np.random.default_rng(number).normal(size=DIMENSION).astype(np.float32) for number, gist in enumerate(GISTS)}

document = st.tuples(
    st.integers(0, 5), st.sampled_from("abc"), st.sampled_from([None, *GISTS]), st.lists(st.sampled_from(["swap", "fail", "sol", "1.5", "é"]), max_size=5)
)  # fmt: skip
ranges = st.lists(st.lists(st.lists(document, max_size=4), max_size=3), max_size=3)
"""Ranges of batches of documents: slot, template, gist and terms."""


def write(store: Store, name: str, batches: list) -> str:
    """The file of a range, and its digest."""
    gists = sorted({gist for batch in batches for _, _, gist, _ in batch if gist})
    with store.create(name) as upload:
        writer = RankingWriter(upload.stream, DIMENSION)
        if gists:
            # One half, and all: what comes twice is known by its first place.
            writer.add_vectors(gists[: len(gists) // 2], np.array([VECTORS[gist] for gist in gists[: len(gists) // 2]], np.float32))
            writer.add_vectors(gists, np.array([VECTORS[gist] for gist in gists]))
        known = writer.gists.to_pylist()
        for batch in batches:
            slots, templates, named, terms = ([row[place] for row in batch] for place in range(4))
            numbers = np.array([-1 if gist is None else known.index(gist) for gist in named], np.int32)
            writer.add_documents(pa.array(slots, pa.int64()), pa.array(templates, pa.string()), numbers, pa.array(terms, pa.list_(pa.string())))
        return writer.finish()


@given(made=ranges)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, made: list) -> None:
    store = Store(str(tmp_path_factory.mktemp("ranking")), {})
    for number, batches in enumerate(made):
        assert write(store, f"{number}.arrow", batches) == digest_of(store, f"{number}.arrow")
    ranking = Ranking([RangeArrays(store, f"{number}.arrow") for number in range(len(made))])
    rows = [row for batches in made for batch in batches for row in batch]
    assert ranking.documents == len(rows)
    assert ranking.slots.tolist() == [slot for slot, *_ in rows]
    assert ranking.lengths.tolist() == [len(terms) for *_, terms in rows]
    by_slot = sorted(range(len(rows)), key=lambda number: (rows[number][0], number))
    assert [by_slot.index(number) for number in range(len(rows))] == ranking.ranks.tolist()
    for template in range(ranking.templates):
        (name,) = {rows[number][1] for number in ranking.of_template(template)}
        assert ranking.of_template(template).tolist() == [number for number, row in enumerate(rows) if row[1] == name]
        assert set(ranking.template_of[ranking.of_template(template)]) == {template}
    used = sorted({gist for _, _, gist, _ in rows if gist}, key=lambda gist: gists_named([gist])[0])
    assert ranking.gists.tolist() == gists_named(used).tolist()
    if used:
        assert np.array_equal(ranking.vectors(np.arange(len(used))), np.array([VECTORS[gist] for gist in used]))
    assert [None if gist < 0 else used[gist] for gist in ranking.gist_of.tolist()] == [gist for _, _, gist, _ in rows]
    documents, counts = ranking.with_gists(np.arange(len(used)))
    assert documents.tolist() == [number for gist in used for number, row in enumerate(rows) if row[2] == gist]
    assert counts.tolist() == [sum(row[2] == gist for row in rows) for gist in used]
    for term, parts in zip(("swap", "é", "never"), ranking.places(("swap", "é", "never")), strict=True):
        found = {number + base: often for rows_of, oftens, base in parts for number, often in zip(rows_of.tolist(), oftens.tolist(), strict=True)}
        assert found == {number: row[3].count(term) for number, row in enumerate(rows) if term in row[3]}


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-20] + bytes(20)])
def test_a_file_that_was_cut_is_not_read(tmp_path: Path, damage) -> None:
    store = Store(str(tmp_path), {})
    write(store, "a.arrow", [[(1, "a", GISTS[0], ["swap"])]])
    store.put("a.arrow", damage(store.get("a.arrow")))
    with pytest.raises((OSError, ValueError)):
        RangeArrays(store, "a.arrow")
