"""Errors of obstore as ours. Pure.

What obstore says may hold requests and what was signed: little of it is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sendgrid_exports.errors import DownloadError, IncompleteDownloadError
from sendgrid_exports.redaction import redact_text

__all__ = ["SET_CREDENTIALS", "ConflictError", "brief", "translated"]

_STATUS = re.compile(r"status(?: code)?: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
# Completing a blob of Azure drops what other uploads have sent of it:
# https://learn.microsoft.com/rest/api/storageservices/put-block-list
_LOST_BLOCKS = "InvalidBlockList"
_CONFLICTS = {"AlreadyExistsError", "PreconditionError"}
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
# Of what is not in the environment.
_LACKING = re.compile(r"error: (?:Missing|Account must be specified)")
# Where obstore asks for credentials that are not in the environment.
_CREDENTIAL_SERVERS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
SET_CREDENTIALS = (
    "Set the credentials in the environment as obstore reads it (AWS_ACCESS_KEY_ID, "
    "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and others), or pass "
    "Bucket(store) with a store that has them."
)


class ConflictError(Exception):
    """An object is not as it was when it was read: another writer has replaced it."""


@contextmanager
def translated(url: str, *, may_miss: bool = False) -> Iterator[None]:
    """Raise errors of obstore about `url` as ours.

    Raises:
        ConflictError: a condition was not met.
        FileNotFoundError: the object is not there, which it `may_miss`.
        NotImplementedError: the store can't do that.
        DownloadError: anything else.
    """
    try:
        yield
    except NotImplementedError:
        raise
    except Exception as error:
        kind = type(error)
        code = _codes(error)[1]
        if kind.__name__ in _CONFLICTS or code == _LOST_BLOCKS:
            failure: Exception = ConflictError(url)
        elif isinstance(error, FileNotFoundError) and may_miss and code not in _NO_BUCKET:
            failure = FileNotFoundError(url)
        elif kind.__module__.startswith("obstore") or isinstance(error, OSError | ValueError):
            failure = _error(error, url)
        else:
            raise
        try:
            raise failure from None
        finally:
            # What says more than may be quoted is not to be reached from it either.
            failure.__context__ = None


def _error(error: Exception, url: str) -> DownloadError:
    status, code = _codes(error)
    seen, text, name = brief(error), str(error), type(error).__name__
    kind = DownloadError
    if _LACKING.search(text):
        advice = SET_CREDENTIALS
    elif isinstance(error, FileNotFoundError):
        seen = "the bucket does not exist"
        advice = "Make it, or correct the url."
    elif name == "UnauthenticatedError" or any(host in text for host in _CREDENTIAL_SERVERS):
        seen = "the store knows no such credentials" if status else "there are no credentials"
        advice = SET_CREDENTIALS
    elif name == "PermissionDeniedError" or status == 403:
        advice = "Allow the credentials to read, write and list objects there."
    elif status == 429 or (status or 0) >= 500 or "HTTP error" in text:
        kind = IncompleteDownloadError
        advice = "Try again later with the same id: what is complete is kept."
    else:
        advice = "Check the url, and the store's settings in the environment."
    return kind(f"{url} can't be used: {seen}. {advice}", url=url, status=status, code=code)


def _codes(error: Exception) -> tuple[int | None, str | None]:
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    return int(status[1]) if status else None, code[1] if code else None


def brief(error: Exception) -> str:
    """Return what may be quoted of an error: the status and code of the answer, or one line."""
    status, code = _codes(error)
    if status is not None:
        return f"the store answered {status}" + (f" {code}" if code else "")
    return redact_text(str(error).partition("\n")[0]).rstrip(".")
