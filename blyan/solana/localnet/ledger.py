"""A chain that runs: its blocks one after the other, their commitment, and the forks that die.

Belongs here: what the chain is at any moment, and what happens to it: slots that are skipped, forks, finality, pruning. Does not
belong here: executing transactions (`blyan.solana.embedded`), what a node says of it (`blyan.solana.localnet.rpc`), or when the
next slot comes (`blyan.solana.localnet.server`).

A fork is blocks that are announced, served and then dead with all they held: accounts go back to what they were, and the slots
are skipped or get another block with another hash. While it lives a fork has hashes and traffic of its own; a slot that is
replaced afterwards has the block that it has on the same chain without forks, so what survives can be compared with
`blyan.solana.sources.embedded`. That source starts the accounts again every 50 slots and a running chain does not, so the two
agree on the first 50 slots after a start at a multiple of 50.

`execute` takes as long as the transactions do and changes nothing that readers see; `publish` is quick. So one thread may
execute while another one reads and publishes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from solders.account import Account
from solders.hash import Hash
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from blyan.errors import SettingError
from blyan.solana import programs
from blyan.solana.commitment import Commitment
from blyan.solana.embedded import EmbeddedChain, Schedule, Simulation
from blyan.solana.localnet.encoding import wire_format
from blyan.solana.traffic import TrafficState

CONFIRMATION_DEPTH, FINALITY_DEPTH = 1, 31
"""Blocks from the tip down to the newest confirmed and the newest finalized one, as a healthy mainnet has them."""

LEDGER_BYTES = 256 << 20
"""Bytes of compressed blocks after which the oldest finalized ones are pruned. With the indexes it is three times as much memory."""

BLOCKHASH_AGE = 150
"""Blocks for which a blockhash can be named as recent (Agave, MAX_PROCESSING_AGE)."""

_CODEC = "zstd"
"""Of blocks: a fifth of the time that zlib takes, and two thirds of its bytes."""

_BUILTINS = (
    *programs.DECODERS,
    "SysvarC1ock11111111111111111111111111111111",
    "SysvarEpochSchedu1e111111111111111111111111",
    "SysvarRent111111111111111111111111111111111",
)


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork to come: `length` slots from `first` on, all of which die when the slot after them has its turn.

    Attributes:
        first: its first slot.
        length: slots; no more than the finality depth.
        replaced: the dead slots get other blocks; otherwise they are skipped.
        lands: what it held comes again in the slot after it, as far as it still can; otherwise it is gone for good, but for votes:
            a validator that votes for the same parent in the same second signs the same transaction again.
    """

    first: int
    length: int = 1
    replaced: bool = False
    lands: bool = False


@dataclass(slots=True)
class Plan:
    """What befalls the chain, drawn from the chain's seed or set by hand before the slot's turn.

    Attributes:
        skips: slots that get no block, besides those that the chain's schedule skips anyway.
        forks: forks by their first slot.
        skip_share: share of the slots that are skipped besides, 0 to 1.
        fork_share: share of the slots at which a fork of one to three slots begins, 0 to 1.
    """

    skips: set[int] = field(default_factory=set)
    forks: dict[int, Fork] = field(default_factory=dict)
    skip_share: float = 0
    fork_share: float = 0

    def add(self, *forks: Fork) -> None:
        """Plan these forks."""
        self.forks.update((fork.first, fork) for fork in forks)

    def skipped(self, slot: int, schedule: Schedule) -> bool:
        """True where the plan leaves the slot without a block."""
        return slot in self.skips or _share(schedule.digest("plan skip", slot)) < self.skip_share

    def fork_at(self, slot: int, schedule: Schedule, longest: int) -> Fork | None:
        """The fork that begins at the slot; one that is drawn is not longer than `longest`."""
        draw = schedule.digest("plan fork", slot)
        if longest > 0 and slot not in self.forks and _share(draw) < self.fork_share:
            return Fork(slot, 1 + draw[8] % min(3, longest), replaced=draw[9] % 2 == 0, lands=draw[10] % 2 == 0)
        return self.forks.get(slot)


def _share(draw: bytes) -> float:
    return int.from_bytes(draw[:8], "big") / 2**64


class LiveSchedule(Schedule):
    """The seed's schedule, and what the plan did to it so far."""

    def __init__(self, seed: int, transactions_per_slot: int) -> None:
        Schedule.__init__(self, seed, transactions_per_slot)
        # The parent is frozen, for what it has itself.
        object.__setattr__(self, "_skips", [])
        object.__setattr__(self, "_forked", set())

    _skips: list[int]
    _forked: set[int]

    def skip(self, slot: int) -> None:
        """From now on the slot has no block."""
        self._forked.discard(slot)
        if not self.is_skipped(slot):
            insort(self._skips, slot)

    def fork(self, slot: int) -> None:
        """From now on the slot is on a fork."""
        self._forked.add(slot)

    def replace(self, slot: int) -> None:
        """From now on the slot has the block that it has without forks."""
        self._forked.discard(slot)

    def genesis_hash(self) -> str:
        """Not the block source's: that begins with fresh accounts every 50 slots, so the two are different chains."""
        return str(Hash(self.digest("running genesis")))

    def block_hash(self, slot: int) -> Hash:
        """Hash of the slot's block, another one while it is on a fork."""
        return Hash(self.digest("block", slot, "fork")) if slot in self._forked else Schedule.block_hash(self, slot)

    def draw(self, slot: int) -> bytes:
        """What the slot's traffic is drawn from."""
        return self.digest("transactions", slot, "fork") if slot in self._forked else Schedule.draw(self, slot)

    def is_skipped(self, slot: int) -> bool:
        """True where there is no block, by the seed or by the plan."""
        at = bisect_left(self._skips, slot)
        return self._skips[at : at + 1] == [slot] or Schedule.is_skipped(self, slot)

    def height(self, slot: int) -> int:
        """Number of blocks before the slot."""
        return Schedule.height(self, slot) - bisect_left(self._skips, slot)


@dataclass(slots=True, eq=False)
class Block:
    """A block and what is indexed of it.

    Attributes:
        packed: the getBlock result (`json`, full details, rewards), compressed.
        size: bytes of it before.
        signatures: first signature of each transaction.
        errors: error of each transaction in the form of RPC, None where it succeeded.
        mentions: positions of the transactions that name an account, by account.
        accounts: what it wrote: each account as it is after it, None where it is gone.
        transactions_so_far: on its chain since the start, its own included.
        commitment: the best that it has reached.
        is_dead: it was on a fork that died.
    """

    slot: int
    parent: int
    hash: str
    height: int
    time: int
    packed: bytes
    size: int
    signatures: list[str]
    errors: list[Any]
    mentions: dict[str, tuple[int, ...]]
    accounts: dict[Pubkey, Account | None]
    transactions_so_far: int = 0
    commitment: Commitment = Commitment.PROCESSED
    is_dead: bool = False

    @property
    def payload(self) -> bytes:
        """The getBlock result, as `json` with full details and rewards."""
        payload: bytes = pa.decompress(self.packed, decompressed_size=self.size, codec=_CODEC, asbytes=True)
        return payload

    def entries(self) -> list[dict[str, Any]]:
        """The transactions, as in the payload."""
        entries: list[dict[str, Any]] = msgspec.json.decode(self.payload)["transactions"]
        return entries


class Landed(NamedTuple):
    """Where a transaction is."""

    block: Block
    position: int

    @property
    def error(self) -> Any:
        """Its error in the form of RPC, None if it succeeded."""
        return self.block.errors[self.position]


class Turn(NamedTuple):
    """What a slot's turn made, before anybody sees it: blocks that die, and new ones in order."""

    slot: int
    died: list[Block]
    blocks: list[Block]


class Progress(NamedTuple):
    """What a slot's turn changed for those who follow the chain, each list in the order of slots."""

    slot: int
    died: list[Block]
    processed: list[Block]
    confirmed: list[Block]
    finalized: list[Block]


class Ledger:
    """The chain as it stands. It has at least one block, the first, which counts as finalized.

    Attributes:
        plan: what befalls the chain; change it at any time.
        mempool: transactions for the next block, checked by whoever put them here; any thread may append.
        dead: blocks that died, the last 256.
        next_slot: the slot whose turn it is.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        transactions_per_slot: int = 24,
        first_slot: int = 0,
        confirmation_depth: int = CONFIRMATION_DEPTH,
        finality_depth: int = FINALITY_DEPTH,
        ledger_bytes: int = LEDGER_BYTES,
        plan: Plan | None = None,
    ) -> None:
        """Execute genesis and the first block.

        Args:
            seed: of the chain.
            transactions_per_slot: of the chain's own traffic.
            first_slot: where the chain starts; nothing before it is known, as after a snapshot.
            confirmation_depth: blocks from the tip down to the newest confirmed one.
            finality_depth: blocks from the tip down to the newest finalized one.
            ledger_bytes: compressed bytes of blocks to keep.
            plan: skips and forks.

        Raises:
            SettingError: the depths are not in order.
            PermanentError: the installed runtime refuses the chain's genesis.
        """
        if not 0 <= confirmation_depth <= finality_depth:
            raise SettingError(
                f"a block would be finalized at depth {finality_depth} before it is confirmed at depth {confirmation_depth}",
                where="localnet",
                remedy="give a finality depth that is not smaller than the confirmation depth",
            )
        self.plan = plan or Plan()
        self.schedule = LiveSchedule(seed, transactions_per_slot)
        self.mempool: deque[VersionedTransaction] = deque()
        self.dead: deque[Block] = deque(maxlen=256)
        self.next_slot = first_slot
        self.finality_depth, self._confirmation_depth, self._limit = finality_depth, confirmation_depth, ledger_bytes
        self._runtime = EmbeddedChain(seed, transactions_per_slot, self.schedule)
        builtins = map(Pubkey.from_string, _BUILTINS)
        # Accounts as they are after the newest finalized block; later blocks lie over them.
        self._accounts: dict[Pubkey, Account] = {
            key: account for key in (*builtins, *self._runtime.written) if (account := self._runtime.account(key)) is not None
        }
        self._chain: list[Block] = []
        self._root = 0
        self._bytes = 0
        self._found: dict[str, Block] = {}
        self._heights: dict[str, int] = {}
        self._fork: Fork | None = None
        self._before_fork: TrafficState = ()
        while not self._chain:
            self.step()

    # Running

    def step(self) -> Progress:
        """Execute and publish the next slot."""
        return self.publish(self.execute())

    def execute(self) -> Turn:
        """Do the next slot's work. Until it is published, readers see nothing of it; forks and skips of the plan are final."""
        slot, died = self.next_slot, []
        blocks: list[Block] = []
        if self._fork is not None and slot >= self._fork.first + self._fork.length:
            fork, self._fork = self._fork, None
            died = self._kill(fork)
            if fork.replaced:
                blocks = [block for dead in died if (block := self._run(dead.slot)) is not None]
            if fork.lands:
                self.mempool.extendleft(reversed(list(_transactions(died))))
        if self._chain:
            self._fate(slot)
        if not self.schedule.is_skipped(slot):
            self._submit_mempool({signature for block in died for signature in block.signatures})
        block = self._run(slot)
        return Turn(slot, died, blocks if block is None else [*blocks, block])

    def _fate(self, slot: int) -> None:
        """Let the plan skip the slot or put it on a fork."""
        if self._fork is None:
            self._fork = self.plan.fork_at(slot, self.schedule, self.finality_depth)
            if self._fork is not None:
                self._before_fork = self._runtime.traffic.state
            if self._fork is not None and not 0 < self._fork.length <= self.finality_depth:
                raise SettingError(
                    f"a fork of {self._fork.length} slots from {slot} on cannot die: finality comes after {self.finality_depth} blocks",
                    where="localnet",
                    remedy="plan a shorter fork, or give a greater finality depth",
                )
        if self.plan.skipped(slot, self.schedule):
            self.schedule.skip(slot)
        elif self._fork is not None and not self.schedule.is_skipped(slot):
            self.schedule.fork(slot)

    def _kill(self, fork: Fork) -> list[Block]:
        """Undo the fork in the runtime and in the schedule; its blocks."""
        start = bisect_left(self._chain, fork.first, key=_slot_of)
        died = self._chain[start:]
        written = {key for block in died for key in block.accounts}
        self._runtime.roll_back({key: self._account_at(key, start - 1) for key in written}, self._before_fork)
        for block in died:
            if fork.replaced:
                self.schedule.replace(block.slot)
            else:
                self.schedule.skip(block.slot)
        return died

    def _submit_mempool(self, died: set[str]) -> None:
        while self.mempool:
            transaction = self.mempool.popleft()
            signature = str(transaction.signatures[0])
            if signature in died or signature not in self._found:
                self._runtime.submit(transaction)

    def _run(self, slot: int) -> Block | None:
        payload = self._runtime.produce(slot)
        if payload is None:
            return None
        runtime, schedule = self._runtime, self.schedule
        mentions: defaultdict[str, list[int]] = defaultdict(list)
        for position, executed in enumerate(runtime.executed):
            for name in executed.accounts:
                mentions[name].append(position)
        return Block(
            slot=slot,
            parent=schedule.parent(slot),
            hash=str(schedule.block_hash(slot)),
            height=schedule.height(slot),
            time=schedule.time(slot),
            packed=pa.compress(payload, codec=_CODEC, asbytes=True),
            size=len(payload),
            signatures=[executed.signature for executed in runtime.executed],
            errors=[executed.error for executed in runtime.executed],
            # The collector need not visit a tuple of numbers.
            mentions={name: tuple(positions) for name, positions in mentions.items()},
            accounts={key: runtime.account(key) for key in runtime.written},
        )

    def publish(self, turn: Turn) -> Progress:
        """Let readers see a turn."""
        for block in reversed(turn.died):
            self._chain.pop()
            self._forget(block)
            block.is_dead = True
        self.dead.extend(turn.died)
        for block in turn.blocks:
            before = self._chain[-1].transactions_so_far if self._chain else 0
            block.transactions_so_far = before + len(block.signatures)
            self._chain.append(block)
            self._bytes += len(block.packed)
            self._heights[block.hash] = block.height
            self._found.update(dict.fromkeys(block.signatures, block))
        self.next_slot = turn.slot + 1
        confirmed = self._promote(Commitment.CONFIRMED, max(self._root, len(self._chain) - 1 - self._confirmation_depth))
        finalized = self._promote(Commitment.FINALIZED, max(self._root, len(self._chain) - 1 - self.finality_depth))
        while self._bytes > self._limit and self._root > 0:
            self.prune(self._chain[0].slot + 1)
        while len(self._heights) > 2 * BLOCKHASH_AGE:
            del self._heights[next(iter(self._heights))]
        return Progress(turn.slot, turn.died, turn.blocks, confirmed, finalized)

    def settle(self) -> Progress:
        """Finalize everything up to the tip, as if votes had come and no more blocks. A fork that was alive has won."""
        self._fork = None
        last = len(self._chain) - 1
        return Progress(self.next_slot - 1, [], [], self._promote(Commitment.CONFIRMED, last), self._promote(Commitment.FINALIZED, last))

    def _promote(self, commitment: Commitment, last: int) -> list[Block]:
        """The blocks up to index `last` that reach a commitment now, oldest first."""
        first = last
        while first >= 0 and last < len(self._chain) and self._chain[first].commitment < commitment:
            first -= 1
        promoted = self._chain[first + 1 : last + 1]
        for block in promoted:
            block.commitment = commitment
            if commitment is Commitment.FINALIZED:
                for key, account in block.accounts.items():
                    if account is None:
                        self._accounts.pop(key, None)
                    else:
                        self._accounts[key] = account
                block.accounts = {}
        if commitment is Commitment.FINALIZED and self._chain:
            self._root = last
        return promoted

    def prune(self, before: int) -> None:
        """Drop the finalized blocks before a slot; the newest finalized one stays."""
        count = min(bisect_left(self._chain, before, key=_slot_of), self._root)
        for block in self._chain[:count]:
            self._forget(block, keep_hash=True)
        del self._chain[:count]
        self._root -= count

    def _forget(self, block: Block, *, keep_hash: bool = False) -> None:
        self._bytes -= len(block.packed)
        if not keep_hash:
            self._heights.pop(block.hash, None)
        for signature in block.signatures:
            if self._found.get(signature) is block:
                del self._found[signature]

    # Reading. `lag` is how many blocks ago the answer would have been right.

    @property
    def first_available(self) -> int:
        """The first slot whose block is kept."""
        return self._chain[0].slot

    def tip(self, commitment: Commitment, lag: int = 0) -> Block:
        """The newest block of a commitment."""
        return self._chain[self._index(commitment, lag)]

    def _index(self, commitment: Commitment, lag: int = 0) -> int:
        at = len(self._chain) - 1
        if commitment is Commitment.CONFIRMED:
            at = max(self._root, at - self._confirmation_depth)
        elif commitment is Commitment.FINALIZED:
            at = self._root
        return max(0, at - lag)

    def block(self, slot: int) -> Block | None:
        """The slot's block on the chain as it stands, if it is there and not pruned."""
        at = bisect_left(self._chain, slot, key=_slot_of)
        return self._chain[at] if at < len(self._chain) and self._chain[at].slot == slot else None

    def blocks(self, first: int, last: int) -> list[Block]:
        """The blocks of the slots `first` to `last`, in order."""
        return self._chain[bisect_left(self._chain, first, key=_slot_of) : bisect_right(self._chain, last, key=_slot_of)]

    def newest_first(self, commitment: Commitment, lag: int = 0) -> Iterator[Block]:
        """The blocks from the tip of a commitment down."""
        return (self._chain[at] for at in range(self._index(commitment, lag), -1, -1))

    def find(self, signature: str) -> Landed | None:
        """Where a transaction is on the chain as it stands."""
        block = self._found.get(signature)
        return Landed(block, block.signatures.index(signature)) if block is not None else None

    def account(self, key: Pubkey, commitment: Commitment, lag: int = 0) -> Account | None:
        """An account after the newest block of a commitment; never older than the newest finalized block."""
        return self._account_at(key, self._index(commitment, lag))

    def _account_at(self, key: Pubkey, index: int) -> Account | None:
        for at in range(index, self._root, -1):
            if key in self._chain[at].accounts:
                return self._chain[at].accounts[key]
        return self._accounts.get(key)

    def is_recent(self, blockhash: str, tip: Block) -> bool:
        """True if a transaction may name the blockhash after the block `tip`."""
        height = self._heights.get(blockhash)
        return height is not None and tip.height - BLOCKHASH_AGE <= height <= tip.height

    # The runtime: only where `execute` is not running.

    def simulate(self, transaction: VersionedTransaction) -> Simulation:
        """What a transaction would do now."""
        return self._runtime.simulate(transaction)

    def rent(self, size: int) -> int:
        """Lamports that exempt an account of `size` bytes of data from rent."""
        return self._runtime.rent(size)

    def give(self, key: Pubkey, lamports: int, number: int) -> VersionedTransaction:
        """A signed transfer from the chain's treasury, another one for each `number`."""
        return self._runtime.traffic.grant(key, lamports, Hash.from_string(self.tip(Commitment.PROCESSED).hash), number)


def _slot_of(block: Block) -> int:
    return block.slot


def _transactions(blocks: Iterable[Block]) -> Iterator[VersionedTransaction]:
    for block in blocks:
        for entry in block.entries():
            yield VersionedTransaction.from_bytes(wire_format(entry["transaction"]))
