"""Ranges as the follower leaves them, without a follower.

Belongs here: landing and sealing the embedded chain's own blocks. Does not belong here: how slots become final.
"""

from __future__ import annotations

from blyan.lake import Lake
from blyan.settings import Settings
from blyan.solana.landing import Head, Landing
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source


def land_slots(settings: Settings, slots: SlotRange, *, final: bool = True) -> Head:
    """Land these slots as the node of the settings has them, and seal the ranges that are over; none where they are not final yet."""
    lake, source = Lake.from_settings(settings), open_source(settings)
    lake.pin("genesis_hash", source.genesis_hash())
    landing = Landing(lake, settings.grid, source="rpc")
    landing.open(slots.first)
    landing.advance(list(source.read(slots)))
    if final:
        landing.advance([], checkpoint=slots.last + 1, finalized=slots.last)
        landing.seal()
    return landing.head
