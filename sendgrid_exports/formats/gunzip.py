"""Inflating gzip that is fed in blocks of any size (RFC 1952).

Unlike `zlib.decompressobj` alone, which stops silently after the first member and accepts a
truncated stream: every member is read, every checksum compared, and the end must be an end. Zeros
after the last member are padding, as tape and disk tools leave it.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from typing import Any, TypeAlias

__all__ = ["GZIP_MAGIC", "BrokenGzipError", "Bytes", "PlainText"]

GZIP_MAGIC = b"\x1f\x8b"

Bytes: TypeAlias = bytes | memoryview
try:
    _fast: Any = importlib.import_module("isal.isal_zlib")
except ImportError:
    _fast = zlib

_GZIP_WINDOW = 31
_LARGEST_OUTPUT = 128 * 1024
# What follows a member is copied: tiny members must not each copy all the rest.
_SMALLEST_STEP = 4096


class BrokenGzipError(ValueError):
    """The bytes are not whole gzip.

    Attributes:
        offset: how many bytes were fed before the block in which it broke.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} in the gzip data after byte {offset}")
        self.offset = offset


class PlainText:
    """The plain text of data that may be gzip, which its first bytes tell.

    Args:
        fast: inflate by isal, where it is installed. It is about 2.6 times as fast as zlib on
            an export (isal 1.9, AMD EPYC), but calls some valid files broken, such as one whose
            header with an extra field and a name is cut by the end of a block, and has perhaps
            yielded other bytes before it does. So use it only where the data can be read again,
            and let zlib decide.

    Attributes:
        compressed: whether the data is gzip; known once two bytes have come.
    """

    def __init__(self, *, fast: bool = False) -> None:
        self.compressed = False
        self._beginning: bytes | None = b""
        self._gunzip = _Gunzip(_fast if fast else zlib)

    def feed(self, data: Bytes) -> Iterator[Bytes]:
        """Yield the plain text of `data`, that of gzip in pieces of at most 128 KiB; exhaust it.

        Raises:
            BrokenGzipError: the data begins as gzip and is not valid.
        """
        if self._beginning is not None:
            data = self._beginning + bytes(data)
            if len(data) < len(GZIP_MAGIC):
                self._beginning = data
                return
            self._beginning = None
            self.compressed = data.startswith(GZIP_MAGIC)
        if self.compressed:
            yield from self._gunzip.feed(data)
        elif data:
            yield data

    def finish(self) -> Iterator[Bytes]:
        """Yield what is left, now that the data has ended.

        Raises:
            BrokenGzipError: the last member is cut short.
        """
        if self.compressed:
            self._gunzip.finish()
        elif self._beginning:
            yield self._beginning


class _Gunzip:
    """A gzip stream of one or more members, inflated by one library."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._fed = 0
        self._members = 0
        self._inflating = False
        self._member = library.decompressobj(_GZIP_WINDOW)

    def feed(self, data: Bytes) -> Iterator[bytes]:
        """Yield what `data` inflates to; exhaust it."""
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
            except self._library.error as error:
                raise BrokenGzipError(str(error), offset) from None
            if inflated:
                yield inflated
            if self._member.eof:
                rest = rest[len(given) - len(self._member.unused_data) :]
                self._member = self._library.decompressobj(_GZIP_WINDOW)
                self._members += 1
                self._inflating = False
            else:
                rest = rest[len(given) - len(self._member.unconsumed_tail) :]
                step *= 2
                if not rest and len(inflated) < _LARGEST_OUTPUT:
                    return

    def finish(self) -> None:
        """Accept that nothing more comes."""
        if self._inflating or not self._members:
            raise BrokenGzipError("unexpected end", self._fed)


def _after_padding(rest: memoryview) -> memoryview:
    for place in range(0, len(rest), _SMALLEST_STEP):
        block = bytes(rest[place : place + _SMALLEST_STEP])
        if found := block.lstrip(b"\0"):
            return rest[place + len(block) - len(found) :]
    return rest[:0]
