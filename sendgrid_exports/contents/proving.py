"""One file on its way from raw bytes to rows, proved as it goes. It blocks: for threads."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from sendgrid_exports.contents.rows import Row, row_decoder, steps
from sendgrid_exports.formats.gunzip import BrokenGzipError, PlainText
from sendgrid_exports.formats.text import BrokenTextError, Errors
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.file import File
from sendgrid_exports.transfer.verify import Checked, CheckFailedError, Checks

__all__ = ["ProvedRows"]


class ProvedRows:
    """The rows of a file that comes straight from its link, fed from its first byte to its last.

    Attributes:
        checked: what was proved, once it is finished.
    """

    def __init__(
        self,
        file: File,
        *,
        columns: tuple[str, ...] | None,
        errors: Errors,
        verify: Verify,
    ) -> None:
        self._file = file
        # What it holds is read here anyway, and need not be inflated and counted once more.
        self._verify = Verify.CHECKSUM if verify is Verify.CONTENTS else verify
        self._checks: Checks | None = None
        self._plain = PlainText()
        self._rows = row_decoder(file.link.kind, columns=columns, errors=errors)
        self._contacts = 0
        self.checked: Checked | None = None

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns of a CSV file, once known."""
        return self._rows.columns

    def feed(self, data: bytes) -> Iterator[Row]:
        """Yield the rows that are whole by now; exhaust it.

        Raises:
            CheckFailedError: it is broken gzip, or no text of contacts.
        """
        self._begun().feed(data)
        try:
            for plain in self._plain.feed(data):
                yield from self._read(plain)
        except (BrokenGzipError, BrokenTextError) as error:
            raise CheckFailedError(str(error)) from None

    def finish(self) -> Iterator[Row]:
        """Yield the rows that are left, once everything is proved.

        Raises:
            CheckFailedError: it is not what was announced, or as for `feed`.
        """
        checked = self._begun().finish()
        try:
            for plain in self._plain.finish():
                yield from self._read(plain)
            for row in self._rows.finish():
                self._contacts += 1
                yield row
        except (BrokenGzipError, BrokenTextError) as error:
            raise CheckFailedError(str(error)) from None
        passed = (*checked.verified_by, *(("gzip-crc",) if self._plain.compressed else ()))
        self.checked = attrs.evolve(checked, contacts=self._contacts, verified_by=passed)

    def _begun(self) -> Checks:
        # What is to be expected is known only once something came.
        if self._checks is None:
            self._checks = Checks(self._verify, self._file.copy.expected, self._file.link.kind)
        return self._checks

    def _read(self, plain: bytes) -> Iterator[Row]:
        for data in steps(plain):
            for row in self._rows.feed(data):
                self._contacts += 1
                yield row
