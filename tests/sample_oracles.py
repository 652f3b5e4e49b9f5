"""Answers to questions of samples, worked out in plain Python over the rows.

Belongs here: one function for each family that is verified so, written without its SQL. Does not belong here: what is compared, or why.

An oracle gets the rows of a range and a sample, and gives the rows that the answer must have, as its JSON has them.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from typing import Any

from blyan import schemas
from blyan.lake import Lake
from blyan.schemas import Table
from blyan.solana.slots import SlotRange

Row = dict[str, Any]


@dataclass
class Rows:
    """The rows of one range, as dictionaries."""

    lake: Lake
    slots: SlotRange

    def of(self, table: Table) -> list[Row]:
        return [row for batch in self.lake.read(table, key=self.slots.key) for row in batch.to_pylist()]

    @cached_property
    def transactions(self) -> list[Row]:
        return self.of(schemas.TRANSACTIONS)

    @cached_property
    def instructions(self) -> list[Row]:
        return self.of(schemas.INSTRUCTIONS)

    @cached_property
    def transfers(self) -> list[Row]:
        return self.of(schemas.TOKEN_TRANSFERS)

    @cached_property
    def changes(self) -> list[Row]:
        return self.of(schemas.BALANCE_CHANGES)

    @cached_property
    def documents(self) -> list[Row]:
        return self.of(schemas.DOCUMENTS)

    @cached_property
    def blocks(self) -> list[Row]:
        return self.of(schemas.BLOCKS)


class Question:
    """A sample, by its parameters and its slots alone."""

    def __init__(self, rows: Rows, sample: Row) -> None:
        self.rows, self.first, self.last = rows, sample["first_slot"], sample["last_slot"]
        self.given = {entry["key"]: entry["value"] for entry in sample["parameters"]}

    def __getattr__(self, name: str) -> str:
        return self.given[name]

    def within(self, rows: Iterable[Row]) -> list[Row]:
        return [row for row in rows if self.first <= row["block_slot"] <= self.last]

    @property
    def transaction(self) -> Row:
        (found,) = [row for row in self.rows.transactions if row["signature"] == self.signature and row["block_slot"] == int(self.slot)]
        return found

    def part(self, rows: Iterable[Row]) -> list[Row]:
        """Rows of the transaction."""
        one = self.transaction
        return [row for row in rows if (row["block_slot"], row["tx_index"]) == (one["block_slot"], one["index"])]

    @property
    def block(self) -> list[Row]:
        return [row for row in self.rows.transactions if row["block_slot"] == int(self.slot)]

    @property
    def transactions(self) -> list[Row]:
        return self.within(self.rows.transactions)

    @property
    def others(self) -> list[Row]:
        """Transactions that are no votes."""
        return [row for row in self.transactions if not row["is_vote"]]

    def paid_by(self, account: str) -> list[Row]:
        return [row for row in self.transactions if payer_of(row) == account]

    def calling(self, program: str) -> list[Row]:
        """Transactions that call a program."""
        places = {place(row) for row in self.within(self.rows.instructions) if row["program_id"] == program}
        return [row for row in self.transactions if (row["block_slot"], row["index"]) in places]

    def moved(self, mint: str) -> list[Row]:
        return [row for row in self.within(self.rows.transfers) if row["mint"] == mint and row["status"] == "Success"]


def place(row: Row) -> tuple[int, int]:
    return row["block_slot"], row["tx_index"]


def payer_of(transaction: Row) -> str | None:
    return transaction["accounts"][0]["pubkey"] if transaction["accounts"] else None


def failed(rows: Iterable[Row]) -> int:
    return sum(row["status"] == "Fail" for row in rows)


def text(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:f}"


def total(values: Iterable[Decimal | None]) -> str | None:
    known = [value for value in values if value is not None]
    return text(sum(known, Decimal(0))) if known else None


def percent(part: int, whole: int) -> str:
    return str(Decimal(100.0 * part / whole).quantize(Decimal("0.01"), ROUND_HALF_UP))


def quantile(values: list[Any], share: float) -> Any:
    """The least value that so many are no larger than."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def most(counts: dict[Any, int], number: int) -> list[list[Any]]:
    """The largest first, equals by name."""
    return [[name, count] for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]]


Oracle = Callable[[Question], list[list[Any]]]
ORACLES: dict[str, Oracle] = {}


def oracle(function: Oracle) -> Oracle:
    ORACLES[function.__name__] = function
    return function


# One transaction


@oracle
def transaction_fee(q: Question) -> list[list[Any]]:
    return [[text(q.transaction["fee"]), text(q.transaction["priority_fee_lamports"])]]


@oracle
def transaction_payer(q: Question) -> list[list[Any]]:
    return [[payer_of(q.transaction)]]


@oracle
def transaction_programs(q: Question) -> list[list[Any]]:
    calls = Counter(row["program_id"] for row in sorted(q.part(q.rows.instructions), key=lambda row: row["ordinal"]))
    return [[program, count] for program, count in calls.items()]


@oracle
def transaction_total_sent(q: Question) -> list[list[Any]]:
    values = [row["value"] for row in q.part(q.rows.transfers) if row["transfer_type"] == "transfer"]
    return [[len(values), total(values)]]


@oracle
def transaction_payer_change(q: Question) -> list[list[Any]]:
    """From the balances before and after, which another column has."""
    one = q.transaction
    account = payer_of(one)
    change = next(entry["after"] - entry["before"] for entry in one["balance_changes"] if entry["account"] == account)
    return [[account, text(change)]] if change else []


@oracle
def transaction_instructions(q: Question) -> list[list[Any]]:
    parents = [row["parent_index"] for row in q.part(q.rows.instructions)]
    return [[parents.count(None), len(parents) - parents.count(None)]]


@oracle
def transaction_signers(q: Question) -> list[list[Any]]:
    return [[entry["pubkey"]] for entry in q.transaction["accounts"] if entry["signer"]]


@oracle
def transaction_position(q: Question) -> list[list[Any]]:
    return [[q.transaction["index"], len(q.block)]]


@oracle
def transaction_fee_rank(q: Question) -> list[list[Any]]:
    fee = q.transaction["fee"]
    return [[1 + sum(row["fee"] > fee for row in q.block if row["fee"] is not None), text(fee)]]


@oracle
def transaction_largest_gain(q: Question) -> list[list[Any]]:
    gains = [(-(entry["after"] - entry["before"]), entry["account"]) for entry in q.transaction["balance_changes"]]
    return [[account, text(-loss)] for loss, account in sorted(gains)[:1] if loss < 0]


@oracle
def transaction_before_and_after(q: Question) -> list[list[Any]]:
    order = [row["signature"] for row in sorted(q.block, key=lambda row: row["index"])]
    at = order.index(q.signature)
    return [[order[at - 1] if at else None, order[at + 1] if at + 1 < len(order) else None]]


@oracle
def transaction_alike(q: Question) -> list[list[Any]]:
    keys = {(row["block_slot"], row["tx_signature"]): row["structural_key"] for row in q.rows.documents}
    mine = keys[int(q.slot), q.signature]
    return [[sum(row["structural_key"] == mine and row["tx_signature"] != q.signature for row in q.within(q.rows.documents))]]


# One block


@oracle
def block_transactions(q: Question) -> list[list[Any]]:
    return [[len(q.block), sum(row["is_vote"] is True for row in q.block)]]


@oracle
def block_failures(q: Question) -> list[list[Any]]:
    return [[failed(q.others), len(q.others)]]


@oracle
def block_fees(q: Question) -> list[list[Any]]:
    return [[total(row["fee"] for row in q.block), total(row["priority_fee_lamports"] for row in q.block)]]


@oracle
def block_top_programs(q: Question) -> list[list[Any]]:
    others = {(row["block_slot"], row["index"]) for row in q.others}
    calls = {(place(row), row["program_id"]) for row in q.rows.instructions if place(row) in others}
    return most(Counter(program for _, program in calls), 3)


@oracle
def block_dearest(q: Question) -> list[list[Any]]:
    paid = [row for row in q.block if row["fee"] is not None]
    return [[one["signature"], payer_of(one), text(one["fee"])] for one in sorted(paid, key=lambda row: (-row["fee"], row["index"]))[:1]]


@oracle
def block_median_fee(q: Question) -> list[list[Any]]:
    fees = [row["fee"] for row in q.others if row["fee"] is not None]
    return [[text(quantile(fees, 0.5)), text(max(fees, default=None))]]


@oracle
def block_above_mean(q: Question) -> list[list[Any]]:
    fees = [row["fee"] for row in q.others if row["fee"] is not None]
    return [[sum(fee * len(fees) > sum(fees) for fee in fees), len(fees)]]


# One account


@oracle
def account_sol_change(q: Question) -> list[list[Any]]:
    """From the balances before and after, which another column has."""
    changes = [
        entry["after"] - entry["before"]
        for row in q.transactions
        for entry in row["balance_changes"] or []
        if entry["account"] == q.account and entry["after"] != entry["before"]
    ]
    return [[total(changes), len(changes)]]


@oracle
def account_token_change(q: Question) -> list[list[Any]]:
    found = [row for row in q.within(q.rows.changes) if row["owner"] == q.account and row["mint"] == q.mint]
    return [[total(row["change"] for row in found), max(row["decimals"] for row in found)]]


@oracle
def account_fees(q: Question) -> list[list[Any]]:
    paid = q.paid_by(q.account)
    return [[len(paid), total(row["fee"] for row in paid)]]


@oracle
def account_sol_in_out(q: Question) -> list[list[Any]]:
    moves = [row for row in q.within(q.rows.transfers) if row["transfer_type"] == "transfer" and row["status"] == "Success"]
    got, sent = ([row["value"] for row in moves if row[role] == q.account] for role in ("destination", "source"))
    return [[len(got), total(got) or "0", len(sent), total(sent) or "0"]]


@oracle
def account_counterparties(q: Question) -> list[list[Any]]:
    sums: dict[str, list[Decimal]] = defaultdict(list)
    for row in q.within(q.rows.transfers):
        if row["transfer_type"] == "transfer" and row["status"] == "Success" and row["source"] == q.account:
            sums[row["destination"]].append(row["value"])
    return [[name, total(values), len(values)] for name, values in sorted(sums.items(), key=lambda item: (-sum(item[1]), item[0]))[:5]]


@oracle
def account_failures(q: Question) -> list[list[Any]]:
    paid = q.paid_by(q.account)
    return [[failed(paid), len(paid), percent(failed(paid), len(paid))]]


@oracle
def account_peak(q: Question) -> list[list[Any]]:
    by_slot: dict[int, Decimal] = defaultdict(Decimal)
    for row in q.within(q.rows.changes):
        if row["account"] == q.account and row["mint"] is None:
            by_slot[row["block_slot"]] += row["change"]
    running, best = Decimal(0), None
    for slot in sorted(by_slot):
        running += by_slot[slot]
        if best is None or running > best[1]:
            best = (slot, running)
    return [[best[0], text(best[1])]] if best else []


@oracle
def account_kinds(q: Question) -> list[list[Any]]:
    mine = {(row["block_slot"], row["index"]) for row in q.paid_by(q.account)}
    return most(Counter(row["kind"] for row in q.rows.documents if place(row) in mine and not row["is_vote"]), 10)


# One token


@oracle
def token_volume(q: Question) -> list[list[Any]]:
    moves = [row for row in q.moved(q.mint) if row["transfer_type"].startswith("spl-transfer")]
    return [
        [
            len(moves),
            total(row["value"] for row in moves) or "0",
            max((row["decimals"] for row in moves if row["decimals"] is not None), default=None),
        ]
    ]


@oracle
def token_receivers(q: Question) -> list[list[Any]]:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    changes = [row for row in q.within(q.rows.changes) if row["mint"] == q.mint and row["owner"] is not None]
    decimals = {row["owner"]: row["decimals"] for row in changes}
    for row in changes:
        sums[row["owner"]] += row["change"]
    gained = sorted(((-change, owner) for owner, change in sums.items() if change > 0))[:5]
    return [[owner, text(-change), decimals[owner]] for change, owner in gained]


@oracle
def token_supply(q: Question) -> list[list[Any]]:
    moves = q.moved(q.mint)
    minted, burnt = (total(row["value"] for row in moves if row["transfer_type"] == kind) or "0" for kind in ("mintTo", "burn"))
    return [[minted, burnt, max((row["decimals"] for row in moves if row["decimals"] is not None), default=None)]]


@oracle
def token_largest(q: Question) -> list[list[Any]]:
    moves = [row for row in q.moved(q.mint) if row["transfer_type"].startswith("spl-transfer")]
    one = min(moves, key=lambda row: (-row["value"], row["block_slot"], row["tx_index"], row["ordinal"]))
    return [[text(one["value"]), one["decimals"], one["source"], one["destination"], one["block_slot"], one["tx_signature"]]]


@oracle
def token_programs(q: Question) -> list[list[Any]]:
    moved = {place(row) for row in q.moved(q.mint)}
    calls = {(place(row), row["program_id"]) for row in q.rows.instructions if place(row) in moved and row["parent_index"] is None}
    return most(Counter(program for _, program in calls), 5)


# One program


@oracle
def program_calls(q: Question) -> list[list[Any]]:
    parents = [row["parent_index"] for row in q.within(q.rows.instructions) if row["program_id"] == q.program]
    return [[parents.count(None), len(parents) - parents.count(None)]]


@oracle
def program_failures(q: Question) -> list[list[Any]]:
    found = q.calling(q.program)
    return [[failed(found), len(found), percent(failed(found), len(found))]]


@oracle
def program_callers(q: Question) -> list[list[Any]]:
    return most(Counter(payer_of(row) for row in q.calling(q.program)), 5)


@oracle
def program_compute(q: Question) -> list[list[Any]]:
    units = [row["compute_units_consumed"] for row in q.calling(q.program) if row["compute_units_consumed"] is not None]
    return [[quantile(units, 0.5), max(units, default=None)]]


@oracle
def program_pair(q: Question) -> list[list[Any]]:
    both = {row["signature"] for row in q.calling(q.program)} & {row["signature"] for row in q.calling(q.other_program)}
    return [[sum(row["signature"] in both for row in q.others)]]


@oracle
def programs_compared(q: Question) -> list[list[Any]]:
    return most({program: len(q.calling(program)) for program in (q.program, q.other_program)}, 2)


# Several slots


@oracle
def window_transactions(q: Question) -> list[list[Any]]:
    return [[len(q.transactions), len({row["block_slot"] for row in q.transactions})]]


@oracle
def window_fee_percentiles(q: Question) -> list[list[Any]]:
    fees = [row["fee"] for row in q.others if row["fee"] is not None]
    return [[text(quantile(fees, share)) for share in (0.5, 0.9, 0.99)]]


@oracle
def window_vote_share(q: Question) -> list[list[Any]]:
    votes = sum(row["is_vote"] is True for row in q.transactions)
    return [[votes, len(q.transactions), percent(votes, len(q.transactions)) if q.transactions else None]]


@oracle
def window_failures(q: Question) -> list[list[Any]]:
    return most(Counter(row["error_class"] for row in q.within(q.rows.documents) if row["error_class"] is not None and not row["is_vote"]), 5)


@oracle
def window_programs(q: Question) -> list[list[Any]]:
    others = {(row["block_slot"], row["index"]) for row in q.others}
    calls = {(place(row), row["program_id"]) for row in q.rows.instructions if place(row) in others}
    return most(Counter(program for _, program in calls), 5)


@oracle
def window_payers(q: Question) -> list[list[Any]]:
    fees: dict[str, list[Decimal]] = defaultdict(list)
    for row in q.transactions:
        if row["fee"] is not None and payer_of(row) is not None:
            fees[payer_of(row)].append(row["fee"])
    return [[name, total(paid), len(paid)] for name, paid in sorted(fees.items(), key=lambda item: (-sum(item[1]), item[0]))[:5]]


@oracle
def window_rise(q: Question) -> list[list[Any]]:
    counts = sorted(Counter(row["block_slot"] for row in q.transactions).items())
    rises = [(-(after - before), slot, earlier) for (earlier, before), (slot, after) in itertools.pairwise(counts)]
    return [[earlier, slot, -fall] for fall, slot, earlier in sorted(rises)[:1]]


@oracle
def window_half(q: Question) -> list[list[Any]]:
    so_far, whole = 0, len(q.transactions)
    for slot, count in sorted(Counter(row["block_slot"] for row in q.transactions).items()):
        so_far += count
        if 2 * so_far >= whole:
            return [[slot, so_far, whole]]
    return []


@oracle
def window_steady_payers(q: Question) -> list[list[Any]]:
    blocks = [row["slot"] for row in q.rows.blocks if q.first <= row["slot"] <= q.last]
    present = [{payer_of(row) for row in q.others if row["block_slot"] == slot and payer_of(row)} for slot in blocks]
    return [[len(set.intersection(*present))]]


@oracle
def window_fee_per_kind(q: Question) -> list[list[Any]]:
    kinds = {place(row): row["kind"] for row in q.rows.documents if not row["is_vote"]}
    fees: dict[str, list[Decimal]] = defaultdict(list)
    for row in q.transactions:
        if (row["block_slot"], row["index"]) in kinds and row["fee"] is not None:
            fees[kinds[row["block_slot"], row["index"]]].append(row["fee"])
    ranked = sorted((-quantile(paid, 0.5), kind, len(paid)) for kind, paid in fees.items())[:3]
    return [[kind, text(-median), count] for median, kind, count in ranked]


@oracle
def window_memo_search(q: Question) -> list[list[Any]]:
    found = {(row["block_slot"], row["tx_signature"]) for row in q.within(q.rows.instructions) if row["parsed"] == q.memo}
    return [list(each) for each in sorted(found)[:5]]


@oracle
def window_fee_jump(q: Question) -> list[list[Any]]:
    fees: dict[int, Decimal] = defaultdict(Decimal)
    for row in q.transactions:
        fees[row["block_slot"]] += row["priority_fee_lamports"] or 0
    slots = sorted(fees)
    rises = sorted((-(fees[slot] - fees[before]), slot) for before, slot in itertools.pairwise(slots))[:3]
    return [[slot, text(-fall)] for fall, slot in rises]


# The other families, most of them columns of one row


@oracle
def transaction_outcome(q: Question) -> list[list[Any]]:
    return [[q.transaction["status"], q.transaction["err"]]]


@oracle
def transaction_failure(q: Question) -> list[list[Any]]:
    (document,) = q.part(q.rows.documents)
    return [[document["error_class"], q.transaction["err"]]]


@oracle
def transaction_what(q: Question) -> list[list[Any]]:
    (document,) = q.part(q.rows.documents)
    return [[document["kind"], document["text"], document["accounts"]]]


@oracle
def transaction_kind(q: Question) -> list[list[Any]]:
    (document,) = q.part(q.rows.documents)
    return [[document["kind"], next(entry["rule"] for entry in document["rules"] if entry["label"] == "kind")]]


@oracle
def transaction_sol_transfers(q: Question) -> list[list[Any]]:
    moves = sorted((row for row in q.part(q.rows.transfers) if row["transfer_type"] == "transfer"), key=lambda row: row["ordinal"])
    return [[row["source"], row["destination"], text(row["value"])] for row in moves[:10]]


@oracle
def transaction_token_transfers(q: Question) -> list[list[Any]]:
    moves = sorted((row for row in q.part(q.rows.transfers) if row["transfer_type"].startswith("spl-transfer")), key=lambda row: row["ordinal"])
    return [[row["source"], row["destination"], text(row["value"]), row["decimals"], row["mint"]] for row in moves[:10]]


@oracle
def transaction_token_changes(q: Question) -> list[list[Any]]:
    """From the token balances before and after, which other columns have."""
    one = q.transaction
    sums: dict[tuple[int, str], Decimal] = defaultdict(Decimal)
    decimals: dict[str, int] = {}
    for sign, column in ((-1, "pre_token_balances"), (1, "post_token_balances")):
        for entry in one[column] or []:
            sums[entry["account_index"], entry["mint"]] += sign * entry["amount"]
            decimals[entry["mint"]] = entry["decimals"]
    changed = sorted((at, mint) for (at, mint), change in sums.items() if change)[:10]
    return [[one["accounts"][at]["pubkey"], text(sums[at, mint]), decimals[mint], mint] for at, mint in changed]


@oracle
def transaction_compute(q: Question) -> list[list[Any]]:
    return [[q.transaction["compute_units_consumed"], q.transaction["compute_unit_limit"]]]


@oracle
def transaction_depth(q: Question) -> list[list[Any]]:
    calls = [(-row["stack_height"], row["ordinal"], row["program_id"]) for row in q.part(q.rows.instructions) if row["stack_height"] is not None]
    height, _, program = min(calls)
    return [[-height, program]]


@oracle
def transaction_memo(q: Question) -> list[list[Any]]:
    memos = sorted((row["ordinal"], row["parsed"]) for row in q.part(q.rows.instructions) if row["parsed"] is not None)
    return [[memo] for _, memo in memos[:5]]


def block_of(q: Question) -> Row:
    (found,) = [row for row in q.rows.blocks if row["slot"] == int(q.slot)]
    return found


@oracle
def block_leader(q: Question) -> list[list[Any]]:
    """From the rewards, which another table has."""
    (reward,) = [row for row in q.rows.of(schemas.BLOCK_REWARDS) if row["block_slot"] == int(q.slot) and row["reward_type"] == "Fee"]
    return [[reward["pubkey"], text(reward["lamports"])]]


@oracle
def block_parent(q: Question) -> list[list[Any]]:
    one = block_of(q)
    return [[one["parent_slot"], one["previous_block_hash"], len(range(one["parent_slot"] + 1, one["slot"]))]]


@oracle
def block_identity(q: Question) -> list[list[Any]]:
    one = block_of(q)
    return [[one["block_hash"], one["height"], one["block_timestamp"].isoformat() if one["block_timestamp"] else None]]


@oracle
def block_compute(q: Question) -> list[list[Any]]:
    units = [row["compute_units_consumed"] for row in q.block if row["compute_units_consumed"] is not None]
    return [[sum(units), max(units)]]


@oracle
def block_rewards(q: Question) -> list[list[Any]]:
    by_type: dict[str, list[Decimal]] = defaultdict(list)
    for row in q.rows.of(schemas.BLOCK_REWARDS):
        if row["block_slot"] == int(q.slot):
            by_type[row["reward_type"] or "unnamed"].append(row["lamports"])
    return [[kind, len(paid), total(paid)] for kind, paid in sorted(by_type.items())]


@oracle
def block_payers(q: Question) -> list[list[Any]]:
    return [[len({payer_of(row) for row in q.others} - {None})]]


@oracle
def slot_state(q: Question) -> list[list[Any]]:
    return [[row["state"], row["proof"]] for row in q.rows.of(schemas.COMPLETENESS) if row["slot"] == int(q.slot)]


@oracle
def account_assets(q: Question) -> list[list[Any]]:
    by_mint: dict[str, list[Row]] = defaultdict(list)
    for row in q.within(q.rows.changes):
        if row["owner"] == q.account and row["mint"] is not None:
            by_mint[row["mint"]].append(row)
    ranked = sorted(by_mint.items(), key=lambda item: (-len(item[1]), item[0]))[:5]
    return [[mint, len(found), total(row["change"] for row in found), max(row["decimals"] for row in found)] for mint, found in ranked]


@oracle
def account_programs(q: Question) -> list[list[Any]]:
    mine = {(row["block_slot"], row["index"]) for row in q.paid_by(q.account)}
    calls = {(place(row), row["program_id"]) for row in q.rows.instructions if place(row) in mine}
    return most(Counter(program for _, program in calls), 5)


@oracle
def account_span(q: Question) -> list[list[Any]]:
    slots = [row["block_slot"] for row in q.paid_by(q.account)]
    return [[min(slots), max(slots)]]


@oracle
def account_biggest_token_in(q: Question) -> list[list[Any]]:
    rises = [row for row in q.within(q.rows.changes) if row["owner"] == q.account and row["mint"] is not None and row["change"] > 0]
    newest = max(place(row) for row in rises)
    one = min((row for row in rises if place(row) == newest), key=lambda row: (row["account_index"], row["mint"]))
    return [[one["block_slot"], one["tx_signature"], text(one["change"]), one["decimals"], one["mint"]]]


@oracle
def token_owners(q: Question) -> list[list[Any]]:
    changes = [row for row in q.within(q.rows.changes) if row["mint"] == q.mint]
    return [[len({row["owner"] for row in changes} - {None}), len(changes)]]


@oracle
def token_busiest_slot(q: Question) -> list[list[Any]]:
    return most(Counter(row["block_slot"] for row in q.moved(q.mint)), 1)


@oracle
def token_metadata(q: Question) -> list[list[Any]]:
    rows = sorted(
        (row for row in q.part(q.rows.instructions) if row["instruction_type"] == "initializeTokenMetadata"), key=lambda row: row["ordinal"]
    )
    return [
        [entry["key"], entry["value"]]
        for row in rows
        for entry in sorted(row["params"], key=lambda entry: entry["key"])
        if entry["key"] in ("name", "symbol")
    ]


@oracle
def program_instructions(q: Question) -> list[list[Any]]:
    names = [row["instruction_type"] for row in q.within(q.rows.instructions) if row["program_id"] == q.program]
    return most(Counter(name for name in names if name is not None), 5)


@oracle
def program_errors(q: Question) -> list[list[Any]]:
    calling = {(row["block_slot"], row["index"]) for row in q.calling(q.program) if not row["is_vote"]}
    return most(Counter(row["error_class"] for row in q.rows.documents if place(row) in calling and row["error_class"] is not None), 5)


def summary(q: Question, scope: str, subject: str) -> list[list[Any]]:
    found = [row for row in q.rows.of(schemas.SUMMARIES) if (row["scope"], row["subject"]) == (scope, subject)]
    return [[row["transactions"], row["text"]] for row in found]


@oracle
def program_summary(q: Question) -> list[list[Any]]:
    return summary(q, "program", q.program)


@oracle
def window_summary(q: Question) -> list[list[Any]]:
    return summary(q, "range", "")


@oracle
def window_busiest_slot(q: Question) -> list[list[Any]]:
    return most(Counter(row["block_slot"] for row in q.transactions), 1)


@oracle
def window_failure_share(q: Question) -> list[list[Any]]:
    return [[failed(q.others), len(q.others), percent(failed(q.others), len(q.others)) if q.others else None]]


@oracle
def window_sandwiches(q: Question) -> list[list[Any]]:
    counts = Counter(row["block_slot"] for row in q.within(q.rows.documents) if row["is_sandwich"])
    return [[slot, count] for slot, count in sorted(counts.items())[:5]]


@oracle
def window_skipped(q: Question) -> list[list[Any]]:
    states = Counter(row["state"] for row in q.rows.of(schemas.COMPLETENESS) if q.first <= row["slot"] <= q.last)
    return [[state, count] for state, count in sorted(states.items())]


@oracle
def window_leaders(q: Question) -> list[list[Any]]:
    rewards: dict[str, list[Decimal]] = defaultdict(list)
    for row in q.rows.blocks:
        if q.first <= row["slot"] <= q.last and row["leader"] is not None:
            rewards[row["leader"]].append(row["leader_reward"])
    return [[leader, len(paid), total(paid)] for leader, paid in sorted(rewards.items(), key=lambda item: (-len(item[1]), item[0]))[:5]]


@oracle
def window_kinds(q: Question) -> list[list[Any]]:
    return most(Counter(row["kind"] for row in q.within(q.rows.documents) if not row["is_vote"]), 10)


@oracle
def window_tokens(q: Question) -> list[list[Any]]:
    moves = [row["mint"] for row in q.within(q.rows.transfers) if row["mint"] is not None and row["status"] == "Success"]
    return most(Counter(moves), 5)


@oracle
def window_versions(q: Question) -> list[list[Any]]:
    return [[version, count] for version, count in sorted(Counter(row["version"] or "not told" for row in q.transactions).items())]


@oracle
def window_values(q: Question) -> list[list[Any]]:
    buckets = [row["value_bucket"] for row in q.within(q.rows.documents) if row["status"] == "Success" and row["value_bucket"] is not None]
    return most(Counter(buckets), 10)


@oracle
def window_conserved(q: Question) -> list[list[Any]]:
    """From the balances before and after, which another column has."""
    changes = [entry["after"] - entry["before"] for row in q.transactions for entry in row["balance_changes"] or []]
    return [[total(changes), total(row["fee"] for row in q.transactions)]]


@oracle
def window_swap_venues(q: Question) -> list[list[Any]]:
    swaps = {place(row) for row in q.within(q.rows.documents) if row["kind"] == "swap" and row["status"] == "Success"}
    calls = {(place(row), row["program_id"]) for row in q.rows.instructions if place(row) in swaps}
    return most(Counter(program for _, program in calls if not program.startswith("ComputeBudget")), 5)


@oracle
def window_templates(q: Question) -> list[list[Any]]:
    keys = [row["structural_key"] for row in q.within(q.rows.documents) if not row["is_vote"]]
    return [[len(keys), len(set(keys))]]


@oracle
def window_memos(q: Question) -> list[list[Any]]:
    memos = [row["parsed"] for row in q.within(q.rows.instructions) if row["parsed"] is not None]
    return [[len(memos), len(set(memos))]]
