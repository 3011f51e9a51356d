"""Time: the clock everything reads, and the deadline everything obeys.

A *timeout* is a duration in seconds, a *deadline* an instant. Nothing else in the package reads the
time or sleeps, so a test that injects a clock owns all of it; only the silence of a socket is
measured by its event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Protocol

import attrs

__all__ = ["Clock", "Deadline", "ServerClock", "SystemClock"]


class Clock(Protocol):
    """What the library needs of time; `sendgrid_exports.testing.FakeClock` is another one."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment, never going back."""
        ...

    def utc(self) -> datetime:
        """Return the time of day as an aware datetime in UTC; it may be wrong, and may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        ...

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """Cancel the block after `seconds` and raise `TimeoutError` from it; None: never."""
        ...


class SystemClock:
    """The real time."""

    def monotonic(self) -> float:
        """Seconds of the system's monotonic clock."""
        return time.monotonic()

    def utc(self) -> datetime:
        """Return the system's time of day."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep without blocking the event loop."""
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """Return `asyncio.timeout`, which reads the loop's clock."""
        return asyncio.timeout(seconds)


@attrs.frozen
class Deadline:
    """An instant on the monotonic clock. Pure arithmetic: callers pass `now`."""

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float | None, now: float) -> Deadline:
        """Return the deadline `seconds` after `now`; None means never."""
        return cls() if seconds is None else cls(now + seconds)

    def left(self, now: float) -> float:
        """Seconds until the deadline: never below zero, infinite where there is none."""
        return max(0.0, self.at - now)

    def passed(self, now: float) -> bool:
        """Whether the deadline is reached."""
        return now >= self.at

    def earlier(self, other: Deadline) -> Deadline:
        """Return whichever of the two comes first."""
        return self if self.at <= other.at else other


class ServerClock:
    """The server's time of day, which is what links and files expire by.

    A local clock may be an hour wrong; the `Date` of the server's answers (RFC 9110 §6.6.1)
    tells by how much. It has whole seconds, so a smaller difference says nothing.
    """

    _RESOLUTION = timedelta(seconds=2)
    _PLAUSIBLE = timedelta(days=36_500)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = timedelta()
        self.known = False

    def hear(self, date: datetime | None) -> None:
        """Take note of the `Date` of an answer that arrived just now."""
        if date is None:
            return
        ahead = date - self._clock.utc()
        if abs(ahead) < self._PLAUSIBLE:
            self._ahead = ahead if abs(ahead) >= self._RESOLUTION else timedelta()
            self.known = True

    def utc(self) -> datetime:
        """Return the server's time as an aware datetime; the local one until one was heard."""
        return self._clock.utc() + self._ahead
