"""How far a download is: what is durable, and whether it will be done in time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sendgrid_exports.disk import free_space
from sendgrid_exports.errors import InsufficientDiskSpaceError
from sendgrid_exports.events import RunningLate
from sendgrid_exports.transfer.job import Job
from sendgrid_exports.transfer.plan import is_room_doubtful
from sendgrid_exports.transfer.request import IncomingFile
from sendgrid_exports.transfer.speed import time_needed

__all__ = ["Progress"]


class Progress:
    """The progress of one download, measured from when it began."""

    def __init__(self, job: Job, files: Sequence[IncomingFile]) -> None:
        self._job = job
        self._files = files
        self._began = job.clock.monotonic()
        self._there = sum(file.durable for file in files)
        self._finished = 0
        self._told = False
        self._free: int | None = 0
        self._free_at = -math.inf

    @property
    def kept(self) -> str:
        """How much of the unfinished files is durable, in words."""
        size = sum(file.pieces.total or 0 for file in self._files)
        durable = sum(file.durable for file in self._files)
        return f"{durable:,} of {size:,} bytes of the unfinished files are durable on disk"

    @property
    def needed(self) -> int:
        """Bytes still to be written, as far as sizes are known."""
        return sum(
            file.pieces.total - file.pieces.written.size
            for file in self._files
            if file.pieces.total is not None
        )

    async def check_space(self) -> None:
        """See that the disk has room for what is still to come of the known sizes.

        Raises:
            InsufficientDiskSpaceError: it has not.
        """
        directory = self._job.folder.names.directory
        now = self._job.clock.monotonic()
        if is_room_doubtful(needed=self.needed, free=self._free, age=now - self._free_at):
            self._free_at = now
            self._free = await self._job.disk.run(free_space, directory)
        if self._free is not None and self.needed > self._free:
            raise InsufficientDiskSpaceError(
                f"{directory} has {self._free:,} bytes free, and the files of export "
                f"{self._job.export_id} need {self.needed:,} more. Make room and fetch again with "
                "the same id; what is on disk is kept.",
                path=directory,
            )

    def finished(self, file: IncomingFile) -> None:
        """Count a file that is published."""
        self._finished += file.pieces.written.size

    def forecast(self) -> None:
        """Tell, once, if what is known of the rest alone takes longer than the time left."""
        now = self._job.clock.monotonic()
        left = self._job.deadline.left(now)
        if self._told or not math.isfinite(left):
            return
        written = self._finished + sum(file.pieces.written.size for file in self._files)
        needed = time_needed(
            arrived=written - self._there, passed=now - self._began, rest=self.needed
        )
        if needed is not None and needed > left:
            self._told = True
            self._job.on_event(
                RunningLate(export_id=self._job.export_id, seconds_needed=needed, seconds_left=left)
            )
