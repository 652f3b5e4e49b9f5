"""The records as a graph: blocks, their transactions, what those did, and a subscription to slots.

Belongs here: the GraphQL schema, made from the tables' own declarations, its loaders and its limits. Does not belong here: HTTP
(`blyan.api.routes.graphql`), reading (`blyan.query.records`).

Fields have the names of columns. A query is priced before it runs: a field costs one for each row that it is asked of, and a list is
taken at its `limit`; so nothing costs more than a caller may spend, however it is nested or aliased. What rows have in common is loaded
once for all rows of a level.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, make_dataclass
from functools import cache, partial
from typing import Any, NewType

import pyarrow as pa
import strawberry
from graphql import FieldNode, FragmentSpreadNode, GraphQLError, InlineFragmentNode, OperationDefinitionNode, SelectionSetNode
from graphql.language import DocumentNode, FragmentDefinitionNode, IntValueNode, VariableNode
from strawberry.dataloader import DataLoader
from strawberry.extensions import MaxAliasesLimiter, MaxTokensLimiter, QueryDepthLimiter
from strawberry.schema.config import StrawberryConfig
from strawberry.types import Info

from blyan.api.callers import Principal, Role
from blyan.api.problems import QUERY_REFUSED, RequestError
from blyan.query.lookup import ACCOUNT, HOLDER, MINT, PARTY, PROGRAM, SIGNATURE, Dimension
from blyan.query.records import Match, Page, Question
from blyan.schemas import BALANCE_CHANGES, BLOCK_REWARDS, BLOCKS, INSTRUCTIONS, TOKEN_TRANSFERS, TRANSACTIONS, Table

DEEPEST, MOST_ALIASES, MOST_TOKENS = 8, 20, 2_000

DEFAULT_LIMIT = 20
"""Rows of a list that does not say."""

CHILDREN = 50
"""Rows that a list inside a row is priced at; it gives up to `MOST_CHILDREN`."""

MOST_CHILDREN = 5_000
"""Rows that all lists of a level give together."""

BUDGETS = {Role.READER: 10_000, Role.ANALYST: 50_000, Role.CONTRIBUTOR: 50_000, Role.OPERATOR: 1_000_000}
"""What a query may cost."""

Long = NewType("Long", int)

LONG = strawberry.scalar(name="Long", description="An integer up to 2^53.", serialize=int, parse_value=int)

Ask = Callable[[Question, int, str | None], Awaitable[Page]]


@dataclass
class Context:
    """What resolvers need: the caller's questions, and events of slots."""

    ask: Ask
    caller: Principal
    events: Callable[[], AsyncIterator[Any]]

    def __post_init__(self) -> None:
        self.loaders: dict[tuple[str, str], DataLoader[Any, list[Any]]] = {}

    def children(self, table: Table, column: str) -> DataLoader[Any, list[Any]]:
        """Rows of a table by (slot, value of a column), those of all rows of a level at once."""
        loader = self.loaders.get((table.name, column))
        if loader is None:
            loader = self.loaders[table.name, column] = DataLoader(partial(self._load, table, column))
        return loader

    async def _load(self, table: Table, column: str, keys: list[tuple[int, Any]]) -> list[list[Any]]:
        slots = sorted({slot for slot, _ in keys})
        values = sorted({value for _, value in keys})
        marks = ", ".join("?" for _ in values)
        matches = (Match(f'"{table.key[0]}" in ({", ".join(map(str, slots))})', ()), Match(f'"{column}" in ({marks})', tuple(values)))
        page = await self.ask(Question(table, matches, first_slot=slots[0], last_slot=slots[-1]), MOST_CHILDREN, None)
        if page.next is not None:
            raise RequestError(QUERY_REFUSED, f"the lists of one level have more than {MOST_CHILDREN} rows", remedy="ask for fewer rows above them")
        found = defaultdict(list)
        for row in page.rows.to_pylist():
            found[row[table.key[0]], row[column]].append(_object(table, row))
        return [found[key] for key in keys]


def _kind(name: str, kind: pa.DataType) -> Any:
    """The GraphQL type of a column."""
    if pa.types.is_list(kind):
        return list[_kind(name, kind.value_type)]  # type: ignore[misc]
    if pa.types.is_struct(kind):
        return _struct(name, tuple((child.name, child.type) for child in kind))
    if pa.types.is_timestamp(kind):
        return dt.datetime
    return {pa.int64(): Long, pa.bool_(): bool, pa.float64(): float}.get(kind, str)


@cache
def _struct(name: str, fields: tuple[tuple[str, pa.DataType], ...]) -> Any:
    return strawberry.type(make_dataclass(name, [(field, _kind(f"{name}{field.title()}", kind) | None) for field, kind in fields]))


def _row_type(table: Table, name: str, **children: Any) -> Any:
    kinds, fields = {}, {}
    for column in table.columns:
        kind = _kind(name + "".join(part.title() for part in column.name.split("_")), column.type)
        kinds[column.name] = kind | None if column.nullable else kind
        fields[column.name] = strawberry.field(description=column.prose)
    return strawberry.type(type(name, (), {"__annotations__": kinds, **fields, **children}), description=table.prose)


def _listed(kind: Any) -> Any:
    return list[kind]


def _children(table: Table, column: str, own: str, own_slot: str, kind: str) -> Any:
    """A field of a row: rows of another table with the same slot and value."""

    async def resolve(root: Any, info: Info[Context, None]) -> Any:
        key = (getattr(root, own_slot), getattr(root, own))
        found = await info.context.children(table, column).load(key)
        return found if kind == "list" else (found[0] if found else None)

    return resolve


Instruction = _row_type(INSTRUCTIONS, "Instruction")
TokenTransfer = _row_type(TOKEN_TRANSFERS, "TokenTransfer")
BalanceChange = _row_type(BALANCE_CHANGES, "BalanceChange")
Reward = _row_type(BLOCK_REWARDS, "Reward")
Transaction = _row_type(
    TRANSACTIONS,
    "Transaction",
    instructions=strawberry.field(
        _children(INSTRUCTIONS, "tx_signature", "signature", "block_slot", "list"),
        graphql_type=_listed(Instruction),
        description="In order of execution.",
    ),
    token_transfers=strawberry.field(
        _children(TOKEN_TRANSFERS, "tx_signature", "signature", "block_slot", "list"),
        graphql_type=_listed(TokenTransfer),
        description="What it moved.",
    ),
    changes=strawberry.field(
        _children(BALANCE_CHANGES, "tx_signature", "signature", "block_slot", "list"),
        graphql_type=_listed(BalanceChange),
        description="Balances that it changed.",
    ),
)
Block = _row_type(
    BLOCKS,
    "Block",
    transactions=strawberry.field(
        _children(TRANSACTIONS, "block_slot", "slot", "slot", "list"), graphql_type=_listed(Transaction), description="Its transactions, in order."
    ),
    rewards=strawberry.field(
        _children(BLOCK_REWARDS, "block_slot", "slot", "slot", "list"), graphql_type=_listed(Reward), description="What it paid."
    ),
)

OBJECTS: dict[str, Any] = {
    BLOCKS.name: Block,
    TRANSACTIONS.name: Transaction,
    INSTRUCTIONS.name: Instruction,
    TOKEN_TRANSFERS.name: TokenTransfer,
    BALANCE_CHANGES.name: BalanceChange,
    BLOCK_REWARDS.name: Reward,
}
"""The type of each table's rows."""


def _object(table: Table, row: dict[str, Any]) -> Any:
    return OBJECTS[table.name](**{column.name: _nested(column.type, row[column.name], OBJECTS[table.name], column.name) for column in table.columns})


def _nested(kind: pa.DataType, value: Any, owner: Any, name: str) -> Any:
    """Structs as objects, decimals as text."""
    if value is None:
        return None
    if pa.types.is_decimal(kind):
        return str(value)
    if pa.types.is_list(kind) and not pa.types.is_struct(kind.value_type):
        return [_nested(kind.value_type, each, owner, name) for each in value]
    if pa.types.is_list(kind):
        made = _struct(
            owner.__name__ + "".join(part.title() for part in name.split("_")), tuple((child.name, child.type) for child in kind.value_type)
        )
        return [made(**{child.name: _nested(child.type, each[child.name], made, child.name) for child in kind.value_type}) for each in value]
    return value


@strawberry.type(description="What rows were read from.")
class ReadingType:
    """What rows were read from."""

    version: Long | None
    up_to_slot: Long | None
    finality: str | None
    finalized_to: Long | None
    behind_slots: Long | None
    behind_ms: Long | None
    generation: Long | None


def _page_type(table: Table) -> Any:
    kind = OBJECTS[table.name]
    fields = [("data", _listed(kind)), ("next", str | None), ("truncated", bool), ("reading", ReadingType)]
    return strawberry.type(make_dataclass(f"{kind.__name__}Page", fields), description="Rows, and the cursor of the next page of the same snapshot.")


PAGES = {table.name: _page_type(table) for table in (BLOCKS, TRANSACTIONS, INSTRUCTIONS, TOKEN_TRANSFERS, BALANCE_CHANGES, BLOCK_REWARDS)}


def _list_field(table: Table, summary: str, **filters: tuple[str, Dimension | None]) -> Any:
    """A list of rows: slots, order, limit, cursor, and a filter for each name, as (SQL with `?`, the index that has it)."""

    async def resolve(info: Info[Context, None], **given: Any) -> Any:
        order, limit, cursor = given.get("order", "asc"), given.get("limit", DEFAULT_LIMIT), given.get("cursor")
        if order not in ("asc", "desc") or not 1 <= limit <= info.context.caller.limits.page_rows:
            most = info.context.caller.limits.page_rows
            raise RequestError(QUERY_REFUSED, "order or limit is not valid", remedy=f"order is asc or desc, limit is from 1 to {most}")
        matches, lookup = [], None
        for name, (condition, dimension) in filters.items():
            if (value := given.get(name)) is not None:
                matches.append(Match(condition, (value,) * condition.count("?")))
                lookup = lookup or ((dimension, value) if dimension else None)
        question = Question(table, tuple(matches), lookup, given.get("first_slot"), given.get("last_slot"), descending=order == "desc")
        page = await info.context.ask(question, limit, cursor)
        reading = page.reading
        said: Any = ReadingType
        said = said(
            version=reading.versions[table.name], up_to_slot=reading.up_to_slot, finality=reading.finality, finalized_to=reading.finalized_to,
            behind_slots=reading.behind_slots, behind_ms=reading.behind_ms, generation=reading.generation,
        )  # fmt: skip
        rows = [_object(table, row) for row in page.rows.to_pylist()]
        return PAGES[table.name](data=rows, next=page.next, truncated=page.next is not None, reading=said)

    parameters = {
        "first_slot": Long | None,
        "last_slot": Long | None,
        "order": str,
        "limit": int,
        "cursor": str | None,
        **dict.fromkeys(filters, str | None),
    }
    resolve = _with_parameters(resolve, parameters, {"order": "asc", "limit": DEFAULT_LIMIT})
    return strawberry.field(resolve, graphql_type=PAGES[table.name], description=summary)


def _with_parameters(resolve: Any, parameters: dict[str, Any], defaults: dict[str, Any]) -> Any:
    """The resolver with a signature, which strawberry reads the arguments from."""
    import inspect

    kinds = [inspect.Parameter("info", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Info)]
    kinds += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=kind) for name, kind in parameters.items()
    ]
    resolve.__signature__ = inspect.Signature(kinds)
    resolve.__annotations__ = {"info": Info, **parameters}
    return resolve


@strawberry.type
class Query:
    """What can be asked."""

    blocks = _list_field(BLOCKS, "Blocks by slot.", leader=("leader = ?", None))
    transactions = _list_field(
        TRANSACTIONS,
        "Transactions by slot, account or signature.",
        signature=("signature = ?", SIGNATURE),
        account=("list_contains(list_transform(accounts, lambda each: each.pubkey), ?)", ACCOUNT),
        status=("status = ?", None),
    )
    instructions = _list_field(INSTRUCTIONS, "Instructions by slot or program.", program=("program_id = ?", PROGRAM))
    token_transfers = _list_field(
        TOKEN_TRANSFERS,
        "Transfers by slot, account or mint.",
        account=("(source = ? or destination = ? or authority = ?)", PARTY),
        mint=("mint = ?", MINT),
        status=("status = ?", None),
    )
    balances = _list_field(BALANCE_CHANGES, "Balances of accounts over time.", account=("account = ?", HOLDER), mint=("mint = ?", None))
    rewards = _list_field(BLOCK_REWARDS, "Rewards by slot or account.", pubkey=("pubkey = ?", None), reward_type=("reward_type = ?", None))

    @strawberry.field(description="The block of a slot; null where it has none.", graphql_type=Block | None)  # type: ignore[untyped-decorator]
    async def block(self, info: Info, slot: Long) -> Any:
        """The block of a slot."""
        return await _only(info, Question(BLOCKS, first_slot=slot, last_slot=slot, alone=True))

    @strawberry.field(description="A transaction by its signature; null where nobody has it.", graphql_type=Transaction | None)  # type: ignore[untyped-decorator]
    async def transaction(self, info: Info, signature: str) -> Any:
        """A transaction by its signature."""
        matches = (Match("signature = ?", (signature,)),)
        return await _only(info, Question(TRANSACTIONS, matches, (SIGNATURE, signature), descending=True, alone=True))


async def _only(info: Info[Context, None], question: Question) -> Any:
    page = await info.context.ask(question, 1, None)
    return _object(question.table, page.rows.to_pylist()[0]) if page.rows.num_rows else None


@strawberry.type(description="A slot, as the newest head tells it.")
class SlotType:
    """A slot that landed or was skipped."""

    slot: Long
    block_hash: str | None
    state: str
    commitment: str
    tip: Long


@strawberry.type
class Subscription:
    """What can be followed."""

    @strawberry.subscription(description="Each slot that lands or is proven skipped.")  # type: ignore[untyped-decorator]
    async def slots(self, info: Info) -> AsyncIterator[SlotType]:
        """Slots as they land."""
        async for event in info.context.events():
            if event.event == "slot":
                yield SlotType(**event.data)


SCHEMA = strawberry.Schema(
    Query,
    subscription=Subscription,
    config=StrawberryConfig(auto_camel_case=False, scalar_map={Long: LONG}),
    extensions=[
        lambda: QueryDepthLimiter(max_depth=DEEPEST),
        lambda: MaxAliasesLimiter(max_alias_count=MOST_ALIASES),
        lambda: MaxTokensLimiter(max_token_count=MOST_TOKENS),
    ],
)
"""The schema of the service."""

LISTS = {"instructions", "token_transfers", "changes", "transactions", "rewards"}
"""Fields that are lists inside a row."""


def cost_of(document: DocumentNode, variables: dict[str, Any], most: int) -> int:
    """What a query may cost, before it runs: a field counts one for each row that it is asked of, and a fragment one for each time it is used.

    Args:
        document: the query.
        variables: of it.
        most: counting ends once it costs more; fragments inside of fragments may be as many as two to the power of their number.

    Raises:
        GraphQLError: fragments refer to each other in a circle.
    """
    counted = _Cost({node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}, variables, most)
    for node in document.definitions:
        if isinstance(node, OperationDefinitionNode):
            counted.add(node.selection_set, 1, (), top=True)
    return counted.total


class _Cost:
    """A cost that is being counted."""

    def __init__(self, fragments: dict[str, FragmentDefinitionNode], variables: dict[str, Any], most: int) -> None:
        self._fragments, self._variables, self._most = fragments, variables, most
        self.total = 0

    def add(self, selections: SelectionSetNode | None, rows: int, within: tuple[str, ...], *, top: bool) -> None:
        """Count what is selected of some rows."""
        for node in selections.selections if selections else ():
            if self.total > self._most:
                return
            if isinstance(node, FragmentSpreadNode):
                name = node.name.value
                if name in within:
                    raise GraphQLError(f"the fragment {name} contains itself")
                self.total += 1
                if name in self._fragments:
                    self.add(self._fragments[name].selection_set, rows, (*within, name), top=top)
            elif isinstance(node, InlineFragmentNode):
                self.total += 1
                self.add(node.selection_set, rows, within, top=top)
            elif isinstance(node, FieldNode):
                self.total += rows
                each = _limit(node, self._variables) if top else CHILDREN if node.name.value in LISTS else 1
                self.add(node.selection_set, rows * max(1, each), within, top=False)


def _limit(node: FieldNode, variables: dict[str, Any]) -> int:
    """Rows of a list at the top; 1 of what is no list."""
    if node.name.value in ("block", "transaction", "slots", "__schema", "__type"):
        return 1
    for argument in node.arguments:
        if argument.name.value == "limit":
            value: Any = argument.value
            if isinstance(value, IntValueNode):
                return int(value.value)
            if isinstance(value, VariableNode):
                given = variables.get(value.name.value, DEFAULT_LIMIT)
                return given if isinstance(given, int) else DEFAULT_LIMIT
    return DEFAULT_LIMIT
