"""CSV as SendGrid writes it, fed in pieces of any size: every record a dict of its columns.

The dialect is RFC 4180's, read strictly by the standard library: what is no such CSV is an error,
never a guess. What is written just as SendGrid does it is read in a faster way, to the same rows.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from typing import Any

from sendgrid_exports.formats.quoted_csv import QuotedCsv
from sendgrid_exports.formats.records import HEADER_COLUMNS
from sendgrid_exports.formats.text import LONGEST_RECORD, BrokenTextError, Errors, WholeLines

__all__ = ["CsvRows", "split_values"]


def _own_csv() -> Any:
    # The limit of a field is one for the whole process, and not ours to set. Another instance
    # of the module has another one, and it is records that are limited here.
    spec = importlib.util.find_spec("_csv")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.field_size_limit(4 * LONGEST_RECORD)
    return module


_csv = _own_csv()


def split_values(text: str) -> list[str]:
    """Return the values of one record.

    Raises:
        ValueError: the text is no record, or several.
    """
    try:
        values, *more = _csv.reader(io.StringIO(text, "\n"), strict=True, skipinitialspace=True)
    except _csv.Error as error:
        raise ValueError(str(error)) from None
    if more:
        raise ValueError("expected one record")
    return list(values)


class CsvRows:
    """The rows of one CSV file.

    Args:
        columns: those of the file before, for one without a header.
        united: the columns each row shall have, if not just its own; absent ones are empty.
        errors: what to do with bytes that are no UTF-8.

    Attributes:
        columns: those of this file; while it has not begun, those of the file before.
        begun: whether its first record was read.
    """

    def __init__(
        self,
        *,
        columns: tuple[str, ...] | None = None,
        united: tuple[str, ...] | None = None,
        errors: Errors = "strict",
    ) -> None:
        self.columns = columns
        self._united = united
        self.begun = False
        self._quoted: QuotedCsv | None = None
        self._lines = WholeLines(errors)
        self._line = 1
        self._held: list[str] = []
        self._size = 0
        self._due = 0

    def feed(self, data: bytes) -> Iterator[dict[str, str]]:
        """Yield the rows that are whole by now; exhaust it.

        Raises:
            BrokenTextError: the bytes are no UTF-8, no CSV, or not that of contacts.
        """
        return self._take(self._lines.feed(data), last=False)

    def finish(self) -> Iterator[dict[str, str]]:
        """Yield the rows that are left.

        Raises:
            BrokenTextError: the last record is cut, or as for `feed`.
        """
        return self._take(self._lines.finish(), last=True)

    def _take(self, text: str, *, last: bool) -> Iterator[dict[str, str]]:
        self._held.append(text)
        self._size += len(text)
        # A record that was cut is read anew only when there is twice as much of it.
        if self._size <= self._due and not last:
            return
        text = "".join(self._held)
        if self._quoted and not last and (found := self._quoted.read(text)):
            rows, end = found
            yield from rows
            self._hold(text, end)
            return
        lines = io.StringIO(text, "\n")
        reader = _csv.reader(lines, strict=True)
        place = lines.tell
        end = 0
        try:
            if not self.begun and (row := self._begin(reader)):
                yield row
            columns = self.columns or ()
            width = len(columns)
            if self.begun and self._quoted is None:
                self._quoted = QuotedCsv(columns, self._united or columns)
            # Columns that other files alone have are there, and empty.
            blank = None if self._united in {None, columns} else dict.fromkeys(self._united, "")
            end = place()
            for record in reader:
                if len(record) == width:
                    row = dict(zip(columns, record))  # noqa: B905
                    yield row if blank is None else blank | row
                elif record:
                    raise BrokenTextError(
                        f"the record has {len(record)} values, and there are {width} columns",
                        self._line + text.count("\n", 0, end),
                    )
                end = place()
        except _csv.Error as error:
            if last or lines.read(1):
                raise BrokenTextError(
                    f"the record is no CSV ({error})", self._line + text.count("\n", 0, end)
                ) from None
        self._hold(text, end)

    def _hold(self, text: str, end: int) -> None:
        """Keep what follows the last whole record."""
        self._line += text.count("\n", 0, end)
        self._held = [text[end:]]
        self._size = len(text) - end
        self._due = min(2 * self._size, LONGEST_RECORD)
        if self._size > LONGEST_RECORD:
            raise BrokenTextError(
                f"the record has no end within {LONGEST_RECORD:,} characters, as if a quote were "
                "missing",
                self._line,
            )

    def _begin(self, reader: Any) -> dict[str, str] | None:
        """Take the first record; return it where it is no header."""
        record: list[str] | None = next(filter(None, reader), None)
        if record is None:
            return None
        line = self._line + reader.line_num - 1
        if set(record) >= HEADER_COLUMNS:
            if len(set(record)) < len(record):
                twice = next(name for name in record if record.count(name) > 1)
                raise BrokenTextError(f"two columns are called {twice!r}", line)
            self.columns = tuple(record)
            self.begun = True
            return None
        if self.columns is None or len(record) != len(self.columns):
            raise BrokenTextError(_what_is_there(record), line)
        self.begun = True
        return dict.fromkeys(self._united or self.columns, "") | dict(
            zip(self.columns, record, strict=True)
        )


def _what_is_there(record: list[str]) -> str:
    # Contacts are nobody's business but the caller's: only what is markup is quoted.
    beginning = ",".join(record).lstrip()
    seen = f"a record of {len(record)} values"
    if beginning.startswith("<"):
        seen = f"markup: {beginning[:40]!r}"
    elif beginning.startswith(("{", "[")):
        seen = "JSON"
    return (
        f"there should be the columns {' and '.join(sorted(HEADER_COLUMNS))}, and there is {seen}"
    )
