"""Settings: how to poll, how to download. Frozen, keyword-only, checked when made.

Durations are seconds or a `timedelta`; sizes are bytes.
"""

from __future__ import annotations

import enum
import math
import sys
from datetime import timedelta
from numbers import Real
from typing import Any

import attrs
from attrs import validators

__all__ = ["BATCH_SIZE", "DownloadPolicy", "Duration", "PollPolicy", "Verify", "read_duration"]

Duration = float | timedelta

BATCH_SIZE = 1000
"""Rows in a batch by default."""

MIB = 1024 * 1024


def read_duration(value: object, name: str) -> float:
    """Return a duration in seconds.

    Raises:
        TypeError: it is neither a number nor a `timedelta`.
        ValueError: it is negative or not finite.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
    seconds = _float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{name} must be a finite duration of at least 0 seconds, not {seconds}")
    return seconds


def _float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _kind(kind: type, words: str) -> Any:
    """Like `attrs.validators.instance_of`, with one sentence as the message."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        # True is a number to Python, and a mistake here.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{attribute.name} must be {words}, not {value!r}")

    return check


def _whole(at_least: int) -> Any:
    return [_kind(int, "a whole number"), validators.ge(at_least)]


def _duration(*, above_zero: bool = False) -> Any:
    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        read_duration(value, attribute.name)

    return [check, validators.gt(0)] if above_zero else check


def _seconds(value: Duration) -> float:
    # Anything else is left to the validator, which knows the name to complain about.
    return value.total_seconds() if isinstance(value, timedelta) else value


class Verify(enum.Enum):
    """Which checks a file must pass before it gets its final name."""

    LENGTH = "length"
    """It has as many bytes as the storage announced, and begins as an export does."""
    CHECKSUM = "checksum"
    """And the MD5 matches where the ETag is one, and S3's checksums where sent; with a SHA-256."""
    CONTENTS = "contents"
    """And the gzip stream is complete to its last checksum, and the contacts are counted."""


@attrs.frozen(kw_only=True)
class PollPolicy:
    """How the status is polled.

    Poll n+1 comes `min(maximum, initial * factor**n)` seconds after poll n, less up to a tenth
    at random, or when the server says, if that is later.

    Attributes:
        initial: seconds between the first poll and the second.
        factor: how much longer each delay is than the one before.
        maximum: the longest delay, in seconds.
        timeout: seconds to wait in total, if the call has no timeout of its own.
        max_failures: transient failures in a row after which the last error is raised.
    """

    initial: float = attrs.field(
        default=1.0, converter=_seconds, validator=_duration(above_zero=True)
    )
    factor: float = attrs.field(
        default=1.5,
        validator=[_kind(Real, "a number"), validators.ge(1), validators.le(sys.float_info.max)],
    )
    maximum: float = attrs.field(
        default=30.0, converter=_seconds, validator=_duration(above_zero=True)
    )
    timeout: float = attrs.field(default=3600.0, converter=_seconds, validator=_duration())
    max_failures: int = attrs.field(default=10, validator=_whole(1))


@attrs.frozen(kw_only=True)
class Limits:
    """Sizes and intervals inside a download, with the values that were measured to be good.

    Attributes:
        block: bytes that are received and written at once.
        discovery: what the first request of a file asks for, in bytes; what fits into it takes
            one connection.
        smallest_piece: below this, in bytes, another request costs more than it saves.
        first_connections: how many connections a client begins with.
        files: how many files of a download may be under way at once.
        sync_bytes: how many bytes of a file may be written before it is synced.
        sync_seconds: how long written bytes may be without a sync.
        uploads: how many files of a download may be on their way into a bucket at once.
        part: bytes of a file that are sent to a bucket at once; S3 takes no fewer than 5 MiB.
        parts: how many parts of a file are sent at the same time.
    """

    block: int = MIB
    discovery: int = 8 * MIB
    smallest_piece: int = 4 * MIB
    first_connections: int = 8
    files: int = 128
    sync_bytes: int = 8 * MIB
    sync_seconds: float = 1.0
    uploads: int = 4
    part: int = 5 * MIB
    parts: int = 3


@attrs.frozen(kw_only=True)
class DownloadPolicy:
    """How the files are downloaded.

    Attributes:
        connections: the most connections to the storage at once, for all downloads of a client
            together; it begins with few, and opens more while they add throughput.
        connections_per_file: the most connections at once for one file.
        piece_size: the largest piece of a file that one request asks for, in bytes.
        read_timeout: seconds a connection may stay silent before it is dropped.
        minimum_speed: bytes a second below which a connection is dropped if others are faster.
        speed_window: seconds over which that speed is measured.
        attempts: attempts in a row without a new byte before a file is given up.
        decompress: write plain files instead of the gzip ones that SendGrid sends.
        verify: which checks a file must pass.
        require_count: raise if the number of contacts in the files is not SendGrid's.
        limits: sizes and intervals that only tests have a reason to change.
    """

    connections: int = attrs.field(default=16, validator=_whole(1))
    connections_per_file: int = attrs.field(default=8, validator=_whole(1))
    piece_size: int = attrs.field(default=64 * MIB, validator=_whole(1))
    read_timeout: float = attrs.field(
        default=30.0, converter=_seconds, validator=_duration(above_zero=True)
    )
    minimum_speed: int = attrs.field(default=10_000, validator=_whole(0))
    speed_window: float = attrs.field(
        default=20.0, converter=_seconds, validator=_duration(above_zero=True)
    )
    attempts: int = attrs.field(default=8, validator=_whole(1))
    decompress: bool = attrs.field(default=False, validator=_kind(bool, "True or False"))
    verify: Verify = attrs.field(default=Verify.CONTENTS, validator=_kind(Verify, "a Verify"))
    require_count: bool = attrs.field(default=False, validator=_kind(bool, "True or False"))
    limits: Limits = attrs.field(factory=Limits, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.require_count and self.verify is not Verify.CONTENTS:
            raise ValueError("require_count needs verify=Verify.CONTENTS: only that counts")
