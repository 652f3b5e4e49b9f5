"""Questions about instructions: calls and memos.

Belongs here: numbers of instructions. Does not belong here: transactions that call a program (`blyan.query.transaction_intents`).
"""

from __future__ import annotations

from dataclasses import replace

from blyan.query import query_ast as ast
from blyan.query.frame import Frame
from blyan.query.meaning import LIST_ROWS, OFTEN, Meaning
from blyan.query.query_ast import Column, Compare, Filter, Query

_CALLS = {"PROGRAM": (ast.CALLED_PROGRAM, ast.NAMES_PROGRAM), "ITYPES": (ast.INSTRUCTION_TYPE, ast.NAMES_TYPE), "SLOT": (ast.SLOT, None)}


def _counts_calls(frame: Frame) -> bool:
    """Whether calls are counted, and not transactions: `called most often`, `how many times was X called`."""
    verb = frame.text("USE").split()[:1] in (["called"], ["calls"], ["invoked"], ["call"])
    often = frame.text("MOST") in OFTEN or frame.text("HOWMANY") in ("how many times", "how often")
    ranked = frame.text("MOST") == "most called" or frame.text("LEAST") == "least called"
    return frame.has("INSTRUCTION", "ITYPES", "CALLNAME") or (verb and often) or ranked


def instructions(frame: Frame) -> Meaning | None:
    """How many instructions: of all, of a program, by program or type, in the mean transaction."""
    may = "INSTRUCTION INNER OUTER HOWMANY TOTAL MEAN OFEACH PER BY SPREAD WHICH LIST TOP MOST LEAST DISTINCT PROGRAM ITYPES SLOT CALLED CALLNAME USE TXN"
    if not frame.fits("", may) or frame.accounts or frame.reading.threshold is not None or not _counts_calls(frame):
        return None
    if frame.has("TXN") or len(frame.programs) > 1 or (frame.has("INNER") and frame.has("OUTER")) or frame.has("MEAN") != frame.has("OFEACH"):
        return None
    filters: list[Filter] = [Compare("t.program_id", "=", program) for program in frame.programs]
    words = [f"of {frame.named(program)}" for program in frame.programs]
    if frame.has("CALLNAME"):
        filters.append(Compare("t.instruction_type", "=", frame.tags["CALLNAME"].value))
        words.append(f"of type {frame.tags['CALLNAME'].value}")
    if frame.has("INNER", "OUTER"):
        filters.append(ast.IS_INNER if frame.has("INNER") else ast.IS_OUTER)
    noun = f"{'inner ' if frame.has('INNER') else 'outer ' if frame.has('OUTER') else ''}instructions"
    about, notes = " ".join([noun, *words]), ("those of votes and of failed transactions are counted",)
    query = Query(ast.INSTRUCTIONS, (ast.counted("instructions"),), filters=tuple(filters), window=frame.reading.window)
    named = [tag for tag in _CALLS if frame.has(tag)]
    if frame.has("MEAN"):
        mean = replace(query, columns=(ast.PER_TRANSACTION,))
        return (
            None
            if named or frame.has("TOP", "MOST", "LEAST", "PER", "BY")
            else Meaning("aggregate", mean, f"mean {about} of a transaction that has any", notes)
        )
    if not named:
        return Meaning("count", query, about, notes) if _asks_number(frame) else None
    if len(named) > 1 or (frame.has("PROGRAM") and frame.programs) or (frame.has("ITYPES") and frame.has("CALLNAME")):
        return None
    by, condition = _CALLS[named[0]]
    query = replace(query, filters=(*filters, *((condition,) if condition else ())))
    if frame.has("DISTINCT") or (frame.has("HOWMANY") and not frame.has("TOP", "MOST", "LEAST", "PER", "BY")):
        many = Column(named[0].lower(), f"count(distinct {by.sql})")
        return (
            Meaning("distinct", replace(query, columns=(many,)), f"different {frame.text(named[0])} of {about}", notes)
            if frame.has("DISTINCT")
            else None
        )
    ranked = frame.has("TOP", "MOST", "LEAST")
    if not ranked and not frame.has("PER", "BY"):
        return None
    limit = frame.reading.limit or ((LIST_ROWS if frame.tags[named[0]].is_plural else 1) if ranked else None)
    order = (f"instructions {'asc' if frame.has('LEAST') else 'desc'}", by.name) if ranked else ()
    return Meaning(
        "ranking" if ranked else "grouped",
        replace(query, by=(by,), order=order, limit=limit),
        f"{by.name.replace('_', ' ')} by number of {about}",
        notes,
        ordered=ranked,
    )


def _asks_number(frame: Frame) -> bool:
    plainly = frame.has("HOWMANY", "TOTAL") or frame.text("INSTRUCTION") == "instructions"
    return plainly and not frame.has("TOP", "MOST", "LEAST", "PER", "BY", "SPREAD", "LIST", "WHICH", "DISTINCT")


def memos(frame: Frame) -> Meaning | None:
    """How many memos were written."""
    if not frame.fits("MEMO", "HOWMANY TOTAL WRITE SEND") or not frame.has("HOWMANY", "TOTAL") or not frame.tags["MEMO"].is_plural or frame.accounts:
        return None
    query = Query(ast.INSTRUCTIONS, (ast.counted("memos"),), filters=(ast.HAS_MEMO,), window=frame.reading.window)
    return Meaning("count", query, "memos", ("those of failed transactions are counted",))
