"""Reciprocal rank fusion."""

from __future__ import annotations

import pytest

from blyan.query.search import fuse


def test_fusion_is_the_sum_of_reciprocal_places() -> None:
    assert fuse([["a", "b", "c"], ["c", "d"]], 60) == pytest.approx({"c": 1 / 63 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "d": 1 / 62})
    assert list(fuse([["a", "b"], ["b", "a"]])) == ["a", "b"], "equal sums come in the order of the first list"
    assert list(fuse([["a", "b", "c"], ["c", "d"]])) == ["c", "a", "b", "d"]
    assert fuse([[], []]) == {}
