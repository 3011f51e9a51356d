"""Arrow batches to Parquet files that are whole or not there. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from sendgrid_exports.disk import Threads, naming, publish

__all__ = ["write_files"]

_ROW_GROUP = 32 * 1024
# A dictionary of texts that all differ takes time and space, and is of no use.
_ALL_DIFFER = {"EMAIL", "CONTACT_ID"}


def write_files(
    files: list[tuple[Path, Iterator[pa.RecordBatch]]], schema: pa.Schema, compression: str
) -> int:
    """Write each file, then give all of them their names; return how many rows they have.

    Raises:
        OSError: the disk refuses.
    """
    started: list[tuple[Path, Path]] = []
    rows = 0
    try:
        for path, batches in files:
            part = path.with_name(f"{path.name}.part")
            started.append((part, path))
            rows += _write_file(part, batches, schema, compression)
        for part, path in started:
            publish(part, path)
    except BaseException:
        for part, _ in started:
            part.unlink(missing_ok=True)
        raise
    return rows


def _write_file(
    path: Path, batches: Iterator[pa.RecordBatch], schema: pa.Schema, compression: str
) -> int:
    rows = 0
    repeated = [name for name in schema.names if name not in _ALL_DIFFER]
    with (
        naming(path),
        pyarrow.parquet.ParquetWriter(
            path, schema, compression=compression, use_dictionary=repeated
        ) as writer,
        Threads(1, thread_name_prefix="sendgrid-exports-parquet") as thread,
    ):
        flight: Future[Any] | None = None
        for group in _groups(batches):
            rows += group.num_rows
            # One group is written while the next is read, and no third is in memory.
            if flight is not None:
                flight.result()
            flight = thread.submit(_write, writer, group)
        if flight is not None:
            flight.result()
    return rows


def _write(writer: Any, group: pa.Table) -> None:
    # What this thread has freed is of no use to the one that reads, and would be kept.
    pa.default_memory_pool().release_unused()
    writer.write_table(group, row_group_size=_ROW_GROUP)


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    group: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        group.append(batch)
        rows += batch.num_rows
        if rows >= _ROW_GROUP:
            yield pa.Table.from_batches(group)
            group, rows = [], 0
    if group:
        yield pa.Table.from_batches(group)
