"""The assets of the group `corpus`, run for real on a temporary lake."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.ranges import account_of
from blyan.corpus.search_index import open_index
from blyan.lake import Lake
from blyan.schemas import DOCUMENTS, EMBEDDINGS, SUMMARIES
from blyan.solana.slots import SlotRange
from blyan_assets.corpus import ACCOUNTED
from blyan_assets.embeddings import CHECKED
from blyan_assets.search import CHECKS
from tests.assets.conftest import Run

FIRST, SLOTS = "000000000000", SlotRange(0, 7)


def test_a_range_is_rendered_checked_and_versioned_by_its_content(run: Run, lake: Lake) -> None:
    assert run("ingest_range", FIRST).success
    result = run("build_corpus", FIRST)

    assert result.success
    made = {
        event.asset_key.path[-1]: event for event in (e.step_materialization_data.materialization for e in result.get_asset_materialization_events())
    }
    for table in (DOCUMENTS, SUMMARIES, EMBEDDINGS):
        assert made[table.short_name].tags["dagster/data_version"] == lake.partitions(table)[FIRST].digest
    assert made["search_index"].tags["dagster/data_version"] == open_index(lake).records[FIRST].made_from
    evaluated = {(check.asset_key.path[-1], check.check_name): check for check in result.get_asset_check_evaluations()}
    assert evaluated.keys() > {
        *((table, "schema") for table in ("documents", "summaries", "embeddings")),
        *(("documents", name) for name in ACCOUNTED),
        *(("embeddings", name) for name in CHECKED),
        *(("search_index", name) for name in CHECKS),
    }
    assert all(check.passed and check.partition == FIRST for check in evaluated.values())
    again = run("build_corpus", FIRST)
    changed = [event.step_materialization_data.materialization.metadata.get("content changed") for event in again.get_asset_materialization_events()]
    assert not any(each.value for each in changed if each is not None)


def test_a_document_that_is_lost_is_noticed(run: Run, lake: Lake) -> None:
    assert run("ingest_range", FIRST).success
    assert run("build_corpus", FIRST).success
    whole = account_of(lake, SLOTS)
    assert (whole.every_transaction_is_accounted_for, whole.every_vote_is_accounted_for) == (True, True)
    rows = pa.Table.from_batches(lake.read(DOCUMENTS, key=FIRST), DOCUMENTS.arrow_schema())
    lost = rows.filter(pc.invert(pc.equal(rows["tx_signature"], rows["tx_signature"][0])))
    assert not rows["is_vote"][0].as_py()

    lake.write_partition(DOCUMENTS, FIRST, [lost])

    account = account_of(lake, SLOTS)
    assert (account.every_transaction_is_accounted_for, account.every_vote_is_accounted_for) == (False, True)


def test_a_range_without_tables_fails_and_says_what_is_missing(run: Run) -> None:
    result = run("build_corpus", FIRST)

    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "MissingObjectError" in str(failure.step_failure_data.error)
