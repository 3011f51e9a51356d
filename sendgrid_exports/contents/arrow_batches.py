"""The contacts of an export's files as Arrow batches of one schema. Blocking."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from sendgrid_exports.contents.columns import (
    BEFORE_CUSTOM,
    arrange,
    join_emails,
    make_column,
    make_schema,
)
from sendgrid_exports.contents.csv_batches import read_csv_batches
from sendgrid_exports.contents.parts import Part, corrupt, read_objects
from sendgrid_exports.contents.plain import read_plain
from sendgrid_exports.formats.csv_rows import CsvRows
from sendgrid_exports.formats.text import BrokenTextError

__all__ = ["open_parts", "open_reader", "unite"]

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def unite(parts: Sequence[Part], column_types: Mapping[str, pa.DataType]) -> pa.Schema:
    """Return the schema that all parts have together.

    Raises:
        ValueError: `column_types` names a column that no part has.
    """
    names = dict.fromkeys(itertools.chain.from_iterable(part.columns for part in parts))
    schema = make_schema(names or BEFORE_CUSTOM, column_types)
    if unknown := column_types.keys() - set(schema.names):
        raise ValueError(f"column_types names {min(unknown)!r}, a column that no file has")
    return schema


def open_reader(
    parts: Sequence[Part], schema: pa.Schema, column_types: Mapping[str, pa.DataType]
) -> pa.RecordBatchReader:
    """Return a reader of all parts, one after the other."""
    batches = itertools.chain.from_iterable(open_parts(parts, schema, column_types))
    return pa.RecordBatchReader.from_batches(schema, batches)


def open_parts(
    parts: Sequence[Part], schema: pa.Schema, column_types: Mapping[str, pa.DataType]
) -> list[Iterator[pa.RecordBatch]]:
    """Return the batches of each part, which is read when they are asked for."""
    return [_part_batches(part, schema, column_types) for part in parts]


def _part_batches(part: Part, schema: pa.Schema, asked: Iterable[str]) -> Iterator[pa.RecordBatch]:
    done = 0
    if part.file.kind == "csv" and part.columns:
        try:
            for batch in read_csv_batches(
                part.file.path, part.columns, schema, has_header=part.has_header
            ):
                done += batch.num_rows
                yield batch
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            # Something odd: our own reading takes it, or says exactly what is wrong with it.
            pass
        else:
            return
    for rows in _texts(part):
        rest = rows[done:]
        done -= len(rows) - len(rest)
        if rest:
            yield _batch(rest, part, schema, asked)


def _batch(
    rows: list[dict[str, str]], part: Part, schema: pa.Schema, asked: Iterable[str]
) -> pa.RecordBatch:
    columns = {}
    for name in part.columns:
        field = schema.field(name)
        texts = pa.array([row.get(name, "") for row in rows], pa.string())
        try:
            columns[name] = make_column(texts, field)
        except ValueError as error:
            # The text is a contact's, and nobody's business but the caller's.
            if name in asked:
                raise ValueError(
                    f"column_types asks for {field.type} in column {name!r}, and {part.file.path} "
                    "has another value there"
                ) from error
            raise corrupt(part.file.path, f"a value of column {name!r} is no time") from None
    return arrange(columns, len(rows), schema)


def _texts(part: Part) -> Iterator[list[dict[str, str]]]:
    """Yield the contacts as texts by column, whatever kind of file they are in."""
    path = part.file.path
    if part.file.kind == "json":
        for objects in read_objects(path):
            yield [_flat(contact) for contact in objects]
        return
    rows = CsvRows(columns=part.columns)
    try:
        for piece in read_plain(path):
            yield list(rows.feed(piece))
        yield list(rows.finish())
    except BrokenTextError as error:
        raise corrupt(path, error) from None


def _flat(contact: Mapping[str, Any]) -> dict[str, str]:
    fields = contact.get("custom_fields")
    texts = {name.upper(): _text(value) for name, value in contact.items()}
    if isinstance(emails := contact.get("alternate_emails"), list):
        texts["ALTERNATE_EMAILS"] = join_emails(map(_text, emails))
    if isinstance(fields, Mapping):
        texts.update((name, _text(value)) for name, value in fields.items())
    return texts


def _text(value: object) -> str:
    """Return a value of JSON as the text that a CSV export has for it."""
    if isinstance(value, str):
        # JSON can spell half a surrogate pair, which nothing can write again.
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    return "" if value is None else _JSON.encode(value)
