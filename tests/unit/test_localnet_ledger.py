"""The running chain of the localnet, without its server: commitment, forks, skips, pruning, and encodings."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from blyan import schemas
from blyan.errors import SettingError
from blyan.solana.commitment import Commitment
from blyan.solana.decode import decode
from blyan.solana.localnet.encoding import View, encode_account, encode_block, ui_token_amount, wire_format
from blyan.solana.localnet.errors import RpcError
from blyan.solana.localnet.ledger import Fork, Landed, Ledger, Plan, Progress
from blyan.solana.normalise import normalise
from blyan.solana.programs import VOTE
from blyan.solana.slots import SlotRange
from blyan.solana.sources import Format
from blyan.solana.sources.embedded import SLOTS_PER_SEGMENT, EmbeddedSource

PROCESSED, CONFIRMED, FINALIZED = Commitment


def run_to(ledger: Ledger, slot: int) -> list[Progress]:
    """Have every slot up to this one."""
    turns = []
    while ledger.next_slot <= slot:
        turns.append(ledger.step())
    return turns


def slots_of(blocks: list) -> list[int]:
    return [block.slot for block in blocks]


def a_ledger(*forks: Fork, **options: object) -> Ledger:
    plan = Plan()
    plan.add(*forks)
    return Ledger(**{"transactions_per_slot": 6, "plan": plan, **options})  # type: ignore[arg-type]


def tables_of(slot: int, payload: bytes) -> dict[str, pa.Table]:
    block = decode(slot, payload, Format.GET_BLOCK)
    tables = normalise([block])
    assert block.bad == []
    return {table.name: tables[table.name].cast(table.arrow_schema()) for table in schemas.NORMALISED}


def payloads(ledger: Ledger, first: int, last: int) -> dict[int, bytes]:
    return {block.slot: block.payload for block in ledger.blocks(first, last)}


def of_source(first: int, last: int, transactions: int = 6) -> dict[int, bytes]:
    source = EmbeddedSource(seed=1, transactions_per_slot=transactions, horizon_slot=1_000)
    return {record.slot: record.payload for record in source.read(SlotRange(first, last)) if record.payload}


# Running


def test_a_chain_that_runs_has_the_blocks_of_the_embedded_source():
    ledger = a_ledger()
    run_to(ledger, SLOTS_PER_SEGMENT - 1)
    assert payloads(ledger, 0, SLOTS_PER_SEGMENT - 1) == of_source(0, SLOTS_PER_SEGMENT - 1)


def test_a_chain_that_starts_later_knows_nothing_of_before():
    ledger = a_ledger(first_slot=150)
    run_to(ledger, 160)
    assert payloads(ledger, 0, 160) == of_source(150, 160)
    assert ledger.first_available == 150


def test_each_block_is_confirmed_and_finalized_once_and_in_order():
    ledger = a_ledger(finality_depth=5)
    turns = run_to(ledger, 40)
    present = slots_of(ledger.blocks(1, 40))
    assert [block.slot for turn in turns for block in turn.processed] == present
    assert [block.slot for turn in turns for block in turn.confirmed] == present[:-1]
    assert [block.slot for turn in turns for block in turn.finalized] == present[:-5]
    assert [ledger.tip(each).slot for each in Commitment] == [present[-1], present[-2], present[-6]]
    assert [ledger.tip(each, lag=2).slot for each in Commitment] == [present[-3], present[-4], present[-8]]


def test_settling_finalizes_the_tip():
    ledger = a_ledger()
    run_to(ledger, 10)
    assert slots_of(ledger.settle().finalized) == slots_of(ledger.blocks(1, 10))
    assert ledger.tip(FINALIZED) is ledger.tip(PROCESSED)
    assert ledger.step().finalized == []


def test_depths_out_of_order_are_refused():
    with pytest.raises(SettingError, match="finalized at depth 1 before it is confirmed at depth 2"):
        Ledger(confirmation_depth=2, finality_depth=1)


def test_heights_and_links_hold_across_skips_of_the_plan():
    plan = Plan(skip_share=0.3)
    plan.skips.update({7, 8})
    ledger = Ledger(transactions_per_slot=0, plan=plan)
    run_to(ledger, 150)
    blocks = ledger.blocks(0, 150)
    assert 80 < len(blocks) < 125
    assert ledger.block(7) is ledger.block(8) is None
    assert [block.height for block in blocks] == list(range(len(blocks)))
    assert [block.parent for block in blocks[1:]] == slots_of(blocks[:-1])


# Forks


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_fork_lives_then_dies_with_all_it_held(length):
    fork = Fork(10, length)
    ledger = a_ledger(fork)
    run_to(ledger, 9 + length)
    lived = ledger.blocks(10, 9 + length)
    assert slots_of(lived) == list(range(10, 10 + length))
    assert ledger.find(lived[0].signatures[0]).block is lived[0]
    turn = ledger.step()
    assert turn.died == lived == list(ledger.dead)
    assert all(block.is_dead for block in lived)
    assert ledger.blocks(10, 9 + length) == []
    again = [landed for block in lived for signature in block.signatures if (landed := ledger.find(signature))]
    assert all(landed.block.slot == 10 + length and landed.position in landed.block.mentions[VOTE] for landed in again)
    assert ledger.tip(PROCESSED).parent == 9
    assert ledger.tip(PROCESSED).height == ledger.block(9).height + 1


def test_accounts_after_a_fork_are_as_if_it_had_never_been():
    with_fork, skips = a_ledger(Fork(10, 3), transactions_per_slot=30), Plan(skips={10, 11, 12})
    run_to(with_fork, 49)
    without = Ledger(transactions_per_slot=30, plan=skips)
    run_to(without, 49)
    assert payloads(with_fork, 0, 49) == payloads(without, 0, 49)


def test_a_replaced_fork_leaves_the_blocks_that_would_have_been_there():
    ledger = a_ledger(Fork(10, 2, replaced=True), Fork(21, 1, replaced=True))
    run_to(ledger, 11)
    before = {block.slot: block.hash for block in ledger.blocks(10, 11)}
    turn = ledger.step()
    assert slots_of(turn.died) == [10, 11]
    assert slots_of(turn.processed) == [10, 11, 12]
    assert all(ledger.block(slot).hash != before[slot] for slot in before)
    run_to(ledger, 49)
    assert payloads(ledger, 0, 49) == of_source(0, 49)


def test_a_fork_may_be_confirmed_and_still_die_but_never_finalized():
    ledger = a_ledger(Fork(10, 3), finality_depth=4)
    turns = run_to(ledger, 30)
    confirmed = [block for turn in turns for block in turn.confirmed if block.is_dead]
    assert slots_of(confirmed) == [10, 11]
    assert not any(block.is_dead for turn in turns for block in turn.finalized)
    with pytest.raises(SettingError, match="a fork of 5 slots from 40 on cannot die"):
        run_to(a_ledger(Fork(40, 5), finality_depth=4), 50)


def a_transfer(ledger: Ledger, number: int = 0, to: Pubkey | None = None) -> VersionedTransaction:
    """A transfer of one SOL by somebody who was given two."""
    wallet = Keypair.from_seed(bytes([number]) * 32)
    ledger.mempool.append(ledger.give(wallet.pubkey(), 2 * 10**9, number))
    ledger.step()
    instruction = transfer(TransferParams(from_pubkey=wallet.pubkey(), to_pubkey=to or Pubkey.new_unique(), lamports=10**9))
    message = Message.new_with_blockhash([instruction], wallet.pubkey(), Hash.from_string(ledger.tip(PROCESSED).hash))
    return VersionedTransaction(message, [wallet])


@pytest.mark.parametrize("replaced", [False, True])
def test_what_a_fork_held_lands_again_where_the_plan_says_so(replaced):
    ledger = a_ledger(Fork(12, 2, replaced=replaced, lands=True))
    run_to(ledger, 10)
    receiver = Pubkey.new_unique()
    sent = a_transfer(ledger, to=receiver)
    ledger.mempool.append(sent)
    signature = str(sent.signatures[0])
    run_to(ledger, 12)
    assert ledger.find(signature).block.slot == 12
    assert ledger.account(receiver, PROCESSED).lamports == 10**9
    run_to(ledger, 13)
    assert ledger.account(receiver, CONFIRMED).lamports == 10**9
    run_to(ledger, 14)
    assert ledger.find(signature).block.slot == 14
    assert ledger.account(receiver, PROCESSED).lamports == 10**9
    assert ledger.account(receiver, CONFIRMED) is None


def test_what_a_fork_held_is_gone_otherwise():
    ledger = a_ledger(Fork(12, 2))
    run_to(ledger, 10)
    receiver = Pubkey.new_unique()
    sent = a_transfer(ledger, to=receiver)
    ledger.mempool.append(sent)
    run_to(ledger, 14)
    assert ledger.find(str(sent.signatures[0])) is None
    assert ledger.account(receiver, PROCESSED) is None
    run_to(ledger, 60)
    assert ledger.account(receiver, FINALIZED) is None


def test_a_transaction_is_executed_once_however_often_it_is_sent():
    ledger = a_ledger()
    receiver = Pubkey.new_unique()
    sent = a_transfer(ledger, to=receiver)
    for _ in range(3):
        ledger.mempool.append(sent)
        ledger.step()
    assert ledger.account(receiver, PROCESSED).lamports == 10**9


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), depth=st.integers(1, 7), skip_share=st.floats(0, 0.4), fork_share=st.floats(0, 0.5))
def test_whatever_befalls_it_the_chain_is_one_chain(seed, depth, skip_share, fork_share):
    def chain() -> Ledger:
        return Ledger(seed=seed, transactions_per_slot=2, finality_depth=depth, plan=Plan(skip_share=skip_share, fork_share=fork_share))

    ledger, root = chain(), -1
    for turn in run_to(ledger, 60):
        assert turn.died == [] or turn.died[0].slot > root
        root = max([root, *slots_of(turn.finalized)])
        assert ledger.tip(FINALIZED).slot <= ledger.tip(CONFIRMED).slot <= ledger.tip(PROCESSED).slot
    blocks = ledger.blocks(0, 60)
    assert [block.height for block in blocks] == list(range(len(blocks)))
    assert [block.parent for block in blocks[1:]] == slots_of(blocks[:-1])
    again = chain()
    run_to(again, 60)
    assert [block.hash for block in again.blocks(0, 60)] == [block.hash for block in blocks]
    assert blocks[-1].transactions_so_far == sum(len(block.signatures) for block in blocks)


# What is kept


def test_pruning_drops_old_blocks_but_never_the_newest_finalized_one():
    ledger = a_ledger(finality_depth=5)
    run_to(ledger, 30)
    gone = ledger.block(0)
    ledger.prune(20)
    assert ledger.first_available == 20
    assert ledger.block(19) is None
    assert ledger.find(gone.signatures[0]) is None
    ledger.prune(10_000)
    assert ledger.first_available == ledger.tip(FINALIZED).slot
    run_to(ledger, 49)
    start = ledger.first_available
    assert payloads(ledger, start, 49) == of_source(start, 49)


def test_the_ledger_is_pruned_by_itself_when_it_is_too_large():
    ledger = a_ledger(finality_depth=5, ledger_bytes=20_000)
    run_to(ledger, 60)
    assert 40 < ledger.first_available <= ledger.tip(FINALIZED).slot


def test_accounts_are_those_of_the_commitment_asked_for():
    ledger = a_ledger(finality_depth=5)
    key = Pubkey.new_unique()
    ledger.mempool.append(ledger.give(key, 7 * 10**9, 1))

    def known() -> list[int]:
        return [account.lamports if (account := ledger.account(key, each)) else 0 for each in Commitment]

    for _ in range(10):
        blocks_since = ledger.tip(PROCESSED).height
        assert known() == [7 * 10**9 if blocks_since >= least else 0 for least in (1, 2, 6)]
        ledger.step()
    run_to(ledger, 20)
    assert known() == [7 * 10**9] * 3


def test_a_blockhash_is_recent_for_150_blocks():
    ledger = a_ledger(transactions_per_slot=0)
    first = ledger.tip(PROCESSED)
    while ledger.tip(PROCESSED).height < 150:
        ledger.step()
    assert ledger.is_recent(first.hash, ledger.tip(PROCESSED))
    ledger.step()
    assert not ledger.is_recent(first.hash, ledger.tip(PROCESSED))
    assert not ledger.is_recent(ledger.tip(PROCESSED).hash, ledger.tip(FINALIZED))
    assert not ledger.is_recent(str(Hash.default()), ledger.tip(PROCESSED))


def test_what_is_indexed_of_a_block_is_what_the_block_says(busy):
    for block in busy.blocks(0, 15):
        mentions: dict[str, set[int]] = {}
        for position, entry in enumerate(block.entries()):
            loaded = entry["meta"]["loadedAddresses"]
            for key in (*entry["transaction"]["message"]["accountKeys"], *loaded["writable"], *loaded["readonly"]):
                mentions.setdefault(key, set()).add(position)
            (signature, *_), error = entry["transaction"]["signatures"], entry["meta"]["err"]
            assert (block.signatures[position], block.errors[position]) == (signature, error)
            assert busy.find(signature) == Landed(block, position)
            assert busy.find(signature).error == error
        assert {key: tuple(sorted(positions)) for key, positions in mentions.items()} == block.mentions
        said = msgspec.json.decode(block.payload)
        assert (block.parent, block.hash, block.height, block.time) == tuple(
            said[name] for name in ("parentSlot", "blockhash", "blockHeight", "blockTime")
        )


# Encodings


@pytest.fixture(scope="module")
def busy() -> Ledger:
    """A chain with every kind of traffic."""
    ledger = Ledger(transactions_per_slot=60)
    run_to(ledger, 15)
    return ledger


@pytest.mark.parametrize("encoding", ["json", "jsonParsed", "base64", "base58"])
def test_every_encoding_of_a_block_gives_the_same_rows(busy, encoding):
    for block in busy.blocks(0, 15):
        ours = tables_of(block.slot, block.payload)
        theirs = tables_of(block.slot, encode_block(block.payload, View(encoding=encoding, max_version=0)))
        for name, table in ours.items():
            assert table.num_rows > 0 or "quarantine" in name or "rewards" in name or "return" in name, name
            for column in table.column_names:
                assert table[column].equals(theirs[name][column]), (block.slot, name, column)


def test_wire_format_is_what_was_signed(busy):
    for block in busy.blocks(0, 15):
        for entry in block.entries():
            sent = VersionedTransaction.from_bytes(wire_format(entry["transaction"]))
            assert bytes(sent) == wire_format(entry["transaction"])
            assert all(sent.verify_with_results())


def test_a_newer_version_than_the_client_reads_is_refused(busy):
    payload = busy.block(4).payload
    for details in ("full", "accounts"):
        with pytest.raises(RpcError, match="maxSupportedTransactionVersion") as caught:
            encode_block(payload, View(details=details))
        assert caught.value.code == -32015
    for details in ("signatures", "none"):
        encode_block(payload, View(details=details))


@pytest.mark.parametrize(
    ("amount", "decimals", "text"), [(0, 6, "0"), (1_500, 3, "1.5"), (7, 2, "0.07"), (42, 0, "42"), (2**64 - 1, 9, "18446744073.709551615")]
)
def test_token_amounts_are_exact(amount, decimals, text):
    assert ui_token_amount(amount, decimals)["uiAmountString"] == text


def test_long_accounts_are_refused_in_base58_and_cut_on_request(busy):
    mint_or_token = next(account for account in busy._accounts.values() if len(account.data) == 165)
    for encoding in (None, "base58"):
        with pytest.raises(RpcError, match="128 bytes"):
            encode_account(mint_or_token, encoding)
    assert encode_account(mint_or_token, "base58", slice(0, 32))["data"][1] == "base58"
    assert encode_account(mint_or_token, "base64")["space"] == 165
