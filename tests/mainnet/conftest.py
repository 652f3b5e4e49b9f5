"""Each recorded file materialised at most once for all tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from recorded_files import Recorded, materialise, row_of


@pytest.fixture(scope="session")
def recorded(shared_data, tmp_path_factory) -> Callable[[str], Recorded]:
    """The recorded file whose path in the manifest starts so, materialised on first use."""
    known: dict[str, Recorded] = {}

    def find(start: str) -> Recorded:
        row = row_of(start)
        if row["file"] not in known:
            known[row["file"]] = materialise(row, tmp_path_factory.mktemp("recorded"))
        return known[row["file"]]

    return find
