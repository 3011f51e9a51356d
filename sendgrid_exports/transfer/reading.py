"""Reading files on disk: to prove them, and to write them again in the other form. Blocking."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

from sendgrid_exports.formats.gunzip import GZIP_MAGIC, Gunzip
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.verify import Checked, Checks, Expected

__all__ = ["compress", "feed_range", "inflate", "is_gzip", "measure", "prove_file"]

_READ = 1024 * 1024


def prove_file(path: Path, verify: Verify, expected: Expected, kind: str) -> Checked:
    """Return what the file at `path` proves.

    Raises:
        CheckFailedError: it fails a check.
    """
    checks = Checks(verify, expected, kind)
    if verify is Verify.LENGTH:
        measure(path, checks)
    else:
        feed_range(path, checks, 0, None)
    return checks.finish()


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip does."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def measure(path: Path, checks: Checks) -> None:
    """Give `checks` the file's size and first bytes alone."""
    with path.open("rb") as file:
        checks.measure(path.stat().st_size, file.read(2))


def feed_range(path: Path, checks: Checks, start: int, end: int | None) -> None:
    """Feed the bytes from `start` to before `end`, or to the file's end, to `checks`."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while end is None or start < end:
            data = file.read(_READ if end is None else min(_READ, end - start))
            if not data:
                return
            start += len(data)
            checks.feed(data)


def inflate(source: Path, target: Path) -> None:
    """Write the plain text of a gzip file.

    Raises:
        BrokenGzipError: it is not whole gzip.
    """
    gunzip = Gunzip()
    with source.open("rb") as raw, target.open("wb") as plain:
        while data := raw.read(_READ):
            plain.writelines(gunzip.feed(data))
    gunzip.finish()


def compress(source: Path, target: Path) -> None:
    """Write a gzip file of a plain one."""
    # No name and no time in the header: the same contacts give the same bytes.
    with (
        source.open("rb") as plain,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, compresslevel=6, mtime=0) as gzipped,
    ):
        shutil.copyfileobj(plain, gzipped, _READ)
