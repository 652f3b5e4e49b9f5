"""Texts to unit vectors: what every embedder promises, and which one the settings choose.

Belongs here: the protocol, and what is checked of texts and vectors whoever makes them. Does not belong here: a model
(`blyan.corpus.minilm`, `blyan.corpus.sentence_transformer`, `blyan.corpus.embedding_endpoint`), or keeping vectors
(`blyan.corpus.embedding_cache`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from blyan.errors import BadRecordError, PermanentError, SettingError
from blyan.settings import Settings

Vectors = npt.NDArray[np.float32]
"""Shape [texts, dimension]; each row has length 1."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many tokens of some texts a model reads, its own marks included, and of how many texts only the beginning."""

    read: int
    truncated: int


class Embedder(Protocol):
    """A model that gives a text the same vector whatever else is embedded with it."""

    @property
    def name(self) -> str:
        """The model as people call it."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of all that the vectors depend on. Vectors of two digests are never compared."""
        ...

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        ...

    @property
    def truncated(self) -> int:
        """Texts of which only the beginning was read, since this embedder was made."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text, float32 [texts, dimension], in the order of the texts.

        Raises:
            BadRecordError: a text is empty or no text; nothing was embedded.
            PermanentError: the model gave what is no direction.
            TransientError: the model could not be reached.
        """
        ...

    def tokens(self, texts: Sequence[str]) -> Tokens | None:
        """How many tokens of some texts are read; None where the model does not tell."""
        ...


def open_embedder(settings: Settings) -> Embedder:
    """The embedder that `BLYAN_EMBEDDER` names.

    Raises:
        SettingError: it is not installed, or a setting it needs is missing.
    """
    match settings.embedder:
        case "minilm-int8" | "minilm-fp32":
            from blyan.corpus.minilm import MiniLM

            return MiniLM("int8" if settings.embedder == "minilm-int8" else "fp32", threads=settings.workers)
        case "sentence-transformers":
            from blyan.corpus.sentence_transformer import LocalModel

            return LocalModel(needed(settings, "embedding_model"))
        case "endpoint":
            from blyan.corpus.embedding_endpoint import EmbeddingEndpoint

            return EmbeddingEndpoint(
                needed(settings, "embedding_url"),
                needed(settings, "embedding_model"),
                dimension=settings.embedding_dimension,
                key=settings.embedding_key.get_secret_value() if settings.embedding_key else None,
                batch=settings.embedding_batch,
                concurrency=settings.embedding_concurrency,
            )


def needed(settings: Settings, name: str) -> str:
    """The value of a setting that the chosen embedder cannot do without.

    Raises:
        SettingError: it is not set.
    """
    value: str | None = getattr(settings, name)
    if not value:
        where = f"BLYAN_{name.upper()}"
        raise SettingError(f"BLYAN_EMBEDDER={settings.embedder} needs {where}", where=where, remedy="set it; `blyan doctor` says what it means")
    return value


def check_texts(texts: Sequence[str]) -> None:
    """Every text is one.

    Raises:
        BadRecordError: a text is empty (`empty_text`), or cannot be written as UTF-8 (`not_unicode`).
    """
    for index, text in enumerate(texts):
        if not text.strip():
            raise empty(index)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRecordError(
                f"the text has half a character at {error.start}", reason="not_unicode", where=f"text {index}", remedy="replace lone surrogates"
            ) from error


def empty(index: int) -> BadRecordError:
    """The error for a text in which there is nothing to embed."""
    return BadRecordError("the text is empty", reason="empty_text", where=f"text {index}", remedy="leave it out: nothing can be found by it")


def unit(vectors: npt.NDArray[np.floating], name: str) -> Vectors:
    """Scale each row to length 1, as float32.

    Raises:
        PermanentError: a row is not finite, or all of it is zero.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    # A length that is not finite fails the comparison too.
    wrong = ~((lengths[:, 0] > 0) & (lengths[:, 0] < np.inf))
    if wrong.any():
        index = int(wrong.argmax())
        raise PermanentError(
            f"{int(wrong.sum())} of {len(wrong)} vectors are no direction (NaN, infinite or zero), the first that of text {index}",
            where=name,
            remedy="use another model; the text and the model give the same again",
        )
    scaled: Vectors = (vectors / lengths).astype(np.float32)
    return scaled
