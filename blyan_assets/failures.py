"""What an error of `blyan` means to Dagster.

Belongs here: the one mapping from the two families of errors to retries. Does not belong here: the
errors (`blyan.errors`).

Dagster has three kinds of retry that do not know of each other: of a step, of a run, and automation
asking again. Here a step is retried for a `TransientError` alone; a run only when its process died
(`dagster.yaml`); and automation never asks twice for the same content (`blyan_assets.automation`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from blyan.errors import PermanentError, TransientError

STEP_RETRIES = 3
"""Sources and the lake retry inside already; what still fails is mostly an outage, which three more tries cannot outlast."""

FIRST_RETRY_S = 2
"""Seconds before the first retry of a step; each next one waits four times as long: 2, 8, 32."""


@contextmanager
def failures(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Iterator[None]:
    """Fail the step at once for a PermanentError, and retry it for a TransientError.

    Not a `RetryPolicy`: that would retry a defect in our own code as well.
    """
    try:
        yield
    except PermanentError as error:
        raise dg.Failure(str(error), {"error": type(error).__name__, "where": error.where, "remedy": error.remedy}, allow_retries=False) from error
    except TransientError as error:
        raise dg.RetryRequested(STEP_RETRIES, FIRST_RETRY_S * 4**context.retry_number) from error
