"""What is asked often is answered again ahead of who asks: counts, the sensor's decision, and runs of the real graph on a real lake."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pytest

from blyan.lake import Lake
from blyan.query.cache import Answers
from blyan.query.hot_answers import ASKED, COUNTED, COUNTED_BYTES, OLD_S, Counts, Hot, Said, hottest, refresh
from blyan.query.kept_answers import KeptAnswers
from blyan.query.sql import SqlEngine
from blyan.schemas import TRANSACTIONS
from blyan.serving import Change, Generations
from blyan.settings import Settings, load_settings
from blyan.solana.ingest import land, normalise_range
from blyan.solana.slots import SlotRange
from blyan.solana.sources import open_source
from blyan_assets.build import build_defs
from blyan_sensors.invalidation import HOT_EVERY_S, wants_hot
from tests.sql_lake import SMALL

COUNT = "select count(*), sum(fee) from solana.transactions"

ALL = "select count(*) from solana.blocks"


def settings_of(root: Path, **more: Any) -> Settings:
    return load_settings(lake=str(root), horizon_slot=12, slots_per_range=4, embedded_transactions_per_slot=3, query_processes=1, **more)


def made(settings: Settings, *ranges: SlotRange) -> Lake:
    lake = Lake.from_settings(settings)
    for slots in ranges:
        land(lake, open_source(settings), slots)
        normalise_range(lake, slots)
    return lake


class Reader:
    """A process of the service: an engine with nothing in its memory, over what the lake keeps."""

    def __init__(self, lake: Lake, *, noted: Any = None) -> None:
        self._lake, self._noted = lake, noted

    def ask(self, *statements: str) -> list[tuple[list[Any], str]]:
        """Rows of each statement, and where they came from."""

        async def asked() -> list[tuple[list[Any], str]]:
            answers, found = Answers(1 << 20, [KeptAnswers(self._lake, 1 << 30)]), []
            async with SqlEngine(self._lake, processes=1, limits=SMALL, answers=answers, noted=self._noted) as engine:
                for sql in statements:
                    async with await engine.query(sql) as answer:
                        found.append(((await answer.table()).to_pylist(), answer.source))
            await answers.close()
            return found

        return asyncio.run(asked())


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lake is waited for, however busy the machine is."""
    monkeypatch.setattr(KeptAnswers, "wait_s", 60.0)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def test_what_is_asked_most_comes_first_and_what_was_asked_long_ago_counts_for_less(tmp_path: Path) -> None:
    lake, now = made(settings_of(tmp_path), SlotRange(0, 3)), [1_000.0]
    counts = Counts(lake, now=lambda: now[0])
    Reader(lake, noted=counts.note).ask(COUNT, ALL, "select  count(*) from solana.blocks -- again", ALL)
    assert not hottest(lake, 10, now=1_000.0), "nothing was said yet"
    counts.write()
    found = hottest(lake, 10, now=1_000.0)
    assert [(hot.tables, hot.asked) for hot in found] == [(("solana/blocks",), 3), (("solana/transactions",), 1)]
    assert hottest(lake, 1, now=1_000.0) == found[:1]
    Reader(lake, noted=counts.note).ask(COUNT, COUNT)
    counts.write()
    assert [hot.asked for hot in hottest(lake, 10, now=1_000.0)] == [2, 1], "what was asked before counts for half"
    assert hottest(lake, 10, now=1_000.0 + OLD_S + 1) == []
    assert lake.store.listed(ASKED) == [], "of a process that is gone"


def test_processes_count_together_and_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    hot = Hot("select 1", [], 10, 10, ("solana/blocks",), 3)
    for name in "ab":
        lake.store.put(f"{ASKED}/{name}.json", msgspec.json.encode(Said(5.0, [hot])))
    lake.store.put(f"{ASKED}/c.json", b'{"written_at": 5.0, "hot": [')
    assert hottest(lake, 10, now=6.0) == [hot]


def test_counting_is_bounded(tmp_path: Path) -> None:
    lake = made(settings_of(tmp_path), SlotRange(0, 3))
    counts, seen = Counts(lake), list[Any]()
    Reader(lake, noted=seen.append).ask("select 1")
    (asked,) = seen
    asked.params = ["x" * COUNTED_BYTES]
    counts.note(asked)
    assert not counts._counts
    for number in range(COUNTED + 100):
        asked.params = [number]
        counts.note(asked)
    assert len(counts._counts) == COUNTED


@pytest.mark.parametrize(
    ("tables", "last", "now", "wanted"),
    [
        (("solana/blocks",), (0, 0.0), 1_000.0, True),
        (("solana/rewards",), (0, 0.0), 1_000.0, False),
        (("solana/blocks",), (1, 0.0), 1_000.0, False),
        (("solana/blocks",), (0, 1_000.0 - HOT_EVERY_S + 1), 1_000.0, False),
        ((), (0, 0.0), 1_000.0, False),
    ],
)
def test_a_run_is_wanted_where_a_table_changed_that_is_asked_for(tables: tuple[str, ...], last: tuple[int, float], now: float, wanted: bool) -> None:
    standing = Generations().after([Change("solana/blocks", "a", "1")])
    hot = [Hot("select 1", [], 1, 1, tables, 1)] if tables else []
    assert wants_hot(standing, hot, last, now) is wanted


def test_new_data_has_what_is_asked_often_answered_ahead(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """Records, sensor, run and reader are real: the sensor asks for a run, and who asks next finds the answer in the lake."""
    settings = settings_of(tmp_path / "lake")
    lake = made(settings, SlotRange(0, 3))
    counts = Counts(lake)
    (first, source) = Reader(lake, noted=counts.note).ask(COUNT)[0]
    assert source == "computed"
    counts.write()
    definitions = build_defs(settings=settings, with_marts=False)
    made(settings, SlotRange(4, 7))
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            ["solana", "transactions"], partition="000000000004", tags={"dagster/data_version": lake.digest(TRANSACTIONS, "000000000004")}
        )
    )

    def tick(cursor: str | None) -> dg.SensorExecutionData:
        repository = definitions.get_repository_def()
        with dg.build_sensor_context(
            instance=instance, cursor=cursor, repository_def=repository, resources={"lake": definitions.resources["lake"]}
        ) as context:
            return definitions.resolve_sensor_def("invalidation").evaluate_tick(context)

    asked = tick(None)
    assert [request.run_key for request in asked.run_requests or []] == ["hot answers 1"]
    assert not tick(asked.cursor).run_requests, "once for a change"
    done = definitions.resolve_job_def("hot_answers").execute_in_process(instance=instance)
    assert done.success
    (event,) = done.asset_materializations_for_node("serving__hot_answers")
    assert (event.metadata["statements"].value, event.metadata["run"].value, event.metadata["failed"].value) == (1, 1, 0)
    rows, source = Reader(lake).ask(COUNT)[0]
    assert source == "lake"
    assert rows != first
    again = definitions.resolve_job_def("hot_answers").execute_in_process(instance=instance)
    (event,) = again.asset_materializations_for_node("serving__hot_answers")
    assert (event.metadata["run"].value, event.metadata["stood already"].value) == (0, 1)


def test_without_the_sensor_every_answer_is_right_all_the_same(tmp_path: Path) -> None:
    """Nobody is told of anything: who asks first after a change computes, and nobody gets what was."""
    settings = settings_of(tmp_path / "lake")
    lake = made(settings, SlotRange(0, 3))

    async def lived() -> list[tuple[list[Any], list[Any], str]]:
        answers, found = Answers(1 << 20, [KeptAnswers(lake, 1 << 30)]), []
        async with SqlEngine(lake, processes=1, limits=SMALL, answers=answers) as engine:
            for slots in (None, SlotRange(4, 7), None, SlotRange(8, 11), None):
                if slots is not None:
                    await asyncio.to_thread(made, settings, slots)
                remembered, computed = [await (await engine.query(COUNT, fresh=fresh)).table() for fresh in (False, True)]
                async with await engine.query(COUNT) as answer:
                    found.append((remembered.to_pylist(), computed.to_pylist(), answer.source))
        await answers.close()
        return found

    found = asyncio.run(lived())
    assert all(remembered == computed for remembered, computed, _ in found)
    assert [source for _, _, source in found] == ["memory"] * 5
    assert len({str(rows) for rows, _, _ in found}) == 3


def test_a_statement_that_fails_holds_up_none_of_the_others(tmp_path: Path) -> None:
    lake = made(settings_of(tmp_path), SlotRange(0, 3))
    hot = [Hot(sql, [], 100, 1 << 20, (), 1) for sql in ("select count(*) from solana.nothing", "select 1 / 'a'", COUNT)]

    async def lived() -> Any:
        answers = Answers(1 << 20, [KeptAnswers(lake, 1 << 30)])
        async with SqlEngine(lake, processes=1, limits=SMALL, answers=answers) as engine:
            done = await refresh(engine, hot)
        await answers.close()
        return done

    done = asyncio.run(lived())
    assert (done.run, done.failed) == (1, 2)
