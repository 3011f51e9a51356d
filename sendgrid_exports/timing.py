"""Time: the clock everything reads, and the deadline everything obeys.

A *timeout* is a duration in seconds, a *deadline* an instant. Nothing else in the package
reads the time or sleeps, so a test that injects a clock owns all of it.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Protocol

import attrs

__all__ = ["Clock", "Deadline", "SystemClock"]


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
