"""The asset `corpus/embeddings`, run for real on a temporary lake."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import dagster as dg
import pytest

from blyan.corpus import minilm
from blyan.corpus.embedder import Vectors
from blyan.lake import Lake
from blyan.schemas import EMBEDDINGS
from blyan.settings import Settings, load_settings
from blyan_assets.build import build_defs
from blyan_assets.embeddings import CHECKED, code_version
from resources.embedder import EmbedderResource
from tests.assets.conftest import QUIET, Run, Small
from tests.unit.test_embedding_cache import Hashed

FIRST, SECOND = "000000000000", "000000000008"
KEY = dg.AssetKey(["corpus", "embeddings"])


def made(result: dg.ExecuteInProcessResult) -> tuple[str, dict[str, Any]]:
    """The data version and the metadata of the embeddings."""
    (event,) = [
        e.step_materialization_data.materialization
        for e in result.get_asset_materialization_events()
        if e.step_materialization_data.materialization.asset_key == KEY
    ]
    return event.tags["dagster/data_version"], {name: value.value for name, value in event.metadata.items()}


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations() if check.asset_key == KEY}


@pytest.fixture
def tables(run: Run) -> None:
    """A range with its tables."""
    assert run("ingest_range", FIRST).success


@pytest.mark.usefixtures("tables")
def test_a_range_is_embedded_checked_and_versioned_by_its_content(run: Run, lake: Lake) -> None:
    small = Small()
    result = run("build_corpus", FIRST, embedder=small)
    assert result.success
    version, told = made(result)
    assert version == lake.partitions(EMBEDDINGS)[FIRST].digest
    assert verdicts(result) == dict.fromkeys(("schema", *CHECKED), True)
    assert told["rows"] == told["distinct"] == told["embedded"] == len(small.model.asked) < told["texts"]
    assert (told["from cache"], told["truncated"]) == (0, sum(len(text) > 20 for text in small.model.asked))
    assert told["saved share"] == round(1 - told["embedded"] / told["texts"], 4)
    assert (told["model"], told["model digest"], told["dimension"]) == ("hashed", "0" * 64, 6)
    assert told["content changed"]

    again = made(run("build_corpus", FIRST, embedder=Small()))
    assert again[0] == version
    assert (again[1]["content changed"], again[1]["embedded"], again[1]["saved share"]) == (False, 0, 1.0)

    assert run("ingest_range", SECOND).success
    _, other = made(run("build_corpus", SECOND, embedder=Small()))
    assert other["from cache"] > 0, "gists of the first range are not embedded again"


@pytest.mark.usefixtures("tables")
def test_another_model_is_another_version(run: Run) -> None:
    version, _ = made(run("build_corpus", FIRST))
    other, told = made(run("build_corpus", FIRST, embedder=Small(Hashed("1" * 64))))
    assert other != version
    assert told["from cache"] == 0
    assert made(run("build_corpus", FIRST))[0] == version


class Long(Hashed):
    """Its vectors are no directions."""

    def vectors(self, texts: Sequence[str]) -> Vectors:
        return super().vectors(texts) * 2


@pytest.mark.usefixtures("tables")
def test_vectors_that_are_no_directions_fail_the_check_that_says_so(run: Run) -> None:
    result = run("build_corpus", FIRST, embedder=Small(Long()))
    assert verdicts(result) == {"schema": True, "every_text_has_a_vector": True, "every_vector_is_a_direction": False}
    assert not result.success


class Broken(Hashed):
    """Another dimension than it says."""

    def vectors(self, texts: Sequence[str]) -> Vectors:
        return super().vectors(texts)[:, :-1]


@pytest.mark.usefixtures("tables")
def test_a_model_of_another_dimension_fails_the_step_and_says_so(run: Run, lake: Lake) -> None:
    result = run("build_corpus", FIRST, embedder=Small(Broken()))
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "the embedder gave float32" in str(failure.step_failure_data.error)
    assert not lake.exists(EMBEDDINGS)


def test_embeddings_without_documents_fail_and_say_what_is_missing(settings: Settings, instance: dg.DagsterInstance) -> None:
    job = build_defs(settings=settings, resources={"embedder": Small()}, with_marts=False).resolve_job_def("build_corpus")
    result = job.execute_in_process(instance=instance, partition_key=FIRST, asset_selection=[KEY], run_config=QUIET, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "MissingObjectError" in str(failure.step_failure_data.error)


@pytest.mark.usefixtures("tables")
def test_the_default_model_embeds_a_range(run: Run, settings: Settings, lake: Lake) -> None:
    if missing := [name for name in ("onnx", "onnxruntime", "tokenizers", minilm.PACKAGE) if importlib.util.find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    result = run("build_corpus", FIRST, embedder=EmbedderResource.of(settings))
    assert result.success
    _, told = made(result)
    assert (told["model"], told["dimension"]) == ("all-MiniLM-L6-v2 int8", 384)
    assert all(verdicts(result).values())


def test_the_code_version_names_the_model_and_not_its_key() -> None:
    versions = {
        code_version(load_settings(**given))  # type: ignore[arg-type]
        for given in (
            {},
            {"embedder": "minilm-fp32"},
            {"embedder": "endpoint", "embedding_model": "a", "embedding_key": "a-secret"},
            {"embedder": "endpoint", "embedding_model": "b"},
        )
    }
    assert len(versions) == 4
    assert not any("secret" in version for version in versions)


def test_a_key_is_read_where_it_is_needed_and_is_no_config(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = EmbedderResource.of(load_settings(embedding_key="a-secret", embedder="endpoint", embedding_model="m"))
    assert resource.overrides == {"embedder": "endpoint", "embedding_model": "m"}
    monkeypatch.setenv("BLYAN_EMBEDDING_KEY", "from the environment")
    key = resource.settings().embedding_key
    assert key is not None
    assert key.get_secret_value() == "from the environment"
