"""What columns the files of an export have, seen before they are read. Blocking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from sendgrid_exports.contents.columns import AFTER_CUSTOM, BEFORE_CUSTOM
from sendgrid_exports.contents.plain import read_plain
from sendgrid_exports.contents.sources import SourceFile
from sendgrid_exports.errors import CorruptDownloadError
from sendgrid_exports.formats.csv_rows import CsvRows
from sendgrid_exports.formats.ndjson_rows import NdjsonRows
from sendgrid_exports.formats.text import BrokenTextError

__all__ = ["Part", "corrupt", "read_objects", "survey"]

_BEGINNING = 16 * 1024


@attrs.frozen
class Part:
    """A file, the columns of its contacts, and whether its first record is a header."""

    file: SourceFile
    columns: tuple[str, ...]
    has_header: bool = False


def survey(files: Iterable[SourceFile]) -> list[Part]:
    """Return the parts that `files` are; NDJSON is read from end to end for its names.

    Raises:
        CorruptDownloadError: a file is not what its name says.
        OSError: it can't be read.
    """
    parts: list[Part] = []
    before: tuple[str, ...] | None = None
    for file in files:
        if file.kind == "json":
            parts.append(Part(file, _json_columns(file.path)))
            continue
        try:
            columns = _header(file.path)
        except BrokenTextError as error:
            if before is None:
                raise corrupt(file.path, error) from None
            columns = None
        parts.append(Part(file, columns or before or (), has_header=columns is not None))
        before = columns or before
    return parts


def corrupt(path: Path, reason: object) -> CorruptDownloadError:
    """Return the error of a file that can't be read as contacts."""
    return CorruptDownloadError(
        f"{path} is corrupt: {reason}. Fetch the export again, or start another one.", path=path
    )


def _header(path: Path) -> tuple[str, ...] | None:
    """Return the columns that a CSV file names, or None where it is empty."""
    rows = CsvRows()
    try:
        for piece in read_plain(path):
            for start in range(0, len(piece), _BEGINNING):
                list(rows.feed(piece[start : start + _BEGINNING]))
                if rows.columns is not None:
                    return rows.columns
        list(rows.finish())
    except BrokenTextError:
        if rows.columns is None:
            raise
    return rows.columns


def _json_columns(path: Path) -> tuple[str, ...]:
    keys: dict[str, None] = {}
    custom: dict[str, None] = {}
    for objects in read_objects(path):
        for contact in objects:
            keys.update(dict.fromkeys(contact))
            fields = contact.get("custom_fields")
            if isinstance(fields, Mapping):
                custom.update(dict.fromkeys(fields))
    keys.pop("custom_fields", None)
    seen = dict.fromkeys(key.upper() for key in keys)
    after = [name for name in AFTER_CUSTOM if name in seen]
    names = dict.fromkeys((*BEFORE_CUSTOM, *after, *seen))
    if both := names.keys() & custom.keys():
        raise corrupt(path, f"a custom field is called {min(both)!r} like a reserved one")
    others = [name for name in names if name not in BEFORE_CUSTOM]
    return (*BEFORE_CUSTOM, *custom, *others)


def read_objects(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the contacts of an NDJSON file in lists.

    Raises:
        CorruptDownloadError: it is no NDJSON.
        OSError: it can't be read.
    """
    rows = NdjsonRows()
    try:
        for piece in read_plain(path):
            yield list(rows.feed(piece))
        yield list(rows.finish())
    except BrokenTextError as error:
        raise corrupt(path, error) from None
