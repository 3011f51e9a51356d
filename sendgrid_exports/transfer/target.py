"""Where a download goes, or is: a directory or a bucket."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sendgrid_exports.bucket import SCHEMES, Bucket
from sendgrid_exports.transfer.names import check_directory

__all__ = ["Target", "is_url", "read_target"]

Target: TypeAlias = str | PathLike[str] | Bucket

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# What pathlib makes of a url: one slash of two.
_URL_AS_PATH = re.compile(rf"({'|'.join(SCHEMES)}|file):/(?!/)")


def is_url(target: object) -> bool:
    """Whether a target is a url, rather than a path or a `Bucket`."""
    return isinstance(target, str) and _URL.match(target) is not None


def read_target(target: object) -> Path | Bucket:
    """Return the directory or the bucket that `target` names; a `file://` url is a directory.

    Raises:
        ImportError: it is a bucket's url, and obstore is not installed.
        TypeError: it is neither text, nor a path, nor a `Bucket`.
        ValueError: it can't name a directory or a bucket, or holds credentials.
        DownloadError: the environment does not say all that the bucket's store needs.
    """
    if isinstance(target, Bucket):
        return target
    if isinstance(target, str) and target[:7].lower() == "file://":
        parts = urlsplit(target)
        if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment:
            raise ValueError("target must be a file url of this machine, as in file:///exports")
        return check_directory(url2pathname(parts.path))
    if isinstance(target, str) and is_url(target):
        return Bucket.from_url(target)
    path = check_directory(target)
    if _URL_AS_PATH.match(path.as_posix()):
        raise ValueError(f"target {str(path)!r} is a url that became a path: pass it as text")
    return path
