"""What is downloaded: made once, and found again by the next run."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import attrs

__all__ = ["QUICK", "Data", "Sizes", "md5", "name_data"]

MIB = 1024 * 1024
_BLOCK_CONTACTS = 40_000
# Other files are not kept as exports.
_HEADER = b"EMAIL\n"


@attrs.frozen(kw_only=True)
class Sizes:
    """How much to measure with.

    Attributes:
        file: MiB of each of four random files.
        export: MiB, about, of each of four gzip CSV exports.
        single: MiB of one random file.
        large: MiB of a file of zeros that takes no room.
        small: how many random files of 1 MiB.
        rounds: runs of every tool.
    """

    file: int = 256
    export: int = 100
    single: int = 1024
    large: int = 4096
    small: int = 64
    rounds: int = 5


QUICK = Sizes(file=32, export=8, single=96, large=192, rounds=1)


@attrs.frozen(kw_only=True)
class Data:
    """Names of files in `directory`."""

    directory: Path
    files: Sequence[str]
    exports: Sequence[str]
    single: Sequence[str]
    large: Sequence[str]
    small: Sequence[str]

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.files, *self.exports, *self.single, *self.large, *self.small]


def name_data(directory: Path, sizes: Sizes) -> Data:
    """Return where everything is, or will be."""
    return Data(
        directory=directory,
        files=[f"random-{n}.csv" for n in range(1, 5)],
        exports=[f"export-{n}.csv.gz" for n in range(1, 5)],
        single=["random-single.csv"],
        large=["zeros.csv"],
        small=[f"random-small-{n:02}.csv" for n in range(1, sizes.small + 1)],
    )


def make_data(data: Data, sizes: Sizes) -> None:
    """Make what is not there yet."""
    data.directory.mkdir(parents=True, exist_ok=True)
    for name in data.files:
        _random(data.directory / name, sizes.file)
    for name in data.single:
        _random(data.directory / name, sizes.single)
    for name in data.small:
        _random(data.directory / name, 1)
    for name in data.large:
        with (data.directory / name).open("ab") as file:
            file.write(_HEADER if file.tell() == 0 else b"")
            file.truncate(sizes.large * MIB)
    for seed, name in enumerate(data.exports):
        if not (data.directory / name).exists():
            _gzip(data.directory / name, _block(seed), sizes.export * MIB)
    for name in data.names:
        md5(data.directory / name)


def md5(path: Path) -> str:
    """Return the MD5 of a file, which S3 gives as its ETag; kept beside it."""
    kept = path.with_name(f".{path.name}.{path.stat().st_mtime_ns}.md5")
    if not kept.exists():
        with path.open("rb") as file:
            kept.write_text(hashlib.file_digest(file, "md5").hexdigest())
    return kept.read_text()


def _random(path: Path, size: int) -> None:
    if path.exists():
        return
    part = path.with_name(f".{path.name}")
    with part.open("wb") as file:
        for _ in range(size):
            file.write(_HEADER + os.urandom(MIB - len(_HEADER)))
    part.rename(path)


def _block(seed: int) -> bytes:
    """Return contacts as the lines of a CSV export."""
    contacts = importlib.import_module("sendgrid_exports.testing.contacts")
    text = io.StringIO()
    rows = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    rows.writerows(map(contacts.csv_values, contacts.make_contacts(_BLOCK_CONTACTS, seed=seed)))
    # SendGrid writes nothing at all for an empty value.
    lines = text.getvalue().replace(',"",', ",,").replace(',"",', ",,").replace(',""\n', ",\n")
    return lines.encode()


def _gzip(path: Path, block: bytes, size: int) -> None:
    # Repeated from far beyond gzip's window, the same contacts take as much room as new ones.
    packer = zlib.compressobj(6, wbits=31)
    part = path.with_name(f".{path.name}")
    columns = importlib.import_module("sendgrid_exports.testing.contacts").CSV_COLUMNS
    with part.open("wb") as file:
        file.write(packer.compress((",".join(columns) + "\n").encode()))
        while file.tell() < size:
            file.write(packer.compress(block))
        file.write(packer.flush())
    part.rename(path)


def main() -> None:
    """Make the data: in a process of its own, since what it takes stays with its process."""
    sizes = Sizes(**json.loads(sys.argv[2]))
    make_data(name_data(Path(sys.argv[1]), sizes), sizes)


if __name__ == "__main__":
    main()
