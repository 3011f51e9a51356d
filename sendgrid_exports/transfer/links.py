"""A presigned url: what it names, how long it lives, which file it belongs to. Pure.

The signature lives for minutes, the file for hours. A renewed link differs from the old one in
its query alone, so scheme, host and path are the file's identity.
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import attrs

from sendgrid_exports.errors import InvalidResponseError

__all__ = [
    "Link",
    "is_due",
    "match_links",
    "read_kind",
    "read_link",
    "read_links",
    "remember_links",
]

_LARGEST_MARGIN = 30.0
_MARGIN = 0.1
_SMALLEST_AGE = 1.0


@attrs.frozen(kw_only=True)
class Link:
    """A download link.

    Attributes:
        url: byte for byte as given; a credential, and so not in the repr.
        identity: scheme, host and path, by which a renewed link is known; journals and
            manifests hold it.
        kind: `csv` or `json`, by the path's suffix; what counts is the content.
        lifetime: seconds from signing to death, or None where the url does not say.
        dies_at: the server's time at which the signature stops working, or None.
        obtained: when it came, on our monotonic clock.
    """

    url: str = attrs.field(repr=False)
    identity: str
    kind: str
    lifetime: float | None = None
    dies_at: datetime | None = None
    obtained: float = 0.0


def read_link(url: str, *, allow_http: bool, now: float) -> Link:
    """Return what `url` says of itself; `now` is monotonic.

    Raises:
        ValueError: it is not an https url, or holds a user; the message has no secret.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("expected a url with a valid host and port") from None
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("expected a url without spaces, backslashes and control characters")
    allowed = ("https", "http") if allow_http else ("https",)
    if parts.scheme not in allowed or not parts.hostname:
        raise ValueError(f"expected a url that begins with {' or '.join(allowed)}://")
    if "@" in parts.netloc:
        raise ValueError("expected a url without user and password")
    lifetime, dies_at = _read_lifetime(parts.query)
    return Link(
        url=url,
        identity=f"{parts.scheme}://{parts.netloc}{parts.path}",
        kind=read_kind(parts.path),
        lifetime=lifetime,
        dies_at=dies_at,
        obtained=now,
    )


def read_kind(path: str) -> str:
    """Return `json` or `csv`, by the suffix of a link's path."""
    plain = path.lower().removesuffix(".gz").removesuffix(".gzip")
    return "json" if plain.endswith((".json", ".ndjson", ".jsonl")) else "csv"


def read_links(urls: Sequence[str], *, allow_http: bool, now: float) -> tuple[Link, ...]:
    """Return the links of an export.

    Raises:
        InvalidResponseError: one is not a plain https url; `problems` says which.
    """
    links = []
    problems = []
    for place, url in enumerate(urls):
        try:
            links.append(read_link(url, allow_http=allow_http, now=now))
        except ValueError as error:
            problems.append(f"{error} @ $.urls[{place}]")
    if problems:
        raise InvalidResponseError(
            f"The download links are not what is documented: {'; '.join(problems)}. Fetch "
            "again; if that fails too, tell SendGrid's support.",
            problems=tuple(problems),
        )
    return tuple(links)


def _read_lifetime(query: str) -> tuple[float | None, datetime | None]:
    values = {name: found[-1] for name, found in parse_qs(query).items()}
    try:
        if "X-Amz-Expires" in values:
            lifetime = float(values["X-Amz-Expires"])
            if lifetime <= 0:
                return None, None
            signed = datetime.strptime(values["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return lifetime, signed + timedelta(seconds=lifetime)
        if "Expires" in values:
            return None, datetime.fromtimestamp(float(values["Expires"]), UTC)
    except (ValueError, KeyError, OverflowError, OSError):
        pass
    return None, None


def is_due(link: Link, *, utc: datetime, now: float) -> bool:
    """Whether to renew the link before a request begins; `utc` is the server's time.

    Little of its life must be left. But a link that only just came is tried whatever the clocks
    say: renewing it would not give a better one.
    """
    if link.dies_at is None:
        return False
    lifetime = link.lifetime if link.lifetime is not None else _LARGEST_MARGIN / _MARGIN
    margin = min(_LARGEST_MARGIN, lifetime * _MARGIN)
    if now - link.obtained <= max(margin, _SMALLEST_AGE):
        return False
    return (link.dies_at - utc).total_seconds() < margin


def match_links(known: Sequence[str], fresh: Sequence[Link]) -> tuple[Link | None, ...]:
    """Return the fresh link of each known identity; None for a file that is no longer listed.

    What has no match by identity is matched by position if there are as many links as files.
    """
    places: dict[str, deque[int]] = {}
    for place, link in enumerate(fresh):
        places.setdefault(link.identity, deque()).append(place)
    found = [places[name].popleft() if places.get(name) else None for name in known]
    if len(fresh) == len(known):
        taken = set(found)
        found = [
            place if at is None and place not in taken else at for place, at in enumerate(found)
        ]
    return tuple(None if at is None else fresh[at] for at in found)


def remember_links(known: Sequence[str], links: Sequence[Link]) -> tuple[str, ...]:
    """Return the identities of all files: those known, in their order, then any new ones."""
    matched = {id(link) for link in match_links(known, links)}
    new = [link.identity for link in links if id(link) not in matched]
    return (*known, *new)
