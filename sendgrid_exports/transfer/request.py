"""One request to the storage: its answer judged, its body streamed into the part file."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Protocol

import attrs

from sendgrid_exports.disk import PartFile
from sendgrid_exports.errors import TransportError
from sendgrid_exports.events import BytesReceived, FileStarted
from sendgrid_exports.formats.gunzip import GZIP_MAGIC
from sendgrid_exports.session import Stream
from sendgrid_exports.timing import Clock, ServerClock
from sendgrid_exports.transfer.answers import (
    AllHere,
    Answer,
    Asked,
    Expected,
    Meaning,
    Receive,
    Refused,
    TryAgain,
    Version,
    judge,
    request_headers,
)
from sendgrid_exports.transfer.job import Job
from sendgrid_exports.transfer.links import Link
from sendgrid_exports.transfer.pieces import FilePieces, Piece
from sendgrid_exports.transfer.retries import Failure, Tries
from sendgrid_exports.transfer.speed import Line, Speed, Verdict

__all__ = ["EVENTS_A_SECOND", "IncomingFile", "Requests", "read_answer"]

_WRITE = 2 * 1024 * 1024
_WRITE_SECONDS = 1.0
EVENTS_A_SECOND = 10


@attrs.define(eq=False)
class IncomingFile:
    """A file on its way.

    Attributes:
        number: its place, from 1.
        link: where it comes from.
        pieces: which of its bytes are where.
        version: what pins it, once known.
        expected: what the storage announced of it.
        tries: how often it was tried in vain.
        compressed: whether it is gzip: by its name at first, then by its first bytes.
        link_dead: whether `link` is to be replaced before the next request.
        grown: set when bytes were written.
        announced: whether its start was told.
        told: when its progress was told last, on the monotonic clock.
        durable: how many of its bytes the journal claims.
        synced_at: when the last sync began, on the monotonic clock.
        syncing: whether one is under way.
        noted: whether the journal says anything of it.
    """

    number: int
    link: Link
    pieces: FilePieces
    version: Version | None = None
    expected: Expected = attrs.field(factory=Expected)
    tries: Tries = attrs.field(factory=Tries)
    compressed: bool = True
    link_dead: bool = False
    grown: asyncio.Event = attrs.field(factory=asyncio.Event)
    announced: bool = False
    told: float = float("-inf")
    durable: int = 0
    synced_at: float = float("inf")
    syncing: bool = False
    noted: bool = False

    def start_over(self, *, plain: bool) -> None:
        """Forget what came so far."""
        self.pieces.start_over(plain=plain)
        self.version = None
        self.expected = Expected()
        self.syncing = False


class Conductor(Protocol):
    """Who is told of what requests meet."""

    def discovered(self) -> None:
        """A size was learned: there may be pieces for more connections now."""

    def written(self, file: IncomingFile) -> None:
        """More of `file` is in its part file."""

    def arrived(self, size: int, chunks: int) -> None:
        """So many bytes came in so many chunks."""

    def is_of_another(self, file: IncomingFile, version: Version) -> bool:
        """Whether a link brought the bytes of another file of the export."""

    def line_is_slow(self) -> None:
        """All connections are slow: there should be fewer."""

    async def check_space(self) -> None:
        """See that the disk has room for the sizes known by now."""


async def read_answer(
    stream: Stream, asked: Asked, link: Link, server_clock: ServerClock
) -> Meaning:
    """Return what an answer means, by its head and, where that is an error, by its text."""
    if not server_clock.known:
        server_clock.hear(stream.date)
    answer = Answer(
        status=stream.status,
        headers=stream.headers,
        text="" if stream.status in {200, 206} else await stream.text(),
    )
    utc = server_clock.utc()
    due = link.dies_at is not None and link.dies_at <= utc
    return judge(asked, answer, utc=utc, due=due)


class Requests:
    """Makes the requests of one download."""

    def __init__(self, job: Job, conductor: Conductor) -> None:
        self._job = job
        self._conductor = conductor
        self._speeds: dict[Piece, Speed] = {}
        self._line = Line(job.policy.minimum_speed, job.policy.speed_window)

    async def bring(self, file: IncomingFile, piece: Piece) -> Failure | None:
        """Ask for `piece` and write what comes; return what kept it from being finished.

        Raises:
            OSError: the disk failed.
        """
        asked = Asked(
            start=piece.position, end=piece.end, ranged=piece.ranged, version=file.version
        )
        link = file.link
        try:
            async with self._job.session.stream(
                link.url, headers=request_headers(asked), read_timeout=self._job.policy.read_timeout
            ) as stream:
                server_clock = self._job.exports.server_clock
                meaning = await read_answer(stream, asked, link, server_clock)
                if isinstance(meaning, AllHere):
                    piece.end = piece.position
                    return None
                if not isinstance(meaning, Receive):
                    return meaning
                if meaning.version and self._conductor.is_of_another(file, meaning.version):
                    reason = "SendGrid lists other files now, and this link is another one's"
                    return Refused(reason=reason)
                if self._discover(file, piece, meaning):
                    await self._conductor.check_space()
                return await self._receive(file, piece, stream)
        except TransportError as error:
            return TryAgain(str(error)) if error.transient else Refused(reason=str(error))

    def _discover(self, file: IncomingFile, piece: Piece, meaning: Receive) -> bool:
        """Take note of what an answer tells of its file; return whether the size is news."""
        unknown = file.pieces.total is None
        if file.version is None:
            file.version = meaning.version
            file.expected = meaning.expected
            file.synced_at = self._job.clock.monotonic()
        file.pieces.discovered(piece, meaning.total, whole=meaning.whole)
        self._conductor.discovered()
        return unknown and meaning.total is not None

    async def _receive(self, file: IncomingFile, piece: Piece, stream: Stream) -> Failure | None:
        part = self._job.disk.part(self._job.folder.names.part(file.number), piece.position)
        body = _Body(file, piece, part, self._job.clock, self._conductor)
        failure: Failure | None = None
        clock = self._job.clock
        speed = self._speeds[piece] = Speed(self._job.policy.speed_window, clock.monotonic())
        try:
            try:
                async for chunk in stream.chunks():
                    now = clock.monotonic()
                    speed.add(len(chunk), now)
                    self._look_at(file, piece, chunk)
                    await body.take(chunk)
                    self._tell(file)
                    speed.pause(clock.monotonic() - now)
                    if piece.finished:
                        break
                    if self._is_too_slow(piece, speed):
                        failure = TryAgain("the connection was too slow")
                        break
            except TransportError as error:
                failure = TryAgain(str(error))
            await body.flush(last=True)
        except BaseException:
            with contextlib.suppress(OSError):
                await body.settle()
            piece.position = body.written
            raise
        finally:
            del self._speeds[piece]
            await part.close()
        if piece.end is None and failure is None:
            piece.end = file.pieces.total = piece.position
            file.expected = attrs.evolve(file.expected, size=None)
        if piece.finished:
            # With everything received, an error at the end is about the connection alone.
            if speed.average(clock.monotonic()) >= self._line.minimum:
                self._line.fast()
            return None
        return failure or TryAgain("the body ended early")

    def _is_too_slow(self, piece: Piece, speed: Speed) -> bool:
        now = self._job.clock.monotonic()
        rate = speed.rate(now)
        if rate is None:
            return False
        others = (other.rate(now) for of, other in self._speeds.items() if of is not piece)
        verdict = self._line.judge(rate, others, now)
        if verdict is Verdict.SLOW_LINE:
            self._conductor.line_is_slow()
        return verdict is Verdict.DROP

    def _look_at(self, file: IncomingFile, piece: Piece, chunk: bytes) -> None:
        if piece.position == 0 and len(chunk) >= len(GZIP_MAGIC):
            file.compressed = chunk.startswith(GZIP_MAGIC)
        if not file.announced:
            file.announced = True
            self._job.on_event(
                FileStarted(
                    export_id=self._job.export_id,
                    number=file.number,
                    path=self.path(file),
                    size=file.pieces.total,
                    received=file.pieces.written.size,
                )
            )

    def path(self, file: IncomingFile) -> Path:
        """Return the final path of a file, as far as is known by now."""
        compressed = file.compressed and not self._job.policy.decompress
        return self._job.folder.names.final(file.number, file.link.kind, compressed=compressed)

    def _tell(self, file: IncomingFile) -> None:
        now = self._job.clock.monotonic()
        if now - file.told >= 1 / EVENTS_A_SECOND:
            file.told = now
            self._job.on_event(
                BytesReceived(
                    export_id=self._job.export_id,
                    number=file.number,
                    path=self.path(file),
                    received=file.pieces.arrived,
                    size=file.pieces.total,
                )
            )


class _Body:
    """Gathers a body into large writes, one in flight while the next fills.

    Attributes:
        written: the position up to which everything is in the file.
    """

    def __init__(
        self,
        file: IncomingFile,
        piece: Piece,
        part: PartFile,
        clock: Clock,
        conductor: Conductor,
    ) -> None:
        self._file = file
        self._piece = piece
        self._part = part
        self._clock = clock
        self._conductor = conductor
        self._since = clock.monotonic()
        self._chunks: list[bytes] = []
        self._held = 0
        self.written = piece.position
        self._in_flight = piece.position

    async def take(self, chunk: bytes) -> None:
        """Take what arrived, but not beyond the piece's end."""
        if self._piece.end is not None:
            chunk = chunk[: self._piece.end - self._piece.position]
        self._chunks.append(chunk)
        self._held += len(chunk)
        self._piece.position += len(chunk)
        if self._held >= _WRITE:
            await self._write()
        elif self._clock.monotonic() - self._since >= _WRITE_SECONDS:
            # A slow connection must not keep its bytes where they are not durable.
            await self.flush()

    async def flush(self, *, last: bool = False) -> None:
        """Write the rest, and after it nothing if it is the `last`; wait until all is written."""
        await self._write(last=last)
        await self.settle()

    async def settle(self) -> None:
        """Wait for the write in flight.

        Raises:
            OSError: it failed, and nothing of it counts.
        """
        flying, self._in_flight = self._in_flight, self.written
        await self._part.settle()
        self._in_flight = flying
        self._note()

    async def _write(self, *, last: bool = False) -> None:
        chunks, self._chunks = self._chunks, []
        if chunks:
            self._conductor.arrived(self._held, len(chunks))
        self._held = 0
        self._since = self._clock.monotonic()
        # One begins only after the one before it is done.
        await self.settle()
        await self._part.write(chunks, last=last)
        self._in_flight = self._piece.position

    def _note(self) -> None:
        if self._in_flight > self.written:
            self._file.pieces.written.add(self.written, self._in_flight)
            self.written = self._in_flight
            self._file.grown.set()
            self._conductor.written(self._file)
