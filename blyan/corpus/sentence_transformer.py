"""Any model of sentence-transformers, by name or folder.

Belongs here: loading it, and its identity. Does not belong here: MiniLM as the default (`blyan.corpus.minilm`), which needs no torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from blyan.corpus.embedder import Tokens, Vectors, check_texts, unit
from blyan.errors import SettingError


class LocalModel:
    """A model of sentence-transformers. A name that is not a folder is downloaded by that library, unless it was before.

    One text is one batch, unpadded: what is beside a text does not change its vector.

    Args:
        model: a name such as `BAAI/bge-small-en-v1.5`, or a folder.

    Raises:
        SettingError: the library is not installed, or there is no such model.
    """

    def __init__(self, model: str) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise SettingError(
                "sentence-transformers is not installed", where="BLYAN_EMBEDDER", remedy="pip install 'blyan[ml]', or set BLYAN_EMBEDDER=minilm-int8"
            )
        from sentence_transformers import SentenceTransformer

        try:
            self._model: Any = SentenceTransformer(model)
        except (OSError, ValueError) as error:
            raise SettingError(f"the model cannot be loaded: {error}", where=f"BLYAN_EMBEDDING_MODEL={model}", remedy="name another") from error
        self.name = model
        self.dimension = int(self._model.encode(["dimension"], show_progress_bar=False).shape[1])
        self.digest = _digest(self._model)
        self.truncated = 0

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text. Text after the model's longest input is not read."""
        check_texts(texts)
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        self.truncated += self.tokens(texts).truncated
        return unit(self._model.encode(list(texts), batch_size=1, show_progress_bar=False, convert_to_numpy=True), self.name)

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """How many tokens of some texts are read: at most as many as the model's longest input."""
        lengths = [len(self._model.tokenizer(text, verbose=False)["input_ids"]) for text in texts]
        longest = self._model.max_seq_length
        if longest is None:
            return Tokens(sum(lengths), 0)
        return Tokens(sum(min(length, longest) for length in lengths), sum(length > longest for length in lengths))


def _digest(model: Any) -> str:
    """SHA-256 of the model's structure, its tokenizer, its longest input and every tensor by name."""
    import torch

    digest = hashlib.sha256(repr(model).encode())
    digest.update(repr((model.max_seq_length, sorted(model.tokenizer.get_vocab().items()))).encode())
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
