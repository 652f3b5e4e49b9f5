"""The generated documentation: the data dictionary and the list of settings.

    python -m blyan.docs            write docs/data-dictionary.md and docs/settings.md
    python -m blyan.docs --check    fail if they are not what the code says

Belongs here: rendering what `blyan.schemas` and `blyan.settings` declare. Does not belong here: prose of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from blyan.schemas import CORPUS, TABLES, VIEWS, Column
from blyan.settings import PREFIX, Settings

FOLDER = Path(__file__).resolve().parents[1] / "docs"


def data_dictionary() -> str:
    """Every table and column, as Markdown."""
    lines = [
        "# Data dictionary",
        "",
        "Generated from `blyan/schemas.py` by `python -m blyan.docs`; do not edit.",
        "",
        "Columns marked ● have the name and meaning of the public BigQuery dataset `crypto_solana_mainnet_us`; where the name there",
        "differs, it is given. Lamports and token amounts are `decimal(20, 0)`: exact for every u64. Absent is null, never zero. Every",
        "table but `corpus/tokenizer` has the partition column `slot_range`, the zero-padded first slot of its range.",
        "",
    ]
    for table in [*TABLES.values(), *CORPUS, *VIEWS.values()]:
        lines += [f"## {table.name}", "", table.prose, "", f"Key, and order of rows: {', '.join(f'`{name}`' for name in table.key)}.", ""]
        lines += ["| column | type | null | BigQuery | meaning |", "|---|---|---|---|---|"]
        lines += [_row(column) for column in table.columns]
        lines.append("")
    return "\n".join(lines)


def _row(column: Column) -> str:
    same = "" if column.bigquery is None else "●" if column.bigquery == column.name else f"● `{column.bigquery}`"
    null = "yes" if column.nullable else "no"
    prose = column.prose.replace("|", "\\|")
    outside = "" if column.in_digest else " Not part of the content digest."
    return f"| `{column.name}` | {_type(column.type)} | {null} | {same} | {prose}{outside} |"


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{child.name}: {_type(child.type)}" for child in kind) + "}"
    names = {
        "string": "text",
        "bool": "boolean",
        "timestamp[us, tz=UTC]": "timestamp (µs, UTC)",
        "decimal128(20, 0)": "decimal(20, 0)",
        "decimal128(38, 0)": "decimal(38, 0)",
    }
    return names.get(str(kind), str(kind))


def settings_list() -> str:
    """Every setting, as Markdown."""
    lines = [
        "# Settings",
        "",
        "Generated from `blyan/settings.py` by `python -m blyan.docs`; do not edit.",
        "",
        f"Read from the environment, then from the TOML file that `{PREFIX}CONFIG` names (`blyan.toml` in the working directory by",
        "default, with the names in lower case and without the prefix), then from these defaults.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "unset" if default is None else "empty" if default in ({}, []) else f"`{default}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {(field.description or '').replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, ""])


PAGES = {"data-dictionary.md": data_dictionary, "settings.md": settings_list}


def main(arguments: list[str]) -> int:
    """Write the pages, or check them; the exit status."""
    stale = []
    for name, render in PAGES.items():
        path, text = FOLDER / name, render()
        if "--check" in arguments:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"docs/{', docs/'.join(stale)} are not what the code says. Remedy: python -m blyan.docs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
