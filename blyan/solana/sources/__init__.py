"""Where blocks come from: the protocol, and the choice of a source by the settings.

Belongs here: `BlockSource`, `RawRecord` and `open_source`. Does not belong here: any one source;
each has a module of its own, imported only when the settings choose it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from blyan.settings import Settings
from blyan.solana.slots import SlotRange


class SlotState(StrEnum):
    """What a source knows of a slot."""

    PRESENT = "present"
    """A block, whose bytes are in the record."""
    SKIPPED = "skipped"
    """Proven to have no block: its leader produced none."""
    UNKNOWN = "unknown"
    """Neither: not recorded, pruned, unreadable, or in conflict. `proof` says which."""
    REJECTED = "rejected"
    """Bytes the source gave that cannot be a block; an extra record, never a slot's state."""


class Format(StrEnum):
    """The shape of a payload, so that the decoder need not guess."""

    GET_BLOCK = "getBlock"
    """A getBlock response: bare result or JSON-RPC envelope, any encoding and detail."""
    GET_TRANSACTION = "getTransaction"
    """A JSON array of getTransaction responses of one slot: part of a block, without its header."""
    BIGQUERY = "bigquery"
    """Rows of the public BigQuery dataset for one block, as one JSON object."""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record of a source, verbatim.

    Attributes:
        slot: the slot; None only for a rejected record whose slot cannot be told.
        state: what the source knows of the slot.
        proof: how it knows, such as `getBlocks`, `rpc -32007`, `parent link of 64800004`; for a rejected
            record a short stable reason code (`truncated`, `wrong_slot`, `gzip_bomb`, …).
        payload: the bytes as the source gave them, not compressed; empty if the slot has no block.
        format: the shape of `payload`.
        block_hash: the block's hash where the source could tell it.
        parent_slot: the block's parent slot where the source could tell it.
        detail: for a rejected or unknown record, what was wrong, in words, and the remedy.
        origin: where it came from (path and line, URL), for people; not part of any digest.
    """

    slot: int | None
    state: SlotState
    proof: str
    payload: bytes = b""
    format: Format = Format.GET_BLOCK
    block_hash: str | None = None
    parent_slot: int | None = None
    detail: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What `blyan source check` prints: whether the source answers, and what it has."""

    name: str
    where: str
    genesis_hash: str | None
    first_slot: int | None
    last_slot: int | None
    detail: str = ""


@runtime_checkable
class BlockSource(Protocol):
    """Slots of a range, and their blocks.

    Every source gives the same rows for the same block, whatever encoding it speaks.
    """

    name: str

    def check(self) -> SourceReport:
        """Reach the source and say what it has.

        Raises:
            SettingError: the setting that names it is wrong.
            SourceUnreachableError: it does not answer.
        """
        ...

    def genesis_hash(self) -> str | None:
        """The chain's genesis hash, or None where the source cannot tell (a folder of files)."""
        ...

    def states(self, slots: SlotRange) -> list[SlotState]:
        """PRESENT, SKIPPED or UNKNOWN for each slot of the range, in order, without reading blocks."""
        ...

    def read(self, slots: SlotRange) -> Iterator[RawRecord]:
        """Stream the range: one record per slot in ascending order, and beside them any number of REJECTED records.

        A bad record never stops the stream; a TransientError does, and the range is read again.
        """
        ...


def open_source(settings: Settings) -> BlockSource:
    """The source that the settings choose; nothing is contacted yet."""
    match settings.source:
        case "archive":
            from blyan.solana.sources.archive import ArchiveSource

            return ArchiveSource.from_settings(settings)
        case "rpc":
            from blyan.solana.sources.rpc import RpcSource

            return RpcSource.from_settings(settings)
        case "bigquery":
            from blyan.solana.sources.bigquery import BigQuerySource

            return BigQuerySource.from_settings(settings)
        case "embedded":
            from blyan.solana.sources.embedded import EmbeddedSource

            return EmbeddedSource.from_settings(settings)
