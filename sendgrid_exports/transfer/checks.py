"""The checks of one file before it gets its final name, each byte taken once. Pure."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any, Protocol, TypeAlias

import attrs

from sendgrid_exports.formats.gunzip import BrokenGzipError, Bytes, PlainText
from sendgrid_exports.formats.kinds import Kind, NotAnExportError, is_enough, recognise
from sendgrid_exports.formats.records import RecordCounter, record_counter
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.answers import Expected

__all__ = ["CheckFailedError", "Checked", "Checks", "Reread", "Sink"]

Sink: TypeAlias = Callable[[Kind], RecordCounter]
"""Returns what the plain text of a file of that kind is fed to, and counts its contacts."""

Reread: TypeAlias = Callable[[int], Iterable[Bytes]]
"""Yields the first so many bytes of the file once more."""

_ANOTHER_EXPORT = "Start another export; if it is the same, tell SendGrid's support."
_NOT_THE_STORAGE = (
    "Something on the way to the storage, such as a proxy or a login page, may have answered in "
    "its place: open the network to the storage's host, then fetch again with the same id."
)
_NOT_GZIP = (
    "Exports are gzip, and this file is not: a proxy may inflate it on the way. Let the storage's "
    "host bypass the proxy, or start another export."
)


class CheckFailedError(ValueError):
    """The bytes are not those that were announced, or not an export.

    Attributes:
        advice: what to do if it happens again.
    """

    def __init__(self, reason: str, advice: str = _ANOTHER_EXPORT) -> None:
        super().__init__(reason)
        self.advice = advice


@attrs.frozen(kw_only=True)
class Checked:
    """What the checks of a file found.

    Attributes:
        size: its bytes.
        sha256: of them, in hex, or None where it was not taken.
        compressed: whether they are gzip.
        kind: `csv` or `json`, or None if there is no text in it.
        contacts: the contacts in it, or None where they were not or could not be counted.
        verified_by: the checks that passed.
    """

    size: int
    sha256: str | None
    compressed: bool
    kind: Kind | None
    contacts: int | None
    verified_by: tuple[str, ...]


class _Digest(Protocol):
    def update(self, data: Bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class Checks:
    """The checks of one file, fed with its bytes from the first to the last.

    That the file can be an export is checked at every level; for `LENGTH` and `CHECKSUM` only its
    beginning is inflated for that.

    Args:
        verify: how deep to check.
        expected: what the storage announced.
        sink: takes the plain text in the place of a counter; then all of it is inflated.
        first: whether it is the export's first file, which has a header if it is CSV.
        reread: yields the first so many bytes again; then isal may be used. It excludes a `sink`,
            which can't take back what it got.
        fast: isal may be used in any case: the caller checks what it refuses again without.

    Attributes:
        recognised: whether enough has come to know what the content is.
        kind: that content, `csv` or `json`; None while it is unknown, and without text.
    """

    def __init__(
        self,
        verify: Verify,
        expected: Expected,
        sink: Sink | None = None,
        *,
        first: bool = True,
        reread: Reread | None = None,
        fast: bool = False,
    ) -> None:
        assert sink is None or reread is None
        self._expected = expected
        self._sink = sink or record_counter
        self._first = first
        self._reread = reread
        self._inflates_all = sink is not None or verify is Verify.CONTENTS
        self._size = 0
        self._whole = True
        self._sha256: Any = None
        self._digests: dict[str, tuple[_Digest, bytes]] = {}
        if verify is not Verify.LENGTH:
            self._sha256 = hashlib.sha256()
            self._digests = _announced(expected)
        self._begin_text(fast=self._inflates_all and (fast or reread is not None))

    @property
    def compressed(self) -> bool:
        """Whether the bytes so far are gzip."""
        return self._plain.compressed

    def feed(self, data: Bytes) -> None:
        """Take the next bytes.

        Raises:
            CheckFailedError: they are broken gzip, or not an export.
        """
        for _ in self.take(data):
            pass

    def take(self, data: Bytes) -> Generator[None, None, None]:
        """Take the next bytes in steps of at most 128 KiB of inflated text; exhaust it.

        Between two steps a sink may be emptied.

        Raises:
            CheckFailedError: as for `feed`.
        """
        if self._sha256 is not None:
            self._sha256.update(data)
        for digest, _ in self._digests.values():
            digest.update(data)
        fed, self._size = self._size, self._size + len(data)
        if self._inflates_all or not self.recognised:
            yield from self._read(data, fed)

    def measure(self, size: int, beginning: bytes) -> None:
        """Take a file's size and its first 64 KiB for all of it, which is enough for `LENGTH`.

        Raises:
            CheckFailedError: as for `feed`.
        """
        self.feed(beginning)
        self._whole = size == len(beginning)
        self._size = size

    def finish(self) -> Checked:
        """Return what was found.

        Raises:
            CheckFailedError: a check failed.
        """
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
                    f"its {name} is {digest.digest().hex()}, and {announced.hex()} was announced",
                    _ANOTHER_EXPORT if self._plain.compressed else _NOT_GZIP,
                )
            passed.append(name)
        if self._inflates_all or not self.recognised:
            for _ in self._read(None, self._size):
                pass
        if self._inflates_all and self._plain.compressed:
            passed.append("gzip-crc")
        return Checked(
            size=self._size,
            sha256=self._sha256.hexdigest() if self._sha256 is not None else None,
            compressed=self._plain.compressed,
            kind=self.kind,
            contacts=self._count(),
            verified_by=tuple(passed),
        )

    def _begin_text(self, *, fast: bool) -> None:
        self._fast = fast
        self._plain = PlainText(fast=fast)
        self.recognised = False
        self._beginning = b""
        self.kind: Kind | None = None
        self._counter: RecordCounter | None = None

    def _read(self, data: Bytes | None, fed: int) -> Iterator[None]:
        """Read the text of `data`, or without data its end, after `fed` bytes."""
        try:
            try:
                yield from self._read_text(data)
            except (BrokenGzipError, NotAnExportError):
                if not self._fast or self._reread is None:
                    raise
                # isal refuses some valid files, so zlib decides.
                self._begin_text(fast=False)
                for block in chain(self._reread(fed), [data]):
                    yield from self._read_text(block)
        except BrokenGzipError as error:
            raise CheckFailedError(str(error)) from None
        except NotAnExportError as error:
            raise CheckFailedError(str(error), _NOT_THE_STORAGE) from None

    def _read_text(self, data: Bytes | None) -> Iterator[None]:
        if data is not None:
            for plain in self._plain.feed(data):
                self._take_text(bytes(plain))
                yield
            return
        if self._whole:
            for plain in self._plain.finish():
                self._take_text(bytes(plain))
        if not self.recognised:
            self._recognise()

    def _take_text(self, plain: bytes) -> None:
        if self.recognised:
            if self._counter is not None:
                self._counter.feed(plain)
            return
        self._beginning += plain
        if is_enough(self._beginning):
            self._recognise(cut=True)

    def _recognise(self, *, cut: bool = False) -> None:
        self.kind = recognise(self._beginning, first=self._first, whole=self._whole and not cut)
        self.recognised = True
        if self._inflates_all and self.kind is not None:
            self._counter = self._sink(self.kind)
            self._counter.feed(self._beginning)
        self._beginning = b""

    def _count(self) -> int | None:
        if self._counter is not None:
            return self._counter.finish()
        return 0 if self._inflates_all else None


def _announced(expected: Expected) -> dict[str, tuple[_Digest, bytes]]:
    digests: dict[str, tuple[_Digest, bytes]] = {}
    if expected.md5 is not None:
        md5 = hashlib.md5(usedforsecurity=False)
        digests["etag-md5"] = (md5, bytes.fromhex(expected.md5))
    makers: dict[str, Callable[[], _Digest]] = {
        "crc32": _Crc32,
        "sha1": partial(hashlib.sha1, usedforsecurity=False),
        "sha256": hashlib.sha256,
    }
    for name, text in expected.checksums.items():
        digest = makers[name]()
        try:
            value = base64.b64decode(text, validate=True)
        except ValueError:
            continue
        if len(value) == len(digest.digest()):
            digests[f"x-amz-checksum-{name}"] = (digest, value)
    return digests
