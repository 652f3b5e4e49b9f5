"""The same lake on a folder and on S3: what holds on one holds on the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lake_contract import *  # noqa: F403
from object_stores import ObjectStore, local_store, s3_store


@pytest.fixture(scope="module", params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    folder: Path = tmp_path_factory.mktemp("lakes")
    with local_store(folder) if request.param == "folder" else s3_store() as opened:
        yield opened
