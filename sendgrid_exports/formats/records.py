"""Counting the contacts in CSV and NDJSON that is fed in blocks of any size.

Records are counted, not lines: a quoted value may hold line feeds (RFC 4180 §2). A line feed ends
a record if the number of quotes before it is even, since an escaped quote is two.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import Protocol

from sendgrid_exports.formats.kinds import HEADER_COLUMNS, first_record, is_enough

__all__ = ["CsvCounter", "NdjsonCounter", "RecordCounter", "record_counter", "record_end"]

_NEITHER_QUOTE_NOR_LINE_FEED = bytes(set(range(256)) - set(b'"\n'))
_EMPTY_LINES = re.compile(rb"\n[\r\n]*\n")
_TWO_BYTES = b"\n\r"
_RECORD_END = _TWO_BYTES.decode("utf-16-le")


class RecordCounter(Protocol):
    """Counts the contacts in what it is fed."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the plain text."""
        ...

    def finish(self) -> int | None:
        """Return how many contacts there were, or None if they can't be counted."""
        ...


def record_counter(kind: str) -> RecordCounter:
    """Return a counter for `csv` or `json`."""
    return NdjsonCounter() if kind == "json" else CsvCounter()


class CsvCounter:
    """Counts the records of a CSV file without its header, which is known by its columns.

    Lines that are empty, or have nothing but carriage returns, are not records.
    """

    def __init__(self) -> None:
        self._first: bytes | None = b""
        self._has_header = False
        self._records = 0
        self._quoted = False
        self._filled = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the plain text."""
        if self._first is None:
            self._count(data)
            return
        self._first += data
        if is_enough(self._first):
            self._end_first(self._first)

    def finish(self) -> int | None:
        """Return how many contacts there were, or None after a quote that never ended."""
        if self._first is not None:
            self._end_first(self._first)
        return None if self._quoted else self._records + self._filled - self._has_header

    def _end_first(self, text: bytes) -> None:
        self._first = None
        # Whether every file of a split export repeats the header is not documented.
        self._has_header = set(first_record(text)) >= HEADER_COLUMNS
        self._count(text.removeprefix(BOM_UTF8))

    def _count(self, data: bytes) -> None:
        # Taken in pairs of bytes, the order of quotes and line feeds shows which line feeds have an
        # even number of quotes before them, if a line feed is two bytes: an odd number shifts it.
        order = data.translate(None, _NEITHER_QUOTE_NOR_LINE_FEED).replace(b"\n", _TWO_BYTES)
        if self._quoted:
            order = b'"' + order
        quoted = len(order) % 2 == 1
        pairs = (order + b'"' if quoted else order).decode("utf-16-le")
        if b"\n" in data:
            self._filled = self._filled or _is_filled(data[: data.index(b"\n")])
            self._records += pairs.count(_RECORD_END) - (not self._filled)
            if _RECORD_END * 2 in pairs:
                # A line without quotes between two records: it may be empty.
                self._records -= self._count_empty(data)
            self._filled = False
            data = data[data.rindex(b"\n") + 1 :]
        self._quoted = quoted
        self._filled = quoted or self._filled or _is_filled(data)

    def _count_empty(self, data: bytes) -> int:
        """Return how many records between the first line feed and the last are empty lines."""
        empty, quotes, end = 0, int(self._quoted), 0
        for lines in _EMPTY_LINES.finditer(data):
            quotes += data.count(b'"', end, lines.start())
            end = lines.end()
            if quotes % 2 == 0:
                empty += data.count(b"\n", lines.start(), end) - 1
        return empty


class NdjsonCounter:
    """Counts the lines of newline-delimited JSON that are not blank."""

    def __init__(self) -> None:
        self._first: bytes | None = b""
        self._records = 0
        self._filled = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the plain text."""
        if self._first is not None:
            data = self._first + data
            if len(data) < len(BOM_UTF8):
                self._first = data
                return
            self._first = None
            data = data.removeprefix(BOM_UTF8)
        first, *lines = data.split(b"\n")
        self._filled = self._filled or not _is_blank(first)
        if lines:
            *whole, rest = lines
            self._records += self._filled + sum(map(bool, map(bytes.strip, whole)))
            self._filled = not _is_blank(rest)

    def finish(self) -> int:
        """Return how many contacts there were."""
        return self._records + (self._filled or not _is_blank(self._first or b""))


def _is_filled(line: bytes) -> bool:
    return line.strip(b"\r") != b""


def _is_blank(line: bytes) -> bool:
    return not line.strip()


def record_end(data: bytes, *, quoted: bool = False) -> int:
    """Return where the last whole CSV record in `data` ends, or 0.

    A record ends with a line feed that has an even number of quotes before it (RFC 4180 §2).

    Args:
        data: bytes from anywhere within a text.
        quoted: whether `data` begins inside a quoted value.
    """
    inside = quoted ^ (data.count(b'"') & 1)
    end = len(data)
    while True:
        if inside:
            end = data.rfind(b'"', 0, end)
        place = data.rfind(b"\n", 0, max(end, 0))
        if place < 0:
            return 0
        inside = data.count(b'"', place, end) & 1
        if not inside:
            return place + 1
        end = place
