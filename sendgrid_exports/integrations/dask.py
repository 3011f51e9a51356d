"""The contacts of an export as a Dask DataFrame; needs the extra `dask`.

    frame = read_dask("exports/")
    frame.groupby("COUNTRY").size().compute()

For an export that one machine reads too slowly or can't hold. `read_arrow` reads the same contacts
on one machine, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sendgrid_exports.contents.files import Source, require
from sendgrid_exports.contents.fragments import ArrowFile, split_arrow

if TYPE_CHECKING:
    import dask.dataframe as dd
    import pandas as pd
    import pyarrow as pa

__all__ = ["read_dask"]


def read_dask(
    source: Source,
    *,
    export_id: str | None = None,
    column_types: Mapping[str, pa.DataType] | None = None,
    columns: Sequence[str] | None = None,
) -> dd.DataFrame:
    """Return the contacts as a Dask DataFrame with one partition per file.

    Columns, their types and values are those of `read_arrow`, as `pandas.ArrowDtype`. The headers
    of all files are read at once (of NDJSON, all of every file), the contacts by the workers, which
    must see the files under the same paths. A worker holds a whole file as plain text: start the
    export with a `max_file_size` that fits, or with one that makes a file for each worker.

    Args:
        source: a finished download, a path, several paths, a directory or a bucket.
        export_id: which export, where the directory holds several.
        column_types: types of columns by name, for custom fields that are not text; an empty
            text is a null there.
        columns: the columns to keep, in this order; None keeps all. Dask itself adds what it
            knows of the columns that a computation needs, so that no others are kept.

    Raises:
        ImportError: Dask, pandas or pyarrow is not installed.
        TypeError: `source` is not something that can be read.
        ValueError: `source` names nothing or several exports, or `columns` or `column_types` a
            column that no file has.
        DownloadError: the export is not in the directory, or not all of it.
        CorruptDownloadError: a file is broken, which may only show in a worker.
        OSError: a file can't be read.
    """
    require("dask", "dask", "pandas", "pyarrow")
    import dask
    import dask.dataframe as dd

    schema, files = split_arrow(source, export_id=export_id, column_types=column_types)
    names = schema.names if columns is None else list(columns)
    if unknown := set(names) - set(schema.names):
        raise ValueError(f"columns names {min(unknown)!r}, a column that no file has")
    meta = _to_pandas(schema.empty_table())
    # Dask would make another type of the texts than the one that `meta` promises.
    with dask.config.set({"dataframe.convert-string": False}):
        if not files:
            return dd.from_pandas(meta[names], npartitions=1)
        # Dask computes a file once as long as it is known by the same arguments.
        versions = [file.version for file in files]
        return dd.from_map(
            _read, files, versions, columns=columns and names, meta=meta, label="read-dask"
        )


def _read(
    file: ArrowFile, version: tuple[object, ...], columns: list[str] | None = None
) -> pd.DataFrame:
    return _to_pandas(file.read(columns))


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    import pandas as pd

    return table.to_pandas(types_mapper=pd.ArrowDtype)
