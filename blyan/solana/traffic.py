"""The people of the embedded chain: who holds what at genesis, and what they send in each slot.

Belongs here: wallets, validators, mints, and signed transactions drawn from a seed. Does not belong here: executing
them or what they did (`blyan.solana.embedded`). The mix is made so that every table and mart of the lake has rows:
amounts over all magnitudes, some of them above 2^53 and 2^63, mints of 0 to 9 decimals, several programs, priority
fees, versioned messages with and without a lookup table, several signers, and about 6 % that fail.

Random numbers are drawn as integers: a float's last bit could differ between machines.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from solders import sysvar
from solders.account import Account
from solders.address_lookup_table_account import ID as LOOKUP_TABLE_PROGRAM
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import CreateAccountParams, TransferParams, create_account, transfer
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
TOKEN_PROGRAMS = frozenset({TOKEN, TOKEN_2022})
ASSOCIATED_TOKEN = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
VOTE_PROGRAM = Pubkey.from_string("Vote111111111111111111111111111111111111111")
ED25519 = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")

WALLETS, VALIDATORS = 24, 6
VOTE_SHARE = 3
"""One in this many transactions is a vote, as long as there are validators. Mainnet has more; nothing depends on it."""

VOTE_ACCOUNT_BYTES = 3_762
MINT_BYTES = 82
FEE_MINT_BYTES = 278
"""A mint with a transfer fee: 165 bytes of base and padding, its type, and an extension of 4 + 108 (SPL Token-2022)."""

LOCKOUTS = 31
"""Blocks a vote names at most; the one before them is its root (vote program, MAX_LOCKOUT_HISTORY)."""

_SOL = 10**9
_MEMOS = ("rent", "invoice 4711", "gm ☀️", "für Zoë", "two\nlines", '{"order": 17, "paid": true}', "🦀" * 12, "thanks!")


class Signer(NamedTuple):
    """A key pair beside its public key, which solders derives anew on every call (40 µs, as long as a signature)."""

    keypair: Keypair
    key: Pubkey

    @classmethod
    def from_seed(cls, seed: bytes) -> Signer:
        """The signer whose secret is these 32 bytes."""
        keypair = Keypair.from_seed(seed)
        # Its bytes are the secret and the public key.
        return cls(keypair, Pubkey(bytes(keypair)[32:]))


Plan = tuple[list[Instruction], list[Signer]]
"""Instructions and their signers, the fee payer first."""


class Mint(NamedTuple):
    """A token. `held` is what each wallet has of it at genesis, in base units."""

    signer: Signer
    program: Pubkey
    decimals: int
    held: int
    fee_basis_points: int = 0

    @property
    def key(self) -> Pubkey:
        """The mint's account."""
        return self.signer.key


class Validator(NamedTuple):
    """A leader and voter; its identity is also the authority of its vote account."""

    identity: Signer
    vote: Signer


def _writable(key: Pubkey, *, signer: bool = False) -> AccountMeta:
    return AccountMeta(key, signer, True)


def _readonly(key: Pubkey, *, signer: bool = False) -> AccountMeta:
    return AccountMeta(key, signer, False)


def _pay(source: Signer, destination: Pubkey, lamports: int) -> Instruction:
    return transfer(TransferParams(from_pubkey=source.key, to_pubkey=destination, lamports=lamports))


def _create(payer: Signer, key: Signer, lamports: int, space: int, owner: Pubkey) -> Instruction:
    return create_account(CreateAccountParams(from_pubkey=payer.key, to_pubkey=key.key, lamports=lamports, space=space, owner=owner))


def _memo(text: bytes, *signers: Signer) -> Instruction:
    return Instruction(MEMO, text, [_readonly(signer.key, signer=True) for signer in signers])


_associated_token_address = lru_cache(4_096)(get_associated_token_address)


def _token_account(owner: Pubkey, mint: Mint) -> Pubkey:
    return _associated_token_address(owner, mint.key, mint.program)


def _open(payer: Signer, owner: Pubkey, mint: Mint, *, idempotent: bool = True) -> Instruction:
    accounts = [_writable(payer.key, signer=True), _writable(_token_account(owner, mint)), _readonly(owner)]
    accounts += [_readonly(mint.key), _readonly(SYSTEM_PROGRAM), _readonly(mint.program)]
    return Instruction(ASSOCIATED_TOKEN, b"\1" if idempotent else b"", accounts)


def _give(mint: Mint, owner: Signer, source: Pubkey, destination: Pubkey, amount: int, *, checked: bool = True) -> Instruction:
    authority = _readonly(owner.key, signer=True)
    if not checked:
        return Instruction(mint.program, struct.pack("<BQ", 3, amount), [_writable(source), _writable(destination), authority])
    accounts = [_writable(source), _readonly(mint.key), _writable(destination), authority]
    if not mint.fee_basis_points:
        return Instruction(mint.program, struct.pack("<BQB", 12, amount, mint.decimals), accounts)
    fee = -(-amount * mint.fee_basis_points // 10_000)
    return Instruction(mint.program, struct.pack("<BBQBQ", 26, 1, amount, mint.decimals, fee), accounts)


def _mint_to(mint: Mint, authority: Signer, destination: Pubkey, amount: int) -> Instruction:
    accounts = [_writable(mint.key), _writable(destination), _readonly(authority.key, signer=True)]
    return Instruction(mint.program, struct.pack("<BQ", 7, amount), accounts)


def _burn(mint: Mint, owner: Signer, source: Pubkey, amount: int) -> Instruction:
    accounts = [_writable(source), _writable(mint.key), _readonly(owner.key, signer=True)]
    return Instruction(mint.program, struct.pack("<BQ", 8, amount), accounts)


def _close(mint: Mint, owner: Signer, account: Pubkey, heir: Pubkey) -> Instruction:
    return Instruction(mint.program, b"\x09", [_writable(account), _writable(heir), _readonly(owner.key, signer=True)])


def _attest(signer: Signer, text: bytes) -> Instruction:
    # One signature over `text`, all of it in this instruction's data (index 0xffff): offsets, key, signature, text.
    offsets = struct.pack("<BxHHHHHHH", 1, 48, 0xFFFF, 16, 0xFFFF, 112, len(text), 0xFFFF)
    return Instruction(ED25519, offsets + bytes(signer.key) + bytes(signer.keypair.sign_message(text)) + text, [])


def _sign(message: Message | MessageV0, signers: Sequence[Signer]) -> VersionedTransaction:
    # What solders' own `to_bytes_versioned` gives, which takes seven times as long.
    signed = b"\x80" + bytes(message) if isinstance(message, MessageV0) else bytes(message)
    if len(signers) > 1:
        order = message.account_keys[: message.header.num_required_signatures]
        signers = sorted(signers, key=lambda signer: order.index(signer.key))
    return VersionedTransaction.populate(message, [signer.keypair.sign_message(signed) for signer in signers])


def _tower_sync(slots: Sequence[int], root: int | None, bank_hash: Hash, time: int) -> bytes:
    """A vote for `slots`, oldest first: each as a varint from the one before, and its confirmations."""
    data = bytearray(struct.pack("<IQB", 14, 2**64 - 1 if root is None else root, len(slots)))
    last = root or 0
    for confirmations, slot in zip(range(len(slots), 0, -1), slots, strict=True):
        offset, last = slot - last, slot
        while offset > 127:
            data.append(offset & 127 | 128)
            offset >>= 7
        data += bytes((offset, confirmations))
    return bytes(data) + bytes(bank_hash) + b"\1" + struct.pack("<q", time) + bytes(bank_hash)


TrafficState = tuple[tuple[Signer, Mint], ...]
"""What traffic remembers from slot to slot: the guests that may leave."""


class Traffic:
    """Wallets and validators drawn from a seed, and the transactions they sign.

    Attributes:
        validators: leaders and voters.
        wallets: holders of SOL and of every mint.
        treasury: authority of the mints, with SOL for whoever needs some.
    """

    def __init__(self, seed: bytes, svm: LiteSVM) -> None:
        def signer(*name: object) -> Signer:
            return Signer.from_seed(hashlib.sha256(seed + repr(name).encode()).digest())

        self.validators = [Validator(signer("identity", n), signer("vote", n)) for n in range(VALIDATORS)]
        self._svm = svm
        self.treasury = signer("treasury")
        self.wallets = [signer("wallet", n) for n in range(WALLETS)]
        self._whales = self.wallets[:2]
        self._mints = [
            Mint(signer("mint", 0), TOKEN, 6, 10**15),
            Mint(signer("mint", 1), TOKEN, 9, 10**17),
            Mint(signer("mint", 2), TOKEN, 0, 10**5),
            Mint(signer("mint", 3), TOKEN_2022, 6, 10**14, fee_basis_points=150),
            Mint(signer("mint", 4), TOKEN_2022, 9, 10**16),
        ]
        # Its whole supply is almost 2^64 - 1, and one of the whales holds more than half of it.
        self._vast = Mint(signer("mint", 5), TOKEN, 5, 0)
        self._guests: list[tuple[Signer, Mint]] = []
        self._accounts = {(wallet.key, mint.key): _token_account(wallet.key, mint) for mint in self._mints for wallet in self.wallets}
        addresses = [mint.key for mint in self._mints] + [wallet.key for wallet in self.wallets] + list(self._accounts.values())
        self._table = AddressLookupTableAccount(signer("table").key, addresses)
        # Weights add up to 200: with the votes that come too late, about 6 % of all transactions fail.
        self._plans: dict[Callable[[random.Random], Plan], int] = {
            self._transfer_sol: 40,
            self._transfer_tokens: 52,
            self._welcome: 14,
            self._leave: 10,
            self._fund_wallet: 10,
            self._create_account: 6,
            self._mint_tokens: 10,
            self._burn_tokens: 8,
            self._swap: 12,
            self._pay_many: 8,
            self._write_memo: 6,
            self._ask_amount: 2,
            self._attest: 4,
            self._launch_mint: 3,
            self._move_the_vast: 4,
            self._fail: 11,
        }

    @property
    def state(self) -> TrafficState:
        """What the next slots depend on besides accounts; set it to go on from an earlier one."""
        return tuple(self._guests)

    @state.setter
    def state(self, state: TrafficState) -> None:
        self._guests = list(state)

    def genesis_accounts(self) -> Iterator[tuple[Pubkey, Account]]:
        """Accounts that exist before the first transaction: holders of SOL, and the lookup table."""
        for number, wallet in enumerate(self.wallets):
            yield wallet.key, Account((number + 1) ** 3 * 1_000 * _SOL, b"", SYSTEM_PROGRAM)
        for validator in self.validators:
            yield validator.identity.key, Account(5_000 * _SOL, b"", SYSTEM_PROGRAM)
        yield self.treasury.key, Account(10_000_000 * _SOL, b"", SYSTEM_PROGRAM)
        # State of a table that is never deactivated and was last extended in slot 0 (address lookup table program).
        data = struct.pack("<IQQBB32sxx", 1, 2**64 - 1, 0, 0, 1, bytes(self.treasury.key))
        data += b"".join(bytes(address) for address in self._table.addresses)
        yield self._table.key, Account(self._rent(len(data)), data, LOOKUP_TABLE_PROGRAM)

    def genesis_transactions(self, blockhash: Hash) -> Iterator[VersionedTransaction]:
        """What sets up vote accounts, mints and token accounts; these transactions are in no block."""

        def sign(instructions: list[Instruction], *signers: Signer) -> VersionedTransaction:
            return _sign(Message.new_with_blockhash(instructions, signers[0].key, blockhash), signers)

        for identity, vote in self.validators:
            authority = bytes(identity.key)
            accounts = [_writable(vote.key), _readonly(sysvar.RENT), _readonly(sysvar.CLOCK), _readonly(identity.key, signer=True)]
            initialize = Instruction(VOTE_PROGRAM, struct.pack("<I32s32s32sB", 0, authority, authority, authority, 5), accounts)
            yield sign([_create(identity, vote, self._rent(VOTE_ACCOUNT_BYTES), VOTE_ACCOUNT_BYTES, VOTE_PROGRAM), initialize], identity, vote)
        for mint in (*self._mints, self._vast):
            yield sign(self._new_mint(mint), self.treasury, mint.signer)
            holders = self.wallets if mint.held else self._whales
            for wallet in holders:
                held = mint.held or (2**64 - 1) // 8 * (7 if wallet is self._whales[0] else 1)
                account = _token_account(wallet.key, mint)
                yield sign([_open(self.treasury, wallet.key, mint), _mint_to(mint, self.treasury, account, held)], self.treasury)

    def grant(self, key: Pubkey, lamports: int, blockhash: Hash, number: int) -> VersionedTransaction:
        """A transfer from the treasury; `number` tells apart those that are otherwise alike."""
        instructions = [set_compute_unit_price(number), _pay(self.treasury, key, lamports)]
        return _sign(Message.new_with_blockhash(instructions, self.treasury.key, blockhash), [self.treasury])

    def transactions(self, count: int, draw: bytes, slot: int, tower: Sequence[int], previous: Hash, time: int) -> list[VersionedTransaction]:
        """The slot's signed transactions, `count` of them.

        Args:
            count: how many.
            draw: 32 random bytes of this slot.
            slot: the slot they are for.
            tower: slots of the blocks since the chain began, newest first: what validators vote for.
            previous: hash of the parent block, which every transaction names as recent.
            time: Unix time of the slot, which votes carry.
        """
        rng = random.Random(draw)  # noqa: S311 - the same seed must give the same traffic
        voters = self.validators[: count // VOTE_SHARE] if tower else []
        signed = [self._vote(rng, voter, tower, previous, time) for voter in voters]
        for plan in rng.choices(list(self._plans), list(self._plans.values()), k=count - len(voters)):
            instructions, signers = plan(rng)
            if plan != self._fail and rng.randrange(4):
                limit = set_compute_unit_limit(rng.choice((120_000, 200_000, 400_000)))
                price = set_compute_unit_price(_spread(rng, 0, 20))
                instructions = [limit, price, *instructions]
            payer = signers[0].key
            shape = rng.randrange(20)
            if shape < 9:
                message = Message.new_with_blockhash(instructions, payer, previous)
            else:
                # A table serves from the slot after its last extension; it was filled in slot 0.
                message = MessageV0.try_compile(payer, instructions, [self._table] if slot and shape < 17 else [], previous)
            signed.append(_sign(message, signers))
        rng.shuffle(signed)
        return signed

    def _vote(self, rng: random.Random, voter: Validator, tower: Sequence[int], previous: Hash, time: int) -> VersionedTransaction:
        if len(tower) > 1 and rng.randrange(30) == 0:
            tower = tower[1:]  # too old: the vote for it has landed before
        root = tower[LOCKOUTS] if len(tower) > LOCKOUTS else None
        data = _tower_sync(tower[LOCKOUTS - 1 :: -1] if len(tower) >= LOCKOUTS else tower[::-1], root, previous, time)
        instruction = Instruction(VOTE_PROGRAM, data, [_writable(voter.vote.key), _readonly(voter.identity.key, signer=True)])
        return _sign(Message.new_with_blockhash([instruction], voter.identity.key, previous), [voter.identity])

    def _rent(self, size: int) -> int:
        return int(self._svm.minimum_balance_for_rent_exemption(size))

    def _tokens(self, account: Pubkey) -> int:
        state = self._svm.get_account(account)
        return int.from_bytes(state.data[64:72], "little") if state else 0

    def _new_mint(self, mint: Mint) -> list[Instruction]:
        authority, key = bytes(self.treasury.key), mint.key
        size = FEE_MINT_BYTES if mint.fee_basis_points else MINT_BYTES
        instructions = [_create(self.treasury, mint.signer, self._rent(size), size, mint.program)]
        if mint.fee_basis_points:
            # Both authorities given (tag 1), the fee, and no upper limit to it.
            fee = struct.pack("<BBB32sB32sHQ", 26, 0, 1, authority, 1, authority, mint.fee_basis_points, 2**64 - 1)
            instructions.append(Instruction(mint.program, fee, [_writable(key)]))
        return [*instructions, Instruction(mint.program, struct.pack("<BB32sB", 20, mint.decimals, authority, 0), [_writable(key)])]

    def _draw_tokens(self, rng: random.Random) -> tuple[Mint, Signer, Signer, int]:
        """A mint, two wallets, and an amount the first one has."""
        mint = rng.choice(self._mints)
        source, destination = rng.sample(self.wallets, 2)
        held = self._tokens(self._accounts[source.key, mint.key])
        return mint, source, destination, min(_spread(rng, 1, held.bit_length()), held)

    def _transfer_sol(self, rng: random.Random) -> Plan:
        source, destination = rng.sample(self.wallets, 2)
        return [_pay(source, destination.key, _spread(rng, 1, 40))], [source]

    def _transfer_tokens(self, rng: random.Random) -> Plan:
        mint, source, destination, amount = self._draw_tokens(rng)
        accounts = self._accounts[source.key, mint.key], self._accounts[destination.key, mint.key]
        checked = bool(mint.fee_basis_points) or rng.randrange(3) > 0
        give = _give(mint, source, *accounts, amount, checked=checked)
        remark = [_memo(rng.choice(_MEMOS).encode(), source)] if rng.randrange(6) == 0 else []
        return [*remark, give], [source]

    def _welcome(self, rng: random.Random) -> Plan:
        """Tokens to somebody new, who stays until `_leave`."""
        mint, source, _, amount = self._draw_tokens(rng)
        guest = Signer.from_seed(rng.randbytes(32))
        self._guests.append((guest, mint))
        account = _token_account(guest.key, mint)
        give = _give(mint, source, self._accounts[source.key, mint.key], account, amount)
        return [_open(source, guest.key, mint, idempotent=rng.randrange(2) == 0), give], [source]

    def _leave(self, rng: random.Random) -> Plan:
        """A guest returns or burns all it has and closes its account; a withheld fee makes that fail."""
        if not self._guests:
            return self._transfer_sol(rng)
        guest, mint = self._guests.pop(0)
        host = rng.choice(self.wallets)
        account = _token_account(guest.key, mint)
        held = self._tokens(account)
        back = self._accounts[host.key, mint.key]
        empty = _give(mint, guest, account, back, held) if rng.randrange(2) else _burn(mint, guest, account, held)
        return [empty, _close(mint, guest, account, host.key)], [host, guest]

    def _fund_wallet(self, rng: random.Random) -> Plan:
        source = rng.choice(self.wallets)
        return [_pay(source, Pubkey(rng.randbytes(32)), self._rent(0) + _spread(rng, 1, 34))], [source]

    def _create_account(self, rng: random.Random) -> Plan:
        source, key, size = rng.choice(self.wallets), Signer.from_seed(rng.randbytes(32)), _spread(rng, 1, 10)
        return [_create(source, key, self._rent(size), size, SYSTEM_PROGRAM)], [source, key]

    def _mint_tokens(self, rng: random.Random) -> Plan:
        mint, wallet, _, amount = self._draw_tokens(rng)
        return [_mint_to(mint, self.treasury, self._accounts[wallet.key, mint.key], amount)], [self.treasury]

    def _burn_tokens(self, rng: random.Random) -> Plan:
        mint, wallet, _, amount = self._draw_tokens(rng)
        return [_burn(mint, wallet, self._accounts[wallet.key, mint.key], amount)], [wallet]

    def _swap(self, rng: random.Random) -> Plan:
        """SOL one way, tokens the other, signed by both."""
        (sale, signers), buyer = self._transfer_tokens(rng), rng.choice(self.wallets)
        return [_pay(buyer, signers[0].key, _spread(rng, 1, 32)), *sale], [buyer] + [signer for signer in signers if signer != buyer]

    def _pay_many(self, rng: random.Random) -> Plan:
        payer, *staff = rng.sample(self.wallets, 7)
        return [_pay(payer, member.key, _spread(rng, 20, 33)) for member in staff], [payer]

    def _write_memo(self, rng: random.Random) -> Plan:
        signers = rng.sample(self.wallets, rng.randrange(1, 4))
        return [_memo(rng.choice(_MEMOS).encode(), *signers)], signers

    def _ask_amount(self, rng: random.Random) -> Plan:
        """amountToUiAmount: the program answers in the return data."""
        mint, wallet, _, amount = self._draw_tokens(rng)
        return [Instruction(mint.program, struct.pack("<BQ", 23, amount), [_readonly(mint.key)])], [wallet]

    def _attest(self, rng: random.Random) -> Plan:
        payer, witness = rng.sample(self.wallets, 2)
        text = rng.choice(_MEMOS).encode()
        return [_attest(witness, text), _memo(text, payer)], [payer]

    def _launch_mint(self, rng: random.Random) -> Plan:
        mint = Mint(Signer.from_seed(rng.randbytes(32)), rng.choice((TOKEN, TOKEN_2022)), rng.randrange(10), _spread(rng, 30, 63))
        owner = rng.choice(self.wallets).key
        account = _token_account(owner, mint)
        issue = [_open(self.treasury, owner, mint), _mint_to(mint, self.treasury, account, mint.held)]
        return [*self._new_mint(mint), *issue], [self.treasury, mint.signer]

    def _move_the_vast(self, rng: random.Random) -> Plan:
        held = {whale: self._tokens(_token_account(whale.key, self._vast)) for whale in self._whales}
        source, destination = sorted(self._whales, key=lambda whale: -held[whale])
        accounts = _token_account(source.key, self._vast), _token_account(destination.key, self._vast)
        return [_give(self._vast, source, *accounts, held[source] - _spread(rng, 1, 61))], [source]

    def _fail(self, rng: random.Random) -> Plan:
        """One of the ways in which transactions on mainnet fail, and still pay their fee."""
        mint, source, other, amount = self._draw_tokens(rng)
        mine, theirs = self._accounts[source.key, mint.key], self._accounts[other.key, mint.key]
        too_much = _give(mint, source, mine, theirs, self._tokens(mine) * 2 + 1)
        seed = rng.randbytes(32)

        def stranger() -> Pubkey:
            return Signer.from_seed(seed).key

        ways: list[Callable[[], Plan]] = [
            lambda: ([_pay(source, other.key, 10**17)], [source]),
            lambda: ([too_much], [source]),
            lambda: ([_create(source, other, self._rent(0), 0, SYSTEM_PROGRAM)], [source, other]),
            lambda: ([_give(mint, source, theirs, mine, amount)], [source]),
            lambda: ([_pay(source, stranger(), 5)], [source]),
            lambda: ([_memo(b"\xff not UTF-8", source)], [source]),
            lambda: ([set_compute_unit_limit(400), _memo(_MEMOS[6].encode(), source)], [source]),
            lambda: ([_open(source, stranger(), mint), _pay(source, other.key, amount), too_much], [source]),
        ]
        return rng.choice(ways)()


def _spread(rng: random.Random, fewest: int, most: int) -> int:
    """A number of `fewest` to `most` bits, every width as likely."""
    return rng.getrandbits(rng.randint(fewest, max(fewest, most)) or 1) | 1
