"""Objects in a bucket as files to be read, and on their way there."""

from __future__ import annotations

import asyncio
import io
import logging
from typing import TYPE_CHECKING, Any

import attrs

from sendgrid_exports.bucket_errors import ConflictError, brief, translated
from sendgrid_exports.disk import unbroken

if TYPE_CHECKING:
    from sendgrid_exports.bucket import Bucket

__all__ = ["BucketFile", "ObjectWriter", "Stored", "Upload", "warn_of_upload"]

logger = logging.getLogger(__name__)

_READ = 4 * 1024 * 1024


@attrs.frozen
class Stored:
    """An object in a bucket.

    Attributes:
        name: its key below the bucket's prefix.
        size: its bytes.
        etag: its entity tag as the store writes it, or None.
        version: the store's own number of this version, or None.
    """

    name: str
    size: int
    etag: str | None
    version: str | None = None


@attrs.frozen
class BucketFile:
    """An object to be read, with as much of a path's interface as readers of files need.

    Attributes:
        bucket: where it is.
        stored: the object; reading it meets this version of it alone.
    """

    bucket: Bucket
    stored: Stored

    def __str__(self) -> str:
        return self.bucket.url_of(self.name)

    @property
    def name(self) -> str:
        """Its key below the bucket's prefix."""
        return self.stored.name

    def open(self, mode: str) -> io.BufferedReader:
        """Open it for reading; `mode` is `rb`.

        Reading raises:
            CorruptDownloadError: it was replaced meanwhile.
            DownloadError: as for `Bucket.head`.
        """
        assert mode == "rb"
        return io.BufferedReader(_ObjectReader(self), _READ)


class _ObjectReader(io.RawIOBase):
    """The bytes of an object, in ranges, so that a slow reader meets no timeout."""

    def __init__(self, file: BucketFile) -> None:
        self._bucket, self._stored = file.bucket, file.stored
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stored.size}
        self._position = max(0, start[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._stored.size or not len(buffer):
            return 0
        data = self._bucket.read_range(self._stored, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class Upload:
    """An object on its way into a bucket; see `Bucket.upload`."""

    def __init__(self, writer: Any, url: str, part: int) -> None:
        self._writer = writer
        self._url = url
        self._part = part
        self._written = 0
        self._ended = False

    async def write(self, block: bytes | memoryview) -> None:
        """Take the next bytes, which are copied.

        Raises:
            DownloadError: the store refused them, or those before.
        """
        # The writer keeps what it gets until it is sent, and a block is reused before that.
        data = bytes(block)
        begins = self._written < self._part <= self._written + len(data)
        self._written += len(data)
        with translated(self._url):
            writing = asyncio.ensure_future(self._writer.write(data))
            # Cancelled while it begins, a multipart upload could not be aborted any more.
            await (unbroken(writing) if begins else writing)

    async def finish(self) -> None:
        """Complete the upload; a cancellation meanwhile waits for that.

        Raises:
            ConflictError: what was sent is lost, since another upload of it was completed.
            DownloadError: the store refused it.
        """
        # The writer itself aborts what it can't complete.
        self._ended = True
        with translated(self._url):
            await unbroken(asyncio.ensure_future(self._writer.close()))

    async def abort(self) -> None:
        """Drop what was sent, unless the upload is finished."""
        if self._ended:
            return
        self._ended = True
        error = ConflictError("aborted")
        try:
            await unbroken(asyncio.ensure_future(self._writer.__aexit__(type(error), error, None)))
        except Exception as failed:  # noqa: BLE001
            # What ended the upload is the error to report.
            warn_of_upload(self._url, failed)


class ObjectWriter(io.RawIOBase):
    """An object on its way into a bucket, as a file."""

    def __init__(self, writer: Any, url: str) -> None:
        self._writer = writer
        self._url = url
        self._position = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._position

    def write(self, data: Any) -> int:
        """Write bytes, and return how many.

        Raises:
            DownloadError: the store refused them, or those before.
        """
        # The writer keeps what it gets until it is sent, and a buffer is reused before that.
        with translated(self._url):
            self._writer.write(bytes(data))
        self._position += len(data)
        return len(data)


def warn_of_upload(url: str, error: Exception) -> None:
    """Say that what was sent could not be dropped."""
    logger.warning(
        "An unfinished upload of %s may be left in the bucket (%s). A lifecycle rule for "
        "incomplete multipart uploads removes it.",
        url,
        brief(error),
    )
