"""What can go wrong, split by what the caller can do about it.

    SendGridExportsError                    never raised itself
    ├── APIError                            SendGrid answered with an error
    │   ├── InvalidRequestError             400, 422: fix the arguments
    │   ├── AuthenticationError             401: fix the API key
    │   ├── PermissionDeniedError           403: give the API key the scope
    │   ├── ExportNotFoundError             404: fix the export id
    │   ├── RateLimitedError                429: send fewer requests
    │   └── ServerError                     5xx: try again later
    ├── TransportError                      no complete response: DNS, TLS, reset, timeout
    ├── InvalidResponseError                a response that is not what is documented
    ├── ExportError                         the export job
    │   ├── ExportFailedError               SendGrid gave up: start another
    │   ├── ExportTimeoutError              it is not ready yet: wait again with the same id
    │   ├── ExportExpiredError              its files are deleted: start another
    │   └── ExportNotReadyError             it is still being prepared: wait
    └── DownloadError                       a file of the export
        ├── IncompleteDownloadError         the attempts are used up: fetch again to resume
        ├── CorruptDownloadError            the file fails its checks
        ├── DownloadInProgressError         another process or task is downloading it
        └── InsufficientDiskSpaceError      free disk space

Every error can be pickled, carries what was seen as attributes, and holds no secret.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, Self, TypeVar

from sendgrid_exports.models import ContactExport, ErrorDetail

__all__ = [
    "APIError",
    "AuthenticationError",
    "CorruptDownloadError",
    "DownloadError",
    "DownloadInProgressError",
    "ExportError",
    "ExportExpiredError",
    "ExportFailedError",
    "ExportNotFoundError",
    "ExportNotReadyError",
    "ExportTimeoutError",
    "IncompleteDownloadError",
    "InsufficientDiskSpaceError",
    "InvalidRequestError",
    "InvalidResponseError",
    "PermissionDeniedError",
    "RateLimitedError",
    "SendGridExportsError",
    "ServerError",
    "TransportError",
]

E = TypeVar("E", bound="SendGridExportsError")


def _restore(cls: type[E], attributes: dict[str, Any]) -> E:
    error = cls.__new__(cls)
    error.args = (attributes["message"],)
    error.__dict__.update(attributes)
    if isinstance(error, InsufficientDiskSpaceError):
        error.errno = errno.ENOSPC
    return error


class SendGridExportsError(Exception):
    """The base of every error of this library; never raised itself. All can be pickled.

    Retried before one is raised: polls that failed in a transient way (no connection, a timeout,
    429, 5xx, a body that can't be decoded), in the next slot or when the server says; files after
    resets, stalls, short bodies, 403, 404, 429 and 5xx, from the last byte; dead links with fresh
    ones; a file that fails its checks, once; a start only where it certainly was not processed.

    Never retried: 400, 401, 403 and 404 of the API, `failure`, an expired export, a refused
    signature, a redirect (none is ever followed), a full disk, a start that may have reached
    SendGrid. Two exceptions: a poll that finds no export less than a minute after this client
    started it, and one 401 to a poll after the same wait had a good one.

    Attributes:
        message: what was seen, what it means, what to do.
    """

    message: str

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def with_advice(self, advice: str) -> Self:
        """Return a copy of the error whose message ends with one more sentence."""
        message = f"{self.message.removesuffix('.')}. {advice}"
        return _restore(type(self), {**self.__dict__, "message": message})

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError and TimeoutError would rebuild the error from changed arguments.
        return _restore, (type(self), self.__dict__.copy())


class APIError(SendGridExportsError):
    """SendGrid's API answered with an error.

    Attributes:
        status: the HTTP status; 2xx where only the body says that it is an error.
        errors: the error details in the body; may be empty.
        retry_after: seconds the server asked to wait, or None.
        request_id: SendGrid's id of the request, for its support, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        errors: tuple[ErrorDetail, ...] = (),
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.errors = errors
        self.retry_after = retry_after
        self.request_id = request_id


class InvalidRequestError(APIError):
    """400 or 422: SendGrid does not accept an argument; `APIError.errors` names it."""


class AuthenticationError(APIError):
    """401: the API key is wrong, deleted or revoked, or the account's credits are used up."""


class PermissionDeniedError(APIError):
    """403: a scope of the API key, the new Marketing Campaigns or an allowed address is missing."""


class ExportNotFoundError(APIError):
    """404: there is no such export, list or segment in this account."""


class RateLimitedError(APIError):
    """429: too many requests; `APIError.retry_after` has the seconds to wait, if given."""


class ServerError(APIError):
    """5xx: SendGrid, or a proxy in front of it, has a problem of its own."""


class TransportError(SendGridExportsError):
    """No complete response came: name resolution, TLS, a reset or a timeout.

    Attributes:
        request_sent: whether the request may have reached the server.
        transient: whether a retry can help (a refused certificate stays refused).
    """

    def __init__(self, message: str, *, request_sent: bool = True, transient: bool = True) -> None:
        super().__init__(message)
        self.request_sent = request_sent
        self.transient = transient


class InvalidResponseError(SendGridExportsError):
    """A successful response whose body is not what SendGrid documents.

    Attributes:
        problems: one text for each bad field, with its path, such as `… @ $.created_at`.
    """

    def __init__(self, message: str, *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class ExportError(SendGridExportsError):
    """The export job.

    Attributes:
        export_id: the id; all that is needed to resume.
        export: the export as last seen, its links without their query, or None.
    """

    def __init__(
        self, message: str, *, export_id: str, export: ContactExport | None = None
    ) -> None:
        super().__init__(message)
        self.export_id = export_id
        self.export = export and export.without_credentials()


class ExportFailedError(ExportError):
    """The status is `failure`: this export will never be ready."""


class ExportTimeoutError(ExportError, TimeoutError):
    """The caller's timeout passed; the export may still become ready."""


class ExportExpiredError(ExportError):
    """The files of the export are deleted, or will be before they can arrive."""


class ExportNotReadyError(ExportError):
    """A download was requested while the export is still being prepared."""


class DownloadError(SendGridExportsError):
    """A file of the export.

    Attributes:
        path: the file's final path, or None if the error is about the whole directory.
        url: its link, without the query, or None.
        status: the storage's HTTP status, or None.
        code: the storage's error code, such as `NoSuchKey`, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        path: Path | None = None,
        url: str | None = None,
        status: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.url = url
        self.status = status
        self.code = code


class IncompleteDownloadError(DownloadError):
    """The attempts without progress were used up before the file was complete."""


class CorruptDownloadError(DownloadError):
    """A file fails its checks (a download fetched it twice), or holds no contacts to be read."""


class DownloadInProgressError(DownloadError):
    """Another process or task downloads the same export into the same directory."""


class InsufficientDiskSpaceError(DownloadError, OSError):
    """The disk has no space for the rest of the files."""

    def __init__(self, message: str, *, path: Path | None = None) -> None:
        super().__init__(message, path=path)
        self.errno = errno.ENOSPC
