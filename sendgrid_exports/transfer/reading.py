"""Reading files on disk: to prove them, and to write them again in the other form. Blocking."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path

from sendgrid_exports.disk import Steps
from sendgrid_exports.formats.gunzip import GZIP_MAGIC, BrokenGzipError, PlainText
from sendgrid_exports.formats.kinds import BEGINNING
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.answers import Expected
from sendgrid_exports.transfer.checks import Checked, Checks, Reread

__all__ = ["compress", "feed_range", "inflate", "is_gzip", "measure", "prove_file", "reread"]

# However much a block of gzip inflates to, it is soon done.
_READ = 256 * 1024


def prove_file(path: Path, verify: Verify, expected: Expected, *, first: bool) -> Steps[Checked]:
    """Return what the file at `path` proves.

    Raises:
        CheckFailedError: it fails a check.
    """
    checks = Checks(verify, expected, first=first, reread=reread(path))
    if verify is Verify.LENGTH:
        measure(path, checks)
    else:
        yield from feed_range(path, checks, 0, None)
    return checks.finish()


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip does."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def measure(path: Path, checks: Checks) -> None:
    """Give `checks` the file's size and first bytes alone."""
    with path.open("rb") as file:
        checks.measure(path.stat().st_size, file.read(BEGINNING))


def feed_range(path: Path, checks: Checks, start: int, end: int | None) -> Steps[None]:
    """Feed the bytes from `start` to before `end`, or to the file's end, to `checks`."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        for data in _blocks(file, None if end is None else end - start):
            yield from checks.take(data)
            yield


def reread(path: Path) -> Reread:
    """Return a function that yields the first so many bytes of the file at `path`."""

    def blocks(size: int) -> Iterator[bytes]:
        with path.open("rb", buffering=0) as file:
            yield from _blocks(file, size)

    return blocks


def inflate(source: Path, target: Path) -> Steps[None]:
    """Write the plain text of a gzip file.

    Raises:
        BrokenGzipError: it is not whole gzip.
    """
    try:
        yield from _inflate(source, target, fast=True)
    except BrokenGzipError:
        yield from _inflate(source, target, fast=False)


def _inflate(source: Path, target: Path, *, fast: bool) -> Steps[None]:
    text = PlainText(fast=fast)
    with source.open("rb", buffering=0) as raw, target.open("wb") as plain:
        for data in _blocks(raw):
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
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, compresslevel=6, mtime=0) as gzipped,
    ):
        for data in _blocks(plain):
            gzipped.write(data)
            yield


def _blocks(file: RawIOBase, size: int | None = None) -> Iterator[bytes]:
    """Yield what is in `file` from where it stands, at most `size` bytes."""
    left = math.inf if size is None else size
    while left > 0 and (data := file.read(int(min(_READ, left)))):
        yield data
        left -= len(data)
