"""Opening the directory of an export: make and lock it, and read what an earlier run left."""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from sendgrid_exports.disk import DISK_FULL, Disk, naming, replace_file
from sendgrid_exports.errors import DownloadInProgressError, InsufficientDiskSpaceError
from sendgrid_exports.transfer.folder import Folder
from sendgrid_exports.transfer.journal import Record, read_journal, write_journal
from sendgrid_exports.transfer.lock import Lock
from sendgrid_exports.transfer.manifest import Manifest, read_manifest
from sendgrid_exports.transfer.names import PROBE, Names, safe_name

__all__ = ["open_folder", "prepare_directory"]

logger = logging.getLogger(__name__)

_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT}


@asynccontextmanager
async def open_folder(directory: Path, export_id: str, disk: Disk) -> AsyncIterator[Folder]:
    """Make the directory if need be, lock the export in it, and read its manifest.

    Raises:
        ValueError: the directory is a file or not writable.
        DownloadInProgressError: another process or task holds the export.
    """
    names = Names(directory, safe_name(export_id))
    lock = Lock(names.lock)
    try:
        await disk.run(_prepare, names, lock)
        manifest = await disk.run(_load, names.manifest, export_id)
        journal = await disk.run(_load_journal, names.journal, export_id)
        location = await disk.run(directory.absolute)
        yield Folder(names, location, lock, manifest, journal, disk)
    finally:
        await disk.run(lock.release)


def prepare_directory(directory: Path) -> None:
    """Make the directory if need be, and see that an export can be downloaded into it.

    Done once, in small, is all that a download does there: a lock, a file written, synced and
    renamed. What can't work is then said before an export is started.

    Raises:
        ValueError: it is a file or not writable.
        InsufficientDiskSpaceError: it has no room for a single byte.
        OSError: the disk failed.
    """
    probe = Names(directory, f"{PROBE}{secrets.token_hex(8)}")
    lock = Lock(probe.lock)
    try:
        _make(directory, lock)
        with ExitStack() as stack:
            stack.callback(lock.release)
            stack.callback(probe.manifest.unlink, missing_ok=True)
            replace_file(probe.manifest, b"{}")
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise InsufficientDiskSpaceError(
            f"{directory} is full: {error}. Make room; no export was started.", path=directory
        ) from error


def _make(directory: Path, lock: Lock) -> bool:
    """Make the directory if need be and return whether the lock in it could be taken."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return lock.acquire()
    except OSError as error:
        # A lock file that is there and can't be opened names itself.
        if error.errno not in _UNUSABLE or os.path.exists(lock.path):  # noqa: PTH110
            raise
        # Path.is_file raises where the directory above can't be read.
        is_file = os.path.isfile(directory)  # noqa: PTH113
        seen = "is a file" if is_file else f"is not writable ({error.strerror})"
        raise ValueError(f"directory {str(directory)!r} {seen}") from error


def _prepare(names: Names, lock: Lock) -> None:
    if not _make(names.directory, lock):
        raise DownloadInProgressError(
            f"Another process or task is downloading {names.stem} into {names.directory}. "
            "Wait for it, or use another directory.",
            path=names.lock,
        )


def _load(path: Path, export_id: str) -> Manifest:
    try:
        with naming(path):
            data = path.read_bytes()
    except FileNotFoundError:
        return Manifest(export_id=export_id)
    manifest = read_manifest(data, export_id)
    if manifest is None:
        logger.warning("The manifest %s is damaged or of another version; starting anew.", path)
    return manifest or Manifest(export_id=export_id)


def _load_journal(path: Path, export_id: str) -> dict[int, Record]:
    """Return what the journal says, and rewrite it: a torn line must not be appended to."""
    try:
        with naming(path):
            data = path.read_bytes()
    except FileNotFoundError:
        return {}
    records = read_journal(data, export_id)
    if not records:
        logger.warning("The journal %s is damaged or of another export; starting over.", path)
    replace_file(path, write_journal(export_id, records.values()))
    return records
