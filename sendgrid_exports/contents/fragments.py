"""The files of an export as Arrow tables of one schema, each to be read where its reader runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from sendgrid_exports.bucket_files import BucketFile
from sendgrid_exports.contents.files import Source, find_files, require

if TYPE_CHECKING:
    import pyarrow as pa

    from sendgrid_exports.contents.batches import Table


@attrs.frozen
class ArrowFile:
    """A file of an export, which can be pickled and read in another process.

    Attributes:
        schema: the schema of the whole export, which the file is read with.
    """

    schema: pa.Schema = attrs.field(repr=False)
    _table: Table
    _column_types: Mapping[str, pa.DataType] = attrs.field(repr=False)

    @property
    def version(self) -> tuple[object, ...]:
        """What another version of the file differs in."""
        file = self._table.path
        if isinstance(file, BucketFile):
            return str(file), file.stored.etag
        status = file.stat()
        return status.st_size, status.st_mtime_ns

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the contacts of the file, with all columns or only `columns` in that order.

        Raises:
            ValueError, CorruptDownloadError, OSError: as for `read_arrow`.
        """
        import pyarrow as pa

        from sendgrid_exports.contents.batches import read_table

        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        # Columns that are not asked for are dropped piece by piece, so that they take no memory.
        pieces = read_table(self._table, self.schema, self._column_types)
        return pa.concat_tables([schema.empty_table(), *(piece.select(names) for piece in pieces)])


def split_arrow(
    source: Source,
    *,
    export_id: str | None = None,
    column_types: Mapping[str, pa.DataType] | None = None,
) -> tuple[pa.Schema, list[ArrowFile]]:
    """Return the schema that `read_arrow` has for `source`, and each file to be read by itself.

    Only the header of a CSV file is read here, but an NDJSON file from end to end.

    Raises:
        ImportError, TypeError, ValueError, DownloadError, CorruptDownloadError, OSError: as for
            `read_arrow`.
    """
    require("arrow", "pyarrow")
    from sendgrid_exports.contents.batches import survey, unite

    types = dict(column_types or {})
    # The reader may be in another directory.
    tables = survey(
        file.absolute() if isinstance(file, Path) else file
        for file in find_files(source, export_id)
    )
    schema = unite(tables, types)
    return schema, [ArrowFile(schema, table, types) for table in tables]
