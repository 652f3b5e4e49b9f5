"""The cap: of each template as many as it allows, spread evenly, and the same ones however the documents come in batches."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.corpus import templates
from blyan.corpus.templates import Cap, Templates, ranks
from blyan.errors import PermanentError


def keys_of(names: list[int]) -> pa.StringArray:
    return pa.array([hashlib.sha256(str(name).encode()).hexdigest()[:32] for name in names], pa.string())


def cut(array: pa.Array, size: int) -> list[pa.Array]:
    return [array.slice(at, size) for at in range(0, len(array), size)]


@given(st.lists(st.integers(0, 6), max_size=80), st.integers(1, 9), st.integers(1, 30), st.booleans())
def test_as_many_of_each_template_are_kept_as_the_cap_allows(names: list[int], cap: int, size: int, coded: bool) -> None:
    array = keys_of(names)
    batches = [batch.dictionary_encode() if coded else batch for batch in cut(array, size)]
    counted = Templates(batches)
    chooser = Cap(counted, cap)
    chosen = [chooser.choose(batch) for batch in batches]
    kept = np.concatenate([np.empty(0, bool), *(mask for mask, _ in chosen)])
    first = np.concatenate([np.empty(0, bool), *(mask for _, mask in chosen)])
    totals, of = Counter(names), Counter(name for name, is_kept in zip(names, kept, strict=True) if is_kept)
    assert of == Counter({name: min(count, cap) for name, count in totals.items()})
    assert (len(counted), counted.documents, counted.kept(cap)) == (len(totals), len(names), int(kept.sum()))
    assert [name for name, is_first in zip(names, first, strict=True) if is_first] == list(dict.fromkeys(names))
    again, _ = Cap(counted, cap).choose(array)
    assert again.tolist() == kept.tolist(), "whatever the batches"


def test_what_is_kept_is_spread_over_all_there_is() -> None:
    kept, _ = Cap(Templates([keys_of([1] * 1_000)]), 10).choose(keys_of([1] * 1_000))
    assert np.diff(np.flatnonzero(kept)).tolist() == [100] * 9


def test_templates_are_merged_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Templates([keys_of(list(range(50)) * 3)])
    monkeypatch.setattr(templates, "MERGE_AT", 7)
    parts = Templates(cut(keys_of(list(range(50)) * 3), 11))
    assert (parts.keys.tolist(), parts.counts.tolist()) == (whole.keys.tolist(), whole.counts.tolist())


def test_documents_that_were_not_counted_are_noticed() -> None:
    chooser = Cap(Templates([keys_of([1, 1, 2])]), 5)
    for wrong in ([3], [2**40], [1, 1, 1]):
        with pytest.raises(PermanentError, match="not those that were counted"):
            chooser.choose(keys_of(wrong))


@pytest.mark.parametrize("key", ["", "zz" * 16, "ab" * 15, "ab" * 17])
def test_a_structural_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(PermanentError, match="32 hex digits"):
        Templates([pa.array([key])])


def test_a_cap_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(PermanentError, match="BLYAN_CORPUS_TEMPLATE_CAP"):
        Cap(Templates([]), 0)


def test_ranks_count_what_is_the_same_before() -> None:
    assert ranks(np.array([4, 7, 4, 4, 9, 7])).tolist() == [0, 0, 1, 2, 0, 1]
    assert ranks(np.array([], np.int64)).tolist() == []
