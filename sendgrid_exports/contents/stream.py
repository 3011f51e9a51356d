"""The contacts of an export straight from its links, without a disk: in batches, checked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from sendgrid_exports.contents.contacts import take
from sendgrid_exports.disk import Disk
from sendgrid_exports.errors import CorruptDownloadError
from sendgrid_exports.events import FileFinished
from sendgrid_exports.formats.kinds import Kind
from sendgrid_exports.formats.rows import BrokenTextError, Errors, Row, Rows
from sendgrid_exports.models import DownloadedFile
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.checks import Checked, CheckFailedError, Checks
from sendgrid_exports.transfer.file import File
from sendgrid_exports.transfer.stream import FileStream


class _RowSink:
    """Takes the plain text of a file, and makes rows of it when they are taken.

    Attributes:
        left: the rows that were not taken when the text ended.
    """

    def __init__(self, rows: Rows) -> None:
        self.left: list[Row] = []
        self._rows = rows
        self._text: list[bytes] = []
        self._count = 0

    def feed(self, data: bytes) -> None:
        self._text.append(data)

    def take(self) -> Iterator[Row]:
        """Yield the contacts that are whole by now."""
        text, self._text = self._text, []
        for data in text:
            for row in self._rows.feed(data):
                self._count += 1
                yield row

    def finish(self) -> int:
        """Make the last rows, and return how many contacts there were."""
        self.left = list(self.take())
        last = list(self._rows.finish())
        self.left += last
        return self._count + len(last)


class _CheckedRows:
    """The contacts of one file that is fed from its first byte to its last. Blocking.

    Attributes:
        checked: which checks the file passed, once it is finished.
    """

    def __init__(self, file: File, rows: Rows, verify: Verify) -> None:
        self.checked: Checked | None = None
        self._file = file
        self._verify = verify
        self._sink = _RowSink(rows)
        self._checks: Checks | None = None

    def feed(self, data: bytes) -> Iterator[Row]:
        """Yield the contacts that are whole by now; exhaust it.

        Raises:
            CheckFailedError: the bytes are broken gzip, or not a text of contacts.
        """
        try:
            for _ in self._begun().take(data):
                yield from self._sink.take()
        except BrokenTextError as error:
            raise CheckFailedError(str(error)) from None

    def finish(self) -> Iterator[Row]:
        """Yield the contacts that are left, once the file has passed its checks.

        Raises:
            CheckFailedError: a check failed, or as for `feed`.
        """
        try:
            self.checked = self._begun().finish()
        except BrokenTextError as error:
            raise CheckFailedError(str(error)) from None
        yield from self._sink.left

    def _begun(self) -> Checks:
        # What the storage announced is known only once it has answered.
        if self._checks is None:
            self._checks = Checks(
                self._verify,
                self._file.copy.expected,
                self._sink_of,
                first=self._file.number == 1,
            )
        return self._checks

    def _sink_of(self, kind: Kind) -> _RowSink:
        return self._sink


class ContactStream:
    """The contacts of one export, while its files pass through.

    Args:
        stream: the files.
        disk: the thread that makes rows.
        batch_size: rows in a batch.
        errors: what to do with bytes that are not UTF-8.
    """

    def __init__(self, stream: FileStream, *, disk: Disk, batch_size: int, errors: Errors) -> None:
        self._stream = stream
        self._transfer = stream.transfer
        self._transfer.kept = lambda: "what was yielded is incomplete"
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
            SendGridExportsError: a file can't be downloaded, or fails its checks.
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
            rows = Rows(columns=columns, errors=self._errors)
            checked = _CheckedRows(file, rows, self._transfer.means.policy.verify)
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

    async def _read(self, file: File, rows: _CheckedRows) -> AsyncGenerator[Iterator[Row], None]:
        """Yield the contacts of a file in parts, each to be exhausted in a thread."""
        async with aclosing(self._stream.blocks(file)) as blocks:
            async for block in blocks:
                yield rows.feed(bytes(block))
        yield rows.finish()

    def _finished(self, file: File, checked: Checked | None) -> None:
        assert checked is not None
        self._contacts += checked.contacts or 0
        version = file.copy.version
        finished = DownloadedFile(
            number=file.number,
            url=file.link.identity,
            path=self._stream.path(file, checked.kind),
            size=checked.size,
            sha256=checked.sha256,
            etag=version.etag.strip('"') if version else None,
            compressed=checked.compressed,
            verified_by=checked.verified_by,
        )
        self._transfer.on_event(FileFinished(export_id=self._transfer.export_id, file=finished))

    def _corrupt(self, file: File, error: CheckFailedError) -> CorruptDownloadError:
        path = self._stream.path(file)
        return CorruptDownloadError(
            f"{path.name} fails its checks: {error}. Drop the contacts of this stream and stream "
            f"again. If it fails once more: {error.advice}",
            path=path,
            url=file.link.identity,
        )
