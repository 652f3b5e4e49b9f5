"""The assets of the group `solana`, run for real on a temporary lake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blyan.errors import SourceUnreachableError
from blyan.lake import Lake
from blyan.schemas import BLOCKS, QUARANTINE, RAW_BLOCKS, TABLES, TRANSACTIONS
from blyan.settings import Settings, load_settings
from blyan.solana.ingest import statement_of
from blyan.solana.slots import SlotRange
from blyan.solana.sources import BlockSource, RawRecord, open_source
from blyan_assets.build import build_defs
from blyan_assets.checks import schema_result
from blyan_assets.partitions import slot_ranges
from blyan_assets.solana import solana_assets
from tests.assets.conftest import QUIET, Run

FIRST, SECOND = "000000000000", "000000000008"


def materialised(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    """What a run made, by name of table."""
    events = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    return {"/".join(event.asset_key.path): event for event in events}


def data_versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    return {name: event.tags["dagster/data_version"] for name, event in materialised(result).items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    return {f"{'/'.join(each.asset_key.path)} {each.check_name}": each for each in result.get_asset_check_evaluations()}


def test_a_range_materialises_every_table_with_its_content_digest_as_data_version(run: Run, lake: Lake) -> None:
    result = run("ingest_range", FIRST)

    assert result.success
    assert data_versions(result) == {name: lake.partitions(table)[FIRST].digest for name, table in TABLES.items()}
    assert {event.partition for event in materialised(result).values()} == {FIRST}


def test_the_same_range_again_has_the_same_data_versions_and_adds_no_version_to_any_table(run: Run, lake: Lake) -> None:
    first = run("ingest_range", FIRST)
    versions = {name: lake.version(table) for name, table in TABLES.items()}
    files = {name: lake.files(table) for name, table in TABLES.items()}

    again = run("ingest_range", FIRST)

    assert data_versions(again) == data_versions(first)
    assert {name: lake.version(table) for name, table in TABLES.items()} == versions
    assert {name: lake.files(table) for name, table in TABLES.items()} == files
    assert not any(event.metadata["content changed"].value for event in materialised(again).values())


def test_a_materialisation_tells_rows_bytes_slots_seconds_and_where_the_data_is(run: Run, lake: Lake) -> None:
    made = materialised(run("ingest_range", FIRST))

    metadata = {name: value.value for name, value in made["solana/transactions"].metadata.items()}
    partition = lake.partitions(TRANSACTIONS)[FIRST]
    assert (metadata["rows"], metadata["dagster/row_count"], metadata["bytes"]) == (partition.rows, partition.rows, partition.bytes)
    assert metadata["slots landed"] + metadata["slots skipped"] == 8
    assert (metadata["slots unknown"], metadata["quarantined"]) == (0, 0)
    assert metadata["seconds"] > 0
    assert metadata["data"] == f"{lake.root}/solana/transactions/slot_range={FIRST}"


def test_the_completeness_statement_is_shown_with_its_partition(run: Run, lake: Lake) -> None:
    made = materialised(run("ingest_range", FIRST))

    assert made["solana/completeness"].metadata["statement"].value == statement_of(lake, SlotRange(0, 7))


def test_every_check_is_evaluated_for_the_partition_of_the_run(run: Run) -> None:
    evaluated = checks(run("ingest_range", SECOND))

    assert {f"{name} schema" for name in TABLES} < evaluated.keys()
    assert "solana/transactions lamports_conserved" in evaluated
    assert {each.partition for each in evaluated.values()} == {SECOND}
    assert all(each.passed for each in evaluated.values())


def test_wrong_data_fails_its_check_for_its_range_and_nothing_downstream_starts(settings: Settings, instance: dg.DagsterInstance, lake: Lake) -> None:
    started: list[str] = []

    @dg.asset(deps=[["solana", "transactions"]], partitions_def=slot_ranges(settings.grid))
    def downstream(context) -> None:  # type: ignore[no-untyped-def]
        started.append(context.partition_key)

    def materialise(key: str, selection: dg.AssetSelection) -> dg.ExecuteInProcessResult:
        resources = build_defs(settings=settings, with_marts=False).resources
        assets = [*solana_assets(settings), downstream]
        return dg.materialize(
            assets, selection=selection, partition_key=key, instance=instance, resources=resources, run_config=QUIET, raise_on_error=False
        )

    for key in (FIRST, SECOND):
        assert materialise(key, dg.AssetSelection.key_prefixes("solana")).success
    rewrite_first_block(lake, FIRST, raise_a_balance)
    without_raw = dg.AssetSelection.all() - dg.AssetSelection.assets(["solana", "raw_blocks"])

    failed, good = materialise(FIRST, without_raw), materialise(SECOND, without_raw)

    wrong = checks(failed)["solana/transactions lamports_conserved"]
    assert (wrong.passed, wrong.blocking, wrong.partition) == (False, True, FIRST)
    assert "1 violations" in (wrong.description or "")
    assert not failed.success
    assert good.success
    assert started == [SECOND]


def test_a_file_with_other_columns_than_declared_fails_the_schema_check(run: Run, lake: Lake) -> None:
    run("ingest_range", FIRST)
    (file,) = lake.files(BLOCKS, keys=[FIRST])
    pq.write_table(pq.read_table(file.path, partitioning=None).drop_columns(["leader"]).append_column("extra", pa.array([1] * file.rows)), file.path)

    result = schema_result(lake, BLOCKS, FIRST)

    assert not result.passed
    assert "extra int64, leader string" in (result.description or "")


def test_a_bad_record_warns_with_the_reason_and_the_rows_around_it_land(run: Run, lake: Lake) -> None:
    run("ingest_range", FIRST)
    whole = lake.partitions(BLOCKS)[FIRST].rows
    rewrite_first_block(lake, FIRST, lambda payload: payload[: len(payload) // 2])

    result = run("normalise_range", FIRST)

    assert result.success
    warning = checks(result)["solana/quarantine nothing_quarantined"]
    assert (warning.passed, warning.severity, warning.metadata["violations"].value) == (False, dg.AssetCheckSeverity.WARN, 1)
    assert warning.metadata["examples"].value[0]["reason"]
    assert "Remedy" in (warning.description or "")
    assert lake.partitions(BLOCKS)[FIRST].rows == whole - 1
    assert lake.partitions(QUARANTINE)[FIRST].rows == 1


def test_a_transient_error_is_retried_and_the_range_lands_once(run: Run, settings: Settings, lake: Lake) -> None:
    source = Interrupted(open_source(settings), failures=1)

    result = run("ingest_range", FIRST, source=source)

    assert result.success
    assert source.reads == 2
    assert [event.step_key for event in result.all_events if event.is_step_up_for_retry] == ["solana__raw_blocks"]
    assert lake.version(RAW_BLOCKS) == 1


def test_a_permanent_error_fails_at_once_with_the_remedy(run: Run, settings: Settings) -> None:
    run("ingest_range", FIRST)
    other_chain = Interrupted(open_source(load_settings(embedded_seed=2)), failures=0)

    result = run("ingest_range", SECOND, source=other_chain)

    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert other_chain.reads == 0
    assert not any(event.is_step_up_for_retry for event in result.all_events)
    assert failure.user_failure_data.metadata["error"].value == "WrongChainError"
    assert "use another BLYAN_LAKE" in failure.user_failure_data.description


def test_a_defect_of_our_own_is_not_retried(run: Run, settings: Settings) -> None:
    source = Interrupted(open_source(settings), failures=1, error=ZeroDivisionError("a defect"))

    result = run("ingest_range", FIRST, source=source)

    assert not result.success
    assert source.reads == 1


@pytest.mark.parametrize("job", ["ingest_range", "normalise_range"])
def test_normalising_never_needs_the_source_again(run: Run, settings: Settings, job: str) -> None:
    run("ingest_range", FIRST)
    gone = Interrupted(open_source(settings), failures=99, error=RuntimeError("the source must not be read"))

    result = run(job, FIRST, source=gone)

    assert result.success == (job == "normalise_range")


@dataclass
class Interrupted:
    """A source that breaks down in the middle of its first reads; also the resource that opens it."""

    source: BlockSource
    failures: int
    error: Exception = field(default_factory=lambda: SourceUnreachableError("the connection broke"))
    reads: int = 0

    @property
    def name(self) -> str:
        return self.source.name

    @contextmanager
    def open(self) -> Iterator[Interrupted]:
        yield self

    def genesis_hash(self) -> str | None:
        return self.source.genesis_hash()

    def read(self, slots: SlotRange) -> Iterator[RawRecord]:
        self.reads += 1
        for record in self.source.read(slots):
            yield record
            if self.reads <= self.failures and record.slot == slots.first + 3:
                raise self.error


def raise_a_balance(payload: bytes) -> bytes:
    """A block whose first transaction leaves its payer with a lamport more than it should have."""
    block = json.loads(payload)
    block["transactions"][0]["meta"]["postBalances"][0] += 1
    return json.dumps(block).encode()


def rewrite_first_block(lake: Lake, key: str, change: Callable[[bytes], bytes]) -> None:
    """Put other bytes in the place of the first block's."""
    rows = [row for batch in lake.read(RAW_BLOCKS, key=key) for row in batch.to_pylist()]
    row = next(row for row in rows if row["payload"])
    payload = change(pa.Codec("zstd").decompress(row["payload"], row["payload_bytes"], asbytes=True))
    row |= {"payload": pa.Codec("zstd").compress(payload, asbytes=True), "payload_bytes": len(payload), "payload_sha256": "0" * 64}
    lake.write_partition(RAW_BLOCKS, key, [pa.Table.from_pylist(rows, schema=RAW_BLOCKS.arrow_schema())])
