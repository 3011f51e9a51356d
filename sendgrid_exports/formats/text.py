"""Whole lines of UTF-8 text out of bytes that are fed in pieces of any size."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Literal

__all__ = ["LONGEST_RECORD", "BrokenTextError", "Errors", "WholeLines"]

Errors = Literal["strict", "replace"]

LONGEST_RECORD = 16 * 1024 * 1024
"""Bytes or characters of one record: hundreds of times what SendGrid lets a contact have."""


class BrokenTextError(ValueError):
    """The bytes are not the text they should be.

    Attributes:
        line: the line it shows in, from 1.
        column: the character of that line, from 1, or None.
    """

    def __init__(self, reason: str, line: int, column: int | None = None) -> None:
        place = f"line {line}" if column is None else f"line {line}, column {column}"
        super().__init__(f"{place}: {reason}")
        self.line = line
        self.column = column


class WholeLines:
    """The lines of a text; a byte order mark at its beginning is none of it.

    Args:
        errors: what to do with bytes that are no UTF-8: `strict`, or `replace` by U+FFFD.
    """

    def __init__(self, errors: Errors) -> None:
        self._errors = errors
        self._begun = False
        self._held: list[bytes] = []
        self._size = 0
        self._line = 1

    def feed(self, data: bytes) -> str:
        """Return the lines that are whole by now, each with its line feed.

        Raises:
            BrokenTextError: they are not UTF-8, or one is longer than any contact can be.
        """
        end = data.rfind(b"\n") + 1
        whole = b"".join([*self._held, data[:end]]) if end else b""
        rest = data[end:]
        if end:
            self._held.clear()
            self._size = 0
        if rest:
            self._held.append(rest)
            self._size += len(rest)
        if self._size > LONGEST_RECORD:
            raise BrokenTextError(
                f"it is longer than {LONGEST_RECORD:,} bytes", self._line + whole.count(b"\n")
            )
        return self._decode(whole)

    def finish(self) -> str:
        """Return what stands after the last line feed.

        Raises:
            BrokenTextError: it is not UTF-8.
        """
        return self._decode(b"".join(self._held))

    def _decode(self, data: bytes) -> str:
        if data and not self._begun:
            self._begun = True
            data = data.removeprefix(BOM_UTF8)
        try:
            text = data.decode("utf-8", self._errors)
        except UnicodeDecodeError as error:
            before = data[: error.start]
            column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
            raise BrokenTextError(
                f"{data[error.start : error.end]!r} is not UTF-8",
                self._line + before.count(b"\n"),
                column,
            ) from None
        self._line += data.count(b"\n")
        return text
