"""The registry of names keeps its own laws, and more names can be put above it."""

from __future__ import annotations

import pytest

from blyan.corpus.registry import load_registry
from blyan.errors import PermanentError
from blyan.solana import base58, programs
from blyan.solana.normalise import NATIVE_MINT

ACCOUNT = base58.encode(bytes([5]) * 32)


def put(folder, text):
    path = folder / "more.toml"
    path.write_text(text)
    return path


def test_every_program_that_is_decoded_has_a_name():
    assert programs.DECODERS.keys() < load_registry().programs.keys()
    assert load_registry().mints[NATIVE_MINT].decimals == 9


def test_no_two_accounts_share_a_name():
    names = load_registry().names
    assert len(set(names.values())) == len(names) == len(load_registry().programs) + len(load_registry().mints)


def test_entries_of_a_further_file_are_put_above(tmp_path):
    entry = f'[programs.{ACCOUNT}]\nname = "Mine"\ncategory = "other"\nerrors = {{ 7 = "Bad" }}\n'
    registry = load_registry(put(tmp_path, entry))
    assert registry.names[ACCOUNT] == "Mine"
    assert (registry.error(ACCOUNT, 7), registry.error(ACCOUNT, 8), registry.error(None, 7)) == ("Bad", None, None)
    assert registry.digest != load_registry().digest
    assert registry.names.items() > load_registry().names.items()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f'[mints.{ACCOUNT}]\nsymbol = "USDC"\ndecimals = 6\n', "more than one account is named USDC"),
        ('[mints.short]\nsymbol = "A"\ndecimals = 6\n', "short is not an account"),
        (f'[mints.{ACCOUNT}]\nsymbol = "a\\nb"\ndecimals = 6\n', "cannot be a name"),
        (f'[mints.{ACCOUNT}]\nsymbol = "@0"\ndecimals = 6\n', "cannot be a name"),
        (f'[mints.{ACCOUNT}]\nsymbol = "A"\nplaces = 6\n', "cannot be read"),
        (f'[programs.{ACCOUNT}]\nname = "A"\ncategory = "casino"\n', "cannot be read"),
        (f'[programs.{ACCOUNT}]\nname = "A"\ncategory = "other"\nerrors = {{ 0x1 = "B" }}\n', "not decimal"),
        ("[", "cannot be read"),
    ],
)
def test_a_file_that_breaks_a_law_is_refused(tmp_path, text, problem):
    with pytest.raises(PermanentError, match=problem):
        load_registry(put(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(PermanentError, match="cannot be read"):
        load_registry(tmp_path / "none.toml")
