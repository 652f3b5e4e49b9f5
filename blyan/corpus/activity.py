"""Rows of some slots, aligned by transaction: what labels and text are both made from.

Belongs here: which row belongs to which transaction, names of instructions, what the fee payer gained and lost, what failed.
Does not belong here: rules (`blyan.corpus.labels`) or words (`blyan.corpus.render`).

Everything is flat arrays over whole tables, as in `blyan.solana.normalise`: accounts are codes into one pool of strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blyan import schemas
from blyan.corpus.registry import Registry
from blyan.errors import PermanentError
from blyan.solana import base58
from blyan.solana.columns import Ints, Mask, mask_of, offsets_of, positions, ragged, repeat_index, take, words

READ = {
    schemas.TRANSACTIONS: (
        "block_slot",
        "block_timestamp",
        "block_hash",
        "signature",
        "index",
        "fee",
        "status",
        "err",
        "compute_units_consumed",
        "accounts",
        "log_messages",
        "is_vote",
    ),
    schemas.INSTRUCTIONS: (
        "block_slot", "index", "parent_index", "accounts", "data", "parsed", "program", "program_id", "instruction_type", "params", "tx_index", "ordinal",
    ),
    schemas.TOKEN_TRANSFERS: (
        "block_slot", "source", "destination", "authority", "value", "decimals", "mint", "mint_authority", "fee", "transfer_type", "tx_index", "ordinal",
    ),
    schemas.BALANCE_CHANGES: ("block_slot", "account", "change", "mint", "owner", "decimals", "tx_index"),
}  # fmt: skip
"""The columns that documents are made from, by table; a reader need fetch no others."""

_INDEX_BITS = 24
"""Transactions of a block are fewer than two to this power."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a transaction failed.

    Attributes:
        instruction: index of the outer instruction that failed, or None.
        program: account of the program that gave the error, the innermost one where the logs tell; or None.
        code: the custom code that the program gave, or None where the runtime gave the error.
        name: the program's name for its custom code, or None where nothing tells.
        reason: the runtime's words without the instruction, such as `custom program error: 0x1771`.
    """

    instruction: int | None
    program: str | None
    code: int | None
    name: str | None
    reason: str


@dataclass(slots=True)
class Net:
    """What fee payers gained and lost, fees not counted: a row per transaction and asset with a change other than zero.

    Attributes:
        mint: code of the mint, or -1 for SOL.
        change: decimal(38,0), in base units.
        decimals: of the mint, 9 for SOL.
    """

    transaction_of: Ints
    mint: Ints
    change: pa.Decimal128Array
    decimals: Ints


@dataclass(slots=True)
class Activity:
    """Rows of some slots, aligned.

    Attributes:
        transactions, instructions, transfers: the tables, one chunk each, in key order.
        instruction_tx, transfer_tx: the transaction of each row.
        transfer_row: the instruction of each transfer.
        pool: every account that is mentioned, once.
        payer: code of each transaction's fee payer, or -1.
        program: code of each instruction's program, or -1.
        transfer_accounts: codes of the accounts of each transfer by column, -1 where null.
        names, name_of: names of instructions, and the name of each instruction: the decoded type, or what the program's logs or the
            registry call it; the first name is empty.
        is_log: instructions that only carry what a program logs: an Anchor program's calls of itself.
        acts_on: code of the account that an instruction which is not decoded acts on, or -1: the first of its accounts that it may
            write to and that did not sign, if that is one of the first `_LOOKED_AT`, or the one the registry says.
        failures: why transactions failed, by transaction.
    """

    transactions: pa.Table
    instructions: pa.Table
    transfers: pa.Table
    instruction_tx: Ints
    transfer_tx: Ints
    transfer_row: Ints
    pool: pa.StringArray
    payer: Ints
    program: Ints
    transfer_accounts: dict[str, Ints]
    names: list[str]
    name_of: Ints
    is_log: Mask
    acts_on: Ints
    net: Net
    failures: dict[int, Failure]

    def __len__(self) -> int:
        return len(self.payer)


def align(tables: Mapping[str, pa.Table], registry: Registry) -> Activity:
    """Align the rows of some slots.

    Args:
        tables: `solana/transactions` and, of the same transactions or more, `solana/instructions`, `solana/token_transfers` and
            `solana/balance_changes`, with the columns of `READ` at least, in key order.
        registry: names of programs, their errors and instructions.

    Raises:
        PermanentError: transactions are not in key order, or a transfer names an instruction that is not there.
    """
    transactions = _one_chunk(tables, schemas.TRANSACTIONS)
    keys = _keys(transactions, "index")
    if (keys[1:] <= keys[:-1]).any():
        raise PermanentError("transactions are not in key order", where=schemas.TRANSACTIONS.name, remedy="sort them by block_slot and index")
    instructions, instruction_tx = _of(tables, schemas.INSTRUCTIONS, keys)
    transfers, transfer_tx = _of(tables, schemas.TOKEN_TRANSFERS, keys)
    changes, change_tx = _of(tables, schemas.BALANCE_CHANGES, keys)
    transfer_row = _rows_of(instruction_tx, integers(instructions["ordinal"]), transfer_tx, integers(transfers["ordinal"]))
    roles = ("source", "destination", "authority", "mint", "mint_authority")
    writable, writable_tx = _writable(transactions)
    given, given_row = _first_accounts(instructions)
    columns = [instructions["program_id"], _payers(transactions), writable, given, *(transfers[name] for name in roles)]
    columns += [changes[name] for name in ("account", "owner", "mint")]
    pool, (program, payer, writable_of, given_of, *rest) = _pooled(columns)
    account, owner, mint = rest[-3:]
    names, name_of, is_log = _names(transactions, instructions, instruction_tx, registry)
    may_write = np.sort(writable_tx * len(pool) + writable_of)
    return Activity(
        transactions=transactions,
        instructions=instructions,
        transfers=transfers,
        instruction_tx=instruction_tx,
        transfer_tx=transfer_tx,
        transfer_row=transfer_row,
        pool=pool,
        payer=payer,
        program=program,
        transfer_accounts=dict(zip(roles, rest, strict=False)),
        names=names,
        name_of=name_of,
        is_log=is_log,
        acts_on=_acted_on(given_of, given_row, is_in(may_write, instruction_tx[given_row] * len(pool) + given_of), program, pool, registry),
        net=_net(transactions, changes, change_tx, payer, account, owner, mint),
        failures=_failures(transactions, instructions, instruction_tx, registry),
    )


def _one_chunk(tables: Mapping[str, pa.Table], table: schemas.Table) -> pa.Table:
    return tables[table.name].select(list(READ[table])).combine_chunks()


def _keys(table: pa.Table, index: str) -> Ints:
    return (integers(table["block_slot"]) << _INDEX_BITS) | integers(table[index])


def _of(tables: Mapping[str, pa.Table], table: schemas.Table, keys: Ints) -> tuple[pa.Table, Ints]:
    """The rows of a table that are of these transactions, and the transaction of each."""
    rows = _one_chunk(tables, table)
    theirs = _keys(rows, "tx_index")
    at = np.searchsorted(keys, theirs)
    known = keys[np.minimum(at, len(keys) - 1)] == theirs if len(keys) else np.zeros(len(theirs), np.bool_)
    return (rows, at) if known.all() else (rows.filter(pa.array(known)).combine_chunks(), at[known])


def _rows_of(transaction_of: Ints, ordinal: Ints, wanted_tx: Ints, wanted_ordinal: Ints) -> Ints:
    """The instruction with this transaction and ordinal, for each wanted."""
    keys, wanted = (transaction_of << 32) | ordinal, (wanted_tx << 32) | wanted_ordinal
    at = np.searchsorted(keys, wanted)
    if len(wanted) and (not len(keys) or (keys[np.minimum(at, len(keys) - 1)] != wanted).any()):
        raise PermanentError(
            "a transfer names an instruction that is not there", where=schemas.TOKEN_TRANSFERS.name, remedy="normalise the range again"
        )
    return at


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array. Arrow copies a column of one chunk where it is asked to combine its chunks."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 and not column.chunk(0).offset else column.combine_chunks()


def integers(column: pa.ChunkedArray | pa.Array, absent: int = -1) -> Ints:
    """An `int64` column as an array; `absent` where it is null."""
    array = pc.fill_null(column, absent) if column.null_count else column
    return np.asarray(whole(array))


def plain(column: pa.ChunkedArray | pa.Array) -> pa.StringArray:
    """A text column, coded or not, as one plain array."""
    column = whole(column)
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def coded_text(column: pa.ChunkedArray | pa.Array) -> tuple[pa.StringArray, Ints]:
    """The distinct strings of a text column, and the number of each row's, -1 where null."""
    column = whole(column)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    return plain(column.dictionary), integers(column.indices.cast(pa.int64()))


def flat(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """The values of a list column, one after the other, and how many each row has; a null has none."""
    array = whole(column)
    offsets = np.asarray(array.offsets).astype(np.int64)
    if array.null_count and np.diff(offsets)[mask_of(array.is_null())].any():
        # Arrow lets a null have values behind it, though nothing here writes any.
        array = pc.fill_null(array, pa.scalar([], array.type))
        offsets = np.asarray(array.offsets).astype(np.int64)
    return array.values.slice(offsets[0], offsets[-1] - offsets[0]), np.diff(offsets)


def _pooled(columns: Sequence[pa.ChunkedArray | pa.Array]) -> tuple[pa.StringArray, list[Ints]]:
    """One pool of distinct strings for several columns, and each column as codes into it, -1 where null."""
    coded = [coded_text(column) for column in columns]
    every = pa.concat_arrays([values for values, _ in coded]).dictionary_encode()
    number = integers(every.indices.cast(pa.int64()))
    out, at = [], 0
    for values, codes in coded:
        own = np.append(number[at : at + len(values)], -1)
        out.append(own[codes])
        at += len(values)
    return every.dictionary, out


def _payers(transactions: pa.Table) -> pa.StringArray:
    accounts, counts = flat(transactions["accounts"])
    at = np.cumsum(counts) - counts
    found = np.where(counts > 0, at, -1)
    return pc.take(accounts.field("pubkey"), pa.array(found, pa.int64(), mask=found < 0))


def is_in(ordered: Ints, values: Ints) -> Mask:
    """Whether each value is among these, which are in order."""
    at = np.searchsorted(ordered, values)
    found: Mask = ordered[np.minimum(at, len(ordered) - 1)] == values if len(ordered) else np.zeros(len(values), np.bool_)
    return found


def _writable(transactions: pa.Table) -> tuple[pa.StringArray, Ints]:
    """Accounts that a transaction may write to and that did not sign it, and the transaction of each."""
    accounts, counts = flat(transactions["accounts"])
    signer, writable = (mask_of(pc.fill_null(accounts.field(name), False)) for name in ("signer", "writable"))
    at = np.flatnonzero(writable & ~signer)
    return take(accounts.field("pubkey"), at), repeat_index(counts)[at]


_LOOKED_AT = 6
"""Accounts of an instruction that are looked at for the one it acts on: those that hold a program's state come first."""


def _first_accounts(instructions: pa.Table) -> tuple[pa.StringArray, Ints]:
    """The first accounts of the instructions that are not decoded, and the instruction of each."""
    accounts, counts = flat(instructions["accounts"])
    looked_at = np.where(coded_text(instructions["program"])[1] < 0, np.minimum(counts, _LOOKED_AT), 0)
    at = ragged(offsets_of(counts)[:-1], looked_at)
    return take(accounts, at), repeat_index(looked_at)


def _acted_on(given: Ints, given_row: Ints, may_write: Mask, program: Ints, pool: pa.StringArray, registry: Registry) -> Ints:
    place = positions(np.bincount(given_row, minlength=len(program)))
    said = np.full(len(pool) + 1, _LOOKED_AT)
    for account, entry in registry.programs.items():
        if entry.acts_on is not None:
            said[: len(pool)][mask_of(pc.equal(pool, account))] = entry.acts_on
    said_of = said[program[given_row]]
    rows = np.flatnonzero(np.where(said_of == _LOOKED_AT, may_write, place == said_of))
    out = np.full(len(program), -1)
    # Written backwards, so that the first stays.
    out[given_row[rows][::-1]] = given[rows][::-1]
    return out


def _net(transactions: pa.Table, changes: pa.Table, change_tx: Ints, payer: Ints, account: Ints, owner: Ints, mint: Ints) -> Net:
    payer_of = payer[change_tx]
    own = (payer_of >= 0) & np.where(mint < 0, account == payer_of, owner == payer_of)
    rows = np.flatnonzero(own)
    # The fee left the payer's balance besides: it is told apart, so it is put back.
    status = whole(transactions["status"])
    paid = np.flatnonzero((payer >= 0) & ~mask_of(status.is_null()) & ~mask_of(whole(transactions["fee"]).is_null()))
    decimals = np.where(mint < 0, 9, integers(changes["decimals"]))
    fees = take(whole(transactions["fee"]), paid)
    every = pa.table(
        {
            "tx": np.concatenate([change_tx[rows], paid]),
            "mint": np.concatenate([mint[rows], np.full(len(paid), -1)]),
            "decimals": np.concatenate([decimals[rows], np.full(len(paid), 9)]),
            "change": pa.concat_arrays([take(whole(changes["change"]), rows), fees]).cast(pa.decimal128(38, 0)),
            "at": np.arange(len(rows) + len(paid)),
        }
    )
    sums = every.group_by(["tx", "mint"]).aggregate([("change", "sum"), ("decimals", "max"), ("at", "min")])
    sums = sums.filter(pc.not_equal(sums["change_sum"], pa.scalar(0, pa.decimal128(38, 0))))
    sums = sums.sort_by([("tx", "ascending"), ("at_min", "ascending")]).combine_chunks()
    return Net(integers(sums["tx"]), integers(sums["mint"]), whole(sums["change_sum"]), integers(sums["decimals_max"]))


_NAMED = "Program log: Instruction: "
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")


_EVENT = "e445a52e51cb9a1d"
"""How an Anchor program's call of itself begins that only carries an event (anchor-lang, `EVENT_IX_TAG_LE`)."""


def _names(transactions: pa.Table, instructions: pa.Table, instruction_tx: Ints, registry: Registry) -> tuple[list[str], Ints, Mask]:
    """Names of instructions, the name of each, and which of them only carry an event."""
    types, type_of = coded_text(instructions["instruction_type"])
    names = {"": 0}
    name_of = np.zeros(len(instruction_tx), np.int64)
    decoded = type_of >= 0
    numbers = np.array([names.setdefault(name, len(names)) for name in types.to_pylist()], np.int64)
    name_of[decoded] = numbers[type_of[decoded]]
    rows, logged = _logged_names(transactions, instructions, instruction_tx)
    texts, text_of = coded_text(logged)
    # What a program logs is its own choice: a name that is none is not believed.
    numbers = np.array([names.setdefault(text, len(names)) if _NAME.fullmatch(text) else 0 for text in texts.to_pylist()], np.int64)
    fresh = ~decoded[rows]
    name_of[rows[fresh]] = numbers[text_of[fresh]]
    ids, id_of = coded_text(instructions["program_id"])
    tagged = [program.instructions if (program := registry.programs.get(account)) else {} for account in ids.to_pylist()]
    one_account = mask_of(pc.fill_null(pc.equal(pc.list_value_length(whole(instructions["accounts"])), 1), False))
    may_be_event = one_account & (integers(instructions["parent_index"]) >= 0)
    at = np.flatnonzero((name_of == 0) & (np.array([*map(bool, tagged), False], np.bool_)[id_of] | may_be_event))
    data, data_of = coded_text(take(whole(instructions["data"]), at))
    begins = [content[:8].hex() for content in base58.decode_many(data.to_pylist())]
    is_log = np.zeros(len(name_of), np.bool_)
    is_log[at] = np.array([begin == _EVENT for begin in begins] + [False], np.bool_)[data_of] & may_be_event[at]
    for program in np.unique(id_of[at]).tolist():
        if program >= 0 and tagged[program]:
            mine = np.flatnonzero(id_of[at] == program)
            distinct, which = np.unique(data_of[mine], return_inverse=True)
            tags = [_tag_name(begins[code], tagged[program]) if code >= 0 else "" for code in distinct.tolist()]
            name_of[at[mine]] = np.array([names.setdefault(tag, len(names)) for tag in tags], np.int64)[which]
    return list(names), name_of, is_log


def _tag_name(begin: str, names: Mapping[str, str]) -> str:
    return next((name for tag, name in names.items() if begin.startswith(tag)), "")


def _logged_names(transactions: pa.Table, instructions: pa.Table, instruction_tx: Ints) -> tuple[Ints, pa.StringArray]:
    """Instructions that the line after their invocation names, and that name.

    The runtime logs an invocation for each instruction in execution order. Some built-in programs log none; from the first line
    on that does not fit its instruction, nothing of that transaction is believed.
    """
    lines, counts = flat(transactions["log_messages"])
    line_tx = repeat_index(counts)
    invokes = _invocations(lines)
    invoke_tx = line_tx[invokes]
    ordinal = positions(np.bincount(invoke_tx, minlength=len(transactions)))
    sizes = np.bincount(instruction_tx, minlength=len(transactions))
    inside = ordinal < sizes[invoke_tx]
    invokes, invoke_tx, ordinal = invokes[inside], invoke_tx[inside], ordinal[inside]
    rows = (np.cumsum(sizes) - sizes)[invoke_tx] + ordinal
    called = pc.binary_slice(take(lines, invokes).cast(pa.binary()), len("Program "), -len(" invoke [1]"))
    fits = mask_of(pc.fill_null(pc.equal(called, take(plain(instructions["program_id"]), rows).cast(pa.binary())), False))
    first_misfit = np.full(len(transactions), np.iinfo(np.int64).max)
    np.minimum.at(first_misfit, invoke_tx[~fits], ordinal[~fits])
    believed = ordinal < first_misfit[invoke_tx]
    after = np.minimum(invokes + 1, max(len(lines) - 1, 0))
    following = take(lines, after)
    named = believed & (line_tx[after] == invoke_tx) & mask_of(pc.starts_with(following, _NAMED))
    return rows[named], pc.utf8_slice_codeunits(following.filter(pa.array(named)), len(_NAMED))


def _invocations(lines: pa.StringArray) -> Ints:
    """Lines in which the runtime says that a program is invoked: `Program <account> invoke [<depth>]`.

    What a program logs itself stands behind `Program log: `, `Program data: ` or `Program return: `, and no account has a colon.
    """
    offsets, characters, eight = _text_of(lines)
    least = len("Program ") + 32 + len(" invoke [1]")
    at = np.flatnonzero((np.diff(offsets) >= least) & (np.diff(offsets) <= least + 12))
    at = at[characters[offsets[at + 1] - 1] == ord("]")]
    at = at[eight[offsets[at]] == _eight(b"Program ")]
    at = at[eight[offsets[at + 1] - 11] == _eight(b" invoke ")]
    for place in (11, 12, 14):
        at = at[characters[offsets[at] + place] != ord(":")]
    return np.asarray(at, np.int64)


def _text_of(lines: pa.StringArray) -> tuple[Ints, npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Where each line begins and the last ends, their characters, and the eight characters from each on as a number."""
    offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset : lines.offset + len(lines) + 1].astype(np.int64)
    text = lines.buffers()[2]
    text = bytes(8) if text is None or text.size < 8 else text
    return offsets, np.frombuffer(text, np.uint8), words(text, np.uint64)


def _eight(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text, "little"))


_FAILED = re.compile(r"Program ([1-9A-HJ-NP-Za-km-z]{32,44}) failed: ")
_ANCHOR = re.compile(r"Program log: AnchorError .*?Error Code: (\w{1,64})\. Error Number: (\d{1,10})\.", re.DOTALL)
_OF_INSTRUCTION = re.compile(r"Error processing Instruction (\d+): (.*)", re.DOTALL)
_CUSTOM = re.compile(r"custom program error: 0x([0-9a-f]{1,16})")

_LAST_LINES = 24
"""Lines of a failed transaction's log that are looked at for what failed: it is told at the end, in two lines for each of the callers, nine at most."""


def _failures(transactions: pa.Table, instructions: pa.Table, instruction_tx: Ints, registry: Registry) -> dict[int, Failure]:
    errors, error_of = coded_text(transactions["err"])
    failed = np.flatnonzero(error_of >= 0)
    programs, anchors = _told_by_logs(transactions, failed)
    outer = np.flatnonzero(integers(instructions["parent_index"]) < 0)
    outer_keys = (instruction_tx[outer] << 32) | integers(instructions["index"])[outer]
    ids = plain(instructions["program_id"])
    causes = [(int(found[1]), found[2]) if (found := _OF_INSTRUCTION.fullmatch(text)) else (None, text) for text in errors.to_pylist()]
    failures, known = {}, {}
    for transaction, error in zip(failed.tolist(), error_of[failed].tolist(), strict=True):
        index, reason = causes[error]
        program = programs.get(transaction)
        if program is None and index is not None:
            row = int(np.searchsorted(outer_keys, (transaction << 32) | index))
            program = ids[int(outer[row])].as_py() if row < len(outer) and outer_keys[row] == (transaction << 32) | index else None
        named = anchors.get(transaction, ())
        key = (error, program, named)
        if key not in known:
            known[key] = _failure(index, program, reason, named, registry)
        failures[transaction] = known[key]
    return failures


def _told_by_logs(transactions: pa.Table, failed: Ints) -> tuple[dict[int, str], dict[int, tuple[tuple[str, int], ...]]]:
    """The innermost program that failed, and the errors that Anchor names with their numbers, of each of these transactions that says so."""
    lines, counts = flat(transactions["log_messages"])
    offsets, _, eight = _text_of(lines)
    looked_at = np.minimum(counts[failed], _LAST_LINES)
    at, line_tx = ragged(offsets_of(counts)[1:][failed] - looked_at, looked_at), np.repeat(failed, looked_at)

    def reads(text: bytes, place: int) -> Mask:
        """Whether the lines have this text there; they may be too short for it, and then it is of another line."""
        found: Mask = eight[np.minimum(offsets[at] + place, len(eight) - 1)] == _eight(text)
        return found

    ours = reads(b"Program ", 0)
    at, line_tx = at[ours], line_tx[ours]
    by_program = np.zeros(len(at), np.bool_)
    for size in range(32, 45):
        by_program |= reads(b" failed:", len("Program ") + size)
    programs: dict[int, str] = {}
    for transaction, line in zip(line_tx[by_program].tolist(), take(lines, at[by_program]).to_pylist(), strict=True):
        if transaction not in programs and (found := _FAILED.match(line)):
            programs[transaction] = found[1]
    anchors: dict[int, tuple[tuple[str, int], ...]] = {}
    by_anchor = reads(b"log: Anc", len("Program "))
    for transaction, line in zip(line_tx[by_anchor].tolist(), take(lines, at[by_anchor]).to_pylist(), strict=True):
        if found := _ANCHOR.match(line):
            anchors[transaction] = (*anchors.get(transaction, ()), (found[1], int(found[2])))
    return programs, anchors


def _failure(index: int | None, program: str | None, reason: str, named: Sequence[tuple[str, int]], registry: Registry) -> Failure:
    custom = _CUSTOM.fullmatch(reason)
    if custom is None:
        return Failure(index, program, None, None, reason)
    code = int(custom[1], 16)
    name = next((word for word, number in named if number == code), None) or registry.error(program, code)
    return Failure(index, program, code, name, reason)
