"""Texts as pieces that can be encoded apart, most of which occur again and again.

Belongs here: where texts may be cut. Does not belong here: tokens.

The pattern that cuts text for a tokenizer (`blyan.corpus.tokenizer`) looks ahead and never back, so at any place where a match must end,
what comes after is encoded as if nothing came before. Two such places can be told without the pattern: before a line feed, which
only begins a match; and around a number that a space comes before, since a digit is always a match of its own and so is the
point between two. What is left between lines and numbers is words that repeat: of mainnet's documents one such piece in 30 is new.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blyan.solana.columns import Ints, Mask

Bytes = npt.NDArray[np.uint8]

_ZERO, _NINE, _POINT, _SPACE, _LINE_FEED = b"09. \n"


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of texts, which together are all their bytes.

    Attributes:
        edges: int64 [pieces + 1]; piece i is bytes `edges[i]` to `edges[i + 1]` of the texts.
        is_number: whether it has digits and points alone, each a token.
        before_number: whether the next piece is a number of the same text.
        of_text: int64 [texts + 1]; text i is pieces `of_text[i]` to `of_text[i + 1]`.
    """

    edges: Ints
    is_number: Mask
    before_number: Mask
    of_text: Ints

    def words(self, data: Bytes) -> tuple[pa.LargeStringArray, Ints]:
        """The distinct pieces that are no numbers, and the number of each piece's among them, -1 for numbers."""
        count = len(self.is_number)
        valid = pa.py_buffer(np.packbits(~self.is_number, bitorder="little"))
        pieces = pa.Array.from_buffers(pa.large_string(), count, [valid, pa.py_buffer(self.edges), pa.py_buffer(data)])
        coded = pieces.dictionary_encode()
        return coded.dictionary, np.asarray(coded.indices.fill_null(-1)).astype(np.int64)


def cut(data: Bytes, starts: Ints, *, numbers: bool) -> Pieces:
    """Cut texts into pieces.

    Args:
        data: UTF-8 bytes of the texts, one after the other.
        starts: int64 [texts + 1]; where each begins.
        numbers: whether to cut around numbers, which a token that has a space before a digit forbids.
    """
    first = np.zeros(len(data) + 1, np.bool_)
    first[starts] = True
    places = [starts[:-1], np.flatnonzero(data == _LINE_FEED)]
    begins = np.empty(0, np.int64)
    if numbers and len(data):
        digit = (data >= _ZERO) & (data <= _NINE)
        part = digit.copy()
        # A point between two digits of one text.
        part[1:-1] |= (data[1:-1] == _POINT) & digit[:-2] & digit[2:] & ~first[2:-1]
        begins = np.flatnonzero(digit[1:] & (data[:-1] == _SPACE) & ~first[1:-1]) + 1
        stops = np.append(np.flatnonzero(~part | first[:-1]), len(data))
        places += [begins, stops[np.searchsorted(stops, begins, side="right")]]
    cuts = np.zeros(len(data) + 1, np.bool_)
    cuts[np.concatenate(places)] = True
    cuts[len(data)] = True
    edges = np.flatnonzero(cuts)
    number = np.zeros(len(data) + 1, np.bool_)
    number[begins] = True
    is_number = number[edges[:-1]]
    return Pieces(edges, is_number, number[edges[1:]], np.searchsorted(edges, starts))


def whole(starts: Ints) -> Pieces:
    """Each text as one piece."""
    edges, of_text = np.unique(starts, return_inverse=True)
    none = np.zeros(len(edges) - 1, np.bool_)
    return Pieces(edges, none, none, of_text)
