"""The names of well-known programs and mints.

Belongs here: reading the registry, its laws, and its digest. Does not belong here: the entries (`registry.toml`), or how
documents use them (`blyan.corpus.render`).

Names come from the registry alone, never from the chain: anyone can create a mint whose metadata says "USDC".
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from blyan.errors import PermanentError
from blyan.solana import base58

Category = Literal["core", "token", "stake", "exchange", "lending", "nft", "oracle", "other"]

_PUBLISHED = Path(__file__).with_name("registry.toml")


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A program. `errors` are its custom codes in decimal; `instructions` are named by the first bytes of their data, in hex, eight at most.

    `acts_on` is the position of the account that its instructions act on, -1 for none, where that is not the first that they may write to.
    """

    name: str
    category: Category
    errors: dict[str, str] = {}
    instructions: dict[str, str] = {}
    acts_on: int | None = None


class Mint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token. `is_dollar` is true of one that is worth a dollar by promise."""

    symbol: str
    decimals: int
    is_dollar: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    programs: dict[str, Program] = {}
    mints: dict[str, Mint] = {}


@dataclass(frozen=True)
class Registry:
    """Programs and mints by account. `digest` is the SHA-256 of the entries, in hex, whatever file they came from."""

    programs: dict[str, Program]
    mints: dict[str, Mint]
    digest: str

    @property
    def names(self) -> dict[str, str]:
        """The name of each account that has one; no two accounts share a name."""
        return {account: program.name for account, program in self.programs.items()} | {account: mint.symbol for account, mint in self.mints.items()}

    def error(self, program_id: str | None, code: int) -> str | None:
        """The name that a program gives one of its custom codes, if the registry has it."""
        program = self.programs.get(program_id or "")
        return program.errors.get(str(code)) if program else None


@cache
def load_registry(*more: Path) -> Registry:
    """The registry of the project, with the entries of further files put above it.

    Args:
        more: TOML files of the same form, such as names learnt for one lake. A later file replaces entries of an earlier one.

    Raises:
        PermanentError: a file cannot be read, an account is not 32 bytes of base58, or two accounts have one name.
    """
    programs: dict[str, Program] = {}
    mints: dict[str, Mint] = {}
    for path in (_PUBLISHED, *more):
        try:
            file = msgspec.toml.decode(path.read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError) as error:
            raise PermanentError(f"the registry cannot be read: {error}", where=str(path), remedy="correct the file") from error
        _check(file, str(path))
        programs |= file.programs
        mints |= file.mints
    names = [*(program.name for program in programs.values()), *(mint.symbol for mint in mints.values())]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PermanentError(f"more than one account is named {', '.join(twice)}", where="the registry", remedy="rename all but one of them")
    entries = msgspec.json.encode(_File(programs, mints), order="sorted")
    return Registry(programs, mints, hashlib.sha256(entries).hexdigest())


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.\-]*( [A-Za-z0-9.\-]+)*")
_TAG = re.compile(r"([0-9a-f]{2}){1,8}")


def _check(file: _File, where: str) -> None:
    names = {account: program.name for account, program in file.programs.items()} | {account: mint.symbol for account, mint in file.mints.items()}
    for account, name in names.items():
        try:
            size = len(base58.decode(account))
        except ValueError:
            size = 0
        if size != 32:
            raise PermanentError(f"{account} is not an account", where=where, remedy="give 32 bytes in base58")
        if not _NAME.fullmatch(name):
            raise PermanentError(f"{name!r} cannot be a name", where=where, remedy="use letters, digits, dots, hyphens and single spaces")
    for account, program in file.programs.items():
        if not all(code.isdecimal() for code in program.errors) or not all(_TAG.fullmatch(tag) for tag in program.instructions):
            raise PermanentError(f"{account} has a code that is not decimal or a tag that is not hex", where=where, remedy="correct the entry")
