"""How far a transfer is: what callers learn of it, and whether it will be done in time."""

from __future__ import annotations

import math
from pathlib import Path

from sendgrid_exports.events import BytesReceived, FileStarted, Retrying, RunningLate
from sendgrid_exports.transfer.file import Copy, File
from sendgrid_exports.transfer.names import Names
from sendgrid_exports.transfer.pace import time_needed
from sendgrid_exports.transfer.transfer import Transfer

EVENTS_A_SECOND = 10


class Progress:
    """The progress of one transfer, in counters, so that no event costs a sum over all files.

    Attributes:
        needed: bytes of the unfinished files still to be written, as far as sizes are known.
    """

    def __init__(self, transfer: Transfer, names: Names, *, on_disk: bool = True) -> None:
        self._transfer = transfer
        self._names = names
        self._on_disk = on_disk
        self._began = transfer.means.clock.monotonic()
        self._written = 0
        self._size = 0
        self._durable = 0
        self._late = False
        self.needed = 0

    @property
    def kept(self) -> str:
        """How much of the unfinished files is durable, in words."""
        return f"{self._durable:,} of {self._size:,} bytes of the unfinished files are durable"

    def path(self, file: File, kind: str | None = None) -> Path:
        """Return the final path of a file, as far as the `kind` of its content is known."""
        compressed = file.compressed and not self._transfer.means.policy.decompress
        return self._names.final(file.number, kind or file.link.kind, compressed=compressed)

    def path_on_disk(self, file: File) -> Path | None:
        """Return the final path of a file, or None where files are objects in a bucket."""
        return self.path(file) if self._on_disk else None

    def retrying(self, file: File, reason: str, delay: float) -> None:
        """Say that a file is tried again in `delay` seconds."""
        self._transfer.on_event(
            Retrying(
                export_id=self._transfer.export_id,
                number=file.number,
                path=self.path_on_disk(file),
                reason=reason,
                delay=delay,
            )
        )

    def discovered(self, copy: Copy) -> None:
        """Count a file whose size is known now; what an earlier run left of it counts as there."""
        total = copy.pieces.total
        if total is not None and not copy.counted:
            copy.counted = True
            self._size += total
            self._durable += copy.durable
            self.needed += total - copy.pieces.written.size

    def ended(self, copy: Copy) -> None:
        """Stop counting a file: it is finished, or starts over."""
        total = copy.pieces.total
        if total is not None and copy.counted:
            copy.counted = False
            self._size -= total
            self._durable -= copy.durable
            self.needed -= total - copy.pieces.written.size

    def written(self, copy: Copy, size: int) -> None:
        """Count bytes that were written, and report once if the rest will take too long."""
        self._written += size
        if copy.counted:
            self.needed -= size
        now = self._transfer.means.clock.monotonic()
        left = self._transfer.seconds_left
        if self._late or not math.isfinite(left):
            return
        needed = time_needed(received=self._written, passed=now - self._began, rest=self.needed)
        if needed is not None and needed > left:
            self._late = True
            self._transfer.on_event(
                RunningLate(
                    export_id=self._transfer.export_id, seconds_needed=needed, seconds_left=left
                )
            )

    def synced(self, copy: Copy, durable: int) -> None:
        """Note how many bytes of a file are durable."""
        if copy.counted:
            self._durable += durable - copy.durable
        copy.durable = durable

    def started(self, file: File) -> None:
        """Say, once, that a file begins to arrive."""
        copy, size = file.copy, file.copy.pieces.total
        if not file.announced:
            file.announced = True
            self._transfer.on_event(
                FileStarted(
                    export_id=self._transfer.export_id,
                    number=file.number,
                    path=self.path_on_disk(file),
                    size=size,
                    received=copy.pieces.written.size,
                )
            )

    def received(self, file: File, block: memoryview, now: float) -> None:
        """Count bytes that arrived, and say so if that is due."""
        copy, size = file.copy, file.copy.pieces.total
        copy.received += len(block)
        if now - file.event_at >= 1 / EVENTS_A_SECOND:
            file.event_at = now
            self._transfer.on_event(
                BytesReceived(
                    export_id=self._transfer.export_id,
                    number=file.number,
                    path=self.path_on_disk(file),
                    received=copy.received,
                    size=size,
                )
            )
