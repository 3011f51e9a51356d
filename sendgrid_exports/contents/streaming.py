"""Contacts straight from the links, without a disk: in batches, in time, each file proved."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from sendgrid_exports.contents.batches import take
from sendgrid_exports.contents.proving import ProvedRows
from sendgrid_exports.contents.rows import Row
from sendgrid_exports.disk import Disk
from sendgrid_exports.errors import CorruptDownloadError, ExportExpiredError, ExportTimeoutError
from sendgrid_exports.events import CountMismatch, FileFinished
from sendgrid_exports.formats.text import Errors
from sendgrid_exports.models import DownloadedFile
from sendgrid_exports.transfer.checks import CheckFailedError
from sendgrid_exports.transfer.straight import Straight, StraightFile

__all__ = ["ContactStream"]


class ContactStream:
    """The contacts of one export, while its files go through.

    Args:
        straight: the files.
        disk: the thread that makes rows.
        batch_size: rows in a batch.
        errors: what to do with bytes that are no UTF-8.
    """

    def __init__(self, straight: Straight, *, disk: Disk, batch_size: int, errors: Errors) -> None:
        self._straight = straight
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
        clock, deadline = self._straight.clock, self._straight.deadline
        async with aclosing(self._all()) as batches:
            while True:
                left = deadline.left(clock.monotonic())
                try:
                    async with clock.timeout(left if math.isfinite(left) else None):
                        batch = await anext(batches, None)
                except TimeoutError as error:
                    timed_out = isinstance(error, ExportTimeoutError)
                    if not timed_out and not deadline.passed(clock.monotonic()):
                        # Somebody else's: the listener's.
                        raise
                    if timed_out and self._straight.expiry.at > deadline.at:
                        raise
                    raise self._out_of_time() from None
                if batch is None:
                    break
                yield batch
        self._conclude()

    async def _all(self) -> AsyncGenerator[list[Row], None]:
        batch: list[Row] = []
        columns = None
        for file in self._straight.files:
            rows = ProvedRows(
                file, columns=columns, errors=self._errors, verify=self._straight.policy.verify
            )
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

    async def _read(
        self, file: StraightFile, rows: ProvedRows
    ) -> AsyncGenerator[Iterator[Row], None]:
        """Yield the rows of a file in parts, each to be exhausted in a thread."""
        async with aclosing(self._straight.chunks(file)) as chunks:
            async for data in chunks:
                yield rows.feed(data)
        yield rows.finish()

    def _finished(self, file: StraightFile, rows: ProvedRows) -> None:
        checked = rows.checked
        assert checked is not None
        self._contacts += checked.contacts or 0
        finished = DownloadedFile(
            number=file.number,
            url=file.link.identity,
            path=self._straight.path(file, checked.kind),
            size=checked.size,
            sha256=checked.sha256,
            etag=file.version.etag.strip('"') if file.version else None,
            compressed=checked.compressed,
            verified_by=checked.verified_by,
        )
        export_id = self._straight.export.id
        self._straight.on_event(FileFinished(export_id=export_id, file=finished))

    def _conclude(self) -> None:
        export, counted = self._straight.export, self._contacts
        if export.contact_count in {None, counted}:
            return
        expected = export.contact_count or 0
        self._straight.on_event(
            CountMismatch(export_id=export.id, expected=expected, counted=counted)
        )
        if self._straight.policy.require_count:
            raise CorruptDownloadError(
                f"SendGrid says that export {export.id} has {expected} contacts, and {counted} "
                "came. Every file was whole; start another export, or do without require_count."
            )

    def _corrupt(self, file: StraightFile, error: CheckFailedError) -> CorruptDownloadError:
        path = self._straight.path(file)
        return CorruptDownloadError(
            f"{path.name} fails its checks: {error}. Drop the contacts handed out and stream "
            f"again. If it fails once more: {error.advice}",
            path=path,
            url=file.link.identity,
        )

    def _out_of_time(self) -> ExportExpiredError | ExportTimeoutError:
        export = self._straight.export
        if self._straight.expiry.at <= self._straight.deadline.at:
            return ExportExpiredError(
                f"The files of export {export.id} expired at {export.expires_at} before all had "
                "come. Start another export.",
                export_id=export.id,
                export=export,
            )
        return ExportTimeoutError(
            f"The timeout passed before every contact of export {export.id} had come. Drop those "
            "handed out and stream again with more time, or download, which can go on later.",
            export_id=export.id,
            export=export,
        )
