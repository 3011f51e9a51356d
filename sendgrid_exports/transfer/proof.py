"""Proving a file while it arrives: the checks follow the bytes as they are written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sendgrid_exports.disk import Disk, size_of
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.checks import Checked, CheckFailedError, Checks
from sendgrid_exports.transfer.reading import feed_range, measure, reread
from sendgrid_exports.transfer.request import IncomingFile

__all__ = ["prove"]

# Less than a turn, so that files which wait for theirs are not open.
_STEP = 8 * 1024 * 1024


async def prove(
    file: IncomingFile, part: Path, disk: Disk, verify: Verify
) -> Callable[[], Checked] | CheckFailedError:
    """Return how to conclude what `file` proves, once it is complete, or what it fails before.

    To conclude blocks, and raises `CheckFailedError`.
    """
    checked = 0
    checks = Checks(verify, file.expected, first=file.number == 1, reread=reread(part))
    try:
        while not (file.pieces.complete and checked == file.pieces.total):
            prefix = file.pieces.written.prefix
            if prefix == checked:
                file.grown.clear()
                await file.grown.wait()
            elif verify is Verify.LENGTH:
                checked = prefix
            else:
                step = min(prefix, checked + _STEP)
                await disk.run_long(feed_range(part, checks, checked, step))
                checked = step
    except CheckFailedError as error:
        return error
    return partial(_conclude, part, checks, checked, verify)


def _conclude(part: Path, checks: Checks, checked: int, verify: Verify) -> Checked:
    if verify is Verify.LENGTH:
        measure(part, checks)
    size = size_of(part)
    if size != checked:
        raise CheckFailedError(f"it has {size} bytes on disk, and {checked} arrived")
    return checks.finish()
