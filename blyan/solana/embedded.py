"""A Solana chain in the process: LiteSVM executes signed transactions, and each slot becomes a getBlock response.

Belongs here: the schedule of slots, executing a list of transactions, and the block that shows what they did.
Does not belong here: who sends the transactions (`blyan.solana.traffic`), or ranges of slots
(`blyan.solana.sources.embedded`).

What is real: every signature, every instruction, every balance, log line, inner instruction, compute unit and fee
comes from the runtime and the programs that mainnet runs (system, vote, SPL Token, Token-2022, associated token
account, memo, compute budget, address lookup tables, precompiles). What is not: consensus. The hash of a block, who
leads a slot and which slots are skipped are functions of the seed; a bank hash is the block hash. Transactions name
the previous block's hash as recent, and the runtime's own check of it is off, because LiteSVM keeps a single hash
that cannot be chosen. `costUnits` follows the published cost model, with the data of the accounts a transaction
names as the data it loaded.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw
from solders.account import Account
from solders.address_lookup_table_account import ID as LOOKUP_TABLE_PROGRAM
from solders.clock import Clock
from solders.hash import Hash
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata
from solders.transaction_status import UiTransactionStatusMeta

from blyan.errors import BadRecordError, PermanentError
from blyan.solana import base58
from blyan.solana.slots import epoch_of
from blyan.solana.traffic import MINT_BYTES, TOKEN_PROGRAMS, VOTE_PROGRAM, Traffic, TrafficState

DOMAIN = "blyan embedded chain 1"
"""Part of every hash of the chain. Raise the number when a change gives a seed other blocks."""

GENESIS_TIME = 1_740_787_200
"""Unix time of slot 0: 2025-03-01, after leaders had begun to keep all of the priority fees (SIMD-0096)."""

SLOT_MS = 400
SLOTS_PER_LEADER = 4
"""Length of a slot and slots a leader has in a row, as on mainnet (Solana documentation, cluster constants)."""

BURNED_PER_SIGNATURE = 2_500
"""Lamports of each signature's 5,000 that are burned; the leader gets the rest and every priority fee (SIMD-0096)."""

ANCESTORS = 40
"""Blocks in the SlotHashes sysvar: more than the 31 that a vote names and their root. Mainnet keeps 512."""

PRECOMPILE_COST = {
    Pubkey.from_string("Ed25519SigVerify111111111111111111111111111"): 2_400,
    Pubkey.from_string("KeccakSecp256k11111111111111111111111111111"): 6_690,
    Pubkey.from_string("Secp256r1SigVerify1111111111111111111111111"): 4_800,
}
"""Programs whose signatures are charged like the transaction's own, and the cost units of one (Agave cost model)."""

SIGNATURE_COST, WRITE_LOCK_COST, VOTE_COST, PAGE_COST, PAGE_BYTES, BYTES_PER_COST = 720, 300, 3_428, 8, 32_768, 4
"""Cost units of a signature, a writable account, a whole vote and a loaded page; instruction bytes for one unit."""

SNAPSHOTS = 10_000
"""Accounts known at most without asking the runtime. Those that traffic returns to are some 200; all others come once or twice."""

_SKIP_GROUP = 100
_encode = msgspec.json.Encoder().encode
_NO_ADDRESS = Pubkey.default(), str(Pubkey.default())

Called = Sequence[tuple[Pubkey, bytes]]
"""The instructions of a message: each program with its data. A program is never a loaded address."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything about a chain that can be told without executing it, in constant time a slot."""

    seed: int
    transactions_per_slot: int

    def digest(self, *parts: object) -> bytes:
        """32 bytes that depend on the chain and `parts` alone."""
        text = "\0".join(map(str, (DOMAIN, self.seed, self.transactions_per_slot, *parts)))
        return hashlib.sha256(text.encode()).digest()

    def genesis_hash(self) -> str:
        """The chain's identity: another seed or another number of transactions is another chain."""
        return str(Hash(self.digest("genesis")))

    def block_hash(self, slot: int) -> Hash:
        """Hash of the slot's block."""
        return Hash(self.digest("block", slot))

    def draw(self, slot: int) -> bytes:
        """What the slot's traffic is drawn from."""
        return self.digest("transactions", slot)

    def _skipped_in(self, group: int) -> tuple[int, int]:
        # Two of every hundred slots, half the time side by side, never the first: so that heights need no counting.
        draw = self.digest("skip", group)
        first, step = draw[0] % 99, (1, 1, 7, 31)[draw[1] % 4]
        return 1 + first, 1 + (first + step) % 99

    def is_skipped(self, slot: int) -> bool:
        """True where the leader produced no block: 2 % of the slots, never slot 0."""
        return slot % _SKIP_GROUP in self._skipped_in(slot // _SKIP_GROUP)

    def height(self, slot: int) -> int:
        """Number of blocks before the slot."""
        group, place = divmod(slot, _SKIP_GROUP)
        return slot - 2 * group - sum(skipped < place for skipped in self._skipped_in(group))

    def ancestors(self, slot: int) -> Iterator[int]:
        """Slots of the blocks before the slot, newest first."""
        return (earlier for earlier in range(slot - 1, -1, -1) if not self.is_skipped(earlier))

    def parent(self, slot: int) -> int:
        """Slot of the parent block; slot 0 is its own, as on mainnet."""
        return next(self.ancestors(slot), 0)

    def time(self, slot: int) -> int:
        """Unix time of the slot, in whole seconds."""
        return GENESIS_TIME + slot * SLOT_MS // 1_000


class _Snapshot(msgspec.Struct, gc=False):
    """An account as its JSON needs it.

    Attributes:
        lamports: its balance.
        size: bytes of its data.
        token: its token balance, if it is a token account.
        decimals: of the mint, if it is one.
        addresses: what a lookup table holds, each key with its name.
    """

    lamports: int = 0
    size: int = 0
    token: dict[str, Any] | None = None
    decimals: int | None = None
    addresses: Sequence[tuple[Pubkey, str]] = ()


class _Prepared(msgspec.Struct, gc=False):
    """A transaction and what is needed of it more than once.

    Attributes:
        transaction: as it was signed.
        message, header: its own.
        lookups: of a versioned message, None of a legacy one.
        keys: accounts it names: its own, then loaded ones that are writable, then loaded ones that are not.
        names: the same in base58.
        writable: indexes of those it may write.
        static: number of its own accounts.
        loaded: number of accounts before the loaded ones that are not writable.
    """

    transaction: VersionedTransaction
    message: Any
    header: Any
    lookups: Any
    keys: list[Pubkey]
    names: list[str]
    writable: list[int]
    static: int
    loaded: int


class Executed(NamedTuple):
    """A transaction of the last block: its first signature, its error in the form of RPC (None if none), the accounts it names."""

    signature: str
    error: Any
    accounts: list[str]


class Simulation(NamedTuple):
    """What a transaction would do: its error in the form of RPC, its log, and its compute units."""

    error: Any
    logs: list[str]
    compute_units: int


class EmbeddedChain:
    """A chain from genesis onward. Slots are produced in ascending order, each once.

    Attributes:
        schedule: hashes, heights, times and skipped slots.
        traffic: the chain's own wallets and validators.
        executed: the transactions of the last block, in its order.
        rejected: signature and error (RPC form) of each transaction of the last block that paid no fee and is
            therefore not in it.
        written: accounts that the last block may have written; before the first block, those of genesis.
    """

    def __init__(self, seed: int, transactions_per_slot: int, schedule: Schedule | None = None) -> None:
        """Execute genesis.

        Args:
            seed: of everything about the chain.
            transactions_per_slot: of the chain's own.
            schedule: another one than the seed's, such as that of a chain with forks.
        """
        self.schedule = schedule or Schedule(seed, transactions_per_slot)
        self.executed: list[Executed] = []
        self.rejected: list[tuple[str, Any]] = []
        self.written: set[Pubkey] = set()
        self._pending: list[VersionedTransaction] = []
        self._snapshots: dict[str, _Snapshot] = {}
        self._first_ancestor: int | None = None
        # Without a history of its own: a transaction of a block that was rolled back may be executed again.
        self._svm = LiteSVM().with_blockhash_check(False).with_sigverify(False).with_transaction_history(0)
        self._svm.warp_to_slot(0)
        self.traffic = Traffic(self.schedule.digest("traffic"), self._svm)
        for key, account in self.traffic.genesis_accounts():
            self._svm.set_account(key, account)
            self.written.add(key)
        for transaction in self.traffic.genesis_transactions(self.schedule.block_hash(0)):
            outcome = self._svm.send_transaction(transaction)
            self.written.update(transaction.message.account_keys)
            if isinstance(outcome, FailedTransactionMetadata):
                raise PermanentError(
                    f"the runtime refused a genesis transaction: {outcome.err()}",
                    where=f"embedded chain, seed {seed}",
                    remedy="install the version of solders that the lock file names",
                )

    def submit(self, transaction: VersionedTransaction) -> None:
        """Put a transaction, signed by anyone, into the next block, after the chain's own traffic.

        The age of the blockhash it names is not checked.

        Raises:
            BadRecordError: its version is not one that blocks here can show, or a signature is missing or wrong.
        """
        message, signatures = transaction.message, transaction.signatures
        if not isinstance(message, (Message, MessageV0)):
            raise BadRecordError("the message is neither legacy nor version 0", reason="unsupported_version", remedy="send it as version 0")
        # Here and not in the runtime, where it would cost 80 µs for each of the chain's own signatures too.
        if len(signatures) != message.header.num_required_signatures or not all(transaction.verify_with_results()):
            raise BadRecordError(
                "a signature is missing or does not verify",
                reason="bad_signature",
                where=f"transaction paid by {message.account_keys[0]}",
                remedy="sign the message as it is sent, with every key its header requires",
            )
        self._pending.append(transaction)

    def produce(self, slot: int) -> bytes | None:
        """Execute the slot's transactions.

        Returns:
            The result of getBlock (`json`, full details, rewards), or None where the slot is skipped.
        """
        schedule = self.schedule
        if schedule.is_skipped(slot):
            return None
        ancestors = [earlier for earlier, _ in zip(schedule.ancestors(slot), range(ANCESTORS), strict=False)]
        if self._first_ancestor is None:
            self._first_ancestor = ancestors[0] if ancestors else 0
        tower = [earlier for earlier in ancestors if earlier >= self._first_ancestor]
        previous = schedule.block_hash(ancestors[0]) if ancestors else Hash.default()
        epoch = epoch_of(slot)
        self._svm.set_clock(Clock(slot, GENESIS_TIME, epoch, epoch + 1, schedule.time(slot)))
        self._svm.set_slot_hashes([(earlier, schedule.block_hash(earlier)) for earlier in ancestors])

        draw = schedule.draw(slot)
        transactions = self.traffic.transactions(schedule.transactions_per_slot, draw, slot, tower, previous, schedule.time(slot))
        transactions += self._pending
        self._pending = []
        self.executed = []
        self.rejected = []
        self.written = set()
        if len(self._snapshots) > SNAPSHOTS:
            self._snapshots.clear()
        entries, reward = [], 0
        # Three passes, because the runtime leaves nothing of the interpreter in the processor's caches: a tenth of the time.
        prepared = [self._prepare(transaction) for transaction in transactions]
        outcomes = [self._execute(each) for each in prepared]
        for each, outcome in zip(prepared, outcomes, strict=True):
            shown = self._show(each, *outcome)
            if shown is not None:
                entry, share = shown
                entries.append(entry)
                reward += share
        return msgspec.json.encode(
            {
                "previousBlockhash": str(previous),
                "blockhash": str(schedule.block_hash(slot)),
                "parentSlot": ancestors[0] if ancestors else 0,
                "transactions": entries,
                "rewards": [self._pay_leader(slot, reward)] if reward else [],
                "blockTime": schedule.time(slot),
                "blockHeight": schedule.height(slot),
            }
        )

    def account(self, key: Pubkey) -> Account | None:
        """The account after the last block."""
        return self._svm.get_account(key)

    def rent(self, size: int) -> int:
        """Lamports that exempt an account of this many bytes of data from rent."""
        return int(self._svm.minimum_balance_for_rent_exemption(size))

    def simulate(self, transaction: VersionedTransaction) -> Simulation:
        """What the transaction would do after the last block; nothing changes."""
        outcome = self._svm.simulate_transaction(transaction)
        failed = isinstance(outcome, FailedTransactionMetadata)
        result = outcome.meta()
        return Simulation(_rpc_error(outcome) if failed else None, result.logs(), result.compute_units_consumed())

    def roll_back(self, accounts: Mapping[Pubkey, Account | None], traffic: TrafficState) -> None:
        """Undo blocks: their accounts become these, the traffic goes on from `traffic`. Deployed programs stay loaded."""
        for key, account in accounts.items():
            self._svm.set_account(key, account or Account(0, b"", Pubkey.default()))
            self._snapshots.pop(str(key), None)
        self.traffic.state = traffic

    def _pay_leader(self, slot: int, lamports: int) -> dict[str, Any]:
        # LiteSVM destroys the fees it charges: the leader's share is paid here.
        validators = self.traffic.validators
        draw = self.schedule.digest("leader", slot // SLOTS_PER_LEADER)
        leader = validators[draw[0] % len(validators)].identity.key
        balance = self._svm.get_balance(leader) + lamports
        self._svm.set_account(leader, Account(balance, b"", Pubkey.default()))
        self._snapshots.pop(str(leader), None)
        self.written.add(leader)
        return {"pubkey": str(leader), "lamports": lamports, "postBalance": balance, "rewardType": "Fee", "commission": None}

    def _prepare(self, transaction: VersionedTransaction) -> _Prepared:
        """What of a transaction can be told before the block: within it no lookup table gets addresses that it may use."""
        message = transaction.message
        keys, header = message.account_keys, message.header
        names = list(map(str, keys))
        static, signers = range(len(keys)), header.num_required_signatures
        # A header may promise more than there is: slices then end earlier, and the runtime refuses the transaction.
        writable = [*static[: signers - header.num_readonly_signed_accounts], *static[signers : len(keys) - header.num_readonly_unsigned_accounts]]
        loaded = len(keys)
        lookups = message.address_table_lookups if isinstance(message, MessageV0) else None
        if lookups:
            loaded_writable = [each for lookup in lookups for each in self._look_up(lookup.account_key, lookup.writable_indexes)]
            loaded_readonly = [each for lookup in lookups for each in self._look_up(lookup.account_key, lookup.readonly_indexes)]
            loaded += len(loaded_writable)
            writable += range(len(keys), loaded)
            keys += [key for key, _ in loaded_writable + loaded_readonly]
            names += [name for _, name in loaded_writable + loaded_readonly]
        return _Prepared(transaction, message, header, lookups, keys, names, writable, len(static), loaded)

    def _execute(self, prepared: _Prepared) -> tuple[Any, list[_Snapshot], list[_Snapshot]]:
        """What the runtime says, and the accounts before and after."""
        keys, names, writable, known = prepared.keys, prepared.names, prepared.writable, self._snapshots
        before = [known.get(name) or self._snapshot(key, name) for key, name in zip(keys, names, strict=True)]
        outcome = self._svm.send_transaction(prepared.transaction)
        for index in writable:
            known.pop(names[index], None)
            self.written.add(keys[index])
        # All are forgotten before one is read: what a token account shows depends on its mint.
        after = before.copy()
        for index in writable:
            after[index] = self._snapshot(keys[index], names[index])
        return outcome, before, after

    def _show(self, prepared: _Prepared, outcome: Any, before: list[_Snapshot], after: list[_Snapshot]) -> tuple[Raw, int] | None:
        """The transaction as it stands in the block and what of its fee the leader gets; None where it paid none.

        It is written as JSON at once: a block of dictionaries is a hundred thousand objects for the garbage collector to
        visit, and a tenth of the time.
        """
        message, header, keys, names, lookups = prepared.message, prepared.header, prepared.keys, prepared.names, prepared.lookups
        static, loaded = prepared.static, prepared.loaded
        failed = isinstance(outcome, FailedTransactionMetadata)
        error = _rpc_error(outcome) if failed else None
        signatures = list(map(str, prepared.transaction.signatures))
        if failed and after[0].lamports == before[0].lamports:
            self.rejected.append((signatures[0], error))
            return None

        result = outcome.meta() if failed else outcome
        units, fee = result.compute_units_consumed(), result.fee()
        instructions = [(each.program_id_index, each.accounts, each.data) for each in message.instructions]
        called = [(keys[program], data) for program, _, data in instructions]
        charged = header.num_required_signatures + sum(count for _, count in _precompile_calls(called))
        holds_tokens = not TOKEN_PROGRAMS.isdisjoint(keys)
        meta = {
            "err": error,
            "status": {"Err": error} if failed else {"Ok": None},
            "fee": fee,
            "preBalances": [snapshot.lamports for snapshot in before],
            "postBalances": [snapshot.lamports for snapshot in after],
            "innerInstructions": [
                {"index": index, "instructions": [_inner_instruction(inner) for inner in group]}
                for index, group in enumerate(result.inner_instructions())
                if group
            ],
            "logMessages": result.logs(),
            "preTokenBalances": _token_balances(before) if holds_tokens else [],
            "postTokenBalances": _token_balances(after) if holds_tokens else [],
            "rewards": [],
            "loadedAddresses": {"writable": names[static:loaded], "readonly": names[loaded:]},
        }
        returned = result.return_data()
        if returned.data:
            meta["returnData"] = {"programId": str(returned.program_id), "data": [base64.b64encode(returned.data).decode(), "base64"]}
        meta["computeUnitsConsumed"] = units
        size = sum([snapshot.size for snapshot in before])
        meta["costUnits"] = _cost(called, header.num_required_signatures, len(prepared.writable), units, size)
        body = {
            "header": {
                "numRequiredSignatures": header.num_required_signatures,
                "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
                "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
            },
            "accountKeys": names[:static],
            "recentBlockhash": str(message.recent_blockhash),
            "instructions": [_instruction(program, accounts, data, 1) for program, accounts, data in instructions],
        }
        if lookups is not None:
            body["addressTableLookups"] = [
                {
                    "accountKey": str(lookup.account_key),
                    "writableIndexes": list(lookup.writable_indexes),
                    "readonlyIndexes": list(lookup.readonly_indexes),
                }
                for lookup in lookups
            ]
        entry = {"transaction": {"signatures": signatures, "message": body}, "meta": meta, "version": "legacy" if lookups is None else 0}
        self.executed.append(Executed(signatures[0], error, names))
        return Raw(_encode(entry)), fee - BURNED_PER_SIGNATURE * charged

    def _look_up(self, table: Pubkey, indexes: bytes) -> list[tuple[Pubkey, str]]:
        # A missing table or index reads as the zero key here; the runtime then refuses the transaction by itself.
        addresses = self._snapshot(table, str(table)).addresses
        return [addresses[index] if index < len(addresses) else _NO_ADDRESS for index in indexes]

    def _snapshot(self, key: Pubkey, name: str) -> _Snapshot:
        """The account as it is now; read from the runtime only after a transaction could have written it."""
        known = self._snapshots.get(name)
        if known is None:
            known = self._snapshots[name] = self._read(key)
        return known

    def _read(self, key: Pubkey) -> _Snapshot:
        account = self._svm.get_account(key)
        if account is None:
            return _Snapshot()
        data, owner = account.data, account.owner
        if owner in TOKEN_PROGRAMS:
            decimals = data[44] if len(data) >= MINT_BYTES else None
            return _Snapshot(account.lamports, len(data), self._token_balance(data, owner), decimals)
        if owner == LOOKUP_TABLE_PROGRAM:
            addresses = [Pubkey(data[start : start + 32]) for start in range(56, len(data) - 31, 32)]
            return _Snapshot(account.lamports, len(data), addresses=[(address, str(address)) for address in addresses])
        return _Snapshot(account.lamports, len(data))

    def _token_balance(self, data: bytes, program: Pubkey) -> dict[str, Any] | None:
        # A token account is 165 bytes, with extensions a type byte of 2 follows; a multisig is 355 bytes of either program.
        if len(data) < 165 or len(data) == 355 or data[108] == 0 or (len(data) > 165 and data[165] != 2):
            return None
        key = Pubkey(data[:32])
        mint = str(key)
        decimals = self._snapshot(key, mint).decimals
        if decimals is None:
            return None
        amount = int.from_bytes(data[64:72], "little")
        digits = f"{amount:0{decimals + 1}d}"
        point = len(digits) - decimals
        exact = digits[:point] + f".{digits[point:]}".rstrip("0").rstrip(".")
        return {
            "mint": mint,
            # RPC gives null for nothing.
            "uiTokenAmount": {
                "uiAmount": amount / 10**decimals if amount else None,
                "decimals": decimals,
                "amount": str(amount),
                "uiAmountString": exact,
            },
            "owner": str(Pubkey(data[32:64])),
            "programId": str(program),
        }


def _token_balances(snapshots: list[_Snapshot]) -> list[dict[str, Any]]:
    return [{"accountIndex": index, **snapshot.token} for index, snapshot in enumerate(snapshots) if snapshot.token]


def _instruction(program: int, accounts: bytes, data: bytes, stack_height: int | None) -> dict[str, Any]:
    return {"programIdIndex": program, "accounts": list(accounts), "data": base58.encode(data), "stackHeight": stack_height}


def _inner_instruction(inner: Any) -> dict[str, Any]:
    compiled = inner.instruction()
    return _instruction(compiled.program_id_index, compiled.accounts, compiled.data, inner.stack_height())


def _rpc_error(outcome: FailedTransactionMetadata) -> Any:
    # The error types' own to_json drops names ([0,1]); a status with the error in it has the form of RPC.
    status = UiTransactionStatusMeta(err=outcome.err(), fee=0, pre_balances=[], post_balances=[])
    return msgspec.json.decode(status.to_json())["err"]


def _precompile_calls(called: Called) -> Iterator[tuple[Pubkey, int]]:
    """Precompile programs called, each with its number of signatures: the first byte of the data."""
    return ((program, data[0]) for program, data in called if program in PRECOMPILE_COST and data)


def _cost(called: Called, signatures: int, write_locks: int, units: int, loaded_bytes: int) -> int:
    if len(called) == 1 and called[0][0] == VOTE_PROGRAM:
        return VOTE_COST
    precompiled = sum(PRECOMPILE_COST[program] * count for program, count in _precompile_calls(called))
    pages = -(-loaded_bytes // PAGE_BYTES)
    data = sum(len(data) for _, data in called) // BYTES_PER_COST
    return SIGNATURE_COST * signatures + precompiled + WRITE_LOCK_COST * write_locks + data + units + PAGE_COST * pages
