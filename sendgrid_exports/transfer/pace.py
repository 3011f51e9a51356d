"""How many connections to use, and which of them is too slow. Pure.

A connection that trickles keeps every read timeout happy and holds its bytes back for ever. It
is dropped, unless all are slow: then it is the line, and dropping would only make it worse.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable

import attrs

LARGE_READ = 128 * 1024
"""A read this large found data queueing: this process is the bottleneck, not the network."""

_MARKS = 10
_MEASURED_AFTER = 10.0


@attrs.define
class Pace:
    """How many connections all downloads of a client may have at once.

    Few at first. Small reads mean that we wait for the network: one more connection is tried. Large
    reads mean that data was waiting for us, so more connections would not help. When the storage
    refuses (429, 503), the limit is halved at once and grows again by one in half as many successes
    as it allows requests.

    Attributes:
        most: the most connections.
        first: how many to begin with.
    """

    most: int
    first: int
    _allowed: float = attrs.field(init=False)
    _useful: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._allowed = self.most
        self._useful = self.first

    @property
    def limit(self) -> int:
        """How many connections there may be now."""
        return min(int(self._allowed), self._useful)

    def slower(self, active: int) -> None:
        """Halve the limit, once for all the requests that were under way together."""
        if active <= self.limit:
            self._allowed = max(1, self.limit // 2)

    def faster(self) -> None:
        """Allow a little more, after a request that succeeded."""
        self._allowed = min(self.most, self._allowed + 2 / self._allowed)

    def received(self, size: int, reads: int) -> None:
        """Note that `size` bytes arrived in so many reads."""
        if size >= reads * LARGE_READ:
            self._useful = max(self.first, self._useful - 1)
        else:
            self._useful = min(self.most, self._useful + 1)


class Speed:
    """What one connection received over the last `window` seconds."""

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
        """Leave out time in which we, not the other side, held the bytes up."""
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
    DROP = "drop it, and ask for its rest on another connection"
    SLOW_LINE = "keep it, and open fewer"


@attrs.define
class Line:
    """What the speeds of all connections say of the line they share.

    Where none is fast, either the line is slow or the connections are stuck, and only a new
    one shows which. It is tried at once where there was a fast one, else after two windows; then
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
        """Note that a connection is fast."""
        self.was_fast = True
        self.next_trial = float("-inf")
        self._pause = self.window


def time_needed(*, received: int, passed: float, rest: int) -> float | None:
    """Seconds that `rest` more bytes take at the rate so far, or None while that is a guess."""
    if passed < _MEASURED_AFTER or received <= 0:
        return None
    return rest * passed / received
