"""Settings from the environment, a file and the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from blyan.errors import SettingError
from blyan.settings import Settings, load_settings
from blyan.solana.slots import Grid

REQUIRED = ("lake", "source", "archive", "rpc_url", "first_slot", "horizon_slot", "slots_per_range")


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_setting_has_a_default_that_runs_on_one_machine() -> None:
    settings = load_settings()
    assert (settings.source, settings.lake) == ("embedded", ".blyan/lake")
    assert settings.grid == Grid(0, 1_000, 100)
    assert set(REQUIRED) < set(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blyan.toml").write_text('lake = "from-file"\nslots_per_range = 7\n')
    monkeypatch.setenv("BLYAN_SLOTS_PER_RANGE", "9")
    settings = load_settings()
    assert (settings.lake, settings.slots_per_range, settings.horizon_slot) == ("from-file", 9, 1_000)
    assert load_settings(slots_per_range=11).slots_per_range == 11


def test_the_file_may_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.toml").write_text('source = "rpc"\n')
    monkeypatch.setenv("BLYAN_CONFIG", str(tmp_path / "other.toml"))
    assert load_settings().source == "rpc"
    monkeypatch.setenv("BLYAN_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(SettingError, match="BLYAN_CONFIG"):
        load_settings()


def test_options_of_the_store_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLYAN_DELTA_OPTIONS", '{"AWS_REGION": "eu-west-1"}')
    assert load_settings().delta_options == {"AWS_REGION": "eu-west-1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BLYAN_SOURCE", "carrier pigeon"),
        ("BLYAN_FIRST_SLOT", "-1"),
        ("BLYAN_HORIZON_SLOT", "soon"),
        ("BLYAN_SLOTS_PER_RANGE", "0"),
        ("BLYAN_RPC_TIMEOUT_S", "0"),
        ("BLYAN_RPC_ENCODING", "xml"),
        ("BLYAN_BIGQUERY_MAXIMUM_BYTES_BILLED", "-5"),
    ],
)
def test_a_wrong_value_names_its_setting_and_what_it_was(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=rf"got '{value}'\) \[at {name}\] Remedy: `blyan doctor`"):
        load_settings()


def test_a_misspelt_setting_is_refused_rather_than_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLYAN_SLOT_PER_RANGE", "5")
    with pytest.raises(SettingError, match="unknown setting BLYAN_SLOT_PER_RANGE"):
        load_settings()
    monkeypatch.delenv("BLYAN_SLOT_PER_RANGE")
    (tmp_path / "blyan.toml").write_text("slot_per_range = 5\n")
    with pytest.raises(SettingError, match="BLYAN_SLOT_PER_RANGE"):
        load_settings()


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().lake = "elsewhere"  # type: ignore[misc]


def test_an_empty_grid_is_told_when_it_is_asked_for() -> None:
    with pytest.raises(SettingError, match="BLYAN_HORIZON_SLOT"):
        _ = load_settings(first_slot=2_000).grid


def test_a_file_that_is_not_toml_is_a_setting_error(tmp_path: Path) -> None:
    (tmp_path / "blyan.toml").write_text("lake = [")
    with pytest.raises(SettingError, match="BLYAN_CONFIG"):
        load_settings()
