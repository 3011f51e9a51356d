"""Downloading an export into a bucket: each file is one task, read from top to bottom.

A file is received over one connection, checked, and uploaded part by part as it comes; nothing is
kept on disk. The upload is completed only after all checks have passed. What is complete is entered
in the manifest, and never downloaded again; what is not starts again with the next run.

Memory: `Limits.uploads` files at once, each with three blocks and `Limits.parts + 1` parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from sendgrid_exports.bucket_errors import ConflictError
from sendgrid_exports.bucket_files import Upload
from sendgrid_exports.disk import unbroken
from sendgrid_exports.errors import DownloadInProgressError, IncompleteDownloadError
from sendgrid_exports.events import FileFinished
from sendgrid_exports.models import ContactExport, DownloadedFile, DownloadResult
from sendgrid_exports.transfer.answers import StartOver
from sendgrid_exports.transfer.checks import CheckFailedError, Checks
from sendgrid_exports.transfer.download import find_result
from sendgrid_exports.transfer.file import File
from sendgrid_exports.transfer.manifest import new_entry
from sendgrid_exports.transfer.objects import Objects
from sendgrid_exports.transfer.progress import Progress
from sendgrid_exports.transfer.storage import StartOverError, Storage
from sendgrid_exports.transfer.together import together
from sendgrid_exports.transfer.transfer import Transfer


async def upload(export: ContactExport, transfer: Transfer, objects: Objects) -> DownloadResult:
    """Download every file that is not in the bucket yet, and return the result.

    Raises:
        DownloadInProgressError: another run was faster, and is not done.
        ExportTimeoutError, ExportExpiredError: the deadline or the files' expiry came first.
        SendGridExportsError: a file can't be downloaded, or the bucket can't be used.
    """
    export = await transfer.begin(export)
    try:
        async with transfer.in_time():
            await _Upload(transfer, objects).run(export)
            await objects.finish()
    except DownloadInProgressError:
        await objects.load()
        # The manifest of a run that is not done yet is not to be touched.
        done = objects.manifest.state == "complete"
        if not done or (result := await find_result(transfer, objects)) is None:
            raise
        return result
    transfer.check_count(objects.manifest.contacts)
    return objects.result(export)


class _Upload:
    """The files of one export on their way into a bucket."""

    def __init__(self, transfer: Transfer, objects: Objects) -> None:
        self._transfer = transfer
        self._disk = transfer.means.disk
        self._policy = transfer.means.policy
        self._objects = objects
        self._progress = Progress(transfer, objects.names, on_disk=False)
        self._places = asyncio.Semaphore(self._policy.limits.uploads)
        self._storage = Storage(transfer, self._progress)
        transfer.kept = lambda: "the files that are complete are kept"

    async def run(self, export: ContactExport) -> None:
        """Download every file of `export` that the manifest does not name."""
        files = await self._storage.open(export, self._objects, None)
        async with together() as tasks:
            for file in files:
                tasks.create_task(self._download(file))

    async def _download(self, file: File) -> None:
        """Download one file, from its first byte to its entry in the manifest."""
        async with self._places:
            while True:
                try:
                    finished = await self._upload(file)
                    break
                except StartOverError as error:
                    again = error
                except CheckFailedError as failed:
                    again = self._storage.after_failed_check(file, failed)
                self._progress.ended(file.copy)
                again.begin(file, None)
        self._progress.ended(file.copy)
        del self._storage.files[file.number]
        self._transfer.on_event(FileFinished(export_id=self._transfer.export_id, file=finished))

    async def _upload(self, file: File) -> DownloadedFile:
        limits = self._policy.limits
        async with aclosing(self._receive(file)) as blocks:
            checks, data = await anext(blocks)
            name = self._objects.names.final(
                file.number, checks.kind or file.link.kind, compressed=checks.compressed
            ).name
            async with self._objects.bucket.upload(
                name, part=limits.part, parts=limits.parts
            ) as upload:
                await self._write(file, upload, data)
                async for _, data in blocks:
                    await self._write(file, upload, data)
                # Whatever is completed is entered, even if its task is cancelled meanwhile.
                return await unbroken(
                    asyncio.ensure_future(self._publish(file, name, checks, upload))
                )

    async def _receive(self, file: File) -> AsyncGenerator[tuple[Checks, bytes], None]:
        """Yield a file in blocks that were checked; the first one tells what the file is."""
        checks: Checks | None = None
        held: list[bytes] = []
        async with aclosing(self._storage.receive_in_order(file, queued=True)) as blocks:
            async for block in blocks:
                if checks is None:
                    self._progress.discovered(file.copy)
                    checks = self._checks(file)
                held.append(bytes(block))
                await self._disk.run_long(checks.take(held[-1]))
                if checks.recognised:
                    yield checks, b"".join(held)
                    held.clear()
        yield checks or self._checks(file), b"".join(held)

    def _checks(self, file: File) -> Checks:
        # isal refuses some valid files: what fails is checked by zlib when it comes again.
        fast = not file.tries.failed_checks
        return Checks(self._policy.verify, file.copy.expected, first=file.number == 1, fast=fast)

    async def _write(self, file: File, upload: Upload, data: bytes) -> None:
        await upload.write(data)
        written = file.copy.pieces.written
        written.add(written.size, written.size + len(data))
        self._progress.written(file.copy, len(data))

    async def _publish(
        self, file: File, name: str, checks: Checks, upload: Upload
    ) -> DownloadedFile:
        """Complete an upload whose checks pass, and enter it in the manifest.

        Raises:
            CheckFailedError: they do not.
            StartOverError: another run has written the object meanwhile.
            DownloadInProgressError: another run has changed the manifest meanwhile.
            DownloadError: the bucket can't be used.
        """
        checked = await self._disk.run(checks.finish)
        try:
            await upload.finish()
        except ConflictError:
            # The manifest alone decides which run continues.
            step = StartOver("another run has written the same object meanwhile")
            self._storage.next_step(file, step)
            raise StartOverError(plain=False) from None
        bucket = self._objects.bucket
        stored = await self._disk.run(bucket.head, name)
        if stored is None or stored.size != checked.size:
            raise IncompleteDownloadError(
                f"{bucket.url_of(name)} is not what was uploaded: it was deleted or replaced at "
                "once. Fetch again with the same id.",
                url=bucket.url_of(name),
            )
        entry = new_entry(
            file.number,
            name,
            checked,
            version=file.copy.version,
            verify=self._policy.verify,
            object_etag=stored.etag,
        )
        await self._objects.enter(entry)
        return self._objects.file(entry)
