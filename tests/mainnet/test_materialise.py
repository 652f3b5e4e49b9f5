"""Every recorded mainnet block and transaction materialises, with every invariant green or explained by name."""

from __future__ import annotations

import duckdb
import pytest
from recorded_files import manifest, of_mainnet

from blyan import schemas

FILES = [row["file"] for row in manifest() if of_mainnet(row)] or [
    pytest.param("", marks=pytest.mark.skip(reason="the recorded mainnet data is not at ../shared/data"))
]
BLOCKS = [file for file in FILES if isinstance(file, str) and file.startswith("blocks/")] or FILES
TRANSACTIONS = [file for file in FILES if isinstance(file, str) and file.startswith("transactions/")] or FILES

FAILS = {
    "blocks/79662905-json-bmresearch": {"leader_fee_reconciles": "trimmed to 2 of its transactions by the project that recorded it"},
    "blocks/195545750-jsonParsed-coinbase_chainstorage-internal__utils__fixtures__parser__solana__block_new_token_account": {
        "tokens_conserved": "edited by hand: the token balance before was taken out, so that the account looks new"
    },
}
"""Recorded blocks that break an invariant, and why it is right that they do."""

EXCUSED = {
    "blocks/0to19": {"leader_fee_reconciles": "blocks with transactions recorded without metadata"},
    "blocks/1021085": {"leader_fee_reconciles": "blocks with transactions recorded without metadata"},
    "blocks/18144001": {"leader_fee_reconciles": "blocks without a recorded fee reward"},
    "blocks/138802069": {"leader_fee_reconciles": "blocks recorded without full transactions"},
    "blocks/195545750": {"leader_fee_reconciles": "blocks without a recorded fee reward"},
    "blocks/285000037": {"leader_fee_reconciles": "blocks without a recorded fee reward"},
    "blocks/332254855": {"tokens_conserved": "with a transfer fee withheld by Token-2022"},
    "transactions/jup-ag_instruction-parser-53bd12e4__src__tests__snapshot__GCeRpjvf": {
        "tokens_conserved": "with a transfer fee withheld by Token-2022"
    },
}
"""Recorded files with a legitimate exception, beside the two that many have."""

COMMON = {"parent_hash_links", "of wrapped SOL"}
"""A block alone has no stored parent; and wrapped SOL moves everywhere."""


def listed(table: dict[str, dict[str, str]], file: str) -> dict[str, str]:
    return {name: reason for start, entry in table.items() if file.startswith(start) for name, reason in entry.items()}


def excuses(recorded) -> dict[str, str]:
    return {
        name: reason
        for name, finding in recorded.findings.items()
        for reason in finding.explained
        if name not in COMMON and reason not in COMMON and reason != "recorded without their block"
    }


@pytest.mark.parametrize("file", BLOCKS)
def test_a_recorded_block_holds_every_invariant_or_is_listed_with_the_reason(recorded, file):
    block = recorded(file)
    failed = {name for name, finding in block.findings.items() if not finding.passed}
    assert failed == set(listed(FAILS, file)), [block.findings[name].statement for name in failed]
    assert excuses(block) == listed(EXCUSED, file)
    assert (block.normalised.landed, block.normalised.unknown, block.normalised.quarantined) == (len(block.slots), 0, 0)
    assert block.normalised.transactions == block.transactions_recorded


@pytest.mark.parametrize("file", TRANSACTIONS)
def test_a_recorded_transaction_holds_every_invariant_or_is_listed_with_the_reason(recorded, file):
    transaction = recorded(file)
    # A transaction alone does not make its slot known, and that is said.
    assert {name for name, finding in transaction.findings.items() if not finding.passed} == {"no_unknown_slots"}
    assert transaction.findings["transactions_refer_to_blocks"].explained == {"recorded without their block": 1}
    assert excuses(transaction) == listed(EXCUSED, file)
    assert (transaction.normalised.transactions, transaction.normalised.quarantined) == (1, 0)


def test_every_listed_exception_is_of_a_recorded_file(shared_data):
    files = [row["file"] for row in manifest() if of_mainnet(row)]
    for start in (*FAILS, *EXCUSED):
        assert any(file.startswith(start) for file in files), start


def test_the_leaders_reward_changed_from_half_of_all_fees_to_all_but_half_of_the_base_fee(recorded):
    def paid(start: str) -> tuple[int, int, int]:
        block = recorded(start)
        (row,) = block.rows(schemas.BLOCKS)
        transactions = block.rows(schemas.TRANSACTIONS)
        fees = sum(int(transaction["fee"]) for transaction in transactions)
        signatures = sum(int(transaction["fee"] - transaction["priority_fee_lamports"]) // 5_000 for transaction in transactions)
        return int(row["leader_reward"]), fees, signatures

    for start in ("blocks/64800004", "blocks/110130000-json-", "blocks/254170887"):
        reward, fees, signatures = paid(start)
        assert reward == fees / 2
    assert reward != fees - 2_500 * signatures
    reward, fees, signatures = paid("blocks/332254855")
    assert (reward, fees, signatures) == (14_423_306, 18_068_306, 1_458)
    assert reward == fees - 2_500 * signatures
    # Precompiles verify signatures that are charged too: more than the transactions carry.
    assert signatures > sum(len(row["signatures"]) for row in recorded("blocks/332254855").rows(schemas.TRANSACTIONS))


def test_a_token_amount_above_two_to_the_63_is_exact_in_delta_and_in_duckdb(recorded):
    block = recorded("blocks/110130000-json-")
    amount = 11_999_841_306_999_999_000
    assert amount > 2**63
    held = {int(balance["amount"]) for row in block.rows(schemas.TRANSACTIONS) for balance in row["pre_token_balances"] or ()}
    assert amount in held
    paths = [file.path for file in block.lake.files(schemas.TRANSACTIONS)]
    found = duckdb.execute(
        "select distinct balance.amount::varchar from (select unnest(pre_token_balances) as balance from read_parquet(?)) where balance.amount = ?::hugeint",
        [paths, amount],
    ).fetchall()
    assert found == [(str(amount),)]


def test_an_epoch_boundary_keeps_every_reward_and_the_slots_before_it_were_skipped(recorded):
    block = recorded("blocks/64800004")
    (row,) = block.rows(schemas.BLOCKS)
    rewards = block.rows(schemas.BLOCK_REWARDS)
    assert (row["slot"], row["parent_slot"], len(rewards)) == (64_800_004, 64_799_999, 10_185)
    kinds = [reward["reward_type"] for reward in rewards]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"Staking": 9_738, "Voting": 446, "Fee": 1}


def test_blocks_from_before_metadata_was_recorded_are_rows_with_nulls(recorded):
    row = recorded("blocks/1021085").rows(schemas.TRANSACTIONS)[0]
    absent = ("block_timestamp", "fee", "status", "err", "balance_changes", "pre_token_balances", "log_messages", "priority_fee_lamports")
    assert [row[name] for name in absent] == [None] * len(absent)
    assert (row["version"], row["is_vote"], row["signatures"]) == ("legacy", True, [row["signature"]])
    (block,) = recorded("blocks/1021085").rows(schemas.BLOCKS)
    assert (block["height"], block["block_timestamp"], block["leader"]) == (None, None, None)
