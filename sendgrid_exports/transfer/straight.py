"""Files straight from their links, byte after byte, for whoever has no disk to put them on.

What was handed on can't be taken back: after a break a file goes on from its next byte, of the
very same version, or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import attrs

from sendgrid_exports.api.exports import Exports
from sendgrid_exports.delays import Random
from sendgrid_exports.errors import (
    CorruptDownloadError,
    DownloadError,
    IncompleteDownloadError,
    TransportError,
)
from sendgrid_exports.events import BytesReceived, FileStarted, LinkRenewed, OnEvent, Retrying
from sendgrid_exports.formats.gunzip import GZIP_MAGIC
from sendgrid_exports.models import ContactExport
from sendgrid_exports.session import Session, Stream
from sendgrid_exports.settings import DownloadPolicy
from sendgrid_exports.timing import Clock, Deadline
from sendgrid_exports.transfer.answers import (
    AllHere,
    Asked,
    Expected,
    LinkDead,
    Receive,
    Refused,
    StartOver,
    TryAgain,
    Version,
    request_headers,
)
from sendgrid_exports.transfer.links import Link, is_due, match_links, read_links
from sendgrid_exports.transfer.names import Names, safe_name
from sendgrid_exports.transfer.pieces import Piece
from sendgrid_exports.transfer.request import EVENTS_A_SECOND, read_answer
from sendgrid_exports.transfer.retries import (
    Again,
    Failure,
    GiveUp,
    Renew,
    Tries,
    error_of,
    next_step,
)
from sendgrid_exports.transfer.speed import Line, Speed, Verdict

__all__ = ["Straight", "StraightFile"]


@attrs.define(eq=False)
class StraightFile:
    """A file that is handed on as it comes.

    Attributes:
        number: its place, from 1.
        link: where it comes from.
        piece: how far it is.
        version: what pins it, once known.
        expected: what the storage announced of it.
        tries: how often it was tried in vain.
        compressed: whether it is gzip, by its first bytes.
        link_dead: whether `link` is to be replaced before the next request.
        announced: whether its start was told.
        told: when its progress was told last, on the monotonic clock.
    """

    number: int
    link: Link
    piece: Piece = attrs.field(factory=lambda: Piece(0, None))
    version: Version | None = None
    expected: Expected = attrs.field(factory=Expected)
    tries: Tries = attrs.field(factory=Tries)
    compressed: bool = True
    link_dead: bool = False
    announced: bool = False
    told: float = float("-inf")


@attrs.define(eq=False, kw_only=True)
class Straight:
    """The files of one export on their way through.

    Attributes:
        export: the export, as last seen.
        exports: SendGrid, for fresh links.
        session: the way to the storage.
        clock: the time.
        random: numbers from 0 to below 1, for jitter.
        policy: how to download.
        on_event: who is told.
        deadline: when it has to be done, at the latest at `expiry`.
        expiry: when the files are deleted.
        allow_http: whether links may be plain http.
        files: the files, in the order of the links.
    """

    export: ContactExport
    exports: Exports
    session: Session
    clock: Clock
    random: Random
    policy: DownloadPolicy
    on_event: OnEvent
    deadline: Deadline
    expiry: Deadline
    allow_http: bool
    files: list[StraightFile] = attrs.field(init=False)
    _identities: tuple[str, ...] = attrs.field(init=False)
    _line: Line = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        links = self._read(self.export)
        self.files = [StraightFile(number, link) for number, link in enumerate(links, start=1)]
        self._identities = tuple(link.identity for link in links)
        self._line = Line(self.policy.minimum_speed, self.policy.speed_window)

    def path(self, file: StraightFile, kind: str | None = None) -> Path:
        """Return the name that the file would have on disk, `kind` being that of its content."""
        names = Names(Path(), safe_name(self.export.id))
        return names.final(file.number, kind or file.link.kind, compressed=file.compressed)

    async def chunks(self, file: StraightFile) -> AsyncGenerator[bytes, None]:
        """Yield the raw bytes of a file, from the first to the last, once each.

        Raises:
            CorruptDownloadError: it can't go on from where it broke off.
            DownloadError, ExportExpiredError: it can't be had.
            APIError, TransportError, InvalidResponseError: its link could not be renewed.
        """
        while not file.piece.finished:
            await self._renew_if_due(file)
            piece = file.piece
            asked = Asked(
                start=piece.position, end=piece.end, ranged=piece.ranged, version=file.version
            )
            failure: Failure | None = None
            try:
                async with self.session.stream(
                    file.link.url,
                    headers=request_headers(asked),
                    read_timeout=self.policy.read_timeout,
                ) as stream:
                    meaning = await read_answer(stream, asked, file.link, self.exports.server_clock)
                    if isinstance(meaning, AllHere):
                        piece.end = piece.position
                    elif not isinstance(meaning, Receive):
                        failure = meaning
                    elif self._is_of_another(file, meaning.version):
                        reason = "SendGrid lists other files now, and this link is another one's"
                        failure = Refused(reason=reason)
                    else:
                        _discover(file, meaning)
                        async with aclosing(self._receive(file, stream)) as received:
                            async for data in received:
                                yield data
            except TransportError as error:
                failure = TryAgain(str(error)) if error.transient else Refused(reason=str(error))
            if piece.tried():
                file.tries = file.tries.after_progress()
            if failure is not None and not piece.finished:
                await self._go_on(file, failure)

    def _is_of_another(self, file: StraightFile, version: Version | None) -> bool:
        """Whether the object behind a link that was matched by its place is another file's."""
        if version is None or file.link.identity == self._identities[file.number - 1]:
            return False
        return any(other.version == version for other in self.files if other is not file)

    async def _receive(self, file: StraightFile, stream: Stream) -> AsyncGenerator[bytes, None]:
        piece = file.piece
        speed = Speed(self.policy.speed_window, self.clock.monotonic())
        async with aclosing(stream.chunks()) as chunks:
            async for arrived in chunks:
                now = self.clock.monotonic()
                speed.add(len(arrived), now)
                data = arrived if piece.end is None else arrived[: piece.end - piece.position]
                piece.position += len(data)
                self._tell(file, data)
                # Whoever takes it may take long, and holds the storage back: no fault of its own.
                yield data
                speed.pause(self.clock.monotonic() - now)
                if piece.finished:
                    return
                if self._is_too_slow(speed):
                    raise TransportError("the connection was too slow")
        if piece.end is None:
            piece.end = piece.position
        elif not piece.finished:
            raise TransportError("the body ended early")

    def _is_too_slow(self, speed: Speed) -> bool:
        now = self.clock.monotonic()
        return self._line.judge(speed.rate(now), (), now) is Verdict.DROP

    def _tell(self, file: StraightFile, data: bytes) -> None:
        piece, now = file.piece, self.clock.monotonic()
        if piece.position == len(data) >= len(GZIP_MAGIC):
            file.compressed = data.startswith(GZIP_MAGIC)
        if not file.announced:
            file.announced = True
            self.on_event(
                FileStarted(
                    export_id=self.export.id,
                    number=file.number,
                    path=self.path(file),
                    size=piece.end,
                )
            )
        if now - file.told >= 1 / EVENTS_A_SECOND:
            file.told = now
            self.on_event(
                BytesReceived(
                    export_id=self.export.id,
                    number=file.number,
                    path=self.path(file),
                    received=piece.position,
                    size=piece.end,
                )
            )

    async def _go_on(self, file: StraightFile, failure: Failure) -> None:
        """Wait, renew the link or begin again, so that the next request may do better."""
        piece = file.piece
        if piece.position:
            self._check_pinned(file, failure)
        step, file.tries = next_step(
            failure,
            file.tries,
            failures=piece.failures,
            attempts=self.policy.attempts,
            left=self.deadline.left(self.clock.monotonic()),
            random=self.random,
        )
        match step:
            case Again(delay, reason):
                self.on_event(
                    Retrying(
                        export_id=self.export.id,
                        number=file.number,
                        path=self.path(file),
                        reason=reason,
                        delay=delay,
                    )
                )
                await self.clock.sleep(delay)
            case Renew():
                file.link_dead = True
            case StartOver(plain=plain):
                file.piece = Piece(0, None, ranged=not plain)
                file.version = None
                file.expected = Expected()
            case GiveUp():
                raise error_of(
                    step,
                    path=self.path(file),
                    url=file.link.identity,
                    export_id=self.export.id,
                    export=self.export,
                )

    def _check_pinned(self, file: StraightFile, failure: Failure) -> None:
        """See that a file may go on in the middle.

        Raises:
            CorruptDownloadError: another version of it is there now.
            IncompleteDownloadError: nothing says that it would be the same one.
        """
        path = self.path(file)
        if isinstance(failure, StartOver):
            raise CorruptDownloadError(
                f"{path.name} can't be resumed at byte {file.piece.position:,}: {failure.reason}. "
                "The contacts handed out belong to what is no longer there: drop them, and stream "
                "again.",
                path=path,
                url=file.link.identity,
            )
        pinned = file.version is not None and file.piece.ranged
        if isinstance(failure, TryAgain | LinkDead) and not pinned:
            raise IncompleteDownloadError(
                f"{path.name} broke off at byte {file.piece.position:,} ({failure.reason}), and "
                "nothing pins its version, so it can't go on. Drop the contacts handed out and "
                "stream again, or download, which can begin a file anew.",
                path=path,
                url=file.link.identity,
            )

    async def _renew_if_due(self, file: StraightFile) -> None:
        """Renew all links if that of `file` is dead, or is about to die."""
        utc, now = self.exports.server_clock.utc(), self.clock.monotonic()
        if not (file.link_dead or is_due(file.link, utc=utc, now=now)):
            return
        export = await self.exports.renew(
            self.export.id, deadline=self.deadline, on_event=self.on_event
        )
        fresh = match_links(self._identities, self._read(export))
        for other, link in zip(self.files, fresh, strict=True):
            other.link = link or other.link
        if fresh[file.number - 1] is None:
            raise DownloadError(
                f"SendGrid no longer lists file {file.number} of export {self.export.id}. "
                "Start another export."
            )
        file.link_dead = False
        left = len(self.files) - file.number + 1
        self.on_event(LinkRenewed(export_id=self.export.id, links=left))

    def _read(self, export: ContactExport) -> tuple[Link, ...]:
        return read_links(export.urls, allow_http=self.allow_http, now=self.clock.monotonic())


def _discover(file: StraightFile, meaning: Receive) -> None:
    """Take note of what the first answer tells of a file."""
    if file.piece.position == 0:
        file.version = meaning.version
        file.expected = meaning.expected
        file.piece.end = meaning.total
