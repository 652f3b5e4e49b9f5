"""What clients rely on of any Solana node, held against the localnet and against Surfpool, which others wrote.

A test that only the localnet can pass belongs in `test_localnet.py`: in Surfpool 1.5.0 a block can name its own slot as its
parent's, and another hash than its parent has, and heights can jump, so how blocks hang together is no part of this.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.websocket_api import SolanaWsClient
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.rpc.config import RpcTransactionLogsFilterMentions
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from blyan import schemas
from blyan.solana import base58
from blyan.solana.decode import decode
from blyan.solana.localnet.server import Options, running
from blyan.solana.normalise import normalise
from blyan.solana.sources import Format
from tests.surfpool import surfpool, why_not

WAIT_S = 120.0
SOL = 10**9


@dataclass(frozen=True)
class Node:
    http_url: str
    ws_url: str

    def use(self, work: Callable[[AsyncClient, SolanaWsClient], Awaitable[Any]]) -> Any:
        """What `work` makes of solana-py's two clients."""

        async def main() -> Any:
            async with (
                asyncio.timeout(WAIT_S),
                AsyncClient(self.http_url, Confirmed, timeout=WAIT_S) as client,
                SolanaWsClient(self.ws_url) as socket,
            ):
                return await work(client, socket)

        return asyncio.run(main())

    def call(self, method: str, *params: Any) -> Any:
        """The response, as JSON."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        return httpx.post(self.http_url, json=request, timeout=WAIT_S).json()

    def refusal(self, method: str, *params: Any) -> int:
        return self.call(method, *params)["error"]["code"]


@pytest.fixture(scope="module", params=["localnet", "surfpool"])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    if request.param == "localnet":
        with running(Options(slot_ms=50, transactions_per_slot=2)) as net:
            yield Node(net.http_url, net.ws_url)
    elif (reason := why_not()) is not None:
        pytest.skip(reason)
    else:
        with surfpool() as (http_url, ws_url):
            yield Node(http_url, ws_url)


async def until(answer: Callable[[], Awaitable[Any]], good: Callable[[Any], bool]) -> Any:
    """Ask until the answer is good; whoever calls bounds the wait."""
    while not good(value := await answer()):
        await asyncio.sleep(0.02)
    return value


async def landed(client: AsyncClient, signature: Signature) -> Any:
    """The status of a transaction, once it is confirmed."""

    async def status() -> Any:
        return (await client.get_signature_statuses([signature])).value[0]

    return await until(status, lambda found: found is not None and int(found.confirmation_status or 0) >= 1)


async def a_wallet(client: AsyncClient) -> Keypair:
    wallet = Keypair()
    await landed(client, (await client.request_airdrop(wallet.pubkey(), 10 * SOL)).value)
    return wallet


async def a_transfer(client: AsyncClient, wallet: Keypair, to: Pubkey, lamports: int) -> VersionedTransaction:
    # Finalized, because the preflight is at that commitment unless it is told otherwise.
    recent = (await client.get_latest_blockhash(Finalized)).value.blockhash
    instruction = transfer(TransferParams(from_pubkey=wallet.pubkey(), to_pubkey=to, lamports=lamports))
    return VersionedTransaction(MessageV0.try_compile(wallet.pubkey(), [instruction], [], recent), [wallet])


def test_a_node_says_what_it_is_at(node):
    async def work(client: AsyncClient, _: SolanaWsClient) -> None:
        assert await client.is_connected()
        assert (await client.get_version()).value.solana_core
        assert (await client.get_genesis_hash()).value == (await client.get_genesis_hash()).value
        first = (await client.get_first_available_block()).value
        slots = [(await client.get_slot(each)).value for each in (Finalized, Confirmed, Processed)]
        assert slots == sorted(slots)
        assert first <= slots[1]
        info = (await client.get_epoch_info()).value
        assert info.absolute_slot == info.epoch * info.slots_in_epoch + info.slot_index or info.slot_index < info.slots_in_epoch
        assert info.block_height <= info.absolute_slot
        latest = await client.get_latest_blockhash()
        assert latest.value.last_valid_block_height > info.block_height
        assert (await client.get_minimum_balance_for_rent_exemption(0)).value == 890_880

    node.use(work)


def test_slots_are_announced_in_order_and_then_no_more(node):
    async def work(_: AsyncClient, socket: SolanaWsClient) -> None:
        subscription = await socket.slot_subscribe()
        seen = [(await socket.recv()).result for _ in range(4)]
        assert [each.slot for each in seen] == sorted({each.slot for each in seen})
        assert all(each.root <= each.parent < each.slot for each in seen)
        await socket.unsubscribe(subscription)

    node.use(work)


def test_listed_blocks_can_be_had(node):
    async def work(client: AsyncClient, _: SolanaWsClient) -> None:
        await a_wallet(client)

        async def finalized() -> list[int]:
            # Not every node leaves out of its list what is not finalized.
            return (await client.get_blocks(0, (await client.get_slot(Finalized)).value)).value

        slots = (await until(finalized, lambda slots: len(slots) > 3))[-4:]
        blocks = [(await client.get_block(slot, max_supported_transaction_version=0, commitment=Finalized)).value for slot in slots]
        heights = [block.block_height for block in blocks]
        assert heights == sorted(set(heights))
        assert len({block.blockhash for block in blocks}) == len(blocks)

    node.use(work)


def test_a_transfer_lands_and_everyone_is_told(node):
    async def work(client: AsyncClient, socket: SolanaWsClient) -> None:
        wallet, receiver = await a_wallet(client), Pubkey.new_unique()
        sent = await a_transfer(client, wallet, receiver, 3 * SOL)
        signature = sent.signatures[0]
        kinds = {
            (await socket.signature_subscribe(signature=signature, commitment=Confirmed)).subscription_id: "signature",
            (await socket.account_subscribe(pubkey=receiver, commitment=Confirmed, encoding="base64")).subscription_id: "account",
            (await socket.logs_subscribe(filter_=RpcTransactionLogsFilterMentions(receiver), commitment=Confirmed)).subscription_id: "logs",
        }
        assert (await client.send_transaction(sent)).value == signature
        told: dict[str, Any] = {}
        while len(told) < len(kinds):
            note = await socket.recv()
            told.setdefault(kinds[note.subscription], note.result.value)
        assert told["signature"].err is None
        assert told["account"].lamports == 3 * SOL
        assert told["logs"].signature == signature
        assert told["logs"].logs == ["Program 11111111111111111111111111111111 invoke [1]", "Program 11111111111111111111111111111111 success"]
        status = await landed(client, signature)
        assert status.err is None
        assert (await client.get_balance(receiver)).value == 3 * SOL
        assert (await client.get_balance(wallet.pubkey())).value == 7 * SOL - 5_000
        assert (await client.get_account_info(receiver)).value.lamports == 3 * SOL
        found = (await client.get_transaction(signature, "json", max_supported_transaction_version=0)).value
        assert found.slot == status.slot
        meta = found.transaction.meta
        assert (meta.err, meta.fee, meta.pre_balances[:2], meta.post_balances[:2]) == (None, 5_000, [10 * SOL, 0], [7 * SOL - 5_000, 3 * SOL])
        assert [row.signature for row in (await client.get_signatures_for_address(receiver)).value] == [signature]

    node.use(work)


def test_what_cannot_be_is_refused(node):
    assert node.refusal("getEverything") == -32601
    assert node.refusal("getBalance", "nobody") == -32602
    assert node.refusal("getBalance") == -32602

    async def work(client: AsyncClient, _: SolanaWsClient) -> tuple[str, str]:
        poor = await a_transfer(client, Keypair(), Pubkey.new_unique(), SOL)
        overdrawn = await a_transfer(client, await a_wallet(client), Pubkey.new_unique(), 100 * SOL)
        return base58.encode(bytes(poor)), base58.encode(bytes(overdrawn))

    for transaction in node.use(work):
        assert node.refusal("sendTransaction", transaction) == -32002


@pytest.mark.parametrize("encoding", ["json", "jsonParsed", "base64"])
def test_a_transfer_becomes_rows(node, encoding):
    async def work(client: AsyncClient, _: SolanaWsClient) -> tuple[Any, int, Pubkey]:
        wallet, receiver = await a_wallet(client), Pubkey.new_unique()
        signature = (await client.send_transaction(await a_transfer(client, wallet, receiver, 2 * SOL))).value
        slot = (await landed(client, signature)).slot
        await until(lambda: client.get_slot(Finalized), lambda answer: answer.value >= slot)
        return signature, slot, receiver

    signature, slot, receiver = node.use(work)
    options = {"encoding": encoding, "transactionDetails": "full", "rewards": True, "maxSupportedTransactionVersion": 0}
    result = node.call("getBlock", slot, options)["result"]
    block = decode(slot, json.dumps(result).encode(), Format.GET_BLOCK)
    rows = normalise([block])
    assert block.bad == []
    assert str(signature) in rows[schemas.TRANSACTIONS.name].column("signature").to_pylist()
    moved = [row for row in rows[schemas.BALANCE_CHANGES.name].to_pylist() if row["account"] == str(receiver)]
    assert [(row["before"], row["after"]) for row in moved] == [(0, 2 * SOL)]
