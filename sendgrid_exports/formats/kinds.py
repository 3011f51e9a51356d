"""What a file of an export is, by the first bytes of its plain text: contacts, or something else.

The storage, a proxy or a login wall may answer 200 with a page, an error document or another text.
Its length and checksums are right, so only its contents tell. Two forms are contacts: CSV that
begins with a header, and an object with a contact's fields on each line.
"""

from __future__ import annotations

import csv
import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Literal, TypeAlias

from sendgrid_exports.redaction import redact_page, redact_text

__all__ = [
    "BEGINNING",
    "HEADER_COLUMNS",
    "Kind",
    "NotAnExportError",
    "first_record",
    "is_enough",
    "recognise",
]

Kind: TypeAlias = Literal["csv", "json"]

BEGINNING = 64 * 1024
"""So many bytes of plain text always tell what a file is."""

HEADER_COLUMNS = {"CONTACT_ID", "EMAIL"}
"""The columns that every CSV export has."""

_BLANK = b" \t\r\n"
_OPEN = r'"[^"]*+(?:""[^"]*+)*+'
_VALUE = rf'(?:{_OPEN}")?'
# The end of a text that is too long may be missing.
_QUOTED_ROW = re.compile(rf"{_VALUE}(?:,{_VALUE})*(?:{_OPEN}\Z|(?=[\r\n]|\Z))")
_LONG_OBJECT = re.compile(r'\{\s*"(?!errors?")')
_ERRORS = ("errors", "error", "message", "code")


class NotAnExportError(ValueError):
    """The text can't be one of contacts; the message says what it is instead."""


def is_enough(beginning: bytes) -> bool:
    """Whether `beginning` tells what a file is: it holds the first record, or `BEGINNING` bytes."""
    if len(beginning) >= BEGINNING:
        return True
    line, line_feed, _ = beginning.removeprefix(BOM_UTF8).lstrip(_BLANK).partition(b"\n")
    # A name of a column may hold a line feed, and an object does not.
    return bool(line_feed) and (line.startswith(b"{") or line.count(b'"') % 2 == 0)


def recognise(beginning: bytes, *, first: bool = True, whole: bool = False) -> Kind | None:
    """Return what a file is by the beginning of its plain text, or None if there is no text.

    Whether the later files of a split CSV export repeat the header is not documented. Where they
    don't, they begin with a row as SendGrid writes it: each value is quoted, or empty without
    quotes. Other text does not look like that.

    Args:
        beginning: bytes that are enough, or all there are.
        first: whether it is the export's first file, which has a header if it is CSV.
        whole: whether the text ends with `beginning`.

    Raises:
        NotAnExportError: it is not a file of contacts.
    """
    text = beginning.removeprefix(BOM_UTF8).strip(_BLANK)
    if not text:
        if len(beginning) >= BEGINNING:
            raise NotAnExportError(f"its first {len(beginning):,} bytes are blank")
        return None
    if text.startswith(b"<"):
        raise NotAnExportError(_describe_markup(_decode(text)))
    if text.startswith((b"{", b"[")):
        _check_object(_decode(text), cut=not whole and b"\n" not in text)
        return "json"
    columns = first_record(text)
    if HEADER_COLUMNS.isdisjoint(map(str.upper, columns)) and (
        first or len(columns) < 2 or not _QUOTED_ROW.match(_decode(text))
    ):
        raise NotAnExportError("it is text without the columns of contacts, EMAIL and CONTACT_ID")
    return "csv"


def first_record(text: bytes) -> list[str]:
    """Return the values of the first CSV record that is not empty; none where there is none."""
    text = text.removeprefix(BOM_UTF8).lstrip(b"\r\n")
    line, line_feed, _ = text.partition(b"\n")
    if line_feed and line.count(b'"') % 2 == 0:
        text = line
    records: Iterator[list[str]] = csv.reader(io.StringIO(_decode(text), newline=""))
    try:
        return next(filter(None, records), [])
    except csv.Error:
        return []


def _decode(text: bytes) -> str:
    return text[:BEGINNING].decode("utf-8", "replace")


def _describe_markup(text: str) -> str:
    if page := redact_page(text):
        return f"it is {page}"
    found = (re.search(rf"<{name}>([^<]+)</{name}>", text) for name in ("Code", "Message"))
    said = redact_text(": ".join(match[1].strip() for match in found if match), longest=100)
    return "it is markup, such as an error of the storage in XML" + (f" ({said})" if said else "")


def _check_object(text: str, *, cut: bool) -> None:
    try:
        found = json.loads(text.partition("\n")[0])
    except (ValueError, RecursionError):
        # The rest of a long object is not there to be read.
        if cut and _LONG_OBJECT.match(text):
            return
        raise NotAnExportError("it is JSON, but not an object on each line") from None
    if not isinstance(found, dict):
        raise NotAnExportError("it is JSON, but not an object on each line")
    if HEADER_COLUMNS.isdisjoint(map(str.upper, found)):
        error = next((found[name] for name in _ERRORS if name in found), "")
        said = redact_text(str(error), longest=100)
        raise NotAnExportError(
            "it is a JSON object without the fields of a contact" + (f" ({said})" if said else "")
        )
