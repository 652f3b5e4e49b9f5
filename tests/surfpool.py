"""Surfpool, a Solana simulator that others wrote, as a process on loopback.

Belongs here: installing and running it. Does not belong here: what a node must do.

    with surfpool() as (http_url, ws_url): ...

It is a Node addon from npm. Its RPC hangs under load unless somebody drains its events; it has no forks and no blockSubscribe.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE, VERSION = "@solana/surfpool-linux-x64-gnu", "1.5.0"
FOLDER = Path(__file__).resolve().parents[1] / "build" / f"surfpool-{VERSION}"
WAIT_S = 120

# A slot takes some 75 times the time that it is told: this is a slot in 75 ms.
SCRIPT = f"""
const {{ Surfnet }} = require({json.dumps(PACKAGE)});
const net = Surfnet.startWithConfig({{ offline: true, slotTimeMs: 1 }});
console.log(JSON.stringify([net.rpcUrl, net.wsUrl]));
setInterval(() => net.drainEvents(), 20);
process.stdin.resume();
process.stdin.on("end", () => {{ net.stop(); process.exit(0); }});
"""


def why_not() -> str | None:
    """Why it cannot run here, or None if it can."""
    if sys.platform != "linux":
        return f"{PACKAGE} is for Linux"
    absent = [name for name in ("npm", "node") if shutil.which(name) is None]
    return f"{' and '.join(absent)} is not installed, and Surfpool is an npm package" if absent else None


def install() -> None:
    """Have npm put it into the build folder, once."""
    if (FOLDER / "node_modules" / PACKAGE / "package.json").is_file():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--prefix", str(FOLDER), "--no-audit", "--no-fund", f"{PACKAGE}@{VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False, cwd=FOLDER)
    assert done.returncode == 0, f"npm could not install {PACKAGE}: {done.stderr}"


@contextmanager
def surfpool() -> Iterator[tuple[str, str]]:
    """A running Surfpool; the URLs of its RPC and of its WebSocket."""
    install()
    process = subprocess.Popen(
        ["node", "-e", SCRIPT], cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        line = process.stdout.readline()
        assert line, "Surfpool ended before it said where it listens"
        http_url, ws_url = json.loads(line)
        yield http_url, ws_url
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
