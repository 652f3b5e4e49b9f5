"""The same lake on Google Cloud Storage, by a stand-in on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lake_contract import *  # noqa: F403
from object_stores import ObjectStore, gcs_store


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with gcs_store() as opened:
        yield opened
