"""Texts as terms, and how well terms match: what full text search means here.

Belongs here: cutting text into terms, counting in how many documents each occurs, and BM25. Does not belong here: where terms are
kept and looked up (`blyan.corpus.search_index`), or what a question means (`blyan.query.search`).

A term is a word in lower case without its ending, a number as it stands, or an account or signature as it stands. Names in camel case
are their words, so that `InsufficientFunds` is found by "insufficient funds". Aliases (`@0`) are no terms: they say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

TERMS = "1"
"""Raise it when a text would get other terms."""

KEY_CHARACTERS = 32
"""Words of that many characters or more are accounts, signatures and hashes: kept as they are."""

COUNTED_CHARACTERS = 4
"""Terms with a digit are counted up to this length (`v4`, `2022`). Longer ones are amounts and keys, of which nearly every one occurs once: they
count as if they did."""

K1, B = 1.2, 0.75
"""The usual parameters of BM25 (Robertson and Zaragoza 2009, section 3.3)."""

_BETWEEN = r"[^\pL\pN@.]+"
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]+|\d+|[^\W\d_]+")
_VOWEL = re.compile(r"[aeiou]|(?<=[^aeiou])y")


def terms_of(texts: pa.Array) -> pa.ListArray:
    """The terms of each text, in order, repeated as often as they occur; a null text has none."""
    words = pc.split_pattern_regex(texts.cast(pa.large_string()).fill_null(""), _BETWEEN)
    lengths = np.diff(words.offsets.to_numpy())
    coded = words.flatten().dictionary_encode()
    of_word = [_terms(word) for word in coded.dictionary.to_pylist()]
    counts = np.array([len(terms) for terms in of_word] or [0], np.int64)
    flat = pa.array([term for terms in of_word for term in terms], pa.string())
    codes = coded.indices.to_numpy().astype(np.int64)
    # Each word in its place gives way to its terms, of which it has none, one or more.
    taken, starts = counts[codes], np.cumsum(counts) - counts
    ends = np.cumsum(taken)
    position = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - taken, taken) + np.repeat(starts[codes], taken)
    per_text = np.concatenate([[0], np.cumsum(np.bincount(np.repeat(np.arange(len(lengths)), lengths), weights=taken, minlength=len(lengths)))])
    return pa.ListArray.from_arrays(pa.array(per_text.astype(np.int32)), flat.take(pa.array(position)))


def query_terms(text: str) -> list[str]:
    """The distinct terms of a question, in order."""
    return list(dict.fromkeys(terms_of(pa.array([text]))[0].as_py()))


def joined(terms: pa.ListArray) -> pa.StringArray:
    """Terms as one string each, with spaces between them."""
    return pc.binary_join(terms, " ")


def is_counted(term: str) -> bool:
    """Whether the documents with this term are counted."""
    return len(term) <= COUNTED_CHARACTERS or (len(term) < KEY_CHARACTERS and not any(character.isdigit() for character in term))


def term_weights(found_in: Sequence[int], documents: int) -> npt.NDArray[np.float64]:
    """What having a term counts in BM25, by the number of documents that have it; none counts as one."""
    having = np.maximum(np.array(found_in, np.float64), 1.0)
    return np.log1p((max(documents, 1) - having + 0.5).clip(0.5) / (having + 0.5))


def saturation(often: npt.NDArray[Any], lengths: npt.NDArray[Any], mean_length: float) -> npt.NDArray[np.float64]:
    """How much of a term's weight counts in BM25: by how often texts have it, and how long they are in terms; 0 where they have it not."""
    out: npt.NDArray[np.float64] = often * (K1 + 1) / (often + K1 * (1 - B + B * lengths / max(mean_length, 1.0)))
    return out


def bm25(
    terms: pa.ListArray, wanted: Sequence[str], counts: Mapping[str, int], documents: int, mean_length: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """How well texts match some terms.

    Args:
        terms: of the texts.
        wanted: distinct terms, of the question.
        counts: in how many of all documents each wanted term occurs; one that is not there counts as if in one.
        documents: how many documents there are.
        mean_length: terms that they have on average.

    Returns:
        float64 [texts], which are sums in the order of `wanted`, and whether each text has each term, bool [texts, wanted].
    """
    lengths = np.diff(terms.offsets.to_numpy())
    code = pc.index_in(terms.flatten(), pa.array(wanted, pa.string())).fill_null(-1).to_numpy(zero_copy_only=False)
    text_of = np.repeat(np.arange(len(lengths)), lengths)
    there = code >= 0
    frequencies = np.zeros((len(lengths), len(wanted)))
    np.add.at(frequencies, (text_of[there], code[there]), 1)
    damped = saturation(frequencies, lengths[:, None], mean_length)
    weights = term_weights([counts.get(term, 1) for term in wanted], documents)
    return (damped * weights).sum(axis=1), frequencies > 0


def _terms(word: str) -> tuple[str, ...]:
    """The terms of one word."""
    word = word.strip(".")
    if not word or word[0] == "@":
        return ()
    if word[0].isdigit() and word.replace(".", "").isdigit():
        return (word,)
    if len(word) >= KEY_CHARACTERS:
        return (word,)
    return _parts(word)


@lru_cache(1 << 16)
def _parts(word: str) -> tuple[str, ...]:
    """A name by its words; one with digits in it, such as `v4`, as a whole."""
    if any(character.isdigit() for character in word):
        return (word.lower(),)
    if "@" in word or "." in word:
        return tuple(term for part in re.split("[@.]+", word) if part for term in _parts(part))
    return tuple(_stem(part.lower()) for part in _CAMEL.findall(word)) or (word.lower(),)


def _stem(word: str) -> str:
    """A word without the ending of a plural, a past tense or a gerund: nearly steps 1a and 1b of Porter (1980), doi:10.1108/eb046814.

    They leave `sandwiche` and `librari`, which his later steps mend; here the plural is cut as it was made.
    """
    if not word.isascii() or len(word) < 3:
        return word
    if word.endswith(("sses", "ches", "shes", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) else word
    for ending in ("ed", "ing"):
        stem = word.removesuffix(ending)
        if stem != word and _VOWEL.search(stem):
            return _mended(stem)
    return word


def _mended(stem: str) -> str:
    """A stem whose ending was cut off, as the word it is of."""
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if len(stem) > 1 and stem[-1] == stem[-2] and stem[-1] not in "aeioulsz":
        return stem[:-1]
    return stem + "e" if _measure(stem) == 1 and _is_short(stem) else stem


def _measure(stem: str) -> int:
    """How often a consonant follows a vowel: Porter's m."""
    kinds = "".join("v" if _is_vowel(stem, at) else "c" for at in range(len(stem)))
    return kinds.count("vc")


def _is_short(stem: str) -> bool:
    """Whether it ends consonant, vowel, consonant, the last no w, x or y: Porter's *o."""
    at = len(stem)
    return at > 2 and not _is_vowel(stem, at - 3) and _is_vowel(stem, at - 2) and not _is_vowel(stem, at - 1) and stem[-1] not in "wxy"


def _is_vowel(word: str, at: int) -> bool:
    return word[at] in "aeiou" or (word[at] == "y" and at > 0 and not _is_vowel(word, at - 1))
