"""Children that are kept running, and ended together."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from blyan.settings import load_settings
from blyan.up import Child, Ports, children, keep_running

WAIT_S = 30.0

SLEEP = "import os,signal,time; print('here', os.getpid()); time.sleep(600)"


class Listener:
    """What the children said, and a way to wait for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._new = asyncio.Event()

    def say(self, line: str) -> None:
        self.lines.append(line)
        self._new.set()

    async def count(self, text: str, wanted: int) -> list[str]:
        async with asyncio.timeout(WAIT_S):
            while len(found := [line for line in self.lines if text in line]) < wanted:
                self._new.clear()
                await self._new.wait()
        return found


def python(name: str, code: str) -> Child:
    return Child(name, (sys.executable, "-c", code))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_that_dies_is_started_again_and_its_words_are_passed_on() -> None:
    async def watch() -> list[str]:
        listener, stop = Listener(), asyncio.Event()
        family = [python("brief", "print('begun'); raise SystemExit(3)"), python("steady", SLEEP)]
        running = asyncio.create_task(keep_running(family, listener.say, stop))
        await listener.count("brief: begun", 2)
        await listener.count("steady: here", 1)
        stop.set()
        await asyncio.wait_for(running, WAIT_S)
        return listener.lines

    lines = asyncio.run(watch())
    assert "brief: ended by itself with 3, starting it again in 0.5 s" in lines
    assert sum("steady: here" in line for line in lines) == 1
    assert "steady: ended" in lines


def test_ending_a_child_ends_what_it_started() -> None:
    code = f"import subprocess,sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).wait()"

    async def watch() -> int:
        listener, stop = Listener(), asyncio.Event()
        running = asyncio.create_task(keep_running([python("parent", code)], listener.say, stop))
        (line,) = await listener.count("here", 1)
        pid = int(line.rpartition(" ")[2])
        assert alive(pid)
        stop.set()
        await asyncio.wait_for(running, WAIT_S)
        return pid

    assert not alive(asyncio.run(watch()))


PORTS = Ports(chain=1234, serve=8081, dagster=3000)


def test_the_embedded_chain_is_served_to_all_the_others(tmp_path: Path) -> None:
    family = {child.name: child for child in children(load_settings(), ports=PORTS, home=tmp_path)}
    assert list(family) == ["chain", "follow", "serve", "index", "dagster"]
    assert {child.environment["BLYAN_RPC_URL"] for name, child in family.items() if name != "chain"} == {"http://127.0.0.1:1234"}
    assert len({child.environment["BLYAN_LAKE"] for name, child in family.items() if name != "chain"}) == 1
    assert "1234" in family["chain"].command
    assert "8081" in family["serve"].command


@pytest.mark.parametrize("source", ["rpc", "archive"])
def test_another_chain_is_not_started(source: str, tmp_path: Path) -> None:
    family = children(load_settings(source=source), ports=PORTS, home=tmp_path)
    assert [child.name for child in family] == ["follow", "serve", "index", "dagster"]
    assert all("BLYAN_RPC_URL" not in child.environment for child in family)


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, "true"), ({"serve_anonymous": False}, None), ({"source": "rpc"}, None)],
    ids=["embedded", "embedded, told not to", "another chain"],
)
def test_only_the_embedded_chain_is_open_to_everybody(given: dict[str, Any], said: str | None, tmp_path: Path) -> None:
    family = {child.name: child for child in children(load_settings(**given), ports=PORTS, home=tmp_path)}
    assert family["serve"].environment.get("BLYAN_SERVE_ANONYMOUS") == said


@pytest.mark.parametrize(
    ("given", "said"), [({}, "http://localhost:3000"), ({"dagster_url": "https://graph.example"}, None)], ids=["up's own", "another"]
)
def test_the_page_links_to_the_graph_beside_it(given: dict[str, Any], said: str | None, tmp_path: Path) -> None:
    family = {child.name: child for child in children(load_settings(**given), ports=PORTS, home=tmp_path)}
    assert family["serve"].environment.get("BLYAN_DAGSTER_URL") == said
