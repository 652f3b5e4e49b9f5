"""Questions about what moved: transfers, volumes, what was burned and minted, swaps, balances.

Belongs here: amounts of SOL and tokens. Does not belong here: fees (`blyan.query.transaction_intents`), rewards (`blyan.query.block_intents`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from blyan.query import query_ast as ast
from blyan.query.frame import Frame
from blyan.query.meaning import AGGREGATE_TAGS, AGGREGATES, LIST_ROWS, OFTEN, ROW, Meaning, base_units, some
from blyan.query.query_ast import Balance, Column, Compare, Fact, Filter, Query
from blyan.query.reading import Asset, NotUnderstoodError, is_native
from blyan.query.transaction_intents import TIMES
from blyan.solana.normalise import NATIVE_MINT

_MOVE_TAGS = "TRANSFER VOLUME BURN MINTED SEND RECEIVE ASSET SOL MINTS SUCCESS"
_MOVE_PLAYS = ("sender", "receiver", "from", "to", "bare", "by", "of")


@dataclass(frozen=True)
class _Moves:
    filters: tuple[Filter, ...]
    about: str
    asset: Asset | None


def _moves(frame: Frame) -> _Moves | None:
    """The movements that are meant; those of failed transactions moved nothing."""
    if not frame.plays(*_MOVE_PLAYS) or frame.programs or frame.kind is not None or frame.has("FAIL"):
        return None
    supply = [tag for tag in ("BURN", "MINTED") if frame.has(tag)]
    if len(supply) > 1 or (supply and (frame.accounts or frame.has("SEND", "RECEIVE"))):
        return None
    asset = frame.asset
    filters: list[Filter] = [ast.SUCCEEDED]
    if supply:
        filters.append(ast.BURNED if supply == ["BURN"] else ast.MINTED)
        noun = "burned" if supply == ["BURN"] else "minted"
        if asset is not None and asset.mint is None:
            return None
    elif asset is not None and asset.mint is None:
        filters.append(ast.OF_SOL)
        noun = "SOL transfers"
    elif asset is not None or frame.has("MINTS"):
        filters.append(ast.OF_TOKENS)
        noun = "token transfers"
    else:
        return None
    if asset is not None and asset.mint is not None:
        filters.append(Compare("t.mint", "=", asset.mint))
        noun = f"{asset.symbol} {noun}"
    words: list[str] = []
    if not _move_accounts(frame, filters, words) or not _move_threshold(frame, asset, filters, words):
        return None
    return _Moves(tuple(filters), " ".join([noun, *words]), asset)


def _move_accounts(frame: Frame, filters: list[Filter], words: list[str]) -> bool:
    """Who sent and who received. An account without such a word is one or the other only where a verb says which."""
    if frame.accounts and frame.asset is not None and frame.asset.mint is not None:
        raise NotUnderstoodError(
            "Tokens are sent between token accounts, and the account that is named may be one or own some.",
            "ambiguous",
            frame.accounts.values(),
            ("… SOL …",),
        )
    for part, account in frame.accounts.items():
        column = {"sender": ast.SENDER, "from": ast.SENDER, "receiver": ast.RECEIVER, "to": ast.RECEIVER}.get(part)
        if column is None:
            if frame.has("SEND") == frame.has("RECEIVE"):
                return False
            column = ast.SENDER if frame.has("SEND") else ast.RECEIVER
        filters.append(Compare(column.sql, "=", account))
        words.append(f"{'from' if column is ast.SENDER else 'to'} {account}")
    columns = [each.column for each in filters if isinstance(each, Compare)]
    # `received from X`: who received is not said, and that is right; `sent by X` with another sender is not.
    return len(columns) == len(set(columns))


def _move_threshold(frame: Frame, asset: Asset | None, filters: list[Filter], words: list[str]) -> bool:
    threshold = frame.reading.threshold
    if threshold is None:
        return True
    if threshold.unit == "cu" or asset is None or asset.decimals is None or (threshold.asset is not None and threshold.asset != asset):
        return False
    if threshold.unit == "lamports" and asset.mint is not None:
        return False
    units = threshold.value if threshold.unit == "lamports" else threshold.value * 10**asset.decimals
    filters.append(Compare("t.value", threshold.operator, base_units(units)))
    words.append(f"of {threshold.operator} {threshold.value:f} {'lamports' if threshold.unit == 'lamports' else asset.symbol}")
    return True


def _value(asset: Asset, sql: str, name: str) -> tuple[Column, ...]:
    """An amount of an asset: in whole units where its decimals are known, else in base units with the decimals beside."""
    if asset.decimals is not None:
        unit: ast.Unit = "sol" if asset.mint is None else "token"
        return (Column(name, ast.whole(sql, asset.decimals), unit, asset.symbol),)
    decimals = "t.decimals" if sql == "t.value" else "max(t.decimals)"
    return (Column(name, f"cast({sql} as decimal(38, 0))", "base_units", asset.symbol), Column("decimals", decimals, "decimals"))


_TRANSFER_NOUNS = ("transfer", "transfers", "payment", "payments", "movements")
_MOVED = "only what successful transactions moved"


def transfers_counted(frame: Frame) -> Meaning | None:
    """How many transfers."""
    if not frame.fits("TRANSFER", f"HOWMANY TOTAL {_MOVE_TAGS}") or not (frame.has("HOWMANY") or frame.tags["TRANSFER"].text.lower() == "transfers"):
        return None
    if frame.has("VOLUME", "BURN", "MINTED") or (frame.has("TOTAL") and not frame.has("HOWMANY")):
        return None
    if frame.text("TRANSFER") not in _TRANSFER_NOUNS:
        # `How many tokens moved` can ask for an amount, and for how many tokens there are.
        return None
    moves = _moves(frame)
    if moves is None:
        return None
    query = Query(ast.TRANSFERS, (ast.counted("transfers"),), filters=moves.filters, window=frame.reading.window)
    return Meaning("count", query, moves.about, (_MOVED,))


def volume(frame: Frame) -> Meaning | None:
    """How much of an asset moved, was burned or was minted."""
    if not frame.fits("", f"HOWMUCH HOWMANY WHICH SIZE {AGGREGATE_TAGS} {_MOVE_TAGS}") or not frame.has(
        "VOLUME", "TRANSFER", "SEND", "RECEIVE", "BURN", "MINTED"
    ):
        return None
    shapes = [aggregate for tag, aggregate in AGGREGATES.items() if frame.has(tag) and tag != "TOTAL"]
    if not shapes and not frame.has("VOLUME", "HOWMUCH", "TOTAL") and not (frame.has("BURN", "MINTED") and frame.has("HOWMANY", "MINTS")):
        return None
    if frame.has("HOWMANY") and not (frame.has("BURN", "MINTED") and frame.has("MINTS")):
        return None
    # `The largest transfer` asks for the transfer, its largest size for the amount. What is said of one amount is not said of their sum.
    if (frame.has("BIG", "SMALL") and not frame.has("SIZE")) or (frame.has("SIZE") and not shapes and not frame.has("TOTAL")):
        return None
    if len(shapes) > 1 or (shapes and (frame.has("TOTAL", "VOLUME") or not frame.has("TRANSFER"))):
        return None
    if frame.asset is None:
        raise NotUnderstoodError("The volume of what? Name SOL, a token or a mint.", "ambiguous", (), ("… volume of SOL", "… volume of USDC"))
    moves = _moves(frame)
    if moves is None or moves.asset is None:
        return None
    shape = shapes[0] if shapes else "total"
    columns = _value(moves.asset, ast.aggregated(shape, "t.value"), f"{shape}_amount" if shapes else "amount")
    query = Query(ast.TRANSFERS, columns, filters=moves.filters, window=frame.reading.window)
    return Meaning("volume", query, f"{shape} of {moves.about}", (_MOVED,))


def supply(frame: Frame) -> Meaning | None:
    """How often was burned or minted, of one mint or by mint or slot."""
    if not frame.fits("", "HOWMANY TOTAL BURN MINTED ASSET MINTS SLOT SUCCESS PER BY WHICH LIST TOP MOST") or frame.has("BURN") == frame.has(
        "MINTED"
    ):
        return None
    word = frame.text("BURN") or frame.text("MINTED")
    is_event = word == "burns" or word.endswith(("operations", "events"))
    if not (is_event or frame.text("MOST") in OFTEN) or frame.accounts or frame.programs or frame.reading.threshold is not None:
        return None
    if frame.asset is not None and (frame.asset.mint is None or frame.has("MINTS")):
        return None
    filters: list[Filter] = [ast.SUCCEEDED, ast.BURNED if frame.has("BURN") else ast.MINTED]
    if frame.asset is not None:
        filters.append(Compare("t.mint", "=", frame.asset.mint or ""))
    noun = "burns" if frame.has("BURN") else "mints"
    query = Query(ast.TRANSFERS, (ast.counted(noun),), filters=tuple(filters), window=frame.reading.window)
    about = f"{noun} of {frame.asset.symbol}" if frame.asset is not None else noun
    named = [tag for tag in ("MINTS", "SLOT") if frame.has(tag)]
    ranked = frame.has("TOP", "MOST")
    if not named:
        return Meaning("count", query, about, (_MOVED,)) if frame.has("HOWMANY", "TOTAL") and not ranked and not frame.has("PER", "BY") else None
    if len(named) > 1 or not (ranked or frame.has("PER", "BY")):
        return None
    by = _MOVE_DIMENSIONS[named[0]]
    limit = frame.reading.limit or ((LIST_ROWS if frame.tags[named[0]].is_plural else 1) if ranked else None)
    order = (f"{noun} desc", by.name) if ranked else ()
    told = f"{by.name.replace('_', ' ')} by number of {about}"
    return Meaning("ranking" if ranked else "grouped", replace(query, by=(by,), order=order, limit=limit), told, (_MOVED,), ordered=ranked)


def distinct_moved(frame: Frame) -> Meaning | None:
    """How many different tokens, senders or receivers."""
    if not frame.fits("", "DISTINCT HOWMANY MINTS SENDER RECEIVER TRANSFER ASSET SOL SUCCESS") or frame.accounts or frame.programs:
        return None
    named = [tag for tag in ("SENDER", "RECEIVER", "MINTS") if frame.has(tag)]
    if named[:1] == ["MINTS"] and not (frame.has("DISTINCT") and frame.has("TRANSFER") and frame.asset is None):
        # `How many tokens were moved` can ask for an amount.
        return None
    if not named or not frame.has("DISTINCT", "HOWMANY") or len(named) > 1 + (frame.has("MINTS") and named[0] != "MINTS"):
        return None
    moves = _moves(frame)
    if moves is None:
        return None
    by = _MOVE_DIMENSIONS[named[0]]
    name = {"MINTS": "mints", "SENDER": "senders", "RECEIVER": "receivers"}[named[0]]
    query = Query(ast.TRANSFERS, (Column(name, f"count(distinct {by.sql})"),), filters=moves.filters, window=frame.reading.window)
    return Meaning("distinct", query, f"different {name} of {moves.about}", (_MOVED,))


def largest_transfers(frame: Frame) -> Meaning | None:
    """The largest or smallest transfers, and any list of them."""
    if not frame.fits("TRANSFER", f"BIG SMALL TOP WHICH LIST FIRST LAST ANY {_MOVE_TAGS}") or frame.has("VOLUME", "BURN", "MINTED", "ANY"):
        return None
    ranks = [tag for tag in ("BIG", "SMALL", "FIRST", "LAST") if frame.has(tag)]
    if len(ranks) > 1 or (frame.has("TOP") and ranks in (["FIRST"], ["LAST"])):
        return None
    if not ranks and not frame.has("TOP", "LIST", "WHICH"):
        return None
    moves = _moves(frame)
    if moves is None or (moves.asset is None and (frame.has("TOP") or ranks in (["BIG"], ["SMALL"]))):
        return None
    rank = ranks[0] if ranks else "BIG" if frame.has("TOP") else "FIRST"
    place = ("t.block_slot", "t.tx_index", "t.ordinal")
    order = {"BIG": ("t.value desc", *place), "SMALL": ("t.value", *place), "FIRST": place, "LAST": tuple(f"{column} desc" for column in place)}[rank]
    plural = frame.tags["TRANSFER"].is_plural
    limit = frame.reading.limit or (LIST_ROWS if plural else 1)
    columns = (Column("block_slot", "t.block_slot", "slot"), Column("signature", "t.tx_signature", "signature"), ast.SENDER, ast.RECEIVER)
    amounts = (
        _value(moves.asset, "t.value", "amount")
        if moves.asset
        else (Column("amount", "t.value", "base_units"), Column("decimals", "t.decimals", "decimals"), ast.MINT)
    )
    query = Query(ast.TRANSFERS, (*columns, *amounts), filters=moves.filters, window=frame.reading.window, order=order, limit=limit, rows=True)
    words = {"BIG": "largest", "SMALL": "smallest", "FIRST": "first", "LAST": "last"}
    return Meaning("transfers", query, some(words[rank], limit, moves.about), (_MOVED,), ordered=True)


_MOVE_DIMENSIONS = {"MINTS": ast.MINT, "SENDER": ast.SENDER, "RECEIVER": ast.RECEIVER, "SLOT": ast.SLOT}


def transfers_ranked(frame: Frame) -> Meaning | None:
    """The mints, senders, receivers or slots with the most transfers, or the most of an asset; or a figure for each."""
    may = "TOP MOST BIG TRANSFER HOWMANY HOWMUCH TOTAL WHICH LIST BY PER VOLUME SOL ASSET MINTS SENDER RECEIVER SLOT HAVE TIME RECEIVE SEND"
    if not frame.fits("", may) or not frame.has("TOP", "MOST", "BIG", "PER", "BY") or not frame.has("TRANSFER", "VOLUME", "SENDER", "RECEIVER"):
        return None
    named = [tag for tag in _MOVE_DIMENSIONS if frame.has(tag)]
    if frame.asset is not None and frame.asset.mint is not None and len(named) == 2:
        named = [tag for tag in named if tag != "MINTS"]
    is_time = frame.has("TIME")
    if len(named) + is_time != 1 or frame.has("RECEIVE", "SEND"):
        return None
    by = TIMES.get(frame.tags["TIME"].value) if is_time else _MOVE_DIMENSIONS[named[0]]
    if by is None or (frame.asset is not None and by is ast.MINT) or frame.accounts:
        return None
    amounts = frame.has("VOLUME", "HOWMUCH") or (frame.has("SENDER", "RECEIVER") and frame.asset is not None and not frame.has("TRANSFER", "HOWMANY"))
    if amounts and frame.asset is None:
        raise NotUnderstoodError(
            "The volume of what? Amounts of different tokens are not added up.", "ambiguous", (), ("… volume of SOL", "… number of transfers")
        )
    if frame.asset is None:
        moves: _Moves | None = _Moves((ast.SUCCEEDED, ast.OF_TOKENS, ast.HAS_MINT), "token transfers", None) if by is ast.MINT else None
    else:
        moves = _moves(frame)
    if moves is None:
        return None
    columns = _value(moves.asset, "sum(t.value)", "amount") if amounts and moves.asset else (ast.counted("transfers"),)
    ranked = frame.has("TOP", "MOST", "BIG")
    noun = frame.tags[named[0]] if named else None
    limit = frame.reading.limit or ((LIST_ROWS if noun and noun.is_plural else 1) if ranked else None)
    order = (f"{columns[0].name} desc nulls last", by.name) if ranked else ()
    query = Query(ast.TRANSFERS, columns, by=(by,), filters=moves.filters, window=frame.reading.window, order=order, limit=limit)
    what = f"{'amount' if amounts else 'number'} of {moves.about}"
    return Meaning("ranking" if ranked else "grouped", query, f"{by.name.replace('_', ' ')} by {what}", (_MOVED,), ordered=ranked)


def balance(frame: Frame) -> Meaning | None:
    """What an account holds."""
    if not frame.fits("", "HOWMUCH HOWMANY WHICH BALANCE HAVE NOW SOL ASSET MINTS LAST") or not frame.has("BALANCE", "HAVE"):
        return None
    if len(frame.accounts) != 1 or not frame.plays("of", "bare", "by") or frame.reading.window.has_time or frame.reading.slots:
        return None
    if not frame.has("BALANCE") and frame.asset is None:
        return None
    (account,) = frame.accounts.values()
    reading = frame.reading
    window = reading.window
    if reading.said_window and window.first != window.last:
        return None
    window = replace(window, first=reading.tip.first_slot if reading.tip else None)
    asset = frame.asset or Asset(None, "SOL", 9)
    if asset.decimals is not None:
        column = Column("balance", ast.whole("sum(held)", asset.decimals), "sol" if asset.mint is None else "token", asset.symbol)
    else:
        column = Column("balance", "cast(sum(held) as decimal(38, 0))", "base_units", asset.symbol)
    columns = (column,) if asset.decimals is not None else (column, Column("decimals", "max(decimals)", "decimals"))
    owner = Compare("t.account" if asset.mint is None else "t.owner", "=", account)
    of_mint: Filter = Fact("t.mint is null") if asset.mint is None else Compare("t.mint", "=", asset.mint)
    slot, signature = Column("slot", "t.block_slot", "slot"), Column("signature", "t.tx_signature", "signature")
    proof = Query(
        ast.CHANGES, (slot, signature), filters=(owner, of_mint), window=window, order=("t.block_slot desc", "t.tx_index desc"), limit=1, rows=True
    )
    note = f"as of the last change up to slot {window.last}" if window.last is not None else "as of the last change that is here"
    query = Balance(account, column, asset.mint, window)
    return Meaning("balance", query, f"{asset.symbol} balance of {account}", (note,), proof=proof, table=ast.CHANGES.table, columns=columns)


def pairs(frame: Frame) -> Meaning | None:
    """Swaps of one asset for another."""
    if frame.pair is None or not frame.fits("KIND PAIR", "HOWMANY TXN ANY LIST WHICH SUCCESS TOTAL") or frame.accounts or frame.programs:
        return None
    sold, bought = (_as_swapped(each) for each in frame.pair)
    filters: tuple[Filter, ...] = (Compare("d.sold", "=", sold), Compare("d.bought", "=", bought))
    about = f"successful swaps of {frame.registry.names.get(sold, sold)} for {frame.registry.names.get(bought, bought)}"
    if frame.has("LIST", "WHICH"):
        query = Query(ast.LABELLED, ROW, filters=filters, window=frame.reading.window, rows=True, limit=frame.reading.limit or LIST_ROWS)
        return Meaning("list", query, about)
    column = ast.EXISTS if frame.has("ANY") else ast.counted("swaps")
    return Meaning("exists" if frame.has("ANY") else "count", Query(ast.LABELLED, (column,), filters=filters, window=frame.reading.window), about)


def _as_swapped(asset: Asset | None) -> str:
    """As `documents.sold` has it."""
    return "SOL" if asset is None or is_native(asset) or asset.mint == NATIVE_MINT else asset.mint or "SOL"
