"""A question in words: which of them are filters.

Belongs here: recognising signatures, accounts and names of programs. Does not belong here: what a filter does (`blyan.query.search`).

What is recognised is exact, so it becomes a filter and is said to the reader; all other words are looked for as they stand.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from blyan.corpus.registry import Registry
from blyan.errors import PermanentError
from blyan.query.search import Filters, check_account
from blyan.solana import base58

_BASE58 = re.compile(r"(?<![0-9A-Za-z])[1-9A-HJ-NP-Za-km-z]{32,88}(?![0-9A-Za-z])")

_ACCOUNT_BYTES, _SIGNATURE_BYTES = 32, 64

_EVERYDAY = frozenset({"core", "token", "stake", "nft", "oracle"})
"""Categories whose programs have names that are everyday words, such as Stake and Vote: those are recognised as they are written alone."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        text: the words to look for, without what became an exact filter of its own.
        filters: what a hit must be, those that were given included.
        said: what was recognised, in words.
    """

    text: str
    filters: Filters
    said: tuple[str, ...]


def understand(text: str, registry: Registry, filters: Filters | None = None) -> Question:
    """Turn signatures, accounts and names of programs in a question into filters.

    The name of a program stays among the words, since texts have it too. A first name that several programs share, such as Raydium,
    means any of them.
    """
    chosen = filters or Filters()
    said: list[str] = []
    for found in _BASE58.findall(text):
        size = _size(found)
        if size == _SIGNATURE_BYTES:
            chosen, said = replace(chosen, signature=found), [*said, f"signature {found}"]
        elif size == _ACCOUNT_BYTES and found in registry.programs:
            chosen, said = replace(chosen, programs=(*chosen.programs, found)), [*said, f"program {registry.names[found]}"]
        elif size == _ACCOUNT_BYTES and found in registry.mints:
            # Texts have the names of known mints, and their lists of accounts only those without a name.
            text = text.replace(found, registry.names[found])
            continue
        elif size == _ACCOUNT_BYTES:
            chosen, said = replace(chosen, accounts=(*chosen.accounts, found)), [*said, f"account {found}"]
        else:
            continue
        text = text.replace(found, " ")
    if not chosen.programs and chosen.signature is None:
        named = {name: accounts for name, accounts in _spoken(registry).items() if _has(text, name, everyday=_is_everyday(registry, accounts))}
        # The longest name wins: whoever says "Raydium CLMM" does not mean all of Raydium.
        chosen_names = [name for name in named if not any(name != other and name.lower() in other.lower() for other in named)]
        programs = tuple(dict.fromkeys(account for name in chosen_names for account in named[name]))
        if programs:
            chosen = replace(chosen, programs=programs)
            said.append("program " + " or ".join(registry.names[account] for account in programs))
    return Question(" ".join(text.split()), chosen, tuple(said))


def programs_named(name: str, registry: Registry) -> tuple[str, ...]:
    """The programs that a name or an account means.

    Raises:
        PermanentError: the registry has no such name, and it is no account.
    """
    spoken = {spoken.lower(): accounts for spoken, accounts in _spoken(registry).items()}
    if name.lower() in spoken:
        return spoken[name.lower()]
    try:
        check_account(name)
    except PermanentError:
        near = difflib.get_close_matches(name, list(_spoken(registry)), 3, 0.4)
        remedy = f"give an account, or a name of the registry{', such as ' + ', '.join(near) if near else ''}"
        raise PermanentError(f"no program is named {name!r}", where="--program", remedy=remedy) from None
    return (name,)


def _spoken(registry: Registry) -> dict[str, tuple[str, ...]]:
    """What programs are called, and which each name means: whole names, and the first names of those that are no part of Solana itself."""
    shared: dict[str, list[str]] = {}
    for account, program in sorted(registry.programs.items(), key=lambda item: item[1].name):
        if program.category not in _EVERYDAY:
            shared.setdefault(program.name.partition(" ")[0], []).append(account)
    whole = {program.name: (account,) for account, program in registry.programs.items()}
    return {name: tuple(accounts) for name, accounts in shared.items()} | whole


def _is_everyday(registry: Registry, accounts: tuple[str, ...]) -> bool:
    return all(registry.programs[account].category in _EVERYDAY and " " not in registry.programs[account].name for account in accounts)


def _has(text: str, name: str, *, everyday: bool) -> bool:
    """Whether a text has a name as a word: an everyday word only as it is written."""
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text, 0 if everyday else re.IGNORECASE) is not None


def _size(word: str) -> int:
    try:
        return len(base58.decode(word))
    except ValueError:
        return 0
