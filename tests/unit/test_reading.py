"""Long reading of files, given up in the middle."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from sendgrid_exports.transfer.reading import compress, feed_range, inflate, prove_file
from sendgrid_exports.transfer.verify import Checks, Expected

from sendgrid_exports.disk import Steps
from sendgrid_exports.settings import Verify

MIB = 1024 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"x" * MIB, 0))
    return path


WORK: dict[str, Callable[[Path], Steps[object]]] = {
    "prove": lambda path: prove_file(path, Verify.CONTENTS, Expected(), "csv"),
    "inflate": lambda path: inflate(path, path.with_suffix(".new")),
    "compress": lambda path: compress(path, path.with_suffix(".new")),
    "feed": lambda path: feed_range(path, Checks(Verify.CHECKSUM, Expected(), "csv"), 0, None),
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


def done(steps: Steps[object]) -> None:
    for _ in steps:
        pass


def test_what_was_compressed_or_inflated_is_the_same(source: Path, tmp_path: Path) -> None:
    plain, again, raw = tmp_path / "plain", tmp_path / "again", tmp_path / "raw"
    done(inflate(source, plain))
    assert plain.read_bytes() == b"x" * MIB
    done(compress(plain, raw))
    done(inflate(raw, again))
    assert again.read_bytes() == plain.read_bytes()
