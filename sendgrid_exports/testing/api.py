"""The API's side: three calls, their documented answers, and scripted ones before them.

Shapes and texts are those of Twilio's OpenAPI document for the Marketing Campaigns exports
(https://www.twilio.com/docs/sendgrid/api-reference/contacts/export-contacts), with one exception:
the live API sends `"help": null` with a 401 or 403, where the document has an object or nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qs, unquote

import attrs
from aiohttp import web

from sendgrid_exports.testing.http import drop, http_date
from sendgrid_exports.testing.world import Export, Recording, World

__all__ = ["Call", "FakeAPI", "ScriptedAnswer", "body_of"]

Call = Literal["start", "status", "list"]

_PATH: Final = "/v3/marketing/contacts/exports"
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
    skip: int
    on: Call | None
    processed: bool
    delay: float

    def applies(self, call: Call | None) -> bool:
        """Return whether a request for `call` is answered so, and count it."""
        if self.times == 0 or self.on not in {None, call}:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class FakeAPI:
    """Answers requests to the API; `url` and `storage_url` are told once the servers listen."""

    def __init__(self, world: World, recording: Recording) -> None:
        self.url = ""
        self.storage_url = ""
        self.scripts: list[ScriptedAnswer] = []
        self._world = world
        self._recording = recording
        self._request_ids = itertools.count(1)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Record the request and answer it."""
        body = await request.read()
        number = self._recording.begin("api", request, self._world.clock.utc(), body)
        path, _, query = request.raw_path.partition("?")
        call, export_id, otherwise = _route(request.method, path)
        script = next((script for script in self.scripts if script.applies(call)), None)
        response: web.Response | None = None
        if script is None or script.processed:
            if request.headers.get("Authorization") != f"Bearer {self._world.settings.api_key}":
                response = error(401)
            elif call == "start":
                response = await self._start(body)
            elif call == "status":
                response = self._status(export_id)
            else:
                response = self._list(query) if call == "list" else error(otherwise)
        if script is not None:
            response = await self._play(script)
        if response is None:
            drop(request)
            return web.Response()
        response.headers.setdefault("Date", http_date(self._world.clock.utc()))
        response.headers.setdefault("Server", "nginx")
        response.headers.setdefault("X-Request-Id", f"fake-request-{next(self._request_ids)}")
        self._recording.answered(number, response.status)
        self._recording.sent(number, response.content_length or 0)
        return response

    async def _play(self, script: ScriptedAnswer) -> web.Response | None:
        if math.isinf(script.delay):
            await asyncio.Event().wait()
        elif script.delay:
            await self._world.clock.sleep(script.delay)
        if script.status is None:
            return None
        response = web.Response(
            status=script.status, body=script.body, content_type=script.content_type
        )
        response.headers.update(script.headers)
        return response

    async def _start(self, body: bytes) -> web.Response:
        try:
            wanted = json.loads(body) if body.strip() else {}
        except ValueError:
            return error(400, "request body could not be parsed as JSON")
        if not isinstance(wanted, dict):
            return error(400, "request body must be a JSON object")
        for field, (is_valid, text) in _FIELDS.items():
            if wanted.get(field) is not None and not is_valid(wanted[field]):
                return error(400, text, field)
        settings = self._world.settings
        max_size = wanted.get("max_file_size")
        export = await self._world.add(
            contacts=settings.contacts,
            files=settings.files,
            file_type=wanted.get("file_type") or "csv",
            statuses=settings.statuses,
            contact_count=settings.contacts,
            max_size=None if max_size is None else max_size * 1_000_000,
            lists=wanted.get("list_ids") or (),
            segments=wanted.get("segment_ids") or (),
        )
        return json_answer(202, {"id": export.id, "_metadata": {"self": f"{self.url}{_PATH}"}})

    def _status(self, export_id: str) -> web.Response:
        world = self._world
        export = world.exports.get(export_id)
        if export is None or self._forgotten(export):
            return error(404)
        status = export.look(world.clock.utc())
        answer = self._fields_of_both(export, status) | {
            "updated_at": _timestamp(export.updated_at),
            "_metadata": {"self": f"{self.url}{_PATH}/{export_id}", "count": 1},
        }
        if status == "ready":
            if export.contact_count is not None:
                answer["contact_count"] = export.contact_count
        elif export.looks % 2 == 0:
            # Without links, the field may be missing or empty: both are shown in turn.
            answer["urls"] = []
        if status == "failure" and world.settings.message is not None:
            answer["message"] = world.settings.message
        return json_answer(200, answer)

    def _list(self, query: str) -> web.Response:
        shown = [e for e in self._world.exports.values() if not self._forgotten(e)]
        size = self._world.settings.list_page_size or max(1, len(shown))
        page = int(parse_qs(query).get("page_token", ["0"])[0])
        metadata: dict[str, Any] = {"self": self._page(page), "count": len(shown)}
        if page:
            metadata["prev"] = self._page(page - 1)
        if (page + 1) * size < len(shown):
            metadata["next"] = self._page(page + 1)
        result = [
            self._fields_of_both(export, export.status)
            | {
                "user_id": "1234567",
                "export_type": _export_type(export),
                "segments": [{"ID": i, "Name": f"Segment {i[:8]}"} for i in export.segments],
                "lists": [{"ID": i, "Name": f"List {i[:8]}"} for i in export.lists],
            }
            for export in shown[page * size : (page + 1) * size]
        ]
        return json_answer(200, {"result": result, "_metadata": metadata})

    def _page(self, page: int) -> str:
        return f"{self.url}{_PATH}" + (f"?page_token={page}" if page else "")

    def _forgotten(self, export: Export) -> bool:
        world = self._world
        return world.settings.after_expiry == "not_found" and world.expired(export)

    def _fields_of_both(self, export: Export, status: str) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "id": export.id,
            "status": status,
            "created_at": _timestamp(export.created_at),
            "expires_at": _timestamp(export.expires_at),
        }
        if export.completed_at is not None:
            fields["completed_at"] = _timestamp(export.completed_at)
        if status == "ready":
            world = self._world
            without = world.expired(export) and world.settings.after_expiry == "no_urls"
            links = [] if without else world.links(export)
            fields["urls"] = [self.storage_url + link for link in links]
        return fields


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
    if status in {401, 403}:
        described["help"] = None
    return json_answer(status, {"errors": [described]})


def json_answer(status: int, answer: object) -> web.Response:
    """Return `answer` as JSON."""
    return web.Response(
        status=status, body=json.dumps(answer).encode(), content_type="application/json"
    )


def _route(method: str, path: str) -> tuple[Call | None, str, int]:
    """Return which call it is and the export id; without a call, the status that says why."""
    calls: dict[str, Call] = {}
    export_id = ""
    if path == _PATH:
        calls = {"POST": "start", "GET": "list"}
    elif path.startswith(_PATH + "/") and "/" not in (rest := path[len(_PATH) + 1 :]):
        calls, export_id = {"GET": "status"}, unquote(rest)
    return calls.get(method), export_id, 405 if calls else 404


def _timestamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _export_type(export: Export) -> str:
    if export.lists:
        return "list_export"
    return "segment_export" if export.segments else "contacts_export"


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_FIELDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "list_ids": (_is_texts, "list_ids must be an array of strings"),
    "segment_ids": (_is_texts, "segment_ids must be an array of strings"),
    "notifications": (
        lambda value: isinstance(value, dict) and isinstance(value.get("email", False), bool),
        "notifications must be an object with a boolean email",
    ),
    "file_type": (lambda value: value in ("csv", "json"), "file_type must be csv or json"),
    "max_file_size": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
        "max_file_size must be a positive integer",
    ),
}
