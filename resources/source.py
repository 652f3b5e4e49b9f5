"""The block source as a Dagster resource.

Belongs here: opening and closing the source that the settings choose. Does not belong here: any
source (`blyan.solana.sources`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from blyan.solana.sources import BlockSource, open_source
from resources.lake import SettingsResource


class SourceResource(SettingsResource):
    """Where blocks come from."""

    @contextmanager
    def open(self) -> Iterator[BlockSource]:
        """The source; its connections close with the block."""
        settings = self.settings()
        with ExitStack() as stack:
            if settings.source == "bigquery":
                from resources.bigquery import open_bigquery

                source: BlockSource = stack.enter_context(open_bigquery(settings))
            else:
                source = open_source(settings)
                if hasattr(source, "close"):
                    stack.callback(source.close)
            yield source
