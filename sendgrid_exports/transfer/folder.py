"""The directory of an export: lock, manifest, journal, and how files get their final names.

The manifest names a file before the file gets its name: sync the part file, write the manifest,
rename, sync the directory. After a crash in between, the part file is renamed by the next run.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import attrs

from sendgrid_exports.disk import (
    DISK_FULL,
    Disk,
    Steps,
    append,
    free_space,
    naming,
    replace_file,
    sync_directory,
    sync_file,
    sync_whole,
)
from sendgrid_exports.errors import (
    CorruptDownloadError,
    DownloadInProgressError,
    InsufficientDiskSpaceError,
    SendGridExportsError,
)
from sendgrid_exports.formats.gunzip import BrokenGzipError
from sendgrid_exports.models import ContactExport, DownloadedFile, DownloadResult
from sendgrid_exports.settings import DownloadPolicy, Verify
from sendgrid_exports.timing import Clock
from sendgrid_exports.transfer.answers import Expected, Version
from sendgrid_exports.transfer.checking import check_entry, check_file, compress, inflate
from sendgrid_exports.transfer.checks import Checked
from sendgrid_exports.transfer.journal import Record, read_journal, write_journal, write_record
from sendgrid_exports.transfer.lock import Lock
from sendgrid_exports.transfer.manifest import (
    FileEntry,
    Manifest,
    ManifestWriter,
    as_complete,
    as_found,
    check_again,
    downloaded,
    new_entry,
    read_manifest,
    with_check,
    with_files,
)
from sendgrid_exports.transfer.names import PROBE, Names, safe_name

logger = logging.getLogger(__name__)

_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT}
_SPACE_SECONDS = 1.0


@attrs.define(eq=False)
class _Publication:
    """A file that waits for its final name; `done` once it has it."""

    entry: FileEntry
    part: Path
    done: bool = False


class Folder:
    """The files of one export in one directory, while its lock is held.

    Attributes:
        names: the paths.
        manifest: what is there.
        journal: what an earlier run left of the unfinished files, by their number.
        kept: says what of the unfinished files is kept, for messages.
    """

    def __init__(
        self,
        names: Names,
        location: Path,
        lock: Lock,
        manifest: Manifest,
        journal: Mapping[int, Record],
        disk: Disk,
        clock: Clock,
    ) -> None:
        self.names = names
        self.manifest = manifest
        self.journal = journal
        self.kept: Callable[[], str] = lambda: "finished files are kept"
        self._location = location
        self._lock = lock
        self._disk = disk
        self._clock = clock
        self._recording = asyncio.Lock()
        # All that changes the manifest happens under this lock.
        self._saving = asyncio.Lock()
        self._publications: list[_Publication] = []
        self._writer = ManifestWriter()
        # Linux reports lost pages once: a second sync of these would succeed.
        self._lost: set[Path] = set()
        # A file that is half inflated takes descriptors and room.
        self._converting = asyncio.Semaphore(2)
        self._free: int | None = 0
        self._free_at = -math.inf

    async def save(self, change: Callable[[Manifest], Manifest]) -> None:
        """Change the manifest, on disk too."""
        async with self._saving:
            changed = change(self.manifest)
            if changed != self.manifest:
                await self._disk.run(self._write, changed)
                self.manifest = changed

    async def record(self, record: Record, *, synced: Path | None = None) -> None:
        """Append to the journal, durably; a file that has to be `synced` is so before.

        Raises:
            OSError: the disk failed; then nothing is recorded.
        """
        async with self._recording:
            await self._disk.run(self._append, record, synced)

    async def check_space(self, needed: int) -> None:
        """Check that the disk has room for `needed` more bytes.

        Raises:
            InsufficientDiskSpaceError: it does not.
        """
        now = self._clock.monotonic()
        # Thousands of small files need not each ask the disk.
        if now - self._free_at >= _SPACE_SECONDS or needed > (self._free or 0) / 2:
            self._free_at = now
            self._free = await self._disk.run(free_space, self.names.directory)
        # A disk that does not say how much room it has is tried.
        if self._free is not None and needed > self._free:
            raise InsufficientDiskSpaceError(
                f"The directory {self.names.directory} has {self._free:,} bytes free, and the "
                f"files of export {self.manifest.export_id} need {needed:,} more. Make room and "
                "fetch again with the same id; what is on disk is kept.",
                path=self.names.directory,
            )

    async def reconcile(self, policy: DownloadPolicy) -> None:
        """Keep of the manifest what the disk confirms, in the form that `policy` asks for."""
        found: dict[int, FileEntry | None] = {}
        try:
            for entry in self.manifest.files:
                found[entry.number] = await self._disk.run_long(self._confirm(entry, policy))
        finally:
            if found:
                await self.save(lambda known: as_found(known, found))
        for entry in self.manifest.files:
            if is_in_other_form(entry, policy):
                await self._publish_converted(entry, self.names.directory / entry.name, policy)
        if self.manifest.state == "complete":
            await self.finish()

    async def publish(
        self,
        number: int,
        kind: str,
        checked: Checked,
        version: Version | None,
        policy: DownloadPolicy,
    ) -> DownloadedFile:
        """Give a part file its final name and enter it in the manifest.

        Raises:
            CorruptDownloadError: it was to be inflated, and is broken gzip.
            DownloadInProgressError: another process took the lock meanwhile.
            OSError: the disk failed.
        """
        part = self.names.part(number)
        final = self.names.final(number, checked.kind or kind, compressed=checked.compressed)
        entry = new_entry(number, final.name, checked, version=version, verify=policy.verify)
        if not is_in_other_form(entry, policy):
            return self.file(await self._publish(entry, part))
        return self.file(await self._publish_converted(entry, part, policy))

    async def _publish_converted(
        self, entry: FileEntry, source: Path, policy: DownloadPolicy
    ) -> FileEntry:
        """Inflate or compress a file, as `policy` asks, and publish that in its place."""
        try:
            async with self._converting:
                converted = await self._disk.run_long(self._convert(entry, source, policy))
        except BrokenGzipError as error:
            await self.save(lambda known: as_found(known, {entry.number: None}))
            await self._disk.run(source.unlink, missing_ok=True)
            raise CorruptDownloadError(
                f"{entry.name} can't be inflated: {error}. Fetch again, or download it as it is, "
                "without decompress.",
                path=self.names.directory / entry.name,
            ) from None
        published = await self._publish(converted, self.names.converted(entry.number))
        await self._disk.run(source.unlink, missing_ok=True)
        return published

    def _convert(self, entry: FileEntry, source: Path, policy: DownloadPolicy) -> Steps[FileEntry]:
        part = self.names.converted(entry.number)
        final = self.names.final(entry.number, _kind(entry), compressed=not policy.decompress)
        level = Verify.LENGTH if policy.verify is Verify.LENGTH else Verify.CHECKSUM
        try:
            yield from (inflate if policy.decompress else compress)(source, part)
            checked = yield from check_file(part, level, Expected(), first=entry.number == 1)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return attrs.evolve(
            entry,
            name=final.name,
            size=checked.size,
            sha256=checked.sha256,
            compressed=not policy.decompress,
        )

    async def _publish(self, entry: FileEntry, part: Path) -> FileEntry:
        """Publish a file, together with all others that wait for it."""
        await self._disk.run(self._sync, part, sync_whole)
        publication = _Publication(entry, part)
        self._publications.append(publication)
        try:
            async with self._saving:
                if not publication.done:
                    waiting = [one for one in self._publications if not one.done]
                    await self._disk.run(self._publish_all, waiting)
        finally:
            self._publications.remove(publication)
        return publication.entry

    def _publish_all(self, publications: Sequence[_Publication]) -> None:
        if not self._lock.is_held():
            raise DownloadInProgressError(
                f"Another process has taken over the download into {self.names.directory}; "
                "this one stops. Wait for that one.",
                path=self.names.manifest,
            )
        for publication in publications:
            mtime = publication.part.stat().st_mtime_ns
            publication.entry = attrs.evolve(publication.entry, mtime_ns=mtime)
        entries = [publication.entry for publication in publications]
        manifest = with_files(self.manifest, entries)
        self._write(manifest)
        self.manifest = manifest
        for publication in publications:
            publication.part.replace(self.names.directory / publication.entry.name)
            publication.done = True
        sync_directory(self.names.directory)

    async def finish(self) -> None:
        """Record that every file is there, and remove what is no longer needed."""
        await self.save(as_complete)
        await self._disk.run(self._tidy)

    def file(self, entry: FileEntry) -> DownloadedFile:
        """Return a finished file as callers see it."""
        url = (self._location / entry.name).as_uri()
        return downloaded(entry, url=url, path=self.names.directory / entry.name)

    def result(self, export: ContactExport) -> DownloadResult:
        """Return everything that is there."""
        return DownloadResult(
            export=export,
            target=self.names.directory,
            files=tuple(self.file(entry) for entry in self.manifest.files),
            contact_count=self.manifest.contacts,
            manifest=self.names.manifest,
            manifest_url=(self._location / self.names.manifest.name).as_uri(),
        )

    def _write(self, manifest: Manifest) -> None:
        replace_file(self.names.manifest, self._writer.write(manifest))

    def _tidy(self) -> None:
        self.names.journal.unlink(missing_ok=True)
        for entry in self.manifest.files:
            self.names.part(entry.number).unlink(missing_ok=True)
            self.names.converted(entry.number).unlink(missing_ok=True)

    def _append(self, record: Record, synced: Path | None) -> None:
        if synced is not None:
            self._sync(synced, sync_file)
        path = self.names.journal
        if not path.exists():
            replace_file(path, write_journal(self.manifest.export_id, []))
        append(path, write_record(record))

    def _sync(self, part: Path, sync: Callable[[Path], None]) -> None:
        if part in self._lost:
            raise OSError(errno.EIO, "an earlier sync of it failed", str(part))
        try:
            sync(part)
        except OSError:
            self._lost.add(part)
            raise

    def _confirm(self, entry: FileEntry, policy: DownloadPolicy) -> Steps[FileEntry | None]:
        """Return the entry of a file that is as the manifest says; None if it is not."""
        path = self.names.directory / entry.name
        parts = (self.names.part(entry.number), self.names.converted(entry.number))
        if not path.exists():
            # A run that ended between manifest and rename.
            found = [part for part in parts if _is_untouched(part, entry)]
            if not found or not self._lock.is_held():
                return None
            found[0].replace(path)
            sync_directory(path.parent)
        status = path.stat()
        if status.st_size != entry.size:
            return None
        untouched = status.st_mtime_ns == entry.mtime_ns
        level = check_again(entry, policy.verify, untouched=untouched)
        if level is None:
            return entry
        checked = yield from check_entry(path, entry, level)
        return with_check(attrs.evolve(entry, mtime_ns=status.st_mtime_ns), checked, level)


def is_in_other_form(entry: FileEntry, policy: DownloadPolicy) -> bool:
    """Whether a file is gzip where plain is wanted, or the reverse; what never was gzip is kept."""
    return entry.raw_compressed and entry.compressed == policy.decompress


def _is_untouched(path: Path, entry: FileEntry) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (entry.size, entry.mtime_ns)


def _kind(entry: FileEntry) -> str:
    return "json" if entry.name.removesuffix(".gz").endswith(".json") else "csv"


@asynccontextmanager
async def open_folder(
    directory: Path, export_id: str, disk: Disk, clock: Clock
) -> AsyncIterator[Folder]:
    """Make the directory if need be, lock the export in it, and read its manifest.

    Raises:
        ValueError: the directory is a file or not writable.
        DownloadInProgressError: another process or task holds the export.
        InsufficientDiskSpaceError: the disk is full; raised for any such error of the block.
    """
    names = Names(directory, safe_name(export_id))
    lock = Lock(names.lock)
    folder: Folder | None = None
    try:
        with disk:
            try:
                await disk.run(_prepare, names, lock)
                manifest = await disk.run(_load, names.manifest, export_id)
                journal = await disk.run(_load_journal, names.journal, export_id)
                location = await disk.run(directory.absolute)
                folder = Folder(names, location, lock, manifest, journal, disk, clock)
                yield folder
            finally:
                await disk.run(lock.release)
    except OSError as error:
        if isinstance(error, SendGridExportsError) or error.errno not in DISK_FULL:
            raise
        kept = "finished files are kept" if folder is None else folder.kept()
        raise InsufficientDiskSpaceError(
            f"The directory {directory} is full: {error}. Make room and fetch again with the "
            f"same id; {kept}.",
            path=directory,
        ) from error


def prepare_directory(directory: Path) -> None:
    """Make the directory if need be, and see that an export can be downloaded into it.

    This does once, on a small scale, all that a download does there: it takes a lock, and writes,
    syncs and renames a file. So what can't work is an error before an export is started.

    Raises:
        ValueError: it is a file or not writable.
        InsufficientDiskSpaceError: it has no room for a single byte.
        OSError: the disk failed.
    """
    probe = Names(directory, f"{PROBE}{secrets.token_hex(8)}")
    lock = Lock(probe.lock)
    try:
        lock_directory(lock)
        with ExitStack() as stack:
            stack.callback(lock.release)
            stack.callback(probe.manifest.unlink, missing_ok=True)
            replace_file(probe.manifest, b"{}")
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise InsufficientDiskSpaceError(
            f"The directory {directory} is full: {error}. Make room; no export was started.",
            path=directory,
        ) from error


def lock_directory(lock: Lock) -> bool:
    """Take a lock as `Lock.acquire` does; return whether it could be taken.

    Raises:
        ValueError: its directory is a file or not writable.
        OSError: the disk failed.
    """
    directory = lock.path.parent
    try:
        return lock.acquire()
    except OSError as error:
        # A lock file that is there and can't be opened names itself.
        if error.errno not in _UNUSABLE or os.path.exists(lock.path):  # noqa: PTH110
            raise
        # Path.is_file raises where the directory above can't be read.
        is_file = os.path.isfile(directory)  # noqa: PTH113
        seen = "is a file" if is_file else f"is not writable ({error.strerror})"
        raise ValueError(f"directory {str(directory)!r} {seen}") from error


def _prepare(names: Names, lock: Lock) -> None:
    if not lock_directory(lock):
        raise DownloadInProgressError(
            f"Another process or task is downloading {names.stem} into {names.directory}. "
            "Wait for it, or use another directory.",
            path=names.lock,
        )


def _load(path: Path, export_id: str) -> Manifest:
    try:
        with naming(path):
            data = path.read_bytes()
    except FileNotFoundError:
        return Manifest(export_id=export_id)
    manifest = read_manifest(data, export_id)
    if manifest is None:
        logger.warning("The manifest %s is damaged or of another version; starting over.", path)
    return manifest or Manifest(export_id=export_id)


def _load_journal(path: Path, export_id: str) -> dict[int, Record]:
    """Return what the journal says, and rewrite it: a torn line must not be appended to."""
    try:
        with naming(path):
            data = path.read_bytes()
    except FileNotFoundError:
        return {}
    records = read_journal(data, export_id)
    if records is None:
        logger.warning("The journal %s is damaged or of another export; starting over.", path)
    replace_file(path, write_journal(export_id, (records or {}).values()))
    return records or {}
