"""Object stores on loopback, for tests: S3 through moto, and a small stand-in of Google Cloud Storage.

A store is given as the three arguments that `Lake` takes, so that the same test runs on every kind.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as fs

from blyan.lake import Lake


@dataclass(frozen=True)
class ObjectStore:
    """How to reach one store; every lake is a prefix of its own."""

    root: str
    delta_options: dict[str, str]
    file_options: dict[str, str]

    def lake(self) -> Lake:
        return Lake(f"{self.root}/{uuid.uuid4().hex}", delta_options=self.delta_options, file_options=self.file_options)


@contextmanager
def local_store(folder: Path) -> Iterator[ObjectStore]:
    """A folder."""
    yield ObjectStore(str(folder), {}, {})


@contextmanager
def s3_store() -> Iterator[ObjectStore]:
    """moto's S3, which honours conditional puts."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        file_options = {"access_key": "key", "secret_key": "secret", "region": "us-east-1", "endpoint_override": endpoint}
        fs.S3FileSystem(**file_options, allow_bucket_creation=True).create_dir("lake")
        delta_options = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": "true",
        }
        yield ObjectStore("s3://lake", delta_options, {**file_options, "allow_bucket_creation": "false"})
    finally:
        server.stop()
