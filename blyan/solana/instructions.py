"""Every instruction of a batch in execution order, decoded once per distinct content.

Belongs here: order and depth of instructions, and templates: what a distinct instruction says apart from which
accounts it was given. Does not belong here: layouts of programs (`blyan.solana.programs`) or tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from blyan.errors import BadRecordError
from blyan.solana import base58, programs
from blyan.solana.batch import Batch, demote_writable
from blyan.solana.columns import (
    CODED,
    Codes,
    Ints,
    Mask,
    coded,
    lists,
    numbers_in,
    offsets_of,
    positions,
    ragged,
    repeat_index,
    strings,
    structs,
    texts,
    values_of,
)
from blyan.solana.decode import BinaryMessage, Instruction, Kind, UiTokenAmount
from blyan.solana.parsed import read_parsed
from blyan.solana.scan import objects

KEY = 1 << 29
"""Values of a template: below zero an account's position (`~position`), from here on a key's code, between them a literal."""

NOBODY = -(1 << 28)
"""The value of an account that an instruction does not have: no account has this position."""

_INITIALISE = frozenset(("initializeAccount", "initializeAccount2", "initializeAccount3"))

_MOVES = {
    ("system", "transfer"): "transfer",
    ("system", "transferWithSeed"): "transfer",
    ("spl-token", "transfer"): "spl-transfer",
    ("spl-token", "transferChecked"): "spl-transfer",
    ("spl-token", "transferCheckedWithFee"): "spl-transfer-with-fee",
    ("spl-token", "mintTo"): "mintTo",
    ("spl-token", "mintToChecked"): "mintTo",
    ("spl-token", "burn"): "burn",
    ("spl-token", "burnChecked"): "burn",
}
"""Instructions that move SOL or tokens, and the dataset's word for the movement."""

_ROLES: dict[str, tuple[tuple[str, ...], ...]] = {
    # kind: names of source, destination, authority, mint, mint authority; the first that is there counts.
    "transfer": (("source",), ("destination",), ("sourceBase", "source"), (), ()),
    "spl-transfer": (("source",), ("destination",), ("authority", "multisigAuthority"), ("mint",), ()),
    "spl-transfer-with-fee": (("source",), ("destination",), ("authority", "multisigAuthority"), ("mint",), ()),
    "mintTo": ((), ("account",), (), ("mint",), ("mintAuthority", "multisigMintAuthority")),
    "burn": (("account",), (), ("authority", "multisigAuthority"), ("mint",), ()),
}


@dataclass(slots=True)
class Moves:
    """Movements of SOL or tokens by templates: columns of equal length. Accounts are template values; -1 is absent."""

    kind: list[str] = field(default_factory=list)
    roles: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    value: list[int] = field(default_factory=list)
    decimals: list[int] = field(default_factory=list)
    fee: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Templates:
    """Distinct decoded instructions: columns of equal length, parameters flat with `counts`.

    Attributes:
        program, type, text: numbers of `words`, -1 where there is none; text is a memo's.
        keys: numbers of parameter names, in `names`.
        values: see `KEY`; literals are in `literals`.
        move: the template's row in `moves`, or -1.
        started: account and mint that the template initialises, or `NOBODY`.
        limit, price: compute budget that the template sets, or -1.
    """

    program: list[int] = field(default_factory=list)
    type: list[int] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    literals: dict[str, int] = field(default_factory=dict)
    move: list[int] = field(default_factory=list)
    moves: Moves = field(default_factory=Moves)
    started: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    limit: list[int] = field(default_factory=list)
    price: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.counts)

    def add_alike(self, decoded: list[programs.Decoded]) -> int:
        """Keep some decoded instructions of one type, text and parameters; the first one's number. Accounts are positions."""
        first, literals = decoded[0], self.literals
        columns: list[list[int]] = []
        texts_of: dict[str, list[str]] = {}
        for place, (name, value) in enumerate(first.params):
            given: list[Any] = [item.params[place][1] for item in decoded]
            if isinstance(value, str):
                texts_of[name] = given
                columns.append([literals.setdefault(text, len(literals)) for text in given])
            else:
                columns.append([~position for position in given])
        return self.add_group(first.program, first.type, [name for name, _ in first.params], columns, texts_of, size=len(decoded), text=first.text)

    def add_shape(self, shape: programs.Shape, fields: list[list[str]], size: int) -> int:
        """Keep `size` instructions of one shape, given the JSON texts of their data by field; the first one's number."""
        literals = self.literals
        numbers_of = [[literals.setdefault(text, len(literals)) for text in field] for field in fields]
        columns = [[~source] * size if source >= 0 else numbers_of[~source] for source in shape.sources]
        texts_of = {name: fields[~source] for name, source in zip(shape.names, shape.sources, strict=True) if source < 0}
        return self.add_group(shape.program, shape.type, shape.names, columns, texts_of, size=size)

    def literal(self, text: str) -> int:
        """The number of a literal."""
        return self.literals.setdefault(text, len(self.literals))

    def add_group(
        self,
        program: str,
        type_: str | None,
        names: Sequence[str],
        columns: list[list[int]],
        texts_of: dict[str, list[str]],
        *,
        size: int = 1,
        text: str | None = None,
    ) -> int:
        """Keep `size` instructions of one type with the same parameters; the first one's number.

        Args:
            program: name of the program.
            type_: name of the instruction; None for a memo.
            names: parameters in the order of their names.
            columns: template values of each parameter, a list of `size` each.
            texts_of: JSON texts of the parameters that are literals, by name.
            size: how many.
            text: what the memo says.
        """
        number, known = len(self), self.names
        self.program += [self._word(program)] * size
        self.type += [self._word(type_)] * size
        self.text += [self._word(text)] * size
        self.counts += [len(names)] * size
        self.keys += [known.setdefault(name, len(known)) for name in names] * size
        self.values += chain.from_iterable(zip(*columns, strict=True))
        self.move += [-1] * size
        self.started[0].extend([NOBODY] * size)
        self.started[1].extend([NOBODY] * size)
        self.limit += [-1] * size
        self.price += [-1] * size
        by_name = dict(zip(names, columns, strict=True))
        kind = _MOVES.get((program, type_ or ""))
        if kind is not None:
            self._moves_of(kind, number, size, by_name, texts_of)
        elif type_ in _INITIALISE and program == "spl-token":
            self.started[0][number:] = _role(by_name, ("account",), size)
            self.started[1][number:] = _role(by_name, ("mint",), size)
        elif program == "compute-budget":
            column, name = (self.price, "microLamports") if type_ == "setComputeUnitPrice" else (self.limit, "units")
            if name in texts_of:
                column[number:] = map(int, texts_of[name])
        return number

    def _word(self, word: str | None) -> int:
        return -1 if word is None else self.words.setdefault(word, len(self.words))

    def word_column(self, numbers_of: list[int], template_of: Ints) -> pa.DictionaryArray:
        """A text column that the template decides; null where there is none."""
        codes = np.array([*numbers_of, -1], np.int32)[template_of]
        absent = codes < 0
        if absent.all():
            return pa.nulls(len(template_of), CODED)
        return coded(np.where(absent, 0, codes), strings(self.words or [""]), absent)

    def _moves_of(self, kind: str, number: int, size: int, by_name: dict[str, list[int]], texts_of: dict[str, list[str]]) -> None:
        moves = self.moves
        self.move[number:] = range(len(moves.kind), len(moves.kind) + size)
        moves.kind += [kind] * size
        moves.roles += zip(*(_role(by_name, names, size) for names in _ROLES[kind]), strict=True)
        if "tokenAmount" in texts_of:
            amounts = [_exact(amount) for amount in texts_of["tokenAmount"]]
            moves.value += [amount for amount, _ in amounts]
            moves.decimals += [places for _, places in amounts]
        else:
            moves.value += [int(amount.strip('"')) for amount in texts_of["lamports" if "lamports" in texts_of else "amount"]]
            moves.decimals += [-1] * size
        moves.fee += [_exact(fee)[0] for fee in texts_of["feeAmount"]] if "feeAmount" in texts_of else [-1] * size


def _role(by_name: dict[str, list[int]], names: tuple[str, ...], size: int) -> list[int]:
    """Template values of the first account of these names that the instructions have."""
    for name in names:
        if name in by_name:
            return [value if value < 0 or value >= KEY else NOBODY for value in by_name[name]]
    return [NOBODY] * size


_decode_amount = msgspec.json.Decoder(UiTokenAmount).decode


def _exact(text: str) -> tuple[int, int]:
    """Amount and decimals of a token amount's JSON."""
    content = _decode_amount(text)
    return int(content.amount), content.decimals


@dataclass(slots=True)
class Instructions:
    """Every instruction of a batch in execution order, flat.

    Attributes:
        parent: index of the outer instruction that invoked it, or -1.
        stack_height: -1 where not recorded.
        program: code of the program's account.
        account_codes, account_counts: accounts it was given, flat; in `jsonParsed` only where it is not parsed.
        data_of: number of its data in `data`, the distinct data (base58 text, or bytes).
        template_of: number of its template, or -1 where it is not decoded.
    """

    transaction_of: Ints
    index: Ints
    parent: Ints
    ordinal: Ints
    stack_height: Ints
    program: Codes
    account_codes: Codes
    account_counts: Ints
    account_starts: Ints
    data_of: Ints
    data: list[str | bytes]
    template_of: Ints
    templates: Templates

    def resolve(self, values: Ints, rows: Ints) -> Ints:
        """Template values of some rows, with positions of accounts turned into codes from `KEY` on; `NOBODY` stays."""
        where = np.flatnonzero((values < 0) & (values != NOBODY))
        if not len(where):
            return values
        out = values.copy()
        out[where] = self.account_codes[self.account_starts[rows[where]] + ~values[where]].astype(np.int64) + KEY
        return out

    def content(self, row: int) -> bytes:
        """Raw data of a row."""
        raw = self.data[self.data_of[row]]
        return base58.decode(raw) if isinstance(raw, str) else raw


def instructions_of(batch: Batch) -> Instructions:
    """Flatten and decode the instructions of a batch.

    Raises:
        BadRecordError: one of them points outside its transaction.
    """
    groups = [(at, group) for at, meta in enumerate(batch.metas) if meta.inner_instructions for group in meta.inner_instructions]
    outer: list[Any] = [wire.message for wire in batch.wires]
    inner = [group.instructions for _, group in groups]
    if batch.kind is Kind.BINARY:
        given = _binary(outer, inner)
    elif batch.kind is Kind.COMPILED:
        given = _compiled([message.instructions for message in outer] + inner)
    else:
        given = _parsed(batch, [message.instructions for message in outer] + inner)
    outer_counts, sizes = given.counts[: len(batch)], given.counts[len(batch) :]
    size = int(outer_counts.sum())
    group_owner = np.array([at for at, _ in groups], np.int64)
    group_parent = np.array([group.index for _, group in groups], np.int64)
    if ((group_parent < 0) | (group_parent >= outer_counts[group_owner])).any():
        raise BadRecordError("inner instructions point at an outer one that is not there", reason="orphan_inner_instruction")
    transaction_of = np.concatenate([repeat_index(outer_counts), np.repeat(group_owner, sizes)])
    parent = np.concatenate([np.full(size, -1), np.repeat(group_parent, sizes)])
    index = np.concatenate([positions(outer_counts), _within_parent(group_owner, group_parent, sizes)])
    heights, data_of, account_counts = given.stack_height, given.data_of, given.account_counts
    heights[:size] = 1
    if batch.kind is Kind.PARSED:
        program, accounts = given.program.astype(np.int32), given.accounts.astype(np.int32)
    else:
        program, accounts = _account_codes(batch, given, transaction_of, size)
    account_starts = offsets_of(account_counts)[:-1]
    every = given.items
    if len(sizes):
        # An outer instruction comes before the inner ones it invoked.
        major = np.where(parent < 0, index, parent)
        width, depth = int(outer_counts.max()) + 1, int(index.max()) + 1
        order = np.argsort(((transaction_of * width + major) * 2 + (parent >= 0)) * depth + index, kind="stable")
        transaction_of, parent, index, heights = transaction_of[order], parent[order], index[order], heights[order]
        program, data_of = program[order], data_of[order]
        account_starts, account_counts = account_starts[order], account_counts[order]
        every = [every[at] for at in order.tolist()] if every else every
    instructions = Instructions(
        transaction_of=transaction_of,
        index=index,
        parent=parent,
        ordinal=positions(np.bincount(transaction_of, minlength=len(batch))),
        stack_height=heights,
        program=program,
        account_codes=accounts,
        account_counts=account_counts,
        account_starts=account_starts,
        data_of=data_of,
        data=given.data,
        template_of=np.full(len(index), -1, np.int64),
        templates=Templates(),
    )
    _decode_distinct(batch, instructions)
    if batch.kind is Kind.PARSED:
        try:
            _keep_parsed(batch, instructions, every)
        except (KeyError, ValueError) as error:
            raise BadRecordError(f"a parsed instruction lacks a parameter or has a wrong one: {error}", reason="malformed_instruction") from error
    return instructions


@dataclass(slots=True)
class _Given:
    """Instructions as the source gave them: outer ones of every transaction, then inner ones of every group.

    Attributes:
        counts: how many of each transaction, then of each group.
        stack_height: -1 where not recorded.
        program, accounts: positions among the transaction's accounts; codes in `jsonParsed`.
        data_of: number of its data in `data`, the distinct data.
        items: what `jsonParsed` gave.
    """

    counts: Ints
    stack_height: Ints
    program: Ints
    accounts: Ints
    account_counts: Ints
    data_of: Ints
    data: list[str | bytes]
    items: list[Instruction] = field(default_factory=list)


def _compiled(arrays: list[Raw]) -> _Given:
    items = objects(arrays, ("data",), _alike_instructions)
    program, no_program = items.integers("programIdIndex")
    if no_program.any():
        raise BadRecordError("an instruction has no program", reason="malformed_transaction")
    height, no_height = items.integers("stackHeight") if "stackHeight" in items else (np.zeros(len(items), np.int64), np.ones(len(items), np.bool_))
    accounts, account_counts = numbers_in(items.arrays("accounts"))
    data = items.strings("data").dictionary_encode()
    return _Given(
        counts=items.counts,
        stack_height=np.where(no_height, -1, height),
        program=program,
        accounts=accounts.astype(np.int64),
        account_counts=account_counts,
        data_of=values_of(data.indices).astype(np.int64),
        data=data.dictionary.to_pylist(),
    )


class _Compiled(msgspec.Struct, gc=False, rename="camel"):
    accounts: list[int]
    data: str
    program_id_index: int
    stack_height: int | None = None


_decode_compiled = msgspec.json.Decoder(list[list[_Compiled]]).decode
_decode_instructions = msgspec.json.Decoder(list[list[Instruction]]).decode


def _alike_instructions(text: bytes) -> list[bytes]:
    return [msgspec.json.encode(array) for array in _decode_compiled(text)]


def _binary(outer: list[BinaryMessage], arrays: list[Raw]) -> _Given:
    inner = _compiled(arrays)
    blobs = list(chain.from_iterable([message.accounts for message in outer]))
    account_counts = np.fromiter(map(len, blobs), np.int64, len(blobs))
    data = pa.array(list(chain.from_iterable([message.data for message in outer])), pa.binary()).dictionary_encode()
    distinct = data.dictionary.to_pylist()
    return _Given(
        counts=np.concatenate([np.array([len(message.programs) for message in outer], np.int64), inner.counts]),
        stack_height=np.concatenate([np.ones(len(blobs), np.int64), inner.stack_height]),
        program=np.concatenate([np.frombuffer(b"".join([message.programs for message in outer]), np.uint8).astype(np.int64), inner.program]),
        accounts=np.concatenate([np.frombuffer(b"".join(blobs), np.uint8).astype(np.int64), inner.accounts]),
        account_counts=np.concatenate([account_counts, inner.account_counts]),
        data_of=np.concatenate([values_of(data.indices).astype(np.int64), inner.data_of + len(distinct)]),
        data=distinct + inner.data,
    )


def _parsed(batch: Batch, arrays: list[Raw]) -> _Given:
    lists_of = _decode_instructions(b"[" + b",".join(arrays) + b"]")
    every = list(chain.from_iterable(lists_of))
    code_of = batch.code_of
    keys, account_counts = texts([item.accounts for item in every])
    named = keys.dictionary_encode()
    try:
        program = np.array([code_of[item.program_id] for item in every], np.int64)
        accounts = np.array([code_of[key] for key in named.dictionary.to_pylist()], np.int64)[values_of(named.indices)]
    except KeyError as error:
        raise BadRecordError(f"an instruction names {error}, which its transaction does not", reason="account_index") from error
    data = strings([item.data for item in every]).dictionary_encode()
    return _Given(
        counts=np.array([len(item) for item in lists_of], np.int64),
        stack_height=np.array([-1 if item.stack_height is None else item.stack_height for item in every], np.int64),
        program=program,
        accounts=accounts,
        account_counts=account_counts,
        data_of=values_of(data.indices).astype(np.int64),
        data=data.dictionary.to_pylist(),
        items=every,
    )


def _within_parent(owner: Ints, parent: Ints, sizes: Ints) -> Ints:
    """Positions of inner instructions among those of their parent, which may come in several groups."""
    place = positions(sizes)
    groups = owner * (int(parent.max(initial=0)) + 1) + parent
    if len(np.unique(groups)) < len(groups):
        of_each = np.repeat(groups, sizes)
        order = np.argsort(of_each, kind="stable")
        place[order] = positions(np.unique(of_each, return_counts=True)[1])
    return place


def _account_codes(batch: Batch, given: _Given, transaction_of: Ints, outer: int) -> tuple[Codes, Codes]:
    """Codes of programs and of accounts, given as positions; of the instructions, the first `outer` are outer ones."""
    keys, owner = batch.accounts, np.repeat(transaction_of, given.account_counts)
    if ((given.program < 0) | (given.program >= keys.counts[transaction_of])).any():
        raise BadRecordError("an instruction names a program outside the accounts", reason="account_index")
    if ((given.accounts < 0) | (given.accounts >= keys.counts[owner])).any():
        raise BadRecordError("an instruction names an account outside the accounts", reason="account_index")
    demote_writable(batch, transaction_of[:outer], given.program[:outer])
    starts = keys.starts
    return keys.codes[starts[transaction_of] + given.program], keys.codes[starts[owner] + given.accounts]


def _decode_distinct(batch: Batch, instructions: Instructions) -> None:
    """Decode each distinct (program, data, number of accounts) once, and give every row its template."""
    decodable = np.zeros(len(batch.accounts.pool), np.bool_)
    known = {code: program_id for program_id in programs.DECODERS if (code := batch.code_of.get(program_id)) is not None}
    decodable[list(known)] = True
    candidates = decodable[instructions.program]
    if batch.kind is Kind.PARSED:
        # What the source parsed has neither data nor accounts.
        empty = next((at for at, data in enumerate(instructions.data) if data == ""), -1)
        candidates &= ~((instructions.data_of == empty) & (instructions.account_counts == 0))
    rows = np.flatnonzero(candidates)
    # An account may be given many times over, so their number has no bound of its own.
    width, most = len(instructions.data), int(instructions.account_counts.max(initial=0)) + 1
    combined = (instructions.program[rows].astype(np.int64) * width + instructions.data_of[rows]) * most + instructions.account_counts[rows]
    _, first, inverse = np.unique(combined, return_index=True, return_inverse=True)
    distinct = rows[first]
    template_of = np.full(len(distinct), -1, np.int64)
    of_program = instructions.program[distinct].tolist()
    counts = instructions.account_counts[distinct].tolist()
    sizes = {code: programs.tag_size(program_id) for code, program_id in known.items()}
    contents = _contents([instructions.data[number] for number in instructions.data_of[distinct].tolist()])
    groups: defaultdict[tuple[int, bytes, int], list[int]] = defaultdict(list)
    for at, (code, content, count) in enumerate(zip(of_program, contents, counts, strict=True)):
        groups[code, content[: sizes[code]], count].append(at)
    alone: list[int] = []
    for (code, tag, count), members in groups.items():
        shape = programs.shape_of(known[code], tag, count) if sizes[code] else None
        group = [contents[at] for at in members]
        if shape is None or min(map(len, group)) < len(tag) + shape.packing.size:
            alone += members
            continue
        number = instructions.templates.add_shape(shape, shape.columns(group, len(tag)), len(members))
        template_of[members] = np.arange(number, number + len(members))
    several = []
    alike: defaultdict[tuple[str | None, ...], list[tuple[int, programs.Decoded]]] = defaultdict(list)
    for at in alone:
        decoded = programs.decode(known[of_program[at]], contents[at], counts[at])
        if decoded is None:
            continue
        if any(type(value) is tuple for _, value in decoded.params):
            several.append((at, decoded))
        else:
            # Of alike ones, the same parameters are literals: which are, goes by their layout.
            kinds = [name if type(value) is str else f"@{name}" for name, value in decoded.params]
            alike[decoded.program, decoded.type, decoded.text, *kinds].append((at, decoded))
    for same in alike.values():
        number = instructions.templates.add_alike([decoded for _, decoded in same])
        template_of[[at for at, _ in same]] = np.arange(number, number + len(same))
    instructions.template_of[rows] = template_of[inverse]
    for at, decoded in several:
        _decode_each(batch, instructions, rows[inverse == at], decoded)


def _contents(data: list[str | bytes]) -> list[bytes]:
    """Raw bytes of data given as bytes or base58."""
    try:
        decoded = iter(base58.decode_many([item for item in data if isinstance(item, str)]))
    except ValueError as error:
        raise BadRecordError(f"instruction data is not base58: {error}", reason="not_base58") from error
    return [next(decoded) if isinstance(item, str) else item for item in data]


def _decode_each(batch: Batch, instructions: Instructions, rows: Ints, decoded: programs.Decoded) -> None:
    """A list of accounts is one parameter, so its text differs from row to row: such rows get a template each."""
    pool = batch.accounts.pool
    for row in rows.tolist():
        start = instructions.account_starts[row]
        names = [pool[int(code)].as_py() for code in instructions.account_codes[start : start + instructions.account_counts[row]]]
        params: list[tuple[str, programs.Value]] = [
            (name, programs.to_json([names[place] for place in value]) if isinstance(value, tuple) else value) for name, value in decoded.params
        ]
        instructions.template_of[row] = instructions.templates.add_alike([programs.Decoded(decoded.program, decoded.type, params)])


def _keep_parsed(batch: Batch, instructions: Instructions, ordered: list[Instruction]) -> None:
    """Instructions that the source parsed, grouped by type: account names become codes."""
    rows = [row for row, item in enumerate(ordered) if item.parsed]
    keys = {f'"{key}"'.encode(): KEY + code for key, code in batch.code_of.items()}
    templates = instructions.templates
    for group in read_parsed([(ordered[row].program, ordered[row].parsed) for row in rows]):
        columns, texts_of = [], {}
        for name, column in zip(group.names, group.columns, strict=True):
            codes = list(map(keys.get, column))
            if None in codes:
                texts_of[name] = [text.decode() for text in column]
                codes = [templates.literal(text) if code is None else code for code, text in zip(codes, texts_of[name], strict=True)]
            columns.append(codes)
        size = len(group.members)
        number = templates.add_group(group.program, group.type, group.names, columns, texts_of, size=size, text=group.text)  # type: ignore[arg-type]
        instructions.template_of[[rows[member] for member in group.members]] = np.arange(number, number + size)


def params_column(batch: Batch, instructions: Instructions) -> pa.ListArray:
    """The decoded parameters of every row; null where it is not decoded, or a memo."""
    templates, template_of = instructions.templates, instructions.template_of
    absent = np.array([*templates.text, 0], np.int64)[template_of] >= 0
    template_counts = np.array([*templates.counts, 0], np.int64)
    counts = template_counts[template_of]
    places = ragged(offsets_of(template_counts)[:-1][template_of], counts)
    keys = np.array(templates.keys, np.int32)[places]
    codes = instructions.resolve(np.array(templates.values, np.int64)[places], repeat_index(counts))
    literals = len(templates.literals)
    codes = np.where(codes >= KEY, codes - KEY + literals, codes)
    quote = pa.scalar('"')
    pool = pa.concat_arrays([strings(templates.literals), pc.binary_join_element_wise(quote, batch.accounts.pool, quote, "")])
    return lists(counts, structs(key=coded(keys, strings(templates.names)), value=coded(codes, pool)), absent)


def data_column(instructions: Instructions, undecoded: Mask) -> pa.DictionaryArray:
    """Raw data of the rows that are not decoded, base58."""
    used = np.zeros(len(instructions.data), np.bool_)
    used[instructions.data_of[undecoded]] = True
    pool = [
        ("" if not keep else item if isinstance(item, str) else base58.encode(item))
        for item, keep in zip(instructions.data, used.tolist(), strict=True)
    ]
    return coded(instructions.data_of, strings(pool), ~undecoded)
