"""Checking, inflating and compressing files, step by step, and given up in the middle."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from sendgrid_exports.disk import Disk, Steps
from sendgrid_exports.formats.gunzip import BrokenGzipError
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.answers import Expected
from sendgrid_exports.transfer.checking import (
    check_file,
    compress,
    feed_range,
    follow,
    inflate,
    is_gzip,
)
from sendgrid_exports.transfer.checks import Checked, CheckFailedError, Checks
from sendgrid_exports.transfer.file import Copy, File
from sendgrid_exports.transfer.links import Link
from sendgrid_exports.transfer.pieces import FilePieces

MIB = 1024 * 1024
LINK = Link(url="https://storage.example/a.csv.gz", identity="a.csv.gz", kind="csv")
PLAIN = b"EMAIL,CONTACT_ID\n" + b"ann@example.com,1\n" * 60_000
PACKED = gzip.compress(PLAIN, 0, mtime=0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(PACKED)
    return path


def run(steps: Steps[Checked]) -> Checked:
    """Return the result of long work, done at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            checked: Checked = end.value
            return checked


def done(steps: Steps[None]) -> None:
    for _ in steps:
        pass


WORK: dict[str, Callable[[Path], Steps[object]]] = {
    "check": lambda path: check_file(path, Verify.CONTENTS, Expected(), first=True),
    "inflate": lambda path: inflate(path, path.with_suffix(".new")),
    "compress": lambda path: compress(path, path.with_suffix(".new")),
    "feed": lambda path: feed_range(path, Checks(Verify.CHECKSUM, Expected()), 0, None),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_long_work_on_a_file_can_be_left_after_each_step(
    source: Path, work: Callable[[Path], Steps[object]]
) -> None:
    assert sum(1 for _ in work(source)) > 3
    steps = work(source)
    next(steps)
    steps.close()
    assert not list(steps)


def test_what_inflates_to_much_is_left_as_often(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"x" * 4 * MIB))
    assert sum(1 for _ in inflate(path, tmp_path / "plain")) > 16


def test_what_was_compressed_or_inflated_is_the_same(source: Path, tmp_path: Path) -> None:
    plain, again, raw = tmp_path / "plain", tmp_path / "again", tmp_path / "raw"
    done(inflate(source, plain))
    assert plain.read_bytes() == PLAIN
    done(compress(plain, raw))
    done(inflate(raw, again))
    assert again.read_bytes() == PLAIN


def test_the_same_content_is_compressed_to_the_same_bytes(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(PLAIN)
    targets = [tmp_path / "one.csv.gz", tmp_path / "another-name.csv.gz"]
    for target in targets:
        done(compress(plain, target))
    one, another = (target.read_bytes() for target in targets)
    assert one == another


@pytest.mark.parametrize("cut", [1, 8, len(PACKED) // 2])
def test_a_gzip_file_that_is_cut_is_not_inflated(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(PACKED[:-cut])
    with pytest.raises(BrokenGzipError):
        done(inflate(path, tmp_path / "plain"))


@pytest.mark.parametrize(
    ("verify", "sha256", "contacts"),
    [(Verify.LENGTH, False, None), (Verify.CHECKSUM, True, None), (Verify.CONTENTS, True, 60_000)],
)
def test_each_level_of_checks_finds_more(
    source: Path, verify: Verify, sha256: bool, contacts: int | None
) -> None:
    checked = run(check_file(source, verify, Expected(size=len(PACKED)), first=True))
    assert (checked.size, checked.compressed) == (len(PACKED), True)
    assert (checked.sha256 is not None) is sha256
    assert checked.contacts == contacts


@pytest.mark.parametrize("verify", Verify)
def test_a_file_of_another_size_fails_each_level(source: Path, verify: Verify) -> None:
    with pytest.raises(CheckFailedError):
        run(check_file(source, verify, Expected(size=len(PACKED) + 1), first=True))


@pytest.mark.parametrize(
    ("data", "expected"), [(PACKED, True), (b"\x1f\x8b", True), (b"\x1f", False), (b"", False)]
)
def test_gzip_is_known_by_its_first_bytes(tmp_path: Path, data: bytes, expected: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    assert is_gzip(path) is expected


# A file that is checked while it is written


@pytest.fixture
def disk() -> Iterator[Disk]:
    with Disk(2) as disk:
        yield disk


class Growing:
    """A file that is written in pieces, and whose checks follow."""

    def __init__(self, part: Path, disk: Disk, body: bytes, verify: Verify) -> None:
        self.part = part
        self.body = body
        self.copy = Copy(FilePieces(first=None), expected=Expected(size=len(body)))
        self.copy.pieces.resume(len(body), [])
        self.checking = asyncio.ensure_future(follow(File(1, LINK, self.copy), part, disk, verify))

    def write(self, start: int, end: int) -> None:
        mode = "r+b" if self.part.exists() else "wb"
        with self.part.open(mode) as file:
            file.seek(start)
            file.write(self.body[start:end])
        self.copy.pieces.written.add(start, end)
        self.copy.grown.set()

    async def settle(self) -> None:
        """Let what is written so far be checked."""
        for _ in range(20):
            await asyncio.sleep(0.001)


@pytest.fixture
async def growing(tmp_path: Path, disk: Disk) -> AsyncIterator[Callable[..., Growing]]:
    made: list[Growing] = []

    def make(body: bytes = PACKED, verify: Verify = Verify.CONTENTS) -> Growing:
        made.append(Growing(tmp_path / "a.part", disk, body, verify))
        return made[-1]

    yield make
    for one in made:
        one.checking.cancel()
        await asyncio.gather(one.checking, return_exceptions=True)


@pytest.mark.parametrize("verify", Verify)
@pytest.mark.parametrize("body", [PACKED, PLAIN], ids=["gzip", "plain"])
async def test_a_file_checked_while_it_grows_is_checked_as_one_that_is_there(
    growing: Callable[..., Growing], disk: Disk, body: bytes, verify: Verify
) -> None:
    file = growing(body, verify)
    size = len(body)
    # The pieces of several connections: not in the order of the file.
    for start, end in [(0, 1), (size // 2, size - 5), (1, 700_000), (700_000, size // 2)]:
        file.write(start, end)
        await file.settle()
        assert not file.checking.done()
    file.write(size - 5, size)
    whole = check_file(file.part, verify, Expected(size=size), first=True)
    assert await file.checking == await disk.run_long(whole)


async def test_broken_gzip_ends_the_checks_before_the_file_is_complete(
    growing: Callable[..., Growing],
) -> None:
    broken = bytearray(PACKED)
    broken[10] = 0xFF
    file = growing(bytes(broken))
    file.write(0, 1000)
    with pytest.raises(CheckFailedError):
        await file.checking


@pytest.mark.parametrize("verify", Verify)
async def test_a_part_file_that_is_longer_than_what_arrived_fails(
    growing: Callable[..., Growing], verify: Verify
) -> None:
    file = growing(PLAIN, verify)
    file.part.write_bytes(bytes(len(PLAIN) + 1))
    file.write(0, len(PLAIN))
    with pytest.raises(CheckFailedError):
        await file.checking


async def test_the_checks_of_a_file_that_grows_no_more_can_be_cancelled(
    growing: Callable[..., Growing],
) -> None:
    file = growing()
    file.write(0, 1000)
    await file.settle()
    file.checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await file.checking
