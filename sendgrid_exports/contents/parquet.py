"""Arrow batches to Parquet files that are whole or not there. Blocking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet

from sendgrid_exports.bucket import Bucket
from sendgrid_exports.contents.batches import FILES_AT_ONCE, Pieces
from sendgrid_exports.disk import naming, publish

__all__ = ["write_files"]

_PART = 5 * 1024 * 1024
_PARTS = 2
_ROW_GROUP = 16 * 1024
# A dictionary of texts that all differ takes time and space, and saves nothing.
_ALL_DIFFER = {"EMAIL", "CONTACT_ID"}


def write_files(
    place: Path | Bucket, files: Sequence[tuple[str, Pieces]], schema: pa.Schema, compression: str
) -> int:
    """Write files of these names into a directory or a bucket; return how many rows they have.

    On disk all of them get their names when all are written, in a bucket each when it is whole.

    Raises:
        DownloadError: the bucket can't be used.
        OSError: the disk refuses.
    """
    with ExitStack() as stack:

        def write(name: str, pieces: Pieces) -> int:
            if isinstance(place, Bucket):
                with place.writing(name, part=_PART, parts=_PARTS) as file:
                    return _write_file(file, pieces, schema, compression)
            path = place / name
            part = path.with_name(f"{path.name}.part")
            stack.callback(part.unlink, missing_ok=True)
            with naming(part):
                rows = _write_file(part, pieces, schema, compression)
            written.append((part, path))
            return rows

        written: list[tuple[Path, Path]] = []
        with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="sendgrid-exports") as pool:
            rows = sum(pool.map(write, *zip(*files, strict=True)) if files else ())
        for part, path in written:
            publish(part, path)
    return rows


def _write_file(file: Path | BinaryIO, pieces: Pieces, schema: pa.Schema, compression: str) -> int:
    rows = 0
    repeated = [name for name in schema.names if name not in _ALL_DIFFER]
    with pyarrow.parquet.ParquetWriter(
        file, schema, compression=compression, use_dictionary=repeated
    ) as writer:
        for group in _groups(pieces):
            pa.default_memory_pool().release_unused()
            rows += group.num_rows
            writer.write_table(group)
    return rows


def _groups(pieces: Pieces) -> Iterator[pa.Table]:
    group: list[pa.Table] = []
    for piece in pieces:
        group.append(piece)
        if sum(part.num_rows for part in group) >= _ROW_GROUP:
            yield pa.concat_tables(group)
            group = []
    if group:
        yield pa.concat_tables(group)
