"""The contacts of an export straight from its links, without a disk: in batches, checked."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import attrs

from sendgrid_exports.contents.contacts import take
from sendgrid_exports.disk import Disk
from sendgrid_exports.errors import CorruptDownloadError, ExportExpiredError, ExportTimeoutError
from sendgrid_exports.events import CountMismatch, FileFinished
from sendgrid_exports.formats.gunzip import BrokenGzipError, PlainText
from sendgrid_exports.formats.rows import BrokenTextError, Errors, Row, Rows
from sendgrid_exports.models import DownloadedFile
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.straight import Straight, StraightFile
from sendgrid_exports.transfer.verify import Checked, CheckFailedError, Checks

__all__ = ["ContactStream"]


class _CheckedRows:
    """The contacts of one file that is fed from its first byte to its last. Blocking.

    Attributes:
        rows: the parser.
        checked: which checks the file passed, once it is finished.
    """

    def __init__(self, file: StraightFile, rows: Rows, verify: Verify) -> None:
        self.rows = rows
        self.checked: Checked | None = None
        self._file = file
        # The text is inflated and its contacts are counted here, and not once more.
        self._verify = Verify.CHECKSUM if verify is Verify.CONTENTS else verify
        self._checks: Checks | None = None
        self._plain = PlainText()
        self._contacts = 0

    def feed(self, data: bytes) -> Iterator[Row]:
        """Yield the contacts that are whole by now; exhaust it.

        Raises:
            CheckFailedError: the bytes are broken gzip, or not a text of contacts.
        """
        self._begun().feed(data)
        yield from self._parse(self._plain.feed(data))

    def finish(self) -> Iterator[Row]:
        """Yield the contacts that are left, once the file has passed its checks.

        Raises:
            CheckFailedError: a check failed, or as for `feed`.
        """
        checked = self._begun().finish()
        yield from self._parse(self._plain.finish(), last=True)
        passed = (*checked.verified_by, *(("gzip-crc",) if self._plain.compressed else ()))
        self.checked = attrs.evolve(checked, contacts=self._contacts, verified_by=passed)

    def _begun(self) -> Checks:
        # What the storage announced is known only once it has answered.
        if self._checks is None:
            self._checks = Checks(self._verify, self._file.expected, self._file.link.kind)
        return self._checks

    def _parse(self, plain: Iterator[bytes], *, last: bool = False) -> Iterator[Row]:
        try:
            for text in plain:
                for row in self.rows.feed(text):
                    self._contacts += 1
                    yield row
            for row in self.rows.finish() if last else ():
                self._contacts += 1
                yield row
        except (BrokenGzipError, BrokenTextError) as error:
            raise CheckFailedError(str(error)) from None


class ContactStream:
    """The contacts of one export, while its files pass through.

    Args:
        straight: the files.
        disk: the thread that makes rows.
        batch_size: rows in a batch.
        errors: what to do with bytes that are not UTF-8.
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
            SendGridExportsError: a file can't be downloaded, or fails its checks.
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
                        # It is the listener's own.
                        raise
                    if timed_out and self._straight.expiry.at > deadline.at:
                        raise
                    raise self._out_of_time() from None
                if batch is None:
                    break
                yield batch
        self._check_count()

    async def _all(self) -> AsyncGenerator[list[Row], None]:
        batch: list[Row] = []
        columns = None
        for file in self._straight.files:
            rows = Rows(columns=columns, errors=self._errors)
            checked = _CheckedRows(file, rows, self._straight.policy.verify)
            try:
                async with aclosing(self._read(file, checked)) as parts:
                    async for part in parts:
                        while more := await take(part, self._size - len(batch), self._disk):
                            batch += more
                            if len(batch) == self._size:
                                yield batch
                                batch = []
            except CheckFailedError as error:
                raise self._corrupt(file, error) from None
            columns = rows.columns
            self._finished(file, checked.checked)
        if batch:
            yield batch

    async def _read(
        self, file: StraightFile, rows: _CheckedRows
    ) -> AsyncGenerator[Iterator[Row], None]:
        """Yield the contacts of a file in parts, each to be exhausted in a thread."""
        async with aclosing(self._straight.chunks(file)) as chunks:
            async for data in chunks:
                yield rows.feed(data)
        yield rows.finish()

    def _finished(self, file: StraightFile, checked: Checked | None) -> None:
        assert checked is not None
        self._contacts += checked.contacts or 0
        finished = DownloadedFile(
            number=file.number,
            url=file.link.identity,
            path=self._straight.path(file),
            size=checked.size,
            sha256=checked.sha256,
            etag=file.version.etag.strip('"') if file.version else None,
            compressed=checked.compressed,
            verified_by=checked.verified_by,
        )
        export_id = self._straight.export.id
        self._straight.on_event(FileFinished(export_id=export_id, file=finished))

    def _check_count(self) -> None:
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
                "came. Every file passed its checks: start another export, or do without "
                "require_count."
            )

    def _corrupt(self, file: StraightFile, error: CheckFailedError) -> CorruptDownloadError:
        path = self._straight.path(file)
        return CorruptDownloadError(
            f"{path.name} fails its checks: {error}. Drop the contacts of this stream and stream "
            "again; if it fails again, start another export.",
            path=path,
            url=file.link.identity,
        )

    def _out_of_time(self) -> ExportExpiredError | ExportTimeoutError:
        export = self._straight.export
        if self._straight.expiry.at <= self._straight.deadline.at:
            return ExportExpiredError(
                f"The files of export {export.id} expired at {export.expires_at} before all of "
                "them had come. Start another export.",
                export_id=export.id,
                export=export,
            )
        return ExportTimeoutError(
            f"The timeout passed before every contact of export {export.id} had come. Drop those "
            "of this stream and stream again with more time, or download, which can be resumed.",
            export_id=export.id,
            export=export,
        )
