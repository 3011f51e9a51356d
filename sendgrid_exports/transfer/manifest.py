"""The manifest: what of an export is on disk, and how it was verified. Pure; JSON in and out.

It holds links without their query, so it may be kept, copied and sent around with the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal

import attrs

from sendgrid_exports.decoding import decode, encode, parse_json
from sendgrid_exports.errors import InvalidResponseError
from sendgrid_exports.models import ContactExport, DownloadedFile, ExportRequest
from sendgrid_exports.redaction import redact_text
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.answers import Version
from sendgrid_exports.transfer.checks import Checked

__all__ = [
    "FileEntry",
    "Manifest",
    "ManifestWriter",
    "as_complete",
    "as_found",
    "check_again",
    "downloaded",
    "is_whole",
    "new_entry",
    "read_manifest",
    "with_check",
    "with_export",
    "with_files",
]

_VERSION = 1


@attrs.frozen(kw_only=True)
class FileEntry:
    """A file under its final name.

    Attributes:
        number: its place, from 1, in the order of the first status seen.
        name: its name in the directory.
        size: its bytes on disk.
        sha256: of them, in hex, or None if it was not taken.
        mtime_ns: its time of change, which shows that it was left alone; 0 in a bucket.
        compressed: whether it is gzip on disk.
        etag: the storage's entity tag of the raw bytes, without quotes, or None.
        raw_size: the bytes the storage sent.
        raw_compressed: whether those were gzip.
        contacts: the contacts in it, or None.
        verify: how deeply it was checked.
        verified_by: the checks the raw bytes passed.
        object_etag: the bucket's entity tag of the file as the bucket writes it; None on disk.
    """

    number: int
    name: str
    size: int
    sha256: str | None
    mtime_ns: int
    compressed: bool
    etag: str | None
    raw_size: int
    raw_compressed: bool
    contacts: int | None
    verify: Verify
    verified_by: tuple[str, ...]
    object_etag: str | None = None


@attrs.frozen(kw_only=True)
class Manifest:
    """Everything known of an export and its files.

    Attributes:
        export_id: the export.
        state: `pending` until it is ready, `downloading` until every file is there.
        export: the export as last seen, its links without their query, or None.
        links: the links without their query, in the order of the first status seen.
        files: the files that are there.
        contacts: the contacts in all files, or None.
        version: of this format.
        request: what was asked for, or None where only the id was known.
    """

    export_id: str
    state: Literal["pending", "downloading", "complete"] = "pending"
    export: ContactExport | None = None
    links: tuple[str, ...] = ()
    files: tuple[FileEntry, ...] = ()
    contacts: int | None = None
    version: int = _VERSION
    request: ExportRequest | None = None


def new_entry(
    number: int,
    name: str,
    checked: Checked,
    *,
    version: Version | None,
    verify: Verify,
    object_etag: str | None = None,
) -> FileEntry:
    """Return the entry of a file as the storage sent it, of that `version` if one is known."""
    return FileEntry(
        number=number,
        name=name,
        size=checked.size,
        sha256=checked.sha256,
        mtime_ns=0,
        compressed=checked.compressed,
        etag=version.etag.strip('"') if version is not None else None,
        raw_size=checked.size,
        raw_compressed=checked.compressed,
        contacts=checked.contacts,
        verify=verify,
        verified_by=checked.verified_by,
        object_etag=object_etag,
    )


def downloaded(entry: FileEntry, *, url: str, path: Path | None) -> DownloadedFile:
    """Return a finished file as callers see it."""
    return DownloadedFile(
        number=entry.number,
        url=url,
        path=path,
        size=entry.size,
        sha256=entry.sha256,
        etag=entry.etag,
        compressed=entry.compressed,
        verified_by=entry.verified_by,
    )


def with_export(manifest: Manifest, export: ContactExport, links: tuple[str, ...]) -> Manifest:
    """Return the manifest of a download that begins; no secret of the export gets into it."""
    kept = export.without_credentials()
    message = export.message and redact_text(export.message)
    return attrs.evolve(
        manifest,
        state="downloading",
        export=attrs.evolve(kept, metadata=None, message=message),
        links=links,
        contacts=None,
    )


def with_files(manifest: Manifest, entries: Iterable[FileEntry]) -> Manifest:
    """Return the manifest with `entries`, each in the place of an older one of the same number."""
    files = {entry.number: entry for entry in chain(manifest.files, entries)}
    return attrs.evolve(manifest, files=tuple(files[number] for number in sorted(files)))


def as_found(manifest: Manifest, found: Mapping[int, FileEntry | None]) -> Manifest:
    """Return the manifest with what was found of some files, by their number.

    A file of which nothing usable was found is to be downloaded again.
    """
    changed = with_files(manifest, filter(None, found.values()))
    files = tuple(file for file in changed.files if found.get(file.number, file) is not None)
    if len(files) == len(changed.files):
        return changed
    return attrs.evolve(changed, files=files, state="downloading", contacts=None)


def as_complete(manifest: Manifest) -> Manifest:
    """Return the manifest of a download of which every file is there.

    Its contacts are those of all files, or None if those of one are not known.
    """
    counts = [file.contacts for file in manifest.files]
    contacts = None if None in counts else sum(count or 0 for count in counts)
    return attrs.evolve(manifest, state="complete", contacts=contacts)


def is_whole(manifest: Manifest) -> bool:
    """Whether every file of the export is there."""
    numbers = [file.number for file in manifest.files]
    return manifest.state != "pending" and numbers == list(range(1, len(manifest.links) + 1))


def check_again(entry: FileEntry, verify: Verify, *, untouched: bool) -> Verify | None:
    """Return how deeply a file must be checked again; None if its entry can be trusted.

    Args:
        entry: what the manifest says of it.
        verify: how deeply it is to be checked now.
        untouched: whether it is certainly the file that was entered.
    """
    levels = list(Verify)
    deeper = levels.index(verify) > levels.index(entry.verify)
    if untouched and not deeper:
        return None
    return max(verify, entry.verify, key=levels.index)


def with_check(entry: FileEntry, checked: Checked | None, level: Verify) -> FileEntry | None:
    """Return the entry of a file that was checked again; None if it failed, or has other bytes."""
    if checked is None or entry.sha256 not in {None, checked.sha256}:
        return None
    if checked.compressed != entry.compressed:
        return None
    return attrs.evolve(
        entry,
        sha256=checked.sha256,
        contacts=checked.contacts,
        verify=level,
        verified_by=tuple(dict.fromkeys([*entry.verified_by, *checked.verified_by])),
    )


class ManifestWriter:
    """Writes one manifest again and again as files are added; what did not change is kept."""

    def __init__(self) -> None:
        self._head: tuple[Manifest | None, str] = (None, "")
        self._lines: dict[int, tuple[FileEntry, str]] = {}

    def write(self, manifest: Manifest) -> bytes:
        """Return the manifest as JSON, a line a file."""
        for entry in manifest.files:
            known = self._lines.get(entry.number)
            if known is None or known[0] is not entry:
                self._lines[entry.number] = entry, json.dumps(encode(entry))
        head = attrs.evolve(manifest, files=())
        if head != self._head[0]:
            self._head = head, json.dumps(encode(head), indent=2)
        files = ",".join(f"\n    {self._lines[entry.number][1]}" for entry in manifest.files)
        text = self._head[1].replace('"files": []', f'"files": [{files}\n  ]', 1)
        return text.encode() + b"\n"


def read_manifest(data: bytes, export_id: str | None = None) -> Manifest | None:
    """Return the manifest in `data`; None if it is damaged, or of another export than asked for."""
    try:
        manifest = decode(Manifest, parse_json(data, "The manifest"), "The manifest")
    except InvalidResponseError:
        return None
    if manifest.version != _VERSION or export_id not in {None, manifest.export_id}:
        return None
    if any(_escapes(file.name) for file in manifest.files):
        return None
    return manifest


def _escapes(name: str) -> bool:
    return not name.isprintable() or "/" in name or "\\" in name or name in {"", ".", ".."}
