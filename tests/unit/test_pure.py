"""`blyan/` is pure: it knows no orchestrator, and what is slow to import is imported where it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

EVERY_MODULE = """
import importlib, json, pkgutil, sys
import blyan
names = [module.name for module in pkgutil.walk_packages(blyan.__path__, "blyan.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted(sys.modules)]))
"""

BANNED = {
    "dagster",
    "google",
    "kubernetes",
    "lance",
    "lancedb",
    "onnx",
    "onnxruntime",
    "pandas",
    "sentence_transformers",
    "tokenizers",
    "torch",
    "transformers",
}
"""Orchestrators, and packages that take from 0.4 to 3.5 s to import."""


def test_importing_every_module_imports_no_orchestrator_and_nothing_slow() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY_MODULE], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names, loaded = json.loads(done.stdout)
    files = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in (REPOSITORY / "blyan").rglob("*.py") if path.stem != "__init__"}
    assert files <= set(names), "a module that no package holds"
    roots = {name.partition(".")[0] for name in loaded}
    assert not {name for name in roots if name in BANNED or name.startswith("dagster")}
    assert not roots & {"blyan_assets", "blyan_sensors", "resources"}, "arrows point one way"


def test_a_worker_process_needs_no_more_than_it_uses() -> None:
    """Each worker that normalises pays for its imports, in time and in memory."""
    code = "import json, sys, blyan.solana.ingest; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"aiohttp", "deltalake", "duckdb", "httpx", "pandas", "polars", "rich", "solana", "typer"} & set(json.loads(done.stdout))
