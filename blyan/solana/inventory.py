"""What the lake holds of the grid of ranges.

Belongs here: which ranges are complete, partial or missing, as the tables' logs tell, and where others who keep account of
ranges differ. Does not belong here: what is inside a range (`blyan.solana.ingest.statement_of`), where their accounts come
from (the chain's own: `blyan.solana.audit`), or setting anything right (`blyan.solana.repair`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from blyan.lake import Lake, Partition
from blyan.schemas import COMPLETENESS, CORPUS, RAW_BLOCKS, TOKENIZER
from blyan.solana.audit import Audit
from blyan.solana.ingest import DERIVED
from blyan.solana.slots import Grid, SlotRange

OF_CORPUS = tuple(table for table in CORPUS if table is not TOKENIZER)
"""The tables that a range of the corpus has. A tokenizer is of all ranges."""

COMPLETE, PARTIAL, MISSING = "complete", "partial", "missing"


@dataclass(frozen=True, slots=True)
class Inventory:
    """Partitions of every table of a range, by table and key; of the corpus, which a complete range may lack, the digests."""

    grid: Grid
    partitions: Mapping[str, Mapping[str, Partition]]
    corpus: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def state_of(self, key: str) -> str:
        """`complete` if every table has the range, `missing` if none has, `partial` between: a run that was cut short."""
        held = sum(key in of_table for of_table in self.partitions.values())
        return COMPLETE if held == len(self.partitions) else PARTIAL if held else MISSING

    def complete(self) -> set[str]:
        """Keys of the grid that every table has."""
        return {key for key in self.partitions[COMPLETENESS.name] if self.state_of(key) == COMPLETE}

    def runs(self) -> list[tuple[str, SlotRange, int]]:
        """The grid as neighbouring ranges of the same state: the state, the slots from first to last, and how many ranges."""
        return [_run(self.grid, state, keys) for state, keys in groupby(self.grid.keys(), key=self.state_of)]

    def off_grid(self) -> list[str]:
        """Keys in the lake that the grid does not have: it was filled with other settings."""
        known = set(self.grid.keys())
        return sorted({key for of_table in self.partitions.values() for key in of_table} - known)


def _run(grid: Grid, state: str, keys: Iterable[str]) -> tuple[str, SlotRange, int]:
    ranges = [grid.range_of(key) for key in keys]
    return state, SlotRange(ranges[0].first, ranges[-1].last), len(ranges)


def take_inventory(lake: Lake, grid: Grid) -> Inventory:
    """Read the log of every table."""
    tables = {table.name: lake.partitions(table) for table in (RAW_BLOCKS, *DERIVED)}
    corpus = {table.name: {key: partition.digest for key, partition in lake.partitions(table).items()} for table in OF_CORPUS}
    return Inventory(grid, tables, corpus)


LOST = "recorded, not in the lake"
OTHER_CONTENT = "recorded with other content than the lake has"
UNRECORDED = "in the lake, not recorded"
UNREPORTED = "sealed in the landing, not recorded so"
NOT_FOLLOWED = "sealed in the landing, and the lake has other raw blocks or none"
PARTLY = "in some tables of the lake and not in others"
OFF_GRID = "in the lake, not on the grid"
SEARCH_INDEX = "corpus/search_index"

CORPUS_DRIFTS = {name: f"{name}: recorded otherwise than the lake has it" for name in (*(table.name for table in OF_CORPUS), SEARCH_INDEX)}
"""Where the lake differs from the records about a table of the corpus, or the search index, by name."""

CHAIN_HAS_MORE = "the chain has a block where the lake has none"
CHAIN_HAS_LESS = "the lake has a block where the chain has none"
CHAIN_HAS_ANOTHER = "the lake has another block than the chain"

CHAIN_DRIFTS = (CHAIN_HAS_MORE, CHAIN_HAS_LESS, CHAIN_HAS_ANOTHER)
"""Where the lake differs from the chain itself."""

DRIFTS = (LOST, OTHER_CONTENT, UNRECORDED, UNREPORTED, NOT_FOLLOWED, PARTLY, OFF_GRID, *CORPUS_DRIFTS.values(), *CHAIN_DRIFTS)
"""Every way in which the accounts may differ."""


def find_drift(
    inventory: Inventory,
    *,
    sealed: Mapping[str, str],
    recorded: Mapping[str, Mapping[str, str]],
    reported: Mapping[str, str],
    audits: Mapping[str, Audit] | None = None,
    busy: Collection[str] = (),
) -> dict[str, list[str]]:
    """The ranges about which the lake, the landing, the records and the chain differ, by what the difference is; in order.

    Args:
        inventory: what the lake holds.
        sealed: digest of the raw blocks of each range that stands sealed in the landing.
        recorded: content that is on record, by table and range.
        reported: digest of the ranges that were recorded as sealed.
        audits: how the ranges that were looked at stand to the chain.
        busy: ranges that are being made, of which the accounts may differ for now.
    """
    lake = inventory.partitions
    raw = lake[RAW_BLOCKS.name]
    found: dict[str, set[str]] = {kind: set() for kind in DRIFTS}
    for table, held in lake.items():
        known = recorded.get(table, {})
        found[LOST] |= known.keys() - held.keys()
        found[UNRECORDED] |= held.keys() - known.keys()
        found[OTHER_CONTENT] |= {key for key in held.keys() & known.keys() if held[key].digest != known[key]}
    for table, stands in inventory.corpus.items():
        known = recorded.get(table, {})
        found[CORPUS_DRIFTS[table]] = {key for key in known.keys() | stands.keys() if stands.get(key) != known.get(key)}
    found[UNREPORTED] = {key for key, digest in sealed.items() if reported.get(key) != digest}
    found[NOT_FOLLOWED] = {key for key, digest in sealed.items() if key not in raw or raw[key].digest != digest}
    found[PARTLY] = {key for held in lake.values() for key in held if inventory.state_of(key) == PARTIAL}
    found[OFF_GRID] = set(inventory.off_grid())
    for key, audit in (audits or {}).items():
        found[CHAIN_HAS_MORE] |= {key} if audit.more else set()
        found[CHAIN_HAS_LESS] |= {key} if audit.less else set()
        found[CHAIN_HAS_ANOTHER] |= {key} if audit.other else set()
    return {kind: sorted(keys.difference(busy)) for kind, keys in found.items()}
