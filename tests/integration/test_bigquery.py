"""The BigQuery source, through Google's real client, against a stand-in on loopback."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from blyan.errors import (
    BlyanError,
    PermanentError,
    RateLimitedError,
    SettingError,
    SourceUnreachableError,
    TooCostlyError,
)
from blyan.settings import load_settings
from blyan.solana.slots import SlotRange
from blyan.solana.sources import BlockSource, Format, RawRecord, SlotState, open_source
from blyan.solana.sources import bigquery as bigquery_source
from blyan.solana.sources.bigquery import MAINNET_GENESIS_HASH, SLOT_TIMES, WINDOW_MARGIN, BigQuerySource, estimated_window
from tests.bigquery_rows import FILTER_REQUIRED, PARTITIONS, SCHEMAS, Tables, combined, rows_of_block
from tests.bigquery_stand_in import DATASET, BigQueryStandIn, Refusal

PRESENT, SKIPPED, UNKNOWN, REJECTED = SlotState.PRESENT, SlotState.SKIPPED, SlotState.UNKNOWN, SlotState.REJECTED
TIME = 1_638_693_800
FIRST = 110_130_000
# Read here, since every test starts without the settings of the shell.
CLOUD_PROJECT = os.environ.get("BLYAN_BIGQUERY_PROJECT")


def block(slot: int, *, parent: int, height: int | None = None, time: int | None = TIME, transactions: int = 2) -> dict[str, Any]:
    """A small block in the shape of getBlock; its hash is made from its slot."""
    return {
        "blockhash": f"hash{slot}",
        "previousBlockhash": f"hash{parent}",
        "blockHeight": height,
        "blockTime": time,
        "parentSlot": parent,
        "rewards": [{"pubkey": "leader", "lamports": 2**63 + 1, "postBalance": 2**64 - 1, "rewardType": "Fee", "commission": None}],
        "transactions": [_transaction(f"signature{slot}.{number}") for number in range(transactions)],
    }


def _transaction(signature: str) -> dict[str, Any]:
    balance = {"accountIndex": 1, "mint": "mint", "uiTokenAmount": {"amount": "11999841306999999000", "decimals": 9}}
    transfer = {"program": "system", "programId": "1" * 32, "parsed": {"type": "transfer", "info": {"lamports": 5, "source": "payer"}}}
    raw = {"programId": "program", "accounts": ["payer"], "data": "3Bxs"}
    return {
        "transaction": {
            "signatures": [signature],
            "message": {
                "recentBlockhash": "recent",
                "accountKeys": [
                    {"pubkey": "payer", "signer": True, "writable": True},
                    {"pubkey": "other", "signer": False, "writable": True},
                ],
                "instructions": [transfer, raw, {"program": "spl-memo", "programId": "memo", "parsed": "naïve \u0007 memo"}],
            },
        },
        "meta": {
            "err": {"InstructionError": [1, {"Custom": 3_131_746_989}]},
            "fee": 5000,
            "preBalances": [10_000, 0],
            "postBalances": [5_000, 0],
            "innerInstructions": [{"index": 1, "instructions": [raw, transfer]}],
            "logMessages": ["Program log: \U0001f680\n"],
            "preTokenBalances": [balance],
            "postTokenBalances": [],
        },
    }


def chain(*, height: int | None = 99_206_170, time: int | None = TIME) -> Tables:
    """Blocks at 110130000, 1, 4, 5 and 8 of which 4 follows 1, and 8 follows 6, which the dataset misses."""
    blocks = [(0, -1, 0), (1, 0, 1), (4, 1, 2), (5, 4, 3), (8, 6, 5)]
    return combined(
        rows_of_block(
            FIRST + at,
            block(FIRST + at, parent=FIRST + parent, height=None if height is None else height + above, time=None if time is None else time + at),
        )
        for at, parent, above in blocks
    )


@pytest.fixture
def serve() -> Iterator[Any]:
    """Start a stand-in over some tables and give a source that reads it."""
    started: list[Any] = []

    def start(tables: Tables, *, limit: int = 10**9, **options: Any) -> tuple[BigQueryStandIn, BigQuerySource]:
        known = {name: options.pop(name) for name in ("buckets", "bytes_per_row", "page_rows") if name in options}
        stand_in = BigQueryStandIn(tables, **known)
        stand_in.start()
        source = BigQuerySource(
            project="a-project",
            dataset=options.pop("dataset", DATASET),
            maximum_bytes_billed=limit,
            endpoint=stand_in.endpoint,
            retry_deadline_s=options.pop("retry_deadline_s", 5.0),
            **options,
        )
        started.extend((source, stand_in))
        return stand_in, source

    yield start
    for item in started:
        item.stop() if isinstance(item, BigQueryStandIn) else item.close()


def slots_of(first: int, last: int) -> SlotRange:
    return SlotRange(FIRST + first, FIRST + last)


def own(records: list[RawRecord]) -> dict[int, RawRecord]:
    """The slots' own records, by slot."""
    return {record.slot: record for record in records if record.state is not REJECTED}


def expected(tables: Tables, block_hash: str) -> dict[str, list[dict[str, Any]]]:
    """A block's rows as a payload should have them, from the rows the dataset was made of."""
    exact = {
        name: {field.name: {inner.name: inner.type for inner in field.fields} or field.type for field in fields} for name, fields in SCHEMAS.items()
    }

    def plain(type_: Any, value: Any) -> Any:
        if isinstance(value, list):
            return [plain(type_, element) for element in value]
        if isinstance(value, dict):
            return {name: plain(type_[name], inner) for name, inner in value.items()}
        if value is not None and type_ in ("NUMERIC", "BIGNUMERIC"):
            return str(value)
        return value.strftime("%Y-%m-%dT%H:%M:%SZ") if isinstance(value, datetime) else value

    return {
        name: [{column: plain(exact[name][column], value) for column, value in row.items()} for row in rows if row["block_hash"] == block_hash]
        for name, rows in tables.items()
    }


def recorded(shared_data: Path, pattern: str) -> dict[str, Any]:
    path = next((shared_data / "solana" / "blocks").glob(pattern))
    found = json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    while isinstance(found, list):
        found = found[0]
    return found.get("result", found)


# ---- blocks


@pytest.mark.parametrize("slot", [110_130_000, 147_078_735])
def test_a_recorded_block_arrives_with_every_row_and_every_digit(slot: int, serve: Any, shared_data: Path) -> None:
    tables = rows_of_block(slot, recorded(shared_data, f"{slot}-jsonParsed-*"))
    _, source = serve(tables, page_rows=2_000)
    records = list(source.read(SlotRange(slot - 1, slot + 1)))
    assert [(record.slot, record.state) for record in records] == [(slot - 1, UNKNOWN), (slot, PRESENT), (slot + 1, UNKNOWN)]
    found = records[1]
    rows = expected(tables, tables["Blocks"][0]["block_hash"])
    payload = json.loads(found.payload)
    assert (found.block_hash, found.parent_slot, found.detail, found.format) == (rows["Blocks"][0]["block_hash"], None, "", Format.BIGQUERY)
    assert payload["block"] == rows["Blocks"][0]
    assert payload["transactions"] == rows["Transactions"]
    assert payload["instructions"] == rows["Instructions"]
    by_account = sorted(rows["Block Rewards"], key=lambda row: (row["reward_type"], row["pubkey"]))
    assert payload["rewards"] == by_account


def test_amounts_above_two_to_the_63_keep_every_digit(serve: Any) -> None:
    _, source = serve(chain())
    payload = json.loads(own(list(source.read(slots_of(0, 0))))[FIRST].payload)
    assert payload["transactions"][0]["pre_token_balances"][0]["amount"] == "11999841306999999000"
    assert (payload["rewards"][0]["lamports"], payload["rewards"][0]["post_balance"]) == (str(2**63 + 1), str(2**64 - 1))
    assert payload["transactions"][0]["balance_changes"][1] == {"account": "other", "before": "0", "after": "0"}


def test_an_inner_instruction_follows_the_one_that_invoked_it(serve: Any) -> None:
    _, source = serve(chain())
    rows = json.loads(own(list(source.read(slots_of(0, 0))))[FIRST].payload)["instructions"]
    one = [(None, 0), (None, 1), (1, 0), (1, 1), (None, 2)]
    assert [(row["parent_index"], row["index"]) for row in rows] == one + one


def test_the_same_rows_give_the_same_bytes_in_whatever_order_they_are_stored(serve: Any) -> None:
    tables = chain()
    mixed = {name: random.Random(1).sample(rows, len(rows)) for name, rows in tables.items()}
    _, source = serve(tables)
    _, other = serve(mixed, page_rows=3)
    assert [record.payload for record in source.read(slots_of(0, 9))] == [record.payload for record in other.read(slots_of(0, 9))]


def test_a_range_over_many_pages_loses_no_row(serve: Any) -> None:
    tables = chain()
    stand_in, source = serve(tables, page_rows=2)
    records = own(list(source.read(slots_of(0, 9))))
    counts = {slot: len(json.loads(record.payload)["instructions"]) for slot, record in records.items() if record.payload}
    assert counts == {FIRST + at: 10 for at in (0, 1, 4, 5, 8)}
    assert sum("pageToken" in request.query for request in stand_in.requests) > len(tables["Instructions"]) / 2


# The client itself calls a method of the Storage library that is to move to another package.
@pytest.mark.filterwarnings("ignore:Retrieving Arrow record batches directly:PendingDeprecationWarning")
def test_the_storage_read_api_gives_the_same_bytes_as_rest(serve: Any) -> None:
    stand_in, source = serve(chain(), page_rows=3)
    over_rest = list(source.read(slots_of(0, 9)))
    with stand_in.storage_client() as storage:
        fast = BigQuerySource(project="a-project", dataset=DATASET, maximum_bytes_billed=10**9, endpoint=stand_in.endpoint, storage_client=storage)
        assert list(fast.read(slots_of(0, 9))) == over_rest
        fast.close()
    sessions = [request.query for request in stand_in.requests if request.method == "gRPC"]
    # One stream each, or the rows would not come in the order of slots.
    assert sessions == [{"max_stream_count": "1"}] * 4


# ---- export


@pytest.mark.parametrize("buckets", [bigquery_source.BUCKETS, 4], ids=["a bucket per slot", "several slots in a bucket"])
def test_an_export_gives_the_same_bytes_and_leaves_no_file_behind(buckets: int, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery_source, "BUCKETS", buckets)
    _, source = serve(chain())
    streamed = list(source.read(slots_of(0, 9)))
    stale = tmp_path / "bucket" / "some" / "prefix" / f"{slots_of(0, 9).key}-{FIRST + 9}" / "transactions-000000000007.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"left by an export that was larger")
    files = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    stand_in, exporting = serve(chain(), buckets=tmp_path, export_uri="gs://bucket/some/prefix", export_filesystem=files)
    assert list(exporting.read(slots_of(0, 9))) == streamed
    exports = [job for job in stand_in.queries if job.sql.startswith("EXPORT DATA")]
    assert [job.table for job in exports] == ["Transactions", "Instructions", "Block Rewards"]
    assert all("ORDER BY" not in job.sql for job in exports)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ---- slots


def test_slots_between_a_block_and_its_parent_are_skipped_and_a_gap_without_a_link_is_not(serve: Any) -> None:
    _, source = serve(chain())
    found = own(list(source.read(slots_of(0, 9))))
    assert list(found) == list(slots_of(0, 9))
    link, missing = (SKIPPED, f"height link of {FIRST + 4}"), (UNKNOWN, "no row in Blocks")
    here = (PRESENT, "row in Blocks")
    assert [(record.state, record.proof) for record in found.values()] == [here, here, link, link, here, here, missing, missing, here, missing]


def test_a_link_is_found_although_both_its_blocks_are_outside_the_range(serve: Any) -> None:
    stand_in, source = serve(chain())
    assert [record.state for record in source.read(slots_of(2, 3))] == [SKIPPED, SKIPPED]
    assert {job.table for job in stand_in.queries} == {"Blocks"}, "nothing to read, so nothing is paid for"


def test_a_link_without_heights_is_proven_by_the_hash(serve: Any) -> None:
    _, source = serve(chain(height=None))
    assert {record.proof for record in source.read(slots_of(2, 3))} == {f"hash link of {FIRST + 4}"}


def test_a_height_that_contradicts_the_hash_proves_nothing(serve: Any) -> None:
    tables = chain()
    tables["Blocks"][2]["height"] += 1
    _, source = serve(tables)
    assert [record.state for record in source.read(slots_of(2, 3))] == [UNKNOWN, UNKNOWN]


def test_states_are_those_of_the_records_and_read_only_blocks(serve: Any) -> None:
    tables = chain()
    tables["Blocks"].append(tables["Blocks"][3] | {"block_hash": "fork"})
    stand_in, source = serve(tables)
    states = source.states(slots_of(0, 9))
    assert {job.table for job in stand_in.jobs} == {"Blocks"}
    assert states == [record.state for record in own(list(source.read(slots_of(0, 9)))).values()]
    assert states[5] is UNKNOWN


# ---- odd rows


def test_exact_duplicates_are_dropped_and_noted(serve: Any) -> None:
    tables = chain()
    _, clean = serve(tables)
    doubled = {name: rows + rows for name, rows in tables.items()}
    _, source = serve(doubled)
    once, twice = own(list(clean.read(slots_of(0, 0))))[FIRST], own(list(source.read(slots_of(0, 0))))[FIRST]
    assert twice.payload == once.payload
    assert twice.detail == "2 duplicate rows of transactions dropped; 10 duplicate rows of instructions dropped; 1 duplicate rows of rewards dropped"


def test_missing_transactions_are_left_missing_and_noted(serve: Any) -> None:
    tables = chain()
    del tables["Transactions"][1]
    _, source = serve(tables)
    record = own(list(source.read(slots_of(0, 0))))[FIRST]
    assert (record.state, record.detail) == (PRESENT, "Blocks states 2 transactions, the dataset has 1")
    assert len(json.loads(record.payload)["instructions"]) == 10


def test_two_hashes_for_a_slot_are_both_rejected_with_their_rows(serve: Any) -> None:
    tables = chain()
    fork = rows_of_block(FIRST + 5, block(FIRST + 5, parent=FIRST + 4, height=99_206_173, transactions=1) | {"blockhash": "fork"})
    _, source = serve(combined([tables, fork]))
    records = [record for record in source.read(slots_of(4, 8)) if record.slot == FIRST + 5]
    assert [(record.state, record.proof, record.block_hash) for record in records] == [
        (REJECTED, "conflicting_hash", "fork"),
        (REJECTED, "conflicting_hash", f"hash{FIRST + 5}"),
        (UNKNOWN, "conflicting rows in Blocks", None),
    ]
    assert [len(json.loads(record.payload)["transactions"]) for record in records[:2]] == [1, 2]


def test_two_rows_of_one_hash_that_disagree_are_both_rejected(serve: Any) -> None:
    tables = chain()
    tables["Blocks"].append(tables["Blocks"][0] | {"height": 7})
    _, source = serve(tables)
    assert [(record.state, record.proof) for record in source.read(slots_of(0, 0))] == [
        (REJECTED, "conflicting_rows"),
        (REJECTED, "conflicting_rows"),
        (UNKNOWN, "conflicting rows in Blocks"),
    ]


def test_rows_of_a_fork_are_rejected_and_the_block_is_kept(serve: Any) -> None:
    tables = chain()
    fork = rows_of_block(FIRST + 1, block(FIRST + 1, parent=FIRST, transactions=1) | {"blockhash": "fork"})
    _, source = serve(combined([tables, fork | {"Blocks": []}]))
    rejected, kept = source.read(slots_of(1, 1))
    assert (rejected.state, rejected.proof) == (REJECTED, "conflicting_hash")
    assert {row["block_hash"] for row in json.loads(rejected.payload)["transactions"]} == {"fork"}
    assert (kept.state, kept.detail, len(json.loads(kept.payload)["transactions"])) == (PRESENT, "", 2)


def test_rows_of_a_block_that_blocks_does_not_have_are_rejected(serve: Any) -> None:
    lost = rows_of_block(FIRST + 6, block(FIRST + 6, parent=FIRST + 5, time=TIME + 6))
    _, source = serve(combined([chain(), lost | {"Blocks": []}]))
    rejected, unknown = (record for record in source.read(slots_of(5, 8)) if record.slot == FIRST + 6)
    assert (rejected.state, rejected.proof) == (REJECTED, "no_block_row")
    payload = json.loads(rejected.payload)
    assert (payload["block"], len(payload["transactions"]), len(payload["instructions"])) == (None, 2, 10)
    assert (unknown.state, unknown.proof) == (UNKNOWN, "no row in Blocks")


def test_a_transaction_without_metadata_arrives_with_nulls(serve: Any) -> None:
    bare = block(FIRST, parent=FIRST - 1, transactions=1)
    bare["transactions"][0]["meta"] = None
    _, source = serve(rows_of_block(FIRST, bare))
    row = json.loads(next(source.read(slots_of(0, 0))).payload)["transactions"][0]
    assert [row[name] for name in ("fee", "status", "err", "compute_units_consumed")] == [None] * 4
    assert [row[name] for name in ("log_messages", "balance_changes", "pre_token_balances")] == [[], [], []]


def test_a_table_without_transaction_count_is_read_with_null(serve: Any) -> None:
    stand_in, source = serve(chain())
    stand_in.schemas["Blocks"] = tuple(field for field in SCHEMAS["Blocks"] if field.name != "transaction_count")
    record = next(source.read(slots_of(0, 0)))
    assert json.loads(record.payload)["block"]["transaction_count"] is None
    assert (record.state, record.detail) == (PRESENT, "")


# ---- cost


def test_every_query_is_priced_before_it_runs_and_carries_the_limit(serve: Any) -> None:
    stand_in, source = serve(chain(), limit=123_456_789)
    list(source.read(slots_of(0, 9)))
    source.check()
    priced = set()
    for job in stand_in.jobs:
        if job.dry_run:
            priced.add((job.sql, str(job.parameters)))
        else:
            assert (job.sql, str(job.parameters)) in priced, job.sql
            assert job.resource["configuration"]["query"]["maximumBytesBilled"] == "123456789"
    assert len(stand_in.queries) == 5


def test_a_range_over_the_limit_is_refused_before_a_large_table_is_queried(serve: Any) -> None:
    stand_in, source = serve(chain(), limit=60_000, bytes_per_row=1_000)
    with pytest.raises(TooCostlyError) as caught:
        list(source.read(slots_of(0, 9)))
    # 5 blocks, 10 transactions, 50 instructions and 5 rewards.
    assert "70,000 bytes" in caught.value.what
    assert "60,000" in caught.value.what
    assert "USD" in caught.value.what
    assert "BLYAN_BIGQUERY_MAXIMUM_BYTES_BILLED=60000" in caught.value.where
    assert "70000" in caught.value.remedy
    assert {job.table for job in stand_in.queries} == {"Blocks"}


def test_not_even_blocks_is_queried_over_the_limit(serve: Any) -> None:
    stand_in, source = serve(chain(), limit=4_999)
    for ask in (lambda: source.states(slots_of(0, 9)), source.check):
        with pytest.raises(TooCostlyError, match="5,000 bytes"):
            ask()
    assert stand_in.queries == []


def test_a_limit_that_the_server_enforces_is_the_same_error(serve: Any) -> None:
    stand_in, source = serve(chain())
    stand_in.fail(400, "bytesBilledLimitExceeded", path="GET .*/queries/", times=100)
    with pytest.raises(TooCostlyError, match="BLYAN_BIGQUERY_MAXIMUM_BYTES_BILLED"):
        source.states(slots_of(0, 9))


def test_only_the_partitions_of_the_range_are_touched(serve: Any) -> None:
    elsewhere = [
        rows_of_block(FIRST + away, block(FIRST + away, parent=0, height=1, time=TIME + int(timedelta(days=days).total_seconds())))
        for away, days in ((400_000, 2), (40_000_000, 200))
    ]
    stand_in, source = serve(combined([chain(), *elsewhere]), bytes_per_row=1)
    list(source.read(slots_of(0, 9)))
    scanned = {job.table: job.scanned for job in stand_in.queries}
    assert scanned == {"Blocks": 6, "Transactions": 10, "Instructions": 50, "Block Rewards": 6}
    bounds = {(job.parameters["earliest"], job.parameters["latest"]) for job in stand_in.queries if job.table in FILTER_REQUIRED}
    first, last = datetime.fromtimestamp(TIME, UTC), datetime.fromtimestamp(TIME + 8, UTC)
    padding = timedelta(hours=1)
    assert bounds == {((first - padding).replace(tzinfo=None), (last + padding).replace(tzinfo=None))}
    for job in stand_in.jobs:
        assert "block_timestamp BETWEEN @earliest AND @latest" in job.sql
        assert "BETWEEN @first_slot AND @last_slot" in job.sql
        assert "IS NULL" not in job.sql
        assert not any(character.isdigit() for character in job.sql.partition("WHERE")[2]), "values are parameters"


def test_blocks_without_a_time_are_looked_for_only_where_there_are_some(serve: Any) -> None:
    early = 18_144_001
    timeless = rows_of_block(early, block(early, parent=early - 1, time=None))
    timed = rows_of_block(early + 1, block(early + 1, parent=early, time=1_592_400_000))
    stand_in, source = serve(combined([timeless, timed]))
    assert [record.state for record in source.read(SlotRange(early, early))] == [PRESENT]
    assert ["BETWEEN @earliest" in job.sql for job in stand_in.queries if job.table in FILTER_REQUIRED] == [False] * 3
    records = list(source.read(SlotRange(early, early + 1)))
    assert [len(json.loads(record.payload)["transactions"]) for record in records] == [2, 2]
    assert all("(block_timestamp BETWEEN @earliest AND @latest OR block_timestamp IS NULL)" in job.sql for job in stand_in.jobs[-3:])


def test_the_stand_in_refuses_a_query_without_a_partition_filter_as_bigquery_does() -> None:
    with BigQueryStandIn(chain()) as stand_in:
        for table in PARTITIONS:
            body = {"configuration": {"query": {"query": f"SELECT `block_hash` FROM `{DATASET}.{table}`"}, "dryRun": True}}
            if table in FILTER_REQUIRED:
                with pytest.raises(Refusal, match="partition elimination"):
                    stand_in._insert("a-project", body)
            else:
                assert int(stand_in._insert("a-project", body)["statistics"]["totalBytesProcessed"]) == 5_000


def test_the_estimated_time_holds_every_known_block_with_room_to_spare() -> None:
    # Slots and blockTime of recorded blocks that the estimate does not know, and one far beyond it.
    for slot, time in [*SLOT_TIMES, (79_662_905, 1_622_632_900), (195_545_750, 1_684_858_018), (440_000_000, 1_787_000_000)]:
        window = estimated_window(SlotRange(slot, slot))
        known = datetime.fromtimestamp(time, UTC)
        assert window.earliest < known - timedelta(days=30)
        assert window.latest > known + timedelta(days=30)
        assert window.latest - window.earliest < 2 * WINDOW_MARGIN + timedelta(days=600)
    assert estimated_window(SlotRange(18_144_001, 18_144_002)).timeless
    assert not estimated_window(SlotRange(64_800_004, 64_800_004)).timeless


# ---- errors


@pytest.mark.parametrize(
    ("status", "reason", "family", "names"),
    [
        (403, "accessDenied", SettingError, "BLYAN_BIGQUERY_PROJECT"),
        (403, "billingNotEnabled", SettingError, "BLYAN_BIGQUERY_PROJECT"),
        (403, "quotaExceeded", RateLimitedError, "quota"),
        (403, "responseTooLarge", PermanentError, "BLYAN_BIGQUERY_EXPORT_URI"),
        (401, "authError", SettingError, "GOOGLE_APPLICATION_CREDENTIALS"),
        (404, "notFound", SettingError, "BLYAN_BIGQUERY_DATASET"),
        (429, "rateLimitExceeded", RateLimitedError, "rateLimitExceeded"),
        (500, "internalError", SourceUnreachableError, "internalError"),
        (503, "backendError", SourceUnreachableError, "backendError"),
        (400, "invalidQuery", PermanentError, "invalidQuery"),
    ],
)
@pytest.mark.parametrize("path", ["POST", "GET .*/queries/", "GET .*/tables/"])
def test_an_error_of_the_api_becomes_one_of_ours(path: str, status: int, reason: str, family: type[BlyanError], names: str, serve: Any) -> None:
    stand_in, source = serve(chain(), retry_deadline_s=0.05)
    stand_in.fail(status, reason, times=200, path=path)
    with pytest.raises(family) as caught:
        list(source.read(slots_of(0, 9)))
    assert type(caught.value) is family
    assert names in str(caught.value)


def test_an_error_that_passes_is_retried_and_not_seen(serve: Any) -> None:
    stand_in, source = serve(chain(), retry_deadline_s=10.0)
    calm = list(source.read(slots_of(0, 9)))
    stand_in.fail(503, "backendError", path="POST")
    stand_in.fail(429, "rateLimitExceeded", path="GET .*/queries/")
    assert list(source.read(slots_of(0, 9))) == calm


def test_a_closed_port_is_an_unreachable_source() -> None:
    with BigQueryStandIn(chain()) as stand_in:
        endpoint = stand_in.endpoint
    source = BigQuerySource(project="a-project", dataset=DATASET, maximum_bytes_billed=1, endpoint=endpoint, retry_deadline_s=0.05)
    with pytest.raises(SourceUnreachableError, match="does not answer"):
        source.check()
    source.close()


def test_a_dataset_that_is_not_there_names_its_setting(serve: Any) -> None:
    _, source = serve(chain(), dataset="bigquery-public-data.crypto_solana_devnet")
    with pytest.raises(SettingError, match="BLYAN_BIGQUERY_DATASET"):
        source.states(slots_of(0, 9))
    assert source.genesis_hash() is None


def test_a_dataset_of_another_shape_names_the_missing_columns(serve: Any) -> None:
    stand_in, source = serve(chain())
    stand_in.schemas["Transactions"] = tuple(field for field in SCHEMAS["Transactions"] if field.name != "block_hash")
    with pytest.raises(SettingError, match="'Transactions' has no column block_hash"):
        list(source.read(slots_of(0, 9)))


def test_no_credentials_is_a_setting_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    source = BigQuerySource.from_settings(load_settings(source="bigquery", bigquery_project="a-project"))
    with pytest.raises(SettingError, match=r"BLYAN_BIGQUERY_PROJECT, GOOGLE_APPLICATION_CREDENTIALS.*gcloud auth application-default login"):
        source.check()


def test_no_project_is_a_setting_error() -> None:
    with pytest.raises(SettingError, match="BLYAN_BIGQUERY_PROJECT"):
        open_source(load_settings(source="bigquery"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bigquery_dataset", "no_project"),
        ("bigquery_dataset", "project.data`set"),
        ("bigquery_export_uri", "s3://bucket/prefix"),
        ("bigquery_export_uri", "gs://bucket/it's"),
    ],
)
def test_a_name_that_cannot_stand_in_sql_is_a_setting_error(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"BLYAN_{name.upper()}"):
        open_source(load_settings(source="bigquery", bigquery_project="a-project", **{name: value}))


# ---- the protocol


def test_the_settings_choose_it_and_nothing_is_contacted_until_it_is_asked(serve: Any) -> None:
    stand_in, _ = serve(chain())
    source = open_source(load_settings(source="bigquery", bigquery_project="a-project", bigquery_endpoint=stand_in.endpoint))
    assert isinstance(source, BlockSource)
    assert source.genesis_hash() == MAINNET_GENESIS_HASH
    assert stand_in.requests == []
    report = source.check()
    assert (report.name, report.where, report.first_slot, report.last_slot) == ("bigquery", DATASET, FIRST, FIRST + 8)
    source.close()


def test_a_given_client_is_used_and_left_open(serve: Any) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    stand_in, _ = serve(chain())
    with bigquery.Client("another-project", AnonymousCredentials(), client_options={"api_endpoint": stand_in.endpoint}) as client:
        settings = load_settings(source="bigquery", bigquery_endpoint=stand_in.endpoint)
        source = BigQuerySource.from_settings(settings, client=client)
        source.check()
        source.close()
        assert source.check().first_slot == FIRST
    assert {job.resource["jobReference"]["projectId"] for job in stand_in.jobs} == {"another-project"}


def test_a_reader_that_stops_early_leaves_the_source_usable(serve: Any) -> None:
    _, source = serve(chain(), page_rows=2)
    records = source.read(slots_of(0, 9))
    assert next(records).slot == FIRST
    records.close()
    assert len(own(list(source.read(slots_of(0, 9))))) == 10


def test_the_module_imports_no_google_library() -> None:
    code = (
        "import sys, blyan.solana.sources.bigquery; sys.exit(any(name == 'google.cloud' or name.startswith('google.cloud.') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.cloud
@pytest.mark.skipif(not CLOUD_PROJECT, reason="set BLYAN_BIGQUERY_PROJECT, and credentials, to run against Google")
@pytest.mark.filterwarnings("ignore:Retrieving Arrow record batches directly:PendingDeprecationWarning")
def test_the_real_dataset_has_a_known_block_and_prices_its_rows() -> None:
    """Scans three times `Blocks` at most, about 25 GB or 0.15 USD; the dry runs of the large tables are free."""
    source = BigQuerySource(project=CLOUD_PROJECT, dataset=DATASET, maximum_bytes_billed=20_000_000_000)
    report = source.check()
    assert report.first_slot < FIRST < report.last_slot
    assert source.states(SlotRange(FIRST, FIRST)) == [PRESENT]
    with pytest.raises(TooCostlyError, match="reading slots"):
        list(source.read(SlotRange(FIRST, FIRST)))
    source.close()
