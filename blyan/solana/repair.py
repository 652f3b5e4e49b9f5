"""Which ranges that drifted are made again, how, and how often.

Belongs here: the decision, from what an inventory found and what the one before it decided. Does not belong here: finding drift
(`blyan.solana.inventory`, `blyan.solana.audit`), or running anything.

A range is repaired once. While it still drifts after that it is listed, until it was seen to agree. What the source has to give
again is asked for only where reading it again loses nothing: a node that has pruned a range would leave its slots unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec
from msgspec import Struct

from blyan.schemas import RAW_BLOCKS, TEXTS
from blyan.solana.inventory import CHAIN_DRIFTS, CORPUS_DRIFTS, LOST, OTHER_CONTENT, UNRECORDED, Inventory

REPAIRS = 8
"""Ranges that one inventory has made again at most."""

OF_TABLES = (LOST, OTHER_CONTENT, UNRECORDED, *CHAIN_DRIFTS)
"""Drift of the tables that all else is made from."""

REPAIRED = (*OF_TABLES, *CORPUS_DRIFTS.values())
"""Drift that making a range again sets right. The landing's own is for what follows it (`blyan_sensors`), and lists itself."""

FORMAT = 2


class Plan(Struct, frozen=True):
    """What is done about the ranges that drifted; keys, in order.

    Attributes:
        ingest: to be read from the source, or the landing, and made again with every table.
        normalise: to be made again from their raw blocks, which agree.
        corpus: of which only these tables of the corpus are to be made again, by range.
        later: over the bound; the next inventory comes to them.
        failed: repaired before, and not seen to agree since.
        unreadable: the source cannot give all of them again.
    """

    ingest: list[str] = []
    normalise: list[str] = []
    later: list[str] = []
    failed: list[str] = []
    unreadable: list[str] = []
    corpus: dict[str, list[str]] = {}
    format: int = FORMAT

    def asked(self) -> list[str]:
        """The ranges that are made again."""
        return sorted([*self.ingest, *self.normalise, *self.corpus])


def read_plan(value: object) -> Plan:
    """A plan as it was recorded; an empty one where it is of another format: what was repaired may be so once more."""
    try:
        plan = msgspec.convert(value, Plan)
    except msgspec.ValidationError:
        return Plan()
    return plan if plan.format == FORMAT else Plan()


def plan_repairs(
    drift: Mapping[str, Collection[str]],
    inventory: Inventory,
    *,
    recorded: Mapping[str, str],
    before: Plan,
    ran: Collection[str],
    busy: Collection[str],
    unseen: Callable[[str], bool],
    readable: Callable[[str], bool],
    limit: int = REPAIRS,
) -> Plan:
    """Decide.

    Args:
        drift: ranges by kind of drift.
        inventory: what the lake has.
        recorded: content of the raw blocks of each range that is on record.
        before: what the last inventory decided.
        ran: ranges that it asked for and that had their run.
        busy: ranges that are being made, of which nothing is known yet.
        unseen: whether a range that shows no drift may have some, since the chain was not asked about it this time.
        readable: whether making a range again loses nothing; asked of at most `limit` ranges.
        limit: ranges to make again at most.
    """
    known = set(inventory.grid.keys())
    of_tables = {key for kind in OF_TABLES for key in drift.get(kind, ())}
    drifting = {key for kind in REPAIRED for key in drift.get(kind, ()) if key in known}
    # A corpus that drifts after a repair of its tables was not repaired yet.
    tried = {key for key in (*ran, *before.failed) if key in of_tables or key not in (*before.ingest, *before.normalise)}
    failed = {key for key in (*ran, *before.failed) if (key in drifting and key in tried) or key in busy or unseen(key)}
    raw = inventory.partitions[RAW_BLOCKS.name]
    of_chain = {key for kind in CHAIN_DRIFTS for key in drift.get(kind, ())}
    # What could not be read comes last, so that it does not stand before others for ever.
    waiting = sorted(drifting - failed, key=lambda key: (key in before.unreadable, key))
    ingest, normalise, corpus, unreadable = [], [], {}, []
    for key in waiting[:limit]:
        if key not in of_tables:
            corpus[key] = _together([table for table, kind in CORPUS_DRIFTS.items() if key in drift.get(kind, ())])
        elif key not in of_chain and key in raw and raw[key].digest == recorded.get(key):
            normalise.append(key)
        elif readable(key):
            ingest.append(key)
        else:
            unreadable.append(key)
    return Plan(ingest, normalise, sorted(waiting[limit:]), sorted(failed), unreadable, corpus)


def _together(tables: list[str]) -> list[str]:
    """These tables of the corpus, and those that are only made with them."""
    texts = [table.name for table in TEXTS]
    return [*texts, *(table for table in tables if table not in texts)] if set(texts) & set(tables) else tables
