"""Settings: how patiently to poll, how to download. Frozen, keyword-only, checked when made.

Durations are seconds or a `timedelta`; sizes are bytes.
"""

from __future__ import annotations

import enum
import math
from datetime import timedelta
from numbers import Real
from typing import Any

import attrs

__all__ = ["BATCH_SIZE", "DownloadPolicy", "Duration", "PollPolicy", "Verify", "read_duration"]

Duration = float | timedelta

BATCH_SIZE = 1000
"""Rows in a batch, where nobody says otherwise."""

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


def _duration(*, above_zero: bool = False) -> Any:
    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if read_duration(value, attribute.name) == 0 and above_zero:
            raise ValueError(f"{attribute.name} must be more than 0 seconds")

    return [check]


def _seconds(value: Duration) -> float:
    # Left alone if it is no duration: the validator knows the name to complain about.
    return value.total_seconds() if isinstance(value, timedelta) else value


def _whole(at_least: int) -> Any:
    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{attribute.name} must be a whole number, not {type(value).__name__}")
        if value < at_least:
            raise ValueError(f"{attribute.name} must be at least {at_least}, not {value}")

    return check


def _factor(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{attribute.name} must be a number, not {type(value).__name__}")
    number = _float(value)
    if not math.isfinite(number) or number < 1:
        raise ValueError(f"{attribute.name} must be a finite number of at least 1, not {number}")


def _kind(kind: type) -> Any:
    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"{attribute.name} must be {kind.__name__}, not {value!r}")

    return check


class Verify(enum.Enum):
    """How much a file must prove before it gets its final name."""

    LENGTH = "length"
    """As many bytes as the storage announced, beginning as an export does; no more is read."""
    CHECKSUM = "checksum"
    """And the MD5 where the ETag is one, S3's own checksums where sent, and a SHA-256 taken."""
    CONTENTS = "contents"
    """And gzip whole to its last checksum, and the contacts counted."""


@attrs.frozen(kw_only=True)
class PollPolicy:
    """How the status is asked for.

    Look n+1 comes `min(maximum, initial * factor**n)` seconds after look n, less up to a tenth
    at random, or when the server says, if that is later.

    Attributes:
        initial: seconds before the second look.
        factor: how much longer each wait is than the one before.
        maximum: seconds a wait never exceeds.
        timeout: seconds of waiting in all, where the call names none.
        max_failures: looks in a row that may fail in passing before their error is raised.
    """

    initial: float = attrs.field(
        default=1.0, converter=_seconds, validator=_duration(above_zero=True)
    )
    factor: float = attrs.field(default=1.5, validator=_factor)
    maximum: float = attrs.field(
        default=30.0, converter=_seconds, validator=_duration(above_zero=True)
    )
    timeout: float = attrs.field(default=3600.0, converter=_seconds, validator=_duration())
    max_failures: int = attrs.field(default=10, validator=_whole(1))


@attrs.frozen(kw_only=True)
class DownloadPolicy:
    """How the files are brought.

    Attributes:
        connections: the most connections to the storage at once, for all downloads of a client
            together; it begins with few, and opens more while they bring more.
        connections_per_file: the most connections at once for one file.
        piece_size: the largest piece of a file that one request asks for, in bytes.
        read_timeout: seconds a connection may stay silent before it is dropped.
        minimum_speed: bytes a second below which a connection is dropped if others are faster.
        speed_window: seconds over which that speed is measured.
        attempts: tries in a row without a new byte before a file is given up.
        decompress: write plain files instead of the gzip ones that SendGrid sends.
        verify: how much a file must prove.
        require_count: raise if the contacts in the files are not as many as SendGrid says.
    """

    connections: int = attrs.field(default=16, validator=_whole(1))
    connections_per_file: int = attrs.field(default=8, validator=_whole(1))
    piece_size: int = attrs.field(default=32 * MIB, validator=_whole(1))
    read_timeout: float = attrs.field(
        default=30.0, converter=_seconds, validator=_duration(above_zero=True)
    )
    minimum_speed: int = attrs.field(default=10_000, validator=_whole(0))
    speed_window: float = attrs.field(
        default=20.0, converter=_seconds, validator=_duration(above_zero=True)
    )
    attempts: int = attrs.field(default=8, validator=_whole(1))
    decompress: bool = attrs.field(default=False, validator=_kind(bool))
    verify: Verify = attrs.field(default=Verify.CONTENTS, validator=_kind(Verify))
    require_count: bool = attrs.field(default=False, validator=_kind(bool))

    def __attrs_post_init__(self) -> None:
        if self.require_count and self.verify is not Verify.CONTENTS:
            raise ValueError("require_count needs verify=Verify.CONTENTS: only that counts")
