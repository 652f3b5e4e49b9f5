"""Every error Blyan raises on purpose, one class per cause.

Belongs here: the two families (`PermanentError`, `TransientError`) and their members. Does not
belong here: handling them. A message says what happened, where, and what to do about it.
"""

from __future__ import annotations


class BlyanError(Exception):
    """What happened, where, and the remedy, as one readable message."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        message = what
        if where:
            message += f" [at {where}]"
        if remedy:
            message += f" Remedy: {remedy}"
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only fields survive the trip home from a worker process.
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(cls: type[BlyanError], what: str, where: str, remedy: str) -> BlyanError:
    return cls(what, where=where, remedy=remedy)


class PermanentError(BlyanError):
    """Trying again cannot help: bad input, a broken invariant, a wrong setting."""


class TransientError(BlyanError):
    """Trying again may help: the network, contention, a server that is behind."""


class SettingError(PermanentError):
    """A setting is missing or wrong; the message names the setting."""


class UnknownRangeError(PermanentError):
    """A slot or key that is not on the configured grid."""


class WrongChainError(PermanentError):
    """The source serves another chain than the one this lake holds."""


class MissingObjectError(PermanentError):
    """A recorded table, file or blob is not in the store."""


class BadRecordError(PermanentError):
    """One record of the input cannot be used; it goes to quarantine.

    `reason` is a short stable code that the quarantine table groups by.
    """

    def __init__(self, what: str, *, reason: str = "bad_record", where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_record, (self.what, self.reason, self.where, self.remedy))


def _rebuild_record(what: str, reason: str, where: str, remedy: str) -> BadRecordError:
    return BadRecordError(what, reason=reason, where=where, remedy=remedy)


class TooCostlyError(PermanentError):
    """A query would bill more bytes than the settings allow."""


class SourceUnreachableError(TransientError):
    """The source did not answer, or not in time."""


class RateLimitedError(TransientError):
    """The source asked us to slow down, and still did after the retries."""


class CommitConflictError(TransientError):
    """Another writer committed to the same partition at the same time."""


class StoreFullError(TransientError):
    """The store has no space left; nothing was committed."""
