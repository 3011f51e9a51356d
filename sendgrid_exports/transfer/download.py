"""Conducting a download: which request next, what follows from its outcome. The shell.

One loop owns all state. It starts requests while there is room, waits for whatever ends first,
and lets the pure floor say what that means. Nothing else changes the course of a file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from sendgrid_exports.errors import CorruptDownloadError, DownloadError
from sendgrid_exports.events import FileFinished, LinkRenewed, Retrying
from sendgrid_exports.models import ContactExport, DownloadedFile
from sendgrid_exports.transfer.answers import LinkDead, StartOver, TryAgain, Version
from sendgrid_exports.transfer.checks import Checked, CheckFailedError
from sendgrid_exports.transfer.connections import Share
from sendgrid_exports.transfer.durable import Durable
from sendgrid_exports.transfer.job import Job
from sendgrid_exports.transfer.links import is_due, match_links, read_links, remember_links
from sendgrid_exports.transfer.manifest import with_export
from sendgrid_exports.transfer.pieces import FilePieces, Piece
from sendgrid_exports.transfer.plan import DISCOVERY, SMALLEST_PIECE, piece_size
from sendgrid_exports.transfer.progress import Progress
from sendgrid_exports.transfer.proof import prove
from sendgrid_exports.transfer.request import IncomingFile, Requests
from sendgrid_exports.transfer.retries import (
    Again,
    Failure,
    GiveUp,
    Renew,
    Step,
    error_of,
    next_step,
)
from sendgrid_exports.transfer.tasks import Tasks

__all__ = ["Download"]

_NO_MORE_SPLITTING = 30.0
_MOST_BEGUN = 128


class Download:
    """The files of one export that are not there yet, on their way into a folder."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._files: list[IncomingFile] = []
        # Not begun yet; of thousands, those under way must not outrun the disk.
        self._untouched: deque[IncomingFile] = deque()
        self._tasks = Tasks()
        self._proving: set[IncomingFile] = set()
        self._renewing = False
        self.progress = Progress(job, self._files)
        self._share = Share(job.connections, self._tasks.wake)
        self._durable = Durable(job)
        self._requests = Requests(job, self)

    async def run(self, export: ContactExport) -> None:
        """Bring every file of `export` that the folder's manifest does not have.

        Raises:
            SendGridExportsError: a file can't be had.
            OSError: the disk failed.
        """
        links = read_links(
            export.urls, allow_http=self._job.allow_http, now=self._job.clock.monotonic()
        )
        known = remember_links(self._job.folder.manifest.links, links)
        await self._job.folder.save(with_export(self._job.folder.manifest, export, known))
        there = {entry.number for entry in self._job.folder.manifest.files}
        for number, link in enumerate(match_links(known, links), start=1):
            if number in there:
                continue
            if link is None:
                raise self._unlisted(number)
            pieces = FilePieces(first=min(DISCOVERY, self._job.policy.piece_size))
            self._files.append(IncomingFile(number=number, link=link, pieces=pieces))
        await self._durable.resume(self._files)
        self._untouched.extend(file for file in self._files if file.pieces.total is None)
        self._files = [file for file in self._files if file.pieces.total is not None]
        self.progress = Progress(self._job, self._files)
        with self._job.connections.among(self._share):
            try:
                while self._files or self._untouched:
                    self._dispatch()
                    await self._tasks.settle_one()
                    self._share.ended(active=self._active, resting=self._resting)
            finally:
                await self._tasks.stop()
                await self._durable.keep(self._files)

    def _dispatch(self) -> None:
        """Start whatever may start now."""
        for file in self._files:
            if file.pieces.total is not None and file not in self._proving:
                self._proving.add(file)
                part = self._job.folder.names.part(file.number)
                self._tasks.begin(
                    file,
                    prove(file, part, self._job.disk, self._job.policy.verify),
                    partial(self._after_proof, file),
                )
        while self._share.has_room(wanted=self._waits):
            if not (found := self._next_piece()):
                self._share.passes()
                break
            file, piece = found
            self._share.active += 1
            after = partial(self._after_request, file, piece, file.link)
            self._tasks.begin(file, self._requests.bring(file, piece), after)

    @property
    def _active(self) -> int:
        return sum(len(file.pieces.active) for file in self._files)

    @property
    def _waits(self) -> bool:
        return bool(self._untouched) or any(file.pieces.waiting for file in self._files)

    @property
    def _resting(self) -> int:
        return sum(piece.resting for file in self._files for piece in file.pieces.active)

    def _next_piece(self) -> tuple[IncomingFile, Piece] | None:
        """Return the piece to be served next, or None while there is none."""
        per_file = self._job.policy.connections_per_file
        open_files = [file for file in self._files if len(file.pieces.active) < per_file]
        waiting = [file for file in open_files if file.pieces.waiting]
        if self._untouched and len(self._files) < _MOST_BEGUN:
            waiting.append(self._untouched[0])
        for file in sorted(waiting, key=_turn):
            if self._needs_link(file):
                continue
            if self._untouched and file is self._untouched[0]:
                self._files.append(self._untouched.popleft())
            size = piece_size(
                waiting=file.pieces.waiting_bytes,
                connections=per_file - len(file.pieces.active),
                largest=self._job.policy.piece_size,
            )
            if piece := file.pieces.take(size):
                return file, piece
        if self._job.deadline.left(self._job.clock.monotonic()) < _NO_MORE_SPLITTING:
            # Every range is a start, and what has started is not cut when its link dies.
            return None
        for file in open_files:
            if file.pieces.waiting or self._is_due(file):
                continue
            if piece := file.pieces.split(SMALLEST_PIECE):
                return file, piece
        return None

    def _is_due(self, file: IncomingFile) -> bool:
        utc = self._job.exports.server_clock.utc()
        return file.link_dead or is_due(file.link, utc=utc, now=self._job.clock.monotonic())

    def _needs_link(self, file: IncomingFile) -> bool:
        """Whether a file must wait for a fresh link; if so, one renewal is under way for all."""
        if not self._is_due(file):
            return False
        if not self._renewing:
            self._renewing = True
            status = self._job.exports.renew(
                self._job.export_id, deadline=self._job.deadline, on_event=self._job.on_event
            )
            self._tasks.begin(self, status, self._after_renewal)
        return True

    async def _after_renewal(self, export: ContactExport) -> None:
        self._renewing = False
        links = read_links(
            export.urls, allow_http=self._job.allow_http, now=self._job.clock.monotonic()
        )
        matched = match_links(self._job.folder.manifest.links, links)
        files = [*self._files, *self._untouched]
        for file in files:
            link = matched[file.number - 1]
            if link is None:
                raise self._unlisted(file.number)
            file.link = link
            file.link_dead = False
        self._job.on_event(LinkRenewed(export_id=self._job.export_id, links=len(files)))

    def discovered(self) -> None:
        """Let the loop look for pieces: a size was learned."""
        self._tasks.wake()

    def arrived(self, size: int, chunks: int) -> None:
        """Have more connections where they bring more."""
        self._share.arrived(size, chunks)

    def line_is_slow(self) -> None:
        """Have fewer connections from now on."""
        self._share.line_is_slow()

    def is_of_another(self, file: IncomingFile, version: Version) -> bool:
        """Whether the object behind a link that was matched by its place is another file's."""
        known = self._job.folder.manifest
        if file.link.identity == known.links[file.number - 1]:
            return False
        versions = [other.version for other in self._files if other is not file]
        entries = [entry for entry in known.files if entry.number != file.number]
        finished = [(f'"{entry.etag}"', entry.raw_size) for entry in entries]
        return version in versions or (version.etag, version.total) in finished

    async def check_space(self) -> None:
        """See that the disk has room for what is still to come of the known sizes.

        Raises:
            InsufficientDiskSpaceError: it has not.
        """
        await self.progress.check_space()

    def written(self, file: IncomingFile) -> None:
        """Make what was written durable, if it is time."""
        self.progress.forecast()
        if self._durable.is_due(file):
            file.syncing = True
            file.synced_at = self._job.clock.monotonic()
            self._tasks.begin(file, self._durable.sync(file), partial(self._after_sync, file))

    async def _after_sync(self, file: IncomingFile, _: None) -> None:
        file.syncing = False

    async def _after_request(
        self, file: IncomingFile, piece: Piece, link: object, failure: Failure | None
    ) -> None:
        self.written(file)
        file.grown.set()
        if piece.tried():
            file.tries = file.tries.after_progress()
        if failure is None:
            file.pieces.put_back(piece)
            self._share.faster()
            return
        if isinstance(failure, LinkDead) and (file.link_dead or file.link is not link):
            file.pieces.put_back(piece)
            return
        if isinstance(failure, TryAgain) and failure.slow_down:
            self._share.slower()
        match self._next_step(file, failure, piece.failures):
            case Again(delay, reason):
                self._tell_retry(file, reason, delay)
                await self._rest(file, piece, delay)
            case Renew():
                file.link_dead = True
                file.pieces.put_back(piece)
            case StartOver(reason, plain):
                if file.pieces.arrived:
                    self._tell_retry(file, reason, 0.0)
                await self._start_over(file, plain=plain)

    def _next_step(self, file: IncomingFile, failure: Failure, failures: int) -> Step:
        """Return what follows from a failure.

        Raises:
            SendGridExportsError: nothing is left to try.
        """
        step, file.tries = next_step(
            failure,
            file.tries,
            failures=failures,
            attempts=self._job.policy.attempts,
            left=self._job.deadline.left(self._job.clock.monotonic()),
            random=self._job.random,
        )
        if isinstance(step, GiveUp):
            raise error_of(
                step,
                path=self._requests.path(file),
                url=file.link.identity,
                export_id=self._job.export_id,
                export=self._job.folder.manifest.export,
            )
        return step

    async def _rest(self, file: IncomingFile, piece: Piece, delay: float) -> None:
        if not piece.ranged:
            # Without ranges there is no going on, only from the first byte.
            await self._start_over(file, plain=True)
            [begun] = file.pieces.waiting
            begun.furthest, begun.failures = piece.furthest, piece.failures
            file.pieces.active, file.pieces.waiting = [begun], []
            piece = begun
        piece.resting = True
        self._tasks.begin(
            file, self._job.clock.sleep(delay), partial(self._after_rest, file, piece)
        )

    async def _after_rest(self, file: IncomingFile, piece: Piece, _: None) -> None:
        piece.resting = False
        file.pieces.put_back(piece)

    async def _after_proof(
        self, file: IncomingFile, proof: Callable[[], Checked] | CheckFailedError
    ) -> None:
        if isinstance(proof, CheckFailedError):
            await self._failed(file, proof)
            return
        etag = file.version.etag.strip('"') if file.version else None
        publish = self._job.folder.publish(
            file.number, file.link.kind, proof, etag, self._job.policy
        )
        self._tasks.begin(file, publish, partial(self._after_publish, file))

    async def _failed(self, file: IncomingFile, proof: CheckFailedError) -> None:
        try:
            step = self._next_step(file, proof, 0)
        except CorruptDownloadError:
            await self._start_over(file, plain=False)
            raise
        if isinstance(step, StartOver):
            self._tell_retry(file, step.reason, 0.0)
            await self._start_over(file, plain=not file.pieces.splittable)

    async def _after_publish(
        self, file: IncomingFile, finished: DownloadedFile | CheckFailedError
    ) -> None:
        if isinstance(finished, CheckFailedError):
            await self._failed(file, finished)
            return
        self._files.remove(file)
        self.progress.finished(file)
        self._job.on_event(FileFinished(export_id=self._job.export_id, file=finished))

    async def _start_over(self, file: IncomingFile, *, plain: bool) -> None:
        await self._tasks.stop(file)
        self._proving.discard(file)
        await self._durable.forget(file)
        file.start_over(plain=plain)

    def _tell_retry(self, file: IncomingFile, reason: str, delay: float) -> None:
        path = self._requests.path(file)
        self._job.on_event(
            Retrying(
                export_id=self._job.export_id,
                number=file.number,
                path=path,
                reason=reason,
                delay=delay,
            )
        )

    def _unlisted(self, number: int) -> DownloadError:
        return DownloadError(
            f"SendGrid no longer lists file {number} of export {self._job.export_id}. "
            "Start another export."
        )


def _turn(file: IncomingFile) -> tuple[bool, int, int]:
    # Links live for minutes, and what has started is not cut: every file begins before one goes
    # on, and then the one with the fewest connections is next.
    return file.pieces.total is not None, len(file.pieces.active), file.number
