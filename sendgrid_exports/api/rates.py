"""How often a key may ask: what SendGrid's rate limits leave, and how long to wait. Pure.

https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits

A key has a limit, and each account that it acts for may have one of its own. An answer states one
of them, but not which: if more of it is used than the account has sent, it is the key's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime

import attrs

from sendgrid_exports.delays import read_reset, server_delay
from sendgrid_exports.http import read_http_date

__all__ = ["Rate", "Stated", "is_of_account", "read_rate"]

# The share of a limit left for other users of the key, and for a count that is a little off.
_KEPT = 0.05
# The caller's own timeout and attempts bound longer waits.
_LONGEST_WAIT = 120.0
_SAME_PERIOD = 3.0
# Until an answer states when the period ends.
_GUESSED_PERIOD = 60.0


@attrs.frozen(kw_only=True)
class Stated:
    """What an answer says of a rate limit.

    Attributes:
        limit: requests in a period, or None where a refusal names none.
        left: requests left in this period.
        ends: when the period ends, by the monotonic clock.
    """

    limit: int | None
    left: int
    ends: float


@attrs.frozen(kw_only=True)
class Rate:
    """One rate limit, as far as it is known.

    Attributes:
        limit: requests in a period, or None.
        left: requests left in this period; infinite where nothing is known.
        ends: when the period ends, by the monotonic clock.
        sent: requests of ours in this period.
    """

    limit: int | None = None
    left: float = math.inf
    ends: float = -math.inf
    sent: int = 0

    def seconds_to_wait(self, now: float) -> float:
        """Return how long to wait before the next request; 0 where it may be sent."""
        if self.left > (self.limit or 0) * _KEPT or self.ends - now > _LONGEST_WAIT:
            return 0.0
        return max(0.0, self.ends - now)

    def after_request(self, now: float) -> Rate:
        """Return the rate after one more request, the first of a new period if the old is over."""
        if now < self.ends:
            return attrs.evolve(self, left=self.left - 1, sent=self.sent + 1)
        full = math.inf if self.limit is None else self.limit
        return Rate(limit=self.limit, left=full - 1, ends=now + _GUESSED_PERIOD, sent=1)

    def after_answer(self, stated: Stated) -> Rate:
        """Return the rate after an answer; requests that are under way are counted already."""
        same = self.limit == stated.limit and abs(self.ends - stated.ends) < _SAME_PERIOD
        return Rate(
            limit=stated.limit,
            left=min(self.left, stated.left) if same else stated.left,
            ends=stated.ends,
            sent=self.sent,
        )


def is_of_account(stated: Stated, account: Rate, key: Rate) -> bool:
    """Whether an answer states the limit of the account rather than that of the key.

    Args:
        stated: what it states.
        account: the account that asked.
        key: the key, with the requests for all of its accounts.
    """
    if stated.limit is None or (key.limit == stated.limit and stated.left <= key.left):
        return False
    return stated.limit - stated.left <= account.sent


def read_rate(
    status: int, headers: Mapping[str, str], *, now: float, utc: datetime
) -> Stated | None:
    """Return what an answer states, or None.

    Args:
        status: its HTTP status.
        headers: its headers, their names in lower case.
        now: the monotonic clock.
        utc: the server's time of day, for an answer without a `Date`.
    """
    utc = read_http_date(headers.get("date", "")) or utc
    refused = status == 429
    delay = (
        server_delay(headers, utc)
        if refused
        else read_reset(headers.get("x-ratelimit-reset", ""), utc)
    )
    limit, left = (
        _read_whole(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining")
    )
    if delay is None or (not refused and (limit is None or left is None)):
        return None
    return Stated(limit=limit, left=0 if refused else left or 0, ends=now + delay)


def _read_whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None
