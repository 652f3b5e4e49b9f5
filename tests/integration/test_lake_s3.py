"""The same lake on a folder and on S3: what holds on one holds on the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lake_contract import *  # noqa: F403
from lake_rows import REWARDS
from object_stores import ObjectStore, local_store, s3_store

from blyan.errors import TransientError
from blyan.lake import Lake


@pytest.fixture(scope="module", params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    folder: Path = tmp_path_factory.mktemp("lakes")
    with local_store(folder) if request.param == "folder" else s3_store() as opened:
        yield opened


def test_a_store_that_does_not_answer_is_a_passing_trouble() -> None:
    nobody = "http://127.0.0.1:9"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    delta_options = {**keys, "AWS_ENDPOINT_URL": nobody, "AWS_ALLOW_HTTP": "true", "max_retries": "0"}
    with pytest.raises(TransientError, match="the store failed"):
        Lake("s3://lake/x", delta_options=delta_options).version(REWARDS)
