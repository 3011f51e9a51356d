"""Conducting a download: which request next, what follows from its outcome. The shell.

One loop owns all state. It starts requests while there is room, waits for whatever ends first,
and lets the pure floor say what that means. Nothing else changes the course of a file.
"""

from __future__ import annotations

from functools import partial

from sendgrid_exports.api.exports import Exports
from sendgrid_exports.delays import Random
from sendgrid_exports.disk import Disk
from sendgrid_exports.errors import (
    CorruptDownloadError,
    DownloadError,
    ExportExpiredError,
    IncompleteDownloadError,
)
from sendgrid_exports.events import FileFinished, LinkRenewed, OnEvent, Retrying
from sendgrid_exports.models import ContactExport, DownloadedFile
from sendgrid_exports.session import Session
from sendgrid_exports.settings import DownloadPolicy
from sendgrid_exports.timing import Clock, Deadline
from sendgrid_exports.transfer.answers import LinkDead, TryAgain
from sendgrid_exports.transfer.durable import Durable
from sendgrid_exports.transfer.folder import Folder
from sendgrid_exports.transfer.links import is_due, match_links, read_links, remember_links
from sendgrid_exports.transfer.manifest import with_export
from sendgrid_exports.transfer.pieces import FilePieces, Piece
from sendgrid_exports.transfer.plan import DISCOVERY, SMALLEST_PIECE, Pace, piece_size
from sendgrid_exports.transfer.proof import prove
from sendgrid_exports.transfer.request import IncomingFile, Requests
from sendgrid_exports.transfer.tasks import Tasks
from sendgrid_exports.transfer.tries import (
    Again,
    Begin,
    Expired,
    Fail,
    Failure,
    GiveUpOn,
    Renew,
    next_step,
)
from sendgrid_exports.transfer.verify import Checked, CheckFailedError

__all__ = ["Download"]


class Download:
    """The files of one export that are not there yet, on their way into a folder."""

    def __init__(
        self,
        *,
        export_id: str,
        folder: Folder,
        exports: Exports,
        session: Session,
        disk: Disk,
        clock: Clock,
        random: Random,
        policy: DownloadPolicy,
        on_event: OnEvent,
        deadline: Deadline,
        allow_http: bool,
    ) -> None:
        self._export_id = export_id
        self._folder = folder
        self._exports = exports
        self._disk = disk
        self._clock = clock
        self._random = random
        self._policy = policy
        self._on_event = on_event
        self._deadline = deadline
        self._allow_http = allow_http
        self._files: list[IncomingFile] = []
        self._tasks = Tasks()
        self._proving: set[IncomingFile] = set()
        self._renewing = False
        self._durable = Durable(folder, disk, clock)
        self._pace = Pace(policy.connections)
        self._requests = Requests(
            export_id=export_id,
            names=folder.names,
            session=session,
            disk=disk,
            clock=clock,
            server_clock=exports.server_clock,
            policy=policy,
            on_event=on_event,
            # A size was learned: there may be pieces for more connections now.
            on_discovery=self._tasks.wake,
            on_written=self._sync_if_due,
        )

    async def run(self, export: ContactExport) -> None:
        """Bring every file of `export` that the folder's manifest does not have.

        Raises:
            SendGridExportsError: a file can't be had.
            OSError: the disk failed.
        """
        links = read_links(export.urls, allow_http=self._allow_http, now=self._clock.monotonic())
        known = remember_links(self._folder.manifest.links, links)
        await self._folder.save(with_export(self._folder.manifest, export, known))
        there = {entry.number for entry in self._folder.manifest.files}
        for number, link in enumerate(match_links(known, links), start=1):
            if number in there:
                continue
            if link is None:
                raise self._unlisted(number)
            pieces = FilePieces(first=min(DISCOVERY, self._policy.piece_size))
            file = IncomingFile(number=number, link=link, pieces=pieces)
            await self._durable.resume(file, known[number - 1])
            self._files.append(file)
        try:
            while self._files:
                self._dispatch()
                await self._tasks.settle_one()
        finally:
            await self._tasks.stop()

    def _dispatch(self) -> None:
        """Start whatever may start now."""
        for file in self._files:
            if file.pieces.total is not None and file not in self._proving:
                self._proving.add(file)
                part = self._folder.names.part(file.number)
                self._tasks.begin(
                    file,
                    prove(file, part, self._disk, self._policy.verify),
                    partial(self._after_proof, file),
                )
        while self._active < self._pace.limit and (found := self._next_piece()):
            file, piece = found
            after = partial(self._after_request, file, piece, file.link)
            self._tasks.begin(file, self._requests.bring(file, piece), after)

    @property
    def _active(self) -> int:
        return sum(len(file.pieces.active) for file in self._files)

    def _next_piece(self) -> tuple[IncomingFile, Piece] | None:
        """Return the piece to be served next: of the file with the fewest connections."""
        per_file = self._policy.connections_per_file
        open_files = [file for file in self._files if len(file.pieces.active) < per_file]
        for file in sorted(open_files, key=lambda file: (len(file.pieces.active), file.number)):
            if not file.pieces.waiting or self._needs_link(file):
                continue
            size = piece_size(
                waiting=file.pieces.waiting_bytes,
                connections=per_file - len(file.pieces.active),
                largest=self._policy.piece_size,
            )
            if piece := file.pieces.take(size):
                return file, piece
        for file in open_files:
            if file.pieces.waiting or self._is_due(file):
                continue
            if piece := file.pieces.split(SMALLEST_PIECE):
                return file, piece
        return None

    def _is_due(self, file: IncomingFile) -> bool:
        utc = self._exports.server_clock.utc()
        return file.link_dead or is_due(file.link, utc=utc, now=self._clock.monotonic())

    def _needs_link(self, file: IncomingFile) -> bool:
        """Whether a file must wait for a fresh link; if so, one renewal is under way for all."""
        if not self._is_due(file):
            return False
        if not self._renewing:
            self._renewing = True
            status = self._exports.wait(
                self._export_id,
                deadline=self._deadline,
                on_event=self._on_event,
                known_ready=True,
            )
            self._tasks.begin(self, status, self._after_renewal)
        return True

    async def _after_renewal(self, export: ContactExport) -> None:
        self._renewing = False
        links = read_links(export.urls, allow_http=self._allow_http, now=self._clock.monotonic())
        matched = match_links(self._folder.manifest.links, links)
        for file in self._files:
            link = matched[file.number - 1]
            if link is None:
                raise self._unlisted(file.number)
            file.link = link
            file.link_dead = False
        self._on_event(LinkRenewed(export_id=self._export_id, links=len(self._files)))

    def _sync_if_due(self, file: IncomingFile) -> None:
        if self._durable.is_due(file):
            file.syncing = True
            file.synced_at = self._clock.monotonic()
            self._tasks.begin(file, self._durable.sync(file), partial(self._after_sync, file))

    async def _after_sync(self, file: IncomingFile, _: None) -> None:
        file.syncing = False

    async def _after_request(
        self, file: IncomingFile, piece: Piece, link: object, failure: Failure | None
    ) -> None:
        self._sync_if_due(file)
        if piece.tried():
            file.tries = file.tries.after_progress()
        if failure is None:
            file.pieces.put_back(piece)
            self._pace.faster()
            return
        if isinstance(failure, LinkDead) and file.link is not link:
            file.pieces.put_back(piece)
            return
        if isinstance(failure, TryAgain) and failure.slow_down:
            self._pace.slower(self._active)
        step, file.tries = next_step(
            failure,
            file.tries,
            failures=piece.failures,
            attempts=self._policy.attempts,
            left=self._deadline.left(self._clock.monotonic()),
            random=self._random,
        )
        path = self._requests.path(file)
        match step:
            case Again(delay):
                reason = failure.reason if isinstance(failure, TryAgain) else "again"
                self._tell_retry(file, reason, delay)
                await self._rest(file, piece, delay)
            case Renew():
                file.link_dead = True
                file.pieces.put_back(piece)
            case Begin(plain):
                await self._start_over(file, plain=plain)
            case Expired(reason):
                raise ExportExpiredError(
                    f"The file {path.name} of export {self._export_id} is deleted ({reason}). "
                    "Start another export.",
                    export_id=self._export_id,
                    export=self._folder.manifest.export,
                )
            case GiveUpOn(reason):
                raise IncompleteDownloadError(
                    f"{path.name} did not arrive: {reason}. Fetch again with the same id.",
                    path=path,
                    url=file.link.identity,
                )
            case Fail(reason, status, code):
                raise DownloadError(
                    f"The storage does not give {path.name}: {reason}.",
                    path=path,
                    url=file.link.identity,
                    status=status,
                    code=code,
                )

    async def _rest(self, file: IncomingFile, piece: Piece, delay: float) -> None:
        if not piece.ranged:
            # Without ranges there is no going on, only from the first byte.
            await self._start_over(file, plain=True)
            [begun] = file.pieces.waiting
            begun.furthest, begun.failures = piece.furthest, piece.failures
            file.pieces.active, file.pieces.waiting = [begun], []
            piece = begun
        piece.resting = True
        self._tasks.begin(file, self._clock.sleep(delay), partial(self._after_rest, file, piece))

    async def _after_rest(self, file: IncomingFile, piece: Piece, _: None) -> None:
        piece.resting = False
        file.pieces.put_back(piece)

    async def _after_proof(self, file: IncomingFile, proof: Checked | CheckFailedError) -> None:
        if isinstance(proof, Checked):
            etag = file.version.etag.strip('"') if file.version else None
            publish = self._folder.publish(file.number, file.link.kind, proof, etag, self._policy)
            self._tasks.begin(file, publish, partial(self._after_publish, file))
            return
        if not file.fetched_twice:
            file.fetched_twice = True
            self._tell_retry(file, f"it fails its checks: {proof}", 0.0)
            await self._start_over(file, plain=not file.pieces.splittable)
            return
        path = self._requests.path(file)
        await self._start_over(file, plain=False)
        raise CorruptDownloadError(
            f"{path.name} was fetched twice, and it fails its checks: {proof}. "
            "Start another export; if it is the same, tell SendGrid's support.",
            path=path,
            url=file.link.identity,
        )

    async def _after_publish(self, file: IncomingFile, finished: DownloadedFile) -> None:
        self._files.remove(file)
        self._on_event(FileFinished(export_id=self._export_id, file=finished))

    async def _start_over(self, file: IncomingFile, *, plain: bool) -> None:
        await self._tasks.stop(file)
        self._proving.discard(file)
        await self._durable.forget(file)
        file.start_over(plain=plain)

    def _tell_retry(self, file: IncomingFile, reason: str, delay: float) -> None:
        path = self._requests.path(file)
        self._on_event(Retrying(export_id=self._export_id, path=path, reason=reason, delay=delay))

    def _unlisted(self, number: int) -> DownloadError:
        return DownloadError(
            f"SendGrid no longer lists file {number} of export {self._export_id}. "
            "Start another export."
        )
