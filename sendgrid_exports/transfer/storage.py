"""The storage as one transfer sees it: fresh links, requests, bytes, and what a failure means.

Downloads to disk, streams without a disk and uploads all get their bytes from `Storage.receive`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING

from sendgrid_exports.errors import DownloadError, TransportError
from sendgrid_exports.events import LinkRenewed
from sendgrid_exports.formats.gunzip import GZIP_MAGIC
from sendgrid_exports.models import ContactExport
from sendgrid_exports.session import Stream
from sendgrid_exports.transfer.answers import (
    AllHere,
    Answer,
    Asked,
    LinkDead,
    Meaning,
    Receive,
    Refused,
    StartOver,
    TryAgain,
    Version,
    judge,
    request_headers,
)
from sendgrid_exports.transfer.checks import CheckFailedError
from sendgrid_exports.transfer.file import Copy, File
from sendgrid_exports.transfer.links import (
    Link,
    is_due,
    match_links,
    read_links,
    remember_links,
)
from sendgrid_exports.transfer.manifest import with_export
from sendgrid_exports.transfer.pace import Line, Speed, Verdict
from sendgrid_exports.transfer.pieces import Piece
from sendgrid_exports.transfer.progress import Progress
from sendgrid_exports.transfer.retries import Again, Failure, GiveUp, Renew, error_of, next_step
from sendgrid_exports.transfer.transfer import Transfer

if TYPE_CHECKING:
    from sendgrid_exports.transfer.folder import Folder
    from sendgrid_exports.transfer.objects import Objects

_SET_UPS = 10
_SHORT = 5.0


class InterruptedRequestError(Exception):
    """A request ended before its piece was complete; `failure` says why."""

    def __init__(self, failure: Failure, link: Link) -> None:
        self.failure = failure
        self.link = link


class StartOverError(Exception):
    """A file must start over from its first byte.

    Attributes:
        plain: whether as one stream, without ranges.
        piece: the piece whose attempts still count; None where they don't.
    """

    def __init__(self, *, plain: bool, piece: Piece | None = None) -> None:
        self.plain = plain
        self.piece = piece

    def begin(self, file: File, first: int | None) -> None:
        """Give `file` a new copy, whose first request asks for `first` bytes, or for all."""
        file.copy = Copy.new(first, ranged=file.copy.pieces.ranged and not self.plain)
        if self.piece is not None:
            [piece] = file.copy.pieces.waiting
            piece.furthest, piece.failures = self.piece.furthest, self.piece.failures


class Storage:
    """The requests of one transfer.

    Args:
        transfer: the transfer.
        progress: what is said of it.

    Attributes:
        files: the files that still need links, by their number.
        identities: all files' links without query, in the order of the first status.
        versions: which file has which version; a link that was matched by its position may be
            another file's.
    """

    def __init__(self, transfer: Transfer, progress: Progress) -> None:
        self._transfer = transfer
        self._means = transfer.means
        self._progress = progress
        self.files: dict[int, File] = {}
        self.identities: Sequence[str] = ()
        self.versions: dict[Version, int] = {}
        self._renewing = asyncio.Lock()
        self._speeds: dict[Piece, Speed] = {}
        self._line = Line(self._means.policy.minimum_speed, self._means.policy.speed_window)
        self._latency = 0.0

    async def open(
        self, export: ContactExport, folder: Folder | Objects, first: int | None
    ) -> list[File]:
        """Return the files of `export` that are not in its manifest, and enter its links there.

        The first request of each file asks for `first` bytes, or for all.

        Raises:
            DownloadError: SendGrid no longer lists one of them.
            DownloadInProgressError: another process has changed the manifest.
            InvalidResponseError: a link is not what is documented.
            OSError: the disk failed.
        """
        # Not in a thread: where the time is over, no await would return, and the manifest of an
        # export that has expired is written all the same.
        links = self.read_links(export)
        known = remember_links(folder.manifest.links, links)
        await folder.save(lambda manifest: with_export(manifest, export, known))
        finished = {entry.number: entry for entry in folder.manifest.files}
        self.identities = known
        for number, entry in finished.items():
            if entry.etag is not None:
                self.versions[Version(etag=f'"{entry.etag}"', total=entry.raw_size)] = number
        for number, link in enumerate(match_links(known, links), start=1):
            if number in finished:
                continue
            if link is None:
                raise self.unlisted(number)
            self.files[number] = File(number, link, Copy.new(first))
        return list(self.files.values())

    # Links

    def is_due(self, file: File) -> bool:
        """Whether the file's link must be replaced before the next request."""
        utc, now = self._means.exports.server_clock.utc(), self._means.clock.monotonic()
        return file.link_dead or is_due(file.link, utc=utc, now=now)

    async def fresh_link(self, file: File) -> None:
        """Renew the links if that of `file` is dead or about to die.

        Raises:
            DownloadError: SendGrid no longer lists the file.
            APIError, TransportError, InvalidResponseError, ExportError: there are no fresh links.
        """
        while self.is_due(file):
            async with self._renewing:
                # One status serves all that waited meanwhile.
                if self.is_due(file):
                    await self._renew()

    async def _renew(self) -> None:
        transfer = self._transfer
        export = await self._means.exports.renew(
            transfer.export_id, deadline=transfer.deadline, on_event=transfer.on_event
        )
        links = await self._means.disk.run(self.read_links, export)
        matched = match_links(self.identities, links)
        for file in self.files.values():
            link = matched[file.number - 1]
            if link is None:
                raise self.unlisted(file.number)
            file.link = link
            file.link_dead = False
        transfer.on_event(LinkRenewed(export_id=transfer.export_id, links=len(self.files)))

    def read_links(self, export: ContactExport) -> tuple[Link, ...]:
        """Return the links of an export; of thousands, that takes a while.

        Raises:
            InvalidResponseError: one is not a plain https url.
        """
        now = self._means.clock.monotonic()
        return read_links(export.urls, allow_http=self._means.allow_http, now=now)

    def unlisted(self, number: int) -> DownloadError:
        """Return the error of a file that has no link any more."""
        return DownloadError(
            f"SendGrid no longer lists file {number} of export {self._transfer.export_id}. "
            "Start another export."
        )

    # Bytes

    async def receive_in_order(
        self,
        file: File,
        *,
        queued: bool,
        on_interruption: Callable[[File, Piece, Failure], None] = lambda *_: None,
    ) -> AsyncGenerator[memoryview, None]:
        """Yield a file from its first byte to its last; each block is valid until the next.

        It comes over one connection. After an interruption it continues with the next byte.

        Args:
            file: the file, none of whose bytes has arrived.
            queued: whether the connection is one of the client's, and waits for its turn.
            on_interruption: may raise where the file must not continue.

        Raises:
            StartOverError: the file must start over.
            DownloadError, ExportExpiredError: nothing is left to try.
            APIError, TransportError, InvalidResponseError: its link could not be renewed.
        """
        [piece] = file.copy.pieces.waiting
        while not piece.finished:
            await self.fresh_link(file)
            try:
                async with self._means.connections.one(file) if queued else nullcontext():
                    if queued and self.is_due(file):
                        # It waited too long for its turn.
                        continue
                    async with aclosing(self.receive(file, piece)) as blocks:
                        async for block in blocks:
                            yield block
            except InterruptedRequestError as interrupted:
                on_interruption(file, piece, interrupted.failure)
                await self.recover(file, piece, interrupted)

    async def receive(
        self, file: File, piece: Piece, on_size: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[memoryview, None]:
        """Yield the rest of a piece in blocks; each is valid until the next is asked for.

        Time in which the caller keeps a block does not count against the storage. `on_size` is
        called as soon as the answer has said how large the file is, before its first bytes.

        Raises:
            InterruptedRequestError: it ended early, or nothing came.
        """
        copy, link = file.copy, file.link
        asked = Asked(
            start=piece.position, end=piece.end, ranged=piece.ranged, version=copy.version
        )
        began = self._means.clock.monotonic()
        failure: Failure | None = None
        try:
            async with self._means.session.stream(
                link.url,
                headers=request_headers(asked),
                read_timeout=self._means.policy.read_timeout,
                block=self._means.policy.limits.block,
            ) as stream:
                self._latency = self._means.clock.monotonic() - began
                meaning = await self._judge(stream, asked, link)
                if isinstance(meaning, AllHere):
                    piece.end = piece.position
                elif not isinstance(meaning, Receive):
                    failure = meaning
                elif self._is_another_files(file, meaning.version):
                    reason = "SendGrid lists other files now, and this link is another file's"
                    failure = Refused(reason=reason)
                else:
                    self._pin(file, piece, meaning)
                    on_size()
                    self._progress.started(file)
                    async with aclosing(self._body(file, piece, stream)) as blocks:
                        async for block in blocks:
                            yield block
        except TransportError as error:
            # With everything received, an error at the end is about the connection alone.
            if not piece.finished:
                reason = str(error)
                failure = TryAgain(reason) if error.transient else Refused(reason=reason)
        if piece.tried():
            file.tries = file.tries.after_progress()
        if failure is not None:
            raise InterruptedRequestError(failure, link)
        self._means.connections.faster()

    async def _judge(self, stream: Stream, asked: Asked, link: Link) -> Meaning:
        server_clock = self._means.exports.server_clock
        if not server_clock.known:
            server_clock.hear(stream.date)
        text = "" if stream.status in {200, 206} else await stream.text()
        answer = Answer(status=stream.status, headers=stream.headers, text=text)
        utc = server_clock.utc()
        due = link.dies_at is not None and link.dies_at <= utc
        return judge(asked, answer, utc=utc, due=due)

    def _is_another_files(self, file: File, version: Version | None) -> bool:
        if version is None or file.link.identity == self.identities[file.number - 1]:
            return False
        return self.versions.get(version, file.number) != file.number

    def _pin(self, file: File, piece: Piece, meaning: Receive) -> None:
        """Note what an answer says of its file."""
        copy = file.copy
        if copy.version is None:
            copy.version = meaning.version
            copy.expected = meaning.expected
            copy.synced_at = self._means.clock.monotonic()
            if meaning.version is not None:
                self.versions.setdefault(meaning.version, file.number)
        copy.pieces.discovered(piece, meaning.total, whole=meaning.whole)

    async def _body(
        self, file: File, piece: Piece, stream: Stream
    ) -> AsyncGenerator[memoryview, None]:
        clock = self._means.clock
        speed = self._speeds[piece] = Speed(self._means.policy.speed_window, clock.monotonic())
        reads = 0
        try:
            async with aclosing(stream.blocks()) as blocks:
                async for arrived in blocks:
                    now = clock.monotonic()
                    speed.add(len(arrived), now)
                    self._means.connections.received(len(arrived), stream.body.reads - reads)
                    reads = stream.body.reads
                    if piece.position == 0 and len(arrived) >= len(GZIP_MAGIC):
                        file.compressed = arrived[: len(GZIP_MAGIC)] == GZIP_MAGIC
                    block = piece.take(arrived)
                    self._progress.received(file, block, now)
                    yield block
                    # Bytes keep arriving while the caller is busy, unless that takes long.
                    speed.pause(max(0.0, clock.monotonic() - now - _SHORT))
                    if piece.finished:
                        break
                    if self._is_too_slow(piece, speed):
                        raise TransportError("the connection was too slow")
            piece.end_of_body()
            if not piece.finished:
                raise TransportError("the body ended early")
            if speed.average(clock.monotonic()) >= self._line.minimum:
                self._line.fast()
        finally:
            del self._speeds[piece]

    def _is_too_slow(self, piece: Piece, speed: Speed) -> bool:
        now = self._means.clock.monotonic()
        rate = speed.rate(now)
        if rate is None:
            return False
        others = (other.rate(now) for of, other in self._speeds.items() if of is not piece)
        verdict = self._line.judge(rate, others, now)
        if verdict is Verdict.SLOW_LINE:
            self._means.connections.slower()
        return verdict is Verdict.DROP

    def bytes_in_set_ups(self) -> int:
        """How many bytes the fastest connection receives while some requests are set up."""
        now = self._means.clock.monotonic()
        fastest = max((speed.average(now) for speed in self._speeds.values()), default=0.0)
        return int(fastest * self._latency * _SET_UPS)

    # Failures

    async def recover(self, file: File, piece: Piece, interrupted: InterruptedRequestError) -> None:
        """Do what makes another attempt worth while: wait, or have the link renewed.

        Raises:
            StartOverError: the file must start over.
            DownloadError, ExportExpiredError: nothing is left to try.
        """
        failure, means = interrupted.failure, self._means
        if isinstance(failure, LinkDead) and (file.link_dead or file.link is not interrupted.link):
            return
        if isinstance(failure, TryAgain) and failure.slow_down:
            means.connections.slower()
        match self.next_step(file, failure, piece.failures):
            case Again(delay, reason):
                self._progress.retrying(file, reason, delay)
                await means.clock.sleep(delay)
                if not piece.ranged:
                    # Without ranges nothing can be resumed.
                    raise StartOverError(plain=True, piece=piece)
            case Renew():
                file.link_dead = True
            case StartOver(reason, plain):
                if file.copy.received:
                    self._progress.retrying(file, reason, 0.0)
                raise StartOverError(plain=plain)

    def after_failed_check(self, file: File, failed: CheckFailedError) -> StartOverError:
        """Return how a file starts over that failed a check.

        Raises:
            CorruptDownloadError: it failed before.
        """
        step = self.next_step(file, failed)
        assert isinstance(step, StartOver)
        self._progress.retrying(file, step.reason, 0.0)
        return StartOverError(plain=step.plain)

    def next_step(
        self, file: File, failure: Failure, failures: int = 0
    ) -> Again | Renew | StartOver:
        """Return what follows from a failure, after `failures` attempts without progress.

        Raises:
            DownloadError, ExportExpiredError: nothing is left to try.
        """
        step, file.tries = next_step(
            failure,
            file.tries,
            failures=failures,
            attempts=self._means.policy.attempts,
            left=self._transfer.seconds_left,
            random=self._means.random,
        )
        if isinstance(step, GiveUp):
            raise error_of(
                step,
                name=self._progress.path(file).name,
                path=self._progress.path_on_disk(file),
                url=file.link.identity,
                export_id=self._transfer.export_id,
                export=self._transfer.export,
            )
        return step
