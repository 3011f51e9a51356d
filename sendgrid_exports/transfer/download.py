"""Downloading an export into a folder: each file is one task, read from top to bottom."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any

from sendgrid_exports.errors import CorruptDownloadError
from sendgrid_exports.events import FileFinished
from sendgrid_exports.models import ContactExport, DownloadedFile, DownloadResult
from sendgrid_exports.transfer.checking import follow
from sendgrid_exports.transfer.checks import Checked, CheckFailedError
from sendgrid_exports.transfer.file import File
from sendgrid_exports.transfer.folder import Folder
from sendgrid_exports.transfer.manifest import is_whole
from sendgrid_exports.transfer.objects import Objects
from sendgrid_exports.transfer.part import Parts
from sendgrid_exports.transfer.pieces import FilePieces, Piece
from sendgrid_exports.transfer.progress import Progress
from sendgrid_exports.transfer.storage import InterruptedRequestError, StartOverError, Storage
from sendgrid_exports.transfer.together import Group, together
from sendgrid_exports.transfer.transfer import Transfer

_NO_MORE_SPLITTING = 30.0


async def find_result(transfer: Transfer, folder: Folder | Objects) -> DownloadResult | None:
    """Return the result if every file is there already, without any request.

    Raises:
        ExportTimeoutError: the timeout passed while the files were read.
        CorruptDownloadError: their contacts are not as many as they have to be.
    """
    transfer.export = folder.manifest.export
    async with transfer.in_time():
        await folder.reconcile(transfer.means.policy)
        export = folder.manifest.export
        if export is None or not is_whole(folder.manifest):
            return None
        await folder.finish()
    transfer.check_count(folder.manifest.contacts)
    return folder.result(export)


async def download(export: ContactExport, transfer: Transfer, folder: Folder) -> DownloadResult:
    """Download every file that is not in the folder yet, and return the result.

    Raises:
        ExportTimeoutError, ExportExpiredError: the deadline or the files' expiry came first.
        SendGridExportsError: a file can't be downloaded.
        OSError: the disk failed.
    """
    export = await transfer.begin(export)
    async with transfer.in_time():
        await _Download(transfer, folder).run(export)
        await folder.finish()
    transfer.check_count(folder.manifest.contacts)
    return folder.result(export)


class Workers:
    """The tasks that receive one version of a file, and sync it."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.tasks: list[asyncio.Task[None]] = []

    def add(self, work: Coroutine[Any, Any, None]) -> None:
        """Start one more."""
        self.tasks.append(self.group.create_task(work))

    def cancel(self) -> None:
        """Cancel those that have not ended, except the one that calls this."""
        for task in self.tasks:
            if task is not asyncio.current_task():
                task.cancel()


class _Download:
    """The files of one export on their way into a folder."""

    def __init__(self, transfer: Transfer, folder: Folder) -> None:
        self._transfer = transfer
        self._means = transfer.means
        self._policy = transfer.means.policy
        self._folder = folder
        self._progress = Progress(transfer, folder.names)
        self._parts = Parts(transfer, folder, self._progress)
        # Of thousands of files, those under way must not outrun the disk.
        self._places = asyncio.Semaphore(self._policy.limits.files)
        self._storage = Storage(transfer, self._progress)
        self._first = min(self._policy.limits.discovery, self._policy.piece_size)
        self._smallest_piece = min(self._policy.limits.smallest_piece, self._policy.piece_size)
        transfer.kept = folder.kept = lambda: self._progress.kept

    async def run(self, export: ContactExport) -> None:
        """Download every file of `export` that the manifest does not name."""
        files = await self._storage.open(export, self._folder, self._first)
        await self._parts.resume(files)
        for file in files:
            if file.copy.version is not None:
                self._storage.versions[file.copy.version] = file.number
        if self._progress.needed:
            await self._folder.check_space(self._progress.needed)
        async with together() as tasks:
            for file in files:
                tasks.create_task(self._download(file))

    async def _download(self, file: File) -> None:
        """Download one file, from its first byte to its final name."""
        async with self._places:
            while True:
                try:
                    checked = await self._receive(file)
                    finished = await self._publish(file, checked)
                    break
                except StartOverError as again:
                    await self._start_over(file, again)
                except CheckFailedError as failed:
                    await self._download_again(file, failed)
                except BaseException:
                    # What has arrived is there for the next run.
                    await self._parts.keep(file)
                    raise
        self._progress.ended(file.copy)
        del self._storage.files[file.number]
        self._transfer.on_event(FileFinished(export_id=self._transfer.export_id, file=finished))

    async def _receive(self, file: File) -> Checked:
        """Receive every byte of a file over several connections, and check them meanwhile."""
        async with together() as tasks:
            workers = Workers(tasks)
            self._add_workers(file, workers, at_least=1)
            checking = tasks.create_task(self._check(file, workers))
        return checking.result()

    async def _check(self, file: File, workers: Workers) -> Checked:
        part = self._parts.path(file)
        checked = await follow(file, part, self._means.disk, self._policy.verify)
        # Some may still wait for a connection, and there is nothing left to receive.
        workers.cancel()
        return checked

    def _add_workers(self, file: File, workers: Workers, *, at_least: int = 0) -> None:
        """Open as many more connections as the waiting bytes of a file are worth."""
        most = self._policy.connections_per_file - len(workers.tasks)
        worth = file.copy.pieces.worth(self._smallest_piece)
        for _ in range(max(at_least, min(most, worth))):
            workers.add(self._work(file, workers))

    async def _work(self, file: File, workers: Workers) -> None:
        """Receive piece after piece of a file, one at a time."""
        pieces = file.copy.pieces
        piece: Piece | None = None
        while piece is not None or self._has_pieces(pieces):
            await self._storage.fresh_link(file)
            try:
                async with self._means.connections.one(file):
                    if self._storage.is_due(file):
                        # It waited too long for its turn.
                        continue
                    piece = piece or self._next_piece(pieces)
                    if piece is None:
                        return
                    await self._write(file, piece, workers)
            except InterruptedRequestError as interrupted:
                assert piece is not None
                try:
                    await self._storage.recover(file, piece, interrupted)
                except Exception:
                    # The connection that is free now would ask for more of what is given up.
                    workers.cancel()
                    raise
            else:
                pieces.done(piece)
                file.copy.grown.set()
                piece = None

    async def _write(self, file: File, piece: Piece, workers: Workers) -> None:
        """Write the bytes of a piece as they come.

        Raises:
            InterruptedRequestError: they did not come to the end.
            OSError: the disk failed.
        """
        on_size = partial(self._discovered, file, workers)
        async with (
            self._parts.open(file, piece, workers.group) as part,
            aclosing(self._storage.receive(file, piece, on_size)) as blocks,
        ):
            async for block in blocks:
                if not file.copy.fits:
                    await self._folder.check_space(self._progress.needed)
                    file.copy.fits = True
                await part.write(block)

    def _discovered(self, file: File, workers: Workers) -> None:
        """Count a file whose size is known now, and have its other connections opened."""
        if not file.copy.counted:
            self._progress.discovered(file.copy)
            self._add_workers(file, workers)

    def _next_piece(self, pieces: FilePieces) -> Piece | None:
        largest = self._policy.piece_size
        return pieces.take(
            connections=self._policy.connections_per_file,
            smallest=largest if self._is_late() else self._smallest_piece,
            largest=largest,
        ) or pieces.split(self._smallest_half())

    def _has_pieces(self, pieces: FilePieces) -> bool:
        return bool(pieces.waiting) or pieces.can_split(self._smallest_half())

    def _smallest_half(self) -> float:
        """Return how many bytes each half of a piece must have at least, to be worth a request."""
        if self._is_late():
            return math.inf
        return max(self._policy.limits.smallest_piece, self._storage.bytes_in_set_ups())

    def _is_late(self) -> bool:
        # Every range is a new start, and what has started is not cut when its link dies.
        return self._transfer.seconds_left < _NO_MORE_SPLITTING

    async def _publish(self, file: File, checked: Checked) -> DownloadedFile:
        return await self._folder.publish(
            file.number, file.link.kind, checked, file.copy.version, self._policy
        )

    async def _start_over(self, file: File, again: StartOverError) -> None:
        await self._parts.drop(file)
        again.begin(file, self._first)

    async def _download_again(self, file: File, failed: CheckFailedError) -> None:
        """Start a file over that failed a check.

        Raises:
            CorruptDownloadError: it failed before.
        """
        try:
            again = self._storage.after_failed_check(file, failed)
        except CorruptDownloadError:
            await self._parts.drop(file)
            raise
        await self._start_over(file, again)
