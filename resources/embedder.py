"""The embedder as a Dagster resource.

Belongs here: opening the embedder that the settings choose. Does not belong here: any embedder (`blyan.corpus`).
"""

from __future__ import annotations

from blyan.corpus.embedder import Embedder, open_embedder
from resources.lake import SettingsResource


class EmbedderResource(SettingsResource):
    """What makes vectors of texts."""

    def open(self) -> Embedder:
        """The embedder; a model is read from disk, which takes about a second."""
        return open_embedder(self.settings())
