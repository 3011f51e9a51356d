"""Newline-delimited JSON as SendGrid writes it, fed in pieces of any size: an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sendgrid_exports.formats.text import BrokenTextError, Errors, WholeLines

__all__ = ["NdjsonRows"]

_BLANK = " \t\r"


class NdjsonRows:
    """The objects of one NDJSON file.

    Args:
        columns: those of a CSV file before it; kept for one after it.
        errors: what to do with bytes that are no UTF-8.
    """

    def __init__(
        self, *, columns: tuple[str, ...] | None = None, errors: Errors = "strict"
    ) -> None:
        self.columns = columns
        self._lines = WholeLines(errors)
        self._line = 1

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the objects of the lines that are whole by now; exhaust it.

        Raises:
            BrokenTextError: the bytes are no UTF-8, or a line is no JSON object.
        """
        return self._read(self._lines.feed(data))

    def finish(self) -> Iterator[dict[str, Any]]:
        """Yield the object of a last line that no line feed ended.

        Raises:
            BrokenTextError: as for `feed`.
        """
        return self._read(self._lines.finish())

    def _read(self, text: str) -> Iterator[dict[str, Any]]:
        lines = text.split("\n")
        for place, line in enumerate(lines):
            if not line.strip(_BLANK):
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                column = error.colno if isinstance(error, json.JSONDecodeError) else None
                raise BrokenTextError(_what_is_there(line), self._line + place, column) from None
            if not isinstance(row, dict):
                raise BrokenTextError(_what_is_there(line), self._line + place)
            yield row
        self._line += len(lines) - 1


def _what_is_there(line: str) -> str:
    # Contacts are nobody's business but the caller's: only what is markup is quoted.
    beginning = line.lstrip()
    seen = "another value" if beginning.startswith("[") else "text that is none"
    if beginning.startswith("<"):
        seen = f"markup: {beginning[:40]!r}"
    return f"there should be a JSON object, and there is {seen}"
