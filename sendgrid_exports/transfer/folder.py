"""The directory of an export: lock, manifest, finished files. The shell over the disk.

Everything here blocks and runs in the threads of `Disk`; what the bytes prove is decided in
`verify`, what is recorded in `manifest`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from sendgrid_exports.disk import Disk, Steps, append, publish, replace_file, sync_file
from sendgrid_exports.errors import CorruptDownloadError, DownloadInProgressError
from sendgrid_exports.formats.gunzip import BrokenGzipError
from sendgrid_exports.models import ContactExport, DownloadedFile, DownloadResult
from sendgrid_exports.settings import DownloadPolicy, Verify
from sendgrid_exports.transfer.answers import Expected
from sendgrid_exports.transfer.checks import Checked, CheckFailedError
from sendgrid_exports.transfer.journal import (
    Record,
    write_journal,
    write_record,
)
from sendgrid_exports.transfer.lock import Lock
from sendgrid_exports.transfer.manifest import (
    FileEntry,
    Manifest,
    count_contacts,
    with_file,
    without_file,
    write_manifest,
)
from sendgrid_exports.transfer.names import Names
from sendgrid_exports.transfer.reading import compress, inflate, prove_file

__all__ = ["Folder"]


class Folder:
    """The files of one export in one directory, while its lock is held.

    Attributes:
        names: the paths.
        manifest: what is there.
        journal: what an earlier run left of the unfinished files, by their number.
    """

    def __init__(
        self,
        names: Names,
        location: Path,
        lock: Lock,
        manifest: Manifest,
        journal: Mapping[int, Record],
        disk: Disk,
    ) -> None:
        self.names = names
        self.manifest = manifest
        self.journal = journal
        self._location = location
        self._lock = lock
        self._disk = disk
        self._noting = asyncio.Lock()
        self._saving = asyncio.Lock()
        # What is half inflated takes descriptors and room.
        self._converting = asyncio.Semaphore(2)
        self._saved: Manifest | None = None

    async def save(self, manifest: Manifest) -> None:
        """Make `manifest` the one on disk."""
        self.manifest = manifest
        async with self._saving:
            # Of those who waited for their turn, the first has saved what all of them changed.
            if (latest := self.manifest) is not self._saved:
                await self._disk.run(self._write, latest)
                self._saved = latest

    async def note(self, record: Record, *, synced: Path | None = None) -> None:
        """Append to the journal, durably; a file that has to be `synced` is so before.

        Raises:
            OSError: the disk failed, or there is no such file; then nothing is noted.
        """
        async with self._noting:
            await self._disk.run(self._append, record, synced)

    async def settle(self, policy: DownloadPolicy) -> None:
        """Keep of the manifest what the disk confirms, in the form that `policy` asks for."""
        for record in self.journal.values():
            if record.entry is not None:
                await self._complete(record, record.entry)
        for entry in self.manifest.files:
            kept = await self._disk.run_long(self._confirm(entry, policy))
            if kept is None:
                await self.save(without_file(self.manifest, entry.number))
            else:
                if kept != entry:
                    await self.save(with_file(self.manifest, kept))
                await self.convert(kept, policy)
        if self.manifest.state == "complete":
            contacts = count_contacts(self.manifest)
            if contacts != self.manifest.contacts:
                await self.save(attrs.evolve(self.manifest, contacts=contacts))
            await self._disk.run(self._tidy)

    async def publish(
        self,
        number: int,
        kind: str,
        conclude: Callable[[], Checked],
        etag: str | None,
        policy: DownloadPolicy,
    ) -> DownloadedFile | CheckFailedError:
        """Give a part file its final name and enter it in the manifest, if it is proved.

        Raises:
            CorruptDownloadError: it was to be inflated, and is broken gzip.
            DownloadInProgressError: somebody else took the lock meanwhile.
            OSError: the disk failed.
        """

        def prove() -> FileEntry:
            checked = conclude()
            return FileEntry(
                number=number,
                name=self.names.final(
                    number, checked.kind or kind, compressed=checked.compressed
                ).name,
                size=checked.size,
                sha256=checked.sha256,
                mtime_ns=0,
                compressed=checked.compressed,
                etag=etag,
                raw_size=checked.size,
                raw_compressed=checked.compressed,
                contacts=checked.contacts,
                verify=policy.verify,
                verified_by=checked.verified_by,
            )

        try:
            entry = await self._enter(prove, self.names.part(number))
        except CheckFailedError as error:
            return error
        return self.file(await self.convert(entry, policy))

    async def convert(self, entry: FileEntry, policy: DownloadPolicy) -> FileEntry:
        """Inflate or compress a finished file where `policy` asks for the other form.

        Raises:
            CorruptDownloadError: it is broken gzip, and now gone.
        """
        # What never was gzip stays as it came.
        if not entry.raw_compressed or entry.compressed != policy.decompress:
            return entry
        source = self.names.directory / entry.name
        try:
            async with self._converting:
                converted = await self._disk.run_long(self._convert(entry, policy))
        except BrokenGzipError as error:
            await self.save(without_file(self.manifest, entry.number))
            await self._disk.run(source.unlink, missing_ok=True)
            raise CorruptDownloadError(
                f"{entry.name} can't be inflated: {error}. It is removed; fetch again.",
                path=source,
            ) from None
        part = self.names.converted(entry.number)
        converted = await self._enter(lambda: converted, part)
        await self._disk.run(source.unlink, missing_ok=True)
        return converted

    async def _enter(self, prove: Callable[[], FileEntry], part: Path) -> FileEntry:
        """Publish what is proved; synced and noted first, so that dying then loses nothing.

        Raises:
            CheckFailedError: `prove` raised it, and nothing happened.
        """
        async with self._noting:
            entry = await self._disk.run(self._note_and_publish, prove, part)
        await self.save(with_file(self.manifest, entry))
        return entry

    def _note_and_publish(self, prove: Callable[[], FileEntry], part: Path) -> FileEntry:
        entry = attrs.evolve(prove(), mtime_ns=part.stat().st_mtime_ns)
        record = Record(
            number=entry.number,
            link=self.manifest.links[entry.number - 1],
            etag="",
            total=entry.size,
            entry=entry,
        )
        self._append(record, part)
        self._publish(part, self.names.directory / entry.name)
        return entry

    async def _complete(self, record: Record, entry: FileEntry) -> None:
        """Bring to its end what a run that died had begun to publish."""
        if self.manifest.links[entry.number - 1 : entry.number] != (record.link,):
            return
        final = self.names.directory / entry.name
        found = [self.names.converted(entry.number), self.names.part(entry.number), final]
        for path in found:
            if await self._disk.run(_is_untouched, path, entry):
                break
        else:
            return
        if path != final:
            await self._disk.run(self._publish, path, final)
        await self.save(with_file(self.manifest, entry))
        other = self.names.final(entry.number, _kind(entry), compressed=not entry.compressed)
        await self._disk.run(other.unlink, missing_ok=True)

    async def finish(self) -> None:
        """Record that every file is there."""
        contacts = count_contacts(self.manifest)
        await self.save(attrs.evolve(self.manifest, state="complete", contacts=contacts))
        await self._disk.run(self._tidy)

    def file(self, entry: FileEntry) -> DownloadedFile:
        """Return a finished file as callers see it."""
        return DownloadedFile(
            number=entry.number,
            url=(self._location / entry.name).as_uri(),
            path=self.names.directory / entry.name,
            size=entry.size,
            sha256=entry.sha256,
            etag=entry.etag,
            compressed=entry.compressed,
            verified_by=entry.verified_by,
        )

    def result(self, export: ContactExport) -> DownloadResult:
        """Return everything that is there."""
        return DownloadResult(
            export=export,
            directory=self.names.directory,
            files=tuple(self.file(entry) for entry in self.manifest.files),
            contact_count=self.manifest.contacts,
            manifest=self.names.manifest,
        )

    def _tidy(self) -> None:
        """Remove what is of no use once every file is there."""
        self.names.journal.unlink(missing_ok=True)
        for entry in self.manifest.files:
            self.names.part(entry.number).unlink(missing_ok=True)
            self.names.converted(entry.number).unlink(missing_ok=True)

    def _write(self, manifest: Manifest) -> None:
        replace_file(self.names.manifest, write_manifest(manifest))

    def _append(self, record: Record, synced: Path | None = None) -> None:
        if synced is not None:
            sync_file(synced)
        path = self.names.journal
        if not path.exists():
            replace_file(path, write_journal(self.manifest.export_id, []))
        append(path, write_record(record))

    def _publish(self, part: Path, final: Path) -> None:
        if not self._lock.is_held():
            raise DownloadInProgressError(
                f"Another process has taken over the download into {self.names.directory}; "
                "this one stops. Wait for that one.",
                path=final,
            )
        publish(part, final)

    def _confirm(self, entry: FileEntry, policy: DownloadPolicy) -> Steps[FileEntry | None]:
        path = self.names.directory / entry.name
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        if status.st_size != entry.size:
            return None
        levels = list(Verify)
        deeper = levels.index(policy.verify) > levels.index(entry.verify)
        if status.st_mtime_ns == entry.mtime_ns and not deeper:
            return entry
        # Somebody touched it, or more is asked of it than it proved: then its bytes must tell.
        verify = max(policy.verify, entry.verify, key=levels.index)
        try:
            expected = Expected(size=entry.size)
            checked = yield from prove_file(path, verify, expected, first=entry.number == 1)
        except CheckFailedError:
            return None
        if entry.sha256 not in {None, checked.sha256}:
            return None
        return attrs.evolve(
            entry,
            mtime_ns=status.st_mtime_ns,
            sha256=checked.sha256,
            contacts=checked.contacts,
            verify=verify,
            verified_by=tuple(dict.fromkeys([*entry.verified_by, *checked.verified_by])),
        )

    def _convert(self, entry: FileEntry, policy: DownloadPolicy) -> Steps[FileEntry]:
        source = self.names.directory / entry.name
        part = self.names.converted(entry.number)
        final = self.names.final(entry.number, _kind(entry), compressed=not policy.decompress)
        level = Verify.LENGTH if policy.verify is Verify.LENGTH else Verify.CHECKSUM
        try:
            yield from (inflate if policy.decompress else compress)(source, part)
            checked = yield from prove_file(part, level, Expected(), first=entry.number == 1)
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


def _is_untouched(path: Path, entry: FileEntry) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (entry.size, entry.mtime_ns)


def _kind(entry: FileEntry) -> str:
    return "json" if entry.name.removesuffix(".gz").endswith(".json") else "csv"
