"""A few blocks of the embedded chain as recorded files, through the lake and back as rows.

Belongs here: making the files in every form that nodes give, running a range, reading what it made. Does not belong
here: what should come of it, which the tests say.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from blyan import schemas
from blyan.lake import Commit, Lake
from blyan.solana import base58
from blyan.solana.ingest import DERIVED, Normalised, land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources import BlockSource
from blyan.solana.sources.archive import ArchiveSource
from blyan.solana.sources.embedded import EmbeddedSource

PER_TRANSACTION = {
    schemas.TRANSACTIONS: "index",
    schemas.INSTRUCTIONS: "tx_index",
    schemas.TOKEN_TRANSFERS: "tx_index",
    schemas.BALANCE_CHANGES: "tx_index",
}
"""Tables with rows of a transaction, and the column that has its place in the block."""

Rows = dict[str, list[dict[str, Any]]]


@cache
def recorded(last: int, transactions: int) -> dict[int, bytes]:
    """Blocks of slots 0 to `last`, by slot."""
    source = EmbeddedSource(seed=1, transactions_per_slot=transactions, horizon_slot=1_000)
    return {record.slot: record.payload for record in source.read(SlotRange(0, last)) if record.slot is not None and record.payload}


def write_archive(folder: Path, blocks: Mapping[int, bytes], extra: Mapping[str, bytes] | None = None) -> Path:
    """A file for each block, named for its slot, and other files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for slot, payload in blocks.items():
        (folder / f"{slot}.json").write_bytes(payload)
    for name, payload in (extra or {}).items():
        (folder / name).write_bytes(payload)
    return folder


@dataclass
class Outcome:
    """What a run made: its commits and every row, by table."""

    lake: Lake
    slots: SlotRange
    landed: Commit
    made: Normalised
    rows: Rows

    @property
    def commits(self) -> dict[str, Commit]:
        return {schemas.RAW_BLOCKS.name: self.landed, **self.made.commits}

    @property
    def digests(self) -> dict[str, str]:
        return {name: commit.digest for name, commit in self.commits.items()}

    def quarantined(self, slot: int | None) -> list[dict[str, Any]]:
        return [row for row in self.rows[schemas.QUARANTINE.name] if row["block_slot"] == slot]

    def statement(self, slot: int) -> dict[str, Any]:
        (row,) = (row for row in self.rows[schemas.COMPLETENESS.name] if row["slot"] == slot)
        return row

    def transaction(self, slot: int, index: int) -> dict[str, Any]:
        (row,) = (row for row in self.rows[schemas.TRANSACTIONS.name] if (row["block_slot"], row["index"]) == (slot, index))
        return row


def run(source: BlockSource, lake: Lake, slots: SlotRange) -> Outcome:
    """Land and normalise a range."""
    landed = land(lake, source, slots)
    made = normalise_range(lake, slots, workers=1)
    return Outcome(lake, slots, landed, made, rows_of(lake, slots))


def run_archive(folder: Path, lake: Path, slots: SlotRange, **options: Any) -> Outcome:
    """The same from a folder of files."""
    return run(ArchiveSource(str(folder), **options), Lake(str(lake)), slots)


def rows_of(lake: Lake, slots: SlotRange) -> Rows:
    """Every row of the derived tables."""
    return {table.name: [row for batch in lake.read(table, key=slots.key) for row in batch.to_pylist()] for table in DERIVED}


def rows_without(rows: Rows, slots: Iterable[int] = (), transactions: Iterable[tuple[int, int]] = ()) -> Rows:
    """Rows of the six tables, less those of some slots and of some transactions."""
    dropped, gone = set(slots), set(transactions)
    kept: Rows = {}
    for table in schemas.NORMALISED:
        slot = "slot" if table is schemas.BLOCKS else "block_slot"
        place = PER_TRANSACTION.get(table, "")
        kept[table.name] = [row for row in rows[table.name] if row[slot] not in dropped and (row[slot], row.get(place)) not in gone]
    return kept


# Other forms of a block


def changed(payload: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The block with a change made to its JSON."""
    block = json.loads(payload)
    change(block)
    return json.dumps(block, ensure_ascii=False).encode()


def _each(payload: bytes, form: Callable[[dict[str, Any]], Any]) -> bytes:
    def change(block: dict[str, Any]) -> None:
        block["transactions"] = [form(copy.deepcopy(transaction)) for transaction in block["transactions"]]

    return changed(payload, change)


def as_base64(payload: bytes) -> bytes:
    """`encoding: base64`."""
    return _each(payload, lambda entry: {**entry, "transaction": [base64.b64encode(wire_of(entry)).decode(), "base64"]})


def as_base58(payload: bytes) -> bytes:
    """`encoding: base58`."""
    return _each(payload, lambda entry: {**entry, "transaction": [base58.encode(wire_of(entry)), "base58"]})


def wire_of(entry: dict[str, Any]) -> bytes:
    """A transaction of `encoding: json` as it goes over the wire (Solana documentation, transaction format)."""
    message = entry["transaction"]["message"]
    header = message["header"]
    signatures = [base58.decode(text) for text in entry["transaction"]["signatures"]]
    keys = [base58.decode(text) for text in message["accountKeys"]]
    out = _short(len(signatures)) + b"".join(signatures)
    if entry["version"] == 0:
        out += b"\x80"
    out += bytes((header["numRequiredSignatures"], header["numReadonlySignedAccounts"], header["numReadonlyUnsignedAccounts"]))
    out += _short(len(keys)) + b"".join(keys) + base58.decode(message["recentBlockhash"]) + _short(len(message["instructions"]))
    for instruction in message["instructions"]:
        data = base58.decode(instruction["data"])
        out += bytes((instruction["programIdIndex"],)) + _short(len(instruction["accounts"])) + bytes(instruction["accounts"])
        out += _short(len(data)) + data
    if entry["version"] == 0:
        out += _short(len(message["addressTableLookups"]))
        for lookup in message["addressTableLookups"]:
            out += base58.decode(lookup["accountKey"])
            for indexes in (lookup["writableIndexes"], lookup["readonlyIndexes"]):
                out += _short(len(indexes)) + bytes(indexes)
    return out


def _short(number: int) -> bytes:
    """Compact-u16."""
    out = b""
    while number >= 0x80:
        out, number = out + bytes((number & 0x7F | 0x80,)), number >> 7
    return out + bytes((number,))


def as_json_parsed(payload: bytes, accounts_of: Callable[[str], list[dict[str, Any]]]) -> bytes:
    """`encoding: jsonParsed` by a node that knows no program, so that every instruction is partially decoded.

    Args:
        payload: the block.
        accounts_of: accounts of the transaction with this signature, as `transactions.accounts` has them.
    """

    def parsed(entry: dict[str, Any]) -> dict[str, Any]:
        keys = accounts_of(entry["transaction"]["signatures"][0])
        message = entry["transaction"]["message"]
        message["accountKeys"] = _with_source(entry, keys)
        del message["header"]
        for group in [message, *entry["meta"]["innerInstructions"]]:
            group["instructions"] = [
                {
                    "programId": keys[item["programIdIndex"]]["pubkey"],
                    "accounts": [keys[at]["pubkey"] for at in item["accounts"]],
                    "data": item["data"],
                    "stackHeight": item["stackHeight"],
                }
                for item in group["instructions"]
            ]
        return entry

    return _each(payload, parsed)


def _with_source(entry: dict[str, Any], keys: list[dict[str, Any]]) -> list[dict[str, Any]]:
    static = len(entry["transaction"]["message"]["accountKeys"])
    return [{**key, "source": "transaction" if at < static else "lookupTable"} for at, key in enumerate(keys)]


def with_accounts(payload: bytes, accounts_of: Callable[[str], list[dict[str, Any]]]) -> bytes:
    """`transactionDetails: accounts`."""

    def accounts(entry: dict[str, Any]) -> dict[str, Any]:
        signatures = entry["transaction"]["signatures"]
        keys = _with_source(entry, accounts_of(signatures[0]))
        meta = {name: entry["meta"][name] for name in ("err", "fee", "preBalances", "postBalances", "preTokenBalances", "postTokenBalances")}
        return {"transaction": {"signatures": signatures, "accountKeys": keys}, "meta": meta, "version": entry["version"]}

    return _each(payload, accounts)


def with_signatures(payload: bytes) -> bytes:
    """`transactionDetails: signatures`."""

    def change(block: dict[str, Any]) -> None:
        block["signatures"] = [entry["transaction"]["signatures"][0] for entry in block.pop("transactions")]

    return changed(payload, change)


def without_transactions(payload: bytes) -> bytes:
    """`transactionDetails: none`."""
    return changed(payload, lambda block: block.pop("transactions"))
