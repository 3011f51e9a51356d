"""Verifying a finished download again, from the disk or the bucket alone."""

from __future__ import annotations

from pathlib import Path

from sendgrid_exports.api.arguments import check_text
from sendgrid_exports.bucket import Bucket
from sendgrid_exports.bucket_files import BucketFile
from sendgrid_exports.disk import Disk, Steps
from sendgrid_exports.errors import DownloadError
from sendgrid_exports.models import VerificationReport
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.checking import check_entry
from sendgrid_exports.transfer.links import read_kind
from sendgrid_exports.transfer.manifest import FileEntry, Manifest, read_manifest, with_check
from sendgrid_exports.transfer.names import Names, parse_name, safe_name
from sendgrid_exports.transfer.objects import is_untouched
from sendgrid_exports.transfer.target import Listing, Target, read_target, where

__all__ = ["verify_download"]


async def verify_download(
    target: Target, export_id: str, *, deep: bool = False
) -> VerificationReport:
    """Compare a finished download with its manifest. Nothing is sent to SendGrid or changed.

    On disk every file is read: size, SHA-256, gzip. In a bucket size and ETag are enough, and only
    an object with another ETag is read.

    Args:
        target: where the files are: a directory, a bucket's url, or a `Bucket`.
        export_id: the export.
        deep: read every object in a bucket, too.

    Returns:
        What is verified, missing, changed or extra; `ok` where all is as it was.

    Raises:
        DownloadError: there is no manifest of this export there, or a damaged one; or the bucket
            can't be used.
        OSError: a file can't be read.
    """
    check_text(export_id, "export_id")
    with Disk(1) as disk:
        place = await disk.run(read_target, target)
        names = Names(Path(), safe_name(export_id))
        listing, manifest = await disk.run(_load, place, names.manifest.name, export_id)
        verified: list[str] = []
        missing = _never_came(names, manifest)
        changed: list[str] = []
        for entry in manifest.files:
            seen = await disk.run_long(_is_as_it_was(listing, entry, deep=deep))
            (missing if seen is None else verified if seen else changed).append(entry.name)
    known = {names.manifest.name, names.lock.name, *verified, *changed}
    if manifest.state != "complete":
        parts = map(names.part, range(1, len(manifest.links) + 1))
        known |= {names.journal.name, *(part.name for part in parts)}
    ours = [name for name in listing.files if (own := parse_name(name)) and own.stem == names.stem]
    extra = [name for name in ours if name not in known]
    return VerificationReport(
        export_id=export_id,
        complete=manifest.state == "complete",
        verified=tuple(map(listing.locate, verified)),
        missing=tuple(map(listing.locate, missing)),
        changed=tuple(map(listing.locate, changed)),
        extra=tuple(map(listing.locate, extra)),
    )


def _load(place: Path | Bucket, name: str, export_id: str) -> tuple[Listing, Manifest]:
    try:
        listing = Listing(place)
        data = listing.read(name)
    except FileNotFoundError:
        data = None
    if data is None:
        raise DownloadError(
            f"There is no manifest of export {export_id} in {place}: nothing of it was downloaded "
            "there. Download it, or correct the id or the target.",
            **where(place, name),
        )
    manifest = read_manifest(data, export_id)
    if manifest is None:
        raise DownloadError(
            f"The manifest {listing.locate(name)} is damaged, or of another version: fetch the "
            "export again with the same id, which downloads its files anew.",
            **where(place, name),
        )
    return listing, manifest


def _never_came(names: Names, manifest: Manifest) -> list[str]:
    there = {entry.number for entry in manifest.files}
    return [
        names.final(number, read_kind(link), compressed=True).name
        for number, link in enumerate(manifest.links, start=1)
        if number not in there
    ]


def _is_as_it_was(listing: Listing, entry: FileEntry, *, deep: bool) -> Steps[bool | None]:
    """Whether a file is as its entry says, or None where there is none."""
    file = listing.files.get(entry.name)
    if file is None:
        return None
    if isinstance(file, BucketFile):
        if is_untouched(file.stored, entry) and not deep:
            return True
        if file.stored.size != entry.size:
            return False
    level = Verify.CONTENTS if entry.compressed else Verify.CHECKSUM
    try:
        checked = yield from check_entry(file, entry, level)
    except FileNotFoundError:
        return None
    return with_check(entry, checked, level) is not None
