"""The contacts of files as Arrow batches of one schema: CSV by Arrow's own reader. Blocking."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import TypeAlias

import attrs
import pyarrow as pa
import pyarrow.csv

from sendgrid_exports.contents.columns import (
    AFTER_CUSTOM,
    BEFORE_CUSTOM,
    arrange,
    is_nanoseconds,
    join_emails,
    make_column,
    make_schema,
)
from sendgrid_exports.contents.contacts import read_head, read_rows
from sendgrid_exports.contents.files import AnyFile, PlainFile, corrupt
from sendgrid_exports.formats.rows import Row, Rows, distinct_names

__all__ = [
    "FILES_AT_ONCE",
    "Pieces",
    "Table",
    "open_reader",
    "read_ahead",
    "read_table",
    "survey",
    "unite",
]

FILES_AT_ONCE = 2
"""How many files are read or written at once; each takes some 20 MiB."""

# Arrow keeps 32 blocks of text that it has not come to; a piece is made of so many.
_BLOCK = 256 * 1024
_BLOCKS = 4
_ROWS = 1000

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

_Key: TypeAlias = tuple[bool, str]
"""Whether a value of JSON is a custom field, and its name; reserved ones in capitals."""

Pieces: TypeAlias = Generator[pa.Table, None, None]
"""The contacts of a file, some at a time."""


@attrs.frozen
class Table:
    """A file and the columns of its contacts.

    Attributes:
        path: the file.
        columns: their names, in order; none where it is empty.
        start: how many bytes of CSV stand before the first contact.
        keys: of NDJSON, the column that each value goes to; None for CSV.
    """

    path: AnyFile
    columns: tuple[str, ...]
    start: int = 0
    keys: Mapping[_Key, str] | None = None


def survey(files: Iterable[AnyFile]) -> list[Table]:
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


def _json_keys(path: AnyFile) -> dict[_Key, str]:
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
    pieces = read_ahead([read_table(table, schema, column_types) for table in tables])
    batches = chain.from_iterable(piece.to_batches() for piece in pieces)
    return pa.RecordBatchReader.from_batches(schema, batches)


def read_ahead(sources: Sequence[Pieces]) -> Pieces:
    """Yield the pieces of all sources, one after the other, and read the next ones meanwhile.

    A thread reads one piece, of this source or the one after it, and is done: memory is bounded,
    and no thread waits for a caller that takes no more.
    """
    flights: list[Future[pa.Table | None]] = []
    try:
        with ThreadPoolExecutor(FILES_AT_ONCE, "sendgrid-exports-arrow") as threads:
            for place, source in enumerate(sources):
                begin = sources[len(flights) : place + FILES_AT_ONCE]
                flights += [threads.submit(next, other, None) for other in begin]
                while (piece := flights[place].result()) is not None:
                    flights[place] = threads.submit(next, source, None)
                    yield piece
    finally:
        for source in sources:
            source.close()


def read_table(table: Table, schema: pa.Schema, asked: Collection[str]) -> Pieces:
    """Yield the contacts of a table.

    Args:
        table: the table.
        schema: that of the pieces, with all columns of the table.
        asked: the columns whose types the caller chose.

    Raises:
        CorruptDownloadError: the file is broken; the message has the place.
        ValueError: a value is not of a type that was asked for.
        OSError: the file can't be read.
    """
    ways = [partial(_read_rows, table)]
    if table.keys is None and table.columns:
        texts = pa.schema([(name, pa.string()) for name in table.columns])
        ways = [partial(_read_csv, table, schema), partial(_read_csv, table, texts), *ways]
    done = 0
    for way in ways:
        behind = done
        try:
            for piece in read_ahead([way()]):
                rest = piece.slice(behind)
                behind -= piece.num_rows - rest.num_rows
                done += rest.num_rows
                yield _typed(rest, table, schema, asked)
        except pa.ArrowInvalid:
            # The next way reads what is unusual here; the last one says what is wrong with it.
            continue
        return


def _read_csv(table: Table, schema: pa.Schema) -> Pieces:
    """Yield the contacts of a CSV file as Arrow reads them; lists and nanoseconds are texts.

    Raises:
        ArrowInvalid: Arrow can't read it; what was yielded before is right.
    """
    types = {name: schema.field(name).type for name in table.columns}
    types |= {
        name: pa.string()
        for name, kind in types.items()
        if pa.types.is_nested(kind) or is_nanoseconds(kind)
    }
    with closing(_EndedText(table)) as file:
        batches = pyarrow.csv.open_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(column_names=table.columns, block_size=_BLOCK),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, null_values=[""], strings_can_be_null=False
            ),
        )
        last = pa.Table.from_batches([], batches.schema)
        while some := list(islice(batches, _BLOCKS)):
            yield last
            last = pa.Table.from_batches(some)
        if last.column(last.num_columns - 1)[-1].as_py():
            raise pa.ArrowInvalid("a quote is never closed")
        yield last.slice(0, last.num_rows - 1)


class _EndedText:
    """The contacts of a CSV file for Arrow, and after them a record of empty values.

    Arrow takes a quote left open at the end for closed; then this record is part of that value.
    It reads ahead in a thread of its own, perhaps while the file is being closed.
    """

    def __init__(self, table: Table) -> None:
        self._lock = threading.Lock()
        self._file = PlainFile(table.path)
        self._file.read(table.start)
        # Arrow drops a byte order mark, but not one that is part of a value further on.
        self._before = b"\n"
        self._ending = b"\n" + b"," * (len(table.columns) - 1) + b"\n"

    @property
    def closed(self) -> bool:
        return self._file.closed

    def read(self, size: int) -> bytes:
        with self._lock:
            if self._file.closed:
                return b""
            before, self._before = self._before, b""
            data = before + self._file.read(size - len(before))
            if not data:
                data, self._ending = self._ending, b""
            return data

    def close(self) -> None:
        with self._lock:
            self._file.close()


def _read_rows(table: Table) -> Pieces:
    """Yield the contacts of a file of any kind as texts."""
    rows = read_rows(table.path, Rows(columns=table.columns))
    while some := list(islice(rows, _ROWS)):
        if table.keys is not None:
            some = [_flat(row, table.keys) for row in some]
        yield pa.table(
            [pa.array([row.get(name, "") for row in some], pa.string()) for name in table.columns],
            names=table.columns,
        )


def _typed(piece: pa.Table, table: Table, schema: pa.Schema, asked: Collection[str]) -> pa.Table:
    """Return texts as the values that `schema` asks for."""
    columns = {}
    for name, values in zip(table.columns, piece.columns, strict=True):
        field = schema.field(name)
        try:
            columns[name] = make_column(values, field)
        except ValueError as error:
            # The error of Arrow quotes the contact's text, which only the caller may see.
            if name in asked:
                raise ValueError(
                    f"column_types asks for {field.type} in column {name!r}, and {table.path} has "
                    "another value there"
                ) from error
            raise corrupt(table.path, f"a value of column {name!r} is not a time") from None
    return arrange(columns, piece.num_rows, schema)


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
