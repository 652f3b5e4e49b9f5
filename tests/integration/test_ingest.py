"""A range through the lake: killed, out of space or interrupted anywhere, in one process or several, in every encoding."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from blyan import schemas
from blyan.errors import MissingObjectError, SettingError, TransientError, WrongChainError
from blyan.lake import Lake
from blyan.schemas import RAW_BLOCKS
from blyan.solana import ingest
from blyan.solana.embedded import Schedule
from blyan.solana.ingest import DERIVED, land, normalise_range, pin_chain, statement_of
from blyan.solana.slots import SlotRange
from blyan.solana.sources import RawRecord
from blyan.solana.sources.archive import ArchiveSource
from blyan.solana.sources.embedded import EmbeddedSource
from blyan.solana.sources.rpc import RpcSource
from tests import disturbed_run, recorded_chain
from tests.recorded_chain import Outcome, as_base58, as_base64, recorded, rows_of, rows_without, run, run_archive, write_archive
from tests.rpc_server import RpcServer

SLOTS = SlotRange(0, 31)
"""Two units of sixteen slots."""

PER_BLOCK = 5
SKIPPED = [slot for slot in SLOTS if Schedule(1, PER_BLOCK).is_skipped(slot)]
LANDED = len(SLOTS) - len(SKIPPED)

TABLES = (RAW_BLOCKS, *DERIVED)

START = multiprocessing.get_context("forkserver")
START.set_forkserver_preload(["pytest", "pyarrow.parquet", "deltalake", "aiohttp", "tests.disturbed_run", "blyan.solana.ingest"])


@cache
def blocks() -> dict[int, bytes]:
    return recorded(33, transactions=PER_BLOCK)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("recorded") / "archive", blocks(), {"junk.json": b"not a block"})


@pytest.fixture(scope="module")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_archive(archive, tmp_path_factory.mktemp("undisturbed"), SLOTS)


@pytest.fixture(scope="module")
def before(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the range held before: the same blocks, but for two that were not recorded yet."""
    folder = tmp_path_factory.mktemp("before")
    earlier = write_archive(folder / "archive", {slot: payload for slot, payload in blocks().items() if slot not in (9, 20)})
    return run_archive(earlier, folder / "lake", SLOTS)


def data_files(lake: Lake) -> set[Path]:
    """Every data file on disk, finished or not."""
    return {path for path in Path(lake.root).rglob("*") if path.is_file() and "_delta_log" not in path.parts}


def named_files(lake: Lake) -> set[Path]:
    """The data files that tables name."""
    return {Path(file.path) for table in TABLES for file in lake.files(table)}


def check_readable(lake: Lake, allowed: dict[str, set[str]]) -> None:
    """Every table stands as a whole, at one of the digests that it may have."""
    for table in TABLES:
        standing = lake.partitions(table).get(SLOTS.key)
        if standing is None:
            assert "" in allowed[table.name], table.name
            continue
        assert standing.digest in allowed[table.name], table.name
        assert lake.digest(table, SLOTS.key) == standing.digest, table.name


# Killed, or out of space, at every stage

KILLED_AT = [
    "before record 0",
    "before record 17",
    "after the last record",
    "before closing solana/raw_blocks",
    "before committing solana/raw_blocks",
    "in the log of solana/raw_blocks",
    "before normalising",
    "before reading slot 0 of solana/raw_blocks",
    "before writing unit 000000000016 of solana/instructions",
    "before closing solana/quarantine",
    "before committing solana/blocks",
    "after committing solana/blocks",
    "in the log of solana/instructions",
    "before committing solana/balance_changes",
    "before committing solana/quarantine",
    "after committing solana/quarantine",
]
"""In the order in which a run comes to them: each run on the same lake gets further than the one before."""

FULL_AT = [
    "before closing solana/raw_blocks",
    "before committing solana/raw_blocks",
    "before normalising",
    "before closing solana/transactions",
    "before committing solana/blocks",
    "before committing solana/instructions",
    "before committing solana/quarantine",
]


def run_disturbed(archive: Path, lake: Lake, point: str, action: str, report: Path) -> int | None:
    process = START.Process(target=disturbed_run.disturbed, args=(str(archive), lake.root, SLOTS, point, action, str(report)))
    process.start()
    process.join(60)
    return process.exitcode


def check_finishes(archive: Path, lake: Lake, undisturbed: Outcome) -> None:
    """The same run again completes what is missing, and once more adds nothing."""
    done = run_archive(archive, Path(lake.root), SLOTS)
    assert done.digests == undisturbed.digests
    assert done.rows == undisturbed.rows
    check_readable(lake, {name: {digest} for name, digest in undisturbed.digests.items()})
    assert not any(commit.changed for commit in run_archive(archive, Path(lake.root), SLOTS).commits.values())


def test_a_run_that_is_killed_at_every_stage_leaves_whole_tables_and_the_next_one_goes_on(
    archive: Path, before: Outcome, undisturbed: Outcome, tmp_path: Path
) -> None:
    shutil.copytree(before.lake.root, tmp_path / "lake")
    lake = Lake(str(tmp_path / "lake"))
    allowed = {name: {digest, undisturbed.digests[name]} for name, digest in before.digests.items()}
    for point in KILLED_AT:
        assert run_disturbed(archive, lake, point, "kill", tmp_path / "report") == -signal.SIGKILL, f"no run came to {point}"
        check_readable(lake, allowed)
    check_finishes(archive, lake, undisturbed)


@pytest.mark.parametrize("point", ["before record 17", "in the log of solana/blocks", "before committing solana/quarantine"])
def test_a_first_run_that_is_killed_is_completed_by_the_next(archive: Path, undisturbed: Outcome, tmp_path: Path, point: str) -> None:
    lake = Lake(str(tmp_path / "lake"))
    assert run_disturbed(archive, lake, point, "kill", tmp_path / "report") == -signal.SIGKILL
    check_readable(lake, {name: {"", digest} for name, digest in undisturbed.digests.items()})
    check_finishes(archive, lake, undisturbed)


def test_a_disk_that_is_full_at_any_stage_says_so_leaves_nothing_behind_and_costs_nothing(
    archive: Path, before: Outcome, undisturbed: Outcome, tmp_path: Path
) -> None:
    shutil.copytree(before.lake.root, tmp_path / "lake")
    lake = Lake(str(tmp_path / "lake"))
    # Vacuum, not the writer, deletes the files of versions that were replaced.
    replaced = {path.name for path in data_files(lake)}
    allowed = {name: {digest, undisturbed.digests[name]} for name, digest in before.digests.items()}
    for point in FULL_AT:
        assert run_disturbed(archive, lake, point, "fill", tmp_path / "report") == 0
        ending = (tmp_path / "report").read_text()
        assert ending.startswith("the store is full; nothing was committed [at "), point
        assert "Remedy: free space" in ending
        check_readable(lake, allowed)
        assert {path.name for path in data_files(lake) - named_files(lake)} <= replaced, point
    check_finishes(archive, lake, undisturbed)


class Interrupted(Lake):
    """A lake whose run is told to stop just after a version of one table was written."""

    table = RAW_BLOCKS.name

    def _sync_log(self, table: schemas.Table, version: int) -> None:
        super()._sync_log(table, version)
        if table.name == self.table and version > 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("table", [RAW_BLOCKS.name, schemas.INSTRUCTIONS.name])
def test_an_interrupt_just_after_a_version_was_written_does_not_delete_its_files(
    archive: Path, undisturbed: Outcome, tmp_path: Path, table: str
) -> None:
    lake = Interrupted(str(tmp_path / "lake"))
    lake.table = table
    with pytest.raises(KeyboardInterrupt):
        run(ArchiveSource(str(archive)), lake, SLOTS)
    assert lake.digest(schemas.TABLES[table], SLOTS.key) == undisturbed.digests[table]
    check_finishes(archive, Lake(lake.root), undisturbed)


def test_a_run_that_ends_with_an_error_leaves_no_files(archive: Path, tmp_path: Path) -> None:
    class Breaks(ArchiveSource):
        def read(self, slots: SlotRange) -> Iterator[RawRecord]:
            for record in super().read(slots):
                if record.slot == 25:
                    raise TransientError("the source went away")
                yield record

    lake = Lake(str(tmp_path / "lake"))
    with pytest.raises(TransientError, match="went away"):
        land(lake, Breaks(str(archive)), SLOTS)
    assert data_files(lake) == set()


# What a run says of itself


def test_a_second_run_changes_nothing(archive: Path, undisturbed: Outcome) -> None:
    files = data_files(undisturbed.lake)
    versions = {table.name: undisturbed.lake.version(table) for table in TABLES}
    again = run_archive(archive, Path(undisturbed.lake.root), SLOTS)
    assert not any(commit.changed for commit in again.commits.values())
    assert again.digests == undisturbed.digests
    assert {table.name: undisturbed.lake.version(table) for table in TABLES} == versions
    assert data_files(undisturbed.lake) == files


def test_the_numbers_of_a_run_add_up(undisturbed: Outcome) -> None:
    made, rows = undisturbed.made, undisturbed.rows
    statement = rows[schemas.COMPLETENESS.name]
    assert (made.landed, made.skipped, made.unknown) == (LANDED, 1, 0)
    assert [row["slot"] for row in statement] == list(SLOTS)
    assert [row["slot"] for row in statement if row["state"] == "skipped"] == SKIPPED == [30]
    assert {row["proof"] for row in statement if row["state"] == "skipped"} == {"parent link of 31"}
    assert made.transactions == len(rows[schemas.TRANSACTIONS.name]) == sum(row["transactions"] or 0 for row in statement) == PER_BLOCK * LANDED
    assert sum(row["transactions_stated"] or 0 for row in statement) == PER_BLOCK * LANDED
    assert made.quarantined == len(rows[schemas.QUARANTINE.name]) == 1
    assert {name: commit.rows for name, commit in made.commits.items()} == {table.name: len(rows[table.name]) for table in DERIVED}
    assert undisturbed.landed.rows == len(SLOTS) + 1


def test_the_statement_can_be_made_again_from_the_stored_rows(undisturbed: Outcome) -> None:
    lake = undisturbed.lake
    tables = {
        table.name: {"rows": sum(batch.num_rows for batch in lake.read(table, key=SLOTS.key)), "digest": lake.digest(table, SLOTS.key)}
        for table in TABLES
    }
    assert statement_of(lake, SLOTS) == {
        "range": SLOTS.key,
        "first_slot": 0,
        "last_slot": 31,
        "slots": {"landed": LANDED, "skipped": 1, "unknown": 0},
        "quarantined": 1,
        "tables": tables,
    }


def test_a_range_that_is_not_there_is_missed_by_name(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with pytest.raises(MissingObjectError, match=r"range 000000000000 has no raw blocks \[at solana/raw_blocks\] Remedy: materialise"):
        normalise_range(lake, SLOTS)
    with pytest.raises(MissingObjectError, match=r"not materialised \[at solana/raw_blocks, .*blyan ingest --slots 0-31"):
        statement_of(lake, SLOTS)


def test_a_source_that_breaks_its_promise_is_refused_before_anything_is_committed(tmp_path: Path) -> None:
    class Misses(EmbeddedSource):
        def read(self, slots: SlotRange) -> Iterator[RawRecord]:
            return (record for record in super().read(slots) if record.slot not in self.missing)

    lake, source = Lake(str(tmp_path / "lake")), Misses(1, 1, 100)
    for missing, words in (({3}, "gave slot 4 where 3 was due"), ({7}, "ended at slot 7 of 0-7")):
        source.missing = missing
        with pytest.raises(SettingError, match=words):
            land(lake, source, SlotRange(0, 7))
    assert lake.partitions(RAW_BLOCKS) == {}
    assert data_files(lake) == set()


def test_slots_that_no_source_knows_are_a_fact_too(tmp_path: Path, archive: Path) -> None:
    slots = SlotRange(1_000, 1_015)
    outcome = run_archive(archive, tmp_path / "lake", slots)
    assert (outcome.made.landed, outcome.made.unknown, outcome.made.transactions) == (0, 16, 0)
    assert {(row["state"], row["proof"]) for row in outcome.rows[schemas.COMPLETENESS.name]} == {("unknown", "not recorded")}
    assert statement_of(outcome.lake, slots)["slots"] == {"landed": 0, "skipped": 0, "unknown": 16}
    assert all(commit.rows == 0 for name, commit in outcome.made.commits.items() if name != schemas.COMPLETENESS.name)


def test_blocks_that_arrive_later_replace_what_was_unknown(before: Outcome, archive: Path, undisturbed: Outcome, tmp_path: Path) -> None:
    assert [before.statement(slot)["state"] for slot in (8, 9, 20)] == ["landed", "unknown", "unknown"]
    shutil.copytree(before.lake.root, tmp_path / "lake")
    after = run_archive(archive, tmp_path / "lake", SLOTS)
    assert after.digests == undisturbed.digests
    assert {name for name, commit in after.commits.items() if commit.changed} == {table.name for table in TABLES}


def progress_of(work: Any) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    work(lambda done, every: told.append((done, every)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {every for _, every in told} == {len(SLOTS)}
    return told


def test_progress_only_grows_and_ends_at_all(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(str(tmp_path / "lake"))
    assert len(progress_of(lambda told: land(lake, ArchiveSource(str(archive)), SLOTS, progress=told))) == len(SLOTS)
    assert progress_of(lambda told: normalise_range(lake, SLOTS, workers=1, progress=told)) == [(16, 32), (32, 32)]


# Several processes


def test_several_processes_make_what_one_makes(undisturbed: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(undisturbed.lake.root) / "solana/raw_blocks", tmp_path / "lake/solana/raw_blocks")
    lake = Lake(str(tmp_path / "lake"))
    monkeypatch.setattr(ingest, "PARALLEL_BYTES", 0)
    told: list[tuple[int, int]] = []
    made = normalise_range(lake, SLOTS, workers=2, progress=lambda done, every: told.append((done, every)))
    assert {name: commit.digest for name, commit in made.commits.items()} == {table.name: undisturbed.digests[table.name] for table in DERIVED}
    assert made.commits[schemas.INSTRUCTIONS.name].files == 2
    assert rows_of(lake, SLOTS) == undisturbed.rows
    assert (made.landed, made.skipped, made.unknown, made.transactions, made.quarantined) == (LANDED, 1, 0, PER_BLOCK * LANDED, 1)
    assert told == sorted(told)
    assert told[-1] == (32, 32)
    assert data_files(lake) == named_files(lake)


class Fatal(Lake):
    """A lake that kills the worker that reads its second unit."""

    def read(self, table: schemas.Table, **options: Any) -> Any:
        if multiprocessing.parent_process() is not None and options.get("first_slot") == 16:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(table, **options)


def test_a_worker_that_dies_is_a_transient_error_and_leaves_no_files(undisturbed: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(undisturbed.lake.root) / "solana/raw_blocks", tmp_path / "lake/solana/raw_blocks")
    lake = Fatal(str(tmp_path / "lake"))
    raw = data_files(lake)
    monkeypatch.setattr(ingest, "PARALLEL_BYTES", 0)
    with pytest.raises(TransientError, match=r"a worker process died.*\[at normalising range 000000000000\] Remedy: .*BLYAN_WORKERS"):
        normalise_range(lake, SLOTS, workers=2)
    assert data_files(lake) == raw
    assert [table.name for table in DERIVED if lake.exists(table)] == []


# Chains


def test_a_source_of_another_chain_is_refused(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with RpcServer(blocks(), genesis="ThisChain") as server:
        pin_chain(lake, RpcSource(server.url), None)
        pin_chain(lake, RpcSource(server.url), "ThisChain")
        with pytest.raises(WrongChainError, match=r"hash ThisChain, the settings ask for Other \[at BLYAN_GENESIS_HASH\]"):
            pin_chain(Lake(str(tmp_path / "other")), RpcSource(server.url), "Other")
    with (
        RpcServer(blocks(), genesis="OtherChain") as server,
        pytest.raises(WrongChainError, match=r"hash OtherChain, the lake holds ThisChain .*BLYAN_LAKE"),
    ):
        pin_chain(lake, RpcSource(server.url), None)
    with pytest.raises(WrongChainError, match="the lake holds ThisChain"):
        pin_chain(lake, EmbeddedSource(1, 4, 100), None)
    assert lake.pinned("genesis_hash") == "ThisChain"
    assert Lake(str(tmp_path / "other")).pinned("genesis_hash") is None


def test_a_source_that_cannot_tell_its_chain_is_taken_at_its_word(archive: Path, tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    pin_chain(lake, ArchiveSource(str(archive)), "ThisChain")
    assert lake.pinned("genesis_hash") is None


def test_rpc_gives_the_rows_that_an_archive_gives(undisturbed: Outcome, tmp_path: Path) -> None:
    with RpcServer(blocks()) as server:
        outcome = run(RpcSource(server.url), Lake(str(tmp_path / "lake")), SLOTS)
    assert rows_without(outcome.rows) == rows_without(undisturbed.rows)
    assert [{**row, "proof": ""} for row in outcome.rows[schemas.COMPLETENESS.name]] == [
        {**row, "proof": ""} for row in undisturbed.rows[schemas.COMPLETENESS.name]
    ]


# Encodings within one range


@pytest.fixture(scope="module")
def accounts_of(undisturbed: Outcome) -> dict[str, list[dict[str, Any]]]:
    return {row["signature"]: row["accounts"] for row in undisturbed.rows[schemas.TRANSACTIONS.name]}


def test_every_whole_encoding_in_one_range_gives_the_digests_of_one(
    undisturbed: Outcome, accounts_of: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    forms = [bytes, as_base64, as_base58, lambda payload: recorded_chain.as_json_parsed(payload, accounts_of.__getitem__)]
    # Two of a kind side by side, so that runs of one kind and of several are met, within a unit and across units.
    mixed = {slot: forms[slot // 2 % 4](payload) if slot in SLOTS else payload for slot, payload in blocks().items()}
    outcome = run_archive(write_archive(tmp_path / "archive", mixed), tmp_path / "lake", SLOTS)
    assert outcome.rows[schemas.QUARANTINE.name] == []
    for table in schemas.NORMALISED:
        expected = [{**row, "address_table_lookups": None} if table is schemas.TRANSACTIONS else row for row in undisturbed.rows[table.name]]
        found = [{**row, "address_table_lookups": None} if table is schemas.TRANSACTIONS else row for row in outcome.rows[table.name]]
        assert found == expected, table.name
    assert outcome.digests[schemas.INSTRUCTIONS.name] == undisturbed.digests[schemas.INSTRUCTIONS.name]
    for table in DERIVED:
        assert outcome.lake.digest(table, SLOTS.key) == outcome.digests[table.name]


def test_details_from_all_to_nothing_land_together(undisturbed: Outcome, accounts_of: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    details = {
        "full": bytes,
        "accounts": lambda payload: recorded_chain.with_accounts(payload, accounts_of.__getitem__),
        "signatures": recorded_chain.with_signatures,
        "none": recorded_chain.without_transactions,
    }
    names = list(details)
    mixed = {slot: details[names[slot % 4]](payload) if slot in SLOTS else payload for slot, payload in blocks().items()}
    outcome = run_archive(write_archive(tmp_path / "archive", mixed), tmp_path / "lake", SLOTS)
    whole = {row["slot"] for row in outcome.rows[schemas.BLOCKS.name] if row["transaction_detail"] == "full"}
    assert whole == {slot for slot in blocks() if slot in SLOTS and slot % 4 == 0}
    others = set(blocks()) - whole
    assert rows_without(outcome.rows, others) == rows_without(undisturbed.rows, others)
    by_detail = {row["slot"]: row for row in outcome.rows[schemas.BLOCKS.name]}
    good = {row["slot"]: row for row in undisturbed.rows[schemas.BLOCKS.name]}
    for slot, row in by_detail.items():
        detail = names[slot % 4]
        assert row == {**good[slot], "transaction_detail": detail, "transaction_count": None if detail == "none" else PER_BLOCK}
        statement = outcome.statement(slot)
        assert (statement["state"], statement["transactions_stated"]) == ("landed", None if detail == "none" else PER_BLOCK)
    for row in outcome.rows[schemas.TRANSACTIONS.name]:
        expected = undisturbed.transaction(row["block_slot"], row["index"])
        told = {name for name, value in row.items() if value is not None}
        assert {name: row[name] for name in told} == {name: expected[name] for name in told}
        if names[row["block_slot"] % 4] == "signatures":
            assert told == {"block_slot", "block_hash", "block_timestamp", "signature", "index"}
    for table in DERIVED:
        assert outcome.lake.digest(table, SLOTS.key) == outcome.digests[table.name]


def test_recorded_blocks_of_several_encodings_share_a_lake(shared_data: Path, tmp_path: Path) -> None:
    chosen = {
        "147078735-jsonParsed": 147_078_735,
        "270893658-base64": 270_893_658,
        "154808473-json": 154_808_473,
        "1021085-json": 1_021_085,
    }
    lake = tmp_path / "lake"
    for start, slot in chosen.items():
        (path,) = (shared_data / "solana" / "blocks").glob(f"{start}*")
        folder = tmp_path / str(slot)
        folder.mkdir()
        shutil.copy(path, folder / path.name)
        slots = SlotRange(slot - slot % 16, slot - slot % 16 + 15)
        outcome = run_archive(folder, lake, slots)
        assert (outcome.made.landed, outcome.made.quarantined) == (1, 0), start
    for table in DERIVED:
        partitions = outcome.lake.partitions(table)
        assert len(partitions) == len(chosen)
        assert {key: outcome.lake.digest(table, key) for key in partitions} == {key: partition.digest for key, partition in partitions.items()}
