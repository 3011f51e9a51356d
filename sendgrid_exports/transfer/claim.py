"""One run at a time for an account: a lock in its directory, and a note of what is about to start.

The note is written before an export is started, and says when. A run that dies before the
manifest has the export's id leaves it behind, so that the next run finds that export by its time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from sendgrid_exports.decoding import read_time
from sendgrid_exports.disk import Disk, naming, replace_file
from sendgrid_exports.errors import DownloadInProgressError
from sendgrid_exports.transfer.folder import make_directory
from sendgrid_exports.transfer.lock import Lock
from sendgrid_exports.transfer.manifest import Manifest, read_manifest
from sendgrid_exports.transfer.names import HIDDEN, MANIFEST, parse_name

__all__ = ["Claim", "claim", "find_manifests"]


class Claim:
    """An account's directory, while its lock is held.

    Attributes:
        intended: when an earlier run was about to start an export, or None.
    """

    def __init__(self, directory: Path, disk: Disk) -> None:
        self.intended: datetime | None = None
        self._note = directory / f"{HIDDEN}starting"
        self._disk = disk

    async def read(self) -> None:
        """Read what an earlier run has noted."""
        self.intended = await self._disk.run(_read_note, self._note)

    async def intend(self, now: datetime) -> None:
        """Note that an export is about to start."""
        note = json.dumps({"starting_at": now.isoformat()}).encode()
        await self._disk.run(replace_file, self._note, note)
        self.intended = now

    async def fulfil(self) -> None:
        """Remove the note: the export has a manifest, or was certainly not started."""
        await self._disk.run(self._note.unlink, missing_ok=True)
        self.intended = None


@asynccontextmanager
async def claim(directory: Path, disk: Disk) -> AsyncIterator[Claim]:
    """Make the directory of an account if need be, and hold its lock.

    Raises:
        ValueError: the directory is a file or not writable.
        DownloadInProgressError: another process or task holds the lock.
        OSError: the disk failed.
    """
    lock = Lock(directory / f"{HIDDEN}account.lock")
    with disk:
        try:
            await disk.run(_take, directory, lock)
            claimed = Claim(directory, disk)
            await claimed.read()
            yield claimed
        finally:
            await disk.run(_release, directory, lock)


def _take(directory: Path, lock: Lock) -> None:
    if not make_directory(directory, lock):
        raise DownloadInProgressError(
            f"Another process or task is exporting this account into {directory}. Wait for it.",
            path=lock.path,
        )


def _release(directory: Path, lock: Lock) -> None:
    lock.release()
    # An account that failed at once leaves nothing behind.
    with contextlib.suppress(OSError):
        directory.rmdir()


def _read_note(path: Path) -> datetime | None:
    try:
        with naming(path):
            return read_time(json.loads(path.read_bytes())["starting_at"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def find_manifests(directories: Iterable[Path]) -> list[tuple[Path, Manifest]]:
    """Return the manifests in the directories that exist, each with its directory.

    Raises:
        OSError: one can't be read.
    """
    found = []
    for directory in directories:
        if not directory.is_dir():
            continue
        for path in sorted(directory.iterdir()):
            ours = parse_name(path.name)
            if ours is not None and ours.ending == MANIFEST:
                with naming(path):
                    manifest = read_manifest(path.read_bytes())
                if manifest is not None:
                    found.append((directory, manifest))
    return found
