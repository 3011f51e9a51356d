"""The storage's side: presigned GETs as S3 answers them, and the faults in between.

S3's rules are those of GetObject
(https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html) and of its error answers.
"""

from __future__ import annotations

import asyncio
import html
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs
from aiohttp import web

from sendgrid_exports.testing import faults
from sendgrid_exports.testing.http import Answer, http_date, send
from sendgrid_exports.testing.signing import Verdict
from sendgrid_exports.testing.world import Recording, StoredFile, Times, World

__all__ = ["FakeStorage", "FaultRule"]

_RANGE: Final = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")


@attrs.define(kw_only=True)
class FaultRule(Times):
    """A fault at the storage; `file` and `export_id` None are for any."""

    fault: faults.Fault
    file: int | None
    export_id: str | None

    def strikes(self, export_id: str, file: int, under_way: int) -> bool:
        """Return whether a request for this file meets the fault, and count it."""
        if self.file not in {None, file} or self.export_id not in {None, export_id}:
            return False
        if isinstance(self.fault, faults.TooManyAtOnce) and under_way <= self.fault.limit:
            return False
        return self.count()


class FakeStorage:
    """Answers requests to the storage host."""

    def __init__(self, world: World, recording: Recording, rules: Sequence[FaultRule]) -> None:
        self._rules = rules
        self._world = world
        self._recording = recording
        self._under_way = 0
        self._request_ids = itertools.count(0x3A5F00D1)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Record the request and answer it."""
        number = self._recording.begin("storage", request, self._world.clock.utc())
        path, _, query = request.raw_path.partition("?")
        response: web.StreamResponse | None = self._refusal(request, path, query)
        if response is None:
            self._under_way += 1
            try:
                response = await self._get(request, path, number)
            finally:
                self._under_way -= 1
        if isinstance(response, web.Response):
            self._recording.answered(number, response.status)
            if request.method != "HEAD":
                self._recording.sent(number, response.content_length or 0)
        return response

    def _refusal(self, request: web.BaseRequest, path: str, query: str) -> web.Response | None:
        """Judge the request as S3 does when it starts, before anything is read."""
        if (value := request.headers.get("Authorization")) is not None:
            return self._error(
                400,
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, "
                "Signature query string parameter or the Authorization header should be specified",
                {"ArgumentName": "Authorization", "ArgumentValue": value},
            )
        now = self._world.clock.utc()
        verdict = self._world.signer.judge(request.method, path, query, now=now)
        if verdict.code == "SignatureDoesNotMatch":
            details = {
                "AWSAccessKeyId": "ASIAFAKESENDGRID",
                "SignatureProvided": query.rpartition("=")[2],
                "CanonicalRequest": f"{request.method}\n{path}\n{query}",
            }
            return self._error(403, verdict.code, verdict.message, details)
        if verdict.expires is not None and verdict.code:
            return self._expired(verdict, verdict.expires)
        return self._error(403, verdict.code, verdict.message) if verdict.code else None

    def _expired(self, verdict: Verdict, expires: datetime) -> web.Response:
        details = {
            "X-Amz-Expires": str(verdict.lifetime),
            "Expires": _timestamp(expires),
            "ServerTime": _timestamp(self._world.clock.utc()),
        }
        return self._error(403, "AccessDenied", "Request has expired", details)

    async def _get(self, request: web.BaseRequest, path: str, number: int) -> web.StreamResponse:
        export, file_number = self._world.objects.get(path, (None, 0))
        if export is None or export.removed or self._world.expired(export):
            key = path.rpartition("/")[2]
            return self._error(404, "NoSuchKey", "The specified key does not exist.", {"Key": key})
        meets = (export.id, file_number, self._under_way)
        fault = next((rule.fault for rule in self._rules if rule.strikes(*meets)), None)
        match fault:
            case faults.Delay(seconds):
                if math.isinf(seconds):
                    await asyncio.Event().wait()
                await self._world.clock.sleep(seconds)
            case faults.Status(status):
                headers = dict(fault.headers)
                if fault.retry_after is not None:
                    headers["Retry-After"] = str(fault.retry_after)
                return self._error(status, fault.code, fault.message, headers=headers)
            case faults.TooManyAtOnce():
                return self._error(503, "SlowDown", "Please reduce your request rate.")
            case faults.ExpiredLink():
                lifetime = math.ceil(self._world.settings.link_lifetime)
                before = self._world.clock.utc() - timedelta(seconds=1)
                return self._expired(Verdict("", "", lifetime), before)
            case faults.Page(body, status):
                return web.Response(
                    status=status,
                    body=body.encode(),
                    headers={
                        "Date": http_date(self._world.clock.utc()),
                        "Content-Type": fault.content_type,
                    },
                )
            case faults.Redirect(location):
                headers = self._headers() | {"Location": location}
                return web.Response(status=fault.status, headers=headers)
        answer = self._object_answer(request, export.files[file_number - 1], fault)
        if isinstance(answer, web.Response):
            return answer
        return await send(
            request, answer, fault, self._world.spool, self._world.clock, self._recording, number
        )

    def _object_answer(
        self, request: web.BaseRequest, file: StoredFile, fault: faults.Fault | None
    ) -> Answer | web.Response:
        headers, size = request.headers, file.spooled.size
        if (wanted := headers.get("If-Match")) is not None and wanted not in {"*", _strong(file)}:
            details = {"Condition": "If-Match"}
            text = "At least one of the pre-conditions you specified did not hold"
            return self._error(412, "PreconditionFailed", text, details)
        asked = headers.get("Range", "")
        if isinstance(fault, faults.IgnoreRange | faults.EndlessBody) or headers.get(
            "If-Range", _strong(file)
        ) != _strong(file):
            asked = ""
        ranged = parse_range(asked, size)
        if ranged is None:
            start, stop, status = 0, size, 200
        elif ranged[0] >= ranged[1]:
            details = {"RangeRequested": asked, "ActualObjectSize": str(size)}
            text = "The requested range is not satisfiable"
            empty = {"Content-Range": f"bytes */{size}"}
            return self._error(416, "InvalidRange", text, details, headers=empty)
        else:
            (start, stop), status = ranged, 206
            if isinstance(fault, faults.WrongContentRange):
                start = min(max(0, start + fault.shift), size - 1)
                stop = min(max(start + 1, stop + fault.shift), size)
        out = self._object_headers(file, full=stop - start == size)
        if status == 206:
            out["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if isinstance(fault, faults.WrongETag):
            out["ETag"] = fault.etag
        if isinstance(fault, faults.ContentDisposition):
            out["Content-Disposition"] = fault.value
        return Answer(status=status, headers=out, file=file.spooled, start=start, stop=stop)

    def _object_headers(self, file: StoredFile, *, full: bool) -> dict[str, str]:
        settings = self._world.settings
        headers = self._headers() | {
            "Last-Modified": http_date(file.modified),
            "Accept-Ranges": "bytes",
            "Content-Type": file.content_type,
            "x-amz-server-side-encryption": "aws:kms" if settings.etag == "kms" else "AES256",
        }
        if file.etag is not None:
            headers["ETag"] = file.etag
        if file.encoding is not None:
            headers["Content-Encoding"] = file.encoding
        if settings.checksum_headers and full:
            kind = "crc32" if settings.checksum_headers == "crc32" else "sha256"
            headers[f"x-amz-checksum-{kind}"] = getattr(file.spooled, kind)
            headers["x-amz-checksum-type"] = "FULL_OBJECT"
        return headers

    def _headers(self) -> dict[str, str]:
        return {
            "Date": http_date(self._world.clock.utc()),
            "Server": "AmazonS3",
            "x-amz-request-id": f"{next(self._request_ids):016X}",
        }

    def _error(
        self,
        status: int,
        code: str,
        message: str,
        details: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        sent = self._headers() | {"Content-Type": "application/xml"}
        fields = {"Code": code, "Message": message, **(details or {})}
        fields["RequestId"] = sent["x-amz-request-id"]
        inner = "".join(
            f"<{name}>{html.escape(value, quote=False)}</{name}>" for name, value in fields.items()
        )
        xml = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
        return web.Response(status=status, body=xml.encode(), headers=sent | dict(headers or {}))


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Return (start, stop) of a Range header, start >= stop if it can't be had, None if invalid.

    Several ranges in one header count as invalid: S3 sends one, or the whole.
    """
    if (match := _RANGE.fullmatch(text)) is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return max(0, size - int(suffix)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _strong(file: StoredFile) -> str | None:
    """Return the tag conditions are compared to; a weak one never matches (RFC 9110, 8.8.3.2)."""
    return None if file.etag is None or file.etag.startswith("W/") else file.etag


def _timestamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
