"""dbt builds the marts from a lake of embedded blocks; every number is computed again here, from the rows, without SQL."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from object_stores import s3_store

from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.errors import MissingObjectError
from blyan.lake import Lake
from blyan.marts import PROJECT, SCOPE, mart_tables, prepare
from blyan.schemas import (
    BALANCE_CHANGES,
    BLOCK_REWARDS,
    BLOCKS,
    DOCUMENTS,
    INSTRUCTIONS,
    NORMALISED,
    RANGE_COLUMN,
    TOKEN_TRANSFERS,
    TRANSACTIONS,
    Table,
)
from blyan.settings import Settings, load_settings
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from blyan_assets.marts import marts_assets, parsed
from resources.lake import LakeResource

Rows = list[dict[str, Any]]

FIRST, LATER = ["000000000130", "000000000145"], "000000000160"
"""The first two ranges are materialised; the third has landed blocks, and is without the other tables."""

MARTS = mart_tables()


class Lakeful:
    """A lake, and what one materialisation of the marts made of it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lake = Lake.from_settings(settings)
        self.result = materialise(settings)

    def raw(self, table: Table) -> Rows:
        return [row for key in FIRST for batch in self.lake.read(table, key=key) for row in batch.to_pylist()]

    def mart(self, name: str) -> Rows:
        return [row for batch in self.lake.read(MARTS[name], key=SCOPE) for row in batch.to_pylist()]


def materialise(settings: Settings, project: Path = PROJECT, **options: Any) -> dg.ExecuteInProcessResult:
    return dg.materialize(marts_assets(settings, project), resources={"lake": LakeResource.of(settings)}, raise_on_error=False, **options)


def versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.path[-1]: event.tags["dagster/data_version"] for event in events}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lakeful:
    root = tmp_path_factory.mktemp("marts") / "lake"
    settings = load_settings(lake=str(root), first_slot=130, horizon_slot=175, slots_per_range=15, embedded_transactions_per_slot=30)
    lake, source = Lake.from_settings(settings), open_source(settings)
    for key in (*FIRST, LATER):
        land(lake, source, settings.grid.range_of(key))
        normalise_range(lake, settings.grid.range_of(key), workers=1)
        if key == FIRST[-1]:
            whole = {table: lake.version(table) for table in NORMALISED if table is not BLOCKS}
    for table, version in whole.items():
        lake.restore(table, version)
    for key in FIRST:
        write_corpus(lake, settings.grid.range_of(key), load_registry(), vote_share=0.1)
    return Lakeful(settings)


def by(rows: Rows, *names: str) -> dict[Any, dict[str, Any]]:
    keyed = {tuple(row[name] for name in names): row for row in rows}
    assert len(keyed) == len(rows)
    return keyed


def day(row: Mapping[str, Any]) -> Any:
    return row["block_timestamp"] and row["block_timestamp"].date()


def grouped(rows: Rows, key: Callable[[dict[str, Any]], Any]) -> dict[Any, Rows]:
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def signers(row: Mapping[str, Any]) -> list[str]:
    return [account["pubkey"] for account in row["accounts"] if account["signer"]]


def test_every_mart_is_built_and_every_test_is_a_check_that_passed(made: Lakeful) -> None:
    assert made.result.success
    assert set(versions(made.result)) == set(MARTS) == {"fee_market", "program_activity", "token_flows", "validator_rewards", "wallet_activity"}
    checks = made.result.get_asset_check_evaluations()
    assert all(check.passed for check in checks)
    assert {check.asset_key.path[-1] for check in checks if check.check_name.endswith(("every_reward", "every_transaction", "every_transfer"))} == {
        "validator_rewards",
        "fee_market",
        "wallet_activity",
        "token_flows",
    }
    for event in made.result.get_asset_materialization_events():
        metadata = event.materialization.metadata
        assert metadata["ranges"].value == len(FIRST)
        assert metadata["rows"].value == len(made.mart(event.materialization.asset_key.path[-1])) > 0


def test_the_data_version_is_the_digest_of_the_rows_that_stand_in_the_lake(made: Lakeful) -> None:
    assert versions(made.result) == {name: made.lake.digest(table, SCOPE) for name, table in MARTS.items()}


def test_the_lake_has_failures_priority_fees_and_amounts_that_no_float_holds(made: Lakeful) -> None:
    """Otherwise the comparisons below would prove little."""
    transactions, transfers = made.raw(TRANSACTIONS), made.raw(TOKEN_TRANSFERS)
    assert {row["status"] for row in transactions} == {"Success", "Fail"}
    assert any(row["priority_fee_lamports"] for row in transactions)
    assert any(row["fee"] for row in transfers)
    assert {row["transfer_type"] for row in transfers} == {"transfer", "spl-transfer", "spl-transfer-with-fee", "mintTo", "burn"}
    assert any(int(float(row["volume"])) != int(row["volume"]) for row in made.mart("token_flows"))


def test_program_activity_counts_what_the_instructions_say(made: Lakeful) -> None:
    transactions = by(made.raw(TRANSACTIONS), "block_slot", "index")
    mart = by(made.mart("program_activity"), "day", "program_id")
    groups = grouped(made.raw(INSTRUCTIONS), lambda row: (day(row), row["program_id"]))
    assert mart.keys() == groups.keys()
    for key, rows in groups.items():
        called = [transactions[place] for place in {(row["block_slot"], row["tx_index"]) for row in rows}]
        assert mart[key] == {
            "first_slot": min(row["block_slot"] for row in rows),
            "last_slot": max(row["block_slot"] for row in rows),
            "day": key[0],
            "program_id": key[1],
            "program": max((row["program"] for row in rows if row["program"]), default=None),
            "instructions": len(rows),
            "outer_instructions": sum(row["parent_index"] is None for row in rows),
            "transactions": len(called),
            "failed_transactions": sum(row["status"] == "Fail" for row in called),
            "unknown_transactions": 0,
            "fee_payers": len({row["accounts"][0]["pubkey"] for row in called}),
            "signers": len({signer for row in called for signer in signers(row)}),
            "transaction_compute_units": sum(row["compute_units_consumed"] for row in called),
        }


def test_token_flows_moves_nothing_for_a_failed_transaction(made: Lakeful) -> None:
    mart = by(made.mart("token_flows"), "day", "asset", "mint")
    groups = grouped(made.raw(TOKEN_TRANSFERS), lambda row: (day(row), "sol" if row["transfer_type"] == "transfer" else "token", row["mint"]))
    assert mart.keys() == groups.keys()
    for key, rows in groups.items():
        kinds = grouped([row for row in rows if row["status"] == "Success"], lambda row: row["transfer_type"])
        minted, burned = kinds.pop("mintTo", []), kinds.pop("burn", [])
        moved = [row for some in kinds.values() for row in some]
        assert mart[key] == {
            "first_slot": min(row["block_slot"] for row in rows),
            "last_slot": max(row["block_slot"] for row in rows),
            "day": key[0],
            "asset": key[1],
            "mint": key[2],
            "decimals": max((row["decimals"] for row in rows if row["decimals"] is not None), default=None),
            "transfers": len(moved),
            "volume": sum(row["value"] for row in moved),
            "senders": len({row["source"] for row in moved}),
            "receivers": len({row["destination"] for row in moved}),
            "fees": sum(row["fee"] or 0 for row in moved),
            "mints": len(minted),
            "minted": sum(row["value"] for row in minted),
            "burns": len(burned),
            "burned": sum(row["value"] for row in burned),
            "failed_movements": sum(row["status"] == "Fail" for row in rows),
            "unknown_movements": 0,
        }


def test_fee_market_splits_buckets_and_votes_and_counts_failed_payers(made: Lakeful) -> None:
    mart = by(made.mart("fee_market"), "bucket_slot", "is_vote")
    groups = grouped(made.raw(TRANSACTIONS), lambda row: (row["block_slot"] // 150 * 150, row["is_vote"]))
    assert mart.keys() == groups.keys() == {(0, False), (0, True), (150, False), (150, True)}
    for key, rows in groups.items():
        fees, priority = sum(row["fee"] for row in rows), sum(row["priority_fee_lamports"] for row in rows)
        units = sum(row["compute_units_consumed"] for row in rows)
        bids = sorted(row["compute_unit_price_micro_lamports"] or 0 for row in rows)
        paying = sum(row["priority_fee_lamports"] > 0 for row in rows)
        assert mart[key] == {
            "bucket_slot": key[0],
            "is_vote": key[1],
            "first_block_timestamp": min(row["block_timestamp"] for row in rows),
            "transactions": len(rows),
            "failed_transactions": sum(row["status"] == "Fail" for row in rows),
            "unknown_transactions": 0,
            "priority_transactions": paying,
            "priority_share": paying / len(rows),
            "compute_units": units,
            "fee_lamports": fees,
            "base_fee_lamports": fees - priority,
            "priority_fee_lamports": priority,
            "base_fee_micro_lamports_per_unit": int(fees - priority) * 1_000_000 // units,
            "priority_fee_micro_lamports_per_unit": int(priority) * 1_000_000 // units,
            # The smallest bid that this share of the transactions does not exceed.
            **{f"price_p{q}_micro_lamports": bids[-(-q * len(bids) // 100) - 1] for q in (10, 25, 50, 75, 90, 99)},
        }


def test_wallet_activity_adds_up_fees_sol_and_tokens(made: Lakeful) -> None:
    mart = by(made.mart("wallet_activity"), "wallet")
    signed = defaultdict(list)
    for row in made.raw(TRANSACTIONS):
        for signer in signers(row):
            signed[signer].append(row)
    changes = made.raw(BALANCE_CHANGES)
    lamports = grouped([row for row in changes if row["mint"] is None], lambda row: row["account"])
    tokens = grouped([row for row in changes if row["mint"] is not None], lambda row: row["owner"])
    assert mart.keys() == {(wallet,) for wallet in signed}
    for wallet, rows in signed.items():
        paid = [row for row in rows if row["accounts"][0]["pubkey"] == wallet]
        moved = [row["change"] for row in lamports[wallet]]
        assert mart[(wallet,)] == {
            "first_slot": min(row["block_slot"] for row in rows),
            "last_slot": max(row["block_slot"] for row in rows),
            "wallet": wallet,
            "first_seen": min(row["block_timestamp"] for row in rows),
            "last_seen": max(row["block_timestamp"] for row in rows),
            "signed_transactions": len(rows),
            "paid_transactions": len(paid),
            "failed_transactions": sum(row["status"] == "Fail" for row in rows),
            "unknown_transactions": 0,
            "fees_paid_lamports": sum(row["fee"] for row in paid),
            "sol_in_lamports": sum(change for change in moved if change > 0),
            "sol_out_lamports": -sum(change for change in moved if change < 0),
            "sol_net_lamports": sum(moved),
            "tokens_touched": len({row["mint"] for row in tokens[wallet]}),
        }


def test_validator_rewards_gives_each_account_its_blocks_and_rewards(made: Lakeful) -> None:
    mart = by(made.mart("validator_rewards"), "pubkey")
    led = Counter(row["leader"] for row in made.raw(BLOCKS) if row["leader"])
    rewards = grouped(made.raw(BLOCK_REWARDS), lambda row: row["pubkey"])
    assert mart.keys() == {(pubkey,) for pubkey in led.keys() | rewards.keys()}
    for (pubkey,), row in mart.items():
        paid = Counter()
        for reward in rewards[pubkey]:
            paid[reward["reward_type"]] += reward["lamports"]
        assert (row["blocks"], row["rewards"], row["role"]) == (led[pubkey], len(rewards[pubkey]), "leader")
        assert (row["fee_lamports"], row["voting_lamports"], row["other_lamports"]) == (paid["Fee"], 0, 0)


AGREE = {"program_activity_agrees_with_documents", "fee_market_agrees_with_documents"}


def disagreements(made: Lakeful) -> dict[str, dg.AssetCheckSeverity]:
    """What fails of the checks that compare what is published with the documents of the lake, run alone."""
    selection = dg.AssetSelection.checks_for_assets(dg.AssetKey(["marts", "program_activity"]), dg.AssetKey(["marts", "fee_market"]))
    result = materialise(made.settings, selection=selection)
    assert result.success
    return {each.check_name: each.severity for each in result.get_asset_check_evaluations() if not each.passed}


def test_marts_and_documents_agree_and_a_document_that_is_lost_is_noticed(made: Lakeful) -> None:
    built = {check.check_name: check.passed for check in made.result.get_asset_check_evaluations()}
    assert {name: built[name] for name in AGREE} == dict.fromkeys(AGREE, True)
    version = made.lake.version(DOCUMENTS)
    documents = pa.Table.from_batches(made.lake.read(DOCUMENTS, key=FIRST[0]), DOCUMENTS.arrow_schema())
    lost = documents["tx_signature"][pc.index(documents["kind"], "token_transfer").as_py()]
    made.lake.write_partition(DOCUMENTS, FIRST[0], [documents.filter(pc.not_equal(documents["tx_signature"], lost))])
    assert disagreements(made) == dict.fromkeys(AGREE, dg.AssetCheckSeverity.WARN)
    made.lake.restore(DOCUMENTS, version)


def test_ranges_without_documents_are_not_compared(made: Lakeful) -> None:
    version = made.lake.version(DOCUMENTS)
    DeltaTable(made.lake.store.uri(DOCUMENTS.name)).delete(f"{RANGE_COLUMN} = '{FIRST[0]}'")
    assert disagreements(made) == {}
    made.lake.restore(DOCUMENTS, version)


def test_a_range_that_some_table_lacks_is_left_out(made: Lakeful, tmp_path: Path) -> None:
    assert LATER in made.lake.partitions(BLOCKS)
    assert prepare(made.lake, tmp_path / "scratch.duckdb") == FIRST
    assert max(row["last_slot"] for row in made.mart("validator_rewards")) < int(LATER)


def test_a_lake_in_a_bucket_is_copied_for_dbt_which_cannot_read_it_there(tmp_path: Path) -> None:
    with s3_store() as bucket:
        lake, settings = bucket.lake(), load_settings(horizon_slot=4, slots_per_range=4)
        [slots] = settings.grid.covering(SlotRange(0, 3))
        land(lake, open_source(settings), slots)
        made = normalise_range(lake, slots, workers=1)
        assert prepare(lake, tmp_path / "scratch.duckdb") == [slots.key]
    with duckdb.connect(str(tmp_path / "scratch.duckdb"), read_only=True) as connection:
        assert connection.execute("select count(*), count(distinct block_slot) from solana.transactions").fetchone() == (
            made.transactions,
            made.landed,
        )


def test_an_empty_lake_is_told_apart_from_a_lake_without_activity(tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError, match=r"the lake has nothing in solana/blocks.*Remedy: materialise a range first"):
        prepare(Lake(str(tmp_path / "lake")), tmp_path / "scratch.duckdb")


def test_one_mart_again_from_the_same_lake_has_the_same_data_version_and_writes_nothing(made: Lakeful) -> None:
    before = {name: made.lake.version(table) for name, table in MARTS.items()}
    again = materialise(made.settings, selection=[dg.AssetKey(["marts", "token_flows"])])
    assert versions(again) == {"token_flows": versions(made.result)["token_flows"]}
    assert {name: made.lake.version(table) for name, table in MARTS.items()} == before


def test_a_mart_whose_test_fails_is_a_failed_check_and_is_not_published(made: Lakeful, tmp_path: Path) -> None:
    project = shutil.copytree(PROJECT, tmp_path / "dbt_project", ignore=shutil.ignore_patterns("target", "logs"))
    shutil.copytree(parsed(PROJECT), project / "target" / parsed(PROJECT).name)
    model = project / "models" / "marts" / "token_flows.sql"
    wrong = model.read_text().replace("coalesce(sum(amount) filter (where is_burn), 0)", "coalesce(sum(amount) filter (where is_burn), 0) + 1")
    assert wrong != model.read_text()
    model.write_text(wrong)
    # One unit more than was burned is less than a float could tell.
    before = made.mart("token_flows")
    result = materialise(made.settings, project)
    assert not result.success
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [(check.asset_key.path[-1], check.check_name) for check in failed] == [("token_flows", "token_flows_has_the_amounts_of_every_transfer")]
    assert "token_flows" not in versions(result)
    assert made.mart("token_flows") == before
    # The others passed theirs, and stand.
    assert versions(result) == {name: digest for name, digest in versions(made.result).items() if name != "token_flows"}


def test_checks_alone_look_at_what_is_published(made: Lakeful) -> None:
    mart = dg.AssetKey(["marts", "validator_rewards"])
    result = materialise(made.settings, selection=dg.AssetSelection.checks_for_assets(mart))
    assert result.success
    assert not versions(result)
    checks = result.get_asset_check_evaluations()
    assert {check.asset_key for check in checks} == {mart}
    assert len(checks) == 5
    assert all(check.passed for check in checks)
