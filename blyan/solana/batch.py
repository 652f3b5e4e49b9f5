"""A batch of transactions as flat arrays: who they are, and every account of each.

Belongs here: signatures, accounts, who signs and who writes. Does not belong here: instructions
(`blyan.solana.instructions`) or tables (`blyan.solana.normalise`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blyan import schemas
from blyan.errors import BadRecordError
from blyan.solana import base58, programs
from blyan.solana.columns import (
    Codes,
    Ints,
    Mask,
    coded,
    counts_column,
    interleave,
    mask_of,
    numbers,
    offsets_of,
    positions,
    repeat_index,
    strings,
    take,
    texts,
    values_of,
)
from blyan.solana.decode import UNTOLD, Block, Kind, LoadedAddresses, Message, Meta, Transaction, Wire
from blyan.solana.scan import objects

MAX_ACCOUNTS = 256
"""Accounts a transaction can name: instructions index them with one byte."""

PRECOMPILES = (
    "Ed25519SigVerify111111111111111111111111111",
    "KeccakSecp256k11111111111111111111111111111",
    "Secp256r1SigVerify1111111111111111111111111",
)
"""Programs that verify signatures, each charged as one of the transaction's own; the first byte of data counts them."""

RESERVED_ACCOUNTS = frozenset(
    (
        programs.SYSTEM, programs.VOTE, programs.STAKE, programs.COMPUTE_BUDGET, programs.ADDRESS_LOOKUP_TABLE,
        programs.BPF_LOADER_1, programs.BPF_LOADER_2, programs.BPF_UPGRADEABLE_LOADER, *PRECOMPILES,
        "Config1111111111111111111111111111111111111", "Feature111111111111111111111111111111111111",
        "LoaderV411111111111111111111111111111111111", "NativeLoader1111111111111111111111111111111",
        "StakeConfig11111111111111111111111111111111", "Sysvar1111111111111111111111111111111111111",
        "SysvarC1ock11111111111111111111111111111111", "SysvarEpochRewards1111111111111111111111111",
        "SysvarEpochSchedu1e111111111111111111111111", "SysvarFees111111111111111111111111111111111",
        "Sysvar1nstructions1111111111111111111111111", "SysvarLastRestartS1ot1111111111111111111111",
        "SysvarRecentB1ockHashes11111111111111111111", "SysvarRent111111111111111111111111111111111",
        "SysvarRewards111111111111111111111111111111", "SysvarS1otHashes111111111111111111111111111",
        "SysvarS1otHistory11111111111111111111111111", "SysvarStakeHistory1111111111111111111111111",
        "ZkE1Gama1Proof11111111111111111111111111111", "ZkTokenProof1111111111111111111111111111111",
    )
)  # fmt: skip
"""Accounts no transaction may write, whatever its message asks: programs of the runtime, and sysvars."""

_NO_META = Meta()
_NO_LOADED = LoadedAddresses()


@dataclass(slots=True)
class Accounts:
    """Every account of every transaction, flat.

    Attributes:
        pool: the distinct accounts; `codes` index it.
        counts: accounts of each transaction; `starts` where they begin.
        static_counts: how many of them the message itself names, before those loaded from tables.
        loaded_writable, loaded_readonly: how many were loaded, in this order.
    """

    pool: pa.StringArray
    codes: Codes
    counts: Ints
    signer: Mask
    writable: Mask
    static_counts: Ints
    loaded_writable: Ints
    loaded_readonly: Ints

    @property
    def starts(self) -> Ints:
        """Offset of each transaction's first account."""
        return offsets_of(self.counts)[:-1]


@dataclass
class Batch:
    """Transactions of some blocks of one kind, as flat arrays.

    Attributes:
        block_of: the block of each transaction, as a position in `blocks`.
        index: position of each transaction in its block.
        no_meta: True for transactions whose metadata was not recorded.
        untold: True for those whose version the source does not tell; `versioned` for those of version 0.
    """

    blocks: Sequence[Block]
    transactions: list[Transaction]
    wires: list[Wire]
    metas: list[Meta]
    kind: Kind
    block_of: Codes
    index: Ints
    no_meta: Mask
    signatures: pa.StringArray
    signature_counts: Ints
    first_signature: pa.StringArray
    accounts: Accounts
    untold: Mask
    versioned: Mask

    def __len__(self) -> int:
        return len(self.transactions)

    @cached_property
    def code_of(self) -> dict[str, int]:
        """Code of each account."""
        return {key: code for code, key in enumerate(self.accounts.pool.to_pylist())}

    @cached_property
    def _block_columns(self) -> tuple[Ints, pa.Array, Mask, pa.Array]:
        hashes = [block.block_hash for block in self.blocks]
        return (
            np.array([block.slot for block in self.blocks], np.int64),
            strings([value or "" for value in hashes]),
            np.array([value is None for value in hashes], np.bool_),
            timestamps([block.block_time for block in self.blocks]),
        )

    def header(self, transaction_of: Ints | None = None) -> dict[str, pa.Array]:
        """The columns that every table has, for rows of the given transactions (each once by default)."""
        block_of = self.block_of if transaction_of is None else self.block_of[transaction_of]
        slots, hashes, no_hash, times = self._block_columns
        return {
            "block_slot": counts_column(slots[block_of]),
            "block_hash": coded(block_of, hashes, no_hash[block_of] if no_hash.any() else None),
            "block_timestamp": take(times, block_of),
        }

    def identity(self, transaction_of: Ints) -> dict[str, pa.Array]:
        """The columns by which other tables name their transaction."""
        return {
            "tx_signature": coded(transaction_of, self.first_signature),
            "tx_index": counts_column(self.index[transaction_of]),
        }


def timestamps(seconds: Sequence[int | None]) -> pa.TimestampArray:
    """A timestamp column of Unix seconds."""
    return pa.array([None if value is None else value * 1_000_000 for value in seconds], pa.int64()).cast(schemas.TIMESTAMP)


def batch_of(blocks: Sequence[Block]) -> Batch:
    """Flatten the transactions of some blocks, at least one.

    Raises:
        BadRecordError: one of them is malformed; which, is for the caller to find.
    """
    kind = blocks[0].kind
    transactions = list(chain.from_iterable([block.transactions for block in blocks]))
    wires: list[Wire] = [transaction.transaction for transaction in transactions]  # type: ignore[misc]
    metas = [transaction.meta or _NO_META for transaction in transactions]
    signatures, signature_counts = _signatures(wires, kind)
    if signature_counts.min() < 1:
        raise BadRecordError("a transaction has no signature", reason="missing_signature")
    lengths = np.diff(np.frombuffer(signatures.buffers()[1], np.int32)[: len(signatures) + 1])
    # 64 bytes are 64 to 88 characters of base58.
    if lengths.min() < 64 or lengths.max() > 88:
        raise BadRecordError("a signature is not 64 bytes of base58", reason="missing_signature")
    versions = [transaction.version for transaction in transactions]
    for version in set(versions):
        if version not in (None, 0, "legacy", UNTOLD):
            raise BadRecordError(f"transaction version {version!r} is not known", reason="unknown_version")
    accounts = _parsed_accounts(wires) if kind is Kind.PARSED else _compiled_accounts(wires, metas, kind, signature_counts)
    if accounts.counts.max(initial=0) > MAX_ACCOUNTS:
        raise BadRecordError(f"a transaction names more than {MAX_ACCOUNTS} accounts", reason="too_many_accounts")
    return Batch(
        blocks=blocks,
        transactions=transactions,
        wires=wires,
        metas=metas,
        kind=kind,
        block_of=repeat_index(np.array([len(block.transactions) for block in blocks], np.int64)).astype(np.int32),
        index=np.array([transaction.index for transaction in transactions], np.int64),
        no_meta=np.array([transaction.meta is None for transaction in transactions], np.bool_),
        signatures=signatures,
        signature_counts=signature_counts,
        first_signature=take(signatures, offsets_of(signature_counts)[:-1]),
        accounts=accounts,
        untold=np.array([version == UNTOLD for version in versions], np.bool_) if UNTOLD in versions else np.zeros(len(transactions), np.bool_),
        versioned=np.array([version == 0 for version in versions], np.bool_) if 0 in versions else np.zeros(len(transactions), np.bool_),
    )


def _signatures(wires: list[Wire], kind: Kind) -> tuple[pa.StringArray, Ints]:
    blobs = [wire.signatures for wire in wires]
    if kind is not Kind.BINARY:
        return texts(blobs)
    joined = b"".join(blobs)
    return strings(base58.encode_signatures([joined[at : at + 64] for at in range(0, len(joined), 64)])), np.fromiter(
        map(len, blobs), np.int64, len(blobs)
    ) // 64


class _ParsedKey(msgspec.Struct, gc=False):
    pubkey: str
    signer: bool
    writable: bool
    source: str | None = None


_decode_keys = msgspec.json.Decoder(list[list[_ParsedKey]]).decode


def _alike_keys(text: bytes) -> list[bytes]:
    arrays = _decode_keys(text)
    for key in chain.from_iterable(arrays):
        key.source = key.source or ""
    return [msgspec.json.encode(array) for array in arrays]


def _parsed_accounts(wires: list[Wire]) -> Accounts:
    """Keys as objects that already tell who signs and writes."""
    raws = [wire.account_keys if wire.message is None else wire.message.account_keys for wire in wires]
    keys = objects(raws, ("pubkey", "source"), _alike_keys)
    counts, signer, writable = keys.counts, keys.flags("signer"), keys.flags("writable")
    pool = keys.strings("pubkey").dictionary_encode()
    loaded = mask_of(pc.equal(keys.strings("source"), "lookupTable")) if "source" in keys else np.zeros(len(keys), np.bool_)
    static_counts, loaded_writable = counts, np.zeros(len(wires), np.int64)
    if loaded.any():
        owner = repeat_index(counts)
        static_counts = np.bincount(owner[~loaded], minlength=len(wires))
        # A reserved account loaded as writable is shown as read-only, so the lookups decide where they are given.
        loaded_writable = np.bincount(owner[loaded & writable], minlength=len(wires))
        for at, wire in enumerate(wires):
            if wire.message and wire.message.address_table_lookups:
                loaded_writable[at] = numbers([table.writable_indexes for table in wire.message.address_table_lookups])[1].sum()
    return Accounts(
        pool.dictionary, values_of(pool.indices), counts, signer, writable, static_counts, loaded_writable, counts - static_counts - loaded_writable
    )


def _compiled_accounts(wires: list[Wire], metas: list[Meta], kind: Kind, signature_counts: Ints) -> Accounts:
    """Keys as text or bytes, and a header that tells who signs and writes."""
    messages: list[Message] = [wire.message for wire in wires]  # type: ignore[misc]
    loaded = [meta.loaded_addresses or _NO_LOADED for meta in metas]
    if kind is Kind.BINARY:
        blobs = [message.account_keys for message in messages]
        static_counts = np.fromiter(map(len, blobs), np.int64, len(blobs)) // 32
        joined = pa.py_buffer(b"".join(blobs))
        static = pa.Array.from_buffers(pa.binary(32), joined.size // 32, [None, joined]).dictionary_encode()
        keys = strings(base58.encode_keys(static.dictionary.to_pylist()))
        if any(item is not _NO_LOADED for item in loaded):
            loaded_keys, loaded_counts = texts([item.writable for item in loaded] + [item.readonly for item in loaded])
            keys = pa.concat_arrays([keys, loaded_keys])
        else:
            loaded_counts = np.zeros(2 * len(wires), np.int64)
        pool = keys.dictionary_encode()
        of_all = values_of(pool.indices)
        of_each = [of_all[values_of(static.indices)], of_all[len(static.dictionary) :]]
    else:
        raws = [message.account_keys for message in messages]
        if any(item is not _NO_LOADED for item in loaded):
            raws += [item.writable for item in loaded] + [item.readonly for item in loaded]
        keys, key_counts = texts(raws)
        static_counts, loaded_counts = key_counts[: len(wires)], key_counts[len(wires) :]
        if not len(loaded_counts):
            loaded_counts = np.zeros(2 * len(wires), np.int64)
        pool = keys.dictionary_encode()
        of_each = np.split(values_of(pool.indices), [int(static_counts.sum())])
    writable_counts, readonly_counts = np.split(loaded_counts, 2)
    if len(of_each[1]):
        of_writable, of_readonly = np.split(of_each[1], [int(writable_counts.sum())])
        codes, counts = interleave([(of_each[0], static_counts), (of_writable, writable_counts), (of_readonly, readonly_counts)])
    else:
        codes, counts = of_each[0], static_counts
    headers = np.array(
        [
            number
            for message in messages
            for number in (
                message.header.num_required_signatures,  # type: ignore[union-attr]
                message.header.num_readonly_signed_accounts,  # type: ignore[union-attr]
                message.header.num_readonly_unsigned_accounts,  # type: ignore[union-attr]
            )
        ],
        np.int64,
    ).reshape(-1, 3)
    signed, readonly_signed, readonly_unsigned = headers[:, 0], headers[:, 1], headers[:, 2]
    if ((signed > static_counts) | (readonly_signed > signed) | (readonly_unsigned > static_counts - signed) | (headers < 0).any(axis=1)).any():
        raise BadRecordError("a message header counts more accounts than the message has", reason="bad_header")
    if (signed != signature_counts).any():
        raise BadRecordError("a transaction has more or fewer signatures than its message asks for", reason="missing_signature")
    place = positions(counts)
    signed_at, static_at = np.repeat(signed, counts), np.repeat(static_counts, counts)
    writable = (place < np.repeat(signed - readonly_signed, counts)) | (
        (place >= signed_at) & (place < np.repeat(static_counts - readonly_unsigned, counts))
    )
    if writable_counts.any():
        writable |= (place >= static_at) & (place < np.repeat(static_counts + writable_counts, counts))
    return Accounts(pool.dictionary, codes, counts, place < signed_at, writable, static_counts, writable_counts, readonly_counts)


def demote_writable(batch: Batch, transaction_of: Ints, program_index: Ints) -> None:
    """Reserved accounts and invoked programs are not writable, whatever the message asks (Agave's `is_maybe_writable`).

    Args:
        batch: changed in place.
        transaction_of: the transaction of each outer instruction.
        program_index: position of its program among the transaction's accounts.
    """
    accounts = batch.accounts
    reserved = np.zeros(len(accounts.pool), np.bool_)
    reserved[[code for code in map(batch.code_of.get, RESERVED_ACCOUNTS) if code is not None]] = True
    called = np.zeros(len(accounts.codes), np.bool_)
    called[accounts.starts[transaction_of] + program_index] = True
    loader = batch.code_of.get(programs.BPF_UPGRADEABLE_LOADER)
    if loader is not None:
        # A transaction that upgrades programs may write to them.
        owner = repeat_index(accounts.counts)
        called &= np.bincount(owner[accounts.codes == loader], minlength=len(batch))[owner] == 0
    accounts.writable = accounts.writable & ~reserved[accounts.codes] & ~called
