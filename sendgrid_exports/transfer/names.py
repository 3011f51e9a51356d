"""What files are called: by us, never by the server. Pure."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import attrs

__all__ = ["Names", "check_directory", "safe_name"]

_LONGEST = 120


def check_directory(directory: object) -> Path:
    """Return `directory` as a path.

    Raises:
        TypeError: it is no path of text.
        ValueError: it can't name a directory.
    """
    path = directory.__fspath__() if hasattr(directory, "__fspath__") else directory
    if not isinstance(path, str):
        raise TypeError(f"directory must be a path of text, not {type(path).__name__}")
    if not path or "\0" in path:
        raise ValueError("directory must be neither empty nor hold a NUL character")
    return Path(path)


def safe_name(export_id: str) -> str:
    """Return the beginning of every file name of an export: its id where that is harmless."""
    name = re.sub(r"[^A-Za-z0-9._-]|^[.]", "_", export_id)[:_LONGEST]
    if name == export_id:
        return name
    return f"{name}-{hashlib.sha256(export_id.encode()).hexdigest()[:8]}"


@attrs.frozen
class Names:
    """The paths of one export in a directory."""

    directory: Path
    stem: str

    @property
    def manifest(self) -> Path:
        """What is there and how it was proved."""
        return self.directory / f"{self.stem}.manifest.json"

    @property
    def lock(self) -> Path:
        """There while a download is under way."""
        return self.directory / f"{self.stem}.lock"

    @property
    def journal(self) -> Path:
        """What of the unfinished files is durable."""
        return self.directory / f"{self.stem}.journal"

    def part(self, number: int) -> Path:
        """File `number` on its way."""
        return self.directory / f"{self.stem}-{number:05}.part"

    def converted(self, number: int) -> Path:
        """File `number` while it is inflated or compressed on disk."""
        return self.directory / f"{self.stem}-{number:05}.converted.part"

    def final(self, number: int, kind: str, *, compressed: bool) -> Path:
        """File `number`, `csv` or `json`, complete and verified."""
        return self.directory / f"{self.stem}-{number:05}.{kind}{'.gz' if compressed else ''}"
