"""Results of long queries: a folder each, with what is known of the job and a Parquet file, bounded and expiring.

Belongs here: their files, their states, whose they are. Does not belong here: running them (`blyan.query.sql`).

Several processes may share the folder: what is known stands in `job.json`, which is replaced atomically, and whoever runs a job holds
a lock on it, which the kernel lets go when that process dies. So a job that says that it runs, and is locked by nobody, is lost.
A job is its caller's: to any other it is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import pyarrow.parquet as pq
from msgspec import Struct

from blyan.errors import BlyanError, MissingObjectError, StoreFullError, TransientError
from blyan.query.formats import as_parquet
from blyan.query.snapshot import Reading
from blyan.store import errors_of

if TYPE_CHECKING:
    from blyan.query.sql import Answer

LOOK_S = 0.2
"""Seconds between two looks whether another process cancelled a job."""

_NAME = re.compile(r"[0-9a-f]{32}")


class Job(Struct, frozen=True):
    """What is known of a submitted query.

    Attributes:
        name: 128 random bits, in hex.
        caller: whose it is, as a digest.
        sql: the statement's normalised text.
        state: `waiting`, `running`, `done`, `failed` or `cancelled`.
        submitted_at, ended_at: Unix seconds.
        error: why it failed.
        columns, reading, rows, bytes, truncated, cursor, digest: of the result.
    """

    name: str
    caller: str
    sql: str
    state: str
    submitted_at: float
    ended_at: float | None = None
    error: str | None = None
    columns: list[tuple[str, str]] = []
    reading: Reading | None = None
    rows: int = 0
    bytes: int = 0
    truncated: bool = False
    cursor: str | None = None
    digest: str | None = None


class Spool:
    """The folder of submitted queries.

    Args:
        folder: where.
        max_bytes: of all results together; older ones go first.
        keep_s: seconds from the end of a job until it is forgotten.
    """

    def __init__(self, folder: Path, *, max_bytes: int, keep_s: float) -> None:
        self._folder, self._max_bytes, self._keep_s = folder, max_bytes, keep_s
        self._locks: dict[str, BinaryIO] = {}

    def open(self) -> None:
        """Make the folder, and tidy it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.tidy()

    def begin(self, caller: str, sql: str) -> Job:
        """A new job of a caller, which this process holds until it is over."""
        self.tidy()
        job = Job(secrets.token_hex(16), _caller(caller), sql, "waiting", time.time())
        with errors_of("the spool"):
            (self._folder / job.name).mkdir(parents=True)
            lock = (self._folder / job.name / "lock").open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX)
        self._locks[job.name] = lock
        self._put(job)
        return job

    def running(self, name: str) -> None:
        """It has begun."""
        self._put(msgspec.structs.replace(self._get(name), state="running"))

    async def write(self, name: str, answer: Answer) -> None:
        """Write the rows of an answer as the result of a job, which is then done.

        Raises:
            StoreFullError: there is no room in the folder, or on the disk; nothing is kept of it.
        """
        path, written = self._folder / name / "result.parquet", 0
        room = self._max_bytes - await asyncio.to_thread(self._make_room, name)
        with errors_of("the spool"):
            file = await asyncio.to_thread(path.open, "wb")
            with file:
                async for part in as_parquet(answer):
                    written += len(part)
                    if written > room:
                        raise StoreFullError("the results of submitted queries have no more room", remedy="ask for less, or cancel others")
                    await asyncio.to_thread(file.write, part)
        columns = [(column.name, column.type) for column in answer.columns]
        job = msgspec.structs.replace(
            self._get(name), state="done", ended_at=time.time(), columns=columns, reading=answer.reading, rows=answer.rows_count, bytes=written,
            truncated=answer.truncated, cursor=answer.cursor, digest=answer.digest,
        )  # fmt: skip
        await asyncio.to_thread(self._end, job)

    def over(self, name: str, state: str, error: str) -> None:
        """It ended without a result."""
        (self._folder / name / "result.parquet").unlink(missing_ok=True)
        self._end(msgspec.structs.replace(self._get(name), state=state, error=error, ended_at=time.time()))

    def job(self, name: str, caller: str) -> Job:
        """A job of a caller.

        Raises:
            MissingObjectError: the caller has none of that name, or it is no longer kept.
        """
        job = self._found(name) if _NAME.fullmatch(name) else None
        if job is None or job.caller != _caller(caller):
            raise MissingObjectError(
                "there is no such submitted query", where=name[:100], remedy="results are kept for a while only: submit it again"
            )
        return job

    def jobs(self, caller: str | None = None) -> list[Job]:
        """All jobs, or a caller's, the oldest first."""
        found = [self._found(path.name) for path in self._folder.iterdir() if _NAME.fullmatch(path.name)] if self._folder.exists() else []
        wanted = [job for job in found if job is not None and (caller is None or job.caller == _caller(caller))]
        return sorted(wanted, key=lambda job: (job.submitted_at, job.name))

    def cancel(self, name: str, caller: str) -> Job:
        """Ask whoever runs a job to end it, or drop the result of one that is over."""
        job = self.job(name, caller)
        if job.state in ("waiting", "running"):
            (self._folder / name / "cancel").touch()
        else:
            shutil.rmtree(self._folder / name, ignore_errors=True)
        return job

    def open_result(self, name: str) -> pq.ParquetFile:
        """The rows of a job that is done.

        Raises:
            MissingObjectError: they are no longer kept.
        """
        with errors_of(name):
            return pq.ParquetFile(self._folder / name / "result.parquet")

    @contextlib.asynccontextmanager
    async def watched(self, name: str) -> AsyncIterator[None]:
        """Cancel what runs inside when another process asks for it."""
        me = asyncio.current_task()

        async def watch() -> None:
            while not await asyncio.to_thread((self._folder / name / "cancel").exists):
                await asyncio.sleep(LOOK_S)
            if me is not None:
                me.cancel()

        watcher = asyncio.create_task(watch())
        try:
            yield
        finally:
            watcher.cancel()

    def tidy(self) -> None:
        """Forget what is kept for long enough, mark what is lost, and make room."""
        now = time.time()
        for job in self.jobs():
            if job.ended_at is not None and now - job.ended_at > self._keep_s:
                shutil.rmtree(self._folder / job.name, ignore_errors=True)
            elif job.state in ("waiting", "running") and job.name not in self._locks and self._is_lost(job.name):
                self.over(job.name, "failed", "the process that ran it ended; submit it again")
        self._make_room(None)

    def _make_room(self, besides: str | None) -> int:
        """Drop the oldest results until half of the room is free; returns the bytes of those that stay."""
        kept = [job for job in self.jobs() if job.state == "done" and job.name != besides]
        total = sum(job.bytes for job in kept)
        for job in kept:
            if total <= self._max_bytes // 2:
                break
            shutil.rmtree(self._folder / job.name, ignore_errors=True)
            total -= job.bytes
        return total

    def _is_lost(self, name: str) -> bool:
        try:
            with (self._folder / name / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def _end(self, job: Job) -> None:
        with contextlib.suppress(FileNotFoundError, BlyanError):  # its folder was dropped meanwhile
            self._put(job)
        lock = self._locks.pop(job.name, None)
        if lock is not None:
            lock.close()

    def _put(self, job: Job) -> None:
        path = self._folder / job.name / "job.json"
        new = path.with_suffix(".new")
        with errors_of("the spool"):
            new.write_bytes(msgspec.json.encode(job))
            new.replace(path)

    def _get(self, name: str) -> Job:
        job = self._found(name)
        if job is None:
            raise TransientError("the job was dropped while it ran", where=name, remedy="submit it again")
        return job

    def _found(self, name: str) -> Job | None:
        try:
            return msgspec.json.decode((self._folder / name / "job.json").read_bytes(), type=Job)
        except (FileNotFoundError, msgspec.DecodeError):
            return None


def _caller(caller: str) -> str:
    """A caller as it is written down: not its name, which may be a key's."""
    return hashlib.sha256(caller.encode()).hexdigest()
