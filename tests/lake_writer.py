"""A writer in a process of its own: stages, says so, waits for a line, commits, and prints the commit as JSON.

python lake_writer.py ROOT KEY FIRST_SLOT LAST_SLOT LAMPORTS
"""

from __future__ import annotations

import dataclasses
import json
import sys

from lake_rows import REWARDS, rewards

from blyan import stage as stage_module
from blyan.digest import split_units
from blyan.lake import Lake

STOP_HALFWAY = "-1"
"""As LAMPORTS: wait once more with a file half written."""


def main() -> None:
    root, key, first, last, lamports = sys.argv[1:]
    lake = Lake(root)
    if lamports == STOP_HALFWAY:
        stage_module.MIN_GROUP_ROWS = 1
    with lake.stage(REWARDS, key) as stage:
        for unit, rows in split_units(REWARDS, rewards(range(int(first), int(last) + 1), lamports=int(lamports))):
            stage.write(unit, rows)
        if lamports == STOP_HALFWAY:
            wait("staging")
    wait("staged")
    print(json.dumps(dataclasses.asdict(lake.commit(REWARDS, key, [stage.close()]))), flush=True)


def wait(said: str) -> None:
    print(said, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
