"""Opening the directory of an export: made, locked, and what an earlier run left in it read."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sendgrid_exports.disk import Disk, replace_file
from sendgrid_exports.errors import DownloadInProgressError
from sendgrid_exports.transfer.folder import Folder
from sendgrid_exports.transfer.journal import Record, read_journal, write_journal
from sendgrid_exports.transfer.lock import Lock
from sendgrid_exports.transfer.manifest import Manifest, read_manifest
from sendgrid_exports.transfer.names import Names, safe_name

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
    """Make the directory if need be, and see that it can be written to.

    Raises:
        ValueError: it is a file or not writable.
        OSError: the disk failed.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        # Path.is_file would raise where the directory above can't be looked into.
        is_file = os.path.isfile(directory)  # noqa: PTH113
        seen = "is a file" if is_file else f"is not writable ({error.strerror})"
        raise ValueError(f"directory {str(directory)!r} {seen}") from error


def _prepare(names: Names, lock: Lock) -> None:
    prepare_directory(names.directory)
    if not lock.acquire():
        raise DownloadInProgressError(
            f"Another process or task is downloading {names.stem} into {names.directory}. "
            "Wait for it, or use another directory.",
            path=names.lock,
        )


def _load(path: Path, export_id: str) -> Manifest:
    try:
        manifest = read_manifest(path.read_bytes(), export_id)
    except FileNotFoundError:
        return Manifest(export_id=export_id)
    if manifest is None:
        logger.warning("The manifest %s is damaged or of another version; starting anew.", path)
    return manifest or Manifest(export_id=export_id)


def _load_journal(path: Path, export_id: str) -> dict[int, Record]:
    """Return what the journal says, and rewrite it: a torn line must not be appended to."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    records = read_journal(data, export_id)
    if not records:
        logger.warning("The journal %s is damaged or of another export; starting over.", path)
    replace_file(path, write_journal(export_id, records.values()))
    return records
