"""Arrow batches to Parquet files that are whole or not there. Blocking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from sendgrid_exports.contents.batches import FILES_AT_ONCE, Pieces
from sendgrid_exports.disk import naming, publish

__all__ = ["write_files"]

_ROW_GROUP = 16 * 1024
# A dictionary of texts that all differ takes time and space, and is of no use.
_ALL_DIFFER = {"EMAIL", "CONTACT_ID"}


def write_files(files: Sequence[tuple[Path, Pieces]], schema: pa.Schema, compression: str) -> int:
    """Write each file, then give all of them their names; return how many rows they have.

    Raises:
        OSError: the disk refuses.
    """
    parts = [path.with_name(f"{path.name}.part") for path, _ in files]

    def write(part: Path, pieces: Pieces) -> int:
        return _write_file(part, pieces, schema, compression)

    try:
        with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="sendgrid-exports") as pool:
            rows = sum(pool.map(write, parts, [pieces for _, pieces in files]))
        for part, (path, _) in zip(parts, files, strict=True):
            publish(part, path)
    except BaseException:
        for part in parts:
            part.unlink(missing_ok=True)
        raise
    return rows


def _write_file(path: Path, pieces: Pieces, schema: pa.Schema, compression: str) -> int:
    rows = 0
    repeated = [name for name in schema.names if name not in _ALL_DIFFER]
    with (
        naming(path),
        pyarrow.parquet.ParquetWriter(
            path, schema, compression=compression, use_dictionary=repeated
        ) as writer,
    ):
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
