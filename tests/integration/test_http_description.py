"""The OpenAPI description: complete, and true of what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blyan.api.app import create
from blyan.lake import Lake
from blyan.settings import Settings
from tests.http_service import key_for, made_lake, make_searchable, served

LONG = 40


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("described")
    settings = made_lake(folder / "lake").model_copy(update={"audit_log": "", "query_processes": 1})
    make_searchable(settings)
    return settings


@pytest.fixture(scope="module")
def app(settings: Settings) -> Any:
    return create(settings)


def operations(description: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, operation) for path, methods in description["paths"].items() for method, operation in methods.items()]


def faults_of(description: dict[str, Any]) -> list[str]:
    """What a description leaves out."""
    found = []
    for path, method, operation in operations(description):
        where = f"{method} {path}"
        if not operation.get("summary") or not operation.get("description"):
            found.append(f"{where} has no summary or description")
        for parameter in operation.get("parameters", []):
            if not parameter.get("description"):
                found.append(f"{where} does not say what {parameter['name']} is")
        for status in ("400", "422", "413", "500", "503"):
            content = operation["responses"].get(status, {}).get("content", {})
            if list(content) != ["application/problem+json"] or not content["application/problem+json"].get("examples"):
                found.append(f"{where} does not describe {status}")
        if path.startswith("/v1/") and not {"401", "403", "429"} <= operation["responses"].keys():
            found.append(f"{where} does not say that it may be refused")
        if path.startswith("/v1/") and not operation.get("security"):
            found.append(f"{where} does not say that it needs a key")
    for name, schema in description["components"]["schemas"].items():
        for field, about in schema.get("properties", {}).items():
            if not about.get("description") and not _is_part(name):
                found.append(f"{name}.{field} is not explained")
    return found


def _is_part(name: str) -> bool:
    """Structs inside a column, which the column's own prose explains."""
    return name.startswith("Solana") and any(part in name for part in ("Accounts", "BalanceChanges", "TokenBalances", "TableLookups", "Params"))


def test_every_operation_parameter_and_error_is_described(app: Any) -> None:
    assert faults_of(app.openapi()) == []


def test_a_description_that_leaves_something_out_is_noticed(app: Any) -> None:
    import copy

    description = copy.deepcopy(app.openapi())
    operation = description["paths"]["/v1/blocks"]["get"]
    operation["parameters"][0].pop("description")
    operation["responses"].pop("429")
    operation["responses"]["422"] = {"content": {"application/json": {}}}
    assert len(faults_of(description)) == 3


@pytest.mark.parametrize("examples", [2, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_whatever_the_description_allows_is_answered_as_it_says(settings: Settings, examples: int, tmp_path: Path) -> None:
    """Schemathesis makes requests of the description, allowed and not allowed ones; no answer may be undescribed, or a failure of ours."""
    import schemathesis
    from hypothesis import HealthCheck, given
    from hypothesis import settings as hypothesis_settings
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    headers = {"authorization": f"Bearer {key_for(Lake.from_settings(settings))}"}
    asked: dict[int, int] = {}
    with served(settings, tmp_path, BLYAN_QUERY_PROCESSES="1", BLYAN_AUDIT_LOG="") as service:
        schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.path.startswith("/v1/live"):
                continue  # streams, which have no end
            allowed = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
            wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

            @hypothesis_settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
            @given(case=allowed | wrong)
            def ask(case: Any) -> None:
                response = case.call(headers=headers)
                asked[response.status_code] = asked.get(response.status_code, 0) + 1
                case.validate_response(response, checks=checks)

            ask()
    assert asked[200] > 3
    assert asked[422] > 3
