"""The contacts of an export as Arrow batches, for every library that reads them, and as Parquet.

Blocking. pyarrow is the extra `arrow`, loaded when it is first used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sendgrid_exports.contents.files import Source, find_files, require
from sendgrid_exports.transfer.target import Target, read_target

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

    Text stays text: an empty value is an empty text, never a null. `CREATED_AT` and `UPDATED_AT`
    are `timestamp[us, UTC]`, null where empty or Go's zero time (0001-01-01T00:00:00Z), and
    `ALTERNATE_EMAILS` is a list of strings; every other column is of strings. Files whose columns
    differ are united by name, and what a file lacks is empty. The custom fields of NDJSON become
    columns of their own names; to know them, NDJSON is read twice. Of several columns of one name
    the first keeps it, the second is called `NAME (2)`; names that differ in case alone are
    different names. Two files are read at a time, so that the next one is ready in time.

    Args:
        source: a finished download, a path, several paths, a directory or a bucket.
        export_id: which export, where the directory holds several.
        column_types: types of columns by name, for custom fields that are not text; an empty
            text is a null there.

    Returns:
        An iterable of `pyarrow.RecordBatch` with a `schema`; memory is bounded.

    Raises:
        ImportError: pyarrow is not installed.
        TypeError: `source` is not something that can be read.
        ValueError: `source` names nothing or several exports, `column_types` a column that is not
            there, or (while reading) a value is not of the type asked for.
        DownloadError: the export is not in the directory, or not all of it.
        CorruptDownloadError: a file is broken, which may only show while it is read.
        OSError: a file can't be read.
    """
    require("arrow", "pyarrow")
    from sendgrid_exports.contents.batches import open_reader, survey, unite

    types = dict(column_types or {})
    tables = survey(find_files(source, export_id))
    return open_reader(tables, unite(tables, types), types)


def write_parquet(
    source: Source,
    path: Target,
    *,
    export_id: str | None = None,
    column_types: Mapping[str, pa.DataType] | None = None,
    one_file_per_part: bool = False,
    compression: str = "zstd",
) -> int:
    """Write the contacts as Parquet, with the schema of `read_arrow` and in bounded memory.

    A file appears under its name once it is whole, and replaces an older one; so does an object.

    Args:
        source: a finished download, a path, several paths, a directory or a bucket.
        path: the file, or the url of an object; with `one_file_per_part`, a directory, which is
            created if missing, or a bucket.
        export_id: which export, where the directory `source` holds several.
        column_types: as for `read_arrow`.
        one_file_per_part: write a file for each file of the export, with the same name.
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
    from sendgrid_exports.contents.batches import read_ahead, read_table, survey, unite
    from sendgrid_exports.contents.parquet import write_files

    target, types = read_target(path), dict(column_types or {})
    tables = survey(find_files(source, export_id))
    schema = unite(tables, types)
    contents = [read_table(table, schema, types) for table in tables]
    if not one_file_per_part:
        if target == target.parent:
            raise ValueError(f"path must name a file, and {target} has no name")
        return write_files(
            target.parent, [(target.name, read_ahead(contents))], schema, compression
        )
    names = [f"{table.path.name.partition('.')[0]}.parquet" for table in tables]
    if len(set(names)) < len(names):
        raise ValueError("source has several files of one name: write them one by one")
    if isinstance(target, Path):
        target.mkdir(parents=True, exist_ok=True)
    return write_files(target, list(zip(names, contents, strict=True)), schema, compression)
