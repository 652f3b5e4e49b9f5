"""Everything at once, on one machine: the chain if it is the embedded one, the follower, the HTTP service and its index, Dagster.

Belongs here: which processes run, their output in one stream, starting a dead one again, ending them together. Does not belong
here: what any of them does.

Each child leads a process group of its own, so that ending it ends what it started. A child that dies is started again after
a pause that doubles up to `PAUSE_CAP_S`, and is short again once it has lived for `STEADY_S`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from blyan.errors import PermanentError
from blyan.lake import Lake
from blyan.settings import Settings
from blyan.solana.landing import read_head

PAUSE_S, PAUSE_CAP_S, STEADY_S = 0.5, 30.0, 60.0

END_S = 20.0
"""Seconds a child has to end by itself."""

HORIZON_SLOT = 100_000
"""The grid's end for the embedded chain, at least: eleven hours of slots, and a thousand ranges of the default width."""

INDEX_EVERY_S = 30
"""Seconds between two looks for ranges that the index of values has not; it costs milliseconds where there are none."""

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep running. `late` gives the arguments that are known only when it starts."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    late: Callable[[], tuple[str, ...]] = tuple


@dataclass(frozen=True, slots=True)
class Ports:
    """Where on this machine the embedded chain, the HTTP service and Dagster's UI listen."""

    chain: int
    serve: int
    dagster: int


def children(settings: Settings, *, ports: Ports, home: Path) -> list[Child]:
    """What runs for these settings.

    The embedded chain is served as a node, and read as one by all the others: history and tip are then one chain. It has no
    memory, so it begins again where the landing's checkpoint is: hashes link on, balances start afresh. It is another chain
    than the embedded block source, and has a lake of its own. Nobody's secrets are on it and the service listens on loopback,
    so that everybody may read there without a key, unless BLYAN_SERVE_ANONYMOUS says otherwise.
    """
    blyan = (sys.executable, "-m", "blyan.cli")
    environment: dict[str, str] = {}
    serving: dict[str, str] = {}
    found = []
    if settings.source == "embedded":
        environment = {
            "BLYAN_SOURCE": "rpc",
            "BLYAN_LAKE": live_lake(settings),
            "BLYAN_RPC_URL": f"http://127.0.0.1:{ports.chain}",
            "BLYAN_HORIZON_SLOT": str(max(settings.horizon_slot, HORIZON_SLOT)),
        }
        serving = {} if "serve_anonymous" in settings.model_fields_set else {"BLYAN_SERVE_ANONYMOUS": "true"}
        rate = ("--transactions-per-slot", str(settings.embedded_transactions_per_slot), "--seed", str(settings.embedded_seed))
        found.append(Child("chain", (*blyan, "localnet", "--port", str(ports.chain), *rate), late=lambda: _from_checkpoint(settings)))
    found.append(Child("follow", (*blyan, "follow"), environment))
    if settings.dagster_url is None:
        serving["BLYAN_DAGSTER_URL"] = f"http://localhost:{ports.dagster}"
    found.append(Child("serve", (*blyan, "serve", "--port", str(ports.serve)), environment | serving))
    found.append(Child("index", (*blyan, "index", "--every", str(INDEX_EVERY_S)), environment))
    dagster = (sys.executable, "-m", "dagster", "dev", "--workspace", str(REPOSITORY / "workspace.yaml"), "--port", str(ports.dagster))
    found.append(Child("dagster", dagster, {**environment, "DAGSTER_HOME": str(home)}))
    return found


def live_lake(settings: Settings) -> str:
    """The lake that is filled: that of the settings, or where the chain is the embedded one, another beside it."""
    return f"{settings.lake}-live" if settings.source == "embedded" else settings.lake


def live_home(settings: Settings) -> str:
    """The folder of Dagster's records: of another lake there are other records, which must not be taken for each other's."""
    return ".blyan/dagster-live" if settings.source == "embedded" else ".blyan/dagster"


def _from_checkpoint(settings: Settings) -> tuple[str, ...]:
    head = read_head(Lake.from_settings(settings.model_copy(update={"lake": live_lake(settings)})))
    return ("--first-slot", str(head.checkpoint if head else settings.first_slot))


async def keep_running(family: Sequence[Child], say: Callable[[str], None], stop: asyncio.Event) -> None:
    """Run the children until `stop` is set, then end them, the last one first."""
    tasks = [asyncio.create_task(_keep(child, say, stop)) for child in family]
    try:
        await stop.wait()
    finally:
        await asyncio.gather(*tasks)


def up(settings: Settings, say: Callable[[str], None], *, ports: Ports, home: Path) -> None:
    """Run everything until SIGINT or SIGTERM.

    Raises:
        PermanentError: Dagster's home cannot be made.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "dagster.yaml").write_bytes((REPOSITORY / "dagster.yaml").read_bytes())
    except OSError as error:
        raise PermanentError(
            f"Dagster's home cannot be made: {error}", where=str(home), remedy="give a folder that can be written with --home"
        ) from error
    family = children(settings, ports=ports, home=home)
    say(f"starting {', '.join(child.name for child in family)}")
    say(f"the graph will be at http://localhost:{ports.dagster}, the lake over HTTP at http://localhost:{ports.serve}")
    told = {name: value for name, value in family[-1].environment.items() if name in ("BLYAN_LAKE", "BLYAN_HORIZON_SLOT")}
    settings_of_it = "".join(f"{name}={value} " for name, value in told.items())
    say(f"to look at it from another shell: {settings_of_it}blyan status --runs --home {home}")
    asyncio.run(_up(family, say))
    say("all ended")


async def _up(family: Sequence[Child], say: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await keep_running(family, say, stop)


async def _keep(child: Child, say: Callable[[str], None], stop: asyncio.Event) -> None:
    pause = PAUSE_S
    while not stop.is_set():
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *child.command,
            *child.late(),
            env={**os.environ, **child.environment, "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        )
        lines = asyncio.create_task(_pass_on(child.name, process, say))
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():
            await _end(process)
        await lines
        if stop.is_set():
            say(f"{child.name}: ended")
            return
        pause = PAUSE_S if time.monotonic() - began > STEADY_S else pause
        say(f"{child.name}: ended by itself with {process.returncode}, starting it again in {pause:g} s")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
        pause = min(2 * pause, PAUSE_CAP_S)


def _heed_interrupts() -> None:
    # A shell starts background jobs with SIGINT ignored, and every descendant inherits that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def _pass_on(name: str, process: asyncio.subprocess.Process, say: Callable[[str], None]) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        say(f"{name}: {line.decode(errors='replace').rstrip()}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask the child and all it started to end, and end what does not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_S)
            return
