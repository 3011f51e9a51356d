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

    Attributes:
        minimum: bytes a second below which a connection is slow.
        dropped_alone: whether one was dropped while there was no other to compare it with.
    """

    minimum: float
    dropped_alone: bool = False

    def judge(self, rate: float | None, others: Iterable[float | None]) -> Verdict:
        """Return what to do about a connection of this `rate`, among `others`."""
        if rate is None:
            return Verdict.KEEP
        if rate >= self.minimum:
            self.dropped_alone = False
            return Verdict.KEEP
        known = [other for other in others if other is not None]
        if any(other >= self.minimum for other in known):
            return Verdict.DROP
        if known or self.dropped_alone:
            return Verdict.SLOW_LINE
        self.dropped_alone = True
        return Verdict.DROP


def time_needed(*, arrived: int, passed: float, rest: int) -> float | None:
    """Seconds that `rest` more bytes take at the rate so far, or None while that is a guess."""
    if passed < _MEASURED_AFTER or arrived <= 0:
        return None
    return rest * passed / arrived
