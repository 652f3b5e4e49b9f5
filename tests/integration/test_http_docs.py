"""The examples of docs/http.md do what they say, against a running service."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blyan.api.callers import LIMITS, SCOPES, Role
from blyan.api.problems import KINDS
from blyan.lake import Lake
from blyan.settings import Settings
from tests.http_service import REPOSITORY, Served, key_for, made_lake, make_searchable, served

PAGE = (REPOSITORY / "docs/http.md").read_text(encoding="utf-8")

PRINTED = ("48 ", "┌", "384 ", "Blocks", "2026-07-28 [[0, ")
"""What the examples in Python begin to print."""

ENDLESS = 28
"""What curl ends with when its time is over, as the live examples ask for."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[str]:
    """The calls of curl, one by one."""
    return [command for block in blocks("sh") for command in re.findall(r"^curl .*?(?<!\\)$", block.replace("\\\n", " "), re.MULTILINE)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = made_lake(tmp_path_factory.mktemp("docs") / "lake")
    make_searchable(settings)
    return settings


@pytest.fixture(scope="module")
def service(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(settings, tmp_path_factory.mktemp("documented"), BLYAN_QUERY_PROCESSES="1") as service:
        yield service


@pytest.fixture(scope="module")
def key(settings: Settings) -> str:
    return key_for(Lake.from_settings(settings), Role.ANALYST)


def test_the_page_has_examples() -> None:
    assert len(commands()) >= 10
    assert len(blocks("python")) == len(PRINTED)


@pytest.mark.parametrize("command", commands(), ids=range(len(commands())))
def test_a_call_of_the_page_is_answered(service: Served, key: str, command: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    environment = {**os.environ, "URL": service.url, "KEY": key}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (ENDLESS if "--max-time" in command else 0), done.stderr
    answer = done.stdout
    if "live" in command:
        assert answer.startswith(("event: head", "event: result"))
    elif '"stream"' in command:
        assert answer.startswith("data: {")
        assert answer.endswith("data: [DONE]\n\n")
    elif "text/csv" in command:
        assert answer.startswith("slot,leader\n")
    else:
        document = json.loads(answer)
        assert ("request_id" in document) == ("limt" in command), document
        assert "/v1/search" not in command or document["hits"], document


@pytest.mark.parametrize("number", range(len(PRINTED)))
def test_a_python_example_runs(service: Served, key: str, number: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(blocks("python")[number], {"URL": service.url, "KEY": key})
    assert said.getvalue().startswith(PRINTED[number]), said.getvalue()


def test_the_tables_of_the_page_are_what_the_code_has() -> None:
    for role in Role:
        limits = LIMITS[role]
        rows = f"{limits.page_rows:,}, {limits.result_rows:,}" if "sql" in SCOPES[role] else f"{limits.page_rows:,}, \N{EN DASH}"
        assert re.search(rf"\| `{role}` \|.*\| {limits.requests_per_s:g}, {limits.burst} \| {rows} \|", PAGE), role
    for kind in KINDS:
        assert re.search(rf"\|.*{kind.status}.*\|.*`{kind.slug}`", PAGE), kind


def test_the_commands_that_start_it_are_commands(tmp_path: Path) -> None:
    from typer.main import get_command

    from blyan.cli import app

    command = get_command(app)
    command.commands["serve"].make_context("serve", ["--port", "8080", "--workers", "2"])  # type: ignore[attr-defined]
    keys = command.commands["keys"]  # type: ignore[attr-defined]
    keys.commands["create"].make_context("create", ["--role", "analyst", "--expires", "30d", "--name", "me"])
