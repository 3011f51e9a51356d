"""Files on disk: checking one that is there or one that grows, inflating, compressing."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sendgrid_exports.disk import Disk, Steps, naming, size_of
from sendgrid_exports.errors import CorruptDownloadError
from sendgrid_exports.formats.gunzip import GZIP_MAGIC, BrokenGzipError, PlainText
from sendgrid_exports.formats.kinds import BEGINNING
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.answers import Expected
from sendgrid_exports.transfer.checks import Checked, CheckFailedError, Checks, Reread
from sendgrid_exports.transfer.file import File
from sendgrid_exports.transfer.manifest import FileEntry
from sendgrid_exports.transfer.target import AnyFile

# However much a block of gzip inflates to, it is soon done.
_READ = 256 * 1024


async def follow(file: File, part: Path, disk: Disk, verify: Verify) -> Checked:
    """Check the file at `part` while it is written; return what was checked once it is complete.

    Raises:
        CheckFailedError: it fails a check.
    """
    copy = file.copy
    checks: Checks | None = None
    checked = 0
    while True:
        complete, prefix = copy.pieces.complete, copy.pieces.written.prefix
        if complete or (prefix > checked and verify is not Verify.LENGTH):
            if checks is None:
                first = file.number == 1
                checks = Checks(verify, copy.expected, first=first, reread=reread(part))
            steps = _check_on(part, checks, verify, checked, prefix, last=complete)
            if (result := await disk.run_long(steps)) is not None:
                return result
            checked = prefix
        else:
            copy.grown.clear()
            await copy.grown.wait()


def _check_on(
    path: Path, checks: Checks, verify: Verify, start: int, end: int, *, last: bool
) -> Steps[Checked | None]:
    """Check the bytes from `start` to before `end`; return the result if they are the `last`."""
    if verify is Verify.LENGTH:
        measure(path, checks)
    elif start < end:
        yield from feed_range(path, checks, start, end)
    if not last:
        return None
    if (size := size_of(path)) != end:
        raise CheckFailedError(f"it has {size} bytes on disk, and {end} arrived")
    return checks.finish()


def check_entry(file: AnyFile, entry: FileEntry, verify: Verify) -> Steps[Checked | None]:
    """Return what the checks of a finished file found; None if it fails one, or was replaced."""
    expected = Expected(size=entry.size)
    try:
        return (yield from check_file(file, verify, expected, first=entry.number == 1))
    except (CheckFailedError, CorruptDownloadError):
        return None


def check_file(file: AnyFile, verify: Verify, expected: Expected, *, first: bool) -> Steps[Checked]:
    """Return what the checks of `file` found; `first`: whether it is the export's first file.

    Raises:
        CheckFailedError: it fails a check.
    """
    checks = Checks(verify, expected, first=first, reread=reread(file))
    if verify is Verify.LENGTH:
        measure(file, checks)
    else:
        yield from feed_range(file, checks, 0, None)
    return checks.finish()


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip does."""
    with naming(path), path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def measure(path: AnyFile, checks: Checks) -> None:
    """Give `checks` the file's size and first bytes alone."""
    with naming(path), path.open("rb") as file:
        beginning = file.read(BEGINNING)
        checks.measure(file.seek(0, os.SEEK_END), beginning)


def feed_range(path: AnyFile, checks: Checks, start: int, end: int | None) -> Steps[None]:
    """Feed the bytes from `start` to before `end`, or to the file's end, to `checks`."""
    with naming(path), path.open("rb") as file:
        file.seek(start)
        for data in _blocks(file, path, None if end is None else end - start):
            yield from checks.take(data)
            yield


def reread(path: AnyFile) -> Reread:
    """Return a function that yields the first so many bytes of the file at `path`."""

    def blocks(size: int) -> Iterator[bytes]:
        with path.open("rb") as file:
            yield from _blocks(file, path, size)

    return blocks


def inflate(source: Path, target: Path) -> Steps[None]:
    """Write the plain text of a gzip file.

    Raises:
        BrokenGzipError: it is not whole gzip.
    """
    try:
        yield from _inflate(source, target, fast=True)
    except BrokenGzipError:
        # isal refuses some valid files, so zlib decides.
        yield from _inflate(source, target, fast=False)


def _inflate(source: Path, target: Path, *, fast: bool) -> Steps[None]:
    text = PlainText(fast=fast)
    with source.open("rb", buffering=0) as raw, naming(target), target.open("wb") as plain:
        for data in _blocks(raw, source):
            for piece in text.feed(data):
                plain.write(piece)
                yield
        for piece in text.finish():
            plain.write(piece)


def compress(source: Path, target: Path) -> Steps[None]:
    """Write a gzip file of a plain one."""
    # No name and no time in the header: the same contacts give the same bytes.
    with (
        source.open("rb", buffering=0) as plain,
        naming(target),
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, compresslevel=6, mtime=0) as gzipped,
    ):
        for data in _blocks(plain, source):
            gzipped.write(data)
            yield


def _blocks(file: BinaryIO, path: AnyFile, size: int | None = None) -> Iterator[bytes]:
    """Yield what is in `file` at `path` from where it stands, at most `size` bytes."""
    left = math.inf if size is None else size
    while left > 0:
        with naming(path):
            data = file.read(int(min(_READ, left)))
        if not data:
            return
        yield data
        left -= len(data)
