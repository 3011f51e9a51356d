"""Dated folders, on disk or in a bucket: names, which backups count, which may be dropped.

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
    Bucket,
    Clock,
    DownloadError,
    DownloadResult,
    ExportRequest,
    FoundExport,
    SendGridExportsError,
    find_exports,
    verify_download,
)
from sendgrid_exports.bucket_errors import ConflictError
from sendgrid_exports.cli.exits import run
from sendgrid_exports.transfer.names import MANIFEST, is_clutter

__all__ = [
    "Backup",
    "backup_name",
    "choose_prefix",
    "counting",
    "discard_if_empty",
    "doubt_of",
    "drop_old",
    "drop_older_than",
    "find_backups",
    "make_folder",
    "name_of",
    "older_backups",
    "read_name",
    "series_of",
]

_FORMAT = "%Y-%m-%dT%H%M%SZ"
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{6}Z)(?:-([2-9]|[1-9]\d+))?", re.ASCII)
# A night's, below the directory of an account.
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DROPPED = re.compile(r"\.(.+)\.dropped")


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
        where = f"{reference.target.name} holds {earlier:,}"
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


def name_of(place: Path | Bucket | str) -> str:
    """Return the last part of a path or of a url."""
    if isinstance(place, Path):
        return place.resolve().name
    return str(place).rpartition("/")[2]


def choose_prefix(parent: Bucket, clock: Clock) -> Bucket:
    """Return the dated prefix of a backup that begins now.

    Two backups of the same second get the same one: then it holds two exports, and is neither
    counted nor dropped.

    Raises:
        DownloadError: the bucket can't be used.
    """
    return parent / backup_name(clock.utc(), parent.list()[1])


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


def discard_if_empty(folder: Path | Bucket) -> None:
    """Remove a folder that nothing was downloaded to; any other stays as it is."""
    if isinstance(folder, Path):
        with contextlib.suppress(OSError):
            folder.rmdir()


def find_backups(place: Path | Bucket) -> list[FoundExport]:
    """Return the exports in `place`, or else those in its dated folders, the oldest first.

    Raises:
        DownloadError: the bucket can't be used.
        OSError: it can't be read.
    """
    if found := find_exports(place):
        return list(found)
    folders = sorted((backup, name) for name in _folders(place) if (backup := read_name(name)))
    return [one for _, name in folders for one in find_exports(place / name)]


def _folders(place: Path | Bucket, *, links: bool = True) -> list[str]:
    if isinstance(place, Bucket):
        return place.list()[1]
    return [path.name for path in place.iterdir() if (path.is_dir() if links else _is_folder(path))]


def older_backups(new: Path | Bucket) -> list[Path | Bucket]:
    """Return the dated folders beside `new` that are older, the oldest first; links are not.

    Beside a backup whose name has the time, a folder whose name is a date alone may be anything.
    """
    newest = read_name(new.name)
    found = [
        (backup, name)
        for name in _folders(new.parent, links=False)
        if not _DAY.fullmatch(name) or _DAY.fullmatch(new.name)
        if (backup := read_name(name))
    ]
    return [new.parent / name for backup, name in sorted(found) if newest and backup < newest]


def drop_older_than(
    result: DownloadResult,
    keep: int | None,
    warn: Callable[[str], None],
    unfinished: Callable[[FoundExport], None],
) -> tuple[list[Path | Bucket], bool]:
    """Drop what `drop_old` does once `result` is verified, and warn where it does not count.

    Returns:
        What was dropped, and whether the new backup counts.
    """
    [new] = [one for one in find_exports(result.target) if one.export_id == result.export.id]
    dropped, doubt = drop_old(new, keep or 0, warn, unfinished)
    if doubt:
        warn(
            f"{result.target} does not count as a backup: {doubt}. No older one is dropped. If "
            "this is meant, add --allow-shrink."
        )
    return dropped, doubt is None


def drop_old(
    new: FoundExport,
    keep: int,
    warn: Callable[[str], None],
    unfinished: Callable[[FoundExport], None],
) -> tuple[list[Path | Bucket], str | None]:
    """Drop the oldest verified backups beside `new`, so that `keep` are left.

    The older ones are read again first: one whose bytes are not what its manifest says is left
    alone. So are, without a word, those that do not count or hold other contacts.

    Args:
        new: the backup just made and verified.
        keep: how many backups are kept, the new one among them; 0: all of them.
        warn: receives a sentence about each folder that needs attention.
        unfinished: receives each export that is not complete.

    Returns:
        What was dropped, and why the new one does not count, if so: then nothing was dropped.
    """
    _finish_dropping(new.target.parent, warn)
    older = {place: _only_export(place) for place in older_backups(new.target)}
    series = series_of(new.request)
    same = [one for one in older.values() if one and series_of(one.request) == series]
    counted = counting(same)
    if doubt := doubt_of(new, counted[-1] if counted else None):
        return [], doubt
    if not keep or len(counted) < keep:
        return [], None
    sound: list[Path | Bucket] = []
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


def _only_export(folder: Path | Bucket) -> FoundExport | None:
    try:
        exports = find_exports(folder)
    except (OSError, DownloadError):
        return None
    return exports[0] if len(exports) == 1 else None


def _fault_of(folder: Path | Bucket, export: FoundExport | None) -> str | None:
    """Say why a folder is not a verified backup and nothing else, or return None."""
    try:
        names = _names(folder)
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
    manifest = name_of(export.manifest)
    ours = {manifest, manifest.replace(".manifest.json", ".lock")}
    others = names - {name_of(file) for file in report.verified} - ours
    return f"{min(others)} is not part of an export" if others else None


def _names(folder: Path | Bucket) -> set[str]:
    if isinstance(folder, Bucket):
        objects, folders = folder.list()
        return {each.name for each in objects if not is_clutter(each.name, folder=False)} | {
            *folders
        }
    return {path.name for path in folder.iterdir() if not _is_clutter(path)}


def _drop(folder: Path | Bucket, warn: Callable[[str], None]) -> bool:
    if isinstance(folder, Bucket):
        # Marked first: what is half gone is then known as what was to be dropped.
        with contextlib.suppress(ConflictError):
            folder.parent.create(f".{folder.name}.dropped", b"")
        return _remove_objects(folder, warn)
    # Renamed first, in one step: a folder under its own name is never half gone.
    doomed = folder.with_name(f".{folder.name}.dropped")
    try:
        folder.rename(doomed)
    except OSError as error:
        warn(f"{folder} can't be dropped: {error.strerror}.")
        return False
    _remove(doomed, warn)
    return True


def _finish_dropping(parent: Path | Bucket, warn: Callable[[str], None]) -> None:
    """Remove what a run that was killed left: it had been verified, and was being removed."""
    if isinstance(parent, Bucket):
        names = [each.name for each in parent.list()[0]]
    else:
        names = [path.name for path in parent.iterdir() if _is_folder(path)]
    for name in names:
        if (match := _DROPPED.fullmatch(name)) and read_name(match[1]):
            if isinstance(parent, Bucket):
                _remove_objects(parent / match[1], warn)
            else:
                _remove(parent / name, warn)


def _remove_objects(folder: Bucket, warn: Callable[[str], None]) -> bool:
    try:
        # The manifest first: without it the others are not taken for an export.
        for each in sorted(folder.list()[0], key=lambda each: not each.name.endswith(MANIFEST)):
            folder.delete(each.name)
        folder.parent.delete(f".{folder.name}.dropped")
    except DownloadError as error:
        warn(f"{folder} can't be dropped: {str(error).rstrip('.')}.")
        return False
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
