"""Which files a caller means: of a result, of a directory, or named one by one. Blocking."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs

from sendgrid_exports.decoding import parse_json
from sendgrid_exports.errors import DownloadError, InvalidResponseError
from sendgrid_exports.models import DownloadResult
from sendgrid_exports.transfer.links import read_kind
from sendgrid_exports.transfer.manifest import read_manifest
from sendgrid_exports.transfer.names import MANIFEST, Names, OurName, parse_name, safe_name

__all__ = ["Source", "SourceFile", "find_files"]

PathLike: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = DownloadResult | PathLike | Sequence[PathLike]


@attrs.frozen
class SourceFile:
    """A file to read: `kind` is `csv` or `json`, by its name."""

    path: Path
    kind: str


def find_files(source: Source, export_id: str | None = None) -> tuple[SourceFile, ...]:
    """Return the files of `source`, in their order.

    Args:
        source: a finished download, a path, several paths, or a directory.
        export_id: which export, where the directory holds several.

    Raises:
        TypeError: it is none of them.
        ValueError: it names no file, the directory holds several exports, or `export_id` comes
            with something that is no directory.
        DownloadError: the export is not in the directory, or not all of it.
        FileNotFoundError: a path names nothing.
    """
    if isinstance(source, DownloadResult):
        paths = [file.path for file in source.files]
    elif isinstance(source, str | os.PathLike):
        path = _path(source)
        if path.is_dir():
            return tuple(map(_source_file, _in_directory(path, export_id)))
        paths = [path]
    else:
        paths = _paths(source)
    if export_id is not None:
        raise ValueError("export_id is for a directory, and source names its files itself")
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path} is a directory, and stands among files: give it alone")
        path.stat()
    return tuple(map(_source_file, paths))


def _paths(source: object) -> list[Path]:
    if isinstance(source, bytes | bytearray) or not isinstance(source, Sequence):
        raise TypeError(
            "source must be a DownloadResult, a path, a sequence of paths or a directory, not "
            f"{type(source).__name__}"
        )
    if not source:
        raise ValueError("source names no file: the sequence of paths is empty")
    return [_path(item) for item in source]


def _path(value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(f"source must hold paths of text, not {type(value).__name__}")
    if not os.fspath(value):
        raise ValueError("source must not hold an empty path")
    return Path(value)


def _source_file(path: Path) -> SourceFile:
    return SourceFile(path, read_kind(path.name))


def _in_directory(directory: Path, export_id: str | None) -> list[Path]:
    # What others put there, such as macOS its `._` files, does not count.
    there = {path.name: ours for path in directory.iterdir() if (ours := parse_name(path.name))}
    if export_id is None:
        export_id = _only_export(directory, there.values())
    names = Names(directory, safe_name(export_id))
    if names.manifest.name in there:
        return _in_manifest(names, export_id)
    found = sorted(
        (ours.number, name)
        for name, ours in there.items()
        if ours.is_final and ours.stem == names.stem
    )
    if not found:
        raise DownloadError(
            f"There is nothing of export {export_id} in {directory}. Fetch it to there, or mend "
            "the id or the directory.",
            path=directory,
        )
    if [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise DownloadError(
            f"There is no manifest of export {export_id} in {directory}, and the files there are "
            f"not numbered one by one: {', '.join(name for _, name in found)}. Fetch again, or "
            "name the files.",
            path=directory,
        )
    return [directory / name for _, name in found]


def _only_export(directory: Path, there: Iterable[OurName]) -> str:
    stems = {ours.stem for ours in there if ours.is_final or ours.ending == MANIFEST}
    ids = sorted(_id_of(Names(directory, stem).manifest, stem) for stem in stems)
    if len(ids) > 1:
        raise ValueError(
            f"{directory} holds several exports; say by export_id which: {', '.join(ids)}"
        )
    if not ids:
        raise DownloadError(
            f"There is no export in {directory}. Fetch one to there, or mend the directory.",
            path=directory,
        )
    return ids[0]


def _id_of(manifest: Path, stem: str) -> str:
    try:
        told = parse_json(manifest.read_bytes(), "The manifest")
    except (FileNotFoundError, InvalidResponseError):
        return stem
    export_id = told.get("export_id") if isinstance(told, dict) else None
    return export_id if isinstance(export_id, str) and safe_name(export_id) == stem else stem


def _in_manifest(names: Names, export_id: str) -> list[Path]:
    manifest = read_manifest(names.manifest.read_bytes(), export_id)
    if manifest is None:
        raise DownloadError(
            f"The manifest {names.manifest} is damaged: fetch again, which proves and mends it.",
            path=names.manifest,
        )
    if manifest.state != "complete":
        raise DownloadError(
            f"The download of export {export_id} to {names.directory} is not finished: fetch "
            "again with the same id, which goes on with it.",
            path=names.manifest,
        )
    paths = [names.directory / entry.name for entry in manifest.files]
    for path in paths:
        if not path.exists():
            raise DownloadError(
                f"{path} is gone, which the manifest of export {export_id} names: fetch again "
                "with the same id.",
                path=path,
            )
    return paths
