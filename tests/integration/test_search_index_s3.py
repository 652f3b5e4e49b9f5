"""The search index in a bucket: LanceDB commits there as on a disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from object_stores import ObjectStore, s3_store
from search_lake import BruteForce, embed, slots_of, write

from blyan.corpus.search_index import account_of, maintain, open_index, read_pointer, rebuild, write_range
from blyan.query.search import Filters, search
from blyan.query.searcher import LOOK_S, Searcher
from blyan.settings import load_settings


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with s3_store() as opened:
        yield opened


def test_ranges_are_written_replaced_maintained_rebuilt_and_found_in_a_bucket(store: ObjectStore) -> None:
    lake = store.lake()
    write_range(lake, write(lake, 0))
    write_range(lake, write(lake, 0, seed=3))
    assert not write_range(lake, slots_of(0)).changed
    brute = BruteForce(lake, [slots_of(0).key])
    for change in (lambda: None, lambda: maintain(lake, retention_hours=0), lambda: rebuild(lake), lambda: maintain(lake, retention_hours=0)):
        change()
        assert account_of(lake, slots_of(0)).is_exact
        answer = search(open_index(lake), "failed swaps", embed=lambda text: embed([text]), filters=Filters(statuses=("Fail",)))
        names = [tuple(hit.row[name] for name in ("slot", "tx_index", "scope", "subject", "signature")) for hit in answer.hits]
        assert [(name, hit.score, hit.alike) for name, hit in zip(names, answer.hits, strict=True)] == brute.search(
            "failed swaps", "hybrid", Filters(statuses=("Fail",))
        )
    assert lake.store.folders("search") == [read_pointer(lake).current.name]


def test_a_service_notices_another_version_in_a_bucket_and_files_that_are_gone(store: ObjectStore) -> None:
    lake, now = store.lake(), [0.0]
    write_range(lake, write(lake, 0))
    searcher = Searcher(lake, load_settings(lake=lake.root), clock=lambda: now[0])
    before = searcher.find("failed swaps", mode="text").reading
    assert (before.ranges_behind, before.up_to_slot) == (0, 99)
    write_range(lake, write(lake, 1))
    assert searcher.find("failed swaps", mode="text").reading.index_version == before.index_version
    now[0] = LOOK_S
    assert searcher.find("failed swaps", mode="text").reading.up_to_slot == 199
    write_range(lake, write(lake, 1, seed=4))
    maintain(lake, retention_hours=0)
    assert searcher.find("failed swaps", mode="text").reading.ranges_behind == 0, "the clock stands: a file that is gone told of it"
