"""Receiving the body of an answer in blocks: straight into reused buffers where that is possible.

aiohttp connects, speaks TLS, sends the request and parses the head. A body of known length is then
received by a protocol of our own, into one buffer while the caller uses the other, and its
connection goes back to aiohttp's pool after exactly the announced bytes. Any other body goes
through aiohttp's reader. aiohttp is not imported here: this is all that depends on its internals.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Protocol

from sendgrid_exports.timing import Clock

if TYPE_CHECKING:
    import aiohttp

_HOLD = 0.1


class Body(Protocol):
    """A body on its way.

    Attributes:
        reads: how many reads of the connection the bytes so far took.
    """

    reads: int

    def blocks(self) -> AsyncGenerator[memoryview, None]:
        """Yield the body in blocks; each is valid until the next is asked for.

        A block is yielded when it is full, at the body's end, or a tenth of a second after its
        first byte. What arrived before an error is yielded before the error is raised.

        Raises:
            OSError: the connection was lost, or silent for too long (`TimeoutError`).
        """
        ...

    def fail(self, error: Exception) -> None:
        """End the reading with `error`."""
        ...


def open_body(
    answer: aiohttp.ClientResponse, *, block: int, read_timeout: float, clock: Clock
) -> Body:
    """Return the body of an answer that is not decoded.

    Args:
        answer: its head has arrived.
        block: the size of a block, in bytes; a slow line gives smaller ones.
        read_timeout: seconds the connection may be silent while a block is waited for.
        clock: measures how long a block is held.
    """
    length = answer.headers.get("Content-Length", "")
    chunked = "chunked" in answer.headers.get("Transfer-Encoding", "").lower()
    connection = answer.connection
    known = length.isdecimal() and not chunked
    if known and connection is not None and _can_switch(connection, answer.content):
        return BufferedBody(
            answer, int(length), block=block, read_timeout=read_timeout, clock=clock
        )
    return ReaderBody(answer.content, block=block, read_timeout=read_timeout, clock=clock)


def _can_switch(connection: Any, reader: Any) -> bool:
    protocol, transport = connection.protocol, connection.transport
    return (
        all(hasattr(reader, name) for name in ("read_nowait", "feed_eof"))
        and all(hasattr(protocol, name) for name in ("pause_reading", "connection_lost"))
        and all(hasattr(transport, name) for name in ("set_protocol", "get_protocol", "abort"))
        and transport.get_protocol() is protocol
    )


class BufferedBody(asyncio.BufferedProtocol):
    """A body of known length: the transport fills one buffer while the caller uses the other."""

    def __init__(
        self,
        answer: aiohttp.ClientResponse,
        size: int,
        *,
        block: int,
        read_timeout: float,
        clock: Clock,
    ) -> None:
        self.reads = 0
        self._size = block
        connection: Any = answer.connection
        self._reader: Any = answer.content
        self._handler: Any = connection.protocol
        self._transport: Any = connection.transport
        self._left = size
        self._read_timeout = read_timeout
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(b"")
        self._other: memoryview | None = None
        self._filled = 0
        self._began = 0.0
        self._paused = False
        self._switched = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._active_at = 0.0
        self._hold: asyncio.TimerHandle | None = None

    async def blocks(self) -> AsyncGenerator[memoryview, None]:
        """Yield the body, see `Body`."""
        # Reading what aiohttp has received lets it receive more: pause only after that.
        early = b"".join(iter(self._reader.read_nowait, b""))
        self._left -= len(early)
        if self._left <= 0:
            self.reads += 1
            yield memoryview(early)
            return
        self._switch(early)
        try:
            while True:
                await self._block()
                block, self._filled = self._buffer[: self._filled], 0
                last, error = self._left <= 0, self._error
                if last:
                    self._give_back()
                else:
                    # The caller has finished with the other buffer: it asked for this block.
                    self._buffer, self._other = self._other or self._new_buffer(), self._buffer
                    if error is None and self._paused:
                        self._paused = False
                        self._transport.resume_reading()
                if block:
                    yield block
                if last:
                    return
                if error is not None:
                    raise error
        finally:
            if self._switched:
                # Bytes of this body are still to come, so the connection can't be reused.
                self._transport.set_protocol(self._handler)
                self._switched = False
                self._transport.abort()

    def fail(self, error: Exception) -> None:
        """End the reading, see `Body`."""
        if self._error is None:
            self._error = error
        self._wake()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the rest of the buffer that is filled, and not more than the body's rest."""
        return self._buffer[self._filled : self._filled + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """Count the bytes, and wake the reader when a block is due."""
        self._active_at = self._loop.time()
        if not self._filled:
            self._began = self._clock.monotonic()
            if self._waiter is not None:
                self._hold = self._loop.call_later(_HOLD, self._wake)
        self.reads += 1
        self._filled += nbytes
        self._left -= nbytes
        if self._left <= 0 or self._filled == len(self._buffer):
            self._paused = True
            self._transport.pause_reading()
            self._wake()
        elif self._waiter is not None and self._clock.monotonic() - self._began >= _HOLD:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """End the reading, also for aiohttp's protocol."""
        self._switched = False
        self._handler.connection_lost(error)
        self.fail(error or ConnectionResetError("the connection was closed in mid-body"))

    def _switch(self, early: bytes) -> None:
        self._size = max(min(self._size, self._left + len(early)), len(early))
        self._buffer = self._new_buffer()
        self._filled = len(early)
        self._buffer[: len(early)] = early
        self._began = self._clock.monotonic()
        if early:
            self.reads += 1
        self._handler.pause_reading()
        self._transport.set_protocol(self)
        self._switched = True
        if self._filled == len(self._buffer):
            self._paused = True
        else:
            self._transport.resume_reading()

    def _new_buffer(self) -> memoryview:
        return memoryview(bytearray(self._size))

    def _give_back(self) -> None:
        """Return the connection to aiohttp's pool."""
        if self._switched:
            self._switched = False
            self._transport.set_protocol(self._handler)
        # The end of the body resumes reading, and releases the connection.
        self._reader.feed_eof()

    async def _block(self) -> None:
        """Wait until the buffer holds a block that is due."""
        if self._is_due():
            return
        self._active_at = self._loop.time()
        self._waiter = self._loop.create_future()
        if self._filled:
            self._hold = self._loop.call_later(_HOLD, self._wake)
        self._silence = self._loop.call_later(self._read_timeout, self._check_silence)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._silence.cancel()
            if self._hold is not None:
                self._hold.cancel()
                self._hold = None

    def _is_due(self) -> bool:
        full = self._filled == len(self._buffer)
        held = self._filled > 0 and self._clock.monotonic() - self._began >= _HOLD
        return self._left <= 0 or self._error is not None or full or held

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check_silence(self) -> None:
        left = self._active_at + self._read_timeout - self._loop.time()
        if left > 0:
            self._silence = self._loop.call_later(left, self._check_silence)
        else:
            self.fail(TimeoutError("the connection is silent"))


class ReaderBody:
    """A body that goes through aiohttp's reader: chunked, of unknown length, or on a proxy."""

    def __init__(
        self, reader: aiohttp.StreamReader, *, block: int, read_timeout: float, clock: Clock
    ) -> None:
        self.reads = 0
        self._size = block
        self._reader = reader
        self._read_timeout = read_timeout
        self._clock = clock

    async def blocks(self) -> AsyncGenerator[memoryview, None]:
        """Yield the body, see `Body`."""
        held = bytearray()
        began = 0.0
        failure: Exception | None = None
        while True:
            try:
                async with asyncio.timeout(_HOLD if held else self._read_timeout):
                    chunk = await self._reader.readany()
            except TimeoutError:
                if not held:
                    raise TimeoutError("the connection is silent") from None
                chunk = b""
            except Exception as error:
                if error is not self._reader.exception():
                    raise
                failure = error
                # aiohttp raises before it hands out what had arrived until then.
                reader: Any = self._reader
                reader.set_exception(None)
                chunk = reader.read_nowait(-1)
            else:
                if not chunk:
                    break
            if chunk:
                self.reads += 1
                began = began if held else self._clock.monotonic()
                held += chunk
            late = self._clock.monotonic() - began >= _HOLD or not chunk
            if held and (late or len(held) >= self._size or failure is not None):
                block, held = held, bytearray()
                yield memoryview(block)
            if failure is not None:
                raise failure
        if held:
            yield memoryview(held)

    def fail(self, error: Exception) -> None:
        """End the reading, see `Body`."""
        self._reader.set_exception(error)
