"""Rows: every contact as a dict, text as it is, from files on disk in constant memory. Blocking."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import chain
from typing import Any, TypeAlias

from sendgrid_exports.contents.plain import read_plain
from sendgrid_exports.contents.sources import Source, SourceFile, find_files
from sendgrid_exports.errors import CorruptDownloadError
from sendgrid_exports.formats.csv_rows import CsvRows
from sendgrid_exports.formats.ndjson_rows import NdjsonRows
from sendgrid_exports.formats.text import BrokenTextError, Errors

__all__ = [
    "Row",
    "check_errors",
    "read_contacts",
    "read_rows",
    "row_decoder",
    "steps",
    "unite_columns",
]

Row: TypeAlias = dict[str, Any]

# What is made of so much text stays in the processor's cache.
_STEP = 32 * 1024


def read_contacts(
    source: Source, *, export_id: str | None = None, errors: Errors = "strict"
) -> Iterator[Row]:
    """Return an iterator of the contacts in a download, file after file.

    A row of a CSV export is a `dict[str, str]`: columns as SendGrid wrote them, text as it is,
    empty where there is no value. Files whose columns differ are united by name. A row of a JSON
    export is the object of its line; `parse_contact` makes the same of both.

    Args:
        source: the result of a download, its directory, or one or several paths; what is no
            download's own is known by its name (`.csv`, `.json`, `.ndjson`, `.gz` after them).
        export_id: which export, where a directory holds several.
        errors: what to do with bytes that are no UTF-8: `strict` raises, `replace` puts U+FFFD.

    Raises:
        TypeError, ValueError: an argument can't be used, or a directory holds several exports.
        DownloadError: the export is not in the directory, or not all of it.
        CorruptDownloadError: while reading: broken gzip, text that is no UTF-8, no CSV or JSON of
            contacts, or a record of more than 16 MiB; the message has the file and the place.
        OSError: a file can't be read.
    """
    check_errors(errors)
    return read_rows(find_files(source, export_id), errors)


def check_errors(errors: object) -> None:
    """Raise `ValueError` for a way of treating bad bytes that is none."""
    if errors not in {"strict", "replace"}:
        raise ValueError(f"errors must be 'strict' or 'replace', not {errors!r}")


def read_rows(files: Sequence[SourceFile], errors: Errors) -> Generator[Row, None, None]:
    """Yield the rows of `files`.

    Raises:
        CorruptDownloadError, OSError: as for `read_contacts`.
    """
    united = unite_columns(files, errors)
    columns = None
    for file in files:
        rows = row_decoder(file.kind, columns=columns, united=united, errors=errors)
        try:
            for plain in read_plain(file.path):
                for data in steps(plain):
                    yield from rows.feed(data)
            yield from rows.finish()
        except BrokenTextError as error:
            raise _corrupt(file, error) from None
        columns = rows.columns


def unite_columns(files: Sequence[SourceFile], errors: Errors = "strict") -> tuple[str, ...] | None:
    """Return the columns of all CSV files, in the order in which they appear.

    None where there is none, or only one: its header says it all when it is read.

    Raises:
        CorruptDownloadError, OSError: as for `read_contacts`.
    """
    tables = [file for file in files if file.kind == "csv"]
    if len(tables) < 2:
        return None
    united: dict[str, None] = {}
    columns = None
    for file in tables:
        rows = CsvRows(columns=columns, errors=errors)
        try:
            for data in chain.from_iterable(map(steps, read_plain(file.path))):
                next(rows.feed(data), None)
                if rows.begun:
                    break
            else:
                next(rows.finish(), None)
        except BrokenTextError as error:
            raise _corrupt(file, error) from None
        columns = rows.columns
        united |= dict.fromkeys(columns or ())
    return tuple(united)


def row_decoder(
    kind: str,
    *,
    columns: tuple[str, ...] | None = None,
    united: tuple[str, ...] | None = None,
    errors: Errors,
) -> CsvRows | NdjsonRows:
    """Return what makes rows of a file of this kind, `csv` or `json`, after one of `columns`."""
    if kind == "json":
        return NdjsonRows(columns=columns, errors=errors)
    return CsvRows(columns=columns, united=united, errors=errors)


def steps(plain: bytes) -> Iterator[bytes]:
    """Yield plain text in pieces for a decoder of rows."""
    return (plain[start : start + _STEP] for start in range(0, len(plain), _STEP))


def _corrupt(file: SourceFile, error: BrokenTextError) -> CorruptDownloadError:
    return CorruptDownloadError(
        f"{file.path} is corrupt: {error}. Fetch the export again, or start another one.",
        path=file.path,
    )
