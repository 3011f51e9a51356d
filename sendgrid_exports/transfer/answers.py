"""What the storage's answer to a request means. One pure function over a table of cases.

S3 checks a signature when a request starts, names its errors in XML, and pins one version of an
object by `If-Match`: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html and
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; ranges are RFC 9110 §14.
The ETag is an MD5 only for an object sent in one part and not encrypted with a key of its own:
https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html (ETag). S3's own checksums:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
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
    "Asked",
    "Expected",
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
_MD5 = re.compile(r'"([0-9a-fA-F]{32})"')
_CHECKSUMS = ("crc32", "sha1", "sha256")
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_REGION_REDIRECTS = {"TemporaryRedirect", "PermanentRedirect", "Redirect"}
_REGION = re.compile(r"[a-z0-9-]{1,40}")


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
class Expected:
    """What the storage announced of an object's raw bytes.

    Attributes:
        size: how many, or None.
        md5: their MD5 in hex, or None.
        checksums: S3's own, by algorithm, in base64.
    """

    size: int | None = None
    md5: str | None = None
    checksums: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Receive:
    """The body holds what was asked for.

    Attributes:
        total: the object's size, or None where the storage does not say.
        version: what pins it, or None if nothing does: then it can't be resumed.
        whole: whether the body is the whole object although a range was asked for.
        expected: what the checks compare the object with.
    """

    total: int | None
    version: Version | None
    whole: bool
    expected: Expected = attrs.field(factory=Expected)


@attrs.frozen
class StartOver:
    """What is on disk can't be used: start the file over; `plain`: as one stream, no ranges."""

    reason: str
    plain: bool = False


@attrs.frozen
class AllHere:
    """The object has no more bytes than those on disk."""


@attrs.frozen
class LinkDead:
    """The link was refused; a fresh one may work.

    Attributes:
        reason: what the storage said.
        expired: whether it is known to have expired. Otherwise the cause may be an object or
            a policy of the storage that has not reached every server, or a deleted file.
        status: of the answer; 404 and 410 say that the file does not exist.
        code: S3's code, or None.
    """

    reason: str
    expired: bool
    status: int = 403
    code: str | None = None


@attrs.frozen
class TryAgain:
    """A transient failure; `slow_down`: because the storage is overloaded."""

    reason: str
    retry_after: float | None = None
    slow_down: bool = False


@attrs.frozen(kw_only=True)
class Refused:
    """A permanent failure; `advice` says what to do about it, where that is known."""

    reason: str
    status: int | None = None
    code: str | None = None
    advice: str = ""


Meaning: TypeAlias = Receive | StartOver | AllHere | LinkDead | TryAgain | Refused


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
    if status == 403 and code != "SignatureDoesNotMatch":
        return LinkDead(said, due or _has_expired(answer.text), status, code)
    if status == 400 and code == "ExpiredToken":
        return LinkDead(said, True, status, code)
    if status in {404, 410}:
        return LinkDead(said, False, status, code)
    if status in _TRANSIENT or (status == 400 and code == "RequestTimeout"):
        wait = server_delay(answer.headers, utc)
        return TryAgain(said, wait, slow_down=status in {429, 503})
    return Refused(reason=said, status=status, code=code, advice=_advise(answer, code))


def _judge_whole(asked: Asked, answer: Answer) -> Meaning:
    if asked.ranged and (asked.start > 0 or asked.version is not None):
        return StartOver("the storage answers a range with the whole file", plain=True)
    total = _read_size(answer.headers.get("content-length"))
    if total is None and "chunked" not in answer.headers.get("transfer-encoding", "").lower():
        return TryAgain("nothing says where the body ends, so a truncated one would look complete")
    return Receive(
        total=total,
        version=_version(answer, total),
        whole=True,
        expected=_expect(answer, total, whole=True),
    )


def _judge_part(asked: Asked, answer: Answer) -> Meaning:
    header = answer.headers.get("content-range", "").strip()
    found = _CONTENT_RANGE.fullmatch(header)
    if not asked.ranged or found is None or found[1] is None or found[3] == "*":
        return TryAgain(
            f"a part without a usable Content-Range: {redact_text(header, longest=80)!r}"
        )
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
        return TryAgain(
            f"bytes {wanted} were asked for, and the answer is {redact_text(header, longest=80)!r}"
        )
    version = known or _version(answer, total)
    if version is None and end < total:
        return StartOver("nothing pins the file's version", plain=True)
    return Receive(
        total=total,
        version=version,
        whole=version is None,
        expected=_expect(answer, total, whole=end - start == total),
    )


def _judge_unsatisfiable(asked: Asked, answer: Answer) -> Meaning:
    if asked.ranged and asked.version is None:
        return StartOver("the object is empty, or has no ranges", plain=True)
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


def _expect(answer: Answer, total: int | None, *, whole: bool) -> Expected:
    headers = answer.headers
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    own_key = any(name.startswith("x-amz-server-side-encryption-customer") for name in headers)
    found = _MD5.fullmatch(headers.get("etag", "").strip())
    checksums = {
        name: value
        for name in _CHECKSUMS
        # A checksum beside a part may be the part's; one with a dash is of the parts' checksums.
        if whole and (value := headers.get(f"x-amz-checksum-{name}")) and "-" not in value
    }
    return Expected(
        size=total,
        md5=found[1].lower() if found and encryption == "AES256" and not own_key else None,
        checksums=checksums,
    )


def _advise(answer: Answer, code: str | None) -> str:
    if 300 <= answer.status < 400:
        if code not in _REGION_REDIRECTS:
            return "Redirects are not followed: check the proxies on the way to the storage."
        region = answer.headers.get("x-amz-bucket-region", "").strip()
        where = f" ({region})" if _REGION.fullmatch(region) else ""
        return (
            f"S3 itself redirects to the bucket's own region{where}, as it does for some hours "
            "after a bucket is made or moved. Redirects are not followed: fetch again later with "
            "the same id, and if that fails too, tell SendGrid's support."
        )
    if answer.status in {400, 401, 405}:
        return (
            "A link needs nothing but itself: see that neither the session nor a proxy adds "
            "credentials or headers, such as `Authorization`, to requests for the storage."
        )
    return ""


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
