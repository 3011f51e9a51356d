"""The connections to the storage: one queue for all downloads of a client, with one rule.

S3 checks a link only when a request starts, so every file gets its first connection before any
gets a second. After that the file with the fewest connections is next.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import attrs

from sendgrid_exports.transfer.file import File
from sendgrid_exports.transfer.pace import Pace


@attrs.define(order=True)
class _Waiter:
    turn: tuple[bool, int]
    number: int
    file: File = attrs.field(order=False)
    granted: asyncio.Future[None] = attrs.field(order=False)


class Connections:
    """The connections that the downloads of one client share.

    Args:
        most: the most connections at once.
        first: how many to begin with.
    """

    def __init__(self, most: int, first: int) -> None:
        self._pace = Pace(most, min(most, first))
        self._active = 0
        self._waiting: list[_Waiter] = []
        self._numbers = count()

    @asynccontextmanager
    async def one(self, file: File) -> AsyncIterator[None]:
        """Wait for a connection for `file`, and hold it."""
        granted = asyncio.get_running_loop().create_future()
        waiter = _Waiter(file.turn, next(self._numbers), file, granted)
        heapq.heappush(self._waiting, waiter)
        self._grant()
        try:
            if not granted.done():
                await granted
            yield
        finally:
            if granted.done() and not granted.cancelled():
                self._active -= 1
                file.connections -= 1
            else:
                granted.cancel()
            self._grant()

    def received(self, size: int, reads: int) -> None:
        """Note that `size` bytes arrived in so many reads of a connection."""
        self._pace.received(size, reads)
        self._grant()

    def slower(self) -> None:
        """Have fewer from now on: the storage or the line has had enough."""
        self._pace.slower(self._active)

    def faster(self) -> None:
        """Have a little more again, after a request that succeeded."""
        self._pace.faster()
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._active < self._pace.limit:
            waiter = heapq.heappop(self._waiting)
            if waiter.granted.done():
                continue
            if waiter.turn != waiter.file.turn:
                # The file got or lost connections while it waited.
                waiter.turn = waiter.file.turn
                heapq.heappush(self._waiting, waiter)
                if self._waiting[0] is not waiter:
                    continue
                heapq.heappop(self._waiting)
            self._active += 1
            waiter.file.connections += 1
            waiter.granted.set_result(None)
