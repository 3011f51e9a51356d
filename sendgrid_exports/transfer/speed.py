"""Which connection is too slow, and whether the download will be done in time. Pure.

A connection that trickles keeps every read timeout happy and holds its bytes back for ever. It
is dropped, unless all are slow: then it is the line, and dropping would only make it worse.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable

import attrs

__all__ = ["Line", "Speed", "Verdict", "time_needed"]

_MARKS = 10
_MEASURED_AFTER = 10.0


class Speed:
    """What one connection brought over the last `window` seconds."""

    def __init__(self, window: float, now: float) -> None:
        self._window = window
        self._began = now
        self._received = 0
        self._paused = 0.0
        self._marks = deque([(now, 0)])

    def add(self, size: int, now: float) -> None:
        """Count `size` bytes that arrived by `now`."""
        self._received += size
        time = now - self._paused
        if time - self._marks[-1][0] >= self._window / _MARKS:
            self._marks.append((time, self._received))
            while time - self._marks[1][0] >= self._window:
                self._marks.popleft()

    def pause(self, seconds: float) -> None:
        """Leave out time in which we, not the other side, kept the bytes waiting."""
        self._paused += seconds

    def average(self, now: float) -> float:
        """Bytes a second since the beginning, pauses left out."""
        return self._received / max(now - self._paused - self._began, 1e-9)

    def rate(self, now: float) -> float | None:
        """Bytes a second over the window, or None before one has passed."""
        time, received = self._marks[0]
        passed = now - self._paused - time
        return (self._received - received) / passed if passed >= self._window else None


class Verdict(enum.Enum):
    """What to do about a connection's speed."""

    KEEP = "keep"
    DROP = "drop it, and ask for its rest on another"
    SLOW_LINE = "keep it, and open fewer"


@attrs.define
class Line:
    """What the speeds of all connections say of the line they share.

    Where nobody is fast, either the line is slow or the connections are stuck, and only a new
    one tells which. It is tried at once where there was a fast one, else after two windows; then
    after two, four, eight: a slow line is hardly disturbed, and a stuck one gets going.

    Attributes:
        minimum: bytes a second below which a connection is slow.
        window: seconds over which speeds are measured.
        was_fast: whether a connection has been fast so far.
        next_trial: when a new connection may be tried next, on the monotonic clock.
    """

    minimum: float
    window: float
    was_fast: bool = False
    next_trial: float = float("-inf")
    _pause: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pause = self.window

    def judge(self, rate: float | None, others: Iterable[float | None], now: float) -> Verdict:
        """Return what to do about a connection of this `rate`, among `others`."""
        if rate is None:
            return Verdict.KEEP
        if rate >= self.minimum:
            self.fast()
            return Verdict.KEEP
        known = [other for other in others if other is not None]
        if any(other >= self.minimum for other in known):
            return Verdict.DROP
        if known and not self.was_fast and self.next_trial == float("-inf"):
            self.next_trial = now + 2 * self.window
        if now < self.next_trial:
            return Verdict.SLOW_LINE
        self._pause *= 2
        self.next_trial = now + self._pause
        return Verdict.DROP

    def fast(self) -> None:
        """Take note that a connection is fast."""
        self.was_fast = True
        self.next_trial = float("-inf")
        self._pause = self.window


def time_needed(*, arrived: int, passed: float, rest: int) -> float | None:
    """Seconds that `rest` more bytes take at the rate so far, or None while that is a guess."""
    if passed < _MEASURED_AFTER or arrived <= 0:
        return None
    return rest * passed / arrived
