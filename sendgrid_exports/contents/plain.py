"""The plain text of a file on disk, gzip or not, in pieces and in bounded memory. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sendgrid_exports.errors import CorruptDownloadError
from sendgrid_exports.formats.gunzip import GZIP_MAGIC, BrokenGzipError, Gunzip

__all__ = ["read_plain"]

_READ_PLAIN = 1024 * 1024
_READ_GZIP = 256 * 1024


def read_plain(path: Path) -> Iterator[bytes]:
    """Yield what is in a file, in pieces of at most 1 MiB; gzip is known by its first bytes.

    Raises:
        CorruptDownloadError: it begins as gzip and is not whole; the message says where.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        data = file.read(len(GZIP_MAGIC))
        if data != GZIP_MAGIC:
            data += file.read(_READ_PLAIN - len(data))
            while data:
                yield data
                data = file.read(_READ_PLAIN)
            return
        gunzip = Gunzip()
        try:
            while data:
                yield from gunzip.feed(data)
                data = file.read(_READ_GZIP)
            gunzip.finish()
        except BrokenGzipError as error:
            raise CorruptDownloadError(
                f"{path} is corrupt: {error}. Fetch the export again, or start another one.",
                path=path,
            ) from None
