"""Contacts as dicts out of CSV or NDJSON that is fed in pieces of any size.

What a text is shows in its first character: NDJSON begins with a brace, everything else is CSV.
Both are read strictly, by the standard library: other text is an error, never a guess.
"""

from __future__ import annotations

import csv
import io
import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, repeat
from operator import or_
from typing import Any, Literal, TypeAlias

from sendgrid_exports.formats.kinds import HEADER_COLUMNS
from sendgrid_exports.formats.records import record_end
from sendgrid_exports.redaction import redact_text

__all__ = [
    "LONGEST_RECORD",
    "BrokenTextError",
    "Errors",
    "Row",
    "Rows",
    "distinct_names",
    "split_values",
]

Row: TypeAlias = dict[str, Any]
Errors: TypeAlias = Literal["strict", "replace"]

LONGEST_RECORD = 16 * 1024 * 1024
"""Bytes of one record: hundreds of times what SendGrid lets a contact have."""

# The rows made of this much text stay in the processor's cache.
_STEP = 32 * 1024
_BLANK = BOM_UTF8 + b" \t\r\n"


class BrokenTextError(ValueError):
    """The text is not one of contacts; the message has the line, from 1."""

    def __init__(self, reason: str, line: int, column: int | None = None) -> None:
        place = f"line {line}" if column is None else f"line {line}, column {column}"
        super().__init__(f"{place}: {reason}")


def distinct_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of columns, each of them once.

    The first column of a name keeps it. The second one is called `NAME (2)`, or has the next
    number that gives a name no column has: SendGrid allows neither spaces nor parentheses in the
    name of a custom field.
    https://www.twilio.com/docs/sendgrid/api-reference/custom-fields/create-custom-field-definition
    """
    every = list(names)
    taken = set(every)
    found: dict[str, None] = {}
    for name in every:
        if name in found:
            name = next(new for n in count(2) if (new := f"{name} ({n})") not in taken)
            taken.add(name)
        found[name] = None
    return tuple(found)


def split_values(text: str) -> list[str]:
    """Return the values of one record.

    Raises:
        ValueError: the text is not a record, or more than one.
    """
    try:
        values, *more = csv.reader(io.StringIO(text, "\n"), strict=True, skipinitialspace=True)
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if more:
        raise ValueError("expected one record")
    return values


class Rows:
    """The contacts of one file; memory is bounded by the longest record.

    Args:
        columns: those of the file before, for CSV without a header.
        united: the columns that each row of CSV has, if not only its file's own; those that its
            file lacks are empty.
        errors: what to do with bytes that are not UTF-8: `strict` raises an error, `replace`
            puts U+FFFD.

    Attributes:
        kind: `csv` or `json`, once the text has begun.
        columns: those of this file, once known; before that, those of the file before.
        begun: whether the columns of CSV are known, or the text is NDJSON.
        start: how many bytes stand before the first contact of CSV, once begun.
    """

    def __init__(
        self,
        *,
        columns: tuple[str, ...] | None = None,
        united: tuple[str, ...] | None = None,
        errors: Errors = "strict",
    ) -> None:
        self.kind: Literal["csv", "json"] | None = None
        self.columns = columns
        self.begun = False
        self.start = 0
        self._united = united
        self._errors: Errors = errors
        self._fed = False
        self._line = 1
        self._held: list[bytes] = []
        self._size = 0
        self._quoted = False

    def feed(self, data: bytes) -> Iterator[Row]:
        """Yield the contacts that are whole by now; exhaust it.

        Raises:
            BrokenTextError: it is not UTF-8, not CSV or NDJSON, or not a text of contacts.
        """
        steps = (data[start : start + _STEP] for start in range(0, len(data), _STEP))
        return chain.from_iterable(map(self._step, steps))

    def finish(self) -> Iterator[Row]:
        """Yield the contact that no line feed ended.

        Raises:
            BrokenTextError: it is cut, or as for `feed`.
        """
        return iter(self._read(b"".join(self._held) if self.kind else b""))

    def _step(self, data: bytes) -> Iterable[Row]:
        if self.kind is None:
            data = b"".join([*self._held, data])
            self._held.clear()
            self._size = 0
            if beginning := data.lstrip(_BLANK):
                self.kind = "json" if beginning.startswith(b"{") else "csv"
        if self.kind == "csv":
            end = record_end(data, quoted=self._quoted)
        else:
            end = data.rfind(b"\n") + 1 if self.kind else 0
        whole = b"".join([*self._held, data[:end]]) if end else b""
        if end:
            self._held.clear()
            self._size = 0
            self._quoted = False
        rest = data[end:]
        self._held.append(rest)
        self._size += len(rest)
        self._quoted ^= rest.count(b'"') % 2 == 1
        if self._size > LONGEST_RECORD:
            raise BrokenTextError(
                f"the record has no end within {LONGEST_RECORD:,} bytes; a quote may be missing",
                self._line + whole.count(b"\n"),
            )
        return self._read(whole)

    def _read(self, data: bytes) -> Iterable[Row]:
        """Return the contacts of a text of whole records."""
        if not data:
            return ()
        size = len(data)
        if not self._fed:
            self._fed = True
            data = data.removeprefix(BOM_UTF8)
        text = self._decode(data)
        if self.kind == "csv" and not self.begun:
            text = self._begin(text)
            self.start += size - len(text.encode())
        line = self._line
        self._line += text.count("\n")
        return self._read_json(text, line) if self.kind == "json" else self._read_csv(text, line)

    def _decode(self, data: bytes) -> str:
        try:
            return data.decode("utf-8", self._errors)
        except UnicodeDecodeError as error:
            before = data[: error.start]
            column = len(before[before.rfind(b"\n") + 1 :].decode()) + 1
            raise BrokenTextError(
                f"{data[error.start : error.end]!r} is not UTF-8",
                self._line + before.count(b"\n"),
                column,
            ) from None

    def _begin(self, text: str) -> str:
        """Take the header off, if there is one; return the rest."""
        lines = io.StringIO(text, "\n")
        reader = csv.reader(lines, strict=True)
        try:
            record: list[str] | None = next(filter(None, reader), None)
        except csv.Error as error:
            raise _not_csv(error, self._line) from None
        if record is None:
            self._line += text.count("\n")
            return ""
        if set(record) >= HEADER_COLUMNS:
            self.begun = True
            self.columns = distinct_names(record)
            self._line += reader.line_num
            return lines.read()
        if self.columns is None or len(record) != len(self.columns):
            raise BrokenTextError(_describe_record(record), self._line + reader.line_num - 1)
        self.begun = True
        return text

    def _read_csv(self, text: str, line: int) -> Iterator[Row]:
        columns = self.columns or ()
        try:
            records = [*filter(None, csv.reader(io.StringIO(text, "\n"), strict=True))]
        except csv.Error:
            records = []
            broken = True
        else:
            broken = not {*map(len, records)} <= {len(columns)}
        rows: Iterator[Row] = map(dict, map(zip, repeat(columns), records))
        if broken:
            rows = _read_one_by_one(text, columns, line)
        if self._united in {None, columns}:
            return rows
        return map(or_, repeat(dict.fromkeys(self._united, "")), rows)

    def _read_json(self, text: str, first: int) -> Iterator[Row]:
        for line, source in enumerate(text.split("\n"), first):
            if not source.strip(" \t\r"):
                continue
            try:
                row = json.loads(source)
            except (ValueError, RecursionError) as error:
                column = error.colno if isinstance(error, json.JSONDecodeError) else None
                raise BrokenTextError(
                    f"expected a JSON object, found {_describe(source, 'broken JSON')}",
                    line,
                    column,
                ) from None
            if not isinstance(row, dict):
                raise BrokenTextError("expected a JSON object, found other JSON", line)
            if not self.begun and HEADER_COLUMNS.isdisjoint(map(str.upper, row)):
                raise BrokenTextError(_describe_object(row), line)
            self.begun = True
            yield row


def _read_one_by_one(text: str, columns: Sequence[str], line: int) -> Iterator[Row]:
    """Yield the contacts that stand before something broken, and say where that is."""
    reader = csv.reader(io.StringIO(text, "\n"), strict=True)
    start = line
    try:
        # The text is broken, so the loop ends with an error.
        for record in reader:  # pragma: no branch
            if record and len(record) != len(columns):
                raise BrokenTextError(
                    f"the record has {len(record)} values for {len(columns)} columns", start
                )
            if record:
                yield dict(zip(columns, record, strict=True))
            start = line + reader.line_num
    except csv.Error as error:
        raise _not_csv(error, start) from None


def _not_csv(error: csv.Error, line: int) -> BrokenTextError:
    return BrokenTextError(f"the record is not CSV ({error})", line)


# A contact is not quoted in an error: it may end in a log. Only what can't be one is.


def _describe_record(record: Sequence[str]) -> str:
    seen = _describe(",".join(record), "JSON", f"a record of {len(record)} values")
    names = " and ".join(sorted(HEADER_COLUMNS))
    return f"expected a CSV header with {names}, or JSON lines, found {seen}"


def _describe_object(row: Row) -> str:
    seen = "an object without either"
    for name in ("errors", "error"):
        if name in row:
            seen = redact_text(f"an error: {json.dumps(row[name], ensure_ascii=False)[:200]}")
    return f"expected a contact with contact_id or email, found {seen}"


def _describe(text: str, json_text: str, otherwise: str = "other text") -> str:
    beginning = text.lstrip()
    if beginning.startswith("<"):
        return f"markup: {beginning[:40]!r}"
    return json_text if beginning.startswith(("{", "[")) else otherwise
