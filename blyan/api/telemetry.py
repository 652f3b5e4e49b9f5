"""What the service says of itself: a log of JSON lines, and metrics for Prometheus.

Belongs here: formats and names. Does not belong here: what is measured where (`blyan.api.envelope`), who asked what (`blyan.api.audit`).
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from blyan.query.searcher import SearchReading

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The request that is being answered."""

BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request, and what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := REQUEST_ID.get():
            line["request_id"] = request
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1]:
            line["error"] = "".join(traceback.format_exception(record.exc_info[1]))
        return msgspec.json.encode(line, enc_hook=str).decode()


class Gathered(logging.Handler):
    """Writes lines together: one write a request is a fifth of what a remembered answer costs, and processes wait for each other in it.

    A line waits `WAIT_S` at most, a warning not at all, and nothing waits when the process ends in order. A line that cannot be written is lost.

    Args:
        file: descriptor of the file.
    """

    WAIT_S = 0.1
    LINES = 256

    def __init__(self, file: int) -> None:
        super().__init__()
        self._file, self._lines = file, list[str]()
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, or write all that wait."""
        self._lines.append(self.format(record))
        if record.levelno >= logging.WARNING or len(self._lines) >= self.LINES:
            self.flush()
        elif self._timer is None:
            self._timer = threading.Timer(self.WAIT_S, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def flush(self) -> None:
        """Write all that wait."""
        with self.lock or nullcontext():
            timer, self._timer = self._timer, None
            lines, self._lines = self._lines, []
            if timer is not None:
                timer.cancel()
            with suppress(OSError):  # nobody reads the log any more: requests are answered all the same
                for data in _together(lines):
                    while data:
                        data = data[os.write(self._file, data) :]


def _together(lines: list[str]) -> Iterator[bytes]:
    """Lines in as few writes as keep those of several processes apart: a pipe takes PIPE_BUF bytes as a whole."""
    data = b""
    for line in lines:
        more = f"{line}\n".encode()
        if data and len(data) + len(more) > select.PIPE_BUF:
            yield data
            data = b""
        data += more
    if data:
        yield data


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send every log of the process to the error output as JSON lines."""
    handler = Gathered(sys.stderr.fileno())
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("strawberry.execution").setLevel(logging.CRITICAL)  # queries at fault are told to who made them


@cache
def versions() -> dict[str, str]:
    """Versions of what answers depend on."""
    found = {}
    for package in ("blyan", "duckdb", "deltalake", "pyarrow", "fastapi"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # the repository on the path, not installed
            found[package] = "source"
    return found


class Metrics:
    """Counts and times of requests. With several workers they are counted together, in the folder PROMETHEUS_MULTIPROC_DIR."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("blyan_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry)
        self.seconds = Histogram(
            "blyan_http_request_seconds",
            "From the request's head to the response's last byte.",
            ["method", "route"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge("blyan_http_requests_in_flight", "Requests being answered.", registry=registry, multiprocess_mode="livesum")
        self.sent_bytes = Counter("blyan_http_response_bytes", "Bytes of bodies sent.", ["route"], registry=registry)
        self.refused = Counter("blyan_http_problems", "Problems told, by kind.", ["kind"], registry=registry)
        self.broken = Counter("blyan_http_broken", "Responses that were not sent whole.", ["why"], registry=registry)
        self.cache = Counter("blyan_cache_events", "What happened to remembered answers.", ["event"], registry=registry)
        self.cache_bytes = Gauge("blyan_cache_bytes", "Bytes of answers in memory.", registry=registry, multiprocess_mode="livesum")
        self.cache_paused = Gauge(
            "blyan_cache_paused", "Whether a room of answers is not asked, because it failed.", ["room"], registry=registry, multiprocess_mode="max"
        )
        self.live = Gauge("blyan_live_clients", "Clients of live streams.", registry=registry, multiprocess_mode="livesum")
        self.rates_shared = Gauge(
            "blyan_rates_shared", "Whether rates are counted in Redis, as set: 1, or in each process: 0.", registry=registry, multiprocess_mode="min"
        )
        self.searches = Counter(
            "blyan_searches", "Searches answered, by how was looked: hybrid, vector, text or newest.", ["mode"], registry=registry
        )
        self.search_seconds = Histogram(
            "blyan_search_seconds", "From a search that was taken to its answer, waiting included.", ["mode"], buckets=BUCKETS_S, registry=registry
        )
        self._index = Gauge(
            "blyan_search_index",
            "Whether searches are answered from the index of this name.",
            ["index"],
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._index_version, self._index_documents, self._ranges_behind = (
            Gauge(f"blyan_search_{name}", what, registry=registry, multiprocess_mode="mostrecent")
            for name, what in (
                ("index_version", "Version of the index that searches are answered from."),
                ("documents", "Documents and summaries in it."),
                ("ranges_behind", "Ranges of slots of which it has not what the tables have."),
            )
        )
        self._index_name = ""
        about = Gauge("blyan_build_info", "Versions, as labels.", list(versions()), registry=registry, multiprocess_mode="max")
        about.labels(**versions()).set(1)

    def searched(self, mode: str, seconds: float, reading: SearchReading, documents: int) -> None:
        """Count a search that was answered."""
        self.searches.labels(mode).inc()
        self.search_seconds.labels(mode).observe(seconds)
        if self._index_name not in ("", reading.index):
            self._index.labels(self._index_name).set(0)
        self._index_name = reading.index
        self._index.labels(reading.index).set(1)
        self._index_version.set(reading.index_version)
        self._index_documents.set(documents)
        self._ranges_behind.set(reading.ranges_behind)

    def rendered(self) -> tuple[bytes, str]:
        """The text of all metrics, and its media type."""
        registry = self._registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
