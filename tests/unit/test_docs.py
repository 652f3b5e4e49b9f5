"""The generated pages are what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from blyan import docs
from blyan.schemas import CORPUS, TABLES, VIEWS
from blyan.settings import Settings


@pytest.mark.parametrize("name", docs.PAGES)
def test_a_page_is_fresh(name: str) -> None:
    assert (docs.FOLDER / name).read_text(encoding="utf-8") == docs.PAGES[name](), "run `python -m blyan.docs`"


def test_the_dictionary_has_every_table_and_column() -> None:
    text = docs.data_dictionary()
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert list(sections) == [*TABLES, *(table.name for table in CORPUS), *VIEWS]
    for table in [*TABLES.values(), *CORPUS, *VIEWS.values()]:
        rows = [line.split("`")[1] for line in sections[table.name].splitlines() if line.startswith("| `")]
        assert rows == table.column_names


def test_the_list_of_settings_has_every_setting_with_its_meaning() -> None:
    rows = [line for line in docs.settings_list().splitlines() if line.startswith("| `BLYAN_")]
    assert [row.split("`")[1] for row in rows] == [f"BLYAN_{name.upper()}" for name in Settings.model_fields]
    assert all(row.split("|")[3].strip() for row in rows)


def test_a_stale_page_fails_the_check_and_writing_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "FOLDER", tmp_path)
    assert docs.main(["--check"]) == 1
    assert "Remedy: python -m blyan.docs" in capsys.readouterr().err
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    (tmp_path / "settings.md").write_text("edited by hand")
    assert docs.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("docs/settings.md are not what the code says")
