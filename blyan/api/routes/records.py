"""Blocks, transactions, instructions, transfers, balances and rewards, as rows of their tables.

Belongs here: paths, parameters, and the conditions that they mean. Does not belong here: reading (`blyan.query.records`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Response
from starlette.requests import Request

from blyan.api.callers import LIMITS, Principal, Scope
from blyan.api.envelope import asked_of
from blyan.api.models import OneModel, PageModel, encoded_one, encoded_page, encoded_rows, row_model
from blyan.api.problems import BAD_CURSOR, CANCELLED, FORBIDDEN, GONE, INVALID, NOT_FOUND, RATE_LIMITED, UNAUTHENTICATED, RequestError, responses
from blyan.api.recall import HOLDS, VARIES, Recall, Reply, tag_of
from blyan.api.service import Service, known_parameters, needs, service_of
from blyan.query.lookup import ACCOUNT, HOLDER, MINT, PARTY, PROGRAM, SIGNATURE, Dimension
from blyan.query.records import Match, Page, Question, Reading, Stop
from blyan.schemas import BALANCE_CHANGES, BLOCK_REWARDS, BLOCKS, COMPLETENESS, INSTRUCTIONS, TOKEN_TRANSFERS, TRANSACTIONS, Table

Route = TypeVar("Route", bound=Callable[..., Any])

router = APIRouter(tags=["records"], dependencies=[Depends(known_parameters)])

ERRORS = (UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, CANCELLED)

MOST_ROWS = max(limits.page_rows for limits in LIMITS.values())

LAST_SLOT = 2**53
"""No chain reaches it, and JSON numbers are exact up to here."""

BASE58 = r"^[1-9A-HJ-NP-Za-km-z]+$"

EXAMPLE_ACCOUNT = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"

Address = Annotated[str, Path(description="An account, base58.", min_length=32, max_length=44, pattern=BASE58, examples=[EXAMPLE_ACCOUNT])]
Wanted = Annotated[
    str | None, Query(description="Only with this account, base58.", min_length=32, max_length=44, pattern=BASE58, examples=[EXAMPLE_ACCOUNT])
]
Slot = Annotated[int | None, Query(ge=0, le=LAST_SLOT)]
Status = Annotated[Literal["Success", "Fail"] | None, Query(description="Only of transactions with this outcome.", examples=["Success"])]


@dataclass(frozen=True, slots=True)
class Window:
    """Which slots, in which order, how many rows: parameters that every list takes."""

    first_slot: int | None
    last_slot: int | None
    from_time: dt.datetime | None
    to_time: dt.datetime | None
    order: str
    limit: int
    cursor: str | None


def window(
    first_slot: Annotated[int | None, Query(ge=0, le=LAST_SLOT, description="Only from this slot on.", examples=[0])] = None,
    last_slot: Annotated[int | None, Query(ge=0, le=LAST_SLOT, description="Only up to this slot, itself included.", examples=[299])] = None,
    from_time: Annotated[
        dt.datetime | None,
        Query(description="Only of blocks made at this time or later, RFC 3339; without an offset it is UTC.", examples=["2024-01-01T00:00:00Z"]),
    ] = None,
    to_time: Annotated[
        dt.datetime | None, Query(description="Only of blocks made before this time, RFC 3339.", examples=["2030-01-01T00:00:00Z"])
    ] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By slot, and within it by position: the oldest first, or the newest.")] = "asc",
    limit: Annotated[
        int, Query(ge=1, le=MOST_ROWS, description="Rows of a page. A role may be allowed fewer: the rest comes with `next`.", examples=[100])
    ] = 100,
    cursor: Annotated[
        str | None, Query(description="`next` of the page before, with the same other parameters.", max_length=8_000, examples=[None])
    ] = None,
) -> Window:
    """The window that is asked for."""
    if first_slot is not None and last_slot is not None and first_slot > last_slot:
        raise RequestError(INVALID, "first_slot is after last_slot", remedy="exchange them", details=[("query.first_slot", "it is after last_slot")])
    start, end = _utc(from_time), _utc(to_time)
    if start and end and start >= end:
        raise RequestError(
            INVALID, "from_time is not before to_time", remedy="exchange them", details=[("query.from_time", "it is not before to_time")]
        )
    return Window(first_slot, last_slot, start, end, order, limit, cursor)


Windowed = Annotated[Window, Depends(window)]
Reader = Annotated[Principal, needs(Scope.READ)]
Serving = Annotated[Service, Depends(service_of)]


def _list(path: str, table: Table, summary: str) -> Callable[[Route], Route]:
    """A route that answers with pages of a table."""
    errors = responses(BAD_CURSOR, GONE, NOT_FOUND, *ERRORS)
    return router.get(path, summary=summary, response_model=PageModel[row_model(table)], responses=errors)  # type: ignore[misc]


def _one(path: str, table: Table, summary: str) -> Callable[[Route], Route]:
    """A route that answers with one row of a table."""
    return router.get(path, summary=summary, response_model=OneModel[row_model(table)], responses=responses(NOT_FOUND, *ERRORS))  # type: ignore[misc]


async def _answer(
    request: Request, caller: Principal, window: Window, table: Table, matches: Sequence[Match | None], lookup: tuple[Dimension, str] | None = None
) -> Response:
    """A page of a table."""
    service = service_of(request)
    conditions = tuple(match for match in matches if match is not None)
    question = Question(table, conditions, lookup, window.first_slot, window.last_slot, window.from_time, window.to_time, window.order == "desc")
    if window.from_time or window.to_time:
        question = await _within(request, caller, service, question)
    rows = min(window.limit, caller.limits.page_rows)
    page = await service.page(request, caller, question, rows=rows, cursor=window.cursor)
    recalled = None if window.from_time or window.to_time or window.cursor else partial(_recalled, service, question, rows)
    return _sent(request, page, recalled)


async def _within(request: Request, caller: Principal, service: Service, question: Question) -> Question:
    """The question with the slots of its times, so that only files of those are opened; its cursor knows it by its times."""
    stop = Stop()
    found = await service.ask(request, caller, partial(service.records.slots_of_time, question.from_time, question.to_time, stop=stop), stop)
    return replace(question, within=found or (1, 0))


def _sent(request: Request, page: Page, recalled: Callable[[], Awaitable[Reply | None]] | None = None, *, one: bool = False) -> Response:
    """Rows of a page as a response.

    Args:
        request: that is answered.
        page: its rows.
        recalled: gives the same response as of another moment, where one look at what stands is enough for it.
        one: the row itself, in the place of a list.
    """
    asked = asked_of(request.scope)
    asked.rows = page.rows.num_rows
    if page.content is None:
        return _response(encoded_rows(page.rows, one=one), page.next, page.reading, one=one)
    asked.recall = Recall(Scope.READ, recalled) if recalled else None
    form = "one" if one else "rows"
    rows = page.content.written(form) or page.content.keep_written(form, encoded_rows(page.rows, one=one))
    response = _response(rows, page.next, page.reading, one=one)
    response.headers.update({"etag": tag_of(page.content, page.reading), **{name.decode(): value.decode() for name, value in (HOLDS, VARIES)}})
    return response


def _response(rows: bytes, following: str | None, reading: Reading, *, one: bool) -> Response:
    return Response(encoded_one(rows, reading) if one else encoded_page(rows, following, reading), media_type="application/json")


async def _recalled(service: Service, question: Question, rows: int, *, one: bool = False) -> Reply | None:
    """The response to a question that was answered before, if its rows are the same."""
    look = await service.look(question)
    content = service.answers.peek(look.key(rows)) if service.answers else None
    written = content.written("one" if one else "rows") if content else None
    if content is None or written is None:
        return None
    reading = look.reading()
    body = encoded_one(written, reading) if one else encoded_page(written, look.following(content), reading)
    return Reply(body, content.count, tag_of(content, reading), {})


def _equal(column: str, value: str | None) -> Match | None:
    return None if value is None else Match(f'"{column}" = ?', (value,))


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    if moment is None:
        return None
    try:
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except OverflowError as error:
        raise RequestError(INVALID, "a time is out of range", remedy="give a year from 2 to 9998") from error


@_list("/v1/blocks", BLOCKS, "Blocks by slot or time")
async def blocks(
    request: Request,
    caller: Reader,
    window: Windowed,
    leader: Wanted = None,
) -> Response:
    """Blocks that landed, in the order of their slots."""
    return await _answer(request, caller, window, BLOCKS, [_equal("leader", leader)])


@_one("/v1/blocks/{slot}", BLOCKS, "The block of a slot")
async def block(
    request: Request, caller: Reader, service: Serving, slot: Annotated[int, Path(description="The slot.", ge=0, le=LAST_SLOT, examples=[5])]
) -> Response:
    """The block that landed in a slot. 404 says whether the slot was skipped, is unknown, or is not there yet."""
    question = Question(BLOCKS, first_slot=slot, last_slot=slot, alone=True)
    page = await service.page(request, caller, question, rows=1)
    if page.rows.num_rows:
        return _sent(request, page, partial(_recalled, service, question, 1, one=True), one=True)
    known = await service.page(request, caller, Question(COMPLETENESS, first_slot=slot, last_slot=slot, alone=True), rows=1)
    if known.rows.num_rows:
        row = known.rows.to_pylist()[0]
        raise RequestError(NOT_FOUND, f"slot {slot} has no block: it is {row['state']}, {row['proof']}")
    raise RequestError(
        NOT_FOUND, f"slot {slot} is not there; the newest is {page.reading.up_to_slot}", remedy="GET /v1/tables/solana.blocks says which are"
    )


@_list("/v1/transactions", TRANSACTIONS, "Transactions by slot or time")
async def transactions(
    request: Request,
    caller: Reader,
    window: Windowed,
    status: Status = None,
    account: Wanted = None,
    votes: Annotated[bool, Query(description="Whether votes are among them.", examples=[True])] = True,
) -> Response:
    """Transactions, failed ones too, in the order of slots and of their position."""
    matches = [_equal("status", status), _account(account), None if votes else Match("is_vote is distinct from true", ())]
    return await _answer(request, caller, window, TRANSACTIONS, matches, (ACCOUNT, account) if account else None)


@_one("/v1/transactions/{signature}", TRANSACTIONS, "A transaction by its signature")
async def transaction(
    request: Request,
    caller: Reader,
    service: Serving,
    signature: Annotated[
        str,
        Path(description="Its first signature, base58.", min_length=64, max_length=88, pattern=BASE58, examples=["5" * 88]),
    ],
) -> Response:
    """Looked up in the index of signatures, and in the tail that is not indexed yet."""
    matches = (Match('"signature" = ?', (signature,)),)
    # The newest first: what is asked for has most often just been made, and the tail is walked anyhow.
    question = Question(TRANSACTIONS, matches, (SIGNATURE, signature), descending=True, alone=True)
    page = await service.page(request, caller, question, rows=1)
    if page.rows.num_rows:
        return _sent(request, page, partial(_recalled, service, question, 1, one=True), one=True)
    raise RequestError(
        NOT_FOUND, f"no transaction up to slot {page.reading.up_to_slot} has this signature", remedy="check it, or ask again once it has landed"
    )


@_list("/v1/accounts/{account}/transactions", TRANSACTIONS, "Transactions of an account")
async def account_transactions(request: Request, caller: Reader, window: Windowed, account: Address, status: Status = None) -> Response:
    """Transactions that name the account, as signer or not, loaded addresses included."""
    return await _answer(request, caller, window, TRANSACTIONS, [_account(account), _equal("status", status)], (ACCOUNT, account))


@_list("/v1/accounts/{account}/balances", BALANCE_CHANGES, "Balances of an account over time")
async def account_balances(
    request: Request,
    caller: Reader,
    window: Windowed,
    account: Address,
    mint: Wanted = None,
    asset: Annotated[Literal["sol", "tokens"] | None, Query(description="Only SOL, or only tokens.", examples=["sol"])] = None,
) -> Response:
    """Each change of a balance of the account, with the balance before and after: `order=desc&limit=1` is the newest balance.

    For SOL give the wallet; for a token its token account, which `owner` names the wallet of.
    """
    matches = [_equal("account", account), _equal("mint", mint)]
    if asset:
        matches.append(Match("mint is null" if asset == "sol" else "mint is not null", ()))
    return await _answer(request, caller, window, BALANCE_CHANGES, matches, (HOLDER, account))


@_list("/v1/programs/{program}/instructions", INSTRUCTIONS, "Instructions of a program")
async def program_instructions(
    request: Request,
    caller: Reader,
    window: Windowed,
    program: Address,
    instruction_type: Annotated[str | None, Query(description="Only of this type.", max_length=100, examples=["transferChecked"])] = None,
) -> Response:
    """Instructions that call the program, outer and inner, decoded where the program is known."""
    matches = [_equal("program_id", program), _equal("instruction_type", instruction_type)]
    return await _answer(request, caller, window, INSTRUCTIONS, matches, (PROGRAM, program))


@_list("/v1/transactions/{signature}/instructions", INSTRUCTIONS, "Instructions of a transaction")
async def transaction_instructions(
    request: Request,
    caller: Reader,
    service: Serving,
    window: Windowed,
    signature: Annotated[str, Path(description="Its first signature, base58.", min_length=64, max_length=88, pattern=BASE58, examples=["5" * 88])],
) -> Response:
    """In the order of execution."""
    found = Question(TRANSACTIONS, (Match('"signature" = ?', (signature,)),), (SIGNATURE, signature), descending=True, alone=True)
    page = await service.page(request, caller, found, rows=1)
    if not page.rows.num_rows:
        raise RequestError(
            NOT_FOUND, f"no transaction up to slot {page.reading.up_to_slot} has this signature", remedy="check it, or ask again later"
        )
    slot = page.rows["block_slot"][0].as_py()
    window = replace(
        window, first_slot=max(slot, window.first_slot or 0), last_slot=min(slot, LAST_SLOT if window.last_slot is None else window.last_slot)
    )
    return await _answer(request, caller, window, INSTRUCTIONS, [_equal("tx_signature", signature)])


@_list("/v1/mints/{mint}/transfers", TOKEN_TRANSFERS, "Transfers of a token")
async def mint_transfers(request: Request, caller: Reader, window: Windowed, mint: Address, status: Status = None) -> Response:
    """Movements of the mint's tokens, mints and burns included. `status=Success` leaves out those that moved nothing."""
    return await _answer(request, caller, window, TOKEN_TRANSFERS, [_equal("mint", mint), _equal("status", status)], (MINT, mint))


@_list("/v1/token-transfers", TOKEN_TRANSFERS, "Transfers of SOL and tokens")
async def token_transfers(
    request: Request,
    caller: Reader,
    window: Windowed,
    account: Wanted = None,
    source: Wanted = None,
    destination: Wanted = None,
    mint: Wanted = None,
    status: Status = None,
) -> Response:
    """Movements of SOL and tokens by an instruction. `account` is source, destination or authority."""
    party = None if account is None else Match("(source = ? or destination = ? or authority = ?)", (account, account, account))
    matches = [party, _equal("source", source), _equal("destination", destination), _equal("mint", mint), _equal("status", status)]
    somebody = account or source or destination
    lookup = (PARTY, somebody) if somebody else (MINT, mint) if mint else None
    return await _answer(request, caller, window, TOKEN_TRANSFERS, matches, lookup)


@_list("/v1/rewards", BLOCK_REWARDS, "Rewards that blocks paid")
async def rewards(
    request: Request,
    caller: Reader,
    window: Windowed,
    pubkey: Wanted = None,
    reward_type: Annotated[Literal["Fee", "Rent", "Voting", "Staking"] | None, Query(description="Only of this type.", examples=["Fee"])] = None,
) -> Response:
    """Fees, rent, voting and staking rewards, as blocks list them."""
    return await _answer(request, caller, window, BLOCK_REWARDS, [_equal("pubkey", pubkey), _equal("reward_type", reward_type)])


def _account(account: str | None) -> Match | None:
    if account is None:
        return None
    return Match("list_contains(list_transform(accounts, lambda each: each.pubkey), ?)", (account,))
