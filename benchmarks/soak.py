"""A follower under mainnet's load for a long time: rate, lag, memory; and how long it takes to catch up after an outage.

    python benchmarks/soak.py [--minutes 10] [--slot-ms 330] [--outage-minutes 10]

Processes share the machine: a node that gives a recorded mainnet block (1,445 transactions, 5.5 MB of JSON) at every slot, 19 of
20; `blyan follow`; and this one, which asks `select max(slot) from solana.blocks` whenever the head has a newer slot, and takes the sealed ranges over into the lake as Dagster's step does. Then the follower is ended, the node lets the outage's
slots pass at once, and a new follower is started: the time until its checkpoint is where finality was when it started, and until
a reader sees the tip. Rows are counted against the chain in the end. Prints a JSON line a minute and one JSON line a figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from lag import Reader, endpoints, listen

WIDTH = 256
WARM_UP_S = 60.0


def main() -> None:
    """Run it all."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--slot-ms", type=float, default=330.0, help="330: 4,160 transactions and 15.8 MB of JSON a second")
    arguments.add_argument("--outage-minutes", type=float, default=10.0)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Soak(given, folder).run()


class Soak:
    """One run."""

    def __init__(self, given: argparse.Namespace, folder: str) -> None:
        self.given, self.lake = given, f"{folder}/lake"
        node = [sys.executable, str(Path(__file__).parent / "node" / "recorded.py"), "--slot-ms", str(given.slot_ms)]
        self.node = subprocess.Popen(node, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.http, self.socket = endpoints(self.node)
        self.environment = os.environ | {
            "BLYAN_SOURCE": "rpc",
            "BLYAN_LAKE": self.lake,
            "BLYAN_RPC_URL": self.http,
            "BLYAN_WEBSOCKET_URL": self.socket,
            "BLYAN_HORIZON_SLOT": "1000000",
            "BLYAN_SLOTS_PER_RANGE": str(WIDTH),
        }
        self.announced: dict[int, float] = {}
        self.seen: dict[int, float] = {}
        self.taken = 0
        self.reader: Reader | None = None
        self.stop = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Soak, break, catch up, count."""
        threading.Thread(target=lambda: asyncio.run(listen(self.socket, self.announced)), daemon=True).start()
        follower = self._follower()
        taking = threading.Thread(target=self._guard, args=(self._take_over,))
        reading = threading.Thread(target=self._guard, args=(self._read,))
        try:
            taking.start()
            reading.start()
            self._soak(follower)
            self._end(follower)
            if self.given.outage_minutes:
                passed = self._call("jump", round(self.given.outage_minutes * 60e3 / self.given.slot_ms))
                follower = self._follower()
                self._catch_up(follower, passed)
                self._end(follower)
            self.stop.set()
            taking.join()
            reading.join()
            self._count()
        finally:
            self.stop.set()
            for process in (follower, self.node):
                if process.poll() is None:
                    process.kill()

    def _follower(self) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-m", "blyan.cli", "follow"], env=self.environment, stderr=subprocess.DEVNULL, text=True)

    def _end(self, follower: subprocess.Popen[str]) -> None:
        follower.send_signal(signal.SIGINT)
        follower.wait(60)

    def _call(self, method: str, *given: object) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": given}).encode()
        request = urllib.request.Request(self.http, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["result"]

    def _guard(self, work: Any) -> None:
        try:
            while not self.stop.is_set():
                if not work():
                    self.stop.wait(0.01)
        except BaseException as error:
            self.failure = error
            raise

    def _head(self) -> Any:
        from blyan.lake import Lake
        from blyan.solana.landing import read_head

        return read_head(Lake(self.lake))

    def _read(self) -> bool:
        head = self._head()
        newest = -1 if head is None else max((segment.last for each in head.ranges for segment in each.segments), default=-1)
        before = max(self.seen, default=-1)
        if newest <= before:
            return False
        self.reader = self.reader or Reader(self.lake)
        found, now = self.reader.newest(), time.monotonic()
        for slot in range(before + 1 if before >= 0 else found, found + 1):
            self.seen[slot] = now
        return True

    def _take_over(self) -> bool:
        """What Dagster's steps do with a sealed range, in processes of their own as those are."""
        head = self._head()
        sealed = [landed.key for landed in head.ranges if landed.sealed] if head else []
        if not sealed:
            self.stop.wait(1.0)
            return False
        step = (
            "import sys; from blyan.lake import Lake; from blyan.solana.ingest import normalise_range; "
            "from blyan.solana.landing import land_sealed; from blyan.solana.slots import Grid; "
            f"lake = Lake(sys.argv[1]); slots = Grid(0, 1_000_000, {WIDTH}).range_of(sys.argv[2]); "
            "land_sealed(lake, slots); normalise_range(lake, slots, workers=1)"
        )
        subprocess.run([sys.executable, "-c", step, self.lake, sealed[0]], check=True, preexec_fn=lambda: os.nice(5))
        self.taken += 1
        while any(landed.key == sealed[0] for landed in self._head().ranges) and not self.stop.is_set():
            self.stop.wait(0.5)
        return True

    def _soak(self, follower: subprocess.Popen[str]) -> None:
        began = time.monotonic()
        self._wait(WARM_UP_S, follower)
        start, first = time.monotonic(), self._landed()
        memory = [_resident(follower.pid)]
        while time.monotonic() < start + 60 * self.given.minutes:
            self._wait(60.0, follower)
            memory.append(_resident(follower.pid))
            done, passed = self._landed() - first, time.monotonic() - start
            self._say(
                "minute", minute=round((time.monotonic() - began) / 60, 1), **self._rates(done, passed), resident_mb=memory[-1], **self._lag(start)
            )
        done, passed = self._landed() - first, time.monotonic() - start
        self._say(
            "soak",
            minutes=self.given.minutes,
            **self._rates(done, passed),
            **self._lag(start),
            resident_mb_start=memory[0],
            resident_mb_end=memory[-1],
            resident_mb_most=max(memory),
            ranges_taken_over=self.taken,
        )

    def _landed(self) -> int:
        """Blocks that readers can see."""
        newest = max(self.seen)
        return newest - newest // 20

    def _rates(self, blocks: int, seconds: float) -> dict[str, Any]:
        from node.recorded import RecordedChain, recording

        self._chain = getattr(self, "_chain", None) or RecordedChain(recording(None))
        return {
            "tx_per_s": round(blocks * self._chain.transactions / seconds),
            "json_mb_per_s": round(blocks * len(self._chain.rest) / seconds / 1e6, 1),
        }

    def _lag(self, since: float) -> dict[str, Any]:
        lags = [self.seen[slot] - at for slot, at in list(self.announced.items()) if slot in self.seen and at >= since]
        cut = statistics.quantiles(lags, n=100)
        return {"lag_p50_ms": round(cut[49] * 1e3), "lag_p95_ms": round(cut[94] * 1e3), "lag_p99_ms": round(cut[98] * 1e3)}

    def _catch_up(self, follower: subprocess.Popen[str], tip: int) -> None:
        start, at_tip = time.monotonic(), None
        while self._head().checkpoint < tip - 32:
            if at_tip is None and max(self.seen) >= tip - 2:
                at_tip = time.monotonic() - start
            self._wait(0.1, follower)
        caught_up = time.monotonic() - start
        self._say(
            "outage",
            outage_minutes=self.given.outage_minutes,
            slots=round(self.given.outage_minutes * 60e3 / self.given.slot_ms),
            seconds_to_tip=None if at_tip is None else round(at_tip, 1),
            seconds_to_caught_up=round(caught_up, 1),
            resident_mb=_resident(follower.pid),
        )

    def _wait(self, seconds: float, follower: subprocess.Popen[str]) -> None:
        if self.failure is not None:
            raise self.failure
        if follower.poll() is not None:
            sys.exit("the follower ended")
        time.sleep(seconds)

    def _count(self) -> None:
        """Every final slot is there once, with the chain's own hash."""
        from blyan.lake import Lake
        from blyan.query.engine import connect
        from blyan.schemas import BLOCKS, TRANSACTIONS

        checkpoint = self._head().checkpoint
        with connect(Lake(self.lake), tables=[BLOCKS, TRANSACTIONS]) as connection:
            found = connection.execute(f"select slot, block_hash from solana.blocks where slot < {checkpoint} order by slot").fetchall()
            (rows,) = connection.execute(f"select count(*) from solana.transactions where block_slot < {checkpoint}").fetchone()
        first = found[0][0]
        expected = [(slot, self._chain.link(slot)[0]) for slot in self._chain.listed(first, checkpoint - 1)]
        self._say(
            "count",
            slots=checkpoint - first,
            blocks=len(found),
            transactions=rows,
            lost=len(set(expected) - set(found)) + len(expected) * self._chain.transactions - rows,
            doubled=len(found) - len(set(found)),
        )

    def _say(self, figure: str, **values: Any) -> None:
        print(json.dumps({"figure": figure, "kind": "measured", "cores": os.cpu_count(), **values}), flush=True)


def _resident(process: int) -> int:
    """MB in memory of a process and those it started."""
    total, family = 0, {process}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(folder.name) == process or int(fields[1]) in family:
                family.add(int(folder.name))
                total += int(fields[21]) * 4_096
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total >> 20


if __name__ == "__main__":
    main()
