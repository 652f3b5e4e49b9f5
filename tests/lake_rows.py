"""Rows for tests of the lake: small, exact, and different where a test needs them to be."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import pyarrow as pa

from blyan.schemas import BLOCK_REWARDS, Column, Table

NESTED = pa.list_(
    pa.field("element", pa.struct([("name", pa.string()), ("amount", pa.decimal128(20, 0)), ("places", pa.list_(pa.field("element", pa.int64())))]))
)

EVERY_TYPE = Table(
    "test/every_type",
    "Every type that a table of the lake may have.",
    (
        Column("slot", pa.int64(), "Slot."),
        Column("name", pa.string(), "Second part of the key.", nullable=False),
        Column("flag", pa.bool_(), "Truth."),
        Column("number", pa.int64(), "Integer."),
        Column("amount", pa.decimal128(20, 0), "Exact."),
        Column("moment", pa.timestamp("us", tz="UTC"), "Time."),
        Column("raw", pa.binary(), "Bytes."),
        Column("share", pa.float64(), "Fraction."),
        Column("texts", pa.list_(pa.field("element", pa.string())), "Texts."),
        Column("nested", NESTED, "Structs with lists in lists."),
        Column("note", pa.string(), "Not part of the digest.", in_digest=False),
    ),
    ("slot", "name"),
)

LEDGER = Table(
    "test/ledger",
    "A log.",
    (Column("height", pa.int64(), "Height.", nullable=False), Column("body", pa.string(), "What happened.")),
    ("height",),
    partition_by=(),
)

CODED = pa.dictionary(pa.int32(), pa.string())


def rewards(slots: Iterable[int], *, each: int = 2, lamports: int = 5, pubkey: str = "account") -> pa.Table:
    """`each` rewards for every slot, some of them awkward: above 2^63, negative, null."""
    places = [(slot, index) for slot in slots for index in range(each)]
    amounts = [Decimal(2**64 - 1) if slot % 7 == 3 else Decimal(-lamports if index else lamports) for slot, index in places]
    return pa.table(
        {
            "block_slot": pa.array([slot for slot, _ in places], pa.int64()),
            "block_hash": pa.array([f"hash of {slot}" for slot, _ in places], pa.string()),
            "block_timestamp": pa.array(
                [None if slot % 5 == 0 else 1_700_000_000_000_000 + slot for slot, _ in places], pa.timestamp("us", tz="UTC")
            ),
            "commission": pa.array([None if index else 7 for _, index in places], pa.int64()),
            "lamports": pa.array(amounts, pa.decimal128(20, 0)),
            "post_balance": pa.array([Decimal(slot) for slot, _ in places], pa.decimal128(20, 0)),
            "pubkey": pa.array([f"{pubkey} {index}" for _, index in places], pa.string()).cast(CODED),
            "reward_type": pa.array([None if slot % 3 == 0 else "Fee" for slot, _ in places], pa.string()),
            "index": pa.array([index for _, index in places], pa.int64()),
        }
    )


REWARDS = BLOCK_REWARDS
"""The table of `rewards`."""
