"""Which exports are on disk, by their manifests. Blocking."""

from __future__ import annotations

import os
from pathlib import Path

from sendgrid_exports.decoding import parse_json
from sendgrid_exports.errors import InvalidResponseError
from sendgrid_exports.models import FoundExport
from sendgrid_exports.transfer.manifest import read_manifest
from sendgrid_exports.transfer.names import MANIFEST, check_directory, parse_name, safe_name


def find_exports(directory: str | os.PathLike[str]) -> tuple[FoundExport, ...]:
    """Return the exports whose manifests are in `directory`, sorted by their file names.

    Only manifests are read: `verify_download` checks the files. Nothing is changed.

    Args:
        directory: where the exports were downloaded to.

    Raises:
        TypeError, ValueError: `directory` can't name a directory.
        OSError: it can't be read.
    """
    paths = sorted(check_directory(directory).iterdir())
    ours = ((path, parse_name(path.name)) for path in paths)
    return tuple(_read(path, name.stem) for path, name in ours if name and name.ending == MANIFEST)


def _read(path: Path, stem: str) -> FoundExport:
    data = path.read_bytes()
    export_id = _id_in(data)
    manifest = (
        read_manifest(data, export_id) if export_id and safe_name(export_id) == stem else None
    )
    if manifest is None:
        return FoundExport(export_id=stem, state="damaged", manifest=path)
    return FoundExport(
        export_id=manifest.export_id,
        state=manifest.state,
        files=tuple(path.parent / entry.name for entry in manifest.files),
        contact_count=manifest.contacts,
        manifest=path,
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
