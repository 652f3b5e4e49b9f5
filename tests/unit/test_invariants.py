"""The invariants: an untouched range holds them all, and each fails for the one thing that breaks it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from object_stores import s3_store

from blyan import schemas
from blyan.errors import MissingObjectError
from blyan.lake import Lake
from blyan.solana.ingest import land, normalise_range
from blyan.solana.invariants import FULL_PRIORITY_FEE_SLOT, INVARIANTS, MAINNET_GENESIS_HASH, NO_HASH, Finding, check_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources.embedded import EmbeddedSource

FIRST, SECOND = SlotRange(0, 19), SlotRange(20, 39)
NATIVE_MINT = "So11111111111111111111111111111111111111112"
WARNINGS = {"no_unknown_slots", "nothing_quarantined"}

Rows = list[dict[str, Any]]
Tables = dict[str, Rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Lake:
    """Two ranges of the embedded chain; slots that were skipped are among them."""
    lake = Lake(str(tmp_path_factory.mktemp("whole")))
    source = EmbeddedSource(seed=1, transactions_per_slot=24, horizon_slot=1_000)
    for slots in (FIRST, SECOND):
        land(lake, source, slots)
        normalise_range(lake, slots, workers=1)
    return lake


class Breaker:
    """A copy of the lake, and a way to change the rows of its tables behind the normaliser's back."""

    def __init__(self, lake: Lake, root: Path) -> None:
        shutil.copytree(lake.root, root)
        self.lake = Lake(str(root))

    def rows(self, table: schemas.Table, slots: SlotRange = FIRST) -> Rows:
        return [row for batch in self.lake.read(table, key=slots.key) for row in batch.to_pylist()]

    def write(self, table: schemas.Table, rows: Rows, slots: SlotRange = FIRST) -> None:
        slot = table.key[0]
        rows = sorted(rows, key=lambda row: (row[slot] is None, row[slot] or 0))
        self.lake.write_partition(table, slots.key, [pa.Table.from_pylist(rows, schema=table.arrow_schema())])

    def edit(self, table: schemas.Table, change: Callable[[dict[str, Any]], Any], slots: SlotRange = FIRST, *, times: int = 1) -> Rows:
        """Change the first rows for which `change` returns something true; those rows."""
        rows, changed = self.rows(table, slots), []
        for row in rows:
            if len(changed) < times and change(row):
                changed.append(row)
        assert len(changed) == times, "no row to break"
        self.write(table, rows, slots)
        return changed

    def edit_transaction(self, slot: int, position: int, **values: Any) -> None:
        """Change a transaction's identity in every table, so that the tables still agree with one another."""
        names = {"index": "tx_index", "signature": "tx_signature", "block_hash": "block_hash"}
        for table in (schemas.TRANSACTIONS, schemas.INSTRUCTIONS, schemas.TOKEN_TRANSFERS, schemas.BALANCE_CHANGES):
            own = table is schemas.TRANSACTIONS
            rows = self.rows(table)
            for row in rows:
                if row["block_slot"] == slot and row["index" if own else "tx_index"] == position:
                    row.update({name if own else names[name]: value for name, value in values.items()})
            self.write(table, rows)

    def failed(self, slots: SlotRange = FIRST, **options: Any) -> dict[str, Finding]:
        return {finding.invariant.name: finding for finding in check_range(self.lake, slots, **options) if not finding.passed}


@pytest.fixture
def broken(whole, tmp_path) -> Breaker:
    return Breaker(whole, tmp_path / "broken")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.invariant.name: finding for finding in findings}


def fails_only(broken: Breaker, name: str, slots: SlotRange = FIRST, **options: Any) -> Finding:
    failed = broken.failed(slots, **options)
    assert set(failed) == {name}, [finding.statement for finding in failed.values()]
    finding = failed[name]
    assert finding.violations == len(finding.examples) or finding.violations > len(finding.examples) == 5
    assert f"{finding.violations:,} violations" in finding.statement
    assert finding.invariant.remedy in finding.statement
    return finding


def test_every_invariant_holds_on_ranges_nobody_touched(whole):
    for slots in (FIRST, SECOND):
        findings = check_range(whole, slots)
        assert [finding.invariant for finding in findings] == list(INVARIANTS)
        assert [finding.statement for finding in findings if not finding.passed] == []
    assert by_name(check_range(whole, FIRST))["parent_hash_links"].explained == {"first block of the chain": 1}
    assert by_name(check_range(whole, SECOND))["parent_hash_links"].explained == {}


def test_windows_of_a_few_slots_find_what_one_window_finds(broken):
    broken.edit(schemas.TRANSACTIONS, lambda row: row["fee"] and row.update(fee=row["fee"] + 1) is None, times=7)
    once, often = check_range(broken.lake, FIRST), check_range(broken.lake, FIRST, window_bytes=60_000)
    assert [(f.violations, f.explained) for f in once] == [(f.violations, f.explained) for f in often]
    assert by_name(once)["lamports_conserved"].violations == 7
    assert by_name(often)["lamports_conserved"].examples == by_name(once)["lamports_conserved"].examples


def test_a_bucket_is_checked_as_a_folder_is(whole):
    with s3_store() as store:
        remote = store.lake()
        for table in (*schemas.NORMALISED, schemas.COMPLETENESS, schemas.QUARANTINE):
            remote.write_partition(table, SECOND.key, whole.read(table, key=SECOND.key))
        findings = check_range(remote, SECOND)
    assert [finding.statement for finding in findings if not finding.passed] == []
    expected = by_name(check_range(whole, SECOND))
    assert by_name(findings)["parent_hash_links"].explained == {"whose parent is not stored": 1}
    assert [finding.checked for finding in findings] == [finding.checked for finding in expected.values()]


def test_a_range_that_is_not_materialised_is_an_error_that_names_its_tables(whole):
    with pytest.raises(MissingObjectError, match=r"range 000000000040 is not materialised.*solana/blocks.*blyan ingest --slots 40-59"):
        check_range(whole, SlotRange(40, 59))


def test_every_invariant_says_what_holds_and_where_it_belongs():
    assert len({item.name for item in INVARIANTS}) == len(INVARIANTS)
    assert {item.name for item in INVARIANTS if not item.blocking} == WARNINGS
    for item in INVARIANTS:
        assert item.name.replace("_", "").isalnum()
        assert item.name.islower()
        assert item.prose.endswith(".")
        assert item.table.name in schemas.TABLES


# Slots


def test_a_slot_left_out_of_the_statement_fails_slots_add_up(broken):
    rows = broken.rows(schemas.COMPLETENESS)
    skipped = next(row for row in rows if row["state"] == "skipped")
    broken.write(schemas.COMPLETENESS, [row for row in rows if row is not skipped])
    example = fails_only(broken, "slots_add_up").examples[0]
    assert (example["slot"], example["problem"]) == (skipped["slot"], "not stated")


def test_a_slot_of_another_range_fails_slots_add_up(broken):
    broken.edit(schemas.COMPLETENESS, lambda row: row["state"] == "skipped" and row.update(slot=FIRST.last + 1) is None)
    assert {row["problem"] for row in fails_only(broken, "slots_add_up").examples} == {"not stated", "outside the range"}


def test_a_skipped_slot_stated_as_landed_fails_slots_add_up(broken):
    broken.edit(schemas.COMPLETENESS, lambda row: row["state"] == "skipped" and row.update(state="landed") is None)
    assert fails_only(broken, "slots_add_up").examples[0]["problem"] == "landed without its block"


def test_a_landed_slot_with_another_hash_in_the_statement_fails_slots_add_up(broken):
    broken.edit(schemas.COMPLETENESS, lambda row: row["state"] == "landed" and row.update(block_hash="other") is None)
    assert fails_only(broken, "slots_add_up").examples[0]["hash"] == "other"


def test_an_unknown_slot_is_a_warning_that_blocks_nothing(broken):
    broken.edit(schemas.COMPLETENESS, lambda row: row["state"] == "skipped" and row.update(state="unknown", proof="pruned") is None)
    finding = fails_only(broken, "no_unknown_slots")
    assert not finding.invariant.blocking
    assert finding.examples[0]["proof"] == "pruned"


def test_a_quarantined_record_is_a_warning_even_where_it_has_no_slot(broken):
    record = {"block_slot": None, "item": 0, "tx_index": None, "reason": "truncated", "detail": "cut short", "raw": b"{", "origin": None}
    broken.write(schemas.QUARANTINE, [record])
    finding = fails_only(broken, "nothing_quarantined")
    assert not finding.invariant.blocking
    assert "truncated" in finding.statement


# Blocks


def test_a_wrong_previous_hash_fails_parent_hash_links(broken):
    (block,) = broken.edit(schemas.BLOCKS, lambda row: row["slot"] > 2 and row.update(previous_block_hash="other") is None)
    assert fails_only(broken, "parent_hash_links").examples[0]["slot"] == block["slot"]


def test_a_wrong_hash_between_two_ranges_fails_where_the_range_before_is_stored(broken):
    broken.edit(schemas.BLOCKS, lambda row: row.update(previous_block_hash="other") is None, SECOND)
    finding = fails_only(broken, "parent_hash_links", SECOND)
    assert finding.examples[0]["before_slot"] == 19


def test_a_block_between_another_and_its_parent_fails_parent_hash_links(broken):
    rows = broken.rows(schemas.BLOCKS)
    broken.edit(schemas.BLOCKS, lambda row: row["slot"] == rows[5]["slot"] and row.update(parent_slot=rows[3]["slot"]) is None)
    fails_only(broken, "parent_hash_links")


def test_a_parent_that_is_proven_skipped_fails_parent_hash_links(broken):
    skipped = next(row["slot"] for row in broken.rows(schemas.COMPLETENESS) if row["state"] == "skipped")
    broken.edit(schemas.BLOCKS, lambda row: row["slot"] > skipped and row.update(parent_slot=skipped) is None)
    assert fails_only(broken, "parent_hash_links").examples[0]["parent_state"] == "skipped"


def test_a_parent_that_the_node_no_longer_had_is_explained(broken):
    broken.edit(schemas.BLOCKS, lambda row: row["slot"] > 2 and row.update(previous_block_hash=NO_HASH) is None)
    assert by_name(check_range(broken.lake, FIRST))["parent_hash_links"].explained["recorded without their parent"] == 1
    assert broken.failed() == {}


def test_a_parent_whose_slot_is_unknown_is_explained(broken):
    skipped = next(row["slot"] for row in broken.rows(schemas.COMPLETENESS) if row["state"] == "skipped")
    broken.edit(schemas.COMPLETENESS, lambda row: row["slot"] == skipped and row.update(state="unknown") is None)
    broken.edit(schemas.BLOCKS, lambda row: row["slot"] > skipped and row.update(parent_slot=skipped) is None)
    assert by_name(check_range(broken.lake, FIRST))["parent_hash_links"].explained["whose parent is unknown"] == 1
    assert set(broken.failed()) == {"no_unknown_slots"}


# References


def test_a_transaction_of_another_block_fails_transactions_refer_to_blocks(broken):
    broken.edit_transaction(3, 0, block_hash="other")
    assert fails_only(broken, "transactions_refer_to_blocks").examples[0]["block_hash"] == "other"


def test_a_reward_of_another_block_fails_block_rewards_refer_to_blocks(broken):
    broken.edit(schemas.BLOCK_REWARDS, lambda row: row.update(block_hash="other") is None)
    fails_only(broken, "block_rewards_refer_to_blocks")


@pytest.mark.parametrize("table", [schemas.INSTRUCTIONS, schemas.TOKEN_TRANSFERS, schemas.BALANCE_CHANGES], ids=lambda table: table.short_name)
def test_a_row_of_no_transaction_fails_the_reference_of_its_table(broken, table):
    broken.edit(table, lambda row: row.update(tx_signature="other") is None)
    assert fails_only(broken, f"{table.short_name}_refer_to_transactions").examples[0]["tx_signature"] == "other"


# Transactions


def test_a_count_that_the_transactions_do_not_reach_fails_transaction_count_matches(broken):
    broken.edit(schemas.BLOCKS, lambda row: row["slot"] == 3 and row.update(transaction_count=row["transaction_count"] + 1) is None)
    fails_only(broken, "transaction_count_matches")


def test_a_statement_that_counts_otherwise_fails_transaction_count_matches(broken):
    broken.edit(schemas.COMPLETENESS, lambda row: row["slot"] == 3 and row.update(transactions=row["transactions"] - 1) is None)
    fails_only(broken, "transaction_count_matches")


def test_a_gap_in_the_positions_fails_transaction_indexes_contiguous(broken):
    last = max(row["index"] for row in broken.rows(schemas.TRANSACTIONS) if row["block_slot"] == 3)
    broken.edit_transaction(3, last, index=last + 1)
    example = fails_only(broken, "transaction_indexes_contiguous").examples[0]
    assert (example["block_slot"], example["last"]) == (3, last + 1)


def test_two_transactions_with_one_signature_fail_signatures_unique_in_block(broken):
    signature = next(row["signature"] for row in broken.rows(schemas.TRANSACTIONS) if row["block_slot"] == 3)
    broken.edit_transaction(3, 1, signature=signature)
    assert fails_only(broken, "signatures_unique_in_block").examples[0]["signature"] == signature


def test_a_lamport_from_nowhere_fails_lamports_conserved(broken):
    (change,) = broken.edit(
        schemas.BALANCE_CHANGES,
        lambda row: row["mint"] is None and row["block_slot"] == 3 and row.update(after=row["after"] + 1, change=row["change"] + 1) is None,
    )

    def add(row):
        if (row["block_slot"], row["index"]) != (3, change["tx_index"]):
            return False
        row["balance_changes"][change["account_index"]]["after"] += 1
        return True

    broken.edit(schemas.TRANSACTIONS, add)
    example = fails_only(broken, "lamports_conserved").examples[0]
    assert example["balances_fell_by"] == example["fee"] - 1


# Fees


def drop_last_transaction(broken: Breaker, slot: int) -> int:
    """Take a transaction out of every table, and out of every count: what a source that lost it would give."""
    last = max(row["index"] for row in broken.rows(schemas.TRANSACTIONS) if row["block_slot"] == slot)
    for table in (schemas.TRANSACTIONS, schemas.INSTRUCTIONS, schemas.TOKEN_TRANSFERS, schemas.BALANCE_CHANGES):
        position = "index" if table is schemas.TRANSACTIONS else "tx_index"
        broken.write(table, [row for row in broken.rows(table) if (row["block_slot"], row[position]) != (slot, last)])
    broken.edit(schemas.BLOCKS, lambda row: row["slot"] == slot and row.update(transaction_count=last) is None)
    broken.edit(schemas.COMPLETENESS, lambda row: row["slot"] == slot and row.update(transactions=last, transactions_stated=last) is None)
    return last


def test_a_transaction_lost_before_anyone_counted_shows_in_the_leaders_fee(broken):
    drop_last_transaction(broken, 3)
    assert fails_only(broken, "leader_fee_reconciles").examples[0]["slot"] == 3


def test_a_reward_that_is_not_the_fees_fails_leader_fee_reconciles(broken):
    broken.edit(schemas.BLOCK_REWARDS, lambda row: row["reward_type"] == "Fee" and row.update(lamports=row["lamports"] + 1) is None)
    fails_only(broken, "leader_fee_reconciles")


def test_a_block_without_a_recorded_fee_reward_is_explained(broken):
    rows = broken.rows(schemas.BLOCK_REWARDS)
    broken.write(schemas.BLOCK_REWARDS, rows[1:])
    assert by_name(check_range(broken.lake, FIRST))["leader_fee_reconciles"].explained == {"blocks without a recorded fee reward": 1}
    assert broken.failed() == {}


def test_a_block_with_a_transaction_in_quarantine_is_explained(broken):
    last = max(row["index"] for row in broken.rows(schemas.TRANSACTIONS) if row["block_slot"] == 3)
    drop_last_transaction(broken, 3)
    broken.edit(schemas.BLOCKS, lambda row: row["slot"] == 3 and row.update(transaction_count=last + 1) is None)
    broken.edit(schemas.COMPLETENESS, lambda row: row["slot"] == 3 and row.update(transactions_stated=last + 1, quarantined=1) is None)
    record = {"block_slot": 3, "item": 0, "tx_index": last, "reason": "unknown_version", "detail": "", "raw": b"{}", "origin": None}
    broken.write(schemas.QUARANTINE, [record])
    assert set(broken.failed()) == {"nothing_quarantined"}
    assert by_name(check_range(broken.lake, FIRST))["leader_fee_reconciles"].explained == {"blocks with transactions in quarantine": 1}


def halve_rewards(broken: Breaker) -> int:
    """Pay every leader half of all fees; how many blocks had priority fees, so that it matters."""
    fees: dict[int, Decimal] = {}
    priority: set[int] = set()
    for row in broken.rows(schemas.TRANSACTIONS):
        fees[row["block_slot"]] = fees.get(row["block_slot"], Decimal(0)) + row["fee"]
        if row["priority_fee_lamports"]:
            priority.add(row["block_slot"])
    rows = broken.rows(schemas.BLOCK_REWARDS)
    for row in rows:
        row["lamports"] = fees[row["block_slot"]] - fees[row["block_slot"]] // 2
    broken.write(schemas.BLOCK_REWARDS, rows)
    return len(priority)


def test_half_of_the_fees_is_right_only_before_the_change(broken):
    assert FIRST.last < FULL_PRIORITY_FEE_SLOT
    assert halve_rewards(broken) > 5
    assert broken.failed() == {}


def test_half_of_the_fees_is_wrong_on_mainnet_after_the_change_but_not_where_the_change_came_later(whole, tmp_path):
    # The same rows, as if they were of a range after the change.
    late = SlotRange(FULL_PRIORITY_FEE_SLOT, FULL_PRIORITY_FEE_SLOT + 19)
    moved = Breaker(whole, tmp_path / "moved")
    priority = halve_rewards(moved)
    for table in schemas.TABLES.values():
        slot = "slot" if table in (schemas.BLOCKS, schemas.COMPLETENESS) else "block_slot"
        rows = moved.rows(table)
        for row in rows:
            for name in (slot, "parent_slot"):
                if row.get(name) is not None:
                    row[name] += FULL_PRIORITY_FEE_SLOT
        moved.write(table, rows, late)
    for genesis in (None, MAINNET_GENESIS_HASH):
        assert fails_only(moved, "leader_fee_reconciles", late, genesis_hash=genesis).violations == priority
    assert moved.failed(late, genesis_hash="another chain") == {}


# Instructions


def test_an_inner_instruction_of_no_outer_one_fails_inner_instructions_have_parents(broken):
    broken.edit(schemas.INSTRUCTIONS, lambda row: row["parent_index"] is not None and row.update(parent_index=99) is None)
    assert fails_only(broken, "inner_instructions_have_parents").examples[0]["problem"] == "an inner instruction without its parent"


def test_a_gap_in_the_order_of_execution_fails_inner_instructions_have_parents(broken):
    last: dict[tuple[int, int], int] = {}
    for row in broken.rows(schemas.INSTRUCTIONS):
        last[row["block_slot"], row["tx_index"]] = row["ordinal"]
    broken.edit(
        schemas.INSTRUCTIONS,
        lambda row: row["ordinal"] == last[row["block_slot"], row["tx_index"]] and row.update(ordinal=row["ordinal"] + 1) is None,
    )
    assert fails_only(broken, "inner_instructions_have_parents").examples[0]["problem"] == "ordinals not contiguous"


# Balances and tokens


def test_a_flat_balance_that_differs_from_the_transactions_fails_balance_changes_agree(broken):
    broken.edit(schemas.BALANCE_CHANGES, lambda row: row["mint"] is None and row.update(after=row["after"] + 1, change=row["change"] + 1) is None)
    fails_only(broken, "balance_changes_agree")


def test_a_changed_balance_left_out_fails_balance_changes_agree(broken):
    rows = broken.rows(schemas.BALANCE_CHANGES)
    broken.write(schemas.BALANCE_CHANGES, rows[1:])
    assert rows[0]["mint"] is None
    assert fails_only(broken, "balance_changes_agree").examples[0]["account"] is None


def test_a_change_that_is_not_the_difference_fails_balance_changes_agree(broken):
    broken.edit(schemas.BALANCE_CHANGES, lambda row: row["mint"] is None and row.update(change=row["change"] + 1) is None)
    fails_only(broken, "balance_changes_agree")


def of_token(row: dict[str, Any]) -> bool:
    return row["mint"] is not None and row["mint"] != NATIVE_MINT


def test_a_token_from_nowhere_fails_tokens_conserved(broken):
    (change,) = broken.edit(schemas.BALANCE_CHANGES, lambda row: of_token(row) and row.update(change=row["change"] + 1) is None)
    example = fails_only(broken, "tokens_conserved").examples[0]
    assert (example["mint"], example["excess"]) == (change["mint"], 1)


@pytest.mark.parametrize("kind", ["mintTo", "burn"])
def test_a_supply_that_changed_by_another_amount_fails_tokens_conserved(broken, kind):
    broken.edit(
        schemas.TOKEN_TRANSFERS,
        lambda row: row["transfer_type"] == kind and row["status"] == "Success" and of_token(row) and row.update(value=row["value"] + 1) is None,
    )
    fails_only(broken, "tokens_conserved")


def test_a_token_that_a_failed_transaction_moved_fails_tokens_conserved(broken):
    failed = next(row for row in broken.rows(schemas.TRANSACTIONS) if row["status"] == "Fail" and row["post_token_balances"])
    account = failed["accounts"][0]["pubkey"]
    row = {name: failed[name] for name in ("block_slot", "block_timestamp", "block_hash")} | {
        "tx_signature": failed["signature"], "tx_index": failed["index"], "account": account, "account_index": 0,
        "before": Decimal(1), "after": Decimal(2), "change": Decimal(1), "mint": NATIVE_MINT, "owner": None, "decimals": 9,
    }  # fmt: skip
    rows = sorted(
        [*broken.rows(schemas.BALANCE_CHANGES), row], key=lambda row: (row["block_slot"], row["tx_index"], row["account_index"], row["mint"] or "")
    )
    broken.write(schemas.BALANCE_CHANGES, rows)
    assert fails_only(broken, "tokens_conserved").examples[0]["status"] == "Fail"


def test_a_fee_that_no_instruction_names_is_explained_up_to_what_was_moved(broken):
    moved = {
        (row["block_slot"], row["tx_index"], row["mint"]): row["value"]
        for row in broken.rows(schemas.TOKEN_TRANSFERS)
        if row["transfer_type"] == "spl-transfer-with-fee" and row["status"] == "Success"
    }
    where = next(iter(moved))

    def forget(row):
        if (row["block_slot"], row["tx_index"], row["mint"]) != where or not row["fee"]:
            return False
        row.update(fee=None, fee_decimals=None, transfer_type="spl-transfer")
        return True

    broken.edit(schemas.TOKEN_TRANSFERS, forget)
    assert broken.failed() == {}
    assert by_name(check_range(broken.lake, FIRST))["tokens_conserved"].explained["with a transfer fee withheld by Token-2022"] == 1
    lost = moved[where] + 1
    broken.edit(
        schemas.BALANCE_CHANGES,
        lambda row: (row["block_slot"], row["tx_index"], row["mint"]) == where and row.update(change=row["change"] - lost) is None,
    )
    fails_only(broken, "tokens_conserved")


def test_wrapped_sol_is_explained(broken):
    (change,) = broken.edit(schemas.BALANCE_CHANGES, lambda row: of_token(row) and row.update(mint=NATIVE_MINT) is None)
    assert change["change"]
    finding = by_name(check_range(broken.lake, FIRST))["tokens_conserved"]
    assert finding.explained["of wrapped SOL"] == 1


def test_a_transaction_recorded_without_logs_may_lack_the_mint_that_an_inner_instruction_made(broken):
    (change,) = broken.edit(schemas.BALANCE_CHANGES, lambda row: of_token(row) and row.update(change=row["change"] + 1) is None)
    where = change["block_slot"], change["tx_index"]
    broken.edit(schemas.TRANSACTIONS, lambda row: (row["block_slot"], row["index"]) == where and row.update(log_messages=None) is None)
    assert by_name(check_range(broken.lake, FIRST))["tokens_conserved"].explained["recorded without inner instructions"] == 1
    assert broken.failed() == {}


def test_every_invariant_has_a_test_that_breaks_it():
    here = Path(__file__).read_text()
    named = {item.name for item in INVARIANTS if f'"{item.name}"' in here or f"_{item.name}(" in here}
    assert named | {
        f"{table.short_name}_refer_to_transactions" for table in (schemas.INSTRUCTIONS, schemas.TOKEN_TRANSFERS, schemas.BALANCE_CHANGES)
    } == {item.name for item in INVARIANTS}
