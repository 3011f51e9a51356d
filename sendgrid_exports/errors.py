"""What can go wrong, split by what the caller can do about it.

    SendGridExportsError                    never raised itself
    ├── APIError                            SendGrid answered, and the answer is no
    │   ├── InvalidRequestError             400, 422: mend the arguments
    │   ├── AuthenticationError             401: mend the key
    │   ├── PermissionDeniedError           403: give the key the scope
    │   ├── ExportNotFoundError             404: mend the id
    │   ├── RateLimitedError                429: ask less often
    │   └── ServerError                     5xx: ask later
    ├── TransportError                      no complete answer: DNS, TLS, reset, timeout
    ├── InvalidResponseError                an answer that is not what is documented
    ├── ExportError                         the job itself
    │   ├── ExportFailedError               SendGrid gave up: start another
    │   ├── ExportTimeoutError              it is not done yet: ask again with the same id
    │   ├── ExportExpiredError              its files are gone: start another
    │   └── ExportNotReadyError             it is still being prepared: wait
    └── DownloadError                       a file of it
        ├── IncompleteDownloadError         the tries are used up: fetch again, it goes on
        ├── CorruptDownloadError            what came fails its checks
        ├── DownloadInProgressError         somebody else is at it
        └── InsufficientDiskSpaceError      make room

Everything here can be pickled, carries what was seen as attributes, and says no secret.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, TypeVar

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

    Tried again before one is raised: looks that failed in passing (no connection, a timeout, 429,
    5xx, a body that can't be decoded), in the next slot or when the server says; files after
    resets, stalls, short bodies, 429 and 5xx, from the last byte; dead links with fresh ones; a
    file that fails its checks, once; a start only where it certainly was not processed.

    Never tried again: 400, 401, 403 and 404 of the API, `failure`, a deleted file, a refused
    signature, a redirect (none is ever followed), a full disk, a start that may have reached
    SendGrid.

    Attributes:
        message: what was seen, what it means, what to do.
    """

    message: str

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # The bases OSError and TimeoutError would rebuild from rewritten arguments.
        return _restore, (type(self), self.__dict__.copy())


class APIError(SendGridExportsError):
    """SendGrid's API answered with an error status.

    Attributes:
        status: the HTTP status.
        errors: what the body said, one entry for each documented error; may be empty.
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
    """401: the API key is wrong, deleted or revoked."""


class PermissionDeniedError(APIError):
    """403: the key lacks a scope, or the account has no new Marketing Campaigns."""


class ExportNotFoundError(APIError):
    """404: no export with this id in this account."""


class RateLimitedError(APIError):
    """429: too many requests; `APIError.retry_after` says how long to keep away, if it was said."""


class ServerError(APIError):
    """5xx: SendGrid, or a proxy before it, has trouble of its own."""


class TransportError(SendGridExportsError):
    """No complete answer came: name resolution, TLS, a reset or a timeout.

    Attributes:
        request_sent: whether the request may have reached the server.
        transient: whether trying again can help (a refused certificate will stay refused).
    """

    def __init__(self, message: str, *, request_sent: bool = True, transient: bool = True) -> None:
        super().__init__(message)
        self.request_sent = request_sent
        self.transient = transient


class InvalidResponseError(SendGridExportsError):
    """A successful answer whose body is not what SendGrid documents.

    Attributes:
        problems: one text for each bad field, with its path, such as `… @ $.created_at`.
    """

    def __init__(self, message: str, *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class ExportError(SendGridExportsError):
    """The export job.

    Attributes:
        export_id: the id; all that is needed to ask for the export again.
        export: the export as last seen, its links without their query, or None.
    """

    def __init__(
        self, message: str, *, export_id: str, export: ContactExport | None = None
    ) -> None:
        super().__init__(message)
        self.export_id = export_id
        self.export = export and export.without_credentials()


class ExportFailedError(ExportError):
    """SendGrid says `failure`: this export will never be ready."""


class ExportTimeoutError(ExportError, TimeoutError):
    """The caller's timeout passed; the export may still become ready."""


class ExportExpiredError(ExportError):
    """The files of the export are deleted, or will be before they can arrive."""


class ExportNotReadyError(ExportError):
    """A download was asked for while the export is still being prepared."""


class DownloadError(SendGridExportsError):
    """A file of the export.

    Attributes:
        path: the file's final path, or None where it is about the whole directory.
        url: where it comes from, without its query, or None.
        status: the storage's HTTP status, or None.
        code: the storage's own error code, such as `NoSuchKey`, or None.
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
    """The tries without progress are used up before the file was whole."""


class CorruptDownloadError(DownloadError):
    """A file fails its checks (a download fetched it twice), or holds no contacts to be read."""


class DownloadInProgressError(DownloadError):
    """Another process or task downloads the same export into the same directory."""


class InsufficientDiskSpaceError(DownloadError, OSError):
    """The disk has no room for the rest of the files."""

    def __init__(self, message: str, *, path: Path | None = None) -> None:
        super().__init__(message, path=path)
        self.errno = errno.ENOSPC
