"""The files of an export as Arrow tables of one schema, each to be read where its reader runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from sendgrid_exports.contents.extras import require
from sendgrid_exports.contents.parts import Part, survey
from sendgrid_exports.contents.sources import Source, find_files

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ArrowFile", "split_arrow"]


@attrs.frozen
class ArrowFile:
    """A file of an export, which can be pickled and read in another process.

    Attributes:
        schema: the schema of the whole export, which the file is read with.
    """

    schema: pa.Schema = attrs.field(repr=False)
    _part: Part
    _column_types: Mapping[str, pa.DataType] = attrs.field(repr=False)

    @property
    def path(self) -> Path:
        """Return where the file is."""
        return self._part.file.path

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the contacts of the file, with all columns or only `columns` in that order.

        Raises:
            ValueError, CorruptDownloadError, OSError: as for `read_arrow`.
        """
        import pyarrow as pa

        from sendgrid_exports.contents.arrow_batches import open_reader

        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        reader = open_reader([self._part], self.schema, self._column_types)
        # Columns that are not asked for are dropped batch by batch, so that they take no memory.
        return pa.Table.from_batches((batch.select(names) for batch in reader), schema)


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
    from sendgrid_exports.contents.arrow_batches import unite

    types = dict(column_types or {})
    # The reader may be in another directory.
    files = find_files(source, export_id)
    parts = survey(attrs.evolve(file, path=file.path.absolute()) for file in files)
    schema = unite(parts, types)
    return schema, [ArrowFile(schema, part, types) for part in parts]
