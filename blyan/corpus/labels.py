"""What a transaction is: labels, each with the rule that set it.

Belongs here: the rules. Does not belong here: rows (`blyan.corpus.activity`) or words (`blyan.corpus.render`).

A rule is a name. It stands in the column `rules` beside the label it set, so that every label can be traced and disputed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blyan.corpus.activity import Activity, Failure, coded_text, integers, plain, whole
from blyan.corpus.registry import Registry
from blyan.solana.columns import Ints, Mask, coded, interleave, lists, mask_of, strings, structs
from blyan.solana.normalise import NATIVE_MINT

_SWAP = re.compile(r"swap|route|buy|sell|exchange", re.IGNORECASE)
_LIQUIDITY = re.compile(r"liquidity|deposit|withdraw|position|initialize(?!order)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Call:
    """A distinct instruction, as rules see it. `decoded` is the program's name where the instruction is decoded, else empty."""

    category: str
    decoded: str
    name: str


@dataclass(frozen=True, slots=True)
class KindRule:
    """`kind` of a transaction with a call that fits. The first rule of `KIND_RULES` that fits any call decides."""

    kind: str
    name: str
    fits: Callable[[_Call], bool]


def _never(_call: _Call) -> bool:
    return False


VOTE = KindRule("vote", "is_vote", _never)
EXCHANGED = KindRule("swap", "payer_gave_and_got_assets_at_an_exchange", _never)
MINTED_ONE = KindRule("nft", "minted_one_indivisible_token", _never)
NO_RULE = KindRule("other", "no_rule_fits", _never)

KIND_RULES = (
    VOTE,
    EXCHANGED,
    KindRule("swap", "exchange_instruction_named_swap", lambda call: call.category == "exchange" and bool(_SWAP.search(call.name))),
    KindRule("liquidity", "exchange_instruction_named_liquidity", lambda call: call.category == "exchange" and bool(_LIQUIDITY.search(call.name))),
    KindRule("exchange", "exchange_called", lambda call: call.category == "exchange"),
    KindRule("nft", "nft_program_called", lambda call: call.category == "nft"),
    MINTED_ONE,
    KindRule("lending", "lending_program_called", lambda call: call.category == "lending"),
    KindRule("stake", "stake_program_called", lambda call: call.category == "stake"),
    KindRule("oracle", "oracle_program_called", lambda call: call.category == "oracle"),
    KindRule("program", "program_of_no_category_called", lambda call: call.category in ("", "other")),
    KindRule("mint", "mint_instruction", lambda call: call.decoded == "spl-token" and call.name in ("mintTo", "mintToChecked", "initializeMint", "initializeMint2")),
    KindRule("burn", "burn_instruction", lambda call: call.decoded == "spl-token" and call.name in ("burn", "burnChecked")),
    KindRule("token_transfer", "token_transfer_instruction", lambda call: call.decoded == "spl-token" and call.name.startswith("transfer")),
    KindRule("transfer", "system_transfer_instruction", lambda call: call.decoded == "system" and call.name.startswith("transfer")),
    KindRule("token_account", "token_account_instruction", lambda call: call.category == "token"),
    KindRule("deploy", "loader_instruction", lambda call: call.decoded in ("bpf-loader", "bpf-upgradeable-loader")),
    KindRule("account", "system_instruction", lambda call: call.decoded == "system"),
    NO_RULE,
)  # fmt: skip
"""What makes a transaction what it is, the most telling first."""

KINDS = tuple(dict.fromkeys(rule.kind for rule in KIND_RULES))
"""Every kind."""

SANDWICH = "same_payer_trades_a_pair_back_around_others"
"""In one slot, one payer swaps a pair of assets and later swaps it back, and between the two others swap it the first way. All are labelled."""

LEAST_DECADE = -4
"""Amounts below ten to this power are in one bucket."""


@dataclass(slots=True)
class Labels:
    """Labels of transactions.

    Attributes:
        kind_rule: position in `KIND_RULES`.
        columns: `kind`, `error_class`, `value_bucket`, `is_sandwich`, `programs`, `rules` and the columns of a swap of `schemas.DOCUMENTS`.
        exchange: code of the first exchange that was called, or -1.
        swapped: successful swaps whose fee payer gave and got assets.
    """

    kind_rule: Ints
    columns: dict[str, pa.Array]
    exchange: Ints
    swapped: Mask


def label(activity: Activity, registry: Registry) -> Labels:
    """Label transactions."""
    size = len(activity)
    category_of = _categories(activity, registry)
    is_exchange = np.array([category == "exchange" for category in category_of], np.bool_)
    exchange_rows = np.flatnonzero(np.append(is_exchange, False)[activity.program])
    exchange = np.full(size, -1)
    # Written backwards, so that the first stays.
    exchange[activity.instruction_tx[exchange_rows][::-1]] = activity.program[exchange_rows][::-1]
    net = activity.net
    gained = mask_of(pc.greater(net.change, pa.scalar(0, pa.decimal128(38, 0))))
    exchanged = (
        (exchange >= 0)
        & (np.bincount(net.transaction_of[gained], minlength=size) > 0)
        & (np.bincount(net.transaction_of[~gained], minlength=size) > 0)
    )
    exchanged &= ~_only_sol_beside_orders(activity, exchange_rows)
    kind_rule = _kind_rules(activity, category_of, exchanged)
    errors, error_rules = _errors(activity, registry)
    decade, is_dollar = _values(activity, registry)
    sandwich = _sandwiches(activity, exchanged, gained)
    succeeded = mask_of(pc.fill_null(pc.equal(plain(activity.transactions["status"]), "Success"), False))
    swapped = (kind_rule == KIND_RULES.index(EXCHANGED)) & succeeded
    columns = _swaps(activity, swapped, gained) | {
        "kind": coded(kind_rule, strings([rule.kind for rule in KIND_RULES])),
        "error_class": errors,
        "value_bucket": _buckets(decade, is_dollar),
        "is_sandwich": pa.array(sandwich),
        "programs": _programs(activity),
        "rules": _rules(kind_rule, error_rules, decade, is_dollar, sandwich),
    }
    return Labels(kind_rule, columns, exchange, swapped)


def _swaps(activity: Activity, swapped: Mask, gained: Mask) -> dict[str, pa.Array]:
    """What was swapped for what, of swaps of one asset for another.

    SOL beside a token that goes the same way is rent or a tip, and wrapped SOL is SOL.
    """
    net, size = activity.net, len(swapped)
    columns: dict[str, pa.Array] = {}
    native = np.append(mask_of(pc.equal(activity.pool, NATIVE_MINT)), False)
    is_sol = (net.mint < 0) | native[net.mint]
    sides = {}
    for name, way in (("sold", ~gained), ("bought", gained)):
        at = np.flatnonzero(swapped[net.transaction_of] & way)
        tokens = np.bincount(net.transaction_of[at], weights=~is_sol[at], minlength=size)
        at = at[~(is_sol[at] & (tokens[net.transaction_of[at]] > 0))]
        sides[name] = at[np.bincount(net.transaction_of[at], minlength=size)[net.transaction_of[at]] == 1]
    both = np.intersect1d(net.transaction_of[sides["sold"]], net.transaction_of[sides["bought"]])
    sol = pa.concat_arrays([activity.pool, strings(["SOL"])])
    for name, at in sides.items():
        row = np.full(size, -1)
        row[net.transaction_of[at]] = at
        row[~np.isin(np.arange(size), both)] = -1
        nothing = row < 0
        columns[name] = coded(np.where(is_sol[row] | nothing, len(activity.pool), net.mint[row]) if len(is_sol) else row, sol, nothing)
        columns[f"{name}_amount"] = pc.abs(pc.take(net.change, pa.array(row, mask=nothing)))
        columns[f"{name}_decimals"] = pc.take(pa.array(net.decimals), pa.array(row, mask=nothing))
    return columns


def _only_sol_beside_orders(activity: Activity, exchange_rows: Ints) -> Mask:
    """Transactions that call an exchange by name, never to swap, and of which one side is SOL alone: rent or a tip beside orders."""
    size, net = len(activity), activity.net
    named, swap = (
        np.array([test(name) for name in activity.names], np.bool_)[activity.name_of[exchange_rows]]
        for test in (bool, lambda name: bool(_SWAP.search(name)))
    )
    orders = np.bincount(activity.instruction_tx[exchange_rows[named]], minlength=size) > 0
    orders &= np.bincount(activity.instruction_tx[exchange_rows[swap]], minlength=size) == 0
    gained = mask_of(pc.greater(net.change, pa.scalar(0, pa.decimal128(38, 0))))
    token = net.mint >= 0
    sides = [np.bincount(net.transaction_of[way & token], minlength=size) == 0 for way in (gained, ~gained)]
    only_sol: Mask = orders & (sides[0] | sides[1])
    return only_sol


def _categories(activity: Activity, registry: Registry) -> list[str]:
    """The category of every account of the pool as a program; empty for one that has none."""
    programs = registry.programs
    out = [""] * len(activity.pool)
    for code in np.unique(activity.program[activity.program >= 0]).tolist():
        program = programs.get(activity.pool[code].as_py())
        out[code] = program.category if program else ""
    return out


def _kind_rules(activity: Activity, category_of: list[str], exchanged: Mask) -> Ints:
    names, decoded = activity.names, ["", *coded_text(activity.instructions["program"])[0].to_pylist()]
    decoded_of = coded_text(activity.instructions["program"])[1] + 1
    width = len(names)
    keys = ((activity.program + 1) * len(decoded) + decoded_of) * width + activity.name_of
    distinct, which = np.unique(keys, return_inverse=True)
    ranks = np.empty(len(distinct), np.int64)
    for at, key in enumerate(distinct.tolist()):
        program, rest = divmod(key, len(decoded) * width)
        call = _Call(category_of[program - 1] if program else "", decoded[rest // width], names[rest % width])
        ranks[at] = next((rank for rank, rule in enumerate(KIND_RULES) if rule.fits(call)), len(KIND_RULES) - 1)
    out = np.full(len(activity), len(KIND_RULES) - 1)
    np.minimum.at(out, activity.instruction_tx, ranks[which])
    transfers = activity.transfers
    one = mask_of(pc.equal(whole(transfers["value"]), pa.scalar(1, pa.decimal128(20, 0)))) & (integers(transfers["decimals"]) == 0)
    minted = one & mask_of(whole(pc.equal(transfers["transfer_type"], "mintTo")))
    np.minimum.at(out, activity.transfer_tx[minted], KIND_RULES.index(MINTED_ONE))
    out[exchanged] = np.minimum(out[exchanged], KIND_RULES.index(EXCHANGED))
    out[mask_of(pc.fill_null(whole(activity.transactions["is_vote"]), False))] = KIND_RULES.index(VOTE)
    return out


_ERROR_RULES = ("", "named_custom_code", "custom_code", "runtime_error")


def _errors(activity: Activity, registry: Registry) -> tuple[pa.StringArray, Ints]:
    classes: list[str | None] = [None] * len(activity)
    rules = np.zeros(len(activity), np.int64)
    names = registry.names
    known: dict[Failure, tuple[str, int]] = {}
    for transaction, failure in activity.failures.items():
        if failure not in known:
            known[failure] = _error_class(failure, names)
        classes[transaction], rules[transaction] = known[failure]
    return strings(classes), rules


def _error_class(failure: Failure, names: Mapping[str, str]) -> tuple[str, int]:
    """The class of an error, and the rule that says so, as its place in `_ERROR_RULES`."""
    if failure.name is not None:
        return failure.name, 1
    if failure.code is not None:
        return f"{names.get(failure.program or '', failure.program or 'an unknown program')} {failure.code:#x}", 2
    return re.sub(r"\d+", "#", failure.reason), 3


def _values(activity: Activity, registry: Registry) -> tuple[Ints, Mask]:
    """The power of ten of the largest movement in SOL, or in dollars where there is one; int64's least where nothing moved."""
    mint = activity.transfer_accounts["mint"]
    dollars = [account for account, entry in registry.mints.items() if entry.is_dollar]
    is_dollar = mask_of(pc.is_in(activity.pool, pa.array(dollars, pa.string())))
    of_dollars = np.append(is_dollar, False)[mint]
    of_sol = np.append(mask_of(pc.equal(activity.pool, NATIVE_MINT)), False)[mint]
    of_sol |= mask_of(whole(pc.equal(activity.transfers["transfer_type"], "transfer")))
    digits = integers(pc.utf8_length(activity.transfers["value"].cast(pa.string())).cast(pa.int64()))
    nonzero = mask_of(pc.not_equal(whole(activity.transfers["value"]), pa.scalar(0, pa.decimal128(20, 0))))
    decimals = np.where(of_dollars, integers(activity.transfers["decimals"]), 9)
    decade = digits - 1 - decimals
    least = np.iinfo(np.int64).min
    out, in_dollars = np.full(len(activity), least), np.full(len(activity), least)
    for into, wanted in ((out, of_sol & nonzero), (in_dollars, of_dollars & nonzero)):
        np.maximum.at(into, activity.transfer_tx[wanted], decade[wanted])
    dollar = in_dollars > least
    return np.where(dollar, in_dollars, out), dollar


def _buckets(decade: Ints, is_dollar: Mask) -> pa.Array:
    nothing = decade == np.iinfo(np.int64).min
    clipped = np.where(nothing, 0, np.maximum(decade, LEAST_DECADE - 1))
    distinct, which = np.unique(clipped * 2 + is_dollar, return_inverse=True)
    return coded(which, strings([bucket(key // 2, "USD" if key % 2 else "SOL") for key in distinct.tolist()] or [""]), nothing)


def bucket(decade: int, unit: str) -> str:
    """The value bucket of amounts from `10**decade` on, of `SOL` or `USD`; below the least, one for all."""
    if decade < LEAST_DECADE:
        return f"{unit} below {_power(LEAST_DECADE)}"
    return f"{unit} {_power(decade)} to {_power(decade + 1)}"


def _power(decade: int) -> str:
    return str(10**decade) if decade >= 0 else f"{10.0**decade:.{-decade}f}"


GREATEST_DECADE = 11
"""More than all dollars or SOL there are."""

VALUE_BUCKETS = tuple(bucket(decade, unit) for unit in ("SOL", "USD") for decade in range(LEAST_DECADE - 1, GREATEST_DECADE + 1))
"""Every value bucket."""


def _sandwiches(activity: Activity, exchanged: Mask, gained: Mask) -> Mask:
    """Whether each transaction is part of a `SANDWICH`."""
    out = np.zeros(len(activity), np.bool_)
    net = activity.net
    native = np.append(mask_of(pc.equal(activity.pool, NATIVE_MINT)), False)[net.mint]
    wanted = exchanged[net.transaction_of] & (net.mint >= 0) & ~native
    # One token against SOL, or two tokens one way and the other: what any swap of a pair leaves on balances.
    count = np.bincount(net.transaction_of[wanted], minlength=len(activity))
    slots = integers(activity.transactions["block_slot"])
    legs: dict[int, list[tuple[int, bool]]] = {}
    for at in np.flatnonzero(wanted & (count[net.transaction_of] <= 2)).tolist():
        legs.setdefault(int(net.transaction_of[at]), []).append((int(net.mint[at]), bool(gained[at])))
    trades: dict[tuple[int, int, int], list[tuple[int, int, bool]]] = {}
    for transaction, tokens in legs.items():
        pair = sorted(tokens) if len(tokens) == 2 else [(-1, not tokens[0][1]), tokens[0]]
        if pair[0][1] != pair[1][1]:
            key = (int(slots[transaction]), pair[0][0], pair[1][0])
            trades.setdefault(key, []).append((transaction, int(activity.payer[transaction]), pair[1][1]))
    for group in trades.values():
        for first in range(len(group) - 2):
            at, payer, way = group[first]
            last = next((later for later in range(first + 1, len(group)) if group[later][1] == payer and group[later][2] != way), None)
            victims = [trade[0] for trade in group[first + 1 : last or first] if trade[1] != payer and trade[2] == way]
            if last is not None and victims:
                out[[at, *victims, group[last][0]]] = True
    return out


def _programs(activity: Activity) -> pa.ListArray:
    """The distinct programs of each transaction, in the order of their first call."""
    called = np.flatnonzero(activity.program >= 0)
    keys = activity.instruction_tx[called] * (len(activity.pool) + 1) + activity.program[called]
    _, first = np.unique(keys, return_index=True)
    rows = called[np.sort(first)]
    return lists(np.bincount(activity.instruction_tx[rows], minlength=len(activity)), coded(activity.program[rows], activity.pool))


def _rules(kind_rule: Ints, error_rules: Ints, decade: Ints, is_dollar: Mask, sandwich: Mask) -> pa.ListArray:
    """The label and the rule that set it, of each label that is set."""
    pairs = [("kind", rule.name) for rule in KIND_RULES]
    errors = len(pairs)
    pairs += [("error_class", name) for name in _ERROR_RULES]
    values = len(pairs)
    pairs += [("value_bucket", "largest_movement_of_sol"), ("value_bucket", "largest_movement_of_dollars"), ("is_sandwich", SANDWICH)]
    ones = np.ones(len(kind_rule), np.int64)
    failed, moved = error_rules > 0, decade != np.iinfo(np.int64).min
    which, counts = interleave(
        [
            (kind_rule, ones),
            ((error_rules + errors)[failed], failed.astype(np.int64)),
            ((is_dollar + values)[moved], moved.astype(np.int64)),
            (np.full(int(sandwich.sum()), values + 2), sandwich.astype(np.int64)),
        ]
    )
    label_of, rule_of = (strings([pair[part] for pair in pairs]) for part in (0, 1))
    return lists(counts, structs(label=coded(which, label_of), rule=coded(which, rule_of)))
