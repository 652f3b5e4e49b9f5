"""How far a step is, told to whoever watches.

Belongs here: turning callbacks of `blyan` into log lines. Does not belong here:
progress bars, which the command line puts in the place of this resource.
"""

from __future__ import annotations

import logging
import time

import dagster as dg
from pydantic import Field

from blyan.solana.ingest import Progress


class ProgressResource(dg.ConfigurableResource):  # type: ignore[misc]
    """Tells the step's log, seldom: every line is an event in Dagster's database."""

    every_s: float = Field(20.0, description="Seconds between two lines.")

    def of(self, log: logging.Logger, what: str, unit: str = "slots") -> Progress:
        """A callback that says `what` is how far along, counted in `unit`."""
        last = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= self.every_s:
                last = time.monotonic()
                log.info("%s: %d of %d %s", what, done, total, unit)

        return tell
