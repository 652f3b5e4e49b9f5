"""Questions about slots and blocks: facts of one, which were skipped, leaders, rewards.

Belongs here: what blocks have of their own. Does not belong here: transactions by slot or leader (`blyan.query.transaction_intents`).
"""

from __future__ import annotations

from dataclasses import replace

from blyan.query import query_ast as ast
from blyan.query.frame import Frame, without
from blyan.query.meaning import AGGREGATES, LIST_ROWS, Meaning
from blyan.query.query_ast import Column, Compare, Fact, Filter, Query
from blyan.query.reading import Lexeme


def _one_slot(frame: Frame) -> int | None:
    window = frame.reading.window
    return window.first if frame.reading.said_window.startswith("slot ") and window.first == window.last and not window.has_time else None


def block(frame: Frame) -> Meaning | None:
    """A fact of one block: of the slot that is named, or of the first or the last that is here."""
    slot, tip = _one_slot(frame), frame.reading.tip
    window, end = frame.reading.window, ""
    is_end = frame.has("SLOT") and not frame.tags["SLOT"].is_plural and frame.has("FIRST") != frame.has("LAST")
    if (
        slot is None
        and is_end
        and tip is not None
        and not frame.reading.said_window
        and frame.reading.limit is None
        and frame.has("LEADER", "HASH", "HEIGHT", "PARENT", "PRODUCE")
    ):
        slot = tip.first_slot if frame.has("FIRST") else tip.last_slot
        window, end = ast.Window(slot, slot), f", the {'first' if frame.has('FIRST') else 'latest'} block that is here"
        frame = without(frame, "SLOT", "FIRST", "LAST", "NOW")
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
    if frame.fits("STATUS", "WHICH") or frame.fits("SKIP LAND OR", "SLOT"):
        state = Column("state", "t.state", "text")
        return Meaning("block", Query(ast.SLOTS, (state,), window=window, rows=True), f"state of slot {slot}")
    if frame.fits("SKIP", "SLOT"):
        column = Column("skipped", "t.state = 'skipped'", "yes")
        return Meaning("block", Query(ast.SLOTS, (column,), window=frame.reading.window, rows=True), f"whether slot {slot} was skipped")
    return None


def end(frame: Frame) -> Meaning | None:
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


def skipped(frame: Frame) -> Meaning | None:
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


def blocks(frame: Frame) -> Meaning | None:
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


def leaders(frame: Frame) -> Meaning | None:
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


def reward_figures(frame: Frame) -> Meaning | None:
    """The mean or median reward of a block, or the blocks with the highest or lowest."""
    if not frame.fits("REWARD", "SLOT PER BY MEAN MEDIAN BIG SMALL MOST LEAST TOP WHICH LIST HAVE SOL") or frame.accounts or frame.programs:
        return None
    means = [AGGREGATES[tag] for tag in ("MEAN", "MEDIAN") if frame.has(tag)]
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


def rewards(frame: Frame) -> Meaning | None:
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
