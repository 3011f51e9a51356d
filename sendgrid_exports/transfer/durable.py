"""Keeping what arrived: when bytes are synced, what the journal says of them, what is resumed.

Data is synced before the journal says so, every 8 MiB of a file or every second, whichever
comes first. At most that much is fetched again after a crash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import attrs

from sendgrid_exports.disk import size_of, truncate
from sendgrid_exports.transfer.answers import Expected, Version
from sendgrid_exports.transfer.job import Job
from sendgrid_exports.transfer.journal import Record
from sendgrid_exports.transfer.reading import is_gzip
from sendgrid_exports.transfer.request import IncomingFile

__all__ = ["Durable"]

SYNC_BYTES = 8 * 1024 * 1024
SYNC_SECONDS = 1.0


class Durable:
    """The durable bytes of the files of one download."""

    def __init__(self, job: Job) -> None:
        self._folder = job.folder
        self._disk = job.disk
        self._clock = job.clock

    def is_due(self, file: IncomingFile) -> bool:
        """Whether enough was written, or enough time has passed, since the last sync began."""
        if file.version is None or file.syncing or file.pieces.complete:
            return False
        unsynced = file.pieces.written.size - file.durable
        waited = self._clock.monotonic() - file.synced_at
        return unsynced >= SYNC_BYTES or (unsynced > 0 and waited >= SYNC_SECONDS)

    async def sync(self, file: IncomingFile) -> None:
        """Make the bytes written so far durable, then say so in the journal."""
        record = self._record(file, file.pieces.written.as_list())
        size = file.pieces.written.size
        file.noted = True
        try:
            await self._folder.note(record, synced=self._folder.names.part(file.number))
        except FileNotFoundError:
            # Its last bytes came meanwhile, and it has its final name already.
            return
        file.durable = size

    async def keep(self, files: Iterable[IncomingFile]) -> None:
        """Make durable what has come of files that are left in the middle, as far as that works."""
        for file in files:
            if file.version is not None and file.pieces.written.size > file.durable:
                # What ended the download is what has to be told.
                with contextlib.suppress(OSError):
                    await self.sync(file)

    async def forget(self, file: IncomingFile) -> None:
        """Drop what is on disk of a file; the journal first, so that it never claims too much."""
        if file.noted:
            await self._folder.note(self._record(file, []))
            file.noted = False
            file.durable = 0
        await self._disk.run(truncate, self._folder.names.part(file.number))

    async def resume(self, files: Iterable[IncomingFile]) -> None:
        """Take up what an earlier run left of `files`."""
        parts = []
        for file in files:
            record = self._folder.journal.get(file.number)
            if record is None or not await self._take_up(file, record):
                parts.append(self._folder.names.part(file.number))
        await self._disk.run(_truncate_all, parts)

    async def _take_up(self, file: IncomingFile, record: Record) -> bool:
        known = self._folder.manifest.links[file.number - 1]
        part = self._folder.names.part(file.number)
        size = await self._disk.run(size_of, part)
        usable = record.link == known and record.etag and record.done
        if not usable or size < max(end for _, end in record.done):
            await self._folder.note(attrs.evolve(record, link=known, done=(), entry=None))
            return False
        file.pieces.resume(record.total, list(record.done))
        file.version = Version(etag=record.etag, total=record.total)
        file.expected = Expected(size=record.total, md5=record.md5, checksums=record.checksums)
        file.durable = file.pieces.written.size
        file.synced_at = self._clock.monotonic()
        file.noted = True
        if file.pieces.written.prefix:
            file.compressed = await self._disk.run(is_gzip, part)
        return True

    def _record(self, file: IncomingFile, done: list[tuple[int, int]]) -> Record:
        assert file.version is not None
        return Record(
            number=file.number,
            link=self._folder.manifest.links[file.number - 1],
            etag=file.version.etag,
            total=file.version.total,
            md5=file.expected.md5,
            checksums=dict(file.expected.checksums),
            done=tuple(done),
        )


def _truncate_all(parts: Iterable[Path]) -> None:
    for part in parts:
        truncate(part)
