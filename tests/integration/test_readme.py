"""The commands that README and the runbook show do what they say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from blyan.corpus.embedder import open_embedder
from blyan.corpus.embeddings import write_embeddings
from blyan.corpus.ranges import write_corpus
from blyan.corpus.registry import load_registry
from blyan.corpus.search_index import write_range
from blyan.lake import Lake
from blyan.settings import load_settings
from blyan.solana.slots import SlotRange

REPOSITORY = Path(__file__).resolve().parents[2]
ENDLESS = ("up", "follow", "localnet", "serve", "mcp")
"""Commands that run until they are told to end: tests of their own run them."""

SMALL = {"BLYAN_HORIZON_SLOT": "300", "BLYAN_EMBEDDED_TRANSACTIONS_PER_SLOT": "2"}


def commands(page: str) -> list[str]:
    """The `blyan …` commands of a page that run as they stand: no setting before them, nothing left out."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = re.findall(r"`(blyan (?:[^`…])+?)`", text)
    whole = (command for command in found if not any(blank in command for blank in ("A-B", "KEY", "--force", "--every", "revoke")))
    return list(dict.fromkeys(command for command in whole if command.split()[1] not in ENDLESS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the ranges that the README's first commands make."""
    folder = tmp_path_factory.mktemp("readme")
    done = run(folder, "blyan ingest --slots 0-299")
    assert done.returncode == 0, done.stderr
    lake, slots = Lake(str(folder / ".blyan" / "lake")), SlotRange(0, 99)
    write_corpus(lake, slots, load_registry(), vote_share=0.01)
    write_embeddings(lake, slots, open_embedder(load_settings()))
    write_range(lake, slots)
    return folder


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BLYAN_", "DAGSTER_"))}
    words = shlex.split(command)[1:]
    if ">" in words:
        words = words[: words.index(">")]
    return subprocess.run(
        [sys.executable, "-m", "blyan.cli", *words],
        cwd=folder,
        env=clean | SMALL | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_pages_show_commands() -> None:
    assert {"blyan ranges", "blyan doctor", "blyan source check"} <= set(commands("README.md"))
    assert any("solana.quarantine" in command for command in commands("docs/runbook.md"))


@pytest.mark.parametrize("command", [*commands("README.md"), *commands("docs/runbook.md")])
def test_a_command_of_the_docs_runs(folder: Path, command: str) -> None:
    done = run(folder, command)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).strip(), f"{command} printed nothing"
