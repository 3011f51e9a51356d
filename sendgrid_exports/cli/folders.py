"""Folders on disk: made, looked at, dropped with care. What may be dropped, `backups` decides."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs

from sendgrid_exports import Clock, SendGridExportsError, verify_download
from sendgrid_exports.cli.backups import (
    Backup,
    backup_name,
    droppable,
    may_drop,
    older_backups,
    read_name,
)
from sendgrid_exports.cli.running import run
from sendgrid_exports.transfer.names import MANIFEST, is_clutter, parse_name

__all__ = ["Found", "discard_if_empty", "drop_old", "exports_below", "exports_in", "make_folder"]

_DROPPED = re.compile(r"\.(.+)\.dropped")


@attrs.frozen
class Found:
    """An export that a manifest tells of.

    Attributes:
        directory: where its files are.
        export_id: the export.
        complete: whether every file had arrived.
    """

    directory: Path
    export_id: str
    complete: bool


def make_folder(parent: Path, clock: Clock) -> Path:
    """Make the dated folder of a backup that begins now, and return it.

    Raises:
        OSError: it can't be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "it is not a directory", str(parent)) from error
    taken: set[str] = set()
    while True:
        name = backup_name(clock.utc(), taken)
        try:
            (parent / name).mkdir()
        except FileExistsError:
            taken.add(name)
        else:
            return parent / name


def discard_if_empty(folder: Path) -> None:
    """Remove a folder that nothing came into; any other stays as it is."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def exports_in(directory: Path) -> list[Found]:
    """Return the exports whose manifests lie in `directory`.

    Raises:
        OSError: it can't be read.
    """
    found = []
    for path in sorted(directory.iterdir()):
        if _ending(path.name) == MANIFEST:
            with contextlib.suppress(ValueError, LookupError, TypeError):
                told = json.loads(path.read_bytes())
                found.append(Found(directory, str(told["export_id"]), told["state"] == "complete"))
    return found


def exports_below(directory: Path) -> list[Found]:
    """Return the exports in `directory`, or else those in its dated folders, the oldest first.

    Raises:
        OSError: it can't be read.
    """
    if found := exports_in(directory):
        return found
    dated = [backup for path in directory.iterdir() if (backup := read_name(path.name))]
    folders = [directory / backup.name for backup in sorted(dated)]
    return [export for folder in folders if folder.is_dir() for export in exports_in(folder)]


def drop_old(new: Path, keep: int, warn: Callable[[str], None]) -> list[Path]:
    """Drop the oldest verified backups beside `new`, so that `keep` stay; return what is gone.

    The older ones are read again first: one whose bytes do not prove it is left alone. So is an
    empty one, in silence.

    Args:
        new: the backup just made and verified.
        keep: how many verified backups stay, the new one among them.
        warn: told in a sentence of what is left alone and why.
    """
    parent = new.parent
    names = [path.name for path in parent.iterdir() if path.is_dir() and not path.is_symlink()]
    for name in names:
        if (match := _DROPPED.fullmatch(name)) and read_name(match[1]):
            # A run that died while dropping left it: it was verified and given up then.
            _remove(parent / name, warn)
    older = [
        backup for backup in older_backups(names, new.name) if not _is_empty(parent / backup.name)
    ]
    if not may_drop(older, keep):
        return []
    verified = set()
    for backup in older:
        if fault := _fault_of(parent / backup.name):
            why = f"{fault}. Remove it yourself once it is of no use."
            warn(f"{parent / backup.name} is left alone and not counted: {why}")
        else:
            verified.add(backup.name)
    return [
        parent / backup.name
        for backup in droppable(older, verified, keep)
        if _drop(parent, backup, warn)
    ]


def _is_empty(folder: Path) -> bool:
    # A run left it that was killed before its export began, or has made it just now: there is
    # nothing to lose and nothing to say.
    try:
        return not _names_in(folder)
    except OSError:
        return False


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not _is_clutter(path)]


def _is_clutter(path: Path) -> bool:
    return is_clutter(path.name, folder=path.is_dir() and not path.is_symlink())


def _ending(name: str) -> str | None:
    ours = parse_name(name)
    return ours.ending if ours else None


def _fault_of(folder: Path) -> str | None:
    """Say why a folder is not a verified backup and nothing else, or return None."""
    try:
        exports = exports_in(folder)
        if not exports:
            return "it holds no export"
        ours: set[str] = set()
        for export in exports:
            report = run(verify_download(folder, export.export_id))
            if not report.complete:
                return f"export {export.export_id} is unfinished (fetch goes on until it expires)"
            if not report.ok:
                return "it is not as it was when it was made"
            ours |= {path.name for path in report.verified}
        others = {name: _ending(name) for name in _names_in(folder) if name not in ours}
        manifests = [name for name, ending in others.items() if ending == MANIFEST]
        # The lock is what a run leaves that was killed after its last file.
        strange = [name for name, ending in others.items() if ending not in {MANIFEST, "lock"}]
        if strange or len(manifests) != len(exports):
            return f"{[*strange, 'a manifest'][0]} is not part of an export"
    except (OSError, SendGridExportsError) as error:
        return str(error).rstrip(".")
    return None


def _drop(parent: Path, backup: Backup, warn: Callable[[str], None]) -> bool:
    # Away from its name first, at one stroke: a folder under its name is never half gone.
    doomed = parent / f".{backup.name}.dropped"
    try:
        (parent / backup.name).rename(doomed)
    except OSError as error:
        warn(f"{parent / backup.name} can't be dropped: {error.strerror}.")
        return False
    _remove(doomed, warn)
    return True


def _remove(folder: Path, warn: Callable[[str], None]) -> None:
    # A folder in it stays, unless it is a NAS's own, and a link is only unlinked.
    try:
        for path in folder.iterdir():
            if is_clutter(path.name, folder=True) and not path.is_symlink():
                shutil.rmtree(path)
            else:
                # macOS removes `._name` along with `name`.
                path.unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        warn(f"{folder} can't be removed: {error.strerror}.")
