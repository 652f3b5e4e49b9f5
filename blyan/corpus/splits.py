"""Which split a document belongs to: train, validation, or hidden.

Belongs here: the rule, its key, and where the key comes from. Does not belong here: what is done with a split.

The split of a document is a keyed hash of its family (`blyan.corpus.families`), which its structural key decides. So near-duplicates are in
one split, in every range and in every lake with the same key; and who has not got the key cannot tell where a family that is
new will be, so nobody can write transactions that land in the hidden split.

It is no lock: whoever reads the lake's files can see which of its documents are in no train shard.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from blyan.errors import PermanentError, SettingError
from blyan.settings import Settings

Split = Literal["train", "validation", "hidden"]

SPLITS: tuple[Split, ...] = get_args(Split)
TRAIN, VALIDATION, HIDDEN = range(len(SPLITS))
"""Splits by number: the more hidden, the greater."""

KEY_BYTES = 32

_PURPOSE_SPLIT = b"blyan split 1"
_PURPOSE_RULE = b"blyan rule 1"
"""Personalisation of BLAKE2b: one key, two functions of it that tell nothing of each other."""


@dataclass(frozen=True, slots=True)
class SplitRule:
    """Who is in which split.

    Attributes:
        key: 32 secret bytes.
        validation: share of the families, from 0 to 1; `hidden` likewise. The others are for training.
    """

    key: bytes = field(repr=False)
    validation: float
    hidden: float

    def __post_init__(self) -> None:
        """Check the shares and the key."""
        if len(self.key) != KEY_BYTES:
            raise SettingError(f"the key has {len(self.key)} bytes", where="BLYAN_SPLIT_KEY", remedy=f"give {2 * KEY_BYTES} hex digits")
        if not (min(self.validation, self.hidden) >= 0 and self.validation + self.hidden < 1):
            raise SettingError(
                f"shares of {self.validation} and {self.hidden} leave nothing to train on",
                where="BLYAN_SPLIT_VALIDATION_SHARE, BLYAN_SPLIT_HIDDEN_SHARE",
                remedy="set both from 0, and their sum below 1",
            )

    @property
    def fingerprint(self) -> str:
        """32 hex digits that differ wherever the key or a share does, and do not tell the key."""
        shares = json.dumps([self.validation, self.hidden]).encode()
        return hashlib.blake2b(shares, digest_size=16, key=self.key, person=_PURPOSE_RULE).hexdigest()

    def split_of(self, family_keys: Sequence[str]) -> npt.NDArray[np.int8]:
        """The number of each family's split, in `SPLITS`; about a million a second."""
        base = hashlib.blake2b(digest_size=8, key=self.key, person=_PURPOSE_SPLIT)
        drawn = bytearray()
        for key in family_keys:
            each = base.copy()
            each.update(key.encode())
            drawn += each.digest()
        values = np.frombuffer(bytes(drawn), ">u8").astype(np.float64) / 2.0**64
        # Hidden lies lowest, so that a greater share keeps what a smaller one hid.
        return np.where(values < self.hidden, HIDDEN, np.where(values < self.hidden + self.validation, VALIDATION, TRAIN)).astype(np.int8)


def split_rule(settings: Settings, *, make: bool = True) -> SplitRule:
    """The rule of the settings. Where they give no key, it is the one in `BLYAN_SPLIT_KEY_FILE`, which is made once if the lake is a folder.

    Args:
        settings: the key, or its file, and the shares.
        make: whether a key may be made; who only reads has no use for a new one.

    Raises:
        SettingError: the key, its file or a share is wrong; or there is no key, and none may be made or the lake is in a bucket.
    """
    given = settings.split_key.get_secret_value() if settings.split_key is not None else None
    path = Path(settings.split_key_file)
    try:
        key = bytes.fromhex(given if given is not None else _kept(path, make=make and "://" not in settings.lake))
    except ValueError as error:
        where = "BLYAN_SPLIT_KEY" if given is not None else str(path)
        raise SettingError("the key is not hex", where=where, remedy=f"give {2 * KEY_BYTES} hex digits: openssl rand -hex {KEY_BYTES}") from error
    except OSError as error:
        raise SettingError(
            f"the key cannot be read or made: {error.strerror}", where=str(path), remedy="set BLYAN_SPLIT_KEY, or BLYAN_SPLIT_KEY_FILE to a file"
        ) from error
    return SplitRule(key, settings.split_validation_share, settings.split_hidden_share)


def _kept(path: Path, *, make: bool) -> str:
    """The key in the file; a random one where there is no file, and one may be made.

    Of two processes that make one, both get the one that was first.
    """
    if not path.exists():
        if not make:
            # A pod would make one, train with it, and take it to its grave.
            raise SettingError(
                f"there is no split key, and no {path}",
                where="BLYAN_SPLIT_KEY",
                remedy=f"give the key that the lake was split with; a new lake in a bucket needs one, too: openssl rand -hex {KEY_BYTES}",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
        own.unlink()
    return path.read_text().strip()


def check_rule(rule: SplitRule, fingerprint: str, *, where: str) -> None:
    """The rule is the one with this fingerprint.

    Raises:
        PermanentError: it is another, which would put what one split has into another.
    """
    if rule.fingerprint != fingerprint:
        raise PermanentError(
            f"the split key or the shares are not those of {where} ({rule.fingerprint}, not {fingerprint})",
            where="BLYAN_SPLIT_KEY, BLYAN_SPLIT_VALIDATION_SHARE, BLYAN_SPLIT_HIDDEN_SHARE",
            remedy="give the key and the shares that it was made with, or make it again",
        )
