"""Transactions as text.

Belongs here: the words, and the order in which facts are told. Does not belong here: which rows belong together
(`blyan.corpus.activity`), what a transaction is (`blyan.corpus.labels`), which are rendered (`blyan.corpus.documents`).

A text has a line for the outcome, one for what the fee payer gained and lost, and one for each instruction, those that
another invoked behind `>`. A swap is told by what was swapped for what:

    @0 swapped 1.5 SOL for 203.117642 USDC at Raydium AMM v4; @0 paid 0.000005 SOL in fees, 84123 compute units.
    Raydium AMM v4 swapBaseIn on @1
    > @2 sent 1.5 wSOL to @3 by @0
    > @4 sent 203.117642 USDC to @5 by @6

Accounts are `@0`, `@1`… in the order of their first mention, and by name where the registry has one. Amounts are exact, in whole
units of the mint; in base units where nothing tells the decimals. What says nothing about a transaction is left out: sysvars,
the programs an instruction passes on, instructions of the compute budget, whose effect is the fee, logs in the form of instructions,
and the steps of opening an associated token account, which is told in one line.

The text is a gather. Every word, name, alias and amount is a string of one pool; a document is a run of numbers into it, made by
numpy for all rows of a kind at once: `benchmarks/render.py` measures 37,000 transactions without votes per CPU-second on blocks of 2025, and
ten times what f-strings over rows do, labels included.
The same run with amounts replaced is the masked text, whose digest is the structural key.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.activity import Activity, Failure, coded_text, flat, integers, plain, whole
from blyan.corpus.families import family_of
from blyan.corpus.labels import KIND_RULES, Labels
from blyan.corpus.registry import Registry
from blyan.corpus.untrusted import flags_of, quote
from blyan.solana import base58
from blyan.solana.columns import Ints, Mask, coded, flags, interleave, lists, mask_of, offsets_of, ragged, repeat_index, strings, take

RENDERER = "3"
"""Raise it when the same rows would give other text or labels."""

_VALUE = 1 << 40
"""Pieces: below zero an account (`~code`), from here on a value of `_Pieces.values`, between them a word."""

KIND_WORDS = {
    "vote": "Vote", "swap": "Swap", "liquidity": "Liquidity change", "exchange": "Exchange call", "nft": "NFT operation", "lending": "Lending operation",
    "stake": "Stake operation", "oracle": "Oracle update", "program": "Program call", "mint": "Token mint", "burn": "Token burn",
    "token_transfer": "Token transfer", "transfer": "SOL transfer", "token_account": "Token account operation", "deploy": "Program deployment",
    "account": "Account operation", "other": "Transaction",
}  # fmt: skip


@dataclass(slots=True)
class Rendered:
    """Texts of transactions, in their order.

    Attributes:
        text: `schemas.DOCUMENTS.text`.
        accounts: the account of each alias.
        masked: the text with amounts and other values replaced by `#`.
        structural_key: 32 hex digits of the SHA-256 of the masked text.
        family_key: likewise of its family, see `blyan.corpus.families`.
        flags: what is odd about text that anyone may write, by transaction.
    """

    text: pa.StringArray
    accounts: pa.ListArray
    masked: pa.StringArray
    structural_key: pa.DictionaryArray
    family_key: pa.DictionaryArray
    flags: pa.ListArray


@dataclass(slots=True)
class _Pieces:
    """The pool that texts are gathered from, and the lines gathered so far."""

    activity: Activity
    words: dict[str, int] = field(default_factory=lambda: {"": 0})
    values: list[pa.StringArray] = field(default_factory=list)
    size: int = 0
    order: list[Ints] = field(default_factory=list)
    counts: list[Ints] = field(default_factory=list)
    lines: list[Ints] = field(default_factory=list)

    def word(self, text: str) -> int:
        """A piece that is part of the structure."""
        return self.words.setdefault(text, len(self.words))

    def words_of(self, texts: Sequence[str]) -> Ints:
        """Pieces that are part of the structure."""
        return np.array([self.word(text) for text in texts], np.int64)

    def value(self, texts: pa.StringArray) -> Ints:
        """Pieces that masking replaces."""
        self.values.append(texts)
        self.size += len(texts)
        return np.arange(self.size - len(texts), self.size) + _VALUE

    def add(self, order: Ints, *columns: Ints | int) -> None:
        """A line for each element of `order`, of one piece of each column."""
        if len(order):
            rows = np.empty((len(order), len(columns)), np.int64)
            for at, column in enumerate(columns):
                rows[:, at] = column
            self.add_ragged(order, np.full(len(order), len(columns)), rows.ravel())

    def add_ragged(self, order: Ints, counts: Ints, pieces: Ints) -> None:
        """A line for each element of `order`, of so many pieces."""
        self.order.append(order)
        self.counts.append(counts)
        self.lines.append(pieces)

    def stream(self) -> tuple[Ints, Ints]:
        """All pieces in order, and how many each transaction has."""
        order, counts, pieces = (np.concatenate(parts) for parts in (self.order, self.counts, self.lines))
        by = np.argsort(order, kind="stable")
        starts = offsets_of(counts)[:-1]
        sizes = np.bincount(order >> _TX_SHIFT, weights=counts, minlength=len(self.activity)).astype(np.int64)
        return pieces[ragged(starts[by], counts[by])], sizes


NOOP = "noopb9bkMVfRPU8AsbpTUg8AQkHtKwMYZiFUjNRtMmV"
"""The program that does nothing, which others call to have bytes on record."""

_TX_SHIFT, _SECTION_SHIFT, _ROW_SHIFT = 36, 34, 14
"""The order of lines: transaction, section, row, part."""


def _at(transaction: Ints, section: int, row: Ints | int = 0, part: Ints | int = 0) -> Ints:
    return (transaction << _TX_SHIFT) | (section << _SECTION_SHIFT) | (np.minimum(row, (1 << 20) - 1) << _ROW_SHIFT) | np.minimum(part, (1 << 14) - 1)


def render(activity: Activity, labels: Labels, registry: Registry) -> Rendered:
    """Render transactions.

    Args:
        activity: their rows.
        labels: their labels; the kind begins the text.
        registry: names of programs and mints.
    """
    pieces = _Pieces(activity)
    _outcome_lines(pieces, labels)
    _net_lines(pieces, labels.swapped)
    odd = _instruction_lines(pieces)
    stream, counts = pieces.stream()
    names = registry.names
    named = np.array([pieces.word(names[account]) if account in names else -1 for account in activity.pool.to_pylist()], np.int64)
    stream, accounts = _aliased(stream, counts, named, activity.pool, pieces)
    pool = pa.concat_arrays([strings(list(pieces.words)), *pieces.values])
    masked = _gather(np.where(stream >= _VALUE, pieces.words["#"], stream), counts, pool)
    text = _gather(np.where(stream >= _VALUE, stream - _VALUE + len(pieces.words), stream), counts, pool)
    return Rendered(text, accounts, masked, *_keys_of(masked), odd)


def _gather(stream: Ints, counts: Ints, pool: pa.StringArray) -> pa.StringArray:
    """Runs of strings of a pool, each run joined: the joined bytes are those of the gathered column, only its offsets are fewer."""
    gathered = take(pool, stream)
    offsets = np.frombuffer(gathered.buffers()[1], np.int32)[offsets_of(counts)]
    return pa.Array.from_buffers(pa.string(), len(counts), [None, pa.py_buffer(np.ascontiguousarray(offsets)), gathered.buffers()[2]])


def _keys_of(masked: pa.StringArray) -> tuple[pa.DictionaryArray, pa.DictionaryArray]:
    """Structural keys and family keys."""
    distinct = masked.dictionary_encode()
    texts = distinct.dictionary.to_pylist()
    keys = ([_digest(text) for text in texts], [_digest(family_of(text)) for text in texts])
    structural, family = (pa.DictionaryArray.from_arrays(distinct.indices, strings(each)) for each in keys)
    return structural, family


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _aliased(stream: Ints, counts: Ints, named: Ints, pool: pa.StringArray, pieces: _Pieces) -> tuple[Ints, pa.ListArray]:
    """Accounts of the stream replaced by their names, or by aliases in the order of their first mention; and whom the aliases mean."""
    mentions = np.flatnonzero(stream < 0)
    account = ~stream[mentions]
    name = named[account]
    out = stream.copy()
    out[mentions] = name
    nameless = name < 0
    mentions, account = mentions[nameless], account[nameless]
    transaction = repeat_index(counts)[mentions]
    keys, first, which = np.unique(transaction * len(pool) + account, return_index=True, return_inverse=True)
    by = np.argsort(first)
    sizes = np.bincount(keys // max(len(pool), 1), minlength=len(counts))
    alias = np.empty(len(keys), np.int64)
    alias[by] = np.arange(len(keys)) - np.repeat(offsets_of(sizes)[:-1], sizes)
    aliases = pieces.words_of([f"@{number}" for number in range(int(sizes.max(initial=0)))])
    pieces.word("#")
    out[mentions] = aliases[alias[which]]
    return out, lists(sizes, coded(keys[by] % max(len(pool), 1), pool))


def amounts(values: pa.Decimal128Array, decimals: Ints) -> pa.StringArray:
    """Exact amounts in whole units.

    Args:
        values: base units, scale 0, without nulls.
        decimals: of each; below 0 where unknown, which leaves base units.
    """
    texts, places = [], []
    wide = values.cast(pa.decimal128(38, 0))
    for scale in np.unique(decimals).tolist():
        at = np.flatnonzero(decimals == scale)
        part = take(wide, at)
        if 0 < scale <= 38:
            # The same 128 bits read with another scale.
            part = pa.Array.from_buffers(pa.decimal128(38, scale), len(part), part.buffers())
            text = pc.utf8_rtrim(pc.utf8_rtrim(part.cast(pa.string()), "0"), ".")
            tiny = np.flatnonzero(mask_of(pc.match_substring(part.cast(pa.string()), "E")))
            if len(tiny):
                # Arrow turns to an exponent below a millionth.
                distinct = take(part, tiny).dictionary_encode()
                exact = take(strings([_plain(value) for value in distinct.dictionary.to_pylist()]), integers(distinct.indices.cast(pa.int64())))
                text = pc.replace_with_mask(text, flags(np.isin(np.arange(len(part)), tiny)), exact)
        elif scale > 38:
            text = strings([_plain(value.scaleb(-scale)) for value in part.to_pylist()])
        else:
            text = part.cast(pa.string())
        texts.append(text)
        places.append(at)
    if not texts:
        return strings([])
    back = np.empty(len(values), np.int64)
    back[np.concatenate(places)] = np.arange(len(values))
    return take(pa.concat_arrays(texts), back)


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _outcome_lines(pieces: _Pieces, labels: Labels) -> None:
    activity = pieces.activity
    rows = activity.transactions
    every = np.arange(len(activity))
    kinds = pieces.words_of([KIND_WORDS[rule.kind] for rule in KIND_RULES])
    outcomes, outcome_of = coded_text(rows["status"])
    words = pieces.words_of(
        [{"Success": " succeeded", "Fail": " failed"}[text] for text in outcomes.to_pylist()] + [" was recorded without its outcome"]
    )
    swaps, others = np.flatnonzero(labels.swapped), np.flatnonzero(~labels.swapped)
    at_exchange = labels.exchange[others] >= 0
    pieces.add(
        _at(others, 0),
        kinds[labels.kind_rule[others]],
        np.where(at_exchange, pieces.word(" at "), 0),
        np.where(at_exchange, ~labels.exchange[others], 0),
        words[outcome_of[others]],
    )
    # Between, what was swapped: `_net_lines`.
    pieces.add(_at(swaps, 0, 2), pieces.word(" at "), ~labels.exchange[swaps])
    fee, no_fee = whole(rows["fee"]), mask_of(whole(rows["fee"]).is_null()) | (activity.payer < 0)
    paid = pieces.value(amounts(pc.fill_null(fee, 0), np.full(len(every), 9)))
    units = integers(rows["compute_units_consumed"])
    used = pieces.value(plain(pa.array(units).cast(pa.string())))
    pieces.add(
        _at(every, 0, 3),
        np.where(no_fee, 0, pieces.word("; ")),
        np.where(no_fee, 0, ~activity.payer),
        np.where(no_fee, 0, pieces.word(" paid ")),
        np.where(no_fee, 0, paid),
        np.where(no_fee, 0, pieces.word(" SOL in fees")),
        np.where(units < 0, 0, pieces.word(", ")),
        np.where(units < 0, 0, used),
        np.where(units < 0, pieces.word("."), pieces.word(" compute units.")),
    )
    failed = np.array(sorted(activity.failures), np.int64)
    numbers: dict[Failure, int] = {}
    cause_of = np.array([numbers.setdefault(activity.failures[transaction], len(numbers)) for transaction in failed.tolist()], np.int64)
    causes = list(numbers)
    code_of = {account: code for code, account in enumerate(activity.pool.to_pylist())} if causes else {}
    who = np.array([code_of.get(cause.program or "", -1) for cause in causes], np.int64)[cause_of]
    moves = np.bincount(activity.transfer_tx, minlength=len(activity))[failed] > 0
    pieces.add(
        _at(failed, 0, 4),
        pieces.words_of([" It failed" if cause.instruction is None else f" Instruction {cause.instruction} failed" for cause in causes])[cause_of],
        np.where(who >= 0, pieces.word(" in "), 0),
        np.where(who >= 0, ~who, 0),
        pieces.words_of([f": {_reason(cause)}." for cause in causes])[cause_of],
        np.where(moves, pieces.word(" Nothing below took effect."), 0),
    )


def _reason(cause: Failure) -> str:
    if cause.code is not None:
        return f"error {cause.code:#x}" if cause.name is None else f"{cause.name} ({cause.code:#x})"
    # A program may put its own words into an error that it gives.
    return quote(cause.reason)[1:-1]


def _net_lines(pieces: _Pieces, swapped: Mask) -> None:
    """What fee payers gave and received: in the first line of a swap, in a line of its own else."""
    net = pieces.activity.net
    gained = mask_of(pc.greater(net.change, pa.scalar(0, pa.decimal128(38, 0))))
    # What was given is told first.
    by = np.lexsort((np.arange(len(gained)), gained, net.transaction_of))
    gained, transaction = gained[by], net.transaction_of[by]
    swap = swapped[transaction]
    fresh = np.append(True, transaction[1:] != transaction[:-1])[: len(by)]
    turned = ~fresh & (gained != np.roll(gained, 1))
    verb = np.where(swap, pieces.word(" swapped "), np.where(gained, pieces.word(" received "), pieces.word(" gave ")))
    between = np.where(turned, np.where(swap, pieces.word(" for "), pieces.word(" and received ")), pieces.word(", "))
    amount = pieces.value(pc.utf8_ltrim(amounts(take(net.change, by), net.decimals[by]), "-"))
    mint = net.mint[by]
    last = np.append(fresh[1:], True)[: len(by)]
    place = np.arange(len(by)) - np.maximum.accumulate(np.where(fresh, np.arange(len(by)), 0))
    pieces.add(
        np.where(swap, _at(transaction, 0, 1, place), _at(transaction, 1, 0, place)),
        np.where(fresh & ~swap, pieces.word("\n"), 0),
        np.where(fresh, ~pieces.activity.payer[transaction], 0),
        np.where(fresh, verb, between),
        amount,
        pieces.word(" "),
        np.where(mint < 0, pieces.word("SOL"), ~mint),
        np.where(last & ~swap, pieces.word("."), 0),
    )


def _instruction_lines(pieces: _Pieces) -> pa.ListArray:
    """Lines of instructions; the flags of each transaction."""
    activity = pieces.activity
    rows = activity.instructions
    prefix = np.where(integers(rows["parent_index"]) < 0, pieces.word("\n"), pieces.word("\n> "))
    ordinal = integers(rows["ordinal"])
    decoded, decoded_of = coded_text(rows["program"])
    is_move = np.zeros(len(prefix), np.bool_)
    is_move[activity.transfer_row] = True
    memos, memo_of = coded_text(rows["parsed"])
    told = ~is_move & (memo_of < 0) & ~_says_nothing(activity, decoded, decoded_of)
    _transfer_lines(pieces, prefix, ordinal)
    at = np.flatnonzero(memo_of >= 0)
    quoted = pieces.value(strings([quote(text) for text in memos.to_pylist()]))
    pieces.add(_at(activity.instruction_tx[at], 2, ordinal[at]), prefix[at], pieces.word("Memo "), quoted[memo_of[at]] if len(at) else at)
    _call_lines(pieces, prefix, ordinal, told & (decoded_of < 0), np.cumsum(told | is_move | (memo_of >= 0)))
    texts, text_row = _decoded_lines(pieces, prefix, ordinal, np.flatnonzero(told & (decoded_of >= 0)), decoded.to_pylist(), decoded_of)
    odd = [flags_of(text) for text in memos.to_pylist()]
    rows_of = [(int(row), odd[memo_of[row]]) for row in np.flatnonzero(np.array([*map(bool, odd), False], np.bool_)[memo_of]).tolist()]
    return _flags(activity, [*rows_of, *((row, flags_of(text)) for text, row in zip(texts, text_row.tolist(), strict=True))])


_STEPS = frozenset(("createAccount", "allocate", "assign", "transfer", "initializeAccount", "initializeAccount2", "initializeAccount3"))
_SILENT = frozenset(("getAccountDataSize", "initializeImmutableOwner", "syncNative"))


def _says_nothing(activity: Activity, decoded: pa.StringArray, decoded_of: Ints) -> Mask:
    """Instructions that are not told: logs, the compute budget, and the steps of opening an associated token account, one by one."""

    def of_program(*names: str) -> Mask:
        return np.array([name in names for name in [*decoded.to_pylist(), ""]], np.bool_)[decoded_of]

    def named(names: Iterable[str]) -> Mask:
        return np.array([name in names for name in activity.names], np.bool_)[activity.name_of]

    token = of_program("spl-token")
    silent = named(_SILENT) & token
    noop = np.append(mask_of(pc.equal(activity.pool, NOOP)), False)[activity.program]
    # Steps follow the instruction that invoked them; the last row that is none is that one.
    inner = integers(activity.instructions["parent_index"]) >= 0
    step = silent | (inner & named(_STEPS) & (token | of_program("system")))
    rows = np.arange(len(step))
    invoker = np.maximum.accumulate(np.where(step, -1, rows)) if len(rows) else rows
    opened = (
        step & (invoker >= 0) & of_program("spl-associated-token-account")[invoker] & (activity.instruction_tx[invoker] == activity.instruction_tx)
    )
    # An exchange may call itself to have its log on record, too.
    log = activity.is_log | (inner & named(("Log",)) & (decoded_of < 0))
    nothing: Mask = log | noop | silent | opened | of_program("compute-budget")
    return nothing


def _flags(activity: Activity, odd: Sequence[tuple[int, Sequence[str]]]) -> pa.ListArray:
    """What is odd about a transaction's texts, from what is odd about those of its instructions."""
    found: dict[int, set[str]] = {}
    for row, names in odd:
        if names:
            found.setdefault(int(activity.instruction_tx[row]), set()).update(names)
    counts = np.zeros(len(activity), np.int64)
    for transaction, flags_found in found.items():
        counts[transaction] = len(flags_found)
    texts = [name for transaction in sorted(found) for name in sorted(found[transaction])]
    return lists(counts, strings(texts).dictionary_encode())


def _transfer_lines(pieces: _Pieces, prefix: Ints, ordinal: Ints) -> None:
    activity = pieces.activity
    transfers, row = activity.transfers, activity.transfer_row
    source, destination, authority, mint, mint_authority = (
        activity.transfer_accounts[name] for name in ("source", "destination", "authority", "mint", "mint_authority")
    )
    kinds, kind_of = coded_text(transfers["transfer_type"])
    kind = np.array(["transfer" if name.startswith("spl") else "sol" if name == "transfer" else name for name in kinds.to_pylist()] or ["sol"])[
        kind_of
    ]
    minted, burned, sol = kind == "mintTo", kind == "burn", kind == "sol"
    decimals = np.where(sol, 9, integers(transfers["decimals"]))
    value = pieces.value(amounts(whole(transfers["value"]), decimals))
    subject = np.where(minted, mint_authority, np.where(burned, authority, source))
    verb = np.where(minted, pieces.word(" minted "), np.where(burned, pieces.word(" burned "), pieces.word(" sent ")))
    unit = np.where(sol, pieces.word("SOL"), np.where(mint >= 0, ~mint, pieces.word("of an unknown mint")))
    target = np.where(burned, source, destination)
    by = ~minted & ~burned & (authority >= 0) & (authority != source)
    fee, no_fee = whole(transfers["fee"]), mask_of(whole(transfers["fee"]).is_null())
    withheld = np.flatnonzero(~no_fee)
    fees = np.zeros(len(row), np.int64)
    fees[withheld] = pieces.value(amounts(take(fee, withheld), decimals[withheld]))
    pieces.add(
        _at(activity.transfer_tx, 2, ordinal[row]),
        prefix[row],
        np.where(subject >= 0, ~subject, pieces.word("An unknown account")),
        verb,
        value,
        np.where(decimals < 0, pieces.word(" base units "), pieces.word(" ")),
        np.where((decimals < 0) & (mint >= 0), pieces.word("of "), 0),
        unit,
        np.where(target >= 0, np.where(burned, pieces.word(" of "), pieces.word(" to ")), 0),
        np.where(target >= 0, ~target, 0),
        np.where(by, pieces.word(" by "), 0),
        np.where(by, ~authority, 0),
        np.where(no_fee, 0, pieces.word(" less a fee of ")),
        np.where(no_fee, 0, fees),
    )


def _call_lines(pieces: _Pieces, prefix: Ints, ordinal: Ints, wanted: Mask, line: Ints) -> None:
    """Instructions that are not decoded: the program, the instruction's name, and what it acts on; without a name, how many accounts it was given.

    Lines that would be alike, one after the other, are one line with their number. `line` counts the lines up to each instruction.
    """
    activity = pieces.activity
    at = np.flatnonzero(wanted)
    _, accounts = flat(activity.instructions["accounts"])
    names = pieces.words_of([f" {name}" if name else " call" for name in activity.names])
    given = pieces.words_of([f" with {size} account{'s' if size > 1 else ''}" if size else "" for size in range(int(accounts.max(initial=0)) + 1)])
    parts = (activity.instruction_tx, prefix, activity.program, activity.name_of, activity.acts_on, np.where(activity.name_of > 0, 0, accounts))
    again = np.zeros(len(at), np.bool_)
    again[1:] = np.diff(line[at]) == 1
    for part in parts:
        again[1:] &= part[at[1:]] == part[at[:-1]]
    first = np.flatnonzero(~again)
    times = np.diff(np.append(first, len(at)))
    at = at[first]
    program, acts_on, name = activity.program[at], activity.acts_on[at], activity.name_of[at]
    number = pieces.value(plain(pa.array(times).cast(pa.string())))
    pieces.add(
        _at(activity.instruction_tx[at], 2, ordinal[at]),
        prefix[at],
        np.where(program >= 0, ~program, pieces.word("An unknown program")),
        names[name],
        np.where(acts_on >= 0, pieces.word(" on "), 0),
        np.where(acts_on >= 0, ~acts_on, 0),
        np.where(name > 0, 0, given[accounts[at]]),
        np.where(times > 1, pieces.word(", "), 0),
        np.where(times > 1, number, 0),
        np.where(times > 1, pieces.word(" times"), 0),
    )


_ACCOUNT_OPENED = ("Opened token account", {"account": "", "mint": " of", "wallet": " for", "owner": " for", "source": " paid by"})
_BALLOT = ("Voted", {"vote": "", "voteStateUpdate": "", "towerSync": "", "voteAccount": " for", "voteAuthority": " by"})
_AUTHORITY = {"authority": " by", "multisigAuthority": " by", "owner": " by", "multisigOwner": " by", "signers": " signed by"}
_WRITTEN = ("Wrote", {"bytes": "", "account": " to", "offset": " at", "authority": " by"})
_SENTENCES: dict[tuple[str, str], tuple[str, dict[str, str]]] = {
    ("spl-associated-token-account", "create"): _ACCOUNT_OPENED,
    ("spl-associated-token-account", "createIdempotent"): ("Ensured token account", _ACCOUNT_OPENED[1]),
    ("spl-token", "initializeAccount"): _ACCOUNT_OPENED,
    ("spl-token", "initializeAccount2"): _ACCOUNT_OPENED,
    ("spl-token", "initializeAccount3"): _ACCOUNT_OPENED,
    ("spl-token", "closeAccount"): ("Closed token account", {"account": "", "destination": " to", **_AUTHORITY}),
    ("spl-token", "freezeAccount"): ("Froze", {"account": "", "mint": " of", "freezeAuthority": " by", "multisigFreezeAuthority": " by", "signers": " signed by"}),
    ("spl-token", "thawAccount"): ("Thawed", {"account": "", "mint": " of", "freezeAuthority": " by", "multisigFreezeAuthority": " by", "signers": " signed by"}),
    ("spl-token", "approve"): ("Approved", {"delegate": "", "amount": " to spend base units", "source": " of", **_AUTHORITY}),
    ("spl-token", "approveChecked"): ("Approved", {"delegate": "", "tokenAmount": " to spend", "mint": "", "source": " of", **_AUTHORITY}),
    ("spl-token", "revoke"): ("Revoked the delegate", {"source": " of", **_AUTHORITY}),
    ("spl-token", "initializeMint"): ("Created mint", {"mint": "", "decimals": " with decimals", "mintAuthority": " minted by", "freezeAuthority": " frozen by"}),
    ("spl-token", "initializeMint2"): ("Created mint", {"mint": "", "decimals": " with decimals", "mintAuthority": " minted by", "freezeAuthority": " frozen by"}),
    ("spl-token", "setAuthority"): ("Set", {"authorityType": " authority", "account": " of", "mint": " of", "newAuthority": " to", **_AUTHORITY}),
    ("spl-token", "initializeTokenMetadata"): ("Token", {"mint": "", "name": " claims the name", "symbol": " the symbol", "uri": " the address", "updateAuthority": " by"}),
    ("system", "createAccount"): ("Created account", {"newAccount": "", "owner": " of", "lamports": " with", "source": " from"}),
    ("system", "createAccountWithSeed"): ("Created account", {"newAccount": "", "owner": " of", "lamports": " with", "source": " from"}),
    ("system", "createAccountAllowPrefund"): ("Created account", {"newAccount": "", "owner": " of", "lamports": " with", "source": " from"}),
    ("system", "allocate"): ("Allocated", {"space": "", "account": " bytes for"}),
    ("system", "assign"): ("Assigned", {"account": "", "owner": " to"}),
    ("system", "allocateWithSeed"): ("Allocated", {"space": "", "account": " bytes for", "owner": " of"}),
    ("system", "assignWithSeed"): ("Assigned", {"account": "", "owner": " to"}),
    ("address-lookup-table", "extendLookupTable"): ("Extended lookup table", {"lookupTableAccount": "", "newAddresses": " with", "lookupTableAuthority": " by"}),
    ("stake", "authorize"): ("Authorized", {"newAuthority": "", "authorityType": " as", "stakeAccount": " of stake", "authority": " by"}),
    ("system", "advanceNonce"): ("Advanced nonce", {"nonceAccount": "", "nonceAuthority": " by"}),
    ("stake", "delegate"): ("Delegated stake", {"stakeAccount": "", "voteAccount": " to", "stakeAuthority": " by"}),
    ("stake", "deactivate"): ("Deactivated stake", {"stakeAccount": "", "stakeAuthority": " by"}),
    ("stake", "withdraw"): ("Withdrew", {"lamports": "", "stakeAccount": " from stake", "destination": " to", "withdrawAuthority": " by", "custodian": " and"}),
    ("stake", "split"): ("Split", {"lamports": "", "stakeAccount": " from stake", "newSplitAccount": " to", "stakeAuthority": " by"}),
    ("stake", "merge"): ("Merged stake", {"source": "", "destination": " into", "stakeAuthority": " by"}),
    ("bpf-loader", "write"): _WRITTEN,
    ("bpf-upgradeable-loader", "write"): _WRITTEN,
    ("vote", "vote"): _BALLOT,
    ("vote", "voteSwitch"): _BALLOT,
    ("vote", "updatevotestate"): _BALLOT,
    ("vote", "compactupdatevotestate"): _BALLOT,
    ("vote", "towersync"): _BALLOT,
}  # fmt: skip
"""By program and instruction: how the line begins, and the parameters that it tells, each with the words before it, in this order. What an
instruction lacks is left out with its words; the parameters of other instructions are told by name."""

_LEFT_OUT = frozenset(("systemProgram", "tokenProgram"))
_NEVER_ACCOUNTS = frozenset(("hash", "blockId", "name", "symbol", "uri", "seed", "sourceSeed", "authoritySeed", "bytes", "uiAmount"))
_FREE_TEXT = frozenset(("name", "symbol", "uri", "seed", "sourceSeed", "authoritySeed", "uiAmount"))
_BALLOTS = frozenset(("towerSync", "voteStateUpdate", "vote"))
_ENUMS = frozenset(("authorityType", "accountState", "extensionTypes"))


def _decoded_lines(
    pieces: _Pieces, prefix: Ints, ordinal: Ints, at: npt.NDArray[np.intp], programs: list[str], program_of: Ints
) -> tuple[list[str], Ints]:
    """Instructions that are decoded and move nothing: as a sentence, or the program, the instruction, and its parameters by name.

    Returns:
        What anyone may write into a parameter, and the instruction of each.
    """
    activity = pieces.activity
    names = activity.names
    kinds, kind_of = np.unique(program_of[at] * len(names) + activity.name_of[at], return_inverse=True)
    sentences = [_SENTENCES.get((programs[kind // len(names)], names[kind % len(names)])) for kind in kinds.tolist()]
    begins = np.array([pieces.word(sentence[0]) if sentence else -1 for sentence in sentences], np.int64)[kind_of] if len(at) else at
    named = pieces.words_of([f" {name}" for name in names])
    whole = begins < 0
    pieces.add(
        _at(activity.instruction_tx[at], 2, ordinal[at]),
        prefix[at],
        np.where(whole, ~activity.program[at], begins),
        np.where(whole, named[activity.name_of[at]], 0),
    )
    params, counts = flat(activity.instructions["params"])
    starts = offsets_of(counts)[:-1]
    given = take(params, ragged(starts[at], counts[at]))
    owner, kind = np.repeat(at, counts[at]), np.repeat(kind_of, counts[at])
    keys, key_of = coded_text(given.field("key"))
    values, value_of = coded_text(given.field("value"))
    names_of = keys.to_pylist()
    word, place = np.full((len(kinds), len(names_of) + 1), -1), np.zeros((len(kinds), len(names_of) + 1), np.int64)
    for row, sentence in enumerate(sentences):
        order = {key: number for number, key in enumerate(sentence[1])} if sentence else {}
        for column, key in enumerate(names_of):
            if sentence is None:
                word[row, column] = -1 if key in _LEFT_OUT or key.endswith("Sysvar") else pieces.word(f" {key}")
            elif key in order:
                word[row, column], place[row, column] = pieces.word(sentence[1][key]), order[key] + 1
    told = (word[kind, key_of] >= 0) & (value_of >= 0)
    key_of, value_of, owner, kind = key_of[told], value_of[told], owner[told], kind[told]
    pairs, pair_of = np.unique(key_of * max(len(values), 1) + value_of, return_inverse=True)
    atoms, sizes, free = _Atoms(pieces), [], []
    texts = values.to_pylist()
    for pair in pairs.tolist():
        key, value = divmod(pair, max(len(values), 1))
        before = len(atoms.found)
        atoms.add(names_of[key], texts[value])
        sizes.append(len(atoms.found) - before)
        free.append(names_of[key] in _FREE_TEXT)
    found, sizes_of = atoms.pieces(), np.array(sizes, np.int64)
    first = offsets_of(sizes_of)[:-1]
    # That the fee payer pays for an account goes without saying.
    single = np.append(np.where((sizes_of == 2) & (len(found) > 0), found[np.minimum(first + 1, max(len(found) - 1, 0))] if len(found) else 0, 0), 0)
    paid_by = pieces.word(_ACCOUNT_OPENED[1]["source"])
    said = ~((word[kind, key_of] == paid_by) & (single[pair_of] == ~activity.payer[activity.instruction_tx[owner]]))
    key_of, value_of, owner, kind, pair_of = key_of[said], value_of[said], owner[said], kind[said], pair_of[said]
    ones = np.ones(len(owner), np.int64)
    flat_pieces, line_counts = interleave(
        [(word[kind, key_of], ones), (found[ragged(first[pair_of], sizes_of[pair_of])], sizes_of[pair_of])] if len(owner) else [(ones, ones)]
    )
    by_name = np.arange(len(owner)) - np.searchsorted(owner, owner) + 1
    part = np.where(place[kind, key_of] > 0, place[kind, key_of], by_name)
    pieces.add_ragged(_at(activity.instruction_tx[owner], 2, ordinal[owner], part), line_counts, flat_pieces)
    of_people = np.flatnonzero(np.array([*free, False], np.bool_)[pair_of]) if len(owner) else owner
    return [msgspec.json.decode(texts[value]) for value in value_of[of_people].tolist()], owner[of_people]


class _Atoms:
    """Values of parameters as pieces. Accounts that no other column mentions join the pool."""

    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces
        self._codes = {account: code for code, account in enumerate(pieces.activity.pool.to_pylist())}
        self._known = len(self._codes)
        self._texts: list[str] = []
        self.found: list[int] = []

    def add(self, key: str, text: str) -> None:
        """The pieces of one parameter."""
        if len(text) > 33 and text[0] == '"' and key not in _NEVER_ACCOUNTS:
            code = self._codes.get(text[1:-1])
            if code is not None:
                self.found += (self._pieces.word(" "), ~code)
                return
        self._add(key, msgspec.json.decode(text))

    def _add(self, key: str, value: Any) -> None:
        pieces = self._pieces
        if isinstance(value, str):
            if key not in _NEVER_ACCOUNTS and _is_account(value):
                self.found += (pieces.word(" "), ~self._codes.setdefault(value, len(self._codes)))
            elif key == "bytes":
                self._literal(f"{len(base64.b64decode(value))} bytes")
            elif key in _ENUMS:
                self.found.append(pieces.word(f" {value}"))
            else:
                self._literal(quote(value) if key in _FREE_TEXT else value)
        elif isinstance(value, dict):
            if key in _BALLOTS:
                self._literal(_ballot(value))
            elif value.keys() == {"amount", "decimals"}:
                self._literal(_plain(Decimal(value["amount"]).scaleb(-value["decimals"])))
            else:
                for name, inner in sorted(value.items()):
                    self.found.append(pieces.word(f" {name}"))
                    self._add(name, inner)
        elif isinstance(value, list):
            for inner in value:
                self._add(key, inner)
        elif key == "lamports" and isinstance(value, int):
            self._literal(f"{_plain(Decimal(value).scaleb(-9))} SOL")
        else:
            self._literal(msgspec.json.encode(value).decode())

    def _literal(self, text: str) -> None:
        self.found += (self._pieces.word(" "), _VALUE + self._pieces.size + len(self._texts))
        self._texts.append(text)

    def pieces(self) -> Ints:
        """All pieces; their texts and accounts join the pool."""
        self._pieces.value(strings(self._texts))
        activity = self._pieces.activity
        if len(self._codes) > self._known:
            activity.pool = pa.concat_arrays([activity.pool, strings(list(self._codes)[self._known :])])
        return np.array(self.found, np.int64)


def _is_account(text: str) -> bool:
    if not 32 <= len(text) <= 44:
        return False
    try:
        return len(base58.decode(text)) == 32
    except ValueError:
        return False


def _ballot(vote: dict[str, Any]) -> str:
    """The slots voted for: the first, the last, and how many."""
    slots = [lockout["slot"] for lockout in vote["lockouts"]] if "lockouts" in vote else vote.get("slots", [])
    return f"on {len(slots)} slots, {slots[0]} to {slots[-1]}," if slots else "on no slot"
