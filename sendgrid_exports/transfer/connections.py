"""The connections to the storage, which all downloads of one client share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from sendgrid_exports.transfer.plan import Limit, Pace, fair_part, has_room

__all__ = ["Connections", "Share"]


@attrs.define(eq=False)
class Share:
    """One download's part of the connections.

    Attributes:
        wake: tells the download that there may be room again.
        active: its requests under way, those included that rest before the next try.
        resting: those that rest, which take no room from others.
    """

    _connections: Connections
    wake: Callable[[], None]
    active: int = 0
    resting: int = 0
    _own: Limit = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._own = Limit(self._connections.pace.most)

    def has_room(self, *, wanted: bool) -> bool:
        """Whether one more request may be made; if it is `wanted` and not, its turn will come."""
        allowed = self.active < self._own.limit
        return self._connections.has_room(self, wanted=wanted and allowed) and allowed

    def passes(self) -> None:
        """Leave to others the room that there was, for want of anything to ask for."""
        self._connections.wake_hungry()

    def ended(self, *, active: int, resting: int) -> None:
        """Take note of how many requests are left after one has ended."""
        less = active - resting < self.active - self.resting
        self.active, self.resting = active, resting
        if less:
            self._connections.wake_hungry()

    def arrived(self, size: int, chunks: int) -> None:
        """Have one more where the line has more to give than comes."""
        if self._connections.pace.arrived(size, chunks):
            self.wake()
            self._connections.wake_hungry()

    def slower(self) -> None:
        """Have fewer from now on, all downloads together."""
        self._connections.pace.slower(self._connections.active)

    def line_is_slow(self) -> None:
        """Have fewer from now on, this download alone: others may have another storage."""
        self._own.slower(self.active)

    def faster(self) -> None:
        """Have a little more again."""
        self._connections.pace.faster()
        self._own.faster()


class Connections:
    """What is under way of every download, and how much may be."""

    def __init__(self, most: int) -> None:
        self.pace = Pace(most)
        self._shares: list[Share] = []
        self._hungry: list[Share] = []

    @contextmanager
    def among(self, share: Share) -> Iterator[None]:
        """Let one more download have its share."""
        self._shares.append(share)
        try:
            yield
        finally:
            self._shares.remove(share)
            self._eats(share)
            self.wake_hungry()

    @property
    def active(self) -> int:
        """How many requests are under way, of all downloads."""
        return sum(share.active for share in self._shares)

    def has_room(self, share: Share, *, wanted: bool) -> bool:
        """Whether `share` may have one more; else it waits in line, if it wants one."""
        limit, shares = self.pace.limit, len(self._shares)
        hungry = [other for other in self._hungry if other is not share]
        place = self._hungry.index(share) if share in self._hungry else len(hungry)
        part = fair_part(limit, shares)
        room = has_room(
            active=share.active,
            others=sum(
                other.active - other.resting for other in self._shares if other is not share
            ),
            ahead=sum(other.active < part for other in hungry[:place]),
            shares=shares,
            hungry=bool(hungry),
            limit=limit,
        )
        if not room and wanted:
            if share not in self._hungry:
                self._hungry.append(share)
        elif share in self._hungry:
            self._eats(share)
            if not wanted:
                # Those behind it found that it was its turn.
                self.wake_hungry()
        return room

    def wake_hungry(self) -> None:
        """Let those who wait for room look again."""
        for share in self._hungry:
            share.wake()

    def _eats(self, share: Share) -> None:
        if share in self._hungry:
            self._hungry.remove(share)
