"""The delay before the next poll or attempt, and what the server says about it.

The delays come from `backoff`'s generator. Its decorators are not used: they read the wall
clock, sleep in a way that can't be injected, check their budget only between attempts, and know
of no deadline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import islice

import backoff

from sendgrid_exports.http import read_http_date
from sendgrid_exports.settings import PollPolicy

__all__ = ["Random", "poll_delay", "read_reset", "read_retry_after", "retry_delay", "server_delay"]

Random = Callable[[], float]

_JITTER = 0.1
_FIRST_RETRY = 0.5
_LONGEST_RETRY = 10.0
_EARLIEST_EPOCH = 10**9


def poll_delay(n: int, policy: PollPolicy, random: Random) -> float:
    """Seconds between poll `n` (from 0) and the next one."""
    return _expo(n, policy.factor, policy.initial, policy.maximum) * (1 - _JITTER * random())


def retry_delay(failures: int, random: Random) -> float:
    """Seconds before the next attempt at a file after `failures` (from 1) without progress."""
    return _expo(failures - 1, 2.0, _FIRST_RETRY, _LONGEST_RETRY) * (1 - _JITTER * random())


def _expo(n: int, base: float, factor: float, maximum: float) -> float:
    # The generator first yields None, which its decorators discard.
    delays = backoff.expo(base=base, factor=factor, max_value=maximum)
    return float(next(islice(delays, n + 1, None)))


def server_delay(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds the server asks to wait after a failure, or None.

    `Retry-After` comes first (RFC 9110 §10.2.3), then SendGrid's `X-RateLimit-Reset`:
    https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits
    An instant is compared with the response's own `Date`, so a wrong local clock does not matter.
    """
    now = read_http_date(headers.get("date", "")) or now
    delay = read_retry_after(headers.get("retry-after", ""), now)
    return delay if delay is not None else read_reset(headers.get("x-ratelimit-reset", ""), now)


def read_retry_after(text: str, now: datetime) -> float | None:
    """Return a `Retry-After` of seconds or an HTTP date as seconds from `now`, or None."""
    seconds = _read_number(text)
    if seconds is not None:
        return seconds
    moment = read_http_date(text)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def read_reset(text: str, now: datetime) -> float | None:
    """Return an `X-RateLimit-Reset` as seconds from `now`, or None.

    SendGrid documents it as epoch seconds in one place and as seconds from now in others.
    """
    seconds = _read_number(text)
    if seconds is None or seconds < _EARLIEST_EPOCH:
        return seconds
    return max(0.0, seconds - now.astimezone(UTC).timestamp())


def _read_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
