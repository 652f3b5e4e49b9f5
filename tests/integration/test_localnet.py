"""The localnet over real sockets. solana-py, which parses strictly, is the judge of every answer it knows."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.core import RPCException
from solana.rpc.jsonrpc import SolanaJsonRpcError
from solana.rpc.models import TxOpts
from solana.rpc.websocket_api import SolanaWsClient
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.rpc.config import RpcBlockSubscribeFilterMentions, RpcTransactionLogsFilter, RpcTransactionLogsFilterMentions
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from solders.transaction_status import TransactionConfirmationStatus, TransactionDetails
from websockets.exceptions import ConnectionClosed

from blyan import schemas
from blyan.errors import SettingError
from blyan.solana.commitment import Commitment
from blyan.solana.decode import decode
from blyan.solana.embedded import Schedule
from blyan.solana.localnet.faults import Faults
from blyan.solana.localnet.ledger import Fork, Plan
from blyan.solana.localnet.server import Localnet, Options, running
from blyan.solana.normalise import normalise
from blyan.solana.programs import VOTE
from blyan.solana.slots import SlotRange
from blyan.solana.sources import Format, SlotState
from blyan.solana.sources.embedded import SLOTS_PER_SEGMENT, EmbeddedSource
from blyan.solana.sources.rpc import RpcSource

REPOSITORY = Path(__file__).resolve().parents[2]
SEED, TRANSACTIONS = 1, 12
A_SLOT = next(slot for slot in range(4, 20) if not Schedule(SEED, TRANSACTIONS).is_skipped(slot))
"""A slot with a block."""
ENCODINGS = ["json", "jsonParsed", "base64", "base58"]
WAIT_S = 20.0


@pytest.fixture
def localnet() -> Iterator[Localnet]:
    """A node that is held, at slot 49: blocks 0 to 17 are finalized."""
    with running(Options(slot_ms=None, seed=SEED, transactions_per_slot=TRANSACTIONS)) as net:
        net.advance_to(49)
        yield net


@pytest.fixture(scope="module")
def still() -> Iterator[Localnet]:
    """One for tests that only read, at slot 89: a whole segment of the embedded source is finalized."""
    with running(Options(slot_ms=None, seed=SEED, transactions_per_slot=TRANSACTIONS)) as net:
        net.advance_to(89)
        yield net


def asking(net: Localnet, use: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
    """What `use` makes of solana-py's client."""

    async def main() -> Any:
        async with asyncio.timeout(WAIT_S), AsyncClient(net.http_url, timeout=WAIT_S) as client:
            return await use(client)

    return asyncio.run(main())


def subscribing(net: Localnet, use: Callable[[SolanaWsClient], Awaitable[Any]]) -> Any:
    """What `use` makes of solana-py's WebSocket."""

    async def main() -> Any:
        async with asyncio.timeout(WAIT_S), SolanaWsClient(net.ws_url, max_size=None) as client:
            return await use(client)

    return asyncio.run(main())


def post(net: Localnet, content: Any, **options: Any) -> httpx.Response:
    return httpx.post(net.http_url, content=content if isinstance(content, bytes) else json.dumps(content), timeout=options.pop("timeout", WAIT_S))


def call(net: Localnet, method: str, *params: Any) -> dict[str, Any]:
    answer = post(net, {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}).json()
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", 7)
    return answer


def refusal(net: Localnet, method: str, *params: Any) -> tuple[int, str]:
    error = call(net, method, *params)["error"]
    return error["code"], error["message"]


def a_wallet(net: Localnet, lamports: int = 10**10) -> Keypair:
    """Somebody with money, by an airdrop that is finalized."""
    wallet = Keypair()
    signature = call(net, "requestAirdrop", str(wallet.pubkey()), lamports)["result"]
    net.advance(3)
    assert net.ledger.find(signature) is not None
    net.settle()
    return wallet


def a_transfer(net: Localnet, wallet: Keypair, to: Pubkey, lamports: int = 10**9, blockhash: Hash | None = None) -> VersionedTransaction:
    recent = blockhash or Hash.from_string(call(net, "getLatestBlockhash")["result"]["value"]["blockhash"])
    instruction = transfer(TransferParams(from_pubkey=wallet.pubkey(), to_pubkey=to, lamports=lamports))
    return VersionedTransaction(MessageV0.try_compile(wallet.pubkey(), [instruction], [], recent), [wallet])


# Methods


def test_what_the_node_is_at(still):
    async def use(client: AsyncClient) -> None:
        ledger = still.ledger
        assert await client.is_connected()
        assert (await client.get_version()).value.solana_core
        assert (await client.get_genesis_hash()).value == Hash.from_string(ledger.schedule.genesis_hash())
        assert (await client.get_first_available_block()).value == (await client.get_minimum_ledger_slot()).value == 0
        for commitment, ours in zip((Processed, Confirmed, Finalized), Commitment, strict=True):
            tip = ledger.tip(ours)
            assert (await client.get_slot(commitment)).value == tip.slot
            assert (await client.get_block_height(commitment)).value == tip.height
            assert (await client.get_transaction_count(commitment)).value == tip.transactions_so_far
            epoch = (await client.get_epoch_info(commitment)).value
            assert (epoch.absolute_slot, epoch.block_height, epoch.epoch, epoch.slot_index) == (tip.slot, tip.height, 0, tip.slot)
            latest = await client.get_latest_blockhash(commitment)
            assert (str(latest.value.blockhash), latest.value.last_valid_block_height) == (tip.hash, tip.height + 150)
            assert latest.context.slot == tip.slot
        assert (await client.get_minimum_balance_for_rent_exemption(165)).value == 2_039_280

    asking(still, use)


def test_lists_of_blocks(still):
    present = [block.slot for block in still.ledger.blocks(0, still.ledger.tip(Commitment.FINALIZED).slot)]
    confirmed = [block.slot for block in still.ledger.blocks(0, still.ledger.tip(Commitment.CONFIRMED).slot)]

    async def use(client: AsyncClient) -> None:
        assert (await client.get_blocks(0)).value == present
        assert (await client.get_blocks(3, 9)).value == [slot for slot in present if 3 <= slot <= 9]
        assert (await client.get_block_time(A_SLOT)).value == still.ledger.schedule.time(A_SLOT)

    asking(still, use)
    assert call(still, "getBlocks", 0, None, {"commitment": "confirmed"})["result"] == confirmed
    assert call(still, "getBlocks", 0, {"commitment": "confirmed"})["result"] == confirmed
    assert call(still, "getBlocksWithLimit", 2, 4)["result"] == [slot for slot in present if slot >= 2][:4]
    assert refusal(still, "getBlocks", 0, 500_001) == (-32602, "Slot range too large; max 500000")
    assert refusal(still, "getBlocks", 0, 5, {"commitment": "processed"}) == (-32602, "Method does not support commitment below `confirmed`")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_blocks_and_transactions_in_every_encoding(still, encoding):
    async def use(client: AsyncClient) -> None:
        for block in still.ledger.blocks(0, 12):
            answer = (await client.get_block(block.slot, encoding=encoding, max_supported_transaction_version=0)).value
            assert (str(answer.blockhash), answer.parent_slot, answer.block_height) == (block.hash, block.parent, block.height)
            assert len(answer.transactions) == TRANSACTIONS
            assert answer.rewards is not None
        for signature in block.signatures:
            found = (await client.get_transaction(Signature.from_string(signature), encoding, max_supported_transaction_version=0)).value
            assert (found.slot, found.block_time) == (block.slot, block.time)
            if encoding.startswith("base"):
                assert str(found.transaction.transaction.signatures[0]) == signature
            else:
                assert str(found.transaction.transaction.signatures[0]) == signature
                assert found.transaction.transaction.message.account_keys

    asking(still, use)


@pytest.mark.parametrize("details", [TransactionDetails.Full, TransactionDetails.Accounts, TransactionDetails.Signatures, TransactionDetails.None_])
@pytest.mark.parametrize("rewards", [True, False])
def test_blocks_in_every_detail(still, details, rewards):
    block = still.ledger.block(A_SLOT)

    async def use(client: AsyncClient) -> Any:
        answer = await client.get_block(A_SLOT, transaction_details=details, rewards=rewards, max_supported_transaction_version=0)
        return answer.value

    answer = asking(still, use)
    assert (answer.rewards is not None) == rewards
    with_transactions = details in (TransactionDetails.Full, TransactionDetails.Accounts)
    assert (answer.transactions is not None) == with_transactions
    assert ([str(each) for each in answer.signatures or []] == block.signatures) == (details == TransactionDetails.Signatures)


def test_transactions_of_an_address_page_by_page(still):
    wallet = Pubkey.from_string(next(key for key, places in still.ledger.block(A_SLOT).mentions.items() if 0 in places and key != VOTE))

    async def use(client: AsyncClient) -> tuple[list[Any], list[Any]]:
        everything = (await client.get_signatures_for_address(wallet, commitment=Confirmed)).value
        paged: list[Any] = []
        while page := (
            await client.get_signatures_for_address(wallet, before=paged[-1].signature if paged else None, limit=3, commitment=Confirmed)
        ).value:
            paged += page
        middle = len(everything) // 2
        newer = (await client.get_signatures_for_address(wallet, until=everything[middle].signature, commitment=Confirmed)).value
        assert newer == everything[:middle]
        assert (await client.get_signatures_for_address(wallet)).value == everything[-len((await client.get_signatures_for_address(wallet)).value) :]
        assert (await client.get_signatures_for_address(wallet, before=Signature.default())).value == []
        return everything, paged

    everything, paged = asking(still, use)
    newest = still.ledger.tip(Commitment.CONFIRMED).slot
    expected = [block.signatures[at] for block in still.ledger.blocks(0, newest) for at in block.mentions.get(str(wallet), ())]
    assert [str(row.signature) for row in everything] == expected[::-1]
    assert paged == everything
    assert len(expected) > 3


def test_memos_are_listed_with_their_length(still):
    program = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
    memos = [row["memo"] for row in call(still, "getSignaturesForAddress", program, {"commitment": "confirmed"})["result"]]
    assert "[7] thanks!" in memos or any(memo and memo.startswith("[") for memo in memos)


def test_accounts_in_every_encoding(still):
    mint = next(key for key, account in still.ledger._accounts.items() if len(account.data) == 82)

    async def use(client: AsyncClient) -> None:
        ours = still.ledger.account(mint, Commitment.FINALIZED)
        for encoding in ("base64", "base58", "base64+zstd"):
            answer = (await client.get_account_info(mint, encoding=encoding)).value
            assert (answer.lamports, answer.owner, answer.data) == (ours.lamports, ours.owner, ours.data)
        nobody = Pubkey.new_unique()
        assert (await client.get_account_info(nobody)).value is None
        assert (await client.get_balance(nobody)).value == 0
        assert (await client.get_balance(mint)).value == ours.lamports
        assert [each and each.lamports for each in (await client.get_multiple_accounts([mint, nobody])).value] == [ours.lamports, None]

    asking(still, use)
    assert call(still, "getAccountInfo", str(mint), {"encoding": "jsonParsed"})["result"]["value"]["data"][1] == "base64"
    part = call(still, "getAccountInfo", str(mint), {"encoding": "base64", "dataSlice": {"offset": 0, "length": 0}})["result"]["value"]
    assert (part["data"], part["space"]) == (["", "base64"], 82)
    clock = call(still, "getAccountInfo", "SysvarC1ock11111111111111111111111111111111", {"encoding": "base64"})["result"]["value"]
    assert clock["owner"] == "Sysvar1111111111111111111111111111111111111"


def test_statuses_have_the_commitment_and_the_error(still):
    blocks = [still.ledger.tip(each) for each in Commitment]
    asked = [Signature.from_string(block.signatures[0]) for block in blocks] + [Signature.default()]

    async def use(client: AsyncClient) -> Any:
        return (await client.get_signature_statuses(asked)).value

    processed, confirmed, finalized, absent = asking(still, use)
    assert absent is None
    assert [each.slot for each in (processed, confirmed, finalized)] == [block.slot for block in blocks]
    assert [each.confirmations for each in (processed, confirmed, finalized)] == [0, 1, None]
    kinds = TransactionConfirmationStatus
    assert [each.confirmation_status for each in (processed, confirmed, finalized)] == [kinds.Processed, kinds.Confirmed, kinds.Finalized]
    failed = [(block, at) for block in still.ledger.blocks(0, 49) for at, error in enumerate(block.errors) if error is not None]
    block, at = failed[0]
    status = call(still, "getSignatureStatuses", [block.signatures[at]])["result"]["value"][0]
    assert status["err"] == status["status"]["Err"] == block.errors[at]


def test_requests_that_do_not_fit_are_refused_as_nodes_do(still):
    assert refusal(still, "getEverything") == (-32601, "Method not found")
    assert refusal(still, "getBlock")[0] == refusal(still, "getBlock", "five")[0] == refusal(still, "getBlock", A_SLOT, 4)[0] == -32602
    assert refusal(still, "getBlock", A_SLOT, {"commitment": "processed"})[0] == -32602
    assert refusal(still, "getBlock", A_SLOT, {"encoding": "xml"})[0] == refusal(still, "getSlot", {"commitment": "sure"})[0] == -32602
    assert refusal(still, "getBlock", A_SLOT)[0] == -32015
    assert refusal(still, "getBalance", "nobody")[0] == refusal(still, "getTransaction", "nothing")[0] == -32602
    assert refusal(still, "sendTransaction", "0OIl")[0] == refusal(still, "sendTransaction", "3yZe7d")[0] == -32602
    assert refusal(still, "getSlot", {"minContextSlot": 10_000})[0] == -32016
    assert post(still, b"{").json()["error"]["code"] == -32700
    assert post(still, {"id": 1}).json()["error"]["code"] == post(still, []).json()["error"]["code"] == -32600
    assert post(still, {"jsonrpc": "2.0", "id": 1, "method": "getSlot", "params": {"commitment": "processed"}}).json()["error"]["code"] == -32602


def test_a_batch_is_answered_in_order(still):
    batch = [{"jsonrpc": "2.0", "id": each, "method": method, "params": []} for each, method in enumerate(["getSlot", "nothing", "getHealth"])]
    first, second, third = post(still, batch).json()
    assert (first["id"], second["error"]["code"], third["result"]) == (0, -32601, "ok")
    assert httpx.get(f"{still.http_url}/health").text == "ok"


def test_both_ports_serve_both(still):
    other = still.ws_url.replace("ws://", "http://")
    assert httpx.post(other, json={"jsonrpc": "2.0", "id": 1, "method": "getHealth"}).json()["result"] == "ok"

    async def use() -> None:
        async with asyncio.timeout(WAIT_S), SolanaWsClient(still.http_url.replace("http://", "ws://")) as client:
            await client.unsubscribe(await client.slot_subscribe())

    asyncio.run(use())


# Slots without a block


def test_slots_without_a_block_are_told_apart(localnet):
    root, tip = (localnet.ledger.tip(each).slot for each in (Commitment.FINALIZED, Commitment.PROCESSED))
    absent = next(slot for slot in range(root) if localnet.ledger.block(slot) is None)
    whole = {"maxSupportedTransactionVersion": 0}
    assert refusal(localnet, "getBlock", absent, whole) == (-32007, f"Slot {absent} was skipped, or missing due to ledger jump to recent snapshot")
    localnet.faults.long_term_storage = True
    assert refusal(localnet, "getBlock", absent, whole) == (-32009, f"Slot {absent} was skipped, or missing in long-term storage")
    assert refusal(localnet, "getBlock", tip, whole) == (-32004, f"Block not available for slot {tip}")
    assert refusal(localnet, "getBlock", tip - 1, whole)[0] == -32004
    assert "result" in call(localnet, "getBlock", localnet.ledger.tip(Commitment.CONFIRMED).slot, {**whole, "commitment": "confirmed"})
    localnet.ledger.prune(8)
    first = localnet.ledger.first_available
    assert refusal(localnet, "getBlock", 3, whole) == (-32001, f"Block 3 cleaned up, does not exist on node. First available block: {first}")
    assert call(localnet, "getFirstAvailableBlock")["result"] == first
    assert call(localnet, "getBlocks", 0, 20)["result"][0] == first
    localnet.faults.unready_blocks = 1
    assert refusal(localnet, "getBlock", 10, whole) == (-32014, "Block status not yet available for slot 10")
    assert "result" in call(localnet, "getBlock", 10, whole)


def test_a_node_that_lags_answers_as_it_would_have(localnet):
    before = call(localnet, "getSlot", {"commitment": "processed"})["result"]
    newest = localnet.ledger.tip(Commitment.PROCESSED)
    localnet.faults.lag_blocks = 5
    behind = call(localnet, "getSlot", {"commitment": "processed"})["result"]
    assert behind < before
    error = call(localnet, "getHealth")["error"]
    assert (error["code"], error["data"]) == (-32005, {"numSlotsBehind": before - behind})
    assert call(localnet, "getSignatureStatuses", [newest.signatures[0]])["result"]["value"] == [None]
    localnet.faults.lag_blocks = 0
    assert call(localnet, "getHealth")["result"] == "ok"


# The project's own reader


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_rpc_source_reads_what_the_embedded_source_has(still, encoding):
    slots = SlotRange(0, SLOTS_PER_SEGMENT - 1)
    ours = list(EmbeddedSource(SEED, TRANSACTIONS, 100).read(slots))
    read = list(RpcSource(still.http_url, encoding=encoding).read(slots))
    assert [(record.slot, record.state, record.block_hash, record.parent_slot) for record in read] == [
        (record.slot, record.state, record.block_hash, record.parent_slot) for record in ours
    ]
    if encoding == "json":
        assert [record.payload for record in read] == [record.payload for record in ours]
    blocks = [[decode(record.slot, record.payload, Format.GET_BLOCK) for record in records if record.payload] for records in (ours, read)]
    rows = [normalise(each) for each in blocks]
    for table in schemas.NORMALISED:
        mine, theirs = (each[table.name].cast(table.arrow_schema()) for each in rows)
        assert mine.equals(theirs), table.name


def test_the_rpc_source_reads_past_the_tip_as_unknown(still):
    root = still.ledger.tip(Commitment.FINALIZED).slot
    states = RpcSource(still.http_url).states(SlotRange(root, root + 3))
    assert states == [SlotState.PRESENT, SlotState.UNKNOWN, SlotState.UNKNOWN, SlotState.UNKNOWN]
    # Accounts of the source begin afresh every 50 slots, those of a running chain do not: a lake must not mix the two.
    assert RpcSource(still.http_url).genesis_hash() != EmbeddedSource(SEED, TRANSACTIONS, 100).genesis_hash()


def test_the_rpc_source_comes_through_faults(localnet):
    localnet.faults.refuse_every, localnet.faults.retry_after_s = 3, 0
    localnet.faults.break_every = 7
    localnet.faults.unready_blocks = 2

    async def at_once(_: float) -> None:
        await asyncio.sleep(0)

    slots = SlotRange(0, 15)
    read = list(RpcSource(localnet.http_url, sleep=at_once).read(slots))
    assert [record.payload for record in read] == [record.payload for record in EmbeddedSource(SEED, TRANSACTIONS, 100).read(slots)]


# Sending


def test_a_signed_transfer_lands_is_confirmed_and_moves_the_balance(localnet):
    wallet, receiver = a_wallet(localnet), Pubkey.new_unique()
    sent = a_transfer(localnet, wallet, receiver)

    async def main() -> None:
        async with asyncio.timeout(WAIT_S), AsyncClient(localnet.http_url) as client, SolanaWsClient(localnet.ws_url) as socket:
            for commitment in (Processed, Confirmed):
                await socket.signature_subscribe(signature=sent.signatures[0], commitment=commitment)
            await socket.account_subscribe(pubkey=receiver, commitment=Processed, encoding="base64")
            assert (await client.simulate_transaction(sent)).value.err is None
            assert (await client.send_transaction(sent)).value == sent.signatures[0]
            assert (await client.get_signature_statuses([sent.signatures[0]])).value == [None]
            localnet.advance(1)
            notes = [await socket.recv(), await socket.recv()]
            assert {type(note).__name__ for note in notes} == {"SignatureNotification", "AccountNotification"}
            for note in notes:
                value = note.result.value
                assert getattr(value, "err", None) is None
                assert getattr(value, "lamports", 10**9) == 10**9
            assert (await client.get_balance(receiver, Processed)).value == 10**9
            assert (await client.get_balance(receiver, Confirmed)).value == 0
            localnet.advance(1)
            assert (await socket.recv()).result.value.err is None
            localnet.settle()
            status = (await client.get_signature_statuses([sent.signatures[0]])).value[0]
            assert (status.err, status.confirmation_status) == (None, TransactionConfirmationStatus.Finalized)
            assert (await client.get_balance(receiver)).value == 10**9
            assert (await client.get_balance(wallet.pubkey())).value == 9 * 10**9 - 5_000
            found = (await client.get_transaction(sent.signatures[0], "base64", max_supported_transaction_version=0)).value
            assert found.transaction.transaction == sent
            await socket.signature_subscribe(signature=sent.signatures[0])
            assert (await socket.recv()).result.value.err is None  # it was there already

    asyncio.run(main())


def test_what_cannot_land_is_refused_with_the_reason(localnet):
    wallet, receiver = a_wallet(localnet), Pubkey.new_unique()
    good = a_transfer(localnet, wallet, receiver)
    forged = VersionedTransaction.populate(good.message, [Keypair().sign_message(b"another message")])

    async def use(client: AsyncClient) -> None:
        async def code(transaction: VersionedTransaction) -> tuple[int, str]:
            with pytest.raises(RPCException):
                await client.send_transaction(transaction)
            return refusal(localnet, "sendTransaction", _base64(transaction), {"encoding": "base64"})

        assert await code(forged) == (-32003, "Transaction signature verification failure")
        failure = "Transaction simulation failed: Error processing Instruction 0: custom program error: 0x1"
        assert await code(a_transfer(localnet, wallet, receiver, 10**12)) == (-32002, failure)
        assert "Blockhash not found" in (await code(a_transfer(localnet, wallet, receiver, blockhash=Hash.new_unique())))[1]
        assert "no record of a prior credit" in (await code(a_transfer(localnet, Keypair(), receiver)))[1]
        await client.send_transaction(good)
        localnet.advance(1)
        assert "already been processed" in (await code(good))[1]
        # Without the preflight it is taken, and never lands.
        skipping = TxOpts(skip_preflight=True)
        for lost in (forged, a_transfer(localnet, wallet, receiver, blockhash=Hash.new_unique())):
            await client.send_transaction(lost, skipping)
        paid = a_transfer(localnet, wallet, receiver, 10**12)
        await client.send_transaction(paid, skipping)
        localnet.advance(2)
        assert localnet.ledger.find(str(paid.signatures[0])).error == {"InstructionError": [0, {"Custom": 1}]}
        assert localnet.ledger.find(str(lost.signatures[0])) is None

    asking(localnet, use)


# Subscriptions


def test_slots_roots_and_their_updates(localnet):
    async def use(client: SolanaWsClient) -> None:
        slots, roots = await client.slot_subscribe(), await client.root_subscribe()
        turns = localnet.advance(4)
        seen = [await client.recv() for _ in range(sum(len(turn.processed) + len(turn.finalized) for turn in turns))]
        of_slots = [note.result for note in seen if note.subscription == slots.subscription_id]
        of_roots = [note.result for note in seen if note.subscription == roots.subscription_id]
        assert [(each.slot, each.parent) for each in of_slots] == [(block.slot, block.parent) for turn in turns for block in turn.processed]
        assert of_roots == [block.slot for turn in turns for block in turn.finalized]
        assert of_slots[-1].root == of_roots[-1]
        for subscription in (slots, roots):
            await client.unsubscribe(subscription)
        updates = await client.slots_updates_subscribe()
        localnet.advance(1)
        kinds = [type((await client.recv()).result).__name__ for _ in range(4)]
        assert kinds == ["SlotUpdateCreatedBank", "SlotUpdateFrozen", "SlotUpdateOptimisticConfirmation", "SlotUpdateRoot"]
        await client.unsubscribe(updates)

    subscribing(localnet, use)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_blocks_are_pushed_in_every_encoding(localnet, encoding):
    async def use(client: SolanaWsClient) -> None:
        await client.block_subscribe(commitment=Confirmed, encoding=encoding, show_rewards=True, max_supported_transaction_version=0)
        confirmed = [block for turn in localnet.advance(2) for block in turn.confirmed]
        for block in confirmed:
            note = (await client.recv()).result
            assert (note.context.slot, note.value.slot, str(note.value.block.blockhash)) == (block.slot, block.slot, block.hash)
            assert len(note.value.block.transactions) == TRANSACTIONS

    subscribing(localnet, use)


@pytest.mark.parametrize("details", [TransactionDetails.Accounts, TransactionDetails.Signatures, TransactionDetails.None_])
def test_blocks_are_pushed_in_less_detail(localnet, details):
    async def use(client: SolanaWsClient) -> None:
        await client.block_subscribe(commitment=Finalized, encoding="json", transaction_details=details, max_supported_transaction_version=0)
        finalized = [block for turn in localnet.advance(2) for block in turn.finalized]
        for block in finalized:
            assert (await client.recv()).result.value.slot == block.slot

    subscribing(localnet, use)


def test_blocks_of_one_account_hold_only_its_transactions(localnet):
    wallet, receiver = a_wallet(localnet), Pubkey.new_unique()
    sent = a_transfer(localnet, wallet, receiver)

    async def use(client: SolanaWsClient) -> None:
        await client.block_subscribe(
            filter_=RpcBlockSubscribeFilterMentions(receiver), commitment=Confirmed, encoding="base64", max_supported_transaction_version=0
        )
        call(localnet, "sendTransaction", _base64(sent), {"encoding": "base64"})
        localnet.advance(4)
        note = (await client.recv()).result.value
        assert [each.transaction for each in note.block.transactions] == [sent]

    subscribing(localnet, use)


def test_a_client_of_legacy_transactions_is_told_that_it_cannot_read_a_block(localnet):
    async def use(client: SolanaWsClient) -> None:
        await client.block_subscribe(commitment=Confirmed, encoding="json")
        localnet.advance(1)
        value = (await client.recv()).result.value
        assert value.block is None
        assert value.err is not None

    subscribing(localnet, use)


def _base64(transaction: VersionedTransaction) -> str:
    return base64.b64encode(bytes(transaction)).decode()


def test_logs_of_all_with_votes_and_of_one_account(localnet):
    async def use(client: SolanaWsClient) -> None:
        everything = await client.logs_subscribe(filter_=RpcTransactionLogsFilter.AllWithVotes, commitment=Processed)
        no_votes = await client.logs_subscribe(filter_=RpcTransactionLogsFilter.All, commitment=Processed)
        votes = await client.logs_subscribe(filter_=RpcTransactionLogsFilterMentions(Pubkey.from_string(VOTE)), commitment=Processed)
        (turn,) = localnet.advance(1)
        (block,) = turn.processed
        counts = {everything.subscription_id: len(block.signatures), votes.subscription_id: len(block.mentions[VOTE])}
        counts[no_votes.subscription_id] = counts[everything.subscription_id] - counts[votes.subscription_id]
        seen = dict.fromkeys(counts, 0)
        for _ in range(sum(counts.values())):
            note = await client.recv()
            seen[note.subscription] += 1
            assert note.result.value.logs
        assert seen == counts
        for subscription in (everything, no_votes, votes):
            await client.unsubscribe(subscription)

    subscribing(localnet, use)


def test_a_subscription_that_does_not_fit_is_refused(localnet):
    async def use(client: SolanaWsClient) -> None:
        with pytest.raises(SolanaJsonRpcError):
            await client.block_subscribe(commitment=Processed)

    subscribing(localnet, use)
    assert refusal(localnet, "slotSubscribe")[0] == -32601  # it takes a WebSocket


# Forks


@pytest.mark.parametrize("replaced", [False, True])
def test_a_fork_is_announced_served_and_then_gone_with_its_content(localnet, replaced):
    wallet, receiver = a_wallet(localnet), Pubkey.new_unique()
    first = localnet.ledger.next_slot
    while any(localnet.ledger.schedule.is_skipped(slot) for slot in range(first, first + 3)):
        localnet.advance(1)
        first = localnet.ledger.next_slot
    localnet.plan.add(Fork(first, 2, replaced=replaced))
    sent = a_transfer(localnet, wallet, receiver)

    async def main() -> None:
        async with asyncio.timeout(WAIT_S), AsyncClient(localnet.http_url, Confirmed) as client, SolanaWsClient(localnet.ws_url) as socket:
            await socket.slot_subscribe()
            await client.send_transaction(sent)
            localnet.advance(2)
            notes = [(await socket.recv()).result for _ in range(2)]
            assert [note.slot for note in notes] == [first, first + 1]
            served = (await client.get_block(first, max_supported_transaction_version=0)).value
            assert (await client.get_transaction(sent.signatures[0], max_supported_transaction_version=0)).value.slot == first
            assert (await client.get_balance(receiver)).value == 10**9
            localnet.advance(1)
            again = [(await socket.recv()).result for _ in range(3 if replaced else 1)]
            assert [note.slot for note in again] == ([first, first + 1, first + 2] if replaced else [first + 2])
            assert again[0].parent == notes[0].parent
            assert (await client.get_transaction(sent.signatures[0], max_supported_transaction_version=0)).value is None
            assert (await client.get_signature_statuses([sent.signatures[0]])).value == [None]
            assert (await client.get_balance(receiver, Processed)).value == 0
            localnet.advance(2)
            if replaced:
                now = (await client.get_block(first, max_supported_transaction_version=0)).value
                assert now.blockhash != served.blockhash
            else:
                assert first not in call(localnet, "getBlocks", 0, first + 2, {"commitment": "confirmed"})["result"]
                assert refusal(localnet, "getBlock", first, {"commitment": "confirmed"})[0] == -32004
                localnet.settle()
                assert refusal(localnet, "getBlock", first)[0] == -32007

    asyncio.run(main())


# Faults of the transport


def slots_seen(net: Localnet, count: int, turns: int) -> tuple[list[int], list[int]]:
    """Slots of the first `count` notifications of `turns` slots, and the slots that had a block."""

    async def use(client: SolanaWsClient) -> tuple[list[int], list[int]]:
        await client.slot_subscribe()
        present = [block.slot for turn in net.advance(turns) for block in turn.processed]
        return [(await client.recv()).result.slot for _ in range(count)], present

    return subscribing(net, use)


def test_slot_notifications_are_duplicated(localnet):
    localnet.faults.duplicate_slots = 1
    seen, present = slots_seen(localnet, 6, 3)
    assert seen == [slot for slot in present for _ in range(2)]


def test_slot_notifications_overtake_one_another(localnet):
    localnet.faults.reorder_slots = 1
    seen, present = slots_seen(localnet, 4, 4)
    assert seen == [present[1], present[0], present[3], present[2]]


def test_slot_notifications_are_dropped(localnet):
    localnet.faults.drop_slots = 0.5
    seen, present = slots_seen(localnet, 5, 30)
    assert seen != present[:5]
    assert set(seen) < set(present)


def test_slot_notifications_are_late(localnet):
    async def use(client: SolanaWsClient) -> list[str]:
        await client.slot_subscribe()
        await client.root_subscribe()
        localnet.faults.delay_slots_ms = 50
        localnet.advance(1)
        return [type(await client.recv()).__name__ for _ in range(2)]

    assert subscribing(localnet, use) == ["RootNotification", "SlotNotification"]


def test_connections_are_dropped_and_may_come_again(localnet):
    async def use(client: SolanaWsClient) -> None:
        await client.slot_subscribe()
        localnet.drop_connections()
        with pytest.raises(ConnectionClosed):
            await client.recv()

    subscribing(localnet, use)
    assert slots_seen(localnet, 1, 2)[0]


def test_a_half_open_connection_says_nothing_at_all(localnet):
    async def use(client: SolanaWsClient) -> None:
        await client.slot_subscribe()
        localnet.faults.half_open = True
        localnet.advance(2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.recv(), 0.1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(await client._ws.ping(), 0.1)
        client._ws.transport.abort()

    subscribing(localnet, use)
    with pytest.raises(httpx.ReadTimeout):
        post(localnet, {"jsonrpc": "2.0", "id": 1, "method": "getHealth"}, timeout=0.1)


def test_requests_are_refused_broken_and_slowed(localnet):
    request = {"jsonrpc": "2.0", "id": 1, "method": "getHealth"}
    localnet.faults.refuse_next, localnet.faults.retry_after_s = 1, 3
    refused = post(localnet, request)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "3")
    assert post(localnet, request).status_code == 200
    localnet.faults.refuse_every, localnet.faults.retry_after_s = 2, None
    answers = [post(localnet, request) for _ in range(4)]
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
    assert not any("Retry-After" in answer.headers for answer in answers)
    localnet.faults.refuse_every, localnet.faults.break_every = 0, 1
    with pytest.raises(httpx.TransportError):
        post(localnet, request)
    localnet.faults.break_every, localnet.faults.slow_ms = 0, 200
    with pytest.raises(httpx.ReadTimeout):
        post(localnet, request, timeout=0.05)


# The clock, and the process


def test_the_clock_runs_until_the_horizon_and_everything_is_finalized():
    with running(Options(slot_ms=None, transactions_per_slot=1, horizon_slot=30)) as net:

        async def use(client: SolanaWsClient) -> int:
            await client.root_subscribe()
            net.resume()
            while (root := (await client.recv()).result) < 29:
                pass
            return root

        assert subscribing(net, use) == 29
        assert net.advance(5) == []


def test_a_chain_that_is_held_stands_still_until_it_is_resumed():
    with running(Options(slot_ms=1, transactions_per_slot=1)) as net:
        net.hold()
        at = net.ledger.next_slot
        assert call(net, "getHealth")["result"] == "ok"
        assert net.ledger.next_slot == at

        async def use(client: SolanaWsClient) -> int:
            await client.slot_subscribe()
            net.resume()
            return (await client.recv()).result.slot

        assert subscribing(net, use) >= at


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"cannot listen at 127.0.0.1:{port}"), running(Options(port=port)):
            pass


def test_a_plan_that_cannot_be_is_told_to_whoever_waits():
    plan = Plan()
    plan.add(Fork(3, 100))
    with running(Options(slot_ms=None, plan=plan, faults=Faults())) as net, pytest.raises(SettingError, match="a fork of 100 slots"):
        net.advance(5)


def test_a_chain_that_fails_by_the_clock_says_so_at_the_end():
    plan = Plan()
    plan.add(Fork(3, 100))

    def run() -> None:
        with running(Options(slot_ms=0, plan=plan)) as net:
            with pytest.raises(SettingError):
                net.finished()
            assert call(net, "getHealth")["result"] == "ok"

    with pytest.raises(SettingError, match="a fork of 100 slots from 3 on"):
        run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_and_ends_cleanly(number):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BLYAN_")}
    command = [sys.executable, "-W", "error", "-m", "blyan.cli", "localnet", "--port", "0", "--slot-ms", "20", "--transactions-per-slot", "2"]
    process = subprocess.Popen(
        command, env=clean | {"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        url = lines[2].split()[3].rstrip(",")
        assert httpx.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "getHealth"}).json()["result"] == "ok"
        process.send_signal(number)
        out, errors = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (0, "")
    assert "20 ms a slot, 2 transactions a slot, seed 1" in lines[0]
    assert "stopped at slot" in out
