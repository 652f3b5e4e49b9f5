"""Base58 of any length, against the definition and against another implementation."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from blyan.solana import base58

untimed = settings(deadline=None)

data = st.one_of(
    st.binary(max_size=80),
    st.builds(lambda zeros, rest: bytes(zeros) + rest, st.integers(0, 40), st.binary(max_size=40)),
    st.binary(min_size=32, max_size=33),
    st.binary(min_size=64, max_size=64),
)


def by_definition(content: bytes) -> str:
    number, text = int.from_bytes(content, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = base58.ALPHABET[digit] + text
    return "1" * (len(content) - len(content.lstrip(b"\0"))) + text


@untimed
@given(data)
@example(b"")
@example(bytes(32))
@example(b"\xff" * 32)
@example(b"\xff" * 1_232)
def test_text_is_what_the_definition_says_and_decodes_to_the_bytes(content: bytes) -> None:
    text = base58.encode(content)
    assert text == by_definition(content)
    assert base58.decode(text) == content


@untimed
@given(st.lists(data, max_size=12))
def test_many_decode_as_each_does(contents: list[bytes]) -> None:
    assert base58.decode_many([base58.encode(content) for content in contents]) == contents


@untimed
@given(st.lists(st.text(st.sampled_from(base58.ALPHABET), max_size=60), max_size=6))
def test_any_text_of_the_alphabet_decodes_and_comes_back(texts: list[str]) -> None:
    decoded = base58.decode_many(texts)
    assert decoded == [base58.decode(text) for text in texts]
    assert [base58.encode(content) for content in decoded] == texts


@untimed
@given(st.binary(min_size=32, max_size=32))
def test_keys_are_spelt_as_solana_spells_them(content: bytes) -> None:
    assert base58.decode(str(Pubkey.from_bytes(content))) == content


@pytest.mark.parametrize("wrong", ["0", "O", "I", "l", " ", "1 ", "+", "é", "٣", "²", "1\n", "😀", "\0", "a" * 50 + "0", "a" * 50 + "é"])
def test_a_character_outside_the_alphabet_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="not base58"):
        base58.decode(wrong)
    with pytest.raises(ValueError, match="not base58"):
        base58.decode_many(["abc", wrong])


def test_the_greatest_text_that_is_decoded_side_by_side_keeps_every_bit() -> None:
    """Sums of 44 products must fit the 53 bits of a float64."""
    assert base58.decode_many(["z" * 44] * 3) == [base58.decode("z" * 44)] * 3
