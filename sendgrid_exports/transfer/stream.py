"""The files of an export, block after block, without a disk.

What was yielded can't be taken back: after a break a file continues from its next byte, of the
very same version, or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from sendgrid_exports.errors import CorruptDownloadError, IncompleteDownloadError
from sendgrid_exports.models import ContactExport
from sendgrid_exports.transfer.answers import LinkDead, StartOver, TryAgain
from sendgrid_exports.transfer.file import Copy, File
from sendgrid_exports.transfer.names import Names, safe_name
from sendgrid_exports.transfer.pieces import Piece
from sendgrid_exports.transfer.progress import Progress
from sendgrid_exports.transfer.retries import Failure
from sendgrid_exports.transfer.storage import StartOverError, Storage
from sendgrid_exports.transfer.transfer import Transfer


class FileStream:
    """The files of one export, one after another, each over one connection.

    The connection is beside those of the client's downloads: its consumer may hold it for long.

    Attributes:
        transfer: the transfer.
        files: the files, in the order of the links.
    """

    def __init__(self, transfer: Transfer, export: ContactExport) -> None:
        self.transfer = transfer
        self._progress = Progress(transfer, Names(Path(), safe_name(export.id)))
        self._storage = Storage(transfer, self._progress)
        links = self._storage.read_links(export)
        self._storage.identities = [link.identity for link in links]
        self.files = tuple(
            File(number, link, Copy.new(None)) for number, link in enumerate(links, start=1)
        )
        self._storage.files = {file.number: file for file in self.files}

    def path(self, file: File, kind: str | None = None) -> Path:
        """Return the name that the file would have on disk, by the `kind` of its content."""
        return self._progress.path(file, kind)

    async def blocks(self, file: File) -> AsyncGenerator[memoryview, None]:
        """Yield a file in blocks, each byte once; each is valid until the next is asked for.

        Raises:
            CorruptDownloadError: another version of it is there now.
            IncompleteDownloadError: it broke off, and nothing pins its version.
            DownloadError, ExportExpiredError: it can't be downloaded.
            APIError, TransportError, InvalidResponseError: its link could not be renewed.
        """
        while True:
            try:
                blocks = self._storage.receive_in_order(
                    file, queued=False, on_interruption=self._check_pinned
                )
                async with aclosing(blocks):
                    async for block in blocks:
                        yield block
                break
            except StartOverError as again:
                # Only before the first byte: nothing was yielded.
                again.begin(file, None)
        del self._storage.files[file.number]

    def _check_pinned(self, file: File, piece: Piece, failure: Failure) -> None:
        """See that a file can be resumed in the middle.

        Raises:
            CorruptDownloadError: another version of it is there now.
            IncompleteDownloadError: nothing shows that it would be the same one.
        """
        if not piece.position:
            return
        path = self.path(file)
        if isinstance(failure, StartOver):
            raise CorruptDownloadError(
                f"{path.name} can't be resumed at byte {piece.position:,}: {failure.reason}. The "
                "contacts yielded so far are of a version that is gone: drop them, and stream "
                "again.",
                path=path,
                url=file.link.identity,
            )
        pinned = file.copy.version is not None and piece.ranged
        if isinstance(failure, TryAgain | LinkDead) and not pinned:
            raise IncompleteDownloadError(
                f"{path.name} broke off at byte {piece.position:,} ({failure.reason}), and "
                "nothing pins its version, so it can't be resumed. Drop the contacts so far "
                "and stream again, or download, which can start a file over.",
                path=path,
                url=file.link.identity,
            )
