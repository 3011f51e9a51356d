"""What files are called: by us, never by the server. And what else may be beside them. Pure."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import attrs

__all__ = [
    "HIDDEN",
    "MANIFEST",
    "PROBE",
    "Names",
    "OurName",
    "check_directory",
    "is_clutter",
    "parse_name",
    "safe_name",
]

MANIFEST = "manifest.json"

HIDDEN = ".sendgrid-exports-"
"""How the files begin that are not part of an export."""

PROBE = f"{HIDDEN}probe-"
"""How the files begin that are made, and removed, to see whether a directory can be used."""

_LONGEST = 120

# A stem never begins with a dot, see `safe_name`.
_OURS = re.compile(
    r"([A-Za-z0-9_-][A-Za-z0-9._-]*?)"
    r"(?:-(\d{5,})\.((?:csv|json)(?:\.gz)?|(?:converted\.)?part)"
    r"|\.(journal|lock|manifest\.json(?:\.part)?))",
    re.ASCII,
)
_CLUTTER = re.compile(
    r"\._.*|\.DS_Store|Thumbs\.db|desktop\.ini|" + re.escape(HIDDEN) + ".*", re.DOTALL
)
_CLUTTER_FOLDER = "@eaDir"


@attrs.frozen
class OurName:
    """What the name of a file of ours says.

    Attributes:
        stem: the export, as `safe_name` writes it.
        number: the file of the export, from 1, or 0 where there is one for all of them.
        ending: `csv.gz`, `part`, `manifest.json` or another, without its dot.
    """

    stem: str
    number: int
    ending: str

    @property
    def is_final(self) -> bool:
        """Whether it is the name of a complete and verified file."""
        return self.number > 0 and not self.ending.endswith("part")


def parse_name(name: str) -> OurName | None:
    """Return what a file's name says, or None where it is not one of ours."""
    match = _OURS.fullmatch(name)
    if match is None:
        return None
    return OurName(match[1], int(match[2] or 0), match[3] or match[4])


def is_clutter(name: str, *, folder: bool) -> bool:
    """Whether an operating system puts files, or a folder, of this name into any directory.

    macOS: `._name`, `.DS_Store`. Windows: `Thumbs.db`, `desktop.ini`. Synology: the folder
    `@eaDir`.
    """
    return name == _CLUTTER_FOLDER if folder else _CLUTTER.fullmatch(name) is not None


def check_directory(directory: object) -> Path:
    """Return `directory` as a path.

    Raises:
        TypeError: it is not a path of text.
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
        """What is there and how it was verified."""
        return self.directory / f"{self.stem}.{MANIFEST}"

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
