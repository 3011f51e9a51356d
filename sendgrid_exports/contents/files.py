"""Which files a caller means, and opening one of them as plain text. Blocking.

Everything that reads finished files finds and opens them here, and nowhere else.
"""

from __future__ import annotations

import gzip
import importlib
import zlib
from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from sendgrid_exports.decoding import parse_json
from sendgrid_exports.errors import CorruptDownloadError, DownloadError, InvalidResponseError
from sendgrid_exports.formats.gunzip import GZIP_MAGIC
from sendgrid_exports.models import DownloadResult
from sendgrid_exports.transfer.manifest import read_manifest
from sendgrid_exports.transfer.names import MANIFEST, Names, OurName, parse_name, safe_name

__all__ = ["PlainFile", "Source", "corrupt", "find_files", "require"]

_Path: TypeAlias = str | PathLike[str]
Source: TypeAlias = DownloadResult | _Path | Sequence[_Path]


try:
    _ISAL: Any = importlib.import_module("isal.igzip")
except ImportError:
    _ISAL = None


def find_files(source: Source, export_id: str | None = None) -> tuple[Path, ...]:
    """Return the files of `source`, in their order.

    Args:
        source: a finished download, a path, several paths, or a directory.
        export_id: which export, where the directory holds several.

    Raises:
        TypeError: `source` is none of these.
        ValueError: it names no file, the directory holds several exports, or `export_id` comes
            with something that is not a directory.
        DownloadError: the export is not in the directory, or not all of it.
        FileNotFoundError: a path does not exist.
    """
    if isinstance(source, DownloadResult):
        paths = [file.path for file in source.files]
    elif isinstance(source, str | PathLike):
        path = _path(source)
        if path.is_dir():
            return tuple(_in_directory(path, export_id))
        paths = [path]
    else:
        paths = _paths(source)
    if export_id is not None:
        raise ValueError("export_id is for a directory, and source names its files itself")
    for path in paths:
        if path.is_dir():
            raise ValueError(f"source must not mix files and directories: {path} is a directory")
        path.stat()
    return tuple(paths)


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
    if not isinstance(value, str | PathLike) or not isinstance(fspath(value), str):
        raise TypeError(f"source must hold paths of text, not {type(value).__name__}")
    if not fspath(value):
        raise ValueError("source must not hold an empty path")
    return Path(value)


def _in_directory(directory: Path, export_id: str | None) -> list[Path]:
    # What others put there, such as macOS its `._` files, does not count.
    names = {path.name: ours for path in directory.iterdir() if (ours := parse_name(path.name))}
    if export_id is None:
        export_id = _only_export(directory, names.values())
    of_export = Names(directory, safe_name(export_id))
    if of_export.manifest.name in names:
        return _in_manifest(of_export, export_id)
    found = {
        name: ours.number
        for name, ours in names.items()
        if ours.is_final and ours.stem == of_export.stem
    }
    if not found:
        raise DownloadError(
            f"Nothing of export {export_id} is in {directory}. Check the id and the directory, or "
            "download the export first.",
            path=directory,
        )
    if sorted(found.values()) != list(range(1, len(found) + 1)):
        raise DownloadError(
            f"The manifest of export {export_id} is missing in {directory}, and so are files: "
            f"only {', '.join(found)} are there. Download the export again, or name the files.",
            path=directory,
        )
    return [directory / name for name in sorted(found, key=lambda name: found[name])]


def _only_export(directory: Path, names: Iterable[OurName]) -> str:
    stems = {name.stem for name in names if name.is_final or name.ending == MANIFEST}
    ids = sorted(_id_of(Names(directory, stem).manifest, stem) for stem in stems)
    if len(ids) > 1:
        raise ValueError(
            f"{directory} holds several exports; pass export_id, one of {', '.join(ids)}"
        )
    if not ids:
        raise DownloadError(
            f"No export is in {directory}. Check the directory, or download an export first.",
            path=directory,
        )
    return ids[0]


def _id_of(manifest: Path, stem: str) -> str:
    try:
        content = parse_json(manifest.read_bytes(), "The manifest")
    except (FileNotFoundError, InvalidResponseError):
        return stem
    export_id = content.get("export_id") if isinstance(content, dict) else None
    return export_id if isinstance(export_id, str) and safe_name(export_id) == stem else stem


def _in_manifest(names: Names, export_id: str) -> list[Path]:
    manifest = read_manifest(names.manifest.read_bytes(), export_id)
    if manifest is None:
        raise DownloadError(
            f"The manifest {names.manifest} is damaged. Download the export again: files that are "
            "whole are kept.",
            path=names.manifest,
        )
    if manifest.state != "complete":
        raise DownloadError(
            f"The download of export {export_id} to {names.directory} is not finished. Download it "
            "again with the same id, which resumes it.",
            path=names.manifest,
        )
    paths = [names.directory / entry.name for entry in manifest.files]
    for path in paths:
        if not path.exists():
            raise DownloadError(
                f"{path} is missing, and the manifest of export {export_id} names it. Download "
                "the export again with the same id.",
                path=path,
            )
    return paths


def corrupt(path: Path, reason: object) -> CorruptDownloadError:
    """Return the error of a file that can't be read as contacts."""
    return CorruptDownloadError(
        f"{path} is corrupt: {reason}. Download the export again, or start another one.", path=path
    )


class PlainFile:
    """The plain text of a file, to be read from its start; gzip is known by its first bytes.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.closed = False
        self._path = path
        self._position = 0
        self._raw = path.open("rb")
        self._file: Any = self._raw
        # isal is fast, but refuses some streams that are whole: zlib has the last word.
        self._libraries = [gzip, _ISAL] if _ISAL else [gzip]
        self._broken: tuple[type[Exception], ...] = ()
        if self._raw.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC):
            self._broken = (EOFError, gzip.BadGzipFile, zlib.error)
            if _ISAL:
                self._broken += (_ISAL.isal_zlib.error, ArithmeticError, ValueError)
            self._open_next()

    def _open_next(self) -> None:
        self._raw.seek(0)
        self._file = self._libraries.pop().GzipFile(fileobj=self._raw, mode="rb")

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` only at the end.

        Raises:
            CorruptDownloadError: the gzip data is damaged or cut.
            OSError: the file can't be read.
        """
        while True:
            try:
                # It is where it was already, unless another library has just begun.
                self._file.seek(self._position)
                data: bytes = self._file.read(size)
            except self._broken as error:
                if not self._libraries:
                    raise corrupt(
                        self._path,
                        f"its gzip data is damaged after {self._position:,} bytes of text "
                        f"({error})",
                    ) from None
                self._open_next()
            else:
                self._position += len(data)
                return data

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._file.close()
        self._raw.close()

    def __enter__(self) -> PlainFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def require(extra: str, *modules: str) -> None:
    """Load the modules of an extra.

    Raises:
        ImportError: one is not installed; the message has the line that installs it.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ImportError(
                f"This needs {name}, which is not installed: "
                f"pip install 'sendgrid-exports[{extra}]'",
                name=name,
            ) from None
