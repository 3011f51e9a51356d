"""Keeping secrets out of everything that people read.

The query of a presigned url is a credential that gives access to the contacts; SendGrid's API key
gives access to more. S3 even echoes a stray `Authorization` header back in its XML, so text from a
server is redacted before it is quoted.
"""

from __future__ import annotations

import html
import re
from urllib.parse import urlsplit

__all__ = ["redact_page", "redact_text", "redact_url"]

_QUOTED_LENGTH = 300
_TITLE_LENGTH = 100
_READ = 8 * _QUOTED_LENGTH
_PAGE = re.compile(
    r"[\ufeff\s]*(?:<\?xml[^>]*>\s*)?(?:<!--[^>]*>\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE
)
_TITLE = re.compile(r"<title\b[^>]*>\s*([^<\s][^<]*)", re.IGNORECASE)
_UNSEEN = re.compile(
    r"<(script|style)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<[^>]*>?", re.IGNORECASE | re.DOTALL
)
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
    """Return scheme, host and path of `url`; a query or fragment shows only as a mark."""
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
    text = " ".join(_hide(text[: 8 * longest]).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def redact_page(text: str) -> str:
    """Return what may be quoted of an HTML page: its title or first text. Empty for other text."""
    if not _PAGE.match(text):
        return ""
    # Here as well: what marks a secret may be a tag.
    text = _hide(text[:_READ])
    title = _TITLE.search(text)
    said = html.unescape(title[1] if title else _UNSEEN.sub(" ", text))
    said = redact_text(said, longest=_TITLE_LENGTH)
    return "an HTML page such as proxies send" + (f" ({said!r})" if said else "")


def _hide(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
