"""What the storage's answer to a request means. One pure function over a table of cases.

S3 judges a signature when a request starts, names its errors in XML, and pins one version of an
object by `If-Match`: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html and
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; ranges are RFC 9110 §14.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

import attrs

from sendgrid_exports.decoding import read_time
from sendgrid_exports.delays import server_delay
from sendgrid_exports.redaction import redact_page, redact_text

__all__ = [
    "AllHere",
    "Answer",
    "AskPlain",
    "Asked",
    "Gone",
    "LinkDead",
    "Meaning",
    "Receive",
    "Refused",
    "StartOver",
    "TryAgain",
    "Version",
    "judge",
    "request_headers",
]

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)", re.ASCII)
_PASSING = {408, 429, 500, 502, 503, 504}


@attrs.frozen(kw_only=True)
class Version:
    """What pins one version of an object: its strong ETag, quotes and all, and its size."""

    etag: str
    total: int


@attrs.frozen(kw_only=True)
class Asked:
    """What a request asked for: bytes from `start` to before `end`, or the whole object."""

    start: int = 0
    end: int | None = None
    ranged: bool = True
    version: Version | None = None


@attrs.frozen(kw_only=True)
class Answer:
    """The head of an answer, and the text of its body where that is an error."""

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    text: str = attrs.field(default="", repr=False)


@attrs.frozen(kw_only=True)
class Receive:
    """The body holds what was asked for.

    Attributes:
        total: the object's size, or None where the storage does not say.
        version: what pins it, or None if nothing does: then there is no resuming.
        whole: whether the body is the whole object although a range was asked for.
    """

    total: int | None
    version: Version | None
    whole: bool


@attrs.frozen
class StartOver:
    """What is on disk is of no use: begin again, if `plain` as one stream without ranges."""

    reason: str
    plain: bool = False


@attrs.frozen
class AskPlain:
    """There is no first byte: ask without a range."""


@attrs.frozen
class AllHere:
    """There are no more bytes than those on disk."""


@attrs.frozen
class LinkDead:
    """Ask for a fresh link; `proven`: it died of age, rather than of something else."""

    reason: str
    proven: bool
    status: int = 403
    code: str | None = None


@attrs.frozen
class Gone:
    """The file is deleted."""

    reason: str


@attrs.frozen
class TryAgain:
    """It failed in passing; `slow_down`: because too much is asked of the storage."""

    reason: str
    retry_after: float | None = None
    slow_down: bool = False


@attrs.frozen(kw_only=True)
class Refused:
    """It failed for good."""

    reason: str
    status: int | None = None
    code: str | None = None


Meaning: TypeAlias = Receive | StartOver | AskPlain | AllHere | LinkDead | Gone | TryAgain | Refused


def request_headers(asked: Asked) -> dict[str, str]:
    """Return the headers of the request for `asked`."""
    headers = {}
    if asked.ranged:
        last = "" if asked.end is None else str(asked.end - 1)
        headers["Range"] = f"bytes={asked.start}-{last}"
        if asked.version is not None:
            headers["If-Match"] = asked.version.etag
    return headers


def judge(asked: Asked, answer: Answer, *, utc: datetime, due: bool) -> Meaning:
    """Return what `answer` to `asked` means.

    Args:
        asked: what the request asked for.
        answer: what came.
        utc: the server's time of day, for a `Retry-After` that is a date.
        due: whether by our own reckoning the link is dead.
    """
    status = answer.status
    if status == 200:
        return _judge_whole(asked, answer)
    if status == 206:
        return _judge_part(asked, answer)
    if status == 416:
        return _judge_unsatisfiable(asked, answer)
    code, said = _describe(answer)
    if status == 412 and asked.version is not None:
        return StartOver("another version of the file is there now")
    if status == 403:
        if code == "SignatureDoesNotMatch":
            return Refused(reason=said, status=status, code=code)
        return LinkDead(said, due or _has_expired(answer.text), status, code)
    if status == 400 and code == "ExpiredToken":
        return LinkDead(said, True, status, code)
    if status in {404, 410}:
        return Gone(said)
    if status in _PASSING or (status == 400 and code == "RequestTimeout"):
        wait = server_delay(answer.headers, utc)
        return TryAgain(said, wait, slow_down=status in {429, 503})
    if 300 <= status < 400:
        said = f"{said}; redirects are not followed, check the proxies on the way"
    return Refused(reason=said, status=status, code=code)


def _judge_whole(asked: Asked, answer: Answer) -> Meaning:
    if asked.ranged and (asked.start > 0 or asked.version is not None):
        return StartOver("the storage answers a range with the whole file", plain=True)
    total = _read_size(answer.headers.get("content-length"))
    if total is None and "chunked" not in answer.headers.get("transfer-encoding", "").lower():
        return TryAgain("nothing says where the body ends, so a cut would pass for its end")
    return Receive(total=total, version=_version(answer, total), whole=True)


def _judge_part(asked: Asked, answer: Answer) -> Meaning:
    header = answer.headers.get("content-range", "").strip()
    found = _CONTENT_RANGE.fullmatch(header)
    seen = redact_text(header, longest=80)
    if not asked.ranged or found is None or found[1] is None or found[3] == "*":
        return TryAgain(f"a part without a usable Content-Range: {seen!r}")
    start, last, total = int(found[1]), int(found[2]), int(found[3])
    known = asked.version
    etag = _etag(answer)
    if known is not None and etag is None:
        return StartOver("nothing pins the file's version", plain=True)
    if known is not None and (total != known.total or etag != known.etag):
        return StartOver("another version of the file is there now")
    end = total if asked.end is None else min(asked.end, total)
    length = _read_size(answer.headers.get("content-length"))
    if start != asked.start or last + 1 != end or length not in {end - start, None}:
        wanted = f"{asked.start}-{end - 1}"
        return TryAgain(f"bytes {wanted} were asked for, and the answer is {seen!r}")
    version = known or _version(answer, total)
    if version is None and end < total:
        return StartOver("nothing pins the file's version", plain=True)
    return Receive(total=total, version=version, whole=version is None)


def _judge_unsatisfiable(asked: Asked, answer: Answer) -> Meaning:
    if asked.ranged and asked.version is None:
        return AskPlain()
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    total = int(found[3]) if found and found[3] != "*" else None
    if asked.version is not None and asked.start >= asked.version.total == total:
        return AllHere()
    if not asked.ranged:
        return Refused(reason="416 to a request without a range", status=416)
    return StartOver("the file is not as long as it was")


def _etag(answer: Answer) -> str | None:
    etag = answer.headers.get("etag", "").strip()
    strong = len(etag) > 2 and etag.startswith('"') and etag.endswith('"')
    # It has to go back in a header, byte for byte.
    return etag if strong and etag.isascii() and etag.isprintable() else None


def _version(answer: Answer, total: int | None) -> Version | None:
    etag = _etag(answer)
    return None if etag is None or total is None else Version(etag=etag, total=total)


def _read_size(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None


def _describe(answer: Answer) -> tuple[str | None, str]:
    code = _element("Code", answer.text)
    message = _element("Message", answer.text)
    said = ": ".join(part for part in (code, message) if part)
    said = redact_text(said) or redact_page(answer.text)
    return code and redact_text(code, longest=60), f"{answer.status} {said}".strip()


def _has_expired(text: str) -> bool:
    if "request has expired" in (_element("Message", text) or "").lower():
        return True
    try:
        expires = read_time(_element("Expires", text))
        server_time = read_time(_element("ServerTime", text))
    except ValueError:
        return False
    return expires is not None and server_time is not None and expires < server_time


def _element(name: str, text: str) -> str | None:
    found = re.search(rf"<{name}>([^<]*)</{name}>", text)
    return found[1].strip() if found else None
