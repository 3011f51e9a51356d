"""Exit codes, for scripts to act on. Pure: an error comes in, a code goes out."""

from __future__ import annotations

import enum
import re

import click

from sendgrid_exports import (
    AuthenticationError,
    CorruptDownloadError,
    DownloadInProgressError,
    ExportError,
    ExportExpiredError,
    ExportFailedError,
    ExportNotFoundError,
    ExportTimeoutError,
    IncompleteDownloadError,
    PermissionDeniedError,
    RateLimitedError,
    SendGridExportsError,
    ServerError,
    TransportError,
)

__all__ = ["Exit", "Stopped", "exit_of", "export_of", "hide_keys", "is_resumable"]


class Exit(enum.IntEnum):
    """What the exit code says; 128 and the signal's number where a signal ended it."""

    DONE = 0, "done and verified"
    OTHER = 1, "any other error"
    USAGE = 2, "bad usage: an option, an argument, no key"
    REFUSED = 3, "SendGrid refuses the key, or it lacks the scope"
    FAILED = 4, "SendGrid could not make the export"
    EXPIRED = 5, "the export has expired, or there is none with this id"
    TIMED_OUT = 6, "the timeout passed; the same id goes on"
    CORRUPT = 7, "a file is damaged, missing or not whole"
    DISK = 8, "the disk is full, or can't be written or read"
    UNREACHABLE = 9, "no connection, or trouble at SendGrid or the storage: try later"
    IN_PROGRESS = 10, "another process is at the same export"
    INTERRUPTED = 130, "interrupted by Ctrl-C (143: by SIGTERM)"

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        """Make a number that knows what it means."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class Stopped(Exception):  # noqa: N818
    """A signal ended the work."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_CODES: list[tuple[tuple[type[BaseException], ...], Exit]] = [
    ((click.UsageError,), Exit.USAGE),
    ((AuthenticationError, PermissionDeniedError), Exit.REFUSED),
    ((ExportFailedError,), Exit.FAILED),
    ((ExportExpiredError, ExportNotFoundError), Exit.EXPIRED),
    ((ExportTimeoutError,), Exit.TIMED_OUT),
    ((CorruptDownloadError,), Exit.CORRUPT),
    ((DownloadInProgressError,), Exit.IN_PROGRESS),
    ((IncompleteDownloadError, TransportError, ServerError, RateLimitedError), Exit.UNREACHABLE),
    # InsufficientDiskSpaceError is one, and what the disk itself says.
    ((OSError,), Exit.DISK),
    ((SendGridExportsError,), Exit.OTHER),
    ((KeyboardInterrupt, click.Abort), Exit.INTERRUPTED),
]


def exit_of(error: BaseException) -> int:
    """Return the exit code for `error`."""
    if isinstance(error, Stopped):
        return 128 + error.number
    if isinstance(error, ValueError | TypeError):
        # The library names an argument; a directory that can't be used has the disk's error behind.
        return Exit.DISK if isinstance(error.__cause__, OSError) else Exit.USAGE
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), Exit.OTHER)


def is_resumable(error: BaseException) -> bool:
    """Whether the same export id can still go on after `error`."""
    over = {Exit.FAILED, Exit.EXPIRED, Exit.CORRUPT, Exit.USAGE, Exit.IN_PROGRESS}
    return exit_of(error) not in over


def export_of(error: BaseException) -> str | None:
    """Return the export that `error` is about, where it says so."""
    return (error.export_id or None) if isinstance(error, ExportError) else None


def hide_keys(text: str) -> str:
    """Return `text` without what looks like a key of SendGrid, typed where none belongs."""
    return re.sub(r"\bSG\.[\w.\-]+", "[redacted]", text)
