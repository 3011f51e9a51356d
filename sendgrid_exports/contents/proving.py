"""One file on its way from raw bytes to rows, proved as it goes. It blocks: for threads."""

from __future__ import annotations

from collections.abc import Iterator

from sendgrid_exports.contents.rows import Row, row_decoder, steps
from sendgrid_exports.formats.csv_rows import CsvRows
from sendgrid_exports.formats.kinds import Kind
from sendgrid_exports.formats.ndjson_rows import NdjsonRows
from sendgrid_exports.formats.records import RecordCounter
from sendgrid_exports.formats.text import BrokenTextError, Errors
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.checks import Checked, CheckFailedError, Checks
from sendgrid_exports.transfer.file import File

__all__ = ["ProvedRows"]


class ProvedRows:
    """The rows of a file that comes straight from its link, fed from its first byte to its last.

    Attributes:
        columns: those of a CSV file, once known.
        checked: what the checks found, once it is finished.
    """

    def __init__(
        self,
        file: File,
        *,
        columns: tuple[str, ...] | None,
        errors: Errors,
        verify: Verify,
    ) -> None:
        self.columns = columns
        self._errors: Errors = errors
        self._file = file
        self._verify = verify
        self._checks: Checks | None = None
        self._rows: _RowSink | None = None
        self.checked: Checked | None = None

    def feed(self, data: bytes) -> Iterator[Row]:
        """Yield the rows that are whole by now; exhaust it.

        Raises:
            CheckFailedError: it is broken gzip, or not text of contacts.
        """
        try:
            for _ in self._begun().take(data):
                if self._rows is not None:
                    yield from self._rows.take()
                    self.columns = self._rows.decoder.columns
        except BrokenTextError as error:
            raise CheckFailedError(str(error)) from None

    def finish(self) -> Iterator[Row]:
        """Yield the rows that are left, once everything is checked.

        Raises:
            CheckFailedError: it is not what was announced, or as for `feed`.
        """
        try:
            self.checked = self._begun().finish()
        except BrokenTextError as error:
            raise CheckFailedError(str(error)) from None
        if self._rows is not None:
            self.columns = self._rows.decoder.columns
            yield from self._rows.left

    def _begun(self) -> Checks:
        # What is to be expected is known only once something came.
        if self._checks is None:
            first = self._file.number == 1
            self._checks = Checks(self._verify, self._file.copy.expected, self._sink, first=first)
        return self._checks

    def _sink(self, kind: Kind) -> RecordCounter:
        self._rows = _RowSink(row_decoder(kind, columns=self.columns, errors=self._errors))
        return self._rows


class _RowSink:
    """Makes rows of plain text when they are taken, and counts them.

    Attributes:
        left: the rows that are not taken when the text ends.
    """

    def __init__(self, decoder: CsvRows | NdjsonRows) -> None:
        self.decoder = decoder
        self.left: list[Row] = []
        self._plain: list[bytes] = []
        self._contacts = 0

    def feed(self, data: bytes) -> None:
        self._plain.append(data)

    def take(self) -> Iterator[Row]:
        plain, self._plain = b"".join(self._plain), []
        for data in steps(plain):
            for row in self.decoder.feed(data):
                self._contacts += 1
                yield row

    def finish(self) -> int:
        self.left = [*self.take(), *(last := list(self.decoder.finish()))]
        return self._contacts + len(last)
