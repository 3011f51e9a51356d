"""The checks of a file: each alone, together, and in whatever pieces the bytes come."""

from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.formats.kinds import BEGINNING, Kind
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.answers import Answer, Asked, Expected, Receive, judge
from sendgrid_exports.transfer.checks import Checked, CheckFailedError, Checks

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


def expect(headers: dict[str, str], size: int) -> Expected:
    """Return what an answer with these headers lets one check."""
    answer = Answer(status=200, headers={"content-length": str(size), **headers})
    meaning = judge(Asked(ranged=False), answer, utc=datetime(2025, 7, 18, tzinfo=UTC), due=False)
    assert isinstance(meaning, Receive)
    return meaning.expected


def check(
    *pieces: bytes,
    verify: Verify = Verify.CONTENTS,
    expected: Expected | None = None,
    first: bool = True,
) -> Checked:
    """Check the pieces, with and without isal, which comes to the same."""
    found = []
    for reread in (None, partial(reread_from, pieces)):
        checks = Checks(verify, expected or Expected(), first=first, reread=reread)
        for piece in pieces:
            checks.feed(memoryview(piece))
        found.append(checks.finish())
    assert found[0] == found[1]
    return found[0]


def reread_from(pieces: tuple[bytes, ...], size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of `pieces`, in other pieces."""
    data = b"".join(pieces)[:size]
    yield from (data[start : start + 7] for start in range(0, size, 7))


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
        pytest.param(
            b'"EMAIL","CONTACT_ID"\n"open', Verify.CONTENTS, "csv", None, ALL_SUMS, id="no count"
        ),
        pytest.param(b"EMAIL,CONTACT_ID", Verify.CONTENTS, "csv", 0, ALL_SUMS, id="a header"),
        pytest.param(b"", Verify.CONTENTS, None, 0, ALL_SUMS, id="no bytes"),
        pytest.param(b"\n", Verify.CONTENTS, None, 0, ALL_SUMS, id="one byte"),
        pytest.param(
            gzip.compress(b""), Verify.CONTENTS, None, 0, (*ALL_SUMS, "gzip-crc"), id="empty gzip"
        ),
        pytest.param(PACKED, Verify.CHECKSUM, "csv", None, ALL_SUMS, id="csv.gz, sums alone"),
        pytest.param(CSV, Verify.CHECKSUM, "csv", None, ALL_SUMS, id="csv, sums alone"),
        pytest.param(JSON, Verify.CHECKSUM, "json", None, ALL_SUMS, id="json, sums alone"),
        pytest.param(PACKED, Verify.LENGTH, "csv", None, (), id="csv.gz, length alone"),
        pytest.param(CSV, Verify.LENGTH, "csv", None, (), id="csv, length alone"),
        pytest.param(gzip.compress(JSON), Verify.LENGTH, "json", None, (), id="json.gz, length"),
        pytest.param(b"", Verify.LENGTH, None, None, (), id="no bytes, length alone"),
    ],
)
@pytest.mark.parametrize("announces", [True, False])
def test_the_checks_that_passed_are_listed(
    data: bytes,
    verify: Verify,
    kind: Kind | None,
    contacts: int | None,
    verified_by: tuple[str, ...],
    announces: bool,
) -> None:
    """Without an announcement no sum is compared, and none is claimed."""
    expected = expect(announced(data), len(data)) if announces else Expected()
    checked = check(data, verify=verify, expected=expected)
    assert checked == Checked(
        size=len(data),
        sha256=None if verify is Verify.LENGTH else hashlib.sha256(data).hexdigest(),
        compressed=data.startswith(b"\x1f\x8b"),
        kind=kind,
        contacts=contacts,
        verified_by=("length", *verified_by)
        if announces
        else tuple(name for name in verified_by if name == "gzip-crc"),
    )


@pytest.mark.parametrize("name", sorted(announced(b"")))
def test_each_sum_that_differs_is_named(name: str) -> None:
    expected = expect({name: announced(CSV + b"!")[name]}, len(CSV))
    for verify in (Verify.CHECKSUM, Verify.CONTENTS):
        with pytest.raises(CheckFailedError, match="etag-md5" if name == "etag" else name):
            check(CSV, verify=verify, expected=expected)
    assert check(CSV, verify=Verify.LENGTH, expected=expected).verified_by == ("length",)


@pytest.mark.parametrize("verify", list(Verify))
@pytest.mark.parametrize("size", [0, len(PACKED) - 1, len(PACKED) + 1])
def test_another_length_is_named(verify: Verify, size: int) -> None:
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
    ],
)
def test_gzip_must_be_whole(data: bytes) -> None:
    for pieces in ([data], [data[n : n + 1] for n in range(len(data))]):
        for reread in (None, partial(reread_from, tuple(pieces))):
            checks = Checks(Verify.CONTENTS, Expected(), reread=reread)
            with pytest.raises(CheckFailedError):
                feed(checks, pieces)


@pytest.mark.parametrize("verify", list(Verify))
def test_what_only_begins_as_gzip_is_refused_at_every_level(verify: Verify) -> None:
    with pytest.raises(CheckFailedError):
        check(b"\x1f\x8b" + CSV, verify=verify)


def feed(checks: Checks, pieces: list[bytes]) -> Checked:
    for piece in pieces:
        checks.feed(piece)
    return checks.finish()


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    st.sampled_from([PACKED, TWO_MEMBERS, CSV, JSON]),
    st.lists(st.integers(0, 150), max_size=8),
    st.sampled_from(Verify),
)
def test_pieces_of_any_size_give_the_same(data: bytes, cuts: list[int], verify: Verify) -> None:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(places)]
    expected = expect(announced(data), len(data))
    whole = check(data, verify=verify, expected=expected)
    assert check(*pieces, verify=verify, expected=expected) == whole


@pytest.mark.parametrize("data", [PACKED, CSV, JSON, b"\n", b""])
@pytest.mark.parametrize("verify", [Verify.LENGTH, Verify.CHECKSUM])
def test_byte_by_byte(data: bytes, verify: Verify) -> None:
    pieces = [data[n : n + 1] for n in range(len(data))]
    assert check(*pieces, b"", verify=verify) == check(data, verify=verify)


@pytest.mark.parametrize("data", [PACKED, CSV * 3, JSON, b"\n", b""])
@pytest.mark.parametrize("beginning", [60, 1000])
def test_a_measured_file_has_its_length_and_beginning_checked(data: bytes, beginning: int) -> None:
    checks = Checks(Verify.LENGTH, Expected(size=len(data)))
    checks.measure(len(data), data[:beginning])
    assert checks.finish() == check(data, verify=Verify.LENGTH, expected=Expected(size=len(data)))


def test_a_measured_file_of_another_length_is_refused() -> None:
    checks = Checks(Verify.LENGTH, Expected(size=5))
    checks.measure(4, b"")
    with pytest.raises(CheckFailedError, match="4 bytes, and 5"):
        checks.finish()


def test_a_checksum_of_the_wrong_length_is_none() -> None:
    expected = Expected(size=len(CSV), checksums={"crc32": in_base64(b"abc")})
    assert check(CSV, verify=Verify.CHECKSUM, expected=expected).verified_by == ("length",)


HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head>\n<body>please</body></html>\n"
DENIED = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>No</Message></Error>'
REFUSED = [HTML, DENIED, b'{"errors":[{"message":"access forbidden"}]}', b"Service unavailable\n"]


@pytest.mark.parametrize("data", REFUSED, ids=["html", "xml", "json", "text"])
@pytest.mark.parametrize("verify", list(Verify))
def test_what_is_not_an_export_is_refused_at_every_level(data: bytes, verify: Verify) -> None:
    for body in (data, gzip.compress(data), data + b"\n" * 100_000):
        checks = Checks(verify, expect(announced(body), len(body)))
        with pytest.raises(CheckFailedError, match=r"^it is ") as caught:
            feed(checks, [body])
        assert "proxy" in caught.value.advice
        with pytest.raises(CheckFailedError, match=r"^it is "):
            measure(Checks(verify, Expected()), body)


def measure(checks: Checks, body: bytes) -> None:
    checks.measure(len(body), body[:BEGINNING])
    checks.finish()


def test_only_a_later_file_may_lack_the_header() -> None:
    rows = b'"a@x",,"1"\n"b@x",,"2"\n'
    assert check(rows, first=False).contacts == 2
    with pytest.raises(CheckFailedError, match="without the columns"):
        check(rows)


def test_plain_bytes_that_differ_from_the_md5_name_the_proxy_that_inflates() -> None:
    expected = expect(announced(PACKED), len(CSV))
    with pytest.raises(CheckFailedError, match="etag-md5") as caught:
        check(CSV, expected=expected)
    assert "proxy may inflate it" in caught.value.advice
    with pytest.raises(CheckFailedError, match="etag-md5") as caught:
        check(gzip.compress(CSV + CSV), expected=attrs.evolve(expected, size=None))
    assert "proxy" not in caught.value.advice


class Taken:
    """A sink that keeps what it is fed."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.text = b""
        self.largest = 0

    def feed(self, data: bytes) -> None:
        self.text += data
        self.largest = max(self.largest, len(data))

    def finish(self) -> int:
        return 42


@pytest.mark.parametrize("verify", list(Verify))
@pytest.mark.parametrize(
    "data",
    [PACKED, CSV, JSON, gzip.compress(CSV * 50_000)],
    ids=["csv.gz", "csv", "json", "a large csv.gz"],
)
def test_a_sink_takes_the_plain_text_and_counts(data: bytes, verify: Verify) -> None:
    sinks: list[Taken] = []

    def sink(kind: Kind) -> Taken:
        sinks.append(Taken(kind))
        return sinks[-1]

    checks = Checks(verify, Expected(), sink)
    steps = sum(1 for _ in checks.take(data))
    checked = checks.finish()
    [taken] = sinks
    assert taken.text == (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
    assert taken.kind == checked.kind
    assert checked.contacts == 42
    assert taken.largest <= 256 * 1024
    assert steps >= len(taken.text) // (128 * 1024)
    assert ("gzip-crc" in checked.verified_by) is checked.compressed


def test_a_sink_of_no_text_is_not_made() -> None:
    def sink(kind: Kind) -> Taken:
        raise AssertionError(kind)

    checks = Checks(Verify.CONTENTS, Expected(), sink)
    assert checks.finish().contacts == 0


def member(text: bytes, extra: bytes | None, name: bytes) -> bytes:
    """Return a gzip member whose header has an extra field and a name (RFC 1952 §2.3)."""
    flags = (4 if extra is not None else 0) | (8 if name else 0)
    header = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\xff"
    if extra is not None:
        header += len(extra).to_bytes(2, "little") + extra
    header += name + b"\0" if name else b""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflate.compress(text) + deflate.flush()
    return header + body + zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little")


HALVES = (b"EMAIL,CONTACT_ID\n" + b"a@example.com,1\n" * 950, b"b@example.com,2\n" * 950)
WITH_EXTRA = member(HALVES[0], None, b"") + member(HALVES[1], b"x" * 20, b"contacts.csv")


@pytest.mark.parametrize("cut", range(60))
def test_a_header_that_is_cut_by_a_read_is_not_corrupt(cut: int) -> None:
    place = len(member(HALVES[0], None, b"")) + cut
    checked = check(WITH_EXTRA[:place], WITH_EXTRA[place:])
    assert (checked.contacts, checked.kind) == (1900, "csv")


def test_a_measured_file_of_which_the_beginning_tells_nothing_is_taken_by_its_length() -> None:
    data = member(HALVES[0], None, b"x" * (BEGINNING + 1))
    checks = Checks(Verify.LENGTH, Expected(size=len(data)))
    checks.measure(len(data), data[:BEGINNING])
    checked = checks.finish()
    assert (checked.size, checked.compressed, checked.kind) == (len(data), True, None)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.binary(max_size=40),
            st.binary(max_size=30).map(lambda name: name.replace(b"\0", b"")),
        ),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.integers(0, 1000), max_size=8),
)
def test_gzip_of_any_headers_and_cuts_is_read_as_the_standard_library_does(
    headers: list[tuple[bytes | None, bytes]], cuts: list[int]
) -> None:
    texts = [b"EMAIL,CONTACT_ID\n", *(b"a@example.com,%d\n" % n * 9 for n in range(len(headers)))]
    data = b"".join(member(text, *header) for text, header in zip(texts, headers, strict=False))
    places = sorted({0, len(data), *(len(data) * cut // 1000 for cut in cuts)})
    pieces = [data[start:end] for start, end in pairwise(places)]
    checked = check(*pieces)
    assert checked.contacts == gzip.decompress(data).count(b"\n") - 1
    assert "gzip-crc" in checked.verified_by
