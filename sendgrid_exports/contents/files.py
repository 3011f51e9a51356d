"""Which files a caller means, and opening one of them as plain text. Blocking.

Everything that reads finished files finds and opens them here, and nowhere else.
"""

from __future__ import annotations

import errno
import gzip
import importlib
import os
import zlib
from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from sendgrid_exports.bucket import Bucket
from sendgrid_exports.bucket_files import BucketFile
from sendgrid_exports.contents.find import id_of
from sendgrid_exports.errors import CorruptDownloadError, DownloadError
from sendgrid_exports.formats.gunzip import GZIP_MAGIC
from sendgrid_exports.models import DownloadedFile, DownloadResult
from sendgrid_exports.transfer.manifest import FileEntry, read_manifest
from sendgrid_exports.transfer.names import MANIFEST, OurName, parse_name, safe_name
from sendgrid_exports.transfer.target import AnyFile, Listing, read_target, where

__all__ = ["AnyFile", "PlainFile", "Source", "corrupt", "find_files", "require"]

_Path: TypeAlias = str | PathLike[str]
Source: TypeAlias = DownloadResult | Bucket | _Path | Sequence[_Path]

try:
    _ISAL: Any = importlib.import_module("isal.igzip")
except ImportError:
    _ISAL = None


def find_files(source: Source, export_id: str | None = None) -> tuple[AnyFile, ...]:
    """Return the files of `source`, in their order.

    Args:
        source: a finished download, a directory, a path, several paths, or a `Bucket`; a url may
            stand wherever a path may, of a bucket as of a file in one.
        export_id: which export, where the directory or bucket holds several.

    Raises:
        TypeError: `source` is none of these.
        ValueError: it names no file, the directory holds several exports, or `export_id` comes
            with something that is not a directory.
        DownloadError: the export is not in the directory, or not all of it; or the bucket can't
            be used.
        FileNotFoundError: a path does not exist.
    """
    files: list[AnyFile]
    if isinstance(source, DownloadResult):
        if isinstance(source.target, Bucket):
            listing = Listing(source.target)
            return tuple(_existing(listing, file, source.export.id) for file in source.files)
        files = [_whole(file.path, file.size) for file in source.files]
    elif isinstance(source, str | PathLike | Bucket):
        found = _place(source)
        if isinstance(found, Bucket) or (isinstance(found, Path) and found.is_dir()):
            return tuple(_in_place(Listing(found), export_id))
        files = [found]
    else:
        files = _files(source)
    if export_id is not None:
        raise ValueError("export_id is for a directory, and source names its files itself")
    for file in files:
        if isinstance(file, Path):
            if file.is_dir():
                raise ValueError(
                    f"source must not mix files and directories: {file} is a directory"
                )
            file.stat()
    return tuple(files)


def _files(source: object) -> list[AnyFile]:
    if isinstance(source, bytes | bytearray) or not isinstance(source, Sequence):
        raise TypeError(
            "source must be a DownloadResult, a path, a sequence of paths, a directory or a "
            f"bucket, not {type(source).__name__}"
        )
    if not source:
        raise ValueError("source names no file: the sequence of paths is empty")
    places = [_place(item) for item in source]
    files = [place for place in places if not isinstance(place, Bucket)]
    if len(files) < len(places):
        raise ValueError("source must not mix files and buckets: pass the bucket alone")
    return files


def _place(value: object) -> AnyFile | Bucket:
    """Return the path or the bucket that `value` names, or the file in a bucket."""
    if isinstance(value, Bucket):
        return value
    if not isinstance(value, str | PathLike) or not isinstance(fspath(value), str):
        raise TypeError(f"source must hold paths of text, not {type(value).__name__}")
    if not fspath(value):
        raise ValueError("source must not hold an empty path")
    place = read_target(value)
    if isinstance(place, Bucket) and (name := parse_name(place.name)) and name.is_final:
        if (stored := place.parent.head(place.name)) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
        return BucketFile(place.parent, stored)
    return place


def _in_place(listing: Listing, export_id: str | None) -> list[AnyFile]:
    # Files that a system puts there, such as the `._` files of macOS, do not count.
    names = {name: ours for name in listing.files if (ours := parse_name(name))}
    if export_id is None:
        export_id = _only_export(listing, names.values())
    stem = safe_name(export_id)
    if f"{stem}.{MANIFEST}" in names:
        return _in_manifest(listing, f"{stem}.{MANIFEST}", export_id)
    found = {
        name: ours.number for name, ours in names.items() if ours.is_final and ours.stem == stem
    }
    if not found:
        raise DownloadError(
            f"Nothing of export {export_id} is in {listing.place}. Check the id and the place, or "
            "download the export first.",
            **where(listing.place),
        )
    if sorted(found.values()) != list(range(1, len(found) + 1)):
        raise DownloadError(
            f"The manifest of export {export_id} is missing in {listing.place}, and so are files: "
            f"only {', '.join(found)} are there. Download the export again, or name the files.",
            **where(listing.place),
        )
    return [listing.files[name] for name in sorted(found, key=lambda name: found[name])]


def _only_export(listing: Listing, names: Iterable[OurName]) -> str:
    stems = {name.stem for name in names if name.is_final or name.ending == MANIFEST}
    ids = sorted(id_of(listing.read(f"{stem}.{MANIFEST}") or b"", stem) for stem in stems)
    if len(ids) > 1:
        raise ValueError(
            f"The target {listing.place} holds several exports; pass export_id, one of "
            f"{', '.join(ids)}"
        )
    if not ids:
        raise DownloadError(
            f"No export is in {listing.place}. Check where it is, or download an export first.",
            **where(listing.place),
        )
    return ids[0]


def _in_manifest(listing: Listing, name: str, export_id: str) -> list[AnyFile]:
    manifest = read_manifest(listing.read(name) or b"", export_id)
    if manifest is None:
        raise CorruptDownloadError(
            f"The manifest {listing.locate(name)} is damaged, or of another version. Download the "
            "export again with the same id, or name the files.",
            **where(listing.place, name),
        )
    if manifest.state != "complete":
        raise DownloadError(
            f"The download of export {export_id} to {listing.place} is not finished. Download it "
            "again with the same id, which resumes it.",
            **where(listing.place, name),
        )
    return [_existing(listing, entry, export_id) for entry in manifest.files]


def _existing(listing: Listing, entry: FileEntry | DownloadedFile, export_id: str) -> AnyFile:
    if entry.name not in listing.files:
        raise CorruptDownloadError(
            f"{listing.locate(entry.name)} is missing, and the manifest of export {export_id} "
            "names it. Download the export again with the same id.",
            **where(listing.place, entry.name),
        )
    return _whole(listing.files[entry.name], entry.size)


def _whole(file: AnyFile, size: int) -> AnyFile:
    """Return a file that is as long as it was: a shorter one may read as one with fewer contacts.

    Raises:
        CorruptDownloadError: it is not.
        OSError: it can't be read.
    """
    found = file.stat().st_size if isinstance(file, Path) else file.stored.size
    if found != size:
        raise corrupt(file, f"it has {found:,} bytes, and was downloaded with {size:,}")
    return file


def corrupt(file: AnyFile, reason: object) -> CorruptDownloadError:
    """Return the error of a file that can't be read as contacts."""
    return CorruptDownloadError(
        f"{file} is corrupt: {reason}. Download the export again, or start another one.",
        path=file if isinstance(file, Path) else None,
        url=None if isinstance(file, Path) else str(file),
    )


class PlainFile:
    """The plain text of a file, to be read from its start; gzip is known by its first bytes.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, path: AnyFile) -> None:
        self.closed = False
        self._path = path
        self._position = 0
        self._raw: Any = path.open("rb")
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
                f"pip install 'sendgrid-exports[{extra}]', or '.[{extra}]' in a checkout",
                name=name,
            ) from None
