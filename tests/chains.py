"""Small networks of chains for tests, and hands that damage them.

Belongs here: making chains quickly, and writing rows that no honest writer writes. Does not belong here: expectations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from blyan.chain.block import SIGNED_AS, Block, Ref, make_block
from blyan.chain.canonical import encode
from blyan.chain.governance import genesis_payload
from blyan.chain.rules import Row
from blyan.chain.store import TABLES, Chains, Offered
from blyan.ed25519 import SigningKey
from blyan.lake import Lake

START_NS = 1_700_000_000 * 10**9
KEYS = [SigningKey(bytes([number]) * 32) for number in range(1, 8)]
KEY = KEYS[0]
VOTERS = KEYS[:4]
PUBLIC = sorted(key.public.hex() for key in VOTERS)


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def genesis(name: str = "test") -> bytes:
    keys = sorted(key.public.hex() for key in KEYS[4:7])
    return genesis_payload(
        name, "We keep what we wrote.", {"voting_keys": list(PUBLIC), "checkpoint": {"keys": list(keys), "threshold": 2}, "tile_bytes": 4096}
    )


def founded(folder: Path, name: str = "test", *, clock: Clock | None = None) -> Chains:
    chains = Chains(Lake(str(folder)), clock=clock or Clock())
    chains.found(KEY, genesis(name))
    return chains


def extended(chains: Chains, chain: str, count: int, *, depends_on: Sequence[Ref] = (), payload: bytes = b"payload", **more: Any) -> list[Block]:
    """Append blocks in one version, each with a payload of its own, or all without one where that is empty."""
    progress = chains.progress(chain)
    offered = []
    for _ in range(count):
        data = payload and payload + b" %d of " % progress.size + chain.encode()
        block = make_block(
            KEY,
            network=chains.network,
            chain=chain,
            height=progress.size,
            previous=progress.head,
            kind=more.get("kind", "dataset"),
            payload_sha256=hashlib.sha256(data).hexdigest(),
            payload_size=len(data),
            time_ns=chains.clock(),
            depends_on=depends_on,
            metadata=more.get("metadata"),
        )
        offered.append(Offered(block, data))
        progress.size, progress.head = progress.size + 1, block.hash
    chains.append(chain, offered)
    return [item.block for item in offered]


def signed_again(block: Block, key: SigningKey = KEY, **changes: Any) -> Block:
    """A block with some fields changed, however wrong, and a signature that holds: what a dishonest producer writes."""
    header = msgspec.structs.replace(block.header, **changes)
    raw = encode(header)
    return Block(raw, key.sign(SIGNED_AS + hashlib.sha256(raw).digest()).hex(), header)


def rewrite(chains: Chains, chain: str, changes: dict[int, Row | None]) -> None:
    """Put other rows in the place of stored ones, as somebody with access to the store can; None takes one away."""
    rows = [changes.get(row.height, row) for row in chains.rows(chain)]
    kept = [row for row in rows if row is not None]
    table = TABLES[chain]
    columns = [
        [row.height for row in kept],
        [row.hash for row in kept],
        [row.header.decode("utf-8", "replace") for row in kept],
        [row.signature for row in kept],
    ]
    from deltalake import write_deltalake

    names = table.arrow_schema().names
    write_deltalake(
        chains.lake.store.uri(table.name),
        pa.table(dict(zip(names, columns, strict=True)), schema=table.arrow_schema()),
        mode="overwrite",
    )
    chains._seen.clear()
    chains._places.clear()


def row_of(block: Block, **changes: Any) -> Row:
    return Row(block.header.height, block.hash, block.raw, block.signature)._replace(**changes)
