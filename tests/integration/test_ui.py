"""Dagster's UI over a tiny lake, looked at in a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from blyan.schemas import TABLES

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
TINY = {"BLYAN_HORIZON_SLOT": "24", "BLYAN_SLOTS_PER_RANGE": "8", "BLYAN_EMBEDDED_TRANSACTIONS_PER_SLOT": "4"}
WAIT_S = 120
WINDOW = {"width": 1600, "height": 1000}


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what the browser saw is kept, for people."""
    return tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The UI over a lake that has two of three ranges."""
    folder = tmp_path_factory.mktemp("ui")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BLYAN_", "DAGSTER_"))}
    environment = clean | TINY | {"BLYAN_LAKE": str(folder / "lake"), "DAGSTER_HOME": str(folder / "dagster"), "DAGSTER_DISABLE_TELEMETRY": "1"}
    made = subprocess.run(
        [sys.executable, "-m", "blyan.cli", "ingest", "--slots", "0-15"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "webserver.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", "workspace.yaml"],
        cwd=REPOSITORY,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(server, url, folder / "webserver.log")
        yield url
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def wait_for(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the server answers, or its time is up."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the web server did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def page(screenshots: Path) -> Iterator[Any]:
    """A page of a browser that has never been used."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is absent, and a CI run must have it")
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser.new_page(viewport=WINDOW)
        browser.close()
    print(f"screenshots: {screenshots}")


def look(page: Any, url: str, texts: list[str], picture: Path) -> None:
    """Open a page, wait until it shows every text, and keep a picture of it."""
    page.goto(url)
    try:
        for text in texts:
            page.get_by_text(text, exact=False).first.wait_for(timeout=60_000)
        page.wait_for_timeout(1_000)  # let the drawing settle, for the picture alone
    finally:
        page.screenshot(path=picture)


def test_the_lineage_shows_both_groups(page: Any, address: str, screenshots: Path) -> None:
    look(page, f"{address}/asset-groups", ["solana", "marts"], screenshots / "lineage.png")


def test_the_graph_shows_every_table_with_its_partitions(page: Any, address: str, screenshots: Path) -> None:
    page.set_viewport_size({"width": 1600, "height": 2400})  # nodes outside the window are not drawn
    look(
        page,
        f"{address}/locations/__repository__@blyan/asset-groups/solana/lineage",
        [*(table.short_name for table in TABLES.values()), "3 partitions"],
        screenshots / "graph.png",
    )
    page.get_by_text("3 partitions").nth(len(TABLES)).wait_for(timeout=60_000)  # every table and the landing: nodes load one by one
    page.wait_for_timeout(1_000)
    page.screenshot(path=screenshots / "graph.png")
    page.set_viewport_size(WINDOW)


def test_an_asset_shows_its_partitions_metadata_and_description(page: Any, address: str, screenshots: Path) -> None:
    look(
        page,
        f"{address}/assets/solana/transactions?view=partitions",
        ["000000000000", "000000000016", "Missing"],
        screenshots / "partitions.png",
    )
    look(
        page,
        f"{address}/assets/solana/transactions?view=overview",
        ["One row per transaction", "recent_block_hash", "Delta Lake", "ingest_range"],
        screenshots / "overview.png",
    )


def test_the_checks_of_an_asset_are_shown_with_their_result(page: Any, address: str, screenshots: Path) -> None:
    look(page, f"{address}/assets/solana/transactions?view=checks", ["lamports_conserved", "signatures_unique_in_block"], screenshots / "checks.png")


def test_the_completeness_statement_of_a_partition_is_shown(page: Any, address: str, screenshots: Path) -> None:
    look(
        page,
        f"{address}/assets/solana/completeness?view=partitions&partition=000000000000",
        ["statement", "slots landed", "blyan sql"],
        screenshots / "statement.png",
    )
