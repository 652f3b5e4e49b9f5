"""What is wrong with the node, on request.

Belongs here: the faults of the node and of its transport, all off by default. Does not belong here: what happens to the chain,
such as forks and skipped slots (`blyan.solana.localnet.ledger`, `Plan`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Faults:
    """Set any of them at any time; the next request or notification is under it.

    Attributes:
        seed: what the notifications to disturb are drawn from, for each connection by its number.
        refuse_next: this many HTTP requests are answered 429; counts down.
        refuse_every: every n-th HTTP request is answered 429; 0 is none.
        retry_after_s: seconds in the Retry-After of a 429; None leaves the header out.
        slow_ms: milliseconds before any answer.
        break_every: every n-th HTTP request has its connection closed before any answer; 0 is none.
        half_open: connections are accepted and nothing is ever answered, neither requests nor pings.
        drop_slots: share of slot notifications that are never sent, 0 to 1.
        duplicate_slots: share of slot notifications that are sent twice.
        reorder_slots: share of slot notifications that are sent after the one that follows.
        delay_slots_ms: milliseconds by which every slot notification is late.
        refuse_blocks: blockSubscribe is answered -32601, as by a node that was not started with it.
        drop_blocks: share of block notifications that are never sent, 0 to 1.
        delay_blocks_ms: milliseconds by which every block notification is late.
        lag_blocks: the node answers as it would have, this many blocks ago.
        unready_blocks: this many getBlock calls are answered -32014; counts down.
        long_term_storage: skipped slots are answered -32009 instead of -32007.
    """

    seed: int = 0
    refuse_next: int = 0
    refuse_every: int = 0
    retry_after_s: float | None = 1
    slow_ms: float = 0
    break_every: int = 0
    half_open: bool = False
    drop_slots: float = 0
    duplicate_slots: float = 0
    reorder_slots: float = 0
    delay_slots_ms: float = 0
    refuse_blocks: bool = False
    drop_blocks: float = 0
    delay_blocks_ms: float = 0
    lag_blocks: int = 0
    unready_blocks: int = 0
    long_term_storage: bool = False
