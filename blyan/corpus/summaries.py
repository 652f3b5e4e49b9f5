"""What a range of slots amounts to, as text.

Belongs here: the sums, and their words. Does not belong here: single transactions (`blyan.corpus.render`).

A question about a total ("who traded most") has nothing to hit among documents of single transactions; it hits these. Sums are SQL
over the tables of the range, so a large range needs no more memory than DuckDB is given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from blyan import schemas
from blyan.corpus.registry import Registry
from blyan.solana.programs import COMPUTE_BUDGET
from blyan.solana.slots import SlotRange

if TYPE_CHECKING:
    import duckdb

BUSIEST = 100
"""Programs, and accounts, that get a summary of their own."""

LISTED = 5
"""Items of a list in a text; the others are counted."""

_TOLD = """create or replace temp view told as
    select d.block_slot, d.tx_index, d.kind, d.error_class, d.programs, d.is_sandwich, d.status, t.fee,
        d.sold, d.sold_amount, d.sold_decimals, d.bought, d.bought_amount, d.bought_decimals, t.accounts[1].pubkey as payer
    from documents d join transactions t on t.block_slot = d.block_slot and t.index = d.tx_index
    where d.is_vote is distinct from true"""

# The compute budget is called by nearly all; its effect is the fee.
_CALLED = f"""create or replace temp view called as
    select * from (select *, unnest(programs) as program from told) where program <> '{COMPUTE_BUDGET}'"""  # noqa: S608 - SQL of our own

_MOVED = """create or replace temp view moved as
    select coalesce(m.mint, 'SOL') as unit, m.value, case when m.transfer_type = 'transfer' then 9 else m.decimals end as decimals,
        m.transfer_type, t.payer
    from token_transfers m join told t on t.block_slot = m.block_slot and t.tx_index = m.tx_index
    where t.status = 'Success' and m.value > 0 and (m.mint is not null or m.transfer_type = 'transfer')"""


def summaries_of(connection: duckdb.DuckDBPyConnection, slots: SlotRange, registry: Registry, *, busiest: int = BUSIEST) -> pa.Table:
    """Rows of `schemas.SUMMARIES` for a range, in key order.

    Args:
        connection: with relations `transactions`, `token_transfers` and `documents`, each with the rows of this range alone.
        slots: the range.
        registry: names of programs and mints.
        busiest: programs, and accounts, that get a summary of their own, those of most transactions first.
    """
    for view in (_TOLD, _CALLED, _MOVED):
        connection.execute(view)
    sums = _Sums(connection, registry)
    rows = [*sums.accounts(slots, busiest), *sums.programs(slots, busiest), sums.range(slots)]
    columns = zip(*([slots.first, slots.last, *row] for row in rows), strict=True)
    return pa.table(
        [pa.array(column, of.type) for column, of in zip(columns, schemas.SUMMARIES.arrow_schema(), strict=True)], schemas.SUMMARIES.arrow_schema()
    )


_Row = tuple[str, str, str, int, int | None]
"""Scope, subject, text, transactions, votes left out."""


class _Sums:
    """The sums of one range."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, registry: Registry) -> None:
        self._connection, self._names, self._programs = connection, registry.names, registry.programs

    def range(self, slots: SlotRange) -> _Row:
        """The summary of all."""
        ((total, votes, failed, fees, blocks),) = self._ask(
            """select count(*), count(*) filter (is_vote), count(*) filter (status = 'Fail' and is_vote is distinct from true), coalesce(sum(fee), 0),
                count(distinct block_slot) from transactions"""
        )
        ((kept, payers, sandwiches),) = self._ask(
            "select (select count(*) from documents where is_vote), count(distinct payer), count(*) filter (is_sandwich) from told"
        )
        unnamed = f"select '', program, count(*) from called where not {_among(self._names)} group by all"  # noqa: S608 - SQL of our own
        lines = [
            f"Slots {slots.first} to {slots.last}: {_count(total, 'transaction')} in {_count(blocks, 'slot')}, {_sol(fees)} SOL in fees.",
            f"{_count(votes, 'vote')}, of which {kept} have a document; {_count(total - votes, 'other transaction')} by {_count(payers, 'fee payer')}, {failed} failed.",
            *self._list("Kinds", "select '', kind, count(*) from told group by all").values(),
            *self._list("Programs", "select '', program, count(*) from called group by all").values(),
            *self._list("Failures", "select '', error_class, count(*) from told where error_class is not null group by all").values(),
            *self._list("Fee payers", "select '', payer, count(*) from told where payer is not null group by all").values(),
            *self._swaps("select '' as subject, * from told").values(),
            *self._amounts("''").values(),
            *self._list("Programs without a name", unnamed).values(),
        ]
        if sandwiches:
            lines.append(f"{_count(sandwiches, 'transaction')} in the shape of a sandwich.")
        return "range", "", "\n".join(lines), total, votes - kept

    def programs(self, slots: SlotRange, busiest: int) -> list[_Row]:
        """The summaries of the programs that most transactions called, votes not counted."""
        busy = self._ask(
            """select program, count(*), count(*) filter (status = 'Fail'), count(distinct payer) from called
                group by 1 order by 2 desc, 1 limit ?""",
            busiest,
        )
        kinds = self._list("In transactions of kind", "select program, kind, count(*) from called group by all")
        exchanges = [account for account, entry in self._programs.items() if entry.category == "exchange"]
        swaps = self._swaps(f"select program as subject, * from called where {_among(exchanges)}")  # noqa: S608 - SQL of our own
        errors = self._list("Failures", "select program, error_class, count(*) from called where error_class is not null group by all")
        return [
            (
                "program",
                program,
                _lines(
                    f"Program {self._name(program)} in slots {slots.first} to {slots.last}: called in {_count(total, 'transaction')} of "
                    f"{_count(payers, 'fee payer')}, {failed} failed.",
                    kinds.get(program),
                    errors.get(program),
                    swaps.get(program),
                ),
                total,
                None,
            )
            for program, total, failed, payers in sorted(busy)
        ]

    def accounts(self, slots: SlotRange, busiest: int) -> list[_Row]:
        """The summaries of the accounts that paid for most transactions, votes not counted."""
        busy = self._ask(
            """select payer, count(*), count(*) filter (status = 'Fail'), coalesce(sum(fee), 0) from told where payer is not null
                group by 1 order by 2 desc, 1 limit ?""",
            busiest,
        )
        kinds = self._list("Kinds", "select payer, kind, count(*) from told group by all")
        programs = self._list("Programs", "select payer, program, count(*) from called group by all")
        swaps, amounts = self._swaps("select payer as subject, * from told"), self._amounts("payer")
        return [
            (
                "account",
                account,
                _lines(
                    f"Account {account} in slots {slots.first} to {slots.last}: paid for {_count(total, 'transaction')}, {failed} failed, "
                    f"{_sol(fees)} SOL in fees.",
                    kinds.get(account),
                    programs.get(account),
                    swaps.get(account),
                    amounts.get(account),
                ),
                total,
                None,
            )
            for account, total, failed, fees in sorted(busy)
        ]

    def _ask(self, sql: str, *parameters: object) -> list[Any]:
        rows: list[Any] = self._connection.execute(sql, list(parameters)).fetchall()
        return rows

    def _name(self, account: str) -> str:
        name = self._names.get(account)
        return account if name is None else f"{name} ({account})"

    def _list(self, title: str, sql: str) -> dict[str, str]:
        """By subject, a line with the most frequent items and how many others there are. The SQL gives subject, item, count."""
        ranked = self._ask(
            f"""select * from (
                    select subject, item, count, row_number() over most as place, count(*) over (partition by subject) as items
                    from ({sql}) as counted(subject, item, count) window most as (partition by subject order by count desc, item)
                ) where place <= {LISTED} order by subject, place"""  # noqa: S608 - SQL of our own
        )
        lines: dict[str, list[str]] = defaultdict(list)
        for subject, item, count, place, items in ranked:
            lines[subject].append(f"{self._names.get(item, item)} {count}")
            if place == LISTED < items:
                lines[subject].append(f"and {items - LISTED} more")
        return {subject: f"{title}: {', '.join(items)}." for subject, items in lines.items()}

    def _swaps(self, sql: str) -> dict[str, str]:
        """By subject, a line with the pairs that were swapped most often, and the exact sums. The SQL gives the columns of `told` and a subject."""
        ranked = self._ask(
            f"""select * from (
                    select *, row_number() over (partition by subject order by swaps desc, sold, bought) as place, count(*) over (partition by subject) as pairs
                    from (
                        select subject, sold, bought, count(*) as swaps, sum(sold_amount)::varchar as gave, max(sold_decimals) as gave_decimals,
                            sum(bought_amount)::varchar as got, max(bought_decimals) as got_decimals
                        from ({sql}) where sold is not null group by subject, sold, bought
                    )
                ) where place <= {LISTED} order by subject, place"""  # noqa: S608 - SQL of our own
        )
        lines: dict[str, list[str]] = defaultdict(list)
        for subject, sold, bought, swaps, gave, gave_decimals, got, got_decimals, place, pairs in ranked:
            given, received = whole_units(gave, gave_decimals), whole_units(got, got_decimals)
            lines[subject].append(
                f"{given} {self._names.get(sold, sold)} for {received} {self._names.get(bought, bought)} in {_count(swaps, 'swap')}"
            )
            if place == LISTED < pairs:
                lines[subject].append(f"and {_count(pairs - LISTED, 'more pair')}")
        return {subject: f"Swapped: {', '.join(items)}." for subject, items in lines.items()}

    def _amounts(self, subject: str) -> dict[str, str]:
        """By subject, a line with what was moved most often in successful transactions, exact; a mint without known decimals is left out."""
        sums = self._ask(
            f"""select * from (
                    select {subject} as subject, unit, count(*) as movements, sum(value)::varchar, max(decimals) from moved
                    where decimals is not null group by 1, 2
                ) qualify row_number() over (partition by subject order by movements desc, unit) <= {LISTED} order by subject, movements desc, unit"""  # noqa: S608 - SQL of our own
        )
        lines: dict[str, list[str]] = defaultdict(list)
        for of, unit, movements, value, decimals in sums:
            name = "SOL" if unit == "SOL" else self._names.get(unit, unit)
            lines[of].append(f"{whole_units(value, decimals)} {name} in {_count(movements, 'movement')}")
        return {of: f"Moved: {', '.join(items)}." for of, items in lines.items()}


def _among(accounts: Iterable[str]) -> str:
    """SQL that the program is one of these; accounts of the registry are base58."""
    return f"program in ({', '.join(repr(account) for account in accounts)})"


def _lines(*lines: str | None) -> str:
    return "\n".join(line for line in lines if line)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def whole_units(value: str, decimals: int) -> str:
    """A sum of base units in whole units; by its digits, since a sum may have more of them than a `Decimal` keeps."""
    digits = value.zfill(decimals + 1)
    whole, part = digits[: len(digits) - decimals], digits[len(digits) - decimals :].rstrip("0")
    return f"{whole}.{part}" if part else whole


def _sol(lamports: Decimal) -> str:
    return whole_units(str(lamports), 9)
