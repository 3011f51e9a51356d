"""What a file proves: each check alone, together, and in whatever pieces the bytes come."""

from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.verify import Checked, CheckFailedError, Checks, Expected, expect

CSV = b'"CONTACT_ID","EMAIL","NOTE"\n"1","a@x","two\nlines"\n"2",,"said ""hi"""\n"3","c@x",\n'
JSON = b'{"contact_id":"1"}\n{"contact_id":"2","note":"two\\nlines"}\n'
PACKED = gzip.compress(CSV, mtime=0)
TWO_MEMBERS = gzip.compress(CSV[:40], mtime=0) + gzip.compress(CSV[40:], mtime=0)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def in_base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def announced(data: bytes) -> dict[str, str]:
    """The headers S3 sends with an object that has everything."""
    return {
        "etag": f'"{md5(data)}"',
        "x-amz-checksum-crc32": in_base64(zlib.crc32(data).to_bytes(4, "big")),
        "x-amz-checksum-sha1": in_base64(hashlib.sha1(data, usedforsecurity=False).digest()),
        "x-amz-checksum-sha256": in_base64(hashlib.sha256(data).digest()),
    }


ALL_SUMS = ("etag-md5", "x-amz-checksum-crc32", "x-amz-checksum-sha1", "x-amz-checksum-sha256")


def check(
    *pieces: bytes,
    verify: Verify = Verify.CONTENTS,
    expected: Expected | None = None,
    kind: str = "csv",
) -> Checked:
    checks = Checks(verify, expected or Expected(), kind)
    for piece in pieces:
        checks.feed(piece)
    return checks.finish()


SUM = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"etag": f'"{SUM}"'}, SUM, id="an MD5"),
        pytest.param({"etag": f' "{SUM.upper()}" '}, SUM, id="in capitals"),
        pytest.param(
            {"etag": f'"{SUM}"', "x-amz-server-side-encryption": "AES256"}, SUM, id="AES256"
        ),
        pytest.param(
            {"etag": f'"{SUM}"', "x-amz-server-side-encryption": "aws:kms"}, None, id="kms"
        ),
        pytest.param(
            {"etag": f'"{SUM}"', "x-amz-server-side-encryption-customer-algorithm": "AES256"},
            None,
            id="a customer's key",
        ),
        pytest.param({"etag": f'"{SUM}-3"'}, None, id="of many parts"),
        pytest.param({"etag": f'W/"{SUM}"'}, None, id="weak"),
        pytest.param({"etag": SUM}, None, id="without quotes"),
        pytest.param({"etag": f'"{SUM[:-1]}"'}, None, id="too short"),
        pytest.param({"etag": f'"{SUM[:-1]}g"'}, None, id="no hex"),
        pytest.param({"etag": '""'}, None, id="empty"),
        pytest.param({}, None, id="none"),
    ],
)
def test_an_etag_is_an_md5_only_sometimes(headers: dict[str, str], expected: str | None) -> None:
    assert expect(headers, 10) == Expected(size=10, md5=expected)


@pytest.mark.parametrize(
    ("headers", "checksums"),
    [
        ({"x-amz-checksum-crc32": "AAAAAA=="}, {"crc32": "AAAAAA=="}),
        ({"x-amz-checksum-sha1": "a", "x-amz-checksum-sha256": "b"}, {"sha1": "a", "sha256": "b"}),
        ({"x-amz-checksum-sha256": "AAAAAA==-3"}, {}),
        ({"x-amz-checksum-crc64nvme": "AAAAAA=="}, {}),
        ({"x-amz-checksum-crc32": ""}, {}),
    ],
)
def test_checksums_of_the_whole_are_kept(
    headers: dict[str, str], checksums: dict[str, str]
) -> None:
    assert expect(headers, None) == Expected(checksums=checksums)


@pytest.mark.parametrize(
    ("data", "verify", "kind", "contacts", "verified_by"),
    [
        pytest.param(PACKED, Verify.CONTENTS, "csv", 3, (*ALL_SUMS, "gzip-crc"), id="csv.gz"),
        pytest.param(TWO_MEMBERS, Verify.CONTENTS, "csv", 3, (*ALL_SUMS, "gzip-crc"), id="members"),
        pytest.param(CSV, Verify.CONTENTS, "csv", 3, ALL_SUMS, id="csv"),
        pytest.param(JSON, Verify.CONTENTS, "json", 2, ALL_SUMS, id="json"),
        pytest.param(
            gzip.compress(JSON), Verify.CONTENTS, "json", 2, (*ALL_SUMS, "gzip-crc"), id="json.gz"
        ),
        pytest.param(b'"open', Verify.CONTENTS, "csv", None, ALL_SUMS, id="can't be counted"),
        pytest.param(b"", Verify.CONTENTS, "csv", 0, ALL_SUMS, id="no bytes"),
        pytest.param(b"\x1f", Verify.CONTENTS, "json", 1, ALL_SUMS, id="one byte"),
        pytest.param(PACKED, Verify.CHECKSUM, "csv", None, ALL_SUMS, id="csv.gz, sums alone"),
        pytest.param(CSV, Verify.CHECKSUM, "csv", None, ALL_SUMS, id="csv, sums alone"),
        pytest.param(b"\x1f\x8bno gzip", Verify.CHECKSUM, "csv", None, ALL_SUMS, id="not read"),
        pytest.param(PACKED, Verify.LENGTH, "csv", None, (), id="csv.gz, length alone"),
        pytest.param(CSV, Verify.LENGTH, "csv", None, (), id="csv, length alone"),
        pytest.param(b"", Verify.LENGTH, "csv", None, (), id="no bytes, length alone"),
    ],
)
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_what_was_proved(
    data: bytes,
    verify: Verify,
    kind: str,
    contacts: int | None,
    verified_by: tuple[str, ...],
    told: bool,
) -> None:
    """Without an announcement nothing is proved of the sums, and nothing is claimed."""
    expected = expect(announced(data), len(data)) if told else Expected()
    checked = check(data, verify=verify, expected=expected, kind=kind)
    assert checked == Checked(
        size=len(data),
        sha256=None if verify is Verify.LENGTH else hashlib.sha256(data).hexdigest(),
        compressed=data.startswith(b"\x1f\x8b"),
        contacts=contacts,
        verified_by=("length", *verified_by)
        if told
        else tuple(name for name in verified_by if name == "gzip-crc"),
    )


@pytest.mark.parametrize("name", sorted(announced(b"")))
def test_each_sum_that_differs_is_told(name: str) -> None:
    expected = expect({name: announced(CSV + b"!")[name]}, len(CSV))
    for verify in (Verify.CHECKSUM, Verify.CONTENTS):
        with pytest.raises(CheckFailedError, match="etag-md5" if name == "etag" else name):
            check(CSV, verify=verify, expected=expected)
    assert check(CSV, verify=Verify.LENGTH, expected=expected).verified_by == ("length",)


@pytest.mark.parametrize("verify", list(Verify))
@pytest.mark.parametrize("size", [0, len(PACKED) - 1, len(PACKED) + 1])
def test_another_length_is_told(verify: Verify, size: int) -> None:
    with pytest.raises(CheckFailedError, match=f"{len(PACKED)} bytes, and {size} were announced"):
        check(PACKED, verify=verify, expected=Expected(size=size))


@pytest.mark.parametrize("value", ["!", "AAA", "AAAAAA==\n", "ÄÖ==", "AA=A"])
def test_a_checksum_that_is_no_base64_is_ignored(value: str) -> None:
    assert check(CSV, expected=Expected(checksums={"sha256": value})).verified_by == ()


FLIPPED = bytes([*PACKED[:-6], PACKED[-6] ^ 1, *PACKED[-5:]])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(PACKED[:-1], id="cut in the trailer"),
        pytest.param(PACKED[: len(PACKED) // 2], id="cut in half"),
        pytest.param(b"\x1f\x8b", id="two bytes of it"),
        pytest.param(PACKED + PACKED[:20], id="a second member cut"),
        pytest.param(FLIPPED, id="another checksum"),
        pytest.param(PACKED + b"junk", id="junk behind it"),
        pytest.param(b"\x1f\x8b" + CSV, id="no gzip but by its beginning"),
    ],
)
def test_gzip_must_be_whole(data: bytes) -> None:
    for pieces in ([data], [data[n : n + 1] for n in range(len(data))]):
        with pytest.raises(CheckFailedError):
            check(*pieces)
    assert check(data, verify=Verify.CHECKSUM).compressed


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    st.sampled_from([(PACKED, "csv"), (TWO_MEMBERS, "csv"), (CSV, "csv"), (JSON, "json")]),
    st.lists(st.integers(0, 150), max_size=8),
    st.sampled_from(Verify),
)
def test_pieces_of_any_size_prove_the_same(
    file: tuple[bytes, str], cuts: list[int], verify: Verify
) -> None:
    data, kind = file
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(places)]
    expected = expect(announced(data), len(data))
    whole = check(data, verify=verify, expected=expected, kind=kind)
    assert check(*pieces, verify=verify, expected=expected, kind=kind) == whole


@pytest.mark.parametrize("data", [PACKED, CSV, JSON, b"\x1f\x8b", b"\x1f", b""])
@pytest.mark.parametrize("verify", [Verify.LENGTH, Verify.CHECKSUM])
def test_byte_by_byte(data: bytes, verify: Verify) -> None:
    pieces = [data[n : n + 1] for n in range(len(data))]
    assert check(*pieces, b"", verify=verify) == check(data, verify=verify)


@pytest.mark.parametrize("data", [PACKED, CSV, b"\x1f", b""])
def test_a_measured_file_proves_its_length(data: bytes) -> None:
    checks = Checks(Verify.LENGTH, Expected(size=len(data)), "csv")
    checks.measure(len(data), data[:10])
    assert checks.finish() == check(data, verify=Verify.LENGTH, expected=Expected(size=len(data)))


def test_a_measured_file_of_another_length_is_told() -> None:
    checks = Checks(Verify.LENGTH, Expected(size=5), "csv")
    checks.measure(4, b"ab")
    with pytest.raises(CheckFailedError, match="4 bytes, and 5"):
        checks.finish()


def test_a_checksum_of_the_wrong_length_is_none() -> None:
    checks = Checks(
        Verify.CHECKSUM, Expected(size=1, checksums={"crc32": in_base64(b"abc")}), "csv"
    )
    checks.feed(b"x")
    assert checks.finish().verified_by == ("length",)
