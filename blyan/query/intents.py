"""What the parts of a question mean together: intents, of which each says which parts it can use.

Belongs here: from the parts of a question to a query, and what is taken for granted on the way. Does not belong here: the parts
(`blyan.query.reading`), SQL (`blyan.query.query_ast`), sentences (`blyan.query.saying`).

An intent is used only where the question has all that it needs and nothing besides what it may have. So no word is passed over. The intents
stand in one order, the most special first; a question that none of them fits is not answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from blyan.corpus.registry import Registry
from blyan.query import query_ast as ast
from blyan.query.frame import Frame, frame_of
from blyan.query.query_ast import Balance, Column, Compare, Fact, Filter, Query, Source, to_sql
from blyan.query.reading import Asset, Lexeme, NotUnderstoodError, Reading, is_native
from blyan.solana.normalise import NATIVE_MINT


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a question asks; the attributes are those of `blyan.query.planner.Plan`."""

    intent: str
    query: Query | Balance
    about: str
    notes: tuple[str, ...] = ()
    slots: Mapping[str, str] = field(default_factory=dict)
    proof: Query | None = None
    table: str = ""
    signature: str | None = None
    ordered: bool = False
    columns: tuple[Column, ...] = ()


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
        proof = _proof(Query(ast.TRANSACTIONS, (), filters=(Compare("t.signature", "=", frame.signature),)))
    elif proof is None and isinstance(query, Query) and not (query.rows and any(column.name in ("block_slot", "slot") for column in query.columns)):
        proof = _proof(query)
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


PROOFS = 5
"""Rows that are cited."""


def _proof(query: Query) -> Query:
    """Some of the rows that an aggregate is over; of an extreme, those that have it."""
    source = query.source
    signature = Column("signature", source.signature or "cast(null as varchar)", "signature")
    columns = (Column("slot", source.slot, "slot"), signature)
    if source.repeats:
        return Query(source, (), by=columns, filters=query.filters, window=query.window, limit=PROOFS)
    return Query(source, columns, filters=query.filters, window=query.window, limit=PROOFS, rows=True)


_CLOSED = frozenset(("exists", "transaction", "block"))
"""Intents whose answer can be yes or no, or says as much."""


# Transactions and what narrows them

_FILTERS = "FAIL SUCCESS VOTE NONVOTE WITHVOTES KIND SANDWICH ERRORNAME CALLED USE TXN PAY AND VERSION"
_PLAYS = ("payer", "by", "of", "from", "bare", "part")


@dataclass(frozen=True)
class _Transactions:
    """Which transactions are meant."""

    source: Source
    filters: tuple[Filter, ...]
    about: str
    notes: tuple[str, ...]


def _transactions(frame: Frame, *, labelled: bool = False) -> _Transactions | None:
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
    return _Transactions(ast.LABELLED if labelled else ast.TRANSACTIONS, tuple(filters), " ".join([noun, *words]), notes)


def _go_together(frame: Frame) -> bool:
    """Whether accounts, programs and verbs are such as transactions are narrowed by."""
    if not frame.plays(*_PLAYS) or len(frame.accounts) > 1 or (frame.has("AND") and len(frame.programs) < 2) or frame.pair is not None:
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
        filters.append(Compare("t.compute_units_consumed", threshold.operator, _integer(threshold.value)))
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
    filters.append(Compare(column, threshold.operator, _integer(lamports)))
    words.append(f"with a {'priority ' if frame.has('PRIORITY') else ''}fee {threshold.operator} {lamports:f} lamports")
    return True


def _integer(value: Decimal) -> int:
    if value % 1 or not 0 <= value < 2**64:
        raise NotUnderstoodError(f"{value:f} is no amount in base units.", "not_understood", (f"{value:f}",))
    return int(value)


def _query(
    frame: Frame, chosen: _Transactions, *columns: Column, source: Source | None = None, extra: Sequence[Filter] = (), **options: object
) -> Query:
    made = Query(source or chosen.source, columns, filters=(*chosen.filters, *extra), window=frame.reading.window)
    return replace(made, **options)  # type: ignore[arg-type]


def _count(frame: Frame) -> Meaning | None:
    """How many transactions."""
    if not frame.fits("", f"HOWMANY WHICH TOTAL FEE PRIORITY CU {_FILTERS}") or not frame.has("TXN", "VOTE", "KIND", "SANDWICH", "FAIL", "ERRORNAME"):
        return None
    if frame.text("HOWMANY") in ("how many times", "how often") and not (frame.accounts or frame.programs):
        return None
    if not _is_count(frame) or (frame.has("WHICH") and not frame.has("HOWMANY", "TOTAL")):
        return None
    if frame.has("FEE", "PRIORITY", "CU") and (frame.reading.threshold is None or (frame.has("TOTAL") and not frame.has("HOWMANY"))):
        return None
    chosen = _transactions(frame)
    if chosen is None:
        return None
    return Meaning("count", _query(frame, chosen, ast.COUNT), chosen.about, chosen.notes)


def _is_count(frame: Frame) -> bool:
    """Whether a number is asked for: it is said, or nothing else is asked of more than one transaction."""
    if frame.has("HOWMANY", "TOTAL"):
        return True
    nouns = [frame.tags[tag] for tag in ("TXN", "VOTE", "KIND", "SANDWICH", "FAIL") if frame.has(tag)]
    return any(each.is_plural or each.text.lower() in ("sandwich",) for each in nouns) and not frame.has("WHICH")


def _exists(frame: Frame) -> Meaning | None:
    """Whether there is any such transaction."""
    if not frame.fits("ANY", f"PRIORITY FEE CU {_FILTERS}") or not frame.has("TXN", "VOTE", "KIND", "SANDWICH", "FAIL"):
        return None
    chosen = _transactions(frame)
    if chosen is None or (frame.has("FEE", "PRIORITY", "CU") and frame.reading.threshold is None):
        return None
    return Meaning("exists", _query(frame, chosen, ast.EXISTS), chosen.about, chosen.notes)


_ROW = (Column("block_slot", "t.block_slot", "slot"), Column("signature", "t.signature", "signature"))
LIST_ROWS = 10
"""Rows of a list, where the question does not say how many."""


def _list(frame: Frame) -> Meaning | None:
    """Which transactions."""
    if (
        not frame.fits("", f"LIST WHICH PRIORITY FEE CU SIGNATURE {_FILTERS}")
        or not frame.has("LIST", "WHICH", "SIGNATURE")
        or not frame.has("TXN", "VOTE", "KIND", "SANDWICH")
    ):
        return None
    chosen = _transactions(frame)
    if chosen is None or (frame.has("FEE", "PRIORITY", "CU") and frame.reading.threshold is None):
        return None
    limit = frame.reading.limit or LIST_ROWS
    return Meaning(
        "list", _query(frame, chosen, *_ROW, rows=True, limit=limit), chosen.about, (*chosen.notes, f"the first {limit}, in the order of the chain")
    )


def _first_last(frame: Frame) -> Meaning | None:
    """The first or the last transactions."""
    if not frame.fits("TXN", f"FIRST LAST WHICH LIST SIGNATURE {_FILTERS}") or frame.has("FIRST") == frame.has("LAST"):
        return None
    chosen = _transactions(frame)
    if chosen is None:
        return None
    limit = frame.reading.limit or (LIST_ROWS if frame.tags["TXN"].is_plural and frame.text("TXN") != "trans" else 1)
    order = ("t.block_slot", 't."index"') if frame.has("FIRST") else ("t.block_slot desc", 't."index" desc')
    word = "first" if frame.has("FIRST") else "last"
    query = _query(frame, chosen, *_ROW, rows=True, limit=limit, order=order)
    return Meaning("first_last", query, _some(word, limit, chosen.about), chosen.notes, ordered=True)


_EXTREMES = {
    "FEE": ("t.fee", Column("fee", ast.whole("t.fee", 9), "sol", "SOL"), "fees"),
    "PRIORITY": ("t.priority_fee_lamports", Column("priority_fee", ast.whole("t.priority_fee_lamports", 9), "sol", "SOL"), "priority fees"),
    "CU": ("t.compute_units_consumed", Column("compute_units", "t.compute_units_consumed", "number"), "compute units"),
}


def _extreme(frame: Frame) -> Meaning | None:
    """The transactions with the highest or lowest fee, priority fee or compute units."""
    if not frame.fits("EXTREME", f"WHICH LIST TOP SIGNATURE {_FILTERS}"):
        return None
    chosen = _transactions(frame)
    if chosen is None:
        return None
    what, _, direction = frame.tags["EXTREME"].value.partition(" ")
    sql, column, said = _EXTREMES[what]
    limit = frame.reading.limit or (LIST_ROWS if frame.has("TOP") else 1)
    order = (f"{sql} {direction or 'desc'}", "t.block_slot", 't."index"')
    query = _query(frame, chosen, *_ROW, column, extra=(Fact(f"{sql} is not null"),), rows=True, limit=limit, order=order)
    return Meaning("extreme", query, f"{chosen.about} with the {'lowest' if direction else 'highest'} {said}", chosen.notes, ordered=True)


_AGGREGATES = {"TOTAL": "total", "MEAN": "mean", "MEDIAN": "median", "P90": "p90", "P95": "p95", "P99": "p99", "BIG": "highest", "SMALL": "lowest"}
_AGGREGATE_TAGS = " ".join(_AGGREGATES)


def _aggregate_of(frame: Frame, noun: str) -> str | None:
    """Which aggregate is asked for; the total where only `how much`, or the plural, says so."""
    if frame.has("OFEACH") and not frame.has("MEAN"):
        return None
    said = [aggregate for tag, aggregate in _AGGREGATES.items() if frame.has(tag)]
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


def _aggregate(frame: Frame) -> Meaning | None:
    """A sum, a mean or a percentile of fees or compute units."""
    if not frame.fits("", f"{_MEASURES} {_AGGREGATE_TAGS} OFEACH WHICH LIST {_FILTERS}") or sum(map(frame.has, ("FEE", "PRIORITY", "CU"))) != 1:
        return None
    if frame.has("HOWMANY") and not frame.has("CU", "LAMPORT"):
        return None
    measure = _measure(frame)
    chosen = _transactions(frame)
    if measure is None or chosen is None:
        return None
    column, said = measure
    query = _query(frame, chosen, column)
    proof = _proof(query)
    if frame.has("BIG", "SMALL"):
        what = "t.priority_fee_lamports" if frame.has("PRIORITY") else "t.compute_units_consumed" if frame.has("CU") else "t.fee"
        proof = replace(proof, order=(f"{what} {'desc' if frame.has('BIG') else 'asc'} nulls last", "t.block_slot", 't."index"'), limit=1)
    return Meaning("aggregate", query, f"{said} of {chosen.about}", chosen.notes, proof=proof)


def _share(frame: Frame) -> Meaning | None:
    """A share of transactions: failures, successes, votes, a kind."""
    if not frame.fits("RATE", f"WHICH HOWMUCH HOWMANY {_FILTERS}") or frame.has("SANDWICH", "ERRORNAME"):
        return None
    part = _part(frame)
    if part is None:
        return None
    rest = replace(frame, tags={tag: each for tag, each in frame.tags.items() if tag != part}, kind=None if part == "KIND" else frame.kind)
    chosen = _transactions(rest, labelled=part == "KIND")
    if chosen is None:
        return None
    column, words = {
        "FAIL": (ast.share("failed_percent", ast.FAILED.sql), "failed"),
        "SUCCESS": (ast.share("succeeded_percent", ast.SUCCEEDED.sql), "succeeded"),
        "VOTE": (ast.share("vote_percent", ast.VOTES.sql), "are votes"),
        "KIND": (ast.share("percent", "d.kind = ?", (frame.kind or "",)), f"are of kind {frame.kind}"),
    }[part]
    notes = () if part == "VOTE" else chosen.notes
    return Meaning("share", _query(rest, chosen, column), f"share of {chosen.about} that {words}", notes)


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


def _distinct(frame: Frame) -> Meaning | None:
    """How many different fee payers, signers, programs, errors, kinds."""
    counted = frame.fits("", f"DISTINCT HOWMANY {_DIMENSION_TAGS} WHICH {_FILTERS}") and frame.has("DISTINCT", "HOWMANY")
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
    query = _query(frame, chosen, column, source=ast.joined(chosen.source, source), extra=(condition,) if condition else ())
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
_TIMES = {"1": None, "60": ast.MINUTE, "3600": ast.HOUR, "86400": ast.DAY}
_DIMENSION_TAGS = " ".join(_DIMENSIONS)
_OF_DOCUMENTS = ("KINDS", "ERRORS", "BUCKETS", "BOUGHT", "SOLD")


def _dimension(frame: Frame) -> str | None:
    """The one dimension that is named."""
    named = [tag for tag in _DIMENSIONS if frame.has(tag)]
    return named[0] if len(named) == 1 else None


def _without(frame: Frame, *tags: str) -> Frame:
    """A frame without some of its words."""
    return replace(frame, tags={tag: each for tag, each in frame.tags.items() if tag not in tags})


def _group_filters(frame: Frame, dimension: str) -> _Transactions | None:
    """The transactions that are grouped, without the words that name the dimension: programs are what is called, whether the verb says so or not."""
    rest = _without(frame, dimension, *(("USE",) if dimension == "PROGRAM" and not frame.programs else ()))
    return _transactions(rest, labelled=dimension in _OF_DOCUMENTS)


_RATES = {"FAIL": ("failed_percent", ast.FAILED, "failure rate"), "SUCCESS": ("succeeded_percent", ast.SUCCEEDED, "success rate"),
          "VOTE": ("vote_percent", ast.VOTES, "share of votes")}  # fmt: skip


def _figure(frame: Frame, dimension: str, *, ranked: bool) -> tuple[Column, str, Frame] | None:
    """What is told of each group: its column, its words, and the question without the words that it came from."""
    if frame.has("RATE"):
        parts = [tag for tag in _RATES if frame.has(tag)]
        if len(parts) != 1 or frame.has("FEE", "PRIORITY", "CU", "TOTAL", "MEAN", "MEDIAN", "HOWMANY", "HOWMUCH") or frame.reading.threshold is not None:
            return None
        if parts == ["VOTE"] and (dimension in _OF_DOCUMENTS or frame.has("NONVOTE", "WITHVOTES")):
            return None
        if dimension in ("ERRORS", "STATUS", "BUCKETS", "BOUGHT", "SOLD"):
            return None
        name, fact, said = _RATES[parts[0]]
        return ast.share(name, fact.sql), said, _without(frame, parts[0], "RATE")
    if not frame.has("FEE", "PRIORITY", "CU"):
        return None if frame.has("HOWMUCH", "SOL", "LAMPORT", "MEAN", "MEDIAN", "P90", "P95", "P99", "SMALL") else (ast.COUNT, "number", frame)
    if dimension == "SIGNER" or (ranked and frame.has("SMALL")):
        return None
    asked = frame
    if ranked and not frame.has("MEAN", "MEDIAN", "P90", "P95", "P99"):
        asked = replace(_without(frame, "BIG", "TOP", "MOST", "LEAST"), tags=_without(frame, "BIG", "TOP", "MOST", "LEAST").tags | {"HOWMUCH": Lexeme("HOWMUCH", "how much")})
    elif ranked:
        asked = _without(frame, "BIG", "TOP", "MOST", "LEAST")
    measure = _measure(asked)
    return None if measure is None else (*measure, frame)


def _each(frame: Frame, dimension: str, *, ranked: bool) -> tuple[Query, str, tuple[str, ...]] | None:
    """A figure for each of a dimension or a time: the query, what it is of, and what is taken for granted."""
    if dimension == "TIME":
        column, source, condition = _TIMES.get(frame.tags["TIME"].value), ast.TRANSACTIONS, None
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
    query = _query(rest, chosen, measure, source=ast.joined(chosen.source, source), extra=extra, by=(column,))
    notes = chosen.notes
    if dimension == "PROGRAM" and frame.has("FEE", "PRIORITY", "CU"):
        notes = (*notes, "a transaction counts whole for each program that it calls")
    return query, f"{column.name.replace('_', ' ')} by {said} of {chosen.about}", notes


_EACH_TAGS = f"TIME MINTS RATE OFEACH {_MEASURES} {_AGGREGATE_TAGS} {_DIMENSION_TAGS} {_FILTERS}"


def _dimension_of(frame: Frame) -> str | None:
    """What is grouped by: `tokens` are a dimension of swaps alone, as those bought or sold. What leaders vote or pay is not what is in their blocks."""
    if frame.has("MINTS") != frame.has("BOUGHT", "SOLD") or (frame.has("LEADER") and frame.has("VOTE", "PAY")):
        return None
    if frame.has("TIME"):
        return "TIME" if not any(frame.has(tag) for tag in _DIMENSIONS) else None
    return _dimension(frame)


def _grouped(frame: Frame) -> Meaning | None:
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
    if frame.has("BIG", "SMALL") and not (frame.has("RATE", "MEAN", "MEDIAN") or any(frame.has(tag) and frame.tags[tag].is_plural for tag in ("FEE", "PRIORITY", "CU"))):
        # `The slot with the highest fee` asks for one fee, with the highest fees for their sum.
        return False
    if dimension in ("STATUS", "VERSIONS", "TIME") or (dimension == "PROGRAM" and frame.programs):
        return False
    if frame.text("MOST") in ("busiest", "most active") and frame.has("FEE", "PRIORITY", "CU", "RATE"):
        return False
    # Those that have none are not among the rows.
    has_least = frame.has("LEAST") and not frame.has("RATE")
    return not (has_least and (frame.programs or frame.accounts or frame.has("FAIL", "SUCCESS", "KIND", "SANDWICH", "ERRORNAME", "VOTE")))


def _ranking(frame: Frame) -> Meaning | None:
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


# Instructions

_CALLS = {"PROGRAM": (ast.CALLED_PROGRAM, ast.NAMES_PROGRAM), "ITYPES": (ast.INSTRUCTION_TYPE, ast.NAMES_TYPE), "SLOT": (ast.SLOT, None)}


def _counts_calls(frame: Frame) -> bool:
    """Whether calls are counted, and not transactions: `called most often`, `how many times was X called`."""
    verb = frame.text("USE").split()[:1] in (["called"], ["calls"], ["invoked"], ["call"])
    often = frame.text("MOST") in _OFTEN or frame.text("HOWMANY") in ("how many times", "how often")
    return frame.has("INSTRUCTION", "ITYPES", "CALLNAME") or (verb and often)


def _instructions(frame: Frame) -> Meaning | None:
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
        return None if named or frame.has("TOP", "MOST", "LEAST", "PER", "BY") else Meaning("aggregate", mean, f"mean {about} of a transaction that has any", notes)
    if not named:
        return Meaning("count", query, about, notes) if _asks_number(frame) else None
    if len(named) > 1 or (frame.has("PROGRAM") and frame.programs) or (frame.has("ITYPES") and frame.has("CALLNAME")):
        return None
    by, condition = _CALLS[named[0]]
    query = replace(query, filters=(*filters, *((condition,) if condition else ())))
    if frame.has("DISTINCT") or (frame.has("HOWMANY") and not frame.has("TOP", "MOST", "LEAST", "PER", "BY")):
        many = Column(named[0].lower(), f"count(distinct {by.sql})")
        return Meaning("distinct", replace(query, columns=(many,)), f"different {frame.text(named[0])} of {about}", notes) if frame.has("DISTINCT") else None
    ranked = frame.has("TOP", "MOST", "LEAST")
    if not ranked and not frame.has("PER", "BY"):
        return None
    limit = frame.reading.limit or ((LIST_ROWS if frame.tags[named[0]].is_plural else 1) if ranked else None)
    order = (f"instructions {'asc' if frame.has('LEAST') else 'desc'}", by.name) if ranked else ()
    return Meaning(
        "ranking" if ranked else "grouped", replace(query, by=(by,), order=order, limit=limit), f"{by.name.replace('_', ' ')} by number of {about}", notes, ordered=ranked
    )


def _asks_number(frame: Frame) -> bool:
    plainly = frame.has("HOWMANY", "TOTAL") or frame.text("INSTRUCTION") == "instructions"
    return plainly and not frame.has("TOP", "MOST", "LEAST", "PER", "BY", "SPREAD", "LIST", "WHICH", "DISTINCT")


def _memos(frame: Frame) -> Meaning | None:
    """How many memos were written."""
    if not frame.fits("MEMO", "HOWMANY TOTAL WRITE SEND") or not frame.has("HOWMANY", "TOTAL") or not frame.tags["MEMO"].is_plural or frame.accounts:
        return None
    query = Query(ast.INSTRUCTIONS, (ast.counted("memos"),), filters=(ast.HAS_MEMO,), window=frame.reading.window)
    return Meaning("count", query, "memos", ("those of failed transactions are counted",))


# Movements of SOL and tokens

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
    filters.append(Compare("t.value", threshold.operator, _integer(units)))
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


def _transfers_counted(frame: Frame) -> Meaning | None:
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


def _volume(frame: Frame) -> Meaning | None:
    """How much of an asset moved, was burned or was minted."""
    if not frame.fits("", f"HOWMUCH HOWMANY WHICH SIZE {_AGGREGATE_TAGS} {_MOVE_TAGS}") or not frame.has(
        "VOLUME", "TRANSFER", "SEND", "RECEIVE", "BURN", "MINTED"
    ):
        return None
    shapes = [aggregate for tag, aggregate in _AGGREGATES.items() if frame.has(tag) and tag != "TOTAL"]
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


_OFTEN = ("most often", "most frequently", "most times", "the most times")


def _supply(frame: Frame) -> Meaning | None:
    """How often was burned or minted, of one mint or by mint or slot."""
    if not frame.fits("", "HOWMANY TOTAL BURN MINTED ASSET MINTS SLOT SUCCESS PER BY WHICH LIST TOP MOST") or frame.has("BURN") == frame.has("MINTED"):
        return None
    word = frame.text("BURN") or frame.text("MINTED")
    is_event = word == "burns" or word.endswith(("operations", "events"))
    if not (is_event or frame.text("MOST") in _OFTEN) or frame.accounts or frame.programs or frame.reading.threshold is not None:
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


def _distinct_moved(frame: Frame) -> Meaning | None:
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


def _largest_transfers(frame: Frame) -> Meaning | None:
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
    return Meaning("transfers", query, _some(words[rank], limit, moves.about), (_MOVED,), ordered=True)


def _some(word: str, limit: int, about: str) -> str:
    return f"{word} {f'{limit} ' if limit > 1 else ''}of the {about}"


_MOVE_DIMENSIONS = {"MINTS": ast.MINT, "SENDER": ast.SENDER, "RECEIVER": ast.RECEIVER, "SLOT": ast.SLOT}


def _transfers_ranked(frame: Frame) -> Meaning | None:
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
    by = _TIMES.get(frame.tags["TIME"].value) if is_time else _MOVE_DIMENSIONS[named[0]]
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


def _balance(frame: Frame) -> Meaning | None:
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


def _pairs(frame: Frame) -> Meaning | None:
    """Swaps of one asset for another."""
    if frame.pair is None or not frame.fits("KIND PAIR", "HOWMANY TXN ANY LIST WHICH SUCCESS TOTAL") or frame.accounts or frame.programs:
        return None
    sold, bought = (_as_swapped(each) for each in frame.pair)
    filters: tuple[Filter, ...] = (Compare("d.sold", "=", sold), Compare("d.bought", "=", bought))
    about = f"successful swaps of {frame.registry.names.get(sold, sold)} for {frame.registry.names.get(bought, bought)}"
    if frame.has("LIST", "WHICH"):
        query = Query(ast.LABELLED, _ROW, filters=filters, window=frame.reading.window, rows=True, limit=frame.reading.limit or LIST_ROWS)
        return Meaning("list", query, about)
    column = ast.EXISTS if frame.has("ANY") else ast.counted("swaps")
    return Meaning("exists" if frame.has("ANY") else "count", Query(ast.LABELLED, (column,), filters=filters, window=frame.reading.window), about)


def _as_swapped(asset: Asset | None) -> str:
    """As `documents.sold` has it."""
    return "SOL" if asset is None or is_native(asset) or asset.mint == NATIVE_MINT else asset.mint or "SOL"


# Blocks, slots, leaders, rewards


def _one_slot(frame: Frame) -> int | None:
    window = frame.reading.window
    return window.first if frame.reading.said_window.startswith("slot ") and window.first == window.last and not window.has_time else None


def _block(frame: Frame) -> Meaning | None:
    """A fact of one block: of the slot that is named, or of the first or the last that is here."""
    slot, tip = _one_slot(frame), frame.reading.tip
    window, end = frame.reading.window, ""
    is_end = frame.has("SLOT") and not frame.tags["SLOT"].is_plural and frame.has("FIRST") != frame.has("LAST")
    if slot is None and is_end and tip is not None and not frame.reading.said_window and frame.reading.limit is None and frame.has("LEADER", "HASH", "HEIGHT", "PARENT", "PRODUCE"):
        slot = tip.first_slot if frame.has("FIRST") else tip.last_slot
        window, end = ast.Window(slot, slot), f", the {'first' if frame.has('FIRST') else 'latest'} block that is here"
        frame = _without(frame, "SLOT", "FIRST", "LAST", "NOW")
    if slot is None or frame.accounts or frame.programs:
        return None
    wanted = {
        "LEADER": ("WHICH PRODUCE", (ast.LEADER,), "leader"),
        "HASH": ("WHICH", (Column("block_hash", "t.block_hash", "text"),), "hash"),
        "HEIGHT": ("WHICH", (Column("height", "t.height", "number"),), "height"),
        "PARENT": ("WHICH", (Column("parent_slot", "t.parent_slot", "slot"),), "parent slot"),
        "WHEN": ("PRODUCE LAND", (Column("block_timestamp", "t.block_timestamp", "time"),), "time"),
        "STATUS": ("WHICH", (), "state"),
    }
    if frame.fits("WHICH PRODUCE") and frame.text("WHICH") == "who":
        frame = replace(frame, tags=frame.tags | {"LEADER": Lexeme("LEADER", "leader")})
    for tag, (may, columns, said) in wanted.items():
        if frame.fits(tag, may) and columns:
            return Meaning("block", Query(ast.BLOCKS, columns, window=window, rows=True), f"{said} of slot {slot}{end}")
    if frame.fits("STATUS", "WHICH") or frame.fits("SKIP LAND OR", "SLOT NOT"):
        state = Column("state", "t.state", "text")
        return Meaning("block", Query(ast.SLOTS, (state,), window=window, rows=True), f"state of slot {slot}")
    if frame.fits("SKIP", "SLOT"):
        column = Column("skipped", "t.state = 'skipped'", "yes")
        return Meaning("block", Query(ast.SLOTS, (column,), window=frame.reading.window, rows=True), f"whether slot {slot} was skipped")
    return None


def _end(frame: Frame) -> Meaning | None:
    """The first or the last block."""
    if (
        not frame.fits("SLOT", "FIRST LAST WHICH NOW HAVE WHEN PRODUCE LAND")
        or frame.has("FIRST") == frame.has("LAST")
        or frame.accounts
        or frame.programs
    ):
        return None
    if frame.reading.said_window or frame.reading.limit is not None or frame.tags["SLOT"].is_plural or frame.text("WHICH") == "who":
        return None
    order = "t.slot" if frame.has("FIRST") else "t.slot desc"
    column = Column("block_timestamp", "t.block_timestamp", "time") if frame.has("WHEN") else ast.BLOCK_SLOT
    word = "first" if frame.has("FIRST") else "latest"
    query = Query(ast.BLOCKS, (column,), window=frame.reading.window, order=(order,), limit=1, rows=True)
    return Meaning("end", query, f"{'time of the ' if frame.has('WHEN') else ''}{word} block that is here")


def _skipped(frame: Frame) -> Meaning | None:
    """Slots that were skipped: how many, which, what share."""
    if not frame.fits("SKIP", "SLOT HOWMANY WHICH LIST ANY RATE HAVE TOTAL") or frame.accounts or frame.programs or not frame.has("SLOT", "RATE"):
        return None
    window = frame.reading.window
    if frame.has("RATE"):
        column = ast.share("skipped_percent", "t.state = 'skipped'")
        return Meaning("share", Query(ast.SLOTS, (column,), window=window), "share of slots that were skipped")
    skipped: tuple[Filter, ...] = (ast.IS_SKIPPED,)
    if frame.has("HOWMANY", "TOTAL"):
        return Meaning("count", Query(ast.SLOTS, (ast.counted("slots"),), filters=skipped, window=window), "slots that were skipped")
    if frame.has("ANY"):
        return Meaning("exists", Query(ast.SLOTS, (ast.EXISTS,), filters=skipped, window=window), "slots that were skipped")
    query = Query(ast.SLOTS, (ast.BLOCK_SLOT,), filters=skipped, window=window, rows=True, limit=frame.reading.limit)
    return Meaning("list", query, "slots that were skipped")


def _blocks(frame: Frame) -> Meaning | None:
    """How many blocks, of a leader or of all; how many leaders; transactions in the mean block."""
    window = frame.reading.window
    if frame.programs or not frame.plays("leader", "by", "bare", "of"):
        return None
    filters: tuple[Filter, ...] = tuple(Compare("t.leader", "=", account) for account in frame.accounts.values())
    of = "".join(f" of leader {account}" for account in frame.accounts.values())
    if frame.fits("HOWMANY SLOT", "PRODUCE LEADER TOTAL") and frame.text("SLOT").startswith("block") and (frame.accounts or not frame.has("LEADER")):
        return Meaning("count", Query(ast.BLOCKS, (ast.counted("blocks"),), filters=filters, window=window), f"blocks{of}")
    if frame.fits("HOWMANY LEADER", "DISTINCT") and not frame.accounts:
        return Meaning("distinct", Query(ast.BLOCKS, (Column("leaders", "count(distinct t.leader)"),), window=window), "different leaders")
    if frame.fits("TXN MEAN PER SLOT", "HOWMANY WHICH") and not frame.accounts:
        column = ast.number("mean", "transactions", "t.transaction_count")
        return Meaning("aggregate", Query(ast.BLOCKS, (column,), window=window), "mean transactions of a block", ("votes are counted",))
    return None


def _leaders(frame: Frame) -> Meaning | None:
    """Leaders by blocks or by rewards."""
    if (
        not frame.fits("LEADER", "TOP MOST LEAST PER BY WHICH LIST HOWMANY HOWMUCH TOTAL SLOT PRODUCE REWARD HAVE FEE")
        or frame.accounts
        or frame.programs
    ):
        return None
    if not frame.has("TOP", "MOST", "LEAST", "PER", "BY") or frame.has("FEE"):
        return None
    if not frame.has("SLOT", "REWARD", "PRODUCE") and not frame.has("TOP"):
        return None
    rewards = frame.has("REWARD")
    column = ast.amount("total", "rewards", "t.leader_reward") if rewards else ast.counted("blocks")
    ranked = frame.has("TOP", "MOST", "LEAST")
    direction = "asc" if frame.has("LEAST") else "desc"
    limit = frame.reading.limit or ((LIST_ROWS if frame.tags["LEADER"].is_plural else 1) if ranked else None)
    order = (f"{column.name} {direction} nulls last", "leader") if ranked else ()
    query = Query(ast.BLOCKS, (column,), by=(ast.LEADER,), filters=(ast.HAS_LEADER,), window=frame.reading.window, order=order, limit=limit)
    return Meaning("ranking" if ranked else "grouped", query, f"leaders by {'rewards' if rewards else 'blocks'}", ordered=ranked)


def _reward_figures(frame: Frame) -> Meaning | None:
    """The mean or median reward of a block, or the blocks with the highest or lowest."""
    if not frame.fits("REWARD", "SLOT PER BY MEAN MEDIAN BIG SMALL MOST LEAST TOP WHICH LIST HAVE SOL") or frame.accounts or frame.programs:
        return None
    means = [_AGGREGATES[tag] for tag in ("MEAN", "MEDIAN") if frame.has(tag)]
    ends = [tag for tag in ("BIG", "SMALL", "MOST", "LEAST", "TOP") if frame.has(tag)]
    known, window = (Fact("t.leader_reward is not null"),), frame.reading.window
    asks_which = frame.has("LIST") or frame.text("WHICH") in ("which", "who")
    if len(means) == 1 and not ends and not asks_which and frame.has("SLOT") >= frame.has("PER"):
        column = ast.amount(means[0], "reward", "t.leader_reward")
        return Meaning("aggregate", Query(ast.BLOCKS, (column,), filters=known, window=window), f"{means[0]} reward of a block")
    if means or not ends or frame.has("PER") or not frame.has("SLOT") or (frame.has("BY") and not frame.has("TOP")):
        return None
    column = Column("reward", ast.whole("t.leader_reward", 9), "sol", "SOL")
    direction = "asc" if frame.has("SMALL", "LEAST") else "desc"
    limit = frame.reading.limit or (LIST_ROWS if frame.tags["SLOT"].is_plural else 1)
    columns = (ast.BLOCK_SLOT, ast.LEADER, column)
    query = Query(ast.BLOCKS, columns, filters=known, window=window, order=(f"t.leader_reward {direction}", "t.slot"), limit=limit, rows=True)
    return Meaning("extreme", query, f"{'lowest' if direction == 'asc' else 'highest'} rewards of blocks", ordered=True)


def _rewards(frame: Frame) -> Meaning | None:
    """What was paid in rewards, to an account or to all."""
    if (
        not frame.fits("REWARD", "HOWMUCH TOTAL LEADER SOL WHICH PAY LAMPORT RECEIVE SLOT")
        or frame.programs
        or not frame.plays("leader", "of", "bare", "by", "to", "receiver")
    ):
        return None
    if len(frame.accounts) > 1 or not (frame.has("HOWMUCH", "TOTAL") or frame.tags["REWARD"].is_plural):
        return None
    if (frame.has("LEADER") and not frame.accounts) or (frame.has("SLOT") and not frame.reading.said_window):
        return None
    filters: tuple[Filter, ...] = tuple(Compare("t.pubkey", "=", account) for account in frame.accounts.values())
    column = (
        ast.amount("total", "rewards_lamports", "t.lamports", "lamports", "lamports")
        if frame.has("LAMPORT")
        else ast.amount("total", "rewards", "t.lamports")
    )
    about = "total rewards" + "".join(f" of {account}" for account in frame.accounts.values())
    return Meaning("rewards", Query(ast.REWARDS, (column,), filters=filters, window=frame.reading.window), about)


# Comparisons

_SIDES = "COMPARE MORE MOST WHICH HAVE AND OR BY HOWMANY"


def _compared(frame: Frame) -> Meaning | None:
    """Two programs or two slots by a number of transactions."""
    tags = {tag: each for tag, each in frame.tags.items() if tag not in ("COMPARE", "MORE", "AND", "OR", "BY", "HAVE", "MOST")}
    rest = replace(frame, tags=tags)
    if not frame.has("COMPARE", "MORE", "MOST") or frame.accounts or not rest.fits("", f"HOWMANY WHICH SLOT {_FILTERS}"):
        return None
    if len(frame.programs) == 2 and not frame.reading.slots and not frame.has("SLOT"):
        chosen = _transactions(replace(rest, programs=()))
        if chosen is None or chosen.source is not ast.TRANSACTIONS:
            return None
        both = ast.Among("i.program_id", frame.programs)
        query = _query(frame, chosen, ast.COUNT, source=ast.CALLED, extra=(both,), by=(ast.PROGRAM,), order=("transactions desc", "program_id"))
        return Meaning("compared", query, f"{chosen.about} of each", (*chosen.notes, "one that is not listed has none"), ordered=True)
    if len(frame.reading.slots) == 2 and not frame.programs and frame.has("TXN", "VOTE", "FAIL", "SUCCESS", "KIND"):
        chosen = _transactions(rest)
        if chosen is None:
            return None
        both = ast.Among("t.block_slot", frame.reading.slots)
        query = _query(frame, chosen, ast.COUNT, extra=(both,), by=(ast.SLOT,), order=("transactions desc", "block_slot"))
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
    _signature, _block, _end, _skipped, _blocks, _leaders, _reward_figures, _rewards, _balance, _pairs, _compared, _transfers_ranked, _distinct_moved, _transfers_counted, _supply, _volume,
    _largest_transfers, _instructions, _memos, _share, _distinct, _extreme, _ranking, _grouped, _aggregate, _first_last, _exists, _list, _count,
)  # fmt: skip
"""The most special first."""
