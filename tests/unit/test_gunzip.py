"""Any members, padding and blocks of gzip come out as they went in, or it is an error."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import random
import sys
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sendgrid_exports.formats import gunzip
from sendgrid_exports.formats.gunzip import GZIP_MAGIC, BrokenGzipError, PlainText

MIB = 1024 * 1024
WHOLE = gzip.compress(b"EMAIL\nsomebody@example.com\n" * 50, mtime=0)
quick = settings(derandomize=True, max_examples=100, deadline=None)

PAYLOADS = st.builds(lambda text, times: text * times, st.binary(), st.sampled_from([1, 1, 5000]))
CUTS = st.lists(st.integers(0, 1000), max_size=8)
FAST = False


@pytest.fixture(scope="module", params=[False, True], ids=["zlib", "isal"], autouse=True)
def fast(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Every test runs with either library."""
    if request.param:
        pytest.importorskip("isal.isal_zlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "FAST", request.param)
        yield request.param


def split(data: bytes | bytearray, cuts: Sequence[int]) -> list[bytes]:
    """Cut `data` at the given thousandths of its length."""
    places = sorted({0, len(data), *(len(data) * cut // 1000 for cut in cuts)})
    return [bytes(data[start:end]) for start, end in pairwise(places)]


def inflate(pieces: Sequence[bytes]) -> bytes:
    found, compressed = plain(pieces)
    assert compressed
    return found


def plain(pieces: Sequence[bytes]) -> tuple[bytes, bool]:
    text = PlainText(fast=FAST)
    found = [bytes(part) for piece in pieces for part in text.feed(memoryview(piece))]
    found += map(bytes, text.finish())
    assert all(found)
    assert not text.compressed or all(len(part) <= MIB // 8 for part in found)
    return b"".join(found), text.compressed


@quick
@given(
    members=st.lists(
        st.tuples(PAYLOADS, st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=4
    ),
    cuts=CUTS,
)
@example(members=[(b"", 9, 0)], cuts=[])
@example(members=[(b"", 9, 5), (b"", 0, 0), (b"a", 1, 512)], cuts=[100, 500, 990])
def test_any_members_padding_and_pieces(
    members: list[tuple[bytes, int, int]], cuts: list[int]
) -> None:
    data = b"".join(gzip.compress(text, level) + bytes(zeros) for text, level, zeros in members)
    assert inflate(split(data, cuts)) == gzip.decompress(data)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 7])
@pytest.mark.parametrize("level", [0, 9])
def test_large_outputs_come_in_pieces(size: int, level: int) -> None:
    text = bytes(size)
    data = gzip.compress(text, level)
    assert inflate([data]) == text
    assert inflate([data, data]) == inflate([data + data]) == text * 2
    assert inflate(split(data, range(0, 1000, 7))) == text


def test_byte_by_byte() -> None:
    data = WHOLE + bytes(3) + WHOLE + bytes(3)
    assert inflate([data[n : n + 1] for n in range(len(data))]) == gzip.decompress(data)
    assert inflate([b"", WHOLE, b""]) == gzip.decompress(WHOLE)


def test_headers_with_every_optional_field() -> None:
    # FEXTRA, FNAME, FCOMMENT and FHCRC of RFC 1952 §2.3.1.
    head = b"\x1f\x8b\x08\x1e\x01\x02\x03\x04\x00\x03" + b"\x03\x00abc" + b"name\x00" + b"said\x00"
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    assert inflate([head + WHOLE[10:]]) == gzip.decompress(WHOLE)


@quick
@given(cut=st.integers(2, len(WHOLE) - 1), before=st.integers(0, 2), cuts=CUTS)
def test_a_member_cut_short_is_broken(cut: int, before: int, cuts: list[int]) -> None:
    data = WHOLE * before + WHOLE[:cut]
    with pytest.raises(BrokenGzipError, match="unexpected end") as caught:
        inflate(split(data, cuts))
    assert caught.value.offset == len(data)


# What RFC 1952 protects with no checksum: a flag for text, the time, hints of speed and system.
UNPROTECTED = {3 * 8, *range(4 * 8, 10 * 8)}


@quick
@given(bit=st.integers(16, len(WHOLE) * 8 - 1), before=st.integers(0, 1), cuts=CUTS)
def test_a_flipped_bit_is_never_taken_for_data(bit: int, before: int, cuts: list[int]) -> None:
    broken = bytearray(WHOLE)
    broken[bit // 8] ^= 1 << bit % 8
    data = WHOLE * before + broken
    try:
        found = inflate(split(data, cuts))
    except BrokenGzipError:
        assert bit not in UNPROTECTED
    else:
        assert found == gzip.decompress(WHOLE) * (before + 1)


@pytest.mark.parametrize("place", [2, 30, 40, *range(-8, 0)])
def test_a_flipped_bit_is_broken(place: int) -> None:
    for bit in range(8):
        broken = bytearray(WHOLE)
        broken[place] ^= 1 << bit
        for pieces in ([broken], [WHOLE, broken], split(broken, range(1000))):
            with pytest.raises(BrokenGzipError):
                inflate([bytes(piece) for piece in pieces])


@pytest.mark.parametrize(
    "pieces",
    [
        [WHOLE, b"more"],
        [WHOLE, bytes(5), b"x"],
        [WHOLE + b"\x1f"],
        [WHOLE, b"EMAIL,CONTACT_ID\n"],
        [WHOLE, zlib.compress(b"zlib, not gzip")],
        [b"\x1f\x8bEMAIL,CONTACT_ID\n"],
    ],
    ids=range(6),
)
def test_what_is_not_gzip_is_broken(pieces: list[bytes]) -> None:
    with pytest.raises(BrokenGzipError):
        plain(pieces)


@pytest.mark.parametrize("zeros", [1, 10])
def test_zeros_before_the_first_member_are_not_gzip(zeros: int) -> None:
    data = bytes(zeros) + WHOLE
    assert plain([data]) == (data, False)


def test_it_says_where_it_broke() -> None:
    stream = PlainText(fast=FAST)
    assert b"".join(map(bytes, stream.feed(WHOLE))) == gzip.decompress(WHOLE)
    with pytest.raises(
        BrokenGzipError, match=f"in the gzip data after byte {len(WHOLE)}$"
    ) as caught:
        list(stream.feed(b"more than a header of it"))
    assert caught.value.offset == len(WHOLE)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("text", [b"", b"\x1f", b"a", b"EMAIL\n" * 1000, b"\x1fEMAIL"])
def test_what_is_no_gzip_is_plain_text(text: bytes) -> None:
    for pieces in ([text], split(text, range(1000)), [b"", text, b""]):
        assert plain(pieces) == (text, False)


@quick
@given(text=PAYLOADS, members=st.integers(1, 3), cuts=CUTS)
def test_gzip_is_known_by_its_first_bytes(text: bytes, members: int, cuts: list[int]) -> None:
    data = gzip.compress(text) * members
    for pieces in (split(data, cuts), [data[:1], data[1:]]):
        assert plain(pieces) == (text * members, True)
    for cut in (2, len(data) - 1):
        with pytest.raises(BrokenGzipError):
            plain([data[:cut]])


def test_the_magic_is_that_of_gzip() -> None:
    assert WHOLE.startswith(GZIP_MAGIC)


@pytest.mark.parametrize("missing", [True, False])
def test_isal_is_taken_where_it_is_installed(
    missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    else:
        pytest.importorskip("isal.isal_zlib")
    spec = importlib.util.spec_from_file_location("another_gunzip", gunzip.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PlainText(fast=True)
    assert b"".join(text.feed(WHOLE)) == gzip.decompress(WHOLE)
    assert module._fast is importlib.import_module("zlib" if missing else "isal.isal_zlib")


class Counted:
    """An inflater that counts what it is given."""

    given: list[int]

    def __init__(self, library: Any) -> None:
        self.given = []
        self.error = library.error
        self._library = library

    def decompressobj(self, window: int) -> Any:
        member = self._library.decompressobj(window)
        given = self.given

        class Member:
            def decompress(self, data: bytes, largest: int) -> bytes:
                given.append(len(data))
                found: bytes = member.decompress(data, largest)
                return found

            def __getattr__(self, name: str) -> Any:
                return getattr(member, name)

        return Member()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    library = "_fast" if FAST else "zlib"
    found = Counted(getattr(gunzip, library))
    monkeypatch.setattr(gunzip, library, found)
    return found


def test_a_large_member_takes_few_steps(counted: Counted) -> None:
    data = gzip.compress(random.Random(0).randbytes(MIB), 1)
    assert len(inflate([data])) == MIB
    assert len(counted.given) < 20


def test_tiny_members_after_a_large_one_do_not_copy_all_that_follows(counted: Counted) -> None:
    tiny = gzip.compress(b"x") * 2000
    assert inflate([gzip.compress(random.Random(0).randbytes(MIB), 1) + tiny]).endswith(b"x" * 2000)
    # What was given twice is what was left behind each of them, at most a small step.
    assert max(counted.given[-2000:]) <= 4096
