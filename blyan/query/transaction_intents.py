"""Questions about transactions: how many, which, and any figure of them for each of anything that they have.

Belongs here: what narrows transactions, figures, groups and ranks. Does not belong here: one transaction by its signature (`blyan.query.intents`),
what moved (`blyan.query.movement_intents`), calls (`blyan.query.instruction_intents`).

A figure (a number, a rate, fees, compute units), what it is for each of (slots, programs, leaders, kinds …) and the order are read apart from one another: whichever
can be joined can be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from blyan.query import query_ast as ast
from blyan.query.frame import Frame, without
from blyan.query.meaning import AGGREGATE_TAGS, AGGREGATES, LIST_ROWS, ROW, Meaning, base_units, proof_of, some
from blyan.query.query_ast import Column, Compare, Fact, Filter, Query, Source
from blyan.query.reading import Lexeme, NotUnderstoodError

FILTERS = "FAIL SUCCESS VOTE NONVOTE WITHVOTES KIND SANDWICH ERRORNAME CALLED USE TXN PAY AND VERSION"
PLAYS = ("payer", "by", "of", "from", "bare", "part")


@dataclass(frozen=True)
class Transactions:
    """Which transactions are meant."""

    source: Source
    filters: tuple[Filter, ...]
    about: str
    notes: tuple[str, ...]


def transactions(frame: Frame, *, labelled: bool = False) -> Transactions | None:
    """The transactions that the filters of a question leave, or None where they do not go together."""
    labelled = labelled or frame.kind is not None or frame.error is not None or frame.has("SANDWICH")
    if not _go_together(frame):
        return None
    if labelled and frame.has("VOTE", "WITHVOTES"):
        raise NotUnderstoodError("Kinds, errors and sandwiches are told of transactions that are no votes.", "ambiguous", ("votes",))
    filters, words = _labels(frame)
    for program in frame.programs:
        filters.append(ast.Calls((program,)))
        words.append(f"that call {frame.named(program)}")
    for part, account in frame.accounts.items():
        filters.append(ast.TakesPart(account) if part == "part" else Compare(ast.PAYER.sql, "=", account))
        words.append(f"that {account} takes part in" if part == "part" else f"that {account} paid for")
    if not _threshold(frame, filters, words):
        return None
    noun = "transactions"
    notes: tuple[str, ...] = ("votes are counted",)
    if labelled or frame.has("NONVOTE"):
        filters.append(ast.NO_LABELLED_VOTES if labelled else ast.NO_VOTES)
        notes = ("votes are left out",)
    elif frame.has("VOTE"):
        filters.append(ast.VOTES)
        noun, notes = "votes", ()
    return Transactions(ast.LABELLED if labelled else ast.TRANSACTIONS, tuple(filters), " ".join([noun, *words]), notes)


def _go_together(frame: Frame) -> bool:
    """Whether accounts, programs and verbs are such as transactions are narrowed by."""
    if not frame.plays(*PLAYS) or len(frame.accounts) > 1 or (frame.has("AND") and len(frame.programs) < 2) or frame.pair is not None:
        return False
    if frame.has("PAY") and not (frame.accounts or frame.has("FEE", "PRIORITY", "PAYER", "EXTREME")):
        return False
    of_units = frame.has("CU", "EXTREME") or (frame.reading.threshold is not None and frame.reading.threshold.unit == "cu")
    return not frame.has("USE") or bool(frame.programs) or of_units or frame.has("PROGRAM")


def _labels(frame: Frame) -> tuple[list[Filter], list[str]]:
    """Outcome, kind, error and sandwich as filters, and in words."""
    version = frame.tags["VERSION"].value if frame.has("VERSION") else ""
    known: tuple[tuple[bool, Filter, str], ...] = (
        (frame.has("FAIL"), ast.FAILED, "that failed"),
        (frame.has("SUCCESS"), ast.SUCCEEDED, "that succeeded"),
        (frame.kind is not None, Compare("d.kind", "=", frame.kind or ""), f"of kind {frame.kind}"),
        (frame.error is not None, Compare("d.error_class", "=", frame.error or ""), f"with the error {frame.error}"),
        (frame.has("SANDWICH"), ast.SANDWICHED, "in the shape of a sandwich"),
        (frame.has("VERSION"), Compare("t.version", "=", version), f"of version {version}"),
    )
    return [each for is_said, each, _ in known if is_said], [words for is_said, _, words in known if is_said]


def _threshold(frame: Frame, filters: list[Filter], words: list[str]) -> bool:
    """Narrow by the fee or the compute units; False where the amount is of something else."""
    threshold = frame.reading.threshold
    if threshold is None:
        return True
    if threshold.unit == "cu" or (not threshold.unit and frame.has("CU")):
        filters.append(Compare("t.compute_units_consumed", threshold.operator, base_units(threshold.value)))
        words.append(f"with compute units {threshold.operator} {threshold.value:f}")
        return True
    if not frame.has("FEE", "PRIORITY"):
        return False
    if not threshold.unit:
        raise NotUnderstoodError("Is the fee in SOL or in lamports?", "ambiguous", ("fee",), ("… lamports", "… SOL"))
    if threshold.asset is not None and threshold.asset.mint is not None:
        return False
    lamports = threshold.value * (10**9 if threshold.asset is not None else 1)
    column = "t.priority_fee_lamports" if frame.has("PRIORITY") else "t.fee"
    filters.append(Compare(column, threshold.operator, base_units(lamports)))
    words.append(f"with a {'priority ' if frame.has('PRIORITY') else ''}fee {threshold.operator} {lamports:f} lamports")
    return True


def query_of(
    frame: Frame, chosen: Transactions, *columns: Column, source: Source | None = None, extra: Sequence[Filter] = (), **options: object
) -> Query:
    """The query of chosen transactions in the window of the question."""
    made = Query(source or chosen.source, columns, filters=(*chosen.filters, *extra), window=frame.reading.window)
    return replace(made, **options)  # type: ignore[arg-type]


def count(frame: Frame) -> Meaning | None:
    """How many transactions."""
    if not frame.fits("", f"HOWMANY WHICH TOTAL FEE PRIORITY CU {FILTERS}") or not frame.has("TXN", "VOTE", "KIND", "SANDWICH", "FAIL", "ERRORNAME"):
        return None
    if frame.text("HOWMANY") in ("how many times", "how often") and not (frame.accounts or frame.programs):
        return None
    if not _is_count(frame) or (frame.has("WHICH") and not frame.has("HOWMANY", "TOTAL")):
        return None
    if frame.has("FEE", "PRIORITY", "CU") and (frame.reading.threshold is None or (frame.has("TOTAL") and not frame.has("HOWMANY"))):
        return None
    chosen = transactions(frame)
    if chosen is None:
        return None
    return Meaning("count", query_of(frame, chosen, ast.COUNT), chosen.about, chosen.notes)


def _is_count(frame: Frame) -> bool:
    """Whether a number is asked for: it is said, or nothing else is asked of more than one transaction."""
    if frame.has("HOWMANY", "TOTAL"):
        return True
    nouns = [frame.tags[tag] for tag in ("TXN", "VOTE", "KIND", "SANDWICH", "FAIL") if frame.has(tag)]
    return any(each.is_plural or each.text.lower() in ("sandwich",) for each in nouns) and not frame.has("WHICH")


def exists(frame: Frame) -> Meaning | None:
    """Whether there is any such transaction."""
    if not frame.fits("ANY", f"PRIORITY FEE CU {FILTERS}") or not frame.has("TXN", "VOTE", "KIND", "SANDWICH", "FAIL"):
        return None
    chosen = transactions(frame)
    if chosen is None or (frame.has("FEE", "PRIORITY", "CU") and frame.reading.threshold is None):
        return None
    return Meaning("exists", query_of(frame, chosen, ast.EXISTS), chosen.about, chosen.notes)


def listed(frame: Frame) -> Meaning | None:
    """Which transactions."""
    if (
        not frame.fits("", f"LIST WHICH PRIORITY FEE CU SIGNATURE {FILTERS}")
        or not frame.has("LIST", "WHICH", "SIGNATURE")
        or not frame.has("TXN", "VOTE", "KIND", "SANDWICH")
    ):
        return None
    chosen = transactions(frame)
    if chosen is None or (frame.has("FEE", "PRIORITY", "CU") and frame.reading.threshold is None):
        return None
    limit = frame.reading.limit or LIST_ROWS
    return Meaning(
        "list", query_of(frame, chosen, *ROW, rows=True, limit=limit), chosen.about, (*chosen.notes, f"the first {limit}, in the order of the chain")
    )


def first_last(frame: Frame) -> Meaning | None:
    """The first or the last transactions."""
    if not frame.fits("TXN", f"FIRST LAST WHICH LIST SIGNATURE {FILTERS}") or frame.has("FIRST") == frame.has("LAST"):
        return None
    chosen = transactions(frame)
    if chosen is None:
        return None
    limit = frame.reading.limit or (LIST_ROWS if frame.tags["TXN"].is_plural and frame.text("TXN") != "trans" else 1)
    order = ("t.block_slot", 't."index"') if frame.has("FIRST") else ("t.block_slot desc", 't."index" desc')
    word = "first" if frame.has("FIRST") else "last"
    query = query_of(frame, chosen, *ROW, rows=True, limit=limit, order=order)
    return Meaning("first_last", query, some(word, limit, chosen.about), chosen.notes, ordered=True)


_EXTREMES = {
    "FEE": ("t.fee", Column("fee", ast.whole("t.fee", 9), "sol", "SOL"), "fees"),
    "PRIORITY": ("t.priority_fee_lamports", Column("priority_fee", ast.whole("t.priority_fee_lamports", 9), "sol", "SOL"), "priority fees"),
    "CU": ("t.compute_units_consumed", Column("compute_units", "t.compute_units_consumed", "number"), "compute units"),
}


def extreme(frame: Frame) -> Meaning | None:
    """The transactions with the highest or lowest fee, priority fee or compute units."""
    if not frame.fits("EXTREME", f"WHICH LIST TOP SIGNATURE {FILTERS}"):
        return None
    chosen = transactions(frame)
    if chosen is None:
        return None
    what, _, direction = frame.tags["EXTREME"].value.partition(" ")
    sql, column, said = _EXTREMES[what]
    limit = frame.reading.limit or (LIST_ROWS if frame.has("TOP") or frame.tags["EXTREME"].is_plural else 1)
    order = (f"{sql} {direction or 'desc'}", "t.block_slot", 't."index"')
    query = query_of(frame, chosen, *ROW, column, extra=(Fact(f"{sql} is not null"),), rows=True, limit=limit, order=order)
    return Meaning("extreme", query, f"{chosen.about} with the {'lowest' if direction else 'highest'} {said}", chosen.notes, ordered=True)


def _aggregate_of(frame: Frame, noun: str) -> str | None:
    """Which aggregate is asked for; the total where only `how much`, or the plural, says so."""
    if frame.has("OFEACH") and not frame.has("MEAN"):
        return None
    said = [aggregate for tag, aggregate in AGGREGATES.items() if frame.has(tag)]
    if len(said) == 2 and "total" in said:
        # A sum of all, as in `the highest of all in total`, is none of the others.
        return None
    if len(said) > 1:
        return None
    if said:
        return said[0]
    return "total" if frame.has("HOWMUCH", "LAMPORT") or frame.tags[noun].is_plural else None


def _measure(frame: Frame) -> tuple[Column, str] | None:
    """The measure of transactions that a question names: fees, priority fees or compute units."""
    if frame.reading.threshold is not None:
        return None
    for tag, name, sql, said in (("PRIORITY", "priority_fees", "t.priority_fee_lamports", "priority fees"), ("FEE", "fees", "t.fee", "fees")):
        if frame.has(tag):
            aggregate = _aggregate_of(frame, tag)
            if aggregate is None:
                return None
            if aggregate != "total":
                name, said = name.removesuffix("s"), said.removesuffix("s")
            if frame.has("LAMPORT"):
                return ast.amount(aggregate, f"{name}_lamports", sql, "lamports", "lamports"), f"{aggregate} {said}"
            return ast.amount(aggregate, name, sql), f"{aggregate} {said}"
    if frame.has("CU"):
        aggregate = _aggregate_of(frame, "CU") or ("total" if frame.has("HOWMANY") else None)
        return None if aggregate is None else (ast.number(aggregate, "compute_units", "t.compute_units_consumed"), f"{aggregate} compute units")
    return None


_MEASURES = "FEE PRIORITY CU LAMPORT SOL HOWMUCH HOWMANY"


def aggregate(frame: Frame) -> Meaning | None:
    """A sum, a mean or a percentile of fees or compute units."""
    if not frame.fits("", f"{_MEASURES} {AGGREGATE_TAGS} OFEACH WHICH LIST {FILTERS}") or sum(map(frame.has, ("FEE", "PRIORITY", "CU"))) != 1:
        return None
    if (frame.has("HOWMANY") and not frame.has("CU", "LAMPORT")) or frame.text("WHICH") == "who":
        return None
    measure = _measure(frame)
    chosen = transactions(frame)
    if measure is None or chosen is None:
        return None
    column, said = measure
    query = query_of(frame, chosen, column)
    proof = proof_of(query)
    if frame.has("BIG", "SMALL"):
        what = "t.priority_fee_lamports" if frame.has("PRIORITY") else "t.compute_units_consumed" if frame.has("CU") else "t.fee"
        proof = replace(proof, order=(f"{what} {'desc' if frame.has('BIG') else 'asc'} nulls last", "t.block_slot", 't."index"'), limit=1)
    return Meaning("aggregate", query, f"{said} of {chosen.about}", chosen.notes, proof=proof)


def share(frame: Frame) -> Meaning | None:
    """A share of transactions: failures, successes, votes, a kind."""
    if not frame.fits("RATE", f"WHICH HOWMUCH HOWMANY {FILTERS}") or frame.has("SANDWICH", "ERRORNAME"):
        return None
    part = _part(frame)
    if part is None:
        return None
    rest = replace(frame, tags={tag: each for tag, each in frame.tags.items() if tag != part}, kind=None if part == "KIND" else frame.kind)
    chosen = transactions(rest, labelled=part == "KIND")
    if chosen is None:
        return None
    column, words = {
        "FAIL": (ast.share("failed_percent", ast.FAILED.sql), "failed"),
        "SUCCESS": (ast.share("succeeded_percent", ast.SUCCEEDED.sql), "succeeded"),
        "VOTE": (ast.share("vote_percent", ast.VOTES.sql), "are votes"),
        "KIND": (ast.share("percent", "d.kind = ?", (frame.kind or "",)), f"are of kind {frame.kind}"),
    }[part]
    notes = () if part == "VOTE" else chosen.notes
    return Meaning("share", query_of(rest, chosen, column), f"share of {chosen.about} that {words}", notes)


def _part(frame: Frame) -> str | None:
    """What a share is of, where the words tell it: `failed swaps` are a share of swaps, `failed transactions that are swaps` of those that failed."""
    outcomes = [tag for tag in ("FAIL", "SUCCESS") if frame.has(tag)]
    labels = [tag for tag in ("KIND", "VOTE") if frame.has(tag)]
    if not outcomes:
        return labels[0] if len(labels) == 1 and not (labels == ["VOTE"] and frame.has("NONVOTE", "WITHVOTES")) else None
    if not frame.has("TXN") or not (labels or frame.has("USE") or frame.accounts):
        return outcomes[0]
    order = [each.tag for each in frame.reading.line if each.tag in (*outcomes, *labels, "TXN")]
    if order.index(outcomes[0]) > order.index("TXN"):
        return outcomes[0] if order[-1] == outcomes[0] else None
    return labels[0] if order[-1] in labels and len(labels) == 1 and not frame.has("USE") and not frame.accounts else None


def distinct(frame: Frame) -> Meaning | None:
    """How many different fee payers, signers, programs, errors, kinds."""
    counted = frame.fits("", f"DISTINCT HOWMANY {_DIMENSION_TAGS} WHICH {FILTERS}") and frame.has("DISTINCT", "HOWMANY")
    dimension = _dimension(frame) if counted else None
    if dimension is None or dimension in ("SLOT", "STATUS", "VERSIONS", "BUCKETS", "BOUGHT", "SOLD"):
        return None
    if dimension in ("PROGRAM", "LEADER") and (frame.programs or frame.has("FAIL", "SUCCESS", "ERRORNAME", "VOTE")):
        # A program that a failed transaction called has not failed.
        return None
    if dimension == "ERRORS" and not frame.has("DISTINCT") and frame.text("ERRORS") in ("error", "errors"):
        # `How many errors` can ask for failures.
        return None
    chosen = _group_filters(frame, dimension)
    if chosen is None or frame.accounts or frame.reading.threshold is not None:
        return None
    by, source, condition = _DIMENSIONS[dimension]
    name, said = _MANY[dimension]
    column = Column(name, f"count(distinct {by.sql})")
    query = query_of(frame, chosen, column, source=ast.joined(chosen.source, source), extra=(condition,) if condition else ())
    return Meaning("distinct", query, f"different {said} {chosen.about}", chosen.notes)


_MANY = {
    "PAYER": ("fee_payers", "accounts that paid for"), "SIGNER": ("signers", "signers of"), "PROGRAM": ("programs", "programs called by"),
    "KINDS": ("kinds", "kinds of"), "ERRORS": ("errors", "errors of"), "LEADER": ("leaders", "leaders of the blocks of"),
}  # fmt: skip

# Groups and ranks: any figure of transactions, for each of anything that transactions have

_DIMENSIONS: dict[str, tuple[Column, Source, Filter | None]] = {
    "SLOT": (ast.SLOT, ast.TRANSACTIONS, None),
    "PAYER": (ast.PAYER, ast.TRANSACTIONS, ast.HAS_PAYER),
    "SIGNER": (ast.SIGNER, ast.SIGNED, ast.SIGNS),
    "PROGRAM": (ast.PROGRAM, ast.CALLED, ast.HAS_PROGRAM),
    "LEADER": (ast.LEADER_OF, ast.LED, ast.LED_BY_SOMEONE),
    "KINDS": (ast.KIND, ast.LABELLED, None),
    "ERRORS": (ast.ERROR, ast.LABELLED, ast.HAS_ERROR),
    "BUCKETS": (ast.BUCKET, ast.LABELLED, ast.HAS_BUCKET),
    "BOUGHT": (ast.BOUGHT, ast.LABELLED, ast.HAS_BOUGHT),
    "SOLD": (ast.SOLD, ast.LABELLED, ast.HAS_SOLD),
    "STATUS": (ast.STATUS, ast.TRANSACTIONS, None),
    "VERSIONS": (ast.VERSION, ast.TRANSACTIONS, None),
}
TIMES = {"1": None, "60": ast.MINUTE, "3600": ast.HOUR, "86400": ast.DAY}
_DIMENSION_TAGS = " ".join(_DIMENSIONS)
_OF_DOCUMENTS = ("KINDS", "ERRORS", "BUCKETS", "BOUGHT", "SOLD")


def _dimension(frame: Frame) -> str | None:
    """The one dimension that is named."""
    named = [tag for tag in _DIMENSIONS if frame.has(tag)]
    return named[0] if len(named) == 1 else None


def _group_filters(frame: Frame, dimension: str) -> Transactions | None:
    """The transactions that are grouped, without the words that name the dimension: programs are what is called, whether the verb says so or not."""
    rest = without(frame, dimension, *(("USE",) if dimension == "PROGRAM" and not frame.programs else ()))
    return transactions(rest, labelled=dimension in _OF_DOCUMENTS)


_RATES = {"FAIL": ("failed_percent", ast.FAILED, "failure rate"), "SUCCESS": ("succeeded_percent", ast.SUCCEEDED, "success rate"),
          "VOTE": ("vote_percent", ast.VOTES, "share of votes")}  # fmt: skip


def _figure(frame: Frame, dimension: str, *, ranked: bool) -> tuple[Column, str, Frame] | None:
    """What is told of each group: its column, its words, and the question without the words that it came from."""
    if frame.has("RATE"):
        parts = [tag for tag in _RATES if frame.has(tag)]
        if (
            len(parts) != 1
            or frame.has("FEE", "PRIORITY", "CU", "TOTAL", "MEAN", "MEDIAN", "HOWMANY", "HOWMUCH")
            or frame.reading.threshold is not None
        ):
            return None
        if parts == ["VOTE"] and (dimension in _OF_DOCUMENTS or frame.has("NONVOTE", "WITHVOTES")):
            return None
        if dimension in ("ERRORS", "STATUS", "BUCKETS", "BOUGHT", "SOLD"):
            return None
        name, fact, said = _RATES[parts[0]]
        return ast.share(name, fact.sql), said, without(frame, parts[0], "RATE")
    if not frame.has("FEE", "PRIORITY", "CU"):
        return None if frame.has("HOWMUCH", "SOL", "LAMPORT", "MEAN", "MEDIAN", "P90", "P95", "P99", "SMALL") else (ast.COUNT, "number", frame)
    if dimension == "SIGNER" or (ranked and frame.has("SMALL")):
        return None
    asked = frame
    if ranked and not frame.has("MEAN", "MEDIAN", "P90", "P95", "P99"):
        asked = replace(
            without(frame, "BIG", "TOP", "MOST", "LEAST"),
            tags=without(frame, "BIG", "TOP", "MOST", "LEAST").tags | {"HOWMUCH": Lexeme("HOWMUCH", "how much")},
        )
    elif ranked:
        asked = without(frame, "BIG", "TOP", "MOST", "LEAST")
    measure = _measure(asked)
    return None if measure is None else (*measure, frame)


def _each(frame: Frame, dimension: str, *, ranked: bool) -> tuple[Query, str, tuple[str, ...]] | None:
    """A figure for each of a dimension or a time: the query, what it is of, and what is taken for granted."""
    if dimension == "TIME":
        column, source, condition = TIMES.get(frame.tags["TIME"].value), ast.TRANSACTIONS, None
    else:
        column, source, condition = _DIMENSIONS[dimension]
    figure = _figure(frame, dimension, ranked=ranked)
    if column is None or figure is None:
        return None
    measure, said, rest = figure
    chosen = _group_filters(rest, dimension)
    if chosen is None or ((frame.has("BOUGHT", "SOLD")) and frame.has("FAIL")):
        return None
    extra = (condition,) if condition is not None else ()
    query = query_of(rest, chosen, measure, source=ast.joined(chosen.source, source), extra=extra, by=(column,))
    notes = chosen.notes
    if dimension == "PROGRAM" and frame.has("FEE", "PRIORITY", "CU"):
        notes = (*notes, "a transaction counts whole for each program that it calls")
    elif dimension == "PROGRAM" and frame.has("FAIL", "SUCCESS"):
        notes = (*notes, "a transaction counts for each program that it calls, whichever failed")
    return query, f"{column.name.replace('_', ' ')} by {said} of {chosen.about}", notes


_EACH_TAGS = f"TIME MINTS RATE OFEACH {_MEASURES} {AGGREGATE_TAGS} {_DIMENSION_TAGS} {FILTERS}"


def _dimension_of(frame: Frame) -> str | None:
    """What is grouped by: `tokens` are a dimension of swaps alone, as those bought or sold. What leaders vote or pay is not what is in their blocks."""
    if frame.has("MINTS") != frame.has("BOUGHT", "SOLD") or (frame.has("LEADER") and frame.has("VOTE", "PAY")):
        return None
    if frame.has("TIME"):
        return "TIME" if not any(frame.has(tag) for tag in _DIMENSIONS) else None
    return _dimension(frame)


def grouped(frame: Frame) -> Meaning | None:
    """A figure for each slot, minute, kind."""
    if not frame.fits("", f"PER BY SPREAD LIST WHICH {_EACH_TAGS}") or not frame.has("PER", "BY"):
        return None
    dimension = _dimension_of(frame)
    each = _each(frame, dimension, ranked=False) if dimension is not None and not frame.has("BIG") else None
    if each is None:
        return None
    query, about, notes = each
    # However many a range has, the slots and times of it are all told, as they are a series.
    return Meaning("grouped", replace(query, limit=frame.reading.limit), about, notes)


_RANK_TAGS = "TOP MOST BIG LEAST SMALL"


def _is_rankable(frame: Frame, dimension: str) -> bool:
    """Whether it is clear what the most of is asked for, and what has none cannot be what is asked for."""
    if frame.has("BIG", "SMALL") and not (
        frame.has("RATE", "MEAN", "MEDIAN") or any(frame.has(tag) and frame.tags[tag].is_plural for tag in ("FEE", "PRIORITY", "CU"))
    ):
        # `The slot with the highest fee` asks for one fee, with the highest fees for their sum.
        return False
    if dimension in ("STATUS", "VERSIONS", "TIME") or (dimension == "PROGRAM" and frame.programs):
        return False
    if frame.text("MOST") in ("busiest", "most active") and frame.has("FEE", "PRIORITY", "CU", "RATE"):
        return False
    # Those that have none are not among the rows.
    has_least = frame.has("LEAST") and not frame.has("RATE")
    return not (has_least and (frame.programs or frame.accounts or frame.has("FAIL", "SUCCESS", "KIND", "SANDWICH", "ERRORNAME", "VOTE")))


def ranking(frame: Frame) -> Meaning | None:
    """The slots, programs, payers, leaders, errors with the most of something."""
    if not frame.fits("", f"{_RANK_TAGS} PER BY SPREAD WHICH LIST HAVE {_EACH_TAGS}") or not frame.has(*_RANK_TAGS.split()):
        return None
    dimension = _dimension_of(frame)
    if dimension is None or not _is_rankable(frame, dimension):
        return None
    each = _each(frame, dimension, ranked=True)
    if each is None:
        return None
    query, about, notes = each
    (by,), (column,) = query.by, query.columns
    direction = "asc" if frame.has("LEAST", "SMALL") else "desc"
    noun = frame.tags["MINTS"] if frame.has("MINTS") else frame.tags[dimension]
    limit = frame.reading.limit or (LIST_ROWS if noun.is_plural or frame.has("PER") else 1)
    query = replace(query, order=(f"{column.name} {direction} nulls last", by.name), limit=limit)
    return Meaning("ranking", query, about, notes, ordered=True)
