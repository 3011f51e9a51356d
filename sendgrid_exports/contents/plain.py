"""The plain text of a file on disk, gzip or not, in pieces and in bounded memory. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sendgrid_exports.errors import CorruptDownloadError
from sendgrid_exports.formats.gunzip import BrokenGzipError, PlainText

__all__ = ["read_plain"]

# About as much gzip as inflates to a piece; an error in it says where to as many bytes.
_READ = 256 * 1024


def read_plain(path: Path) -> Iterator[bytes]:
    """Yield what is in a file, in pieces of at most 1 MiB; gzip is known by its first bytes.

    Raises:
        CorruptDownloadError: it begins as gzip and is not whole; the message says where.
        OSError: it can't be read.
    """
    plain = PlainText()
    with path.open("rb") as file:
        try:
            while data := file.read(_READ):
                yield from map(bytes, plain.feed(data))
            yield from map(bytes, plain.finish())
        except BrokenGzipError as error:
            raise CorruptDownloadError(
                f"{path} is corrupt: {error}. Fetch the export again, or start another one.",
                path=path,
            ) from None
