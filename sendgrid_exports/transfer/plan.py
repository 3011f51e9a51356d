"""How many connections, and how large a piece for each. Pure."""

from __future__ import annotations

import attrs

__all__ = [
    "DISCOVERY",
    "FEW",
    "LARGE_CHUNK",
    "SMALLEST_PIECE",
    "Limit",
    "Pace",
    "fair_part",
    "has_room",
    "is_room_doubtful",
    "piece_size",
]

MIB = 1024 * 1024
_ROOM_SECONDS = 1.0

DISCOVERY = 8 * MIB
"""The first request of a file asks for this much; what fits into it takes one connection."""

SMALLEST_PIECE = 4 * MIB
"""Below this another connection costs more than it brings."""

FEW = 4
"""How many connections a client begins with."""

LARGE_CHUNK = 128 * 1024
"""More than a line that is the limit brings between two looks of the event loop."""


def piece_size(*, waiting: int, connections: int, largest: int) -> int:
    """Return how much the next connection of a file takes, so that pieces come out even.

    Args:
        waiting: bytes of the file that nobody has asked for yet.
        connections: connections the file may still have.
        largest: the largest piece allowed, in bytes.
    """
    even = -(-waiting // max(connections, 1))
    return min(largest, max(even, SMALLEST_PIECE))


@attrs.define
class Limit:
    """How many requests may be under way at once, of `most`.

    It is halved at once, and grows again by one in half as many successes as it allows requests,
    so that a storage which takes only so many is met with few refusals.
    """

    most: int
    _limit: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._limit = self.most

    @property
    def limit(self) -> int:
        """How many requests may be under way now."""
        return int(self._limit)

    def slower(self, active: int) -> None:
        """Halve it, once for all the requests that were under way together."""
        if active <= self.limit:
            self._limit = max(1, self.limit // 2)

    def faster(self) -> None:
        """Allow a little more, after one that succeeded."""
        self._limit = min(self.most, self._limit + 2 / self._limit)


@attrs.define
class Pace(Limit):
    """The limit of all downloads of a client: few at first, more while they bring more, and back.

    Whatever has arrived is read at once. Where it comes in large chunks, bytes wait for us, and
    another connection would only let more of them wait; where in small ones, we wait for bytes.
    """

    _useful: int = attrs.field(factory=lambda: FEW, init=False)

    @property
    def limit(self) -> int:
        """How many requests may be under way now."""
        return min(int(self._limit), self._useful)

    def arrived(self, size: int, chunks: int) -> bool:
        """Take note that `size` bytes came in so many chunks; return whether more are allowed."""
        if size >= chunks * LARGE_CHUNK:
            self._useful = max(FEW, self._useful - 1)
            return False
        if self._useful >= self.most:
            return False
        self._useful += 1
        return True


def has_room(
    *, active: int, others: int, ahead: int, shares: int, hungry: bool, limit: int
) -> bool:
    """Whether a download may make one more request, beside the other downloads of its client.

    Args:
        active: its requests under way.
        others: those of all the others.
        ahead: how many of the others have waited longer for room, and have less than their part.
        shares: how many downloads there are, this one included.
        hungry: whether another one waits for room.
        limit: requests that may be under way at once, of all together.
    """
    if limit - active - others <= ahead:
        return False
    return not hungry or active < fair_part(limit, shares)


def fair_part(limit: int, shares: int) -> int:
    """Return how many requests each download may have while others wait."""
    return max(1, limit // shares)


def is_room_doubtful(*, needed: int, free: int | None, age: float) -> bool:
    """Whether the disk has to be asked again: thousands of small files need not ask each.

    Args:
        needed: bytes still to be written, as far as is known.
        free: bytes that were free when it was asked last, or None where it did not say.
        age: seconds since then.
    """
    return age >= _ROOM_SECONDS or (free is not None and needed > free / 2)
