"""Proving a finished download again, from the disk alone."""

from __future__ import annotations

import os
from pathlib import Path

from sendgrid_exports.api.arguments import check_text
from sendgrid_exports.disk import Disk, Steps
from sendgrid_exports.errors import DownloadError
from sendgrid_exports.models import VerificationReport
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.answers import Expected
from sendgrid_exports.transfer.checking import check_file
from sendgrid_exports.transfer.checks import CheckFailedError
from sendgrid_exports.transfer.links import read_kind
from sendgrid_exports.transfer.manifest import FileEntry, Manifest, read_manifest
from sendgrid_exports.transfer.names import Names, check_directory, parse_name, safe_name

__all__ = ["verify_download"]


async def verify_download(directory: str | os.PathLike[str], export_id: str) -> VerificationReport:
    """Read a download again and compare it with its manifest: sizes, SHA-256, gzip.

    Nobody is asked, nothing is changed, and no lock is taken.

    Args:
        directory: where the files are.
        export_id: the export.

    Returns:
        What is verified, missing, changed or extra; `ok` where all is as it was.

    Raises:
        DownloadError: there is no manifest of this export in the directory, or a damaged one.
        OSError: a file can't be read.
    """
    names = Names(check_directory(directory), safe_name(check_text(export_id, "export_id")))
    with Disk(1) as disk:
        manifest = await disk.run(_load, names, export_id)
        verified: list[Path] = []
        missing = _never_came(names, manifest)
        changed: list[Path] = []
        for entry in manifest.files:
            path = names.directory / entry.name
            seen = await disk.run_long(_is_as_it_was(path, entry))
            (missing if seen is None else verified if seen else changed).append(path)
        known = {names.manifest, names.lock, *verified, *changed}
        if manifest.state != "complete":
            known |= {names.journal, *map(names.part, range(1, len(manifest.links) + 1))}
        there = await disk.run(_of_export, names)
    return VerificationReport(
        export_id=export_id,
        complete=manifest.state == "complete",
        verified=tuple(verified),
        missing=tuple(missing),
        changed=tuple(changed),
        extra=tuple(path for path in there if path not in known),
    )


def _load(names: Names, export_id: str) -> Manifest:
    try:
        manifest = read_manifest(names.manifest.read_bytes(), export_id)
    except FileNotFoundError:
        raise DownloadError(
            f"There is no manifest of export {export_id} in {names.directory}: nothing of it was "
            "fetched to there. Fetch it, or mend the id or the directory.",
            path=names.manifest,
        ) from None
    if manifest is None:
        raise DownloadError(
            f"The manifest {names.manifest} is damaged: fetch again, which proves and mends it.",
            path=names.manifest,
        )
    return manifest


def _never_came(names: Names, manifest: Manifest) -> list[Path]:
    there = {entry.number for entry in manifest.files}
    return [
        names.final(number, read_kind(link), compressed=True)
        for number, link in enumerate(manifest.links, start=1)
        if number not in there
    ]


def _of_export(names: Names) -> list[Path]:
    return sorted(
        path
        for path in names.directory.iterdir()
        if (ours := parse_name(path.name)) and ours.stem == names.stem
    )


def _is_as_it_was(path: Path, entry: FileEntry) -> Steps[bool | None]:
    """Whether a file proves what its entry says, or None where there is no file."""
    verify = Verify.CONTENTS if entry.compressed else Verify.CHECKSUM
    try:
        checked = yield from check_file(
            path, verify, Expected(size=entry.size), first=entry.number == 1
        )
    except FileNotFoundError:
        return None
    except CheckFailedError:
        return False
    return entry.sha256 in {None, checked.sha256} and checked.compressed == entry.compressed
