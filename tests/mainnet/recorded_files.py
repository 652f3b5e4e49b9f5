"""The recorded files: what the manifest says of each, its bytes, and its rows in a lake of its own.

Belongs here: finding, reading and materialising them. Does not belong here: what must be true of them.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from blyan.lake import Lake
from blyan.schemas import Table
from blyan.solana.ingest import Normalised, land, normalise_range
from blyan.solana.invariants import Finding, check_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources.archive import ArchiveSource

SOLANA = Path(__file__).resolve().parents[3] / "shared" / "data" / "solana"


@cache
def manifest() -> tuple[dict[str, str], ...]:
    """Rows of the manifest that are blocks or transactions and tell their slot; none where the data is absent."""
    path = SOLANA / "MANIFEST.csv"
    if not path.is_file():
        return ()
    with path.open(newline="") as file:
        return tuple(row for row in csv.DictReader(file) if row["file"].startswith(("blocks/", "transactions/")) and row["slot"])


def of_mainnet(row: dict[str, str]) -> bool:
    return "network=mainnet" in row["notes"]


@dataclass
class Recorded:
    """A recorded file, materialised."""

    row: dict[str, str]
    slots: SlotRange
    lake: Lake
    normalised: Normalised

    @cached_property
    def findings(self) -> dict[str, Finding]:
        return {finding.invariant.name: finding for finding in check_range(self.lake, self.slots)}

    def table(self, table: Table) -> pa.Table:
        return pa.Table.from_batches(self.lake.read(table, key=self.slots.key), table.arrow_schema())

    def rows(self, table: Table) -> list[dict[str, Any]]:
        return self.table(table).to_pylist()

    @property
    def transactions_recorded(self) -> int:
        """What the manifest counts; its count leaves out blocks of signatures, which the notes tell."""
        signatures = re.search(r"signatures only: (\d+)", self.row["notes"])
        return int(signatures[1]) if signatures else int(self.row["n_transactions"])


def read_bytes(start: str) -> bytes:
    """The bytes of the recorded file whose path in the manifest starts so."""
    row = row_of(start)
    data = (SOLANA / row["file"]).read_bytes()
    return gzip.decompress(data) if row["file"].endswith(".gz") else data


def read_block(start: str) -> dict[str, Any]:
    """The getBlock result in a recorded file."""
    value = json.loads(read_bytes(start))
    return value.get("result", value)


def materialise(row: dict[str, str], folder: Path) -> Recorded:
    """Take a recorded file alone through the whole lake."""
    (folder / "archive").mkdir()
    (folder / "archive" / Path(row["file"]).name).symlink_to(SOLANA / row["file"])
    first, _, last = row["slot"].partition("-")
    slots, lake = SlotRange(int(first), int(last or first)), Lake(str(folder / "lake"))
    land(lake, ArchiveSource(str(folder / "archive")), slots)
    return Recorded(row, slots, lake, normalise_range(lake, slots, workers=1))


def row_of(start: str) -> dict[str, str]:
    """The row of the recorded file whose path in the manifest starts so."""
    (row,) = [row for row in manifest() if row["file"].startswith(start)]
    return row
