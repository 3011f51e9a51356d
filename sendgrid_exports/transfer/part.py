"""The part files of one download: writing, syncing, and the journal of what is durable.

Data is synced before the journal says so, every 8 MiB of a file or every second, whichever
comes first. At most that much is downloaded again after a crash.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from sendgrid_exports.disk import Disk, PartFile, size_of, truncate, write_file
from sendgrid_exports.transfer.answers import Expected, Version
from sendgrid_exports.transfer.checking import is_gzip
from sendgrid_exports.transfer.file import Copy, File
from sendgrid_exports.transfer.folder import Folder
from sendgrid_exports.transfer.journal import Record
from sendgrid_exports.transfer.pieces import Piece
from sendgrid_exports.transfer.progress import Progress
from sendgrid_exports.transfer.together import Group
from sendgrid_exports.transfer.transfer import Transfer


class Parts:
    """The part files of one download."""

    def __init__(self, transfer: Transfer, folder: Folder, progress: Progress) -> None:
        self._clock = transfer.means.clock
        self._limits = transfer.means.policy.limits
        self._disk: Disk = transfer.means.disk
        self._folder = folder
        self._progress = progress

    def path(self, file: File) -> Path:
        """Return the path of a file's part file."""
        return self._folder.names.part(file.number)

    @asynccontextmanager
    async def open(self, file: File, piece: Piece, syncs: Group) -> AsyncIterator[OpenPart]:
        """Open the part file to write a piece; syncs run in the group `syncs` meanwhile."""
        path = self.path(file)
        part = OpenPart(self, file, piece, self._disk.part(path, piece.position), syncs)
        try:
            yield part
        finally:
            await part.close()
            self._sync_if_due(file, syncs)
        if piece.position == 0:
            # Even an empty file has a part file, to be published.
            await self._disk.run(write_file, path, memoryview(b""))

    async def write_whole(self, file: File, data: memoryview) -> None:
        """Write all of a file at once, durably; the journal names it only if it is left so."""
        await self._disk.run(write_file, self.path(file), data)

    def written(self, file: File, start: int, end: int, syncs: Group) -> None:
        """Note that bytes are in the part file, and sync it if that is due."""
        copy = file.copy
        copy.pieces.written.add(start, end)
        copy.grown.set()
        self._progress.written(copy, end - start)
        self._sync_if_due(file, syncs)

    def _sync_if_due(self, file: File, syncs: Group) -> None:
        if self._is_due(file.copy):
            file.copy.syncing = True
            syncs.create_task(self._sync(file, file.copy))

    def _is_due(self, copy: Copy) -> bool:
        if copy.version is None or copy.syncing or copy.pieces.complete:
            return False
        unsynced = copy.pieces.written.size - copy.durable
        waited = self._clock.monotonic() - copy.synced_at
        return unsynced >= self._limits.sync_bytes or (
            unsynced > 0 and waited >= self._limits.sync_seconds
        )

    async def _sync(self, file: File, copy: Copy) -> None:
        """Make the bytes written so far durable, then say so in the journal."""
        copy.synced_at = self._clock.monotonic()
        record = self._record(file, copy.pieces.written.as_list())
        size = copy.pieces.written.size
        copy.journaled = True
        try:
            await self._folder.record(record, synced=self.path(file))
        finally:
            copy.syncing = False
        self._progress.synced(copy, size)

    async def keep(self, file: File) -> None:
        """Make durable what has arrived of a file that is left in the middle."""
        copy = file.copy
        if copy.version is not None and copy.pieces.written.size > copy.durable:
            # The error that ended the download is the one to report.
            with contextlib.suppress(OSError):
                await self._sync(file, copy)

    async def drop(self, file: File) -> None:
        """Drop what is on disk of a file; the journal first, so that it never claims too much."""
        self._progress.ended(file.copy)
        if file.copy.journaled:
            await self._folder.record(self._record(file, []))
        await self._disk.run(truncate, self.path(file))

    async def resume(self, files: Iterable[File]) -> None:
        """Start the files from what an earlier run left of them."""
        useless = []
        for file in files:
            record = self._folder.journal.get(file.number)
            if record is None or not await self._take_up(file, record):
                useless.append(self.path(file))
        await self._disk.run(_truncate_all, useless)

    async def _take_up(self, file: File, record: Record) -> bool:
        copy = file.copy
        known = self._folder.manifest.links[file.number - 1]
        size = await self._disk.run(size_of, self.path(file))
        if not is_usable(record, link=known, size=size):
            await self._folder.record(attrs.evolve(record, link=known, done=()))
            return False
        copy.pieces.resume(record.total, list(record.done))
        copy.version = Version(etag=record.etag, total=record.total)
        copy.expected = Expected(size=record.total, md5=record.md5, checksums=record.checksums)
        copy.received = copy.durable = copy.pieces.written.size
        copy.synced_at = self._clock.monotonic()
        copy.journaled = True
        if copy.pieces.written.prefix:
            file.compressed = await self._disk.run(is_gzip, self.path(file))
        self._progress.discovered(copy)
        return True

    def _record(self, file: File, done: list[tuple[int, int]]) -> Record:
        copy = file.copy
        assert copy.version is not None
        return Record(
            number=file.number,
            link=self._folder.manifest.links[file.number - 1],
            etag=copy.version.etag,
            total=copy.version.total,
            md5=copy.expected.md5,
            checksums=dict(copy.expected.checksums),
            done=tuple(done),
        )


class OpenPart:
    """The part file of a file, open for one piece."""

    def __init__(
        self, parts: Parts, file: File, piece: Piece, part: PartFile, syncs: Group
    ) -> None:
        self._parts = parts
        self._file = file
        self._piece = piece
        self._part = part
        self._syncs = syncs

    async def write(self, block: memoryview) -> None:
        """Write the block that the piece has just taken.

        Raises:
            OSError: the disk failed.
        """
        end = self._piece.position
        if len(block) == self._file.copy.pieces.total:
            await self._parts.write_whole(self._file, block)
        else:
            await self._part.write(block)
        self._parts.written(self._file, end - len(block), end, self._syncs)

    async def close(self) -> None:
        """Close the file."""
        await self._part.close()


def is_usable(record: Record, *, link: str, size: int) -> bool:
    """Whether a download can resume from `record`: same file, and its bytes are on disk.

    Args:
        record: what the journal says.
        link: the file's link without query, as the manifest has it.
        size: the size of the part file, in bytes.
    """
    done = [end for _, end in record.done]
    return record.link == link and bool(record.etag) and bool(done) and size >= max(done)


def _truncate_all(parts: Iterable[Path]) -> None:
    for part in parts:
        truncate(part)
