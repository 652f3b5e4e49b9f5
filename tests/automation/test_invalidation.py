"""The carrying of changes to the caches: the decisions alone, then the sensor on real records, a real file and a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from blyan.errors import PermanentError, TransientError
from blyan.lake import Lake
from blyan.serving import (
    GENERATIONS,
    NAMED_CHANGES,
    WHOLE,
    Change,
    Generations,
    Seen,
    message,
    read_generations,
    tell,
    write_generations,
)
from blyan.settings import load_settings
from blyan_assets.build import build_defs
from blyan_sensors.cursors import read_cursor
from blyan_sensors.invalidation import Cursor, beginning, due, name_of

BLOCKS = dg.AssetKey(["solana", "blocks"])
ONE, TWO = Change("solana/blocks", "a", "1"), Change("solana/blocks", "a", "2")
OTHER = Change("marts/fee_market", WHOLE, "9")


def test_a_change_begins_a_generation_and_the_same_again_does_not() -> None:
    first = Generations().after([ONE])
    second = first.after([TWO, OTHER])

    assert first == Generations(1, {"solana/blocks": {"a": Seen("1", 1)}})
    assert second == Generations(2, {"solana/blocks": {"a": Seen("2", 2)}, "marts/fee_market": {WHOLE: Seen("9", 2)}})
    assert second.after([TWO]) is second
    assert second.after([]) is second


def test_all_events_again_change_nothing_where_they_come_together() -> None:
    standing = Generations().after([ONE]).after([TWO])

    assert standing.after([ONE, TWO]) is standing


def test_all_events_again_in_parts_end_where_they_ended() -> None:
    standing = Generations().after([ONE]).after([TWO])

    again = standing.after([ONE]).after([TWO])

    assert again.generation > standing.generation
    assert again.since(0) == standing.since(0)


def test_a_file_that_is_made_again_goes_on_above_the_lost_one() -> None:
    assert Generations().after([ONE], above=41).generation == 42


def test_a_cache_is_told_what_came_since_what_it_acknowledged() -> None:
    standing = Generations().after([ONE]).after([OTHER])

    assert message(standing, 1) == {"generation": 2, "since": 1, "changed": {"marts/fee_market": {WHOLE: "9"}}}


def test_a_cache_that_acknowledged_nothing_or_missed_much_is_told_that_anything_may_have_changed() -> None:
    many = Generations().after(Change("solana/blocks", f"{number}", "1") for number in range(NAMED_CHANGES + 1))

    assert message(many, None)["changed"] is None
    assert message(many, 0)["changed"] is None


def test_only_caches_that_are_behind_are_told() -> None:
    told = {name_of("http://a"): 2, name_of("http://b"): 1}

    assert due(Generations(2), told, ["http://a", "http://b", "http://c"]) == [("http://b", 1), ("http://c", None)]
    assert due(Generations(), {}, ["http://a"]) == []


@pytest.mark.parametrize("standing", [None, Generations(4)])
def test_a_file_that_is_lost_or_older_than_what_was_written_is_made_again_from_the_first_event(standing: Generations | None) -> None:
    cursor = Cursor({"solana/blocks": 7}, 5, {"x": 5})

    assert beginning(cursor, standing) == (Cursor({}, 5, {"x": 5}), Generations())
    assert beginning(cursor, Generations(5)) == (cursor, Generations(5))


@pytest.mark.parametrize("text", [None, "", "[]", '{"format": 2}'])
def test_a_cursor_that_cannot_be_used_is_an_empty_one(text: str | None) -> None:
    assert read_cursor(text, Cursor) == Cursor()


def test_the_file_reads_as_it_was_written(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    assert read_generations(lake) is None
    write_generations(lake, Generations().after([ONE]))

    assert read_generations(lake) == Generations().after([ONE])


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 2}'])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes) -> None:
    lake = Lake(str(tmp_path))
    lake.store.put(GENERATIONS, content)

    with pytest.raises(PermanentError, match="Remedy"):
        read_generations(lake)


# A cache to tell


class Cache:
    """A real server on loopback: what it was told, and the status that it answers with."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.status = 204
        self.silent = threading.Event()
        cache = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if cache.silent.is_set():
                    cache.released.wait(30)
                    return
                cache.told.append((self.path, body))
                self.send_response(cache.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.released = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def messages(self) -> list[dict[str, Any]]:
        return [body for _, body in self.told]


@pytest.fixture
def cache() -> Iterator[Cache]:
    made = Cache()
    yield made
    made.close()


@pytest.mark.parametrize("status", [301, 404, 500])
def test_any_answer_but_success_is_told_again(cache: Cache, status: int) -> None:
    cache.status = status

    with pytest.raises(TransientError, match=str(status)):
        tell(cache.url, {})


def test_a_cache_that_never_answers_is_given_up(cache: Cache) -> None:
    cache.silent.set()

    with pytest.raises(TransientError, match="ReadTimeout"):
        tell(cache.url, {}, timeout_s=0.05)


def test_the_message_of_a_failure_does_not_tell_the_url() -> None:
    with pytest.raises(TransientError) as caught:
        tell("http://user:secret@127.0.0.1:1/secret", {})
    assert "secret" not in str(caught.value)


# On real records


class World:
    """Records of the tables, the file, a cache, and the cursor that ticks leave behind."""

    def __init__(self, lake: str, urls: list[str], instance: dg.DagsterInstance) -> None:
        settings = load_settings(lake=lake, horizon_slot=12, slots_per_range=4, invalidate_urls=urls)
        self.lake, self.instance = Lake.from_settings(settings), instance
        self.definitions = build_defs(settings=settings, with_marts=False)
        self.cursor: str | None = None

    def report(self, version: str | None, partition: str | None = "000000000000", key: dg.AssetKey = BLOCKS) -> None:
        tags = {} if version is None else {"dagster/data_version": version}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, tags=tags))

    def tick(self) -> dg.SensorExecutionData:
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=self.definitions.get_repository_def(),
            resources={"lake": self.definitions.resources["lake"]},
        ) as context:
            data = self.definitions.resolve_sensor_def("invalidation").evaluate_tick(context)
        self.cursor = data.cursor
        assert not data.run_requests
        return data

    def versions(self) -> dict[str, dict[str, str]]:
        standing = read_generations(self.lake)
        return standing.since(0) if standing else {}

    def generation(self) -> int:
        standing = read_generations(self.lake)
        return standing.generation if standing else 0


@pytest.fixture
def world(tmp_path: Path, cache: Cache) -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(str(tmp_path / "lake"), [cache.url], instance)


def test_an_event_reaches_the_file_and_the_cache_once(world: World, cache: Cache) -> None:
    world.tick()
    assert (world.generation(), cache.told) == (0, [])
    world.report("1")

    world.tick()
    world.tick()

    assert world.versions() == {"solana/blocks": {"000000000000": "1"}}
    assert cache.told == [("/invalidate", {"generation": 1, "since": None, "changed": None})]


def test_a_cache_that_was_told_is_told_only_what_is_new(world: World, cache: Cache) -> None:
    world.report("1")
    world.tick()
    world.report("2", "000000000004")
    world.tick()

    assert cache.messages()[-1] == {"generation": 2, "since": 1, "changed": {"solana/blocks": {"000000000004": "2"}}}


def test_the_same_version_again_is_no_news(world: World, cache: Cache) -> None:
    world.report("1")
    world.tick()
    world.report("1")
    world.tick()

    assert (world.generation(), len(cache.told)) == (1, 1)


def test_a_cache_that_fails_is_told_at_the_next_tick_and_the_file_does_not_wait(world: World, cache: Cache) -> None:
    world.report("1")
    world.tick()
    cache.status = 503
    world.report("2")
    assert "it answered 503" in (world.tick().skip_message or "")
    assert world.versions() == {"solana/blocks": {"000000000000": "2"}}
    world.report("3", "000000000004")
    world.tick()
    cache.status = 200

    world.tick()

    assert cache.messages()[-1] == {"generation": 3, "since": 1, "changed": {"solana/blocks": {"000000000000": "2", "000000000004": "3"}}}
    told = len(cache.told)
    world.tick()
    assert len(cache.told) == told


def test_a_tick_that_died_before_its_cursor_was_kept_is_done_again(world: World, cache: Cache) -> None:
    world.report("1")
    world.tick()
    before = world.cursor
    world.report("2")
    world.tick()

    world.cursor = before
    world.tick()

    assert world.generation() == 2
    assert cache.messages()[1] == cache.messages()[2]


def test_a_lost_cursor_loses_and_doubles_nothing(world: World, cache: Cache) -> None:
    for version in ("1", "2"):
        world.report(version)
        world.tick()

    world.cursor = None
    world.tick()

    assert world.generation() == 2
    assert world.versions() == {"solana/blocks": {"000000000000": "2"}}
    assert cache.messages()[-1] == {"generation": 2, "since": None, "changed": None}


def test_a_lost_file_is_made_again_above_what_was_given_out(world: World, cache: Cache) -> None:
    for version in ("1", "2"):
        world.report(version)
        world.tick()
    world.lake.store.delete([GENERATIONS])

    world.tick()

    assert world.generation() == 3
    assert world.versions() == {"solana/blocks": {"000000000000": "2"}}
    assert cache.messages()[-1]["changed"] == {"solana/blocks": {"000000000000": "2"}}


def test_a_report_without_a_data_version_or_a_range_is_news_each_time(world: World) -> None:
    world.report(None, None)
    world.tick()
    world.report(None, None)
    world.tick()

    assert world.generation() == 2
    assert set(world.versions()["solana/blocks"]) == {WHOLE}


def test_more_events_than_a_tick_takes_are_taken_by_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blyan_sensors.invalidation.EVENTS_PER_TICK", 2)
    for version in ("1", "2", "3"):
        world.report(version)

    world.tick()
    assert world.versions()["solana/blocks"] == {"000000000000": "2"}
    world.tick()
    assert world.versions()["solana/blocks"] == {"000000000000": "3"}


def test_the_landing_is_not_a_table_of_the_lake(world: World) -> None:
    world.report("1", key=dg.AssetKey(["solana", "landing"]))
    world.tick()

    assert world.generation() == 0


def test_the_cursor_tells_nothing_of_the_address(world: World, cache: Cache) -> None:
    world.report("1")
    world.tick()

    assert json.loads(world.cursor or "")["told"] == {name_of(f"{cache.url}/"): 1}
    assert "127.0.0.1" not in (world.cursor or "")


def test_without_caches_the_file_is_kept(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        world = World(str(tmp_path / "lake"), [], instance)
        world.report("1")
        world.tick()

        assert world.generation() == 1
