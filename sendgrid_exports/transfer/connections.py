"""The connections to the storage: one queue for all downloads of a client, with one rule.

S3 checks a link only when a request starts, so every file gets its first connection before any
gets a second. After that the file with the fewest connections is next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sendgrid_exports.transfer.file import FIRST_TURN, File
from sendgrid_exports.transfer.pace import Pace


class Connections:
    """The connections that the downloads of one client share.

    Args:
        most: the most connections at once.
        first: how many to begin with.
    """

    def __init__(self, most: int, first: int) -> None:
        self._pace = Pace(most, min(most, first))
        self._active = 0
        self._waiting: dict[asyncio.Future[None], File] = {}

    @asynccontextmanager
    async def one(self, file: File) -> AsyncIterator[None]:
        """Wait for a connection for `file`, and hold it."""
        granted = asyncio.get_running_loop().create_future()
        self._waiting[granted] = file
        self._grant()
        try:
            if not granted.done():
                await granted
            yield
        finally:
            self._waiting.pop(granted, None)
            if granted.done() and not granted.cancelled():
                self._active -= 1
                file.connections -= 1
            self._grant()

    def received(self, size: int, reads: int) -> None:
        """Note that `size` bytes arrived in so many reads of a connection."""
        self._pace.received(size, reads)
        self._grant()

    def slower(self) -> None:
        """Use fewer from now on: the storage or the line is overloaded."""
        self._pace.slower(self._active)

    def faster(self) -> None:
        """Allow a little more again, after a request that succeeded."""
        self._pace.faster()
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._active < self._pace.limit:
            granted = self._next()
            file = self._waiting.pop(granted)
            # A task that was cancelled may not have run yet.
            if not granted.cancelled():
                self._active += 1
                file.connections += 1
                granted.set_result(None)

    def _next(self) -> asyncio.Future[None]:
        """Return whose turn it is; of equals, what waits longest."""
        # Of many small files the first that waits is next, and the others need no comparison.
        fresh = (granted for granted, file in self._waiting.items() if file.turn == FIRST_TURN)
        return next(fresh, None) or min(self._waiting, key=lambda it: self._waiting[it].turn)
