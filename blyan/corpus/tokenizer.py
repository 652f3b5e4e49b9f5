"""Text to tokens: how text is cut, which tokens there are, and training them.

Belongs here: the definition of a tokenizer, encoding and decoding with one, and what makes two of them alike. Does not belong here:
which documents it is trained on, and versions (`blyan.corpus.tokenizer_versions`).

A tokenizer is a byte-level BPE of Hugging Face `tokenizers`, in one `tokenizer.json` that the stock library reads. It is written here,
from the vocabulary that training gave, so that its bytes do not change with the library's version. What text becomes:

- A digit is a token of its own, always, so that a number is read digit by digit. The space before it belongs to the word before.
- An alias (`@0` to `@255`), the name of a program, mint or kind, and the name of an instruction or error that the registry or a
  decoder has, is one token; another one with a space before it.
- Everything else is cut into words, and words into pieces that training found frequent; bytes are the last resort, so that
  any text comes back exactly.
- The token that ends a document, and the one that fills up, have a space in their names, and the pieces of text never have one
  (it is written `Ġ` there). So no text becomes one of them, whatever it says, and no option of a loader changes that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blyan.corpus.pieces import cut, whole
from blyan.corpus.registry import Registry
from blyan.corpus.render import KIND_WORDS
from blyan.errors import PermanentError
from blyan.solana.columns import Ints, offsets_of, ragged
from blyan.solana.programs import instruction_names

Tokens = npt.NDArray[np.uint16]
Offsets = npt.NDArray[np.int64]

END = "<| end of document |>"
PAD = "<| padding |>"
CONTROL = (END, PAD)
"""Tokens that no text becomes, the first of the vocabulary: ids 0 and 1."""

ALIASES = 256
"""Aliases that are one token: a message names its accounts by one byte."""

MAX_VOCABULARY = 1 << 16
"""Ids are 16 bits."""

MIN_FREQUENCY = 2
"""A piece that occurs once in all training text is no piece."""

TEXTS_PER_CALL = 1_024
"""Texts that are encoded at once: enough for every thread, and few to be in memory beside their tokens."""

_ALIAS = r" ?@(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?![0-9])"
_REST = (
    r"[0-9]",
    r"\n(?:> )?",
    r" ?\p{L}+(?: (?=[0-9]))?",
    r" ?[^\s\p{L}0-9@]+(?: (?=[0-9]))?",
    r" ?@",
    r"\s",
)
_NUMBER_IN_NAME = re.compile(r"Ġ[0-9]|^[0-9].|^\.[0-9]")
_WORD_ENDS = r"(?![A-Za-z0-9_])"
_PLAIN_WORD = re.compile(r"[A-Za-z]+")
_NAME = re.compile(r"[!-?A-~]([ -?A-~]*[!-?A-~])?")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of some texts, one after the other.

    Attributes:
        tokens: uint16 [tokens of all texts].
        offsets: int64 [texts + 1]; those of text i are `tokens[offsets[i]:offsets[i + 1]]`.
    """

    tokens: Tokens
    offsets: Offsets


class Tokenizer:
    """A tokenizer by its definition.

    Args:
        definition: the bytes of a `tokenizer.json` that `train` made.
        threads: encode on so many cores; 0 means all. The library fixes it for a process when it first encodes.

    Raises:
        PermanentError: the bytes are no tokenizer of this form.
    """

    def __init__(self, definition: bytes, *, threads: int = 0) -> None:
        from tokenizers import Tokenizer as Library

        if threads:
            os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
        self.definition = definition
        self.sha256 = hashlib.sha256(definition).hexdigest()
        try:
            self._vocabulary: dict[str, int] = json.loads(definition)["model"]["vocab"]
            self._library = Library.from_str(definition.decode())
        except Exception as error:  # the library raises nothing narrower
            raise _no_tokenizer(self.sha256, str(error)) from error
        ids = np.fromiter(self._vocabulary.values(), np.int64)
        if [self._vocabulary.get(name) for name in CONTROL] != [0, 1] or not np.array_equal(np.sort(ids), np.arange(len(ids))):
            raise _no_tokenizer(self.sha256, "its ids are not those of a vocabulary that was trained here")
        self._byte_tokens = np.array([self._vocabulary[character] for character in _BYTES], np.uint16)
        # Texts may be cut into pieces under the pattern of this module alone, and around numbers where no token has one after a space, or begins with one.
        pattern = json.loads(definition)["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        self._cuts = pattern.endswith("|".join(["", _ALIAS, *_REST]))
        self._cuts_numbers = not any(_NUMBER_IN_NAME.search(token) for token in self._vocabulary)

    @property
    def size(self) -> int:
        """Tokens in the vocabulary."""
        return len(self._vocabulary)

    @property
    def end(self) -> int:
        """The token that ends a document."""
        return self._vocabulary[END]

    @property
    def pad(self) -> int:
        """The token that fills up."""
        return self._vocabulary[PAD]

    @property
    def added(self) -> tuple[str, ...]:
        """Control tokens besides `CONTROL`, in the order in which they were added."""
        return tuple(token for token in self._by_id if is_control(token) and token not in CONTROL)

    def encode(self, texts: pa.Array) -> Encoded:
        """The tokens of each text, without one that ends it; those that the library gives the whole text.

        Args:
            texts: text without nulls.
        """
        data, starts = text_bytes(texts)
        pieces = cut(data, starts, numbers=self._cuts_numbers) if self._cuts else whole(starts)
        words, word_of = pieces.words(data)
        # A piece before a number ends otherwise than the same piece elsewhere.
        pairs, pair_of = np.unique(word_of * 2 + pieces.before_number, return_inverse=True)
        known, counts = self._encoded(words, pairs)
        sizes = np.where(pieces.is_number, np.diff(pieces.edges), counts[pair_of])
        edges = offsets_of(sizes)
        tokens = np.empty(edges[-1], np.uint16)
        number = np.flatnonzero(pieces.is_number)
        tokens[ragged(edges[number], sizes[number])] = self._byte_tokens[data[ragged(pieces.edges[number], sizes[number])]]
        other = np.flatnonzero(~pieces.is_number)
        tokens[ragged(edges[other], sizes[other])] = known[ragged(offsets_of(counts)[pair_of[other]], sizes[other])]
        return Encoded(tokens, edges[pieces.of_text])

    def _encoded(self, words: pa.LargeStringArray, pairs: Ints) -> tuple[Tokens, Ints]:
        """Tokens of pieces one after the other, and how many each has; none of numbers."""
        told = words.to_pylist()
        texts = [told[pair >> 1] + "0" * (pair & 1) if pair >= 0 else "" for pair in pairs.tolist()]
        tokens, counts = [np.empty(0, np.uint16)], np.empty(len(pairs), np.int64)
        for start in range(0, len(texts), TEXTS_PER_CALL):
            found = [each.ids for each in self._library.encode_batch_fast(texts[start : start + TEXTS_PER_CALL], add_special_tokens=False)]
            counts[start : start + len(found)] = [len(ids) for ids in found]
            tokens.append(np.fromiter(chain.from_iterable(found), np.uint16))
        # The digit after a piece was there to be looked at.
        every, starts = np.concatenate(tokens), offsets_of(counts)[:-1]
        counts -= np.where(pairs >= 0, pairs & 1, 0)
        return every[ragged(starts, counts)], counts

    def tokens_of(self, text: str) -> list[str]:
        """The tokens of one text as the vocabulary spells them."""
        return [self._by_id[number] for number in self.encode(pa.array([text])).tokens.tolist()]

    def bytes_of(self, tokens: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.uint8], Offsets]:
        """The bytes that tokens stand for, one after the other, and where those of each begin; control tokens stand for none.

        It does not use the library, so it can tell what the library got wrong.
        """
        starts, lengths, data = self._spelling
        sizes = lengths[tokens]
        return data[ragged(starts[tokens], sizes)], offsets_of(sizes)

    def decode(self, tokens: npt.NDArray[np.integer]) -> str:
        """The text of tokens. A character of which tokens hold a part alone is a replacement character."""
        return self.bytes_of(tokens)[0].tobytes().decode("utf-8", "replace")

    @cached_property
    def _by_id(self) -> list[str]:
        return sorted(self._vocabulary, key=self._vocabulary.__getitem__)

    @cached_property
    def _spelling(self) -> tuple[Offsets, Offsets, npt.NDArray[np.uint8]]:
        """Of each token, where its bytes begin and how many they are, in the bytes of all tokens."""
        byte_of = {character: byte for byte, character in enumerate(_BYTES)}
        data = [b"" if is_control(token) else bytes(map(byte_of.__getitem__, token)) for token in self._by_id]
        sizes = np.array([len(each) for each in data], np.int64)
        return offsets_of(sizes)[:-1], sizes, np.frombuffer(b"".join(data), np.uint8)


def _no_tokenizer(digest: str, why: str) -> PermanentError:
    return PermanentError(f"the bytes are no tokenizer: {why}", where=f"tokenizer {digest}", remedy="train it again")


def _characters() -> str:
    """The character that spells each byte in a vocabulary: itself where it can be seen, else one from U+0100 on (GPT-2's `bytes_to_unicode`)."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return "".join(chr(byte if byte in seen else next(others)) for byte in range(256))


_BYTES = _characters()
_SPELLED = frozenset(_BYTES)


def is_control(token: str) -> bool:
    """Whether no text can become this token: a character of it spells no byte."""
    return not _SPELLED.issuperset(token)


def spelled(text: str) -> str:
    """A text as a vocabulary spells it."""
    return "".join(_BYTES[byte] for byte in text.encode())


def own_names(registry: Registry) -> tuple[str, ...]:
    """What has tokens of its own besides aliases and digits: names of kinds, programs, mints, instructions and errors, in order."""
    named = {name for program in registry.programs.values() for name in (*program.instructions.values(), *program.errors.values())}
    return tuple(sorted(named | set(registry.names.values()) | set(KIND_WORDS.values()) | instruction_names()))


def train(texts: Iterable[str], names: Sequence[str], *, size: int) -> bytes:
    """The definition of a tokenizer; the same texts in any order, on any number of threads, give the same bytes.

    Args:
        texts: any number; only their distinct words are in memory.
        names: what has tokens of its own, in ASCII.
        size: most tokens it may have.

    Raises:
        PermanentError: a name is none, or the size does not hold what every vocabulary has, or is above `MAX_VOCABULARY`.
    """
    from tokenizers import Regex
    from tokenizers import Tokenizer as Library
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
    from tokenizers.trainers import BpeTrainer

    for name in names:
        if not _NAME.fullmatch(name):
            raise PermanentError(f"{name!r} cannot have a token of its own", where="tokenizer", remedy="give names in ASCII, without @")
    own = [spelled(space + text) for text in (*(f"@{number}" for number in range(ALIASES)), *sorted(set(names))) for space in ("", " ")]
    fixed = [*CONTROL, *dict.fromkeys([*_BYTES, *own])]
    if not len(fixed) <= size <= MAX_VOCABULARY:
        raise PermanentError(
            f"a vocabulary of {size} tokens", where="BLYAN_TOKENIZER_VOCABULARY", remedy=f"set it from {len(fixed)} to {MAX_VOCABULARY}"
        )
    library = Library(BPE())
    # What has a token is taken out first, or frequent names would fill the vocabulary with their beginnings.
    library.pre_tokenizer = Sequence(
        [Split(Regex(_own_pattern(names)), "removed"), Split(Regex(_pattern(names)), "isolated"), ByteLevel(False, use_regex=False)]
    )
    trainer = BpeTrainer(
        vocab_size=size - len(fixed) + len(_BYTES), min_frequency=MIN_FREQUENCY, initial_alphabet=sorted(_BYTES), show_progress=False
    )
    library.train_from_iterator(_batches(texts), trainer)
    found = json.loads(library.to_str())["model"]
    learnt = sorted(found["vocab"], key=found["vocab"].__getitem__)
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*fixed, *learnt]))}
    return _written(_pattern(names), vocabulary, found["merges"])


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == TEXTS_PER_CALL:
            yield batch
            batch = []
    yield batch


def _own_pattern(names: Sequence[str]) -> str:
    """A regular expression of what is always one token, wherever a word may begin."""
    return rf"(?<![A-Za-z0-9_])(?:{_names_pattern(names)}|{_ALIAS})"


def _pattern(names: Sequence[str]) -> str:
    """The regular expression that cuts text, in the syntax of Oniguruma. Every character is in a match."""
    return "|".join([_names_pattern(names), _ALIAS, *_REST])


def _names_pattern(names: Sequence[str]) -> str:
    """Names that are more than a word of letters; the others are words anyhow. Those that begin alike share their beginning: so it is fast."""
    tree: dict[str, Any] = {}
    for name in names:
        if not _PLAIN_WORD.fullmatch(name):
            branch = tree
            for character in name:
                branch = branch.setdefault(character, {})
            branch[""] = {}
    # (?!) never matches.
    return rf" ?{_tree_pattern(tree)}{_WORD_ENDS}" if tree else "(?!)"


def _tree_pattern(tree: dict[str, Any]) -> str:
    branches = [re.escape(character) + _tree_pattern(rest) for character, rest in sorted(tree.items()) if character]
    if not branches:
        return ""
    pattern = f"(?:{'|'.join(branches)})" if len(branches) > 1 or "" in tree else branches[0]
    return f"{pattern}?" if "" in tree else pattern


def _written(pattern: str, vocabulary: dict[str, int], merges: Sequence[object]) -> bytes:
    """The bytes of `tokenizer.json`, in one spelling."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    definition: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    return json.dumps(definition, ensure_ascii=False, separators=(",", ":")).encode()


def with_control_tokens(definition: bytes, names: Sequence[str]) -> bytes:
    """The definition with more control tokens, after all that it has: a MINOR change.

    Args:
        definition: of a tokenizer.
        names: as `<| call |>`, with a space in each, so that no text becomes it.

    Raises:
        PermanentError: text could become one of them, the vocabulary has it, or it would have more than `MAX_VOCABULARY` tokens.
    """
    value = json.loads(definition)
    vocabulary = value["model"]["vocab"]
    for name in names:
        if not is_control(name) or name in vocabulary or len(vocabulary) == MAX_VOCABULARY:
            raise PermanentError(f"{name!r} cannot be a new control token", where="tokenizer", remedy="give another name, with a space in it")
        vocabulary[name] = len(vocabulary)
    return _written(value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"], vocabulary, value["model"]["merges"])


Change = Literal["none", "minor", "major"]


def change_between(old: bytes, new: bytes) -> Change:
    """What a new definition does to what the old one encoded.

    `none`: they are the same bytes. `minor`: the new one has more control tokens after all tokens of the old one, and is otherwise
    the same, so every text has the tokens that it had. `major`: anything else; tokens of the two do not belong together.
    """
    if old == new:
        return "none"
    before, after = json.loads(old), json.loads(new)
    had, has = before["model"].pop("vocab"), after["model"].pop("vocab")
    more = has.keys() - had.keys()
    kept = {token: number for token, number in has.items() if token not in more} == had
    return "minor" if before == after and kept and all(is_control(token) and has[token] >= len(had) for token in more) else "major"


def text_bytes(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], Offsets]:
    """The UTF-8 bytes of an array of text without nulls, and where those of each text begin; no copy of the bytes."""
    texts = texts.cast(pa.large_string())
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2], np.uint8) if texts.buffers()[2] is not None else np.empty(0, np.uint8)
    return data[offsets[0] : offsets[-1]], offsets - offsets[0]
