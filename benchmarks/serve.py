"""What a remembered answer costs end to end, against one that is computed. Prints one JSON line a figure.

    python benchmarks/serve.py [--slots 4000] [--transactions 500] [--seconds 10] [--connections 16] [--lake PATH]

`wrk` asks a service that runs in processes of its own, on the same machine, for one aggregate over half of the lake: `cached_*` as it is,
`computed_*` with `Cache-Control: no-cache`, in the same run, and `empty_*` is GET /healthz, which is the least that a request costs here.
A figure is of requests that were answered with 200; whoever asks has forty keys, because one key may ask 200 times a second.
`cpu_us` is CPU time of the service's processes a request. `rss_mb` is of all of them together, before and after. With `workers` 1 and 2;
wrk takes a core of its own while it can have one. A lake is made from the embedded chain where none is given: 2 million transactions take
twenty minutes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sql import made
from blyan.lake import Lake
from blyan.schemas import TRANSACTIONS
from blyan.settings import load_settings
from tests.http_service import Served, key_for, served

KEYS = 40

SCRIPT = """
local keys = {KEYS}
local asked = 0
wrk.method, wrk.body = "POST", BODY
wrk.headers["content-type"] = "application/json"
HEADERS
request = function()
  asked = asked + 1
  wrk.headers["authorization"] = keys[asked % #keys + 1]
  return wrk.format()
end
done = function(summary, latency, requests)
  io.write(string.format("\\nREPORT %d %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.status, summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--slots", type=int, default=4_000)
    arguments.add_argument("--transactions", type=int, default=500)
    arguments.add_argument("--seconds", type=int, default=10)
    arguments.add_argument("--connections", type=int, default=16)
    arguments.add_argument("--lake")
    given = arguments.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed. Remedy: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(given.lake) if given.lake else made(f"{folder}/lake", given.slots, given.transactions)
        for workers in (1, 2):
            measured(lake, Path(folder), workers, given.seconds, given.connections)


def measured(lake: Lake, folder: Path, workers: int, seconds: int, connections: int) -> None:
    """Every figure of so many workers."""
    files = lake.files(TRANSACTIONS)
    top = max(file.slot_max or 0 for file in files)
    sql = f"select status, count(*) as n, sum(fee) as fees from solana.transactions where block_slot <= {top // 2} group by status order by 1"
    report: dict[str, object] = {"kind": "measured", "transactions": sum(file.rows for file in files), "workers": workers, "connections": connections}
    keys = [key_for(lake) for _ in range(KEYS)]
    with served(load_settings(lake=lake.root), folder, workers=workers) as service:
        warm(service, keys[0], sql, workers)
        show("rss_mb_before", memory(service), report)
        for name, path, headers, lasts in (
            ("empty", "/healthz", "", seconds),
            ("cached", "/v1/sql", "", seconds),
            ("computed", "/v1/sql", 'wrk.headers["cache-control"] = "no-cache"', max(2, seconds // 2)),
        ):
            # One connection a core: a statement that waits for a process says nothing of how long it takes.
            asked = asking(service, folder, path, keys, sql, headers, lasts, 2 if name == "computed" else connections)
            for figure, value in asked.items():
                show(f"{name}_{figure}", value, report)
        show("rss_mb_after", memory(service), report)


def warm(service: Served, key: str, sql: str, workers: int) -> None:
    """Ask until every worker has answered: which one takes a connection is chance."""
    for _ in range(8 * workers):
        with service.client(key) as client:
            for _ in range(3):
                client.post("/v1/sql", json={"sql": sql}).raise_for_status()


def asking(service: Served, folder: Path, path: str, keys: list[str], sql: str, headers: str, seconds: int, connections: int) -> dict[str, float]:
    """What wrk measures."""
    script = folder / "ask.lua"
    text = SCRIPT.replace("KEYS", ", ".join(f'"Bearer {key}"' for key in keys)).replace("BODY", json.dumps(json.dumps({"sql": sql})))
    script.write_text(text.replace("HEADERS", headers) if path == "/v1/sql" else text[text.index("done =") :])
    before = cpu_s(service)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"{service.url}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"REPORT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    assert found, done.stdout
    requests, took_us, p50, p99, refused, broken = map(int, found.groups())
    good = requests - refused
    return {
        "requests_per_s": good / took_us * 1e6,
        "p50_ms": p50 / 1e3,
        "p99_ms": p99 / 1e3,
        "cpu_us": (cpu_s(service) - before) / max(1, requests) * 1e6,
        "refused": refused,
        "broken": broken,
    }


def processes(service: Served) -> list[int]:
    """The service's process and all below it."""
    found, waiting = [], [service.process.pid]
    while waiting:
        process = waiting.pop()
        found.append(process)
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            waiting += map(int, task.read_text().split())
    return found


def cpu_s(service: Served) -> float:
    """CPU seconds of them, those of children that ended included."""
    fields = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes(service)]
    return sum(int(each) for line in fields for each in line[11:15]) / 100


def memory(service: Served) -> float:
    """MiB that they hold, what they share counted once for each."""
    found = [re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text()) for process in processes(service)]
    return sum(int(each[1]) for each in found if each) / 1024


def show(figure: str, value: float, report: dict[str, object]) -> None:
    """One line."""
    print(json.dumps({"figure": figure, "value": round(value, 3), **report}), flush=True)


if __name__ == "__main__":
    main()
