"""What a download does with a file that is there already."""

from __future__ import annotations

import attrs
import pytest

from sendgrid_exports.settings import DownloadPolicy, Verify
from sendgrid_exports.transfer.folder import is_in_other_form
from sendgrid_exports.transfer.manifest import FileEntry, check_again

LENGTH, CHECKSUM, CONTENTS = Verify

ENTRY = FileEntry(
    number=1,
    name="x-00001.csv.gz",
    size=100,
    sha256=None,
    mtime_ns=7,
    compressed=True,
    etag=None,
    raw_size=100,
    raw_compressed=True,
    contacts=None,
    verify=CHECKSUM,
    verified_by=(),
)


@pytest.mark.parametrize(
    ("known", "asked", "untouched", "level"),
    [
        pytest.param(CHECKSUM, CHECKSUM, True, None, id="as it was"),
        pytest.param(CONTENTS, LENGTH, True, None, id="as it was, and less is asked"),
        pytest.param(CHECKSUM, CONTENTS, True, CONTENTS, id="as it was, and more is asked"),
        pytest.param(LENGTH, CHECKSUM, True, CHECKSUM, id="a checksum was not asked before"),
        pytest.param(LENGTH, LENGTH, False, LENGTH, id="touched"),
        pytest.param(CHECKSUM, LENGTH, False, CHECKSUM, id="touched: what it had, at least"),
        pytest.param(CHECKSUM, CONTENTS, False, CONTENTS, id="touched, and more is asked"),
    ],
)
def test_a_file_is_checked_again_where_it_was_touched_or_more_is_asked(
    known: Verify, asked: Verify, untouched: bool, level: Verify | None
) -> None:
    entry = attrs.evolve(ENTRY, verify=known)
    assert check_again(entry, asked, untouched=untouched) is level


@pytest.mark.parametrize(
    ("raw_compressed", "compressed", "decompress", "other"),
    [
        pytest.param(True, True, False, False, id="gzip, as wanted"),
        pytest.param(True, True, True, True, id="gzip, and plain is wanted"),
        pytest.param(True, False, False, True, id="inflated, and gzip is wanted"),
        pytest.param(True, False, True, False, id="inflated, as wanted"),
        pytest.param(False, False, False, False, id="never was gzip"),
        pytest.param(False, False, True, False, id="never was gzip, and plain is wanted"),
    ],
)
def test_a_file_is_converted_where_it_was_gzip_and_has_the_other_form(
    raw_compressed: bool, compressed: bool, decompress: bool, other: bool
) -> None:
    entry = attrs.evolve(ENTRY, raw_compressed=raw_compressed, compressed=compressed)
    assert is_in_other_form(entry, DownloadPolicy(decompress=decompress)) is other
