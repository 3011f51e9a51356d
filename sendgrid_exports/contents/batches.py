"""Rows in batches for asyncio, made in a thread of their own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

from sendgrid_exports.contents.rows import Row, check_errors, read_rows
from sendgrid_exports.contents.sources import Source, find_files
from sendgrid_exports.disk import Disk
from sendgrid_exports.formats.text import Errors
from sendgrid_exports.settings import BATCH_SIZE

__all__ = ["check_batch_size", "read_contacts_async", "take"]


@asynccontextmanager
async def read_contacts_async(
    source: Source,
    *,
    export_id: str | None = None,
    errors: Errors = "strict",
    batch_size: int = BATCH_SIZE,
) -> AsyncIterator[AsyncIterator[list[Row]]]:
    """Open a download for reading in batches, while the event loop stays free.

        async with read_contacts_async("exports") as batches:
            async for batch in batches:
                ...

    Leaving the block closes the files, however many batches are left.

    Args:
        source: as for `read_contacts`.
        export_id: as for `read_contacts`.
        errors: as for `read_contacts`.
        batch_size: rows in a batch; the last one may have fewer, and none is empty.

    Raises:
        What `read_contacts` raises.
    """
    check_errors(errors)
    check_batch_size(batch_size)
    with Disk(1) as disk:
        rows = read_rows(await disk.run(find_files, source, export_id), errors)
        try:
            async with aclosing(_batches(rows, batch_size, disk)) as batches:
                yield batches
        finally:
            await disk.run(rows.close)


def check_batch_size(size: object) -> None:
    """Raise `TypeError` or `ValueError` for a size of batches that is none."""
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"batch_size must be a whole number, not {type(size).__name__}")
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, not {size}")


async def _batches(rows: Iterator[Row], size: int, disk: Disk) -> AsyncGenerator[list[Row], None]:
    while batch := await take(rows, size, disk):
        yield batch


async def take(rows: Iterator[Row], size: int, disk: Disk) -> list[Row]:
    """Return the next `size` rows, made in a thread; fewer only at their end."""
    batch: list[Row] = []
    # By and by, so that a cancellation waits for little, however large the batch is to be.
    while more := await disk.run(_next, rows, min(size - len(batch), BATCH_SIZE)):
        batch += more
        if len(batch) == size:
            break
    return batch


def _next(rows: Iterator[Row], size: int) -> list[Row]:
    return list(itertools.islice(rows, size))
