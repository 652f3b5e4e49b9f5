"""What the parts of a question mean together: intents, of which each says which parts it can use.

Belongs here: from the parts of a question to a query, and what is taken for granted on the way. Does not belong here: the parts
(`blyan.query.reading`), SQL (`blyan.query.query_ast`), sentences (`blyan.query.saying`).

An intent is used only where the question has all that it needs and nothing besides what it may have. So no word is passed over. The intents
stand in one order, the most special first; a question that none of them fits is not answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from blyan.corpus.registry import Registry
from blyan.query import block_intents as blocks
from blyan.query import instruction_intents as instructions
from blyan.query import movement_intents as movements
from blyan.query import query_ast as ast
from blyan.query import transaction_intents as figures
from blyan.query.frame import Frame, frame_of
from blyan.query.meaning import Meaning, proof_of
from blyan.query.query_ast import Balance, Column, Compare, Fact, Query, to_sql
from blyan.query.reading import NotUnderstoodError, Reading
from blyan.query.transaction_intents import FILTERS, query_of, transactions
from blyan.solana.normalise import NATIVE_MINT


def meaning_of(reading: Reading, registry: Registry) -> Meaning:
    """What the parts of a question ask.

    Raises:
        NotUnderstoodError: no intent has a use for all of them, or they can be read in two ways.
    """
    frame = frame_of(reading, registry)
    for intent in _INTENTS:
        meaning = intent(frame)
        if meaning is not None and _is_whole(meaning, frame) and (not reading.is_closed or meaning.intent in _CLOSED):
            return _complete(meaning, frame)
    words = list(dict.fromkeys(each.text for each in frame.reading.line))
    raise NotUnderstoodError(f"The words are known, but not what they ask together: {', '.join(words)}.", "not_understood", words)


def _is_whole(meaning: Meaning, frame: Frame) -> bool:
    """Whether every name, number and amount of the question is among the parameters: an intent that leaves one out has not understood it."""
    _, params = to_sql(meaning.query)
    named: list[object] = [
        frame.signature,
        frame.kind if frame.pair is None else None,
        frame.error,
        frame.reading.limit,
        frame.tags["CALLNAME"].value if "CALLNAME" in frame.tags else None,
        *frame.programs,
        *frame.accounts.values(),
        *frame.reading.slots,
    ]
    named += [asset.mint for asset in (frame.asset, *(frame.pair or ())) if asset is not None and asset.mint != NATIVE_MINT]
    window = frame.reading.window
    if frame.reading.said_window and not (isinstance(meaning.query, Balance) and window.first == window.last):
        named += [window.first, window.last]
    if frame.reading.threshold is not None:
        operator = frame.reading.threshold.operator
        filters = meaning.query.filters if isinstance(meaning.query, Query) else ()
        if not any(isinstance(each, Compare) and each.operator == operator and isinstance(each.value, int) for each in filters):
            return False
    return all(each is None or each in params for each in named)


def _complete(meaning: Meaning, frame: Frame) -> Meaning:
    """With what is true of every meaning: slots and times are said, the source can tell of times, rows are proved."""
    query, window = meaning.query, frame.reading.window
    source = query.source if isinstance(query, Query) else ast.CHANGES
    if window.has_time and not source.time:
        raise NotUnderstoodError("Slots that were skipped have no time: name slots.", "not_understood")
    notes = meaning.notes
    if frame.signature is None:
        notes = tuple(filter(None, (_window_note(frame), _outside(frame), *notes)))
    parts = {"subject": meaning.about, "window": _window_note(frame), "said": frame.reading.said_window}
    proof = meaning.proof
    if frame.signature is not None:
        proof = proof_of(Query(ast.TRANSACTIONS, (), filters=(Compare("t.signature", "=", frame.signature),)))
    elif proof is None and isinstance(query, Query) and not (query.rows and any(column.name in ("block_slot", "slot") for column in query.columns)):
        proof = proof_of(query)
    table = meaning.table or source.table
    return replace(
        meaning, notes=notes, slots={name: value for name, value in parts.items() if value} | dict(meaning.slots), proof=proof, table=table
    )


def _window_note(frame: Frame) -> str:
    window, slots = frame.reading.window, frame.reading.slots
    if slots:
        return f"slots {slots[0]} and {slots[1]}"
    said = []
    if window.since is not None:
        said.append(f"from {window.since:%Y-%m-%d %H:%M:%S}")
    if window.after is not None:
        said.append(f"after {window.after:%Y-%m-%d %H:%M:%S}")
    if window.until is not None:
        said.append(f"before {window.until:%Y-%m-%d %H:%M:%S}")
    if said:
        return f"{' and '.join(said)} UTC"
    if window.first is None or window.last is None:
        bounds = [f"from slot {window.first}" if window.first is not None else "", f"up to slot {window.last}" if window.last is not None else ""]
        return " ".join(filter(None, bounds)) or "all slots that are here"
    text = f"slot {window.first}" if window.first == window.last else f"slots {window.first} to {window.last}"
    return text if frame.reading.said_window else f"{text}, all that is here"


def _outside(frame: Frame) -> str:
    """Where slots are named that cannot be here."""
    window, tip = frame.reading.window, frame.reading.tip
    if tip is None or window.first is None or window.last is None or tip.first_slot <= window.first <= window.last <= tip.last_slot:
        return ""
    return f"what is here begins with slot {tip.first_slot} and ends with slot {tip.last_slot}"


_CLOSED = frozenset(("exists", "transaction", "block"))
"""Intents whose answer can be yes or no, or says as much."""


# Comparisons

_SIDES = "COMPARE MORE MOST WHICH HAVE AND OR BY HOWMANY"


def _compared(frame: Frame) -> Meaning | None:
    """Two programs or two slots by a number of transactions."""
    tags = {tag: each for tag, each in frame.tags.items() if tag not in ("COMPARE", "MORE", "AND", "OR", "BY", "HAVE", "MOST")}
    rest = replace(frame, tags=tags)
    if not frame.has("COMPARE", "MORE", "MOST") or frame.accounts or not rest.fits("", f"HOWMANY WHICH SLOT {FILTERS}"):
        return None
    if len(frame.programs) == 2 and not frame.reading.slots and not frame.has("SLOT"):
        chosen = transactions(replace(rest, programs=()))
        if chosen is None or chosen.source is not ast.TRANSACTIONS:
            return None
        both = ast.Among("i.program_id", frame.programs)
        query = query_of(frame, chosen, ast.COUNT, source=ast.CALLED, extra=(both,), by=(ast.PROGRAM,), order=("transactions desc", "program_id"))
        return Meaning("compared", query, f"{chosen.about} of each", (*chosen.notes, "one that is not listed has none"), ordered=True)
    if len(frame.reading.slots) == 2 and not frame.programs and frame.has("TXN", "VOTE", "FAIL", "SUCCESS", "KIND"):
        chosen = transactions(rest)
        if chosen is None:
            return None
        both = ast.Among("t.block_slot", frame.reading.slots)
        query = query_of(frame, chosen, ast.COUNT, extra=(both,), by=(ast.SLOT,), order=("transactions desc", "block_slot"))
        return Meaning("compared", query, f"{chosen.about} of each", (*chosen.notes, "one that is not listed has none"), ordered=True)
    return None


# One transaction

_SIGNED_BY = Column("signer", "u.a.pubkey", "account")
_FACTS: tuple[tuple[str, str, str, tuple[Column, ...]], ...] = (
    ("error", "WHY", "FAIL TXN ERRORS", (ast.STATUS, Column("err", "t.err", "text"))),
    ("error", "ERRORS", "WHICH FAIL TXN STATUS", (ast.STATUS, Column("err", "t.err", "text"))),
    ("priority fee", "PRIORITY", "HOWMUCH WHICH PAY TXN TOTAL", (Column("priority_fee", ast.whole("t.priority_fee_lamports", 9), "sol", "SOL"),)),
    ("fee in lamports", "FEE LAMPORT", "HOWMUCH HOWMANY WHICH PAY TXN TOTAL", (Column("fee_lamports", "t.fee", "lamports", "lamports"),)),
    ("fee", "FEE", "HOWMUCH WHICH PAY TXN TOTAL SOL", (Column("fee", ast.whole("t.fee", 9), "sol", "SOL"),)),
    ("status", "STATUS", "WHICH TXN", (ast.STATUS,)),
    ("status", "SUCCESS", "TXN", (ast.STATUS,)),
    ("status", "FAIL", "TXN", (ast.STATUS,)),
    ("status", "SUCCESS OR FAIL", "TXN", (ast.STATUS,)),
    ("slot", "SLOT", "WHICH LAND TXN", (Column("block_slot", "t.block_slot", "slot"),)),
    ("time", "WHEN", "TXN LAND", (Column("block_timestamp", "t.block_timestamp", "time"),)),
    ("compute units", "CU", "HOWMUCH HOWMANY WHICH USE PAY TXN TOTAL", (Column("compute_units", "t.compute_units_consumed", "number"),)),
    ("fee payer", "PAYER", "WHICH TXN", (ast.PAYER,)),
    ("place", "DETAILS", "TXN", ()),
)
_DETAILS = (
    Column("block_slot", "t.block_slot", "slot"), Column("block_timestamp", "t.block_timestamp", "time"), ast.STATUS, Column("err", "t.err", "text"),
    Column("fee", ast.whole("t.fee", 9), "sol", "SOL"), ast.PAYER, Column("compute_units", "t.compute_units_consumed", "number"),
)  # fmt: skip


def _signature(frame: Frame) -> Meaning | None:
    """A fact of one transaction."""
    if frame.signature is None:
        return None
    if frame.accounts or frame.programs or frame.asset is not None or frame.reading.threshold is not None or frame.reading.limit is not None:
        return None
    one = (Compare("t.signature", "=", frame.signature),)
    window = frame.reading.window if frame.reading.said_window else ast.Window()

    def made(columns: tuple[Column, ...], said: str) -> Meaning:
        query = Query(ast.TRANSACTIONS, columns, filters=one, window=window, rows=True)
        return Meaning("transaction", query, f"{said} of {frame.signature}", signature=frame.signature)

    if frame.fits("WHICH PAY", "FEE TXN") and frame.text("WHICH") == "who":
        return made((ast.PAYER,), "fee payer")
    if frame.fits("", "TXN DETAILS LIST"):
        return made(_DETAILS, "details")
    for said, need, may, columns in _FACTS:
        if columns and frame.fits(need, may):
            return made(columns, said)
    by_calls = frame.fits("PROGRAM", "WHICH LIST USE TXN") or frame.fits("PROGRAMS_OF", "WHICH LIST USE TXN")
    if by_calls:
        of = (Compare("t.tx_signature", "=", frame.signature), Fact("t.program_id is not null"))
        by = Column("program_id", "t.program_id", "program")
        query = Query(ast.INSTRUCTIONS, (), by=(by,), filters=of, window=window, order=("min(t.ordinal)", "program_id"))
        return Meaning(
            "transaction", query, f"programs of {frame.signature}, in the order of their first call", signature=frame.signature, ordered=True
        )
    if frame.fits("SIGNER", "WHICH LIST TXN"):
        query = Query(ast.SIGNED, (_SIGNED_BY,), filters=(*one, ast.SIGNS), window=window, rows=True)
        return Meaning("transaction", query, f"signers of {frame.signature}", signature=frame.signature)
    if frame.fits("MEMO", "WHICH LIST TXN HAVE"):
        of = (Compare("t.tx_signature", "=", frame.signature), ast.HAS_MEMO)
        query = Query(ast.INSTRUCTIONS, (Column("memo", "t.parsed", "text"),), filters=of, window=window, order=("t.ordinal",), rows=True)
        return Meaning("transaction", query, f"memos of {frame.signature}, as whoever sent it wrote them", signature=frame.signature)
    return None


_INTENTS: tuple[Callable[[Frame], Meaning | None], ...] = (
    _signature, blocks.block, blocks.end, blocks.skipped, blocks.blocks, blocks.leaders, blocks.reward_figures, blocks.rewards, movements.balance, movements.pairs,
    _compared, movements.transfers_ranked, movements.distinct_moved, movements.transfers_counted, movements.supply, movements.volume, movements.largest_transfers,
    instructions.instructions, instructions.memos, figures.share, figures.distinct, figures.extreme, figures.ranking, figures.grouped, figures.aggregate,
    figures.first_last, figures.exists, figures.listed, figures.count,
)  # fmt: skip
"""The most special first."""
