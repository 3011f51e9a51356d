"""Dated folders: what a backup is called, and which ones may be dropped. Pure.

A folder may be dropped only where all of this holds: its name is one of ours, it is older than
the backup that was just made and verified, it is verified itself, and enough verified ones stay.
One that is unfinished, damaged, or holds anything of somebody else's is neither dropped nor
counted among those that stay.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

import attrs

__all__ = ["Backup", "backup_name", "droppable", "may_drop", "older_backups", "read_name"]

_FORMAT = "%Y-%m-%dT%H%M%SZ"
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{6}Z)(?:-([2-9]|[1-9]\d+))?", re.ASCII)


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
    """Return the name of a backup that begins `now`, other than those `taken`."""
    name = now.astimezone(UTC).strftime(_FORMAT)
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def read_name(name: str) -> Backup | None:
    """Return the backup of that name, or None if it is not a name of ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        made = datetime.strptime(match[1], _FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return Backup(made, int(match[2] or 1), name)


def older_backups(names: Iterable[str], new: str) -> list[Backup]:
    """Return the backups among `names` that are older than `new`, the newest first."""
    newest = read_name(new)
    found = [backup for name in names if (backup := read_name(name)) is not None]
    if newest is None:
        return []
    return sorted((backup for backup in found if backup < newest), reverse=True)


def may_drop(older: Collection[Backup], keep: int) -> bool:
    """Whether anything could be dropped at all; if not, nothing has to be read again."""
    return len(older) >= keep


def droppable(older: Iterable[Backup], verified: Collection[str], keep: int) -> list[Backup]:
    """Return what may be dropped, the oldest first, after a new backup was made and verified.

    Args:
        older: the backups older than the new one.
        verified: the names of those that are whole and hold nothing else.
        keep: how many verified backups stay, the new one among them.

    Raises:
        ValueError: keep is below 1: the new one always stays.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    sound = sorted((backup for backup in older if backup.name in verified), reverse=True)
    return sorted(sound[keep - 1 :])
