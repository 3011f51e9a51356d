"""Checks of what callers pass: text, API keys, base urls. A bad argument is named and explained."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from sendgrid_exports.http import is_loopback

__all__ = ["check_api_key", "check_base_url", "check_text"]

_QUOTES = "\"'`“”‘’"


def check_text(value: object, name: str) -> str:
    """Return `value` if it is text that can stand in a header or url.

    Raises:
        TypeError: it is not text.
        ValueError: it is empty or has characters that no header or url may have.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty")
    if not value.isprintable():
        raise ValueError(f"{name} must not hold control characters, such as a line break")
    return value


def check_api_key(value: object) -> str:
    """Return `value` if it can be an API key; else say how it was probably copied.

    Raises:
        TypeError: it is not text.
        ValueError: it is empty, has something around it, or was read in a wrong encoding.
    """
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("api_key was read from UTF-16: save the file as UTF-8")
        if value.startswith(("\ufeff", "ï»¿", "\ufffd")):
            raise ValueError(
                "api_key begins with a byte order mark: save the file as UTF-8 without one"
            )
    key = check_text(value, "api_key")
    if re.match(r"\s*(authorization\s*:\s*)?bearer\b", key, re.IGNORECASE):
        raise ValueError("api_key begins with Bearer: pass only what follows it, such as SG.…")
    # A name alone, or more than one =, is how encoded text ends.
    if re.match(r"\s*(export\s+)?[A-Za-z_]\w*\s*=\s*[^=\s]", key):
        raise ValueError("api_key begins with NAME=: pass only what follows it, such as SG.…")
    if key[0] in _QUOTES or key[-1] in _QUOTES:
        raise ValueError("api_key is in quotes: pass what is between them, such as SG.…")
    if key.split() != [key]:
        raise ValueError("api_key has spaces in it or around it: remove them")
    return key


def check_base_url(value: object, *, allow_insecure_http: bool = False) -> str:
    """Return SendGrid's base url without a slash at its end.

    Raises:
        TypeError: it is not text.
        ValueError: it is not a plain https url, nor an http url of this machine; or http to
            another machine without `allow_insecure_http`.
    """
    url = check_text(value, "base_url")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"base_url is not a url: {error}") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("base_url must begin with https:// (or http:// for a local server)")
    if "@" in parts.netloc:
        raise ValueError("base_url must not hold a user or password")
    if set(url) & set("?# "):
        raise ValueError("base_url must not hold a query, a fragment or spaces")
    try:
        parts.hostname.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"base_url has no valid host: {error}") from None
    base = f"{parts.scheme}{url[len(parts.scheme) :]}".rstrip("/")
    if "v3" in (steps := parts.path.split("/")):
        root = base[: -len(parts.path.rstrip("/"))] + "/".join(steps[: steps.index("v3")])
        raise ValueError(f"base_url must end before /v3, which is added here: pass {root}")
    if parts.scheme == "http" and not (allow_insecure_http or is_loopback(parts.hostname)):
        raise ValueError(
            f"base_url must begin with https://: http:// shows the API key to everyone on the way "
            f"to {parts.hostname}. Only this machine (localhost, 127.0.0.1, ::1) may be reached "
            "by http://, or any with allow_insecure_http=True"
        )
    return base
