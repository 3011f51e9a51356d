"""Contacts as dicts, file after file, and as typed objects.

They are read in constant memory; for asyncio they are made in a thread, batch by batch.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import attrs

from sendgrid_exports.contents.files import AnyFile, PlainFile, Source, corrupt, find_files
from sendgrid_exports.decoding import decode
from sendgrid_exports.disk import Disk
from sendgrid_exports.errors import CorruptDownloadError
from sendgrid_exports.formats.rows import (
    BrokenTextError,
    Errors,
    Row,
    Rows,
    distinct_names,
    split_values,
)
from sendgrid_exports.models import Contact
from sendgrid_exports.settings import BATCH_SIZE

__all__ = [
    "check_batch_size",
    "check_errors",
    "parse_contact",
    "read_contacts",
    "read_contacts_async",
    "read_head",
    "read_rows",
    "take",
]

_READ = 64 * 1024
_RESERVED = {
    field.name.upper(): field.name
    for field in attrs.fields(Contact)
    if field.name != "custom_fields"
}
# A custom field of the same name stands before these columns, and after all others.
_AFTER_CUSTOM = {"PHONE_NUMBER_ID", "EXTERNAL_ID", "ANONYMOUS_ID"}
_SECOND = {distinct_names([name, name])[1]: name for name in _RESERVED}


def read_contacts(
    source: Source, *, export_id: str | None = None, errors: Errors = "strict"
) -> Iterator[Row]:
    """Return an iterator of the contacts in a download, file after file.

    A row of a CSV export is a `dict[str, str]`: columns as SendGrid wrote them, text as it is,
    empty where there is no value. Of several columns of one name the first keeps it, the second
    is called `NAME (2)`. Files whose columns differ are united by name. A row of a JSON export is
    the object of its line; `parse_contact` makes the same of both.

    Args:
        source: the result of a download, where it is (a directory, a url such as
            `s3://bucket/prefix`, a `Bucket`), or one or several paths. Whether a file is CSV or
            JSON, gzip or not, is seen from its content, whatever its name is.
        export_id: which export, where a directory holds several.
        errors: what to do with bytes that are not UTF-8: `strict` raises, `replace` puts U+FFFD.

    Raises:
        TypeError, ValueError: an argument can't be used, or a directory holds several exports.
        DownloadError: the export is not in the directory, or not all of it; or the bucket can't
            be used.
        CorruptDownloadError: while reading: broken gzip, text that is not UTF-8, not CSV or JSON
            of contacts, a value beyond `csv.field_size_limit()` (131,072 characters) or a record
            of more than 16 MiB; the message has the file and the place.
        OSError: a file can't be read.
    """
    check_errors(errors)
    return _read_files(find_files(source, export_id), errors)


@asynccontextmanager
async def read_contacts_async(
    source: Source,
    *,
    export_id: str | None = None,
    errors: Errors = "strict",
    batch_size: int = BATCH_SIZE,
) -> AsyncIterator[AsyncIterator[list[Row]]]:
    """Open a download for reading in batches, while the event loop stays free.

        async with read_contacts_async("exports") as batches:
            async for batch in batches:
                ...

    Leaving the block closes the files, however many batches are left.

    Args:
        source: as for `read_contacts`.
        export_id: as for `read_contacts`.
        errors: as for `read_contacts`.
        batch_size: rows in a batch; the last one may have fewer, and none is empty.

    Raises:
        What `read_contacts` raises.
    """
    check_errors(errors)
    check_batch_size(batch_size)
    with Disk(1) as disk:
        rows = _read_files(await disk.run(find_files, source, export_id), errors)
        try:
            async with aclosing(_batches(rows, batch_size, disk)) as batches:
                yield batches
        finally:
            await disk.run(rows.close)


def check_errors(errors: object) -> None:
    """Raise `ValueError` for an unknown way to treat bytes that are not UTF-8."""
    if errors not in {"strict", "replace"}:
        raise ValueError(f"errors must be 'strict' or 'replace', not {errors!r}")


def check_batch_size(size: object) -> None:
    """Raise `TypeError` or `ValueError` for an invalid size of batches."""
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"batch_size must be a whole number, not {type(size).__name__}")
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, not {size}")


async def _batches(rows: Iterator[Row], size: int, disk: Disk) -> AsyncGenerator[list[Row], None]:
    while batch := await take(rows, size, disk):
        yield batch


async def take(rows: Iterator[Row], size: int, disk: Disk) -> list[Row]:
    """Return the next `size` rows, made in a thread; fewer only at their end."""
    batch: list[Row] = []
    # In small steps, so that a cancellation does not wait for all of a large batch.
    while more := await disk.run(_next, rows, min(size - len(batch), BATCH_SIZE)):
        batch += more
        if len(batch) == size:
            break
    return batch


def _next(rows: Iterator[Row], size: int) -> list[Row]:
    return list(itertools.islice(rows, size))


def _read_files(files: Sequence[AnyFile], errors: Errors) -> Generator[Row, None, None]:
    united = _unite(files, errors)
    columns = None
    for path in files:
        rows = Rows(columns=columns, united=united, errors=errors)
        yield from read_rows(path, rows)
        columns = rows.columns


def read_rows(path: AnyFile, rows: Rows) -> Generator[Row, None, None]:
    """Yield the contacts of a file, as `rows` makes them.

    Raises:
        CorruptDownloadError, OSError: as for `read_contacts`.
    """
    with PlainFile(path) as file:
        try:
            while data := file.read(_READ):
                yield from rows.feed(data)
            yield from rows.finish()
        except BrokenTextError as error:
            raise corrupt(path, error) from None


def read_head(
    path: AnyFile, *, columns: tuple[str, ...] | None = None, errors: Errors = "strict"
) -> Rows:
    """Return what the beginning of a file says of its kind and its columns.

    Args:
        path: the file.
        columns: those of the file before, for CSV without a header.
        errors: as for `read_contacts`.

    Raises:
        CorruptDownloadError, OSError: as for `read_contacts`.
    """
    rows = Rows(columns=columns, errors=errors)
    contacts = read_rows(path, rows)
    try:
        next(contacts, None)
    except CorruptDownloadError:
        # What is wrong further on is an error when it is read.
        if not rows.begun:
            raise
    finally:
        contacts.close()
    return rows


def _unite(files: Sequence[AnyFile], errors: Errors) -> tuple[str, ...] | None:
    """Return the columns of all CSV files, in the order in which they appear.

    None where there is one file alone: its header says it all when it is read.
    """
    if len(files) < 2:
        return None
    united: dict[str, None] = {}
    columns = None
    for path in files:
        columns = read_head(path, columns=columns, errors=errors).columns
        united |= dict.fromkeys(columns or ())
    return tuple(united)


def parse_contact(row: Mapping[str, Any]) -> Contact:
    """Return the contact of a row of `read_contacts`, of a CSV export or of a JSON one.

    A custom field that has the name of a reserved column (those made before the name was reserved
    do) is in `custom_fields`, and the reserved column in its own attribute.

    Args:
        row: the columns of a CSV export, known by its `CONTACT_ID`, or the object of a JSON one.

    Raises:
        InvalidResponseError: it is not what SendGrid documents; `problems` has the paths.
    """
    shape = _of_csv(row) if "CONTACT_ID" in row else _of_json(row)
    return decode(Contact, shape, "The contact")


def _of_csv(row: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(row)
    shape: dict[str, Any] = {}
    custom: dict[str, str] = {}
    for second in _SECOND.keys() & row.keys():
        column, value = _SECOND[second], values.pop(second)
        if column in _AFTER_CUSTOM:
            values[column], value = value, values[column]
        if value != "":
            custom[column] = value
    for column, value in values.items():
        if value == "":
            continue
        name = _RESERVED.get(column)
        if name is None:
            custom[column] = value
        else:
            shape[name] = _emails(value) if name == "alternate_emails" else value
    shape["custom_fields"] = custom
    return shape


def _emails(value: object) -> object:
    try:
        return split_values(value) if isinstance(value, str) else value
    except ValueError:
        # Decoding says that it is not a list.
        return value


def _of_json(row: Mapping[str, Any]) -> dict[str, Any]:
    shape = {name: value for name, value in row.items() if value is not None and value != ""}
    custom = shape.get("custom_fields")
    if isinstance(custom, Mapping):
        shape["custom_fields"] = {
            name: _text(value)
            for name, value in custom.items()
            if value is not None and value != ""
        }
    return shape


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
