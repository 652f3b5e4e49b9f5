"""The embedded chain: blocks of the right shape, exact, repeatable, and a source like any other."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.address_lookup_table_account import ID as LOOKUP_TABLE_PROGRAM
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.hash import Hash
from solders.instruction import AccountMeta, CompiledInstruction, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageAddressTableLookup, MessageHeader, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.rpc.responses import GetBlockResp
from solders.signature import Signature
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from blyan.errors import BadRecordError
from blyan.settings import load_settings
from blyan.solana import base58, embedded
from blyan.solana.embedded import DOMAIN, EmbeddedChain, Schedule
from blyan.solana.slots import SlotRange
from blyan.solana.sources import BlockSource, Format, SlotState, open_source
from blyan.solana.sources.embedded import SLOTS_PER_SEGMENT, EmbeddedSource

SLOTS = SlotRange(0, 119)
TOKEN_PROGRAMS = {"TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA", "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"}
ED25519 = "Ed25519SigVerify111111111111111111111111111"
MINT_TO, BURN, TRANSFER_FEE, WITH_FEE = 7, 8, 26, 1


@pytest.fixture(scope="module")
def source() -> EmbeddedSource:
    return EmbeddedSource(seed=1, transactions_per_slot=24, horizon_slot=1_000)


@pytest.fixture(scope="module")
def records(source):
    return list(source.read(SLOTS))


@pytest.fixture(scope="module")
def blocks(records) -> dict[int, dict[str, Any]]:
    return {record.slot: json.loads(record.payload) for record in records if record.payload}


@pytest.fixture(scope="module")
def entries(blocks) -> list[dict[str, Any]]:
    return [entry for block in blocks.values() for entry in block["transactions"]]


def account_keys(entry: dict[str, Any]) -> list[str]:
    loaded = entry["meta"]["loadedAddresses"]
    return entry["transaction"]["message"]["accountKeys"] + loaded["writable"] + loaded["readonly"]


def instructions(entry: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [instruction for group in entry["meta"]["innerInstructions"] for instruction in group["instructions"]]
    return entry["transaction"]["message"]["instructions"] + inner


def calls(entry: dict[str, Any]) -> list[tuple[str, list[str], bytes]]:
    """Program, accounts and data of every instruction, outer and inner."""
    keys = account_keys(entry)
    return [
        (keys[instruction["programIdIndex"]], [keys[index] for index in instruction["accounts"]], base58.decode(instruction["data"]))
        for instruction in instructions(entry)
    ]


def charged_signatures(entry: dict[str, Any]) -> int:
    return len(entry["transaction"]["signatures"]) + sum(data[0] for program, _, data in calls(entry) if program == ED25519)


def key_sets(value: Any, path: str = "", found: dict[str, set[str]] | None = None) -> dict[str, set[str]]:
    """Every path of objects in a JSON value, and the keys seen there."""
    found = {} if found is None else found
    if isinstance(value, dict):
        found.setdefault(path, set()).update(value)
        for key, inner in value.items():
            # What is inside an error or a status depends on the error.
            if key not in ("err", "status"):
                key_sets(inner, f"{path}/{key}", found)
    elif isinstance(value, list):
        for inner in value:
            key_sets(inner, path, found)
    return found


# The shape of getBlock


def test_solders_parses_every_block_as_an_rpc_response(records):
    for record in records:
        if record.payload:
            parsed = GetBlockResp.from_json('{"jsonrpc":"2.0","id":1,"result":' + record.payload.decode() + "}")
            assert isinstance(parsed, GetBlockResp)
            assert len(parsed.value.transactions) == 24
            assert str(parsed.value.blockhash) == record.block_hash


def test_objects_have_the_keys_that_a_real_block_has_and_no_others(shared_data: Path, blocks):
    folder = shared_data / "solana" / "blocks"
    real = json.loads(gzip.decompress(next(folder.glob("285000037-json-*")).read_bytes()))
    with_rewards = json.loads(gzip.decompress(next(folder.glob("332254855-json-*")).read_bytes()))
    expected = key_sets(real)
    expected[""] = key_sets(with_rewards.get("result", with_rewards))[""]
    expected["/rewards"] = key_sets(with_rewards.get("result", with_rewards))["/rewards"]
    expected["/transactions/meta"].add("costUnits")  # since Agave 2.2, after both were recorded
    assert key_sets(list(blocks.values())) == expected


def test_optional_objects_are_there_only_when_they_say_something(entries):
    for entry in entries:
        assert ("addressTableLookups" in entry["transaction"]["message"]) == (entry["version"] == 0)
        assert entry["version"] in (0, "legacy")
        assert entry["meta"].get("returnData", {"data": ["x"]})["data"][0]
        assert all(group["instructions"] for group in entry["meta"]["innerInstructions"])
    assert any("returnData" in entry["meta"] for entry in entries)


def test_every_signature_signs_the_message_that_the_block_shows(entries):
    for entry in entries:
        shown = entry["transaction"]["message"]
        counts = [shown["header"][f"num{name}"] for name in ("RequiredSignatures", "ReadonlySignedAccounts", "ReadonlyUnsignedAccounts")]
        keys = [Pubkey.from_string(key) for key in shown["accountKeys"]]
        recent = Hash.from_string(shown["recentBlockhash"])
        compiled = [CompiledInstruction(ix["programIdIndex"], base58.decode(ix["data"]), bytes(ix["accounts"])) for ix in shown["instructions"]]
        message: Message | MessageV0
        if entry["version"] == "legacy":
            message = Message.new_with_compiled_instructions(*counts, keys, recent, compiled)
        else:
            lookups = [
                MessageAddressTableLookup(
                    Pubkey.from_string(lookup["accountKey"]), bytes(lookup["writableIndexes"]), bytes(lookup["readonlyIndexes"])
                )
                for lookup in shown["addressTableLookups"]
            ]
            message = MessageV0(MessageHeader(*counts), keys, recent, compiled, lookups)
        signatures = entry["transaction"]["signatures"]
        assert len(signatures) == counts[0]
        for key, signature in zip(keys, signatures, strict=False):
            assert Signature.from_string(signature).verify(key, to_bytes_versioned(message))


# Exactness


def test_each_transaction_destroys_exactly_its_fee(entries):
    for entry in entries:
        meta = entry["meta"]
        assert len(meta["preBalances"]) == len(meta["postBalances"]) == len(account_keys(entry))
        assert sum(meta["preBalances"]) - sum(meta["postBalances"]) == meta["fee"]


def test_a_failed_transaction_changes_only_its_fee_payer(entries):
    failed = [entry["meta"] for entry in entries if entry["meta"]["err"] is not None]
    assert failed
    for meta in failed:
        assert meta["preBalances"][0] - meta["postBalances"][0] == meta["fee"]
        assert meta["preBalances"][1:] == meta["postBalances"][1:]
        assert meta["preTokenBalances"] == meta["postTokenBalances"]


def test_tokens_change_by_what_was_minted_burned_and_withheld(entries):
    seen = set()
    for entry in entries:
        meta, keys = entry["meta"], account_keys(entry)
        change: Counter[str] = Counter()
        for balances, sign in ((meta["preTokenBalances"], -1), (meta["postTokenBalances"], 1)):
            for balance in balances:
                change[balance["mint"]] += sign * int(balance["uiTokenAmount"]["amount"])
        if meta["err"] is None:
            for program, accounts, data in calls(entry):
                if program not in TOKEN_PROGRAMS:
                    continue
                if data[0] == MINT_TO:
                    change[accounts[0]] -= int.from_bytes(data[1:9], "little")
                elif data[0] == BURN:
                    change[accounts[1]] += int.from_bytes(data[1:9], "little")
                elif data[0] == TRANSFER_FEE and data[1] == WITH_FEE:
                    change[accounts[1]] += int.from_bytes(data[11:19], "little")
                seen.add(data[0])
        assert not any(change.values()), (keys[0], change)
    assert {3, MINT_TO, BURN, 9, 12, 18, 20, TRANSFER_FEE} <= seen


def test_balances_run_on_from_transaction_to_transaction_and_the_leader_is_paid(blocks):
    for first in range(SLOTS.first, SLOTS.last + 1, SLOTS_PER_SEGMENT):
        balance: dict[str, int] = {}
        for slot in range(first, first + SLOTS_PER_SEGMENT):
            for entry in blocks.get(slot, {"transactions": []})["transactions"]:
                keys, meta = account_keys(entry), entry["meta"]
                assert [balance.get(key, held) for key, held in zip(keys, meta["preBalances"], strict=True)] == meta["preBalances"]
                balance.update(zip(keys, meta["postBalances"], strict=True))
            for reward in blocks.get(slot, {"rewards": []})["rewards"]:
                assert balance.get(reward["pubkey"], reward["postBalance"] - reward["lamports"]) + reward["lamports"] == reward["postBalance"]
                balance[reward["pubkey"]] = reward["postBalance"]


def test_the_leader_gets_the_fees_less_2500_for_each_signature(blocks):
    leaders = set()
    for block in blocks.values():
        (reward,) = block["rewards"]
        assert (reward["rewardType"], reward["commission"]) == ("Fee", None)
        burned = 2_500 * sum(charged_signatures(entry) for entry in block["transactions"])
        assert reward["lamports"] == sum(entry["meta"]["fee"] for entry in block["transactions"]) - burned
        leaders.add(reward["pubkey"])
    assert len(leaders) > 1


def test_token_amounts_are_exact_and_reach_above_2_to_the_63(entries):
    amounts = []
    for entry in entries:
        keys = account_keys(entry)
        for balance in entry["meta"]["preTokenBalances"] + entry["meta"]["postTokenBalances"]:
            shown = balance["uiTokenAmount"]
            amount = int(shown["amount"])
            amounts.append(amount)
            assert Decimal(shown["uiAmountString"]) == Decimal(amount).scaleb(-shown["decimals"])
            assert not shown["uiAmountString"].endswith(("0", ".")) or "." not in shown["uiAmountString"]
            assert shown["uiAmount"] == (amount / 10 ** shown["decimals"] if amount else None)
            assert balance["programId"] in TOKEN_PROGRAMS
            assert balance["accountIndex"] < len(keys)
    assert any(2**53 < amount < 2**63 for amount in amounts)
    assert any(amount > 2**63 for amount in amounts)
    moved = [
        int.from_bytes(data[1:9], "little") for entry in entries for program, _, data in calls(entry) if program in TOKEN_PROGRAMS and data[0] == 12
    ]
    assert max(moved) > 2**63


# What is in it


def test_traffic_is_varied_enough_for_every_table(entries):
    programs = {program for entry in entries for program, _, _ in calls(entry)}
    assert programs == {
        "11111111111111111111111111111111",
        "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL",
        "ComputeBudget111111111111111111111111111111",
        "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr",
        "Vote111111111111111111111111111111111111111",
        ED25519,
        *TOKEN_PROGRAMS,
    }
    decimals = {balance["uiTokenAmount"]["decimals"] for entry in entries for balance in entry["meta"]["postTokenBalances"]}
    assert {0, 6, 9} <= decimals
    kinds = Counter((entry["version"], bool(entry["transaction"]["message"].get("addressTableLookups"))) for entry in entries)
    assert set(kinds) == {("legacy", False), (0, False), (0, True)}
    assert any(len(entry["transaction"]["signatures"]) > 2 for entry in entries)
    assert any(entry["meta"]["fee"] > 5_000 * charged_signatures(entry) for entry in entries)
    assert any(len(entry["meta"]["preTokenBalances"]) > len(entry["meta"]["postTokenBalances"]) for entry in entries)
    assert any("🦀" in line for entry in entries for line in entry["meta"]["logMessages"])
    assert {1, 2} <= {instruction["stackHeight"] for entry in entries for instruction in instructions(entry)}


def test_about_six_percent_fail_in_many_ways(entries):
    errors = [json.dumps(entry["meta"]["err"]) for entry in entries if entry["meta"]["err"] is not None]
    assert 0.03 < len(errors) / len(entries) < 0.09
    assert {
        '{"InstructionError": [0, {"Custom": 1}]}',
        '{"InstructionError": [0, {"Custom": 0}]}',
        '{"InstructionError": [0, "ProgramFailedToComplete"]}',
        '{"InsufficientFundsForRent": {"account_index": 1}}',
    } <= set(errors)
    for entry in entries:
        error = entry["meta"]["err"]
        assert entry["meta"]["status"] == ({"Ok": None} if error is None else {"Err": error})
    assert any(entry["meta"]["err"] and entry["meta"]["innerInstructions"] for entry in entries)


def test_votes_are_executed_by_the_vote_program(entries):
    votes = [entry for entry in entries if calls(entry)[0][0].startswith("Vote1")]
    assert len(votes) > len(entries) / 10
    landed = [entry for entry in votes if entry["meta"]["err"] is None]
    assert len(landed) > 0.8 * len(votes)
    assert {entry["meta"]["costUnits"] for entry in votes} == {3_428}


def test_a_signature_occurs_once_in_the_chain(entries):
    signatures = [entry["transaction"]["signatures"][0] for entry in entries]
    assert len(set(signatures)) == len(signatures)


def test_every_transaction_fits_the_packet_that_would_carry_it(entries):
    # 1,232 bytes: the IPv6 minimum of 1,280 less 48 of headers.
    for entry in entries:
        message = entry["transaction"]["message"]
        size = 1 + 64 * len(entry["transaction"]["signatures"]) + 4 + 32 * len(message["accountKeys"]) + 32
        size += sum(3 + len(ix["accounts"]) + len(base58.decode(ix["data"])) for ix in message["instructions"])
        size += sum(34 + len(lookup["writableIndexes"]) + len(lookup["readonlyIndexes"]) for lookup in message.get("addressTableLookups", []))
        assert size < 1_200


# The schedule


def test_blocks_link_and_count_without_gaps(source, blocks):
    previous = None
    for slot, block in blocks.items():
        if previous is not None:
            assert block["parentSlot"] == previous
            assert block["previousBlockhash"] == blocks[previous]["blockhash"]
            assert block["blockHeight"] == blocks[previous]["blockHeight"] + 1
            assert 0 <= block["blockTime"] - blocks[previous]["blockTime"] <= 2
            assert {entry["transaction"]["message"]["recentBlockhash"] for entry in block["transactions"]} == {block["previousBlockhash"]}
        previous = slot
    first = blocks[0]
    assert (first["parentSlot"], first["blockHeight"], first["previousBlockhash"]) == (0, 0, "1" * 32)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**40))
def test_heights_count_the_blocks_before_a_slot(seed, slot):
    schedule = Schedule(seed, 24)
    assert schedule.height(slot + 1) - schedule.height(slot) == (not schedule.is_skipped(slot))
    assert not schedule.is_skipped(schedule.parent(slot))


def test_two_percent_of_the_slots_are_skipped_and_never_the_first():
    for seed in range(20):
        schedule = Schedule(seed, 24)
        assert not schedule.is_skipped(0)
        assert schedule.height(0) == 0
        assert sum(map(schedule.is_skipped, range(10_000))) == 200


# The source


def test_it_is_the_source_that_the_default_settings_open():
    source = open_source(load_settings())
    assert isinstance(source, EmbeddedSource)
    assert isinstance(source, BlockSource)
    report = source.check()
    assert (report.first_slot, report.last_slot, report.name) == (0, 999, "embedded")
    assert report.genesis_hash == source.genesis_hash()


def test_a_range_has_one_record_for_each_slot_in_order(source, records):
    assert [record.slot for record in records] == list(SLOTS)
    assert [record.state for record in records] == source.states(SLOTS)
    for record in records:
        if record.state is SlotState.SKIPPED:
            assert (record.payload, record.block_hash, record.proof) == (b"", None, "embedded schedule")
        else:
            block = json.loads(record.payload)
            assert (record.state, record.proof, record.format) == (SlotState.PRESENT, "embedded", Format.GET_BLOCK)
            assert (record.block_hash, record.parent_slot) == (block["blockhash"], block["parentSlot"])
    assert SlotState.SKIPPED in source.states(SLOTS)


@pytest.mark.parametrize("slots", ["0-0", "47-53", "100-103", "49-50"])
def test_a_range_read_alone_agrees_with_a_longer_one_that_holds_it(source, records, slots):
    part = SlotRange.parse(slots)
    assert list(source.read(part)) == records[part.first : part.last + 1]


def test_a_new_process_makes_the_same_bytes(records):
    program = (
        "import hashlib\n"
        "from blyan.solana.slots import SlotRange\n"
        "from blyan.solana.sources.embedded import EmbeddedSource\n"
        "payloads = [record.payload for record in EmbeddedSource(1, 24, 1000).read(SlotRange(45, 55))]\n"
        "print(hashlib.sha256(b'|'.join(payloads)).hexdigest())\n"
    )
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert printed.stdout.strip() == hashlib.sha256(b"|".join(record.payload for record in records[45:56])).hexdigest()


def test_the_blocks_of_a_seed_do_not_change_unnoticed(records):
    # A lake that holds half of a chain must not get another half. If this digest changes (the traffic was edited, a new
    # solders runs other programs), raise the number in `DOMAIN`, which gives the chain a new genesis hash, and pin again.
    digest = hashlib.sha256(b"|".join(record.payload for record in records)).hexdigest()
    assert (DOMAIN, digest) == ("blyan embedded chain 1", "3ba3874410ea9b867632607f17f0ab2d661cf4264e950d1e56712436f041d55d")


def test_blocks_are_the_same_when_accounts_are_read_again(records, monkeypatch):
    monkeypatch.setattr(embedded, "SNAPSHOTS", 0)
    chain = EmbeddedChain(seed=1, transactions_per_slot=24)
    assert [chain.produce(slot) or b"" for slot in range(8)] == [record.payload for record in records[:8]]
    assert len(chain._snapshots) < len(chain.written) + 100


def test_another_seed_or_size_is_another_chain(source, blocks):
    for other in (EmbeddedSource(2, 24, 1_000), EmbeddedSource(1, 23, 1_000)):
        assert other.genesis_hash() != source.genesis_hash()
        (record,) = other.read(SlotRange(0, 0))
        block = json.loads(record.payload)
        assert block["blockhash"] != blocks[0]["blockhash"]
        signatures = {entry["transaction"]["signatures"][0] for entry in block["transactions"]}
        assert signatures.isdisjoint(entry["transaction"]["signatures"][0] for entry in blocks[0]["transactions"])


def test_slots_far_into_the_chain_cost_no_more_than_the_first(source):
    far = SlotRange(432_000_000, 432_000_003)
    *_, last = source.read(far)
    assert last.slot == far.last
    assert json.loads(last.payload)["blockHeight"] == pytest.approx(far.last * 0.98, rel=1e-6)


def test_blocks_without_transactions_pay_nobody():
    (record,) = EmbeddedSource(1, 0, 1_000).read(SlotRange(0, 0))
    block = json.loads(record.payload)
    assert (block["transactions"], block["rewards"]) == ([], [])


# Transactions of others


@pytest.fixture
def chain() -> EmbeddedChain:
    return EmbeddedChain(seed=1, transactions_per_slot=6)


def signed_transfer(payer: Keypair, lamports: int) -> VersionedTransaction:
    instruction = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=Keypair.from_seed(b"\2" * 32).pubkey(), lamports=lamports))
    return VersionedTransaction(Message.new_with_blockhash([instruction], payer.pubkey(), Hash.default()), [payer])


def test_a_submitted_transaction_is_in_the_next_block_and_in_no_other(chain):
    transaction = signed_transfer(chain.traffic.treasury.keypair, 10**8)
    chain.produce(0)
    chain.submit(transaction)
    one, two = json.loads(chain.produce(1)), json.loads(chain.produce(2))
    assert (len(one["transactions"]), len(two["transactions"])) == (7, 6)
    entry = one["transactions"][-1]
    assert entry["transaction"]["signatures"] == [str(transaction.signatures[0])]
    assert entry["meta"]["preBalances"][1:] == [0, 1]
    assert entry["meta"]["postBalances"][1:] == [10**8, 1]
    assert (entry["meta"]["err"], entry["meta"]["fee"]) == (None, 5_000)


def test_an_address_added_to_a_lookup_table_is_read_from_the_next_block_on(chain):
    treasury, table, added = chain.traffic.treasury, chain.traffic._table, Keypair.from_seed(b"\4" * 32).pubkey()
    longer = AddressLookupTableAccount(table.key, [*table.addresses, added])
    accounts = [AccountMeta(table.key, False, True), AccountMeta(treasury.key, True, False), AccountMeta(treasury.key, True, True)]
    accounts.append(AccountMeta(SYSTEM_PROGRAM, False, False))
    extend = Instruction(LOOKUP_TABLE_PROGRAM, struct.pack("<IQ", 2, 1) + bytes(added), accounts)
    pay = transfer(TransferParams(from_pubkey=treasury.key, to_pubkey=added, lamports=10**8))
    chain.produce(0)
    for slot, instruction in enumerate((pay, extend, pay), 1):
        message = MessageV0.try_compile(treasury.key, [instruction], [longer], Hash.default())
        chain.submit(VersionedTransaction(message, [treasury.keypair]))
        last = json.loads(chain.produce(slot))["transactions"][-1]
        assert [error for _, error in chain.rejected] == (["InvalidAddressLookupTableIndex"] if slot == 1 else [])
    assert last["meta"]["loadedAddresses"] == {"writable": [str(added)], "readonly": []}
    assert last["meta"]["postBalances"][-1] == 10**8


def test_a_transaction_whose_payer_has_nothing_is_rejected_and_stays_out_of_the_block(chain):
    poor = signed_transfer(Keypair.from_seed(bytes(31) + b"\1"), 1)
    chain.submit(poor)
    block = json.loads(chain.produce(0))
    assert len(block["transactions"]) == 6
    assert chain.rejected == [(str(poor.signatures[0]), "AccountNotFound")]
    chain.produce(1)
    assert chain.rejected == []


@pytest.mark.parametrize("signatures", [[], [Signature.default()]])
def test_a_transaction_with_a_missing_or_wrong_signature_is_refused(chain, signatures):
    good = signed_transfer(chain.traffic.treasury.keypair, 1)
    with pytest.raises(BadRecordError, match="does not verify") as refused:
        chain.submit(VersionedTransaction.populate(good.message, signatures))
    assert refused.value.reason == "bad_signature"


def test_a_transaction_that_cannot_be_read_is_rejected_by_the_runtime_and_the_block_stands(chain):
    payer = chain.traffic.treasury
    no_such_program = Message.new_with_compiled_instructions(1, 0, 0, [payer.key], Hash.default(), [CompiledInstruction(77, b"", b"")])
    no_such_table = MessageV0(
        MessageHeader(1, 0, 1),
        [payer.key, Pubkey.default()],
        Hash.default(),
        [CompiledInstruction(1, b"", bytes([2]))],
        [MessageAddressTableLookup(Pubkey.from_bytes(b"3" * 32), b"\5", b"")],
    )
    for message in (no_such_program, no_such_table):
        chain.submit(VersionedTransaction.populate(message, [payer.keypair.sign_message(to_bytes_versioned(message))]))
    assert len(json.loads(chain.produce(0))["transactions"]) == 6
    assert [error for _, error in chain.rejected] == ["SanitizeFailure", "AddressLookupTableNotFound"]
