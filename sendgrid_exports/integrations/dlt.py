"""The contacts of an export as a source of dlt; needs the extra `dlt`.

    result = asyncio.run(export_contacts("exports/", api_key=key))
    dlt.pipeline("contacts", destination="duckdb").run(sendgrid(result))

Names of columns are those that dlt's naming convention makes (`EMAIL` becomes `email`). Where it
makes one name of several, as of `Plan` and `plan`, the first keeps it and the next is called
`plan_2`. The pipeline's state keeps these names, so that they do not change; the description of
such a column in dlt's schema is its name at SendGrid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count, islice
from typing import Any

from sendgrid_exports import read_arrow
from sendgrid_exports.contents.files import Source, require

require("dlt", "dlt", "pyarrow")

import dlt  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.compute as pc  # noqa: E402

__all__ = ["sendgrid"]

_ROW_HASH = "row_hash"
_OWN_COLUMNS = (_ROW_HASH, "_dlt_id", "_dlt_load_id", "_dlt_valid_from", "_dlt_valid_to")
# dlt's cost for a table is that of thousands of rows, whatever it has.
_BATCHES = 64


@dlt.source(name="sendgrid", section="sendgrid")
def sendgrid(
    source: Source,
    *,
    export_id: str | None = None,
    column_types: Mapping[str, pa.DataType] | None = None,
    history: bool = False,
    ignore: Collection[str] = (),
) -> Any:
    """Return a dlt source with the resource `contacts`: the contacts of an export, as Arrow.

    Every run loads a whole export and replaces the table. `CONTACT_ID` is the primary key, so
    `run(…, write_disposition="merge")` keeps contacts that the export lacks. With `history` the
    table keeps every version of a contact, in dlt's strategy `scd2`: one that changed or that the
    export lacks gets an end in `_dlt_valid_to`. So always load every contact, or always the same
    lists; an export without contacts ends them all.

    A version is known by `row_hash`, which is made of the values that are not empty: a new custom
    field changes the contacts that have it, and the order of columns changes none.

    Args:
        source: a finished download, a path, several paths, a directory or a bucket, as for
            `read_arrow`.
        export_id: which export, where the directory holds several.
        column_types: types of columns by name, as for `read_arrow`.
        history: keep earlier versions.
        ignore: columns that alone make no new version, such as `UPDATED_AT`.

    Raises:
        ImportError: dlt or pyarrow is not installed (when this module is imported).
        ValueError: `ignore` names a column that the export lacks (while the pipeline runs, as
            everything that `read_arrow` raises).
    """
    keep_versions = {
        "disposition": "merge",
        "strategy": "scd2",
        "row_version_column_name": _ROW_HASH,
    }

    @dlt.resource(
        name="contacts",
        primary_key="CONTACT_ID",
        write_disposition=keep_versions if history else "replace",
    )
    def contacts() -> Iterator[Any]:
        reader = read_arrow(source, export_id=export_id, column_types=column_types)
        if unknown := set(ignore) - set(reader.schema.names):
            raise ValueError(f"ignore names {min(unknown)!r}, a column that the export lacks")
        # dlt forgets a resource's own state when it replaces the table.
        known: dict[str, str] = dlt.current.source_state().setdefault("columns", {})
        normalize = dlt.current.source_schema().naming.normalize_path
        names = name_columns(reader.schema.names, known, normalize)
        renamed = {
            column: {"name": column, "description": name}
            for name, column in zip(reader.schema.names, names, strict=True)
            if name != column
        }
        hints = dlt.mark.make_hints(columns=renamed)
        for table in _tables(reader):
            loaded = table.rename_columns(names)
            if history:
                hashes = hash_rows(table.drop_columns(list(ignore)))
                loaded = loaded.append_column(_ROW_HASH, hashes)
            # dlt warns of keys that may be null.
            keys = {"CONTACT_ID", _ROW_HASH}
            fields = [field.with_nullable(field.name not in keys) for field in loaded.schema]
            loaded = loaded.cast(pa.schema(fields))
            yield dlt.mark.with_hints(loaded, hints) if renamed else loaded

    return contacts


def _tables(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Yield the contacts in tables, and one of no rows where there are none: it empties a table."""
    batches = iter(reader)
    some = list(islice(batches, _BATCHES))
    while True:
        yield pa.Table.from_batches(some, reader.schema)
        if not (some := list(islice(batches, _BATCHES))):
            return


def name_columns(names: Iterable[str], known: dict[str, str], normalize: Any) -> list[str]:
    """Return a name for each column, so that dlt's normalized ones differ, whatever their case.

    Args:
        names: the columns of the export, each with another name.
        known: the names that columns have already; new ones are added.
        normalize: dlt's naming convention.
    """
    # Many databases take names that differ in case for one name, whatever dlt does.
    taken = {normalize(name).casefold() for name in (*_OWN_COLUMNS, *known.values())}
    for name in names:
        if name not in known:
            candidates = (name if number == 1 else f"{name}_{number}" for number in count(1))
            column = next(one for one in candidates if normalize(one).casefold() not in taken)
            known[name] = column
            taken.add(normalize(column).casefold())
    return [known[name] for name in names]


def hash_rows(table: pa.Table) -> pa.Array:
    """Return a text for each row, which two rows share where their filled values are the same.

    It depends neither on the order of columns nor on those that are empty, and lists count too.
    """
    values = []
    for name in sorted(table.column_names):
        texts = pc.fill_null(_texts(table.column(name)), "")
        sizes = pc.binary_length(texts).cast(pa.string())
        # With the sizes of the name and the value before them, no two rows are joined to one text.
        label = f"{len(name.encode())}:{name}"
        joined = pc.binary_join_element_wise(label, sizes, texts, ":")
        values.append(pc.if_else(pc.equal(texts, ""), "", joined))
    rows = pc.binary_join_element_wise(*values, "").cast(pa.binary())
    digests = [hashlib.blake2b(row, digest_size=16).hexdigest() for row in rows.to_pylist()]
    return pa.array(digests, pa.string())


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(column.type):
        lists = (json.dumps(value) if value else "" for value in column.to_pylist())
        return pa.chunked_array([pa.array(lists, pa.string())])
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return column.cast(pa.string())
