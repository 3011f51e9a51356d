"""What can go wrong between a storage host and a client, as words for `inject`.

Offsets named `after` count the bytes of one answer's body; `at` is an offset in the stored
object. Seconds pass on the clock of the `FakeSendGrid`. Each fault has been seen in the wild.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

__all__ = [
    "ContentDisposition",
    "Delay",
    "EarlyEnd",
    "EndlessBody",
    "ExpiredLink",
    "Fault",
    "FlippedBit",
    "IgnoreRange",
    "LongerBody",
    "NoLength",
    "Page",
    "Redirect",
    "Reset",
    "Slow",
    "Stall",
    "Status",
    "TooManyAtOnce",
    "Trickle",
    "TruncatedChunks",
    "WrongContentRange",
    "WrongETag",
]

_NOWHERE: Final = "http://127.0.0.1:1/"
_CODES: Final = {
    400: "InvalidRequest",
    403: "AccessDenied",
    404: "NoSuchKey",
    405: "MethodNotAllowed",
    412: "PreconditionFailed",
    500: "InternalError",
}


@attrs.frozen
class Reset:
    """The connection is reset after `after` bytes."""

    after: int = 0


@attrs.frozen
class EarlyEnd:
    """The connection is closed in good order after `after` bytes; Content-Length promised more."""

    after: int = 0


@attrs.frozen
class TruncatedChunks:
    """A chunked body is cut after `after` bytes, so that its last chunk never comes."""

    after: int = 0


@attrs.frozen
class Stall:
    """After `after` bytes no more come, until the client hangs up or the server exits."""

    after: int = 0


@attrs.frozen
class Trickle:
    """After `after` bytes, only `size` bytes come every `every` seconds."""

    after: int = 0
    size: int = 1
    every: float = 1.0


@attrs.frozen
class Slow:
    """The whole body comes at `bytes_per_second`."""

    bytes_per_second: float


@attrs.frozen
class Delay:
    """Nothing is answered for `seconds`; `math.inf` is for ever."""

    seconds: float


@attrs.frozen
class Status:
    """The storage answers with an error, in S3's XML.

    `code` is by default what S3 says with that status: 403 `AccessDenied`, 404 `NoSuchKey`, 500
    `InternalError`, 503 `SlowDown`. `retry_after` is sent as it is: seconds or an HTTP date.
    (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html)
    """

    status: int
    code: str = attrs.field()
    message: str = attrs.field(default="Injected fault.", kw_only=True)
    retry_after: str | int | None = attrs.field(default=None, kw_only=True)
    headers: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)

    @code.default
    def _usual_code(self) -> str:
        return _CODES.get(self.status, "SlowDown")


@attrs.frozen
class TooManyAtOnce:
    """503 `SlowDown` for a request while more than `limit` are under way, itself included."""

    limit: int


@attrs.frozen
class ExpiredLink:
    """The link is treated as expired: 403 `AccessDenied`, "Request has expired"."""


@attrs.frozen
class Page:
    """A page comes instead of the file, complete and well formed: a proxy's, or a login form.

    With `content_type` and `body` it can be anything, such as an S3 error in XML with status 200.
    """

    body: str = "<!DOCTYPE html><html><body><form>Please sign in.</form></body></html>"
    status: int = 200
    content_type: str = attrs.field(default="text/html; charset=utf-8", kw_only=True)


@attrs.frozen
class Redirect:
    """The storage sends the client elsewhere."""

    location: str = _NOWHERE
    status: int = attrs.field(default=302, kw_only=True)


@attrs.frozen
class IgnoreRange:
    """A Range is answered by 200 and the whole object."""


@attrs.frozen
class WrongContentRange:
    """A Range is answered by another range, `shift` bytes further on, honestly labelled."""

    shift: int = 1


@attrs.frozen
class LongerBody:
    """The body is `extra` bytes longer than asked for, and Content-Length says so too."""

    extra: int = 1024


@attrs.frozen
class EndlessBody:
    """A chunked 200 with the object and then zeros, until the client hangs up."""


@attrs.frozen
class NoLength:
    """A valid chunked answer without Content-Length."""


@attrs.frozen
class FlippedBit:
    """The lowest bit of the byte at offset `at` of the object is flipped on the way."""

    at: int


@attrs.frozen
class WrongETag:
    """The answer carries `etag`, sent as it is; without quotes it is not a valid one."""

    etag: str


@attrs.frozen
class ContentDisposition:
    """The answer suggests a file name, by a Content-Disposition of `value`."""

    value: str


Fault = (
    Reset
    | EarlyEnd
    | TruncatedChunks
    | Stall
    | Trickle
    | Slow
    | Delay
    | Status
    | TooManyAtOnce
    | ExpiredLink
    | Page
    | Redirect
    | IgnoreRange
    | WrongContentRange
    | LongerBody
    | EndlessBody
    | NoLength
    | FlippedBit
    | WrongETag
    | ContentDisposition
)
"""Any of the faults above."""
