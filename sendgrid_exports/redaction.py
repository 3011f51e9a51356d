"""Keeping secrets out of everything people read.

A presigned url's query is a credential: whoever has it has the contacts. SendGrid's key is
worse. S3 even echoes a stray `Authorization` header back in its XML, so text that came from a
server passes through here before it is quoted.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["redact_text", "redact_url"]

_QUOTED_LENGTH = 300
_HIDDEN = "[redacted]"
_SECRETS = (
    (re.compile(r"(https?://[^\s\"'<>?#]*)[?#][^\s\"'<>]*", re.IGNORECASE), rf"\1?{_HIDDEN}"),
    (re.compile(r"(https?://)[^\s\"'<>/@]*@", re.IGNORECASE), rf"\1{_HIDDEN}@"),
    (re.compile(r"\b(bearer|basic)\s+[^\s\"'<>]+", re.IGNORECASE), rf"\1 {_HIDDEN}"),
    (re.compile(r"\bSG\.[\w.\-]+"), _HIDDEN),
    (
        re.compile(
            r"(?:\b|(?<=%[0-9A-F]{2}))"
            r"(X-Amz-(?:Signature|Credential|Security-Token)|Signature(?:Provided)?|AWSAccessKeyId)"
            r"([\"']?\s*(?:[=:>]|&gt;|%(?:25)*3D)\s*[\"']?)[^\s&\"'<>]+",
            re.IGNORECASE,
        ),
        rf"\1\2{_HIDDEN}",
    ),
    (
        re.compile(
            r"(<(SignatureProvided|StringToSign|StringToSignBytes|CanonicalRequest|"
            r"CanonicalRequestBytes|AWSAccessKeyId|ArgumentValue|Token-\d+|HostId)>)[^<]*",
            re.IGNORECASE,
        ),
        rf"\1{_HIDDEN}",
    ),
)


def redact_url(url: str) -> str:
    """Return scheme, host and path of `url`; whatever else it has shows only as a mark."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return _HIDDEN
    if not parts.scheme or not host:
        return _HIDDEN
    mark = f"?{_HIDDEN}" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{host}{parts.path}{mark}"


def redact_text(text: str, *, longest: int = _QUOTED_LENGTH) -> str:
    """Return what may be quoted of a server's text: one line, cut to `longest`, no secrets."""
    # Cut first as well: some patterns take quadratic time.
    text = text[: 8 * longest].encode("utf-8", "replace").decode()
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
