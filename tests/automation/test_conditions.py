"""The automation conditions, by real ticks: tick, run what it asks for, tick again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from blyan.schemas import RAW_BLOCKS
from blyan.settings import Settings, load_settings
from blyan.solana.ingest import DERIVED
from blyan.solana.slots import SlotRange
from blyan.solana.sources import RawRecord, SlotState, open_source
from blyan_assets.build import build_defs
from blyan_assets.checks import asset_key
from resources.lake import LakeResource
from tests.assets.conftest import Small

FIRST, SECOND = "000000000000", "000000000004"
RAW = asset_key(RAW_BLOCKS)
TABLES = {asset_key(table) for table in DERIVED}
RANGE = frozenset({RAW, *TABLES})
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Source:
    """The embedded source, which may not know some slots yet, or be wrong of some; also the resource that opens it."""

    settings: Settings
    name: str = "embedded"
    unknown: set[int] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)

    @contextmanager
    def open(self) -> Iterator[Source]:
        yield self

    def genesis_hash(self) -> str | None:
        return open_source(self.settings).genesis_hash()

    def states(self, slots: SlotRange) -> list[SlotState]:
        return [self._state(slot, state) for slot, state in zip(slots, open_source(self.settings).states(slots), strict=True)]

    def read(self, slots: SlotRange) -> Iterator[RawRecord]:
        for record in open_source(self.settings).read(slots):
            state = self._state(record.slot, record.state)
            yield record if state is record.state else RawRecord(record.slot, state, "not recorded")

    def _state(self, slot: int | None, state: SlotState) -> SlotState:
        return SlotState.UNKNOWN if slot in self.unknown else SlotState.SKIPPED if slot in self.skipped else state


class Harness:
    """The graph, Dagster's records, and the cursor that ticks leave behind."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance = settings, instance
        self.source = Source(settings)
        self.definitions = build_defs(settings=settings, resources={"source": self.source, "embedder": Small()}, with_marts=False)
        self.cursor = None

    def tick(self, keys: Set[dg.AssetKey] = RANGE) -> set[tuple[dg.AssetKey, str]]:
        """What automation asks for now, of these assets."""
        result = dg.evaluate_automation_conditions(self.definitions, self.instance, asset_selection=dg.AssetSelection.all(), cursor=self.cursor)
        self.cursor = result.cursor
        return {(key, partition) for key in keys for partition in result.get_requested_partitions(key)}

    def run(self, job: str, key: str, selection: list[dg.AssetKey] | None = None, tags: Mapping[str, str] | None = None) -> bool:
        """Run a job for one range, or only some assets of it."""
        made = self.definitions.resolve_job_def(job)
        return made.execute_in_process(
            instance=self.instance, partition_key=key, asset_selection=selection, tags=tags, run_config=QUIET, raise_on_error=False
        ).success


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    settings = load_settings(lake=str(tmp_path / "lake"), horizon_slot=12, slots_per_range=4, embedded_transactions_per_slot=2)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Harness(settings, instance)


def every_table_of(key: str) -> set[tuple[dg.AssetKey, str]]:
    return {(table, key) for table in TABLES}


def test_nothing_is_asked_for_in_an_empty_lake(harness: Harness) -> None:
    assert [harness.tick(), harness.tick()] == [set(), set()]


def test_raw_blocks_that_land_alone_are_followed_by_their_range_and_no_other(harness: Harness) -> None:
    harness.tick()
    assert harness.run("ingest_range", FIRST, [RAW])

    assert harness.tick() == every_table_of(FIRST)
    assert harness.run("normalise_range", FIRST)
    assert harness.tick() == set()


def test_a_whole_ingest_leaves_nothing_to_follow(harness: Harness) -> None:
    harness.tick()
    assert harness.run("ingest_range", FIRST)

    assert harness.tick() == set()


def test_the_same_blocks_again_are_not_followed(harness: Harness) -> None:
    assert harness.run("ingest_range", FIRST)
    harness.tick()
    assert harness.run("ingest_range", FIRST, [RAW])

    assert harness.tick() == set()


def test_a_slot_that_the_source_knows_later_is_followed_once(harness: Harness) -> None:
    harness.source.unknown = {2}
    harness.run("ingest_range", FIRST)
    harness.run("ingest_range", SECOND)
    harness.tick()
    harness.source.unknown = set()
    assert harness.run("ingest_range", FIRST, [RAW])

    assert harness.tick() == every_table_of(FIRST)
    assert harness.run("normalise_range", FIRST)
    assert [harness.tick(), harness.tick()] == [set(), set()]


def test_a_whole_ingest_that_changes_some_tables_leaves_nothing_to_follow_for_the_others(harness: Harness) -> None:
    harness.source.unknown = {2}
    harness.run("ingest_range", FIRST)
    harness.tick()
    harness.source.unknown = set()
    assert harness.run("ingest_range", FIRST)

    assert harness.tick() == set()


def test_a_range_that_fails_is_asked_for_once_and_not_for_ever(harness: Harness) -> None:
    harness.tick()
    assert harness.run("ingest_range", FIRST, [RAW])
    assert harness.tick() == every_table_of(FIRST)
    lake = LakeResource.of(harness.settings).open()
    lake.store.delete(f"{RAW_BLOCKS.name}/{file.name}" for file in lake.files(RAW_BLOCKS))

    assert not harness.run("normalise_range", FIRST)
    assert [harness.tick(), harness.tick(), harness.tick()] == [set(), set(), set()]
