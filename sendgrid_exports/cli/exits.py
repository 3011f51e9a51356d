"""Exit codes, for scripts to act on, and how asynchronous work ends by a signal."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

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
from sendgrid_exports.cli.text import cause_first, plain, sentence
from sendgrid_exports.redaction import redact_text

__all__ = ["PIPE_CLOSED", "Exit", "Failure", "Terminated", "exit_of", "run", "terminable"]

T = TypeVar("T")


class Exit(enum.IntEnum):
    """What the exit code says; 128 and the signal's number where a signal ended it."""

    DONE = 0, "done and verified"
    OTHER = 1, "any other error: read the message"
    USAGE = 2, "bad usage: an option, an argument, no key"
    REFUSED = 3, "SendGrid refuses the key, or it lacks the scope"
    FAILED = 4, "SendGrid could not make the export"
    EXPIRED = 5, "the export has expired, or its id is unknown"
    TIMED_OUT = 6, "the timeout passed; the same id can be resumed"
    CORRUPT = 7, "a file is damaged or missing"
    DISK = 8, "the disk is full, or can't be written or read"
    UNREACHABLE = 9, "no connection, or trouble at SendGrid or the storage: try later"
    IN_PROGRESS = 10, "another process is downloading the same export"
    SOME_FAILED = 11, "some accounts are not backed up: the table names them"
    INTERRUPTED = 130, "interrupted by Ctrl-C (143: by SIGTERM)"

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        """Make a number that has a meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class Terminated(Exception):  # noqa: N818
    """SIGTERM ended the work."""


PIPE_CLOSED = 128 + 13
_TERMINATED = 128 + 15
_CODES: list[tuple[tuple[type[BaseException], ...], int]] = [
    ((AuthenticationError, PermissionDeniedError), Exit.REFUSED),
    ((ExportFailedError,), Exit.FAILED),
    ((ExportExpiredError, ExportNotFoundError), Exit.EXPIRED),
    ((ExportTimeoutError,), Exit.TIMED_OUT),
    ((CorruptDownloadError,), Exit.CORRUPT),
    ((DownloadInProgressError,), Exit.IN_PROGRESS),
    ((IncompleteDownloadError, TransportError, ServerError, RateLimitedError), Exit.UNREACHABLE),
    ((BrokenPipeError,), PIPE_CLOSED),
    ((NotADirectoryError, FileExistsError), Exit.USAGE),
    # InsufficientDiskSpaceError is one, and what the disk itself says.
    ((OSError,), Exit.DISK),
    ((SendGridExportsError,), Exit.OTHER),
    ((KeyboardInterrupt, click.Abort), Exit.INTERRUPTED),
    ((Terminated,), _TERMINATED),
]
_OVER = {Exit.FAILED, Exit.EXPIRED, Exit.CORRUPT, Exit.USAGE, Exit.IN_PROGRESS}


class Failure(click.ClickException):
    """A command failed: what to say, and the exit code.

    Attributes:
        exit_code: for scripts.
        kind: the name of the error's class.
        export_id: the export that it is about, or None.
        resumable: whether the same export can still be resumed.
        interrupted: whether a signal ended the command.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(_message(error))
        self.kind = type(error).__name__
        self.exit_code = exit_of(error)  # type: ignore[misc]
        self.export_id = (error.export_id or None) if isinstance(error, ExportError) else None
        self.resumable = self.exit_code not in _OVER
        self.interrupted = self.exit_code in {Exit.INTERRUPTED, _TERMINATED}


def exit_of(error: BaseException) -> int:
    """Return the exit code for `error`."""
    if isinstance(error, ValueError | TypeError):
        # The library names the argument; if it is a directory, the cause is the error of the disk.
        return exit_of(error.__cause__) if isinstance(error.__cause__, OSError) else Exit.USAGE
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), Exit.OTHER)


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | click.Abort | Terminated):
        return "Interrupted."
    if isinstance(error, SendGridExportsError | ValueError | TypeError | ImportError):
        return sentence(cause_first(str(error)))
    if isinstance(error, OSError):
        where = f"{plain(str(error.filename))}: " if error.filename else ""
        return f"Disk error: {where}{sentence(error.strerror or str(error))}{_advice(error)}"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return (
            "The system allows no more threads. Raise the limit of processes (ulimit -u, or the "
            "container's limit of pids)."
        )
    said = redact_text(plain(str(error)))
    return sentence(f"{type(error).__name__}: {said}") + " This is a bug; rerun with --verbose."


def _advice(error: OSError) -> str:
    if error.errno == errno.EFBIG and "--max-file-size" not in str(error):
        return (
            " The file system can't hold so large a file: start another export with "
            "--max-file-size, or use another file system."
        )
    if "temporary directory" in str(error):
        return " Set TMPDIR to a directory that can be written to."
    return ""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end; Ctrl-C and SIGTERM cancel it.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it.
        Terminated: SIGTERM ended it.
    """
    return asyncio.run(_until_terminated(work))


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` within the block, so that it removes what it would leave.

    `run` has its own way, for work that can be cancelled.
    """
    terminated: list[object] = []

    def stop(*signalled: object) -> None:
        terminated.append(signalled)
        raise Terminated

    with contextlib.ExitStack() as stack:
        # Not possible in a thread.
        with contextlib.suppress(ValueError):
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, stop))
        try:
            yield
        except KeyboardInterrupt:
            # As which a database tells every signal.
            if terminated:
                raise Terminated from None
            raise


async def _until_terminated(work: Coroutine[Any, Any, T]) -> T:
    terminated: list[bool] = []
    task = asyncio.current_task()

    def stop() -> None:
        terminated.append(task is not None and task.cancel())

    # Not possible in a thread, nor on every system.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    try:
        return await work
    except asyncio.CancelledError:
        if terminated:
            raise Terminated from None
        raise
