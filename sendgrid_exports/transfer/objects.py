"""The objects of an export in a bucket: its files, and the manifest that says which are complete.

The manifest is the commit. It is created and replaced on condition that it is as it was read, so
of two runs the one that finds it changed ends. There are no locks, which would need cleaning up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from sendgrid_exports.bucket import Bucket
from sendgrid_exports.bucket_errors import ConflictError
from sendgrid_exports.bucket_files import BucketFile, Stored
from sendgrid_exports.disk import Disk
from sendgrid_exports.errors import DownloadInProgressError
from sendgrid_exports.models import ContactExport, DownloadedFile, DownloadResult
from sendgrid_exports.settings import DownloadPolicy, Verify
from sendgrid_exports.transfer.checking import check_entry
from sendgrid_exports.transfer.manifest import (
    FileEntry,
    Manifest,
    ManifestWriter,
    as_complete,
    as_found,
    check_again,
    downloaded,
    read_manifest,
    with_check,
    with_files,
)
from sendgrid_exports.transfer.names import Names, safe_name
from sendgrid_exports.transfer.together import together

logger = logging.getLogger(__name__)


class Objects:
    """The objects of one export in a bucket.

    Attributes:
        bucket: the bucket.
        names: what the objects are called.
        manifest: what is there.
    """

    def __init__(self, bucket: Bucket, export_id: str, disk: Disk) -> None:
        self.bucket = bucket
        self.names = Names(Path(), safe_name(export_id))
        self.manifest = Manifest(export_id=export_id)
        self._disk = disk
        self._stored: Stored | None = None
        # All that changes the manifest happens under this lock.
        self._saving = asyncio.Lock()
        self._waiting: list[FileEntry] = []
        self._writer = ManifestWriter()

    async def load(self) -> None:
        """Read the manifest, if there is one."""
        await self._disk.run(self._load)

    def _load(self) -> None:
        export_id, name = self.manifest.export_id, self.names.manifest.name
        data, self._stored = self.bucket.read(name) or (None, None)
        manifest = read_manifest(data, export_id) if data is not None else None
        if data is not None and manifest is None:
            logger.warning(
                "The manifest %s is damaged or of another version; starting over.",
                self.bucket.url_of(name),
            )
        self.manifest = manifest or Manifest(export_id=export_id)

    async def save(self, change: Callable[[Manifest], Manifest]) -> None:
        """Change the manifest, in the bucket too.

        Raises:
            DownloadInProgressError: another run has changed it meanwhile.
            DownloadError: the bucket can't be used.
        """
        async with self._saving:
            await self._disk.run(self._write, change(self.manifest))

    async def enter(self, entry: FileEntry) -> None:
        """Enter a complete object in the manifest, together with all others that wait for it.

        Raises:
            What `save` raises.
        """
        self._waiting.append(entry)
        async with self._saving:
            entries = tuple(self._waiting)
            await self._disk.run(self._write, with_files(self.manifest, entries))
            self._waiting = [each for each in self._waiting if each not in entries]

    def _write(self, changed: Manifest) -> None:
        if changed == self.manifest:
            return
        name, data = self.names.manifest.name, self._writer.write(changed)
        try:
            self._stored = self.bucket.replace(name, data, self._stored)
        except ConflictError:
            raise DownloadInProgressError(
                f"Another process or task is downloading export {changed.export_id} to "
                f"{self.bucket}; this one stops. Wait for that one, or use another target.",
                url=self.bucket.url_of(name),
            ) from None
        self.manifest = changed

    async def reconcile(self, policy: DownloadPolicy) -> None:
        """Keep of the manifest what the bucket confirms."""
        async with together() as tasks:
            confirming = {
                entry.number: tasks.create_task(self._confirm(entry, policy.verify))
                for entry in self.manifest.files
            }
        confirmed = {number: task.result() for number, task in confirming.items()}
        if confirmed:
            await self.save(lambda known: as_found(known, confirmed))
        if self.manifest.state == "complete":
            await self.finish()

    async def _confirm(self, entry: FileEntry, verify: Verify) -> FileEntry | None:
        """Return the entry of an object that is as the manifest says; None if it is not."""
        stored = await self._disk.run(self.bucket.head, entry.name)
        if stored is None or stored.size != entry.size:
            return None
        level = check_again(entry, verify, untouched=is_untouched(stored, entry))
        if level is None:
            return entry
        # It was replaced by the same bytes, or by others.
        file = BucketFile(self.bucket, stored)
        checked = await self._disk.run_long(check_entry(file, entry, level))
        return with_check(attrs.evolve(entry, object_etag=stored.etag), checked, level)

    async def finish(self) -> None:
        """Record that every file is there."""
        await self.save(as_complete)

    def file(self, entry: FileEntry) -> DownloadedFile:
        """Return a complete file as callers see it."""
        return downloaded(entry, url=self.bucket.url_of(entry.name), path=None)

    def result(self, export: ContactExport) -> DownloadResult:
        """Return everything that is there."""
        return DownloadResult(
            export=export,
            target=self.bucket,
            files=tuple(self.file(entry) for entry in self.manifest.files),
            contact_count=self.manifest.contacts,
            manifest=None,
            manifest_url=self.bucket.url_of(self.names.manifest.name),
        )


def is_untouched(stored: Stored, entry: FileEntry) -> bool:
    """Whether an object is the very one that the manifest names."""
    return (stored.size, stored.etag) == (entry.size, entry.object_etag)


@asynccontextmanager
async def open_objects(bucket: Bucket, export_id: str, disk: Disk) -> AsyncIterator[Objects]:
    """Read the manifest of an export in a bucket.

    Raises:
        DownloadError: the bucket can't be used.
    """
    with disk:
        objects = Objects(bucket, export_id, disk)
        await objects.load()
        yield objects
