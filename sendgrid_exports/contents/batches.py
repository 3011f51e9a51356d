"""The contacts of files as Arrow batches of one schema: CSV by Arrow's own reader. Blocking."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

import attrs
import pyarrow as pa
import pyarrow.csv

from sendgrid_exports.contents.columns import (
    AFTER_CUSTOM,
    BEFORE_CUSTOM,
    arrange,
    join_emails,
    make_column,
    make_schema,
)
from sendgrid_exports.contents.contacts import read_head, read_rows
from sendgrid_exports.contents.files import PlainFile, corrupt
from sendgrid_exports.formats.rows import Row, Rows, distinct_names

__all__ = ["Table", "open_reader", "read_in_order", "survey", "table_batches", "unite"]

# A batch is made of so much text; smaller ones cost more, and larger ones only take memory.
_BLOCK = 1024 * 1024
# A file that is not yet asked for is read so far ahead, and so many are read at once.
_BATCHES_AHEAD = 20
_FILES_AT_ONCE = 2
_ROWS = 1000

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

_Key: TypeAlias = tuple[bool, str]
"""Whether a value of JSON is a custom field, and its name; reserved ones in capitals."""

Batches: TypeAlias = Generator[pa.RecordBatch, None, None]


@attrs.frozen
class Table:
    """A file and the columns of its contacts.

    Attributes:
        path: the file.
        columns: their names, in order; none where it is empty.
        start: how many bytes of CSV stand before the first contact.
        keys: of NDJSON, the column that each value goes to; None for CSV.
    """

    path: Path
    columns: tuple[str, ...]
    start: int = 0
    keys: Mapping[_Key, str] | None = None


def survey(files: Iterable[Path]) -> list[Table]:
    """Return the tables in `files`; NDJSON is read from end to end for its names.

    Raises:
        CorruptDownloadError: a file is not one of contacts.
        OSError: it can't be read.
    """
    tables: list[Table] = []
    before: tuple[str, ...] | None = None
    for path in files:
        head = read_head(path, columns=before)
        if head.kind == "json":
            keys = _json_keys(path)
            tables.append(Table(path, tuple(keys.values()), keys=keys))
        else:
            before = head.columns
            tables.append(Table(path, before or (), head.start))
    return tables


def _json_keys(path: Path) -> dict[_Key, str]:
    names: dict[str, None] = {}
    custom: dict[str, None] = {}
    for contact in read_rows(path, Rows()):
        names.update(dict.fromkeys(contact))
        if isinstance(fields := contact.get("custom_fields"), Mapping):
            custom.update(dict.fromkeys(fields))
    names.pop("custom_fields", None)
    others = dict.fromkeys(name.upper() for name in names)
    after = [name for name in AFTER_CUSTOM if name in others]
    after += [name for name in others if name not in {*BEFORE_CUSTOM, *AFTER_CUSTOM}]
    # As CSV has them: the columns that newer accounts have stand after the custom fields.
    keys = [*((False, name) for name in BEFORE_CUSTOM), *((True, name) for name in custom)]
    keys += [(False, name) for name in after]
    return dict(zip(keys, distinct_names(name for _, name in keys), strict=True))


def unite(tables: Sequence[Table], column_types: Mapping[str, pa.DataType]) -> pa.Schema:
    """Return the schema that all tables have together.

    Raises:
        ValueError: `column_types` names a column that no table has.
    """
    names = dict.fromkeys(chain.from_iterable(table.columns for table in tables))
    schema = make_schema(names or BEFORE_CUSTOM, column_types)
    if unknown := column_types.keys() - set(schema.names):
        raise ValueError(f"column_types names {min(unknown)!r}, a column that no file has")
    return schema


def open_reader(
    tables: Sequence[Table], schema: pa.Schema, column_types: Mapping[str, pa.DataType]
) -> pa.RecordBatchReader:
    """Return a reader of all tables, one after the other."""
    batches = [table_batches(table, schema, column_types) for table in tables]
    return pa.RecordBatchReader.from_batches(schema, read_in_order(batches))


def read_in_order(tables: Sequence[Batches]) -> Batches:
    """Yield the batches of all tables, one after the other; the next table is read meanwhile.

    A thread reads so many batches at a time and is done, so that memory is bounded and no thread
    waits for a caller that takes no more.
    """
    flights: list[Future[list[pa.RecordBatch]]] = []
    try:
        with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="sendgrid-exports") as pool:
            for place, table in enumerate(tables):
                flights += [
                    pool.submit(_take, ahead)
                    for ahead in tables[len(flights) : place + _FILES_AT_ONCE]
                ]
                while batches := flights[place].result():
                    flights[place] = pool.submit(_take, table)
                    yield from batches
    finally:
        for table in tables:
            table.close()


def _take(batches: Batches) -> list[pa.RecordBatch]:
    return list(islice(batches, _BATCHES_AHEAD))


def table_batches(table: Table, schema: pa.Schema, asked: Collection[str]) -> Batches:
    """Yield the contacts of a table.

    Args:
        table: the table.
        schema: that of the batches, with all columns of the table.
        asked: the columns whose types the caller chose.

    Raises:
        CorruptDownloadError: the file is broken; the message has the place.
        ValueError: a value is not of a type that was asked for.
        OSError: the file can't be read.
    """
    done = 0
    if table.keys is None and table.columns:
        try:
            for texts in _read_csv(table):
                done += texts.num_rows
                yield _typed(dict(zip(table.columns, texts, strict=True)), table, schema, asked)
        except pa.ArrowInvalid:
            # Something odd: reading it once more takes it, or says exactly what is wrong.
            pass
        else:
            return
    rows = islice(read_rows(table.path, Rows(columns=table.columns)), done, None)
    while some := list(islice(rows, _ROWS)):
        flat = some if table.keys is None else [_flat(row, table.keys) for row in some]
        columns = {
            name: pa.array([row.get(name, "") for row in flat], pa.string())
            for name in table.columns
        }
        yield _typed(columns, table, schema, asked)


def _read_csv(table: Table) -> Iterator[pa.RecordBatch]:
    """Yield the contacts of a CSV file as texts.

    Raises:
        ArrowInvalid: Arrow can't read it; what was yielded before is right.
    """
    with closing(_WholeText(table)) as file:
        reader = pyarrow.csv.open_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(column_names=table.columns, block_size=_BLOCK),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(table.columns, pa.string()), strings_can_be_null=False
            ),
        )
        yield from (batch for batch in reader if batch.num_rows)


class _WholeText:
    """The contacts of a CSV file for Arrow, which takes a quote left open at the end for closed.

    Arrow reads ahead in a thread of its own, perhaps while the file is being closed.
    """

    def __init__(self, table: Table) -> None:
        self._lock = threading.Lock()
        self._file = PlainFile(table.path)
        self._file.read(table.start)
        # Arrow takes a byte order mark for none of the text at its start alone.
        self._before = b"\n"
        self._quotes = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def read(self, size: int) -> bytes:
        with self._lock:
            if self._file.closed:
                return b""
            before, self._before = self._before, b""
            data = before + self._file.read(size - len(before))
        self._quotes += data.count(b'"')
        if not data and self._quotes % 2:
            raise pa.ArrowInvalid("a quote is never closed")
        return data

    def close(self) -> None:
        with self._lock:
            self._file.close()


def _typed(
    columns: dict[str, pa.StringArray], table: Table, schema: pa.Schema, asked: Collection[str]
) -> pa.RecordBatch:
    for name, texts in columns.items():
        field = schema.field(name)
        try:
            columns[name] = make_column(texts, field)
        except ValueError as error:
            # The error of Arrow quotes the contact's text, which only the caller may see.
            if name in asked:
                raise ValueError(
                    f"column_types asks for {field.type} in column {name!r}, and {table.path} has "
                    "another value there"
                ) from error
            raise corrupt(table.path, f"a value of column {name!r} is not a time") from None
    return arrange(columns, len(next(iter(columns.values()))), schema)


def _flat(contact: Row, keys: Mapping[_Key, str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in contact.items():
        if name == "custom_fields":
            fields = value if isinstance(value, Mapping) else {}
            texts.update((keys[True, field], _text(own)) for field, own in fields.items())
        elif name == "alternate_emails" and isinstance(value, list):
            texts["ALTERNATE_EMAILS"] = join_emails(map(_text, value))
        else:
            texts[keys[False, name.upper()]] = _text(value)
    return texts


def _text(value: object) -> str:
    """Return a value of JSON as the text that a CSV export has for it."""
    if isinstance(value, str):
        # JSON can spell half of a surrogate pair, which UTF-8 can't.
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    return "" if value is None else _JSON.encode(value)
