"""The contacts of an export for Arrow, and all that reads it, and as Parquet. Blocking.

pyarrow is the extra `arrow`: `pip install 'sendgrid-exports[arrow]'`. It is loaded here, where it
is used, and by the modules that this one loads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sendgrid_exports.contents.extras import require
from sendgrid_exports.contents.sources import Source, find_files

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_arrow", "write_parquet"]


def read_arrow(
    source: Source,
    *,
    export_id: str | None = None,
    column_types: Mapping[str, pa.DataType] | None = None,
) -> pa.RecordBatchReader:
    """Return the contacts as Arrow batches of one schema, read as they are asked for.

    Text stays text, and an empty one an empty text, never a null. `CREATED_AT` and `UPDATED_AT`
    are `timestamp[us, UTC]`, null where empty, and `ALTERNATE_EMAILS` a list of strings; every
    other column is of strings. Parts whose columns differ are united by name, and what a part
    lacks is empty. The custom fields of NDJSON become columns of their own names; to know them,
    NDJSON is read twice.

    Args:
        source: a finished download, a path, several paths, or a directory.
        export_id: which export, where the directory holds several.
        column_types: types of columns by name, for custom fields that are no text; an empty text
            is a null there.

    Returns:
        An iterable of `pyarrow.RecordBatch` with a `schema`; memory is bounded.

    Raises:
        ImportError: pyarrow is not installed.
        TypeError: `source` is nothing that can be read.
        ValueError: `source` names nothing or several exports, `column_types` a column that is not
            there, or (while it is read) a type that a value is not of.
        DownloadError: the export is not in the directory, or not all of it.
        CorruptDownloadError: a file is broken (perhaps only seen while it is read).
        OSError: a file can't be read.
    """
    require("arrow", "pyarrow")
    from sendgrid_exports.contents.arrow_batches import open_reader, unite
    from sendgrid_exports.contents.parts import survey

    types = dict(column_types or {})
    parts = survey(find_files(source, export_id))
    return open_reader(parts, unite(parts, types), types)


def write_parquet(
    source: Source,
    path: str | os.PathLike[str],
    *,
    export_id: str | None = None,
    column_types: Mapping[str, pa.DataType] | None = None,
    one_file_per_part: bool = False,
    compression: str = "zstd",
) -> int:
    """Write the contacts as Parquet, with the schema of `read_arrow` and in bounded memory.

    A file appears under its name once it is whole, and replaces one that was there.

    Args:
        source: a finished download, a path, several paths, or a directory.
        path: the file; with `one_file_per_part`, a directory, which is made if need be.
        export_id: which export, where the directory `source` holds several.
        column_types: as for `read_arrow`.
        one_file_per_part: write a file for each file of the export, called like it.
        compression: of Parquet's pages: `zstd`, `snappy`, `lz4`, `gzip`, `brotli` or `none`.

    Returns:
        How many contacts were written.

    Raises:
        ImportError: pyarrow is not installed.
        TypeError, ValueError, DownloadError, CorruptDownloadError: as for `read_arrow`; or two
            files of `source` would be written to one.
        OSError: a file can't be read or written.
    """
    require("arrow", "pyarrow")
    from sendgrid_exports.contents.arrow_batches import open_parts, open_reader, unite
    from sendgrid_exports.contents.parquet import write_files
    from sendgrid_exports.contents.parts import survey

    target, types = Path(path), dict(column_types or {})
    found = survey(find_files(source, export_id))
    schema = unite(found, types)
    if not one_file_per_part:
        reader = open_reader(found, schema, types)
        return write_files([(target, reader)], schema, compression)
    paths = [target / f"{part.file.path.name.partition('.')[0]}.parquet" for part in found]
    if len(set(paths)) < len(paths):
        raise ValueError("several files of source have one name: write them one by one")
    target.mkdir(parents=True, exist_ok=True)
    batches = open_parts(found, schema, types)
    return write_files(list(zip(paths, batches, strict=True)), schema, compression)
