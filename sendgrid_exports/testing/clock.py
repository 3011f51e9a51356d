"""Time for tests: a clock that never waits."""

from __future__ import annotations

import asyncio
import math
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final

import attrs

from sendgrid_exports.timing import Clock

__all__ = ["FakeClock"]

# Turns of the loop in which the owner of a timeout can react (a server notices that its client
# hung up, say) before a sleep continues past it.
_REACTION: Final = 10


class FakeClock:
    """A `Clock` whose time passes only by `sleep` and `advance`, never by waiting.

    One clock can be shared by a client and a `FakeSendGrid`: what either of them sleeps passes
    for both. Sleeps begun at the same instant wake in the order of their ends, and a timeout
    which falls due during a sleep fires at its own instant.

    Args:
        start: the time of day at which the clock begins, aware.
        monotonic: what `monotonic` begins at, in seconds.

    Attributes:
        sleeps: the seconds of every sleep that was asked for, oldest first, by all who share the
            clock.
    """

    def __init__(
        self,
        start: datetime = datetime(2026, 3, 2, 9, 30, tzinfo=UTC),
        monotonic: float = 1000.0,
    ) -> None:
        if start.tzinfo is None:
            raise ValueError("start must be an aware datetime")
        self.sleeps: list[float] = []
        self._start = start.astimezone(UTC)
        self._began = self._now = monotonic
        self._wakings: list[float] = []
        self._timeouts: set[_FakeTimeout] = set()

    def monotonic(self) -> float:
        """Seconds since a fixed moment."""
        return self._now

    def utc(self) -> datetime:
        """Return the fake time of day, in UTC."""
        return self._start + timedelta(seconds=self._now - self._began)

    async def sleep(self, seconds: float) -> None:
        """Record `seconds`, let other tasks run once, then move the time by them.

        An infinite sleep never ends, and moves nothing.
        """
        self.sleeps.append(seconds)
        target = self._now + max(0.0, seconds)
        self._wakings.append(target)
        try:
            if math.isinf(target):
                await asyncio.Event().wait()
            while True:
                # Here earlier sleepers run first, and tasks that timed out are cancelled.
                await asyncio.sleep(0)
                if min(self._wakings) < target:
                    continue
                due = min((timeout.deadline for timeout in self._timeouts), default=math.inf)
                if due > target:
                    break
                self._move(due)
                for _ in range(_REACTION):
                    await asyncio.sleep(0)
        finally:
            self._wakings.remove(target)
        self._move(target)

    def advance(self, seconds: float) -> None:
        """Move the time by `seconds` at once; timeouts that are due then fire."""
        if seconds < 0:
            raise ValueError("seconds must not be negative: time never goes back")
        self._move(self._now + seconds)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """Act like `asyncio.timeout`, by the fake time; None means never."""
        deadline = math.inf if seconds is None else self._now + seconds
        return _FakeTimeout(deadline, self, self._timeouts)

    def offset(self, seconds: float) -> Clock:
        """Return a clock on the same time whose `utc` is wrong by `seconds`."""
        return _SkewedClock(self, timedelta(seconds=seconds))

    def _move(self, to: float) -> None:
        self._now = max(self._now, to)
        for timeout in tuple(self._timeouts):
            timeout.fire_if_due()


class _FakeTimeout:
    """An `asyncio.timeout(None)` that is rescheduled to "now" once the fake deadline passes."""

    def __init__(self, deadline: float, clock: FakeClock, running: set[_FakeTimeout]) -> None:
        self.deadline = deadline
        self._clock = clock
        self._running = running
        self._scope = asyncio.timeout(None)

    def fire_if_due(self) -> None:
        if self._clock.monotonic() >= self.deadline:
            self._running.discard(self)
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> object:
        await self._scope.__aenter__()
        self._running.add(self)
        self.fire_if_due()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.discard(self)
        await self._scope.__aexit__(kind, error, traceback)


@attrs.frozen
class _SkewedClock:
    """Another view of a `FakeClock`, with a wrong time of day."""

    _clock: FakeClock
    _skew: timedelta

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def utc(self) -> datetime:
        return self._clock.utc() + self._skew

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        return self._clock.timeout(seconds)
