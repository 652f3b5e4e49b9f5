"""Object stores on loopback, for tests: S3 through moto, and a small stand-in of Google Cloud Storage.

A store is given as the three arguments that `Lake` takes, so that the same test runs on every kind.
"""

from __future__ import annotations

import json
import subprocess
import sys
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
def process(*arguments: str) -> Iterator[str]:
    """Run a server in a process of its own, which prints its address.

    Not in a thread: delta-rs holds the interpreter's lock while it restores, and would wait for itself.
    """
    command = [sys.executable, "-W", "ignore", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_store() -> Iterator[ObjectStore]:
    """S3 by moto, which honours conditional puts."""
    with process("-c", MOTO) as endpoint:
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


@contextmanager
def gcs_store() -> Iterator[ObjectStore]:
    """Google Cloud Storage by `gcs_stand_in.py`; neither client was run against Google itself."""
    with process(str(Path(__file__).with_name("gcs_stand_in.py"))) as endpoint:
        account = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        delta_options = {"google_service_account_key": json.dumps(account), "allow_http": "true"}
        file_options = {"anonymous": "true", "endpoint_override": endpoint.removeprefix("http://"), "scheme": "http", "retry_time_limit": "5"}
        yield ObjectStore("gs://lake", delta_options, file_options)
