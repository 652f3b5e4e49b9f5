"""Writers of chains in processes of their own, some of which are killed.

Belongs here: what such a process does. A test starts it through `multiprocessing`, from a server that has imported this module already, so
that it begins at once. Does not belong here: expectations.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from blyan.chain.store import Chains
from blyan.lake import Lake
from blyan.store import Disk
from tests.chains import KEY, KEYS


def write(root: str, key: int, count: int, said: Connection) -> None:
    chains = Chains(Lake(root))
    for number in range(count):
        block = chains.write(KEYS[key], "D", "dataset", b"%d by %d" % (number, key))
        said.send(block.hash)
    said.close()


class Killing(Disk):
    """Kills the process at one of its steps; a step is a moment before or after anything that is done to the disk."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def create(self, path: Path) -> Any:
        self.step()
        stream = super().create(path)
        self.step()
        return stream

    def rename(self, path: Path, final: Path) -> None:
        self.step()
        super().rename(path, final)
        self.step()

    def sync(self, paths: Sequence[Path]) -> None:
        self.step()
        super().sync(paths)
        self.step()


def append_and_die(root: str, at: int, said: Connection) -> None:
    chains = Chains(Lake(root))
    chains.lake.store.disk = Killing(at)
    block = chains.write(KEY, "D", "dataset", b"killed at %d" % at)
    said.send(block.header.height)


def append_until_killed(root: str, turn: int, said: Connection) -> None:
    chains = Chains(Lake(root))
    said.send(-1)
    for number in range(10_000):
        said.send(chains.write(KEY, "D", "dataset", b"%d of %d" % (number, turn)).header.height)
