"""HTTP on the loopback interface: a server that stops at once, and bodies with faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import Final

import attrs
from aiohttp import web

from sendgrid_exports.testing import faults
from sendgrid_exports.testing.files import Spool, SpooledFile
from sendgrid_exports.testing.world import Recording
from sendgrid_exports.timing import Clock

__all__ = ["Answer", "LoopWatch", "LoopbackServer", "drop", "http_date", "send"]

# Long enough for a client on this machine to read what was sent before the connection breaks.
_MOMENT: Final = 0.005
_WATCH_EVERY: Final = 0.1
_STOPPED_TEXT: Final = (
    "This FakeSendGrid can't answer: the event loop that started it is not running. Call it from "
    "that loop (an async test in the loop scope of the fixture), or use FakeSendGrid.in_thread() "
    "in synchronous code."
)
_STOPPED_BODY: Final = json.dumps({"errors": [{"message": _STOPPED_TEXT}]})
_STOPPED: Final = (
    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
    f"Content-Length: {len(_STOPPED_BODY)}\r\n\r\n{_STOPPED_BODY}"
).encode()
_RST: Final = struct.pack("ii", 1, 0)
_PIECE: Final = 1 << 18
# With a fake clock a sleep takes no time: this lets the bytes arrive before the next ones.
_BREATH: Final = 0.001


class LoopbackServer:
    """Serves `answer` on a free port of 127.0.0.1; no routes, so that raw paths come through."""

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        self._answer = answer
        self.url = ""

    async def open(self) -> None:
        """Listen; from then on `url` is known."""
        self._server = web.Server(self._answer, handler_cancellation=True, access_log=None)
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener = await asyncio.get_running_loop().create_server(
            self._server, sock=self.socket
        )
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening and abort every connection."""
        self._listener.close()
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._server.shutdown(timeout=1.0)
        await self._listener.wait_closed()


class LoopWatch:
    """Answers in place of an event loop that has stopped, so that clients need no timeout to fail.

    The kernel still accepts connections then. A pytest fixture's server is in that state during
    a synchronous test, and during an async test in another loop scope.
    """

    def __init__(self, servers: Sequence[LoopbackServer]) -> None:
        self._listeners = [server.socket for server in servers]
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="fake-sendgrid-watch", daemon=True).start()

    def end(self) -> None:
        """Stop watching; the thread ends by itself."""
        self._ended.set()

    def _watch(self) -> None:
        stopped = False
        while not self._ended.wait(_WATCH_EVERY):
            # Between a fixture and its test the loop stops for a moment, so once does not count.
            before, stopped = stopped, not self._loop.is_running()
            if before and stopped:
                for listener in self._listeners:
                    with contextlib.suppress(OSError):
                        _refuse_next(listener)


def _refuse_next(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(_WATCH_EVERY)
        # What is not read would reset the connection, and take the answer with it.
        connection.recv(1 << 16)
        connection.sendall(_STOPPED)


def http_date(at: datetime) -> str:
    """Return `at` as HTTP writes it."""
    return format_datetime(at, usegmt=True)


async def settle(request: web.BaseRequest) -> None:
    """Wait until what was written has left, and the client had a moment to read it."""
    _transport(request).set_write_buffer_limits(0)
    await request.writer.drain()
    await asyncio.sleep(_MOMENT)


def drop(request: web.BaseRequest) -> None:
    """Close the connection in good order (FIN), even in the middle of a body."""
    _transport(request).close()


def reset(request: web.BaseRequest) -> None:
    """Break the connection (RST)."""
    connection: socket.socket = _transport(request).get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    _transport(request).abort()


def _transport(request: web.BaseRequest) -> asyncio.Transport:
    # A request whose client hung up is cancelled, so a running one has a connection.
    assert request.transport is not None
    return request.transport


@attrs.frozen(kw_only=True)
class Answer:
    """The head of an answer, and which bytes of which file follow."""

    status: int
    headers: Mapping[str, str]
    file: SpooledFile
    start: int
    stop: int


async def send(
    request: web.BaseRequest,
    answer: Answer,
    fault: faults.Fault | None,
    spool: Spool,
    clock: Clock,
    recording: Recording,
    number: int,
) -> web.StreamResponse:
    """Send `answer`, with `fault` in its body; `number` is the request's in the recording."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    chunked = isinstance(fault, faults.NoLength | faults.TruncatedChunks | faults.EndlessBody)
    if chunked:
        response.enable_chunked_encoding()
    else:
        extra = fault.extra if isinstance(fault, faults.LongerBody) else 0
        response.content_length = answer.stop - answer.start + extra
    recording.answered(number, answer.status)
    # A client may hang up at any time.
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        async with contextlib.aclosing(_pieces(answer, fault, spool, clock)) as pieces:
            async for piece in pieces:
                await response.write(piece)
                recording.sent(number, len(piece))
        match fault:
            case faults.Stall():
                await asyncio.Event().wait()
            case faults.Reset():
                await settle(request)
                reset(request)
            case faults.EarlyEnd() | faults.TruncatedChunks():
                await settle(request)
                drop(request)
    return response


async def _pieces(
    answer: Answer, fault: faults.Fault | None, spool: Spool, clock: Clock
) -> AsyncGenerator[bytes, None]:
    """Yield the body, piece by piece, at the fault's pace and up to its end."""
    position, stop = answer.start, answer.stop
    if isinstance(fault, faults.Reset | faults.EarlyEnd | faults.TruncatedChunks | faults.Stall):
        stop = min(stop, position + fault.after)
    while position < stop:
        began = clock.monotonic()
        size, pause = _pace(fault, position - answer.start)
        if pause:
            await _pass(pause, began, clock)
        piece = await spool.read(answer.file, position, min(size, stop - position))
        if isinstance(fault, faults.FlippedBit) and 0 <= fault.at - position < len(piece):
            flipped = bytearray(piece)
            flipped[fault.at - position] ^= 1
            piece = bytes(flipped)
        yield piece
        position += len(piece)
        if isinstance(fault, faults.Slow):
            await _pass(len(piece) / fault.bytes_per_second, began, clock)
    if isinstance(fault, faults.LongerBody):
        yield b"\x00" * fault.extra
    while isinstance(fault, faults.EndlessBody):
        yield b"\x00" * _PIECE
        await asyncio.sleep(_BREATH)


async def _pass(seconds: float, began: float, clock: Clock) -> None:
    """Let `seconds` pass since `began`; what others slept meanwhile has passed here too."""
    await asyncio.sleep(_BREATH)
    left = began + seconds - clock.monotonic()
    if left > 0:
        await clock.sleep(left)


def _pace(fault: faults.Fault | None, sent: int) -> tuple[int, float]:
    """Return how many bytes come next, and the seconds before them."""
    match fault:
        case faults.Trickle(after, size, every):
            return (size, every) if sent >= after else (min(_PIECE, after - sent), 0.0)
        case faults.Slow(speed):
            return max(1, min(_PIECE, math.ceil(speed / 10))), 0.0
    return _PIECE, 0.0
