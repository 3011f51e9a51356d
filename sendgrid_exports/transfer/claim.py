"""Which run may start an export of an account, and what one that died has left of that.

A claim says when an export was about to start. It is written before every request for a start, and
cleared once a manifest has the export's id. A run that finds it takes the export that SendGrid
lists since then; only when a minute has passed without one does it start another.

In a directory one run at a time has the account: a lock stays for as long as its process lives. A
bucket has no such lock. There the claim is an object, created and replaced on condition that it is
as it was read at the beginning, so of two runs that are about to start an export one ends. It is
never deleted, as a run that has read nothing could create it anew. A run that is suspended for a
minute between its claim and its request is the one case that this does not cover.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from sendgrid_exports.bucket import Bucket
from sendgrid_exports.bucket_errors import ConflictError
from sendgrid_exports.bucket_files import Stored
from sendgrid_exports.decoding import read_time
from sendgrid_exports.disk import Disk, replace_file
from sendgrid_exports.errors import DownloadInProgressError
from sendgrid_exports.timing import ServerClock
from sendgrid_exports.transfer.folder import lock_directory
from sendgrid_exports.transfer.lock import Lock
from sendgrid_exports.transfer.manifest import Manifest, read_manifest
from sendgrid_exports.transfer.names import HIDDEN, MANIFEST, parse_name
from sendgrid_exports.transfer.target import Listing

__all__ = [
    "CLAIMS",
    "Claim",
    "ClaimObject",
    "claim_directory",
    "claim_object",
    "find_manifests",
]

CLAIMS = f"{HIDDEN}claims"
"""The prefix of the claims in a bucket, one object for each account."""

# Another run waits for a minute from the time in a claim, and a request takes up to half of it.
_SLOW = timedelta(seconds=15)
# How a claim that was written by something else, or torn, is found out.
_DAMAGED = (ValueError, LookupError, TypeError)


@attrs.define(eq=False)
class Claim:
    """What is known of a start of an account's export.

    Attributes:
        intended: when another run was about to start an export, or this one is; or None.
    """

    intended: datetime | None
    _write: Callable[[datetime | None], None]
    _disk: Disk
    _busy: DownloadInProgressError

    async def intend(self, clock: ServerClock) -> None:
        """Note that an export starts at once.

        Raises:
            DownloadInProgressError: another run was faster.
            DownloadError: the bucket can't be used.
            OSError: the disk failed.
        """
        while True:
            now = clock.utc()
            try:
                await self._disk.run(self._write, now)
            except ConflictError:
                raise self._busy from None
            self.intended = now
            if clock.utc() - now < _SLOW:
                return

    async def fulfil(self) -> None:
        """Clear it: the export has a manifest, or was certainly not started."""
        # A run that has replaced it knows better.
        with contextlib.suppress(ConflictError):
            await self._disk.run(self._write, None)
        self.intended = None


@asynccontextmanager
async def claim_directory(directories: Sequence[Path], disk: Disk) -> AsyncIterator[Claim]:
    """Make the first of an account's directories if need be, and hold its lock.

    Args:
        directories: those of today and of the days before, in which a run may have left a claim.
        disk: the threads to use.

    Raises:
        ValueError: the directory is a file or not writable.
        DownloadInProgressError: another process or task holds the lock.
        OSError: the disk failed.
    """
    directory = directories[0]
    lock = Lock(directory / f"{HIDDEN}account.lock")
    busy = DownloadInProgressError(
        f"Another process or task is exporting this account into {directory}. Wait for it.",
        path=lock.path,
    )
    with disk:
        try:
            if not await disk.run(lock_directory, lock):
                raise busy
            paths = [directory / f"{HIDDEN}starting" for directory in directories]
            yield Claim(
                await disk.run(_read_files, paths), partial(_write_files, paths), disk, busy
            )
        finally:
            await disk.run(_release, directory, lock)


@asynccontextmanager
async def claim_object(base: Bucket, name: str, disk: Disk) -> AsyncIterator[Claim]:
    """Read the claim of an account in a bucket; nothing is held.

    Args:
        base: what the pattern of the targets begins with.
        name: the claim's, which is that of the account and the kind of its export.
        disk: the threads to use.

    Raises:
        DownloadError: the bucket can't be used.
    """
    note = ClaimObject(base / CLAIMS, f"{name}.json")
    busy = DownloadInProgressError(
        "Another process or task is starting an export of this account, as its claim "
        f"{note.url} says. Wait for it.",
        url=note.url,
    )
    with disk:
        yield Claim(await disk.run(_read_object, note), partial(_write_object, note), disk, busy)


def _read_files(paths: Iterable[Path]) -> datetime | None:
    found = []
    for path in paths:
        # A run that began the day before may clear its own meanwhile.
        with contextlib.suppress(FileNotFoundError, *_DAMAGED):
            found.append(read_time(json.loads(path.read_bytes())["starting_at"]))
    return max(filter(None, found), default=None)


def _write_files(paths: Sequence[Path], starting_at: datetime | None) -> None:
    if starting_at is not None:
        note = json.dumps({"starting_at": starting_at.isoformat()})
        replace_file(paths[0], note.encode())
        return
    for path in paths:
        path.unlink(missing_ok=True)


def _read_object(note: ClaimObject) -> datetime | None:
    with contextlib.suppress(*_DAMAGED):
        return read_time(note.read()["starting_at"])
    return None


def _write_object(note: ClaimObject, starting_at: datetime | None) -> None:
    note.write({"starting_at": None if starting_at is None else starting_at.isoformat()})


class ClaimObject:
    """A small JSON object in a bucket, replaced only if it is as it was read. Blocking.

    Attributes:
        url: the object's url.
    """

    def __init__(self, bucket: Bucket, name: str) -> None:
        self.url = bucket.url_of(name)
        self._bucket = bucket
        self._name = name
        self._stored: Stored | None = None

    def read(self) -> dict[str, Any]:
        """Return what it holds, nothing if there is no such object.

        Raises:
            ValueError: it is not JSON.
            DownloadError: the bucket can't be used.
        """
        found = self._bucket.read(self._name)
        if found is None:
            return {}
        data, self._stored = found
        held: dict[str, Any] = json.loads(data)
        return held

    def write(self, held: Mapping[str, Any]) -> None:
        """Replace what was read.

        Raises:
            ConflictError: it has changed since.
            DownloadError: the bucket can't be used.
        """
        # An ETag may be a hash of the content: no two claims are the same.
        data = json.dumps({**held, "token": secrets.token_hex(8)}).encode()
        self._stored = self._bucket.replace(self._name, data, self._stored)


def _release(directory: Path, lock: Lock) -> None:
    lock.release()
    # An account that failed at once leaves nothing behind.
    with contextlib.suppress(OSError):
        directory.rmdir()


def find_manifests(places: Mapping[str, Path | Bucket]) -> list[tuple[str, Manifest]]:
    """Return the manifests in the places that exist, each with the key of its place.

    Raises:
        DownloadError: the bucket can't be used.
        OSError: one can't be read.
    """
    found = []
    for key, place in places.items():
        if isinstance(place, Path) and not place.is_dir():
            continue
        listing = Listing(place)
        for name in listing.files:
            ours = parse_name(name)
            if ours is None or ours.ending != MANIFEST:
                continue
            if manifest := read_manifest(listing.read(name) or b""):
                found.append((key, manifest))
    return found
