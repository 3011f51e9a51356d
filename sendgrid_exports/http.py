"""HTTP requests and responses as values, and the dates and hosts in them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address

import attrs

__all__ = ["Request", "Response", "is_loopback", "read_http_date"]


@attrs.frozen(kw_only=True)
class Request:
    """A request to the API: `target` is path and query, already escaped."""

    method: str
    target: str
    body: bytes | None = None


@attrs.frozen(kw_only=True)
class Response:
    """A response: the names of `headers` are in lower case, `body` is raw."""

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)

    @property
    def date(self) -> datetime | None:
        """The server's clock when it answered (RFC 9110 §6.6.1), or None."""
        return read_http_date(self.headers.get("date", ""))


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an address without brackets, is this machine itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_http_date(text: str) -> datetime | None:
    """Return an HTTP date (RFC 9110 §5.6.7) as an aware datetime, or None for any other text."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
