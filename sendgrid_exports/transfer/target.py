"""Where a download goes, or is: a directory or a bucket. Blocking."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import TypeAlias, TypedDict
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sendgrid_exports.bucket import SCHEMES, Bucket
from sendgrid_exports.bucket_files import BucketFile
from sendgrid_exports.transfer.names import check_directory

__all__ = ["AnyFile", "Listing", "Target", "is_url", "read_target", "where"]

Target: TypeAlias = str | PathLike[str] | Bucket
AnyFile: TypeAlias = Path | BucketFile
"""A file to be read: it has a `name`, and `open`."""


class Where(TypedDict, total=False):
    """Where a file is, as a `DownloadError` says it."""

    path: Path
    url: str


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


class Listing:
    """The files directly in a directory or a bucket, as they are when it is made.

    Attributes:
        place: the directory or the bucket.
        files: the files by their names, which are sorted.

    Raises:
        DownloadError: the bucket can't be used.
        OSError: the directory can't be read.
    """

    def __init__(self, place: Path | Bucket) -> None:
        self.place = place
        self.files: dict[str, AnyFile]
        if isinstance(place, Bucket):
            self.files = {each.name: BucketFile(place, each) for each in place.list()[0]}
        else:
            self.files = {path.name: path for path in sorted(place.iterdir())}

    def read(self, name: str) -> bytes | None:
        """Return a small file whole, or None where there is none."""
        if isinstance(self.place, Bucket):
            found = self.place.read(name)
            return None if found is None else found[0]
        path = self.place / name
        return path.read_bytes() if path.exists() else None

    def locate(self, name: str) -> Path | str:
        """Return a file's path, or its url in a bucket, whether it is there or not."""
        return self.place.url_of(name) if isinstance(self.place, Bucket) else self.place / name


def where(place: Path | Bucket, name: str | None = None) -> Where:
    """Return the attributes of an error about a place, or a file in it."""
    if isinstance(place, Bucket):
        return {"url": place.url if name is None else place.url_of(name)}
    return {"path": place if name is None else place / name}
