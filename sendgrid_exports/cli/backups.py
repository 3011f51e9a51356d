"""Dated folders: their names, which backups count, and which may be dropped.

A backup counts if it is complete and its contacts are plausible: not empty, as many as SendGrid
says, and at least half of those of the newest one that counts. Only backups of the same contacts
are compared. One that does not count drops nothing, is not dropped, and takes no place of `--keep`.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from sendgrid_exports import (
    Clock,
    ExportRequest,
    FoundExport,
    SendGridExportsError,
    find_exports,
    verify_download,
)
from sendgrid_exports.cli.exits import run
from sendgrid_exports.transfer.names import is_clutter

__all__ = [
    "Backup",
    "backup_name",
    "counting",
    "discard_if_empty",
    "doubt_of",
    "drop_old",
    "find_backups",
    "make_folder",
    "older_backups",
    "read_name",
    "series_of",
]

_FORMAT = "%Y-%m-%dT%H%M%SZ"
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{6}Z)(?:-([2-9]|[1-9]\d+))?", re.ASCII)
# A night's, below the directory of an account.
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DROPPED = re.compile(r"\.(.+)\.dropped")
# Written into any folder by macOS, Windows and network disks.


@attrs.frozen(order=True)
class Backup:
    """A dated folder; the later one is the greater one.

    Attributes:
        made: when it was begun, in UTC.
        number: from 1; above it only where several were begun in the same second.
        name: of the folder.
    """

    made: datetime
    number: int
    name: str


def backup_name(now: datetime, taken: Collection[str]) -> str:
    """Return the name of a backup that begins `now`, greater than those `taken`."""
    name = now.astimezone(UTC).strftime(_FORMAT)
    numbers = [
        found.number for other in taken if (found := read_name(other)) and other.startswith(name)
    ]
    return f"{name}-{max(numbers) + 1}" if numbers else name


def read_name(name: str) -> Backup | None:
    """Return the backup of that name, or None if it is not a name of ours."""
    match = _NAME.fullmatch(f"{name}T000000Z" if _DAY.fullmatch(name) else name)
    if match is None:
        return None
    try:
        made = datetime.strptime(match[1], _FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return Backup(made, int(match[2] or 1), name)


def series_of(request: ExportRequest | None) -> object:
    """Return what backups of the same contacts have in common."""
    return request and (
        request.host,
        request.on_behalf_of,
        frozenset(request.list_ids),
        frozenset(request.segment_ids),
        request.file_type,
        request.demo,
    )


def doubt_of(export: FoundExport, reference: FoundExport | None) -> str | None:
    """Say why a complete export does not count as a backup, or return None.

    Args:
        export: what was backed up.
        reference: the newest earlier backup of the same contacts that counts, if any.
    """
    if export.request and export.request.allow_shrink:
        return None
    counted = export.contact_count
    expected = export.export.contact_count if export.export else None
    earlier = reference.contact_count if reference else None
    if counted is None:
        return "its contacts were not counted"
    if expected is not None and counted != expected:
        return f"SendGrid says it exported {expected:,} contacts, and the files hold {counted:,}"
    if counted == 0 and not earlier:
        return "it is empty"
    if reference and earlier and counted * 2 < earlier:
        where = f"{reference.directory.name} holds {earlier:,}"
        return f"it is empty, and {where}" if counted == 0 else f"it holds {counted:,}, and {where}"
    return None


def counting(exports: Sequence[FoundExport]) -> list[FoundExport]:
    """Return those of the backups of the same contacts that count; the oldest comes first."""
    found: list[FoundExport] = []
    for export in exports:
        reference = found[-1] if found else None
        if export.state == "complete" and doubt_of(export, reference) is None:
            found.append(export)
    return found


def make_folder(parent: Path, clock: Clock) -> Path:
    """Make the dated folder of a backup that begins now, and return it.

    Raises:
        OSError: it can't be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "it is not a directory", str(parent)) from error
    while True:
        folder = parent / backup_name(clock.utc(), [path.name for path in parent.iterdir()])
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def discard_if_empty(folder: Path) -> None:
    """Remove a folder that nothing was downloaded to; any other stays as it is."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def find_backups(directory: Path) -> list[FoundExport]:
    """Return the exports in `directory`, or else those in its dated folders, the oldest first.

    Raises:
        OSError: it can't be read.
    """
    if found := find_exports(directory):
        return list(found)
    folders = sorted(
        (backup, path) for path in directory.iterdir() if (backup := read_name(path.name))
    )
    return [one for _, folder in folders if folder.is_dir() for one in find_exports(folder)]


def older_backups(new: Path) -> list[Path]:
    """Return the dated folders beside `new` that are older, the oldest first; links are not.

    Beside a backup whose name has the time, a folder whose name is a date alone may be anything.
    """
    newest = read_name(new.name)
    found = [
        (backup, path)
        for path in new.parent.iterdir()
        if not _DAY.fullmatch(path.name) or _DAY.fullmatch(new.name)
        if (backup := read_name(path.name)) and _is_folder(path)
    ]
    return [path for backup, path in sorted(found) if newest is not None and backup < newest]


def drop_old(
    new: FoundExport,
    keep: int,
    warn: Callable[[str], None],
    unfinished: Callable[[FoundExport], None],
) -> tuple[list[Path], str | None]:
    """Drop the oldest verified backups beside `new`, so that `keep` stay.

    The older ones are read again first: one whose bytes are not what its manifest says is left
    alone. So are, without a word, those that do not count or hold other contacts.

    Args:
        new: the backup just made and verified.
        keep: how many backups stay, the new one among them; 0: all of them.
        warn: receives a sentence about each folder that needs attention.
        unfinished: receives each export that is not complete.

    Returns:
        What was dropped, and why the new one does not count, if so: then nothing was dropped.
    """
    parent = new.directory.parent
    for path in parent.iterdir():
        if (match := _DROPPED.fullmatch(path.name)) and read_name(match[1]) and _is_folder(path):
            # A run that was killed left it: it had been verified, and was being removed.
            _remove(path, warn)
    older = {path: _only_export(path) for path in older_backups(new.directory)}
    series = series_of(new.request)
    same = [one for one in older.values() if one and series_of(one.request) == series]
    counted = counting(same)
    if doubt := doubt_of(new, counted[-1] if counted else None):
        return [], doubt
    if not keep or len(counted) < keep:
        return [], None
    sound: list[Path] = []
    for path, export in older.items():
        if export and export.request and export not in same:
            continue
        if export and export.state in {"pending", "downloading"}:
            unfinished(export)
        elif fault := _fault_of(path, export):
            warn(f"{path} is left alone and not counted: {fault}. Remove it if you don't need it.")
        elif export in counted:
            sound.append(path)
    doomed = sound if keep == 1 else sound[: 1 - keep]
    return [path for path in doomed if _drop(path, warn)], None


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_clutter(path: Path) -> bool:
    return is_clutter(path.name, folder=_is_folder(path))


def _only_export(folder: Path) -> FoundExport | None:
    try:
        exports = find_exports(folder)
    except OSError:
        return None
    return exports[0] if len(exports) == 1 else None


def _fault_of(folder: Path, export: FoundExport | None) -> str | None:
    """Say why a folder is not a verified backup and nothing else, or return None."""
    try:
        names = {path.name for path in folder.iterdir() if not _is_clutter(path)}
        if export is None:
            # A run leaves an empty folder if it is killed before its export begins.
            return "it does not hold exactly one export" if names else None
        if export.state == "damaged":
            return "its manifest is damaged"
        if export.request is None:
            return "its manifest does not say which contacts were asked for"
        report = run(verify_download(folder, export.export_id))
    except (OSError, SendGridExportsError) as error:
        return str(error).rstrip(".")
    if report.missing or report.changed:
        return "files are missing or changed"
    # A run leaves its lock if it is killed after its last file.
    lock = export.manifest.name.replace(".manifest.json", ".lock")
    others = names - {path.name for path in report.verified} - {export.manifest.name, lock}
    return f"{min(others)} is not part of an export" if others else None


def _drop(folder: Path, warn: Callable[[str], None]) -> bool:
    # Renamed first, in one step: a folder under its own name is never half gone.
    doomed = folder.with_name(f".{folder.name}.dropped")
    try:
        folder.rename(doomed)
    except OSError as error:
        warn(f"{folder} can't be dropped: {error.strerror}.")
        return False
    _remove(doomed, warn)
    return True


def _remove(folder: Path, warn: Callable[[str], None]) -> None:
    # Only a directory that network disks make is removed with what is in it.
    try:
        for path in folder.iterdir():
            if _is_folder(path) and _is_clutter(path):
                shutil.rmtree(path)
            else:
                # macOS removes `._name` along with `name`.
                path.unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        warn(f"{folder} can't be removed: {error.strerror}.")
