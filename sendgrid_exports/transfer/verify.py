"""What a file must prove before it gets its final name, each byte looked at once. Pure.

The ETag is an MD5 only for an object sent in one part and not encrypted with a key of its own:
https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html (ETag). S3's own checksums:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from sendgrid_exports.formats.gunzip import GZIP_MAGIC, BrokenGzipError, Gunzip
from sendgrid_exports.formats.records import RecordCounter, record_counter
from sendgrid_exports.settings import Verify

__all__ = ["CheckFailedError", "Checked", "Checks", "Expected", "expect"]

_MD5 = re.compile(r'"([0-9a-fA-F]{32})"')
_CHECKSUMS = ("crc32", "sha1", "sha256")


class CheckFailedError(ValueError):
    """The bytes are not those that were announced; the text says in what."""


@attrs.frozen(kw_only=True)
class Expected:
    """What the storage announced of the raw bytes.

    Attributes:
        size: how many, or None.
        md5: their MD5 in hex, or None.
        checksums: S3's own, by algorithm, in base64.
    """

    size: int | None = None
    md5: str | None = None
    checksums: Mapping[str, str] = attrs.field(factory=dict)


def expect(headers: Mapping[str, str], size: int | None, *, whole: bool = True) -> Expected:
    """Return what the headers of an answer let one check.

    Args:
        headers: of the answer, their names in lower case.
        size: of the object, or None.
        whole: whether the answer brings all of it; a checksum beside a part may be the part's.
    """
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    own_key = any(name.startswith("x-amz-server-side-encryption-customer") for name in headers)
    found = _MD5.fullmatch(headers.get("etag", "").strip())
    checksums = {
        name: value
        for name in _CHECKSUMS
        # One with a dash is of the parts' checksums, not of the bytes.
        if whole and (value := headers.get(f"x-amz-checksum-{name}")) and "-" not in value
    }
    return Expected(
        size=size,
        md5=found[1].lower() if found and encryption == "AES256" and not own_key else None,
        checksums=checksums,
    )


@attrs.frozen(kw_only=True)
class Checked:
    """What a file proved.

    Attributes:
        size: its bytes.
        sha256: of them, in hex, or None where it was not taken.
        compressed: whether they are gzip.
        contacts: the contacts in them, or None where they were not or could not be counted.
        verified_by: the checks that passed.
    """

    size: int
    sha256: str | None
    compressed: bool
    contacts: int | None
    verified_by: tuple[str, ...]


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class Checks:
    """The checks of one file, fed with its bytes from the first to the last."""

    def __init__(self, verify: Verify, expected: Expected, kind: str) -> None:
        self._verify = verify
        self._expected = expected
        self._kind = kind
        self._size = 0
        self._magic = b""
        self._sha256: Any = None
        self._digests: dict[str, tuple[_Digest, bytes]] = {}
        self._gunzip: Gunzip | None = None
        self._counter: RecordCounter | None = None
        if verify is not Verify.LENGTH:
            self._sha256 = hashlib.sha256()
            self._digests = _announced(expected)

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            CheckFailedError: they are broken gzip.
        """
        self._size += len(data)
        if self._sha256 is not None:
            self._sha256.update(data)
        for digest, _ in self._digests.values():
            digest.update(data)
        if len(self._magic) < len(GZIP_MAGIC):
            self._magic += data[: len(GZIP_MAGIC) - len(self._magic)]
            if len(self._magic) == len(GZIP_MAGIC):
                self._begin_contents()
                self._read_contents(self._magic + data[len(data) - self._size + 2 :])
        else:
            self._read_contents(data)

    def measure(self, size: int, beginning: bytes) -> None:
        """Take a file's size and first bytes for the whole, which is all that `LENGTH` asks."""
        self._size = size
        self._magic = beginning[: len(GZIP_MAGIC)]

    def finish(self) -> Checked:
        """Return what was proved.

        Raises:
            CheckFailedError: something was not.
        """
        if len(self._magic) < len(GZIP_MAGIC):
            self._begin_contents()
            self._read_contents(self._magic)
        passed = []
        if self._expected.size is not None:
            if self._size != self._expected.size:
                raise CheckFailedError(
                    f"it has {self._size} bytes, and {self._expected.size} were announced"
                )
            passed.append("length")
        for name, (digest, announced) in self._digests.items():
            if digest.digest() != announced:
                raise CheckFailedError(
                    f"its {name} is {digest.digest().hex()}, and {announced.hex()} was announced"
                )
            passed.append(name)
        if self._gunzip is not None:
            try:
                self._gunzip.finish()
            except BrokenGzipError as error:
                raise CheckFailedError(str(error)) from None
            passed.append("gzip-crc")
        return Checked(
            size=self._size,
            sha256=self._sha256.hexdigest() if self._sha256 is not None else None,
            compressed=self._magic == GZIP_MAGIC,
            contacts=self._counter.finish() if self._counter is not None else None,
            verified_by=tuple(passed),
        )

    def _begin_contents(self) -> None:
        if self._verify is Verify.CONTENTS:
            self._counter = record_counter(self._kind)
            self._gunzip = Gunzip() if self._magic == GZIP_MAGIC else None

    def _read_contents(self, data: bytes) -> None:
        if self._counter is None:
            return
        if self._gunzip is None:
            self._counter.feed(data)
            return
        try:
            for plain in self._gunzip.feed(data):
                self._counter.feed(plain)
        except BrokenGzipError as error:
            raise CheckFailedError(str(error)) from None


def _announced(expected: Expected) -> dict[str, tuple[_Digest, bytes]]:
    digests: dict[str, tuple[_Digest, bytes]] = {}
    if expected.md5 is not None:
        md5 = hashlib.md5(usedforsecurity=False)
        digests["etag-md5"] = (md5, bytes.fromhex(expected.md5))
    makers = {"crc32": _Crc32, "sha1": _sha1, "sha256": hashlib.sha256}
    for name, text in expected.checksums.items():
        digest = makers[name]()
        try:
            value = base64.b64decode(text, validate=True)
        except ValueError:
            continue
        if len(value) == len(digest.digest()):
            digests[f"x-amz-checksum-{name}"] = (digest, value)
    return digests


def _sha1() -> _Digest:
    return hashlib.sha1(usedforsecurity=False)
