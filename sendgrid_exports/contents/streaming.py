"""Contacts straight from the links, without a disk: in batches, in time, each file proved."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from sendgrid_exports.contents.batches import take
from sendgrid_exports.contents.proving import ProvedRows
from sendgrid_exports.contents.rows import Row
from sendgrid_exports.disk import Disk
from sendgrid_exports.errors import CorruptDownloadError
from sendgrid_exports.events import FileFinished
from sendgrid_exports.formats.text import Errors
from sendgrid_exports.models import DownloadedFile
from sendgrid_exports.transfer.checks import CheckFailedError
from sendgrid_exports.transfer.file import File
from sendgrid_exports.transfer.stream import FileStream

__all__ = ["ContactStream"]


class ContactStream:
    """The contacts of one export, while its files go through.

    Args:
        stream: the files.
        disk: the thread that makes rows.
        batch_size: rows in a batch.
        errors: what to do with bytes that are no UTF-8.
    """

    def __init__(self, stream: FileStream, *, disk: Disk, batch_size: int, errors: Errors) -> None:
        self._stream = stream
        self._transfer = stream.transfer
        self._transfer.kept = lambda: "what was handed out is incomplete"
        self._transfer.advice = (
            "drop it and stream again with more time, or download, which can be resumed"
        )
        self._disk = disk
        self._size = batch_size
        self._errors: Errors = errors
        self._contacts = 0

    async def batches(self) -> AsyncGenerator[list[Row], None]:
        """Yield all contacts; what the caller does with a batch is not bounded by the deadline.

        Raises:
            ExportTimeoutError, ExportExpiredError: the deadline or the files' expiry came first.
            SendGridExportsError: a file can't be had, or fails its checks.
        """
        async with aclosing(self._all()) as batches:
            while True:
                async with self._transfer.in_time():
                    batch = await anext(batches, None)
                if batch is None:
                    break
                yield batch
        self._transfer.check_count(self._contacts)

    async def _all(self) -> AsyncGenerator[list[Row], None]:
        batch: list[Row] = []
        columns = None
        for file in self._stream.files:
            verify = self._transfer.means.policy.verify
            rows = ProvedRows(file, columns=columns, errors=self._errors, verify=verify)
            try:
                async with aclosing(self._read(file, rows)) as parts:
                    async for part in parts:
                        while more := await take(part, self._size - len(batch), self._disk):
                            batch += more
                            if len(batch) == self._size:
                                yield batch
                                batch = []
            except CheckFailedError as error:
                raise self._corrupt(file, error) from None
            columns = rows.columns
            self._finished(file, rows)
        if batch:
            yield batch

    async def _read(self, file: File, rows: ProvedRows) -> AsyncGenerator[Iterator[Row], None]:
        """Yield the rows of a file in parts, each to be exhausted in a thread."""
        async with aclosing(self._stream.blocks(file)) as chunks:
            async for data in chunks:
                yield rows.feed(bytes(data))
        yield rows.finish()

    def _finished(self, file: File, rows: ProvedRows) -> None:
        checked = rows.checked
        assert checked is not None
        self._contacts += checked.contacts or 0
        finished = DownloadedFile(
            number=file.number,
            url=file.link.identity,
            path=self._stream.path(file, checked.kind),
            size=checked.size,
            sha256=checked.sha256,
            etag=file.copy.version.etag.strip('"') if file.copy.version else None,
            compressed=checked.compressed,
            verified_by=checked.verified_by,
        )
        export_id = self._transfer.export_id
        self._transfer.on_event(FileFinished(export_id=export_id, file=finished))

    def _corrupt(self, file: File, error: CheckFailedError) -> CorruptDownloadError:
        path = self._stream.path(file)
        return CorruptDownloadError(
            f"{path.name} fails its checks: {error}. Drop the contacts handed out and stream "
            f"again. If it fails once more: {error.advice}",
            path=path,
            url=file.link.identity,
        )
