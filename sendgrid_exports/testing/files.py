"""The files the storage serves: on disk, written and read by threads of our own.

A file is written in one pass with bounded memory, and read in pieces that are opened, read and
closed within one job, so that an abandoned request leaves no open file behind.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import math
import operator
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import attrs

from sendgrid_exports.testing.contacts import CSV_COLUMNS, csv_values, make_contacts

__all__ = ["ContactFiles", "Spool", "SpooledFile"]

_T = TypeVar("_T")
_BATCH: Final = 1 << 18
_JSON: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))
_GZIP: Final = 16 + zlib.MAX_WBITS


@attrs.frozen
class SpooledFile:
    """One file on disk: its digests are those of the raw bytes."""

    path: Path
    size: int
    md5: str
    sha256: str
    crc32: str


@attrs.frozen(kw_only=True)
class ContactFiles:
    """An order for generated files: contacts, in `files` even parts of at most `max_size` bytes.

    `max_size` is that of the text before compression; None sets no limit.
    """

    contacts: int
    files: int
    file_type: str
    compressed: bool
    repeat_header: bool
    seed: int
    start: int = 0
    max_size: int | None = None

    def parts(self) -> Iterator[Iterator[bytes]]:
        """Yield each file as the iterator of its lines; use one up before taking the next."""
        for _, lines in itertools.groupby(self._numbered_lines(), key=operator.itemgetter(0)):
            yield (line for _, line in lines)

    def _numbered_lines(self) -> Iterator[tuple[int, bytes]]:
        header = _csv_line(list(CSV_COLUMNS)) if self.file_type == "csv" else b""
        longest = math.inf if self.max_size is None else self.max_size
        share, rest = divmod(self.contacts, max(1, self.files))
        part, start = 0, self.start
        for number in range(self.files):
            count = share + (number < rest)
            # An empty line stands for a header, so that a part without one is a file too.
            part, top = part + 1, header if part == 0 or self.repeat_header else b""
            yield part, top
            size = len(top)
            for line in self._lines(count, start):
                if size + len(line) > longest and size > len(top):
                    part, top = part + 1, header if self.repeat_header else b""
                    yield part, top
                    size = len(top)
                size += len(line)
                yield part, line
            start += count

    def _lines(self, count: int, start: int) -> Iterator[bytes]:
        contacts = make_contacts(count, seed=self.seed, start=start)
        if self.file_type == "csv":
            return (_csv_line(csv_values(contact)) for contact in contacts)
        return (_json_line(contact) for contact in contacts)


def _csv_line(values: list[str]) -> bytes:
    """Quote every value as SendGrid does; an empty one is nothing at all."""
    if '"' in "".join(values):
        values = [value.replace('"', '""') for value in values]
    return (",".join([f'"{value}"' if value else "" for value in values]) + "\n").encode()


def _json_line(contact: dict[str, Any]) -> bytes:
    return (_JSON.encode(contact) + "\n").encode()


class Spool:
    """A temporary directory and the threads that work in it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="fake-sendgrid")
        self._jobs: set[Future[Any]] = set()
        self._generated: dict[ContactFiles, Future[tuple[SpooledFile, ...]]] = {}
        self._numbers = itertools.count(1)
        self._closing = False
        self.directory = Path()

    async def open(self) -> None:
        """Make the directory."""
        self.directory = Path(await self._run(tempfile.mkdtemp, "", "fake-sendgrid-"))

    async def close(self) -> None:
        """End the jobs under way, remove the directory and let the threads go."""
        self._closing = True
        await asyncio.gather(*map(asyncio.wrap_future, tuple(self._jobs)), return_exceptions=True)
        await self._run(shutil.rmtree, self.directory)
        self._pool.shutdown(wait=False)

    async def write_contacts(self, order: ContactFiles) -> tuple[SpooledFile, ...]:
        """Return the files of `order`; equal orders share their files."""
        job = self._generated.get(order)
        if job is None:
            job = self._generated[order] = self._submit(self._write_contacts, order)
        # A cancelled request must not take the files from the others that wait for them.
        return await asyncio.shield(asyncio.wrap_future(job))

    async def write(self, body: bytes) -> SpooledFile:
        """Store `body` as it is."""
        return await self._run(self._write, [body], False)

    async def read(self, file: SpooledFile, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on, fewer at the end."""
        return await self._run(_read, file.path, start, size)

    async def _run(self, work: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.wrap_future(self._submit(work, *arguments))

    def _submit(self, work: Callable[..., _T], *arguments: object) -> Future[_T]:
        job = self._pool.submit(work, *arguments)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    def _write_contacts(self, order: ContactFiles) -> tuple[SpooledFile, ...]:
        return tuple(self._write(lines, order.compressed) for lines in order.parts())

    def _write(self, lines: Iterable[bytes], compressed: bool) -> SpooledFile:
        path = self.directory / f"{next(self._numbers):06d}"
        with path.open("wb") as file:
            sink = _Sink(file)
            deflate = zlib.compressobj(1, zlib.DEFLATED, _GZIP) if compressed else None
            for batch in _batches(lines):
                if self._closing:
                    raise RuntimeError("the FakeSendGrid was closed before its files were written")
                sink.write(deflate.compress(batch) if deflate else batch)
            if deflate:
                sink.write(deflate.flush())
        return SpooledFile(
            path,
            sink.size,
            sink.md5.hexdigest(),
            base64.b64encode(sink.sha256.digest()).decode(),
            base64.b64encode(sink.crc32.to_bytes(4, "big")).decode(),
        )


class _Sink:
    """A file being written, and its digests."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.md5 = hashlib.md5()
        self.sha256 = hashlib.sha256()
        self.crc32 = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)
        self.md5.update(data)
        self.sha256.update(data)
        self.crc32 = zlib.crc32(data, self.crc32)


def _batches(lines: Iterable[bytes]) -> Iterator[bytes]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= _BATCH:
            yield b"".join(batch)
            batch, size = [], 0
    yield b"".join(batch)


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)
