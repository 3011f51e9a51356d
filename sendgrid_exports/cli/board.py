"""The board: what the events so far add up to. Pure; whoever tells an event says when."""

from __future__ import annotations

from collections import deque

import attrs

from sendgrid_exports import (
    BytesReceived,
    ContactExport,
    Event,
    ExportStarted,
    ExportStatus,
    FileFinished,
    FileStarted,
    LinkRenewed,
    Retrying,
    StatusPolled,
)
from sendgrid_exports.cli.wording import number_of

__all__ = ["Board", "FileProgress", "Rate"]

_WINDOW = 5.0
_SHORTEST = 0.5


class Rate:
    """Bytes a second, over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, total: int) -> None:
        """Take note that `total` bytes had arrived by `now`."""
        if self._seen and total < self._seen[-1][1]:
            # A file started over: what was before says nothing.
            self._seen.clear()
        self._seen.append((now, total))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW:
            self._seen.popleft()

    def value(self, now: float) -> float | None:
        """Return the rate, or None while there is none to speak of."""
        if len(self._seen) < 2:
            return None
        (began, first), (_, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now - began >= _SHORTEST else None


@attrs.define
class FileProgress:
    """A file on its way.

    Attributes:
        name: its final name.
        size: bytes to come in all, or None where the storage does not say.
        received: bytes so far.
        verified: whether it is under its final name.
        rate: how fast it comes.
    """

    name: str
    size: int | None
    received: int
    verified: bool = False
    rate: Rate = attrs.field(factory=Rate)

    @property
    def arrived(self) -> bool:
        """Whether every byte is there, so that only proofs are left."""
        return self.verified or (self.size is not None and self.received >= self.size)


@attrs.define
class Board:
    """One export, from its start to its last file.

    Attributes:
        began: when the waiting began.
        export_id: the export, or None while it has no id yet.
        export: the export as last seen, or None.
        next_poll: when the next look is due, or None.
        waited: seconds until it was ready, or None while it is not.
        files: what is known of its files, by their number.
        retries: tries that failed so far.
        renewals: links renewed so far.
        rate: how fast all files come together.
    """

    began: float
    export_id: str | None = None
    export: ContactExport | None = None
    next_poll: float | None = None
    waited: float | None = None
    files: dict[str, FileProgress] = attrs.field(factory=dict)
    retries: int = 0
    renewals: int = 0
    rate: Rate = attrs.field(factory=Rate)

    def tell(self, event: Event, now: float) -> None:
        """Add what happened."""
        match event:
            case ExportStarted(export_id=export_id):
                self.export_id = export_id
            case StatusPolled(export_id=export_id, export=export, next_poll=next_poll):
                self.export_id, self.export = export_id, export
                self.next_poll = None if next_poll is None else now + next_poll
                if export.status is ExportStatus.READY and self.waited is None:
                    self.waited = now - self.began
            case FileStarted(path=path, size=size, received=received):
                self._receive(path.name, size, received, now)
            case BytesReceived(path=path, size=size, received=received):
                self._receive(path.name, size, received, now)
            case FileFinished(file=file):
                # Its size on disk is another one where it was inflated.
                known = self.files.get(number_of(file.path.name))
                size = known.size if known and known.size is not None else file.size
                self._receive(file.path.name, size, size, now)
                self.files[number_of(file.path.name)].verified = True
            case Retrying():
                self.retries += 1
            case LinkRenewed(links=links):
                self.renewals += links

    def _receive(self, name: str, size: int | None, received: int, now: float) -> None:
        number = number_of(name)
        resumed = number not in self.files
        file = self.files.setdefault(number, FileProgress(name, size, received))
        # Its ending is known for sure once its first bytes are.
        file.name, file.size, file.received = name, size, received
        file.rate.add(now, received)
        if resumed and received:
            # What an earlier run brought is not speed.
            self.rate = Rate()
        self.rate.add(now, self.received)

    @property
    def expected(self) -> int:
        """How many files there are, as far as is known."""
        return max(len(self.export.urls) if self.export else 0, len(self.files))

    @property
    def received(self) -> int:
        """Bytes so far, of all files."""
        return sum(file.received for file in self.files.values())

    @property
    def size(self) -> int | None:
        """Bytes of all files, or None until each has told its own."""
        sizes = [file.size for file in self.files.values() if file.size is not None]
        return sum(sizes) if len(sizes) == self.expected else None

    @property
    def verified(self) -> int:
        """How many files are verified."""
        return sum(file.verified for file in self.files.values())

    @property
    def active(self) -> list[FileProgress]:
        """The files that have begun and are not verified yet, in their order."""
        return [file for _, file in sorted(self.files.items()) if not file.verified]

    def left(self, now: float) -> float | None:
        """Seconds until every byte is there at the rate so far, or None where nobody knows."""
        rate = self.rate.value(now)
        if self.size is None or not rate:
            return None
        return (self.size - self.received) / rate
