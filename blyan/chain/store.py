"""Chains in a lake: founding, appending, reading.

Belongs here: the tables, and the one way in which a block gets into them. Does not belong here: what a block must be (`blyan.chain.rules`),
looking at whole chains (`blyan.chain.verify`), other nodes (`blyan.chain.sync`).

The headers of a chain are one Delta table. A block is in the chain when its row is in a version of the table; its payload is durable before
that. Rows are only ever added, and a version that adds height h is written only on one that has no h, so two writers never fork a chain: one
is first, and the other is told so. A killed writer leaves a version or none, and at worst a payload and a file that nobody names.

What an append costs does not depend on the length of the chain: Delta writes a checkpoint of its log every `CHECKPOINTS` versions and keeps
no older log, files that were replaced are forgotten at once and deleted two days later, and small files are joined (`FOLDS`).
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from blyan.chain import governance
from blyan.chain.block import CHAINS, GENESIS, Block, Header, InvalidBlockError, Ref, make_block, read_header
from blyan.chain.canonical import Json
from blyan.chain.payloads import ABSENT, Payloads
from blyan.chain.rules import Lookup, Place, Progress, Row, check_rules_payload, check_signature, place_of, readable_place
from blyan.ed25519 import SigningKey
from blyan.errors import CommitConflictError, MissingObjectError, PermanentError, TransientError
from blyan.lake import STAGED_HOURS, Lake
from blyan.schemas import Column, Table
from blyan.store import Store

CHECKPOINTS = 32
"""Versions of a table's log between two checkpoints of it."""

FOLDS = ((4_096, 4 << 20), (64, 256 << 10))
"""Every so many blocks, files smaller than so many bytes are joined up to that size. So a row is written about four times in all, and a chain of
100,000 blocks is in some 70 files, most of them of its last 64 blocks."""

WINDOW = 8_192
"""Blocks that are read at once."""

PLACES = 1_024
KNOWN_PLACES = 64
"""Blocks that are looked up together for those that depend on them, and how many times as many are remembered. A block never moves."""

TRIES = 30
"""Times a block is made again because another writer was first."""

# Readers open the newest version, which takes them far less than a minute; nothing reads older ones.
_PROPERTIES = (
    ("delta.checkpointInterval", str(CHECKPOINTS)),
    ("delta.logRetentionDuration", "interval 1 minutes"),
    ("delta.deletedFileRetentionDuration", "interval 0 seconds"),
)


def _table(chain: str) -> Table:
    return Table(
        f"chain/{chain.lower()}",
        f"Headers of chain {chain}, one row a block. docs/chain.md has the format.",
        (
            Column("height", pa.int64(), "Blocks of the chain before this one.", nullable=False),
            Column("block_hash", pa.string(), "SHA-256 of the header, hex.", nullable=False),
            Column("header", pa.string(), "The header, canonical JSON.", nullable=False),
            Column("signature", pa.string(), "Ed25519 signature of the producer, hex.", nullable=False),
        ),
        ("height",),
        partition_by=(),
        properties=_PROPERTIES,
    )


TABLES = {chain: _table(chain) for chain in CHAINS}


@dataclass(frozen=True)
class Offered:
    """A block to append, and its payload: bytes, a file, a function that fetches it if need be, or None where it is in the store already."""

    block: Block
    payload: bytes | Path | Callable[[], bytes] | None = None

    @property
    def row(self) -> Row:
        """As it is kept."""
        return Row(self.block.header.height, self.block.hash, self.block.raw, self.block.signature)


class Chains:
    """The chains of one network in a lake.

    Reading looks at the newest version. Appending remembers the last block that it saw: a chain only grows, so what was seen stays, and whether
    it is still the last one shows when the version is written. So an append opens the table once.

    Args:
        lake: where they are.
        cold: where pruned payloads went.
        clock: nanoseconds since 1970.
    """

    def __init__(self, lake: Lake, *, cold: Store | None = None, clock: Callable[[], int] = time.time_ns) -> None:
        self.lake, self.clock = lake, clock
        self.payloads = Payloads(lake.store, cold)
        self._network: str | None = None
        self._seen: dict[str, Progress] = {}
        self._places: OrderedDict[tuple[str, int], dict[int, Place]] = OrderedDict()

    # Reading

    @property
    def network(self) -> str:
        """The id of the network: SHA-256 of the payload of its genesis block.

        Raises:
            MissingObjectError: there is no network in this lake.
        """
        if self._network is None:
            if not self.size("A"):
                where = self.lake.store.uri(TABLES["A"].name)
                raise MissingObjectError("there is no network here", where=where, remedy="`blyan chain found`, or sync from a node that has one")
            self._network = self.block("A", 0).header.network
        return self._network

    def size(self, chain: str) -> int:
        """Blocks of a chain; 0 where there is none. Reads no data."""
        return max((file.slot_max + 1 for file in self.lake.files(_of(chain)) if file.slot_max is not None), default=0)

    def rows(self, chain: str, first: int = 0, end: int | None = None) -> Iterator[Row]:
        """Blocks by height, `end` left out, as they are kept: nothing is checked, what is missing is left out, and what is there twice comes twice."""
        end = self.size(chain) if end is None else end
        table = _of(chain)
        for start in range(first, end, WINDOW):
            batches = list(self.lake.read(table, first_slot=start, last_slot=min(start + WINDOW, end) - 1))
            if batches:
                rows = pa.Table.from_batches(batches).sort_by("height")
                raw = rows["header"].cast(pa.binary()).to_pylist()
                yield from map(Row, rows["height"].to_pylist(), rows["block_hash"].to_pylist(), raw, rows["signature"].to_pylist())

    def row(self, chain: str, height: int) -> Row:
        """One block.

        Raises:
            MissingObjectError: there is none at that height.
        """
        row = next(self.rows(chain, height, height + 1), None) if height >= 0 and self.lake.exists(_of(chain)) else None
        if row is None:
            remedy = f"choose a height below {self.size(chain)}, or sync"
            raise MissingObjectError(f"chain {chain} has no block {height}", where=self.lake.store.uri(_of(chain).name), remedy=remedy)
        return row

    def block(self, chain: str, height: int) -> Block:
        """One block, read; its signature is not checked.

        Raises:
            MissingObjectError: there is none at that height.
            InvalidBlockError: what is stored is none.
        """
        row = self.row(chain, height)
        return Block(row.header, row.signature, read_header(row.header))

    def place(self, chain: str, height: int) -> Place | None:
        """What a block that depends on another needs to know of it; None where there is none."""
        first = height - height % PLACES
        known = self._places.pop((chain, first), {})
        if height not in known and len(known) < PLACES and height < self.size(chain):
            known = {row.height: place for row in self.rows(chain, first, first + PLACES) if (place := readable_place(row)) is not None}
        self._places[chain, first] = known
        while len(self._places) > KNOWN_PLACES:
            self._places.popitem(last=False)
        return known.get(height)

    def progress(self, chain: str) -> Progress:
        """Where a chain is now: the next block is checked against it."""
        network = None if chain == "A" and not self.size("A") else self.network
        size = self.size(chain)
        if not size:
            return Progress(chain, network)
        last = place_of(self.row(chain, size - 1))
        return Progress(chain, network, size, last.hash, last.time_ns)

    def governance(self) -> governance.Governance:
        """The parameters of the network, by every block of A."""
        found = governance.Governance()
        for row in self.rows("A"):
            header = read_header(row.header)
            found.apply(header, self.payloads.get(header.payload_sha256) if header.kind in governance.KINDS else b"")
        return found

    # Appending

    def found(self, key: SigningKey, payload: bytes) -> dict[str, Block]:
        """Begin a network: the genesis block of A, and those of B and D, which depend on it. Again it changes nothing.

        Args:
            key: of who founds it.
            payload: `governance.genesis_payload`.

        Raises:
            PermanentError: another network is in this lake.
        """
        genesis = self.block("A", 0) if self.size("A") else self.write(key, "A", GENESIS, payload)
        if self.payloads.get(genesis.header.payload_sha256) != payload:
            what = f"network {genesis.header.network[:12]} is in this lake already"
            raise PermanentError(what, where=self.lake.root, remedy="one lake has one network: use another lake")
        return {"A": genesis} | {
            chain: self.block(chain, 0) if self.size(chain) else self.write(key, chain, GENESIS, depends_on=[genesis.ref]) for chain in CHAINS[1:]
        }

    def write(
        self,
        key: SigningKey,
        chain: str,
        kind: str,
        payload: bytes | Path = b"",
        *,
        depends_on: Sequence[Ref] = (),
        semver: str | None = None,
        metadata: dict[str, Json] | None = None,
    ) -> Block:
        """Make a block on whatever is the newest one, and append it. Where another writer is first, it is made again on that one's.

        Raises:
            InvalidBlockError: it breaks a rule.
            CommitConflictError: other writers were first, every time.
            StoreFullError: no space; it is not in the chain.
        """
        digest, size = self.payloads.put(payload)
        for tries in range(TRIES):
            progress = self._last_seen(chain)
            block = make_block(
                key,
                network=progress.network or digest,
                chain=chain,
                height=progress.size,
                previous=progress.head,
                kind=kind,
                payload_sha256=digest,
                payload_size=size,
                time_ns=max(self.clock(), progress.time_ns, *self._times(depends_on)),
                depends_on=depends_on,
                semver=semver,
                metadata=metadata,
            )
            with contextlib.suppress(CommitConflictError):
                self.append(chain, [Offered(block)])
                return block
            time.sleep(random.uniform(0, min(0.02 * 2**tries, 0.5)))  # noqa: S311
        raise CommitConflictError(
            f"other writers were first {TRIES} times", where=f"chain {chain}", remedy="run it again, with fewer writers at once"
        )

    def append(self, chain: str, offered: Sequence[Offered]) -> int:
        """Append blocks, in one version: all of them, or none. Those that are there already are left out; how many were new.

        Raises:
            InvalidBlockError: one of them breaks a rule or does not fit.
            CommitConflictError: the chain has another block at one of these heights.
            StoreFullError: no space; none is in the chain.
        """
        new, error = self.fitting(chain, offered)
        if error is not None:
            raise error
        return self.commit(chain, [item.row for item in new])

    def fitting(self, chain: str, offered: Sequence[Offered], *, network: str | None = None) -> tuple[list[Offered], InvalidBlockError | None]:
        """Which of some blocks are new and fit, up to the first that does not, and why that does not. Payloads of those that fit are kept.

        Args:
            chain: `A`, `B` or `D`.
            offered: by height, without a gap.
            network: that a genesis block of A must be of, where there is none yet; None where any is welcome.

        Raises:
            CommitConflictError: the chain has another block at one of these heights.
        """
        progress = self._last_seen(chain)
        if offered and offered[0].block.header.height != progress.size:
            progress = self.progress(chain)
        new = self._without_known(chain, [item.row for item in offered], progress.size)
        pending = [item for item in offered if item.block.header.height in new]
        progress.network = progress.network or network
        here: dict[int, Place] = {}

        def lookup(where: str, height: int) -> Place | None:
            return here[height] if where == chain and height in here else self.place(where, height)

        for at, item in enumerate(pending):
            try:
                header = progress.take(item.row, lookup, self.clock())
                check_signature(header, item.row)
                self._keep_payload(item, lookup)
            except InvalidBlockError as error:
                where = f"{chain}:{item.block.header.height}"
                located = type(error)(error.reason, field=error.field, where=where, remedy=error.remedy)
                return self._durable(pending[:at]), located
            here[header.height] = Place(item.block.hash, int(header.time_ns), header.kind)
        return self._durable(pending), None

    def commit(self, chain: str, rows: Sequence[Row]) -> int:
        """Add rows that were checked, in one version; those that are there already are left out. How many were new.

        Raises:
            CommitConflictError: the chain has another block at one of these heights.
        """
        if not rows:
            return 0
        table = _of(chain)
        columns = {
            "height": [row.height for row in rows],
            "block_hash": [row.hash for row in rows],
            "header": [row.header.decode() for row in rows],
            "signature": [row.signature for row in rows],
        }
        seen = self._seen.pop(chain, None)
        try:
            done = self.lake.append(table, pa.table(columns, schema=table.arrow_schema()), logical_key=["height"])
        except PermanentError:
            self._without_known(chain, rows, self.size(chain))  # says so where another writer was first
            raise
        last = place_of(rows[-1])
        network = seen.network if seen is not None else None
        self._seen[chain] = Progress(chain, network or self.network, rows[-1].height + 1, last.hash, last.time_ns)
        self._fold(table, rows[0].height, rows[-1].height)
        return done.rows

    def _times(self, refs: Sequence[Ref]) -> list[int]:
        """When blocks were made: one that depends on them is no older, whatever its maker's clock says."""
        places = [self.place(ref.chain, ref.height) for ref in refs]
        return [place.time_ns for place in places if place is not None]

    def _last_seen(self, chain: str) -> Progress:
        """A copy of where the chain was when this object last looked or appended; where it is now, if it never did."""
        return replace(self._seen[chain]) if chain in self._seen else self.progress(chain)

    def _keep_payload(self, item: Offered, lookup: Lookup) -> None:
        """Keep the payload of a block, where it is the one that the header names."""
        header, payload = item.block.header, item.payload
        if payload is None or callable(payload):
            problem = self.payloads.problem(header.payload_sha256, header.payload_size)
            if problem is not None and payload is None:
                raise InvalidBlockError(problem[1], field=problem[0])
            if problem is not None and callable(payload):
                fetched = payload()
                _check_named(header, hashlib.sha256(fetched).hexdigest(), len(fetched))  # before it is kept: what a liar gives is not
                self.payloads.put(fetched, durable=False, again=problem[1] != ABSENT)
        else:
            _check_named(header, *self.payloads.put(payload, durable=False))
        if header.chain == "A" and header.kind in governance.KINDS:
            check_rules_payload(header, self.payloads.get(header.payload_sha256), lookup)

    def _fold(self, table: Table, first: int, last: int) -> None:
        """Join small files, where the blocks that were appended make it due."""
        for blocks, size in FOLDS:
            if (last + 1) // blocks > first // blocks:
                # The blocks are in. Who folds next does what was not done, for want of space or because of another writer.
                with contextlib.suppress(TransientError):
                    self.lake.compact(table, target_bytes=size)
                    if blocks == FOLDS[0][0]:
                        self.lake.vacuum(table, retention_hours=STAGED_HOURS)
                return

    def _durable(self, offered: list[Offered]) -> list[Offered]:
        """The same, when their payloads survive a loss of power."""
        self.payloads.sync(item.block.header.payload_sha256 for item in offered if item.payload is not None)
        return offered

    def _without_known(self, chain: str, rows: Sequence[Row], size: int) -> set[int]:
        """The heights that the chain does not have.

        Raises:
            CommitConflictError: it has another block at one of the others.
        """
        low = [row for row in rows if row.height < size]
        if low:
            standing = {row.height: row.hash for row in self.rows(chain, min(row.height for row in low), max(row.height for row in low) + 1)}
            for row in low:
                if standing.get(row.height) != row.hash:
                    what = f"chain {chain} has another block {row.height}: {str(standing.get(row.height))[:12]}, not {row.hash[:12]}"
                    raise CommitConflictError(
                        what, where=f"{chain}:{row.height}", remedy="make the block again on the newest one, or refuse the fork"
                    )
        return {row.height for row in rows if row.height >= size}


def _check_named(header: Header, digest: str, size: int) -> None:
    """Refuse a payload that is not the one that the header names."""
    if size != header.payload_size:
        raise InvalidBlockError(f"the payload has {size} bytes, not {header.payload_size}", field="payload_size")
    if digest != header.payload_sha256:
        raise InvalidBlockError(f"the payload has SHA-256 {digest}", field="payload_sha256")


def _of(chain: str) -> Table:
    if chain not in TABLES:
        raise PermanentError(f"there is no chain {chain!r}", where="chain", remedy=f"choose one of {', '.join(TABLES)}")
    return TABLES[chain]
