"""What memory `blyan serve` takes while many clients ask it at once, and whether that grows. Prints one JSON line a figure.

    python benchmarks/serve_memory.py [--lake FOLDER] [--rows 2000000] [--minutes 10] [--clients 64]

Clients, each with a key of its own, ask one thing after the other: aggregates over some slots, look-ups by signature that were asked for
once at most, pages of records with their cursors, live streams that are left and taken up again, and large results that are read slowly or left
half read. Every second the memory of the service and of all that it started is summed: as PSS, which counts a page that several share once, or,
where the kernel does not let us see that, as RSS, which counts it for each (`by` says which).

`growth_mib_per_minute` is the slope of the means of half minutes after the first two minutes, with the interval that holds it at 95 % (Student's
t). An answer that says to come again (429, 503) is waited for as it says and counted as `waits`; any other that was not asked for is an
`error`, and ends the run with 1. A lake is made from the embedded chain (`large_lake.py`) where none is given.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np
from large_lake import made

from blyan.api.callers import SCOPES, Role
from blyan.api.keys import create
from blyan.lake import Lake
from blyan.query.lookup import SIGNATURE, update
from blyan.schemas import TRANSACTIONS

SEED = 5

WARM_S, MEAN_S = 120.0, 30.0
"""Seconds at the beginning that do not count for growth, and over which the others are averaged."""

SLOW_BYTES, SLOW_S = 64 << 10, 0.2
"""A slow reader takes so many bytes, and then nothing for so long."""

STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 8: 2.31, 10: 2.23, 12: 2.18, 14: 2.14, 16: 2.12, 20: 2.09, 30: 2.04}
"""Student's t, two-sided, 95 %, by degrees of freedom; of those between, the smaller one's."""


def main() -> None:
    """Run it, print, and fail if anything failed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--lake", type=Path)
    arguments.add_argument("--rows", type=int, default=2_000_000)
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--clients", type=int, default=64)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(str(given.lake)) if given.lake else made(Path(folder), rows=given.rows)
        list(update(lake, [SIGNATURE]))
        sys.exit(asyncio.run(Load(lake, given.clients, given.minutes * 60).run()))


class Load:
    """Clients, and what they saw."""

    def __init__(self, lake: Lake, clients: int, seconds: float) -> None:
        self.lake, self.count, self.seconds = lake, clients, seconds
        self.done: Counter[str] = Counter()
        self.waits = 0
        self.errors: list[str] = []
        self.samples: list[tuple[float, int]] = []
        self.by = "pss"
        files = [file for file in lake.files(TRANSACTIONS) if file.rows]
        self.top = max(file.slot_max or 0 for file in files)
        chosen = random.Random(SEED)
        some = next(iter(lake.read(TRANSACTIONS, key=chosen.choice(files).key, columns=["signature"])))["signature"].to_pylist()
        chosen.shuffle(some)
        self.signatures = itertools.cycle(some)

    async def run(self) -> int:
        """Serve, ask, watch; the exit code."""
        environment = os.environ | {"BLYAN_LAKE": self.lake.root, "BLYAN_AUDIT_LOG": ""}
        command = [sys.executable, "-m", "blyan.cli", "serve", "--port", "0"]
        service = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert service.stderr is not None
            url = next(found[0] for line in service.stderr if (found := re.search(r"https?://[\d.:]+", line)))
            begun = time.monotonic()
            asking = [asyncio.create_task(self._client(url, number, begun)) for number in range(self.count)]
            draining = asyncio.to_thread(service.stderr.read)
            log = asyncio.create_task(draining)
            while time.monotonic() - begun < self.seconds:
                self.samples.append((time.monotonic() - begun, self._memory(service.pid)))
                await asyncio.sleep(1)
            await asyncio.gather(*asking)
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(60)
        await log
        self._report()
        return 1 if self.errors else 0

    # Asking

    async def _client(self, url: str, number: int, begun: float) -> None:
        key = create(self.lake, Role.OPERATOR, SCOPES[Role.OPERATOR], name=f"client {number}", lasts_s=self.seconds + 600)
        kinds: list[tuple[str, Callable[[httpx.AsyncClient, random.Random], Awaitable[None]]]] = [
            ("aggregate", self._aggregate), ("lookup", self._lookup), ("aggregate", self._aggregate), ("records", self._records),
            ("lookup", self._lookup), ("aggregate", self._aggregate), ("live", self._live), ("records", self._records),
        ]  # fmt: skip
        # Few: one that reads slowly holds a process of two for up to half a minute.
        name, ask = ("slow", self._slow) if number % 16 == 15 else kinds[number % len(kinds)]
        chosen = random.Random(SEED * 1_000 + number)
        async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
            while time.monotonic() - begun < self.seconds:
                try:
                    await ask(client, chosen)
                    self.done[name] += 1
                except _ComeAgainError as error:
                    self.waits += 1
                    await asyncio.sleep(error.after_s)
                except (httpx.HTTPError, _WrongError) as error:
                    self.errors.append(f"{name}: {type(error).__name__}: {error}"[:300])
                    await asyncio.sleep(1)

    async def _aggregate(self, client: httpx.AsyncClient, chosen: random.Random) -> None:
        first = chosen.randrange(self.top)
        sql = "select status, count(*) n, sum(fee) fees from solana.transactions where block_slot between $1 and $2 group by 1 order by 1"
        answer = await client.post("/v1/sql", json={"sql": sql, "params": [first, first + self.top // 20]})
        _good(answer)

    async def _lookup(self, client: httpx.AsyncClient, _: random.Random) -> None:
        signature = next(self.signatures)
        answer = await client.get(f"/v1/transactions/{signature}")
        _good(answer)
        if answer.json()["data"]["signature"] != signature:
            raise _WrongError("another transaction")

    async def _records(self, client: httpx.AsyncClient, chosen: random.Random) -> None:
        asked = {"first_slot": chosen.randrange(self.top), "limit": 200}
        cursor = None
        for _ in range(4):
            answer = await client.get("/v1/transactions", params=asked | ({"cursor": cursor} if cursor else {}))
            _good(answer)
            cursor = answer.json()["next"]
            if cursor is None:
                return

    async def _live(self, client: httpx.AsyncClient, chosen: random.Random) -> None:
        try:
            async with asyncio.timeout(chosen.uniform(2, 8)), client.stream("GET", "/v1/live") as answer:
                await _head(answer)
                async for _ in answer.aiter_bytes():
                    pass
        except TimeoutError:
            return

    async def _slow(self, client: httpx.AsyncClient, chosen: random.Random) -> None:
        asked = {"sql": "select * from solana.transactions where block_slot >= $1", "params": [chosen.randrange(self.top)], "format": "csv"}
        most = chosen.randrange(8 << 20)
        async with client.stream("POST", "/v1/sql", json=asked) as answer:
            await _head(answer)
            read = 0
            async for part in answer.aiter_bytes(SLOW_BYTES):
                read += len(part)
                if read > most:
                    return
                await asyncio.sleep(SLOW_S)

    # Watching

    def _memory(self, pid: int) -> int:
        """Bytes of a process and of all below it."""
        parents: dict[int, int] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        found = {pid}
        while new := {each for each, parent in parents.items() if parent in found} - found:
            found |= new
        return sum(self._of(each) for each in found)

    def _of(self, pid: int) -> int:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            return int(re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[1]) << 10  # type: ignore[index]
        except PermissionError:
            self.by = "rss"
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, TypeError):
            return 0  # it ended meanwhile

    def _report(self) -> None:
        about = {"kind": "measured", "clients": self.count, "minutes": self.seconds / 60, "by": self.by, "seed": SEED}
        mib = [size / (1 << 20) for _, size in self.samples]
        low, slope, high = growth(self.samples)
        figures: dict[str, object] = {
            "serve_memory_peak_mib": max(mib),
            "serve_memory_mean_mib": float(np.mean(mib)),
            "growth_mib_per_minute": slope,
            "growth_low": low,
            "growth_high": high,
            "errors": len(self.errors),
            "waits": self.waits,
            **{f"done_{name}": count for name, count in sorted(self.done.items())},
        }
        for figure, value in figures.items():
            print(json.dumps({"figure": figure, "value": round(value, 3) if isinstance(value, float) else value, **about}), flush=True)
        for error, count in Counter(self.errors).most_common(10):
            print(json.dumps({"figure": "error", "value": count, "error": error, **about}), flush=True)


def growth(samples: list[tuple[float, int]]) -> tuple[float, float, float]:
    """MiB a minute by which (second, bytes) grow: the lower bound, the slope and the upper bound; not numbers where there are too few."""
    means: dict[int, list[float]] = {}
    for at, size in samples:
        if at >= WARM_S:
            means.setdefault(int(at // MEAN_S), []).append(size / (1 << 20))
    x, y = np.array(list(means)) * (MEAN_S / 60), np.array([np.mean(found) for found in means.values()])
    if len(x) < 3:
        return float("nan"), float("nan"), float("nan")
    slope, start = np.polyfit(x, y, 1)
    free = len(x) - 2
    error = np.sqrt(np.sum((y - start - slope * x) ** 2) / free / np.sum((x - x.mean()) ** 2))
    wide = STUDENT[max(degree for degree in STUDENT if degree <= free)] * error
    return float(slope - wide), float(slope), float(slope + wide)


class _ComeAgainError(Exception):
    def __init__(self, after_s: float) -> None:
        super().__init__(f"in {after_s:g} s")
        self.after_s = after_s


class _WrongError(Exception):
    """An answer that is not what was asked for."""


async def _head(answer: httpx.Response) -> None:
    if answer.status_code != 200:
        await answer.aread()
    _good(answer)


def _good(answer: httpx.Response) -> None:
    if answer.status_code in (429, 503):
        raise _ComeAgainError(float(answer.headers.get("retry-after", 1)))
    if answer.status_code != 200:
        raise _WrongError(f"{answer.status_code} {answer.text}")


if __name__ == "__main__":
    main()
