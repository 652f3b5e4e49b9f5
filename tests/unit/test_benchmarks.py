"""What benchmarks print: one JSON line a figure, that says how the figure came about. No figure is judged here."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blyan.corpus.minilm import PACKAGE

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = sorted((REPOSITORY / "benchmarks").glob("*.py"))
KINDS = {"measured", "derived", "simulated"}


def figures_of(*command: str) -> list[dict[str, Any]]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    for figure in figures:
        check_honest(figure)
    return figures


def check_honest(figure: dict[str, Any]) -> None:
    """It says its kind; a simulated one says what it was calibrated against, how far off it was, and its seed."""
    assert figure["kind"] in KINDS
    assert figure["figure"] if "figure" in figure else figure["table"]
    if figure["kind"] == "simulated":
        assert isinstance(figure["calibrated_against"], str)
        assert isinstance(figure["calibration_error"], (int, float))
        assert isinstance(figure["seed"], int)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_kind_in_a_benchmark_is_a_known_one_and_a_simulated_one_is_calibrated(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert "json line" in (ast.get_docstring(tree) or "").lower(), "the docstring says what is printed"
    kinds = {
        value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "kind" and isinstance(value, ast.Constant)
    }
    assert kinds
    assert kinds <= KINDS
    if "simulated" in kinds:
        assert all(f'"{name}"' in source for name in ("calibrated_against", "calibration_error", "seed"))


@pytest.mark.parametrize("missing", ["calibrated_against", "calibration_error", "seed"])
def test_a_simulated_figure_without_its_calibration_is_not_honest(missing: str) -> None:
    figure = {"figure": "x", "kind": "simulated", "calibrated_against": "a run of 100 slots", "calibration_error": 0.05, "seed": 1}
    check_honest(figure)
    del figure[missing]
    with pytest.raises(KeyError):
        check_honest(figure)


def test_the_normaliser_prints_its_figures_for_each_input(shared_data: Path) -> None:
    inputs = sorted((shared_data / "solana" / "blocks").glob("147078735-json*"))
    figures = figures_of("benchmarks/normalise.py", "--seconds", "0.01", "--input", *map(str, inputs))
    assert [figure["input"] for figure in figures] == [path.name for path in inputs]
    assert {figure["encoding"] for figure in figures} == {"json", "jsonParsed"}
    for figure in figures:
        assert figure["kind"] == "measured"
        assert figure["transactions"] == 25
        assert figure["tx_per_cpu_s"] > 0
        assert figure["peak_rss_mb"] > 0
        assert 0 < figure["share_of_decode_limit"] <= 1


def test_the_ingest_benchmark_prints_its_figures(shared_data: Path) -> None:
    (path,) = (shared_data / "solana" / "blocks").glob("343156956-json*")
    (figure,) = figures_of("benchmarks/ingest.py", "--slots", "2", "--transactions", "20", "--input", str(path))
    assert (figure["kind"], figure["slots"], figure["transactions"]) == ("measured", 2, 40)
    assert min(figure[name] for name in ("land_tx_per_wall_s", "normalise_tx_per_wall_s", "both_tx_per_wall_s", "peak_rss_mb")) > 0


def test_the_embedded_chain_prints_its_figures() -> None:
    figures = figures_of("benchmarks/embedded.py", "--slots", "3", "--transactions", "2")
    assert {"embedded_tx_per_cpu_s", "embedded_peak_rss_mb"} < {figure["figure"] for figure in figures}
    assert all(figure["value"] > 0 for figure in figures)


def test_the_benchmark_of_chains_prints_its_figures() -> None:
    figures = figures_of("benchmarks/chain.py", "--blocks", "30", "--appends", "2")
    named = {figure["figure"]: figure["value"] for figure in figures}
    assert {"blocks_per_cpu_s", "limit_blocks_per_cpu_s", "share_of_library", "append_ms_p50", "fsync_ms_p50", "full_sync_s", "fast_sync_s"} < set(
        named
    )
    assert all(value > 0 for value in named.values())


def test_the_embedding_benchmark_prints_its_figures(shared_data: Path) -> None:
    if missing := [name for name in ("onnx", "onnxruntime", "tokenizers", PACKAGE) if importlib.util.find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    (path,) = (shared_data / "solana" / "blocks").glob("332254855-json-*")
    figures = figures_of("benchmarks/embed.py", "--texts", "12", "--input", str(path))
    rates = [figure for figure in figures if figure["figure"] == "texts_per_cpu_s"]
    assert {(figure["texts_of"], figure["precision"], figure["cores"]) for figure in rates} == {
        (kind, precision, cores) for kind in ("sentences", "transactions", "gists") for precision in ("fp32", "int8") for cores in (1, 2)
    }
    assert all(figure["value"] > 0 and figure["tokens_per_text"] > 10 for figure in rates)
    assert all(0.93 < figure["value"] <= 1 for figure in figures if figure["figure"] == "int8_cosine_mean")
    (saved,) = [figure for figure in figures if figure["figure"] == "gist_saved_share"]
    assert saved["value"] == round(1 - saved["distinct_gists"] / saved["documents"], 4) > 0.5


@pytest.mark.slow
def test_the_serving_benchmark_prints_its_figures() -> None:
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    figures = figures_of("benchmarks/serve.py", "--slots", "32", "--transactions", "20", "--seconds", "2", "--connections", "4")
    found = {(figure["workers"], figure["figure"]): figure["value"] for figure in figures}
    assert all(figure["transactions"] == 640 for figure in figures)
    for workers in (1, 2):
        assert found[workers, "cached_requests_per_s"] > found[workers, "computed_requests_per_s"] > 0
        assert found[workers, "cached_refused"] == found[workers, "cached_broken"] == 0
