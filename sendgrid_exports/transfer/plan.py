"""How many connections, and how large a piece for each. Pure."""

from __future__ import annotations

import attrs

__all__ = ["DISCOVERY", "SMALLEST_PIECE", "Pace", "has_room", "piece_size"]

MIB = 1024 * 1024

DISCOVERY = 8 * MIB
"""The first request of a file asks for this much; what fits into it takes one connection."""

SMALLEST_PIECE = 4 * MIB
"""Below this another connection costs more than it brings."""


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
class Pace:
    """How many requests may be under way at once: fewer after the storage asked to slow down.

    It is halved at once and grows by one in half as many successes as it allows requests, so that
    a storage which takes only so many is met with few refusals.
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


def has_room(*, active: int, others: int, shares: int, hungry: bool, limit: int) -> bool:
    """Whether a download may make one more request, beside the other downloads of its client.

    Args:
        active: its requests under way.
        others: those of all the others.
        shares: how many downloads there are, this one included.
        hungry: whether another one found no room.
        limit: requests that may be under way at once, of all together.
    """
    if active + others >= limit:
        return False
    return not hungry or active < max(1, limit // shares)
