"""Long reading of files, given up in the middle."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from sendgrid_exports.disk import Stop, StoppedError
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.reading import compress, feed_range, inflate, prove_file
from sendgrid_exports.transfer.verify import Checks, Expected

MIB = 1024 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"x" * MIB, 0))
    return path


def after(looks: int) -> tuple[Stop, list[None]]:
    """Return a `stop` that is true from so many looks on, and the looks so far."""
    made: list[None] = []

    def stop() -> bool:
        made.append(None)
        return len(made) > looks

    return stop, made


WORK: dict[str, Callable[[Path, Stop], object]] = {
    "prove": lambda path, stop: prove_file(path, Verify.CONTENTS, Expected(), "csv", stop=stop),
    "inflate": lambda path, stop: inflate(path, path.with_suffix(".new"), stop=stop),
    "compress": lambda path, stop: compress(path, path.with_suffix(".new"), stop=stop),
    "feed": lambda path, stop: feed_range(
        path, Checks(Verify.CHECKSUM, Expected(), "csv"), 0, None, stop=stop
    ),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_work_on_a_file_ends_soon_after_it_is_of_no_use(
    source: Path, work: Callable[[Path, Stop], object]
) -> None:
    stop, made = after(1)
    with pytest.raises(StoppedError):
        work(source, stop)
    assert len(made) == 2
    stop, made = after(1000)
    work(source, stop)
    assert len(made) > 3


def test_what_was_compressed_or_inflated_is_the_same(source: Path, tmp_path: Path) -> None:
    plain, again, raw = tmp_path / "plain", tmp_path / "again", tmp_path / "raw"
    inflate(source, plain)
    assert plain.read_bytes() == b"x" * MIB
    compress(plain, raw)
    inflate(raw, again)
    assert again.read_bytes() == plain.read_bytes()
