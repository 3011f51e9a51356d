"""What a test asked to go wrong, waiting for the requests it is meant for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

import attrs
from aiohttp import web

from sendgrid_exports.testing.faults import Fault

__all__ = ["Call", "FaultRule", "ScriptedAnswer", "body_of", "error", "json_answer"]

Call = Literal["start", "status", "list"]

_TEXTS: Final = {
    400: "invalid request",
    401: "The provided authorization grant is invalid, expired, or revoked",
    403: "access forbidden",
    404: "resource not found",
    405: "method not allowed",
    429: "too many requests",
}


@attrs.define(kw_only=True)
class ScriptedAnswer:
    """An answer in the API's queue: `times` None is for ever, `status` None no answer at all."""

    status: int | None
    body: bytes
    content_type: str
    headers: Mapping[str, str]
    times: int | None
    on: Call | None
    processed: bool
    delay: float

    def applies(self, call: Call | None) -> bool:
        """Say whether a request for `call` is answered so, and count it."""
        if self.times == 0 or self.on not in {None, call}:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@attrs.define(kw_only=True)
class FaultRule:
    """A fault at the storage: `times` None is for ever, `file` and `export_id` None for any."""

    fault: Fault
    file: int | None
    export_id: str | None
    times: int | None
    skip: int

    def strikes(self, export_id: str, file: int) -> bool:
        """Say whether a request for this file meets the fault, and count it."""
        if self.times == 0 or self.file not in {None, file}:
            return False
        if self.export_id not in {None, export_id}:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


def body_of(status: int | None, body: str | bytes | Mapping[str, Any] | None) -> tuple[bytes, str]:
    """Return the bytes and the content type of a scripted answer; None is the documented one."""
    if isinstance(body, Mapping):
        return json.dumps(body).encode(), "application/json"
    if body is None:
        if status is None or status < 400:
            return b"", "application/json"
        documented = error(status)
        assert isinstance(documented.body, bytes)
        return documented.body, documented.content_type
    raw = body.encode() if isinstance(body, str) else body
    return raw, "text/html" if raw.lstrip().startswith(b"<") else "application/json"


def error(status: int, message: str | None = None, field: str | None = None) -> web.Response:
    """Return SendGrid's documented answer for an error status; from its proxies, HTML."""
    if status in {502, 503, 504}:
        page = f"<html><head><title>{status}</title></head><body>nginx</body></html>"
        return web.Response(status=status, body=page.encode(), content_type="text/html")
    text = _TEXTS.get(status, "internal error") if message is None else message
    described: dict[str, Any] = {"message": text}
    if field is not None or status in {401, 403, 404, 429}:
        described["field"] = field
    if status in {401, 403, 404}:
        described["help"] = None
    return json_answer(status, {"errors": [described]})


def json_answer(status: int, answer: object) -> web.Response:
    """Return `answer` as JSON."""
    return web.Response(
        status=status, body=json.dumps(answer).encode(), content_type="application/json"
    )
