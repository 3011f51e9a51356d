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
    ours = ((name, parse_name(name)) for name in listing.names)
    return tuple(
        _read(listing, name, parsed.stem)
        for name, parsed in ours
        if parsed and parsed.ending == MANIFEST
    )


def _read(listing: Listing, name: str, stem: str) -> FoundExport:
    data = listing.read(name) or b""
    export_id = _id_in(data)
    manifest = (
        read_manifest(data, export_id) if export_id and safe_name(export_id) == stem else None
    )
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


def _id_in(data: bytes) -> str:
    try:
        value = parse_json(data, "The manifest")
    except InvalidResponseError:
        return ""
    export_id = value.get("export_id") if isinstance(value, dict) else None
    return export_id if isinstance(export_id, str) else ""
