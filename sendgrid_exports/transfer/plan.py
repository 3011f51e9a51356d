"""How many connections, and how large a piece for each. Pure."""

from __future__ import annotations

import attrs

__all__ = ["DISCOVERY", "SMALLEST_PIECE", "Pace", "piece_size"]

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
    """How many requests may be under way at once: fewer after the storage asked to slow down."""

    most: int
    limit: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.limit = self.most

    def slower(self, active: int) -> None:
        """Halve it, once for all the requests that were under way together."""
        if active <= self.limit:
            self.limit = max(1, self.limit // 2)

    def faster(self) -> None:
        """Allow one more, after one that succeeded."""
        self.limit = min(self.most, self.limit + 1)
