"""Splits: a function of the structural key and of a secret, with the shares that were asked for."""

from __future__ import annotations

import hashlib
import multiprocessing
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blyan.corpus.splits import HIDDEN, TRAIN, VALIDATION, SplitRule, check_rule, split_rule
from blyan.errors import PermanentError, SettingError
from blyan.settings import load_settings

RULE = SplitRule(b"\x01" * 32, 0.01, 0.01)
KEYS = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(20_000)]


def test_the_split_of_a_key_is_pinned() -> None:
    """Another function would move documents between the splits of lakes that exist."""
    wide = SplitRule(bytes(range(32)), 0.3, 0.3)
    assert wide.split_of(KEYS[:16]).tolist() == [0, 1, 1, 2, 0, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]
    assert wide.fingerprint == "3cb2edd3feed5afa0272436e7f1cfbf2"


def test_shares_are_those_asked_for() -> None:
    for validation, hidden in [(0.01, 0.01), (0.2, 0.1), (0.0, 0.5), (0.0, 0.0)]:
        found = Counter(SplitRule(b"\x02" * 32, validation, hidden).split_of(KEYS).tolist())
        for split, share in ((VALIDATION, validation), (HIDDEN, hidden), (TRAIN, 1 - validation - hidden)):
            deviation = (len(KEYS) * share * (1 - share)) ** 0.5
            assert abs(found[split] - len(KEYS) * share) <= 4.5 * deviation, (split, share, found)


@given(st.lists(st.sampled_from(KEYS), max_size=40), st.binary(min_size=32, max_size=32))
def test_a_key_has_one_split_whatever_is_asked_beside_it(keys: list[str], secret: bytes) -> None:
    rule = SplitRule(secret, 0.3, 0.3)
    assert [int(rule.split_of([key])[0]) for key in keys] == rule.split_of(keys).tolist()


def test_another_secret_is_another_split_and_a_greater_share_keeps_what_a_smaller_one_hid() -> None:
    one, other = (SplitRule(bytes([byte]) * 32, 0.0, 0.5).split_of(KEYS) for byte in (1, 2))
    assert 0.47 < np.mean(one == other) < 0.53
    few, more = (SplitRule(b"\x01" * 32, 0.0, share).split_of(KEYS) == HIDDEN for share in (0.1, 0.2))
    assert (more >= few).all()


def test_the_fingerprint_tells_rules_apart_and_not_the_key() -> None:
    rules = [RULE, SplitRule(b"\x02" * 32, 0.01, 0.01), SplitRule(b"\x01" * 32, 0.02, 0.01), SplitRule(b"\x01" * 32, 0.01, 0.02)]
    assert len({rule.fingerprint for rule in rules}) == 4
    assert RULE.key.hex() not in repr(RULE) + RULE.fingerprint
    assert "\\x01" not in repr(RULE)
    check_rule(RULE, RULE.fingerprint, where="x")
    for rule in rules[1:]:
        with pytest.raises(PermanentError, match=r"not those of tokenizer 1\.0"):
            check_rule(rule, RULE.fingerprint, where="tokenizer 1.0")


@pytest.mark.parametrize(
    ("key", "validation", "hidden"), [(b"short", 0.1, 0.1), (b"k" * 32, 0.5, 0.5), (b"k" * 32, -0.1, 0.1), (b"k" * 32, float("nan"), 0.1)]
)
def test_a_rule_that_is_none_is_refused(key: bytes, validation: float, hidden: float) -> None:
    with pytest.raises(SettingError):
        SplitRule(key, validation, hidden)


def test_a_key_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "split.key"
    settings = load_settings(split_key_file=str(file))
    rule = split_rule(settings)
    assert split_rule(settings) == rule
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert split_rule(load_settings(split_key_file=str(tmp_path / "other"))).key != rule.key
    assert [path.name for path in file.parent.iterdir()] == ["split.key"]
    given = load_settings(split_key=rule.key.hex(), split_key_file=str(tmp_path / "unused"), split_hidden_share=0.5)
    assert split_rule(given) == SplitRule(rule.key, 0.01, 0.5)
    assert not (tmp_path / "unused").exists()


def test_a_lake_in_a_bucket_makes_no_key_of_its_own(tmp_path: Path) -> None:
    """Every machine would make another, and the next range would be refused."""
    file = tmp_path / "key"
    with pytest.raises(SettingError, match="BLYAN_SPLIT_KEY"):
        split_rule(load_settings(lake="s3://bucket/lake", split_key_file=str(file)))
    assert not file.exists()
    file.write_text("ab" * 32)
    assert split_rule(load_settings(lake="s3://bucket/lake", split_key_file=str(file))).key == b"\xab" * 32


def _key_of(path: str) -> bytes:
    return split_rule(load_settings(split_key_file=path)).key


def test_processes_that_make_the_key_at_once_get_one(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_key_of, [str(tmp_path / f"key{at // 4}") for at in range(8)], chunksize=1))) == 2


@pytest.mark.parametrize("text", ["", "xyz", "00" * 31])
def test_a_key_that_is_none_is_refused_with_the_name_of_its_setting(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingError, match="BLYAN_SPLIT_KEY"):
        split_rule(load_settings(split_key=text))
    (tmp_path / "key").write_text(text)
    with pytest.raises(SettingError, match="key"):
        split_rule(load_settings(split_key_file=str(tmp_path / "key")))
    with pytest.raises(SettingError, match="BLYAN_SPLIT_KEY_FILE"):
        split_rule(load_settings(split_key_file=str(tmp_path)))
