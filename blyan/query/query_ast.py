"""Questions as queries: a closed set of sources, columns, filters and windows, and the one SQL statement that each query is.

Belongs here: the parts of a query, and their SQL. Does not belong here: what words mean them (`blyan.query.intents`).

The text of a statement consists of fragments that stand in this file alone. Whatever a question says goes into parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

Value = int | str

Unit = Literal["count", "sol", "lamports", "token", "base_units", "decimals", "percent", "number", "yes", "account", "program", "mint", "signature", "slot", "time", "text"]  # fmt: skip
"""How a value is said. `token` is in whole units of a mint of the registry."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a query reads.

    Attributes:
        name: of the source in the other parts of a query.
        frm: what stands in FROM; the table of the rows has the alias `t`. `{within}` is where the slots of `c` are bounded.
        table: its name in the lake.
        slot, place, time, signature: its columns; empty for what it has not.
        others: slots of the tables joined, which are bounded too, so that no file of them is opened for nothing.
        repeats: whether a transaction can have several rows.
    """

    name: str
    frm: str
    table: str
    slot: str = "t.block_slot"
    place: str = "t.tx_index"
    time: str = "t.block_timestamp"
    signature: str = "t.tx_signature"
    others: tuple[str, ...] = ()
    repeats: bool = False

    @property
    def is_labelled(self) -> bool:
        """Whether it reads documents."""
        return "d.block_slot" in self.others


TRANSACTIONS = Source("transactions", "solana.transactions t", "solana/transactions", place='t."index"', signature="t.signature")
LABELLED = replace(
    TRANSACTIONS,
    name="labelled",
    frm='solana.transactions t join corpus.documents d on d.block_slot = t.block_slot and d.tx_index = t."index"',
    others=("d.block_slot",),
)
_UNTOLD = replace(LABELLED, frm=LABELLED.frm.replace(" join ", " left join "), others=())
SIGNED = replace(TRANSACTIONS, name="signed", frm="solana.transactions t, unnest(t.accounts) as u(a)", repeats=True)
CALLED = replace(
    TRANSACTIONS,
    name="called",
    # One row for each program of a transaction, however often it is called: so fees and compute units can be summed.
    frm="solana.transactions t join (select distinct c.block_slot, c.tx_index, c.program_id from solana.instructions c{within}) i "
    'on i.block_slot = t.block_slot and i.tx_index = t."index"',
    repeats=True,
)
LED = replace(TRANSACTIONS, name="led", frm="solana.transactions t join solana.blocks b on b.slot = t.block_slot", others=("b.slot",))
TRANSFERS = Source("transfers", "solana.token_transfers t", "solana/token_transfers")
INSTRUCTIONS = Source("instructions", "solana.instructions t", "solana/instructions")
CHANGES = Source("changes", "solana.balance_changes t", "solana/balance_changes")
REWARDS = Source("rewards", "solana.block_rewards t", "solana/block_rewards", place='t."index"', signature="")
BLOCKS = Source("blocks", "solana.blocks t", "solana/blocks", slot="t.slot", place="t.slot", signature="")
SLOTS = Source("slots", "solana.completeness t", "solana/completeness", slot="t.slot", place="t.slot", time="", signature="")


def joined(one: Source, other: Source) -> Source:
    """Transactions with what both sources have of them."""
    if other in (TRANSACTIONS, one):
        return one
    if one is TRANSACTIONS:
        return other
    more = other.frm.removeprefix(TRANSACTIONS.frm)
    return replace(
        one, name=f"{one.name}_{other.name}", frm=f"{one.frm}{more}", others=(*one.others, *other.others), repeats=one.repeats or other.repeats
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the result: its name, its SQL, how it is said, and the symbol of its unit where that is a token."""

    name: str
    sql: str
    unit: Unit = "count"
    symbol: str = ""
    params: tuple[Value, ...] = ()


def whole(sql: str, decimals: int) -> str:
    """Base units as whole units, exactly: 28 digits before the point are more than any sum of amounts that exists."""
    if decimals == 0:
        return f"cast({sql} as decimal(38, 0))"
    return f"cast({sql} as decimal({37 - decimals}, 0)) * 0.{'1'.zfill(decimals)}"


# Dimensions and columns of rows

SLOT = Column("block_slot", "t.block_slot", "slot")
MINUTE = Column("minute", "date_trunc('minute', t.block_timestamp)", "time")
HOUR = Column("hour", "date_trunc('hour', t.block_timestamp)", "time")
DAY = Column("day", "date_trunc('day', t.block_timestamp)", "time")
PAYER = Column("fee_payer", "t.accounts[1].pubkey", "account")
SIGNER = Column("signer", "u.a.pubkey", "account")
KIND = Column("kind", "d.kind", "text")
ERROR = Column("error_class", "d.error_class", "text")
STATUS = Column("status", "t.status", "text")
VERSION = Column("version", "t.version", "text")
PROGRAM = Column("program_id", "i.program_id", "program")
MINT = Column("mint", "t.mint", "mint")
SENDER = Column("source", "t.source", "account")
RECEIVER = Column("destination", "t.destination", "account")
LEADER = Column("leader", "t.leader", "account")
LEADER_OF = Column("leader", "b.leader", "account")
BUCKET = Column("value_bucket", "d.value_bucket", "text")
BOUGHT = Column("bought", "d.bought", "mint")
SOLD = Column("sold", "d.sold", "mint")
CALLED_PROGRAM = Column("program_id", "t.program_id", "program")
INSTRUCTION_TYPE = Column("instruction_type", "t.instruction_type", "text")
SIGNATURE = Column("signature", "t.signature", "signature")
BLOCK_SLOT = Column("slot", "t.slot", "slot")

# Measures

COUNT = Column("transactions", "count(*)")
DISTINCT_PAYERS = Column("fee_payers", "count(distinct t.accounts[1].pubkey)")
DISTINCT_SIGNERS = Column("signers", "count(distinct u.a.pubkey)")
PER_TRANSACTION = Column(
    "mean_instructions", "cast(round(count(*) * 1.0 / count(distinct (t.block_slot, t.tx_index)), 2) as decimal(20, 2))", "number"
)
EXISTS = Column("found", "count(*) > 0", "yes")


def counted(what: str) -> Column:
    """The number of rows, named for what they are."""
    return Column(what, "count(*)")


def share(name: str, condition: str, params: Sequence[Value] = ()) -> Column:
    """Rows that meet a condition of this file, in per cent of all, two decimals."""
    return Column(name, f"cast(100.0 * count(*) filter (where {condition}) / nullif(count(*), 0) as decimal(5, 2))", "percent", params=tuple(params))


_AGGREGATES = {"total": "sum({})", "mean": "round(avg({}))", "median": "quantile_disc({}, 0.5)", "p90": "quantile_disc({}, 0.9)",
               "p95": "quantile_disc({}, 0.95)", "p99": "quantile_disc({}, 0.99)", "highest": "max({})", "lowest": "min({})"}  # fmt: skip


def aggregated(aggregate: str, sql: str) -> str:
    """An aggregate of amounts; a mean is rounded to base units."""
    return _AGGREGATES[aggregate].format(sql)


def amount(aggregate: str, name: str, sql: str, unit: Unit = "sol", symbol: str = "SOL", decimals: int = 9) -> Column:
    """An aggregate of amounts in base units: `total`, `mean`, `median`, `p90`, `p95`, `p99`, `highest` or `lowest`."""
    inner = _AGGREGATES[aggregate].format(sql)
    shown = whole(inner, decimals) if unit in ("sol", "token") else f"cast({inner} as decimal(38, 0))"
    return Column(f"{aggregate}_{name}", shown, unit, symbol)


def number(aggregate: str, name: str, sql: str) -> Column:
    """The same of plain integers, such as compute units; a mean has two decimals."""
    if aggregate == "mean":
        return Column(f"mean_{name}", f"cast(round(avg({sql}), 2) as decimal(20, 2))", "number")
    return Column(f"{aggregate}_{name}", f"cast({_AGGREGATES[aggregate].format(sql)} as bigint)", "number")


# Filters

Operator = Literal["=", "<>", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Compare:
    """A column against one value."""

    column: str
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class Among:
    """A column is one of some values."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """A condition of this file without a value."""

    sql: str


NO_VOTES = Fact("t.is_vote is distinct from true")
VOTES = Fact("t.is_vote")
NO_LABELLED_VOTES = Fact("d.is_vote is distinct from true")
SUCCEEDED = Fact("t.status = 'Success'")
FAILED = Fact("t.status = 'Fail'")
OF_SOL = Fact("t.transfer_type = 'transfer'")
OF_TOKENS = Fact("t.transfer_type in ('spl-transfer', 'spl-transfer-with-fee')")
BURNED = Fact("t.transfer_type = 'burn'")
MINTED = Fact("t.transfer_type = 'mintTo'")
SIGNS = Fact("u.a.signer")
SANDWICHED = Fact("d.is_sandwich")
HAS_ERROR = Fact("d.error_class is not null")
HAS_PROGRAM = Fact("i.program_id is not null")
HAS_MINT = Fact("t.mint is not null")
HAS_LEADER = Fact("t.leader is not null")
HAS_BUCKET = Fact("d.value_bucket is not null")
HAS_BOUGHT = Fact("d.bought is not null")
HAS_SOLD = Fact("d.sold is not null")
LED_BY_SOMEONE = Fact("b.leader is not null")
NAMES_PROGRAM = Fact("t.program_id is not null")
NAMES_TYPE = Fact("t.instruction_type is not null")
IS_INNER = Fact("t.parent_index is not null")
IS_OUTER = Fact("t.parent_index is null")
HAS_PAYER = Fact("t.accounts[1].pubkey is not null")
IS_SKIPPED = Fact("t.state = 'skipped'")
IS_LANDED = Fact("t.state = 'landed'")
HAS_MEMO = Fact("t.parsed is not null")


@dataclass(frozen=True, slots=True)
class Calls:
    """The transaction calls one of these programs, in an outer or an inner instruction."""

    programs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TakesPart:
    """The account is among those of the transaction."""

    account: str


Filter = Compare | Among | Fact | Calls | TakesPart


@dataclass(frozen=True, slots=True)
class Window:
    """Slots, both ends included, and times, `since` included and `until` not; `after` is a time that is not included. None is open."""

    first: int | None = None
    last: int | None = None
    since: datetime | None = None
    after: datetime | None = None
    until: datetime | None = None

    @property
    def has_time(self) -> bool:
        """Whether it says times."""
        return not self.since is self.after is self.until is None


@dataclass(frozen=True, slots=True)
class Query:
    """One statement.

    Attributes:
        source: what is read.
        columns: what is selected: aggregates, or columns of rows where `rows` is true.
        by: what is grouped by; selected before the columns.
        filters: what rows must meet, all of it.
        window: which slots and times.
        order: SQL of this file to order by; rows without one are in the order of the chain.
        limit: most rows.
        rows: whether rows are listed, and not aggregated.
    """

    source: Source
    columns: tuple[Column, ...]
    by: tuple[Column, ...] = ()
    filters: tuple[Filter, ...] = ()
    window: Window = Window()
    order: tuple[str, ...] = ()
    limit: int | None = None
    rows: bool = False


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account holds after the last change in the window: SOL, or of one mint the sum over the token accounts that it owns."""

    account: str
    column: Column
    mint: str | None = None
    window: Window = Window()


def without_documents(window: Window) -> Query:
    """How many transactions of a window, votes left out, have no document: of them neither kind nor error is known."""
    return Query(_UNTOLD, (Column("transactions", "count(*)"),), filters=(NO_VOTES, Fact("d.tx_index is null")), window=window)


def slots_here(window: Window) -> Query | None:
    """How many slots of a window are known, landed or skipped; None for one of times, or without an end."""
    if window.has_time or window.first is None or window.last is None:
        return None
    return Query(SLOTS, (Column("slots", "count(*)"),), filters=(Fact("t.state <> 'unknown'"),), window=window)


def to_sql(query: Query | Balance) -> tuple[str, tuple[Value, ...]]:
    """The statement of a query, and its parameters in the order of their `?`."""
    if isinstance(query, Balance):
        return _balance(query)
    selected = (*query.by, *query.columns)
    names = ", ".join(f"{column.sql} as {column.name}" for column in selected)
    conditions, params = _where(query.source, query.filters, query.window)
    bounds, within = _bounds("c.block_slot", query.window) if "{within}" in query.source.frm else ([], [])
    frm = query.source.frm.replace("{within}", f" where {' and '.join(bounds)}" if bounds else "")
    text = f"select {names} from {frm}"  # noqa: S608 - fragments of this file
    if conditions:
        text += f" where {' and '.join(conditions)}"
    if query.by:
        text += f" group by {', '.join(column.sql for column in query.by)}"
    order = query.order
    if not order and query.rows:
        order = tuple(dict.fromkeys((query.source.slot, query.source.place)))
    if not order and query.by:
        order = tuple(column.name for column in query.by)
    if order:
        text += f" order by {', '.join(order)}"
    values = [value for column in selected for value in column.params] + within + params
    if query.limit is not None:
        text += " limit ?"
        values.append(query.limit)
    return text, tuple(values)


def _balance(query: Balance) -> tuple[str, tuple[Value, ...]]:
    owner = "t.account" if query.mint is None else "t.owner"
    filters: tuple[Filter, ...] = (
        Compare(owner, "=", query.account),
        Fact("t.mint is null") if query.mint is None else Compare("t.mint", "=", query.mint),
    )
    conditions, params = _where(CHANGES, filters, query.window)
    held = (
        "select arg_max(coalesce(t.after, 0), row(t.block_slot, t.tx_index)) as held, max(t.decimals) as decimals "  # noqa: S608 - fragments of this file
        f"from {CHANGES.frm} where {' and '.join(conditions)} group by t.account"
    )
    return f"select {query.column.sql} as {query.column.name}{_decimals(query)} from ({held})", tuple(params)  # noqa: S608


def _decimals(query: Balance) -> str:
    return ", max(decimals) as decimals" if query.column.unit == "base_units" else ""


def _where(source: Source, filters: Iterable[Filter], window: Window) -> tuple[list[str], list[Value]]:
    conditions: list[str] = []
    params: list[Value] = []
    for each in filters:
        text, values = _condition(source, each, window)
        conditions.append(text)
        params += values
    for text, values in _window(source, window):
        conditions.append(text)
        params += values
    return conditions, params


def _condition(source: Source, condition: Filter, window: Window) -> tuple[str, list[Value]]:
    match condition:
        case Compare(column, operator, value):
            return f"{column} {operator} ?", [value]
        case Among(column, values):
            return f"{column} in ({', '.join('?' * len(values))})", list(values)
        case Fact(sql):
            return sql, []
        case TakesPart(account):
            return "? in (select u.a.pubkey from unnest(t.accounts) as u(a))", [account]
        case Calls(programs):
            inner, params = _bounds("c.block_slot", window)
            bounded = "".join(f" and {text}" for text in inner)
            listed = ", ".join("?" * len(programs))
            calls = f"select c.block_slot, c.tx_index from solana.instructions c where c.program_id in ({listed}){bounded}"  # noqa: S608 - fragments of this file
            return f"({source.slot}, {source.place}) in ({calls})", [*programs, *params]


def _bounds(slot: str, window: Window) -> tuple[list[str], list[Value]]:
    if window.first is not None and window.last is not None:
        return [f"{slot} between ? and ?"], [window.first, window.last]
    bounds = [(f"{slot} >= ?", window.first), (f"{slot} <= ?", window.last)]
    return [text for text, value in bounds if value is not None], [value for _, value in bounds if value is not None]


def _window(source: Source, window: Window) -> Iterable[tuple[str, list[Value]]]:
    for slot in (source.slot, *source.others):
        conditions, values = _bounds(slot, window)
        if conditions:
            yield " and ".join(conditions), values
    for operator, moment in ((">=", window.since), (">", window.after), ("<", window.until)):
        if moment is not None:
            yield f"{source.time} {operator} cast(? as timestamptz)", [moment.strftime("%Y-%m-%d %H:%M:%S")]
