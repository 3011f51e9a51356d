"""Counting the contacts in CSV and NDJSON that is fed in pieces of any size.

Records are counted, not lines: a quoted value may hold line breaks (RFC 4180 §2). Inside or
outside of quotes is only a matter of how many quotes came before, since an escaped one is two.
"""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF8
from typing import Protocol

__all__ = ["HEADER_COLUMNS", "CsvCounter", "NdjsonCounter", "RecordCounter", "record_counter"]

# Nothing is lost without them: outside of quotes they are no records, inside no end of one.
_EMPTY_LINES = re.compile(rb"\n(?:\r*\n)+")
_NEITHER_QUOTE_NOR_LINE_FEED = bytes(set(range(256)) - set(b'"\n'))
_LONGEST_HEADER = 1024 * 1024
HEADER_COLUMNS = {"CONTACT_ID", "EMAIL"}


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


class _Mark:
    """Takes the byte order mark off a stream's beginning, however it is cut."""

    def __init__(self) -> None:
        self._held: bytes | None = b""

    def strip(self, data: bytes) -> bytes:
        if self._held is None:
            return data
        data = self._held + data
        if len(data) < len(BOM_UTF8) and BOM_UTF8.startswith(data):
            self._held = data
            return b""
        self._held = None
        return data.removeprefix(BOM_UTF8)


class CsvCounter:
    """Counts the records of a CSV file; a header, known by its columns, is none.

    Each line feed outside of quotes begins a record, as if one stood before the first; empty
    lines are left out. So nothing else matters than the order of quotes and line feeds.
    """

    def __init__(self) -> None:
        self._mark = _Mark()
        self._records = 0
        self._quoted = False
        self._line_ends = b"\n"
        self._first: bytes | None = b""
        self._has_header = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the plain text."""
        data = self._line_ends + self._mark.strip(data)
        filled = data.rstrip(b"\r\n")
        # Whether they begin a record shows only when something follows.
        self._line_ends = b"\n" if b"\n" in data[len(filled) :] else b""
        if not filled:
            return
        filled = _EMPTY_LINES.sub(b"\n", filled)
        order = filled.translate(None, _NEITHER_QUOTE_NOR_LINE_FEED).replace(b'""', b"")
        parts = order.split(b'"')
        self._records += sum(map(len, parts[self._quoted :: 2]))
        self._quoted ^= not len(parts) & 1
        if self._first is not None:
            self._first += filled
            if self._records > 1 or len(self._first) > _LONGEST_HEADER:
                self._end_first(self._first)

    def finish(self) -> int | None:
        """Return how many contacts there were, or None after a quote that never ended."""
        if self._quoted:
            return None
        if self._first:
            self._end_first(self._first)
        return self._records - self._has_header

    def _end_first(self, text: bytes) -> None:
        self._has_header = _begins_with_header(text[1:])
        self._first = None


def _begins_with_header(data: bytes) -> bool:
    # Whether every part of a split export repeats the header is not documented.
    text = data.decode("utf-8-sig", "replace")
    try:
        columns = next(csv.reader(io.StringIO(text, newline="")), [])
    except csv.Error:
        return False
    return set(columns) >= HEADER_COLUMNS


class NdjsonCounter:
    """Counts the lines of newline-delimited JSON that hold anything."""

    def __init__(self) -> None:
        self._mark = _Mark()
        self._records = 0
        self._filled = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the plain text."""
        data = _EMPTY_LINES.sub(b"\n", self._mark.strip(data))
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._records += self._filled or bool(line.strip())
            self._filled = False
        self._filled = self._filled or bool(rest.strip())

    def finish(self) -> int | None:
        """Return how many contacts there were."""
        return self._records + self._filled


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
