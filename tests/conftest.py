"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded mainnet data beside the repository."""
    if not (SHARED_DATA / "solana" / "MANIFEST.csv").is_file():
        if os.environ.get("CI"):
            pytest.fail("the recorded mainnet data is absent, and a CI run must have it")
        pytest.skip("the recorded mainnet data is not at ../shared/data")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts from the defaults, whatever the shell that runs it has set."""
    for name in list(os.environ):
        if name.startswith("BLYAN_"):
            monkeypatch.delenv(name)
