"""The contacts of an export straight from its links, without a disk: in batches, checked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from sendgrid_exports.contents.contacts import take
from sendgrid_exports.errors import CorruptDownloadError
from sendgrid_exports.events import FileFinished
from sendgrid_exports.formats.rows import BrokenTextError, Errors, Row, Rows
from sendgrid_exports.transfer.checks import Checked, CheckFailedError, Checks
from sendgrid_exports.transfer.file import File
from sendgrid_exports.transfer.manifest import downloaded, new_entry
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

    def take(self, steps: Iterator[None]) -> Iterator[Row]:
        """Yield the contacts that are whole after each of the `steps` that feed it; exhaust it."""
        for _ in steps:
            for row in self._whole():
                self._count += 1
                yield row

    def finish(self) -> int:
        """Make the last rows, and return how many contacts there were."""
        self.left = [*self._whole(), *self._rows.finish()]
        return self._count + len(self.left)

    def _whole(self) -> Iterator[Row]:
        text, self._text = self._text, []
        for data in text:
            yield from self._rows.feed(data)


class ContactStream:
    """The contacts of one export, while its files pass through.

    Args:
        stream: the files.
        batch_size: rows in a batch.
        errors: what to do with bytes that are not UTF-8.
    """

    def __init__(self, stream: FileStream, *, batch_size: int, errors: Errors) -> None:
        self._stream = stream
        self._transfer = stream.transfer
        self._transfer.kept = lambda: "what was yielded is incomplete"
        self._transfer.advice = (
            "drop it and stream again with more time, or download, which can be resumed"
        )
        self._disk = stream.transfer.means.disk
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
            try:
                async with aclosing(self._parts(file, rows)) as parts:
                    async for part in parts:
                        while more := await take(part, self._size - len(batch), self._disk):
                            batch += more
                            if len(batch) == self._size:
                                yield batch
                                batch = []
            except BrokenTextError as error:
                raise self._corrupt(file, CheckFailedError(str(error))) from None
            except CheckFailedError as error:
                raise self._corrupt(file, error) from None
            columns = rows.columns
        if batch:
            yield batch

    async def _parts(self, file: File, rows: Rows) -> AsyncGenerator[Iterator[Row], None]:
        """Yield the contacts of a file in parts, each to be exhausted in a thread.

        Raises:
            CheckFailedError, BrokenTextError: what came is not an export; so do the parts.
        """
        sink = _RowSink(rows)
        checks: Checks | None = None
        async with aclosing(self._stream.blocks(file)) as blocks:
            async for block in blocks:
                # What the storage announced is known only once it has answered.
                checks = checks or self._checks(file, sink)
                yield sink.take(checks.take(bytes(block)))
        checked = await self._disk.run((checks or self._checks(file, sink)).finish)
        yield iter(sink.left)
        self._finished(file, checked)

    def _checks(self, file: File, sink: _RowSink) -> Checks:
        verify = self._transfer.means.policy.verify
        return Checks(verify, file.copy.expected, lambda _: sink, first=file.number == 1)

    def _finished(self, file: File, checked: Checked) -> None:
        self._contacts += checked.contacts or 0
        path = self._stream.path(file, checked.kind)
        entry = new_entry(
            file.number,
            path.name,
            checked,
            version=file.copy.version,
            verify=self._transfer.means.policy.verify,
        )
        finished = downloaded(entry, url=file.link.identity, path=path)
        self._transfer.on_event(FileFinished(export_id=self._transfer.export_id, file=finished))

    def _corrupt(self, file: File, error: CheckFailedError) -> CorruptDownloadError:
        path = self._stream.path(file)
        return CorruptDownloadError(
            f"{path.name} fails its checks: {error}. Drop the contacts of this stream and stream "
            f"again. If it fails once more: {error.advice}",
            path=path,
            url=file.link.identity,
        )
