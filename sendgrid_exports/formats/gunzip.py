"""Inflating gzip that is fed in pieces of any size (RFC 1952).

Unlike `zlib.decompressobj` alone, which stops silently after the first member and takes a
truncated stream for a whole one: every member is read, every checksum compared, and the end
must be an end. Zeros after the last member are padding, as tape and disk tools leave it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

__all__ = ["GZIP_MAGIC", "BrokenGzipError", "Gunzip", "PlainText"]

GZIP_MAGIC = b"\x1f\x8b"

try:
    zlib: Any = importlib.import_module("isal.isal_zlib")
except ImportError:
    zlib = importlib.import_module("zlib")

_GZIP_WINDOW = 31
_LARGEST_OUTPUT = 128 * 1024
# What is left behind a member is copied: tiny members must not each copy all that follows.
_SMALLEST_STEP = 4096


class BrokenGzipError(ValueError):
    """The bytes are not whole gzip.

    Attributes:
        offset: how many bytes were fed before the piece in which it broke.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} in the gzip data after byte {offset}")
        self.offset = offset


class Gunzip:
    """A gzip stream of one or more members."""

    def __init__(self) -> None:
        self._fed = 0
        self._members = 0
        self._inflating = False
        self._member = zlib.decompressobj(_GZIP_WINDOW)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` inflates to, in pieces of at most 128 KiB; exhaust it.

        Raises:
            BrokenGzipError: the data is no gzip, or fails its checksum.
        """
        offset = self._fed
        self._fed += len(data)
        rest = memoryview(data)
        step = _SMALLEST_STEP
        while True:
            if not self._inflating:
                rest = _after_padding(rest) if self._members else rest
                if not rest:
                    return
                self._inflating = True
                step = _SMALLEST_STEP
            given = rest[:step]
            try:
                inflated = self._member.decompress(given, _LARGEST_OUTPUT)
            except zlib.error as error:
                raise BrokenGzipError(str(error), offset) from None
            if inflated:
                yield inflated
            if self._member.eof:
                rest = rest[len(given) - len(self._member.unused_data) :]
                self._member = zlib.decompressobj(_GZIP_WINDOW)
                self._members += 1
                self._inflating = False
            else:
                rest = rest[len(given) - len(self._member.unconsumed_tail) :]
                step *= 2
                if not rest and len(inflated) < _LARGEST_OUTPUT:
                    return

    def finish(self) -> None:
        """Accept that nothing more comes.

        Raises:
            BrokenGzipError: the last member is cut short, or there was none.
        """
        if self._inflating or not self._members:
            raise BrokenGzipError("unexpected end", self._fed)


class PlainText:
    """The plain text of what may be gzip: known by its first bytes.

    Attributes:
        compressed: whether it is, once two bytes have come.
    """

    def __init__(self) -> None:
        self.compressed = False
        self._beginning: bytes | None = b""
        self._gunzip = Gunzip()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the plain text of `data`; exhaust it.

        Raises:
            BrokenGzipError: it is no whole gzip.
        """
        if self._beginning is not None:
            data = self._beginning + data
            if len(data) < len(GZIP_MAGIC):
                self._beginning = data
                return
            self._beginning = None
            self.compressed = data.startswith(GZIP_MAGIC)
        if self.compressed:
            yield from self._gunzip.feed(data)
        elif data:
            yield data

    def finish(self) -> Iterator[bytes]:
        """Yield what is left, now that nothing more comes.

        Raises:
            BrokenGzipError: the last member is cut short.
        """
        if self.compressed:
            self._gunzip.finish()
        elif self._beginning:
            yield self._beginning


def _after_padding(rest: memoryview) -> memoryview:
    for place in range(0, len(rest), _SMALLEST_STEP):
        block = bytes(rest[place : place + _SMALLEST_STEP])
        if found := block.lstrip(b"\0"):
            return rest[place + len(block) - len(found) :]
    return rest[:0]
