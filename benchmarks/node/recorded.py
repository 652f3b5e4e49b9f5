"""A node that gives one recorded block at every slot, under hashes that link: mainnet's traffic at any pace, for little work.

    python benchmarks/node/recorded.py [--input FILE] [--slot-ms 400] [--transactions-per-slot N]

Belongs here: the chain, and as much of JSON-RPC over HTTP and WebSocket as a follower asks for. Does not belong here: measuring
(the scripts beside this folder), or a node for anything else (`blyan localnet`). A slot is announced when it begins, confirmed
when the next one does, and final 31 blocks later. Every twentieth slot is skipped. The method `jump` lets slots pass at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

BLOCKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "solana" / "blocks"
FINALITY = 31
SKIPPED_OF = 20


def main() -> None:
    """Serve until told to end."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--input", type=Path, help="a recorded block with encoding json")
    arguments.add_argument("--slot-ms", type=float, default=400.0)
    arguments.add_argument("--transactions-per-slot", type=int, help="take so many of the block's; all of them by default")
    given = arguments.parse_args()
    chain = RecordedChain(recording(given.input), transactions=given.transactions_per_slot)
    asyncio.run(serve(chain, given.slot_ms / 1e3))


def recording(given: Path | None) -> Path:
    """The file to read: a complete modern mainnet block by default."""
    path = given or next(iter(BLOCKS.glob("332254855-json-*")), None)
    if path is None:
        sys.exit(f"no recorded blocks in {BLOCKS}: give one with --input")
    return path


class RecordedChain:
    """One block at every slot that is not skipped.

    Attributes:
        transactions: in each block.
        rest: what follows a block's place in the chain, of which it holds nothing.
    """

    def __init__(self, path: Path, *, transactions: int | None = None, skips: bool = True) -> None:
        """Read the block, and cut it where its place in the chain stands."""
        from blyan.solana.header import split

        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        block = json.loads(next(iter(split(data))).data)
        block["transactions"] = block["transactions"][:transactions]
        place = {"blockhash": "@", "previousBlockhash": "@", "parentSlot": 0}
        text = json.dumps(place | {key: block[key] for key in block if key not in place}, separators=(",", ":"), ensure_ascii=False).encode()
        self.rest = text.partition(b'"parentSlot":0')[2]
        self.transactions, self._skips = len(block["transactions"]), skips

    def has(self, slot: int) -> bool:
        """Whether the slot has a block."""
        return not (self._skips and slot % SKIPPED_OF == SKIPPED_OF - 1)

    def link(self, slot: int) -> tuple[str, int, str]:
        """The slot's block hash, its parent's slot and that one's hash."""
        parent = max(slot - 1, 0)
        parent -= not self.has(parent)
        return _hash(slot + 1), parent, _hash(parent + 1 if slot else 0)

    def place(self, slot: int) -> bytes:
        """What precedes `rest`."""
        block_hash, parent, parent_hash = self.link(slot)
        return b'{"blockhash":"%s","previousBlockhash":"%s","parentSlot":%d' % (block_hash.encode(), parent_hash.encode(), parent)

    def listed(self, first: int, last: int) -> list[int]:
        """The slots with a block."""
        return [slot for slot in range(first, last + 1) if self.has(slot)]


def _hash(number: int) -> str:
    return f"{number:1>44}".replace("0", "z")


class Node:
    """The chain by the clock, from now on."""

    def __init__(self, chain: RecordedChain, slot_s: float) -> None:
        self._chain, self._slot_s = chain, slot_s
        self._jumped, self._began = 2 * FINALITY, time.monotonic()

    def _now(self) -> int:
        return self._jumped + int((time.monotonic() - self._began) / self._slot_s)

    def _tip(self, commitment: str) -> int:
        slot = self._now() - {"processed": 0, "confirmed": 1, "finalized": FINALITY + 1}[commitment]
        return slot if self._chain.has(slot) else slot - 1

    def _result(self, method: str, given: list[Any], commitment: str) -> object:
        match method:
            case "getGenesisHash":
                return _hash(0)
            case "getFirstAvailableBlock":
                return 0
            case "getSlot":
                return self._tip(commitment)
            case "getBlocks":
                return self._chain.listed(given[0], min(given[1], self._tip(commitment)))
            case "jump":
                self._jumped += given[0]
                return self._now()
        raise LookupError(method)

    async def answer(self, request: Any) -> Any:
        """One call over HTTP."""
        from aiohttp import web

        call = await request.json()
        method, given = call["method"], call.get("params", [])
        options: dict[str, Any] = next((each for each in given if isinstance(each, dict)), {})
        commitment = options.get("commitment", "finalized")
        if method == "getBlock":
            if given[0] > self._tip(commitment) or not self._chain.has(given[0]):
                return web.json_response({"jsonrpc": "2.0", "error": {"code": -32004, "message": "Block not available"}, "id": call["id"]})
            whole = options.get("transactionDetails", "full") == "full"
            return await _send(request, call["id"], self._chain.place(given[0]), self._chain.rest if whole else b',"blockTime":1700000000}')
        return web.json_response({"jsonrpc": "2.0", "result": self._result(method, given, commitment), "id": call["id"]})

    async def announce(self, request: Any) -> Any:
        """The slots, over a WebSocket."""
        from aiohttp import web

        socket = web.WebSocketResponse()
        await socket.prepare(request)
        subscribed = await socket.receive_json()
        await socket.send_json({"jsonrpc": "2.0", "result": 1, "id": subscribed["id"]})
        while not socket.closed:
            due = self._began + (int((time.monotonic() - self._began) / self._slot_s) + 1) * self._slot_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            slot = self._now()
            if self._chain.has(slot):
                notice = {"slot": slot, "parent": self._chain.link(slot)[1], "root": self._tip("finalized")}
                await socket.send_json({"jsonrpc": "2.0", "method": "slotNotification", "params": {"result": notice, "subscription": 1}})
        return socket


async def serve(chain: RecordedChain, slot_s: float) -> None:
    """Serve until told to end; the first line printed says where."""
    from aiohttp import web

    node, application = Node(chain, slot_s), web.Application()
    application.router.add_post("/", node.answer)
    application.router.add_get("/", node.announce)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    print(f"recorded chain: RPC at http://127.0.0.1:{port}, WebSocket at ws://127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


async def _send(request: Any, number: object, place: bytes, rest: bytes) -> Any:
    from aiohttp import web

    before, after = b'{"jsonrpc":"2.0","result":', b',"id":%s}' % json.dumps(number).encode()
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = sum(map(len, (before, place, rest, after)))
    await response.prepare(request)
    for part in (before + place, rest, after):
        await response.write(part)
    return response


if __name__ == "__main__":
    main()
