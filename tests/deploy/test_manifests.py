"""The Kubernetes manifests, and Dagster's own configuration, against the code they run."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml

from blyan.corpus.splits import split_rule
from blyan.errors import SettingError
from blyan.settings import PREFIX, Settings, load_settings

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERNETES = REPOSITORY / "k8s"
OVERLAYS = ["base", "overlays/gcs"]
VERSION = "1.33"


def rendered(overlay: str) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which renders the overlays, is not installed")
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / overlay], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == kind}


def instance_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((KUBERNETES / "base/dagster.yaml").read_text())
    return config


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_is_valid_and_has_no_unknown_field(overlay: str) -> None:
    manifests = rendered(overlay)

    assert len(manifests) > 10
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_are_bounded_unprivileged_and_read_only(overlay: str) -> None:
    for name, deployment in of_kind(rendered(overlay), "Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"], name
        for container in pod["containers"]:
            assert container["resources"].keys() == {"requests", "limits"}, name
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_referred_to_and_never_contained(overlay: str) -> None:
    manifests = rendered(overlay)
    containers = [container for each in of_kind(manifests, "Deployment").values() for container in each["spec"]["template"]["spec"]["containers"]]
    referred = {source["secretRef"]["name"] for container in containers for source in container["envFrom"] if "secretRef" in source}
    example = {each["metadata"]["name"] for each in yaml.safe_load_all((KUBERNETES / "base/secrets.example.yaml").read_text())}

    assert not of_kind(manifests, "Secret")
    assert referred == example == set(instance_config()["run_launcher"]["config"]["env_secrets"])


def test_the_split_key_comes_from_the_secret_that_every_step_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod makes no key of its own, and the one of the example is none."""
    (values,) = (
        each["stringData"]
        for each in yaml.safe_load_all((KUBERNETES / "base/secrets.example.yaml").read_text())
        if each["metadata"]["name"] == "blyan"
    )
    assert {name.removeprefix(PREFIX).lower() for name in values} <= Settings.model_fields.keys()
    assert "blyan" in instance_config()["run_launcher"]["config"]["env_secrets"]
    for overlay in OVERLAYS:
        manifests = rendered(overlay)
        assert f"{PREFIX}SPLIT_KEY" not in of_kind(manifests, "ConfigMap")["blyan"]["data"]
        for name, value in of_kind(manifests, "ConfigMap")["blyan"]["data"].items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SettingError, match="BLYAN_SPLIT_KEY"):
            split_rule(load_settings())
        with pytest.raises(SettingError, match="not hex"):
            split_rule(load_settings(split_key=values[f"{PREFIX}SPLIT_KEY"]))


def test_the_settings_of_the_config_map_are_settings_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for overlay, scheme in (("base", "s3://"), ("overlays/gcs", "gs://")):
        values = of_kind(rendered(overlay), "ConfigMap")["blyan"]["data"]
        assert {name.removeprefix(PREFIX).lower() for name in values} <= Settings.model_fields.keys()
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        settings = load_settings()
        assert settings.lake.startswith(scheme)
        assert len(settings.grid) == 8_000


def test_the_code_location_serves_the_module_that_the_workspace_names() -> None:
    (local,) = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"]
    (remote,) = yaml.safe_load((KUBERNETES / "base/workspace.yaml").read_text())["load_from"]
    manifests = rendered("base")
    (container,) = of_kind(manifests, "Deployment")["code-location"]["spec"]["template"]["spec"]["containers"]
    command = dict(zip(container["command"], container["command"][1:], strict=False))
    service = of_kind(manifests, "Service")[remote["grpc_server"]["host"]]

    assert command["--module-name"] == local["python_module"]["module_name"]
    assert command["--attribute"] == local["python_module"]["attribute"]
    assert remote["grpc_server"]["location_name"] == local["python_module"]["location_name"]
    assert str(remote["grpc_server"]["port"]) == command["--port"] == str(service["spec"]["ports"][0]["port"])
    assert hasattr(importlib.import_module("blyan_assets.build"), "build_defs")


def test_runs_start_from_the_image_of_the_code_location_in_its_namespace() -> None:
    manifests = rendered("base")
    (container,) = of_kind(manifests, "Deployment")["code-location"]["spec"]["template"]["spec"]["containers"]
    launcher = instance_config()["run_launcher"]["config"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}

    assert environment["DAGSTER_CURRENT_IMAGE"] == container["image"]
    assert launcher["job_namespace"] == container_namespace(manifests)
    assert launcher["service_account_name"] in of_kind(manifests, "ServiceAccount")
    assert {launcher["instance_config_map"], *launcher["env_config_maps"]} == of_kind(manifests, "ConfigMap").keys()


def test_the_service_is_started_as_the_command_line_takes_it_and_probed_where_it_answers() -> None:
    from typer.main import get_command

    from blyan.api.app import create
    from blyan.cli import app

    manifests = rendered("base")
    deployments = of_kind(manifests, "Deployment")
    for name in ("service", "index"):
        (container,) = deployments[name]["spec"]["template"]["spec"]["containers"]
        program, command, *arguments = container["command"]
        assert program == "blyan"
        get_command(app).commands[command].make_context(command, list(arguments))  # type: ignore[attr-defined]
    (container,) = deployments["service"]["spec"]["template"]["spec"]["containers"]
    paths = create(load_settings(audit_log="")).openapi()["paths"]
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} <= paths.keys()
    port = dict(zip(container["command"], container["command"][1:], strict=False))["--port"]
    assert str(container["ports"][0]["containerPort"]) == port
    grace = deployments["service"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > load_settings().serve_drain_s
    settings = {variable["name"].removeprefix(PREFIX).lower() for variable in container["env"]}
    assert settings <= Settings.model_fields.keys()


def test_the_secrets_of_the_example_are_settings() -> None:
    (secret,) = [each for each in yaml.safe_load_all((KUBERNETES / "base/secrets.example.yaml").read_text()) if each["metadata"]["name"] == "blyan"]
    assert {name.removeprefix(PREFIX).lower() for name in secret["stringData"]} <= Settings.model_fields.keys()


def container_namespace(manifests: list[dict[str, Any]]) -> str:
    (namespace,) = {each["metadata"]["namespace"] for each in manifests if each["kind"] == "Deployment"}
    return str(namespace)


@pytest.mark.filterwarnings("ignore")
def test_dagster_accepts_the_launcher_and_its_jobs_are_bounded_and_unprivileged() -> None:
    from dagster._config import process_config, resolve_to_config_type
    from dagster_k8s import K8sRunLauncher

    config = instance_config()["run_launcher"]["config"]
    result = process_config(resolve_to_config_type(K8sRunLauncher.config_type()), config)

    assert result.success, result.errors
    container, pod = config["run_k8s_config"]["container_config"], config["run_k8s_config"]["pod_spec_config"]
    assert container["resources"].keys() == {"requests", "limits"}
    assert container["security_context"]["read_only_root_filesystem"]
    assert pod["security_context"]["run_as_non_root"]


@pytest.mark.parametrize("file", [REPOSITORY / "dagster.yaml", KUBERNETES / "base/dagster.yaml"], ids=["local", "kubernetes"])
def test_dagster_accepts_the_instance_configuration(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.instance.config import dagster_instance_config

    # The classes it names are checked above, and need their packages and a database.
    config = {name: value for name, value in yaml.safe_load(file.read_text()).items() if name not in ("run_launcher", "storage")}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    accepted, _ = dagster_instance_config(str(tmp_path))

    assert accepted["telemetry"] == {"enabled": False}
    assert accepted["run_retries"]["retry_on_asset_or_op_failure"] is False


def test_the_local_instance_opens_with_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path)

    with dg.DagsterInstance.get() as instance:
        limits = instance.get_concurrency_config()
        assert limits.pool_config.default_pool_limit == 2
        assert limits.pool_config.pool_granularity.value == "run"
        assert instance.run_monitoring_enabled
        assert not instance.telemetry_enabled
