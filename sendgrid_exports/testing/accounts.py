"""Accounts: what exports of the parent and of its subusers are like, and how often each may ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, Literal

import attrs

__all__ = ["REGIONS", "Account", "FakeSubuser", "RateLimits", "Region", "as_texts"]

Region = Literal["global", "eu"]
REGIONS: Final[tuple[Region, Region]] = ("global", "eu")

_PERIOD: Final = 60


def as_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """Convert any texts to a tuple."""
    return tuple(texts)


@attrs.define(kw_only=True, eq=False, slots=False)
class Account:
    """What the exports that an account starts are like; `FakeSendGrid` documents each setting."""

    contacts: int = 1000
    files: int = 1
    statuses: tuple[str, ...] = attrs.field(
        default=("pending", "ready"),
        converter=as_texts,
        validator=attrs.validators.min_len(1),
    )
    ready_after: float | None = None
    message: str | None = None


@attrs.define(eq=False, slots=False)
class FakeSubuser(Account):
    """A subuser of the account, for `FakeSendGrid(subusers=[...])`.

    The parent's key acts for it with the header `on-behalf-of` and its username. Its exports are
    its own: to others they are unknown. To see an export fail, or never become ready, set
    `statuses` to `["pending", "failure"]` or `["pending"]`.

    Args:
        username: its name, unique in the account.
        disabled: whether it is listed as disabled; requests on its behalf are refused with 403.
        region: an `"eu"` subuser is served at `FakeSendGrid.eu_base_url` alone, the others at
            `FakeSendGrid.base_url` alone; at the wrong host the answer is 401.
        api_key: a key of its own, besides the parent's; None for a subuser without one.
        contacts: how many contacts an export that it starts has. This and the arguments below
            are those of `FakeSendGrid`.
        files: over how many files they are spread.
        statuses: what polls of an export see.
        ready_after: seconds until an export has the last status.
        message: the message of exports whose status is `failure`.
    """

    username: str
    disabled: bool = attrs.field(default=False, kw_only=True)
    region: Region = attrs.field(default="global", kw_only=True)
    api_key: str | None = attrs.field(default=None, kw_only=True)


class RateLimits:
    """Counts requests in periods of a minute, each from the full minute on.

    Headers state the limit, what is left, and the end of the period in epoch seconds
    (https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits).
    """

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}

    def take(self, limits: Mapping[str, int | None], now: datetime) -> tuple[bool, dict[str, str]]:
        """Count a request against each limit; None is unlimited.

        Returns:
            Whether it is allowed, and the headers of the limit with the fewest requests left.
        """
        period = int(now.timestamp()) // _PERIOD
        left: dict[str, int] = {}
        for name, limit in limits.items():
            if limit is not None:
                counted, count = self._counts.get(name, (period, 0))
                left[name] = limit - (count if counted == period else 0)
        if not left:
            return True, {}
        is_allowed = min(left.values()) > 0
        if is_allowed:
            for name in left:
                left[name] -= 1
                self._counts[name] = (period, (limits[name] or 0) - left[name])
        name = min(left, key=lambda name: left[name])
        return is_allowed, {
            "X-RateLimit-Limit": str(limits[name]),
            "X-RateLimit-Remaining": str(left[name]),
            "X-RateLimit-Reset": str((period + 1) * _PERIOD),
        }
