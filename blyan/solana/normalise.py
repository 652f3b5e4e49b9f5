"""Decoded blocks to the six tables, column by column.

Belongs here: what each column of `blyan.schemas.NORMALISED` is computed from. Does not belong here: reading bytes
(`blyan.solana.decode`), accounts (`blyan.solana.batch`), instructions (`blyan.solana.instructions`), or storage.

A batch of blocks becomes flat arrays: every account of every transaction, every instruction, every balance, one
after the other, with counts. All columns are then gathers and masks over those arrays. What costs Python time is
done once per distinct value: a block of 2,677 votes has 38 different vote instructions. Text that repeats is coded:
an integer per row into a pool of distinct strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Raw

from blyan import schemas
from blyan.errors import BadRecordError
from blyan.solana import programs
from blyan.solana.batch import MAX_ACCOUNTS, PRECOMPILES, Batch, batch_of, timestamps
from blyan.solana.columns import (
    U64,
    Codes,
    Ints,
    Mask,
    any_texts,
    coded,
    counts_column,
    decimals,
    flags,
    lists,
    numbers,
    octets,
    optional_counts,
    positions,
    ragged,
    repeat_index,
    strings,
    structs,
    take,
    unsigned,
    values_of,
)
from blyan.solana.decode import BadTransaction, Block, Kind, Lookup, Meta, TokenBalance, Transaction, binary_message, reason_of
from blyan.solana.instructions import KEY, NOBODY, Instructions, data_column, instructions_of, params_column
from blyan.solana.scan import objects
from blyan.solana.transaction_error import describe

LAMPORTS_PER_SIGNATURE = 5_000
"""Base fee of a signature, fixed since 2020 (Solana documentation, fee structure)."""

NATIVE_MINT = "So11111111111111111111111111111111111111112"
NATIVE_DECIMALS = 9

_MALFORMED = (BadRecordError, OverflowError, pa.ArrowInvalid, msgspec.DecodeError, UnicodeError)
"""What a transaction that is not what it should be makes the columns raise."""


def normalise(blocks: Sequence[Block]) -> dict[str, pa.Table]:
    """The six tables of some blocks, rows in key order; bad transactions move to their block's `bad`.

    Args:
        blocks: in slot order.

    Returns:
        A table for each name in `schemas.NORMALISED`. Text columns that repeat are dictionary-encoded; otherwise the
        types are the schema's.
    """
    parts = [_sift(run) for run in _runs(blocks)]
    tables = {}
    for table in schemas.NORMALISED:
        if table is schemas.BLOCKS:
            tables[table.name] = _blocks_table(blocks)
        elif table is schemas.BLOCK_REWARDS:
            tables[table.name] = _rewards_table(blocks)
        else:
            pieces = [part[table.name] for part in parts if table.name in part]
            joined = pieces[0] if len(pieces) == 1 else pa.concat_tables(_same_types(pieces)) if pieces else table.arrow_schema().empty_table()
            tables[table.name] = joined
    return tables


def _same_types(pieces: list[pa.Table]) -> list[pa.Table]:
    """Runs of different kinds may code a column in one and not in the other."""
    schema = pieces[0].schema
    return [piece if piece.schema.equals(schema) else piece.cast(schema) for piece in pieces]


def _runs(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Blocks in a row that are written the same way."""
    run: list[Block] = []
    for block in blocks:
        if run and (block.kind, block.detail) != (run[0].kind, run[0].detail):
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def _sift(blocks: list[Block]) -> dict[str, pa.Table]:
    """Normalise a run; where that fails, find the transactions to blame by halving, and leave them out."""
    if blocks[0].detail == "signatures":
        return {schemas.TRANSACTIONS.name: _signatures_only(blocks)}
    try:
        return _normalise_rows(blocks)
    except _MALFORMED:
        _blame(blocks)
    return _normalise_rows(blocks)


def _blame(blocks: list[Block]) -> None:
    """Move the transactions that cannot be normalised to their block's `bad`."""
    bad: set[int] = set()
    pending = [(block, 0, len(block.transactions)) for block in blocks]
    while pending:
        block, start, stop = pending.pop()
        try:
            _normalise_rows([msgspec.structs.replace(block, transactions=block.transactions[start:stop])])
        except _MALFORMED as error:
            if stop - start > 1:
                middle = (start + stop) // 2
                pending += [(block, middle, stop), (block, start, middle)]
                continue
            transaction = block.transactions[start]
            block.bad.append(BadTransaction(transaction.index, reason_of(error), str(error), _as_json(transaction)))
            bad.add(id(transaction))
    for block in blocks:
        block.transactions = [transaction for transaction in block.transactions if id(transaction) not in bad]


def _as_json(transaction: Transaction) -> bytes:
    """The transaction as text again, near enough to its bytes to find and repair it."""
    if binary_message(transaction) is not None:
        return repr(transaction).encode()
    return msgspec.json.encode(transaction)


def _normalise_rows(blocks: Sequence[Block]) -> dict[str, pa.Table]:
    if not any(block.transactions for block in blocks):
        return {}
    batch = batch_of(blocks)
    instructions = instructions_of(batch) if blocks[0].detail == "full" else None
    outcome = _outcome(batch.metas)
    balances = _balances(batch)
    tokens = _token_balances(batch)
    tables = {
        schemas.TRANSACTIONS.name: _transactions_columns(batch, instructions, outcome, balances, tokens),
        schemas.BALANCE_CHANGES.name: _balance_changes_columns(batch, balances, tokens),
    }
    if instructions is not None:
        tables[schemas.INSTRUCTIONS.name] = _instructions_columns(batch, instructions)
        tables[schemas.TOKEN_TRANSFERS.name] = _token_transfers_columns(batch, instructions, outcome, tokens)
    return {name: pa.table([columns[column] for column in _COLUMNS[name]], _COLUMNS[name]) for name, columns in tables.items()}


_COLUMNS = {table.name: table.column_names for table in schemas.NORMALISED}


@dataclass(slots=True)
class _Outcome:
    """How transactions ended: 0 for success, else a row of `texts` and `jsons`."""

    codes: Codes
    texts: list[str]
    jsons: list[str | None]

    def status(self, no_meta: Mask, transaction_of: Ints | None = None) -> pa.DictionaryArray:
        failed = np.minimum(self.codes, 1)
        if transaction_of is not None:
            failed, no_meta = failed[transaction_of], no_meta[transaction_of]
        return coded(failed, strings(["Success", "Fail"]), no_meta)

    def column(self, values: list[str | None] | list[str]) -> pa.DictionaryArray:
        absent = np.array([value is None for value in values], np.bool_)[self.codes] | (self.codes == 0)
        return coded(self.codes, strings([value or "" for value in values]), absent)


def _outcome(metas: list[Meta]) -> _Outcome:
    codes = np.zeros(len(metas), np.int32)
    outcome = _Outcome(codes, [""], [None])
    known: dict[str, int] = {}
    for at in [at for at, meta in enumerate(metas) if meta.err is not None or meta.error_text is not None]:
        error, text = metas[at].err, metas[at].error_text
        json = None if error is None else programs.to_json(error)
        code = known.setdefault(text or json or "", len(known) + 1)
        if code == len(outcome.texts):
            outcome.texts.append(text if text is not None else describe(error))
            outcome.jsons.append(json)
        codes[at] = code
    return outcome


@dataclass(slots=True)
class _Balances:
    """Lamports before and after, of every account of every transaction that recorded them."""

    before: U64
    after: U64
    counts: Ints


def _balances(batch: Batch) -> _Balances:
    values, both = numbers([meta.pre_balances for meta in batch.metas] + [meta.post_balances for meta in batch.metas])
    counts, after_counts = both[: len(batch)], both[len(batch) :]
    before, after = np.split(values, [int(counts.sum())])
    if ((counts != after_counts) | ((counts != batch.accounts.counts) & ~batch.no_meta)).any():
        raise BadRecordError("a transaction has more or fewer balances than accounts", reason="balance_count")
    return _Balances(before, after, counts)


@dataclass(slots=True)
class _TokenBalances:
    """Token balances, flat: those before, of all transactions, and then those after.

    Attributes:
        pool: the accounts' own, and after them mints and owners that are no account; `mint` and `owner` index it.
        counts, absent: balances of each transaction before, then after; absent where they were not recorded.
        split: where those after begin.
    """

    pool: pa.StringArray
    code_of: dict[str, int]
    transaction_of: Ints
    counts: Ints
    absent: Mask
    account_index: Ints
    mint: Codes
    owner: Codes
    no_owner: Mask
    amount: U64
    decimals: Ints
    split: int

    def columns(self) -> dict[str, pa.ListArray]:
        """The two columns of `transactions`."""
        values = structs(
            account_index=counts_column(self.account_index),
            mint=coded(self.mint, self.pool),
            owner=coded(self.owner, self.pool, self.no_owner),
            amount=decimals(self.amount),
            decimals=counts_column(self.decimals),
        )
        both, size = lists(self.counts, values, self.absent), len(self.counts) // 2
        return {"pre_token_balances": both[:size], "post_token_balances": both[size:]}


def _token_balances(batch: Batch) -> _TokenBalances:
    each = [meta.pre_token_balances for meta in batch.metas] + [meta.post_token_balances for meta in batch.metas]
    recorded, absent = _recorded(each)
    items = objects(recorded, ("mint", "owner", "uiTokenAmount.amount"), _alike_token_balances)
    counts = np.zeros(len(each), np.int64)
    counts[~absent] = items.counts
    transaction_of = repeat_index(counts) % len(batch)
    account_index, no_index = items.integers("accountIndex")
    if (no_index | (account_index < 0) | (account_index >= batch.accounts.counts[transaction_of])).any():
        raise BadRecordError("a token balance names an account outside the accounts", reason="account_index")
    places, no_places = items.integers("uiTokenAmount.decimals")
    if no_places.any():
        raise BadRecordError("a token balance has no decimals", reason="malformed_transaction")
    owners = items.strings("owner") if "owner" in items else pa.array([""] * len(items), pa.string())
    encoded = pa.concat_arrays([items.strings("mint"), owners]).dictionary_encode()
    code_of = dict(batch.code_of)
    distinct = np.array([code_of.setdefault(name, len(code_of)) for name in encoded.dictionary.to_pylist()], np.int32)
    mint, owner = np.split(distinct[values_of(encoded.indices)], 2)
    pool = batch.accounts.pool
    if len(code_of) > len(pool):
        pool = pa.concat_arrays([pool, strings(list(code_of)[len(pool) :])])
    return _TokenBalances(
        pool=pool,
        code_of=code_of,
        transaction_of=transaction_of,
        counts=counts,
        absent=absent,
        account_index=account_index,
        mint=mint,
        owner=owner,
        no_owner=owner == code_of.get("", -1),
        amount=unsigned(items.strings("uiTokenAmount.amount")),
        decimals=places,
        split=int(counts[: len(batch)].sum()),
    )


_NULL = Raw(b"null")


def _recorded(raws: list[Raw]) -> tuple[list[Raw], Mask]:
    """Those that are neither left out nor null, and True for the others."""
    sizes = np.fromiter(map(len, raws), np.int64, len(raws))
    absent = sizes == 0
    for at in np.flatnonzero(sizes == len(_NULL)).tolist():
        absent[at] = raws[at] == _NULL
    return list(compress(raws, (~absent).tolist())) if absent.any() else raws, absent


_decode_token_balances = msgspec.json.Decoder(list[list[TokenBalance]]).decode


def _alike_token_balances(text: bytes) -> list[bytes]:
    arrays = _decode_token_balances(text)
    for balance in chain.from_iterable(arrays):
        balance.owner = balance.owner or ""
        if not balance.ui_token_amount.amount.isdecimal():
            raise BadRecordError("a token amount is not an integer", reason="not_integers")
    return [msgspec.json.encode(array) for array in arrays]


def _fees(metas: list[Meta]) -> tuple[U64, Mask]:
    fees = [meta.fee for meta in metas]
    nulls = np.array([fee is None for fee in fees], np.bool_)
    return np.array([fee or 0 for fee in fees] if nulls.any() else fees, np.uint64), nulls


def _transactions_columns(
    batch: Batch, instructions: Instructions | None, outcome: _Outcome, balances: _Balances, tokens: _TokenBalances
) -> dict[str, pa.Array]:
    metas, accounts, no_meta = batch.metas, batch.accounts, batch.no_meta
    fees, no_fee = _fees(metas)
    account = coded(accounts.codes, accounts.pool)
    recorded = balances.counts == accounts.counts
    balance_account = account if recorded.all() else account.filter(flags(np.repeat(recorded, accounts.counts)))
    changes = structs(account=balance_account, before=decimals(balances.before), after=decimals(balances.after))
    logs, no_logs = _recorded([meta.log_messages for meta in metas])
    log_counts = np.zeros(len(metas), np.int64)
    log_messages, log_counts[~no_logs] = any_texts(logs)
    blockhashes = [wire.message.recent_blockhash if wire.message else None for wire in batch.wires]
    return (
        batch.header()
        | {
            "recent_block_hash": strings(blockhashes).dictionary_encode(),
            "signature": batch.first_signature,
            "index": counts_column(batch.index),
            "fee": decimals(fees, no_fee),
            "status": outcome.status(no_meta),
            "err": outcome.column(outcome.texts),
            "compute_units_consumed": optional_counts([meta.compute_units_consumed for meta in metas]),
            "accounts": lists(accounts.counts, structs(pubkey=account, signer=flags(accounts.signer), writable=flags(accounts.writable))),
            "log_messages": lists(log_counts, log_messages, no_logs),
            "balance_changes": lists(balances.counts, changes, no_meta),
            "signatures": lists(batch.signature_counts, batch.signatures),
            "error_json": outcome.column(outcome.jsons),
            "cost_units": optional_counts([meta.cost_units for meta in metas]),
        }
        | tokens.columns()
        | _version_columns(batch, full=instructions is not None)
        | _return_data_columns(metas)
        | _compute_columns(batch, instructions, fees, no_fee)
    )


def _version_columns(batch: Batch, *, full: bool) -> dict[str, pa.Array]:
    """The version, the lookup tables it allows, and the accounts loaded from them."""
    accounts, untold, versioned = batch.accounts, batch.untold, batch.versioned
    writable_counts, readonly_counts = accounts.loaded_writable, accounts.loaded_readonly
    starts = accounts.starts + accounts.static_counts
    # A v0 transaction without metadata named tables, but what they held is not recorded.
    unknown = untold | (versioned & batch.no_meta & (writable_counts + readonly_counts == 0))
    each = [wire.message.address_table_lookups or () for wire in batch.wires] if versioned.any() and full else [()] * len(batch)  # type: ignore[union-attr]
    flat: list[Lookup] = list(chain.from_iterable(each))
    counts = np.array([len(item) for item in each], np.int64)
    read = octets if batch.kind is Kind.BINARY else numbers
    indexes, both = read([item.writable_indexes for item in flat] + [item.readonly_indexes for item in flat])
    writable_indexes, readonly_indexes = np.split(both, 2)
    writable, readonly = np.split(indexes, [int(writable_indexes.sum())])
    if indexes.max(initial=0) >= MAX_ACCOUNTS:
        raise BadRecordError("a lookup index does not fit into a byte", reason="account_index")
    lookups = structs(
        account_key=strings([item.account_key for item in flat]),
        writable_indexes=lists(writable_indexes, counts_column(writable.astype(np.int64))),
        readonly_indexes=lists(readonly_indexes, counts_column(readonly.astype(np.int64))),
    )
    return {
        "version": coded(versioned.astype(np.int32), strings(["legacy", "0"]), untold),
        "loaded_writable_addresses": lists(writable_counts, coded(accounts.codes[ragged(starts, writable_counts)], accounts.pool), unknown),
        "loaded_readonly_addresses": lists(
            readonly_counts, coded(accounts.codes[ragged(starts + writable_counts, readonly_counts)], accounts.pool), unknown
        ),
        "address_table_lookups": lists(counts, lookups, untold | (not full)),
    }


def _return_data_columns(metas: list[Meta]) -> dict[str, pa.Array]:
    returned = [meta.return_data for meta in metas]
    if not any(returned):
        return {name: pa.nulls(len(metas), schemas.TEXT) for name in ("return_data_program_id", "return_data")}
    return {
        "return_data_program_id": strings([None if item is None else item.program_id for item in returned]),
        "return_data": strings([None if item is None else item.data[0] for item in returned]),
    }


def _compute_columns(batch: Batch, instructions: Instructions | None, fees: U64, no_fee: Mask) -> dict[str, pa.Array]:
    """Whether it is a vote, what it asked of the scheduler, and what it paid above the base fee."""
    size = len(batch)
    if instructions is None:
        return {
            "is_vote": pa.nulls(size, pa.bool_()),
            "compute_unit_limit": pa.nulls(size, schemas.COUNT),
            "compute_unit_price_micro_lamports": pa.nulls(size, schemas.LAMPORTS),
            "priority_fee_lamports": pa.nulls(size, schemas.LAMPORTS),
        }
    outer = instructions.parent < 0
    owner = instructions.transaction_of
    calls_vote = outer & (instructions.program == batch.code_of.get(programs.VOTE, -1))
    is_vote = (np.bincount(owner[outer], minlength=size) == 1) & (np.bincount(owner[calls_vote], minlength=size) == 1)
    limit, no_limit = _requested(instructions, instructions.templates.limit, outer, size)
    if limit.max(initial=0) >= 2**32:
        raise BadRecordError("a compute unit limit does not fit into 32 bits", reason="integer_overflow")
    price, no_price = _requested(instructions, instructions.templates.price, outer, size)
    charged = np.bincount(repeat_index(batch.accounts.counts)[batch.accounts.signer], minlength=size)
    precompiles = [code for code in map(batch.code_of.get, PRECOMPILES) if code is not None]
    if precompiles:
        for row in np.flatnonzero(outer & np.isin(instructions.program, precompiles)).tolist():
            charged[owner[row]] += next(iter(instructions.content(row)), 0)
    base = charged.astype(np.uint64) * np.uint64(LAMPORTS_PER_SIGNATURE)
    return {
        "is_vote": flags(is_vote),
        "compute_unit_limit": counts_column(limit.astype(np.int64), no_limit),
        "compute_unit_price_micro_lamports": decimals(price, no_price),
        "priority_fee_lamports": decimals(fees - base, no_fee | (fees < base)),
    }


def _requested(instructions: Instructions, per_template: list[int], outer: Mask, size: int) -> tuple[U64, Mask]:
    """The value that a compute budget instruction of each transaction set, and True where none did."""
    values, absent = np.zeros(size, np.uint64), np.ones(size, np.bool_)
    # A price may exceed int64, so only the sign is looked at as a float.
    sets = np.array([*per_template, -1], np.float64) >= 0
    rows = np.flatnonzero(outer & sets[instructions.template_of])[::-1]
    if len(rows):
        table = np.array([max(value, 0) for value in per_template], np.uint64)
        values[instructions.transaction_of[rows]] = table[instructions.template_of[rows]]
        absent[instructions.transaction_of[rows]] = False
    return values, absent


def _instructions_columns(batch: Batch, instructions: Instructions) -> dict[str, pa.Array]:
    templates, template_of, owner = instructions.templates, instructions.template_of, instructions.transaction_of
    undecoded = template_of < 0
    account_counts = np.where(undecoded, instructions.account_counts, 0)
    accounts = instructions.account_codes[ragged(instructions.account_starts, account_counts)]
    return (
        batch.header(owner)
        | batch.identity(owner)
        | {
            "index": counts_column(instructions.index),
            "parent_index": counts_column(instructions.parent, instructions.parent < 0),
            "accounts": lists(account_counts, coded(accounts, batch.accounts.pool), ~undecoded),
            "data": data_column(instructions, undecoded),
            "parsed": templates.word_column(templates.text, template_of),
            "program": templates.word_column(templates.program, template_of),
            "program_id": coded(instructions.program, batch.accounts.pool),
            "instruction_type": templates.word_column(templates.type, template_of),
            "params": params_column(batch, instructions),
            "ordinal": counts_column(instructions.ordinal),
            "stack_height": counts_column(instructions.stack_height, instructions.stack_height < 0),
        }
    )


def _token_transfers_columns(batch: Batch, instructions: Instructions, outcome: _Outcome, tokens: _TokenBalances) -> dict[str, pa.Array]:
    moves = instructions.templates.moves
    move_of = np.array([*instructions.templates.move, -1], np.int64)[instructions.template_of]
    rows = np.flatnonzero(move_of >= 0)
    move_of, owner = move_of[rows], instructions.transaction_of[rows]
    roles = np.array(moves.roles, np.int64).reshape(-1, 5)[move_of]
    codes = [instructions.resolve(roles[:, role], rows) for role in range(5)]
    source, destination, authority, mint, mint_authority = (np.where(code >= KEY, code - KEY, -1) for code in codes)
    kinds: dict[str, int] = {}
    kind = np.array([kinds.setdefault(name, len(kinds)) for name in moves.kind], np.int32)[move_of]
    native = kind == kinds.get("transfer", -1)
    places = np.array(moves.decimals, np.int64)[move_of]
    mint, places = _known_mints(batch, instructions, tokens, owner, (source, destination), mint, places, native)
    fees = np.array([max(fee, 0) for fee in moves.fee], np.uint64)[move_of]
    no_fee = np.array([fee < 0 for fee in moves.fee], np.bool_)[move_of]

    def column(of: Ints) -> pa.DictionaryArray:
        return coded(np.maximum(of, 0), tokens.pool, of < 0)

    return (
        batch.header(owner)
        | batch.identity(owner)
        | {
            "source": column(source),
            "destination": column(destination),
            "authority": column(authority),
            "value": decimals(np.array(moves.value, np.uint64)[move_of]),
            "decimals": counts_column(places, places < 0),
            "mint": column(mint),
            "mint_authority": column(mint_authority),
            "fee": decimals(fees, no_fee),
            "fee_decimals": counts_column(places, no_fee | (places < 0)),
            "memo": _memos(instructions, rows),
            "transfer_type": coded(kind, strings(kinds or [""])),
            "ordinal": counts_column(instructions.ordinal[rows]),
            "status": outcome.status(batch.no_meta, owner),
        }
    )


def _memos(instructions: Instructions, rows: Ints) -> pa.Array:
    """The memo of the instruction just before, in the same transaction."""
    previous = np.where(instructions.ordinal[rows] > 0, instructions.template_of[rows - 1], -1)
    return instructions.templates.word_column(instructions.templates.text, previous)


def _known_mints(
    batch: Batch,
    instructions: Instructions,
    tokens: _TokenBalances,
    owner: Ints,
    sides: tuple[Ints, Ints],
    mint: Ints,
    places: Ints,
    native: Mask,
) -> tuple[Ints, Ints]:
    """Mint and decimals of movements that do not name them, from the transaction's token balances and new accounts."""
    if not (~native & ((mint < 0) | (places < 0))).any():
        return mint, places
    width = len(tokens.pool) + 1
    balance_owner = tokens.transaction_of
    account = batch.accounts.codes[batch.accounts.starts[balance_owner] + tokens.account_index].astype(np.int64)
    started_owner, started_account, started_mint = _started(instructions)
    account_keys = np.concatenate([balance_owner * width + account, started_owner * width + started_account])
    account_mints = np.concatenate([tokens.mint, started_mint])
    for side in sides:
        missing = ~native & (mint < 0) & (side >= 0)
        mint = np.where(missing, _look_up(owner * width + side, account_keys, account_mints), mint)
    missing = ~native & (places < 0) & (mint >= 0)
    places = np.where(missing, _look_up(owner * width + mint, balance_owner * width + tokens.mint, tokens.decimals), places)
    return mint, np.where((places < 0) & (mint == tokens.code_of.get(NATIVE_MINT, -2)), NATIVE_DECIMALS, places)


def _started(instructions: Instructions) -> tuple[Ints, Ints, Ints]:
    """Transaction, account and mint of each token account that the batch initialised."""
    account_of, mint_of = (np.array([*side, NOBODY], np.int64)[instructions.template_of] for side in instructions.templates.started)
    rows = np.flatnonzero((account_of != NOBODY) & (mint_of != NOBODY))
    account, mint = instructions.resolve(account_of[rows], rows), instructions.resolve(mint_of[rows], rows)
    return instructions.transaction_of[rows], account - KEY, mint - KEY


def _look_up(wanted: Ints, keys: Ints, values: Ints) -> Ints:
    """The value of the first equal key, or -1."""
    if not len(keys):
        return np.full(len(wanted), -1)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[at] == wanted, values[order[at]], -1)


def _balance_changes_columns(batch: Batch, balances: _Balances, tokens: _TokenBalances) -> dict[str, pa.Array]:
    """Lamports and token amounts that changed, by account; lamports first."""
    accounts = batch.accounts
    moved = np.flatnonzero(balances.before != balances.after)
    token = _token_changes(tokens)
    size, total = len(moved), len(moved) + len(token.transaction_of)
    transaction_of = np.concatenate([repeat_index(balances.counts)[moved], token.transaction_of])
    account_index = np.concatenate([positions(balances.counts)[moved], token.account_index])
    is_token = np.arange(total) >= size
    # Tokens come ordered by mint, and stable sorting keeps them so.
    order = np.argsort((transaction_of * MAX_ACCOUNTS + account_index) * 2 + is_token, kind="stable")
    transaction_of, account_index, is_token = transaction_of[order], account_index[order], is_token[order]

    def merge(lamports: U64, amounts: U64) -> U64:
        return np.concatenate([lamports[moved], amounts])[order]

    def of_token(values: npt.NDArray[Any], fill: bool | int) -> npt.NDArray[Any]:
        return np.concatenate([np.full(size, fill, values.dtype), values])[order]

    before, after = merge(balances.before, token.before), merge(balances.after, token.after)
    return (
        batch.header(transaction_of)
        | batch.identity(transaction_of)
        | {
            "account": coded(accounts.codes[accounts.starts[transaction_of] + account_index], accounts.pool),
            "before": decimals(before, of_token(token.no_before, False)),
            "after": decimals(after, of_token(token.no_after, False)),
            "change": decimals(after - before, negative=after < before),
            "mint": coded(of_token(token.mint, 0), tokens.pool, ~is_token),
            "owner": coded(of_token(token.owner, 0), tokens.pool, of_token(token.no_owner, True)),
            "decimals": counts_column(of_token(token.decimals, 0), ~is_token),
            "account_index": counts_column(account_index),
        }
    )


@dataclass(slots=True)
class _TokenChanges:
    """Token balances that differ before and after, in the order of transaction, account and mint."""

    transaction_of: Ints
    account_index: Ints
    mint: Ints
    before: U64
    no_before: Mask
    after: U64
    no_after: Mask
    owner: Codes
    no_owner: Mask
    decimals: Ints


def _token_changes(tokens: _TokenBalances) -> _TokenChanges:
    """An outer join of the two sides on (transaction, account, mint)."""
    width, split = len(tokens.pool) + 1, tokens.split
    every = (tokens.transaction_of * MAX_ACCOUNTS + tokens.account_index) * width + tokens.mint
    keys, inverse = np.unique(every, return_inverse=True)
    at, then = np.full(len(keys), -1), np.full(len(keys), -1)
    at[inverse[:split]] = np.arange(split)
    then[inverse[split:]] = np.arange(split, len(every))
    if (at >= 0).sum() != split or (then >= 0).sum() != len(every) - split:
        raise BadRecordError("an account has two balances of one mint", reason="duplicate_token_balance")
    # Position -1, of a balance that is absent, reads the zero put last.
    amounts = np.append(tokens.amount, np.uint64(0))
    keep = amounts[at] != amounts[then]
    keys, at, then = keys[keep], at[keep], then[keep]
    # The owner after is the one that matters; an account that was closed has only the one before.
    known = np.where(then < 0, at, then)
    return _TokenChanges(
        transaction_of=keys // width // MAX_ACCOUNTS,
        account_index=keys // width % MAX_ACCOUNTS,
        mint=keys % width,
        before=amounts[at],
        no_before=at < 0,
        after=amounts[then],
        no_after=then < 0,
        owner=tokens.owner[known],
        no_owner=tokens.no_owner[known],
        decimals=tokens.decimals[known],
    )


def _blocks_table(blocks: Sequence[Block]) -> pa.Table:
    landed = [block for block in blocks if block.block_hash is not None]
    leaders = [next((reward for reward in block.rewards if reward.reward_type == "Fee"), None) for block in landed]
    return pa.table(
        {
            "slot": optional_counts([block.slot for block in landed]),
            "block_hash": strings([block.block_hash for block in landed]),
            "block_timestamp": timestamps([block.block_time for block in landed]),
            "height": optional_counts([block.height for block in landed]),
            "previous_block_hash": strings([block.previous_block_hash for block in landed]),
            "transaction_count": optional_counts([block.stated for block in landed]),
            "leader_reward": _lamports([None if leader is None else leader.lamports for leader in leaders]),
            "leader": strings([None if leader is None else leader.pubkey for leader in leaders]),
            "parent_slot": optional_counts([block.parent_slot for block in landed]),
            "transaction_detail": strings([block.detail for block in landed]),
        }
    )


def _lamports(values: list[int | None]) -> pa.Decimal128Array:
    """Signed lamports, few enough for a Python list."""
    exact = [value or 0 for value in values]
    low = np.array([value & (2**64 - 1) for value in exact], np.uint64)
    nulls = np.array([value is None for value in values], np.bool_)
    return decimals(low, nulls, negative=np.array([value < 0 for value in exact], np.bool_))


def _block_columns(blocks: Sequence[Block], counts: Ints) -> dict[str, pa.Array]:
    """The columns that name the block, for `counts` rows of each."""
    block_of = repeat_index(counts)
    hashes = [block.block_hash for block in blocks]
    slots = np.array([block.slot for block in blocks], np.int64)
    return {
        "block_slot": counts_column(slots[block_of]),
        "block_hash": take(strings(hashes), block_of).dictionary_encode(),
        "block_timestamp": take(timestamps([block.block_time for block in blocks]), block_of),
        "index": counts_column(positions(counts)),
    }


def _rewards_table(blocks: Sequence[Block]) -> pa.Table:
    rewards = list(chain.from_iterable([block.rewards for block in blocks]))
    columns = _block_columns(blocks, np.array([len(block.rewards) for block in blocks], np.int64)) | {
        "commission": optional_counts([reward.commission for reward in rewards]),
        "lamports": _lamports([reward.lamports for reward in rewards]),
        "post_balance": _lamports([reward.post_balance for reward in rewards]),
        "pubkey": strings([reward.pubkey for reward in rewards]),
        "reward_type": strings([reward.reward_type for reward in rewards]).dictionary_encode(),
    }
    names = schemas.BLOCK_REWARDS.column_names
    return pa.table([columns[name] for name in names], names)


def _signatures_only(blocks: Sequence[Block]) -> pa.Table:
    """Blocks recorded with `transactionDetails: signatures`: the first signature and its place, nothing else."""
    counts = np.array([len(block.signatures) for block in blocks], np.int64)
    known = _block_columns(blocks, counts) | {"signature": strings(list(chain.from_iterable([block.signatures for block in blocks])))}
    table = schemas.TRANSACTIONS
    rows = pa.table([known.get(column.name, pa.nulls(int(counts.sum()), column.type)) for column in table.columns], table.column_names)
    # An empty one keeps the place of a signature that is in `bad`.
    return rows.filter(flags(np.array([bool(text) for block in blocks for text in block.signatures], np.bool_)))
