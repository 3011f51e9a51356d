"""Which exports are in a directory or a bucket, by their manifests. Blocking."""

from __future__ import annotations

from sendgrid_exports.decoding import parse_json
from sendgrid_exports.errors import InvalidResponseError
from sendgrid_exports.models import FoundExport
from sendgrid_exports.transfer.manifest import read_manifest
from sendgrid_exports.transfer.names import MANIFEST, parse_name, safe_name
from sendgrid_exports.transfer.target import Listing, Target, read_target


def find_exports(target: Target) -> tuple[FoundExport, ...]:
    """Return the exports whose manifests are in `target`, sorted by their file names.

    Only manifests are read: `verify_download` checks the files. Nothing is changed.

    Args:
        target: where the exports were downloaded to: a directory, a bucket's url or a `Bucket`.

    Raises:
        ImportError: it is a bucket, and obstore is not installed.
        TypeError, ValueError: `target` can't name a directory or a bucket.
        DownloadError: the bucket can't be used.
        OSError: the directory can't be read.
    """
    listing = Listing(read_target(target))
    ours = ((name, parse_name(name)) for name in listing.files)
    return tuple(
        _read(listing, name, parsed.stem)
        for name, parsed in ours
        if parsed and parsed.ending == MANIFEST
    )


def _read(listing: Listing, name: str, stem: str) -> FoundExport:
    data = listing.read(name) or b""
    manifest = read_manifest(data, id_of(data, stem))
    at = listing.locate(name)
    if manifest is None:
        return FoundExport(export_id=stem, state="damaged", target=listing.place, manifest=at)
    return FoundExport(
        export_id=manifest.export_id,
        state=manifest.state,
        target=listing.place,
        files=tuple(listing.locate(entry.name) for entry in manifest.files),
        contact_count=manifest.contacts,
        manifest=at,
        export=manifest.export,
        request=manifest.request,
    )


def id_of(manifest: bytes, stem: str) -> str:
    """Return the export's id as its manifest has it, or else the beginning of the file's name."""
    try:
        content = parse_json(manifest, "The manifest")
    except InvalidResponseError:
        return stem
    export_id = content.get("export_id") if isinstance(content, dict) else None
    return export_id if isinstance(export_id, str) and safe_name(export_id) == stem else stem
