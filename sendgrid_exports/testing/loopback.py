"""One HTTP server on the loopback interface, which can be shut in an instant."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from datetime import datetime
from email.utils import format_datetime
from typing import Final

from aiohttp import web

__all__ = ["LoopbackServer", "drop", "http_date", "reset", "settle"]

# Long enough for a client on this machine to take what was sent before the line is cut.
_MOMENT: Final = 0.005
_RST: Final = struct.pack("ii", 1, 0)


class LoopbackServer:
    """Serves `answer` on a free port of 127.0.0.1; no routes, so that raw paths come through."""

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        self._answer = answer
        self.url = ""

    async def open(self) -> None:
        """Listen; from then on `url` is known."""
        self._server = web.Server(self._answer, handler_cancellation=True, access_log=None)
        self._listener = await asyncio.get_running_loop().create_server(
            self._server, "127.0.0.1", 0, backlog=1024
        )
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    async def close(self) -> None:
        """Stop listening and abort every connection, whatever it is doing."""
        self._listener.close()
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._server.shutdown(timeout=1.0)
        await self._listener.wait_closed()


def http_date(at: datetime) -> str:
    """Return `at` as HTTP writes it."""
    return format_datetime(at, usegmt=True)


async def settle(request: web.BaseRequest) -> None:
    """Wait until what was written has left, and the client had a moment to read it."""
    _transport(request).set_write_buffer_limits(0)
    await request.writer.drain()
    await asyncio.sleep(_MOMENT)


def drop(request: web.BaseRequest) -> None:
    """Close the connection in good order (FIN), in the middle of whatever it is."""
    _transport(request).close()


def reset(request: web.BaseRequest) -> None:
    """Break the connection (RST)."""
    connection: socket.socket = _transport(request).get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    _transport(request).abort()


def _transport(request: web.BaseRequest) -> asyncio.Transport:
    # A request whose client hung up is cancelled, so whoever still runs has a connection.
    assert request.transport is not None
    return request.transport
