"""The connections to the storage, which all downloads of one client share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from sendgrid_exports.transfer.plan import Pace, has_room

__all__ = ["Connections", "Share"]


class Connections:
    """What is under way of every download, and how much may be."""

    def __init__(self, most: int) -> None:
        self.pace = Pace(most)
        self._shares: list[Share] = []

    @contextmanager
    def among(self, share: Share) -> Iterator[None]:
        """Let one more download have its share."""
        self._shares.append(share)
        try:
            yield
        finally:
            self._shares.remove(share)
            self.wake_hungry()

    @property
    def active(self) -> int:
        """How many requests are under way, of all downloads."""
        return sum(share.active for share in self._shares)

    def others(self, share: Share) -> list[Share]:
        """Return the shares of the other downloads."""
        return [other for other in self._shares if other is not share]

    def wake_hungry(self) -> None:
        """Let those who found no room look again."""
        for share in self._shares:
            if share.hungry:
                share.wake()


@attrs.define(eq=False)
class Share:
    """One download's part of the connections.

    Attributes:
        wake: tells the download that there may be room again.
        active: its requests under way.
        hungry: whether it found no room when it looked last.
    """

    _connections: Connections
    wake: Callable[[], None]
    active: int = 0
    hungry: bool = False

    def has_room(self) -> bool:
        """Whether one more request may be made."""
        others = self._connections.others(self)
        room = has_room(
            active=self.active,
            others=sum(other.active for other in others),
            shares=len(others) + 1,
            hungry=any(other.hungry for other in others),
            limit=self._connections.pace.limit,
        )
        self.hungry = not room
        return room

    def ended(self, active: int) -> None:
        """Take note that some requests have ended, and `active` are left."""
        if active < self.active:
            self.active = active
            self._connections.wake_hungry()

    def slower(self) -> None:
        """Have fewer from now on, all downloads together."""
        self._connections.pace.slower(self._connections.active)

    def faster(self) -> None:
        """Have a little more again."""
        self._connections.pace.faster()
