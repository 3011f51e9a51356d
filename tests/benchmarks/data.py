"""What is downloaded: made once, and reused by the next run.

`data.py DIRECTORY SIZES GROUP…` makes it in a process of its own, because memory that a process has
used counts for the children it starts later.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

__all__ = ["QUICK", "Data", "Sizes", "md5", "name_data"]

KIB, MIB = 1024, 1024 * 1024
_BLOCK_CONTACTS = 40_000
# A file that begins in another way is not kept as an export.
_HEADER = b'"EMAIL","CONTACT_ID"\n'


@attrs.frozen(kw_only=True)
class Sizes:
    """How much to measure with.

    Attributes:
        file: MiB of each of four random files.
        medium: MiB of each of four others.
        export: MiB, about, of each of four gzip CSV exports.
        single: MiB of one random file.
        large: MiB of a file of zeros that takes no space.
        small: how many random files of 1 MiB.
        many: how many random files of 100 KiB.
        rounds: runs of every tool.
    """

    file: int = 256
    medium: int = 64
    export: int = 100
    single: int = 1024
    large: int = 4096
    small: int = 64
    many: int = 1000
    rounds: int = 5


QUICK = Sizes(file=32, medium=8, export=8, single=96, large=192, small=16, many=100, rounds=1)


@attrs.frozen(kw_only=True)
class Data:
    """Files to download.

    Attributes:
        directory: where they are.
        groups: their names by group, each group in the order of its names.
    """

    directory: Path
    groups: Mapping[str, Sequence[str]]


def name_data(directory: Path, sizes: Sizes) -> Data:
    """Return where everything is, or will be."""
    return Data(
        directory=directory,
        groups={
            "files": [f"random-{n}.csv" for n in range(1, 5)],
            "medium": [f"random-medium-{n}.csv" for n in range(1, 5)],
            "exports": [f"export-{n}.csv.gz" for n in range(1, 5)],
            "single": ["random-single.csv"],
            "large": ["zeros.csv"],
            "small": [f"random-small-{n:02}.csv" for n in range(1, sizes.small + 1)],
            "many": [f"random-many-{n:04}.csv" for n in range(1, sizes.many + 1)],
        },
    )


def make_data(data: Data, sizes: Sizes, groups: Sequence[str]) -> None:
    """Make the files of `groups` that do not exist yet."""
    data.directory.mkdir(parents=True, exist_ok=True)
    random_sizes = {
        "files": sizes.file * MIB,
        "medium": sizes.medium * MIB,
        "single": sizes.single * MIB,
        "small": MIB,
        "many": 100 * KIB,
    }
    for group in groups:
        for number, name in enumerate(data.groups[group]):
            path = data.directory / name
            if not path.exists():
                part = path.with_name(f".{name}")
                if group == "exports":
                    _write_gzip(part, asyncio.run(_export(number)), sizes.export * MIB)
                elif group == "large":
                    part.write_bytes(_HEADER)
                    os.truncate(part, sizes.large * MIB)
                else:
                    _write_random(part, random_sizes[group])
                part.rename(path)
            md5(path)


def md5(path: Path) -> str:
    """Return the MD5 of a file, which S3 gives as its ETag; kept beside it."""
    kept = path.with_name(f".{path.name}.{path.stat().st_mtime_ns}.md5")
    if not kept.exists():
        with path.open("rb") as file:
            kept.write_text(hashlib.file_digest(file, "md5").hexdigest())
    return kept.read_text()


def _write_random(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.write(_HEADER)
        for start in range(len(_HEADER), size, MIB):
            file.write(os.urandom(min(MIB, size - start)))


async def _export(seed: int) -> bytes:
    """Return a CSV export as the fake server writes it."""
    testing = importlib.import_module("sendgrid_exports.testing")
    async with testing.FakeSendGrid(compressed=False, seed=seed) as fake:
        export_id = await fake.add_export(contacts=_BLOCK_CONTACTS)
        body: bytes = (await fake.file_bytes(export_id))[0]
        return body


def _write_gzip(path: Path, export: bytes, size: int) -> None:
    # Repeated from far beyond gzip's window, the same contacts take as much space as new ones.
    packer = zlib.compressobj(6, wbits=31)
    header, newline, contacts = export.partition(b"\n")
    with path.open("wb") as file:
        file.write(packer.compress(header + newline))
        while file.tell() < size:
            file.write(packer.compress(contacts))
        file.write(packer.flush())


def main() -> None:
    """Make what the command line names."""
    directory, text, *groups = sys.argv[1:]
    sizes = Sizes(**json.loads(text))
    make_data(name_data(Path(directory), sizes), sizes, groups)


if __name__ == "__main__":
    main()
